//! Reading a tree that lies in the store: every path with its facts and content hash.

use std::io::Read as _;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::content::hash_rest;
use super::rights::{Access, DIR_MODE, file_mode, shared};
use super::shared::Known;
use crate::fsx::{Dir, EntryKind, FsError, Meta};
use crate::model::{ContentHash, Node, RelPath};

/// What lies at one path.
pub(super) struct Found {
    /// the path, or what can be shown of one that cannot be in a manifest
    pub(super) path: Result<RelPath, String>,
    pub(super) meta: Meta,
    pub(super) what: What,
}

pub(super) enum What {
    Dir,
    File(ContentHash),
    Link(String),
    Special,
    /// its content cannot be read: the disk's reason
    Unreadable(String),
}

/// From so many files on, they are read on two threads: below it, starting one costs more.
const WORTH_A_THREAD: usize = 64;
/// Up to this length a file is read with one call.
const AT_ONCE: u64 = 128 * 1024;

/// Everything beneath `tree`, sorted by path, a directory before what is in it.
///
/// # Errors
/// Missing rights. What a broken disk does not give is [`What::Unreadable`].
pub(super) fn scan(tree: &Dir) -> Result<Vec<Found>, FsError> {
    scan_knowing(tree, &mut Known::default())
}

/// As [`scan`], reading no inode that is `known`.
pub(super) fn scan_knowing(tree: &Dir, known: &mut Known) -> Result<Vec<Found>, FsError> {
    let (mut found, mut files) = (Vec::new(), Vec::new());
    beneath(tree, None, &mut found, &mut files)?;
    let next = AtomicUsize::new(0);
    let read = if files.len() < WORTH_A_THREAD {
        read_all(tree, &files, &next, known)?
    } else {
        // two threads hash as fast as the page cache gives on the machines measured; whichever is free takes the
        // next file, so that nobody waits for one that gets no processor
        let (known, next) = (&*known, &next);
        let (one, other) = std::thread::scope(|scope| {
            let one = scope.spawn(|| read_all(tree, &files, next, known));
            let other = read_all(tree, &files, next, known);
            (one.join().expect("reading does not panic"), other)
        });
        let mut read = one?;
        read.extend(other?);
        read
    };
    for file in &read {
        if let What::File(hash) = file.what {
            known.learn(&file.meta, hash);
        }
    }
    found.extend(read);
    found.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(found)
}

/// Reads what nobody has begun to read: of `files`, from `next` on.
fn read_all(tree: &Dir, files: &[RelPath], next: &AtomicUsize, known: &Known) -> Result<Vec<Found>, FsError> {
    let mut buffer = Vec::new();
    let read = |path: &RelPath| {
        let (mut file, meta) = tree.open_file_meta(path)?;
        let hash = match meta.len {
            _ if let Some(hash) = known.hash(&meta) => Ok(hash),
            0..=AT_ONCE => hash_small(&mut file, meta.len, &mut buffer),
            _ => hash_rest(&mut file, &mut buffer).map(|(_, hash)| hash),
        };
        let what = match hash {
            Ok(hash) => What::File(hash),
            Err(error) => What::Unreadable(error.to_string()),
        };
        Ok(Found { path: Ok(path.clone()), meta, what })
    };
    std::iter::from_fn(|| files.get(next.fetch_add(1, Ordering::Relaxed))).map(read).collect()
}

/// The hash of a file of `len` bytes: one read, as a rule. A read that gives less than it was asked for has
/// come to the end.
fn hash_small(file: &mut fs_err::File, len: u64, buffer: &mut Vec<u8>) -> std::io::Result<ContentHash> {
    buffer.resize(usize::try_from(len).expect("small files only") + 1, 0);
    let mut at = 0;
    loop {
        match file.read(&mut buffer[at..]) {
            Ok(n) if at + n == buffer.len() => {
                // it has grown meanwhile: damage, whatever its hash
                buffer.clear();
                return hash_rest(file, buffer).map(|(_, hash)| hash);
            }
            Ok(n) if n == 0 || (at + n) as u64 == len => return Ok(ContentHash::of(&buffer[..at + n])),
            Ok(n) => at += n,
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(e),
        }
    }
}

/// Puts what is beneath `dir` into `found`, but for the regular files: their paths into `files`.
fn beneath(
    dir: &Dir,
    at: Option<&RelPath>,
    found: &mut Vec<Found>,
    files: &mut Vec<RelPath>,
) -> Result<(), FsError> {
    for (name, kind) in dir.entries()? {
        let path = RelPath::join(at, &name);
        let Ok(path) = path else {
            let shown = format!("{}{}", at.map_or(String::new(), |at| format!("{at}/")), name.display());
            found.push(Found {
                path: Err(shown.escape_debug().to_string()),
                meta: dir.meta(&name)?,
                what: What::Special,
            });
            continue;
        };
        let (meta, what) = match kind {
            EntryKind::Dir => {
                let sub = dir.dir(&name)?;
                found.push(Found { path: Ok(path.clone()), meta: sub.own_meta()?, what: What::Dir });
                beneath(&sub, Some(&path), found, files)?;
                continue;
            }
            EntryKind::File => {
                files.push(path);
                continue;
            }
            EntryKind::Link => {
                (dir.meta(&name)?, What::Link(dir.read_link(&name)?.to_string_lossy().into_owned()))
            }
            EntryKind::Special => (dir.meta(&name)?, What::Special),
        };
        found.push(Found { path: Ok(path), meta, what });
    }
    Ok(())
}

/// How what was found differs from what the manifest says; `None`: not at all.
pub(super) fn differs(
    found: &Found,
    path: &RelPath,
    node: &Node,
    owner: u32,
    access: Option<&Access>,
) -> Option<String> {
    if found.meta.uid != owner {
        return Some(format!("it belongs to uid {}, not to the store's owner {owner}", found.meta.uid));
    }
    let mode = |right: u32| {
        (found.meta.mode != right).then(|| format!("its mode is {:04o}, not {right:04o}", found.meta.mode))
    };
    match (&found.what, node) {
        (What::Unreadable(why), _) => Some(format!("it cannot be read: {why}")),
        (What::Dir, Node::Dir) => mode(DIR_MODE),
        (What::File(actual), Node::File { class, executable, hash, len }) => {
            if found.meta.len != *len {
                return Some(format!("it is {} bytes long, not {len}", found.meta.len));
            }
            if actual != hash {
                return Some("its content is not what was pushed".to_owned());
            }
            let right = file_mode(*class, *executable);
            let (shared, gid) = shared(access, path, right);
            // less than the host file allows is no damage: the group was named later
            if found.meta.mode == shared && gid == Some(found.meta.gid) { None } else { mode(right) }
        }
        (What::Link(actual), Node::Link { target }) => {
            (actual != target).then(|| format!("it leads to {actual}, not to {target}"))
        }
        (_, Node::Dir) => Some("it is no directory".to_owned()),
        (_, Node::File { .. }) => Some("it is no regular file".to_owned()),
        (_, Node::Link { .. }) => Some("it is no symlink".to_owned()),
    }
}
