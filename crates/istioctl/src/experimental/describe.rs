//! `describe pod|service`: what is configured for a pod or a service, in sentences.

mod value;

use std::collections::BTreeMap;
use std::process::ExitCode;

use clap::{Args, Subcommand};
use serde_json::Value;

use crate::Session;
use crate::access::Pod;
use crate::output::{Format, print_machine};
use crate::proxy_config::{list, text};

/// Describe a pod or a service and what is configured for it.
#[derive(Debug, Args)]
pub(crate) struct Describe {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// A pod: its Services, and the rules and policies that are for it.
    #[command(alias = "po")]
    Pod {
        /// NAME[.NAMESPACE]
        target: String,
        /// No warning about pods without sidecar.
        #[arg(long = "ignoreUnmeshed")]
        ignore_unmeshed: bool,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
    /// A service: its ports, and the rules and policies that are for it.
    #[command(alias = "svc")]
    Service {
        /// NAME[.NAMESPACE]
        target: String,
        #[arg(short, long, default_value = "short")]
        output: Format,
    },
}

impl Describe {
    pub(crate) fn run(self, session: &Session) -> Result<ExitCode, String> {
        let access = session.access()?;
        let objects: Value = serde_json::from_slice(&access.istiod_page("/debug/configz")?)
            .map_err(|e| format!("istiod's answer is no JSON: {e}"))?;
        let mesh = Objects(objects.as_array().cloned().unwrap_or_default());
        let pods = access.pods()?;
        match self.command {
            Command::Pod { target, ignore_unmeshed, output } => {
                let (_, pod) = session.pod(&target)?;
                match output.machine() {
                    None => print!("{}", mesh.pod(&pod, ignore_unmeshed)),
                    Some(format) => print_machine(format, &mesh.pod_value(&pod))?,
                }
            }
            Command::Service { target, output } => {
                let namespace = session.global.namespace();
                match output.machine() {
                    None => print!("{}", mesh.named(&target, namespace, &pods)?),
                    Some(format) => print_machine(format, &mesh.named_value(&target, namespace, &pods)?)?,
                }
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

/// The objects of a mesh.
pub(super) struct Objects(pub Vec<Value>);

type Labels = BTreeMap<String, String>;

fn labels(value: &Value) -> Labels {
    serde_json::from_value(value.clone()).unwrap_or_default()
}

fn within(small: &Labels, large: &Labels) -> bool {
    small.iter().all(|(k, v)| large.get(k) == Some(v))
}

fn title(object: &Value) -> String {
    format!("{}.{}", text(object, "metadata.name"), text(object, "metadata.namespace"))
}

/// A host in full.
fn full(host: &str, namespace: &str) -> String {
    if host.contains('.') || host.starts_with('*') {
        host.to_owned()
    } else {
        format!("{host}.{namespace}.svc.cluster.local")
    }
}

fn covers(pattern: &str, host: &str) -> bool {
    pattern == host || pattern.strip_prefix('*').is_some_and(|end| host.ends_with(end))
}

impl Objects {
    fn kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.0.iter().filter(move |o| o["kind"] == kind)
    }

    /// A pod.
    pub(super) fn pod(&self, pod: &Pod, ignore_unmeshed: bool) -> String {
        let mut out = format!("Pod: {}\n", pod.proxy_id());
        if let Some(revision) = pod.labels.get("istio.io/rev") {
            out.push_str(&format!("   Pod Revision: {revision}\n"));
        }
        if !pod.in_mesh() && !ignore_unmeshed {
            out.push_str(&format!("WARNING: {} is not part of mesh; no Istio sidecar\n", pod.proxy_id()));
        }
        let services: Vec<&Value> = self.kind("Service").filter(|s| selects(s, pod)).collect();
        if services.is_empty() {
            out.push_str(&format!("Warning: No Kubernetes Services select pod {}\n", pod.proxy_id()));
        }
        for service in services {
            out.push_str("--------------------\n");
            out.push_str(&self.service(service, Some(pod)));
        }
        out.push_str("--------------------\n");
        out.push_str(&self.authentication(pod));
        out.push_str(&self.authorization(pod));
        out
    }

    fn find(&self, target: &str, namespace: &str) -> Result<&Value, String> {
        let whole = |name: &str, namespace: &str| {
            self.kind("Service")
                .find(|s| text(s, "metadata.name") == name && text(s, "metadata.namespace") == namespace)
        };
        let dotted = target.rsplit_once('.').and_then(|(name, namespace)| whole(name, namespace));
        dotted.or_else(|| whole(target, namespace)).ok_or_else(|| format!("there is no service {target}"))
    }

    /// A service by its name.
    pub(super) fn named(&self, target: &str, namespace: &str, pods: &[Pod]) -> Result<String, String> {
        let service = self.find(target, namespace)?;
        let mut out = self.service(service, None);
        let behind: Vec<&Pod> = pods.iter().filter(|p| selects(service, p)).collect();
        match behind.first() {
            None => out.push_str(&format!("Service \"{}\" has no pods.\n", title(service))),
            Some(pod) => {
                out.push_str("--------------------\n");
                out.push_str(&self.authentication(pod));
                out.push_str(&self.authorization(pod));
            }
        }
        Ok(out)
    }

    fn service(&self, service: &Value, pod: Option<&Pod>) -> String {
        let namespace = text(service, "metadata.namespace");
        let host = full(text(service, "metadata.name"), namespace);
        let mut out = format!("Service: {}\n", title(service));
        for port in list(service, "spec.ports") {
            let number = port["port"].as_u64().unwrap_or_default();
            let name = text(port, "name");
            let target = match port.get("targetPort") {
                Some(Value::String(name)) => name.clone(),
                Some(number) => number.to_string(),
                None => number.to_string(),
            };
            out.push_str(&format!("   Port: {name} {number}/{} targets pod port {target}\n", protocol(port)));
        }
        for rule in self.rules_for(&host) {
            out.push_str(&destination_rule(rule, pod));
        }
        for virtual_service in self.routes_for(&host) {
            out.push_str(&routes(virtual_service));
        }
        out
    }

    /// DestinationRules for a host.
    fn rules_for(&self, host: &str) -> impl Iterator<Item = &Value> {
        let of = |rule: &Value| full(text(rule, "spec.host"), text(rule, "metadata.namespace"));
        self.kind("DestinationRule").filter(move |rule| covers(&of(rule), host))
    }

    /// VirtualServices for a host.
    fn routes_for(&self, host: &str) -> impl Iterator<Item = &Value> {
        self.kind("VirtualService").filter(move |service| {
            let own = text(service, "metadata.namespace");
            let mut hosts = list(service, "spec.hosts").iter().filter_map(Value::as_str);
            hosts.any(|h| covers(&full(h, own), host))
        })
    }

    /// PeerAuthentications for a pod, the closest first: a selector's, the namespace's, the mesh's.
    fn authentications(&self, pod: &Pod) -> Vec<&Value> {
        let root = "istio-system";
        let applies = |p: &&Value| {
            let namespace = text(p, "metadata.namespace");
            let selector = labels(&p["spec"]["selector"]["matchLabels"]);
            (namespace == pod.namespace || (namespace == root && selector.is_empty())) && within(&selector, &pod.labels)
        };
        let mut all: Vec<&Value> = self.kind("PeerAuthentication").filter(applies).collect();
        all.sort_by_key(|p| {
            let wide = labels(&p["spec"]["selector"]["matchLabels"]).is_empty();
            (wide, text(p, "metadata.namespace") != pod.namespace)
        });
        all
    }

    /// AuthorizationPolicies for a pod with their actions.
    fn authorizations(&self, pod: &Pod) -> Vec<(String, String)> {
        let applies = |p: &&Value| {
            let namespace = text(p, "metadata.namespace");
            let selector = labels(&p["spec"]["selector"]["matchLabels"]);
            (namespace == pod.namespace || namespace == "istio-system") && within(&selector, &pod.labels)
        };
        let one = |p: &Value| {
            let action = text(p, "spec.action");
            (title(p), if action.is_empty() { "ALLOW" } else { action }.to_owned())
        };
        self.kind("AuthorizationPolicy").filter(applies).map(one).collect()
    }

    fn authentication(&self, pod: &Pod) -> String {
        let all = self.authentications(pod);
        let mut out = format!("Effective PeerAuthentication:\n   Workload mTLS mode: {}\n", applied_mode(&all));
        if !all.is_empty() {
            let names: Vec<String> = all.iter().map(|p| title(p)).collect();
            out.push_str(&format!("Applied PeerAuthentication:\n   {}\n", names.join(", ")));
        }
        out
    }

    fn authorization(&self, pod: &Pod) -> String {
        let all: Vec<String> =
            self.authorizations(pod).into_iter().map(|(name, action)| format!("{name} ({action})")).collect();
        if all.is_empty() { String::new() } else { format!("Applied AuthorizationPolicy:\n   {}\n", all.join(", ")) }
    }
}

/// The mode of mTLS that holds: the closest policy's that has one.
fn applied_mode<'p>(all: &[&'p Value]) -> &'p str {
    all.iter().map(|p| text(p, "spec.mtls.mode")).find(|m| !m.is_empty() && *m != "UNSET").unwrap_or("PERMISSIVE")
}

fn selects(service: &Value, pod: &Pod) -> bool {
    let selector = labels(&service["spec"]["selector"]);
    text(service, "metadata.namespace") == pod.namespace && !selector.is_empty() && within(&selector, &pod.labels)
}

/// The protocol that a port declares, in capitals; `auto-detect` when it does not.
fn protocol(port: &Value) -> String {
    const KNOWN: [&str; 11] =
        ["http", "http2", "https", "grpc", "grpc-web", "tcp", "tls", "udp", "mongo", "mysql", "redis"];
    let application = text(port, "appProtocol").to_lowercase();
    let name = text(port, "name").to_lowercase();
    let first = if name.starts_with("grpc-web") { "grpc-web" } else { name.split('-').next().unwrap_or_default() };
    let word = if application.is_empty() { first } else { &application };
    if KNOWN.contains(&word) { word.to_uppercase() } else { "auto-detect".to_owned() }
}

fn destination_rule(rule: &Value, pod: Option<&Pod>) -> String {
    let mut out = format!("DestinationRule: {} for \"{}\"\n", title(rule), text(rule, "spec.host"));
    let subsets = list(rule, "spec.subsets");
    let fits = |s: &&Value| pod.is_none_or(|p| within(&labels(&s["labels"]), &p.labels));
    let (with, without): (Vec<&Value>, Vec<&Value>) = subsets.iter().partition(fits);
    let names = |all: &[&Value]| all.iter().map(|s| text(s, "name")).collect::<Vec<_>>().join(",");
    if !with.is_empty() {
        out.push_str(&format!("   Matching subsets: {}\n", names(&with)));
    }
    if !without.is_empty() {
        out.push_str(&format!("      (Non-matching subsets {})\n", names(&without)));
    }
    let policy = rule["spec"]["trafficPolicy"].as_object();
    match policy.filter(|p| !p.is_empty()) {
        None => out.push_str("   No Traffic Policy\n"),
        Some(policy) => {
            let parts = policy.keys().cloned().collect::<Vec<_>>().join(", ");
            out.push_str(&format!("   Traffic Policy: {parts}\n"));
        }
    }
    out
}

fn routes(virtual_service: &Value) -> String {
    let mut out = format!("VirtualService: {}\n", title(virtual_service));
    for http in list(virtual_service, "spec.http") {
        let matches: Vec<String> = list(http, "match").iter().map(ToString::to_string).collect();
        if !matches.is_empty() {
            out.push_str(&format!("   Match: {}\n", matches.join(" or ")));
        }
        for route in list(http, "route") {
            let destination = &route["destination"];
            let subset = text(destination, "subset");
            let subset = if subset.is_empty() { String::new() } else { format!(" subset {subset}") };
            let weight =
                route["weight"].as_i64().filter(|w| *w > 0).map(|w| format!("Weight {w}: ")).unwrap_or_default();
            out.push_str(&format!("   {weight}Route to host \"{}\"{subset}\n", text(destination, "host")));
        }
        for (field, said) in [("timeout", "Timeout"), ("retries", "Retries"), ("fault", "Fault injection")] {
            match http.get(field) {
                Some(Value::String(value)) => out.push_str(&format!("   {said}: {value}\n")),
                Some(_) => out.push_str(&format!("   {said}\n")),
                None => {}
            }
        }
    }
    let others = list(virtual_service, "spec.tcp").len() + list(virtual_service, "spec.tls").len();
    if others > 0 {
        out.push_str(&format!("   {others} TCP or TLS route(s)\n"));
    }
    out
}
