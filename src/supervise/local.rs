//! Unix sockets in a run directory: bound and reached through the open directory, so that its path
//! may be longer than a socket address (107 bytes); peers are told by their uid.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};
use std::time::Duration;

use rustix::fs::{AtFlags, Mode, RawMode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::fsx::{Dir, FsError, Lock};

use super::clock;

/// The address of `name` in `dir`, short however long the path of `dir` is.
pub(super) fn address(dir: &Dir, name: &str) -> Result<SocketAddrUnix, Errno> {
    SocketAddrUnix::new(format!("/proc/self/fd/{}/{name}", dir.as_fd().as_raw_fd()))
}

/// Binds a socket of `kind` at `name` in `dir` with `mode`, in place of what had the name. Stream and
/// sequential-packet sockets listen when nobody can have been refused yet. Non-blocking.
pub(super) fn bind(dir: &Dir, name: &str, kind: SocketType, mode: u32) -> Result<OwnedFd, FsError> {
    let error = |e: Errno| FsError::new("bind socket", dir.path().join(name), e);
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, flags, None).map_err(error)?;
    let temporary = format!(".{name}.new");
    dir.remove_tree(&temporary)?;
    rustix::net::bind(&socket, &address(dir, &temporary).map_err(error)?).map_err(error)?;
    rustix::fs::chmodat(dir, &temporary, Mode::from_raw_mode(mode as RawMode), AtFlags::empty())
        .map_err(error)?;
    if kind != SocketType::DGRAM {
        rustix::net::listen(&socket, 128).map_err(error)?;
    }
    dir.rename(&temporary, dir, name)?;
    Ok(socket)
}

/// Connects to the socket `name` in `dir`.
pub(super) fn connect(dir: &Dir, name: &str, kind: SocketType) -> Result<OwnedFd, Errno> {
    let socket = rustix::net::socket_with(AddressFamily::UNIX, kind, SocketFlags::CLOEXEC, None)?;
    rustix::net::connect(&socket, &address(dir, name)?)?;
    Ok(socket)
}

/// Takes the next connection, non-blocking; `None` where there is none, or its peer is neither the
/// own user nor root.
pub(super) fn accept(listener: &OwnedFd) -> Option<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::accept_with(listener, flags).ok()?;
    let peer = rustix::net::sockopt::socket_peercred(&socket).ok()?;
    if peer.uid.is_root() || peer.uid == rustix::process::geteuid() {
        return Some(socket);
    }
    tracing::warn!(uid = peer.uid.as_raw(), "a connection of another user was refused");
    None
}

/// The lock `lock` of a daemon that listens at `socket` in `dir`; who has it, where another one does. The kernel may
/// take the lock from a killed one a moment after its connections: where nobody answers, waits for it.
pub(super) fn claim(
    dir: &Dir,
    lock: &str,
    socket: &str,
    kind: SocketType,
) -> Result<Result<Lock, String>, FsError> {
    let deadline = clock::after(LAST_BREATH);
    loop {
        if let Some(lock) = Lock::try_exclusive(dir, lock)? {
            return Ok(Ok(lock));
        }
        match connect(dir, socket, kind).and_then(rustix::net::sockopt::socket_peercred) {
            Ok(peer) => return Ok(Err(format!("process {}", peer.pid.as_raw_nonzero()))),
            Err(_) if clock::until(deadline).is_zero() => return Ok(Err("another process".to_owned())),
            Err(_) => std::thread::sleep(LOOK),
        }
    }
}

/// How long a killed process may hold what it had locked.
const LAST_BREATH: Duration = Duration::from_secs(2);
/// How often is looked whether it still does.
const LOOK: Duration = Duration::from_millis(5);
