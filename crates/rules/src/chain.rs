//! Which filter chain of a listener takes a connection (Envoy's listener documentation, `FilterChainMatch`).

use std::net::SocketAddr;

use ipnet::IpNet;

/// What a connection is matched on.
#[derive(Clone, Copy, Debug)]
pub struct ConnectionView<'a> {
    /// The address the client dialled.
    pub destination: SocketAddr,
    /// The client.
    pub source: SocketAddr,
    /// Server name of the TLS hello, lower case; empty without.
    pub sni: &'a str,
    /// `tls` or `raw_buffer`.
    pub transport: &'a str,
    /// ALPN of the TLS hello, or what the first bytes look like (`http/1.1`, `h2c`).
    pub protocols: &'a [Vec<u8>],
}

/// One chain's conditions; an empty one matches everything.
#[derive(Clone, Debug, Default)]
pub struct ChainMatch {
    /// Port dialled.
    pub destination_port: Option<u16>,
    /// Networks dialled.
    pub destination: Vec<IpNet>,
    /// Server names: exact, or `*.suffix`.
    pub server_names: Vec<String>,
    /// Transport protocol.
    pub transport: Option<String>,
    /// Application protocols.
    pub protocols: Vec<Vec<u8>>,
    /// The client's networks.
    pub source: Vec<IpNet>,
    /// The client's ports.
    pub source_ports: Vec<u16>,
}

/// How narrowly a chain matched: larger is narrower, compared in Envoy's order of criteria.
type Rank = (bool, u8, usize, bool, bool, u8, bool);

impl ChainMatch {
    fn rank(&self, connection: &ConnectionView<'_>) -> Option<Rank> {
        if self.destination_port.is_some_and(|p| p != connection.destination.port()) {
            return None;
        }
        let destination = longest(&self.destination, connection.destination.ip())?;
        let name = self.name_rank(connection.sni)?;
        if self.transport.as_deref().is_some_and(|t| t != connection.transport) {
            return None;
        }
        if !self.protocols.is_empty() && !connection.protocols.iter().any(|p| self.protocols.contains(p)) {
            return None;
        }
        let source = longest(&self.source, connection.source.ip())?;
        if !self.source_ports.is_empty() && !self.source_ports.contains(&connection.source.port()) {
            return None;
        }
        Some((
            self.destination_port.is_some(),
            destination,
            name,
            self.transport.is_some(),
            !self.protocols.is_empty(),
            source,
            !self.source_ports.is_empty(),
        ))
    }

    /// 0: no condition; otherwise longer names are narrower and exact beats wildcard.
    fn name_rank(&self, sni: &str) -> Option<usize> {
        if self.server_names.is_empty() {
            return Some(0);
        }
        self.server_names
            .iter()
            .filter_map(|name| match name.strip_prefix('*') {
                Some(suffix) => (sni.len() > suffix.len() && sni.ends_with(suffix)).then_some(suffix.len()),
                None => (sni == name).then_some(usize::MAX),
            })
            .max()
    }
}

/// Length of the longest network that holds the address, plus one; 0 without condition; `None` when none holds it.
fn longest(networks: &[IpNet], ip: std::net::IpAddr) -> Option<u8> {
    if networks.is_empty() {
        return Some(0);
    }
    networks.iter().filter(|n| n.contains(&ip)).map(|n| n.prefix_len() + 1).max()
}

/// The chain that takes a connection: the narrowest match, criteria compared in Envoy's order.
pub fn select<'a>(chains: impl Iterator<Item = &'a ChainMatch>, connection: &ConnectionView<'_>) -> Option<usize> {
    chains
        .enumerate()
        .filter_map(|(index, chain)| chain.rank(connection).map(|rank| (rank, std::cmp::Reverse(index))))
        .max()
        .map(|(_, index)| index.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chain(port: Option<u16>, transport: Option<&str>, protocols: &[&str]) -> ChainMatch {
        ChainMatch {
            destination_port: port,
            transport: transport.map(str::to_owned),
            protocols: protocols.iter().map(|p| p.as_bytes().to_vec()).collect(),
            ..ChainMatch::default()
        }
    }

    #[test]
    fn an_istio_inbound_listener_sorts_its_connections() {
        let chains = [
            chain(Some(15006), None, &[]),
            chain(None, Some("tls"), &["istio-http/1.1", "istio-h2"]),
            chain(None, Some("tls"), &[]),
            chain(None, Some("raw_buffer"), &["http/1.1", "h2c"]),
            chain(None, Some("raw_buffer"), &[]),
            chain(Some(8080), Some("tls"), &[]),
        ];
        let pick = |port: u16, transport: &str, protocols: &[&str]| {
            let protocols: Vec<Vec<u8>> = protocols.iter().map(|p| p.as_bytes().to_vec()).collect();
            let view = ConnectionView {
                destination: SocketAddr::from(([10, 0, 0, 1], port)),
                source: SocketAddr::from(([10, 0, 0, 2], 999)),
                sni: "",
                transport,
                protocols: &protocols,
            };
            select(chains.iter(), &view)
        };
        assert_eq!(pick(15006, "raw_buffer", &[]), Some(0));
        assert_eq!(pick(9000, "tls", &["istio-h2"]), Some(1));
        assert_eq!(pick(9000, "tls", &["h2"]), Some(2));
        assert_eq!(pick(9000, "raw_buffer", &["h2c"]), Some(3));
        assert_eq!(pick(9000, "raw_buffer", &[]), Some(4));
        assert_eq!(pick(8080, "tls", &["istio-http/1.1"]), Some(5));
    }

    #[test]
    fn names_and_networks_prefer_the_narrow() {
        let named = |names: &[&str]| ChainMatch {
            server_names: names.iter().map(|n| (*n).to_owned()).collect(),
            ..ChainMatch::default()
        };
        let chains = [named(&[]), named(&["*.example"]), named(&["a.example"])];
        let view = |sni| ConnectionView {
            destination: "10.0.0.1:443".parse().unwrap(),
            source: "10.0.0.2:1".parse().unwrap(),
            sni,
            transport: "tls",
            protocols: &[],
        };
        assert_eq!(select(chains.iter(), &view("a.example")), Some(2));
        assert_eq!(select(chains.iter(), &view("b.example")), Some(1));
        assert_eq!(select(chains.iter(), &view("other")), Some(0));
    }
}
