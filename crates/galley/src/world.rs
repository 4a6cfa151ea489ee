//! Objects by kind, and the few questions that many analyzers ask about them.

use std::collections::{BTreeMap, HashMap};

use serde_json::Value;

use crate::input::{Input, Object, list, text};

/// Labels of an object.
pub(crate) type Labels<'a> = BTreeMap<&'a str, &'a str>;

/// A pod that runs, or that a Deployment would start.
pub(crate) struct Workload<'a> {
    /// The Pod or the Deployment.
    pub object: &'a Object,
    /// Labels of the pod.
    pub labels: Labels<'a>,
    /// Whether it has a sidecar, or will get one.
    pub in_mesh: bool,
}

/// A service as hosts see it: of Kubernetes or declared by a ServiceEntry.
pub(crate) struct Host<'a> {
    /// Who declares it.
    pub object: &'a Object,
    /// Full name; may begin with `*`.
    pub name: String,
    /// Port numbers.
    pub ports: Vec<u64>,
    /// To which namespaces it is exported, in Istio's words; empty: to all.
    pub export_to: Vec<&'a str>,
}

/// Everything, indexed.
pub(crate) struct World<'a> {
    /// The mesh configuration.
    pub mesh: &'a Value,
    /// The networks of the mesh, when they are given.
    pub networks: Option<&'a Object>,
    /// Namespace of mesh-wide objects.
    pub root: &'a str,
    by_kind: HashMap<(&'a str, &'a str), Vec<&'a Object>>,
    /// All objects.
    pub objects: &'a [Object],
    /// All workloads.
    pub workloads: Vec<Workload<'a>>,
    /// All hosts.
    pub hosts: Vec<Host<'a>>,
}

const NETWORKING: &str = "networking.istio.io";

impl<'a> World<'a> {
    pub(crate) fn new(input: &'a Input) -> Self {
        let mut by_kind: HashMap<(&str, &str), Vec<&Object>> = HashMap::new();
        for object in &input.objects {
            by_kind.entry((object.group.as_str(), object.kind.as_str())).or_default().push(object);
        }
        let root = text(&input.mesh_config, "/rootNamespace");
        let mut world = Self {
            mesh: &input.mesh_config,
            networks: input.mesh_networks.as_ref(),
            root: if root.is_empty() { "istio-system" } else { root },
            by_kind,
            objects: &input.objects,
            workloads: Vec::new(),
            hosts: Vec::new(),
        };
        world.workloads = world.find_workloads();
        world.hosts = world.find_hosts();
        world
    }

    /// All objects of a kind of networking.istio.io.
    pub(crate) fn networking(&self, kind: &'a str) -> &[&'a Object] {
        self.kind(NETWORKING, kind)
    }

    /// All objects of a kind of Kubernetes' core group.
    pub(crate) fn core(&self, kind: &'a str) -> &[&'a Object] {
        self.kind("", kind)
    }

    /// All objects of a kind.
    pub(crate) fn kind(&self, group: &'a str, kind: &'a str) -> &[&'a Object] {
        self.by_kind.get(&(group, kind)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether pods of a namespace get a sidecar if they say nothing themselves.
    pub(crate) fn injected(&self, namespace: &str) -> bool {
        let Some(object) = self.core("Namespace").iter().find(|n| n.name == namespace) else { return false };
        match object.label("istio-injection") {
            Some(value) => value == "enabled",
            None => object.label("istio.io/rev").is_some(),
        }
    }

    /// Whether the object of a finding says itself, by annotation, that it is meant so.
    pub(crate) fn accepted(&self, message: &crate::message::Message) -> bool {
        let object = self.objects.iter().find(|o| o.title() == message.resource);
        let codes = object.and_then(|o| o.annotation("galley.istio.io/analyze-suppress"));
        codes.is_some_and(|codes| codes.split(',').map(str::trim).any(|c| c == "*" || c == message.code.code))
    }

    fn find_workloads(&self) -> Vec<Workload<'a>> {
        let pods = self.core("Pod").iter().map(|o| (*o, "/metadata", "/spec"));
        let deployments = self.kind("apps", "Deployment").iter();
        let templates = deployments.map(|o| (*o, "/spec/template/metadata", "/spec/template/spec"));
        let workload = |(object, meta, spec): (&'a Object, &str, &str)| {
            let labels = labels(object.value(), &format!("{meta}/labels"));
            let annotation = text(object.value(), &format!("{meta}/annotations/sidecar.istio.io~1inject"));
            let own = labels.get("sidecar.istio.io/inject").copied().unwrap_or(annotation);
            let wanted = if own.is_empty() { self.injected(&object.namespace) } else { own == "true" };
            let running = labels.get("security.istio.io/tlsMode") == Some(&"istio") || has_proxy(object.value(), spec);
            Workload { object, in_mesh: running || (object.kind == "Deployment" && wanted), labels }
        };
        pods.chain(templates).map(workload).collect()
    }

    fn find_hosts(&self) -> Vec<Host<'a>> {
        let services = self.core("Service").iter().map(|o| Host {
            object: o,
            name: full_host(&o.name, &o.namespace),
            ports: numbers(o.value(), "/spec/ports", "port"),
            export_to: o
                .annotation("networking.istio.io/exportTo")
                .map(|e| e.split(',').map(str::trim).filter(|e| !e.is_empty()).collect())
                .unwrap_or_default(),
        });
        let entries = self.networking("ServiceEntry").iter().flat_map(|o| {
            o.list("/spec/hosts").iter().filter_map(Value::as_str).map(|host| Host {
                object: o,
                name: host.to_owned(),
                ports: numbers(o.value(), "/spec/ports", "number"),
                export_to: o.list("/spec/exportTo").iter().filter_map(Value::as_str).collect(),
            })
        });
        services.chain(entries).collect()
    }

    /// The service of a host as somebody in a namespace writes it, among those that one of `seen_from` may see.
    pub(crate) fn host(&self, host: &str, namespace: &str, seen_from: &[&str]) -> Option<&Host<'a>> {
        let wanted = full_host(host, namespace);
        let visible = |h: &&Host<'a>| {
            let all = h.export_to.is_empty() || h.export_to.contains(&"*");
            let one = |n: &&str| h.export_to.contains(n) || (h.export_to.contains(&".") && *n == h.object.namespace);
            all || seen_from.iter().any(one)
        };
        let exact = self.hosts.iter().filter(|h| h.name == wanted).find(visible);
        exact.or_else(|| self.hosts.iter().filter(|h| covers(&h.name, &wanted)).find(visible))
    }

    /// The workloads of a namespace (of all: the root namespace) whose labels a selector names.
    pub(crate) fn selected<'w>(
        &'w self,
        namespace: &'w str,
        selector: &'w Labels<'w>,
    ) -> impl Iterator<Item = &'w Workload<'a>> {
        self.workloads
            .iter()
            .filter(move |w| (namespace == self.root || w.object.namespace == namespace) && within(selector, &w.labels))
    }
}

fn has_proxy(value: &Value, spec: &str) -> bool {
    let all = ["containers", "initContainers"].into_iter();
    all.flat_map(|field| list(value, &format!("{spec}/{field}"))).any(|c| c["name"] == "istio-proxy")
}

fn numbers(value: &Value, pointer: &str, field: &str) -> Vec<u64> {
    list(value, pointer).iter().filter_map(|p| p.get(field)?.as_u64()).collect()
}

/// Labels at a pointer.
pub(crate) fn labels<'v>(value: &'v Value, pointer: &str) -> Labels<'v> {
    let map = value.pointer(pointer).and_then(Value::as_object);
    map.into_iter().flatten().filter_map(|(k, v)| Some((k.as_str(), v.as_str()?))).collect()
}

/// Whether all labels of one set are in another.
pub(crate) fn within(small: &Labels<'_>, large: &Labels<'_>) -> bool {
    small.iter().all(|(key, value)| large.get(key) == Some(value))
}

/// Labels, for people.
pub(crate) fn shown(labels: &Labels<'_>) -> String {
    labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(",")
}

/// A host in full: a name without dots belongs to the namespace of who wrote it.
pub(crate) fn full_host(host: &str, namespace: &str) -> String {
    if host.is_empty() || host.contains('.') || host.starts_with('*') {
        host.to_owned()
    } else {
        format!("{host}.{namespace}.svc.cluster.local")
    }
}

/// Whether a host with a leading `*` covers another one.
pub(crate) fn covers(pattern: &str, host: &str) -> bool {
    pattern.strip_prefix('*').is_some_and(|suffix| !host.is_empty() && host.ends_with(suffix))
}

/// Whether two hosts, either of which may begin with `*`, have a name in common.
pub(crate) fn overlap(a: &str, b: &str) -> bool {
    a == b || covers(a, b) || covers(b, a)
}

/// The namespaces an object is exported to: `exportTo` with `.` written out; none given is `*`.
pub(crate) fn exported_to(object: &Object) -> Vec<&str> {
    let given = list(object.value(), "/spec/exportTo").iter().filter_map(Value::as_str);
    let all: Vec<&str> = given.map(|n| if n == "." { object.namespace.as_str() } else { n }).collect();
    if all.is_empty() { vec!["*"] } else { all }
}
