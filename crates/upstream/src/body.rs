//! Bodies: what goes up and what comes down, without boxes.

use std::cell::{Cell, RefCell};
use std::fmt;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::copies::{self, CopyIn, CopyOut};
use crate::error::AnswerError;
use crate::messages::Messages;
use crate::pool::{Lease, StreamBody};

/// A request's body on its way up.
#[derive(Default)]
pub enum Body {
    /// None.
    #[default]
    Empty,
    /// All of it, known beforehand.
    Full(Bytes),
    /// Straight from downstream.
    Incoming(Incoming),
    /// From downstream, counted, and kept while it is small so that it can be sent again.
    Recorded(Incoming, Rc<RefCell<Recording>>),
    /// A copy of a recorded one.
    Copy(CopyOut),
    /// Not before something has happened.
    Held(Pin<Box<dyn Future<Output = ()>>>, Box<Self>),
}

impl Body {
    /// The same body, which begins only after `event`.
    #[must_use]
    pub fn after(self, event: impl Future<Output = ()> + 'static) -> Self {
        Self::Held(Box::pin(event), Box::new(self))
    }
}

impl fmt::Debug for Body {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Empty => "Empty",
            Self::Full(_) => "Full",
            Self::Incoming(_) => "Incoming",
            Self::Recorded(..) => "Recorded",
            Self::Copy(_) => "Copy",
            Self::Held(..) => "Held",
        })
    }
}

/// Why a request's body broke off.
#[derive(Debug)]
pub enum BodyError {
    /// The client's stream did.
    Client(hyper::Error),
    /// A copy lost its original, or fell behind it.
    Broken,
}

impl fmt::Display for BodyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Client(error) => write!(f, "the client's stream broke off: {error}"),
            Self::Broken => f.write_str("the copied body broke off"),
        }
    }
}

impl std::error::Error for BodyError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::Client(error) => Some(error),
            Self::Broken => None,
        }
    }
}

/// What was read of a body so far.
#[derive(Debug, Default)]
pub struct Recording {
    /// All bytes, unless `lost`.
    pub kept: Vec<Bytes>,
    /// Bytes read.
    pub bytes: u64,
    /// The limit up to which bytes are kept.
    pub limit: u64,
    /// The body was larger than the limit, or had trailers: it cannot be sent again.
    pub lost: bool,
    /// The whole body was read.
    pub complete: bool,
    /// gRPC messages, when they are counted.
    pub messages: Option<Messages>,
    /// When something last came, where somebody wants to know.
    pub moved: Option<Rc<Cell<Instant>>>,
    copies: Vec<CopyIn>,
}

impl Recording {
    /// A recording that keeps up to `limit` bytes; 0 only counts.
    pub fn new(limit: u64) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { limit, lost: limit == 0, ..Self::default() }))
    }

    /// A copy of all that will be read. It sets no pace: when it falls too far behind it breaks off.
    pub fn copy(&mut self) -> Body {
        let (put, out) = copies::lane();
        self.copies.push(put);
        Body::Copy(out)
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        // A copy says its end apart.
        if !is_empty(frame) {
            self.copies.iter().for_each(|copy| copy.push(frame));
        }
        if let Some(moved) = &self.moved {
            moved.set(Instant::now());
        }
        match frame.data_ref() {
            Some(data) => {
                self.bytes += data.len() as u64;
                if let Some(messages) = &mut self.messages {
                    messages.read(data);
                }
                if self.bytes > self.limit {
                    self.lost = true;
                    self.kept = Vec::new();
                } else if !self.lost {
                    self.kept.push(data.clone());
                }
            }
            None => self.lost = true,
        }
    }

    fn finish(&mut self) {
        self.complete = true;
        if let Some(moved) = &self.moved {
            moved.set(Instant::now());
        }
        self.copies.drain(..).for_each(|copy| copy.finish());
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let this = self.get_mut();
        if let Self::Held(event, inner) = this {
            std::task::ready!(event.as_mut().poll(cx));
            *this = std::mem::take(&mut **inner);
        }
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Incoming(incoming) => client(poll_telling(incoming, cx)),
            Self::Recorded(incoming, recording) => {
                let polled = poll_telling(incoming, cx);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        let mut recording = recording.borrow_mut();
                        recording.note(frame);
                        if incoming.is_end_stream() {
                            recording.finish();
                        }
                    }
                    Poll::Ready(Some(Err(_))) => recording.borrow_mut().copies.clear(),
                    Poll::Ready(None) => recording.borrow_mut().finish(),
                    Poll::Pending => {}
                }
                client(polled)
            }
            Self::Copy(copy) => copy.poll_frame(cx),
            // A held body is held once.
            Self::Held(..) => Poll::Ready(Some(Err(BodyError::Broken))),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Incoming(incoming) | Self::Recorded(incoming, _) => incoming.is_end_stream(),
            Self::Copy(_) => false,
            Self::Held(_, inner) => inner.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Incoming(incoming) | Self::Recorded(incoming, _) => incoming.size_hint(),
            Self::Copy(_) => SizeHint::default(),
            Self::Held(_, inner) => inner.size_hint(),
        }
    }
}

/// The next frame that tells something. Empty ones in between are passed over: Envoy takes several of them, of all streams
/// together, for an attack and ends the connection (`max_consecutive_inbound_frames_with_empty_payload`, 1 by default).
fn poll_telling<B>(body: &mut B, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>>
where
    B: http_body::Body<Data = Bytes> + Unpin,
{
    loop {
        let polled = Pin::new(&mut *body).poll_frame(cx);
        match &polled {
            Poll::Ready(Some(Ok(frame))) if is_empty(frame) && !body.is_end_stream() => {}
            _ => return polled,
        }
    }
}

fn is_empty(frame: &Frame<Bytes>) -> bool {
    frame.data_ref().is_some_and(Bytes::is_empty)
}

fn client(polled: Poll<Option<hyper::Result<Frame<Bytes>>>>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
    polled.map(|frame| frame.map(|frame| frame.map_err(BodyError::Client)))
}

/// The body of an answer, as its connection gives it.
#[derive(Debug)]
pub(crate) enum AnswerBody {
    Http1(Incoming),
    Http2(StreamBody),
}

impl http_body::Body for AnswerBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        match self.get_mut() {
            Self::Http1(incoming) => {
                let polled = Pin::new(incoming).poll_frame(cx);
                polled.map(|frame| frame.map(|frame| frame.map_err(AnswerError::Http1)))
            }
            Self::Http2(stream) => stream.poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Http1(incoming) => incoming.is_end_stream(),
            Self::Http2(stream) => stream.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Http1(incoming) => incoming.size_hint(),
            Self::Http2(stream) => stream.size_hint(),
        }
    }
}

/// A response's body on its way down; gives the connection back when it has ended.
#[derive(Debug)]
pub struct UpstreamBody {
    answer: AnswerBody,
    lease: Option<Lease>,
}

impl UpstreamBody {
    pub(crate) fn new(answer: AnswerBody, lease: Lease) -> Self {
        let mut body = Self { answer, lease: Some(lease) };
        let upgraded = body.lease.as_ref().is_some_and(Lease::is_upgraded);
        if !upgraded && body.answer.is_end_stream() {
            body.finish();
        }
        body
    }

    /// The whole body came: the connection may serve again.
    fn finish(&mut self) {
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }
}

impl http_body::Body for UpstreamBody {
    type Data = Bytes;
    type Error = AnswerError;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        let polled = poll_telling(&mut self.answer, cx);
        match &polled {
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(Ok(_))) if self.answer.is_end_stream() => self.finish(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.answer.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.answer.size_hint()
    }
}
