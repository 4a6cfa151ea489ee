use std::net::{IpAddr, Ipv4Addr};

use super::*;
use crate::fault::FaultOptions;
use crate::server::{Running, ServerOptions, start};

async fn server() -> Running {
    let options = ServerOptions {
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        http: vec![0],
        tcp: vec![0],
        banner: None,
        farewell: true,
        name: "a".to_owned(),
        version: "v1".to_owned(),
        pod: "a-1".to_owned(),
        faults: FaultOptions::default(),
        linger: Duration::from_millis(50),
    };
    start(options).await.expect("free ports")
}

fn options(url: &str, messages: u32) -> StreamOptions {
    StreamOptions {
        url: url.parse().expect("a URL"),
        streams: 3,
        rate: 300.0,
        duration: Duration::from_secs_f64(f64::from(messages) / 300.0),
        timeout: Duration::from_secs(5),
    }
}

#[tokio::test]
async fn every_message_of_every_stream_is_echoed() {
    let server = server().await;
    let (http, tcp) = (server.http[0], server.tcp[0]);
    for url in [format!("http://{http}/echo.Echo/Stream"), format!("tcp://{tcp}"), format!("ws://{http}/chat")] {
        let report = load(options(&url, 60)).await;
        assert_eq!((report.requests, report.failed, report.opened, report.moved), (60, 0, 3, 0), "{url}: {report:?}");
    }
}

#[tokio::test]
async fn a_server_that_says_goodbye_loses_nothing() {
    LocalSet::new().run_until(goodbye("http")).await;
    LocalSet::new().run_until(goodbye("tcp")).await;
}

async fn goodbye(scheme: &str) {
    let server = server().await;
    let url = match scheme {
        "http" => format!("http://{}/echo.Echo/Stream", server.http[0]),
        _ => format!("tcp://{}", server.tcp[0]),
    };
    // Between two messages, and while one is under way.
    let mut between = Open::new(&url.parse().expect("a URL")).await.expect("it opens");
    between.send("one").await.expect("it is sent");
    assert_eq!(between.receive().await.expect("an echo").as_deref(), Some("one"));
    let mut within = Open::new(&url.parse().expect("a URL")).await.expect("it opens");
    let stopping = tokio::spawn(server.stop(Duration::from_secs(5)));
    assert_eq!(between.receive().await.expect("a word").as_deref(), Some(FAREWELL), "{scheme}");
    between.finish().await.expect("it ends in order");
    within.send("two").await.expect("it is sent");
    let heard = [within.receive().await, within.receive().await];
    let heard: Vec<_> = heard.into_iter().map(|h| h.expect("a word").unwrap_or_default()).collect();
    assert!(heard.contains(&"two".to_owned()) && heard.contains(&FAREWELL.to_owned()), "{scheme}: {heard:?}");
    within.finish().await.expect("it ends in order");
    stopping.await.expect("the server ends when its streams have");
}

#[tokio::test]
async fn a_stream_that_breaks_is_a_failure() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let url = format!("tcp://{}", listener.local_addr().expect("its address"));
    tokio::spawn(async move {
        // Takes a message, and leaves without a word.
        while let Ok((mut stream, _)) = listener.accept().await {
            let _ = stream.read(&mut [0; 64]).await;
        }
    });
    let report = load(options(&url, 9)).await;
    assert_eq!((report.requests, report.failed), (9, 9), "{report:?}");
}
