//! Where a redirected connection was going before netfilter turned it to us.

use std::io;
use std::mem::MaybeUninit;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsFd, AsRawFd};

/// `SO_ORIGINAL_DST` (linux/netfilter_ipv4.h), and `IP6T_SO_ORIGINAL_DST`, which has the same number.
const SO_ORIGINAL_DST: libc::c_int = 80;

/// The address the client dialled, as connection tracking remembers it.
///
/// # Errors
/// `ENOENT`/`ENOPROTOOPT` when the connection was not redirected: it was made to the listener itself.
pub fn original_dst(socket: &impl AsFd) -> io::Result<SocketAddr> {
    let fd = socket.as_fd().as_raw_fd();
    match lookup_v4(fd) {
        Ok(address) => Ok(address),
        Err(v4) => lookup_v6(fd).map_err(|_| v4),
    }
}

fn lookup_v4(fd: libc::c_int) -> io::Result<SocketAddr> {
    let raw: libc::sockaddr_in = get(fd, libc::SOL_IP)?;
    let ip = Ipv4Addr::from(u32::from_be(raw.sin_addr.s_addr));
    Ok(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
}

fn lookup_v6(fd: libc::c_int) -> io::Result<SocketAddr> {
    let raw: libc::sockaddr_in6 = get(fd, libc::SOL_IPV6)?;
    let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
    Ok(SocketAddrV6::new(ip, u16::from_be(raw.sin6_port), 0, raw.sin6_scope_id).into())
}

fn get<T: Copy>(fd: libc::c_int, level: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut length = size_of::<T>() as libc::socklen_t;
    // SAFETY: `value` is writable for `length` bytes, the kernel writes at most that many, and `T` is a plain C struct
    // for which all-zero bytes are valid, so it is initialised whatever the kernel leaves out.
    let result = unsafe { libc::getsockopt(fd, level, SO_ORIGINAL_DST, value.as_mut_ptr().cast(), &raw mut length) };
    if result != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: zero-initialised above and then filled by the kernel.
    Ok(unsafe { value.assume_init() })
}
