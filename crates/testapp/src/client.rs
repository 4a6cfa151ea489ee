//! The load client: every request is counted, with its answer or the reason why there is none.

use std::cell::{Cell, RefCell};
use std::rc::Rc;
use std::time::{Duration, Instant};

use bytes::{BufMut, Bytes, BytesMut};
use http::header::{CONTENT_TYPE, HOST};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, Uri, Version};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::TcpStream;
use tokio::task::LocalSet;

use crate::report::{Report, Tally};

/// What to call, how often and how.
#[derive(Clone, Debug)]
pub struct ClientOptions {
    /// An `http://` URL.
    pub url: Uri,
    /// The method.
    pub method: Method,
    /// Sent with every request.
    pub headers: HeaderMap,
    /// Sent with every request.
    pub body: Bytes,
    /// How many requests; `None` until `duration` is over.
    pub count: Option<u64>,
    /// How long; `None` until `count` is reached.
    pub duration: Option<Duration>,
    /// Requests at the same time, one connection each.
    pub concurrency: usize,
    /// Requests a second in all; `None` as fast as answers come.
    pub rate: Option<f64>,
    /// Speak HTTP/2 with prior knowledge.
    pub h2: bool,
    /// Send the body as one gRPC message and judge by `grpc-status`.
    pub grpc: bool,
    /// A new connection for every request.
    pub fresh: bool,
    /// The longest that one request may take.
    pub timeout: Duration,
}

/// Why a request has no answer.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL has no host, or is not `http://`.
    #[error("`{0}` cannot be called; write for example http://payment-api:8080/path")]
    Url(String),
    /// No connection.
    #[error("cannot connect to {0}: {1}")]
    Connect(String, std::io::Error),
    /// The connection or stream failed.
    #[error("{0}")]
    Http(String),
    /// The time is over.
    #[error("no answer in {0:?}")]
    Timeout(Duration),
}

impl ClientOptions {
    /// `HOST:PORT` of the URL.
    fn target(&self) -> Result<String, ClientError> {
        let refuse = || ClientError::Url(self.url.to_string());
        if self.url.scheme_str() != Some("http") {
            return Err(refuse());
        }
        let authority = self.url.authority().ok_or_else(refuse)?;
        Ok(format!("{}:{}", authority.host(), authority.port_u16().unwrap_or(80)))
    }

    fn request(&self) -> Request<Full<Bytes>> {
        let mut request = Request::new(Full::new(self.payload()));
        *request.method_mut() = if self.grpc { Method::POST } else { self.method.clone() };
        *request.headers_mut() = self.headers.clone();
        if self.grpc {
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
            request.headers_mut().insert("te", HeaderValue::from_static("trailers"));
        }
        if self.multiplexed() {
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = self.with_host_header(&mut request);
        } else {
            let path = self.url.path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
            *request.uri_mut() = path.parse().unwrap_or_default();
            if let Some(authority) = self.url.authority()
                && let Ok(value) = HeaderValue::from_str(authority.as_str())
                && !self.headers.contains_key(HOST)
            {
                request.headers_mut().insert(HOST, value);
            }
        }
        request
    }

    /// In HTTP/2 the authority stands in the URI: a host given by header goes there.
    fn with_host_header(&self, request: &mut Request<Full<Bytes>>) -> Uri {
        let mut parts = self.url.clone().into_parts();
        if let Some(host) = request.headers_mut().remove(HOST)
            && let Ok(authority) = http::uri::Authority::try_from(host.as_bytes())
        {
            parts.authority = Some(authority);
        }
        Uri::from_parts(parts).unwrap_or_else(|_| self.url.clone())
    }

    fn payload(&self) -> Bytes {
        if !self.grpc {
            return self.body.clone();
        }
        let mut framed = BytesMut::with_capacity(self.body.len() + 5);
        framed.put_u8(0);
        framed.put_u32(u32::try_from(self.body.len()).unwrap_or(u32::MAX));
        framed.put_slice(&self.body);
        framed.freeze()
    }

    fn multiplexed(&self) -> bool {
        self.h2 || self.grpc
    }
}

/// An answer, read to its end.
pub(crate) struct Answer {
    pub(crate) parts: http::response::Parts,
    pub(crate) body: Bytes,
    pub(crate) trailers: HeaderMap,
}

impl Answer {
    fn grpc_status(&self) -> Option<&str> {
        let name = HeaderName::from_static("grpc-status");
        self.trailers.get(&name).or_else(|| self.parts.headers.get(&name)).and_then(|v| v.to_str().ok())
    }

    /// The key to count by, and whether it is good.
    pub(crate) fn verdict(&self, grpc: bool) -> (String, bool) {
        if grpc {
            let status = self.grpc_status().unwrap_or("missing");
            return (format!("grpc {status}"), status == "0");
        }
        (self.parts.status.as_u16().to_string(), self.parts.status.as_u16() < 400)
    }

    pub(crate) fn header(&self, name: &str) -> Option<&str> {
        self.parts.headers.get(name).and_then(|v| v.to_str().ok())
    }
}

/// A connection kept between requests.
enum Connection {
    H1(http1::SendRequest<Full<Bytes>>),
    H2(http2::SendRequest<Full<Bytes>>),
}

/// One caller with one connection.
pub(crate) struct Caller<'a> {
    options: &'a ClientOptions,
    connection: Option<Connection>,
}

impl<'a> Caller<'a> {
    pub(crate) fn new(options: &'a ClientOptions) -> Self {
        Self { options, connection: None }
    }

    /// One request, with its answer read to the end.
    pub(crate) async fn call(&mut self) -> Result<Answer, ClientError> {
        let timeout = self.options.timeout;
        let result = tokio::time::timeout(timeout, self.attempt()).await.unwrap_or(Err(ClientError::Timeout(timeout)));
        if result.is_err() || self.options.fresh {
            self.connection = None;
        }
        result
    }

    async fn attempt(&mut self) -> Result<Answer, ClientError> {
        let mut request = self.options.request();
        loop {
            let (mut connection, reused) = match self.connection.take() {
                Some(connection) => (connection, true),
                None => (connect(self.options).await?, false),
            };
            match send(&mut connection, request).await {
                Ok(response) => {
                    let answer = read(response).await?;
                    self.connection = Some(connection);
                    return Ok(answer);
                }
                // The kept connection had ended before a byte of this request went out.
                Err((_, Some(unsent))) if reused => request = unsent,
                Err((error, _)) => return Err(error),
            }
        }
    }
}

async fn connect(options: &ClientOptions) -> Result<Connection, ClientError> {
    let target = options.target()?;
    let stream = TcpStream::connect(&target).await.map_err(|e| ClientError::Connect(target, e))?;
    let _ = stream.set_nodelay(true);
    let io = TokioIo::new(stream);
    if options.multiplexed() {
        let (sender, connection) = http2::handshake(TokioExecutor::new(), io).await.map_err(explain)?;
        tokio::task::spawn_local(connection);
        Ok(Connection::H2(sender))
    } else {
        let (sender, connection) = http1::handshake(io).await.map_err(explain)?;
        tokio::task::spawn_local(connection);
        Ok(Connection::H1(sender))
    }
}

type Unsent = Option<Request<Full<Bytes>>>;

async fn send(
    connection: &mut Connection,
    request: Request<Full<Bytes>>,
) -> Result<Response<Incoming>, (ClientError, Unsent)> {
    let ready = match connection {
        Connection::H1(sender) => sender.ready().await,
        Connection::H2(sender) => sender.ready().await,
    };
    if let Err(error) = ready {
        return Err((explain(error), Some(request)));
    }
    let result = match connection {
        Connection::H1(sender) => sender.try_send_request(request).await,
        Connection::H2(sender) => sender.try_send_request(request).await,
    };
    result.map_err(|mut failure| {
        let unsent = failure.take_message();
        (explain(failure.into_error()), unsent)
    })
}

async fn read(response: Response<Incoming>) -> Result<Answer, ClientError> {
    let (parts, body) = response.into_parts();
    let collected = body.collect().await.map_err(explain)?;
    let trailers = collected.trailers().cloned().unwrap_or_default();
    Ok(Answer { parts, body: collected.to_bytes(), trailers })
}

/// An error with its causes, since hyper's own text says only where it was.
pub(crate) fn explain(error: hyper::Error) -> ClientError {
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    ClientError::Http(text)
}

/// Runs the load; `every` is told the counts of each interval.
pub(crate) async fn load(options: &ClientOptions, every: Option<(Duration, &dyn Fn(Report))>) -> Report {
    let started = Instant::now();
    let run = Rc::new(Run {
        options: options.clone(),
        started,
        next: Cell::new(0),
        whole: RefCell::default(),
        interval: RefCell::default(),
        watched: every.is_some(),
    });
    let local = LocalSet::new();
    let callers: Vec<_> = (0..options.concurrency.max(1)).map(|_| local.spawn_local(work(run.clone()))).collect();
    local
        .run_until(async {
            let all = async {
                for caller in callers {
                    // A caller that panicked has counted what it did.
                    let _ = caller.await;
                }
            };
            match every {
                None => all.await,
                Some((interval, tell)) => tokio::select! {
                    () = all => {}
                    () = tell_every(&run, interval, tell) => {}
                },
            }
        })
        .await;
    run.whole.borrow_mut().take(started.elapsed())
}

async fn tell_every(run: &Run, interval: Duration, tell: &dyn Fn(Report)) {
    let mut ticks = tokio::time::interval(interval);
    ticks.tick().await;
    loop {
        ticks.tick().await;
        let report = run.interval.borrow_mut().take(interval);
        tell(report);
    }
}

/// What the callers of one run share; they live on one thread.
struct Run {
    options: ClientOptions,
    started: Instant,
    next: Cell<u64>,
    whole: RefCell<Tally>,
    interval: RefCell<Tally>,
    watched: bool,
}

impl Run {
    /// The time of the next request; `None` when the run is over.
    fn turn(&self) -> Option<Instant> {
        let turn = self.next.get();
        if self.options.count.is_some_and(|count| turn >= count) {
            return None;
        }
        self.next.set(turn + 1);
        let at = match self.options.rate {
            Some(rate) if rate > 0.0 => self.started + Duration::from_secs_f64(turn as f64 / rate),
            _ => Instant::now(),
        };
        let over = self.options.duration.is_some_and(|limit| at.duration_since(self.started) >= limit);
        (!over).then_some(at)
    }

    fn count(&self, result: &Result<Answer, ClientError>, took: Duration) {
        let record = |tally: &mut Tally| match result {
            Ok(answer) => {
                let (status, ok) = answer.verdict(self.options.grpc);
                tally.answered(&status, ok, answer.header("x-app-version"), answer.header("x-app-pod"), took);
            }
            Err(error) => tally.failed(&error.to_string()),
        };
        record(&mut self.whole.borrow_mut());
        if self.watched {
            record(&mut self.interval.borrow_mut());
        }
    }
}

async fn work(run: Rc<Run>) {
    let mut caller = Caller::new(&run.options);
    while let Some(at) = run.turn() {
        tokio::time::sleep_until(at.into()).await;
        // At a fixed rate the time counts from when the request was due: waiting for a caller is waiting too.
        let sent = if run.options.rate.is_some() { at } else { Instant::now() };
        let result = caller.call().await;
        let failed = result.is_err();
        run.count(&result, sent.elapsed());
        if failed && run.options.rate.is_none() {
            // A server that is away must not turn the client into a busy loop.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}

#[cfg(test)]
mod tests;
