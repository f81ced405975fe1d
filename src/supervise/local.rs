//! Unix sockets in a run directory: bound and reached through the open directory, so that its path
//! may be longer than a socket address (107 bytes); peers are told by their uid.

use std::os::fd::{AsFd, AsRawFd as _, OwnedFd};

use rustix::fs::{AtFlags, Mode, RawMode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

use crate::fsx::{Dir, FsError};

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

/// Who listens at `name` in `dir`, as far as can be told: for messages.
pub(super) fn holder_of(dir: &Dir, name: &str, kind: SocketType) -> String {
    let peer = connect(dir, name, kind).and_then(rustix::net::sockopt::socket_peercred);
    peer.map_or_else(
        |_| "another process".to_owned(),
        |peer| format!("process {}", peer.pid.as_raw_nonzero()),
    )
}
