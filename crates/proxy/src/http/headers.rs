//! Headers that a proxy owes to both sides.

use std::net::{IpAddr, SocketAddr};

use http::Version;
use http::header::{self, HeaderMap, HeaderName, HeaderValue};
use mtls::Peer;
use proxy_config::{CertDetails, ClientCert, HttpManager};

use crate::connection::About;

pub(crate) static REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
pub(crate) static FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
pub(crate) static FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
pub(crate) static CLIENT_CERT: HeaderName = HeaderName::from_static("x-forwarded-client-cert");
pub(crate) static ATTEMPTS: HeaderName = HeaderName::from_static("x-envoy-attempt-count");
pub(crate) static SERVICE_TIME: HeaderName = HeaderName::from_static("x-envoy-upstream-service-time");
pub(crate) static OPERATION: HeaderName = HeaderName::from_static("x-envoy-decorator-operation");
pub(crate) static ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");
pub(crate) static EXPECTED_TIMEOUT: HeaderName = HeaderName::from_static("x-envoy-expected-rq-timeout-ms");
pub(crate) static PEER_METADATA: HeaderName = HeaderName::from_static("x-envoy-peer-metadata");
pub(crate) static PEER_METADATA_ID: HeaderName = HeaderName::from_static("x-envoy-peer-metadata-id");

/// Takes away what belongs to one hop (RFC 9110, 7.6.1), the headers that `connection` names included. HTTP/2 has no such
/// fields: a message with one of them is malformed, and refused (RFC 9113, 8.2.2).
pub(crate) fn remove_hop_by_hop(version: Version, headers: &mut HeaderMap) {
    if version == Version::HTTP_2 {
        return;
    }
    if let Some(listed) = headers.remove(header::CONNECTION) {
        for name in listed.to_str().unwrap_or_default().split(',').map(str::trim) {
            if let Ok(name) = HeaderName::from_bytes(name.as_bytes())
                && name != header::TE
                && name != header::HOST
            {
                headers.remove(name);
            }
        }
    }
    upstream::remove_connection_fields(headers);
}

/// What every request gets before anything is decided.
pub(crate) fn prepare(manager: &HttpManager, about: &About, inbound: bool, headers: &mut HeaderMap) {
    if manager.request_id && !headers.contains_key(&REQUEST_ID) {
        headers.insert(REQUEST_ID.clone(), request_id());
    }
    if !headers.contains_key(&FORWARDED_PROTO) || (inbound && !about.is_of_mesh()) {
        headers.insert(FORWARDED_PROTO.clone(), HeaderValue::from_static(about.scheme()));
    }
    if manager.use_remote_address {
        append(headers, &FORWARDED_FOR, &about.source.ip().to_string());
    }
    client_cert(manager, about, headers);
}

/// A random UUID (version 4).
fn request_id() -> HeaderValue {
    let (mut high, mut low) = (fastrand::u64(..), fastrand::u64(..));
    high = high & !0xf000 | 0x4000;
    low = low & !(3 << 62) | 2 << 62;
    let mut text = *b"00000000-0000-0000-0000-000000000000";
    let mut bits = u128::from(high) << 64 | u128::from(low);
    for byte in text.iter_mut().rev().filter(|b| **b != b'-') {
        *byte = b"0123456789abcdef"[(bits & 15) as usize];
        bits >>= 4;
    }
    HeaderValue::from_bytes(&text).unwrap_or(HeaderValue::from_static("0"))
}

/// `x-forwarded-client-cert`: a client without a verified certificate must not claim one.
fn client_cert(manager: &HttpManager, about: &About, headers: &mut HeaderMap) {
    let details = manager.cert_details;
    match (manager.client_cert, &about.peer) {
        (ClientCert::AlwaysForward, _) | (ClientCert::Forward, Some(_)) => {}
        (ClientCert::Sanitize, _) | (ClientCert::Forward | ClientCert::Append | ClientCert::Replace, None) => {
            headers.remove(&CLIENT_CERT);
        }
        (ClientCert::Append, Some(peer)) => append(headers, &CLIENT_CERT, &certificate(peer, about, details)),
        (ClientCert::Replace, Some(peer)) => {
            if let Ok(value) = HeaderValue::from_str(&certificate(peer, about, details)) {
                headers.insert(CLIENT_CERT.clone(), value);
            }
        }
    }
}

/// One element in Envoy's form: By, Hash, Subject, URI, DNS.
fn certificate(peer: &Peer, about: &About, details: CertDetails) -> String {
    let mut text = String::with_capacity(200);
    if let Some(own) = &about.local_uri {
        text.push_str("By=");
        text.push_str(own);
        text.push(';');
    }
    text.push_str("Hash=");
    text.push_str(&peer.sha256);
    if details.subject {
        text.push_str(";Subject=\"");
        text.push_str(&peer.subject.replace('"', "\\\""));
        text.push('"');
    }
    for uri in peer.uri_sans.iter().filter(|_| details.uri) {
        text.push_str(";URI=");
        text.push_str(uri);
    }
    for dns in peer.dns_sans.iter().filter(|_| details.dns) {
        text.push_str(";DNS=");
        text.push_str(dns);
    }
    text
}

fn append(headers: &mut HeaderMap, name: &HeaderName, value: &str) {
    let joined = match headers.get(name).and_then(|v| v.to_str().ok()) {
        Some(former) => format!("{former},{value}"),
        None => value.to_owned(),
    };
    if let Ok(value) = HeaderValue::from_str(&joined) {
        headers.insert(name.clone(), value);
    }
}

/// The client's address for policies and logs: the last of `x-forwarded-for` when a proxy in front is trusted (its port
/// is not known: 0), else the peer's.
pub(crate) fn remote(manager: &HttpManager, headers: &HeaderMap, source: SocketAddr) -> SocketAddr {
    if manager.use_remote_address {
        return source;
    }
    let last = headers.get(&FORWARDED_FOR).and_then(|v| v.to_str().ok()).and_then(|v| v.rsplit(',').next());
    last.and_then(|v| v.trim().parse().ok()).map_or(source, |ip: IpAddr| SocketAddr::new(ip, 0))
}
