//! The first bytes of a connection, looked at without being taken.

use std::io;
use std::time::Duration;

use mtls::sniff::{self, First};
use tokio::time::{Instant, timeout_at};

use crate::stream::Stream;

/// Between two looks at a half-arrived hello: the bytes stay in the socket, so readiness cannot be awaited. The pause
/// grows, or a client that stops in the middle would keep a worker busy.
const AGAIN: (Duration, Duration) = (Duration::from_millis(1), Duration::from_millis(100));

/// Peeks until the protocol is known, the client closes, or `wait` is over (`NeedMore`).
pub(crate) async fn first_bytes(stream: &Stream, wait: Duration) -> io::Result<First> {
    let deadline = Instant::now() + wait;
    let mut buffer = vec![0; 1024];
    let (mut seen, mut pause) = (0, AGAIN.0);
    loop {
        let read = match timeout_at(deadline, stream.peek(&mut buffer)).await {
            Ok(read) => read?,
            Err(_) => return Ok(First::NeedMore),
        };
        if read == 0 {
            return Ok(First::Other);
        }
        match sniff::first(&buffer[..read]) {
            First::NeedMore if read == buffer.len() && read < sniff::MAX_HELLO => buffer.resize(read * 4, 0),
            // Nothing that could still make it known will come: nobody waits for a client that has gone.
            First::NeedMore if stream.is_finished().await => return Ok(First::Other),
            First::NeedMore if Instant::now() >= deadline => return Ok(First::NeedMore),
            First::NeedMore => {
                if read == seen {
                    tokio::time::sleep(pause).await;
                    pause = (pause * 2).min(AGAIN.1);
                } else {
                    (seen, pause) = (read, AGAIN.0);
                }
            }
            verdict => return Ok(verdict),
        }
    }
}
