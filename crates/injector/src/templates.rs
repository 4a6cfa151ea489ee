//! Templates: what each of them adds to a pod. Names are Istio's; `inject.istio.io/templates` chooses.

use istio_api::yaml;
use serde_json::{Map, Value, json};

use crate::annotations::Wishes;
use crate::containers::{self, ID, PROXY};
use crate::owner::Owner;
use crate::volumes;

/// What is added to a pod.
#[derive(Debug, Default)]
pub(crate) struct Addition {
    /// Before the user's init containers.
    pub before: Vec<Value>,
    /// Containers: new ones, and what is added to the user's of the same name.
    pub beside: Vec<Value>,
    pub volumes: Vec<Value>,
    pub labels: Map<String, Value>,
    pub annotations: Map<String, Value>,
    /// Other fields of the pod's spec.
    pub spec: Map<String, Value>,
}

/// The templates that are built in.
pub(crate) const NAMES: [&str; 5] = ["sidecar", "gateway", "grpc-agent", "grpc-simple", "spire"];

/// What a template adds.
///
/// # Errors
/// When there is no such template, or it is written in a language that is not understood.
pub(crate) fn addition(name: &str, pod: &Value, owner: &Owner, wishes: &Wishes) -> Result<Addition, String> {
    match name {
        "sidecar" => Ok(sidecar(pod, owner, wishes)),
        "gateway" => Ok(gateway(pod, owner, wishes)),
        "grpc-agent" => Ok(grpc_agent(pod, owner, wishes)),
        "grpc-simple" => Ok(grpc_simple(pod)),
        "spire" => Ok(spire(wishes)),
        other => match wishes.options.templates.get(other) {
            Some(text) => custom(text).map_err(|reason| format!("the template {other}: {reason}")),
            None => Err(format!("there is no template {other}")),
        },
    }
}

/// The user the proxy runs as, when the pod says so.
fn user(pod: &Value) -> u64 {
    let lists = ["containers", "initContainers"].into_iter().filter_map(|field| pod[field].as_array());
    let mut own = lists.flatten().filter(|c| c["name"] == PROXY);
    own.find_map(|c| c["securityContext"]["runAsUser"].as_u64()).unwrap_or(ID)
}

fn sidecar(pod: &Value, owner: &Owner, wishes: &Wishes) -> Addition {
    let mut all = Addition { volumes: volumes::volumes(wishes), ..Addition::default() };
    all.before.extend(containers::init(wishes, user(pod)));
    let proxy = containers::proxy(pod, owner, wishes);
    if wishes.options.native {
        all.before.push(proxy);
    } else {
        all.beside.push(proxy);
    }
    all.labels.insert("security.istio.io/tlsMode".to_owned(), "istio".into());
    let first = pod["containers"].as_array().into_iter().flatten().find(|c| c["name"] != PROXY);
    if let Some(app) = first.and_then(|c| c["name"].as_str()) {
        for key in ["default-container", "default-logs-container"] {
            all.annotations.insert(format!("kubectl.kubernetes.io/{key}"), app.into());
        }
    }
    if wishes.options.cni {
        let capture = &wishes.options.capture;
        let mut say = |key: &str, value: &str| all.annotations.insert(key.to_owned(), value.into());
        say("sidecar.istio.io/interceptionMode", &wishes.mode);
        for (key, value) in [
            ("includeOutboundIPRanges", Some(&capture.include_ranges)),
            ("excludeOutboundIPRanges", Some(&capture.exclude_ranges)),
            ("includeInboundPorts", Some(&capture.include_inbound)),
            ("includeOutboundPorts", wishes.include_outbound.as_ref()),
            ("excludeOutboundPorts", wishes.exclude_outbound.as_ref()),
        ] {
            if let Some(value) = value.filter(|v| !v.is_empty()) {
                say(&format!("traffic.sidecar.istio.io/{key}"), value);
            }
        }
        let status = wishes.options.status_port.to_string();
        let users = capture.exclude_inbound.as_str();
        let ports = if users.is_empty() { status } else { format!("{users},{status}") };
        say("traffic.sidecar.istio.io/excludeInboundPorts", &ports);
    }
    all
}

fn gateway(pod: &Value, owner: &Owner, wishes: &Wishes) -> Addition {
    let mut volumes: Vec<Value> = volumes::volumes(wishes);
    volumes.retain(|v| v["name"] != "istio-ca-crl");
    for volume in volumes.iter_mut().filter(|v| v["name"] == "credential-socket" || v["name"] == "workload-certs") {
        volume["emptyDir"] = json!({});
    }
    let mut mounts = volumes::mounts(wishes);
    mounts.retain(|m| m["name"] != "istio-ca-crl");
    let readiness = &wishes.options.readiness;
    let mut proxy = json!({
        "name": PROXY,
        "image": wishes.options.image,
        "args": containers::arguments("router", wishes),
        "env": containers::environment(pod, owner, wishes),
        "ports": [{"containerPort": 15090, "name": "http-envoy-prom", "protocol": "TCP"}],
        "readinessProbe": {
            "failureThreshold": readiness.failures,
            "httpGet": {"path": "/healthz/ready", "port": 15021},
            "periodSeconds": readiness.period,
            "timeoutSeconds": 3,
        },
        "securityContext": {"runAsUser": ID, "runAsGroup": ID},
        "volumeMounts": mounts,
    });
    if readiness.initial_delay > 0 {
        proxy["readinessProbe"]["initialDelaySeconds"] = readiness.initial_delay.into();
    }
    // Gateways listen on low ports without being root.
    let low = json!({"sysctls": [{"name": "net.ipv4.ip_unprivileged_port_start", "value": "0"}]});
    Addition {
        beside: vec![proxy],
        volumes,
        spec: Map::from_iter([("securityContext".to_owned(), low)]),
        ..Addition::default()
    }
}

/// An agent without proxy, for applications that speak xDS themselves.
fn grpc_agent(pod: &Value, owner: &Owner, wishes: &Wishes) -> Addition {
    let skipped = ["ISTIO_CPU_LIMIT", "GOMEMLIMIT", "ISTIO_META_INTERCEPTION_MODE"];
    let plain = |name: &str, value: &str| json!({"name": name, "value": value});
    let mut environment = vec![plain("ISTIO_META_GENERATOR", "grpc"), plain("OUTPUT_CERTS", "/var/lib/istio/data")];
    let own = containers::environment(pod, owner, wishes).into_iter();
    environment.extend(own.filter(|v| v["name"].as_str().is_none_or(|n| !skipped.contains(&n))));
    environment.extend([plain("ISTIO_META_DNS_CAPTURE", "false"), plain("DISABLE_ENVOY", "true")]);
    let place = |volume: &str| {
        let path = match volume {
            "istio-xds" => "/etc/istio/proxy",
            other => volumes::PLACES.iter().find(|(name, _)| *name == other).map_or("", |(_, path)| path),
        };
        json!({"name": volume, "mountPath": path})
    };
    let mounts: Vec<Value> = [
        "workload-socket",
        "workload-certs",
        "istiod-ca-cert",
        "istio-data",
        "istio-xds",
        "istio-token",
        "istio-podinfo",
    ]
    .map(place)
    .to_vec();
    let status = wishes.options.status_port;
    let ready = json!({"path": "/healthz/ready", "port": status});
    let wait = ["pilot-agent".to_owned(), "wait".to_owned(), format!("--url=http://localhost:{status}/healthz/ready")];
    let agent = json!({
        "name": PROXY,
        "image": wishes.options.image,
        "args": containers::arguments("sidecar", wishes),
        "env": environment,
        "lifecycle": {"postStart": {"exec": {"command": wait}}},
        "ports": [{"containerPort": status, "name": "mesh-metrics", "protocol": "TCP"}],
        "readinessProbe": {
            "failureThreshold": wishes.options.readiness.failures, "httpGet": ready,
            "periodSeconds": wishes.options.readiness.period, "timeoutSeconds": 3,
        },
        "resources": wishes.resources(),
        "volumeMounts": mounts,
    });
    let bootstrap = json!([
        plain("GRPC_XDS_EXPERIMENTAL_SECURITY_SUPPORT", "true"),
        plain("GRPC_XDS_BOOTSTRAP", "/etc/istio/proxy/grpc-bootstrap.json"),
    ]);
    let seen: Vec<Value> = ["istio-data", "istio-xds", "workload-certs"].map(place).to_vec();
    let own = applications(pod).map(|name| json!({"name": name, "env": bootstrap, "volumeMounts": seen}));
    let mut volumes = vec![
        json!({"name": "workload-socket"}),
        json!({"name": "workload-certs"}),
        json!({"name": "istio-xds", "emptyDir": {"medium": "Memory"}}),
        json!({"name": "istio-data", "emptyDir": {}}),
    ];
    volumes.extend(volumes::identity());
    let app = applications(pod).next().unwrap_or_default();
    let annotations = [
        ("kubectl.kubernetes.io/default-container", app),
        ("kubectl.kubernetes.io/default-logs-container", app),
        ("sidecar.istio.io/rewriteAppHTTPProbers", "false"),
    ];
    Addition {
        beside: std::iter::once(agent).chain(own).collect(),
        volumes,
        annotations: annotations.map(|(k, v)| (k.to_owned(), v.into())).into_iter().collect(),
        ..Addition::default()
    }
}

fn applications(pod: &Value) -> impl Iterator<Item = &str> {
    let all = pod["containers"].as_array().into_iter().flatten();
    all.filter_map(|c| c["name"].as_str()).filter(|name| *name != PROXY)
}

/// Applications that speak xDS themselves, and find istiod by a bootstrap file that they make.
fn grpc_simple(pod: &Value) -> Addition {
    let place = json!([{"name": "grpc-io-proxyless-bootstrap", "mountPath": "/var/lib/grpc/data"}]);
    let file = json!([{"name": "GRPC_XDS_BOOTSTRAP", "value": "/var/lib/grpc/data/bootstrap.json"}]);
    let own = applications(pod).map(|name| json!({"name": name, "env": file, "volumeMounts": place}));
    Addition {
        beside: own.collect(),
        volumes: vec![json!({"name": "grpc-io-proxyless-bootstrap", "emptyDir": {}})],
        ..Addition::default()
    }
}

/// The workload's certificate comes from SPIRE's agent.
fn spire(wishes: &Wishes) -> Addition {
    let mount = json!({"name": "workload-socket", "mountPath": volumes::SOCKET, "readOnly": true});
    let proxy = json!({"name": PROXY, "volumeMounts": [mount]});
    let native = wishes.options.native && wishes.templates.iter().any(|t| t == "sidecar");
    let (before, beside) = if native { (vec![proxy], Vec::new()) } else { (Vec::new(), vec![proxy]) };
    let csi = json!({"name": "workload-socket", "csi": {"driver": "csi.spiffe.io", "readOnly": true}});
    Addition { before, beside, volumes: vec![csi], ..Addition::default() }
}

/// A template of the user: a pod in YAML.
fn custom(text: &str) -> Result<Addition, String> {
    if text.contains("{{") {
        return Err("it is a Go template, and those are not evaluated; write it as plain YAML".to_owned());
    }
    let documents = yaml::parse(text).map_err(|e| format!("this is not YAML: {e}"))?;
    let pod = documents.into_iter().next().map(|d| d.value).unwrap_or_default();
    let list = |field: &str| pod["spec"][field].as_array().cloned().unwrap_or_default();
    let map = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let mut spec = map(&pod["spec"]);
    spec.retain(|key, _| !["containers", "initContainers", "volumes"].contains(&key.as_str()));
    Ok(Addition {
        before: list("initContainers"),
        beside: list("containers"),
        volumes: list("volumes"),
        labels: map(&pod["metadata"]["labels"]),
        annotations: map(&pod["metadata"]["annotations"]),
        spec,
    })
}
