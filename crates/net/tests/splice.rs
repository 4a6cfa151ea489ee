//! The splice relay moves every byte, passes half-closes on and notices silence.

use std::time::Duration;

use net::{CopyEnd, copy_bidirectional};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

async fn pair() -> (TcpStream, TcpStream) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
    (client.unwrap(), server.unwrap().0)
}

#[tokio::test]
async fn bytes_and_half_closes_go_both_ways() {
    let (mut client, proxy_down) = pair().await;
    let (proxy_up, mut server) = pair().await;
    let relay = async { copy_bidirectional(&proxy_down, &proxy_up, None).await };
    let talk = async {
        let big = vec![7_u8; 3 << 20];
        let send = async {
            client.write_all(&big).await.unwrap();
            client.shutdown().await.unwrap();
        };
        let receive = async {
            let mut got = Vec::new();
            server.read_to_end(&mut got).await.unwrap();
            got
        };
        let ((), got) = tokio::join!(send, receive);
        assert_eq!(got.len(), big.len());
        // The server still answers after the client has closed its half.
        server.write_all(b"bye").await.unwrap();
        server.shutdown().await.unwrap();
        let mut answer = Vec::new();
        client.read_to_end(&mut answer).await.unwrap();
        assert_eq!(answer, b"bye");
    };
    let (copied, ()) = tokio::join!(relay, talk);
    assert_eq!((copied.a_to_b, copied.b_to_a), (3 << 20, 3));
    assert!(matches!(copied.end, CopyEnd::Closed), "{:?}", copied.end);
}

#[tokio::test]
async fn a_silent_pair_ends_idle() {
    let (_client, proxy_down) = pair().await;
    let (proxy_up, _server) = pair().await;
    tokio::time::pause();
    let copied = copy_bidirectional(&proxy_down, &proxy_up, Some(Duration::from_secs(3600))).await;
    assert!(matches!(copied.end, CopyEnd::Idle), "{:?}", copied.end);
}
