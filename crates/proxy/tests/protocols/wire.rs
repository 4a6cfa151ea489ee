//! One TCP connection, spoken by hand.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

/// A test that waits longer hangs: it fails.
pub const PATIENCE: Duration = Duration::from_secs(20);

pub struct Wire {
    stream: TcpStream,
    buffer: Vec<u8>,
}

impl Wire {
    pub async fn connect(to: SocketAddr) -> Self {
        Self::new(TcpStream::connect(to).await.expect("the proxy listens"))
    }

    pub fn new(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a TCP socket");
        Self { stream, buffer: Vec::new() }
    }

    pub async fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.stream.write_all(bytes.as_ref()).await.expect("the other end reads");
    }

    /// Sends as far as the other end lets us; it may close in the middle.
    pub async fn try_send(&mut self, bytes: impl AsRef<[u8]>) {
        let _ = self.stream.write_all(bytes.as_ref()).await;
    }

    /// Ends our direction.
    pub async fn finish(&mut self) {
        self.stream.shutdown().await.expect("an open socket");
    }

    async fn more(&mut self) -> bool {
        let mut piece = [0; 16 * 1024];
        let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut piece)).await;
        let read = read.unwrap_or_else(|_| panic!("nothing came after {:?}", String::from_utf8_lossy(&self.buffer)));
        let read = read.unwrap_or(0);
        self.buffer.extend_from_slice(&piece[..read]);
        read > 0
    }

    /// All bytes up to and with the mark.
    pub async fn until(&mut self, mark: &str) -> String {
        loop {
            if let Some(at) = self.buffer.windows(mark.len()).position(|w| w == mark.as_bytes()) {
                let taken: Vec<u8> = self.buffer.drain(..at + mark.len()).collect();
                return String::from_utf8(taken).expect("text");
            }
            let open = self.more().await;
            assert!(open, "closed before {mark:?}; got {:?}", String::from_utf8_lossy(&self.buffer));
        }
    }

    /// A message's head.
    pub async fn head(&mut self) -> String {
        self.until("\r\n\r\n").await
    }

    /// The same, unless the other end closes before.
    pub async fn try_exactly(&mut self, count: usize) -> Option<Vec<u8>> {
        while self.buffer.len() < count {
            if !self.more().await {
                return None;
            }
        }
        Some(self.buffer.drain(..count).collect())
    }

    pub async fn exactly(&mut self, count: usize) -> Vec<u8> {
        while self.buffer.len() < count {
            assert!(self.more().await, "closed after {} of {count} bytes", self.buffer.len());
        }
        self.buffer.drain(..count).collect()
    }

    /// Reads and forgets.
    pub async fn skip(&mut self, count: usize) {
        let held = count.min(self.buffer.len());
        self.buffer.drain(..held);
        let mut left = count - held;
        let mut piece = vec![0; 256 * 1024];
        while left > 0 {
            let room = left.min(piece.len());
            let read = tokio::time::timeout(PATIENCE, self.stream.read(&mut piece[..room])).await;
            let read = read.expect("nothing came").expect("an open connection");
            assert!(read > 0, "closed {left} bytes too early");
            left -= read;
        }
    }

    pub async fn text(&mut self, count: usize) -> String {
        String::from_utf8(self.exactly(count).await).expect("text")
    }

    /// Everything until the other end closes.
    pub async fn rest(&mut self) -> String {
        while self.more().await {}
        String::from_utf8_lossy(&std::mem::take(&mut self.buffer)).into_owned()
    }

    /// A head and the body that its `content-length` announces.
    pub async fn message(&mut self) -> (String, String) {
        let head = self.head().await;
        let length = field(&head, "content-length").map_or(0, |v| v.parse().expect("a number"));
        let body = self.text(length).await;
        (head, body)
    }
}

/// The value of a header, found by the name as it is written.
pub fn field<'a>(head: &'a str, name: &str) -> Option<&'a str> {
    head.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

/// A server that the test plays.
pub struct Upstream {
    listener: TcpListener,
    pub address: SocketAddr,
}

impl Upstream {
    pub async fn bind() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
        let address = listener.local_addr().expect("bound");
        Self { listener, address }
    }

    pub async fn accept(&self) -> Wire {
        let accepted = tokio::time::timeout(PATIENCE, self.listener.accept()).await.expect("nobody connected");
        Wire::new(accepted.expect("a connection").0)
    }

    pub async fn accept_stream(&self) -> TcpStream {
        tokio::time::timeout(PATIENCE, self.listener.accept()).await.expect("nobody connected").expect("a connection").0
    }

    /// A connection that has come already.
    pub fn accepted(&self) -> Option<Wire> {
        let mut cx = std::task::Context::from_waker(std::task::Waker::noop());
        match self.listener.poll_accept(&mut cx) {
            std::task::Poll::Ready(accepted) => Some(Wire::new(accepted.expect("a connection").0)),
            std::task::Poll::Pending => None,
        }
    }
}

/// Waits for a condition that other tasks bring about.
pub async fn eventually(what: &str, condition: impl Fn() -> bool) {
    let waiting = async {
        while !condition() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    tokio::time::timeout(PATIENCE, waiting).await.unwrap_or_else(|_| panic!("never: {what}"));
}
