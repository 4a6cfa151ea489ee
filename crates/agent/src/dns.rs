//! The sidecar's DNS: names of the mesh from istiod's table, the rest from the pod's own resolvers.
//!
//! UDP and TCP on 127.0.0.1:15053. A name of the mesh is answered at once, also with "there is no such address" for the
//! family that it does not have; what the table does not know is asked of the resolvers of `/etc/resolv.conf`, whose
//! answer is passed on as it is.

mod names;
mod resolvers;

use std::io;
use std::sync::Arc;
use std::time::Duration;

use hickory_proto::op::{Edns, Message, MessageType, OpCode, ResponseCode};
use hickory_proto::rr::rdata::CNAME;
use hickory_proto::rr::{Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::sync::Semaphore;
use tokio::time::timeout;

use names::Known;
pub(crate) use names::Names;
pub(crate) use resolvers::Resolvers;

/// How long an answer may be kept, in seconds, as Istio's.
const TTL: u32 = 30;
/// Questions under way at once; more are dropped, and asked again by their clients.
const MAX_UNDER_WAY: usize = 512;
/// TCP connections at once; more wait in the kernel's queue.
const MAX_CONNECTIONS: usize = 128;
/// A TCP connection on which nobody asks is closed after this.
const IDLE: Duration = Duration::from_secs(10);
/// What a UDP answer may have at the most, whatever the client says: more is cut into fragments and lost.
const MAX_UDP: u16 = 1232;

/// Answers questions over UDP until the socket fails.
pub(crate) async fn serve_udp(socket: UdpSocket, names: Arc<Names>, resolvers: Arc<Resolvers>) {
    let socket = Arc::new(socket);
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
            let answer = match Asked::read(&query) {
                Some(asked) => match asked.of_mesh(&names, true) {
                    Some(answer) => Some(answer),
                    None => resolvers.ask_udp(&query).await.or_else(|| asked.failed()),
                },
                None => None,
            };
            if let Some(answer) = answer {
                let _ = socket.send_to(&answer, from).await;
            }
        });
    }
}

/// Answers questions over TCP until the socket fails.
pub(crate) async fn serve_tcp(listener: TcpListener, names: Arc<Names>, resolvers: Arc<Resolvers>) {
    let room = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let Ok(permit) = room.clone().acquire_owned().await else { return };
        match listener.accept().await {
            Ok((stream, _)) => {
                let (names, resolvers) = (names.clone(), resolvers.clone());
                tokio::spawn(async move {
                    let _permit = permit;
                    // A client that breaks off has only itself to blame.
                    let _ = converse(stream, &names, &resolvers).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "DNS over TCP: accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
}

async fn converse(mut stream: TcpStream, names: &Names, resolvers: &Resolvers) -> io::Result<()> {
    loop {
        let Ok(query) = timeout(IDLE, read_message(&mut stream)).await else { return Ok(()) };
        let query = query?;
        let Some(asked) = Asked::read(&query) else { return Ok(()) };
        let answer = match asked.of_mesh(names, false) {
            Some(answer) => Some(answer),
            None => resolvers.ask_tcp(&query).await.or_else(|| asked.failed()),
        };
        let Some(answer) = answer else { return Ok(()) };
        write_message(&mut stream, &answer).await?;
    }
}

/// A message behind its length (RFC 1035, section 4.2.2).
async fn read_message(stream: &mut TcpStream) -> io::Result<Vec<u8>> {
    let length = stream.read_u16().await?;
    let mut message = vec![0; usize::from(length)];
    stream.read_exact(&mut message).await?;
    Ok(message)
}

async fn write_message(stream: &mut TcpStream, message: &[u8]) -> io::Result<()> {
    let length = u16::try_from(message.len()).map_err(|_| io::Error::other("the message is too long"))?;
    let mut out = length.to_be_bytes().to_vec();
    out.extend_from_slice(message);
    stream.write_all(&out).await
}

/// A question.
struct Asked(Message);

impl Asked {
    /// `None`: it is none, and gets no answer.
    fn read(query: &[u8]) -> Option<Self> {
        let message = Message::from_vec(query).ok()?;
        let question = message.metadata.message_type == MessageType::Query && message.queries.len() == 1;
        question.then_some(Self(message))
    }

    fn reply(&self) -> Message {
        let mut reply = Message::new(self.0.metadata.id, MessageType::Response, OpCode::Query);
        reply.metadata.recursion_desired = self.0.metadata.recursion_desired;
        reply.metadata.recursion_available = true;
        reply.add_queries(self.0.queries.iter().cloned());
        if self.0.edns.is_some() {
            let mut edns = Edns::new();
            edns.set_max_payload(MAX_UDP);
            reply.set_edns(edns);
        }
        reply
    }

    /// The answer to a question for the addresses of a name of the mesh.
    fn of_mesh(&self, names: &Names, udp: bool) -> Option<Vec<u8>> {
        let question = self.0.queries.first()?;
        let kind = question.query_type();
        if self.0.metadata.op_code != OpCode::Query || !matches!(kind, RecordType::A | RecordType::AAAA) {
            return None;
        }
        let Known { alias, mut addresses } = names.find(&question.name().to_ascii())?;
        // Clients that take the first address spread over all.
        fastrand::shuffle(&mut addresses);
        let mut reply = self.reply();
        reply.metadata.authoritative = true;
        let mut owner = question.name().clone();
        if let Some(alias) = alias
            && let Ok(target) = Name::from_ascii(alias)
        {
            reply.add_answer(Record::from_rdata(owner, TTL, RData::CNAME(CNAME(target.clone()))));
            owner = target;
        }
        for ip in addresses {
            let data = match (kind, ip) {
                (RecordType::A, std::net::IpAddr::V4(ip)) => RData::A(ip.into()),
                (RecordType::AAAA, std::net::IpAddr::V6(ip)) => RData::AAAA(ip.into()),
                _ => continue,
            };
            reply.add_answer(Record::from_rdata(owner.clone(), TTL, data));
        }
        let bytes = reply.to_vec().ok()?;
        let room = usize::from(self.0.max_payload().min(MAX_UDP));
        if udp && bytes.len() > room { reply.truncate().to_vec().ok() } else { Some(bytes) }
    }

    /// No resolver answers.
    fn failed(&self) -> Option<Vec<u8>> {
        let mut reply = self.reply();
        reply.metadata.response_code = ResponseCode::ServFail;
        reply.to_vec().ok()
    }
}

#[cfg(test)]
mod tests;
