//! A mesh of YAML, translated for one client and handed to a data plane.

use std::collections::HashMap;
use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::Duration;

use bytes::Bytes;
use envoy_api::envoy::config::cluster::v3::Cluster;
use envoy_api::envoy::config::core::v3::{Extension, Node};
use envoy_api::{Any, any_from_json, any_to_json, unpack};
use http::{HeaderMap, Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper_util::rt::TokioIo;
use mesh::Snapshot;
use proxy::{Proxy, ProxyOptions};
use serde_json::{Value, json};
use telemetry::Telemetry;
use tokio::net::TcpStream;

use crate::envoy::Envoy;
use crate::server::Server;

const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
const ENDPOINTS: &str = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
const ROUTES: &str = "type.googleapis.com/envoy.config.route.v3.RouteConfiguration";

/// The replicas of the client.
pub const LOCAL_CLUSTER: &str = "local_cluster";

/// What a case describes: servers, services, rules, and who calls.
pub struct Mesh {
    yaml: String,
    /// Labels of the client.
    pub labels: Vec<(&'static str, &'static str)>,
    vips: HashMap<String, String>,
    /// Where the client is, as `region.zone`, when its proxy knows its replicas.
    place: Option<String>,
    catch_all: bool,
}

impl Mesh {
    pub fn new() -> Self {
        let labels = vec![("app", "client")];
        let mut mesh = Self { yaml: String::new(), labels, vips: HashMap::new(), place: None, catch_all: false };
        // Nothing here has a sidecar; cases of TLS say so themselves.
        mesh.rule(
            "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: istio, namespace: istio-system}\n\
             data: {mesh: \"enableAutoMtls: false\"}\n",
        );
        mesh
    }

    /// An HTTP service on port 80 and the pods behind it: `(labels, server)`.
    pub fn http(&mut self, name: &str, pods: &[(&str, &Server)]) -> &mut Self {
        self.service(name, "shop", &[("http", 80)], pods)
    }

    /// A service and the pods behind it; port names give the protocols.
    pub fn service(
        &mut self,
        name: &str,
        namespace: &str,
        ports: &[(&str, u16)],
        pods: &[(&str, &Server)],
    ) -> &mut Self {
        static NEXT: AtomicUsize = AtomicUsize::new(1);
        let n = NEXT.fetch_add(1, SeqCst);
        let vip = format!("127.78.{}.{}", n / 250, n % 250 + 1);
        let listed: Vec<String> =
            ports.iter().map(|(name, port)| format!("{{name: {name}, port: {port}, targetPort: app}}")).collect();
        let _ = write!(
            self.yaml,
            "---\napiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
             spec: {{clusterIP: {vip}, selector: {{app: {name}}}, ports: [{}]}}\n",
            listed.join(", ")
        );
        self.vips.insert(name.to_owned(), vip);
        for (labels, server) in pods {
            self.pod(name, namespace, labels, server);
        }
        self
    }

    fn pod(&mut self, app: &str, namespace: &str, labels: &str, server: &Server) {
        let (ip, port) = (server.0.address.ip(), server.0.address.port());
        let labels = if labels.is_empty() { String::new() } else { format!(", {labels}") };
        let _ = write!(
            self.yaml,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{name: {}, namespace: {namespace}, labels: {{app: {app}{labels}}}}}\n\
             spec: {{containers: [{{name: app, ports: [{{name: app, containerPort: {port}}}]}}]}}\n\
             status: {{podIP: {ip}, conditions: [{{type: Ready, status: \"True\"}}]}}\n",
            server.0.name
        );
    }

    /// The address of a service.
    pub fn vip(&self, service: &str) -> &str {
        &self.vips[service]
    }

    /// Opens `virtualOutbound` as well, without what it does with who dials it itself: that is all who come there.
    pub fn catch_all(&mut self) {
        self.catch_all = true;
    }

    /// Says where the client is, as `region.zone.subzone`.
    pub fn client_locality(&mut self, place: &str) -> &mut Self {
        self.rule(&format!(
            "apiVersion: v1\nkind: Pod\nmetadata: {{name: client-0, namespace: shop, labels: {{istio-locality: {place}}}}}\n\
             spec: {{containers: [{{name: app}}]}}\nstatus: {{podIP: 127.0.0.1}}"
        ))
    }

    /// Places of the client, which is the first of them, and of its replicas; its proxy knows them.
    pub fn replicas(&mut self, places: &[&str]) -> &mut Self {
        self.place = places.first().map(|place| (*place).to_owned());
        for (n, place) in places.iter().enumerate() {
            self.rule(&format!(
                "apiVersion: v1\nkind: Pod\nmetadata: {{name: client-{n}, namespace: shop, labels: {{app: client, istio-locality: {place}}}, \
                 ownerReferences: [{{kind: ReplicaSet, name: client-1a}}]}}\n\
                 spec: {{containers: [{{name: app}}]}}\n\
                 status: {{podIP: 127.0.0.{}, conditions: [{{type: Ready, status: \"True\"}}]}}",
                n + 1
            ));
        }
        self.rule(
            "apiVersion: v1\nkind: Service\nmetadata: {name: client, namespace: shop}\n\
             spec: {clusterIP: 127.79.0.1, selector: {app: client}, ports: [{name: http, port: 8888}]}",
        )
    }

    /// Says which endpoints a service that is there wants to be called at first.
    pub fn distribution(&mut self, service: &str, word: &str) -> &mut Self {
        let spec = format!("spec: {{clusterIP: {},", self.vips[service]);
        self.yaml = self.yaml.replace(&spec, &format!("{spec} trafficDistribution: \"{word}\","));
        self
    }

    /// Any object.
    pub fn rule(&mut self, yaml: &str) -> &mut Self {
        self.yaml.push_str("---\n");
        self.yaml.push_str(yaml);
        self.yaml.push('\n');
        self
    }

    /// A VirtualService of the namespace `shop`, by its spec.
    pub fn virtual_service(&mut self, name: &str, spec: &str) -> &mut Self {
        self.object("VirtualService", name, spec)
    }

    /// A DestinationRule of the namespace `shop`, by its spec.
    pub fn destination_rule(&mut self, name: &str, spec: &str) -> &mut Self {
        self.object("DestinationRule", name, spec)
    }

    fn object(&mut self, kind: &str, name: &str, spec: &str) -> &mut Self {
        let spec: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        self.rule(&format!(
            "apiVersion: networking.istio.io/v1\nkind: {kind}\nmetadata: {{name: {name}, namespace: shop}}\nspec:\n{spec}"
        ))
    }

    /// What the data plane gets.
    fn resources(&self, stock: bool) -> Resources {
        let snapshot = snapshot(&self.yaml);
        let refused = pilot::unsupported(&snapshot);
        assert!(refused.is_empty(), "{refused:?}");
        let labels: serde_json::Map<String, Value> =
            self.labels.iter().map(|(k, v)| ((*k).to_owned(), json!(v))).collect();
        let node: Node = Node {
            id: "sidecar~127.0.0.1~client-0.shop~shop.svc.cluster.local".to_owned(),
            metadata: Some(
                envoy_api::message_from_json(json!({"LABELS": labels, "NAMESPACE": "shop", "ENABLE_SELF_DISCOVERY": self.place.is_some().to_string()})).expect("metadata"),
            ),
            extensions: ["envoy.filters.http.router", "istio.stats", "istio.alpn", "istio.metadata_exchange"]
                .into_iter()
                .filter(|name| !stock || !name.starts_with("istio."))
                .map(|name| Extension { name: name.to_owned(), ..Extension::default() })
                .collect(),
            ..Node::default()
        };
        let client = pilot::Proxy::from_node(&node).expect("a node");
        let clusters = pilot::clusters(&snapshot, &client);
        let mut names: Vec<String> = clusters.iter().filter_map(|c| assignment(&c.body)).collect();
        names.extend(self.place.is_some().then(|| LOCAL_CLUSTER.to_owned()));
        let listeners: Vec<Value> = pilot::listeners(&snapshot, &client).iter().map(|l| any_to_json(&l.body)).collect();
        let wanted: Vec<String> = listeners.iter().flat_map(route_names).collect();
        Resources {
            place: self.place.clone(),
            secrets: secrets(&snapshot, &clusters),
            clusters: clusters.into_iter().map(|c| c.body).collect(),
            endpoints: pilot::endpoints(&snapshot, &client, &names).into_iter().map(|e| (e.name, e.body)).collect(),
            routes: pilot::routes(&snapshot, &client, &wanted).into_iter().map(|r| (r.name, r.body)).collect(),
            listeners: inbound(&listeners)
                .into_iter()
                .chain(self.catch_all.then(|| catch_all(&listeners)).flatten())
                .chain(listeners.into_iter().filter_map(bind))
                .collect(),
        }
    }

    /// Starts the data plane.
    pub async fn start(&self) -> World {
        let stock = std::env::var("MELTEMI_TRAFFIC_PROXY").is_ok_and(|kind| kind == "envoy");
        let resources = self.resources(stock);
        let plane = if stock { Plane::Envoy(Envoy::start(resources).await) } else { Plane::Ours(ours(&resources)) };
        World { plane, vips: self.vips.clone(), client: tokio::sync::Mutex::new(None) }
    }
}

/// The snapshot of a text.
pub fn snapshot(yaml: &str) -> Snapshot {
    let documents = istio_api::yaml::parse(yaml).unwrap_or_else(|e| panic!("{e}\n{yaml}"));
    let resources: Vec<istio_api::Resource> = documents
        .iter()
        .filter_map(|document| istio_api::read(document, "shop").unwrap_or_else(|e| panic!("{e:?}\n{yaml}")))
        .collect();
    Snapshot::build(&resources)
}

/// The secrets that clusters ask the control plane for.
fn secrets(snapshot: &Snapshot, clusters: &[pilot::Resource]) -> HashMap<String, Any> {
    let mut names = Vec::new();
    for cluster in clusters {
        visit(&any_to_json(&cluster.body), &mut |value| {
            let name = value["name"].as_str().filter(|name| name.starts_with("kubernetes://"));
            names.extend(name.map(str::to_owned));
        });
    }
    let made = names.iter().filter_map(|name| pilot::secret(snapshot, "shop", name, true));
    made.map(|secret| (secret.name, secret.body)).collect()
}

/// Translated resources; listeners as JSON, made to listen on a loopback port.
pub struct Resources {
    /// Where the client is, as `region.zone`, when its proxy knows its replicas.
    pub place: Option<String>,
    pub secrets: HashMap<String, Any>,
    pub clusters: Vec<Any>,
    pub endpoints: HashMap<String, Any>,
    pub routes: HashMap<String, Any>,
    pub listeners: Vec<Value>,
}

fn assignment(cluster: &Any) -> Option<String> {
    let cluster: Cluster = unpack(cluster).expect("a cluster");
    cluster.eds_cluster_config.map(|eds| eds.service_name)
}

/// Names of the routes that a listener asks for.
pub fn route_names(listener: &Value) -> Vec<String> {
    let mut names = Vec::new();
    visit(listener, &mut |value| {
        if let Some(name) = value.pointer("/rds/route_config_name").and_then(Value::as_str) {
            names.push(name.to_owned());
        }
    });
    names
}

/// Every object inside a value.
pub fn visit(value: &Value, with: &mut dyn FnMut(&Value)) {
    match value {
        Value::Object(map) => {
            with(value);
            map.values().for_each(|v| visit(v, with));
        }
        Value::Array(list) => list.iter().for_each(|v| visit(v, with)),
        _ => {}
    }
}

/// Outbound listeners without a socket get one: on the service's own address, or on 127.0.0.1 where all services share a port.
/// Without redirection that is how connections come to them.
fn bind(mut listener: Value) -> Option<Value> {
    let name = listener["name"].as_str()?;
    if name.starts_with("virtual") {
        return None;
    }
    if listener.get("bind_to_port").is_none_or(|bound| *bound != false) {
        return Some(listener);
    }
    let socket = listener.pointer_mut("/address/socket_address")?;
    if socket["address"] == "0.0.0.0" {
        socket["address"] = json!("127.0.0.1");
    }
    socket["port_value"] = json!(0);
    listener.as_object_mut()?.remove("bind_to_port");
    Some(listener)
}

/// `virtualOutbound` on a loopback port, without its chain for who dials that.
fn catch_all(listeners: &[Value]) -> Option<Value> {
    let mut found = listeners.iter().find(|l| l["name"] == "virtualOutbound")?.clone();
    *found.pointer_mut("/address/socket_address")? = json!({"address": "127.0.0.1", "port_value": 0});
    found["filter_chains"].as_array_mut()?.retain(|chain| chain["name"] != "virtualOutbound-blackhole");
    Some(found)
}

/// The plain-text chain of each declared port of the workload as a listener of its own, `inbound_PORT`: without redirection
/// nobody comes to the capture port by another.
fn inbound(listeners: &[Value]) -> Vec<Value> {
    let chains = listeners.iter().filter(|l| l["name"] == "virtualInbound");
    let chains = chains.flat_map(|l| l["filter_chains"].as_array().into_iter().flatten());
    let of_port = |chain: &Value| {
        let matches = &chain["filter_chain_match"];
        let port = matches["destination_port"].as_u64().filter(|port| *port != 15006)?;
        (matches["transport_protocol"] != "tls").then(|| {
            json!({
                "@type": LISTENER,
                "name": format!("inbound_{port}"),
                "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                "traffic_direction": "INBOUND",
                "filter_chains": [{"filters": chain["filters"]}]
            })
        })
    };
    chains.filter_map(of_port).collect()
}

fn ours(resources: &Resources) -> Arc<Proxy> {
    let proxy = Proxy::start(ProxyOptions {
        workers: 1,
        node_id: "sidecar~127.0.0.1~client-0.shop~shop.svc.cluster.local".to_owned(),
        telemetry: Telemetry::new(telemetry::Workload::unknown()),
        secrets: Arc::default(),
        undecided: Duration::from_millis(100),
    })
    .expect("a thread can be started");
    if resources.place.is_some() {
        proxy.set_local_cluster(LOCAL_CLUSTER, [127, 0, 0, 1].into(), None);
        assert!(proxy.wanted().endpoints.iter().any(|name| **name == *LOCAL_CLUSTER), "its replicas are asked for");
    }
    let clusters: Vec<(String, Any)> =
        resources.clusters.iter().map(|any| (unpack::<Cluster>(any).expect("a cluster").name, any.clone())).collect();
    let listeners: Vec<(String, Any)> = resources
        .listeners
        .iter()
        .map(|l| (l["name"].as_str().unwrap().to_owned(), any_from_json(l.clone()).expect("a listener")))
        .collect();
    let pairs = |map: &HashMap<String, Any>| map.iter().map(|(n, a)| (n.clone(), a.clone())).collect::<Vec<_>>();
    proxy.apply(CLUSTER, &clusters, &[]).expect("clusters are taken");
    proxy.apply(ENDPOINTS, &pairs(&resources.endpoints), &[]).expect("endpoints are taken");
    proxy.apply(ROUTES, &pairs(&resources.routes), &[]).expect("routes are taken");
    proxy.apply(LISTENER, &listeners, &[]).expect("listeners are taken");
    let mut asked = proxy.wanted().secrets;
    asked.sort();
    let mut given = pairs(&resources.secrets);
    given.sort_by(|a, b| a.0.cmp(&b.0));
    assert_eq!(asked, given.iter().map(|(name, _)| name.clone()).collect::<Vec<_>>(), "what is asked for is there");
    assert!(asked.is_empty() || !proxy.is_complete(), "secrets are waited for");
    proxy.apply(SECRET, &given, &[]).expect("secrets are taken");
    assert!(asked.is_empty() || proxy.is_complete(), "and nothing else");
    tokio::spawn(proxy.clusters().clone().maintain());
    proxy
}

enum Plane {
    Ours(Arc<Proxy>),
    Envoy(Envoy),
}

/// A running data plane and the way in.
pub struct World {
    plane: Plane,
    vips: HashMap<String, String>,
    client: tokio::sync::Mutex<Option<(SocketAddr, SendRequest<Full<Bytes>>)>>,
}

/// An answer, read whole.
#[derive(Debug)]
pub struct Answer {
    pub status: StatusCode,
    pub headers: HeaderMap,
    pub body: String,
}

impl Answer {
    /// The server that answered, or nothing when the proxy did.
    pub fn server(&self) -> &str {
        self.header("x-server")
    }

    /// A header, empty when it is not there.
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).and_then(|v| v.to_str().ok()).unwrap_or_default()
    }

    /// What an echoing server saw.
    pub fn echo(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|_| panic!("no echo: {self:?}"))
    }

    /// A header of the request, as the server saw it.
    pub fn seen(&self, name: &str) -> String {
        self.echo()["headers"][name].as_str().unwrap_or_default().to_owned()
    }
}

/// A GET for a host.
pub fn get(host: &str, path: &str) -> http::request::Builder {
    Request::get(path).header("host", host)
}

/// A POST for a host.
pub fn post(host: &str, path: &str) -> http::request::Builder {
    Request::post(path).header("host", host)
}

impl World {
    pub fn is_envoy(&self) -> bool {
        matches!(self.plane, Plane::Envoy(_))
    }

    /// Other content of the mesh's Secrets comes into force.
    pub fn replace_secrets(&self, mesh: &Mesh) {
        let secrets = mesh.resources(self.is_envoy()).secrets;
        match &self.plane {
            Plane::Ours(proxy) => {
                let secrets: Vec<_> = secrets.into_iter().collect();
                proxy.apply(SECRET, &secrets, &[]).expect("secrets are taken");
            }
            Plane::Envoy(envoy) => envoy.write_secrets(&secrets),
        }
    }

    /// Where a listener listens.
    pub fn entry(&self, listener: &str) -> SocketAddr {
        match &self.plane {
            Plane::Ours(proxy) => proxy.bound_address(listener).unwrap_or_else(|| panic!("no listener {listener}")),
            Plane::Envoy(envoy) => envoy.entry(listener),
        }
    }

    /// Where a service's own listener listens.
    pub fn tcp_entry(&self, service: &str, port: u16) -> SocketAddr {
        self.entry(&format!("{}_{port}", self.vips[service]))
    }

    /// A request without a body to the shared port 80.
    pub async fn send(&self, request: http::request::Builder) -> Answer {
        self.send_body(request, "").await
    }

    /// A request to the shared port 80; one connection carries all of them in turn.
    pub async fn send_body(&self, request: http::request::Builder, body: &str) -> Answer {
        let at = self.entry("0.0.0.0_80");
        let request = request.body(Full::new(Bytes::from(body.to_owned()))).expect("a request");
        let mut kept = self.client.lock().await;
        let ready = match kept.as_mut() {
            Some((to, sender)) => *to == at && sender.ready().await.is_ok(),
            None => false,
        };
        if !ready {
            *kept = Some((at, connect(at).await));
        }
        let (_, sender) = kept.as_mut().expect("just made");
        read(sender.send_request(request).await.expect("an answer")).await
    }

    /// A request on a connection of its own, so that several can be on their way at once.
    pub async fn send_apart(&self, request: http::request::Builder) -> Answer {
        self.send_to("0.0.0.0_80", request).await
    }

    /// The same to another listener.
    pub async fn send_to(&self, listener: &str, request: http::request::Builder) -> Answer {
        let request = request.body(Full::new(Bytes::new())).expect("a request");
        let mut sender = connect(self.entry(listener)).await;
        read(sender.send_request(request).await.expect("an answer")).await
    }

    /// How often each server answers `times` equal requests.
    pub async fn tally(&self, times: usize, request: impl Fn() -> http::request::Builder) -> HashMap<String, usize> {
        let mut count = HashMap::new();
        for _ in 0..times {
            *count.entry(self.send(request()).await.server().to_owned()).or_default() += 1;
        }
        count
    }

    /// A counter of the cluster of port 80 of a service of `shop`.
    pub async fn cluster_stat(&self, service: &str, name: &str) -> u64 {
        // A stock Envoy calls clusters by their `alt_stat_name`.
        let dot = if self.is_envoy() { ";." } else { "." };
        self.stat(&format!("cluster.outbound|80||{service}.shop.svc.cluster.local{dot}{name}")).await
    }

    /// A counter of the data plane, by Envoy's name in its Prometheus-less form.
    pub async fn stat(&self, name: &str) -> u64 {
        match &self.plane {
            Plane::Ours(proxy) => {
                let text = proxy.telemetry().render_stats(None);
                let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "));
                line.and_then(|value| value.parse().ok()).unwrap_or(0)
            }
            Plane::Envoy(envoy) => envoy.stat(name).await,
        }
    }
}

/// A request on a connection that is there.
pub async fn send_on<S>(stream: S, request: http::request::Builder) -> Answer
where
    S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
{
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    read(sender.send_request(request.body(Full::new(Bytes::new())).expect("a request")).await.expect("an answer")).await
}

async fn connect(at: SocketAddr) -> SendRequest<Full<Bytes>> {
    let stream = TcpStream::connect(at).await.expect("the listener is open");
    let (sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.expect("HTTP");
    tokio::spawn(connection);
    sender
}

pub async fn read(response: http::Response<hyper::body::Incoming>) -> Answer {
    let (parts, body) = response.into_parts();
    let body = body.collect().await.map(|all| all.to_bytes()).unwrap_or_default();
    Answer { status: parts.status, headers: parts.headers, body: String::from_utf8_lossy(&body).into_owned() }
}
