//! Namespaces of one's own: of mounts, in which a generation lies at the path it names itself, and of the
//! network, in which nobody reaches a canary.

use std::net::IpAddr;
use std::os::fd::AsFd as _;
use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::process::PidfdFlags;
use rustix::thread::{ThreadNameSpaceType, UnshareFlags};

use crate::fsx::{EntryKind, Meta};

use super::netlink::Netlink;

/// Why there is no such namespace. Nothing outside the process has changed.
#[derive(Debug, thiserror::Error)]
pub enum NamespaceError {
    /// the kernel does not let us have one
    #[error(
        "cannot make a mount namespace: {why}; it needs root, or user namespaces (user.max_mnt_namespaces above 0)"
    )]
    Denied {
        /// the system's reason
        why: Errno,
    },
    /// there is nothing to mount over
    #[error("cannot mount the configuration at {}: there is no such directory", target.display())]
    NoTarget {
        /// the path that has to be there
        target: PathBuf,
    },
    /// one of the mounts failed
    #[error("cannot {what} {}: {why}", target.display())]
    Mount {
        /// what was tried
        what: &'static str,
        /// where
        target: PathBuf,
        /// the system's reason
        why: Errno,
    },
    /// the kernel does not let us have a network
    #[error(
        "cannot make a network namespace: {why}; it needs root, or user namespaces (user.max_net_namespaces above 0)"
    )]
    NoNetwork {
        /// the system's reason
        why: Errno,
    },
    /// a network that is no use
    #[error("cannot {what} in a network namespace: {why}")]
    Network {
        /// what was tried
        what: String,
        /// the reason
        why: String,
    },
    /// the uid could not be kept in the user namespace
    #[error("cannot keep the user id in a user namespace: {why}")]
    Ids {
        /// the reason
        why: String,
    },
}

/// Leaves the caller in a mount namespace of its own where `source` is seen at `target`, read-only and
/// without devices and setuid, where `read_only` is protected as by [`protect`], and where nothing mounted later
/// travels in or out. Without root the way there is a user namespace in which every id stays what it is.
pub(super) fn enter(source: &Path, target: &Path, read_only: &[PathBuf]) -> Result<(), NamespaceError> {
    if !Meta::of_path(target).is_ok_and(|meta| meta.kind == EntryKind::Dir) {
        return Err(NamespaceError::NoTarget { target: target.to_owned() });
    }
    leave(UnshareFlags::NEWNS, |why| NamespaceError::Denied { why })?;
    let failed = |what| move |why| NamespaceError::Mount { what, target: target.to_owned(), why };
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("make the mounts private for"))?;
    read_only.iter().try_for_each(|path| protect_one(path))?;
    rustix::mount::mount_bind(source, target).map_err(failed("mount the configuration at"))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | kept(target);
    rustix::mount::mount_remount(target, flags, "").map_err(failed("make read-only"))
}

/// Leaves the caller in a mount namespace of its own in which nothing beneath `paths` can be written, by root neither;
/// what is changed there by others is seen. Mounts made later travel in, none travels out. A path that is not there is
/// left out. Whoever may not make mounts stays where it was: then file modes have to do.
///
/// # Errors
/// A mount failed although the right to make it was there.
pub(super) fn protect(paths: &[PathBuf]) -> Result<(), NamespaceError> {
    if paths.is_empty() {
        return Ok(());
    }
    match unshare(UnshareFlags::NEWNS) {
        Ok(()) => {}
        // no right, or none left (user.max_mnt_namespaces)
        Err(Errno::PERM | Errno::NOSPC) => return Ok(()),
        Err(why) => return Err(NamespaceError::Denied { why }),
    }
    // a container may allow namespaces and no mounts, and `/` of a chroot may be none; before this nothing may be mounted
    let slave = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
    if rustix::mount::mount_change("/", slave).is_err() {
        return Ok(());
    }
    paths.iter().try_for_each(|path| protect_one(path))
}

fn protect_one(path: &Path) -> Result<(), NamespaceError> {
    match rustix::mount::mount_bind(path, path) {
        Ok(()) => {}
        Err(Errno::NOENT | Errno::PERM | Errno::ACCESS) => return Ok(()),
        Err(why) => return Err(NamespaceError::Mount { what: "protect", target: path.to_owned(), why }),
    }
    let flags = MountFlags::BIND | MountFlags::RDONLY | kept(path);
    rustix::mount::mount_remount(path, flags, "").map_err(|why| NamespaceError::Mount {
        what: "make read-only",
        target: path.to_owned(),
        why,
    })
}

/// Leaves the caller in a network namespace of its own: loopback is up and has `addresses` besides its own
/// two, and the ports that need no privilege are those of the host. There is no route and no resolver.
/// Without root the way there is a user namespace, as with [`enter`].
pub(super) fn own_network(addresses: &[IpAddr]) -> Result<(), NamespaceError> {
    let failed = |what: String| move |why: String| NamespaceError::Network { what, why };
    let unprivileged = crate::fsx::read_path(UNPRIVILEGED.as_ref(), 64).unwrap_or_default();
    leave(UnshareFlags::NEWNET, |why| NamespaceError::NoNetwork { why })?;
    let loopback = Netlink::open().and_then(|link| link.loopback_up().map(|()| link));
    let loopback = loopback.map_err(|e| failed("turn loopback on".to_owned())(e.to_string()))?;
    for address in addresses.iter().filter(|address| !address.is_loopback() && !address.is_unspecified()) {
        loopback.add(*address).map_err(|e| failed(format!("add {address} to loopback"))(e.to_string()))?;
    }
    // written only where it matters: /proc/sys may be read-only, and mostly says the same
    if crate::fsx::read_path(UNPRIVILEGED.as_ref(), 64).unwrap_or_default() != unprivileged {
        let written = write_file(UNPRIVILEGED, &unprivileged);
        written.map_err(|e| failed(format!("write {UNPRIVILEGED}"))(e.to_string()))?;
    }
    Ok(())
}

/// Leaves the caller in the network namespace of process `pid`, and in its user namespace where that is
/// needed to get there.
pub(super) fn join_network(pid: u32) -> Result<(), NamespaceError> {
    let join = || -> Result<(), Errno> {
        let process = super::process::number(pid).ok_or(Errno::SRCH)?;
        let process = rustix::process::pidfd_open(process, PidfdFlags::empty())?;
        let enter = |what| rustix::thread::move_into_thread_name_spaces(process.as_fd(), what);
        match enter(ThreadNameSpaceType::NETWORK) {
            Err(Errno::PERM) => enter(ThreadNameSpaceType::USER | ThreadNameSpaceType::NETWORK),
            answer => answer,
        }
    };
    let what = "be with the canary";
    join().map_err(|e| NamespaceError::Network { what: what.to_owned(), why: e.to_string() })
}

/// Where a host says which ports need no privilege.
const UNPRIVILEGED: &str = "/proc/sys/net/ipv4/ip_unprivileged_port_start";

/// Goes into a namespace of one's own; without the right to, into a user namespace besides.
fn leave(into: UnshareFlags, denied: impl Fn(Errno) -> NamespaceError) -> Result<(), NamespaceError> {
    match unshare(into) {
        Ok(()) => Ok(()),
        Err(Errno::PERM) => {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            unshare(UnshareFlags::NEWUSER | into).map_err(denied)?;
            write_proc("setgroups", "deny")?;
            write_proc("uid_map", &format!("{uid} {uid} 1"))?;
            write_proc("gid_map", &format!("{gid} {gid} 1"))
        }
        Err(why) => Err(denied(why)),
    }
}

/// The flags of the mount that a user namespace may not drop.
fn kept(target: &Path) -> MountFlags {
    let Ok(vfs) = rustix::fs::statvfs(target) else { return MountFlags::empty() };
    [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ]
    .into_iter()
    .filter(|(seen, _)| vfs.f_flag.contains(*seen))
    .fold(MountFlags::empty(), |flags, (_, flag)| flags | flag)
}

fn write_proc(name: &str, text: &str) -> Result<(), NamespaceError> {
    write_file(format!("/proc/self/{name}"), text.as_bytes())
        .map_err(|e| NamespaceError::Ids { why: format!("{name}: {e}") })
}

/// Writes `bytes`, in one piece, to a file that the kernel makes up.
pub(super) fn write_file(path: impl rustix::path::Arg, bytes: &[u8]) -> Result<(), Errno> {
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty())?;
    // the maps take one write
    rustix::io::write(&fd, bytes).map(drop)
}

#[allow(unsafe_code, reason = "the one system call the room needs that rustix cannot vouch for")]
fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: the call is unsafe because with FILES descriptors of other threads could come to mean
    // something else. Only NEWNS, NEWNET and NEWUSER are passed here, and the process has one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
