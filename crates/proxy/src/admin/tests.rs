//! The pages as their readers ask for them.

use parking_lot::Mutex;

use super::*;
use crate::ProxyOptions;

/// One logger.
#[derive(Default)]
struct One(Mutex<Option<String>>);

impl Logging for One {
    fn levels(&self) -> Vec<(String, String)> {
        vec![("http".to_owned(), self.0.lock().clone().unwrap_or_else(|| "warning".to_owned()))]
    }

    fn set(&self, logger: Option<&str>, level: &str) -> Result<(), String> {
        if logger.is_some_and(|name| name != "http") {
            return Err("unknown logger name".to_owned());
        }
        *self.0.lock() = Some(level.to_owned());
        Ok(())
    }
}

fn admin() -> Arc<Admin> {
    let workload = telemetry::Workload::unknown();
    let proxy = Proxy::start(ProxyOptions {
        workers: 1,
        node_id: "sidecar~127.0.0.1~pay-1.prod~prod.svc.cluster.local".to_owned(),
        telemetry: telemetry::Telemetry::new(workload),
        secrets: Arc::default(),
        undecided: crate::UNDECIDED,
    });
    Arc::new(Admin {
        proxy: proxy.unwrap(),
        ready: Arc::new(|| true),
        drain: Duration::ZERO,
        bootstrap: json!({"node": {"id": "pay"}, "static_resources": {"clusters": [{"name": "local_cluster"}]}}),
        logging: Arc::new(One::default()),
    })
}

async fn asked(admin: &Admin, method: Method, path: &str) -> (u16, String) {
    use http_body_util::BodyExt as _;
    let (path, query) = path.split_once('?').unwrap_or((path, ""));
    let response = page(admin, &method, path, query);
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.unwrap().to_bytes();
    (status, String::from_utf8_lossy(&body).into_owned())
}

#[tokio::test]
async fn the_dump_has_envoys_sections_and_no_keys() {
    let admin = admin();
    let made = rcgen::generate_simple_self_signed(vec!["spiffe.test".to_owned()]).unwrap();
    let (chain, key) = (made.cert.pem(), made.signing_key.serialize_pem());
    admin.proxy.secrets().certificate("default").set(&chain, &key).unwrap();
    admin.proxy.secrets().roots("ROOTCA").set_pem(&chain).unwrap();
    admin.proxy.secrets().certificate("file-cert:later");
    // As it comes from the control plane, with its key.
    let kind = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    let sent = json!({"@type": kind, "name": "kubernetes://own", "tlsCertificate":
        {"certificateChain": {"inlineString": chain}, "privateKey": {"inlineString": key}}});
    let sent = ("kubernetes://own".to_owned(), envoy_api::any_from_json(sent).unwrap());
    admin.proxy.apply(kind, &[sent], &[]).unwrap();
    let (_, text) = asked(&admin, Method::GET, "/config_dump?include_eds").await;
    let dump: Value = serde_json::from_str(&text).unwrap();
    let kinds: Vec<&str> =
        dump["configs"].as_array().unwrap().iter().filter_map(|c| c["@type"].as_str()?.rsplit('.').next()).collect();
    let all = ["Bootstrap", "Clusters", "Endpoints", "Listeners", "ScopedRoutes", "Routes", "Secrets"];
    assert_eq!(kinds, all.map(|k| format!("{k}ConfigDump")));
    assert_eq!(dump["configs"][0]["bootstrap"]["node"]["id"], "pay");
    assert_eq!(dump["configs"][1]["static_clusters"][0]["cluster"]["name"], "local_cluster");

    let secrets = &dump["configs"][6];
    let active = &secrets["dynamic_active_secrets"];
    let decoded = |value: &Value| {
        use base64::Engine as _;
        let bytes = base64::engine::general_purpose::STANDARD.decode(value["inline_bytes"].as_str().unwrap()).unwrap();
        String::from_utf8(bytes).unwrap()
    };
    let same = |a: &str, b: &str| a.split_whitespace().eq(b.split_whitespace());
    assert!(same(&decoded(&active[0]["secret"]["tls_certificate"]["certificate_chain"]), &chain), "{secrets}");
    assert_eq!(decoded(&active[0]["secret"]["tls_certificate"]["private_key"]), "[redacted]");
    assert_eq!(active[1]["name"], "kubernetes://own");
    assert_eq!(decoded(&active[1]["secret"]["tls_certificate"]["private_key"]), "[redacted]");
    assert!(same(&decoded(&active[2]["secret"]["validation_context"]["trusted_ca"]), &chain), "{secrets}");
    assert_eq!(secrets["dynamic_warming_secrets"][0]["name"], "file-cert:later");
    let inner: String = key.lines().filter(|l| !l.starts_with('-')).take(1).collect();
    let encoded = base64::Engine::encode(&base64::engine::general_purpose::STANDARD, &key);
    assert!(!text.contains(&inner) && !text.contains(&encoded), "a private key left the process");
}

#[tokio::test]
async fn one_list_of_the_dump_can_be_asked_for() {
    let admin = admin();
    let (status, text) = asked(&admin, Method::GET, "/config_dump?resource=bootstrap").await;
    let dump: Value = serde_json::from_str(&text).unwrap();
    assert_eq!((status, &dump["configs"][0]["node"]["id"]), (200, &json!("pay")));
    let (status, text) = asked(&admin, Method::GET, "/config_dump?resource=nosuch").await;
    assert!(status == 404 && text.contains("nosuch not found"), "{text}");
}

#[tokio::test]
async fn levels_are_shown_and_changed_by_post() {
    let admin = admin();
    assert_eq!(asked(&admin, Method::GET, "/logging").await.0, 405);
    let shown = asked(&admin, Method::POST, "/logging").await;
    assert_eq!(shown, (200, "active loggers:\n  http: warning\n\n".to_owned()));
    for (query, level) in [("level=error", "error"), ("http=debug", "debug"), ("paths=http:trace", "trace")] {
        let (_, text) = asked(&admin, Method::POST, &format!("/logging?{query}")).await;
        assert!(text.contains(&format!("  http: {level}\n")), "{query}: {text}");
    }
    for query in ["nosuch=debug", "debug", "paths=http"] {
        let (status, text) = asked(&admin, Method::POST, &format!("/logging?{query}")).await;
        assert!(status == 400 && text.starts_with("error: "), "{query}: {text}");
    }
    assert!(asked(&admin, Method::POST, "/logging").await.1.contains("http: trace"), "unchanged by mistakes");
}
