//! Where services can be reached.

use std::sync::Arc;

use super::Snapshot;
use crate::entry;
use crate::model::{Endpoint, Service, ServicePort};
use crate::workload::Workload;

impl Snapshot {
    /// Where a port of the service of a host can be reached; of several services of one host the oldest counts.
    pub fn endpoints(&self, host: &str, port: u16) -> Vec<Endpoint> {
        self.service(host).map(|service| self.endpoints_of(service, port)).unwrap_or_default()
    }

    /// Where a port of a service can be reached.
    pub fn endpoints_of(&self, service: &Service, port: u16) -> Vec<Endpoint> {
        let Some(port) = service.ports.iter().find(|p| p.port == port) else { return Vec::new() };
        if self.0.only_slices || self.0.slices.has(service) {
            let mut all = self.0.slices.endpoints(service, port, |namespace, name| self.workload(namespace, name));
            self.add_declared(service, port, &mut all);
            return all;
        }
        let endpoint = |workload: &Arc<Workload>| {
            let named = workload.subdomain.as_ref() == Some(&service.name);
            Some(Endpoint {
                address: workload.ip.to_string(),
                port: workload.target_port(port)?,
                ready: workload.ready,
                labels: workload.labels.clone(),
                weight: 1,
                locality: self.locality(workload),
                hostname: workload.hostname.clone().filter(|_| named),
                workload: Some(workload.clone()),
            })
        };
        // Kubernetes takes a pod out of a Service while it is not ready.
        let mut all: Vec<Endpoint> =
            self.behind(service).filter_map(endpoint).filter(|e| e.ready || service.unready_too).collect();
        self.add_declared(service, port, &mut all);
        all
    }

    /// The workloads that the selector of a service names.
    fn behind<'a>(&'a self, service: &'a Service) -> impl Iterator<Item = &'a Arc<Workload>> {
        let lists = service.selector.iter().map(|(key, value)| {
            let key = (service.namespace.clone(), key.clone(), value.clone());
            self.0.labelled.get(&key).map(Vec::as_slice).unwrap_or_default()
        });
        // The rarest of the labels leaves the least to look at.
        let fewest = lists.min_by_key(|list| list.len()).unwrap_or_default();
        fewest.iter().filter(|workload| service.selects(workload))
    }

    /// What ServiceEntries and WorkloadEntries add to a port of a service.
    fn add_declared(&self, service: &Service, port: &ServicePort, all: &mut Vec<Endpoint>) {
        let declared = self.0.declared.get(&service.host).into_iter().flatten();
        let own = declared.filter(|d| d.service.namespace == service.namespace).take(1);
        all.extend(own.filter_map(|d| d.endpoints.get(&port.port)).flatten().cloned());
        let entries = self.0.own_workloads.iter();
        let selected = entries.filter(|o| service.selects_labels(&o.metadata.namespace, &o.spec.labels));
        all.extend(selected.map(|o| {
            entry::endpoint(
                &o.spec,
                entry::workload_name(&o.metadata),
                &o.metadata.namespace,
                port,
                self.trust_domain(),
            )
        }));
    }
}
