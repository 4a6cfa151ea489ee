//! Sockets with the options a proxy needs.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};

/// How a listener is opened.
#[derive(Clone, Copy, Debug)]
pub struct ListenOptions {
    /// Several sockets, one a worker, share the address; the kernel spreads connections (`SO_REUSEPORT`).
    pub reuse_port: bool,
    /// Accept connections to addresses that are not ours (`IP_TRANSPARENT`, for TPROXY); needs `CAP_NET_ADMIN`.
    pub transparent: bool,
    /// Connections that may wait for `accept`.
    pub backlog: i32,
}

impl Default for ListenOptions {
    fn default() -> Self {
        Self { reuse_port: false, transparent: false, backlog: 1024 }
    }
}

/// A non-blocking listener.
///
/// # Errors
/// What `socket`, `setsockopt`, `bind` or `listen` say: the address in use, no permission, no such address.
pub fn listen(address: SocketAddr, options: &ListenOptions) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    socket.set_reuse_address(true)?;
    if options.reuse_port {
        socket.set_reuse_port(true)?;
    }
    if options.transparent {
        socket.set_ip_transparent_v4(true)?;
    }
    socket.bind(&address.into())?;
    socket.listen(options.backlog)?;
    Ok(socket.into())
}

/// A non-blocking TCP socket, not yet connected.
///
/// `bind` fixes the source address (Istio's inbound passthrough dials from 127.0.0.6); `mark` sets `SO_MARK`.
///
/// # Errors
/// What the system calls say; `SO_MARK` needs `CAP_NET_ADMIN`.
pub fn connect_socket(bind: Option<IpAddr>, mark: Option<u32>, v6: bool) -> io::Result<Socket> {
    let domain = if v6 { Domain::IPV6 } else { Domain::IPV4 };
    let socket = Socket::new(domain, Type::STREAM, Some(Protocol::TCP))?;
    socket.set_nonblocking(true)?;
    if let Some(mark) = mark {
        socket.set_mark(mark)?;
    }
    if let Some(source) = bind.filter(|ip| ip.is_ipv6() == v6 && !is_any(*ip)) {
        socket.bind(&SocketAddr::new(source, 0).into())?;
    }
    Ok(socket)
}

fn is_any(ip: IpAddr) -> bool {
    ip == IpAddr::V4(Ipv4Addr::UNSPECIFIED) || ip == IpAddr::V6(Ipv6Addr::UNSPECIFIED)
}

/// Turns TCP keep-alive on.
///
/// # Errors
/// What `setsockopt` says.
pub fn set_keepalive<S: std::os::fd::AsFd>(
    socket: &S,
    time: Option<Duration>,
    interval: Option<Duration>,
    probes: Option<u32>,
) -> io::Result<()> {
    let mut keepalive = TcpKeepalive::new();
    if let Some(time) = time {
        keepalive = keepalive.with_time(time);
    }
    if let Some(interval) = interval {
        keepalive = keepalive.with_interval(interval);
    }
    if let Some(probes) = probes {
        keepalive = keepalive.with_retries(probes);
    }
    SockRef::from(socket).set_tcp_keepalive(&keepalive)
}
