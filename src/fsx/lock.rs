//! Locks: flocks, dropped by the kernel with the process. No pid files, no stale locks.

use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;

use rustix::fs::{FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use super::{Dir, FsError, Meta};

/// A held lock; dropping it lets go.
#[derive(Debug)]
pub struct Lock {
    _fd: OwnedFd,
}

impl Lock {
    /// Leaves the lock to the program that this process becomes; that holds it as long as it lives.
    pub fn keep_across_exec(self) -> Result<(), FsError> {
        let kept = rustix::io::fcntl_setfd(&self._fd, rustix::io::FdFlags::empty());
        std::mem::forget(self);
        kept.map_err(|e| FsError::new("keep", "lock", e))
    }

    /// Leaves a note in the file of this lock, or takes it away. It outlives the process that holds the lock.
    pub fn note(&self, is_there: bool) -> Result<(), FsError> {
        rustix::fs::ftruncate(&self._fd, u64::from(is_there)).map_err(|e| FsError::new("note in", "lock", e))
    }

    /// Whether [`Lock::note`] has left a note in the lock `name` in `dir`, whoever holds it.
    pub fn is_noted(dir: &Dir, name: &str) -> Result<bool, FsError> {
        Ok(super::optional(dir.meta(name))?.is_some_and(|meta| meta.len > 0))
    }

    /// Waits for the exclusive lock on `name` in `dir`, a 0600 file made where it is not there.
    pub fn exclusive(dir: &Dir, name: &str) -> Result<Lock, FsError> {
        Ok(take(dir, name, FlockOperation::LockExclusive)?.expect("a blocking lock is taken or fails"))
    }

    /// Waits for a shared lock on `name` in `dir`.
    pub fn shared(dir: &Dir, name: &str) -> Result<Lock, FsError> {
        Ok(take(dir, name, FlockOperation::LockShared)?.expect("a blocking lock is taken or fails"))
    }

    /// The exclusive lock on `name` in `dir`, or `None` where another process holds it.
    pub fn try_exclusive(dir: &Dir, name: &str) -> Result<Option<Lock>, FsError> {
        take(dir, name, FlockOperation::NonBlockingLockExclusive)
    }

    /// A shared lock on a directory, held as long as a reader needs it to stay. Never blocks:
    /// `None` where somebody is just taking it away. What is locked is what has the name `path` then.
    pub fn lease(path: &Path) -> Result<Option<Lock>, FsError> {
        loop {
            let dir = Dir::open(path)?;
            let opened = dir.own_meta()?.identity;
            let Some(lock) = flock(dir.into(), FlockOperation::NonBlockingLockShared, path)? else {
                return Ok(None);
            };
            // it may have been renamed away between opening and locking, and another put in its place
            if Meta::of_path(path)?.identity == opened {
                return Ok(Some(lock));
            }
        }
    }

    /// The exclusive lock on the directory at `path`, or `None` where somebody holds or leases it.
    pub fn try_dir(path: &Path) -> Result<Option<Lock>, FsError> {
        flock(Dir::open(path)?.into(), FlockOperation::NonBlockingLockExclusive, path)
    }
}

impl From<Lock> for OwnedFd {
    /// The descriptor whose duplicates, wherever they are, hold the lock.
    fn from(lock: Lock) -> OwnedFd {
        lock._fd
    }
}

fn take(dir: &Dir, name: &str, how: FlockOperation) -> Result<Option<Lock>, FsError> {
    let path = dir.path().join(name);
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let fd = rustix::fs::openat(dir.as_fd(), name, flags, Mode::from_raw_mode(0o600))
        .map_err(|e| FsError::new("open lock", &path, e))?;
    flock(fd, how, &path)
}

fn flock(fd: OwnedFd, how: FlockOperation, path: &Path) -> Result<Option<Lock>, FsError> {
    loop {
        match rustix::fs::flock(&fd, how) {
            Ok(()) => return Ok(Some(Lock { _fd: fd })),
            Err(Errno::INTR) => {}
            Err(Errno::WOULDBLOCK) => return Ok(None),
            Err(e) => return Err(FsError::new("lock", path, e)),
        }
    }
}
