//! Answers on the wire, in pieces that are made as the client takes them.
//!
//! An answer may be megabytes, and a server has thousands of streams: none of them holds a whole one. The bytes of large
//! resources are not copied at all, they are those that everybody shares.

use std::sync::Arc;

use bytes::{BufMut as _, Bytes, BytesMut};
use http_body::Frame;
use http_body_util::StreamBody;
use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint, encoded_len_varint, key_len};
use tokio::sync::mpsc;
use tonic::{Code, Status};

use crate::server::Resource;

/// gRPC's bytes before each message: whether it is compressed, and its length.
pub(crate) const PREFIX: usize = 5;
/// What is made at once: the usual frame of HTTP/2.
const PIECE: usize = 16 << 10;
/// A body of at least this size is not copied.
const LARGE: usize = 4 << 10;
/// Field of the resources, in answers of both kinds.
const RESOURCES: u32 = 2;

/// An answer: its message without the resources, and those.
#[derive(Debug)]
pub(crate) struct Outgoing<M> {
    pub(crate) message: M,
    pub(crate) resources: Vec<Arc<Resource>>,
}

/// How resources are put into an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `Resource`, with name and version.
    Delta,
    /// `Any`.
    World,
}

impl Form {
    /// Length of a resource's field without key and length.
    fn len(self, of: &Resource) -> usize {
        let any = any_len(of);
        match self {
            Self::World => any,
            Self::Delta => text_len(1, &of.version) + delimited_len(2, any) + text_len(3, &of.name),
        }
    }

    /// Everything of a resource's field that comes before the bytes of its body.
    fn begin(self, of: &Resource, out: &mut BytesMut) {
        delimited(RESOURCES, self.len(of), out);
        if self == Self::Delta {
            text(1, &of.version, out);
            text(3, &of.name, out);
            delimited(2, any_len(of), out);
        }
        text(1, &of.body.type_url, out);
        delimited(2, of.body.value.len(), out);
    }
}

fn any_len(of: &Resource) -> usize {
    text_len(1, &of.body.type_url) + delimited_len(2, of.body.value.len())
}

fn delimited_len(field: u32, length: usize) -> usize {
    key_len(field) + encoded_len_varint(length as u64) + length
}

/// An empty text is left out.
fn text_len(field: u32, text: &str) -> usize {
    if text.is_empty() { 0 } else { delimited_len(field, text.len()) }
}

fn delimited(field: u32, length: usize, out: &mut BytesMut) {
    encode_key(field, WireType::LengthDelimited, out);
    encode_varint(length as u64, out);
}

fn text(field: u32, text: &str, out: &mut BytesMut) {
    if !text.is_empty() {
        delimited(field, text.len(), out);
        out.put_slice(text.as_bytes());
    }
}

/// One answer on its way: gRPC's five bytes, the message, its resources.
struct Pieces {
    form: Form,
    start: BytesMut,
    resources: std::vec::IntoIter<Arc<Resource>>,
    body: Option<Bytes>,
}

impl Pieces {
    fn of<M: Message>(answer: Outgoing<M>, form: Form) -> Result<Self, Status> {
        let resources = answer.resources.iter().map(|resource| delimited_len(RESOURCES, form.len(resource)));
        let start = begun(&answer.message, resources.sum())?;
        Ok(Self { form, start, resources: answer.resources.into_iter(), body: None })
    }

    fn next(&mut self) -> Option<Bytes> {
        if let Some(body) = self.body.take() {
            return Some(body);
        }
        let mut out = std::mem::take(&mut self.start);
        while out.len() < PIECE
            && let Some(resource) = self.resources.next()
        {
            if out.capacity() == 0 {
                out.reserve(PIECE + LARGE);
            }
            self.form.begin(&resource, &mut out);
            if resource.body.value.len() >= LARGE {
                self.body = Some(resource.body.value.clone());
                break;
            }
            out.put_slice(&resource.body.value);
        }
        (!out.is_empty()).then(|| out.freeze())
    }
}

/// A message behind gRPC's bytes (not compressed, and its length), where `more` bytes of it follow.
pub(crate) fn begun(message: &impl Message, more: usize) -> Result<BytesMut, Status> {
    let own = message.encoded_len();
    let length = u32::try_from(own + more).map_err(|_| Status::resource_exhausted("a message is over 4 GiB"))?;
    let mut out = BytesMut::with_capacity(PREFIX + own + more.min(PIECE));
    out.put_u8(0);
    out.put_u32(length);
    message.encode(&mut out).map_err(|error| Status::internal(error.to_string()))?;
    Ok(out)
}

/// The answers of a stream.
pub(crate) type Answers<M> = mpsc::Receiver<Result<Outgoing<M>, Status>>;

struct Sending<M> {
    answers: Answers<M>,
    form: Form,
    now: Option<Pieces>,
    ended: bool,
}

impl<M: Message> Sending<M> {
    /// The next frame; the last one says how the stream ended.
    async fn next(&mut self) -> Option<Frame<Bytes>> {
        loop {
            if let Some(piece) = self.now.as_mut().and_then(Pieces::next) {
                return Some(Frame::data(piece));
            }
            if self.ended {
                return None;
            }
            let answer = self.answers.recv().await;
            let status = match answer.map(|answer| answer.and_then(|answer| Pieces::of(answer, self.form))) {
                Some(Ok(pieces)) => {
                    self.now = Some(pieces);
                    continue;
                }
                Some(Err(status)) => status,
                None => Status::new(Code::Ok, ""),
            };
            self.now = None;
            self.ended = true;
            let mut trailers = tonic::codegen::http::HeaderMap::new();
            // What cannot be a header is left out by tonic, the code never is.
            let _ = status.add_header(&mut trailers);
            return Some(Frame::trailers(trailers));
        }
    }
}

/// A response's body.
pub(crate) fn body<M: Message + 'static>(answers: Answers<M>, form: Form) -> tonic::body::Body {
    let sending = Sending { answers, form, now: None, ended: false };
    let frames = futures_util::stream::unfold(sending, |mut sending| async {
        let frame = sending.next().await?;
        Some((Ok::<_, Status>(frame), sending))
    });
    tonic::body::Body::new(StreamBody::new(frames))
}

#[cfg(test)]
mod tests {
    use envoy_api::Any;
    use envoy_api::envoy::service::discovery::v3::{DeltaDiscoveryResponse, DiscoveryResponse};
    use http_body_util::BodyExt as _;

    use super::*;

    fn resource(name: &str, version: &str, size: usize) -> Arc<Resource> {
        let body = Any { type_url: "type.googleapis.com/a".to_owned(), value: vec![b'x'; size].into() };
        Arc::new(Resource { name: name.to_owned(), version: version.to_owned(), body })
    }

    /// Sizes on both sides of every limit.
    fn resources() -> Vec<Arc<Resource>> {
        let sizes = [0, 1, 100, 127, 128, LARGE - 1, LARGE, PIECE - 1, PIECE, PIECE + 1, 600_000];
        let mut all: Vec<_> = sizes.iter().map(|size| resource(&format!("r{size}"), "v", *size)).collect();
        all.extend((0..200).map(|n| resource(&format!("small {n}"), "", 900)));
        all.push(resource("", "", 3));
        all
    }

    async fn collected<M: Message + 'static>(
        answers: Vec<Result<Outgoing<M>, Status>>,
        form: Form,
    ) -> (Vec<Bytes>, Status) {
        let (sender, receiver) = mpsc::channel(16);
        for answer in answers {
            sender.try_send(answer).unwrap();
        }
        drop(sender);
        let mut body = body(receiver, form);
        let (mut pieces, mut end) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            match frame.unwrap().into_data() {
                Ok(piece) => pieces.push(piece),
                Err(frame) => end = Status::from_header_map(&frame.into_trailers().unwrap()),
            }
        }
        (pieces, end.unwrap())
    }

    fn messages<M: Message + Default>(pieces: &[Bytes]) -> Vec<M> {
        let whole = pieces.concat();
        let mut rest = whole.as_slice();
        let mut all = Vec::new();
        while let [0, a, b, c, d, more @ ..] = rest {
            let (message, next) = more.split_at(u32::from_be_bytes([*a, *b, *c, *d]) as usize);
            all.push(M::decode(message).unwrap());
            rest = next;
        }
        assert!(rest.is_empty());
        all
    }

    #[tokio::test]
    async fn what_is_read_is_what_was_said() {
        let message = || DeltaDiscoveryResponse {
            nonce: "1-1".to_owned(),
            removed_resources: vec!["gone".to_owned()],
            ..DeltaDiscoveryResponse::default()
        };
        let answers = vec![
            Ok(Outgoing { message: message(), resources: resources() }),
            Ok(Outgoing { message: message(), resources: Vec::new() }),
        ];
        let (pieces, end) = collected(answers, Form::Delta).await;
        assert_eq!(end.code(), Code::Ok);
        let read: Vec<DeltaDiscoveryResponse> = messages(&pieces);
        assert_eq!((read.len(), read[1].resources.len()), (2, 0));
        assert_eq!((&*read[0].nonce, &*read[0].removed_resources[0]), ("1-1", "gone"));
        let seen = read[0].resources.iter().map(|r| (r.name.clone(), r.version.clone(), r.resource.clone().unwrap()));
        let said = resources().into_iter().map(|r| (r.name.clone(), r.version.clone(), r.body.clone()));
        assert!(seen.eq(said));

        let message = DiscoveryResponse { version_info: "7".to_owned(), ..DiscoveryResponse::default() };
        let (pieces, _) = collected(vec![Ok(Outgoing { message, resources: resources() })], Form::World).await;
        let read: Vec<DiscoveryResponse> = messages(&pieces);
        assert_eq!(read[0].version_info, "7");
        assert!(read[0].resources.iter().eq(resources().iter().map(|r| &r.body)));
    }

    #[tokio::test]
    async fn pieces_are_small_and_large_bodies_shared() {
        let resources = resources();
        let large: Vec<*const u8> = resources
            .iter()
            .filter(|resource| resource.body.value.len() >= LARGE)
            .map(|resource| resource.body.value.as_ptr())
            .collect();
        let answer = Outgoing { message: DiscoveryResponse::default(), resources };
        let (pieces, _) = collected(vec![Ok(answer)], Form::World).await;
        let shared = |piece: &&Bytes| large.contains(&piece.as_ptr());
        assert_eq!(pieces.iter().filter(shared).count(), large.len());
        assert!(pieces.iter().filter(|piece| !shared(piece)).all(|piece| piece.len() <= PIECE + LARGE + 100));
    }

    #[tokio::test]
    async fn a_refusal_ends_the_stream_behind_what_was_said() {
        let answer = Outgoing { message: DiscoveryResponse::default(), resources: Vec::new() };
        let (pieces, end) = collected(vec![Ok(answer), Err(Status::permission_denied("not you"))], Form::World).await;
        assert_eq!(messages::<DiscoveryResponse>(&pieces).len(), 1);
        assert_eq!((end.code(), end.message()), (Code::PermissionDenied, "not you"));
    }
}
