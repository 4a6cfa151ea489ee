//! Answers of a server, as the client reads them.
//!
//! A message is read into memory of its own, which goes with it: tonic's reader keeps what the largest one took for as long
//! as the stream lives, and the first answers of a large mesh are megabytes.

use std::future::poll_fn;

use bytes::{Bytes, BytesMut};
use envoy_api::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use futures_util::{Stream, StreamExt as _};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use prost::Message;
use tonic::body::Body;
use tonic::codegen::http::{HeaderValue, Request, header};
use tonic::codegen::{Service as _, http};
use tonic::metadata::GRPC_CONTENT_TYPE;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::pieces::{PREFIX, begun};

/// One answer at the most.
const MAX_MESSAGE: usize = 256 << 20;
const METHOD: &str = "/envoy.service.discovery.v3.AggregatedDiscoveryService/DeltaAggregatedResources";

/// A stream of answers.
pub(crate) struct Incoming {
    body: Body,
    buffer: BytesMut,
}

impl Incoming {
    /// Opens a stream; `authorization` is the whole value of that header.
    pub(crate) async fn open(
        mut channel: Channel,
        requests: impl Stream<Item = DeltaDiscoveryRequest> + Send + 'static,
        authorization: Option<HeaderValue>,
    ) -> Result<Self, Status> {
        let frames = requests.map(|request| begun(&request, 0).map(|request| Frame::data(request.freeze())));
        let mut request = Request::new(Body::new(StreamBody::new(frames)));
        *request.method_mut() = http::Method::POST;
        *request.uri_mut() = http::Uri::from_static(METHOD);
        *request.version_mut() = http::Version::HTTP_2;
        let headers = request.headers_mut();
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
        headers.insert(header::CONTENT_TYPE, GRPC_CONTENT_TYPE);
        if let Some(mut value) = authorization {
            // It is in no header table.
            value.set_sensitive(true);
            headers.insert(header::AUTHORIZATION, value);
        }
        poll_fn(|cx| channel.poll_ready(cx)).await.map_err(broken)?;
        let (head, body) = channel.call(request).await.map_err(broken)?.into_parts();
        if let Some(status) = Status::from_header_map(&head.headers)
            && status.code() != Code::Ok
        {
            return Err(status);
        }
        if head.status != http::StatusCode::OK {
            return Err(Status::unavailable(format!("the control plane answers {}", head.status)));
        }
        Ok(Self { body, buffer: BytesMut::new() })
    }

    /// The next answer; none when the server has ended the stream in order.
    pub(crate) async fn message(&mut self) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        loop {
            if let Some(message) = next_message(&mut self.buffer)? {
                let read = DeltaDiscoveryResponse::decode(message);
                return read.map(Some).map_err(|error| Status::internal(format!("an answer cannot be read: {error}")));
            }
            let Some(frame) = self.body.frame().await.transpose()? else { return self.ended(None) };
            match frame.into_data() {
                Ok(data) => self.buffer.extend_from_slice(&data),
                Err(frame) => return self.ended(frame.into_trailers().ok().as_ref()),
            }
        }
    }

    fn ended(&self, trailers: Option<&http::HeaderMap>) -> Result<Option<DeltaDiscoveryResponse>, Status> {
        match trailers.and_then(Status::from_header_map) {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ if !self.buffer.is_empty() => Err(Status::internal("the stream ends within an answer")),
            _ => Ok(None),
        }
    }
}

fn broken(error: tonic::transport::Error) -> Status {
    Status::from_error(error.into())
}

/// The bytes of a message, once all of them are there; what comes behind them stays.
fn next_message(buffer: &mut BytesMut) -> Result<Option<Bytes>, Status> {
    let Some((&[compressed, a, b, c, d], _)) = buffer.split_first_chunk::<PREFIX>() else { return Ok(None) };
    if compressed != 0 {
        return Err(Status::unimplemented("an answer is compressed, which was not asked for"));
    }
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length > MAX_MESSAGE {
        return Err(Status::out_of_range(format!("an answer of {length} bytes is over {MAX_MESSAGE}")));
    }
    let whole = PREFIX + length;
    if buffer.len() < whole {
        buffer.reserve(whole - buffer.len());
        return Ok(None);
    }
    let mut message = std::mem::take(buffer);
    // What is left is copied: it must not hold on to the message's memory.
    buffer.extend_from_slice(&message.split_off(whole));
    Ok(Some(message.split_off(PREFIX).freeze()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(nonce: &str) -> DeltaDiscoveryResponse {
        DeltaDiscoveryResponse { nonce: nonce.to_owned(), ..DeltaDiscoveryResponse::default() }
    }

    fn incoming(frames: Vec<Frame<Bytes>>) -> Incoming {
        let frames = futures_util::stream::iter(frames.into_iter().map(Ok::<_, Status>));
        Incoming { body: Body::new(StreamBody::new(frames)), buffer: BytesMut::new() }
    }

    #[tokio::test]
    async fn answers_are_read_however_they_are_cut() {
        let long = "x".repeat(100_000);
        let nonces = ["1", "", &long, "4"];
        let whole: Vec<u8> = nonces.iter().flat_map(|nonce| begun(&answer(nonce), 0).unwrap()).collect();
        for size in [1, 3, 5, 6, 7, 1000, 16_384, whole.len()] {
            let frames = whole.chunks(size).map(|chunk| Frame::data(Bytes::copy_from_slice(chunk))).collect();
            let mut incoming = incoming(frames);
            for nonce in nonces {
                assert_eq!(incoming.message().await.unwrap().unwrap().nonce, nonce, "{size}");
            }
            assert!(incoming.message().await.unwrap().is_none());
            assert!(incoming.buffer.capacity() < 20_000, "the long one is gone: {}", incoming.buffer.capacity());
        }
    }

    #[tokio::test]
    async fn what_is_no_answer_is_refused() {
        let code = |frames: Vec<Frame<Bytes>>| async { incoming(frames).message().await.unwrap_err().code() };
        let data = |bytes: &'static [u8]| Frame::data(Bytes::from_static(bytes));
        assert_eq!(code(vec![data(&[1, 0, 0, 0, 0])]).await, Code::Unimplemented);
        assert_eq!(code(vec![data(&[0, 255, 255, 255, 255])]).await, Code::OutOfRange);
        assert_eq!(code(vec![data(&[0, 0, 0, 0, 1, 255])]).await, Code::Internal);
        assert_eq!(code(vec![data(&[0, 0, 0])]).await, Code::Internal);
        let mut trailers = http::HeaderMap::new();
        Status::permission_denied("not you").add_header(&mut trailers).unwrap();
        assert_eq!(code(vec![Frame::trailers(trailers)]).await, Code::PermissionDenied);
    }
}
