//! The sockets that workers accept on: of the network, or of the file system.

use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use net::{ListenOptions, Pipe};
use tokio::net::{TcpListener, UnixListener};
use upstream::Address;

use crate::stream::Stream;

/// A socket on its way to its worker.
#[derive(Debug)]
pub(crate) enum Socket {
    Tcp(std::net::TcpListener),
    /// One of all workers; its path goes with the last of them.
    Pipe(std::os::unix::net::UnixListener, Arc<Pipe>),
}

/// A socket that is accepted on.
#[derive(Debug)]
pub(crate) enum Accepting {
    Tcp(TcpListener),
    Pipe(UnixListener, #[expect(dead_code, reason = "kept for its end")] Arc<Pipe>),
}

/// No address at all: who comes by a Unix socket has none.
pub(crate) const NOWHERE: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);

/// Where sockets really listen.
#[derive(Debug)]
pub(crate) enum Bound {
    Ip(SocketAddr),
    Pipe(Arc<Pipe>),
}

/// One socket for each worker, and where they listen.
pub(crate) fn open(at: &Address, workers: usize) -> io::Result<(Vec<Socket>, Bound)> {
    match at {
        Address::Ip(at) => {
            let options = ListenOptions { reuse_port: true, ..ListenOptions::default() };
            let first = net::listen(*at, &options)?;
            // Port 0 is given once; all workers share what the system chose.
            let address = first.local_addr()?;
            let mut sockets = vec![Socket::Tcp(first)];
            for _ in 1..workers {
                sockets.push(Socket::Tcp(net::listen(address, &options)?));
            }
            Ok((sockets, Bound::Ip(address)))
        }
        Address::Pipe(path) => {
            let pipe = Arc::new(Pipe::listen(path)?);
            let one = |_| -> io::Result<Socket> { Ok(Socket::Pipe(pipe.share()?, pipe.clone())) };
            let sockets = (0..workers).map(one).collect::<io::Result<Vec<_>>>()?;
            Ok((sockets, Bound::Pipe(pipe)))
        }
    }
}

impl Accepting {
    /// Takes a socket into a worker's runtime.
    pub(crate) fn new(socket: Socket) -> io::Result<Self> {
        Ok(match socket {
            Socket::Tcp(socket) => Self::Tcp(TcpListener::from_std(socket)?),
            Socket::Pipe(socket, pipe) => Self::Pipe(UnixListener::from_std(socket)?, pipe),
        })
    }

    /// The next connection, and whom it is from.
    pub(crate) async fn accept(&self) -> io::Result<(Stream, SocketAddr)> {
        match self {
            Self::Tcp(socket) => socket.accept().await.map(|(stream, source)| (Stream::Plain(stream), source)),
            Self::Pipe(socket, _) => socket.accept().await.map(|(stream, _)| (Stream::Pipe(stream), NOWHERE)),
        }
    }
}
