//! Our own look at the framing of HTTP/1 requests against the parser that serves them: where the two see different
//! messages and ours has no doubt, somebody can smuggle.

use std::cell::RefCell;
use std::rc::Rc;

use bytes::Bytes;
use http::header::TRANSFER_ENCODING;
use http::{Request, Response};
use http_body_util::{BodyExt, Empty};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use rules::framing::Framing;
use tokio::io::AsyncWriteExt;

/// A request as the parser delivered it.
struct Seen {
    /// The bytes ended before its body did.
    starved: bool,
    /// `transfer-encoding` as it stood.
    encodings: Vec<Vec<u8>>,
    /// Asks for something that is not HTTP afterwards.
    tunnel: bool,
}

/// Requests from their first byte on.
pub fn head(data: &[u8]) {
    compare(data);
}

/// The body of a chunked request, and whatever follows it.
pub fn chunked(data: &[u8]) {
    let mut bytes = b"POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n".to_vec();
    bytes.extend_from_slice(data);
    compare(&bytes);
}

fn compare(bytes: &[u8]) {
    let mut framing = Framing::default();
    framing.read(bytes);
    let mut pieces = Framing::default();
    bytes.chunks(7).for_each(|piece| pieces.read(piece));
    assert_eq!((framing.doubt(), framing.heads()), (pieces.doubt(), pieces.heads()), "cut up, it is another message");

    let seen = serve(bytes);
    for (number, request) in seen.iter().enumerate() {
        let number = number as u64;
        if framing.doubt().is_some_and(|(first, _)| first <= number) {
            return;
        }
        assert!(framing.heads() > number, "the parser sees request {number}, we do not");
        let plain = request.encodings.iter().all(|value| value.eq_ignore_ascii_case(b"chunked"));
        assert!(plain && request.encodings.len() <= 1, "an encoding that we let pass: {:?}", request.encodings);
        if request.tunnel {
            return;
        }
        if request.starved && framing.doubt().is_none() {
            assert_eq!(framing.heads(), number + 1, "the body has not ended, and yet we see what follows it");
        }
    }
}

/// What hyper, set up as the proxy sets it up, makes of the bytes.
fn serve(bytes: &[u8]) -> Vec<Seen> {
    let seen = Rc::new(RefCell::new(Vec::new()));
    let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
    runtime.block_on(async {
        let (mut client, server) = tokio::io::duplex(bytes.len() + 1);
        client.write_all(bytes).await.expect("room for all");
        client.shutdown().await.expect("open");
        let service = hyper::service::service_fn(|request: Request<Incoming>| {
            let seen = seen.clone();
            async move {
                let (parts, mut body) = request.into_parts();
                let tunnel = parts.method == http::Method::CONNECT || parts.headers.contains_key("upgrade");
                let at = seen.borrow().len();
                let encodings =
                    parts.headers.get_all(TRANSFER_ENCODING).iter().map(|v| v.as_bytes().to_vec()).collect();
                seen.borrow_mut().push(Seen { starved: false, encodings, tunnel });
                while let Some(frame) = body.frame().await {
                    if let Err(error) = frame {
                        seen.borrow_mut()[at].starved = ended_early(&error);
                        return Err(error);
                    }
                }
                Ok::<_, hyper::Error>(Response::new(Empty::<Bytes>::new()))
            }
        });
        let mut builder = hyper::server::conn::http1::Builder::new();
        builder.max_headers(100).max_buf_size(64 * 1024).half_close(true);
        let reading = tokio::spawn(async move { tokio::io::copy(&mut client, &mut tokio::io::sink()).await });
        let _ = builder.serve_connection(TokioIo::new(server), service).await;
        reading.abort();
    });
    Rc::try_unwrap(seen).map_or_else(|_| Vec::new(), RefCell::into_inner)
}

fn ended_early(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|e| e.downcast_ref::<std::io::Error>());
    error.is_incomplete_message() || cause.is_some_and(|e| e.kind() == std::io::ErrorKind::UnexpectedEof)
}
