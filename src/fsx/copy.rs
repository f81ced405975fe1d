//! A tree copied to be written in.

use super::{Dir, EntryKind, FsError};

/// Copies everything beneath `from` into `to`, writable for its owner, which is the caller. Links are copied
/// as they are; the file system shares the blocks where it can. Not durable.
///
/// # Errors
/// The file that could not be read or written: a part of the copy is there. What is no file, directory or
/// link is refused.
pub fn copy_tree(from: &Dir, to: &Dir) -> Result<(), FsError> {
    for (name, kind) in from.entries()? {
        let meta = from.meta(&name)?;
        match kind {
            EntryKind::Dir => {
                copy_tree(&from.dir(&name)?, &to.create_dir(&name, meta.mode & 0o777 | 0o700)?)?;
            }
            EntryKind::Link => to.symlink(from.read_link(&name)?, &name)?,
            EntryKind::File => {
                let (source, target) =
                    (from.open_file(&name)?, to.create_file(&name, meta.mode & 0o777 | 0o600)?);
                // copy_file_range: a reflink where there are any
                std::io::copy(&mut source.file(), &mut target.file())
                    .map_err(|e| FsError::new("copy to", target.path(), e))?;
            }
            EntryKind::Special => {
                let why = std::io::Error::other("it is no file, directory or link");
                return Err(FsError::new("copy", from.path().join(&name), why));
            }
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w2_a_copy_is_the_same_and_writable() {
        let temp = tempfile::tempdir().unwrap();
        let from = Dir::create_all(&temp.path().join("from"), 0o755).unwrap();
        let sub = from.create_dir("sub", 0o755).unwrap();
        sub.write_new("file", &[7; 100_000], 0o444).unwrap();
        from.symlink("sub/file", "link").unwrap();
        sub.set_mode(0o555).unwrap();
        let to = Dir::create_all(&temp.path().join("to"), 0o755).unwrap();
        copy_tree(&from, &to).unwrap();
        assert_eq!(to.read("sub/file", 1 << 20).unwrap(), [7; 100_000]);
        assert_eq!(to.read_link("link").unwrap(), "sub/file");
        assert_eq!(to.meta("sub").unwrap().mode & 0o777, 0o755);
        assert_eq!(to.meta("sub/file").unwrap().mode & 0o777, 0o644);
    }
}
