//! What a Sidecar resource leaves of the mesh for one proxy.

use std::collections::HashSet;
use std::sync::Arc;

use istio_api::Object;
use istio_api::edge::{EgressListener, Sidecar};
use istio_api::networking::VirtualService;
use istio_api::unix::socket_path;
use mesh::{Service, Snapshot};

use crate::{Proxy, scope};

/// One entry of an egress listener's `hosts`.
struct Pattern<'a> {
    /// What it matches is left out.
    excludes: bool,
    namespace: &'a str,
    host: &'a str,
}

impl<'a> Pattern<'a> {
    fn read(text: &'a str) -> Option<Self> {
        let (namespace, host) = text.split_once('/')?;
        let excluded = namespace.strip_prefix('~').filter(|rest| !rest.is_empty());
        Some(Self { excludes: excluded.is_some(), namespace: excluded.unwrap_or(namespace), host })
    }

    fn in_namespace(&self, namespace: &str, own: &str) -> bool {
        match self.namespace {
            "*" => true,
            "." => namespace == own,
            name => namespace == name,
        }
    }

    fn covers(&self, host: &str) -> bool {
        covers(self.host, host)
    }
}

/// Whether every host of the second pattern is one of the first.
fn covers(pattern: &str, host: &str) -> bool {
    match pattern.strip_prefix('*') {
        Some(suffix) => host.ends_with(suffix),
        None => pattern == host,
    }
}

/// One egress listener: what may be called through it.
pub(crate) struct Egress<'a> {
    /// As it was written; `None` without a Sidecar, or where that says nothing of egress.
    pub listener: Option<&'a EgressListener>,
    patterns: Vec<Pattern<'a>>,
    own: &'a str,
}

impl Egress<'_> {
    /// The port it is for; `None`: all that no other is for.
    pub(crate) fn port(&self) -> Option<u16> {
        self.listener.and_then(|l| l.port.as_ref()).and_then(|p| u16::try_from(p.number).ok())
    }

    /// Whether it is a proxy for HTTP to all ports of its services.
    pub(crate) fn is_proxy(&self) -> bool {
        let port = self.listener.and_then(|l| l.port.as_ref());
        port.is_some_and(|p| p.protocol.eq_ignore_ascii_case("HTTP_PROXY"))
    }

    /// Whether its number says nothing of which ports of its services are called: a proxy's, or a Unix socket's.
    pub(crate) fn is_of_all_ports(&self) -> bool {
        self.is_proxy() || self.port() == Some(0)
    }

    /// Whether it has a place of its own, instead of those of services.
    fn is_placed(&self) -> bool {
        self.is_proxy()
            || self.listener.is_some_and(|l| !l.bind.is_empty() || l.capture_mode.as_deref() == Some("NONE"))
    }

    fn admits(&self, namespace: &str, fits: impl Fn(&Pattern<'_>) -> bool) -> bool {
        if self.listener.is_none() {
            return true;
        }
        let counts = |p: &&Pattern<'_>| p.in_namespace(namespace, self.own) && fits(p);
        let mut matching = self.patterns.iter().filter(counts).peekable();
        matching.peek().is_some() && matching.all(|p| !p.excludes)
    }

    /// Whether a service may be called through it.
    pub(crate) fn admits_service(&self, service: &Service) -> bool {
        self.admits(&service.namespace, |p| p.covers(&service.host))
    }

    /// Whether a VirtualService counts for it: one of its hosts is.
    fn admits_routes(&self, of: &Object<VirtualService>, domain: &str) -> bool {
        let namespace = &of.metadata.namespace;
        of.spec.hosts.iter().any(|host| {
            let host = scope::resolve(host, namespace, domain);
            self.admits(namespace, |p| p.covers(&host) || (!p.excludes && covers(&host, p.host)))
        })
    }
}

/// The Sidecar of a proxy.
pub(crate) fn of<'a>(snapshot: &'a Snapshot, proxy: &Proxy) -> Option<&'a Sidecar> {
    snapshot.sidecar_for(&proxy.namespace, &proxy.labels).map(|object| &object.spec)
}

/// The egress listeners of a proxy, in order; the one without a port is the last.
pub(crate) fn egress<'a>(snapshot: &'a Snapshot, proxy: &'a Proxy) -> Vec<Egress<'a>> {
    let own = proxy.namespace.as_str();
    let listeners = of(snapshot, proxy).map(|sidecar| sidecar.egress.as_slice()).unwrap_or_default();
    if listeners.is_empty() {
        return vec![Egress { listener: None, patterns: Vec::new(), own }];
    }
    listeners
        .iter()
        .map(|listener| Egress {
            listener: Some(listener),
            patterns: listener.hosts.iter().filter_map(|h| Pattern::read(h)).collect(),
            own,
        })
        .collect()
}

/// The services that clients in the proxy's namespace may see, each host once.
fn visible<'a>(snapshot: &'a Snapshot, proxy: &Proxy) -> impl Iterator<Item = &'a Arc<Service>> {
    let namespace = proxy.namespace.clone();
    let seen = move |service: &&Arc<Service>| {
        service.visible_to(&namespace)
            && snapshot.service_for(&service.host, &namespace).is_some_and(|s| Arc::ptr_eq(s, service))
    };
    snapshot.services().filter(seen)
}

/// The services of one egress listener.
pub(crate) fn services_of<'a>(snapshot: &'a Snapshot, proxy: &Proxy, egress: &Egress<'_>) -> Vec<&'a Arc<Service>> {
    visible(snapshot, proxy).filter(|service| egress.admits_service(service)).collect()
}

/// What the routes under a name are of: a port's number, or a Unix socket.
pub(crate) struct Routed<'a> {
    /// The services of the listener that is for it.
    pub services: Vec<&'a Arc<Service>>,
    /// Routes of all ports of the services, which their hosts' ports tell apart.
    pub all_ports: bool,
    /// It has a place of its own: also services of undeclared protocol come here.
    pub placed: bool,
}

/// The listener that is for a port, or for a Unix socket, and its services.
pub(crate) fn routed<'a>(snapshot: &'a Snapshot, proxy: &Proxy, name: &str) -> Option<Routed<'a>> {
    let all = egress(snapshot, proxy);
    let found = |egress: &Egress<'_>| Routed {
        services: services_of(snapshot, proxy, egress),
        all_ports: egress.is_of_all_ports(),
        placed: egress.is_placed(),
    };
    if socket_path(name).is_some() {
        return all.iter().find(|e| e.listener.is_some_and(|l| l.bind == name)).map(found);
    }
    let port = name.parse::<u16>().ok().filter(|port| *port != 0)?;
    let listener = all.iter().find(|e| e.port() == Some(port)).or_else(|| all.iter().find(|e| e.port().is_none()));
    Some(listener.map_or_else(|| Routed { services: Vec::new(), all_ports: false, placed: false }, found))
}

/// All services the proxy may call by name.
pub(crate) fn services<'a>(snapshot: &'a Snapshot, proxy: &Proxy) -> Vec<&'a Arc<Service>> {
    let all = egress(snapshot, proxy);
    visible(snapshot, proxy).filter(|service| all.iter().any(|e| e.admits_service(service))).collect()
}

/// All services that anything the proxy does may lead to: also where the VirtualServices that it follows send to.
pub(crate) fn reached<'a>(snapshot: &'a Snapshot, proxy: &Proxy) -> Vec<&'a Arc<Service>> {
    let mut found = services(snapshot, proxy);
    let Some(sidecar) = of(snapshot, proxy) else { return found };
    let mut known: HashSet<&str> = found.iter().map(|s| s.host.as_str()).collect();
    let mut more: Vec<String> = Vec::new();
    for object in snapshot.virtual_services_in_mesh(&proxy.namespace) {
        if !follows(snapshot, proxy, &object) {
            continue;
        }
        let http = object.spec.http.iter().flat_map(|r| {
            let mirrors = r.mirrors.iter().map(|m| &m.destination).chain(&r.mirror);
            r.route.iter().map(|to| &to.destination).chain(mirrors)
        });
        let tls = object.spec.tls.iter().flat_map(|r| &r.route).map(|to| &to.destination);
        let tcp = object.spec.tcp.iter().flat_map(|r| &r.route).map(|to| &to.destination);
        let hosts = http.chain(tls).chain(tcp).map(|to| &to.host);
        more.extend(hosts.map(|h| scope::resolve(h, &object.metadata.namespace, &proxy.domain_suffix)));
    }
    more.extend(sidecar.outbound_traffic_policy.iter().flat_map(|p| &p.egress_proxy).map(|to| to.host.clone()));
    for host in more {
        let service = snapshot.service_for(&host, &proxy.namespace).filter(|s| s.visible_to(&proxy.namespace));
        if let Some(service) = service
            && known.insert(&service.host)
        {
            found.push(service);
        }
    }
    found
}

/// Whether a proxy follows a VirtualService of the mesh.
pub(crate) fn follows(snapshot: &Snapshot, proxy: &Proxy, of: &Object<VirtualService>) -> bool {
    egress(snapshot, proxy).iter().any(|e| e.listener.is_none() || e.admits_routes(of, &proxy.domain_suffix))
}

#[cfg(test)]
pub(crate) mod tests;
