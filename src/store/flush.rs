//! Making what is staged durable, before a rename shows it: one `syncfs`, or an `fsync` for each new inode.
//!
//! One `syncfs` does thousands of inodes in the time of some twenty `fsync`s, but writes what everybody else
//! has left in memory, too. A small push on a host with much of that is quicker alone.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::fsx::{self, Dir, EntryKind, FsError};

/// Above so many new inodes `syncfs` is quicker, whatever others have left: on ext4 on a disk of 2 GB/s it took 7
/// ms for 200 files and 120 directories, and `fsync` of each 9 ms; 10,000 files took 300 ms and 580 ms.
const FEW: usize = 500;
/// Others' data makes `syncfs` slower by 0.4 ms a MiB on that disk, and by 10 ms on a slow one. Which file system it
/// is for the kernel tells only root, and not everywhere: where it is another one, `fsync` of each is slower by 3 ms
/// for 200 files, and by 15 ms for 100 new ones among 10,000.
const MUCH: u64 = 64 << 20;
/// Threads that call `fsync` at the same time: the journal does the calls that wait for it in one commit. Eight
/// took 11 ms, and 128 took 10 ms.
const THREADS: usize = 32;
/// What such a thread needs, and ample.
const STACK: usize = 128 << 10;

/// What is to be made durable.
#[derive(Clone, Copy, Debug)]
pub(super) struct Written {
    /// new files, directories and links
    pub(super) inodes: usize,
    /// bytes in them
    pub(super) bytes: u64,
}

/// How.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    /// everything on the file system
    FileSystem,
    /// each new inode
    Each,
}

/// The quicker way to make `written` durable where `dirty` bytes wait to be written, it among them.
fn choose(written: Written, dirty: u64) -> Way {
    let others = dirty.saturating_sub(written.bytes);
    if written.inodes <= FEW && others > MUCH { Way::Each } else { Way::FileSystem }
}

/// Makes `dir` and everything new beneath it durable: names, modes, contents. Where it is linked from its
/// parent is the caller's.
pub(super) fn flush(dir: &Dir, written: Written) -> Result<(), FsError> {
    // without /proc nobody knows: then the way that is always right
    let dirty = if written.inodes <= FEW { dir.dirty_bytes().unwrap_or(0) } else { 0 };
    match choose(written, dirty) {
        Way::FileSystem => dir.sync_file_system(),
        Way::Each => each(dir),
    }
}

fn each(dir: &Dir) -> Result<(), FsError> {
    let (mut new, mut directories) = (Vec::new(), Vec::new());
    list(dir, Path::new("."), &mut new, &mut directories)?;
    // files first: their commits take most of the directories along
    new.append(&mut directories);
    let next = AtomicUsize::new(0);
    let failed = Mutex::new(None);
    let work = || {
        while let Some((path, kind)) = new.get(next.fetch_add(1, Ordering::Relaxed)) {
            let done = match kind {
                EntryKind::Dir => dir.dir(path).and_then(|dir| dir.sync()),
                _ => dir.sync_file(path),
            };
            if let Err(error) = done {
                next.store(new.len(), Ordering::Relaxed);
                *failed.lock().expect("no thread panics") = Some(error);
            }
        }
    };
    std::thread::scope(|scope| {
        for _ in 1..THREADS.min(new.len()) {
            // with fewer threads it takes longer: a host that gives no more is no reason to fail
            let _ = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, work);
        }
        work();
    });
    failed.into_inner().expect("no thread panics").map_or(Ok(()), Err)
}

/// What beneath `dir`, and itself, has to be made durable: a file with a second name was before. Symlinks are
/// durable with the directory that they are in.
fn list(
    dir: &Dir,
    at: &Path,
    files: &mut Vec<(PathBuf, EntryKind)>,
    directories: &mut Vec<(PathBuf, EntryKind)>,
) -> Result<(), FsError> {
    for (name, kind) in dir.entries()? {
        match kind {
            EntryKind::Dir => list(&dir.dir(&name)?, &at.join(&name), files, directories)?,
            EntryKind::File => {
                let meta = dir.meta(&name)?;
                if meta.links == 1 {
                    // the disk begins while the list is still made: waiting is most of a flush
                    fsx::start_writing(&dir.open_file(&name)?, 0, meta.len);
                    files.push((at.join(&name), kind));
                }
            }
            EntryKind::Link | EntryKind::Special => {}
        }
    }
    directories.push((at.to_owned(), EntryKind::Dir));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s8_few_new_inodes_among_much_of_others_are_flushed_alone() {
        let written = |inodes, bytes| Written { inodes, bytes };
        for (what, dirty, way) in [
            (written(300, 1 << 20), 0, Way::FileSystem),
            (written(300, 1 << 20), MUCH, Way::FileSystem),
            (written(300, 1 << 20), MUCH + (2 << 20), Way::Each),
            // what is dirty is mostly its own
            (written(101, 1 << 30), 1 << 30, Way::FileSystem),
            (written(101, 1 << 30), (1 << 30) + 2 * MUCH, Way::Each),
            (written(FEW + 1, 1 << 20), 64 << 30, Way::FileSystem),
        ] {
            assert_eq!(choose(what, dirty), way, "{what:?} {dirty}");
        }
    }

    #[test]
    fn s8_everything_new_is_flushed_and_nothing_is_left_out() {
        let temporary = tempfile::tempdir().unwrap();
        let dir = Dir::open(temporary.path()).unwrap();
        let tree = dir.create_dir("tree", 0o755).unwrap();
        let sub = tree.create_dir("d", 0o755).unwrap();
        dir.write_unflushed("manifest", b"m", 0o444).unwrap();
        sub.write_unflushed("private", b"p", 0o400).unwrap();
        sub.write_unflushed("old", b"o", 0o444).unwrap();
        sub.hard_link("old", &tree, "linked").unwrap();
        tree.symlink("d", "link").unwrap();
        sub.set_mode(0o555).unwrap();
        let (mut files, mut directories) = (Vec::new(), Vec::new());
        list(&dir, Path::new("."), &mut files, &mut directories).unwrap();
        let names = |found: &[(PathBuf, EntryKind)]| -> Vec<String> {
            found.iter().map(|(path, _)| path.display().to_string()).collect()
        };
        assert_eq!(names(&files), ["./manifest", "./tree/d/private"]);
        assert_eq!(names(&directories), ["./tree/d", "./tree", "."]);
        each(&dir).unwrap();
        sub.set_mode(0o755).unwrap();
    }
}
