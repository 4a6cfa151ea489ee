//! Gateway and WorkloadGroup.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::FieldError;
use super::security::no;
use crate::edge::{Gateway, Server, ServerTls};
use crate::service_entry::WorkloadGroup;

const PROTOCOLS: [&str; 8] = ["HTTP", "HTTPS", "HTTP2", "GRPC", "GRPC-WEB", "TLS", "TCP", "MONGO"];
const TLS_MODES: [&str; 6] = ["PASSTHROUGH", "SIMPLE", "MUTUAL", "AUTO_PASSTHROUGH", "ISTIO_MUTUAL", "OPTIONAL_MUTUAL"];
const VERSIONS: [&str; 5] = ["TLS_AUTO", "TLSV1_0", "TLSV1_1", "TLSV1_2", "TLSV1_3"];

/// Gateway.
pub(crate) fn gateway(spec: &Gateway, found: &mut Vec<FieldError>) {
    if spec.servers.is_empty() {
        no(found, "/spec/servers", "a Gateway needs at least one server");
    }
    let mut names = BTreeSet::new();
    for (i, server) in spec.servers.iter().enumerate() {
        let at = format!("/spec/servers/{i}");
        let name = server.port.as_ref().map(|p| p.name.as_str()).unwrap_or_default();
        if !name.is_empty() && !names.insert(name) {
            no(found, format!("{at}/port/name"), format!("the port name \"{name}\" is there twice"));
        }
        check(server, &at, found);
    }
    for (key, value) in &spec.selector {
        if key.is_empty() || key.contains('*') || value.contains('*') {
            no(found, "/spec/selector", "a selector names labels in full, without wildcards");
        }
    }
}

fn check(server: &Server, at: &str, found: &mut Vec<FieldError>) {
    if server.hosts.is_empty() {
        no(found, format!("{at}/hosts"), "a server needs at least one host; * is all");
    }
    for (i, host) in server.hosts.iter().enumerate() {
        let at = format!("{at}/hosts/{i}");
        let (namespace, name) = host.split_once('/').unwrap_or(("*", host));
        if !["*", "."].contains(&namespace) && !label(namespace) {
            no(found, &at, format!("\"{namespace}\" is no namespace; write NAMESPACE/HOST, */HOST or ./HOST"));
        }
        if !host_name(name) {
            no(found, at, format!("\"{name}\" is no host; a * may stand for its first part"));
        }
    }
    if !server.bind.is_empty() && !server.bind.starts_with("unix://") && server.bind.parse::<IpAddr>().is_err() {
        no(found, format!("{at}/bind"), format!("\"{}\" is no IP address", server.bind));
    }
    let Some(port) = &server.port else {
        no(found, format!("{at}/port"), "a server needs a port");
        return;
    };
    if !(1..=65535).contains(&port.number) {
        no(found, format!("{at}/port/number"), format!("{} is not a port", port.number));
    }
    if port.name.is_empty() {
        no(found, format!("{at}/port/name"), "a port needs a name");
    }
    let protocol = port.protocol.to_ascii_uppercase();
    if !PROTOCOLS.contains(&protocol.as_str()) {
        let message = format!("unknown protocol \"{}\"; use {}", port.protocol, PROTOCOLS.join(", "));
        no(found, format!("{at}/port/protocol"), message);
    }
    let secure = ["HTTPS", "TLS"].contains(&protocol.as_str());
    match &server.tls {
        None if secure => no(found, format!("{at}/tls"), format!("a server of protocol {protocol} needs tls")),
        Some(_) if !secure && protocol != "HTTP" && protocol != "TCP" => {
            no(found, format!("{at}/tls"), format!("a server of protocol {protocol} has no tls; use HTTPS or TLS"));
        }
        Some(tls) if tls.https_redirect && secure => {
            no(found, format!("{at}/tls/httpsRedirect"), "only an HTTP server can redirect to HTTPS");
        }
        Some(tls) if !tls.https_redirect => terminate(tls, &format!("{at}/tls"), found),
        _ => {}
    }
}

fn terminate(tls: &ServerTls, at: &str, found: &mut Vec<FieldError>) {
    let mode = tls.mode.as_deref().unwrap_or("PASSTHROUGH");
    if !TLS_MODES.contains(&mode) {
        no(found, format!("{at}/mode"), format!("unknown mode \"{mode}\"; use {}", TLS_MODES.join(", ")));
    }
    let by_name = !tls.credential_name.is_empty() || !tls.credential_names.is_empty();
    let by_file = !tls.server_certificate.is_empty() || !tls.tls_certificates.is_empty();
    if !tls.credential_name.is_empty() && !tls.credential_names.is_empty() {
        no(found, format!("{at}/credentialNames"), "only one of credentialName and credentialNames can be set");
    }
    if ["SIMPLE", "MUTUAL", "OPTIONAL_MUTUAL"].contains(&mode) && !by_name {
        if !by_file {
            no(found, at, format!("mode {mode} needs credentialName, or serverCertificate and privateKey"));
        } else if tls.tls_certificates.is_empty() && tls.private_key.is_empty() {
            no(found, format!("{at}/privateKey"), "serverCertificate needs its privateKey");
        }
        if mode == "MUTUAL" && tls.ca_certificates.is_empty() && tls.ca_cert_credential_name.is_empty() {
            no(found, format!("{at}/caCertificates"), "mode MUTUAL needs caCertificates to verify clients by");
        }
    }
    if mode == "ISTIO_MUTUAL" && (by_name || by_file) {
        no(found, at, "mode ISTIO_MUTUAL uses the mesh's own certificates; remove the others");
    }
    let version = |given: &Option<String>, field: &str, found: &mut Vec<FieldError>| {
        let given = given.as_deref().unwrap_or("TLS_AUTO");
        let index = VERSIONS.iter().position(|v| *v == given);
        if index.is_none() {
            no(found, format!("{at}/{field}"), format!("unknown version \"{given}\"; use {}", VERSIONS.join(", ")));
        }
        index.unwrap_or(0)
    };
    let least = version(&tls.min_protocol_version, "minProtocolVersion", found);
    let most = version(&tls.max_protocol_version, "maxProtocolVersion", found);
    if most != 0 && least > most {
        no(found, format!("{at}/minProtocolVersion"), "minProtocolVersion is above maxProtocolVersion");
    }
    let hash = |text: &&String| {
        let hex: String = text.chars().filter(|c| *c != ':').collect();
        hex.len() != 64 || !hex.chars().all(|c| c.is_ascii_hexdigit())
    };
    if let Some(wrong) = tls.verify_certificate_hash.iter().find(hash) {
        no(found, format!("{at}/verifyCertificateHash"), format!("\"{wrong}\" is no SHA-256 in hexadecimal digits"));
    }
}

/// A DNS label.
fn label(text: &str) -> bool {
    let inside = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '_';
    !text.is_empty() && text.len() <= 63 && text.chars().all(inside) && !text.starts_with('-') && !text.ends_with('-')
}

/// A host name, whose first part may be `*` or begin with it.
fn host_name(text: &str) -> bool {
    if text == "*" {
        return true;
    }
    if text.parse::<IpAddr>().is_ok() {
        return false;
    }
    let mut parts = text.split('.');
    let first = parts.next().unwrap_or_default();
    let head = first == "*" || first.strip_prefix('*').is_some_and(label) || label(first);
    head && text.len() <= 253 && parts.all(label)
}

/// WorkloadGroup.
pub(crate) fn workload_group(spec: &WorkloadGroup, found: &mut Vec<FieldError>) {
    let Some(template) = &spec.template else {
        no(found, "/spec/template", "a WorkloadGroup needs a template for its entries");
        return;
    };
    for (name, port) in &template.ports {
        if !(1..=65535).contains(port) {
            no(found, format!("/spec/template/ports/{name}"), format!("{port} is not a port"));
        }
    }
    let Some(probe) = &spec.probe else { return };
    for (field, value) in [
        ("initialDelaySeconds", probe.initial_delay_seconds),
        ("timeoutSeconds", probe.timeout_seconds),
        ("periodSeconds", probe.period_seconds),
        ("successThreshold", probe.success_threshold),
        ("failureThreshold", probe.failure_threshold),
    ] {
        if value < 0 {
            no(found, format!("/spec/probe/{field}"), "this cannot be negative");
        }
    }
    let methods = [&probe.http_get, &probe.tcp_socket, &probe.exec, &probe.grpc];
    if methods.iter().filter(|m| m.is_some()).count() != 1 {
        no(found, "/spec/probe", "a probe has one of httpGet, tcpSocket, exec and grpc");
    }
    for (field, method) in [("httpGet", &probe.http_get), ("tcpSocket", &probe.tcp_socket), ("grpc", &probe.grpc)] {
        let port = method.as_ref().map(|m| m["port"].as_u64().unwrap_or(0));
        if port.is_some_and(|p| !(1..=65535).contains(&p)) {
            no(found, format!("/spec/probe/{field}/port"), "a port lies between 1 and 65535");
        }
    }
    let empty = |exec: &Value| exec["command"].as_array().is_none_or(Vec::is_empty);
    if probe.exec.as_ref().is_some_and(empty) {
        no(found, "/spec/probe/exec/command", "a command is needed");
    }
}
