//! Callers outside the mesh: listeners that a Sidecar opens itself, and TLS that ends there.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering::SeqCst};

use bytes::Bytes;
use http_body_util::Full;
use hyper_util::rt::TokioIo;
use rcgen::ExtendedKeyUsagePurpose;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{PrivateKeyDer, ServerName};
use tokio_rustls::rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion, version};

use crate::server::{Server, listen};
use crate::tls::{Authority, chain};
use crate::world::{Mesh, World, get, read};

/// An address and a port that nothing listens on: those that a Sidecar opens are fixed ones.
pub fn place() -> SocketAddr {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    let (n, process) = (NEXT.fetch_add(1, SeqCst), std::process::id());
    let byte = |n: u32| u8::try_from(n % 250).unwrap_or(0);
    let ip = Ipv4Addr::new(127, 100 + byte(process) % 100, byte(n / 250), 1 + byte(n));
    let probe = std::net::TcpListener::bind((ip, 0)).expect("loopback can be bound");
    probe.local_addr().expect("it is bound")
}

/// The name of the listener there.
pub fn name(at: SocketAddr) -> String {
    format!("{}_{}", at.ip(), at.port())
}

/// The client's own workload behind its Sidecar, which listens at a place of its own, without interception; the mesh's
/// mTLS is switched off.
async fn open(at: SocketAddr, protocol: &str, application: &str, more: &str) -> World {
    let mut mesh = Mesh::new();
    mesh.client_locality("region");
    mesh.rule(
        "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: plain, namespace: shop}\n\
         spec: {mtls: {mode: DISABLE}}",
    );
    mesh.rule(&format!(
        "apiVersion: networking.istio.io/v1\nkind: Sidecar\nmetadata: {{name: own, namespace: shop}}\nspec:\n  ingress:\n  \
         - {{port: {{number: {}, protocol: {protocol}, name: web}}, bind: {}, captureMode: NONE, \
         defaultEndpoint: \"{application}\"{more}}}\n",
        at.port(),
        at.ip()
    ));
    let world = mesh.start().await;
    assert_eq!(world.entry(&name(at)), at, "the socket is the Sidecar's");
    world
}

#[tokio::test]
async fn a_sidecar_opens_ports_of_its_own() {
    let server = Server::echo("web").await;
    let at = place();
    for protocol in ["HTTP", "\"\""] {
        let at = place();
        let world = open(at, protocol, &server.0.address.to_string(), "").await;
        let answer = world.send_to(&name(at), get("web", "/x")).await;
        assert_eq!((answer.status.as_u16(), answer.server()), (200, "web"), "{protocol:?}");
    }
    let (greeter, unknown) = (Server::tcp("db").await, listen().await);
    let _world = open(at, "TCP", &greeter.0.address.to_string(), "").await;
    let mut stream = TcpStream::connect(at).await.expect("it is open");
    stream.write_all(b"ping").await.expect("it is open");
    let mut back = [0; 7];
    stream.read_exact(&mut back).await.expect("bytes");
    assert_eq!(&back, b"db\nping");
    // The address is that one alone.
    assert!(TcpStream::connect((unknown.local_addr().expect("it is bound").ip(), at.port())).await.is_err());
}

/// What a client brings.
#[derive(Clone, Copy)]
struct Client<'a> {
    server: &'a Authority,
    /// Whose certificate of which name is shown.
    shows: Option<(&'a Authority, &'a str)>,
    versions: &'static [&'static SupportedProtocolVersion],
    alpn: &'static [&'static str],
}

const BOTH: &[&SupportedProtocolVersion] = &[&version::TLS12, &version::TLS13];
const TLS12: &[&SupportedProtocolVersion] = &[&version::TLS12];
const TLS13: &[&SupportedProtocolVersion] = &[&version::TLS13];

impl Client<'_> {
    async fn dial(&self, at: SocketAddr) -> io::Result<TlsStream<TcpStream>> {
        let provider = Arc::new(tokio_rustls::rustls::crypto::aws_lc_rs::default_provider());
        let mut roots = RootCertStore::empty();
        chain(Path::new(&self.server.path("ca.pem"))).into_iter().for_each(|c| roots.add(c).expect("a root"));
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(self.versions)
            .expect("versions")
            .with_root_certificates(roots);
        let mut config = match self.shows {
            None => builder.with_no_client_auth(),
            Some((of, name)) => {
                let key = PrivateKeyDer::from_pem_file(of.path(&format!("{name}.key"))).expect("a key");
                let shown = chain(Path::new(&of.path(&format!("{name}.pem"))));
                builder.with_client_auth_cert(shown, key).expect("a certificate")
            }
        };
        config.alpn_protocols = self.alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
        let name = ServerName::try_from("server.example").expect("a name");
        TlsConnector::from(Arc::new(config)).connect(name, TcpStream::connect(at).await?).await
    }

    /// Whether a request is answered.
    async fn is_served(&self, at: SocketAddr) -> bool {
        let Ok(stream) = self.dial(at).await else { return false };
        let Ok((mut sender, connection)) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await else {
            return false;
        };
        let request = get("web", "/").body(Full::new(Bytes::new())).expect("a request");
        let answer = sender.send_request(request);
        tokio::spawn(connection);
        match answer.await {
            Ok(answer) => read(answer).await.server() == "web",
            Err(_) => false,
        }
    }
}

fn tls(of: &Authority, more: &str) -> String {
    let (certificate, key) = (of.path("server.pem"), of.path("server.key"));
    format!(", tls: {{serverCertificate: {certificate}, privateKey: {key}, {more}}}")
}

#[tokio::test]
async fn tls_of_callers_ends_at_the_sidecar() {
    let ours = Authority::new();
    let server = Server::echo("web").await;
    let at = place();
    let _world = open(at, "HTTPS", &server.0.address.to_string(), &tls(&ours, "mode: SIMPLE")).await;
    let to = at;
    let client = Client { server: &ours, shows: None, versions: BOTH, alpn: &[] };
    assert!(client.is_served(to).await);
    let by_http2 = Client { alpn: &["h2", "http/1.1"], ..client }.dial(to).await.expect("TLS");
    assert_eq!(by_http2.get_ref().1.alpn_protocol(), Some(&b"h2"[..]));
    // Who speaks plain text, or something else altogether, is not heard.
    for said in
        [&b"GET / HTTP/1.1\r\nhost: web\r\n\r\n"[..], b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x16\x03\x01\x00\x00"]
    {
        let mut stream = TcpStream::connect(to).await.expect("it is open");
        let _ = stream.write_all(said).await;
        let _ = stream.shutdown().await;
        let mut back = Vec::new();
        let _ = stream.read_to_end(&mut back).await;
        assert!(!back.starts_with(b"HTTP/1.1 200"), "{:?}", String::from_utf8_lossy(&back));
    }
    assert_eq!(server.count(), 1);

    let bytes = Server::tcp("db").await;
    let at = place();
    let _world = open(at, "TLS", &bytes.0.address.to_string(), &tls(&ours, "mode: SIMPLE")).await;
    let mut stream = client.dial(at).await.expect("TLS");
    stream.write_all(b"ping").await.expect("it is open");
    let mut back = [0; 7];
    stream.read_exact(&mut back).await.expect("bytes");
    assert_eq!(&back, b"db\nping");
}

#[tokio::test]
async fn callers_show_certificates_that_count() {
    let (ours, theirs) = (Authority::new(), Authority::new());
    ours.issue("old", "client.example", |params| params.not_after = rcgen::date_time_ymd(2020, 1, 1));
    ours.issue("early", "client.example", |params| params.not_before = rcgen::date_time_ymd(2100, 1, 1));
    ours.issue("no-client", "client.example", |params| {
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
    });
    let server = Server::echo("web").await;
    let roots = format!("caCertificates: {}", ours.path("ca.pem"));
    let shown: [(&str, Option<(&Authority, &str)>); 6] = [
        ("none", None),
        ("ours", Some((&ours, "client"))),
        ("another authority's", Some((&theirs, "client"))),
        ("expired", Some((&ours, "old"))),
        ("not yet valid", Some((&ours, "early"))),
        ("for servers alone", Some((&ours, "no-client"))),
    ];
    for (settings, served) in [
        (format!("mode: MUTUAL, {roots}"), [false, true, false, false, false, false]),
        (format!("mode: MUTUAL, {roots}, caCrl: {}", ours.path("none.crl")), [false, true, false, false, false, false]),
        (format!("mode: MUTUAL, {roots}, caCrl: {}", ours.path("client.crl")), [false; 6]),
        (format!("mode: OPTIONAL_MUTUAL, {roots}"), [true, true, false, false, false, false]),
    ] {
        let at = place();
        let _world = open(at, "HTTPS", &server.0.address.to_string(), &tls(&ours, &settings)).await;
        for ((case, shows), expected) in shown.into_iter().zip(served) {
            for versions in [TLS12, TLS13] {
                let client = Client { server: &ours, shows, versions, alpn: &["http/1.1"] };
                assert_eq!(client.is_served(at).await, expected, "{settings}: {case}");
            }
        }
    }
}

#[tokio::test]
async fn versions_and_suites_of_callers_have_limits() {
    let ours = Authority::new();
    let server = Server::echo("web").await;
    for (settings, by_tls12, by_tls13) in [
        ("mode: SIMPLE", true, true),
        ("mode: SIMPLE, minProtocolVersion: TLSV1_3", false, true),
        ("mode: SIMPLE, maxProtocolVersion: TLSV1_2", true, false),
        // Those of TLS 1.3 are not chosen; the authority's keys are ECDSA.
        ("mode: SIMPLE, cipherSuites: [ECDHE-RSA-AES256-GCM-SHA384]", false, true),
        ("mode: SIMPLE, cipherSuites: [ECDHE-ECDSA-AES128-GCM-SHA256]", true, true),
    ] {
        let at = place();
        let _world = open(at, "HTTPS", &server.0.address.to_string(), &tls(&ours, settings)).await;
        for (versions, expected) in [(TLS12, by_tls12), (TLS13, by_tls13)] {
            let client = Client { server: &ours, shows: None, versions, alpn: &[] };
            assert_eq!(client.is_served(at).await, expected, "{settings} {versions:?}");
        }
    }
}

#[tokio::test]
async fn a_certificate_that_is_not_there_serves_nobody() {
    let ours = Authority::new();
    let server = Server::echo("web").await;
    if std::env::var("MELTEMI_TRAFFIC_PROXY").is_ok_and(|kind| kind == "envoy") {
        return; // A static Envoy does not start without its files; Istio's agent would keep its secret waiting.
    }
    let at = place();
    let files = ", tls: {mode: SIMPLE, serverCertificate: /nowhere/a, privateKey: /nowhere/b}";
    let _world = open(at, "HTTPS", &server.0.address.to_string(), files).await;
    let client = Client { server: &ours, shows: None, versions: BOTH, alpn: &[] };
    assert!(!client.is_served(at).await);
    let at = place();
    let _world =
        open(at, "HTTPS", &server.0.address.to_string(), &tls(&ours, "mode: MUTUAL, caCertificates: /nowhere/c")).await;
    for shows in [None, Some((&ours, "client"))] {
        let client = Client { shows, ..client };
        assert!(!client.is_served(at).await, "without roots nobody is known");
    }
    assert_eq!(server.count(), 0);
}
