//! Who is refused: by our sidecar as a server, and by our sidecar as a client.

use std::path::Path;
use std::process::Output;
use std::time::Duration;

use citadel::Authority;
use mtls::SpiffeId;
use rcgen::{CertificateParams, KeyPair, SanType};

use crate::shop::{Shop, deployment, service};

const HOUR: Duration = Duration::from_secs(3600);

fn account(name: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "production", name)
}

/// Writes a certificate and its key where a pod's process can read them.
fn keep(folder: &Path, name: &str, chain: &str, key: &str) {
    std::fs::write(folder.join(format!("{name}.crt")), chain).unwrap();
    std::fs::write(folder.join(format!("{name}.key")), key).unwrap();
}

/// A TLS server with a certificate of our choice, which its clients take for a pod with a sidecar.
fn impostor(folder: &Path, name: &str, certificate: &str) -> String {
    let plain = deployment("production", name, 1, &format!("{name}-sa"), name, "v1", "");
    let labels = format!("labels: {{app: {name}, version: v1}}}}\n    spec:");
    let command = format!("command: [meltemi, app, --name, {name}, --version, v1, ]");
    assert!(plain.contains(&labels) && plain.contains(&command), "{plain}");
    let file = |suffix: &str| folder.join(format!("{certificate}.{suffix}")).display().to_string();
    plain
        .replace(
            &labels,
            &format!(
                "labels: {{app: {name}, version: v1, security.istio.io/tlsMode: istio}}, \
                 annotations: {{sidecar.istio.io/inject: \"false\"}}}}\n    spec:"
            ),
        )
        .replace(
            &command,
            &format!(
                "command: [openssl, s_server, -accept, \"8080\", -cert, {}, -key, {}, -www, -quiet]",
                file("crt"),
                file("key")
            ),
        )
        + &service(name, 8080, "http")
}

/// What curl says, from a pod without sidecar, to a payment pod's address.
fn curl(shop: &Shop, words: &[&str]) -> Output {
    let mut all = vec!["curl", "-sS", "-o", "/dev/null", "-w", "%{http_code}", "--max-time", "10"];
    all.extend(words);
    shop.mesh.exec("legacy", "deploy/legacy-client", &all).unwrap()
}

#[test]
#[ignore = "needs root and network namespaces; scripts/test runs it"]
fn false_identities_are_refused_on_both_sides() {
    // The mesh's authority exists before the mesh, so that pods can be given its certificates from the start.
    let elsewhere = tempfile::tempdir().unwrap();
    let files = elsewhere.path().to_owned();
    let shop = Shop::with(
        |folder| {
            let mesh = Authority::load_or_create(&folder.join(".state/mesh/ca"), "cluster.local").unwrap();
            let issue = |name: &str, id: &SpiffeId, life: Duration| {
                let issued = mesh.issue(id, &[], life).unwrap();
                keep(&files, name, &issued.chain, &issued.key);
            };
            issue("good", &account("order-service-sa"), HOUR);
            issue("expired", &account("order-service-sa"), Duration::ZERO);
            issue("foreign-domain", &SpiffeId::new("evil.local", "production", "order-service-sa"), HOUR);
            issue("honest", &account("honest-sa"), HOUR);
            issue("liar", &account("somebody-else-sa"), HOUR);
            let other = Authority::load_or_create(&files.join("other-ca"), "cluster.local").unwrap();
            let issued = other.issue(&account("order-service-sa"), &[], HOUR).unwrap();
            keep(&files, "foreign-root", &issued.chain, &issued.key);
            self_signed(&files);
            vec![
                ("honest.yaml".to_owned(), impostor(&files, "honest", "honest")),
                ("liar.yaml".to_owned(), impostor(&files, "liar", "liar")),
            ]
        },
        |_| {},
    );
    as_a_client(&shop, &files);
    as_a_server(&shop);
}

/// The right names, signed by nobody else.
fn self_signed(files: &Path) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    let uri = "spiffe://cluster.local/ns/production/sa/order-service-sa";
    params.subject_alt_names = vec![SanType::URI(uri.try_into().unwrap())];
    let certificate = params.self_signed(&key).unwrap();
    keep(files, "self-signed", &certificate.pem(), &key.serialize_pem());
}

/// Certificates that our sidecar must not take from a client, each beside one that it takes.
fn as_a_client(shop: &Shop, files: &Path) {
    let address = shop.mesh.pods("production", "payment-api-v1").unwrap()[0].ip.unwrap();
    let (secure, plain) = (format!("https://{address}:8080/"), format!("http://{address}:8080/"));
    let with = |name: &str| {
        let [certificate, key] = ["crt", "key"].map(|s| files.join(format!("{name}.{s}")).display().to_string());
        curl(shop, &["-k", "--http1.1", "--cert", &certificate, "--key", &key, &secure])
    };
    let good = with("good");
    assert_eq!(String::from_utf8_lossy(&good.stdout), "200", "the attack itself works: {good:?}");
    for name in ["expired", "foreign-domain", "foreign-root", "self-signed"] {
        let refused = with(name);
        assert!(!refused.status.success(), "{name} was let in: {refused:?}");
        assert_eq!(String::from_utf8_lossy(&refused.stdout), "000", "{name} got an answer: {refused:?}");
    }
    let without = curl(shop, &["-k", "--http1.1", &secure]);
    assert!(!without.status.success(), "no certificate at all was let in: {without:?}");
    let refused = curl(shop, &[&plain]);
    assert!(!refused.status.success(), "plain text was let in under STRICT: {refused:?}");
    // Nothing of all that has harmed it.
    assert_eq!(String::from_utf8_lossy(&with("good").stdout), "200");
}

/// A server of the right root with a name that is not the service's.
fn as_a_server(shop: &Shop) {
    let ask = |host: &str, id: &str| {
        let (url, id) = (format!("http://{host}:8080/"), format!("x-request-id: {id}"));
        shop.app("production", "deploy/order-service", &["get", &url, "-H", &id])
    };
    let honest = ask("honest", "to-honest");
    assert!(honest.status.success(), "{}", String::from_utf8_lossy(&honest.stderr));
    let liar = ask("liar", "to-liar");
    assert!(!liar.status.success(), "{}", String::from_utf8_lossy(&liar.stdout));
    let entry = shop.entry("order-service", "to-liar");
    assert_eq!(entry["response_code"], 503, "{entry}");
    assert!(entry["response_flags"].as_str().is_some_and(|flags| flags.contains("UF")), "{entry}");
    let why = entry["upstream_transport_failure_reason"].to_string();
    assert!(why.contains("CERTIFICATE_VERIFY_FAILED") || why.to_lowercase().contains("certificate"), "{entry}");
}
