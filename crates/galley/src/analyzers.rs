//! The analyzers, one module a subject. Names are Istio's; those that Istio does not have say so.

mod annotation_table;
mod annotations;
mod control_plane;
mod destination_rule;
mod envoy_filter;
mod gateway;
mod image;
mod injection;
mod policy;
mod schema;
mod secret;
mod selectors;
mod service;
mod service_entry;
mod unreachable;
mod virtual_service;
mod webhook;

use crate::message::Message;
use crate::world::World;

/// One analyzer.
pub(crate) struct Analyzer {
    /// Istio's name for it.
    pub name: &'static str,
    /// What it looks for.
    pub about: &'static str,
    /// Finds it.
    pub run: fn(&World<'_>) -> Vec<Message>,
}

/// All analyzers.
pub(crate) const ALL: &[Analyzer] = &[
    Analyzer {
        name: "schema.ValidationAnalyzer",
        about: "unknown fields, wrong types and values",
        run: schema::fields,
    },
    Analyzer { name: "schema.WarningAnalyzer", about: "values that are allowed and surprising", run: schema::warnings },
    Analyzer { name: "deprecation.FieldAnalyzer", about: "deprecated fields", run: schema::deprecated },
    Analyzer {
        name: "virtualservice.DestinationHostAnalyzer",
        about: "destinations that do not exist",
        run: virtual_service::destinations,
    },
    Analyzer {
        name: "virtualservice.DestinationRuleAnalyzer",
        about: "subsets that no DestinationRule defines",
        run: virtual_service::subsets,
    },
    Analyzer {
        name: "virtualservice.ConflictingMeshGatewayHostsAnalyzer",
        about: "hosts that several VirtualServices claim",
        run: virtual_service::conflicts,
    },
    Analyzer {
        name: "virtualservice.GatewayAnalyzer",
        about: "gateways that do not exist or do not serve the hosts",
        run: virtual_service::gateways,
    },
    Analyzer {
        name: "virtualservice.JWTClaimRouteAnalyzer",
        about: "routing by claims that nobody verifies",
        run: virtual_service::claims,
    },
    Analyzer {
        name: "destinationrule.PodNotSelectedAnalyzer",
        about: "unknown hosts and empty subsets",
        run: destination_rule::selection,
    },
    Analyzer {
        name: "destinationrule.CaCertificateAnalyzer",
        about: "TLS to servers that are not verified",
        run: destination_rule::certificates,
    },
    Analyzer {
        name: "service.PortNameAnalyzer",
        about: "ports whose protocol is not declared",
        run: service::port_names,
    },
    Analyzer {
        name: "deployment.ServiceAssociationAnalyzer",
        about: "Deployments behind contradicting Services",
        run: service::associations,
    },
    Analyzer {
        name: "deployment.ApplicationUIDAnalyzer",
        about: "applications that run as the sidecar's user",
        run: service::application_uid,
    },
    Analyzer {
        name: "serviceentry.ProtocolAddressesAnalyzer",
        about: "TCP ServiceEntries without addresses",
        run: service_entry::addresses,
    },
    Analyzer {
        name: "serviceentry.ConflictingServiceEntryProtocolAnalyzer",
        about: "one port with several protocols",
        run: service_entry::conflicts,
    },
    Analyzer { name: "injection.Analyzer", about: "namespaces and pods without sidecar", run: injection::sidecars },
    Analyzer {
        name: "authz.AuthorizationPoliciesAnalyzer",
        about: "policies that select nothing or name unknown namespaces",
        run: policy::authorization,
    },
    Analyzer {
        name: "authn.SelectorAnalyzer",
        about: "authentication that selects nothing (not in Istio)",
        run: policy::authentication,
    },
    Analyzer {
        name: "authn.StrictAnalyzer",
        about: "STRICT mTLS that locks out workloads without sidecar (not in Istio)",
        run: policy::strict,
    },
    Analyzer {
        name: "sidecar.SelectorAnalyzer",
        about: "Sidecars that contradict each other",
        run: selectors::sidecars,
    },
    Analyzer {
        name: "telemetry.SelectorAnalyzer",
        about: "Telemetries that select the same pods, or none",
        run: selectors::telemetry,
    },
    Analyzer {
        name: "telemetry.DefaultSelectorAnalyzer",
        about: "several Telemetries for a whole namespace",
        run: selectors::telemetry_defaults,
    },
    Analyzer {
        name: "gateway.ConflictingGatewayAnalyzer",
        about: "gateways that claim the same host and port",
        run: gateway::conflicts,
    },
    Analyzer {
        name: "gateway.CertificateAnalyzer",
        about: "one certificate in several gateways",
        run: gateway::certificates,
    },
    Analyzer {
        name: "gateway.IngressGatewayPortAnalyzer",
        about: "gateway ports that no Service has",
        run: gateway::ports,
    },
    Analyzer { name: "envoyfilter.EnvoyPatchAnalyzer", about: "fragile patches", run: envoy_filter::patches },
    Analyzer {
        name: "annotations.K8sAnalyzer",
        about: "annotations of Istio that are unknown, misplaced, malformed or deprecated",
        run: annotations::check,
    },
    Analyzer {
        name: "virtualservice.UnreachableRuleAnalyzer",
        about: "rules that no request can reach",
        run: unreachable::rules,
    },
    Analyzer {
        name: "externalcontrolplane.ExternalControlPlaneAnalyzer",
        about: "webhooks of an external control plane without address",
        run: webhook::external,
    },
    Analyzer { name: "webhook.Analyzer", about: "injectors that overlap or do not exist", run: webhook::injection },
    Analyzer {
        name: "gateway.SecretAnalyzer",
        about: "credentials that do not exist or cannot be served",
        run: secret::credentials,
    },
    Analyzer {
        name: "injection.ImageAnalyzer",
        about: "sidecars of another version than the injector's",
        run: image::mismatch,
    },
    Analyzer {
        name: "injection.ImageAutoAnalyzer",
        about: "the image \"auto\" where nobody replaces it",
        run: image::auto,
    },
    Analyzer {
        name: "multicluster.MeshNetworksAnalyzer",
        about: "networks of clusters that nobody knows",
        run: secret::networks,
    },
    Analyzer {
        name: "authn.BlockedCIDRsAnalyzer",
        about: "istiods that fetch keys from anywhere",
        run: control_plane::blocked_ranges,
    },
    Analyzer {
        name: "telemetry.ProviderAnalyzer",
        about: "access logs without a provider",
        run: control_plane::providers,
    },
    Analyzer {
        name: "telemetry.LightstepAnalyzer",
        about: "tracing by a provider that is gone",
        run: control_plane::lightstep,
    },
    Analyzer {
        name: "k8sgateway.SelectorAnalyzer",
        about: "selectors that do not reach gateways of the Gateway API",
        run: control_plane::gateway_selectors,
    },
    Analyzer {
        name: "conditions.ConditionAnalyzer",
        about: "objects whose status says that they are not in force",
        run: control_plane::conditions,
    },
];

/// Analyzers that run only when they are named: what they say is not about mistakes.
pub(crate) const ON_DEMAND: &[Analyzer] =
    &[Analyzer { name: "maturity.AlphaAnalyzer", about: "annotations that may still change", run: annotations::alpha }];

/// Names under which `istioctl analyze --list-analyzers` knows some of them, and ours.
const ALSO: [(&str, &str); 8] = [
    ("annotations.AlphaAnalyzer", "maturity.AlphaAnalyzer"),
    ("applicationUID.Analyzer", "deployment.ApplicationUIDAnalyzer"),
    ("auth.AuthorizationPoliciesAnalyzer", "authz.AuthorizationPoliciesAnalyzer"),
    ("deployment.MultiServiceAnalyzer", "deployment.ServiceAssociationAnalyzer"),
    ("deprecation.DeprecationAnalyzer", "deprecation.FieldAnalyzer"),
    ("destinationrule.SubsetSelectPodAnalyzer", "destinationrule.PodNotSelectedAnalyzer"),
    ("meshnetworks.MeshNetworksAnalyzer", "multicluster.MeshNetworksAnalyzer"),
    ("serviceentry.Analyzer", "serviceentry.ProtocolAddressesAnalyzer"),
];

/// The analyzer of a name. One for a single kind, `schema.ValidationAnalyzer.KIND`, is the one for all.
pub(crate) fn find(name: &str) -> Option<&'static Analyzer> {
    let name = ALSO.iter().find(|(also, _)| *also == name).map_or(name, |(_, ours)| ours);
    let name = if name.starts_with("schema.ValidationAnalyzer.") { "schema.ValidationAnalyzer" } else { name };
    ALL.iter().chain(ON_DEMAND).find(|a| a.name == name)
}
