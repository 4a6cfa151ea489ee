//! Cluster DNS: a small authoritative server for `cluster.local` over UDP and TCP.
//!
//! Only what resolvers ask a cluster for: A records (and empty answers for other types of names that exist). Names outside
//! do not exist, since a laptop mesh has no way out of its namespaces.

use std::cell::RefCell;
use std::collections::HashMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::rc::Rc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

/// Answers are believed this many seconds: short, since headless services change.
const TTL: u32 = 5;
/// More addresses than this do not fit into a UDP answer of 512 bytes with a long name.
const MAX_UDP_ADDRESSES: usize = 14;
/// An aliased name is followed this often.
const MAX_ALIASES: usize = 4;
const TYPE_A: u16 = 1;
const TYPE_CNAME: u16 = 5;
const TYPE_ANY: u16 = 255;
/// Response codes of RFC 1035, section 4.1.1.
const FORMAT_ERROR: u8 = 1;
const NAME_ERROR: u8 = 3;
const NOT_IMPLEMENTED: u8 = 4;

/// What a name stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// These addresses; none is an empty answer.
    Addresses(Vec<Ipv4Addr>),
    /// Another name.
    Alias(String),
}

/// Names and their answers.
#[derive(Clone, Debug, Default)]
pub struct Table(HashMap<String, Answer>);

impl Table {
    /// Sets the answer of a full name.
    pub fn insert(&mut self, name: &str, answer: Answer) {
        self.0.insert(normal(name), answer);
    }

    /// The answer of a full name, whatever its case and with or without the last dot.
    pub fn find(&self, name: &str) -> Option<&Answer> {
        self.0.get(&normal(name))
    }
}

fn normal(name: &str) -> String {
    name.trim_end_matches('.').to_ascii_lowercase()
}

/// The table that the server reads; replaced as a whole.
pub type Shared = Rc<RefCell<Table>>;

/// Serves until dropped.
///
/// # Errors
/// When the address cannot be bound.
pub async fn serve(address: SocketAddr, table: Shared) -> std::io::Result<()> {
    let udp = UdpSocket::bind(address).await?;
    let tcp = TcpListener::bind(address).await?;
    tokio::task::spawn_local(serve_tcp(tcp, table.clone()));
    tokio::task::spawn_local(async move {
        let mut packet = [0; 1500];
        loop {
            // An error here is an ICMP answer to an earlier packet; the socket itself goes on.
            let Ok((length, from)) = udp.recv_from(&mut packet).await else { continue };
            let answer = packet.get(..length).and_then(|query| respond(query, &table.borrow(), true));
            if let Some(answer) = answer {
                let _ = udp.send_to(&answer, from).await;
            }
        }
    });
    Ok(())
}

async fn serve_tcp(listener: TcpListener, table: Shared) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let table = table.clone();
                tokio::task::spawn_local(async move {
                    // A client that is slow or breaks off has only itself to blame.
                    let _ = tokio::time::timeout(Duration::from_secs(5), answer_tcp(stream, &table)).await;
                });
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
        }
    }
}

async fn answer_tcp(mut stream: TcpStream, table: &Shared) -> std::io::Result<()> {
    loop {
        let length = stream.read_u16().await?;
        let mut query = vec![0; usize::from(length)];
        stream.read_exact(&mut query).await?;
        let Some(answer) = respond(&query, &table.borrow(), false) else { return Ok(()) };
        stream.write_u16(u16::try_from(answer.len()).unwrap_or(u16::MAX)).await?;
        stream.write_all(&answer).await?;
    }
}

/// The answer to one query (RFC 1035, section 4); `None` for what is not a query at all.
fn respond(query: &[u8], table: &Table, udp: bool) -> Option<Vec<u8>> {
    let header = query.get(..12)?;
    let [id_high, id_low, flags, _, questions_high, questions_low, ..] = *header else { return None };
    let is_answer = flags & 0x80 != 0;
    if is_answer {
        return None;
    }
    let opcode_and_recursion = flags & 0x79;
    let reply = |code: u8, truncated: bool, answers: u16, question: &[u8], records: &[u8]| {
        let second = flags_byte(opcode_and_recursion, truncated);
        let mut out = vec![id_high, id_low, second, 0x80 | code, 0, u8::from(!question.is_empty())];
        out.extend_from_slice(&answers.to_be_bytes());
        out.extend_from_slice(&[0; 4]);
        out.extend_from_slice(question);
        out.extend_from_slice(records);
        out
    };
    if flags & 0x78 != 0 {
        return Some(reply(NOT_IMPLEMENTED, false, 0, &[], &[]));
    }
    let parsed = (questions_high == 0 && questions_low == 1).then(|| question(query)).flatten();
    let Some((name, kind, end)) = parsed else {
        return Some(reply(FORMAT_ERROR, false, 0, &[], &[]));
    };
    let asked = query.get(12..end)?;
    let Some((aliases, addresses)) = resolve(table, &name) else {
        return Some(reply(NAME_ERROR, false, 0, asked, &[]));
    };
    let truncated = udp && addresses.len() > MAX_UDP_ADDRESSES;
    let wanted = if kind == TYPE_A || kind == TYPE_ANY { addresses } else { Vec::new() };
    let mut records = Vec::new();
    let mut count = 0_u16;
    let mut owner = name;
    for alias in aliases {
        push_record(&mut records, &owner, TYPE_CNAME, &encode(&alias)?)?;
        owner = alias;
        count += 1;
    }
    for address in wanted.iter().take(if udp { MAX_UDP_ADDRESSES } else { 4000 }) {
        push_record(&mut records, &owner, TYPE_A, &address.octets())?;
        count += 1;
    }
    Some(reply(0, truncated, count, asked, &records))
}

/// QR and AA set, opcode and RD as asked, TC as needed.
fn flags_byte(opcode_and_recursion: u8, truncated: bool) -> u8 {
    0x80 | 0x04 | opcode_and_recursion | if truncated { 0x02 } else { 0 }
}

/// Follows aliases: the names on the way and the addresses at its end. `None` when the name does not exist.
fn resolve(table: &Table, name: &str) -> Option<(Vec<String>, Vec<Ipv4Addr>)> {
    let mut aliases = Vec::new();
    let mut current = table.find(name)?;
    for _ in 0..MAX_ALIASES {
        match current {
            Answer::Addresses(addresses) => return Some((aliases, addresses.clone())),
            Answer::Alias(other) => {
                aliases.push(other.clone());
                match table.find(other) {
                    Some(next) => current = next,
                    None => break,
                }
            }
        }
    }
    Some((aliases, Vec::new()))
}

/// Name and type of the only question, and where it ends. Names in a question are not compressed.
fn question(query: &[u8]) -> Option<(String, u16, usize)> {
    let mut at = 12;
    let mut name = String::new();
    loop {
        let length = usize::from(*query.get(at)?);
        at += 1;
        if length == 0 {
            break;
        }
        if length > 63 || name.len() + length > 253 {
            return None;
        }
        let label = std::str::from_utf8(query.get(at..at + length)?).ok()?;
        if !name.is_empty() {
            name.push('.');
        }
        name.push_str(label);
        at += length;
    }
    let kind = u16::from_be_bytes([*query.get(at)?, *query.get(at + 1)?]);
    query.get(at + 3)?;
    Some((name, kind, at + 4))
}

fn encode(name: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.trim_end_matches('.').split('.') {
        let length = u8::try_from(label.len()).ok().filter(|n| (1..=63).contains(n))?;
        out.push(length);
        out.extend_from_slice(label.as_bytes());
    }
    out.push(0);
    Some(out)
}

fn push_record(out: &mut Vec<u8>, owner: &str, kind: u16, data: &[u8]) -> Option<()> {
    out.extend_from_slice(&encode(owner)?);
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&1_u16.to_be_bytes());
    out.extend_from_slice(&TTL.to_be_bytes());
    out.extend_from_slice(&u16::try_from(data.len()).ok()?.to_be_bytes());
    out.extend_from_slice(data);
    Some(())
}

#[cfg(test)]
mod tests;
