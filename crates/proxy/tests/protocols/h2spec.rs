//! The HTTP/2 conformance suite against our server side. Ignored by default: `scripts/test` runs it where
//! `scripts/install-tools` has fetched h2spec.

use std::path::{Path, PathBuf};
use std::process::Output;

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt, Full};
use hyper::body::Incoming;
use hyper_util::rt::TokioIo;
use serde_json::json;

use crate::proxy::Config;
use crate::wire::Upstream;

fn binary() -> Option<PathBuf> {
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools/h2spec");
    fetched.exists().then_some(fetched)
}

/// Reads what comes, answers a few bytes.
async fn answer(request: Request<Incoming>) -> Result<Response<Full<Bytes>>, hyper::Error> {
    request.into_body().collect().await?;
    Ok(Response::new(Full::new(Bytes::from_static(b"a body of more than a few bytes"))))
}

async fn run(arguments: &[&str]) -> Option<Output> {
    let Some(h2spec) = binary() else {
        eprintln!("skipped: target/tools/h2spec is not here; scripts/install-tools fetches it");
        return None;
    };
    let upstream = Upstream::bind().await;
    let mut config = Config::http(upstream.address);
    // A port for both versions answers a wrong preface as HTTP/1.1 does, with 400; the suite wants it closed.
    config.manager()["codec_type"] = json!("HTTP2");
    let proxy = config.start();
    tokio::spawn(async move {
        loop {
            let stream = TokioIo::new(upstream.accept_stream().await);
            let service = hyper::service::service_fn(answer);
            tokio::spawn(hyper::server::conn::http1::Builder::new().serve_connection(stream, service));
        }
    });
    let port = proxy.address.port().to_string();
    let mut command = tokio::process::Command::new(h2spec);
    command.args(["--host", "127.0.0.1", "--port", &port, "--timeout", "5"]).args(arguments);
    Some(command.output().await.expect("h2spec runs"))
}

#[tokio::test]
#[ignore = "needs target/tools/h2spec, which scripts/install-tools fetches"]
async fn our_server_side_is_http2() {
    let Some(output) = run(&[]).await else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}
