//! Istio's annotations: where each belongs, and how settled it is. Facts from Istio's annotation reference.

/// Kinds an annotation may stand on.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum On {
    /// Anything.
    Any,
    Pod,
    Service,
    Namespace,
    Ingress,
    /// A kind that the analyzers do not look at: Gateway, WorkloadEntry, policies.
    Other,
}

/// What a value must look like.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Shape {
    Text,
    Bool,
    Number,
    Port,
    Ports,
    Ranges,
    Mode,
    Yaml,
}

/// One annotation.
pub(super) struct Known {
    pub name: &'static str,
    pub on: On,
    pub alpha: bool,
    pub deprecated: bool,
    pub shape: Shape,
}

const fn alpha(name: &'static str, on: On, shape: Shape) -> Known {
    Known { name, on, alpha: true, deprecated: false, shape }
}

const fn settled(name: &'static str, on: On, shape: Shape) -> Known {
    Known { name, on, alpha: false, deprecated: false, shape }
}

const fn leaving(name: &'static str, on: On, shape: Shape) -> Known {
    Known { name, on, alpha: true, deprecated: true, shape }
}

/// Written by Istio's own parts, not by users.
pub(super) const OF_THE_SYSTEM: [&str; 8] = [
    "ambient.istio.io/redirection",
    "gateway.istio.io/controller-version",
    "install.operator.istio.io/chart-owner",
    "install.operator.istio.io/owner-generation",
    "istio.io/rev",
    "istio.io/tag",
    "istio.io/connected-at",
    "sidecar.istio.io/status",
];

/// The CNI writes these for pods it redirects.
pub(super) const OF_THE_CNI: [&str; 4] = [
    "sidecar.istio.io/interceptionMode",
    "traffic.sidecar.istio.io/excludeInboundPorts",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
];

/// All annotations that users may write.
pub(super) const ALL: &[Known] = &[
    alpha("ambient.istio.io/bypass-inbound-capture", On::Pod, Shape::Bool),
    settled("ambient.istio.io/dns-capture", On::Any, Shape::Bool),
    alpha("ambient.istio.io/waypoint-inbound-binding", On::Other, Shape::Text),
    alpha("ambient.istio.io/xfcc-include-client-identity", On::Other, Shape::Bool),
    alpha("galley.istio.io/analyze-suppress", On::Any, Shape::Text),
    alpha("gateway.istio.io/managed", On::Other, Shape::Text),
    alpha("gateway.istio.io/name-override", On::Other, Shape::Text),
    alpha("gateway.istio.io/service-account", On::Other, Shape::Text),
    alpha("inject.istio.io/templates", On::Pod, Shape::Text),
    alpha("istio.io/autoRegistrationGroup", On::Other, Shape::Text),
    alpha("istio.io/connect-strategy", On::Service, Shape::Text),
    alpha("istio.io/dry-run", On::Other, Shape::Bool),
    alpha("istio.io/ignore-policy-attachment", On::Other, Shape::Bool),
    alpha("istio.io/reroute-virtual-interfaces", On::Pod, Shape::Text),
    settled("kubernetes.io/ingress.class", On::Ingress, Shape::Text),
    alpha("networking.istio.io/address-type", On::Other, Shape::Text),
    alpha("networking.istio.io/exportTo", On::Service, Shape::Text),
    alpha("networking.istio.io/service-type", On::Other, Shape::Text),
    alpha("networking.istio.io/traffic-distribution", On::Service, Shape::Text),
    alpha("prometheus.istio.io/merge-metrics", On::Pod, Shape::Bool),
    alpha("prometheus.istio.io/scrape-targets", On::Pod, Shape::Text),
    settled("proxy.istio.io/config", On::Pod, Shape::Yaml),
    alpha("proxy.istio.io/overrides", On::Pod, Shape::Text),
    alpha("readiness.status.sidecar.istio.io/applicationPorts", On::Pod, Shape::Ports),
    alpha("readiness.status.sidecar.istio.io/failureThreshold", On::Pod, Shape::Number),
    alpha("readiness.status.sidecar.istio.io/initialDelaySeconds", On::Pod, Shape::Number),
    alpha("readiness.status.sidecar.istio.io/periodSeconds", On::Pod, Shape::Number),
    alpha("sidecar.istio.io/agentLogLevel", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/bootstrapOverride", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/capNetBindService", On::Pod, Shape::Bool),
    alpha("sidecar.istio.io/componentLogLevel", On::Pod, Shape::Text),
    leaving("sidecar.istio.io/controlPlaneAuthPolicy", On::Pod, Shape::Text),
    leaving("sidecar.istio.io/discoveryAddress", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/enableCoreDump", On::Pod, Shape::Bool),
    leaving("sidecar.istio.io/extraStatTags", On::Pod, Shape::Text),
    settled("sidecar.istio.io/inject", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/interceptionMode", On::Pod, Shape::Mode),
    alpha("sidecar.istio.io/logLevel", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/nativeSidecar", On::Pod, Shape::Bool),
    alpha("sidecar.istio.io/proxyCPU", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/proxyCPULimit", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/proxyImage", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/proxyImageType", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/proxyMemory", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/proxyMemoryLimit", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/rewriteAppHTTPProbers", On::Pod, Shape::Bool),
    leaving("sidecar.istio.io/statsCompression", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/statsEvictionInterval", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/statsFlushInterval", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/statsHistogramBins", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/statsHistogramBuckets", On::Pod, Shape::Text),
    leaving("sidecar.istio.io/statsInclusionPrefixes", On::Pod, Shape::Text),
    leaving("sidecar.istio.io/statsInclusionRegexps", On::Pod, Shape::Text),
    leaving("sidecar.istio.io/statsInclusionSuffixes", On::Pod, Shape::Text),
    alpha("sidecar.istio.io/userVolume", On::Pod, Shape::Yaml),
    alpha("sidecar.istio.io/userVolumeMount", On::Pod, Shape::Yaml),
    alpha("status.sidecar.istio.io/port", On::Pod, Shape::Port),
    alpha("topology.istio.io/controlPlaneClusters", On::Namespace, Shape::Text),
    alpha("traffic.istio.io/nodeSelector", On::Service, Shape::Yaml),
    alpha("traffic.sidecar.istio.io/excludeInboundPorts", On::Pod, Shape::Ports),
    alpha("traffic.sidecar.istio.io/excludeInterfaces", On::Pod, Shape::Text),
    alpha("traffic.sidecar.istio.io/excludeOutboundIPRanges", On::Pod, Shape::Ranges),
    alpha("traffic.sidecar.istio.io/excludeOutboundPorts", On::Pod, Shape::Ports),
    alpha("traffic.sidecar.istio.io/includeInboundPorts", On::Pod, Shape::Ports),
    alpha("traffic.sidecar.istio.io/includeOutboundIPRanges", On::Pod, Shape::Ranges),
    alpha("traffic.sidecar.istio.io/includeOutboundPorts", On::Pod, Shape::Ports),
    leaving("traffic.sidecar.istio.io/kubevirtInterfaces", On::Pod, Shape::Text),
];
