//! The pod's own resolvers.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::{read_message, write_message};

/// Limit of a question to one resolver, as Istio's.
const LIMIT: Duration = Duration::from_secs(5);

/// The resolvers of `/etc/resolv.conf`, in order.
#[derive(Debug, Default)]
pub(crate) struct Resolvers {
    servers: Vec<SocketAddr>,
    /// Domains that are tried behind short names.
    pub(crate) search: Vec<String>,
}

impl Resolvers {
    /// The pod's own; none when the file cannot be read.
    pub(crate) fn of_pod() -> Self {
        Self::read(&std::fs::read_to_string("/etc/resolv.conf").unwrap_or_default())
    }

    pub(crate) fn read(text: &str) -> Self {
        let mut found = Self::default();
        for line in text.lines().map(|l| l.split(['#', ';']).next().unwrap_or_default()) {
            let mut words = line.split_whitespace();
            match words.next() {
                Some("nameserver") => {
                    // A zone behind the address (`fe80::1%eth0`) is the system's business.
                    let ip: Option<IpAddr> = words.next().and_then(|ip| ip.parse().ok());
                    found.servers.extend(ip.map(|ip| SocketAddr::new(ip, 53)));
                }
                Some("search" | "domain") => found.search = words.map(str::to_owned).collect(),
                _ => {}
            }
        }
        found
    }

    #[cfg(test)]
    pub(crate) fn at(servers: Vec<SocketAddr>) -> Self {
        Self { servers, search: Vec::new() }
    }

    /// The answer of the first resolver that gives one.
    pub(crate) async fn ask_udp(&self, query: &[u8]) -> Option<Vec<u8>> {
        for server in &self.servers {
            match timeout(LIMIT, udp(query, *server)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "the resolver does not answer"),
                Err(_) => tracing::debug!(%server, "the resolver does not answer in time"),
            }
        }
        None
    }

    /// The same over TCP.
    pub(crate) async fn ask_tcp(&self, query: &[u8]) -> Option<Vec<u8>> {
        for server in &self.servers {
            match timeout(LIMIT, tcp(query, *server)).await {
                Ok(Ok(answer)) => return Some(answer),
                Ok(Err(error)) => tracing::debug!(%server, %error, "the resolver does not answer"),
                Err(_) => tracing::debug!(%server, "the resolver does not answer in time"),
            }
        }
        None
    }
}

async fn udp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let any: IpAddr = if server.is_ipv4() { [0; 4].into() } else { [0; 16].into() };
    // A socket of its own, connected: only the resolver can answer, on a port that nobody can guess.
    let socket = UdpSocket::bind(SocketAddr::new(any, 0)).await?;
    socket.connect(server).await?;
    socket.send(query).await?;
    let mut buffer = vec![0; 4096];
    loop {
        let length = socket.recv(&mut buffer).await?;
        let answer = buffer.get(..length).unwrap_or_default();
        if answer.get(..2) == query.get(..2) {
            return Ok(answer.to_vec());
        }
    }
}

async fn tcp(query: &[u8], server: SocketAddr) -> io::Result<Vec<u8>> {
    let mut stream = TcpStream::connect(server).await?;
    write_message(&mut stream, query).await?;
    read_message(&mut stream).await
}
