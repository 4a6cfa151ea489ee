//! Bytes from socket to socket inside the kernel: `splice(2)` through a pipe, so a proxied TCP byte is never copied to
//! user space.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::Duration;

use tokio::io::Interest;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Asked of the pipe; what the kernel grants may be less.
const PIPE_BYTES: libc::c_int = 256 * 1024;
/// At most this much in one call, so that two connections on a worker take turns.
const CHUNK: usize = 256 * 1024;

/// Why a copy came to its end.
#[derive(Debug)]
pub enum CopyEnd {
    /// Both directions were closed in order.
    Closed,
    /// No byte moved for the idle time.
    Idle,
    /// Reading from or writing to the first socket failed.
    FailedA(io::Error),
    /// Reading from or writing to the second socket failed.
    FailedB(io::Error),
}

/// What was moved, in bytes, and how it ended.
#[derive(Debug)]
pub struct Copied {
    /// From the first socket to the second.
    pub a_to_b: u64,
    /// From the second socket to the first.
    pub b_to_a: u64,
    /// The end.
    pub end: CopyEnd,
}

/// Moves bytes both ways until both sides have closed, one fails, or nothing moves for `idle`.
///
/// A half-close is passed on: when one side ends its stream the other is shut down for writing and may go on sending.
pub async fn copy_bidirectional(a: &TcpStream, b: &TcpStream, idle: Option<Duration>) -> Copied {
    let moved = Moved::default();
    let end = copy_counted(a, b, idle, &moved).await;
    Copied { a_to_b: moved.a_to_b.get(), b_to_a: moved.b_to_a.get(), end }
}

/// The same, with counts that can be read while the copy goes on.
pub async fn copy_counted(a: &TcpStream, b: &TcpStream, idle: Option<Duration>, moved: &Moved) -> CopyEnd {
    let forward = pump(a, b, &moved.a_to_b, &moved.last);
    let backward = pump(b, a, &moved.b_to_a, &moved.last);
    tokio::pin!(forward, backward);
    let (mut forward_done, mut backward_done) = (false, false);
    loop {
        if forward_done && backward_done {
            break CopyEnd::Closed;
        }
        let deadline = idle.map(|idle| moved.last.get() + idle);
        let quiet = async {
            match deadline {
                Some(at) => tokio::time::sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            result = &mut forward, if !forward_done => match result {
                Ok(()) => forward_done = true,
                Err(Side::Read(e)) => break CopyEnd::FailedA(e),
                Err(Side::Write(e)) => break CopyEnd::FailedB(e),
            },
            result = &mut backward, if !backward_done => match result {
                Ok(()) => backward_done = true,
                Err(Side::Read(e)) => break CopyEnd::FailedB(e),
                Err(Side::Write(e)) => break CopyEnd::FailedA(e),
            },
            () = quiet => {
                if idle.is_some_and(|idle| moved.last.get().elapsed() >= idle) {
                    break CopyEnd::Idle;
                }
            }
        }
    }
}

/// What a copy has moved so far, in bytes.
#[derive(Debug)]
pub struct Moved {
    /// From the first side to the second.
    pub a_to_b: std::cell::Cell<u64>,
    /// From the second side to the first.
    pub b_to_a: std::cell::Cell<u64>,
    /// When a byte moved last.
    pub last: std::cell::Cell<Instant>,
}

impl Default for Moved {
    fn default() -> Self {
        Self { a_to_b: 0.into(), b_to_a: 0.into(), last: Instant::now().into() }
    }
}

enum Side {
    Read(io::Error),
    Write(io::Error),
}

/// One direction: socket -> pipe -> socket.
async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    count: &std::cell::Cell<u64>,
    last: &std::cell::Cell<Instant>,
) -> Result<(), Side> {
    // The pipe is opened with the first byte, so an idle direction costs no file descriptor.
    let mut pipe: Option<Pipe> = None;
    loop {
        from.readable().await.map_err(Side::Read)?;
        let pipe = match &mut pipe {
            Some(pipe) => pipe,
            None => pipe.insert(Pipe::new().map_err(Side::Read)?),
        };
        let read = from.try_io(Interest::READABLE, || splice(from.as_raw_fd(), pipe.write.as_raw_fd(), CHUNK));
        let mut pending = match read {
            Ok(0) => break,
            Ok(n) => n,
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => continue,
            Err(e) => return Err(Side::Read(e)),
        };
        last.set(Instant::now());
        while pending > 0 {
            to.writable().await.map_err(Side::Write)?;
            match to.try_io(Interest::WRITABLE, || splice(pipe.read.as_raw_fd(), to.as_raw_fd(), pending)) {
                Ok(0) => return Err(Side::Write(io::ErrorKind::WriteZero.into())),
                Ok(n) => {
                    pending -= n;
                    count.set(count.get() + n as u64);
                    last.set(Instant::now());
                }
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => {}
                Err(e) => return Err(Side::Write(e)),
            }
        }
    }
    // The peer may already be gone: then there is nobody to tell.
    let _ = socket2::SockRef::from(to).shutdown(std::net::Shutdown::Write);
    Ok(())
}

struct Pipe {
    read: OwnedFd,
    write: OwnedFd,
}

impl Pipe {
    fn new() -> io::Result<Self> {
        let mut fds = [0; 2];
        // SAFETY: `fds` has room for the two descriptors the call writes.
        if unsafe { libc::pipe2(fds.as_mut_ptr(), libc::O_NONBLOCK | libc::O_CLOEXEC) } != 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: both descriptors are fresh from the kernel and owned by nobody else.
        let (read, write) = unsafe { (OwnedFd::from_raw_fd(fds[0]), OwnedFd::from_raw_fd(fds[1])) };
        // A smaller pipe than asked for still works, only with more calls.
        // SAFETY: F_SETPIPE_SZ takes an int and touches no memory of ours.
        unsafe { libc::fcntl(write.as_raw_fd(), libc::F_SETPIPE_SZ, PIPE_BYTES) };
        Ok(Self { read, write })
    }
}

fn splice(from: libc::c_int, to: libc::c_int, length: usize) -> io::Result<usize> {
    let flags = libc::SPLICE_F_MOVE | libc::SPLICE_F_NONBLOCK;
    // SAFETY: null offsets are allowed for pipes and sockets; the descriptors outlive the call.
    let moved = unsafe { libc::splice(from, std::ptr::null_mut(), to, std::ptr::null_mut(), length, flags) };
    usize::try_from(moved).map_err(|_| io::Error::last_os_error())
}
