//! Who is sent which Secret: istiod over a directory, attacked by its own proxies.

#[path = "../../kubernetes/tests/cluster/server.rs"]
#[allow(dead_code, reason = "only a port is needed of it")]
mod server;
mod xds_client;

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use citadel::{Renewal, Tokens};
use istiod::{Istiod, IstiodOptions, SourceOptions};
use server::free_port;
use xds_client::{Asking, KEY};

const DAY: Duration = Duration::from_secs(24 * 3600);

/// A Secret of both certificate and roots; `mark` stands in its certificate.
fn secret_yaml(namespace: &str, name: &str, mark: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: {namespace}}}\n\
         stringData: {{tls.crt: {mark}, tls.key: {KEY}, ca.crt: roots of {mark}}}\n"
    )
}

fn rule(namespace: &str, credential: &str) -> String {
    format!(
        "kind: DestinationRule\napiVersion: networking.istio.io/v1\nmetadata: {{name: r, namespace: {namespace}}}\n\
         spec:\n  host: a.example\n  workloadSelector: {{matchLabels: {{app: pay}}}}\n\
         \x20 trafficPolicy: {{tls: {{mode: MUTUAL, credentialName: {credential}}}}}\n"
    )
}

/// Starts it; where it serves with and without TLS.
async fn start(source: &Path, ca: &Path) -> (SocketAddr, SocketAddr) {
    let at = || SocketAddr::from(([127, 0, 0, 1], free_port()));
    let (plain, secure) = (at(), at());
    let options = IstiodOptions {
        source: SourceOptions::Directory {
            paths: vec![source.to_owned()],
            overlay: None,
            namespace: "default".to_owned(),
            ca: ca.to_owned(),
            root_spread: Duration::from_secs(1),
        },
        trust_domain: "cluster.local".to_owned(),
        certificate_life: DAY,
        root_renewal: Renewal::default(),
        plain,
        secure,
        monitoring: at(),
        ready: at(),
    };
    let istiod = Istiod::bind(options).await.unwrap();
    tokio::spawn(istiod.run());
    (plain, secure)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_sidecar_is_sent_the_key_of_its_own_namespace_and_no_other() {
    let (source, ca) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let write = |name: &str, text: &str| {
        let new = source.path().join(format!(".{name}"));
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, source.path().join(name)).unwrap();
    };
    write("rules.yaml", &format!("{}---\n{}", rule("shop", "own"), rule("other", "theirs")));
    write("own.yaml", &secret_yaml("shop", "own", "first"));
    write("hidden.yaml", &secret_yaml("shop", "hidden", "hidden"));
    let (plain, secure) = start(source.path(), ca.path()).await;
    let tokens = Tokens::load_or_create(ca.path()).unwrap();
    let roots = std::fs::read_to_string(ca.path().join("root-cert.pem")).unwrap();
    let token = |namespace: &str| tokens.mint(namespace, "pay", DAY);

    let own = ["kubernetes://own", "kubernetes://own-cacert"];
    let mut pay = Asking::over_tls(secure, &roots, "shop", &token("shop"), &own).await;
    let sent = pay.next().await.unwrap();
    assert!(sent.has(KEY) && sent.has("first") && sent.names == own, "{:?}", sent.names);

    // Every way to what is another's, or named by no rule.
    let asked = [
        "kubernetes://own",
        "kubernetes://own-cacert",
        "kubernetes://shop/own",
        "kubernetes://hidden",
        "kubernetes-gateway://shop/own",
        "kubernetes://../shop/own",
        "own",
        "default",
        "ROOTCA",
    ];
    let mut thief = Asking::over_tls(secure, &roots, "other", &token("other"), &asked).await;
    let sent = thief.next().await.unwrap();
    assert_eq!(sent.names, [""; 0], "another namespace");
    let mut curious =
        Asking::over_tls(secure, &roots, "shop", &token("shop"), &["kubernetes://hidden", "kubernetes://own"]).await;
    assert_eq!(curious.next().await.unwrap().names, ["kubernetes://own"], "what no rule names");
    // It says that it is of the other namespace, or does not prove anything.
    let mut liar = Asking::over_tls(secure, &roots, "shop", &token("other"), &own).await;
    assert_eq!(liar.next().await.unwrap_err().code(), tonic::Code::PermissionDenied);
    let mut nobody = Asking::over_tls(secure, &roots, "shop", "", &own).await;
    assert_eq!(nobody.next().await.unwrap_err().code(), tonic::Code::Unauthenticated);
    let mut unproved = Asking::in_plain_text(plain, "shop", &token("shop"), &own).await;
    assert_eq!(unproved.next().await.unwrap().names, [""; 0], "15010 proves nothing");

    // New content reaches who has it, on the same stream; nobody else is told.
    write("own.yaml", &secret_yaml("shop", "own", "second"));
    let sent = pay.next().await.unwrap();
    assert!(sent.has("second") && sent.has(KEY) && sent.names == own);
    assert!(thief.is_silent().await && unproved.is_silent().await);
}
