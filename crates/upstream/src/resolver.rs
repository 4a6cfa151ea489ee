//! Questions to DNS, and how long each answer may be kept.

use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

/// The longest wait for one server.
const LIMIT: Duration = Duration::from_secs(5);
/// Bounds of what an answer's own time to live may say.
const LIVES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));
/// How long an answer of the system is kept, which does not say: Envoy's default DNS refresh rate.
const OF_SYSTEM: Duration = Duration::from_secs(5);

/// Addresses of a name, and how long they hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Resolved {
    pub(crate) addresses: Vec<IpAddr>,
    pub(crate) life: Duration,
}

/// Where names are asked for.
#[derive(Debug, Default)]
pub(crate) struct Resolver {
    servers: Vec<SocketAddr>,
    /// `/etc/hosts`.
    fixed: HashMap<String, Vec<IpAddr>>,
}

impl Resolver {
    /// That of the process, read once.
    pub(crate) fn of_process() -> &'static Self {
        static SYSTEM: std::sync::OnceLock<Resolver> = std::sync::OnceLock::new();
        SYSTEM.get_or_init(Self::of_system)
    }

    /// The servers of `/etc/resolv.conf`, behind the names of `/etc/hosts`.
    fn of_system() -> Self {
        let read = |path| std::fs::read_to_string(path).unwrap_or_default();
        let server = |line: &str| {
            let mut words = line.split_whitespace();
            let ip: Option<IpAddr> = words.next().filter(|w| *w == "nameserver").and(words.next())?.parse().ok();
            ip.map(|ip| SocketAddr::new(ip, 53))
        };
        let mut fixed: HashMap<String, Vec<IpAddr>> = HashMap::new();
        for line in read("/etc/hosts").lines().map(|l| l.split('#').next().unwrap_or_default()) {
            let mut words = line.split_whitespace();
            let Some(ip) = words.next().and_then(|ip| ip.parse().ok()) else { continue };
            for name in words {
                fixed.entry(name.to_ascii_lowercase()).or_default().push(ip);
            }
        }
        Self { servers: read("/etc/resolv.conf").lines().filter_map(server).collect(), fixed }
    }

    /// These servers only.
    #[cfg(test)]
    pub(crate) fn at(servers: Vec<SocketAddr>) -> Self {
        Self { servers, fixed: HashMap::new() }
    }

    /// The IPv4 addresses of a name, or its IPv6 addresses when it has no other.
    pub(crate) async fn lookup(&self, host: &str) -> Result<Resolved, String> {
        if let Ok(ip) = host.parse() {
            return Ok(Resolved { addresses: vec![ip], life: LIVES.1 });
        }
        let name = host.trim_end_matches('.').to_ascii_lowercase();
        // RFC 6761, 6.3: these names are this machine, whatever a server says.
        if name == "localhost" || name.ends_with(".localhost") {
            return Ok(Resolved { addresses: vec![Ipv4Addr::LOCALHOST.into()], life: LIVES.1 });
        }
        if let Some(addresses) = self.fixed.get(&name) {
            return Ok(Resolved { addresses: addresses.clone(), life: LIVES.1 });
        }
        // A short name needs the system's search list.
        if self.servers.is_empty() || !host.contains('.') {
            return of_system(host).await;
        }
        let name = Name::from_ascii(format!("{}.", host.trim_end_matches('.'))).map_err(|e| e.to_string())?;
        let mut last = Err("no server answers".to_owned());
        for server in &self.servers {
            last = match timeout(LIMIT, ask(*server, &name)).await {
                Ok(Ok(Some(found))) => return Ok(found),
                // The name may be meant with something behind it.
                Ok(Ok(None)) => return of_system(host).await.map_err(|_| "the name has no address".to_owned()),
                Ok(Err(error)) => Err(error.to_string()),
                Err(_) => Err("timeout".to_owned()),
            };
        }
        last
    }
}

/// `getaddrinfo`, which knows search lists and no times to live.
async fn of_system(host: &str) -> Result<Resolved, String> {
    let asked = timeout(LIMIT, tokio::net::lookup_host((host, 0))).await;
    let all: Vec<IpAddr> =
        asked.map_err(|_| "timeout".to_owned())?.map_err(|e| e.to_string())?.map(|a| a.ip()).collect();
    let v4 = all.iter().any(IpAddr::is_ipv4);
    let addresses: Vec<IpAddr> = all.into_iter().filter(|ip| ip.is_ipv4() == v4).collect();
    if addresses.is_empty() {
        Err("the name has no address".to_owned())
    } else {
        Ok(Resolved { addresses, life: OF_SYSTEM })
    }
}

/// `None`: the server knows that there is no address.
async fn ask(server: SocketAddr, name: &Name) -> io::Result<Option<Resolved>> {
    for kind in [RecordType::A, RecordType::AAAA] {
        let mut query = Message::new(fastrand::u16(..), MessageType::Query, OpCode::Query);
        query.metadata.recursion_desired = true;
        query.add_query(Query::query(name.clone(), kind));
        let answer = exchange(server, &query).await?;
        match answer.metadata.response_code {
            ResponseCode::NoError => {}
            ResponseCode::NXDomain => return Ok(None),
            other => return Err(io::Error::other(format!("the server answers {other}"))),
        }
        let mut life = LIVES.1;
        let mut addresses = Vec::new();
        for record in &answer.answers {
            // The shortest life of a chain of aliases holds for its end.
            life = life.min(Duration::from_secs(u64::from(record.ttl)));
            match &record.data {
                RData::A(ip) => addresses.push(IpAddr::V4(ip.0)),
                RData::AAAA(ip) => addresses.push(IpAddr::V6(ip.0)),
                _ => {}
            }
        }
        if !addresses.is_empty() {
            return Ok(Some(Resolved { addresses, life: life.clamp(LIVES.0, LIVES.1) }));
        }
    }
    Ok(None)
}

/// Over UDP, and over TCP when the answer does not fit.
async fn exchange(server: SocketAddr, query: &Message) -> io::Result<Message> {
    let bytes = query.to_vec().map_err(io::Error::other)?;
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    // A socket of its own, connected: only the server can answer, on a port that nobody can guess.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(&bytes).await?;
    let mut buffer = vec![0; 4096];
    let answer = loop {
        let length = socket.recv(&mut buffer).await?;
        let Ok(answer) = Message::from_vec(buffer.get(..length).unwrap_or_default()) else { continue };
        if answer.metadata.id == query.metadata.id && answer.queries == query.queries {
            break answer;
        }
    };
    if !answer.metadata.truncation {
        return Ok(answer);
    }
    let mut stream = TcpStream::connect(server).await?;
    stream.write_u16(u16::try_from(bytes.len()).map_err(io::Error::other)?).await?;
    stream.write_all(&bytes).await?;
    let mut whole = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut whole).await?;
    Message::from_vec(&whole).map_err(io::Error::other)
}
