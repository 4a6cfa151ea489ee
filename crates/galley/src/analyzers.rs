//! The analyzers, one module a subject. Names are Istio's; those that Istio does not have say so.

mod destination_rule;
mod envoy_filter;
mod gateway;
mod injection;
mod policy;
mod schema;
mod selectors;
mod service;
mod service_entry;
mod virtual_service;

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
];
