//! Whole files by path, and the ends of logs.

use std::io::{Read as _, Seek as _, SeekFrom, Write as _};
use std::path::{Path, PathBuf};

use super::{FsError, Meta};

/// Reads the file at `path` (an operator's path: symlinks are followed); more than `limit` bytes is
/// an error.
pub fn read_path(path: &Path, limit: u64) -> Result<Vec<u8>, FsError> {
    let error = |e| FsError::new("read", path, e);
    let mut bytes = Vec::new();
    std::fs::File::open(path).map_err(error)?.take(limit + 1).read_to_end(&mut bytes).map_err(error)?;
    if bytes.len() as u64 > limit {
        return Err(error(std::io::Error::other(format!("it is larger than {limit} bytes"))));
    }
    Ok(bytes)
}

/// The last `limit` bytes of `path` from offset `from` on.
pub fn read_tail(path: &Path, from: u64, limit: u64) -> Result<Vec<u8>, FsError> {
    let error = |e| FsError::new("read", path, e);
    let mut file = std::fs::File::open(path).map_err(error)?;
    let end = file.seek(SeekFrom::End(0)).map_err(error)?;
    file.seek(SeekFrom::Start(from.max(end.saturating_sub(limit)).min(end))).map_err(error)?;
    let mut bytes = Vec::new();
    file.take(limit).read_to_end(&mut bytes).map_err(error)?;
    Ok(bytes)
}

/// Makes what was written to an open file durable (`fdatasync`); not its name.
pub fn flush(file: &fs_err::File) -> Result<(), FsError> {
    rustix::fs::fdatasync(file.file()).map_err(|e| FsError::new("sync", file.path(), e))
}

/// The whole content of an open file from offset `from` on.
pub fn read_from(file: &mut fs_err::File, from: u64) -> Result<Vec<u8>, FsError> {
    let path = file.path().to_owned();
    let error = |e| FsError::new("read", &path, e);
    let len = Meta::of_fd(file.file(), &path)?.len;
    file.seek(SeekFrom::Start(from)).map_err(error)?;
    let mut bytes = Vec::with_capacity(room_for(len.saturating_sub(from)));
    file.read_to_end(&mut bytes).map_err(error)?;
    Ok(bytes)
}

/// Room to read `len` bytes into: one more, so that the end is seen without a further round of guessing.
pub(super) fn room_for(len: u64) -> usize {
    usize::try_from(len).map_or(0, |len| len.saturating_add(1))
}

/// Appends `bytes` in one write to a file opened for appending; not flushed.
pub fn append(file: &mut fs_err::File, bytes: &[u8]) -> Result<(), FsError> {
    let path = file.path().to_owned();
    file.write_all(bytes).map_err(|e| FsError::new("append to", &path, e))
}

/// Makes the content of an open file durable.
pub fn sync(file: &fs_err::File) -> Result<(), FsError> {
    rustix::fs::fsync(file.file()).map_err(|e| FsError::new("sync", file.path(), e))
}

/// Lets the disk begin to write `len` new bytes of an open file, from offset `from` on; does not wait for it.
pub fn start_writing(file: &fs_err::File, from: u64, len: u64) {
    // what nobody needs in memory is written first, and is forgotten only when that is done; it is a hint, and
    // may be refused
    let len = std::num::NonZeroU64::new(len);
    let _ = rustix::fs::fadvise(file.file(), from, len, rustix::fs::Advice::DontNeed);
}

/// Gives an open file or directory, called `path`, to a user and group.
pub fn give(fd: impl std::os::fd::AsFd, path: &Path, uid: u32, gid: u32) -> Result<(), FsError> {
    let (uid, gid) = (rustix::fs::Uid::from_raw(uid), rustix::fs::Gid::from_raw(gid));
    rustix::fs::fchown(fd, Some(uid), Some(gid)).map_err(|e| FsError::new("change the owner of", path, e))
}

/// Cuts an open file to `len` bytes.
pub fn cut(file: &fs_err::File, len: u64) -> Result<(), FsError> {
    file.file().set_len(len).map_err(|e| FsError::new("cut", file.path(), e))
}

/// Copies the end of the file `name`, `most` bytes of it and what comes meanwhile, to `aside` and empties it, while others append to it: they
/// go on at its beginning. What they write between the last reading and the emptying is lost: there is no call for
/// both. `aside` is replaced when all that is done.
pub fn put_aside(dir: &super::Dir, name: &str, aside: &str, most: u64) -> Result<(), FsError> {
    let new = format!("{aside}.new");
    dir.remove_tree(&new)?;
    let (mut from, _) = dir.append_file(name, 0o640)?;
    let mut to = dir.create_file(&new, 0o640)?;
    let error = |e| FsError::new("put aside", dir.path().join(name), e);
    let length = from.seek(SeekFrom::End(0)).map_err(error)?;
    from.seek(SeekFrom::Start(length.saturating_sub(most))).map_err(error)?;
    // no more than there was, then what came meanwhile: whoever writes faster than we do is cut off
    std::io::copy(&mut (&mut from).take(most), &mut to).map_err(error)?;
    std::io::copy(&mut (&mut from).take(most), &mut to).map_err(error)?;
    cut(&from, 0)?;
    dir.rename(&new, dir, aside)
}

/// `path` made absolute, with every symlink on its way resolved.
pub fn canonical(path: &Path) -> Result<PathBuf, FsError> {
    std::fs::canonicalize(path).map_err(|e| FsError::new("resolve", path, e))
}

/// Reads the file at `path` piece by piece.
pub fn read_chunks(path: &Path, mut each: impl FnMut(&[u8])) -> Result<(), FsError> {
    let error = |e| FsError::new("read", path, e);
    let mut file = std::fs::File::open(path).map_err(error)?;
    let mut buffer = vec![0; 128 * 1024];
    loop {
        match file.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(length) => each(&buffer[..length]),
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(error(e)),
        }
    }
}

/// `path` made absolute by its text alone: no symlink is looked at.
pub fn absolute(path: &Path) -> Result<PathBuf, FsError> {
    std::path::absolute(path).map_err(|e| FsError::new("resolve", path, e))
}
