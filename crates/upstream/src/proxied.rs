//! The PROXY protocol (HAProxy's, versions 1 and 2), written: who connects and what was dialled, in front of all bytes.

use std::net::{IpAddr, SocketAddr};

use crate::config::ProxyVersion;

/// For whom a connection is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Proxied {
    /// The client.
    pub source: SocketAddr,
    /// The address the client dialled.
    pub destination: SocketAddr,
}

/// What version 2 begins with.
const SIGNATURE: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";

/// The bytes in front of a connection; without a client it is our own (`UNKNOWN`, `LOCAL`).
pub(crate) fn header(version: ProxyVersion, of: Option<&Proxied>) -> Vec<u8> {
    let of = of.filter(|of| of.source.is_ipv4() == of.destination.is_ipv4());
    match version {
        ProxyVersion::V1 => match of {
            None => b"PROXY UNKNOWN\r\n".to_vec(),
            Some(Proxied { source, destination }) => {
                let family = if source.is_ipv4() { "TCP4" } else { "TCP6" };
                let (from, to) = (source.port(), destination.port());
                format!("PROXY {family} {} {} {from} {to}\r\n", source.ip(), destination.ip()).into_bytes()
            }
        },
        ProxyVersion::V2 => {
            let mut out = SIGNATURE.to_vec();
            let Some(Proxied { source, destination }) = of else {
                // Version 2, command LOCAL, no addresses.
                out.extend([0x20, 0, 0, 0]);
                return out;
            };
            let mut addresses = Vec::with_capacity(36);
            for ip in [source.ip(), destination.ip()] {
                match ip {
                    IpAddr::V4(ip) => addresses.extend(ip.octets()),
                    IpAddr::V6(ip) => addresses.extend(ip.octets()),
                }
            }
            addresses.extend(source.port().to_be_bytes());
            addresses.extend(destination.port().to_be_bytes());
            // Version 2, command PROXY; TCP over IPv4 or IPv6.
            out.extend([0x21, if source.is_ipv4() { 0x11 } else { 0x21 }, 0]);
            out.push(u8::try_from(addresses.len()).unwrap_or(36));
            out.extend(addresses);
            out
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_versions_name_both_ends() {
        let of = Proxied { source: "10.1.2.3:4000".parse().unwrap(), destination: "10.9.8.7:80".parse().unwrap() };
        assert_eq!(header(ProxyVersion::V1, Some(&of)), b"PROXY TCP4 10.1.2.3 10.9.8.7 4000 80\r\n");
        let binary = header(ProxyVersion::V2, Some(&of));
        assert_eq!(binary[12..], [0x21, 0x11, 0, 12, 10, 1, 2, 3, 10, 9, 8, 7, 15, 160, 0, 80]);
        assert_eq!(header(ProxyVersion::V1, None), b"PROXY UNKNOWN\r\n");
        assert_eq!(header(ProxyVersion::V2, None)[12..], [0x20, 0, 0, 0]);
    }
}
