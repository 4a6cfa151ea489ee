//! istiod over a real API server: what it writes there. Skips, saying so, where there is none.

#[path = "../../kubernetes/tests/cluster/server.rs"]
#[allow(dead_code, reason = "these tests kill no server")]
mod server;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use citadel::{Authority, Renewal};
use istiod::{ClusterOptions, Istiod, IstiodOptions, SourceOptions};
use kubernetes::{CRDS, Cluster, Place};
use mtls::{CertSlot, ClientTls, RootSlot, SanMatch, SpiffeId};
use serde_json::{Value, json};
use server::{ApiServer, free_port};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;

const PATIENCE: Duration = Duration::from_secs(120);
const DAY: Duration = Duration::from_secs(24 * 3600);

fn list(api: &str, plural: &str) -> Place {
    Place::list(api, plural, Some("prod"))
}

/// Waits until something is so.
async fn until(what: &str, mut so: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !so().await {
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "never seen: {what}");
}

async fn prepared(cluster: &Cluster) {
    for name in ["istio-system", "prod"] {
        let object = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}});
        cluster.create(&Place::list("v1", "namespaces", None), &object).await.unwrap();
    }
    let crds = Place::list("apiextensions.k8s.io/v1", "customresourcedefinitions", None);
    for crd in installer::crds() {
        cluster.create(&crds, &crd).await.unwrap();
    }
    for kind in &CRDS {
        let place = Place::list(&format!("{}/{}", kind.group, kind.versions[0]), kind.plural, None);
        until("the kinds", async || cluster.all(&place, None).await.is_ok()).await;
    }
}

/// Starts it; where it serves xDS over TLS.
async fn start(server: &ApiServer, renewal: Renewal) -> SocketAddr {
    let at = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    let secure = at();
    let cluster = ClusterOptions {
        kubeconfig: Some(server.kubeconfig()),
        context: None,
        namespace: "istio-system".to_owned(),
        revision: "default".to_owned(),
        pod: "istiod-test".to_owned(),
        cluster: "Kubernetes".to_owned(),
        proxy_image: "meltemi:test".to_owned(),
        discovery: None,
        root_spread: Duration::from_secs(1),
        status: true,
        webhook: at(),
    };
    let options = IstiodOptions {
        source: SourceOptions::Cluster(Box::new(cluster)),
        trust_domain: "cluster.local".to_owned(),
        certificate_life: DAY,
        root_renewal: renewal,
        plain: at(),
        secure,
        monitoring: at(),
        ready: at(),
    };
    let istiod = Istiod::bind(options).await.unwrap();
    tokio::spawn(istiod.run());
    secure
}

/// Whether istiod's certificate is good for these roots, and it takes ours.
async fn meets(at: SocketAddr, roots: &str, ours: &Arc<CertSlot>) -> bool {
    let slot = Arc::new(RootSlot::default());
    slot.set_pem(roots).unwrap();
    let tls = ClientTls {
        cert: Some(ours.clone()),
        roots: Some(slot),
        sans: vec![SanMatch::Exact("istiod.istio-system.svc".to_owned())],
        revoked: Vec::new(),
        sni: None,
        alpn: vec![b"h2".to_vec()],
    };
    let talk = async {
        let tcp = TcpStream::connect(at).await?;
        let connector = tokio_rustls::TlsConnector::from(tls.build().unwrap());
        let mut stream = connector.connect("istiod.istio-system.svc".try_into().unwrap(), tcp).await?;
        // A client's certificate is judged after the handshake: only an answer shows that it was taken.
        stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0").await?;
        stream.read_u8().await
    };
    talk.await.is_ok()
}

#[tokio::test(flavor = "multi_thread")]
async fn statuses_say_what_is_in_force_and_what_is_wrong() {
    let Some(server) = ApiServer::start().await else { return };
    let cluster = server.connect().await;
    prepared(&cluster).await;
    start(&server, Renewal::default()).await;

    let routes = list("networking.istio.io/v1", "virtualservices");
    let object = json!({
        "apiVersion": "networking.istio.io/v1", "kind": "VirtualService", "metadata": {"name": "pay", "namespace": "prod"},
        "spec": {"hosts": ["pay"], "http": [{"route": [{"destination": {"host": "pay"}}]}]},
    });
    cluster.create(&routes, &object).await.unwrap();
    let place = routes.object("pay");
    let status = async || cluster.read(&place).await.unwrap().unwrap()["status"].clone();
    let is = |status: &Value, kind: &str, word: &str| {
        status["conditions"].as_array().is_some_and(|all| all.iter().any(|c| c["type"] == kind && c["status"] == word))
    };
    until("the missing host", async || {
        let now = status().await;
        is(&now, "PassedAnalysis", "False") && now["validationMessages"][0]["type"]["code"] == "IST0101"
    })
    .await;
    let now = status().await;
    assert!(is(&now, "Reconciled", "True") && now["observedGeneration"] == 1, "{now}");

    let service = json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": "pay", "namespace": "prod"},
        "spec": {"ports": [{"name": "http", "port": 80}]}});
    cluster.create(&list("v1", "services"), &service).await.unwrap();
    until("the host", async || is(&status().await, "PassedAnalysis", "True")).await;

    let edit = |value: &str| json!([{"op": "add", "path": "/spec/http/0/timeout", "value": value}]);
    cluster.patch(&place, &edit("3s")).await.unwrap();
    until("the second generation", async || status().await["observedGeneration"] == 2).await;
    // Past any validation, as with a webhook that is down.
    cluster.patch(&place, &edit("soon")).await.unwrap();
    until("the refusal", async || is(&status().await, "Reconciled", "False")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_is_replaced_while_both_roots_are_trusted() {
    let Some(server) = ApiServer::start().await else { return };
    let cluster = server.connect().await;
    prepared(&cluster).await;
    let at = start(&server, Renewal::default()).await;

    let secrets = Place::list("v1", "secrets", Some("istio-system"));
    let secret = cluster.read(&secrets.object("istio-ca-secret")).await.unwrap().unwrap();
    let file =
        |name: &str| String::from_utf8(STANDARD.decode(secret["data"][name].as_str().unwrap()).unwrap()).unwrap();
    let (first, key) = (file("ca-cert.pem"), file("ca-key.pem"));
    let old = Authority::from_pem(&first, &key, "", "").unwrap();
    let issued = old.issue(&SpiffeId::new("cluster.local", "prod", "pay"), &[], DAY).unwrap();
    let ours = Arc::new(CertSlot::default());
    ours.set(&issued.chain, &issued.key).unwrap();
    until("istiod", async || meets(at, &first, &ours).await).await;
    let map = list("v1", "configmaps").object("istio-ca-root-cert");
    let given = async || {
        let map = cluster.read(&map).await.unwrap().unwrap_or_default();
        map["data"]["root-cert.pem"].as_str().unwrap_or_default().to_owned()
    };
    until("the root", async || citadel::contains(&given().await, &first)).await;

    let (second, key) = Authority::new_root("cluster.local").unwrap();
    assert!(!meets(at, &second, &ours).await);
    let encode = |text: &str| STANDARD.encode(text);
    let plugged = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "cacerts", "namespace": "istio-system"},
        "data": {"ca-cert.pem": encode(&second), "ca-key.pem": encode(&key), "root-cert.pem": encode(&second)}});
    cluster.create(&secrets, &plugged).await.unwrap();
    until("both roots", async || {
        let given = given().await;
        citadel::contains(&given, &first) && citadel::contains(&given, &second)
    })
    .await;
    // The new authority signs, and who was signed for by the old one is still met.
    until("the new authority", async || meets(at, &second, &ours).await).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_self_signed_root_is_renewed_in_its_secret_and_both_are_given() {
    let Some(server) = ApiServer::start().await else { return };
    let cluster = server.connect().await;
    prepared(&cluster).await;
    let (first, key) = Authority::new_root("cluster.local").unwrap();
    let encode = |text: &str| STANDARD.encode(text);
    let own = json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "istio-ca-secret", "namespace": "istio-system"},
        "data": {"ca-cert.pem": encode(&first), "ca-key.pem": encode(&key), "root-cert.pem": encode(&first)}});
    let secrets = Place::list("v1", "secrets", Some("istio-system"));
    cluster.create(&secrets, &own).await.unwrap();
    // All of its life is the last part of it: it is due at once, and not again while the test runs.
    let at = start(&server, Renewal { grace_percent: 100, ..Renewal::default() }).await;

    let file = async |name: &str| {
        let secret = cluster.read(&secrets.object("istio-ca-secret")).await.unwrap().unwrap();
        String::from_utf8(STANDARD.decode(secret["data"][name].as_str().unwrap()).unwrap()).unwrap()
    };
    until("another root", async || file("ca-cert.pem").await != first).await;
    let second = file("ca-cert.pem").await;
    assert_eq!((file("root-cert.pem").await, file("ca-key.pem").await), (second.clone(), key.clone()));
    let map = list("v1", "configmaps").object("istio-ca-root-cert");
    until("both roots", async || {
        let map = cluster.read(&map).await.unwrap().unwrap_or_default();
        let given = map["data"]["root-cert.pem"].as_str().unwrap_or_default();
        citadel::contains(given, &first) && citadel::contains(given, &second)
    })
    .await;
    // Who has a certificate of before, and whoever trusts either root, goes on.
    let old = Authority::from_pem(&first, &key, "", "").unwrap();
    let issued = old.issue(&SpiffeId::new("cluster.local", "prod", "pay"), &[], DAY).unwrap();
    let ours = Arc::new(CertSlot::default());
    ours.set(&issued.chain, &issued.key).unwrap();
    assert!(meets(at, &first, &ours).await && meets(at, &second, &ours).await);
}
