use std::sync::Arc;
use std::time::Duration;

use mtls::{CertSlot, ClientTls, RootSlot, SanMatch, SecretStore, ServerTls};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair, SanType};
use tokio::net::TcpListener;
use tokio_rustls::TlsAcceptor;
use upstream::{Alpn, Cause, ClusterConfig, Security, Tls, TransportMatch, Version};

use crate::{Client, worker};

const SERVER: &str = "spiffe://cluster.local/ns/production/sa/payment";

/// Certificates of one mesh: roots, and one certificate for both sides.
struct Mesh {
    roots: Arc<RootSlot>,
    cert: Arc<CertSlot>,
}

impl Mesh {
    fn new() -> Self {
        let key = || KeyPair::generate().expect("a key");
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, key()).expect("a root");
        let mut params = CertificateParams::default();
        params.subject_alt_names = vec![SanType::URI(SERVER.try_into().expect("ASCII"))];
        let leaf_key = key();
        let leaf = params.signed_by(&leaf_key, &issuer).expect("a certificate");
        let store = SecretStore::default();
        let mesh = Self { roots: store.roots("ROOTCA"), cert: store.certificate("default") };
        mesh.roots.set_pem(&issuer.pem()).expect("good roots");
        mesh.cert.set(&leaf.pem(), &leaf_key.serialize_pem()).expect("a good certificate");
        mesh
    }

    fn client(&self, san: &str) -> Security {
        let context = ClientTls {
            cert: Some(self.cert.clone()),
            roots: Some(self.roots.clone()),
            sans: vec![SanMatch::Exact(san.to_owned())],
            revoked: Vec::new(),
            sni: Some("outbound_.80_._.a".to_owned()),
            alpn: vec![b"istio".to_vec()],
        };
        Security::Tls(Arc::new(Tls::new(&context, &mtls::Offer::default()).expect("a good context")))
    }

    /// A server that takes TLS connections and reports the protocol agreed on.
    async fn serve(&self) -> (std::net::SocketAddr, tokio::sync::mpsc::UnboundedReceiver<Vec<u8>>) {
        let config = ServerTls {
            cert: self.cert.clone(),
            roots: Some(self.roots.clone()),
            require_client_cert: true,
            sans: Vec::new(),
            revoked: Vec::new(),
            alpn: [&b"istio-http/1.1"[..], b"istio-h2", b"istio"].map(<[u8]>::to_vec).to_vec(),
        };
        let acceptor = TlsAcceptor::from(config.build().expect("a good context"));
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
        let address = listener.local_addr().expect("it is bound");
        let (agreed, protocols) = tokio::sync::mpsc::unbounded_channel();
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                if let Ok(stream) = acceptor.accept(stream).await {
                    let _ = agreed.send(stream.get_ref().1.alpn_protocol().unwrap_or_default().to_vec());
                }
            }
        });
        (address, protocols)
    }
}

#[tokio::test]
async fn the_servers_identity_is_verified_and_told() {
    worker(async {
        let mesh = Mesh::new();
        let (address, mut agreed) = mesh.serve().await;
        let client = Client::new(address, Version::Http1, |c| c.security = mesh.client(SERVER));
        let connected =
            upstream::connect(&client.cluster, &client.host, Alpn::Configured, None).await.expect("a connection");
        assert_eq!(connected.peer_uri.as_deref(), Some(SERVER));
        assert_eq!(agreed.recv().await.as_deref(), Some(&b"istio"[..]));
        let connected =
            upstream::connect(&client.cluster, &client.host, Alpn::MeshHttp2, None).await.expect("a connection");
        assert!(connected.local.is_some());
        assert_eq!(agreed.recv().await.as_deref(), Some(&b"istio-h2"[..]));
    })
    .await;
}

#[tokio::test]
async fn a_server_of_another_name_is_refused() {
    worker(async {
        let mesh = Mesh::new();
        let (address, _agreed) = mesh.serve().await;
        let other = "spiffe://cluster.local/ns/production/sa/other";
        let client = Client::new(address, Version::Http1, |c| c.security = mesh.client(other));
        let failed = client.get("/").await.expect_err("the name does not fit");
        assert!(matches!(&failed.cause, Cause::Tls(why) if why.contains("payment")), "{:?}", failed.cause);
        assert!(failed.request.is_some());
    })
    .await;
}

#[tokio::test]
async fn metadata_of_the_endpoint_chooses_the_transport() {
    worker(async {
        let mesh = Mesh::new();
        let (address, _agreed) = mesh.serve().await;
        let istio = vec![("tlsMode".to_owned(), "istio".to_owned())];
        let matches = |c: &mut ClusterConfig| {
            c.transport_matches = vec![TransportMatch { metadata: istio.clone(), security: mesh.client(SERVER) }];
        };
        let client = Client::new(address, Version::Http1, matches);
        assert!(matches!(client.cluster.security(&client.host), Security::Plain));
        let mut host = upstream::HostConfig::new(address);
        host.transport = istio.clone();
        let mut config = client.cluster.config.clone();
        config.discovery = upstream::Discovery::Static(vec![host]);
        client.registry.apply(config);
        let cluster = client.registry.slot("outbound|80||a").load().expect("just applied");
        let host = cluster.pick(&upstream::PickContext::default()).expect("one host");
        assert!(matches!(cluster.security(&host), Security::Tls(_)));
    })
    .await;
}

#[tokio::test]
async fn a_peer_that_does_not_finish_the_handshake_runs_into_the_connect_timeout() {
    worker(async {
        let mesh = Mesh::new();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback can be bound");
        let address = listener.local_addr().expect("it is bound");
        let client = Client::new(address, Version::Http1, |c| {
            c.security = mesh.client(SERVER);
            c.connect_timeout = Duration::from_millis(50);
        });
        let failed = client.get("/").await.expect_err("nobody answers");
        assert_eq!(failed.cause, Cause::ConnectTimeout);
    })
    .await;
}
