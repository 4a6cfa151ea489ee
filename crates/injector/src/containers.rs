//! The containers of the sidecar template: one that redirects traffic and ends, and the proxy.

use serde_json::{Map, Value, json};

use crate::annotations::Wishes;
use crate::owner::Owner;
use crate::volumes;

/// The container that redirects.
pub(crate) const INIT: &str = "istio-init";
/// The container that looks whether the CNI redirected.
pub(crate) const VALIDATION: &str = "istio-validation";
/// The proxy.
pub(crate) const PROXY: &str = "istio-proxy";
/// The sidecar's user and group; what it sends is not captured.
pub(crate) const ID: u64 = 1337;

/// The container that redirects; none where nothing is redirected. `user` is the proxy's.
pub(crate) fn init(wishes: &Wishes, user: u64) -> Option<Value> {
    if wishes.mode == "NONE" {
        return None;
    }
    let options = &wishes.options;
    let mut context = json!({
        "allowPrivilegeEscalation": options.privileged,
        "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
        "privileged": options.privileged,
        "readOnlyRootFilesystem": false,
        "runAsGroup": 0,
        "runAsNonRoot": false,
        "runAsUser": 0,
    });
    if options.cni {
        context["capabilities"] = json!({"drop": ["ALL"]});
        context["readOnlyRootFilesystem"] = true.into();
        context["runAsGroup"] = ID.into();
        context["runAsNonRoot"] = true.into();
        context["runAsUser"] = ID.into();
    }
    let mut container = json!({
        "name": if options.cni { VALIDATION } else { INIT },
        "image": options.image,
        "args": redirection(wishes, user),
        "resources": wishes.resources(),
        "securityContext": context,
    });
    pulled(&mut container, wishes);
    if !wishes.environment.is_empty() {
        container["env"] = variables(wishes).into();
    }
    Some(container)
}

/// The inbound ports left alone: the sidecar's own, and the user's.
pub(crate) fn excluded(wishes: &Wishes) -> String {
    let own = wishes.options.status_port;
    let status = (own != 0).then(|| own.to_string());
    let users = wishes.options.capture.exclude_inbound.as_str();
    let parts = [Some("15090"), Some("15021"), Some(users).filter(|u| !u.is_empty()), status.as_deref()];
    parts.into_iter().flatten().collect::<Vec<_>>().join(",")
}

fn redirection(wishes: &Wishes, user: u64) -> Vec<String> {
    let capture = &wishes.options.capture;
    let mut args = ["istio-iptables", "-p", "15001", "-z", "15006", "-u"].map(str::to_owned).to_vec();
    args.push(user.to_string());
    let mut flag = |name: &str, value: &str| args.extend([name.to_owned(), value.to_owned()]);
    flag("-m", &wishes.mode);
    flag("-i", &capture.include_ranges);
    flag("-x", &capture.exclude_ranges);
    flag("-b", &capture.include_inbound);
    flag("-d", &excluded(wishes));
    for (name, value) in [
        ("-q", &wishes.include_outbound),
        ("-o", &wishes.exclude_outbound),
        ("-k", &wishes.reroute_interfaces),
        ("-c", &wishes.exclude_interfaces),
    ] {
        if let Some(value) = value {
            flag(name, value);
        }
    }
    args.push(format!("--log_output_level={}", wishes.options.agent_log_level));
    if wishes.options.cni {
        args.extend(["--run-validation".to_owned(), "--skip-rule-apply".to_owned()]);
    }
    args
}

/// Image and pull policy of an added container.
fn pulled(container: &mut Value, wishes: &Wishes) {
    if !wishes.options.pull_policy.is_empty() {
        container["imagePullPolicy"] = wishes.options.pull_policy.clone().into();
    }
}

/// Arguments of a proxy.
pub(crate) fn arguments(kind: &str, wishes: &Wishes) -> Vec<String> {
    let options = &wishes.options;
    let mut args = ["proxy", kind, "--domain"].map(str::to_owned).to_vec();
    args.push(format!("$(POD_NAMESPACE).svc.{}", options.domain));
    args.push(format!("--proxyLogLevel={}", options.log_level));
    args.push(format!("--proxyComponentLogLevel={}", options.component_log_level));
    args.push(format!("--log_output_level={}", options.agent_log_level));
    args
}

/// The proxy beside an application.
pub(crate) fn proxy(pod: &Value, owner: &Owner, wishes: &Wishes) -> Value {
    let options = &wishes.options;
    let mut container = json!({
        "name": PROXY,
        "image": options.image,
        "args": arguments("sidecar", wishes),
        "env": environment(pod, owner, wishes),
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}],
        "resources": wishes.resources(),
        "securityContext": context(wishes),
        "volumeMounts": volumes::mounts(wishes),
    });
    pulled(&mut container, wishes);
    if options.status_port != 0 {
        let probe = |failures: u32, period: u32| {
            let ready = json!({"path": "/healthz/ready", "port": 15021});
            json!({"failureThreshold": failures, "httpGet": ready, "periodSeconds": period, "timeoutSeconds": 3})
        };
        container["readinessProbe"] = probe(options.readiness.failures, options.readiness.period);
        if options.readiness.initial_delay > 0 {
            container["readinessProbe"]["initialDelaySeconds"] = options.readiness.initial_delay.into();
        }
        if options.startup {
            container["startupProbe"] = probe(600, 1);
        }
    }
    if options.native {
        container["restartPolicy"] = "Always".into();
        let drain = ["pilot-agent", "request", &format!("--debug-port={}", options.status_port), "POST", "drain"];
        container["lifecycle"] = json!({"preStop": {"exec": {"command": drain}}});
    } else if wishes.hold {
        container["lifecycle"] = json!({"postStart": {"exec": {"command": ["pilot-agent", "wait"]}}});
    }
    container
}

fn context(wishes: &Wishes) -> Value {
    let transparent = wishes.mode == "TPROXY";
    let mut capabilities = json!({"drop": ["ALL"]});
    if transparent {
        capabilities["add"] = json!(["NET_ADMIN"]);
    }
    json!({
        "allowPrivilegeEscalation": wishes.options.privileged,
        "capabilities": capabilities,
        "privileged": wishes.options.privileged,
        "readOnlyRootFilesystem": true,
        "runAsGroup": ID,
        "runAsNonRoot": !transparent,
        "runAsUser": if transparent { 0 } else { ID },
    })
}

fn variables(wishes: &Wishes) -> Vec<Value> {
    wishes.environment.iter().map(|(name, value)| json!({"name": name, "value": value})).collect()
}

/// The proxy's environment: who and where it is, and how it is set.
pub(crate) fn environment(pod: &Value, owner: &Owner, wishes: &Wishes) -> Vec<Value> {
    let options = &wishes.options;
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let limit = |name: &str, resource: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"divisor": "1", "resource": resource}}});
    let containers = pod["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let own: Vec<&Value> = containers.iter().filter(|c| c["name"] != PROXY).collect();
    let ports: Vec<&Value> = own.iter().filter_map(|c| c["ports"].as_array()).flatten().collect();
    let names: Vec<&str> = own.iter().filter_map(|c| c["name"].as_str()).collect();
    let mesh = if options.mesh_id.is_empty() { &options.trust_domain } else { &options.mesh_id };
    let mut all = vec![
        plain("PILOT_CERT_PROVIDER", "istiod"),
        plain("CA_ADDR", &options.discovery),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        limit("ISTIO_CPU_LIMIT", "limits.cpu"),
        plain("PROXY_CONFIG", &proxy_config(wishes)),
        plain("ISTIO_META_POD_PORTS", &json!(ports).to_string()),
        plain("ISTIO_META_APP_CONTAINERS", &names.join(",")),
        limit("GOMEMLIMIT", "limits.memory"),
        plain("ISTIO_META_CLUSTER_ID", &options.cluster),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        plain("ISTIO_META_INTERCEPTION_MODE", &wishes.mode),
        plain("ISTIO_META_WORKLOAD_NAME", &owner.name),
        plain("ISTIO_META_OWNER", &owner.reference()),
        plain("ISTIO_META_MESH_ID", mesh),
        plain("TRUST_DOMAIN", &options.trust_domain),
    ];
    if !options.network.is_empty() {
        all.push(plain("ISTIO_META_NETWORK", &options.network));
    }
    all.extend(variables(wishes));
    all
}

/// Only what differs from the proxy's own defaults.
fn proxy_config(wishes: &Wishes) -> String {
    let options = &wishes.options;
    let mut config: Map<String, Value> = options.proxy_config.clone();
    if options.discovery != crate::options::DISCOVERY {
        config.entry("discoveryAddress").or_insert_with(|| options.discovery.clone().into());
    }
    format!("{}\n", Value::Object(config))
}
