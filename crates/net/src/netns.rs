//! Network, mount, user and process namespaces: what a pod on one machine is made of.

use std::ffi::{CString, OsStr};
use std::fs::File;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// Which namespaces to leave for new ones.
#[derive(Clone, Copy, Debug, Default)]
pub struct Unshare {
    /// A network stack of its own.
    pub net: bool,
    /// A mount table of its own.
    pub mount: bool,
    /// User ids of its own: root inside, the caller outside.
    pub user: bool,
    /// Process ids of its own, from the next child on.
    pub pid: bool,
}

impl Unshare {
    fn flags(self) -> libc::c_int {
        let pick = |on: bool, flag| if on { flag } else { 0 };
        pick(self.net, libc::CLONE_NEWNET)
            | pick(self.mount, libc::CLONE_NEWNS)
            | pick(self.user, libc::CLONE_NEWUSER)
            | pick(self.pid, libc::CLONE_NEWPID)
    }
}

/// Leaves the named namespaces for new ones; the calling thread only (user and mount: the process must be single-threaded).
///
/// # Errors
/// `EPERM` without the right to do so; for `user` a kernel that forbids unprivileged user namespaces.
pub fn unshare(what: Unshare) -> io::Result<()> {
    // SAFETY: `unshare` takes flags only.
    check(unsafe { libc::unshare(what.flags()) })
}

/// The kind of namespace an entered file is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// `/proc/PID/ns/net`
    Net,
    /// `/proc/PID/ns/mnt`
    Mount,
    /// `/proc/PID/ns/user`
    User,
    /// `/proc/PID/ns/pid`
    Pid,
}

impl Kind {
    fn flag(self) -> libc::c_int {
        match self {
            Self::Net => libc::CLONE_NEWNET,
            Self::Mount => libc::CLONE_NEWNS,
            Self::User => libc::CLONE_NEWUSER,
            Self::Pid => libc::CLONE_NEWPID,
        }
    }
}

/// Moves the calling thread into a namespace.
///
/// # Errors
/// `EPERM` without `CAP_SYS_ADMIN` over it; `EINVAL` when the file is of another kind.
pub fn enter(namespace: BorrowedFd<'_>, kind: Kind) -> io::Result<()> {
    // SAFETY: `setns` takes a descriptor that outlives the call, and a flag.
    check(unsafe { libc::setns(namespace.as_raw_fd(), kind.flag()) })
}

/// Runs `work` on a thread of its own inside the network namespace at `path`, so that sockets it opens belong there.
///
/// # Errors
/// When the namespace cannot be opened or entered, or the thread cannot be made or has panicked.
pub fn run_in<T: Send>(path: &Path, work: impl FnOnce() -> T + Send) -> io::Result<T> {
    use std::os::fd::AsFd;
    let namespace = File::open(path)?;
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().name("netns".to_owned()).spawn_scoped(scope, || {
            enter(namespace.as_fd(), Kind::Net)?;
            Ok(work())
        })?;
        thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread inside the network namespace panicked")))
    })
}

/// A bind mount to make inside a new mount namespace.
#[derive(Clone, Debug)]
pub struct Bind {
    /// The file or folder to show.
    pub source: PathBuf,
    /// Where; it must exist and be of the same sort.
    pub target: PathBuf,
}

/// Where and as whom a command runs.
#[derive(Clone, Debug, Default)]
pub struct Place {
    /// Network namespace file to enter.
    pub net: Option<PathBuf>,
    /// Mount namespace file to enter (after the network one).
    pub mount: Option<PathBuf>,
    /// Make a new mount namespace and these bind mounts in it.
    pub binds: Vec<Bind>,
    /// User id to run as.
    pub uid: Option<u32>,
    /// Group id to run as; supplementary groups are dropped.
    pub gid: Option<u32>,
    /// Kill the child when its parent thread dies (`PR_SET_PDEATHSIG`).
    pub die_with_parent: bool,
    /// Own process group and session, so that a signal reaches the whole container.
    pub new_session: bool,
}

/// Prepares `command` to start in `place`; everything happens in the child between `fork` and `exec`.
///
/// # Errors
/// When a namespace file cannot be opened or a path holds a NUL byte. What fails in the child is reported by `spawn`.
pub fn place(command: &mut Command, place: &Place) -> io::Result<()> {
    let net = place.net.as_ref().map(File::open).transpose()?;
    let mount = place.mount.as_ref().map(File::open).transpose()?;
    let binds = place
        .binds
        .iter()
        .map(|b| Ok((c_path(b.source.as_os_str())?, c_path(b.target.as_os_str())?)))
        .collect::<io::Result<Vec<_>>>()?;
    let (uid, gid) = (place.uid, place.gid);
    let (die, session) = (place.die_with_parent, place.new_session);
    let setup = move || -> io::Result<()> {
        if session {
            // SAFETY: no arguments; it fails only for a group leader, which a fresh child is not.
            check(unsafe { libc::setsid() })?;
        }
        if die {
            // SAFETY: PR_SET_PDEATHSIG takes a signal number.
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        }
        if let Some(net) = &net {
            // SAFETY: a descriptor opened before the fork and a flag.
            check(unsafe { libc::setns(net.as_raw_fd(), libc::CLONE_NEWNET) })?;
        }
        if let Some(mount) = &mount {
            // SAFETY: as above.
            check(unsafe { libc::setns(mount.as_raw_fd(), libc::CLONE_NEWNS) })?;
        }
        if !binds.is_empty() {
            bind_all(&binds)?;
        }
        drop_to(uid, gid, die)
    };
    // SAFETY: the closure only makes system calls on values prepared before the fork; it does not allocate or lock.
    unsafe { command.pre_exec(setup) };
    Ok(())
}

/// Runs in the child: a private mount namespace with the given binds.
fn bind_all(binds: &[(CString, CString)]) -> io::Result<()> {
    // SAFETY: flags only.
    check(unsafe { libc::unshare(libc::CLONE_NEWNS) })?;
    // SAFETY: constant C strings; a null source and data are allowed for a propagation change.
    check(unsafe {
        libc::mount(
            std::ptr::null(),
            c"/".as_ptr(),
            std::ptr::null(),
            libc::MS_REC | libc::MS_PRIVATE,
            std::ptr::null(),
        )
    })?;
    for (source, target) in binds {
        // SAFETY: both strings live as long as the closure that owns them.
        check(unsafe {
            libc::mount(source.as_ptr(), target.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null())
        })?;
    }
    Ok(())
}

/// Runs in the child: groups first, since the right to change them goes with the user.
fn drop_to(uid: Option<u32>, gid: Option<u32>, die: bool) -> io::Result<()> {
    if let Some(gid) = gid {
        // SAFETY: an empty list; a kernel that forbids it in a user namespace leaves the caller's own groups.
        unsafe { libc::setgroups(0, std::ptr::null()) };
        // SAFETY: a plain id.
        check(unsafe { libc::setgid(gid) })?;
    }
    if let Some(uid) = uid {
        // SAFETY: a plain id.
        check(unsafe { libc::setuid(uid) })?;
        if die {
            // The kernel forgets the parent-death signal when credentials change.
            // SAFETY: as above.
            check(unsafe { libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) })?;
        }
    }
    Ok(())
}

/// Keeps a namespace of a process alive by a bind mount of its file, as `ip netns` does.
///
/// # Errors
/// What `mount(2)` says; `target` must be an existing file.
pub fn pin(namespace: &Path, target: &Path) -> io::Result<()> {
    let (source, target) = (c_path(namespace.as_os_str())?, c_path(target.as_os_str())?);
    // SAFETY: valid C strings; null type and data are allowed for a bind mount.
    check(unsafe { libc::mount(source.as_ptr(), target.as_ptr(), std::ptr::null(), libc::MS_BIND, std::ptr::null()) })
}

/// Undoes [`pin`] (or any mount), even while in use.
///
/// # Errors
/// What `umount2(2)` says.
pub fn unpin(target: &Path) -> io::Result<()> {
    let target = c_path(target.as_os_str())?;
    // SAFETY: a valid C string and a flag.
    check(unsafe { libc::umount2(target.as_ptr(), libc::MNT_DETACH) })
}

/// Whether this process is root where it stands.
pub fn is_root() -> bool {
    // SAFETY: no arguments, cannot fail.
    unsafe { libc::geteuid() == 0 }
}

/// Sends a signal; a negative `pid` means the process group.
///
/// # Errors
/// `ESRCH` when there is no such process.
pub fn signal(pid: i32, signal: i32) -> io::Result<()> {
    // SAFETY: plain numbers.
    check(unsafe { libc::kill(pid, signal) })
}

fn c_path(path: &OsStr) -> io::Result<CString> {
    CString::new(path.as_bytes()).map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "a path holds a NUL byte"))
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
