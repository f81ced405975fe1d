//! A directory held open, and what may be done beneath it.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, FileType, Mode, OFlags, RawMode, RenameFlags, ResolveFlags, Stat};

use super::FsError;

/// A directory held open. Names and relative paths given to its methods are resolved beneath it and
/// never through a symlink; `path` is only for messages.
#[derive(Debug)]
pub struct Dir {
    fd: OwnedFd,
    path: PathBuf,
}

/// What a directory entry is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum EntryKind {
    /// a regular file
    File,
    /// a directory
    Dir,
    /// a symbolic link
    Link,
    /// a device, socket or fifo
    Special,
}

impl EntryKind {
    pub(super) fn of(file_type: FileType) -> EntryKind {
        match file_type {
            FileType::RegularFile => EntryKind::File,
            FileType::Directory => EntryKind::Dir,
            FileType::Symlink => EntryKind::Link,
            _ => EntryKind::Special,
        }
    }
}

/// The facts about one file that the rooms above need.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Meta {
    /// what it is
    pub kind: EntryKind,
    /// permission bits with setuid, setgid and sticky: `st_mode & 0o7777`
    pub mode: u32,
    /// length in bytes
    pub len: u64,
    /// disk space that its content takes, in bytes
    pub blocks: u64,
    /// number of names
    pub links: u64,
    /// device and inode: which file it is
    pub identity: (u64, u64),
    /// last change of content, in nanoseconds
    pub modified: i128,
    /// last change of content or inode, in nanoseconds
    pub changed: i128,
    /// owning user
    pub uid: u32,
    /// owning group
    pub gid: u32,
}

impl Meta {
    #[allow(clippy::unnecessary_cast, clippy::useless_conversion, reason = "field widths differ by target")]
    fn of(stat: &Stat) -> Meta {
        Meta {
            kind: EntryKind::of(FileType::from_raw_mode(stat.st_mode as RawMode)),
            mode: u32::from(stat.st_mode) & 0o7777,
            len: stat.st_size as u64,
            blocks: stat.st_blocks as u64 * 512,
            links: stat.st_nlink as u64,
            identity: (stat.st_dev as u64, stat.st_ino as u64),
            modified: i128::from(stat.st_mtime) * 1_000_000_000 + i128::from(stat.st_mtime_nsec),
            changed: i128::from(stat.st_ctime) * 1_000_000_000 + i128::from(stat.st_ctime_nsec),
            uid: stat.st_uid,
            gid: stat.st_gid,
        }
    }

    /// The facts about an open file.
    pub fn of_fd(fd: impl AsFd, path: &Path) -> Result<Meta, FsError> {
        rustix::fs::fstat(fd).map(|stat| Meta::of(&stat)).map_err(|e| FsError::new("stat", path, e))
    }

    /// The facts about `path`, a final symlink followed.
    pub fn of_path(path: &Path) -> Result<Meta, FsError> {
        rustix::fs::stat(path).map(|stat| Meta::of(&stat)).map_err(|e| FsError::new("stat", path, e))
    }
}

const BENEATH: ResolveFlags = ResolveFlags::BENEATH.union(ResolveFlags::NO_SYMLINKS);

impl Dir {
    /// Opens the directory at `path`; symlinks on the way there are followed.
    pub fn open(path: &Path) -> Result<Dir, FsError> {
        let fd = rustix::fs::open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map_err(|e| FsError::new("open directory", path, e))?;
        Ok(Dir { fd, path: path.to_owned() })
    }

    /// Makes the directory at `path` with `mode` (the umask set aside) unless it is there, and its
    /// missing parents with 0755, then opens it. A directory that was there keeps its mode.
    pub fn create_all(path: &Path, mode: u32) -> Result<Dir, FsError> {
        if let Some(parent) = path.parent().filter(|p| !p.as_os_str().is_empty()) {
            fs_err::create_dir_all(parent).map_err(|e| FsError::new("create directory", parent, e))?;
        }
        match rustix::fs::mkdir(path, Mode::from_raw_mode(0o700)) {
            Ok(()) => {
                rustix::fs::chmod(path, Mode::from_raw_mode(mode as RawMode))
                    .map_err(|e| FsError::new("set the mode of", path, e))?;
            }
            Err(rustix::io::Errno::EXIST) => {}
            Err(e) => return Err(FsError::new("create directory", path, e)),
        }
        Dir::open(path)
    }

    /// Opens a directory beneath this one, through no symlink.
    pub fn dir(&self, rel: impl AsRef<Path>) -> Result<Dir, FsError> {
        let fd = self.open_at(rel.as_ref(), OFlags::RDONLY | OFlags::DIRECTORY, 0, "open directory")?;
        Ok(Dir { fd, path: self.path.join(rel) })
    }

    /// Makes directory `rel` with exactly `mode` and opens it. Fails where something has the name.
    pub fn create_dir(&self, rel: impl AsRef<Path>, mode: u32) -> Result<Dir, FsError> {
        let rel = rel.as_ref();
        rustix::fs::mkdirat(&self.fd, rel, Mode::from_raw_mode(0o700))
            .map_err(|e| self.error("create directory", rel, e))?;
        let dir = self.dir(rel)?;
        dir.set_mode(mode)?;
        Ok(dir)
    }

    /// The path it was opened by; for messages and for programs that are told where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Sets the permission bits of this directory.
    pub fn set_mode(&self, mode: u32) -> Result<(), FsError> {
        rustix::fs::fchmod(&self.fd, Mode::from_raw_mode(mode as RawMode))
            .map_err(|e| FsError::new("set the mode of", &self.path, e))
    }

    /// Gives this directory to a user and group.
    pub fn give(&self, uid: u32, gid: u32) -> Result<(), FsError> {
        super::give(&self.fd, &self.path, uid, gid)
    }

    /// Sets the time of the last change of `rel` to now.
    pub fn touch(&self, rel: impl AsRef<Path>) -> Result<(), FsError> {
        let rel = rel.as_ref();
        let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = rustix::fs::Timestamps { last_access: now, last_modification: now };
        rustix::fs::utimensat(&self.fd, rel, &times, AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|e| self.error("set the time of", rel, e))
    }

    /// Makes this directory's names durable (`fsync`).
    pub fn sync(&self) -> Result<(), FsError> {
        rustix::fs::fsync(&self.fd).map_err(|e| FsError::new("sync directory", &self.path, e))
    }

    /// Makes the file `rel` durable (`fsync`), but not its name.
    pub fn sync_file(&self, rel: impl AsRef<Path>) -> Result<(), FsError> {
        let rel = rel.as_ref();
        let fd = self.open_at(rel, OFlags::RDONLY | OFlags::NONBLOCK, 0, "open")?;
        rustix::fs::fsync(fd).map_err(|e| self.error("sync", rel, e))
    }

    /// Makes everything written to this file system durable (`syncfs`), write-back errors included.
    pub fn sync_file_system(&self) -> Result<(), FsError> {
        rustix::fs::syncfs(&self.fd).map_err(|e| FsError::new("sync the file system of", &self.path, e))
    }

    /// The facts about `rel`, a final symlink not followed.
    pub fn meta(&self, rel: impl AsRef<Path>) -> Result<Meta, FsError> {
        let rel = rel.as_ref();
        rustix::fs::statat(&self.fd, rel, AtFlags::SYMLINK_NOFOLLOW)
            .map(|stat| Meta::of(&stat))
            .map_err(|e| self.error("stat", rel, e))
    }

    /// Whether something has the name `rel`.
    pub fn exists(&self, rel: impl AsRef<Path>) -> Result<bool, FsError> {
        Ok(super::optional(self.meta(rel))?.is_some())
    }

    /// Opens a regular file beneath this directory for reading; a fifo or device is refused, not waited for.
    pub fn open_file(&self, rel: impl AsRef<Path>) -> Result<fs_err::File, FsError> {
        Ok(self.open_file_meta(rel)?.0)
    }

    /// As [`Dir::open_file`], with the facts about what was opened.
    pub fn open_file_meta(&self, rel: impl AsRef<Path>) -> Result<(fs_err::File, Meta), FsError> {
        let rel = rel.as_ref();
        let fd = self.open_at(rel, OFlags::RDONLY | OFlags::NONBLOCK, 0, "open")?;
        self.regular(fd, rel)
    }

    /// Opens the regular file that `name` leads to, through symlinks and out of this directory if they
    /// lead there: only for what an operator asked to be followed.
    pub fn open_following(&self, name: impl AsRef<Path>) -> Result<(fs_err::File, Meta), FsError> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|e| self.error("open", name, e))?;
        self.regular(fd, name)
    }

    /// Opens the directory that `name` leads to, as [`Dir::open_following`].
    pub fn dir_following(&self, name: impl AsRef<Path>) -> Result<Dir, FsError> {
        let name = name.as_ref();
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let fd = rustix::fs::openat(&self.fd, name, flags, Mode::empty())
            .map_err(|e| self.error("open directory", name, e))?;
        Ok(Dir { fd, path: self.path.join(name) })
    }

    /// The facts about what `name` leads to, symlinks followed.
    pub fn meta_following(&self, name: impl AsRef<Path>) -> Result<Meta, FsError> {
        let name = name.as_ref();
        rustix::fs::statat(&self.fd, name, AtFlags::empty())
            .map(|stat| Meta::of(&stat))
            .map_err(|e| self.error("stat", name, e))
    }

    /// The bytes and the number of files that may still be written to this file system; no number where it
    /// does not count them.
    pub fn room(&self) -> Result<(u64, Option<u64>), FsError> {
        let stat = rustix::fs::fstatvfs(&self.fd)
            .map_err(|e| FsError::new("measure the file system of", &self.path, e))?;
        Ok((stat.f_bavail.saturating_mul(stat.f_frsize), (stat.f_files > 0).then_some(stat.f_favail)))
    }

    /// Whether nothing can be written to this file system: the kernel turns one with errors so.
    pub fn is_read_only(&self) -> Result<bool, FsError> {
        let stat = rustix::fs::fstatvfs(&self.fd)
            .map_err(|e| FsError::new("measure the file system of", &self.path, e))?;
        Ok(stat.f_flag.contains(rustix::fs::StatVfsMountFlags::RDONLY))
    }

    /// The facts about this directory.
    pub fn own_meta(&self) -> Result<Meta, FsError> {
        Meta::of_fd(&self.fd, &self.path)
    }

    fn regular(&self, fd: OwnedFd, rel: &Path) -> Result<(fs_err::File, Meta), FsError> {
        let path = self.path.join(rel);
        let meta = Meta::of_fd(&fd, &path)?;
        if meta.kind != EntryKind::File {
            return Err(FsError::new("read", path, std::io::Error::other("it is not a regular file")));
        }
        Ok((fs_err::File::from_parts(fd.into(), path), meta))
    }

    /// Sets the permission bits of the regular file `rel`.
    pub fn set_file_mode(&self, rel: impl AsRef<Path>, mode: u32) -> Result<(), FsError> {
        let rel = rel.as_ref();
        let file = self.open_file(rel)?;
        rustix::fs::fchmod(file.file(), Mode::from_raw_mode(mode as RawMode))
            .map_err(|e| self.error("set the mode of", rel, e))
    }

    /// Creates the file `rel` with `bytes` of disk space allocated to it, unless it is there; whether it was
    /// made now. Durable after [`Dir::sync`].
    pub fn reserve(&self, rel: impl AsRef<Path>, bytes: u64) -> Result<bool, FsError> {
        let rel = rel.as_ref();
        match self.create_file(rel, 0o600) {
            Ok(file) => {
                let flags = rustix::fs::FallocateFlags::empty();
                match rustix::fs::fallocate(file.file(), flags, 0, bytes) {
                    // a file system without it cannot promise space: nothing to keep
                    Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => Ok(true),
                    Err(e) => {
                        let _ = self.remove_file(rel);
                        Err(self.error("allocate", rel, e))
                    }
                }
            }
            Err(error) if error.is_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Reads the file `rel`; more than `limit` bytes is an error.
    pub fn read(&self, rel: impl AsRef<Path>, limit: u64) -> Result<Vec<u8>, FsError> {
        let rel = rel.as_ref();
        let (file, meta) = self.open_file_meta(rel)?;
        let mut bytes = Vec::with_capacity(super::file::room_for(meta.len.min(limit)));
        file.take(limit + 1).read_to_end(&mut bytes).map_err(|e| self.error("read", rel, e))?;
        if bytes.len() as u64 > limit {
            let reason = format!("it is larger than {limit} bytes");
            return Err(self.error("read", rel, std::io::Error::other(reason)));
        }
        Ok(bytes)
    }

    /// The target of the symlink `rel`.
    pub fn read_link(&self, rel: impl AsRef<Path>) -> Result<OsString, FsError> {
        let rel = rel.as_ref();
        rustix::fs::readlinkat(&self.fd, rel, Vec::new())
            .map(|target| OsStr::from_bytes(target.as_bytes()).to_owned())
            .map_err(|e| self.error("read link", rel, e))
    }

    /// Creates the file `rel` with exactly `mode` (the umask set aside), open for writing. Fails where
    /// something has the name.
    pub fn create_file(&self, rel: impl AsRef<Path>, mode: u32) -> Result<fs_err::File, FsError> {
        let rel = rel.as_ref();
        let fd = self.open_at(rel, OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, 0o600, "create")?;
        rustix::fs::fchmod(&fd, Mode::from_raw_mode(mode as RawMode))
            .map_err(|e| self.error("set the mode of", rel, e))?;
        Ok(fs_err::File::from_parts(fd.into(), self.path.join(rel)))
    }

    /// As [`Dir::create_file`], of the group `gid` where one is given, before its mode lets anybody read it.
    pub fn create_file_of(
        &self,
        rel: impl AsRef<Path>,
        mode: u32,
        gid: Option<u32>,
    ) -> Result<fs_err::File, FsError> {
        let Some(gid) = gid else { return self.create_file(rel, mode) };
        let rel = rel.as_ref();
        let file = self.create_file(rel, 0o600)?;
        rustix::fs::fchown(file.file(), None, Some(rustix::fs::Gid::from_raw(gid)))
            .map_err(|e| self.error("give the group of the host file", rel, e))?;
        rustix::fs::fchmod(file.file(), Mode::from_raw_mode(mode as RawMode))
            .map_err(|e| self.error("set the mode of", rel, e))?;
        Ok(file)
    }

    /// Writes a new file with exactly `mode`, not flushed. Fails where something has the name.
    pub fn write_unflushed(&self, rel: impl AsRef<Path>, bytes: &[u8], mode: u32) -> Result<(), FsError> {
        self.write_all(rel.as_ref(), bytes, mode).map(drop)
    }

    /// As [`Dir::write_unflushed`]; the disk begins with it, and has written it, as a rule, when it is flushed after
    /// something else was done: then the first commit of the journal takes it along.
    pub fn write_begun(&self, rel: impl AsRef<Path>, bytes: &[u8], mode: u32) -> Result<(), FsError> {
        let file = self.write_all(rel.as_ref(), bytes, mode)?;
        super::start_writing(&file, 0, bytes.len() as u64);
        Ok(())
    }

    /// Writes a new file with exactly `mode` and flushes it. Its name is durable after [`Dir::sync`].
    pub fn write_new(&self, rel: impl AsRef<Path>, bytes: &[u8], mode: u32) -> Result<(), FsError> {
        super::sync(&self.write_all(rel.as_ref(), bytes, mode)?)
    }

    fn write_all(&self, rel: &Path, bytes: &[u8], mode: u32) -> Result<fs_err::File, FsError> {
        use std::io::Write as _;
        let mut file = self.create_file(rel, mode)?;
        file.file_mut().write_all(bytes).map_err(|e| self.error("write", rel, e))?;
        Ok(file)
    }

    /// Writes `bytes` under a temporary name, flushes, and renames over `name`: readers see the old
    /// content or the new. Durable after `Ok`.
    pub fn replace_file(&self, name: &str, bytes: &[u8], mode: u32) -> Result<(), FsError> {
        let temporary = format!(".{name}.{}", unique());
        let done = self
            .write_new(&temporary, bytes, mode)
            .and_then(|()| self.rename(&temporary, self, name))
            .and_then(|()| self.sync());
        if done.is_err() {
            let _ = self.remove_file(&temporary);
        }
        done
    }

    /// Opens `rel` for appending, creating it with `mode` where it is not there; whether it was made now.
    pub fn append_file(&self, rel: impl AsRef<Path>, mode: u32) -> Result<(fs_err::File, bool), FsError> {
        let rel = rel.as_ref();
        let flags = OFlags::RDWR | OFlags::APPEND;
        let (fd, made) = match super::optional(self.open_at(rel, flags, 0, "open"))? {
            Some(fd) => (fd, false),
            None => (self.open_at(rel, flags | OFlags::CREATE, mode, "open")?, true),
        };
        Ok((fs_err::File::from_parts(fd.into(), self.path.join(rel)), made))
    }

    /// Makes `rel` a symlink to `target`. Fails where something has the name.
    pub fn symlink(&self, target: impl AsRef<Path>, rel: impl AsRef<Path>) -> Result<(), FsError> {
        let rel = rel.as_ref();
        rustix::fs::symlinkat(target.as_ref(), &self.fd, rel).map_err(|e| self.error("create link", rel, e))
    }

    /// Gives the file `from` a second name `name` in `to`. Fails where something has that name.
    pub fn hard_link(&self, from: impl AsRef<Path>, to: &Dir, name: impl AsRef<Path>) -> Result<(), FsError> {
        let name = name.as_ref();
        rustix::fs::linkat(&self.fd, from.as_ref(), &to.fd, name, AtFlags::empty())
            .map_err(|e| to.error("link", name, e))
    }

    /// Renames `from` to `name` in `to`, replacing what has that name.
    pub fn rename(&self, from: impl AsRef<Path>, to: &Dir, name: impl AsRef<Path>) -> Result<(), FsError> {
        let name = name.as_ref();
        rustix::fs::renameat(&self.fd, from.as_ref(), &to.fd, name)
            .map_err(|e| to.error("rename into place", name, e))
    }

    /// Renames `from` to `name` in `to`; fails with `AlreadyExists` where something has that name.
    pub fn rename_new(
        &self,
        from: impl AsRef<Path>,
        to: &Dir,
        name: impl AsRef<Path>,
    ) -> Result<(), FsError> {
        let name = name.as_ref();
        rustix::fs::renameat_with(&self.fd, from.as_ref(), &to.fd, name, RenameFlags::NOREPLACE)
            .map_err(|e| to.error("rename into place", name, e))
    }

    /// Lets `from` and `name` in `to` change places, in one step.
    pub fn exchange(&self, from: impl AsRef<Path>, to: &Dir, name: impl AsRef<Path>) -> Result<(), FsError> {
        let name = name.as_ref();
        rustix::fs::renameat_with(&self.fd, from.as_ref(), &to.fd, name, RenameFlags::EXCHANGE)
            .map_err(|e| to.error("exchange", name, e))
    }

    /// Removes the file or symlink `rel`.
    pub fn remove_file(&self, rel: impl AsRef<Path>) -> Result<(), FsError> {
        let rel = rel.as_ref();
        rustix::fs::unlinkat(&self.fd, rel, AtFlags::empty()).map_err(|e| self.error("remove", rel, e))
    }

    /// Removes `rel` and everything beneath it, read-only directories included; follows no symlink.
    /// A name that is not there is success.
    pub fn remove_tree(&self, rel: impl AsRef<Path>) -> Result<(), FsError> {
        self.remove_tree_telling(rel, &mut |_| {})
    }

    /// As [`Dir::remove_tree`]; `each` hears the facts about everything just before it is removed.
    pub fn remove_tree_telling(
        &self,
        rel: impl AsRef<Path>,
        each: &mut dyn FnMut(&Meta),
    ) -> Result<(), FsError> {
        let rel = rel.as_ref();
        let Some(meta) = super::optional(self.meta(rel))? else { return Ok(()) };
        each(&meta);
        let flags = if meta.kind == EntryKind::Dir {
            let Some(dir) = super::optional(self.dir(rel))? else { return Ok(()) };
            if meta.mode & 0o700 != 0o700 {
                dir.set_mode(0o700)?;
            }
            for name in dir.names()? {
                dir.remove_tree_telling(&name, each)?;
            }
            AtFlags::REMOVEDIR
        } else {
            AtFlags::empty()
        };
        let removed = rustix::fs::unlinkat(&self.fd, rel, flags).map_err(|e| self.error("remove", rel, e));
        super::optional(removed).map(|_| ())
    }

    fn open_at(&self, rel: &Path, flags: OFlags, mode: u32, op: &'static str) -> Result<OwnedFd, FsError> {
        let mode = Mode::from_raw_mode(mode as RawMode);
        loop {
            match rustix::fs::openat2(
                &self.fd,
                rel,
                flags | OFlags::CLOEXEC | OFlags::NOFOLLOW,
                mode,
                BENEATH,
            ) {
                // the kernel asks for a retry when a rename elsewhere raced with the check for `..`
                Err(rustix::io::Errno::AGAIN | rustix::io::Errno::INTR) => {}
                other => return other.map_err(|e| self.error(op, rel, e)),
            }
        }
    }

    fn error(&self, op: &'static str, rel: &Path, source: impl Into<std::io::Error>) -> FsError {
        FsError::new(op, self.path.join(rel), source)
    }
}

impl From<Dir> for OwnedFd {
    fn from(dir: Dir) -> OwnedFd {
        dir.fd
    }
}

impl AsFd for Dir {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// A name part no other process or thread uses now: process id and a counter.
pub(super) fn unique() -> String {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    format!("{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed))
}
