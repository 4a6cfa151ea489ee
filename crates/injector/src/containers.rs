//! The two containers: one that redirects traffic and ends, and the proxy.

use serde_json::{Value, json};

use crate::annotations::Wishes;
use crate::{Options, Owner, volumes};

const INIT: &str = "istio-init";
const PROXY: &str = "istio-proxy";
/// The sidecar's user and group; what it sends is not captured.
const ID: u32 = 1337;

/// Containers by where they go.
pub(crate) struct Both {
    /// Init containers, before the user's own.
    pub before: Vec<Value>,
    /// Next to the application.
    pub beside: Vec<Value>,
}

/// Names of the init containers and of the containers that are added.
pub(crate) fn names(wishes: &Wishes) -> (Vec<&'static str>, Vec<&'static str>) {
    let init = (!wishes.no_redirection).then_some(INIT);
    let (native, ordinary) = if wishes.ordinary { (None, Some(PROXY)) } else { (Some(PROXY), None) };
    (init.into_iter().chain(native).collect(), ordinary.into_iter().collect())
}

/// The name that a container of the user's has and one that is added would have too.
pub(crate) fn taken(pod: &Value) -> Option<&'static str> {
    let lists = ["containers", "initContainers"].into_iter().filter_map(|field| pod[field].as_array());
    let names: Vec<&str> = lists.flatten().filter_map(|c| c["name"].as_str()).collect();
    [INIT, PROXY].into_iter().find(|name| names.contains(name))
}

/// The containers of a pod.
pub(crate) fn both(pod: &Value, owner: &Owner, wishes: &Wishes, options: &Options) -> Both {
    let mut before = Vec::new();
    if !wishes.no_redirection {
        before.push(init(wishes, options));
    }
    let mut proxy = proxy(pod, owner, wishes, options);
    if wishes.ordinary {
        return Both { before, beside: vec![proxy] };
    }
    proxy["restartPolicy"] = "Always".into();
    before.push(proxy);
    Both { before, beside: Vec::new() }
}

fn init(wishes: &Wishes, options: &Options) -> Value {
    let or = |given: &Option<String>, other: &str| given.clone().unwrap_or_else(|| other.to_owned());
    let excluded = match wishes.exclude_inbound.as_deref() {
        None | Some("") => "15090,15021,15020".to_owned(),
        Some(ports) => format!("15090,15021,{ports},15020"),
    };
    let mut args =
        ["istio-iptables", "-p", "15001", "-z", "15006", "-u", "1337", "-m", "REDIRECT"].map(str::to_owned).to_vec();
    let mut flag = |name: &str, value: String| args.extend([name.to_owned(), value]);
    flag("-i", or(&wishes.include_ranges, "*"));
    flag("-x", or(&wishes.exclude_ranges, ""));
    flag("-b", or(&wishes.include_inbound, "*"));
    flag("-d", excluded);
    if let Some(ports) = &wishes.include_outbound {
        flag("-q", ports.clone());
    }
    if let Some(ports) = &wishes.exclude_outbound {
        flag("-o", ports.clone());
    }
    args.push("--log_output_level=default:info".to_owned());
    json!({
        "name": INIT,
        "image": wishes.image.as_ref().unwrap_or(&options.image),
        "args": args,
        "resources": resources(wishes),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"add": ["NET_ADMIN", "NET_RAW"], "drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": false,
            "runAsGroup": 0,
            "runAsNonRoot": false,
            "runAsUser": 0,
        },
    })
}

fn proxy(pod: &Value, owner: &Owner, wishes: &Wishes, options: &Options) -> Value {
    let level = wishes.log_level.as_deref().unwrap_or("warning");
    let components = wishes.component_log_level.as_deref().unwrap_or("misc:error");
    let ready = json!({"path": "/healthz/ready", "port": 15021});
    json!({
        "name": PROXY,
        "image": wishes.image.as_ref().unwrap_or(&options.image),
        "args": [
            "proxy", "sidecar", "--domain", "$(POD_NAMESPACE).svc.cluster.local",
            format!("--proxyLogLevel={level}"), format!("--proxyComponentLogLevel={components}"),
            "--log_output_level=default:info",
        ],
        "env": environment(pod, owner, wishes, options),
        "lifecycle": {"preStop": {"exec": {
            "command": ["pilot-agent", "request", "--debug-port=15020", "POST", "drain"],
        }}},
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}],
        "readinessProbe": {"failureThreshold": 4, "httpGet": ready, "periodSeconds": 15, "timeoutSeconds": 3},
        "startupProbe": {"failureThreshold": 600, "httpGet": ready, "periodSeconds": 1, "timeoutSeconds": 3},
        "resources": resources(wishes),
        "securityContext": {
            "allowPrivilegeEscalation": false,
            "capabilities": {"drop": ["ALL"]},
            "privileged": false,
            "readOnlyRootFilesystem": true,
            "runAsGroup": ID,
            "runAsNonRoot": true,
            "runAsUser": ID,
        },
        "volumeMounts": volumes::mounts(),
    })
}

fn environment(pod: &Value, owner: &Owner, wishes: &Wishes, options: &Options) -> Vec<Value> {
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let field = |name: &str, path: &str| json!({"name": name, "valueFrom": {"fieldRef": {"fieldPath": path}}});
    let limit = |name: &str, resource: &str| json!({"name": name, "valueFrom": {"resourceFieldRef": {"divisor": "1", "resource": resource}}});
    let containers = pod["containers"].as_array().map(Vec::as_slice).unwrap_or_default();
    let ports: Vec<&Value> = containers.iter().filter_map(|c| c["ports"].as_array()).flatten().collect();
    let names: Vec<&str> = containers.iter().filter_map(|c| c["name"].as_str()).collect();
    let mode = if wishes.no_redirection { "NONE" } else { "REDIRECT" };
    vec![
        plain("PILOT_CERT_PROVIDER", "istiod"),
        plain("CA_ADDR", &options.discovery),
        field("POD_NAME", "metadata.name"),
        field("POD_NAMESPACE", "metadata.namespace"),
        field("INSTANCE_IP", "status.podIP"),
        field("SERVICE_ACCOUNT", "spec.serviceAccountName"),
        field("HOST_IP", "status.hostIP"),
        limit("ISTIO_CPU_LIMIT", "limits.cpu"),
        plain("PROXY_CONFIG", &proxy_config(options)),
        plain("ISTIO_META_POD_PORTS", &json!(ports).to_string()),
        plain("ISTIO_META_APP_CONTAINERS", &names.join(",")),
        limit("GOMEMLIMIT", "limits.memory"),
        plain("ISTIO_META_CLUSTER_ID", &options.cluster),
        field("ISTIO_META_NODE_NAME", "spec.nodeName"),
        plain("ISTIO_META_INTERCEPTION_MODE", mode),
        plain("ISTIO_META_WORKLOAD_NAME", &owner.name),
        plain("ISTIO_META_OWNER", &owner.reference()),
        plain("ISTIO_META_MESH_ID", &options.trust_domain),
        plain("TRUST_DOMAIN", &options.trust_domain),
    ]
}

/// Only what differs from the proxy's own defaults.
fn proxy_config(options: &Options) -> String {
    if options.discovery == "istiod.istio-system.svc:15012" {
        "{}\n".to_owned()
    } else {
        format!("{}\n", json!({"discoveryAddress": options.discovery}))
    }
}

/// As soon as one amount is given, none of the defaults applies.
fn resources(wishes: &Wishes) -> Value {
    let given = [&wishes.cpu, &wishes.memory, &wishes.cpu_limit, &wishes.memory_limit];
    if given.iter().all(|amount| amount.is_none()) {
        return json!({"limits": {"cpu": "2", "memory": "1Gi"}, "requests": {"cpu": "100m", "memory": "128Mi"}});
    }
    let mut resources = json!({});
    let amounts = [
        ("requests", "cpu", &wishes.cpu),
        ("requests", "memory", &wishes.memory),
        ("limits", "cpu", &wishes.cpu_limit),
        ("limits", "memory", &wishes.memory_limit),
    ];
    for (section, name, amount) in amounts {
        if let Some(amount) = amount {
            resources[section][name] = amount.as_str().into();
        }
    }
    resources
}
