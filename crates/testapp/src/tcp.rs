//! TCP echo, optionally speaking first; and the client for it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::watch;

use crate::report::{Report, Tally};
use crate::server::{App, Stage};
use crate::stream::FAREWELL;

/// Echoes until the client closes, or at a stop signal.
pub(crate) async fn serve(mut stream: TcpStream, app: &Arc<App>, mut stopping: watch::Receiver<Stage>) {
    if let Some(banner) = &app.banner
        && stream.write_all(format!("{banner}\r\n").as_bytes()).await.is_err()
    {
        return;
    }
    if app.farewell {
        // A failed echo is the client's going away: there is nobody left to tell.
        let _ = echo_until_farewell(&mut stream, &mut stopping).await;
        return;
    }
    let (mut reader, mut writer) = stream.split();
    tokio::select! {
        // A failed copy is the client's going away: there is nobody left to tell.
        _ = tokio::io::copy(&mut reader, &mut writer) => {}
        _ = stopping.wait_for(|stage| *stage != Stage::Running) => {}
    }
    let _ = writer.shutdown().await;
}

/// Echoes lines until the client ends the connection. At the stop signal it is told so, between two lines.
async fn echo_until_farewell(stream: &mut TcpStream, stopping: &mut watch::Receiver<Stage>) -> std::io::Result<()> {
    let mut buffer = vec![0; 16 * 1024];
    let (mut said, mut within_line) = (false, false);
    loop {
        let read = tokio::select! {
            read = stream.read(&mut buffer) => Some(read?),
            _ = stopping.wait_for(|stage| *stage != Stage::Running), if !said && !within_line => None,
        };
        let Some(read) = read else {
            said = true;
            stream.write_all(format!("{FAREWELL}\n").as_bytes()).await?;
            continue;
        };
        let Some(data) = buffer.get(..read).filter(|data| !data.is_empty()) else { break };
        stream.write_all(data).await?;
        within_line = !data.ends_with(b"\n");
    }
    stream.shutdown().await
}

/// What the TCP client saw.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) bytes: Vec<u8>,
    pub(crate) first_byte: Option<Duration>,
}

/// Connects, sends, and reads until the server closes, `want` bytes have come, or the time is over.
pub(crate) async fn call(target: &str, send: &[u8], want: usize, timeout: Duration) -> std::io::Result<Answer> {
    let started = Instant::now();
    let work = async {
        let mut stream = TcpStream::connect(target).await?;
        stream.write_all(send).await?;
        let mut answer = Answer { bytes: Vec::new(), first_byte: None };
        let mut buffer = vec![0; 64 * 1024];
        while answer.bytes.len() < want {
            let n = stream.read(&mut buffer).await?;
            if n == 0 {
                break;
            }
            answer.first_byte.get_or_insert_with(|| started.elapsed());
            answer.bytes.extend_from_slice(buffer.get(..n).unwrap_or_default());
        }
        Ok(answer)
    };
    tokio::time::timeout(timeout, work).await.unwrap_or_else(|_| {
        Err(std::io::Error::new(std::io::ErrorKind::TimedOut, format!("no full answer from {target} in {timeout:?}")))
    })
}

/// Connections one after another, at a rate.
pub(crate) struct Load {
    pub(crate) target: String,
    pub(crate) data: Vec<u8>,
    pub(crate) want: usize,
    pub(crate) timeout: Duration,
    pub(crate) count: Option<u64>,
    pub(crate) duration: Option<Duration>,
    pub(crate) rate: f64,
    pub(crate) every: Option<Duration>,
}

impl Load {
    /// Runs to the end; `tell` gets the counts of each interval.
    pub(crate) async fn run(&self, tell: &dyn Fn(Report)) -> Report {
        let started = Instant::now();
        let (mut whole, mut interval) = (Tally::default(), Tally::default());
        let mut told = started;
        for turn in 0..self.count.unwrap_or(u64::MAX) {
            let at = started + Duration::from_secs_f64(turn as f64 / self.rate.max(0.001));
            if self.duration.is_some_and(|limit| at.duration_since(started) >= limit) {
                break;
            }
            tokio::time::sleep_until(at.into()).await;
            let sent = Instant::now();
            let result = call(&self.target, &self.data, self.want, self.timeout).await;
            for tally in [&mut whole, &mut interval] {
                match &result {
                    Ok(answer) if answer.bytes.len() >= self.want => {
                        tally.answered("ok", true, None, None, sent.elapsed())
                    }
                    Ok(_) => tally.failed("the server closed the connection before it had answered"),
                    Err(error) => tally.failed(&error.to_string()),
                }
            }
            if self.every.is_some_and(|every| told.elapsed() >= every) {
                tell(interval.take(told.elapsed()));
                told = Instant::now();
            }
        }
        whole.take(started.elapsed())
    }
}
