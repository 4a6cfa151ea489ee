//! Endpoints as Kubernetes' EndpointSlices name them.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;

use istio_api::kubernetes::{EndpointAddress, EndpointSlice, Endpoints, SliceConditions, SliceEndpoint};
use istio_api::{Object, ObjectMeta};

use crate::model::{Endpoint, Service, ServicePort};
use crate::workload::Workload;

/// The label by which a slice names its Service.
const SERVICE: &str = "kubernetes.io/service-name";

/// Namespace and name of a Service.
type Key = (String, String);

/// All slices by the namespace and name of their Service, and where nodes are.
#[derive(Debug, Default)]
pub(crate) struct Slices {
    by_service: HashMap<Key, Vec<Arc<Object<EndpointSlice>>>>,
    /// Objects of the old form, as slices; they count where there is no slice.
    old: HashMap<Key, Vec<Arc<Object<EndpointSlice>>>>,
    /// `region/zone/subzone` of a node.
    places: BTreeMap<String, String>,
}

impl Slices {
    pub(crate) fn add(&mut self, slice: &Arc<Object<EndpointSlice>>) {
        if let Some(service) = slice.metadata.labels.get(SERVICE) {
            let key = (slice.metadata.namespace.clone(), service.clone());
            self.by_service.entry(key).or_default().push(slice.clone());
        }
    }

    /// Endpoints have the name of their Service.
    pub(crate) fn add_old(&mut self, endpoints: &Object<Endpoints>) {
        let slice = |subset: &istio_api::kubernetes::EndpointSubset| {
            let one = |ready: bool| {
                move |address: &EndpointAddress| SliceEndpoint {
                    addresses: vec![address.ip.clone()],
                    conditions: SliceConditions { ready: Some(ready) },
                    target_ref: address.target_ref.clone(),
                    node_name: address.node_name.clone(),
                    hostname: address.hostname.clone(),
                    zone: None,
                }
            };
            let ready = subset.addresses.iter().map(one(true));
            let spec = EndpointSlice {
                address_type: String::new(),
                endpoints: ready.chain(subset.not_ready_addresses.iter().map(one(false))).collect(),
                ports: subset.ports.clone(),
            };
            Arc::new(Object { metadata: endpoints.metadata.clone(), spec, ..Object::default() })
        };
        let key = (endpoints.metadata.namespace.clone(), endpoints.metadata.name.clone());
        self.old.insert(key, endpoints.spec.subsets.iter().map(slice).collect());
    }

    pub(crate) fn add_node(&mut self, node: &ObjectMeta) {
        let label = |key: &str| node.labels.get(key).map_or("", String::as_str);
        let (region, zone) = (label("topology.kubernetes.io/region"), label("topology.kubernetes.io/zone"));
        let place = format!("{region}/{zone}/{}", label("topology.istio.io/subzone"));
        let place = place.trim_end_matches('/');
        if !place.is_empty() {
            self.places.insert(node.name.clone(), place.to_owned());
        }
    }

    /// Whether nodes are where they were.
    pub(crate) fn same_places(&self, other: &Self) -> bool {
        self.places == other.places
    }

    /// Namespace and name of the Services whose slices are not those of `former`, or name one of these pods.
    pub(crate) fn differing(&self, former: &Self, pods: &HashSet<(&str, &str)>) -> HashSet<(String, String)> {
        let mut found = HashSet::new();
        for (now, before) in [(&self.by_service, &former.by_service), (&self.old, &former.old)] {
            let equal = |key: &Key| match (now.get(key), before.get(key)) {
                (Some(a), Some(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| Arc::ptr_eq(a, b) || a == b),
                _ => false,
            };
            let names = |(key, slices): &(&Key, &Vec<Arc<Object<EndpointSlice>>>)| {
                let endpoints = slices.iter().flat_map(|s| &s.spec.endpoints).filter_map(|e| e.target_ref.as_ref());
                let namespace = |given: &'_ str| if given.is_empty() { key.0.clone() } else { given.to_owned() };
                !pods.is_empty()
                    && endpoints
                        .into_iter()
                        .any(|r| pods.contains(&(namespace(&r.namespace).as_str(), r.name.as_str())))
            };
            found.extend(now.iter().filter(|entry| !equal(entry.0) || names(entry)).map(|(key, _)| key.clone()));
            found.extend(before.keys().filter(|key| !now.contains_key(*key)).cloned());
        }
        found
    }

    /// Whether a slice names the service.
    pub(crate) fn has(&self, service: &Service) -> bool {
        !self.of(service).is_empty()
    }

    fn of(&self, service: &Service) -> &[Arc<Object<EndpointSlice>>] {
        let key = (service.namespace.clone(), service.name.clone());
        self.by_service.get(&key).or_else(|| self.old.get(&key)).map(Vec::as_slice).unwrap_or_default()
    }

    /// The ready endpoints of a port, each address once, in the order of addresses. One that names a pod is left out
    /// until the pod is known: only then is known whether it has a sidecar.
    pub(crate) fn endpoints<'a>(
        &self,
        service: &Service,
        port: &ServicePort,
        pod: impl Fn(&str, &str) -> Option<&'a Arc<Workload>>,
    ) -> Vec<Endpoint> {
        let mut seen = BTreeSet::new();
        let mut out = Vec::new();
        for slice in self.of(service) {
            let ours = slice.spec.ports.iter().find(|p| p.name.as_deref().unwrap_or_default() == port.name);
            let Some(number) = ours.and_then(|p| p.port) else { continue };
            let counts = |e: &&SliceEndpoint| service.unready_too || e.conditions.ready != Some(false);
            for endpoint in slice.spec.endpoints.iter().filter(counts) {
                let reference = endpoint.target_ref.as_ref().filter(|r| r.kind == "Pod");
                let workload = reference.and_then(|r| pod(namespace_of(&r.namespace, service), &r.name)).cloned();
                let Some(address) = endpoint.addresses.first() else { continue };
                if (reference.is_some() && workload.is_none()) || !seen.insert((address.clone(), number)) {
                    continue;
                }
                out.push(Endpoint {
                    address: address.clone(),
                    port: number,
                    ready: true,
                    labels: workload.as_ref().map(|w| w.labels.clone()).unwrap_or_default(),
                    weight: 1,
                    locality: self.place(endpoint, workload.as_deref()),
                    hostname: endpoint.hostname.clone(),
                    workload,
                });
            }
        }
        out.sort_by(|a, b| (&a.address, a.port).cmp(&(&b.address, b.port)));
        out
    }

    /// The place of a pod's node; empty when that is not known.
    pub(crate) fn place_of(&self, workload: &Workload) -> String {
        workload.node.as_ref().and_then(|n| self.places.get(n)).cloned().unwrap_or_default()
    }

    /// The pod's own word, else its node's place, else the slice's zone.
    fn place(&self, endpoint: &SliceEndpoint, workload: Option<&Workload>) -> String {
        let own = workload.and_then(|w| own_place(&w.labels));
        let node = || endpoint.node_name.as_ref().and_then(|n| self.places.get(n)).cloned();
        let zone = || endpoint.zone.as_ref().map(|zone| format!("/{zone}"));
        own.or_else(node).or_else(zone).unwrap_or_default()
    }
}

/// Where a pod says that it is: the label `topology.istio.io/locality` or its older name `istio-locality`. Kubernetes
/// allows no slashes in labels of pods, so dots stand for them in a text without any.
pub(crate) fn own_place(labels: &BTreeMap<String, String>) -> Option<String> {
    let own = labels.get("topology.istio.io/locality").or_else(|| labels.get("istio-locality"));
    own.map(|place| if place.contains('/') { place.clone() } else { place.replace('.', "/") })
}

fn namespace_of<'a>(given: &'a str, service: &'a Service) -> &'a str {
    if given.is_empty() { &service.namespace } else { given }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pod_tells_its_place_in_dots_or_slashes() {
        let told =
            |labels: &[(&str, &str)]| own_place(&labels.iter().map(|(k, v)| ((*k).into(), (*v).into())).collect());
        assert_eq!(told(&[("istio-locality", "r.z.s")]).as_deref(), Some("r/z/s"));
        assert_eq!(told(&[("istio-locality", "r/z.1")]).as_deref(), Some("r/z.1"));
        assert_eq!(told(&[("istio-locality", "r.z"), ("topology.istio.io/locality", "q")]).as_deref(), Some("q"));
        assert_eq!(told(&[("app", "web")]), None);
    }
}
