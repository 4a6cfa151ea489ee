//! One request and its answer on an HTTP/2 connection. The answer wakes the task of its request: nothing stands between.

use std::future::poll_fn;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use h2::client::SendRequest;
use h2::{Reason, RecvStream, SendStream};
use http::{HeaderMap, Method, Request, Response, header};
use http_body::{Body as _, Frame, SizeHint};
use tokio::task::AbortHandle;

use crate::body::{Body, BodyError};
use crate::error::{AnswerError, Cause, SendError};
use crate::fields::remove_connection_fields;

/// A request that got no answer.
pub(super) struct Unanswered {
    pub(super) error: SendError,
    /// Its connection is of no use any more.
    pub(super) ends_connection: bool,
}

impl Unanswered {
    fn new(error: &h2::Error, request: Option<Box<Request<Body>>>) -> Self {
        // A refused stream says nothing of the connection; anything else ends its use.
        let ends_connection = request.is_some() || !error.is_reset();
        let cause = Cause::of_http2(error);
        Self { error: SendError { cause, request, reused: false }, ends_connection }
    }
}

/// Sends a request and waits for the head of the answer.
pub(super) async fn exchange(
    mut sender: SendRequest<Bytes>,
    request: Box<Request<Body>>,
) -> Result<Response<StreamBody>, Unanswered> {
    if let Err(error) = poll_fn(|cx| sender.poll_ready(cx)).await {
        return Err(Unanswered::new(&error, Some(request)));
    }
    let (mut parts, body) = request.into_parts();
    // A route may have set some.
    remove_connection_fields(&mut parts.headers);
    tell_length(&parts.method, &mut parts.headers, &body);
    let whole = body.is_end_stream();
    let sent = sender.send_request(Request::from_parts(parts, ()), whole);
    let (answer, stream) = sent.map_err(|error| Unanswered::new(&error, None))?;
    let upload = if whole { None } else { Upload::begin(stream, body).await };
    let answer = answer.await.map_err(|error| Unanswered::new(&error, None))?;
    Ok(answer.map(|stream| StreamBody { stream, data_done: false, upload }))
}

/// The length of a body that is known, also of none where one is expected (RFC 9110, 8.6).
fn tell_length(method: &Method, headers: &mut HeaderMap, body: &Body) {
    let Some(length) = body.size_hint().exact() else { return };
    let expected = !matches!(*method, Method::GET | Method::HEAD | Method::DELETE | Method::CONNECT);
    if (length > 0 || expected) && !headers.contains_key(header::CONTENT_LENGTH) {
        headers.insert(header::CONTENT_LENGTH, length.into());
    }
}

/// A request's body on its way, in a task of its own. It goes on when the answer has ended first, and is broken off when
/// the answer is given up.
#[derive(Debug)]
struct Upload(Option<AbortHandle>);

impl Upload {
    /// Sends what is there at once; only what has to be waited for needs a task.
    async fn begin(stream: SendStream<Bytes>, body: Body) -> Option<Self> {
        let mut sending = Box::pin(send(stream, body));
        let sent = poll_fn(|cx| Poll::Ready(sending.as_mut().poll(cx))).await;
        sent.is_pending().then(|| Self(Some(tokio::task::spawn_local(sending).abort_handle())))
    }

    fn leave(mut self) {
        self.0 = None;
    }
}

impl Drop for Upload {
    fn drop(&mut self) {
        // The stream is reset with its last handle.
        if let Some(task) = &self.0 {
            task.abort();
        }
    }
}

/// Sends a body, no faster than the peer takes it.
async fn send(mut stream: SendStream<Bytes>, mut body: Body) {
    loop {
        let frame = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(Err(None)),
            Poll::Pending => Pin::new(&mut body).poll_frame(cx).map(|frame| frame.transpose().map_err(Some)),
        });
        let frame = match frame.await {
            Ok(frame) => frame,
            // Nobody takes the body any more.
            Err(None) => return,
            Err(Some(broken)) => return stream.send_reset(reason(&broken)),
        };
        let sent = match frame.map(Frame::into_data) {
            Some(Ok(data)) => {
                let last = body.is_end_stream();
                // Capacity is asked for only now that there is something to send: it would be taken from other streams.
                if !data.is_empty() && !has_capacity(&mut stream).await {
                    return;
                }
                match stream.send_data(data, last) {
                    Ok(()) if !last => continue,
                    sent => sent,
                }
            }
            Some(Err(frame)) => match frame.into_trailers() {
                Ok(trailers) => {
                    stream.reserve_capacity(0);
                    stream.send_trailers(trailers)
                }
                Err(_) => continue,
            },
            None => stream.send_data(Bytes::new(), true),
        };
        if let Err(error) = sent {
            tracing::debug!(%error, "a request's body could not be sent");
        }
        return;
    }
}

/// Waits until the peer takes something; whether it will.
async fn has_capacity(stream: &mut SendStream<Bytes>) -> bool {
    stream.reserve_capacity(1);
    while stream.capacity() == 0 {
        let more = poll_fn(|cx| match stream.poll_reset(cx) {
            Poll::Ready(_) => Poll::Ready(None),
            Poll::Pending => stream.poll_capacity(cx),
        });
        if !matches!(more.await, Some(Ok(_))) {
            return false;
        }
    }
    true
}

/// What a client's own reset said goes on.
fn reason(broken: &BodyError) -> Reason {
    let client = match broken {
        BodyError::Client(error) => std::error::Error::source(error),
        BodyError::Broken => None,
    };
    client.and_then(|source| source.downcast_ref::<h2::Error>()?.reason()).unwrap_or(Reason::CANCEL)
}

/// The body of an answer on an HTTP/2 connection.
#[derive(Debug)]
pub(crate) struct StreamBody {
    stream: RecvStream,
    /// Only trailers can follow.
    data_done: bool,
    upload: Option<Upload>,
}

impl StreamBody {
    pub(crate) fn poll_frame(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, AnswerError>>> {
        self.poll_stream(cx).map(|frame| frame.map(|frame| frame.map_err(AnswerError::Http2)))
    }

    fn poll_stream(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, h2::Error>>> {
        if !self.data_done {
            match ready!(self.stream.poll_data(cx)) {
                Some(Ok(data)) => {
                    // Whoever polls takes the bytes: the peer may send as many again.
                    let _ = self.stream.flow_control().release_capacity(data.len());
                    return Poll::Ready(Some(Ok(Frame::data(data))));
                }
                Some(Err(error)) => return Poll::Ready(Some(Err(error))),
                None => self.data_done = true,
            }
        }
        self.stream.poll_trailers(cx).map(|trailers| trailers.transpose().map(|t| t.map(Frame::trailers)))
    }

    pub(crate) fn is_end_stream(&self) -> bool {
        self.stream.is_end_stream()
    }

    pub(crate) fn size_hint(&self) -> SizeHint {
        if self.is_end_stream() { SizeHint::with_exact(0) } else { SizeHint::default() }
    }
}

impl Drop for StreamBody {
    fn drop(&mut self) {
        if let Some(upload) = self.upload.take_if(|_| self.stream.is_end_stream()) {
            upload.leave();
        }
    }
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    #[test]
    fn a_known_length_is_told_where_it_means_something() {
        let told = |method: Method, body: Body, given: Option<&'static str>| {
            let mut headers = HeaderMap::new();
            given.map(|given| headers.insert(header::CONTENT_LENGTH, HeaderValue::from_static(given)));
            tell_length(&method, &mut headers, &body);
            headers.get(header::CONTENT_LENGTH).map(|length| length.to_str().unwrap_or_default().to_owned())
        };
        assert_eq!(told(Method::GET, Body::Empty, None), None);
        assert_eq!(told(Method::POST, Body::Empty, None).as_deref(), Some("0"));
        assert_eq!(told(Method::GET, Body::Full("abc".into()), None).as_deref(), Some("3"));
        assert_eq!(told(Method::PUT, Body::Full("abc".into()), Some("3")).as_deref(), Some("3"));
        let late = Body::Full("abc".into()).after(std::future::pending());
        assert_eq!(told(Method::POST, late, None).as_deref(), Some("3"), "it comes later, and whole");
    }
}
