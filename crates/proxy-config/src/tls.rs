//! TLS contexts and secrets.

use std::sync::Arc;

use envoy_api::envoy::config::core::v3::TransportSocket;
use envoy_api::envoy::config::core::v3::proxy_protocol_config::Version;
use envoy_api::envoy::config::core::v3::transport_socket;
use envoy_api::envoy::extensions::transport_sockets::proxy_protocol::v3::ProxyProtocolUpstreamTransport;
use envoy_api::envoy::extensions::transport_sockets::tls::v3 as tls;
use mtls::{CertSlot, ClientTls, Offer, RootSlot, SanKind, SanMatch, SecretStore, ServerTls};
use rules::matching::StringMatch;
use upstream::{ProxyVersion, Security, Tls};

use crate::common::{data_source, kind, string_match, unpack};
use crate::context::{ConfigError, Refusal, Result, Under};
use crate::files;
use crate::protocol::{refuse, refuse_set};

const PROXIED: &str = "envoy.extensions.transport_sockets.proxy_protocol.v3.ProxyProtocolUpstreamTransport";

/// Puts a secret in force in its slot.
///
/// # Errors
/// When the secret is malformed; the former one stays.
pub fn apply_secret(secret: &tls::Secret, store: &SecretStore) -> std::result::Result<(), ConfigError> {
    let apply = || -> Result<()> {
        match secret.r#type.as_ref() {
            Some(tls::secret::Type::TlsCertificate(certificate)) => {
                let (chain, key) = pair(certificate)?;
                store.certificate(&secret.name).set(&chain, &key).map_err(|e| Refusal::new("tls_certificate", e))
            }
            Some(tls::secret::Type::ValidationContext(context)) => {
                refuse_validation(context)?;
                refuse_set!(context; match_typed_subject_alt_names)?;
                refuse_old_names(context)?;
                let roots = data_source(context.trusted_ca.as_ref()).under("trusted_ca")?;
                let revoked = context.crl.as_ref().map(|list| data_source(Some(list))).transpose().under("crl")?;
                let slot = store.roots(&secret.name);
                let set = slot.set_with_revoked(&roots, revoked.as_deref().unwrap_or_default());
                set.map_err(|e| Refusal::new("trusted_ca", e))
            }
            _ => Err(Refusal::new("type", "only tls_certificate and validation_context are supported")),
        }
    };
    apply().map_err(|e| e.of(&secret.name))
}

/// Chain and key of a certificate.
fn pair(proto: &tls::TlsCertificate) -> Result<(String, String)> {
    refuse_set!(proto;
        password, pkcs12, private_key_provider, ocsp_staple, signed_certificate_timestamp, watched_directory, tls_params,
    )?;
    let chain = data_source(proto.certificate_chain.as_ref()).under("certificate_chain")?;
    Ok((chain, data_source(proto.private_key.as_ref()).under("private_key")?))
}

#[allow(deprecated)] // The old form of `match_typed_subject_alt_names`.
fn refuse_old_names(proto: &tls::CertificateValidationContext) -> Result<()> {
    refuse_set!(proto; match_subject_alt_names)
}

/// What no check of a certificate here does.
fn refuse_validation(proto: &tls::CertificateValidationContext) -> Result<()> {
    refuse_set!(proto;
        verify_certificate_spki, verify_certificate_hash, allow_expired_certificate, custom_validator_config,
        max_verify_depth, system_root_certs, ca_certificate_provider_instance, watched_directory,
        require_signed_certificate_timestamp, only_verify_leaf_cert_crl, trust_chain_verification, suppress_client_ca_list,
    )
}

/// The parts of a context that both directions share.
struct Common {
    cert: Option<Arc<CertSlot>>,
    roots: Option<Arc<RootSlot>>,
    sans: Vec<SanMatch>,
    revoked: Revoked,
    alpn: Vec<Vec<u8>>,
    offer: Offer,
}

type Revoked = Vec<Arc<mtls::CertRevocationList<'static>>>;

fn common(proto: Option<&tls::CommonTlsContext>, store: &SecretStore) -> Result<Common> {
    let none = tls::CommonTlsContext::default();
    let proto = proto.unwrap_or(&none);
    refuse(&[("custom_handshaker", proto.custom_handshaker.is_some()), ("key_log", proto.key_log.is_some())])?;
    refuse_old_providers(proto)?;
    refuse_set!(proto; tls_certificate_provider_instance, custom_tls_certificate_selector)?;
    let cert = match (proto.tls_certificate_sds_secret_configs.as_slice(), proto.tls_certificates.as_slice()) {
        ([], []) => None,
        ([sds], []) => Some(files::certificate(store, &sds.name)),
        ([], [inline]) => {
            let (chain, key) = pair(inline).under("tls_certificates[0]")?;
            let slot = Arc::new(CertSlot::default());
            slot.set(&chain, &key).map_err(|e| Refusal::new("tls_certificates[0]", e))?;
            Some(slot)
        }
        _ => return Err(Refusal::new("tls_certificates", "more than one certificate in a context is not supported")),
    };
    use tls::common_tls_context::ValidationContextType as V;
    let (roots, sans, revoked) = match proto.validation_context_type.as_ref() {
        None => (None, Vec::new(), Vec::new()),
        Some(V::ValidationContext(context)) => validation(context).under("validation_context")?,
        Some(V::ValidationContextSdsSecretConfig(sds)) => {
            (Some(files::roots(store, &sds.name)), Vec::new(), Vec::new())
        }
        Some(V::CombinedValidationContext(both)) => {
            refuse_combined(both).under("combined_validation_context")?;
            let (inline, sans, revoked) = match &both.default_validation_context {
                Some(context) => validation(context).under("combined_validation_context")?,
                None => (None, Vec::new(), Vec::new()),
            };
            let sds = both.validation_context_sds_secret_config.as_ref().map(|s| files::roots(store, &s.name));
            (sds.or(inline), sans, revoked)
        }
        Some(_) => return Err(Refusal::unsupported("validation_context_type")),
    };
    let alpn = proto.alpn_protocols.iter().map(|p| peer_exchange(p).as_bytes().to_vec()).collect();
    let offer = proto.tls_params.as_ref().map(offer).transpose().under("tls_params")?.unwrap_or_default();
    Ok(Common { cert, roots, sans, revoked, alpn, offer })
}

#[allow(deprecated)] // Old forms of `tls_certificate_provider_instance`.
fn refuse_old_providers(proto: &tls::CommonTlsContext) -> Result<()> {
    refuse_set!(proto; tls_certificate_certificate_provider, tls_certificate_certificate_provider_instance)
}

#[allow(deprecated)] // Certificate providers in their old places.
fn refuse_combined(proto: &tls::common_tls_context::CombinedCertificateValidationContext) -> Result<()> {
    refuse_set!(proto; validation_context_certificate_provider, validation_context_certificate_provider_instance)
}

/// Versions, cipher suites and groups. What is older than TLS 1.2 is not there.
fn offer(proto: &tls::TlsParameters) -> Result<Offer> {
    use tls::tls_parameters::TlsProtocol as P;
    refuse(&[
        ("signature_algorithms", !proto.signature_algorithms.is_empty()),
        ("compliance_policies", !proto.compliance_policies.is_empty()),
    ])?;
    let old = |version: P| matches!(version, P::TlSv10 | P::TlSv11);
    if old(proto.tls_minimum_protocol_version()) {
        return Err(Refusal::new("tls_minimum_protocol_version", "TLS before 1.2 is not supported"));
    }
    if old(proto.tls_maximum_protocol_version()) {
        return Err(Refusal::new("tls_maximum_protocol_version", "TLS before 1.2 is not supported"));
    }
    let only_tls13 = proto.tls_minimum_protocol_version() == P::TlSv13;
    let only_tls12 = proto.tls_maximum_protocol_version() == P::TlSv12;
    if only_tls12 && only_tls13 {
        return Err(Refusal::new("tls_maximum_protocol_version", "is below the minimum"));
    }
    Ok(Offer { only_tls13, only_tls12, suites: proto.cipher_suites.clone(), groups: proto.ecdh_curves.clone() })
}

/// ALPN `istio-peer-exchange` promises a metadata header inside the stream. We do not send one, so we never agree to
/// it: `istio` means the same without the promise.
fn peer_exchange(protocol: &str) -> &str {
    if protocol == "istio-peer-exchange" { "istio" } else { protocol }
}

type Validation = (Option<Arc<RootSlot>>, Vec<SanMatch>, Revoked);

fn validation(proto: &tls::CertificateValidationContext) -> Result<Validation> {
    refuse_validation(proto)?;
    let roots = match &proto.trusted_ca {
        Some(source) => {
            let slot = Arc::new(RootSlot::default());
            let pem = data_source(Some(source)).under("trusted_ca")?;
            slot.set_pem(&pem).map_err(|e| Refusal::new("trusted_ca", e))?;
            Some(slot)
        }
        None => None,
    };
    let typed = proto.match_typed_subject_alt_names.iter().map(typed_san);
    #[allow(deprecated)] // Istio sends the untyped form.
    let untyped = proto.match_subject_alt_names.iter().map(|m| string_match(m).and_then(san));
    let sans = typed.chain(untyped).collect::<Result<_>>().under("match_subject_alt_names")?;
    let revoked = match &proto.crl {
        Some(source) => {
            let pem = data_source(Some(source)).under("crl")?;
            mtls::read_revoked(&pem).map_err(|e| Refusal::new("crl", e))?
        }
        None => Vec::new(),
    };
    Ok((roots, sans, revoked))
}

/// A name of one kind.
fn typed_san(proto: &tls::SubjectAltNameMatcher) -> Result<SanMatch> {
    use tls::subject_alt_name_matcher::SanType;
    let kind = match proto.san_type() {
        SanType::Uri => SanKind::Uri,
        SanType::Dns => SanKind::Dns,
        _ => return Err(Refusal::unsupported("san_type")),
    };
    let pattern = proto.matcher.as_ref().ok_or_else(|| Refusal::new("matcher", "is missing"))?;
    Ok(SanMatch::Of(kind, Box::new(san(string_match(pattern)?)?)))
}

fn san(pattern: StringMatch) -> Result<SanMatch> {
    Ok(match pattern {
        StringMatch::Exact(s) => SanMatch::Exact(s.into()),
        StringMatch::Prefix(s) => SanMatch::Prefix(s.into()),
        StringMatch::Suffix(s) => SanMatch::Suffix(s.into()),
        StringMatch::Contains(s) => SanMatch::Contains(s.into()),
        StringMatch::Regex(r) => SanMatch::Regex(r),
        StringMatch::Present => SanMatch::Prefix(String::new()),
        StringMatch::IgnoreCase(_) => return Err(Refusal::unsupported("ignore_case")),
    })
}

/// The PROXY protocol around a transport.
pub(crate) fn proxied(socket: Option<&TransportSocket>) -> Result<Option<ProxyVersion>> {
    let Some(any) = typed(socket).filter(|any| kind(any) == PROXIED) else { return Ok(None) };
    let outer: ProxyProtocolUpstreamTransport = unpack(any)?;
    refuse_set!(outer; allow_unspecified_address, tlv_as_pool_key)?;
    let config = outer.config.unwrap_or_default();
    refuse_set!(config; pass_through_tlvs, added_tlvs).under("config")?;
    Ok(Some(if config.version() == Version::V2 { ProxyVersion::V2 } else { ProxyVersion::V1 }))
}

/// Transport security of an upstream.
pub(crate) fn upstream_security(socket: Option<&TransportSocket>, store: &SecretStore) -> Result<Security> {
    let Some(any) = typed(socket) else { return Ok(Security::Plain) };
    match kind(any) {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => Ok(Security::Plain),
        PROXIED => {
            let outer: ProxyProtocolUpstreamTransport = unpack(any)?;
            upstream_security(outer.transport_socket.as_ref(), store)
        }
        "envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext" => {
            let proto: tls::UpstreamTlsContext = unpack(any)?;
            refuse_set!(proto; allow_renegotiation, auto_host_sni, auto_sni_san_validation)?;
            let common = common(proto.common_tls_context.as_ref(), store).under("common_tls_context")?;
            let context = ClientTls {
                cert: common.cert,
                roots: common.roots,
                sans: common.sans,
                revoked: common.revoked,
                sni: Some(proto.sni).filter(|s| !s.is_empty()),
                alpn: common.alpn,
            };
            let built = Tls::new(&context, &common.offer).map_err(|e| Refusal::new("transport_socket", e))?;
            Ok(Security::Tls(Arc::new(built)))
        }
        other => Err(Refusal::new("transport_socket", format!("{other} is not supported"))),
    }
}

/// The configurations of a server's context: with its ALPN, and without for clients that offer nothing we know (a
/// stock Envoy goes on without ALPN then, rustls would refuse).
#[derive(Debug)]
pub struct ServerTlsConfigs {
    /// The usual one.
    pub with_alpn: Arc<rustls::ServerConfig>,
    /// For clients without a common protocol.
    pub without_alpn: Arc<rustls::ServerConfig>,
    /// What we show; its first URI name is our own identity.
    pub cert: Arc<CertSlot>,
}

impl ServerTlsConfigs {
    /// The configuration for a client that offers these protocols.
    pub fn for_client(&self, offered: &[Vec<u8>]) -> Arc<rustls::ServerConfig> {
        let common = offered.iter().any(|p| self.with_alpn.alpn_protocols.contains(p));
        if common { self.with_alpn.clone() } else { self.without_alpn.clone() }
    }
}

/// TLS of a filter chain; `None` is plain text.
pub(crate) fn downstream(
    socket: Option<&TransportSocket>,
    store: &SecretStore,
) -> Result<Option<Arc<ServerTlsConfigs>>> {
    let Some(any) = typed(socket) else { return Ok(None) };
    match kind(any) {
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer" => return Ok(None),
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext" => {}
        other => return Err(Refusal::new("transport_socket", format!("{other} is not supported"))),
    }
    let proto: tls::DownstreamTlsContext = unpack(any)?;
    refuse_set!(proto; require_sni, ocsp_staple_policy, full_scan_certs_on_sni_mismatch)?;
    // Sessions are never resumed: who may not resume them is served as well.
    use tls::downstream_tls_context::SessionTicketKeysType as T;
    let keys = proto.session_ticket_keys_type.as_ref();
    refuse(&[("session_ticket_keys", keys.is_some_and(|k| !matches!(k, T::DisableStatelessSessionResumption(_))))])?;
    let common = common(proto.common_tls_context.as_ref(), store).under("common_tls_context")?;
    let cert = common.cert.ok_or_else(|| Refusal::new("tls_certificates", "a server needs a certificate"))?;
    let mut context = ServerTls {
        cert: cert.clone(),
        roots: common.roots,
        require_client_cert: proto.require_client_certificate.is_some_and(|v| v.value),
        sans: common.sans,
        revoked: common.revoked,
        alpn: common.alpn,
    };
    let build = |c: &ServerTls| c.build_within(&common.offer).map_err(|e| Refusal::new("transport_socket", e));
    let with_alpn = build(&context)?;
    context.alpn.clear();
    Ok(Some(Arc::new(ServerTlsConfigs { with_alpn, without_alpn: build(&context)?, cert })))
}

fn typed(socket: Option<&TransportSocket>) -> Option<&envoy_api::Any> {
    match socket?.config_type.as_ref()? {
        transport_socket::ConfigType::TypedConfig(any) => Some(any),
    }
}
