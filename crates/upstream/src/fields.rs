//! Header fields that belong to one connection.

use http::{HeaderMap, HeaderName, header};

/// What says something of one hop (RFC 9110, 7.6.1) and must not be in HTTP/2 (RFC 9113, 8.2.2); of `te`, `trailers` may.
static OF_CONNECTIONS: [HeaderName; 6] = [
    header::CONNECTION,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
];

/// Takes away what belongs to one connection. `te: trailers` stays: gRPC needs it.
pub fn remove_connection_fields(headers: &mut HeaderMap) {
    // Most messages have none of them: to look at all names once is cheaper than to look for each.
    if headers.keys().any(|name| OF_CONNECTIONS.contains(name)) {
        let trailers = headers.get(header::TE).is_some_and(|te| te == "trailers");
        OF_CONNECTIONS.iter().filter(|name| **name != header::TE || !trailers).for_each(|name| {
            headers.remove(name);
        });
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn what_belongs_to_a_connection_goes() {
        let mut headers = HeaderMap::new();
        for name in ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "te", "x-own"] {
            headers.insert(HeaderName::from_static(name), HeaderValue::from_static("x"));
        }
        remove_connection_fields(&mut headers);
        assert_eq!(headers.keys().collect::<Vec<_>>(), ["x-own"]);
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        remove_connection_fields(&mut headers);
        assert_eq!(headers.len(), 2, "gRPC asks for trailers");
    }
}
