//! Bytes from one connection to another.

use std::cell::Cell;
use std::io;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

use net::{CopyEnd, Moved};
use proxy_config::{FilterChain, Listener, TcpProxy};
use telemetry::{RequestProtocol, ResponseFlags, TcpSeries};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;
use upstream::{
    Address, Alpn, Cause, Cluster, Connected, Host, NameError, Outcome, PickContext, Registry, Target, Transport,
};

use crate::connection::{About, record};
use crate::stream::Stream;
use crate::tunnel;
use crate::worker::Worker;

/// A connection to an upstream, and what it said before anyone asked.
#[derive(Debug)]
pub(crate) struct Upstream {
    cluster: Arc<Cluster>,
    host: Arc<Host>,
    connected: Connected,
    early: Vec<u8>,
}

impl Upstream {
    /// Waits until the upstream speaks.
    pub(crate) async fn first_byte(&mut self) -> io::Result<()> {
        if !self.early.is_empty() {
            return Ok(());
        }
        let mut buffer = vec![0; 4096];
        let read = self.connected.stream.read(&mut buffer).await?;
        buffer.truncate(read);
        self.early = buffer;
        Ok(())
    }
}

/// Why no upstream connection came about.
#[derive(Debug)]
pub(crate) struct Failure {
    flags: ResponseFlags,
    reason: String,
    cluster: Option<Arc<str>>,
    host: Option<Address>,
}

/// Picks a host and connects, as often as the configuration allows.
pub(crate) async fn connect(proxy: &TcpProxy, about: &About) -> Result<Upstream, Failure> {
    let fail = |flags, reason: &str| Failure { flags, reason: reason.to_owned(), cluster: None, host: None };
    let mut point = fastrand::u32(..proxy.total_weight.max(1));
    let chosen = proxy.clusters.iter().find(|c| {
        let here = point < c.weight;
        point = point.wrapping_sub(if here { 0 } else { c.weight });
        here
    });
    let slot = &chosen.ok_or_else(|| fail(ResponseFlags::NC, "no cluster has weight"))?.cluster;
    let cluster = slot
        .load()
        .ok_or_else(|| Failure { cluster: Some(slot.name.clone()), ..fail(ResponseFlags::NC, "cluster_not_found") })?;
    Registry::ready(&cluster).await;
    let target = name(proxy, &cluster, about).await?;
    let mut tried = Vec::new();
    let mut last = fail(ResponseFlags::UH, "no_healthy_upstream");
    last.cluster = Some(cluster.config.name.clone());
    for _ in 0..proxy.max_connect_attempts {
        let Ok(host) = cluster.pick(&PickContext {
            tried: &tried,
            original: about.original,
            target: target.as_ref(),
            hash: proxy.hashes_source.then(|| rules::route::HashPolicy::source(about.source.ip())),
            ..PickContext::default()
        }) else {
            break;
        };
        match upstream::connect(&cluster, &host, Alpn::Configured, Some(&about.proxied())).await {
            Ok(mut connected) => {
                let Some(wanted) = &proxy.tunnel else {
                    return Ok(Upstream { cluster, host, connected, early: Vec::new() });
                };
                let opening = tunnel::open(connected.stream, wanted);
                let opened = tokio::time::timeout(cluster.config.connect_timeout, opening).await;
                match opened.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into())) {
                    Ok((stream, early)) => {
                        connected.stream = stream;
                        return Ok(Upstream { cluster, host, connected, early });
                    }
                    Err(error) => {
                        cluster.report(&host, Outcome::LocalFailure);
                        last.flags = ResponseFlags::UF.with(ResponseFlags::URX);
                        last.reason = error.to_string();
                        last.host = Some(host.address.clone());
                        tried.push(host.address.clone());
                    }
                }
            }
            Err(cause) => {
                cluster.report(&host, Outcome::LocalFailure);
                last.flags = if cause == Cause::Overflow {
                    ResponseFlags::UO
                } else {
                    ResponseFlags::UF.with(ResponseFlags::URX)
                };
                last.reason = cause.transport_failure().map_or_else(|| cause.to_string(), str::to_owned);
                last.host = Some(host.address.clone());
                tried.push(host.address.clone());
            }
        }
    }
    Err(last)
}

/// The host that the client's TLS asks for, its addresses found, where the cluster is for names that callers bring.
async fn name(proxy: &TcpProxy, cluster: &Cluster, about: &About) -> Result<Option<Target>, Failure> {
    let Some((port, limits)) = proxy.names.filter(|_| cluster.is_named()) else { return Ok(None) };
    let fail = |flags, reason: &str| Failure {
        flags,
        reason: reason.to_owned(),
        cluster: Some(cluster.config.name.clone()),
        host: None,
    };
    let unknown = || fail(ResponseFlags::DF, "dns_resolution_failure");
    let target = Target::new(&about.sni, port).ok_or_else(unknown)?;
    match Registry::resolve(cluster, &target, limits).await {
        Ok(()) => Ok(Some(target)),
        Err(NameError::NoAddress) => Err(unknown()),
        Err(NameError::Overflow) => Err(fail(ResponseFlags::UO, "dns_cache_overflow")),
    }
}

/// Relays a connection to its end, and reports it.
pub(crate) async fn relay(
    worker: &Rc<Worker>,
    listener: &Listener,
    chain: &FilterChain,
    proxy: &TcpProxy,
    stream: Stream,
    about: About,
    early: Option<Upstream>,
) {
    let upstream = match early {
        Some(upstream) => Ok(upstream),
        None => connect(proxy, &about).await,
    };
    let upstream = match upstream {
        Ok(upstream) => upstream,
        Err(failure) => {
            let mut record = record(&about, failure.flags);
            record.upstream_failure = Some(&failure.reason);
            record.upstream_cluster = failure.cluster.as_deref();
            record.upstream_host = failure.host.as_ref().and_then(Address::ip);
            record.upstream_pipe = failure.host.as_ref().and_then(Address::pipe);
            proxy.logs.iter().for_each(|log| log.log(&record));
            return;
        }
    };
    let Upstream { cluster, host, connected, early } = upstream;
    let series = chain.stats.then(|| {
        let mut peers = worker.peers.borrow_mut();
        peers.tcp_series(listener.inbound, &about, &cluster, &host, connected.peer_uri.as_ref(), RequestProtocol::Tcp)
    });
    if let Some(series) = &series {
        series.opened();
    }
    let _permit = connected.permit;
    host.stats.cx_active.fetch_add(1, Relaxed);
    let moved = Moved::default();
    let mut report = Report { series: series.as_deref(), received: 0, sent: 0 };
    let end = {
        let copying = copy(stream, connected.stream, early, proxy, &moved);
        tokio::pin!(copying);
        loop {
            tokio::select! {
                end = &mut copying => break end,
                () = tokio::time::sleep(chain.report_every), if series.is_some() => report.send(&moved),
            }
        }
    };
    host.stats.cx_active.fetch_sub(1, Relaxed);
    let flags = match &end {
        CopyEnd::Closed => ResponseFlags::NONE,
        CopyEnd::Idle => ResponseFlags::SI,
        CopyEnd::FailedA(_) => ResponseFlags::DC,
        CopyEnd::FailedB(_) => ResponseFlags::UC,
    };
    report.send(&moved);
    if let Some(series) = &series {
        series.closed(flags);
    }
    let mut record = record(&about, flags);
    record.bytes_received = moved.a_to_b.get();
    record.bytes_sent = moved.b_to_a.get();
    record.upstream_cluster = Some(&cluster.config.name);
    record.upstream_host = host.address.ip();
    record.upstream_pipe = host.address.pipe();
    record.upstream_local = connected.local;
    record.upstream_peer_uri = connected.peer_uri.as_deref();
    proxy.logs.iter().for_each(|log| log.log(&record));
}

/// What the metrics know of a connection: a long one is told of while it lasts.
struct Report<'a> {
    series: Option<&'a TcpSeries>,
    received: u64,
    sent: u64,
}

impl Report<'_> {
    /// Adds what moved since the last time.
    fn send(&mut self, moved: &Moved) {
        let Some(series) = self.series else { return };
        let (received, sent) = (moved.a_to_b.get(), moved.b_to_a.get());
        series.received(received.saturating_sub(self.received));
        series.sent(sent.saturating_sub(self.sent));
        (self.received, self.sent) = (received, sent);
    }
}

/// Inside the kernel where both sides are plain, through buffers where one is TLS.
async fn copy(mut down: Stream, up: Transport, early: Vec<u8>, proxy: &TcpProxy, moved: &Moved) -> CopyEnd {
    if !early.is_empty() {
        if let Err(error) = down.write_all(&early).await {
            return CopyEnd::FailedA(error);
        }
        if let Err(error) = down.flush().await {
            return CopyEnd::FailedA(error);
        }
        moved.b_to_a.set(early.len() as u64);
    }
    let work = async {
        match (down, up) {
            (Stream::Plain(down), Transport::Plain(up)) => {
                net::copy_counted(&down, &up, proxy.idle_timeout, moved).await
            }
            (down, up) => copy_buffered(down, up, proxy.idle_timeout, moved).await,
        }
    };
    match proxy.max_duration {
        Some(limit) => tokio::time::timeout(limit, work).await.unwrap_or(CopyEnd::Idle),
        None => work.await,
    }
}

enum Side {
    Read(io::Error),
    Write(io::Error),
}

/// Moves bytes both ways through buffers, as [`net::copy_counted`] does inside the kernel.
pub(crate) async fn copy_buffered(
    a: impl AsyncRead + AsyncWrite + Unpin,
    b: impl AsyncRead + AsyncWrite + Unpin,
    idle: Option<Duration>,
    moved: &Moved,
) -> CopyEnd {
    let (mut a_read, mut a_write) = tokio::io::split(a);
    let (mut b_read, mut b_write) = tokio::io::split(b);
    let forward = pump(&mut a_read, &mut b_write, &moved.a_to_b, &moved.last);
    let backward = pump(&mut b_read, &mut a_write, &moved.b_to_a, &moved.last);
    let both = async {
        let forward = async {
            forward.await.map_err(|side| match side {
                Side::Read(e) => CopyEnd::FailedA(e),
                Side::Write(e) => CopyEnd::FailedB(e),
            })
        };
        let backward = async {
            backward.await.map_err(|side| match side {
                Side::Read(e) => CopyEnd::FailedB(e),
                Side::Write(e) => CopyEnd::FailedA(e),
            })
        };
        tokio::try_join!(forward, backward).err().unwrap_or(CopyEnd::Closed)
    };
    let silence = async {
        let Some(idle) = idle else { return std::future::pending().await };
        loop {
            tokio::time::sleep_until(moved.last.get() + idle).await;
            if moved.last.get().elapsed() >= idle {
                return;
            }
        }
    };
    tokio::select! {
        end = both => end,
        () = silence => CopyEnd::Idle,
    }
}

async fn pump(
    from: &mut (impl AsyncRead + Unpin),
    to: &mut (impl AsyncWrite + Unpin),
    count: &Cell<u64>,
    last: &Cell<Instant>,
) -> Result<(), Side> {
    let mut buffer = vec![0; 16 * 1024];
    loop {
        let read = from.read(&mut buffer).await.map_err(Side::Read)?;
        if read == 0 {
            // The peer may already be gone: then there is nobody to tell.
            let _ = to.shutdown().await;
            return Ok(());
        }
        to.write_all(&buffer[..read]).await.map_err(Side::Write)?;
        to.flush().await.map_err(Side::Write)?;
        count.set(count.get() + read as u64);
        last.set(Instant::now());
    }
}
