//! Unix sockets: listening at a path or an abstract name, and looking at bytes without taking them.

use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::os::unix::net::{SocketAddr, UnixListener, UnixStream};
use std::path::{Path, PathBuf};

/// A Unix socket that listens; its path is removed with it.
#[derive(Debug)]
pub struct Pipe {
    listener: UnixListener,
    path: Option<PathBuf>,
    /// Device and number of what was bound: nothing else at that path is ours to remove.
    file: Option<(u64, u64)>,
}

impl Pipe {
    /// Listens at a path, or, when it begins with `@`, at an abstract name. What a dead listener left at the path is
    /// replaced; a living one is not, nor is anything that is no socket.
    ///
    /// # Errors
    /// What the system says: the path in use, no permission, no such directory.
    pub fn listen(at: &str) -> io::Result<Self> {
        if let Some(name) = at.strip_prefix('@') {
            let listener = UnixListener::bind_addr(&SocketAddr::from_abstract_name(name)?)?;
            listener.set_nonblocking(true)?;
            return Ok(Self { listener, path: None, file: None });
        }
        let path = Path::new(at);
        if path.symlink_metadata().is_ok_and(|file| file.file_type().is_socket())
            && UnixStream::connect(path).is_err_and(|e| e.kind() == io::ErrorKind::ConnectionRefused)
        {
            std::fs::remove_file(path)?;
        }
        let listener = UnixListener::bind(path)?;
        listener.set_nonblocking(true)?;
        Ok(Self { listener, file: identity(path), path: Some(path.to_owned()) })
    }

    /// The same socket once more: whoever accepts first has the connection.
    ///
    /// # Errors
    /// When there are no file descriptors left.
    pub fn share(&self) -> io::Result<UnixListener> {
        self.listener.try_clone()
    }

    /// Takes the path away, when what is there is still ours; nobody comes by it any more.
    pub fn unlink(&self) {
        if let Some(path) = &self.path
            && self.file.is_some()
            && identity(path) == self.file
        {
            // Somebody else may have been faster.
            let _ = std::fs::remove_file(path);
        }
    }
}

impl Drop for Pipe {
    fn drop(&mut self) {
        self.unlink();
    }
}

fn identity(path: &Path) -> Option<(u64, u64)> {
    path.symlink_metadata().ok().map(|file| (file.dev(), file.ino()))
}

/// Looks at what a socket has for us and leaves it there; std has this for TCP alone.
///
/// # Errors
/// What `recv` says; `WouldBlock` when there is nothing yet.
pub fn peek(socket: &impl AsFd, buffer: &mut [u8]) -> io::Result<usize> {
    let fd = socket.as_fd().as_raw_fd();
    let flags = libc::MSG_PEEK | libc::MSG_DONTWAIT;
    // SAFETY: `buffer` is writable for its whole length, and the descriptor lives as long as `socket` is borrowed.
    let read = unsafe { libc::recv(fd, buffer.as_mut_ptr().cast(), buffer.len(), flags) };
    usize::try_from(read).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    #[test]
    fn what_a_dead_listener_left_is_replaced_and_a_living_one_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("socket");
        let at = path.to_str().unwrap();
        drop(UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "std leaves the path");
        let first = Pipe::listen(at).unwrap();
        assert_eq!(Pipe::listen(at).unwrap_err().kind(), io::ErrorKind::AddrInUse);
        UnixStream::connect(&path).expect("the first lives on");
        first.unlink();
        let second = Pipe::listen(at).unwrap();
        drop(first);
        assert!(path.exists(), "it is the second's");
        drop(second);
        assert!(!path.exists());
        std::fs::write(&path, "a file").unwrap();
        assert!(Pipe::listen(at).is_err());
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "a file");
    }

    #[test]
    fn abstract_names_are_no_files() {
        let name = format!("@meltemi-test-{}", std::process::id());
        let pipe = Pipe::listen(&name).unwrap();
        assert!(Pipe::listen(&name).is_err());
        UnixStream::connect_addr(&SocketAddr::from_abstract_name(&name[1..]).unwrap()).expect("it listens");
        assert!(pipe.share().is_ok() && !Path::new(&name).exists());
    }

    #[test]
    fn bytes_are_looked_at_and_stay() {
        let (mut a, mut b) = UnixStream::pair().unwrap();
        let mut buffer = [0; 8];
        assert_eq!(peek(&b, &mut buffer).unwrap_err().kind(), io::ErrorKind::WouldBlock);
        a.write_all(b"abc").unwrap();
        for _ in 0..2 {
            assert_eq!(peek(&b, &mut buffer).unwrap(), 3);
        }
        drop(a);
        let mut all = Vec::new();
        b.read_to_end(&mut all).unwrap();
        assert_eq!((all.as_slice(), peek(&b, &mut buffer).unwrap()), (&b"abc"[..], 0));
    }
}
