//! The file system, and nothing above it: open directories, write-new, replace-symlink, sync, lock.
//!
//! Everything goes through [`Dir`], a directory held open: a name given to its methods is resolved
//! beneath that descriptor and never through a symlink, so nobody can move the ground under a walk.
#![expect(clippy::disallowed_methods, reason = "this room is the door to the file system")]

mod copy;
mod dir;
mod dirty;
mod file;
mod list;
mod lock;

pub use copy::copy_tree;
pub use dir::{Dir, EntryKind, Meta};
pub use file::{
    absolute, append, canonical, cut, flush, give, put_aside, read_chunks, read_from, read_path, read_tail,
    start_writing, sync,
};
pub use lock::Lock;

use std::io;
use std::path::{Path, PathBuf};

/// A file operation that failed: what was tried, on which path, and the system's reason.
#[derive(Debug, thiserror::Error)]
#[error("cannot {op} {}", path.display())]
pub struct FsError {
    op: &'static str,
    path: PathBuf,
    source: io::Error,
}

impl FsError {
    /// An error of `op` (an infinitive: "read", "create") on `path`.
    pub fn new(op: &'static str, path: impl Into<PathBuf>, source: impl Into<io::Error>) -> FsError {
        FsError { op, path: path.into(), source: bare(source.into()) }
    }

    /// The path the operation was about.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The system's reason, for callers that decide by kind.
    pub fn kind(&self) -> io::ErrorKind {
        self.source.kind()
    }

    /// Whether the thing named was not there.
    pub fn is_not_found(&self) -> bool {
        self.kind() == io::ErrorKind::NotFound
    }

    /// Whether a thing of that name was there already.
    pub fn is_exists(&self) -> bool {
        self.kind() == io::ErrorKind::AlreadyExists
    }
}

/// The system's own error, where `fs_err` has named the path again around it.
fn bare(error: io::Error) -> io::Error {
    let inner = error.get_ref().and_then(|error| error.source()?.downcast_ref::<io::Error>());
    inner.and_then(io::Error::raw_os_error).map(io::Error::from_raw_os_error).unwrap_or(error)
}

/// The user this process acts as.
pub fn effective_uid() -> u32 {
    rustix::process::geteuid().as_raw()
}

/// A name part no other process or thread uses now: process id and a counter.
pub fn unique() -> String {
    dir::unique()
}

/// `Ok(None)` where the thing named is not there; every other error stays one.
pub fn optional<T>(result: Result<T, FsError>) -> Result<Option<T>, FsError> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if error.is_not_found() => Ok(None),
        Err(error) => Err(error),
    }
}
