//! Listeners at a place that a Sidecar names: an address, with a socket or without, or a Unix socket.

use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use istio_api::unix::socket_path;
use mesh::{Service, ServicePort, Snapshot};
use serde_json::{Value, json};

use super::chains::chains;
use super::outbound::{base, outbound_http, tcp};
use super::{listener_filter, socket_address};
use crate::scope::{self, App};
use crate::sidecar::Egress;
use crate::{Proxy, names};

/// Where the listeners of an egress listener are.
pub(super) enum Place<'a> {
    /// At an address; with a socket, or for what is intercepted on its way there.
    Ip { ip: IpAddr, bound: bool },
    /// At a Unix socket: the whole address, and its path.
    Pipe { address: &'a str, path: &'a str },
}

impl<'a> Place<'a> {
    /// `None`: at the addresses of services.
    pub(super) fn of(egress: &Egress<'a>) -> Option<Self> {
        let listener = egress.listener?;
        if let Some(path) = socket_path(&listener.bind) {
            return Some(Self::Pipe { address: &listener.bind, path });
        }
        let bound = listener.capture_mode.as_deref() == Some("NONE");
        match listener.bind.parse() {
            Ok(ip) => Some(Self::Ip { ip, bound }),
            Err(_) if bound => Some(Self::Ip { ip: Ipv4Addr::LOCALHOST.into(), bound }),
            Err(_) if egress.is_proxy() => Some(Self::Ip { ip: Ipv4Addr::UNSPECIFIED.into(), bound }),
            Err(_) => None,
        }
    }

    fn name(&self, port: u16) -> String {
        match self {
            Self::Ip { ip, .. } => format!("{ip}_{port}"),
            Self::Pipe { address, .. } => format!("{address}_{port}"),
        }
    }

    fn listener(&self, snapshot: &Snapshot, port: u16) -> Value {
        let name = self.name(port);
        let (mut out, bound) = match self {
            Self::Ip { ip, bound } => (base(snapshot, &name, socket_address(&ip.to_string(), port)), *bound),
            Self::Pipe { path, .. } => (base(snapshot, &name, json!({"pipe": {"path": path}})), true),
        };
        if bound && let Some(fields) = out.as_object_mut() {
            fields.remove("bindToPort");
        }
        out
    }
}

/// What is taken on a port.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Takes {
    Http,
    Bytes,
    /// Whichever comes.
    Both,
}

/// The listeners of a place: that of its port, or without one those of all ports of the services.
pub(super) fn listeners(
    snapshot: &Snapshot,
    proxy: &Proxy,
    egress: &Egress<'_>,
    place: &Place<'_>,
    services: &[&Arc<Service>],
) -> Vec<(String, Value)> {
    let made = |port: u16, takes: Takes| {
        (place.name(port), Listener { snapshot, proxy, egress, place, services, port }.make(takes))
    };
    if let Some(given) = egress.listener.and_then(|l| l.port.as_ref()) {
        let takes = match scope::app_of(given) {
            _ if egress.is_proxy() => Takes::Http,
            App::Http1 | App::Http2 => Takes::Http,
            App::Auto => Takes::Both,
            App::Tcp | App::Udp => Takes::Bytes,
        };
        return vec![made(egress.port().unwrap_or_default(), takes)];
    }
    let ports = || services.iter().flat_map(|s| &s.ports).filter(|p| scope::app(p) != App::Udp);
    let numbers: BTreeSet<u16> = ports().map(|p| p.port).collect();
    let takes = |number: u16| {
        let mut apps = ports().filter(|p| p.port == number).map(scope::app);
        if apps.clone().all(|app| app == App::Tcp) {
            return Takes::Bytes;
        }
        if apps.all(|app| matches!(app, App::Http1 | App::Http2)) { Takes::Http } else { Takes::Both }
    };
    numbers.into_iter().map(|number| made(number, takes(number))).collect()
}

struct Listener<'a> {
    snapshot: &'a Snapshot,
    proxy: &'a Proxy,
    egress: &'a Egress<'a>,
    place: &'a Place<'a>,
    services: &'a [&'a Arc<Service>],
    port: u16,
}

impl Listener<'_> {
    fn make(&self, takes: Takes) -> Value {
        let mut out = self.place.listener(self.snapshot, self.port);
        let mut filters = Vec::new();
        let (mut chains, by_name, rest) = match takes {
            Takes::Http => (Vec::new(), false, None),
            // Where HTTP is told apart, what is none is for no service of HTTP.
            takes => self.bytes(|port| takes == Takes::Bytes || !matches!(scope::app(port), App::Http1 | App::Http2)),
        };
        if by_name {
            filters.push(listener_filter("tls_inspector", "TlsInspector"));
        }
        if takes != Takes::Bytes {
            let mut http = self.http();
            if takes == Takes::Both {
                filters.push(listener_filter("http_inspector", "HttpInspector"));
            } else if let Some(fields) = http.as_object_mut() {
                fields.shift_remove("filterChainMatch");
            }
            chains.push(http);
        }
        match rest {
            Some(rest) if chains.is_empty() => chains.push(rest),
            Some(rest) => out["defaultFilterChain"] = rest,
            None => {}
        }
        out["filterChains"] = json!(chains);
        if !filters.is_empty() {
            out["listenerFilters"] = json!(filters);
        }
        out
    }

    /// HTTP by the routes of the port, or of the socket.
    fn http(&self) -> Value {
        let routes = match self.place {
            Place::Pipe { address, .. } => (*address).to_owned(),
            Place::Ip { .. } => self.port.to_string(),
        };
        outbound_http(self.snapshot, self.proxy, format!("outbound_{}", self.place.name(self.port)), &routes)
    }

    /// Chains of bytes that a server name or a network decides, whether a name does, and that of all else: the first
    /// service's.
    fn bytes(&self, counts: impl Fn(&ServicePort) -> bool) -> (Vec<Value>, bool, Option<Value>) {
        let (mut found, mut named, mut rest) = (Vec::new(), false, None);
        for service in self.services {
            let Some(port) = self.port_of(service).filter(|port| counts(port)) else { continue };
            let user = scope::virtual_service(self.snapshot, self.proxy, &service.host);
            let (of_service, by_name) = chains(self.snapshot, self.proxy, service, port, user.as_deref());
            named |= by_name;
            for mut chain in of_service {
                if chain["filterChainMatch"].as_object().is_none_or(|matches| matches.is_empty()) {
                    if let Some(fields) = chain.as_object_mut() {
                        fields.shift_remove("filterChainMatch");
                    }
                    rest.get_or_insert(chain);
                } else if !found.iter().any(|c: &Value| c["filterChainMatch"] == chain["filterChainMatch"]) {
                    found.push(chain);
                }
            }
        }
        let nowhere = || json!({"filters": tcp(self.proxy, names::BLACK_HOLE, self.snapshot)});
        (found, named, Some(rest.unwrap_or_else(nowhere)))
    }

    /// The port of a service that is meant: that of the listener's number, or, where it has no number, the only one.
    fn port_of<'s>(&self, service: &'s Service) -> Option<&'s ServicePort> {
        let mut ports = service.ports.iter().filter(|p| scope::app(p) != App::Udp);
        if self.egress.is_of_all_ports() {
            return ports.next().filter(|_| ports.next().is_none());
        }
        ports.find(|p| p.port == self.port)
    }
}
