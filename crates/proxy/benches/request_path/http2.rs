//! HTTP/2 peers that speak just enough: prepared frames, one stream at a time.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};

use crate::{BODY, Result};

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const DATA: u8 = 0;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const WINDOW_UPDATE: u8 = 8;
const ACK: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

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
    let mut preface = [0; PREFACE.len()];
    stream.read_exact(&mut preface)?;
    stream.write_all(&hello())?;
    let mut reader = Frames::default();
    loop {
        let frame = reader.next(&mut stream)?;
        if frame.kind == HEADERS {
            // HPACK: `:status: 200` is index 8 of the static table.
            let mut answer = frame_bytes(HEADERS, END_HEADERS, frame.stream, &[0x88]);
            answer.extend(frame_bytes(DATA, END_STREAM, frame.stream, BODY));
            stream.write_all(&answer)?;
        }
    }
}

/// Sends so many requests, each on a new stream when the one before has ended.
pub(crate) fn call(mut stream: TcpStream, requests: u32) -> Result<()> {
    stream.write_all(PREFACE)?;
    stream.write_all(&hello())?;
    let head = head();
    let mut reader = Frames::default();
    for index in 0..requests {
        let id = 2 * index + 1;
        stream.write_all(&frame_bytes(HEADERS, END_STREAM | END_HEADERS, id, &head))?;
        loop {
            let frame = reader.next(&mut stream)?;
            if matches!(frame.kind, RST_STREAM | GOAWAY) {
                return Err(format!("stream {id}: the proxy sent a frame of type {}", frame.kind).into());
            }
            if frame.stream == id && matches!(frame.kind, DATA | HEADERS) && frame.flags & END_STREAM != 0 {
                break;
            }
        }
    }
    Ok(())
}

/// Settings, their acknowledgement (sent early: peers allow it as theirs come first), and a window for all the bodies.
fn hello() -> Vec<u8> {
    let mut out = frame_bytes(SETTINGS, 0, 0, &[]);
    out.extend(frame_bytes(WINDOW_UPDATE, 0, 0, &0x7000_0000_u32.to_be_bytes()));
    out
}

/// HPACK without the dynamic table: indexed method GET and scheme http, literals for the rest.
fn head() -> Vec<u8> {
    let mut out = vec![0x82, 0x86];
    for (index, value) in [(0x01, "app.bench.svc.cluster.local:8080"), (0x04, "/bench")] {
        out.push(index);
        text(&mut out, value);
    }
    for (name, value) in [("user-agent", "bench/1.0"), ("x-canary-user", "true")] {
        out.push(0);
        text(&mut out, name);
        text(&mut out, value);
    }
    out
}

fn text(out: &mut Vec<u8>, value: &str) {
    out.push(u8::try_from(value.len()).unwrap_or(0x7f));
    out.extend_from_slice(value.as_bytes());
}

fn frame_bytes(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let mut out = vec![length[1], length[2], length[3], kind, flags];
    out.extend_from_slice(&stream.to_be_bytes());
    out.extend_from_slice(payload);
    out
}

struct Frame {
    kind: u8,
    flags: u8,
    stream: u32,
}

/// Frames as they come; acknowledges settings and pings nothing.
#[derive(Default)]
struct Frames {
    buffer: Vec<u8>,
}

impl Frames {
    fn next(&mut self, stream: &mut TcpStream) -> std::io::Result<Frame> {
        loop {
            if let [a, b, c, kind, flags, s0, s1, s2, s3, ..] = *self.buffer {
                let whole = 9 + u32::from_be_bytes([0, a, b, c]) as usize;
                if self.buffer.len() >= whole {
                    self.buffer.drain(..whole);
                    if kind == SETTINGS && flags & ACK == 0 {
                        stream.write_all(&frame_bytes(SETTINGS, ACK, 0, &[]))?;
                    }
                    return Ok(Frame { kind, flags, stream: u32::from_be_bytes([s0, s1, s2, s3]) });
                }
            }
            let mut chunk = [0; 4096];
            match stream.read(&mut chunk)? {
                0 => return Err(std::io::ErrorKind::UnexpectedEof.into()),
                read => self.buffer.extend_from_slice(&chunk[..read]),
            }
        }
    }
}
