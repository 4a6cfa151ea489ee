//! The sidecar's DNS: names of the mesh from istiod's table, the rest from the pod's own resolvers.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use envoy_api::istio::networking::nds::v1::NameTable;
use hickory_proto::op::{Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::{RData, Record, RecordType};
use tokio::net::UdpSocket;
use tokio::sync::Semaphore;
use tokio::time::timeout;

/// How long an answer may be kept, as Istio's.
const TTL: u32 = 30;
/// Limit of a question to the pod's own resolver, as Istio's.
const UPSTREAM: Duration = Duration::from_secs(5);
/// Questions under way at once; more are dropped, and asked again by their clients.
const MAX_UNDER_WAY: usize = 512;

/// Names and addresses of the mesh.
#[derive(Debug, Default)]
pub(crate) struct Names(ArcSwap<HashMap<String, Vec<IpAddr>>>);

impl Names {
    /// Puts a new table in force.
    pub(crate) fn replace(&self, table: &NameTable) {
        let mut all = HashMap::new();
        for (host, info) in &table.table {
            let ips: Vec<IpAddr> = info.ips.iter().filter_map(|ip| ip.parse().ok()).collect();
            let host = host.to_ascii_lowercase();
            if !info.shortname.is_empty() {
                // What a resolver's search list may leave of the name.
                for short in [
                    format!("{}.{}", info.shortname, info.namespace),
                    format!("{}.{}.svc", info.shortname, info.namespace),
                ] {
                    all.insert(short, ips.clone());
                }
            }
            all.insert(host, ips);
        }
        self.0.store(Arc::new(all));
    }

    fn find(&self, name: &str) -> Option<Vec<IpAddr>> {
        self.0.load().get(name.trim_end_matches('.').to_ascii_lowercase().as_str()).cloned()
    }
}

/// Answers questions until the socket fails.
pub(crate) async fn serve(socket: UdpSocket, names: Arc<Names>) {
    let (socket, resolvers) = (Arc::new(socket), Arc::new(resolvers()));
    let under_way = Arc::new(Semaphore::new(MAX_UNDER_WAY));
    let mut buffer = vec![0; 4096];
    loop {
        // An error here is an ICMP answer to an earlier packet; the socket itself goes on.
        let Ok((length, from)) = socket.recv_from(&mut buffer).await else { continue };
        let Ok(permit) = under_way.clone().try_acquire_owned() else { continue };
        let query = buffer.get(..length).unwrap_or_default().to_vec();
        let (socket, names, resolvers) = (socket.clone(), names.clone(), resolvers.clone());
        tokio::spawn(async move {
            let _permit = permit;
            if let Some(answer) = answer(&query, &names, &resolvers).await {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

async fn answer(query: &[u8], names: &Names, resolvers: &[SocketAddr]) -> Option<Vec<u8>> {
    let question = Message::from_vec(query).ok()?;
    let asked = question.queries.first()?.clone();
    if let Some(ips) = names.find(&asked.name().to_utf8()) {
        let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = question.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.metadata.authoritative = true;
        for ip in ips {
            let data = match (asked.query_type(), ip) {
                (RecordType::A, IpAddr::V4(ip)) => RData::A(ip.into()),
                (RecordType::AAAA, IpAddr::V6(ip)) => RData::AAAA(ip.into()),
                _ => continue,
            };
            reply.add_answer(Record::from_rdata(asked.name().clone(), TTL, data));
        }
        reply.add_query(asked);
        return reply.to_vec().ok();
    }
    for resolver in resolvers {
        if let Ok(Ok(reply)) = timeout(UPSTREAM, forward(query, *resolver)).await {
            return Some(reply);
        }
    }
    let mut reply = Message::new(question.metadata.id, MessageType::Response, OpCode::Query);
    reply.metadata.response_code = ResponseCode::ServFail;
    reply.add_query(asked);
    reply.to_vec().ok()
}

async fn forward(query: &[u8], resolver: SocketAddr) -> io::Result<Vec<u8>> {
    let socket = UdpSocket::bind("0.0.0.0:0").await?;
    socket.connect(resolver).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4096];
    let length = socket.recv(&mut buffer).await?;
    buffer.truncate(length);
    Ok(buffer)
}

/// The pod's own resolvers.
fn resolvers() -> Vec<SocketAddr> {
    let text = std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
    let servers =
        text.lines().filter_map(|l| l.strip_prefix("nameserver")).filter_map(|ip| ip.trim().parse::<IpAddr>().ok());
    servers.map(|ip| SocketAddr::new(ip, 53)).collect()
}
