//! What users may write and this crate does not translate: it is refused where configuration is accepted, never ignored.

use std::borrow::Cow;

use istio_api::extensions::Telemetry;
use istio_api::networking::{Headers, HttpRoute, TrafficPolicy, VirtualService};
use istio_api::secret::secret_name;
use istio_api::security::{AuthorizationPolicy, RequestAuthentication};
use mesh::{MergedDestinationRule, Snapshot};
use telemetry::Template;

use crate::{authz, names_of_callers};

/// One field that would have no effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unsupported {
    /// Kind of the object.
    pub kind: &'static str,
    /// Its namespace.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// JSON pointer to the field, from the root of the object.
    pub pointer: String,
    /// What to do about it, for a person.
    pub reason: Cow<'static, str>,
}

/// Every used field of the snapshot that is not translated.
pub fn unsupported(snapshot: &Snapshot) -> Vec<Unsupported> {
    let mut all = Vec::new();
    for object in snapshot.virtual_services() {
        let mut list = List::new("VirtualService", &object.metadata.namespace, &object.metadata.name, &mut all);
        virtual_service(&object.spec, &mut list);
    }
    let names = names_of_callers::hosts(snapshot);
    for rule in snapshot.destination_rules() {
        let mut list = List::new("DestinationRule", &rule.namespace, &rule.name, &mut all);
        destination_rule(rule, names.contains(rule.host.as_str()), &mut list);
    }
    for object in snapshot.authorization_policies() {
        let mut list = List::new("AuthorizationPolicy", &object.metadata.namespace, &object.metadata.name, &mut all);
        authorization(&object.spec, &mut list);
    }
    for object in snapshot.request_authentications() {
        let mut list = List::new("RequestAuthentication", &object.metadata.namespace, &object.metadata.name, &mut all);
        request_authentication(&object.spec, &mut list);
    }
    for object in snapshot.telemetries() {
        let mut list = List::new("Telemetry", &object.metadata.namespace, &object.metadata.name, &mut all);
        telemetry(&object.spec, &mut list);
    }
    all
}

struct List<'a> {
    kind: &'static str,
    namespace: &'a str,
    name: &'a str,
    all: &'a mut Vec<Unsupported>,
}

impl<'a> List<'a> {
    fn new(kind: &'static str, namespace: &'a str, name: &'a str, all: &'a mut Vec<Unsupported>) -> Self {
        Self { kind, namespace, name, all }
    }

    fn when(&mut self, used: bool, pointer: impl FnOnce() -> String, reason: &'static str) {
        if used {
            self.refuse(pointer(), reason);
        }
    }

    fn refuse(&mut self, pointer: String, reason: impl Into<Cow<'static, str>>) {
        self.all.push(Unsupported {
            kind: self.kind,
            namespace: self.namespace.to_owned(),
            name: self.name.to_owned(),
            pointer,
            reason: reason.into(),
        });
    }
}

fn virtual_service(spec: &VirtualService, list: &mut List<'_>) {
    let gateway = spec.gateways.iter().any(|gateway| gateway != "mesh");
    list.when(gateway, || "/spec/gateways".to_owned(), "gateways are not built; only \"mesh\" is served");
    for (index, http) in spec.http.iter().enumerate() {
        http_route(http, &format!("/spec/http/{index}"), list);
    }
}

fn http_route(http: &HttpRoute, at: &str, list: &mut List<'_>) {
    if let Some(fault) = &http.fault {
        let exponential = fault.delay.as_ref().is_some_and(|delay| delay.exponential_delay.is_some());
        let reason = "Istio has no such delay either; use fixedDelay";
        list.when(exponential, || format!("{at}/fault/delay/exponentialDelay"), reason);
        let http2 = fault.abort.as_ref().is_some_and(|abort| abort.http2_error.is_some());
        let reason = "Istio has no such abort either; use httpStatus or grpcStatus";
        list.when(http2, || format!("{at}/fault/abort/http2Error"), reason);
    }
    for (index, wanted) in http.r#match.iter().enumerate() {
        for (field, names) in [("headers", &wanted.headers), ("withoutHeaders", &wanted.without_headers)] {
            for name in names.keys().filter(|name| name.starts_with('@')) {
                let pointer = || format!("{at}/match/{index}/{field}/{name}");
                list.when(true, pointer, "claims of tokens choose routes at gateways only");
            }
        }
    }
    header_values(http.headers.as_ref(), at, list);
    for (index, route) in http.route.iter().enumerate() {
        header_values(route.headers.as_ref(), &format!("{at}/route/{index}"), list);
    }
}

/// Operators in header values are those that the data plane knows; Envoy replaces none in an authority.
fn header_values(headers: Option<&Headers>, at: &str, list: &mut List<'_>) {
    let Some(headers) = headers else { return };
    for (side, operations) in [("request", &headers.request), ("response", &headers.response)] {
        let Some(operations) = operations else { continue };
        for (kind, values) in [("set", &operations.set), ("add", &operations.add)] {
            for (name, value) in values {
                let pointer = || format!("{at}/headers/{side}/{kind}/{name}");
                let authority = name.starts_with(':') || name.eq_ignore_ascii_case("host");
                if authority {
                    list.when(value.contains('%'), pointer, "an authority has no operators and no percent sign");
                } else if let Err(error) = Template::new(value) {
                    list.refuse(pointer(), format!("{error}; write %% for a percent sign"));
                }
            }
        }
    }
}

/// What a DestinationRule is for.
#[derive(Clone, Copy)]
struct For {
    /// Clients that a selector names.
    selected: bool,
    /// Hosts of which callers name one.
    named: bool,
}

fn destination_rule(rule: &MergedDestinationRule, named: bool, list: &mut List<'_>) {
    let whom = For { selected: !rule.selector.is_empty(), named };
    if let Some(policy) = &rule.traffic_policy {
        traffic_policy(policy, "/spec/trafficPolicy", whom, list);
    }
    for (index, subset) in rule.subsets.iter().enumerate() {
        if let Some(policy) = &subset.traffic_policy {
            traffic_policy(policy, &format!("/spec/subsets/{index}/trafficPolicy"), whom, list);
        }
    }
}

fn traffic_policy(policy: &TrafficPolicy, at: &str, whom: For, list: &mut List<'_>) {
    for (place, port) in std::iter::once((at.to_owned(), None)).chain(
        policy.port_level_settings.iter().enumerate().map(|(i, p)| (format!("{at}/portLevelSettings/{i}"), Some(p))),
    ) {
        let balancer = port.map_or(policy.load_balancer.as_ref(), |p| p.load_balancer.as_ref());
        let tls = port.map_or(policy.tls.as_ref(), |p| p.tls.as_ref());
        let outlier = port.map_or(policy.outlier_detection.as_ref(), |p| p.outlier_detection.as_ref());
        if let Some(balancer) = balancer {
            let field = |name: &str| format!("{place}/loadBalancer/{name}");
            let reason = "Istio does not translate this either; use simple or consistentHash";
            list.when(balancer.backend_utilization.is_some(), || field("backendUtilization"), reason);
        }
        if let Some(tls) = tls {
            let field = |name: &str| format!("{place}/tls/{name}");
            let asked = whom.named && tls.mode.as_deref().is_some_and(|mode| mode != "DISABLE");
            let reason = "TLS towards hosts of resolution DYNAMIC_DNS is not built; let the caller speak TLS";
            list.when(asked, || field("mode"), reason);
            let given = !tls.credential_name.is_empty();
            let reason = "Istio sends a sidecar secrets only of a rule with a workloadSelector; add one, or use files";
            list.when(given && !whom.selected, || field("credentialName"), reason);
            let reason = "write the name of a Secret of the rule's own namespace";
            let named = secret_name(&tls.credential_name).is_some();
            list.when(given && whom.selected && !named, || field("credentialName"), reason);
        }
        let old = outlier.is_some_and(|outlier| outlier.consecutive_errors.is_some());
        list.when(old, || format!("{place}/outlierDetection/consecutiveErrors"), "use consecutive5xxErrors");
        let codes = outlier.is_some_and(|outlier| !outlier.outlier_detection_http_error_codes.is_empty());
        let reason = "only 5xx answers count as errors; leave this out";
        list.when(codes, || format!("{place}/outlierDetection/outlierDetectionHttpErrorCodes"), reason);
    }
}

fn authorization(spec: &AuthorizationPolicy, list: &mut List<'_>) {
    let custom = spec.action.as_deref() == Some("CUSTOM");
    list.when(
        custom,
        || "/spec/action".to_owned(),
        "external authorizers are not built; what CUSTOM selects is denied",
    );
    let waypoint = spec.target_ref.is_some() || !spec.target_refs.is_empty();
    list.when(
        waypoint,
        || "/spec/targetRefs".to_owned(),
        "use selector; targetRefs need gateways, which are not built",
    );
    for (index, rule) in spec.rules.iter().enumerate() {
        for (at, condition) in rule.when.iter().flatten().enumerate() {
            let pointer = || format!("/spec/rules/{index}/when/{at}/key");
            list.when(
                !authz::known_key(&condition.key),
                pointer,
                "this key is not known; see Istio's list of conditions",
            );
        }
        for (at, to) in rule.to.iter().flatten().enumerate() {
            let Some(operation) = &to.operation else { continue };
            let template = |paths: &[String]| paths.iter().any(|path| path.contains("{*}") || path.contains("{**}"));
            let pointer = |field: &str| format!("/spec/rules/{index}/to/{at}/operation/{field}");
            let reason = "path templates are not built; write prefixes (\"/path/*\") or suffixes";
            list.when(template(&operation.paths), || pointer("paths"), reason);
            list.when(template(&operation.not_paths), || pointer("notPaths"), reason);
        }
    }
}

fn telemetry(spec: &Telemetry, list: &mut List<'_>) {
    let waypoint = spec.target_ref.is_some() || !spec.target_refs.is_empty();
    let targets = "use selector; targetRefs need gateways, which are not built";
    list.when(waypoint, || "/spec/targetRefs".to_owned(), targets);
    for (index, entry) in spec.tracing.iter().enumerate() {
        let at = |field: &str| format!("/spec/tracing/{index}/{field}");
        let by_id = entry.use_request_id_for_trace_sampling == Some(false);
        let reason = "the request id always decides which requests are traced; remove it";
        list.when(by_id, || at("useRequestIdForTraceSampling"), reason);
        let passes = entry.disable_context_propagation == Some(true);
        list.when(
            passes,
            || at("disableContextPropagation"),
            "not built; use disableSpanReporting, which leaves headers alone",
        );
        for (tag, from) in &entry.custom_tags {
            let formatter = from.get("formatter").is_some();
            list.when(
                formatter,
                || at(&format!("customTags/{tag}/formatter")),
                "not built; use literal, environment or header",
            );
        }
    }
    for (index, entry) in spec.metrics.iter().enumerate() {
        let at = |field: &str| format!("/spec/metrics/{index}/{field}");
        let reason = "metrics of single workloads cannot be changed yet; remove the overrides";
        list.when(!entry.overrides.is_empty(), || at("overrides"), reason);
        let interval = "metrics are always current; remove the interval";
        list.when(entry.reporting_interval.is_some(), || at("reportingInterval"), interval);
        for (number, provider) in entry.providers.iter().enumerate() {
            list.when(
                provider.name != "prometheus",
                || at(&format!("providers/{number}/name")),
                "only prometheus gets metrics",
            );
        }
    }
    for (index, entry) in spec.access_logging.iter().enumerate() {
        let pointer = || format!("/spec/accessLogging/{index}/filter");
        list.when(entry.filter.is_some(), pointer, "expressions are not built; log all requests or none");
    }
}

fn request_authentication(spec: &RequestAuthentication, list: &mut List<'_>) {
    let waypoint = spec.target_ref.is_some() || !spec.target_refs.is_empty();
    list.when(
        waypoint,
        || "/spec/targetRefs".to_owned(),
        "use selector; targetRefs need gateways, which are not built",
    );
    for (index, rule) in spec.jwt_rules.iter().enumerate() {
        let unusable = !rule.jwks.is_empty() && ::jwt::KeySet::parse(&rule.jwks).is_err();
        let pointer = || format!("/spec/jwtRules/{index}/jwks");
        list.when(unusable, pointer, "no key of this set can verify a signature; RSA, EC, Ed25519 and octet keys can");
    }
}
