//! The mesh at one moment.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use istio_api::edge::Sidecar;
use istio_api::extensions::{ProxyConfig, Telemetry};
use istio_api::mesh::MeshConfig;
use istio_api::networking::{DestinationRule, VirtualService};
use istio_api::secret::Credential;
use istio_api::security::{AuthorizationPolicy, PeerAuthentication, RequestAuthentication};
use istio_api::service_entry::{ServiceEntry, WorkloadEntry};
use istio_api::{Object, Resource, levels};

use crate::credential::{self, Credentials};
use crate::delegate;
use crate::discovery::discovered;
use crate::entry::Declared;
use crate::model::{Annotations, Resolution, Service, exported};
use crate::policy::{self, Authorization, MergedDestinationRule, MtlsMode};
use crate::slices::{Slices, own_place};
use crate::telemetry::{self, Side, TracingRules};
use crate::workload::Workload;

/// Where mesh-wide policies live, unless the mesh configuration says otherwise.
const ROOT: &str = "istio-system";
/// DNS domain of the cluster.
const DOMAIN: &str = "cluster.local";

type MergedRules = BTreeMap<(String, String), Vec<Arc<MergedDestinationRule>>>;

/// The DestinationRules of a namespace by full host, and those of wildcards by what stands behind the star.
#[derive(Debug, Default)]
struct RulesOfNamespace {
    exact: HashMap<String, Vec<Arc<MergedDestinationRule>>>,
    wild: Vec<(String, Vec<Arc<MergedDestinationRule>>)>,
}

#[derive(Debug, Default)]
struct Inner {
    mesh: MeshConfig,
    services: Vec<Arc<Service>>,
    by_host: HashMap<String, Arc<Service>>,
    workloads: Vec<Arc<Workload>>,
    by_name: HashMap<(String, String), Arc<Workload>>,
    by_ip: HashMap<IpAddr, Arc<Workload>>,
    entries: Vec<Arc<Object<ServiceEntry>>>,
    /// By host; the declarations of several namespaces, the oldest first.
    declared: HashMap<String, Vec<Declared>>,
    sidecars: Vec<Arc<Object<Sidecar>>>,
    proxy_configs: Vec<Arc<Object<ProxyConfig>>>,
    /// Workloads by namespace and one of their labels, where services are known by their selectors.
    labelled: HashMap<(String, String, String), Vec<Arc<Workload>>>,
    /// VirtualServices by full host, and those of wildcards by what stands behind the star; oldest first.
    routed: HashMap<String, Vec<Arc<Object<VirtualService>>>>,
    routed_wild: Vec<(String, Arc<Object<VirtualService>>)>,
    /// ExternalName services by the host they stand for.
    aliases: HashMap<String, Vec<Arc<Service>>>,
    own_workloads: Vec<Arc<Object<WorkloadEntry>>>,
    virtual_services: Vec<Arc<Object<VirtualService>>>,
    /// Those with hosts, the routes of their delegates in place.
    roots: Vec<Arc<Object<VirtualService>>>,
    rules: MergedRules,
    ruled: HashMap<String, RulesOfNamespace>,
    peers: Vec<Arc<Object<PeerAuthentication>>>,
    policies: Vec<Arc<Object<AuthorizationPolicy>>>,
    tokens: Vec<Arc<Object<RequestAuthentication>>>,
    telemetries: Vec<Arc<Object<Telemetry>>>,
    namespaces: BTreeMap<String, BTreeMap<String, String>>,
    slices: Slices,
    distinctions: Distinctions,
    /// Of some service callers name the host (DYNAMIC_DNS).
    named_by_callers: bool,
    /// A service without slices has no endpoints; else they are found by its selector.
    only_slices: bool,
}

/// Key sets of token issuers by the address they were fetched from.
pub type KeySets = BTreeMap<String, Arc<str>>;

/// The mesh at one moment; cheap to clone.
#[derive(Debug, Clone, Default)]
pub struct Snapshot(Arc<Inner>, Arc<KeySets>, Arc<Credentials>);

impl Snapshot {
    /// Builds a snapshot. Of conflicting objects the older counts: by creation time, then in the order given.
    pub fn build<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> Self {
        Self::assemble(resources, Inner::default())
    }

    /// As [`build`](Self::build), for a source whose EndpointSlices are complete: a service has the endpoints they name.
    pub fn of_cluster<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> Self {
        Self::assemble(resources, Inner { only_slices: true, ..Inner::default() })
    }

    fn assemble<'a>(resources: impl IntoIterator<Item = &'a Resource>, mut inner: Inner) -> Self {
        let resources: Vec<&Resource> = resources.into_iter().collect();
        for resource in &resources {
            if let Resource::MeshConfig(config) = resource {
                inner.mesh = config.spec.clone();
            }
        }
        let resources = discovered(resources, &inner.mesh);
        let trust_domain = inner.mesh.trust_domain.clone().unwrap_or_else(|| DOMAIN.to_owned());
        let annotated: HashMap<String, Annotations> = resources
            .iter()
            .filter_map(|resource| match resource {
                Resource::Namespace(o) => Some((o.metadata.name.clone(), o.metadata.annotations.clone())),
                _ => None,
            })
            .collect();
        let mut rules: Vec<Arc<Object<DestinationRule>>> = Vec::new();
        let mut credentials = Credentials::new();
        for resource in resources {
            match resource {
                Resource::Namespace(o) => {
                    inner.namespaces.insert(o.metadata.name.clone(), o.metadata.labels.clone());
                }
                Resource::Node(o) => inner.slices.add_node(&o.metadata),
                Resource::EndpointSlice(o) => inner.slices.add(o),
                Resource::Endpoints(o) => inner.slices.add_old(o),
                Resource::Sidecar(o) => inner.sidecars.push(o.clone()),
                Resource::ProxyConfig(o) => inner.proxy_configs.push(o.clone()),
                Resource::Service(o) => {
                    let of_namespace = annotated.get(&o.metadata.namespace);
                    let service = Service::read(o, DOMAIN, &inner.mesh.default_service_export_to, of_namespace);
                    inner.services.push(Arc::new(service));
                }
                Resource::Pod(o, status) if status.pod_ip.is_some() => {
                    inner.workloads.push(Arc::new(Workload::read(o, status, &trust_domain)));
                }
                Resource::VirtualService(o) => inner.virtual_services.push(o.clone()),
                Resource::DestinationRule(o) => rules.push(o.clone()),
                Resource::PeerAuthentication(o) => inner.peers.push(o.clone()),
                Resource::AuthorizationPolicy(o) => inner.policies.push(o.clone()),
                Resource::RequestAuthentication(o) => inner.tokens.push(o.clone()),
                Resource::Telemetry(o) => inner.telemetries.push(o.clone()),
                Resource::ServiceEntry(o) => inner.entries.push(o.clone()),
                Resource::WorkloadEntry(o) => inner.own_workloads.push(o.clone()),
                Resource::Secret(o) => {
                    let key = (o.metadata.namespace.clone(), o.metadata.name.clone());
                    credentials.insert(key, Arc::new(o.spec.clone()));
                }
                _ => {}
            }
        }
        oldest_first(&mut inner.virtual_services);
        inner.roots = delegate::merged(&inner.virtual_services, &full_host);
        oldest_first(&mut rules);
        oldest_first(&mut inner.peers);
        inner.policies.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        inner.telemetries.sort_by(|a, b| a.metadata.name.cmp(&b.metadata.name));
        oldest_first(&mut inner.entries);
        oldest_first(&mut inner.sidecars);
        let export = &inner.mesh.default_service_export_to;
        for declared in crate::entry::declare(&inner.entries, &trust_domain, export, |name| annotated.get(name)) {
            inner.services.push(declared.service.clone());
            inner.declared.entry(declared.service.host.clone()).or_default().push(declared);
        }
        inner.index();
        inner.by_name = inner.workloads.iter().map(|w| ((w.namespace.clone(), w.name.clone()), w.clone())).collect();
        inner.by_ip = inner.workloads.iter().map(|w| (w.ip, w.clone())).collect();
        inner.by_host = inner.services.iter().rev().map(|s| (s.host.clone(), s.clone())).collect();
        for rule in rules.iter_mut().filter(|rule| rule.spec.export_to.is_empty()) {
            let default = &inner.mesh.default_destination_rule_export_to;
            if !default.is_empty() {
                Arc::make_mut(rule).spec.export_to.clone_from(default);
            }
        }
        inner.rules = policy::merge(&rules, full_host);
        inner.named_by_callers = inner.services.iter().any(|service| service.resolution == Resolution::DynamicDns);
        inner.index_rules();
        inner.distinctions = Distinctions::of(&inner);
        let named = credential::named(inner.rules.values().flatten());
        credentials.retain(|key, _| named.contains(key));
        Self(Arc::new(inner), Arc::default(), Arc::new(credentials))
    }

    /// The same mesh with the key sets that were fetched for its RequestAuthentications.
    #[must_use]
    pub fn with_key_sets(self, sets: Arc<KeySets>) -> Self {
        Self(self.0, sets, self.2)
    }

    /// The same mesh with the content of the Secrets that it names, for a source that brings them apart.
    #[must_use]
    pub fn with_credentials(self, credentials: Arc<Credentials>) -> Self {
        Self(self.0, self.1, credentials)
    }

    /// Namespace and name of every Secret that a DestinationRule needs for the sidecars it selects.
    pub fn named_secrets(&self) -> BTreeSet<(String, String)> {
        credential::named(self.destination_rules())
    }

    /// The content of a Secret, when a DestinationRule of the same namespace names it.
    pub fn credential(&self, namespace: &str, name: &str) -> Option<&Credential> {
        let key = (namespace.to_owned(), name.to_owned());
        self.2.get(&key).map(|found| &**found)
    }

    /// The key set that was fetched from an address.
    pub fn key_set(&self, uri: &str) -> Option<&str> {
        self.1.get(uri).map(|text| &**text)
    }

    /// Whether both are the very same snapshot, not only equal ones.
    pub fn is_same(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) && Arc::ptr_eq(&self.1, &other.1) && Arc::ptr_eq(&self.2, &other.2)
    }

    /// The mesh configuration.
    pub fn mesh_config(&self) -> &MeshConfig {
        &self.0.mesh
    }

    /// Where mesh-wide policies live.
    pub fn root_namespace(&self) -> &str {
        self.0.mesh.root_namespace.as_deref().unwrap_or(ROOT)
    }

    /// Who vouches for identities.
    pub fn trust_domain(&self) -> &str {
        self.0.mesh.trust_domain.as_deref().unwrap_or(DOMAIN)
    }

    /// Labels of a namespace, when it is declared.
    pub fn namespace(&self, name: &str) -> Option<&BTreeMap<String, String>> {
        self.0.namespaces.get(name)
    }

    /// Names of all declared namespaces.
    pub fn namespaces(&self) -> impl Iterator<Item = &String> {
        self.0.namespaces.keys()
    }

    /// Whether there is a service of which callers name the host (DYNAMIC_DNS).
    pub fn has_named_by_callers(&self) -> bool {
        self.0.named_by_callers
    }

    /// All services.
    pub fn services(&self) -> impl Iterator<Item = &Arc<Service>> {
        self.0.services.iter()
    }

    /// The service of a full host name.
    pub fn service(&self, host: &str) -> Option<&Arc<Service>> {
        self.0.by_host.get(host)
    }

    /// The service of a full host name for clients in a namespace: their own declaration, else the oldest they may see.
    pub fn service_for(&self, host: &str, client: &str) -> Option<&Arc<Service>> {
        let oldest = self.0.by_host.get(host)?;
        let declared = self.0.declared.get(host).map(Vec::as_slice).unwrap_or_default();
        let services = || declared.iter().map(|d| &d.service);
        if !services().any(|s| Arc::ptr_eq(s, oldest)) {
            return Some(oldest);
        }
        let own = services().find(|s| s.namespace == client);
        own.or_else(|| services().find(|s| s.visible_to(client))).or(Some(oldest))
    }

    /// The ExternalName services that stand for a host.
    pub fn aliases(&self, host: &str) -> &[Arc<Service>] {
        self.0.aliases.get(host).map(Vec::as_slice).unwrap_or_default()
    }

    /// The Sidecar that counts for a workload: one of its namespace that selects it, its namespace's own, then that of
    /// the root namespace; on one level the oldest.
    pub fn sidecar_for(&self, namespace: &str, labels: &BTreeMap<String, String>) -> Option<&Arc<Object<Sidecar>>> {
        levels(&self.0.sidecars, self.root_namespace(), namespace, labels).next_back()
    }

    /// All Sidecars, oldest first.
    pub fn sidecars(&self) -> impl Iterator<Item = &Arc<Object<Sidecar>>> {
        self.0.sidecars.iter()
    }

    /// All ProxyConfigs.
    pub fn proxy_configs(&self) -> &[Arc<Object<ProxyConfig>>] {
        &self.0.proxy_configs
    }

    /// All workloads.
    pub fn workloads(&self) -> impl Iterator<Item = &Arc<Workload>> {
        self.0.workloads.iter()
    }

    /// A workload by namespace and name.
    pub fn workload(&self, namespace: &str, name: &str) -> Option<&Arc<Workload>> {
        self.0.by_name.get(&(namespace.to_owned(), name.to_owned()))
    }

    /// A workload by address.
    pub fn workload_by_ip(&self, ip: IpAddr) -> Option<&Arc<Workload>> {
        self.0.by_ip.get(&ip)
    }

    /// Where a workload is, as `region/zone/subzone`: its own word, else the labels of topology that it carries, else its
    /// node's place.
    pub fn locality(&self, workload: &Workload) -> String {
        let label = |key: &str| workload.labels.get(key);
        if let Some(own) = own_place(&workload.labels) {
            return own;
        }
        let part = |key: &str| label(key).map_or("", String::as_str);
        let (region, zone) = (part("topology.kubernetes.io/region"), part("topology.kubernetes.io/zone"));
        let place = format!("{region}/{zone}/{}", part("topology.istio.io/subzone"));
        match place.trim_end_matches('/') {
            "" => self.0.slices.place_of(workload),
            place => place.to_owned(),
        }
    }

    /// All ServiceEntries, oldest first.
    pub fn service_entries(&self) -> impl Iterator<Item = &Arc<Object<ServiceEntry>>> {
        self.0.entries.iter()
    }

    /// All VirtualServices, oldest first.
    pub fn virtual_services(&self) -> impl Iterator<Item = &Arc<Object<VirtualService>>> {
        self.0.virtual_services.iter()
    }

    /// The VirtualServices that count for sidecars in a namespace, oldest first.
    pub fn virtual_services_in_mesh(&self, namespace: &str) -> Vec<Arc<Object<VirtualService>>> {
        self.0.roots.iter().filter(|vs| self.in_mesh(vs, namespace)).cloned().collect()
    }

    /// The VirtualService of a host for sidecars in a namespace: an exact host before the longest wildcard, then the oldest.
    pub fn virtual_service_for(&self, host: &str, namespace: &str) -> Option<Arc<Object<VirtualService>>> {
        self.virtual_service_where(host, namespace, |_| true)
    }

    /// The same, among those that `admits` says yes to.
    pub fn virtual_service_where(
        &self,
        host: &str,
        namespace: &str,
        admits: impl Fn(&Object<VirtualService>) -> bool,
    ) -> Option<Arc<Object<VirtualService>>> {
        let fits = |vs: &&Arc<Object<VirtualService>>| self.in_mesh(vs, namespace) && admits(vs);
        if let Some(exact) = self.0.routed.get(host).into_iter().flatten().find(fits) {
            return Some(exact.clone());
        }
        let mut best: Option<(usize, &Arc<Object<VirtualService>>)> = None;
        for (suffix, vs) in &self.0.routed_wild {
            let matches = host.len() > suffix.len() && host.ends_with(suffix.as_str());
            if matches && best.is_none_or(|(length, _)| suffix.len() > length) && fits(&vs) {
                best = Some((suffix.len(), vs));
            }
        }
        best.map(|(_, vs)| vs.clone())
    }

    /// Whether a VirtualService counts for sidecars in a namespace.
    fn in_mesh(&self, vs: &Object<VirtualService>, namespace: &str) -> bool {
        let gateways = &vs.spec.gateways;
        let export = match vs.spec.export_to.as_slice() {
            [] => &self.0.mesh.default_virtual_service_export_to,
            given => given,
        };
        (gateways.is_empty() || gateways.iter().any(|g| g == "mesh"))
            && exported(export, &vs.metadata.namespace, namespace)
    }

    /// All DestinationRules, merged by host and namespace.
    pub fn destination_rules(&self) -> impl Iterator<Item = &Arc<MergedDestinationRule>> {
        self.0.rules.values().flatten()
    }

    /// The DestinationRule of a host for a client, by its namespace and labels: of its own namespace, the service's, then
    /// the root namespace's; on each level an exact host before a wildcard, and one that selects the client before others.
    pub fn destination_rule_for(
        &self,
        host: &str,
        client: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<Arc<MergedDestinationRule>> {
        let own = self.service(host).map(|s| s.namespace.as_str());
        let levels = [Some(client), own.filter(|own| *own != client), Some(self.root_namespace())];
        levels.into_iter().flatten().find_map(|namespace| self.rule_in(namespace, host, client, labels))
    }

    fn rule_in(
        &self,
        namespace: &str,
        host: &str,
        client: &str,
        labels: &BTreeMap<String, String>,
    ) -> Option<Arc<MergedDestinationRule>> {
        let here = self.0.ruled.get(namespace)?;
        let choose = |all: &Vec<Arc<MergedDestinationRule>>| policy::choose(all, namespace, client, labels);
        let exact = here.exact.get(host).and_then(choose);
        let wild = || {
            let fits = here.wild.iter().filter_map(|(suffix, found)| {
                let fits = host.len() > suffix.len() && host.ends_with(suffix.as_str());
                fits.then(|| choose(found)).flatten().map(|rule| (suffix.len(), rule))
            });
            fits.max_by_key(|(length, _)| *length).map(|(_, found)| found)
        };
        exact.or_else(wild)
    }

    /// How a workload takes connections on a port; port 0 stands for ports that no service names.
    pub fn mtls_mode(&self, workload: &Workload, port: u16) -> MtlsMode {
        policy::mtls_mode(&self.0.peers, self.root_namespace(), workload, port)
    }

    /// All PeerAuthentications, oldest first.
    pub fn peer_authentications(&self) -> impl Iterator<Item = &Arc<Object<PeerAuthentication>>> {
        self.0.peers.iter()
    }

    /// All AuthorizationPolicies.
    pub fn authorization_policies(&self) -> impl Iterator<Item = &Arc<Object<AuthorizationPolicy>>> {
        self.0.policies.iter()
    }

    /// All RequestAuthentications.
    pub fn request_authentications(&self) -> impl Iterator<Item = &Arc<Object<RequestAuthentication>>> {
        self.0.tokens.iter()
    }

    /// All Telemetry resources.
    pub fn telemetries(&self) -> impl Iterator<Item = &Arc<Object<Telemetry>>> {
        self.0.telemetries.iter()
    }

    /// The AuthorizationPolicies of a workload.
    pub fn authorization_policies_for(&self, workload: &Workload) -> Authorization {
        let root = self.root_namespace();
        let mut found = Authorization::default();
        for policy in &self.0.policies {
            if policy::selects(policy.spec.selector.as_ref(), &policy.metadata.namespace, root, workload) {
                found.add(policy);
            }
        }
        found
    }

    /// The RequestAuthentications of a workload.
    pub fn request_authentications_for(&self, workload: &Workload) -> Vec<Arc<Object<RequestAuthentication>>> {
        let root = self.root_namespace();
        let selects = |t: &&Arc<Object<RequestAuthentication>>| {
            policy::selects(t.spec.selector.as_ref(), &t.metadata.namespace, root, workload)
        };
        self.0.tokens.iter().filter(selects).cloned().collect()
    }

    /// How the requests of a workload are traced.
    pub fn tracing_rules(&self, namespace: &str, labels: &BTreeMap<String, String>, side: Side) -> TracingRules {
        telemetry::tracing(self.telemetries_for(namespace, labels), side)
    }

    /// Who gets the access logs of a workload, by name; `None` where no resource says anything.
    pub fn access_log_providers(
        &self,
        namespace: &str,
        labels: &BTreeMap<String, String>,
        side: Side,
    ) -> Option<Vec<String>> {
        let defaults = self.0.mesh.default_providers.as_ref().map_or(&[][..], |p| &p.access_logging);
        telemetry::access_logs(self.telemetries_for(namespace, labels), side, defaults)
    }

    fn telemetries_for(&self, namespace: &str, labels: &BTreeMap<String, String>) -> impl Iterator<Item = &Telemetry> {
        levels(&self.0.telemetries, self.root_namespace(), namespace, labels).map(|o| &o.spec)
    }
}

impl Inner {
    /// Builds what rules are found by.
    fn index_rules(&mut self) {
        for ((namespace, host), rules) in &self.rules {
            let here = self.ruled.entry(namespace.clone()).or_default();
            match host.strip_prefix('*') {
                Some(suffix) => here.wild.push((suffix.to_owned(), rules.clone())),
                None => drop(here.exact.insert(host.clone(), rules.clone())),
            }
        }
    }

    /// Builds what services are found by.
    fn index(&mut self) {
        let by_selector = self.workloads.iter().filter(|_| !self.only_slices);
        for workload in by_selector {
            for (key, value) in &workload.labels {
                let key = (workload.namespace.clone(), key.clone(), value.clone());
                self.labelled.entry(key).or_default().push(workload.clone());
            }
        }
        for vs in &self.roots {
            for host in &vs.spec.hosts {
                match host.strip_prefix('*') {
                    Some(suffix) => self.routed_wild.push((suffix.to_owned(), vs.clone())),
                    None => {
                        let host = full_host(host, &vs.metadata.namespace);
                        self.routed.entry(host).or_default().push(vs.clone());
                    }
                }
            }
        }
        for service in &self.services {
            if let Some(target) = &service.external_name {
                let target = target.trim_end_matches('.').to_ascii_lowercase();
                self.aliases.entry(target).or_default().push(service.clone());
            }
        }
    }
}

/// A host in full: a name without dots belongs to the namespace of who wrote it.
fn full_host(host: &str, namespace: &str) -> String {
    if host.contains('.') || host.starts_with('*') {
        host.to_owned()
    } else {
        format!("{host}.{namespace}.svc.{DOMAIN}")
    }
}

/// RFC 3339 stamps in UTC sort as text; objects of files have none and stay in order.
fn oldest_first<T: Default>(objects: &mut [Arc<Object<T>>]) {
    objects.sort_by(|a, b| a.metadata.creation_timestamp.cmp(&b.metadata.creation_timestamp));
}

mod changes;
mod distinctions;
mod endpoints;

pub use changes::Changes;
use distinctions::Distinctions;

#[cfg(test)]
mod tests;
