//! Bodies: what goes up and what comes down, without boxes.

use std::cell::RefCell;
use std::pin::Pin;
use std::rc::Rc;
use std::task::{Context, Poll};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

use crate::pool::Lease;

/// A request's body on its way up.
#[derive(Debug, Default)]
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
}

impl Recording {
    /// A recording that keeps up to `limit` bytes; 0 only counts.
    pub fn new(limit: u64) -> Rc<RefCell<Self>> {
        Rc::new(RefCell::new(Self { limit, lost: limit == 0, ..Self::default() }))
    }

    fn note(&mut self, frame: &Frame<Bytes>) {
        match frame.data_ref() {
            Some(data) => {
                self.bytes += data.len() as u64;
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
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let this = self.get_mut();
        match this {
            Self::Empty => Poll::Ready(None),
            Self::Full(bytes) => {
                let bytes = std::mem::take(bytes);
                *this = Self::Empty;
                Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))))
            }
            Self::Incoming(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Recorded(incoming, recording) => {
                let polled = Pin::new(&mut *incoming).poll_frame(cx);
                match &polled {
                    Poll::Ready(Some(Ok(frame))) => {
                        let mut recording = recording.borrow_mut();
                        recording.note(frame);
                        recording.complete = incoming.is_end_stream();
                    }
                    Poll::Ready(None) => recording.borrow_mut().complete = true,
                    _ => {}
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Full(bytes) => bytes.is_empty(),
            Self::Incoming(incoming) | Self::Recorded(incoming, _) => incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Full(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Incoming(incoming) | Self::Recorded(incoming, _) => incoming.size_hint(),
        }
    }
}

/// A response's body on its way down; gives the connection back when it has ended.
#[derive(Debug)]
pub struct UpstreamBody {
    incoming: Incoming,
    lease: Option<Lease>,
}

impl UpstreamBody {
    pub(crate) fn new(incoming: Incoming, lease: Lease) -> Self {
        let mut body = Self { incoming, lease: Some(lease) };
        if http_body::Body::is_end_stream(&body.incoming) {
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
    type Error = hyper::Error;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.incoming).poll_frame(cx);
        match &polled {
            Poll::Ready(None) => self.finish(),
            Poll::Ready(Some(Ok(_))) if http_body::Body::is_end_stream(&self.incoming) => self.finish(),
            _ => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        http_body::Body::is_end_stream(&self.incoming)
    }

    fn size_hint(&self) -> SizeHint {
        http_body::Body::size_hint(&self.incoming)
    }
}
