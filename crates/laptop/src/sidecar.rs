//! Who gets a sidecar, and how it is started: Istio's injection rules, environment and redirection, on a laptop.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::Path;

use istio_api::mesh::ProxySettings;
use serde_json::{Value, json};

use crate::model::{Namespace, Template};

/// The user and group that the sidecar runs as; what they send is not captured.
pub const SIDECAR_ID: u32 = 1337;
/// The container's name.
pub const CONTAINER: &str = "istio-proxy";
/// Names a stock Envoy to be run as the pod's proxy in place of our own.
const ENVOY_ANNOTATION: &str = "meltemi.dev/envoy";
/// Where a stock Envoy's files and sockets are kept inside the pod; made with the pod.
pub const CONFIG_FOLDER: &str = "/run/istio/proxy";
/// Where the sidecar finds istiod.
const DISCOVERY: &str = "istiod.istio-system.svc:15012";

/// Istio's decision: the pod's own word goes before its namespace's, a namespace that says "disabled" before all.
pub fn is_injected(namespace: &Namespace, template: &Template) -> bool {
    if template.spec.get("hostNetwork").and_then(Value::as_bool) == Some(true) || namespace.never_injected {
        return false;
    }
    let word = |map: &BTreeMap<String, String>| map.get("sidecar.istio.io/inject").map(String::as_str).map(truth);
    word(&template.labels).or_else(|| word(&template.annotations)).unwrap_or(namespace.injected)
}

fn truth(text: &str) -> bool {
    matches!(text, "true" | "y" | "yes" | "on" | "1")
}

/// What the sidecar must know of its pod.
#[derive(Debug)]
pub struct About<'a> {
    /// The pod's name.
    pub pod: &'a str,
    /// Its namespace.
    pub namespace: &'a str,
    /// Its address.
    pub address: Ipv4Addr,
    /// The Deployment's name.
    pub workload: &'a str,
    /// The pod's labels as istiod sees them.
    pub labels: &'a BTreeMap<String, String>,
    /// What it was made from.
    pub template: &'a Template,
    /// The settings of its proxy.
    pub settings: &'a ProxySettings,
    /// The trust domain of the mesh.
    pub trust_domain: &'a str,
    /// The mesh's `enablePrometheusMerge`.
    pub merge_metrics: bool,
}

/// Arguments of `pilot-agent`; `envoy` is the mesh's choice of a proxy, which the pod's own goes before.
pub fn arguments(about: &About<'_>, envoy: Option<&Path>) -> Vec<String> {
    let domain = format!("{}.svc.cluster.local", about.namespace);
    let mut args = vec!["proxy".to_owned(), "sidecar".to_owned(), "--domain".to_owned(), domain];
    let chosen = about.template.annotations.get(ENVOY_ANNOTATION).cloned();
    if let Some(path) = chosen.or_else(|| Some(envoy?.to_string_lossy().into_owned())) {
        args.extend(["--envoy".to_owned(), path]);
    }
    args
}

/// The environment that Istio's injector gives the sidecar.
pub fn environment(about: &About<'_>) -> BTreeMap<String, String> {
    let ports: Vec<Value> = about
        .template
        .containers
        .iter()
        .flat_map(|c| &c.ports)
        .map(|p| match p.name.as_str() {
            "" => json!({"containerPort": p.container_port}),
            name => json!({"name": name, "containerPort": p.container_port}),
        })
        .collect();
    let containers: Vec<&str> = about.template.containers.iter().map(|c| c.name.as_str()).collect();
    let owner = format!("kubernetes://apis/apps/v1/namespaces/{}/deployments/{}", about.namespace, about.workload);
    let pairs = [
        ("POD_NAME", about.pod.to_owned()),
        ("POD_NAMESPACE", about.namespace.to_owned()),
        ("INSTANCE_IP", about.address.to_string()),
        ("HOST_IP", crate::address::GATEWAY.to_string()),
        ("SERVICE_ACCOUNT", about.template.service_account.clone()),
        ("PILOT_CERT_PROVIDER", "istiod".to_owned()),
        ("CA_ADDR", DISCOVERY.to_owned()),
        ("TRUST_DOMAIN", about.trust_domain.to_owned()),
        ("PROXY_CONFIG", proxy_config(about.settings)),
        ("ISTIO_META_POD_PORTS", Value::from(ports).to_string()),
        ("ISTIO_META_APP_CONTAINERS", containers.join(",")),
        ("ISTIO_META_CLUSTER_ID", "Kubernetes".to_owned()),
        ("ISTIO_META_NODE_NAME", "laptop".to_owned()),
        ("ISTIO_META_INTERCEPTION_MODE", "REDIRECT".to_owned()),
        ("ISTIO_META_WORKLOAD_NAME", about.workload.to_owned()),
        ("ISTIO_META_OWNER", owner),
        ("ISTIO_META_MESH_ID", about.settings.mesh_id.clone().unwrap_or_else(|| about.trust_domain.to_owned())),
        ("ISTIO_METAJSON_LABELS", json!(about.labels).to_string()),
        ("ISTIO_METAJSON_ANNOTATIONS", json!(about.template.annotations).to_string()),
        ("PATH", std::env::var("PATH").unwrap_or_default()),
        ("HOME", "/".to_owned()),
    ];
    let mut env: BTreeMap<_, _> = pairs.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
    let annotation = |name: &str| about.template.annotations.get(&format!("prometheus.io/{name}")).cloned();
    if let Some(scrape) = annotation("scrape").filter(|_| merges(about)) {
        let [path, port] = ["path", "port"].map(|name| annotation(name).unwrap_or_default());
        let scraped = json!({"scrape": scrape, "path": path, "port": port});
        env.insert("ISTIO_PROMETHEUS_ANNOTATIONS".to_owned(), scraped.to_string());
    }
    env.extend(about.settings.proxy_metadata.clone());
    // A person who debugs sets these for the whole mesh.
    for name in ["RUST_LOG", "RUST_BACKTRACE"] {
        if let Ok(value) = std::env::var(name) {
            env.insert(name.to_owned(), value);
        }
    }
    env
}

/// Whether the application's metrics are shown with the sidecar's: the mesh's word, and the pod's over it.
fn merges(about: &About<'_>) -> bool {
    let own = about.template.annotations.get("prometheus.istio.io/merge-metrics");
    own.and_then(|word| word.parse().ok()).unwrap_or(about.merge_metrics)
}

/// The proxy's settings, as the injector writes them.
fn proxy_config(settings: &ProxySettings) -> String {
    let mut config = json!({
        "discoveryAddress": DISCOVERY, "terminationDrainDuration": "5s", "configPath": CONFIG_FOLDER
    });
    if let (Ok(Value::Object(over)), Value::Object(config)) = (serde_json::to_value(settings), &mut config) {
        config.extend(over);
    }
    config.to_string()
}

/// Arguments of `pilot-agent istio-iptables`, with the annotations that change what is captured.
pub fn redirection(template: &Template, settings: &ProxySettings) -> Vec<String> {
    let given = |name: &str| template.annotations.get(&format!("traffic.sidecar.istio.io/{name}")).cloned();
    let excluded_inbound = match given("excludeInboundPorts") {
        Some(more) if !more.is_empty() => format!("15090,15021,15020,{more}"),
        _ => "15090,15021,15020".to_owned(),
    };
    let id = SIDECAR_ID.to_string();
    let flags = [
        ("-p", "15001".to_owned()),
        ("-z", "15006".to_owned()),
        ("-u", id.clone()),
        ("-g", id),
        ("-m", "REDIRECT".to_owned()),
        ("-i", given("includeOutboundIPRanges").unwrap_or_else(|| "*".to_owned())),
        ("-x", given("excludeOutboundIPRanges").unwrap_or_default()),
        ("-b", given("includeInboundPorts").unwrap_or_else(|| "*".to_owned())),
        ("-d", excluded_inbound),
        ("-q", given("includeOutboundPorts").unwrap_or_default()),
        ("-o", given("excludeOutboundPorts").unwrap_or_default()),
    ];
    let mut args = vec!["istio-iptables".to_owned()];
    args.extend(
        flags
            .into_iter()
            .filter(|(flag, value)| !value.is_empty() || *flag == "-x")
            .flat_map(|(f, v)| [f.to_owned(), v]),
    );
    if settings.proxy_metadata.get("ISTIO_META_DNS_CAPTURE").is_some_and(|v| v == "true") {
        args.push("--redirect-dns".to_owned());
    }
    args
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(labels: &[(&str, &str)], annotations: &[(&str, &str)]) -> Template {
        let map = |pairs: &[(&str, &str)]| pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        Template { labels: map(labels), annotations: map(annotations), ..Template::default() }
    }

    #[test]
    fn the_pod_overrides_its_namespace_unless_that_forbids() {
        let on = Namespace { injected: true, never_injected: false };
        let off = Namespace::default();
        let never = Namespace { injected: false, never_injected: true };
        let inject = "sidecar.istio.io/inject";
        assert!(is_injected(&on, &template(&[], &[])));
        assert!(!is_injected(&off, &template(&[], &[])));
        assert!(!is_injected(&on, &template(&[(inject, "false")], &[])));
        assert!(is_injected(&off, &template(&[(inject, "true")], &[])));
        assert!(!is_injected(&never, &template(&[(inject, "true")], &[])));
        assert!(!is_injected(&on, &template(&[], &[(inject, "false")])));
    }

    #[test]
    fn annotations_change_what_is_captured() {
        let template = template(&[], &[("traffic.sidecar.istio.io/excludeOutboundPorts", "3306")]);
        let args = redirection(&template, &ProxySettings::default()).join(" ");
        assert!(args.contains("-d 15090,15021,15020"), "{args}");
        assert!(args.contains("-o 3306"), "{args}");
    }

    #[test]
    fn the_settings_reach_the_sidecar_and_the_redirection() {
        let settings = ProxySettings::parse(
            "concurrency: 3\nproxyMetadata: {ISTIO_META_DNS_CAPTURE: \"true\"}\ndrainDuration: 7s\n\
             proxyHeaders: {preserveHttp1HeaderCase: true}\nmeshId: ours",
        )
        .unwrap();
        let config = proxy_config(&settings);
        assert!(config.contains("\"concurrency\":3") && config.contains(DISCOVERY), "{config}");
        assert!(config.contains("\"drainDuration\":\"7s\""), "{config}");
        assert!(config.contains("\"preserveHttp1HeaderCase\":true"), "{config}");
        let labels = BTreeMap::new();
        let template = self::template(&[], &[]);
        assert_eq!(environment(&about(&template, &labels, &settings, true))["ISTIO_META_MESH_ID"], "ours");
        let args = redirection(&template, &settings);
        assert_eq!(args.last().unwrap(), "--redirect-dns");
    }

    fn about<'a>(
        template: &'a Template,
        labels: &'a BTreeMap<String, String>,
        settings: &'a ProxySettings,
        merge_metrics: bool,
    ) -> About<'a> {
        About {
            pod: "pay-1",
            namespace: "prod",
            address: Ipv4Addr::LOCALHOST,
            workload: "pay",
            labels,
            template,
            settings,
            trust_domain: "cluster.local",
            merge_metrics,
        }
    }

    #[test]
    fn the_mesh_switches_merged_metrics_off() {
        let told = |annotations: &[(&str, &str)], merge: bool| {
            let (template, settings) = (template(&[], annotations), ProxySettings::default());
            environment(&about(&template, &BTreeMap::new(), &settings, merge))
                .contains_key("ISTIO_PROMETHEUS_ANNOTATIONS")
        };
        let scraped = ("prometheus.io/scrape", "true");
        let own = |word| ("prometheus.istio.io/merge-metrics", word);
        assert!(told(&[scraped], true) && !told(&[], true));
        assert!(!told(&[scraped], false));
        assert!(told(&[scraped, own("true")], false));
        assert!(!told(&[scraped, own("false")], true));
    }
}
