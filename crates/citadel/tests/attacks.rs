//! The authority and the verification of certificates, attacked.

use std::sync::Arc;
use std::time::Duration;

use citadel::{Authority, AuthorityError, CsrService, Limits, Renewal, TokenError, Tokens};
use envoy_api::istio::v1::auth::IstioCertificateRequest;
use envoy_api::istio::v1::auth::istio_certificate_service_server::IstioCertificateService as _;
use mtls::{CertSlot, ClientTls, Peer, RootSlot, SanMatch, ServerTls, SpiffeId};
use rcgen::{CertificateParams, KeyPair, SanType};
use tonic::{Code, Request};

const HOUR: Duration = Duration::from_secs(3600);

fn authority() -> (tempfile::TempDir, Authority) {
    let folder = tempfile::tempdir().unwrap();
    let authority = Authority::load_or_create(folder.path(), "cluster.local").unwrap();
    (folder, authority)
}

fn id(account: &str) -> SpiffeId {
    SpiffeId::new("cluster.local", "production", account)
}

fn request(names: Vec<SanType>) -> (String, String) {
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = names;
    (params.serialize_request(&key).unwrap().pem().unwrap(), key.serialize_pem())
}

fn slot(authority: &Authority, id: &SpiffeId, life: Duration) -> Arc<CertSlot> {
    let issued = authority.issue(id, &[], life).unwrap();
    let slot = Arc::new(CertSlot::default());
    slot.set(&issued.chain, &issued.key).unwrap();
    slot
}

/// A certificate of `order` whose last second is over.
fn expired(authority: &Authority) -> Arc<CertSlot> {
    let slot = slot(authority, &id("order"), Duration::ZERO);
    let until = slot.info()[0].not_after.unix_timestamp();
    let now = || std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
    while i64::try_from(now()).unwrap() <= until {
        std::thread::yield_now();
    }
    slot
}

fn roots(authority: &Authority) -> Arc<RootSlot> {
    let slot = Arc::new(RootSlot::default());
    slot.set_pem(&authority.root_pem()).unwrap();
    slot
}

/// A handshake in memory; the identities each side saw, or the server's or client's error.
fn handshake(client: &ClientTls, server: &ServerTls) -> Result<(Option<SpiffeId>, Option<SpiffeId>), String> {
    let mut server = rustls::ServerConnection::new(server.build().unwrap()).unwrap();
    let mut client = rustls::ClientConnection::new(client.build().unwrap(), client.server_name().unwrap()).unwrap();
    let mut wire = Vec::new();
    for _ in 0..10 {
        wire.clear();
        while client.wants_write() {
            client.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            server.read_tls(&mut rest).unwrap();
            server.process_new_packets().map_err(|e| format!("server: {e}"))?;
        }
        wire.clear();
        while server.wants_write() {
            server.write_tls(&mut wire).unwrap();
        }
        let mut rest = wire.as_slice();
        while !rest.is_empty() {
            client.read_tls(&mut rest).unwrap();
            client.process_new_packets().map_err(|e| format!("client: {e}"))?;
        }
    }
    assert!(!client.is_handshaking() && !server.is_handshaking());
    let seen =
        |certs: Option<&[rustls::pki_types::CertificateDer<'_>]>| certs.and_then(Peer::from_certs).and_then(|p| p.id);
    Ok((seen(client.peer_certificates()), seen(server.peer_certificates())))
}

fn client(cert: Option<Arc<CertSlot>>, roots: Arc<RootSlot>, server: &SpiffeId) -> ClientTls {
    let sni = Some("outbound_.8080_._.payment.production.svc.cluster.local".to_owned());
    ClientTls {
        cert,
        roots: Some(roots),
        sans: vec![SanMatch::Exact(server.to_string())],
        revoked: Vec::new(),
        sni,
        alpn: Vec::new(),
    }
}

fn server(cert: Arc<CertSlot>, roots: Arc<RootSlot>) -> ServerTls {
    let sans = vec![SanMatch::Prefix("spiffe://cluster.local/".to_owned())];
    ServerTls { cert, roots: Some(roots), require_client_cert: true, sans, revoked: Vec::new(), alpn: Vec::new() }
}

#[test]
fn two_workloads_of_one_mesh_know_each_other() {
    let (_folder, authority) = authority();
    let (order, payment) = (id("order"), id("payment"));
    let seen = handshake(
        &client(Some(slot(&authority, &order, HOUR)), roots(&authority), &payment),
        &server(slot(&authority, &payment, HOUR), roots(&authority)),
    );
    assert_eq!(seen, Ok((Some(payment), Some(order))));
}

#[test]
fn a_renewed_root_and_the_old_one_vouch_for_each_others_workloads() {
    let (folder, old) = authority();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    let (cert, key) = (read("ca-cert.pem"), read("ca-key.pem"));
    let renewal = Renewal { grace_percent: 100, ..Renewal::default() };
    let now = time::OffsetDateTime::now_utc();
    let cert = renewal.renewed(&cert, &key, now).unwrap().expect("all of its life is the last part");
    let new = Authority::from_pem(&cert, &key, "", "").unwrap();
    let (order, payment) = (id("order"), id("payment"));
    for (one, two) in [(&old, &new), (&new, &old)] {
        let seen = handshake(
            &client(Some(slot(one, &order, HOUR)), roots(one), &payment),
            &server(slot(two, &payment, HOUR), roots(two)),
        );
        assert_eq!(seen, Ok((Some(payment.clone()), Some(order.clone()))));
    }
}

#[test]
fn strangers_expired_and_nameless_clients_are_refused() {
    let (_folder, ours) = authority();
    let (_other_folder, theirs) = authority();
    let payment = id("payment");
    let to = server(slot(&ours, &payment, HOUR), roots(&ours));
    let from = |cert| handshake(&client(cert, roots(&ours), &payment), &to);
    let error = |result: Result<_, String>| result.err().unwrap_or_else(|| "accepted".to_owned());

    // Another authority that goes by the same name as ours.
    let forged = error(from(Some(slot(&theirs, &id("order"), HOUR))));
    assert!(forged.contains("BadSignature"), "{forged}");
    // Our authority, another trust domain.
    let foreign = SpiffeId::new("evil.example", "production", "order");
    let foreign = error(from(Some(slot(&ours, &foreign, HOUR))));
    assert!(foreign.contains("wanted one of"), "{foreign}");
    // Expired.
    let late = error(from(Some(expired(&ours))));
    assert!(late.to_lowercase().contains("expired"), "{late}");
    // None at all.
    assert!(error(from(None)).contains("sent no certificates"));
}

#[test]
fn a_server_with_another_name_or_issuer_is_refused() {
    let (_folder, ours) = authority();
    let (_other_folder, theirs) = authority();
    let payment = id("payment");
    let me = client(Some(slot(&ours, &id("order"), HOUR)), roots(&ours), &payment);
    let impostor = server(slot(&ours, &id("order"), HOUR), roots(&ours));
    let error = handshake(&me, &impostor).unwrap_err();
    assert!(error.contains("wanted one of"), "{error}");
    let stranger = server(slot(&theirs, &payment, HOUR), roots(&ours));
    let error = handshake(&me, &stranger).unwrap_err();
    assert!(error.contains("BadSignature"), "{error}");
}

#[test]
fn a_leaf_cannot_sign() {
    let (_folder, ours) = authority();
    let leaf = ours.issue(&id("order"), &[], HOUR).unwrap();
    // The thief of a leaf's key signs a certificate with it and shows both.
    let first = leaf.chain.split_inclusive("-----END CERTIFICATE-----\n").next().unwrap();
    let issuer = rcgen::Issuer::from_ca_cert_pem(first, KeyPair::from_pem(&leaf.key).unwrap());
    let Ok(issuer) = issuer else { return };
    let key = KeyPair::generate().unwrap();
    let mut params = CertificateParams::default();
    params.subject_alt_names = vec![SanType::URI(id("payment").to_string().try_into().unwrap())];
    let forged = params.signed_by(&key, &issuer).unwrap();
    let slot_of_thief = Arc::new(CertSlot::default());
    slot_of_thief.set(&format!("{}{}", forged.pem(), leaf.chain), &key.serialize_pem()).unwrap();
    let payment = id("payment");
    let result = handshake(
        &client(Some(slot_of_thief), roots(&ours), &payment),
        &server(slot(&ours, &payment, HOUR), roots(&ours)),
    );
    assert!(result.is_err(), "{result:?}");
}

#[test]
fn rotation_needs_no_new_configuration() {
    let (_folder, ours) = authority();
    let payment = id("payment");
    let mine = expired(&ours);
    let me = client(Some(mine.clone()), roots(&ours), &payment);
    let to = server(slot(&ours, &payment, HOUR), roots(&ours));
    assert!(handshake(&me, &to).is_err());
    let fresh = ours.issue(&id("order"), &[], HOUR).unwrap();
    mine.set(&fresh.chain, &fresh.key).unwrap();
    assert!(handshake(&me, &to).is_ok());
    assert!(mine.set("no PEM", &fresh.key).is_err());
    assert!(handshake(&me, &to).is_ok(), "a bad renewal leaves the good one in force");
}

#[test]
fn requests_are_signed_for_their_caller_alone() {
    let (_folder, ours) = authority();
    let uri = |account: &str| SanType::URI(id(account).to_string().try_into().unwrap());
    let (own, key) = request(vec![uri("order")]);
    let chain = ours.sign(&own, &id("order"), HOUR).unwrap();
    let slot = CertSlot::default();
    slot.set(&chain.join("\n"), &key).unwrap();
    assert_eq!(slot.info()[0].sans, [id("order").to_string()]);
    assert_eq!(chain.last().unwrap().trim(), ours.root_pem().trim());
    let (other, _) = request(vec![uri("payment")]);
    assert!(matches!(ours.sign(&other, &id("order"), HOUR), Err(AuthorityError::Identity { .. })));
    let (broken, _) = request(vec![]);
    // One bit of the signature, which stands at the end.
    let at = broken.rfind("\n-----END").unwrap() - 12;
    let other = if broken.as_bytes()[at] == b'A' { "B" } else { "A" };
    let broken = format!("{}{other}{}", &broken[..at], &broken[at + 1..]);
    assert!(matches!(ours.sign(&broken, &id("order"), HOUR), Err(AuthorityError::Request(_))));
}

#[tokio::test]
async fn the_service_wants_proof() {
    let (folder, ours) = authority();
    let tokens = Arc::new(Tokens::load_or_create(folder.path()).unwrap());
    let limits = Limits { default: HOUR, max: HOUR };
    let service = CsrService::new(Arc::new(ours), tokens.clone(), "cluster.local", limits);
    let (csr, _) = request(vec![]);
    let ask = |token: Option<String>| {
        let mut request =
            Request::new(IstioCertificateRequest { csr: csr.clone(), ..IstioCertificateRequest::default() });
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        service.create_certificate(request)
    };
    assert_eq!(ask(None).await.unwrap_err().code(), Code::Unauthenticated);
    assert!(ask(Some(tokens.mint("production", "order", HOUR))).await.is_ok());
    assert_eq!(
        ask(Some(tokens.mint("production", "order", Duration::ZERO))).await.unwrap_err().code(),
        Code::Unauthenticated
    );

    let other = Tokens::load_or_create(tempfile::tempdir().unwrap().path()).unwrap();
    assert_eq!(tokens.verify(&other.mint("production", "order", HOUR)), Err(TokenError::Signature));
    let good = tokens.mint("production", "order", HOUR);
    let (head, rest) = good.split_once('.').unwrap();
    assert_eq!(tokens.verify(&format!("{head}x.{rest}")), Err(TokenError::Signature));
    assert_eq!(tokens.verify("a.b"), Err(TokenError::Malformed));
    assert_eq!(tokens.verify("nonsense"), Err(TokenError::Malformed));
}
