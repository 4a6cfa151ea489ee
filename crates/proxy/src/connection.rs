//! One connection: where it was going, what it speaks, which filter chain takes it.

use std::io;
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mtls::Peer;
use mtls::sniff::{First, Hello};
use proxy_config::{FilterChain, Listener, Terminal};
use rules::chain::{self, ConnectionView};
use rules::rbac::{Attributes, Decision};
use telemetry::{LogRecord, ResponseFlags};
use tokio::time::timeout;
use tokio_rustls::TlsAcceptor;

use crate::inspect::first_bytes;
use crate::life::Alive;
use crate::socket::NOWHERE;
use crate::stream::Stream;
use crate::worker::Worker;
use crate::{http, tcp};

/// What is known of a connection before anything is decided.
#[derive(Debug)]
pub(crate) struct About {
    pub(crate) source: SocketAddr,
    /// The address the client dialled.
    pub(crate) destination: SocketAddr,
    /// The same, where the connection was turned to us: without that it was to us, and leads nowhere else.
    pub(crate) original: Option<SocketAddr>,
    /// The path of the Unix socket it came by; then there are no addresses.
    pub(crate) pipe: Option<Arc<str>>,
    pub(crate) tls: bool,
    pub(crate) sni: String,
    /// What chain matching sees: ALPN of the hello, or what the bytes look like.
    pub(crate) protocols: Vec<Vec<u8>>,
    /// The verified client.
    pub(crate) peer: Option<Peer>,
    /// URI name of the certificate we showed.
    pub(crate) local_uri: Option<String>,
    pub(crate) start: SystemTime,
    /// Counts the connection as open, upgraded ones included.
    _alive: Alive,
}

impl About {
    pub(crate) fn view(&self) -> ConnectionView<'_> {
        ConnectionView {
            destination: self.destination,
            source: self.source,
            sni: &self.sni,
            transport: if self.tls { "tls" } else { "raw_buffer" },
            protocols: &self.protocols,
        }
    }

    /// Whether a workload of a mesh calls: outside one nobody has a SPIFFE name.
    pub(crate) fn is_of_mesh(&self) -> bool {
        self.peer.as_ref().is_some_and(|peer| peer.uri_sans.iter().any(|name| name.starts_with("spiffe://")))
    }

    /// What the client speaks; what is inside the mesh's own TLS is said as it was outside.
    pub(crate) fn scheme(&self) -> &'static str {
        if self.tls && !self.is_of_mesh() { "https" } else { "http" }
    }

    /// What log lines say of the connection itself.
    pub(crate) fn record(&self, start: SystemTime) -> LogRecord<'_> {
        let mut record = LogRecord::new(start);
        let by_network = self.pipe.is_none();
        record.downstream_local = Some(self.destination).filter(|_| by_network);
        record.downstream_pipe = self.pipe.as_deref();
        record.downstream_remote = Some(self.source).filter(|_| by_network);
        record.downstream_direct = record.downstream_remote;
        record.sni = Some(self.sni.as_str()).filter(|s| !s.is_empty());
        record.downstream_peer_uri = self.peer.as_ref().and_then(|p| p.uri_sans.first()).map(String::as_str);
        record.downstream_peer_subject = self.peer.as_ref().map(|p| p.subject.as_str());
        record.downstream_peer_sha256 = self.peer.as_ref().map(|p| p.sha256.as_str());
        record.downstream_local_uri = self.local_uri.as_deref();
        record
    }

    /// For whom upstream connections are made.
    pub(crate) fn proxied(&self) -> upstream::Proxied {
        upstream::Proxied { source: self.source, destination: self.destination }
    }

    pub(crate) fn attributes(&self) -> Attributes<'_> {
        Attributes {
            request: None,
            path: "",
            peer: self.peer.as_ref().map(|p| p.uri_sans.as_slice()).unwrap_or_default(),
            authenticated: self.peer.is_some(),
            direct_remote: self.source,
            remote: self.source.ip(),
            local: self.destination,
            sni: &self.sni,
            claims: None,
        }
    }

    fn learn(&mut self, first: First) {
        (self.tls, self.sni, self.protocols) = match first {
            First::Tls(Hello { sni, alpn }) => (true, sni.unwrap_or_default(), alpn),
            First::Http1 => (false, String::new(), vec![b"http/1.1".to_vec()]),
            First::Http2 => (false, String::new(), vec![b"h2c".to_vec()]),
            First::Other | First::NeedMore => (false, String::new(), Vec::new()),
        };
    }
}

/// The chain of a listener that takes a connection.
pub(crate) fn chain_for<'a>(listener: &'a Listener, about: &About) -> Option<&'a FilterChain> {
    chain::select(listener.chains.iter().map(|c| &c.matches), &about.view())
        .and_then(|index| listener.chains.get(index))
        .or(listener.default_chain.as_ref())
}

/// Serves a connection to its end.
pub(crate) async fn serve(
    worker: &Rc<Worker>,
    accepted: Arc<Listener>,
    stream: Stream,
    source: SocketAddr,
    alive: Alive,
) {
    let (original, destination) = match destinations(&accepted, &stream) {
        Ok(both) => both,
        Err(error) => {
            tracing::debug!(%source, %error, "the connection is gone");
            return;
        }
    };
    let listener = worker.shared.listeners.hand_over(&accepted, destination);
    let mut about = About {
        source,
        destination,
        original,
        pipe: accepted.address.pipe().map(Arc::from),
        tls: false,
        sni: String::new(),
        protocols: Vec::new(),
        peer: None,
        local_uri: None,
        start: SystemTime::now(),
        _alive: alive,
    };
    let port = destination.port();
    let look_tls = listener.inspect_tls.as_ref().is_some_and(|i| i.is_on(port));
    let look_http = listener.inspect_http.as_ref().is_some_and(|i| i.is_on(port));
    let mut early = None;
    if look_tls || look_http {
        let first = match first_bytes(&stream, worker.shared.undecided).await {
            Ok(First::NeedMore) => undecided(&listener, &about, &stream).await,
            other => other.map(|first| (first, None)),
        };
        match first {
            Ok((First::Http1 | First::Http2, _)) if !look_http => {}
            Ok((First::Tls(_), _)) if !look_tls => {}
            Ok((First::NeedMore, _)) if !listener.inspect_continue => {
                tracing::debug!(%source, %destination, "the client did not speak in time");
                return;
            }
            Ok((first, connected)) => {
                // What was connected to belongs to the chain of clients without a known protocol.
                early = connected.filter(|_| matches!(first, First::Other | First::NeedMore));
                about.learn(first);
            }
            Err(error) => {
                tracing::debug!(%source, %destination, %error, "the connection is gone");
                return;
            }
        }
    }
    let Some(chain) = chain_for(&listener, &about) else {
        no_chain(&listener, &about);
        return;
    };
    let Some(stream) = secure(chain, stream, &mut about).await else { return };
    if let Err(decision) = authorise(chain, &about) {
        denied(chain, &about, &decision);
        return;
    }
    match &chain.terminal {
        Terminal::Http(manager) => http::serve(worker, &listener, manager.clone(), stream, about).await,
        Terminal::Tcp(proxy) => tcp::relay(worker, &listener, chain, proxy, stream, about, early).await,
    }
}

/// The client is silent. It may be slow to begin, or its protocol lets the server speak first: where bytes may go on
/// without a known protocol the upstream is connected at once, and whoever speaks first decides. Nothing of what the
/// client says is sent before that.
async fn undecided(listener: &Listener, about: &About, stream: &Stream) -> io::Result<(First, Option<tcp::Upstream>)> {
    /// A connection on which nobody says anything is kept this long.
    const SILENCE: Duration = Duration::from_secs(3600);
    let client = first_bytes(stream, listener.inspect_timeout.unwrap_or(SILENCE));
    tokio::pin!(client);
    let proxy = match chain_for(listener, about).map(|c| (c, &c.terminal)) {
        Some((chain, Terminal::Tcp(proxy))) if chain.tls.is_none() && authorise(chain, about).is_ok() => proxy,
        _ => return client.await.map(|first| (first, None)),
    };
    let connecting = tcp::connect(proxy, about);
    tokio::pin!(connecting);
    let connected = tokio::select! {
        biased;
        first = &mut client => return match first? {
            first @ (First::Other | First::NeedMore) => Ok((first, connecting.await.ok())),
            known => Ok((known, None)),
        },
        connected = &mut connecting => connected,
    };
    // Without an upstream there is nobody who could speak first; whether that matters, the client's bytes will tell.
    let Ok(mut upstream) = connected else { return client.await.map(|first| (first, None)) };
    tokio::select! {
        biased;
        first = &mut client => first.map(|first| (first, Some(upstream))),
        spoke = upstream.first_byte() => {
            spoke?;
            Ok((First::Other, Some(upstream)))
        }
    }
}

/// Where the client was going before it was turned to us, if it was; and the same, or else where it came to.
fn destinations(listener: &Listener, stream: &Stream) -> io::Result<(Option<SocketAddr>, SocketAddr)> {
    let Stream::Plain(tcp) = stream else { return Ok((None, NOWHERE)) };
    // Small answers must not wait for the client's acknowledgement.
    let _ = tcp.set_nodelay(true);
    let original = if listener.original_dst { net::original_dst(tcp).ok() } else { None };
    Ok((original, original.map_or_else(|| tcp.local_addr(), Ok)?))
}

/// The TLS handshake, when the chain asks for it; `None` when it failed.
async fn secure(chain: &FilterChain, stream: Stream, about: &mut About) -> Option<Stream> {
    let Some(tls) = &chain.tls else { return Some(stream) };
    // A listener of another kind has no such chain.
    let Stream::Plain(stream) = stream else { return None };
    let acceptor = TlsAcceptor::from(tls.for_client(&about.protocols));
    match timeout(chain.handshake_timeout, acceptor.accept(stream)).await {
        Ok(Ok(stream)) => {
            let session = stream.get_ref().1;
            about.tls = true;
            about.peer = session.peer_certificates().and_then(Peer::from_certs);
            about.local_uri = tls.cert.info().into_iter().next().and_then(|c| c.sans.into_iter().next());
            if let Some(alpn) = session.alpn_protocol() {
                about.protocols = vec![alpn.to_vec()];
            }
            Some(Stream::Tls(Box::new(stream)))
        }
        Ok(Err(error)) => {
            tracing::info!(source = %about.source, chain = %chain.name, %error, "TLS handshake failed");
            None
        }
        Err(_) => {
            tracing::info!(source = %about.source, chain = %chain.name, "TLS handshake took too long");
            None
        }
    }
}

/// Authorization below HTTP.
fn authorise(chain: &FilterChain, about: &About) -> Result<(), Decision> {
    for engine in &chain.shadow_rbac {
        let decision = engine.decide(&about.attributes());
        tracing::debug!(chain = %chain.name, ?decision, "dry run");
    }
    match chain.rbac.iter().map(|e| e.decide(&about.attributes())).find(|d| !d.allowed) {
        Some(decision) => Err(decision),
        None => Ok(()),
    }
}

/// Envoy's details of a denial: the policy that matched, or none.
pub(crate) fn denial(decision: &Decision) -> String {
    format!("rbac_access_denied_matched_policy[{}]", decision.policy.as_deref().unwrap_or("none"))
}

fn denied(chain: &FilterChain, about: &About, decision: &Decision) {
    let details = denial(decision);
    if let Terminal::Tcp(proxy) = &chain.terminal {
        let cluster = proxy.clusters.first().map(|c| c.cluster.name.clone());
        let mut record = record(about, ResponseFlags::NONE);
        record.connection_termination = Some(&details);
        record.upstream_cluster = cluster.as_deref();
        proxy.logs.iter().for_each(|log| log.log(&record));
    }
    tracing::info!(source = %about.source, destination = %about.destination, %details, "connection denied");
}

/// A log record of a connection.
pub(crate) fn record(about: &About, flags: ResponseFlags) -> LogRecord<'_> {
    let mut record = about.record(about.start);
    record.duration = about.start.elapsed().unwrap_or_default();
    record.flags = flags;
    record
}

fn no_chain(listener: &Listener, about: &About) {
    let mut record = record(about, ResponseFlags::NR);
    record.connection_termination = Some("filter_chain_not_found");
    listener.logs.iter().for_each(|log| log.log(&record));
    tracing::info!(listener = %listener.name, source = %about.source, destination = %about.destination, tls = about.tls, "no filter chain matches");
}
