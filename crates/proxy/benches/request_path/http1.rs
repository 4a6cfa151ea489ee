//! HTTP/1.1 peers that neither parse nor allocate per request.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::{BODY, Result};

const REQUEST: &[u8] = b"GET /bench HTTP/1.1\r\nHost: app.bench.svc.cluster.local:8080\r\nUser-Agent: bench/1.0\r\n\
    Accept: */*\r\nX-Canary-User: true\r\n\r\n";

/// Answers every request on every connection, each on a thread of its own.
pub(crate) fn serve(listener: TcpListener) {
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || answer(stream));
        }
    });
}

fn answer(mut stream: TcpStream) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut response = b"HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: 100\r\n\r\n".to_vec();
    response.extend_from_slice(BODY);
    let mut buffer = [0; 16 * 1024];
    let mut have = 0;
    loop {
        have += match stream.read(&mut buffer[have..])? {
            0 => return Ok(()),
            read => read,
        };
        if buffer[..have].ends_with(b"\r\n\r\n") {
            stream.write_all(&response)?;
            have = 0;
        }
    }
}

/// Sends so many requests, one after the other.
pub(crate) fn call(mut stream: TcpStream, requests: u32) -> Result<()> {
    let mut buffer = [0; 16 * 1024];
    for _ in 0..requests {
        stream.write_all(REQUEST)?;
        let mut have = 0;
        while !buffer[..have].ends_with(BODY) {
            have += match stream.read(&mut buffer[have..])? {
                0 => return Err(format!("closed after {}", String::from_utf8_lossy(&buffer[..have])).into()),
                read => read,
            };
        }
        if !buffer.starts_with(b"HTTP/1.1 200") {
            return Err(String::from_utf8_lossy(&buffer[..have]).into());
        }
    }
    Ok(())
}
