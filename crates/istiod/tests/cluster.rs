//! istiod over a real API server: what it writes there. Skips, saying so, where there is none.

#[path = "../../kubernetes/tests/cluster/server.rs"]
#[allow(dead_code, reason = "these tests kill no server")]
mod server;
#[allow(dead_code, reason = "nobody here asks without TLS")]
mod xds_client;

use std::net::SocketAddr;
use std::path::PathBuf;
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
use xds_client::{Asking, KEY};

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
    start_as(server.kubeconfig(), renewal).await
}

async fn start_as(kubeconfig: PathBuf, renewal: Renewal) -> SocketAddr {
    let at = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    let secure = at();
    let cluster = ClusterOptions {
        kubeconfig: Some(kubeconfig),
        context: None,
        namespace: "istio-system".to_owned(),
        revision: "default".to_owned(),
        pod: "istiod-test".to_owned(),
        cluster: "Kubernetes".to_owned(),
        proxy_image: "meltemi:test".to_owned(),
        proxy_pull_policy: String::new(),
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

/// A token of a service account for an audience.
async fn token(cluster: &Cluster, namespace: &str, account: &str, audiences: &[&str]) -> String {
    let request =
        json!({"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"audiences": audiences}});
    let accounts = Place::list("v1", "serviceaccounts", Some(namespace));
    let made = cluster.create(&accounts.object(&format!("{account}/token")), &request).await.unwrap();
    made["status"]["token"].as_str().unwrap().to_owned()
}

/// How istiod itself reaches the API server, with the rights that the installer gives it and no other.
async fn as_installed(server: &ApiServer, cluster: &Cluster) -> tempfile::TempDir {
    const KINDS: [&str; 5] = ["ServiceAccount", "ClusterRole", "ClusterRoleBinding", "Role", "RoleBinding"];
    for object in installer::manifest(&installer::Values::default()).unwrap() {
        let kind = object["kind"].as_str().unwrap();
        if KINDS.contains(&kind) {
            let api = object["apiVersion"].as_str().unwrap();
            let list = Place::list(api, &format!("{}s", kind.to_lowercase()), object["metadata"]["namespace"].as_str());
            cluster.create(&list, &object).await.unwrap();
        }
    }
    let mut config: Value = serde_json::from_str(&std::fs::read_to_string(server.kubeconfig()).unwrap()).unwrap();
    config["users"][0]["user"]["token"] = token(cluster, "istio-system", "istiod", &[]).await.into();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config"), config.to_string()).unwrap();
    folder
}

#[tokio::test(flavor = "multi_thread")]
async fn a_key_is_sent_only_to_whose_account_may_list_secrets() {
    let Some(server) = ApiServer::start().await else { return };
    let cluster = server.connect().await;
    prepared(&cluster).await;
    let other = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "other"}});
    cluster.create(&Place::list("v1", "namespaces", None), &other).await.unwrap();
    let secret = |namespace: &str, mark: &str| {
        json!({"apiVersion": "v1", "kind": "Secret", "type": "kubernetes.io/tls",
            "metadata": {"name": "own", "namespace": namespace},
            "data": {"tls.crt": STANDARD.encode(mark), "tls.key": STANDARD.encode(KEY), "ca.crt": STANDARD.encode("roots")}})
    };
    for namespace in ["prod", "other"] {
        let of = |api: &str, plural: &str| Place::list(api, plural, Some(namespace));
        let account =
            json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": "pay", "namespace": namespace}});
        cluster.create(&of("v1", "serviceaccounts"), &account).await.unwrap();
        cluster.create(&of("v1", "secrets"), &secret(namespace, "first")).await.unwrap();
        let rule = json!({"apiVersion": "networking.istio.io/v1", "kind": "DestinationRule",
            "metadata": {"name": "own", "namespace": namespace},
            "spec": {"host": "a.example", "workloadSelector": {"matchLabels": {"app": "pay"}},
                "trafficPolicy": {"tls": {"mode": "MUTUAL", "credentialName": "own"}}}});
        cluster.create(&of("networking.istio.io/v1", "destinationrules"), &rule).await.unwrap();
    }
    let rights = "rbac.authorization.k8s.io/v1";
    let role = json!({"apiVersion": rights, "kind": "Role", "metadata": {"name": "secrets", "namespace": "prod"},
        "rules": [{"apiGroups": [""], "resources": ["secrets"], "verbs": ["list"]}]});
    cluster.create(&list(rights, "roles"), &role).await.unwrap();
    let binding = json!({"apiVersion": rights, "kind": "RoleBinding", "metadata": {"name": "secrets", "namespace": "prod"},
        "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "Role", "name": "secrets"},
        "subjects": [{"kind": "ServiceAccount", "name": "pay", "namespace": "prod"}]});
    cluster.create(&list(rights, "rolebindings"), &binding).await.unwrap();

    let installed = as_installed(&server, &cluster).await;
    let at = start_as(installed.path().join("config"), Renewal::default()).await;
    let made = Place::list("v1", "secrets", Some("istio-system")).object("istio-ca-secret");
    until("the authority", async || cluster.read(&made).await.unwrap().is_some()).await;
    let root = cluster.read(&made).await.unwrap().unwrap()["data"]["ca-cert.pem"].as_str().unwrap().to_owned();
    let root = String::from_utf8(STANDARD.decode(root).unwrap()).unwrap();

    let asked = ["kubernetes://own", "kubernetes://own-cacert", "kubernetes://prod/own"];
    let of_prod = token(&cluster, "prod", "pay", &["istio-ca"]).await;
    let mut pay = Asking::over_tls(at, &root, "prod", &of_prod, &asked).await;
    until("the key", async || pay.next().await.unwrap().has(KEY)).await;
    let of_other = token(&cluster, "other", "pay", &["istio-ca"]).await;
    let mut poor = Asking::over_tls(at, &root, "other", &of_other, &asked).await;
    let sent = poor.next().await.unwrap();
    assert_eq!(sent.names, ["kubernetes://own-cacert"], "roots are no secret");
    assert!(!sent.has(KEY));

    // A change reaches who may have it, on the stream that is there.
    let secrets = Place::list("v1", "secrets", Some("prod"));
    cluster.merge(&secrets.object("own"), &json!({"data": {"tls.crt": STANDARD.encode("second")}})).await.unwrap();
    until("the new certificate", async || {
        let sent = pay.next().await.unwrap();
        sent.has("second") && sent.has(KEY)
    })
    .await;
    assert!(poor.is_silent().await);
}
