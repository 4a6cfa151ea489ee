//! Route configurations: virtual hosts of services and VirtualServices.

mod action;
pub(crate) mod matching;

use istio_api::Object;
use istio_api::networking::{Destination, HttpRoute, VirtualService};
use istio_api::unix::socket_path;
use mesh::{Service, Snapshot};
use serde_json::{Value, json};

use crate::sidecar::{self, Routed};
use crate::{Outlook, Proxy, Resource, clusters, names, object, scope};

/// Istio's name of what is routed by the names that callers bring.
const BY_NAME: &str = "allow_any_dynamic_dns";

/// The route configurations of the given names; names that stand for nothing are left out.
pub fn routes(snapshot: &Snapshot, proxy: &Proxy, wanted: &[String]) -> Vec<Resource> {
    called_routes(snapshot, &Outlook::of_names(snapshot, proxy), wanted)
}

/// The same, for all proxies of an outlook.
pub fn called_routes(snapshot: &Snapshot, outlook: &Outlook, wanted: &[String]) -> Vec<Resource> {
    let proxy: &Proxy = outlook;
    wanted
        .iter()
        .filter_map(|name| {
            let own = name.rsplit_once(':').filter(|_| socket_path(name).is_none());
            let (hosts, by_port) = match own {
                Some((host, port)) => (one_service(snapshot, proxy, host, port.parse().ok()?)?, false),
                None => {
                    let routed = sidecar::routed(snapshot, proxy, name)?;
                    (shared(snapshot, proxy, &routed, name.parse().ok()), routed.all_ports)
                }
            };
            let mut json = json!({
                "@type": "type.googleapis.com/envoy.config.route.v3.RouteConfiguration",
                "ignorePortInHostMatching": !by_port,
                "maxDirectResponseBodySizeBytes": 1_048_576,
                "name": name,
                "validateClusters": false
            });
            json["virtualHosts"] = hosts.into();
            Resource::from_json(name, json)
        })
        .collect()
}

/// The routes of a service that has its own listener: whatever the host header says.
fn one_service(snapshot: &Snapshot, proxy: &Proxy, host: &str, port: u16) -> Option<Vec<Value>> {
    let service = snapshot.service_for(host, &proxy.namespace)?;
    let mut virtual_host = service_host(snapshot, proxy, service, port);
    virtual_host["domains"] = json!(["*"]);
    Some(vec![virtual_host])
}

/// The routes of all services that share an HTTP port, or a Unix socket, and what happens to all other hosts.
fn shared(snapshot: &Snapshot, proxy: &Proxy, routed: &Routed<'_>, port: Option<u16>) -> Vec<Value> {
    let mut taken = std::collections::HashSet::new();
    let mut hosts = Vec::new();
    for service in &routed.services {
        for known in &service.ports {
            let here = routed.all_ports || port == Some(known.port);
            let sniffed = routed.placed && scope::app(known) == scope::App::Auto && service.external_name.is_none();
            if here && (sniffed || scope::shares_routes(service, known, proxy)) {
                hosts.push(service_host(snapshot, proxy, service, known.port));
            }
        }
    }
    if routed.all_ports || port == Some(80) {
        hosts.extend(foreign_hosts(snapshot, proxy, 80));
    }
    if routed.all_ports {
        hosts.iter_mut().for_each(with_ports);
    }
    // Two virtual hosts must not claim one domain: the first keeps it.
    for host in &mut hosts {
        if let Some(domains) = host["domains"].as_array_mut() {
            domains.retain(|domain| domain.as_str().is_some_and(|name| taken.insert(name.to_owned())));
        }
    }
    hosts.retain(|host| host["domains"].as_array().is_some_and(|domains| !domains.is_empty()));
    hosts.sort_by(|a, b| a["name"].as_str().cmp(&b["name"].as_str()));
    hosts.push(catch_all(snapshot, proxy));
    hosts
}

/// Where hosts of all ports stand together each is known by its port; without one it is 80, HTTP's own. Istio says so too,
/// and then has Envoy ignore the ports.
fn with_ports(host: &mut Value) {
    let port = host["name"].as_str().and_then(|name| Some(name.rsplit_once(':')?.1.to_owned())).unwrap_or_default();
    let Some(domains) = host["domains"].as_array_mut() else { return };
    let named: Vec<Value> = domains.iter().filter_map(Value::as_str).map(|d| format!("{d}:{port}").into()).collect();
    if port != "80" {
        domains.clear();
    }
    domains.extend(named);
}

/// Hosts of VirtualServices that are no services: they are served on port 80.
fn foreign_hosts(snapshot: &Snapshot, proxy: &Proxy, port: u16) -> Vec<Value> {
    let mut out = Vec::new();
    let all = snapshot.virtual_services_in_mesh(&proxy.namespace);
    for object in all.into_iter().filter(|object| sidecar::follows(snapshot, proxy, object)) {
        for host in &object.spec.hosts {
            let host = scope::resolve(host, &object.metadata.namespace, &proxy.domain_suffix);
            if snapshot.service(&host).is_some() || object.spec.http.is_empty() {
                continue;
            }
            let routes = user_routes(snapshot, proxy, &object, port);
            let name = format!("{host}:{port}");
            out.push(virtual_host(name, vec![host], routes));
        }
    }
    out
}

fn service_host(snapshot: &Snapshot, proxy: &Proxy, service: &Service, port: u16) -> Value {
    let user = scope::virtual_service(snapshot, proxy, &service.host).filter(|vs| !vs.spec.http.is_empty());
    let routes = match &user {
        Some(object) => user_routes(snapshot, proxy, object, port),
        None => vec![default_route(snapshot, proxy, service, port)],
    };
    let vips = scope::vips(service, proxy);
    let own =
        |host: &str, headless, vips: &[_]| names::domains(host, &proxy.namespace, &proxy.domain_suffix, headless, vips);
    let mut domains = own(&service.host, service.headless, &vips);
    let aliases = snapshot.aliases(&service.host).iter().filter(|alias| alias.visible_to(&proxy.namespace));
    domains.extend(aliases.flat_map(|alias| own(&alias.host, false, &[])));
    virtual_host(format!("{}:{port}", service.host), domains, routes)
}

fn virtual_host(name: String, domains: Vec<String>, routes: Vec<Value>) -> Value {
    object([
        ("domains", domains.into()),
        ("includeRequestAttemptCount", true.into()),
        ("name", name.into()),
        ("routes", routes.into()),
    ])
}

fn default_route(snapshot: &Snapshot, proxy: &Proxy, service: &Service, port: u16) -> Value {
    let target = action::Target {
        cluster: names::outbound_cluster(port, "", &service.host),
        weight: 1,
        headers: None,
        hash: clusters::hash_policy(snapshot, proxy, &service.host, "", port),
    };
    object([
        ("decorator", object([("operation", format!("{}:{port}/*", service.host).into())])),
        ("match", object([("prefix", "/".into())])),
        ("name", "default".into()),
        ("route", action::forward(None, &[target], Vec::new())),
    ])
}

/// All routes of a VirtualService for this client, in order; a route without a match ends the list.
fn user_routes(snapshot: &Snapshot, proxy: &Proxy, object: &Object<VirtualService>, port: u16) -> Vec<Value> {
    let mut out = Vec::new();
    for http in &object.spec.http {
        if http.r#match.is_empty() {
            out.push(user_route(snapshot, proxy, object, http, None, port));
            break;
        }
        for request in &http.r#match {
            if matching::applies(request, proxy, port) {
                out.push(user_route(snapshot, proxy, object, http, Some(request), port));
            }
        }
    }
    out
}

fn user_route(
    snapshot: &Snapshot,
    proxy: &Proxy,
    object: &Object<VirtualService>,
    http: &HttpRoute,
    request: Option<&istio_api::networking::HttpMatchRequest>,
    port: u16,
) -> Value {
    let meta = &object.metadata;
    let mut out = json!({
        "match": matching::route(request),
        "metadata": {"filterMetadata": {"istio": {"config": format!(
            "/apis/networking.istio.io/v1/namespaces/{}/virtual-service/{}", meta.namespace, meta.name
        )}}}
    });
    let match_name = request.map_or("", |request| request.name.as_str());
    let name: Vec<&str> = [http.name.as_str(), match_name].into_iter().filter(|part| !part.is_empty()).collect();
    if !name.is_empty() {
        out["name"] = json!(name.join("."));
    }
    if let Some(redirect) = &http.redirect {
        out["redirect"] = action::redirect(redirect, port);
    } else if let Some(answer) = &http.direct_response {
        out["directResponse"] = action::direct_response(answer);
    } else {
        let (targets, host) = targets(snapshot, proxy, object, http, port);
        out["decorator"] = json!({"operation": format!("{host}:{port}{}", operation_path(request))});
        out["route"] = action::forward(Some((http, request)), &targets, mirrors(snapshot, proxy, object, http, port));
        if let Some(headers) = &http.headers {
            action::set_headers(headers, &mut out);
        }
        // Of one destination only, its own operations are the route's.
        if let [action::Target { headers: Some(headers), .. }] = targets.as_slice() {
            action::set_headers(headers, &mut out);
        }
        return with_filters(http, request, out);
    }
    if let Some(headers) = &http.headers {
        action::set_headers(headers, &mut out);
    }
    with_filters(http, request, out)
}

/// What filters and counters are told of a route.
fn with_filters(http: &HttpRoute, request: Option<&istio_api::networking::HttpMatchRequest>, mut out: Value) -> Value {
    if let Some(prefix) = request.map(|request| &request.stat_prefix).filter(|prefix| !prefix.is_empty()) {
        out["statPrefix"] = json!(prefix);
    }
    let filters = action::per_filter(http);
    if !filters.is_empty() {
        out["typedPerFilterConfig"] = Value::Object(filters);
    }
    out
}

fn operation_path(request: Option<&istio_api::networking::HttpMatchRequest>) -> String {
    use istio_api::networking::StringMatch;
    match request.and_then(|request| request.uri.as_ref()) {
        None | Some(StringMatch::Present) => "/*".to_owned(),
        Some(StringMatch::Exact(path)) => path.clone(),
        Some(StringMatch::Prefix(prefix)) => format!("{prefix}*"),
        Some(StringMatch::Regex(expression)) => expression.clone(),
    }
}

/// The clusters of a route, and the name under which traces know it.
fn targets(
    snapshot: &Snapshot,
    proxy: &Proxy,
    object: &Object<VirtualService>,
    http: &HttpRoute,
    port: u16,
) -> (Vec<action::Target>, String) {
    let several = http.route.len() > 1;
    let targets: Vec<action::Target> = http
        .route
        .iter()
        .filter(|to| !several || to.weight > 0)
        .map(|to| {
            let (host, to_port) = resolve(snapshot, proxy, object, &to.destination, port);
            action::Target {
                cluster: names::outbound_cluster(to_port, &to.destination.subset, &host),
                weight: u32::try_from(to.weight).unwrap_or(0),
                headers: to.headers.clone(),
                hash: clusters::hash_policy(snapshot, proxy, &host, &to.destination.subset, to_port),
            }
        })
        .collect();
    let operation = match http.route.as_slice() {
        [one] => resolve(snapshot, proxy, object, &one.destination, port).0,
        _ => object.metadata.name.clone(),
    };
    (targets, operation)
}

/// Host and port of a destination: the port may be left out when it is clear.
pub(crate) fn resolve(
    snapshot: &Snapshot,
    proxy: &Proxy,
    object: &Object<VirtualService>,
    to: &Destination,
    port: u16,
) -> (String, u16) {
    let host = scope::resolve(&to.host, &object.metadata.namespace, &proxy.domain_suffix);
    let wanted = to.port.as_ref().and_then(|selector| u16::try_from(selector.number).ok());
    let resolved = wanted.unwrap_or_else(|| match snapshot.service(&host).map(|service| service.ports.as_slice()) {
        Some([only]) => only.port,
        _ => port,
    });
    (host, resolved)
}

fn mirrors(
    snapshot: &Snapshot,
    proxy: &Proxy,
    object: &Object<VirtualService>,
    http: &HttpRoute,
    port: u16,
) -> Vec<Value> {
    let cluster = |to: &Destination| {
        let (host, port) = resolve(snapshot, proxy, object, to, port);
        names::outbound_cluster(port, &to.subset, &host)
    };
    let percent = http.mirror_percentage.as_ref().map(|percent| percent.value).or(http.mirror_percent.map(f64::from));
    let single = http.mirror.as_ref().map(|to| action::mirror(&cluster(to), percent));
    let several = http
        .mirrors
        .iter()
        .map(|to| action::mirror(&cluster(&to.destination), to.percentage.as_ref().map(|percent| percent.value)));
    single.into_iter().chain(several).collect()
}

/// What happens to requests for hosts that nobody knows.
pub(crate) fn catch_all(snapshot: &Snapshot, proxy: &Proxy) -> Value {
    let cluster = scope::unknown(snapshot, proxy);
    let (name, cluster) = match cluster.as_str() {
        names::BLACK_HOLE => {
            return json!({
                "domains": ["*"],
                "includeRequestAttemptCount": true,
                "name": "block_all",
                "routes": [{"directResponse": {"status": 502}, "match": {"prefix": "/"}, "name": "block_all"}]
            });
        }
        _ if scope::names_unknown(snapshot, proxy) => (BY_NAME, names::NAMED),
        cluster => ("allow_any", cluster),
    };
    json!({
        "domains": ["*"],
        "includeRequestAttemptCount": true,
        "name": name,
        "routes": [{
            "match": {"prefix": "/"},
            "name": name,
            "route": {"cluster": cluster, "maxGrpcTimeout": "0s", "timeout": "0s"}
        }]
    })
}

/// The routes of connections that no listener of a port took: all are for unknown hosts, which DNS is asked for.
pub(crate) fn by_name(snapshot: &Snapshot, proxy: &Proxy) -> Value {
    json!({
        "ignorePortInHostMatching": true,
        "maxDirectResponseBodySizeBytes": 1_048_576,
        "name": BY_NAME,
        "validateClusters": false,
        "virtualHosts": [catch_all(snapshot, proxy)]
    })
}
