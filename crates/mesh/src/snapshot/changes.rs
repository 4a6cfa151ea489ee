//! What of a mesh differs from a former one: whoever has made something of the former one keeps what does not.

use std::collections::{BTreeSet, HashSet};
use std::sync::Arc;

use istio_api::Object;
use istio_api::networking::VirtualService;

use super::{Inner, Snapshot};
use crate::model::Service;
use crate::workload::Workload;

/// Of more changed workloads it is not looked for what each of them is about.
const MANY: usize = 200;

/// What differs between two snapshots. It may name more than does, never less.
#[derive(Debug, Clone, Default)]
pub struct Changes {
    /// Something that is not named below: services, DestinationRules, the mesh's configuration and so on.
    pub everything: bool,
    /// VirtualServices.
    pub routing: bool,
    /// Of these more than routes of HTTP: those of bytes, or which VirtualService counts for which host.
    pub routing_of_bytes: bool,
    /// What workloads demand of callers and tell of themselves: PeerAuthentications, AuthorizationPolicies,
    /// RequestAuthentications with their key sets, Telemetry.
    pub policies: bool,
    /// Hosts of the services whose endpoints differ.
    pub endpoints: BTreeSet<String>,
    /// Workloads that differ, as they were and as they are.
    pub workloads: Vec<Arc<Workload>>,
}

impl Changes {
    /// What differs from a former mesh, when `later` has come after these.
    pub fn add(&mut self, later: &Self) {
        self.everything |= later.everything;
        self.routing |= later.routing;
        self.routing_of_bytes |= later.routing_of_bytes;
        self.policies |= later.policies;
        self.endpoints.extend(later.endpoints.iter().cloned());
        self.workloads.extend(later.workloads.iter().cloned());
        if self.workloads.len() > 2 * MANY {
            *self = Self { everything: true, ..Self::default() };
        }
    }
}

impl Snapshot {
    /// What differs from a former snapshot, but for the content of Secrets: nothing is made of that beforehand.
    pub fn changes_since(&self, former: &Self) -> Changes {
        let mut changes = Changes::default();
        if !Arc::ptr_eq(&self.1, &former.1) {
            changes.policies = self.1 != former.1;
        }
        if Arc::ptr_eq(&self.0, &former.0) {
            return changes;
        }
        // Each field is named, so that a new one cannot be forgotten; what is made of the others alone is left out.
        let Inner {
            mesh,
            services,
            by_host: _,
            workloads,
            by_name: _,
            by_ip: _,
            entries,
            declared: _,
            sidecars,
            proxy_configs,
            labelled: _,
            routed: _,
            routed_wild: _,
            aliases: _,
            own_workloads,
            virtual_services,
            roots: _,
            rules,
            ruled: _,
            peers,
            policies,
            tokens,
            telemetries,
            namespaces,
            slices,
            distinctions: _,
            named_by_callers: _,
            only_slices,
        } = &*former.0;
        let now = &*self.0;
        changes.everything = *mesh != now.mesh
            || !same(services, &now.services)
            || !same(entries, &now.entries)
            || !same(sidecars, &now.sidecars)
            || !same(proxy_configs, &now.proxy_configs)
            || !same(own_workloads, &now.own_workloads)
            || *rules != now.rules
            || *namespaces != now.namespaces
            || !slices.same_places(&now.slices)
            || *only_slices != now.only_slices;
        if changes.everything {
            return changes;
        }
        changes.routing = !same(virtual_services, &now.virtual_services);
        changes.routing_of_bytes = changes.routing && !same_but_http(virtual_services, &now.virtual_services);
        changes.policies |= !same(peers, &now.peers)
            || !same(policies, &now.policies)
            || !same(tokens, &now.tokens)
            || !same(telemetries, &now.telemetries);
        if !same(workloads, &now.workloads) {
            changes.workloads = former.other_workloads(self);
        }
        if changes.workloads.len() > MANY {
            return Changes { everything: true, ..Changes::default() };
        }
        let about: HashSet<(&str, &str)> =
            changes.workloads.iter().map(|w| (w.namespace.as_str(), w.name.as_str())).collect();
        let listed = now.slices.differing(slices, &about);
        let touched = |service: &&Arc<Service>| {
            listed.contains(&(service.namespace.clone(), service.name.clone()))
                || changes.workloads.iter().any(|workload| service.selects(workload))
        };
        changes.endpoints = services.iter().filter(touched).map(|service| service.host.clone()).collect();
        changes
    }

    /// The workloads that another snapshot does not have so, and those that this one does not have so.
    fn other_workloads(&self, other: &Self) -> Vec<Arc<Workload>> {
        let missing = |of: &Self, at: &Self| -> Vec<Arc<Workload>> {
            let has =
                |w: &Arc<Workload>| at.workload(&w.namespace, &w.name).is_some_and(|o| Arc::ptr_eq(o, w) || o == w);
            of.0.workloads.iter().filter(|w| !has(w)).cloned().collect()
        };
        let mut all = missing(self, other);
        all.extend(missing(other, self));
        if all.is_empty() {
            // The same ones in another order: the last of an address counts.
            all.extend(self.0.workloads.iter().cloned());
        }
        all
    }
}

/// Whether two lists hold the same, in the same order.
fn same<T: PartialEq>(one: &[Arc<T>], other: &[Arc<T>]) -> bool {
    same_or(one, other, |_, _| false)
}

/// Whether two lists hold the same, or what is `alike`, in the same order.
fn same_or<T: PartialEq>(one: &[Arc<T>], other: &[Arc<T>], alike: impl Fn(&T, &T) -> bool) -> bool {
    one.len() == other.len() && one.iter().zip(other).all(|(a, b)| Arc::ptr_eq(a, b) || a == b || alike(a, b))
}

/// Whether two lists are of the same VirtualServices, which differ in their routes of HTTP at most, and have no others
/// where they do.
fn same_but_http(one: &[Arc<Object<VirtualService>>], other: &[Arc<Object<VirtualService>>]) -> bool {
    same_or(one, other, |a, b| {
        let (x, y) = (&a.spec, &b.spec);
        (&a.metadata.namespace, &a.metadata.name) == (&b.metadata.namespace, &b.metadata.name)
            && (&x.hosts, &x.gateways, &x.export_to) == (&y.hosts, &y.gateways, &y.export_to)
            && [x, y].iter().all(|spec| spec.tcp.is_empty() && spec.tls.is_empty())
    })
}

#[cfg(test)]
mod tests {
    use istio_api::Resource;
    use istio_api::yaml::Document;
    use serde_json::{Value, json};

    use super::*;

    fn object(value: Value) -> Resource {
        istio_api::read(&Document::bare(value), "shop").unwrap().unwrap()
    }

    fn pod(name: &str, app: &str, note: &str) -> Resource {
        object(
            json!({"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": "shop", "labels": {"app": app, "note": note}},
            "spec": {"containers": []}, "status": {"podIP": "10.0.0.1", "conditions": [{"type": "Ready", "status": "True"}]}}),
        )
    }

    fn service(app: &str) -> Resource {
        object(json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": app, "namespace": "shop"},
            "spec": {"selector": {"app": app}, "ports": [{"name": "http", "port": 80}]}}))
    }

    fn slice(service: &str, pod: &str) -> Resource {
        object(json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
            "metadata": {"name": service, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
            "ports": [{"name": "http", "port": 80}],
            "endpoints": [{"addresses": ["10.0.0.1"], "targetRef": {"kind": "Pod", "name": pod}}]}))
    }

    fn between(former: &[Resource], now: &[Resource]) -> Changes {
        Snapshot::of_cluster(now).changes_since(&Snapshot::of_cluster(former))
    }

    fn hosts(changes: &Changes) -> Vec<&str> {
        changes.endpoints.iter().map(String::as_str).collect()
    }

    const PAY: &str = "pay.shop.svc.cluster.local";

    #[test]
    fn equal_meshes_differ_in_nothing() {
        let all = [service("pay"), pod("pay-1", "pay", ""), slice("pay", "pay-1")];
        let changes = between(&all, &all.clone());
        assert!(!changes.everything && !changes.routing && !changes.policies);
        assert!(changes.endpoints.is_empty() && changes.workloads.is_empty());
    }

    #[test]
    fn a_slice_and_a_pod_are_about_their_services_alone() {
        let base = [service("pay"), service("cart"), pod("pay-1", "pay", "")];
        let with = |more: &[Resource]| [&base[..], more].concat();
        let changes = between(&with(&[slice("pay", "pay-1")]), &with(&[slice("pay", "gone")]));
        assert!(!changes.everything && changes.workloads.is_empty());
        assert_eq!(hosts(&changes), [PAY]);
        let before = with(&[slice("pay", "pay-1"), slice("cart", "pay-1")]);
        let mut after = before.clone();
        after[2] = pod("pay-1", "pay", "new");
        // Slices may name pods that no selector does.
        assert_eq!(hosts(&between(&before, &after)), ["cart.shop.svc.cluster.local", PAY]);
        assert_eq!(between(&before, &after).workloads.len(), 2);
        after.remove(2);
        assert_eq!(between(&before, &after).workloads.len(), 1);
    }

    #[test]
    fn routing_policies_and_the_rest_are_told_apart() {
        let base = [service("pay")];
        let also = |value: Value| [&base[..], &[object(value)]].concat();
        let meta = json!({"name": "own", "namespace": "shop"});
        let networking = |kind: &str, spec: Value| json!({"apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": meta, "spec": spec});
        let routes = also(networking(
            "VirtualService",
            json!({"hosts": ["pay"], "http": [{"route": [{"destination": {"host": "pay"}}]}]}),
        ));
        let changes = between(&base, &routes);
        assert!(changes.routing && changes.routing_of_bytes && !changes.everything && !changes.policies);
        let slower =
            json!({"hosts": ["pay"], "http": [{"timeout": "1s", "route": [{"destination": {"host": "pay"}}]}]});
        let changes = between(&routes, &also(networking("VirtualService", slower)));
        assert!(changes.routing && !changes.routing_of_bytes, "the same hosts, and routes of HTTP alone");
        for other in [
            json!({"hosts": ["pay", "cart"], "http": [{"route": [{"destination": {"host": "pay"}}]}]}),
            json!({"hosts": ["pay"], "exportTo": ["."], "http": [{"route": [{"destination": {"host": "pay"}}]}]}),
            json!({"hosts": ["pay"], "tcp": [{"route": [{"destination": {"host": "pay"}}]}]}),
        ] {
            let there = also(networking("VirtualService", other));
            assert!(between(&routes, &there).routing_of_bytes && between(&there, &routes).routing_of_bytes);
        }
        let strict = also(
            json!({"apiVersion": "security.istio.io/v1", "kind": "PeerAuthentication", "metadata": meta, "spec": {"mtls": {"mode": "STRICT"}}}),
        );
        let changes = between(&base, &strict);
        assert!(changes.policies && !changes.everything && !changes.routing);
        assert!(between(&base, &also(networking("DestinationRule", json!({"host": "pay"})))).everything);
        assert!(between(&base, &[service("pay"), service("cart")]).everything);
        let one = Snapshot::of_cluster(&base);
        let keys = one.clone().with_key_sets(Arc::new([("https://a".to_owned(), Arc::from("{}"))].into()));
        let changes = keys.changes_since(&one);
        assert!(changes.policies && !changes.everything);
    }

    #[test]
    fn changes_add_up() {
        let mut sum = Changes { routing: true, ..Changes::default() };
        sum.add(&Changes { policies: true, endpoints: [PAY.to_owned()].into(), ..Changes::default() });
        assert!(sum.routing && sum.policies && !sum.everything);
        assert_eq!(hosts(&sum), [PAY]);
    }
}
