//! Sidecar.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{FieldError, server_tls};
use crate::edge::{EgressListener, IngressListener, Sidecar, SidecarPort};
use crate::networking::ConnectionPool;
use crate::unix::{self, socket_path};

type Found = Vec<FieldError>;

fn no(found: &mut Found, pointer: impl AsRef<str>, message: impl Into<String>) {
    found.push(FieldError::new(pointer.as_ref(), message));
}

pub(super) fn sidecar(spec: &Sidecar, found: &mut Found) {
    let policy = spec.outbound_traffic_policy.as_ref();
    if spec.egress.is_empty() && spec.ingress.is_empty() && policy.is_none() && spec.inbound_connection_pool.is_none() {
        no(found, "/spec", "an empty Sidecar says nothing; give egress, ingress or outboundTrafficPolicy");
    }
    for (key, value) in spec.workload_selector.iter().flat_map(|s| &s.labels) {
        if key.contains('*') || value.contains('*') {
            no(found, "/spec/workloadSelector/labels", "a selector knows no wildcards");
        }
    }
    if let Some(policy) = policy {
        match policy.mode.as_deref() {
            None | Some("ALLOW_ANY" | "REGISTRY_ONLY") => {}
            Some("ALLOW_ANY_DYNAMIC_DNS") => {
                no(found, "/spec/outboundTrafficPolicy/mode", "this mode is for the mesh's configuration alone");
            }
            Some(other) => no(
                found,
                "/spec/outboundTrafficPolicy/mode",
                format!("unknown mode \"{other}\"; use ALLOW_ANY or REGISTRY_ONLY"),
            ),
        }
        if let Some(proxy) = &policy.egress_proxy {
            if policy.mode.as_deref() != Some("ALLOW_ANY") {
                no(found, "/spec/outboundTrafficPolicy/egressProxy", "an egressProxy needs mode ALLOW_ANY");
            }
            if proxy.host.is_empty() || !proxy.host.contains('.') {
                no(found, "/spec/outboundTrafficPolicy/egressProxy/host", "write the full name of the host");
            }
            if proxy.port.as_ref().is_none_or(|p| !(1..=65535).contains(&p.number)) {
                no(found, "/spec/outboundTrafficPolicy/egressProxy/port", "an egressProxy needs a port");
            }
        }
        if policy.tls.is_some() {
            no(
                found,
                "/spec/outboundTrafficPolicy/tls",
                "TLS to unknown servers is for the mesh's configuration alone",
            );
        }
    }
    pool(spec.inbound_connection_pool.as_ref(), "/spec/inboundConnectionPool", found);
    ingress(&spec.ingress, found);
    egress(&spec.egress, found);
}

fn is_port(number: u32, at: &str, found: &mut Found) {
    if !(1..=65535).contains(&number) {
        no(found, format!("{at}/number"), format!("{number} is not a port; ports go from 1 to 65535"));
    }
}

/// All of a port but its number.
fn of_a_port(port: &SidecarPort, at: &str, found: &mut Found) {
    const PROTOCOLS: [&str; 13] = [
        "HTTP",
        "HTTPS",
        "GRPC",
        "GRPC-WEB",
        "HTTP2",
        "MONGO",
        "TCP",
        "TLS",
        "MYSQL",
        "REDIS",
        "HTTP_PROXY",
        "UDP",
        "",
    ];
    match port.protocol.to_ascii_uppercase().as_str() {
        "UDP" => no(found, format!("{at}/protocol"), "UDP does not go through proxies"),
        other if !PROTOCOLS.contains(&other) => {
            no(found, format!("{at}/protocol"), format!("unknown protocol \"{}\"", port.protocol));
        }
        _ => {}
    }
    if port.target_port != 0 {
        no(found, format!("{at}/targetPort"), "a Sidecar's port has no targetPort; use defaultEndpoint");
    }
}

fn ingress(listeners: &[IngressListener], found: &mut Found) {
    let mut numbers = BTreeSet::new();
    for (i, listener) in listeners.iter().enumerate() {
        let at = format!("/spec/ingress/{i}");
        match &listener.port {
            None => no(found, format!("{at}/port"), "an ingress listener needs a port"),
            Some(given) => {
                let of_port = format!("{at}/port");
                is_port(given.number, &of_port, found);
                of_a_port(given, &of_port, found);
                if given.protocol.eq_ignore_ascii_case("HTTP_PROXY") {
                    no(found, format!("{at}/port/protocol"), "an HTTP proxy is for egress listeners");
                }
                if !numbers.insert(given.number) {
                    no(found, format!("{at}/port/number"), format!("the port {} is there twice", given.number));
                }
            }
        }
        capture(listener.capture_mode.as_deref(), &at, found);
        let own = listener.bind.parse::<IpAddr>();
        if !listener.bind.is_empty() && own.is_err() {
            no(found, format!("{at}/bind"), format!("\"{}\" is not an IP address", listener.bind));
        }
        if listener.capture_mode.as_deref() == Some("NONE") {
            itself(listener, own.ok(), &at, found);
        }
        if let (Some(tls), Some(given)) = (&listener.tls, &listener.port) {
            server_tls::ingress(tls, &given.protocol, &format!("{at}/tls"), found);
        }
        pool(listener.connection_pool.as_ref(), &format!("{at}/connectionPool"), found);
        endpoint(&listener.default_endpoint, &format!("{at}/defaultEndpoint"), found);
    }
}

/// A listener without interception that would call itself: Istio takes it.
fn itself(listener: &IngressListener, own: Option<IpAddr>, at: &str, found: &mut Found) {
    if listener.default_endpoint.is_empty() {
        let message = "without interception nobody has dialled the application: say where it is, it would call itself";
        return no(found, format!("{at}/defaultEndpoint"), message);
    }
    let to: Option<std::net::SocketAddr> = listener.default_endpoint.parse().ok();
    let same = to.is_some_and(|to| {
        let here = own.is_none_or(|own| own == to.ip() || own.is_unspecified() || to.ip().is_unspecified());
        here && listener.port.as_ref().is_some_and(|port| port.number == u32::from(to.port()))
    });
    // Without an address of its own it listens on the pod's, and 127.0.0.1 is another.
    let elsewhere = own.is_none() && to.is_some_and(|to| to.ip().is_loopback());
    if same && !elsewhere {
        no(found, format!("{at}/defaultEndpoint"), "this is the listener itself; the application needs another port");
    }
}

/// What of a connection pool does not reach connections to the application.
fn pool(pool: Option<&ConnectionPool>, at: &str, found: &mut Found) {
    if pool.and_then(|p| p.http.as_ref()).is_some_and(|http| http.h2_upgrade_policy.is_some()) {
        let message = "Istio upgrades no connection to the application; name the port http2, or use useClientProtocol";
        no(found, format!("{at}/http/h2UpgradePolicy"), message);
    }
}

/// `127.0.0.1:PORT`, `[::1]:PORT`, `0.0.0.0:PORT`, `[::]:PORT`, or a Unix socket.
fn endpoint(text: &str, at: &str, found: &mut Found) {
    if text.is_empty() {
        return;
    }
    if socket_path(text).is_some() {
        return found.extend(unix::mistake(text).map(|message| FieldError::new(at, message)));
    }
    let parsed: Option<std::net::SocketAddr> = text.parse().ok();
    match parsed {
        Some(at) if at.port() != 0 && (at.ip().is_loopback() || at.ip().is_unspecified()) => {}
        _ => no(
            found,
            at,
            format!(
                "\"{text}\" is not of the form 127.0.0.1:PORT, [::1]:PORT, 0.0.0.0:PORT, [::]:PORT or unix:///PATH"
            ),
        ),
    }
}

fn capture(mode: Option<&str>, at: &str, found: &mut Found) {
    if let Some(mode) = mode.filter(|m| !["DEFAULT", "IPTABLES", "NONE"].contains(m)) {
        no(found, format!("{at}/captureMode"), format!("unknown mode \"{mode}\"; use DEFAULT, IPTABLES or NONE"));
    }
}

fn egress(listeners: &[EgressListener], found: &mut Found) {
    let (mut taken, mut pipes) = (BTreeSet::new(), BTreeSet::new());
    for (i, listener) in listeners.iter().enumerate() {
        let at = format!("/spec/egress/{i}");
        capture(listener.capture_mode.as_deref(), &at, found);
        if listener.hosts.is_empty() {
            no(found, format!("{at}/hosts"), "an egress listener needs hosts; \"*/*\" is all");
        }
        for (j, host) in listener.hosts.iter().enumerate() {
            egress_host(host, &format!("{at}/hosts/{j}"), found);
        }
        let pipe = socket_path(&listener.bind).is_some();
        if pipe {
            found.extend(unix::mistake(&listener.bind).map(|why| FieldError::new(&format!("{at}/bind"), why)));
            if listener.capture_mode.as_deref() == Some("IPTABLES") {
                no(found, format!("{at}/captureMode"), "what goes to a Unix socket is not intercepted; use NONE");
            }
        } else if !listener.bind.is_empty() && listener.bind.parse::<IpAddr>().is_err() {
            no(
                found,
                format!("{at}/bind"),
                format!("\"{}\" is neither an IP address nor a Unix socket", listener.bind),
            );
        }
        match &listener.port {
            None if pipe => no(found, format!("{at}/port"), "a Unix socket needs a port of number 0, for its protocol"),
            None if i + 1 != listeners.len() => {
                no(found, &at, "the listener without a port takes what is left: it must be the last");
            }
            None => {}
            Some(given) => {
                let at = format!("{at}/port");
                of_a_port(given, &at, found);
                match (pipe, given.number) {
                    (true, 0) if !pipes.insert(listener.bind.as_str()) => {
                        no(found, format!("{at}/number"), "the Unix socket is there twice");
                    }
                    (true, 0) => {}
                    (true, _) => no(found, format!("{at}/number"), "the Unix socket of bind has no port; write 0"),
                    (false, number) => {
                        is_port(number, &at, found);
                        if !taken.insert(number) {
                            no(found, format!("{at}/number"), format!("the port {number} is there twice"));
                        }
                    }
                }
            }
        }
    }
}

/// `NAMESPACE/HOST`; namespaces `.`, `*`, `~` and, to leave hosts out, `~NAMESPACE`.
fn egress_host(host: &str, at: &str, found: &mut Found) {
    let Some((namespace, name)) = host.split_once('/').filter(|(_, name)| !name.contains('/')) else {
        return no(found, at, format!("\"{host}\" is not of the form NAMESPACE/HOST, such as \"./*\""));
    };
    let label = |text: &str| {
        let known = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        !text.is_empty() && text.len() <= 63 && text.chars().all(known)
    };
    let plain = namespace.strip_prefix('~').filter(|rest| !rest.is_empty()).unwrap_or(namespace);
    if !["*", ".", "~"].contains(&plain) && !label(plain) {
        no(found, at, format!("\"{namespace}\" is no namespace; use a name, \".\", \"*\", \"~\" or \"~NAME\""));
    }
    let rest = name.strip_prefix("*.").unwrap_or(name);
    if name != "*" && (rest.is_empty() || rest.contains('*')) {
        no(found, at, format!("\"{name}\" is no host; a wildcard is \"*\" or \"*.DOMAIN\""));
    }
}
