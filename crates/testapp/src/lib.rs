//! A small application to put behind a mesh, and the client that loads it: `meltemi app`.
//!
//! Promises: one process answers HTTP/1.1, h2c and gRPC on the same port and echoes TCP on others; it fails exactly as it
//! is told to, by flag, by request header or at run time; the client counts every request and says why one failed.
//! It may not know: anything of a mesh. It is an ordinary application.

mod cli;
mod client;
mod fault;
mod http_server;
mod report;
mod server;
mod stream;
mod tcp;

pub use cli::cli;
pub use client::{ClientError, ClientOptions};
pub use fault::{Fault, FaultOptions};
pub use report::{Report, Tally};
pub use server::{Running, ServeError, ServerOptions, start};

/// Parses what people write for a span of time: `250ms`, `2s`, `1m`, `1h`; a bare number means seconds.
///
/// # Errors
/// A sentence that names the accepted forms.
pub fn parse_span(text: &str) -> Result<std::time::Duration, String> {
    let refuse = || format!("`{text}` is not a time span; write for example 250ms, 2s or 1m");
    let digits = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: f64 = number.parse().map_err(|_| refuse())?;
    let seconds = match unit {
        "us" => number / 1e6,
        "ms" => number / 1e3,
        "" | "s" => number,
        "m" => number * 60.0,
        "h" => number * 3600.0,
        _ => return Err(refuse()),
    };
    std::time::Duration::try_from_secs_f64(seconds).map_err(|_| refuse())
}
