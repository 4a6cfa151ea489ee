//! TLS that a DestinationRule asks for, towards servers outside the mesh.

use std::path::Path;
use std::sync::Arc;

use hyper_util::rt::TokioIo;
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, ExtendedKeyUsagePurpose, IsCa, KeyPair};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

use crate::server::{Act, Server, State, http, listen};
use crate::world::{Mesh, get};

/// An authority with a server's and a client's certificate; all as files.
pub struct Authority {
    files: tempfile::TempDir,
    issuer: CertifiedIssuer<'static, KeyPair>,
}

impl Authority {
    pub fn new() -> Self {
        let mut params = CertificateParams::new(Vec::new()).expect("parameters");
        params.distinguished_name.push(rcgen::DnType::CommonName, "the authority");
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![rcgen::KeyUsagePurpose::KeyCertSign, rcgen::KeyUsagePurpose::CrlSign];
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().expect("a key")).expect("a root");
        let authority = Self { files: tempfile::tempdir().expect("a directory"), issuer };
        authority.write("ca.pem", &authority.issuer.pem());
        for (name, san) in [("server", "server.example"), ("client", "client.example")] {
            authority.issue(name, san, |_| {});
        }
        for (name, revoked) in [("none.crl", 99_u64), ("server.crl", 7), ("client.crl", 8)] {
            let now = rcgen::date_time_ymd(2020, 1, 1);
            let params = rcgen::CertificateRevocationListParams {
                this_update: now,
                next_update: rcgen::date_time_ymd(2100, 1, 1),
                crl_number: rcgen::SerialNumber::from(1_u64),
                issuing_distribution_point: None,
                revoked_certs: vec![rcgen::RevokedCertParams {
                    serial_number: rcgen::SerialNumber::from(revoked),
                    revocation_time: now,
                    reason_code: None,
                    invalidity_date: None,
                }],
                key_identifier_method: rcgen::KeyIdMethod::Sha256,
            };
            let list = params.signed_by(&authority.issuer).expect("a list");
            authority.write(name, &list.pem().expect("PEM"));
        }
        authority
    }

    /// A certificate of a name, made as is said, as `FILE.pem` and `FILE.key`.
    pub fn issue(&self, file: &str, san: &str, with: impl FnOnce(&mut CertificateParams)) {
        let key = KeyPair::generate().expect("a key");
        let mut params = CertificateParams::new(vec![san.to_owned()]).expect("parameters");
        params.distinguished_name.push(rcgen::DnType::CommonName, san);
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
        params.serial_number = Some(rcgen::SerialNumber::from(if file == "server" { 7_u64 } else { 8 }));
        with(&mut params);
        let certificate = params.signed_by(&key, &self.issuer).expect("a certificate");
        self.write(&format!("{file}.pem"), &certificate.pem());
        self.write(&format!("{file}.key"), &key.serialize_pem());
    }

    fn write(&self, name: &str, text: &str) {
        std::fs::write(self.files.path().join(name), text).expect("it can be written");
    }

    pub fn path(&self, name: &str) -> String {
        self.files.path().join(name).display().to_string()
    }
}

pub fn chain(path: &Path) -> Vec<CertificateDer<'static>> {
    CertificateDer::pem_file_iter(path).expect("a file").collect::<Result<_, _>>().expect("PEM")
}

/// What a server with the authority's certificate agrees to.
fn acceptor(authority: &Authority, mutual: bool) -> TlsAcceptor {
    let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
    let builder =
        ServerConfig::builder_with_provider(provider.clone()).with_safe_default_protocol_versions().expect("versions");
    let builder = if mutual {
        let mut roots = RootCertStore::empty();
        chain(Path::new(&authority.path("ca.pem"))).into_iter().for_each(|c| roots.add(c).expect("a root"));
        let verifier =
            WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider).build().expect("a verifier");
        builder.with_client_cert_verifier(verifier)
    } else {
        builder.with_no_client_auth()
    };
    let key = PrivateKeyDer::from_pem_file(authority.path("server.key")).expect("a key");
    let config = builder.with_single_cert(chain(Path::new(&authority.path("server.pem"))), key).expect("a certificate");
    TlsAcceptor::from(Arc::new(config))
}

/// Speaks TLS and echoes; the server name that was asked for is kept.
async fn talk<S>(state: Arc<State>, acceptor: TlsAcceptor, stream: S)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let Ok(stream) = acceptor.accept(stream).await else { return };
    let name = stream.get_ref().1.server_name().unwrap_or_default().to_owned();
    state.names.lock().push(name);
    http(state, TokioIo::new(stream), false).await;
}

/// An HTTPS server that echoes.
async fn server(authority: &Authority, mutual: bool) -> Server {
    let listener = listen().await;
    let server = Server::state("secure", listener.local_addr().unwrap(), |_| Act::Echo);
    let (state, acceptor) = (server.0.clone(), acceptor(authority, mutual));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(state.clone(), acceptor.clone(), stream));
        }
    });
    server
}

#[tokio::test]
async fn certificates_from_files() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let ca = format!("caCertificates: {}", ours.path("ca.pem"));
    let client = format!("clientCertificate: {}, privateKey: {}", ours.path("client.pem"), ours.path("client.key"));
    for (settings, mutual, works) in [
        (format!("mode: SIMPLE, {ca}"), false, true),
        (format!("mode: SIMPLE, caCertificates: {}", theirs.path("ca.pem")), false, false),
        (format!("mode: SIMPLE, {ca}, subjectAltNames: [server.example]"), false, true),
        (format!("mode: SIMPLE, {ca}, subjectAltNames: [other.example]"), false, false),
        ("mode: SIMPLE, insecureSkipVerify: true".to_owned(), false, true),
        (format!("mode: SIMPLE, {ca}"), true, false),
        (format!("mode: MUTUAL, {ca}, {client}"), true, true),
        (format!("mode: SIMPLE, {ca}, caCrl: {}", ours.path("none.crl")), false, true),
        (format!("mode: SIMPLE, {ca}, caCrl: {}", ours.path("server.crl")), false, false),
        ("mode: DISABLE".to_owned(), false, false),
    ] {
        let server = server(&ours, mutual).await;
        let mut mesh = Mesh::new();
        mesh.http("web", &[("", &server)]);
        mesh.destination_rule("web", &format!("host: web\ntrafficPolicy: {{tls: {{{settings}, sni: asked.example}}}}"));
        mesh.virtual_service(
            "web",
            "hosts: [web]\nhttp: [{retries: {attempts: 0}, timeout: 3s, route: [{destination: {host: web}}]}]",
        );
        let world = mesh.start().await;
        let answer = world.send(get("web", "/")).await;
        assert_eq!(answer.status == 200, works, "{settings}: {answer:?}");
        if works {
            assert_eq!(*server.0.names.lock(), ["asked.example"], "{settings}");
        }
    }
}

/// A Secret of the namespace `shop`: a client's certificate and key, and the roots of the server.
fn secret(name: &str, files: &[(&str, String)]) -> String {
    let read = |path: &String| std::fs::read_to_string(path).expect("a file");
    let data: Vec<String> =
        files.iter().map(|(key, path)| format!("\"{key}\": {}", serde_json::to_string(&read(path)).unwrap())).collect();
    format!(
        "apiVersion: v1\nkind: Secret\nmetadata: {{name: {name}, namespace: shop}}\nstringData: {{{}}}",
        data.join(", ")
    )
}

fn credentials(server: &Server, mode: &str, secrets: &[String]) -> Mesh {
    let mut mesh = Mesh::new();
    mesh.http("web", &[("", server)]);
    mesh.destination_rule(
        "web",
        &format!(
            "host: web\nworkloadSelector: {{matchLabels: {{app: client}}}}\n\
             trafficPolicy: {{tls: {{mode: {mode}, credentialName: own, sni: asked.example}}}}"
        ),
    );
    mesh.virtual_service(
        "web",
        "hosts: [web]\nhttp: [{retries: {attempts: 0}, timeout: 3s, route: [{destination: {host: web}}]}]",
    );
    for secret in secrets {
        mesh.rule(secret);
    }
    mesh
}

#[tokio::test]
async fn certificates_from_secrets() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let client = |of: &Authority, names: [&'static str; 2]| {
        names.into_iter().zip([of.path("client.pem"), of.path("client.key")]).collect::<Vec<_>>()
    };
    let (tls, generic) = (["tls.crt", "tls.key"], ["cert", "key"]);
    let with = |mut files: Vec<(&'static str, String)>, more: &[(&'static str, String)]| {
        files.extend_from_slice(more);
        files
    };
    let ca = |of: &Authority| of.path("ca.pem");
    for (case, mode, secrets, mutual, works) in [
        ("tls", "MUTUAL", vec![secret("own", &with(client(&ours, tls), &[("ca.crt", ca(&ours))]))], true, true),
        ("generic", "MUTUAL", vec![secret("own", &with(client(&ours, generic), &[("cacert", ca(&ours))]))], true, true),
        (
            "roots apart",
            "MUTUAL",
            vec![secret("own", &client(&ours, tls)), secret("own-cacert", &[("cacert", ca(&ours))])],
            true,
            true,
        ),
        (
            "another's client",
            "MUTUAL",
            vec![secret("own", &with(client(&theirs, tls), &[("ca.crt", ca(&ours))]))],
            true,
            false,
        ),
        (
            "other roots",
            "MUTUAL",
            vec![secret("own", &with(client(&ours, tls), &[("ca.crt", ca(&theirs))]))],
            true,
            false,
        ),
        ("roots only", "SIMPLE", vec![secret("own", &[("ca.crt", ca(&ours))])], false, true),
        (
            "no certificate shown",
            "SIMPLE",
            vec![secret("own", &with(client(&ours, tls), &[("ca.crt", ca(&ours))]))],
            true,
            false,
        ),
        (
            "nothing of it revoked",
            "SIMPLE",
            vec![secret("own", &[("cacert", ca(&ours)), ("crl", ours.path("none.crl"))])],
            false,
            true,
        ),
        (
            "revoked",
            "SIMPLE",
            vec![secret("own", &[("cacert", ca(&ours)), ("crl", ours.path("server.crl"))])],
            false,
            false,
        ),
    ] {
        let server = server(&ours, mutual).await;
        let world = credentials(&server, mode, &secrets).start().await;
        let answer = world.send(get("web", "/")).await;
        assert_eq!(answer.status == 200, works, "{case}: {answer:?}");
        if works {
            assert_eq!(*server.0.names.lock(), ["asked.example"], "{case}");
        }
    }
}

#[tokio::test]
async fn a_changed_secret_counts_for_the_next_connection() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let server = server(&ours, true).await;
    let of = |client: &Authority, roots: &Authority| {
        let files = [
            ("tls.crt", client.path("client.pem")),
            ("tls.key", client.path("client.key")),
            ("ca.crt", roots.path("ca.pem")),
        ];
        credentials(&server, "MUTUAL", &[secret("own", &files)])
    };
    let world = of(&theirs, &ours).start().await;
    assert_eq!(world.send(get("web", "/")).await.status, 503, "the server does not know the client");
    world.replace_secrets(&of(&ours, &ours));
    let mut tries = 0;
    while world.send(get("web", "/")).await.status != 200 {
        tries += 1;
        assert!(tries < 200, "the new certificate is never shown");
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    // A connection that is there is not cut, whatever comes after.
    let connections = server.0.names.lock().len();
    world.replace_secrets(&of(&theirs, &theirs));
    for _ in 0..20 {
        assert_eq!(world.send(get("web", "/")).await.status, 200);
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
    assert_eq!(server.0.names.lock().len(), connections);
}

#[tokio::test]
async fn certificates_are_checked_on_unix_sockets_too() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    let path = ours.path("socket");
    let listener = tokio::net::UnixListener::bind(&path).expect("it can be bound");
    let server = Server::state("secure", std::net::SocketAddr::from(([127, 0, 0, 1], 0)), |_| Act::Echo);
    let (state, acceptor) = (server.0.clone(), acceptor(&ours, false));
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(talk(state.clone(), acceptor.clone(), stream));
        }
    });
    for (roots, works) in [(&ours, true), (&theirs, false)] {
        let mut mesh = Mesh::new();
        mesh.rule(&format!(
            "apiVersion: networking.istio.io/v1\nkind: ServiceEntry\nmetadata: {{name: out, namespace: shop}}\n\
             spec: {{hosts: [server.example], resolution: STATIC, ports: [{{number: 80, name: http, protocol: HTTP}}], \
             endpoints: [{{address: \"unix://{path}\"}}]}}"
        ));
        let tls = format!("mode: SIMPLE, caCertificates: {}, subjectAltNames: [server.example]", roots.path("ca.pem"));
        mesh.destination_rule("out", &format!("host: server.example\ntrafficPolicy: {{tls: {{{tls}}}}}"));
        let world = mesh.start().await;
        assert_eq!(world.send(get("server.example", "/")).await.status == 200, works);
    }
    assert_eq!(*server.0.names.lock(), ["server.example"]);
}
