//! What analyzers say: a code, how bad it is, about which object, and where.

use std::fmt;

use istio_api::Origin;

/// How bad a finding is. The order is by gravity.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// Good to know.
    Info,
    /// Probably not what was meant.
    Warning,
    /// Does not work.
    Error,
}

impl fmt::Display for Level {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Info => "Info",
            Self::Warning => "Warning",
            Self::Error => "Error",
        })
    }
}

/// A kind of finding: Istio's code, name and level.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Code {
    /// Such as `IST0101`.
    pub code: &'static str,
    /// Such as `ReferencedResourceNotFound`.
    pub name: &'static str,
    /// How bad.
    pub level: Level,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Message {
    /// What kind of finding.
    pub code: Code,
    /// `Kind namespace/name`, or `Kind name` where there is no namespace.
    pub resource: String,
    /// Namespace of the object; empty for cluster-wide ones.
    pub namespace: String,
    /// What is wrong and what to do.
    pub text: String,
    /// Where it stands.
    pub origin: Option<Origin>,
}

impl Message {
    /// Whether it says that a file could not be read at all.
    pub fn is_unreadable_file(&self) -> bool {
        self.code == codes::SCHEMA_VALIDATION_ERROR && self.resource.starts_with("File ")
    }
}

impl fmt::Display for Message {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} [{}] ({}", self.code.level, self.code.code, self.resource)?;
        if let Some(origin) = &self.origin {
            write!(f, " {}:{}", origin.file.display(), origin.line)?;
        }
        write!(f, ") {}", self.text)
    }
}

/// Every code, as Istio numbers them. The last is ours.
pub mod codes {
    use super::{Code, Level};

    #[doc = "InternalError"]
    pub const INTERNAL_ERROR: Code = Code { code: "IST0001", name: "InternalError", level: Level::Error };
    #[doc = "Deprecated"]
    pub const DEPRECATED: Code = Code { code: "IST0002", name: "Deprecated", level: Level::Warning };
    #[doc = "ReferencedResourceNotFound"]
    pub const REFERENCED_RESOURCE_NOT_FOUND: Code =
        Code { code: "IST0101", name: "ReferencedResourceNotFound", level: Level::Error };
    #[doc = "NamespaceNotInjected"]
    pub const NAMESPACE_NOT_INJECTED: Code = Code { code: "IST0102", name: "NamespaceNotInjected", level: Level::Info };
    #[doc = "PodMissingProxy"]
    pub const POD_MISSING_PROXY: Code = Code { code: "IST0103", name: "PodMissingProxy", level: Level::Warning };
    #[doc = "SchemaValidationError"]
    pub const SCHEMA_VALIDATION_ERROR: Code =
        Code { code: "IST0106", name: "SchemaValidationError", level: Level::Error };
    #[doc = "MisplacedAnnotation"]
    pub const MISPLACED_ANNOTATION: Code = Code { code: "IST0107", name: "MisplacedAnnotation", level: Level::Warning };
    #[doc = "UnknownAnnotation"]
    pub const UNKNOWN_ANNOTATION: Code = Code { code: "IST0108", name: "UnknownAnnotation", level: Level::Warning };
    #[doc = "ConflictingMeshGatewayVirtualServiceHosts"]
    pub const CONFLICTING_MESH_GATEWAY_VIRTUAL_SERVICE_HOSTS: Code =
        Code { code: "IST0109", name: "ConflictingMeshGatewayVirtualServiceHosts", level: Level::Error };
    #[doc = "ConflictingSidecarWorkloadSelectors"]
    pub const CONFLICTING_SIDECAR_WORKLOAD_SELECTORS: Code =
        Code { code: "IST0110", name: "ConflictingSidecarWorkloadSelectors", level: Level::Error };
    #[doc = "MultipleSidecarsWithoutWorkloadSelectors"]
    pub const MULTIPLE_SIDECARS_WITHOUT_WORKLOAD_SELECTORS: Code =
        Code { code: "IST0111", name: "MultipleSidecarsWithoutWorkloadSelectors", level: Level::Error };
    #[doc = "VirtualServiceDestinationPortSelectorRequired"]
    pub const VIRTUAL_SERVICE_DESTINATION_PORT_SELECTOR_REQUIRED: Code =
        Code { code: "IST0112", name: "VirtualServiceDestinationPortSelectorRequired", level: Level::Error };
    #[doc = "DeploymentAssociatedToMultipleServices"]
    pub const DEPLOYMENT_ASSOCIATED_TO_MULTIPLE_SERVICES: Code =
        Code { code: "IST0116", name: "DeploymentAssociatedToMultipleServices", level: Level::Warning };
    #[doc = "PortNameIsNotUnderNamingConvention"]
    pub const PORT_NAME_IS_NOT_UNDER_NAMING_CONVENTION: Code =
        Code { code: "IST0118", name: "PortNameIsNotUnderNamingConvention", level: Level::Info };
    #[doc = "NamespaceMultipleInjectionLabels"]
    pub const NAMESPACE_MULTIPLE_INJECTION_LABELS: Code =
        Code { code: "IST0123", name: "NamespaceMultipleInjectionLabels", level: Level::Warning };
    #[doc = "InvalidAnnotation"]
    pub const INVALID_ANNOTATION: Code = Code { code: "IST0125", name: "InvalidAnnotation", level: Level::Warning };
    #[doc = "UnknownMeshNetworksServiceRegistry"]
    pub const UNKNOWN_MESH_NETWORKS_SERVICE_REGISTRY: Code =
        Code { code: "IST0126", name: "UnknownMeshNetworksServiceRegistry", level: Level::Error };
    #[doc = "NoMatchingWorkloadsFound"]
    pub const NO_MATCHING_WORKLOADS_FOUND: Code =
        Code { code: "IST0127", name: "NoMatchingWorkloadsFound", level: Level::Warning };
    #[doc = "NoServerCertificateVerificationDestinationLevel"]
    pub const NO_SERVER_CERTIFICATE_VERIFICATION_DESTINATION_LEVEL: Code =
        Code { code: "IST0128", name: "NoServerCertificateVerificationDestinationLevel", level: Level::Warning };
    #[doc = "NoServerCertificateVerificationPortLevel"]
    pub const NO_SERVER_CERTIFICATE_VERIFICATION_PORT_LEVEL: Code =
        Code { code: "IST0129", name: "NoServerCertificateVerificationPortLevel", level: Level::Warning };
    #[doc = "VirtualServiceUnreachableRule"]
    pub const VIRTUAL_SERVICE_UNREACHABLE_RULE: Code =
        Code { code: "IST0130", name: "VirtualServiceUnreachableRule", level: Level::Warning };
    #[doc = "VirtualServiceIneffectiveMatch"]
    pub const VIRTUAL_SERVICE_INEFFECTIVE_MATCH: Code =
        Code { code: "IST0131", name: "VirtualServiceIneffectiveMatch", level: Level::Info };
    #[doc = "VirtualServiceHostNotFoundInGateway"]
    pub const VIRTUAL_SERVICE_HOST_NOT_FOUND_IN_GATEWAY: Code =
        Code { code: "IST0132", name: "VirtualServiceHostNotFoundInGateway", level: Level::Warning };
    #[doc = "SchemaWarning"]
    pub const SCHEMA_WARNING: Code = Code { code: "IST0133", name: "SchemaWarning", level: Level::Warning };
    #[doc = "ServiceEntryAddressesRequired"]
    pub const SERVICE_ENTRY_ADDRESSES_REQUIRED: Code =
        Code { code: "IST0134", name: "ServiceEntryAddressesRequired", level: Level::Warning };
    #[doc = "DeprecatedAnnotation"]
    pub const DEPRECATED_ANNOTATION: Code = Code { code: "IST0135", name: "DeprecatedAnnotation", level: Level::Info };
    #[doc = "AlphaAnnotation"]
    pub const ALPHA_ANNOTATION: Code = Code { code: "IST0136", name: "AlphaAnnotation", level: Level::Info };
    #[doc = "DeploymentConflictingPorts"]
    pub const DEPLOYMENT_CONFLICTING_PORTS: Code =
        Code { code: "IST0137", name: "DeploymentConflictingPorts", level: Level::Warning };
    #[doc = "GatewayDuplicateCertificate"]
    pub const GATEWAY_DUPLICATE_CERTIFICATE: Code =
        Code { code: "IST0138", name: "GatewayDuplicateCertificate", level: Level::Warning };
    #[doc = "InvalidWebhook"]
    pub const INVALID_WEBHOOK: Code = Code { code: "IST0139", name: "InvalidWebhook", level: Level::Error };
    #[doc = "IngressRouteRulesNotAffected"]
    pub const INGRESS_ROUTE_RULES_NOT_AFFECTED: Code =
        Code { code: "IST0140", name: "IngressRouteRulesNotAffected", level: Level::Warning };
    #[doc = "InsufficientPermissions"]
    pub const INSUFFICIENT_PERMISSIONS: Code =
        Code { code: "IST0141", name: "InsufficientPermissions", level: Level::Error };
    #[doc = "UnsupportedKubernetesVersion"]
    pub const UNSUPPORTED_KUBERNETES_VERSION: Code =
        Code { code: "IST0142", name: "UnsupportedKubernetesVersion", level: Level::Error };
    #[doc = "LocalhostListener"]
    pub const LOCALHOST_LISTENER: Code = Code { code: "IST0143", name: "LocalhostListener", level: Level::Error };
    #[doc = "InvalidApplicationUID"]
    pub const INVALID_APPLICATION_UID: Code =
        Code { code: "IST0144", name: "InvalidApplicationUID", level: Level::Warning };
    #[doc = "ConflictingGateways"]
    pub const CONFLICTING_GATEWAYS: Code = Code { code: "IST0145", name: "ConflictingGateways", level: Level::Error };
    #[doc = "ImageAutoWithoutInjectionWarning"]
    pub const IMAGE_AUTO_WITHOUT_INJECTION_WARNING: Code =
        Code { code: "IST0146", name: "ImageAutoWithoutInjectionWarning", level: Level::Warning };
    #[doc = "ImageAutoWithoutInjectionError"]
    pub const IMAGE_AUTO_WITHOUT_INJECTION_ERROR: Code =
        Code { code: "IST0147", name: "ImageAutoWithoutInjectionError", level: Level::Error };
    #[doc = "NamespaceInjectionEnabledByDefault"]
    pub const NAMESPACE_INJECTION_ENABLED_BY_DEFAULT: Code =
        Code { code: "IST0148", name: "NamespaceInjectionEnabledByDefault", level: Level::Info };
    #[doc = "JwtClaimBasedRoutingWithoutRequestAuthN"]
    pub const JWT_CLAIM_BASED_ROUTING_WITHOUT_REQUEST_AUTH_N: Code =
        Code { code: "IST0149", name: "JwtClaimBasedRoutingWithoutRequestAuthN", level: Level::Error };
    #[doc = "ExternalNameServiceTypeInvalidPortName"]
    pub const EXTERNAL_NAME_SERVICE_TYPE_INVALID_PORT_NAME: Code =
        Code { code: "IST0150", name: "ExternalNameServiceTypeInvalidPortName", level: Level::Warning };
    #[doc = "EnvoyFilterUsesRelativeOperation"]
    pub const ENVOY_FILTER_USES_RELATIVE_OPERATION: Code =
        Code { code: "IST0151", name: "EnvoyFilterUsesRelativeOperation", level: Level::Warning };
    #[doc = "EnvoyFilterUsesReplaceOperationIncorrectly"]
    pub const ENVOY_FILTER_USES_REPLACE_OPERATION_INCORRECTLY: Code =
        Code { code: "IST0152", name: "EnvoyFilterUsesReplaceOperationIncorrectly", level: Level::Error };
    #[doc = "EnvoyFilterUsesAddOperationIncorrectly"]
    pub const ENVOY_FILTER_USES_ADD_OPERATION_INCORRECTLY: Code =
        Code { code: "IST0153", name: "EnvoyFilterUsesAddOperationIncorrectly", level: Level::Error };
    #[doc = "EnvoyFilterUsesRemoveOperationIncorrectly"]
    pub const ENVOY_FILTER_USES_REMOVE_OPERATION_INCORRECTLY: Code =
        Code { code: "IST0154", name: "EnvoyFilterUsesRemoveOperationIncorrectly", level: Level::Error };
    #[doc = "EnvoyFilterUsesRelativeOperationWithProxyVersion"]
    pub const ENVOY_FILTER_USES_RELATIVE_OPERATION_WITH_PROXY_VERSION: Code =
        Code { code: "IST0155", name: "EnvoyFilterUsesRelativeOperationWithProxyVersion", level: Level::Warning };
    #[doc = "UnsupportedGatewayAPIVersion"]
    pub const UNSUPPORTED_GATEWAY_API_VERSION: Code =
        Code { code: "IST0156", name: "UnsupportedGatewayAPIVersion", level: Level::Error };
    #[doc = "FutureUnsupportedGatewayAPIVersion"]
    pub const FUTURE_UNSUPPORTED_GATEWAY_API_VERSION: Code =
        Code { code: "IST0172", name: "FutureUnsupportedGatewayAPIVersion", level: Level::Warning };
    #[doc = "InvalidTelemetryProvider"]
    pub const INVALID_TELEMETRY_PROVIDER: Code =
        Code { code: "IST0157", name: "InvalidTelemetryProvider", level: Level::Warning };
    #[doc = "PodsIstioProxyImageMismatchInNamespace"]
    pub const PODS_ISTIO_PROXY_IMAGE_MISMATCH_IN_NAMESPACE: Code =
        Code { code: "IST0158", name: "PodsIstioProxyImageMismatchInNamespace", level: Level::Warning };
    #[doc = "ConflictingTelemetryWorkloadSelectors"]
    pub const CONFLICTING_TELEMETRY_WORKLOAD_SELECTORS: Code =
        Code { code: "IST0159", name: "ConflictingTelemetryWorkloadSelectors", level: Level::Error };
    #[doc = "MultipleTelemetriesWithoutWorkloadSelectors"]
    pub const MULTIPLE_TELEMETRIES_WITHOUT_WORKLOAD_SELECTORS: Code =
        Code { code: "IST0160", name: "MultipleTelemetriesWithoutWorkloadSelectors", level: Level::Error };
    #[doc = "InvalidGatewayCredential"]
    pub const INVALID_GATEWAY_CREDENTIAL: Code =
        Code { code: "IST0161", name: "InvalidGatewayCredential", level: Level::Error };
    #[doc = "GatewayPortNotDefinedOnService"]
    pub const GATEWAY_PORT_NOT_DEFINED_ON_SERVICE: Code =
        Code { code: "IST0162", name: "GatewayPortNotDefinedOnService", level: Level::Warning };
    #[doc = "InvalidExternalControlPlaneConfig"]
    pub const INVALID_EXTERNAL_CONTROL_PLANE_CONFIG: Code =
        Code { code: "IST0163", name: "InvalidExternalControlPlaneConfig", level: Level::Warning };
    #[doc = "ExternalControlPlaneAddressIsNotAHostname"]
    pub const EXTERNAL_CONTROL_PLANE_ADDRESS_IS_NOT_A_HOSTNAME: Code =
        Code { code: "IST0164", name: "ExternalControlPlaneAddressIsNotAHostname", level: Level::Info };
    #[doc = "ReferencedInternalGateway"]
    pub const REFERENCED_INTERNAL_GATEWAY: Code =
        Code { code: "IST0165", name: "ReferencedInternalGateway", level: Level::Warning };
    #[doc = "IneffectiveSelector"]
    pub const INEFFECTIVE_SELECTOR: Code = Code { code: "IST0166", name: "IneffectiveSelector", level: Level::Warning };
    #[doc = "IneffectivePolicy"]
    pub const INEFFECTIVE_POLICY: Code = Code { code: "IST0167", name: "IneffectivePolicy", level: Level::Warning };
    #[doc = "UnknownUpgradeCompatibility"]
    pub const UNKNOWN_UPGRADE_COMPATIBILITY: Code =
        Code { code: "IST0168", name: "UnknownUpgradeCompatibility", level: Level::Warning };
    #[doc = "UpdateIncompatibility"]
    pub const UPDATE_INCOMPATIBILITY: Code =
        Code { code: "IST0169", name: "UpdateIncompatibility", level: Level::Warning };
    #[doc = "MultiClusterInconsistentService"]
    pub const MULTI_CLUSTER_INCONSISTENT_SERVICE: Code =
        Code { code: "IST0170", name: "MultiClusterInconsistentService", level: Level::Warning };
    #[doc = "NegativeConditionStatus"]
    pub const NEGATIVE_CONDITION_STATUS: Code =
        Code { code: "IST0171", name: "NegativeConditionStatus", level: Level::Warning };
    #[doc = "DestinationRuleSubsetNotSelectPods"]
    pub const DESTINATION_RULE_SUBSET_NOT_SELECT_PODS: Code =
        Code { code: "IST0173", name: "DestinationRuleSubsetNotSelectPods", level: Level::Error };
    #[doc = "UnknownDestinationRuleHost"]
    pub const UNKNOWN_DESTINATION_RULE_HOST: Code =
        Code { code: "IST0174", name: "UnknownDestinationRuleHost", level: Level::Warning };
    #[doc = "JwksUriFetchUnrestricted"]
    pub const JWKS_URI_FETCH_UNRESTRICTED: Code =
        Code { code: "IST0175", name: "JwksUriFetchUnrestricted", level: Level::Warning };
    #[doc = "GatewayAPICRDVersionBelowMinimum"]
    pub const GATEWAY_API_CRD_VERSION_BELOW_MINIMUM: Code =
        Code { code: "IST0176", name: "GatewayAPICRDVersionBelowMinimum", level: Level::Warning };
    #[doc = "ConflictingServiceEntryProtocol"]
    pub const CONFLICTING_SERVICE_ENTRY_PROTOCOL: Code =
        Code { code: "IST0177", name: "ConflictingServiceEntryProtocol", level: Level::Warning };
    #[doc = "StrictWithWorkloadsOutsideMesh"]
    pub const STRICT_WITH_WORKLOADS_OUTSIDE_MESH: Code =
        Code { code: "MEL0001", name: "StrictWithWorkloadsOutsideMesh", level: Level::Warning };

    /// All of them.
    pub const ALL: [Code; 69] = [
        INTERNAL_ERROR,
        DEPRECATED,
        REFERENCED_RESOURCE_NOT_FOUND,
        NAMESPACE_NOT_INJECTED,
        POD_MISSING_PROXY,
        SCHEMA_VALIDATION_ERROR,
        MISPLACED_ANNOTATION,
        UNKNOWN_ANNOTATION,
        CONFLICTING_MESH_GATEWAY_VIRTUAL_SERVICE_HOSTS,
        CONFLICTING_SIDECAR_WORKLOAD_SELECTORS,
        MULTIPLE_SIDECARS_WITHOUT_WORKLOAD_SELECTORS,
        VIRTUAL_SERVICE_DESTINATION_PORT_SELECTOR_REQUIRED,
        DEPLOYMENT_ASSOCIATED_TO_MULTIPLE_SERVICES,
        PORT_NAME_IS_NOT_UNDER_NAMING_CONVENTION,
        NAMESPACE_MULTIPLE_INJECTION_LABELS,
        INVALID_ANNOTATION,
        UNKNOWN_MESH_NETWORKS_SERVICE_REGISTRY,
        NO_MATCHING_WORKLOADS_FOUND,
        NO_SERVER_CERTIFICATE_VERIFICATION_DESTINATION_LEVEL,
        NO_SERVER_CERTIFICATE_VERIFICATION_PORT_LEVEL,
        VIRTUAL_SERVICE_UNREACHABLE_RULE,
        VIRTUAL_SERVICE_INEFFECTIVE_MATCH,
        VIRTUAL_SERVICE_HOST_NOT_FOUND_IN_GATEWAY,
        SCHEMA_WARNING,
        SERVICE_ENTRY_ADDRESSES_REQUIRED,
        DEPRECATED_ANNOTATION,
        ALPHA_ANNOTATION,
        DEPLOYMENT_CONFLICTING_PORTS,
        GATEWAY_DUPLICATE_CERTIFICATE,
        INVALID_WEBHOOK,
        INGRESS_ROUTE_RULES_NOT_AFFECTED,
        INSUFFICIENT_PERMISSIONS,
        UNSUPPORTED_KUBERNETES_VERSION,
        LOCALHOST_LISTENER,
        INVALID_APPLICATION_UID,
        CONFLICTING_GATEWAYS,
        IMAGE_AUTO_WITHOUT_INJECTION_WARNING,
        IMAGE_AUTO_WITHOUT_INJECTION_ERROR,
        NAMESPACE_INJECTION_ENABLED_BY_DEFAULT,
        JWT_CLAIM_BASED_ROUTING_WITHOUT_REQUEST_AUTH_N,
        EXTERNAL_NAME_SERVICE_TYPE_INVALID_PORT_NAME,
        ENVOY_FILTER_USES_RELATIVE_OPERATION,
        ENVOY_FILTER_USES_REPLACE_OPERATION_INCORRECTLY,
        ENVOY_FILTER_USES_ADD_OPERATION_INCORRECTLY,
        ENVOY_FILTER_USES_REMOVE_OPERATION_INCORRECTLY,
        ENVOY_FILTER_USES_RELATIVE_OPERATION_WITH_PROXY_VERSION,
        UNSUPPORTED_GATEWAY_API_VERSION,
        FUTURE_UNSUPPORTED_GATEWAY_API_VERSION,
        INVALID_TELEMETRY_PROVIDER,
        PODS_ISTIO_PROXY_IMAGE_MISMATCH_IN_NAMESPACE,
        CONFLICTING_TELEMETRY_WORKLOAD_SELECTORS,
        MULTIPLE_TELEMETRIES_WITHOUT_WORKLOAD_SELECTORS,
        INVALID_GATEWAY_CREDENTIAL,
        GATEWAY_PORT_NOT_DEFINED_ON_SERVICE,
        INVALID_EXTERNAL_CONTROL_PLANE_CONFIG,
        EXTERNAL_CONTROL_PLANE_ADDRESS_IS_NOT_A_HOSTNAME,
        REFERENCED_INTERNAL_GATEWAY,
        INEFFECTIVE_SELECTOR,
        INEFFECTIVE_POLICY,
        UNKNOWN_UPGRADE_COMPATIBILITY,
        UPDATE_INCOMPATIBILITY,
        MULTI_CLUSTER_INCONSISTENT_SERVICE,
        NEGATIVE_CONDITION_STATUS,
        DESTINATION_RULE_SUBSET_NOT_SELECT_PODS,
        UNKNOWN_DESTINATION_RULE_HOST,
        JWKS_URI_FETCH_UNRESTRICTED,
        GATEWAY_API_CRD_VERSION_BELOW_MINIMUM,
        CONFLICTING_SERVICE_ENTRY_PROTOCOL,
        STRICT_WITH_WORKLOADS_OUTSIDE_MESH,
    ];
}
