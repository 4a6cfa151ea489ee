//! What a single resource must fulfil, as Istio's validation has it.

mod destination_rule;
pub(crate) mod edge;
pub(crate) mod extensions;
mod field;
mod mesh;
mod providers;
mod security;
mod server_tls;
mod service_entry;
mod sidecar;
mod virtual_service;

use crate::object::Resource;
use crate::security::{AuthorizationPolicy, PeerAuthentication};

pub(crate) use mesh::proxy_settings;

/// A mistake at a JSON pointer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldError {
    /// Where, such as `/spec/http/0/route/1/weight`.
    pub pointer: String,
    /// What is wrong, and what to do.
    pub message: String,
}

impl FieldError {
    /// A mistake.
    pub fn new(pointer: &str, message: impl Into<String>) -> Self {
        Self { pointer: pointer.to_owned(), message: message.into() }
    }
}

/// All mistakes of a resource.
pub fn resource(resource: &Resource) -> Vec<FieldError> {
    let mut found = Vec::new();
    match resource {
        Resource::VirtualService(o) => virtual_service::virtual_service(&o.spec, &mut found),
        Resource::DestinationRule(o) => destination_rule::destination_rule(&o.spec, &mut found),
        Resource::PeerAuthentication(o) => {
            security::selector(o.spec.selector.as_ref(), &mut found);
            peer_authentication(&o.spec, &mut found);
        }
        Resource::AuthorizationPolicy(o) => {
            security::authorization(&o.spec, &mut found);
            authorization_policy(&o.spec, &mut found);
        }
        Resource::RequestAuthentication(o) => security::request_authentication(&o.spec, &mut found),
        Resource::Telemetry(o) => extensions::telemetry(&o.spec, &mut found),
        Resource::ServiceEntry(o) => service_entry::service_entry(&o.spec, &mut found),
        Resource::WorkloadEntry(o) => service_entry::entry(&o.spec, "/spec", &mut found),
        Resource::WorkloadGroup(o) => {
            edge::workload_group(&o.spec, &mut found);
            service_entry::group(&o.spec, &mut found);
        }
        Resource::Sidecar(o) => sidecar::sidecar(&o.spec, &mut found),
        Resource::ProxyConfig(o) => {
            extensions::proxy_config(&o.spec, &mut found);
            mesh::proxy_config(&o.spec, &mut found);
        }
        Resource::MeshConfig(o) => mesh::mesh_config(&o.spec, &mut found),
        _ => {}
    }
    found
}

fn peer_authentication(spec: &PeerAuthentication, found: &mut Vec<FieldError>) {
    let mut check = |mode: Option<&String>, at: String| {
        if let Some(mode) = mode.filter(|m| !["UNSET", "DISABLE", "PERMISSIVE", "STRICT"].contains(&m.as_str())) {
            found.push(FieldError {
                pointer: at,
                message: format!("unknown mode \"{mode}\"; use STRICT, PERMISSIVE, DISABLE or UNSET"),
            });
        }
    };
    check(spec.mtls.as_ref().and_then(|m| m.mode.as_ref()), "/spec/mtls/mode".to_owned());
    for (port, mtls) in &spec.port_level_mtls {
        check(mtls.mode.as_ref(), format!("/spec/portLevelMtls/{port}/mode"));
    }
    for port in spec.port_level_mtls.keys().filter(|p| p.parse::<u16>().map_or(true, |p| p == 0)) {
        let at = format!("/spec/portLevelMtls/{port}");
        found.push(FieldError { pointer: at, message: format!("\"{port}\" is not a port") });
    }
    if !spec.port_level_mtls.is_empty() && spec.selector.as_ref().is_none_or(|s| s.match_labels.is_empty()) {
        found.push(FieldError::new("/spec/portLevelMtls", "portLevelMtls needs a selector"));
    }
}

fn authorization_policy(spec: &AuthorizationPolicy, found: &mut Vec<FieldError>) {
    if let Some(action) = spec.action.as_ref().filter(|a| !["ALLOW", "DENY", "AUDIT", "CUSTOM"].contains(&a.as_str())) {
        found.push(FieldError::new(
            "/spec/action",
            format!("unknown action \"{action}\"; use ALLOW, DENY, AUDIT or CUSTOM"),
        ));
    }
    if spec.action.as_deref() == Some("DENY") && spec.rules.is_empty() {
        found.push(FieldError::new(
            "/spec/rules",
            "a DENY policy without rules matches nothing; add a rule, or {} for all",
        ));
    }
    for (i, rule) in spec.rules.iter().enumerate() {
        for (j, to) in rule.to.iter().flatten().enumerate() {
            let Some(operation) = &to.operation else { continue };
            for port in
                operation.ports.iter().chain(&operation.not_ports).filter(|p| p.parse::<u16>().map_or(true, |p| p == 0))
            {
                let at = format!("/spec/rules/{i}/to/{j}/operation/ports");
                found.push(FieldError { pointer: at, message: format!("\"{port}\" is not a port") });
            }
        }
        for (j, when) in rule.when.iter().flatten().enumerate() {
            if when.values.is_empty() && when.not_values.is_empty() {
                let at = format!("/spec/rules/{i}/when/{j}");
                found.push(FieldError::new(&at, "a condition needs values or notValues"));
            }
        }
    }
}
