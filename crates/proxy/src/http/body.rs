//! The body of an answer on its way to the client; tells the exchange when it has gone out.

use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use telemetry::ResponseFlags;
use tokio::time::{Instant, Sleep};
use upstream::{Messages, UpstreamBody};

use super::exchange::Exchange;
use super::idle::Idle;

/// A page of the admin port.
pub(crate) struct AdminBody(Option<Bytes>);

impl AdminBody {
    pub(crate) fn new(body: Bytes) -> Self {
        Self(Some(body))
    }
}

impl Body for AdminBody {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        Poll::Ready(self.0.take().map(|body| Ok(Frame::data(body))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.0.as_ref().map_or(0, |body| body.len() as u64))
    }
}

/// The body of an answer that is still going out.
pub(super) struct Live {
    source: Source,
    exchange: Option<Box<Exchange>>,
    /// gRPC messages, when they are counted.
    messages: Option<Messages>,
    /// The route's timeout covers the whole answer.
    deadline: Option<Instant>,
    /// Made when the body is first waited for: most are there at once.
    timer: Option<Pin<Box<Sleep>>>,
}

enum Source {
    Local(Bytes),
    Upstream(UpstreamBody),
}

/// The upstream broke off, or took too long: the client's stream is broken off too.
#[derive(Debug)]
pub(crate) struct Broken(pub(super) &'static str);

impl std::fmt::Display for Broken {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.0)
    }
}

impl std::error::Error for Broken {}

impl Live {
    /// A body that nobody waits for.
    pub(super) fn bare(body: Bytes) -> Self {
        Self { source: Source::Local(body), exchange: None, messages: None, deadline: None, timer: None }
    }

    pub(super) fn local(body: Bytes, exchange: Box<Exchange>) -> Self {
        let source = Source::Local(body);
        let mut reply = Self { source, exchange: Some(exchange), messages: None, deadline: None, timer: None };
        if reply.is_end_stream() {
            reply.finish();
        }
        reply
    }

    pub(super) fn upstream(body: UpstreamBody, exchange: Box<Exchange>, deadline: Option<Instant>) -> Self {
        let messages = exchange.grpc.then(Messages::default);
        let source = Source::Upstream(body);
        let mut reply = Self { source, exchange: Some(exchange), messages, deadline, timer: None };
        if reply.is_end_stream() {
            reply.finish();
        }
        reply
    }

    fn finish(&mut self) {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.complete = true;
        }
    }

    /// When its time is over, if nothing moves until then: that of the whole answer, or that of its silence.
    pub(super) fn until(&self) -> Option<Instant> {
        let silence = self.exchange.as_ref()?.idle.as_ref().map(Idle::until);
        self.deadline.into_iter().chain(silence).min()
    }

    /// Ends what has had its time.
    pub(super) fn end(mut self) {
        self.late();
    }

    /// Its time is over.
    fn late(&mut self) -> Broken {
        if self.deadline.is_some_and(|deadline| deadline <= Instant::now()) {
            return self.fail(ResponseFlags::UT, "response_timeout_after_response_started");
        }
        self.fail(ResponseFlags::SI, "stream_idle_timeout")
    }

    fn fail(&mut self, flag: ResponseFlags, details: &'static str) -> Broken {
        if let Some(mut exchange) = self.exchange.take() {
            exchange.flags.insert(flag);
            exchange.details = Some(details.into());
            exchange.complete = true;
        }
        Broken(details)
    }

    /// Ready when the whole answer takes too long, or nothing has moved for too long.
    fn poll_limits(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        loop {
            let Some(limit) = self.until() else { return Poll::Pending };
            let timer = self.timer.get_or_insert_with(|| Box::pin(tokio::time::sleep_until(limit)));
            if timer.deadline() != limit {
                timer.as_mut().reset(limit);
            }
            std::task::ready!(timer.as_mut().poll(cx));
            if limit <= Instant::now() {
                return Poll::Ready(());
            }
        }
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        let Some(exchange) = &mut self.exchange else { return };
        if let Some(idle) = &exchange.idle {
            idle.touch();
        }
        if let Some(data) = frame.data_ref() {
            exchange.bytes_sent += data.len() as u64;
            if let Some(messages) = &mut self.messages {
                messages.read(data);
                exchange.response_messages = messages.count;
            }
        }
        if let Some(trailers) = frame.trailers_ref()
            && let Some(status) = super::reply::grpc_status(trailers)
        {
            exchange.grpc_status = Some(status);
        }
    }
}

impl Body for Live {
    type Data = Bytes;
    type Error = Broken;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Broken>>> {
        let this = &mut *self;
        let polled = match &mut this.source {
            Source::Local(bytes) => {
                let bytes = std::mem::take(bytes);
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Source::Upstream(body) => Pin::new(body).poll_frame(cx),
        };
        match polled {
            Poll::Ready(Some(Ok(frame))) => {
                this.note(&frame);
                if this.is_end_stream() {
                    this.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
            Poll::Ready(Some(Err(error))) => {
                let (flag, details) = if error.is_stream_reset() {
                    (ResponseFlags::UR, "upstream_reset_after_response_started{remote_reset}")
                } else {
                    (ResponseFlags::UC, "upstream_reset_after_response_started{connection_termination}")
                };
                Poll::Ready(Some(Err(this.fail(flag, details))))
            }
            Poll::Ready(None) => {
                this.finish();
                Poll::Ready(None)
            }
            Poll::Pending => {
                std::task::ready!(this.poll_limits(cx));
                Poll::Ready(Some(Err(this.late())))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Local(bytes) => bytes.is_empty(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Local(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}
