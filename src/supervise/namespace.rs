//! A mount namespace of one's own, in which a generation lies at the path it names itself.

use std::path::{Path, PathBuf};

use rustix::fs::StatVfsMountFlags;
use rustix::io::Errno;
use rustix::mount::{MountFlags, MountPropagationFlags};
use rustix::thread::UnshareFlags;

use crate::fsx::{EntryKind, Meta};

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
    /// the uid could not be kept in the user namespace
    #[error("cannot keep the user id in a user namespace: {why}")]
    Ids {
        /// the reason
        why: String,
    },
}

/// Leaves the caller in a mount namespace of its own where `source` is seen at `target`, read-only and
/// without devices and setuid, and where nothing mounted later travels in or out. Without root the
/// way there is a user namespace in which every id stays what it is.
pub(super) fn enter(source: &Path, target: &Path) -> Result<(), NamespaceError> {
    if !Meta::of_path(target).is_ok_and(|meta| meta.kind == EntryKind::Dir) {
        return Err(NamespaceError::NoTarget { target: target.to_owned() });
    }
    match unshare(UnshareFlags::NEWNS) {
        Ok(()) => {}
        Err(Errno::PERM) => {
            let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
            unshare(UnshareFlags::NEWUSER | UnshareFlags::NEWNS)
                .map_err(|why| NamespaceError::Denied { why })?;
            write_proc("setgroups", "deny")?;
            write_proc("uid_map", &format!("{uid} {uid} 1"))?;
            write_proc("gid_map", &format!("{gid} {gid} 1"))?;
        }
        Err(why) => return Err(NamespaceError::Denied { why }),
    }
    let failed = |what| move |why| NamespaceError::Mount { what, target: target.to_owned(), why };
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC)
        .map_err(failed("make the mounts private for"))?;
    rustix::mount::mount_bind(source, target).map_err(failed("mount the configuration at"))?;
    let flags = MountFlags::BIND | MountFlags::RDONLY | MountFlags::NOSUID | MountFlags::NODEV | kept(target);
    rustix::mount::mount_remount(target, flags, "").map_err(failed("make read-only"))
}

/// The flags of the mount that a user namespace may not drop.
fn kept(target: &Path) -> MountFlags {
    let Ok(vfs) = rustix::fs::statvfs(target) else { return MountFlags::empty() };
    [
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
    let ids = |e: Errno| NamespaceError::Ids { why: format!("{name}: {e}") };
    let path = format!("/proc/self/{name}");
    let flags = rustix::fs::OFlags::WRONLY | rustix::fs::OFlags::CLOEXEC;
    let fd = rustix::fs::open(path, flags, rustix::fs::Mode::empty()).map_err(ids)?;
    // the maps take one write
    rustix::io::write(&fd, text.as_bytes()).map_err(ids)?;
    Ok(())
}

#[allow(unsafe_code, reason = "the one system call the room needs that rustix cannot vouch for")]
fn unshare(flags: UnshareFlags) -> Result<(), Errno> {
    // SAFETY: the call is unsafe because with FILES descriptors of other threads could come to mean
    // something else. Only NEWNS and NEWUSER are passed here, and the process has one thread.
    unsafe { rustix::thread::unshare_unsafe(flags) }
}
