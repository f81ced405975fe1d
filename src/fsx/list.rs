//! What is in a directory.

use std::ffi::OsString;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::{OsStrExt as _, OsStringExt as _};
use std::path::Path;

use rustix::fs::{FileType, Mode, OFlags, RawDir};

use super::{Dir, EntryKind, FsError};

/// So many bytes of names are asked of the kernel at once; the longest name takes 280.
const AT_ONCE: usize = 16 * 1024;

impl Dir {
    /// The names in this directory, sorted by bytes, without `.` and `..`.
    pub fn names(&self) -> Result<Vec<OsString>, FsError> {
        let mut names = Vec::new();
        self.for_each_name(|name| names.push(OsString::from_vec(name.to_vec())))?;
        names.sort_unstable();
        Ok(names)
    }

    /// Calls `each` with every name in this directory, in no order, without `.` and `..`.
    pub fn for_each_name(&self, mut each: impl FnMut(&[u8])) -> Result<(), FsError> {
        list(&self.again()?, self.path(), |name, _| each(name))
    }

    /// The names in this directory as [`Dir::names`], each with its kind; one `stat` only where the
    /// file system does not tell the kind in its listing.
    pub fn entries(&self) -> Result<Vec<(OsString, EntryKind)>, FsError> {
        self.entries_by(&self.again()?)
    }

    /// Opens a directory beneath this one as [`Dir::dir`], with its [`Dir::entries`].
    pub fn dir_with_entries(
        &self,
        rel: impl AsRef<Path>,
    ) -> Result<(Dir, Vec<(OsString, EntryKind)>), FsError> {
        let dir = self.dir(rel)?;
        // nobody else has it, so nobody else reads on where this one stops
        let entries = dir.entries_by(dir.as_fd())?;
        Ok((dir, entries))
    }

    fn entries_by(&self, fd: impl std::os::fd::AsFd) -> Result<Vec<(OsString, EntryKind)>, FsError> {
        let mut entries = Vec::new();
        list(fd, self.path(), |name, kind| {
            entries.push((OsString::from_vec(name.to_vec()), (kind != FileType::Unknown).then_some(kind)));
        })?;
        entries.sort_unstable_by(|(one, _), (other, _)| one.as_bytes().cmp(other.as_bytes()));
        let told = |(name, kind): (OsString, Option<FileType>)| {
            let kind = match kind {
                Some(kind) => EntryKind::of(kind),
                None => self.meta(&name)?.kind,
            };
            Ok((name, kind))
        };
        entries.into_iter().map(told).collect()
    }

    /// This directory opened once more: where a listing has come to belongs to the descriptor.
    fn again(&self) -> Result<OwnedFd, FsError> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat(self, c".", flags, Mode::empty()).map_err(|e| FsError::new("list", self.path(), e))
    }
}

/// Calls `each` with every name in the directory `fd` from its beginning, without `.` and `..`.
fn list(
    fd: impl std::os::fd::AsFd,
    path: &Path,
    mut each: impl FnMut(&[u8], FileType),
) -> Result<(), FsError> {
    let mut buffer = [const { MaybeUninit::uninit() }; AT_ONCE];
    let mut entries = RawDir::new(fd, &mut buffer);
    while let Some(entry) = entries.next() {
        let entry = entry.map_err(|e| FsError::new("list", path, e))?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => each(name, entry.file_type()),
        }
    }
    Ok(())
}
