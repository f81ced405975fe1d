//! Reading a tree that lies in the store: every path with its facts and content hash.

use std::ffi::{OsStr, OsString};
use std::io::Read as _;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, RwLock};
use std::thread::JoinHandle;

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

/// From so many paths on, two threads read them: below it, starting one costs more.
const WORTH_A_THREAD: usize = 64;
const SOUND: &str = "reading does not panic";
/// So many files are taken at once.
const TAKEN: usize = 32;
/// Up to this length a file is read with one call.
const AT_ONCE: u64 = 128 * 1024;

/// Everything beneath `tree`, sorted by path, a directory before what is in it; about so many paths are `expected`.
///
/// # Errors
/// Missing rights. What a broken disk does not give is [`What::Unreadable`].
pub(super) fn scan(tree: Arc<Dir>, expected: usize) -> Result<Vec<Found>, FsError> {
    scan_knowing(tree, expected, &mut Known::default())
}

/// As [`scan`], reading no inode that is `known`.
pub(super) fn scan_knowing(
    tree: Arc<Dir>,
    expected: usize,
    known: &mut Known,
) -> Result<Vec<Found>, FsError> {
    Begun::new(tree, expected, std::mem::take(known)).finish(known)
}

/// A tree that another thread has begun to read. Dropped, it is not read on.
pub(super) struct Begun {
    scan: Arc<Scan>,
    other: Option<JoinHandle<Result<Vec<Found>, FsError>>>,
}

impl Begun {
    /// Begins to read `tree` on another thread, where about so many paths as are `expected` are worth one, and one is to
    /// be had.
    pub(super) fn new(tree: Arc<Dir>, expected: usize, known: Known) -> Begun {
        let queue = Mutex::new(Queue { left: vec![Left::Dir(None)], ..Queue::default() });
        let scan = Arc::new(Scan { tree, known: RwLock::new(known), queue, news: Condvar::new() });
        let other = (expected >= WORTH_A_THREAD).then(|| {
            let scan = Arc::clone(&scan);
            std::thread::Builder::new().spawn(move || scan.take_part()).ok()
        });
        Begun { scan, other: other.flatten() }
    }

    /// Reads the rest, as [`scan`]; `known` is given back with what was learnt.
    pub(super) fn finish(mut self, known: &mut Known) -> Result<Vec<Found>, FsError> {
        // two threads hash as fast as the page cache gives on the machines measured
        let here = self.scan.take_part();
        let there = self.other.take().map_or(Ok(Vec::new()), |other| other.join().expect(SOUND));
        *known = std::mem::take(&mut *self.scan.known.write().expect(SOUND));
        let (mut found, there) = (here?, there?);
        found.extend(there);
        for file in &found {
            if let What::File(hash) = file.what {
                known.learn(&file.meta, hash);
            }
        }
        found.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        Ok(found)
    }
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.scan.stop();
    }
}

/// A tree that is read by one or more threads: whichever is free takes what is next, so that nobody waits for one
/// that gets no processor.
struct Scan {
    tree: Arc<Dir>,
    known: RwLock<Known>,
    queue: Mutex<Queue>,
    news: Condvar,
}

#[derive(Default)]
struct Queue {
    left: Vec<Left>,
    /// how many are at something, which may have more in it
    busy: usize,
    /// how many wait for more
    waiting: usize,
    /// whether somebody has failed, or nobody wants to know any more
    over: bool,
}

/// What is left to read, by its path in the tree.
enum Left {
    /// a directory; `None`: the tree itself
    Dir(Option<RelPath>),
    /// regular files in one directory, at most [`TAKEN`]
    Files(Arc<Dir>, Vec<(OsString, RelPath)>),
}

impl Scan {
    fn queue(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().expect(SOUND)
    }

    /// Reads what nobody else reads until nothing is left, or somebody has failed.
    fn take_part(&self) -> Result<Vec<Found>, FsError> {
        let (mut found, mut more, mut buffer) = (Vec::new(), Vec::new(), Vec::new());
        while let Some(left) = self.next() {
            let read = match left {
                Left::Dir(at) => self.look_into(at.as_ref(), &mut more).map(|seen| found.extend(seen)),
                Left::Files(dir, files) => files.into_iter().try_for_each(|(name, path)| {
                    found.push(self.read(&dir, &name, path, &mut buffer)?);
                    Ok(())
                }),
            };
            self.done(&mut more, read.is_err());
            read?;
        }
        Ok(found)
    }

    fn next(&self) -> Option<Left> {
        let mut queue = self.queue();
        loop {
            if queue.over {
                return None;
            }
            if let Some(left) = queue.left.pop() {
                queue.busy += 1;
                return Some(left);
            }
            if queue.busy == 0 {
                return None;
            }
            queue.waiting += 1;
            queue = self.news.wait(queue).expect(SOUND);
            queue.waiting -= 1;
        }
    }

    fn done(&self, more: &mut Vec<Left>, failed: bool) {
        let mut queue = self.queue();
        queue.left.append(more);
        queue.busy -= 1;
        queue.over |= failed;
        let is_over = queue.over || (queue.busy == 0 && queue.left.is_empty());
        // what is left is for whoever waits, but for the one thing that this thread takes next
        if queue.waiting > 0 && (is_over || queue.left.len() > 1) {
            self.news.notify_all();
        }
    }

    fn stop(&self) {
        self.queue().over = true;
        self.news.notify_all();
    }

    fn read(&self, dir: &Dir, name: &OsStr, path: RelPath, buffer: &mut Vec<u8>) -> Result<Found, FsError> {
        let (mut file, meta) = dir.open_file_meta(name)?;
        let known = self.known.read().expect(SOUND).hash(&meta);
        let hash = match meta.len {
            _ if let Some(hash) = known => Ok(hash),
            0..=AT_ONCE => hash_small(&mut file, meta.len, buffer),
            _ => hash_rest(&mut file, buffer).map(|(_, hash)| hash),
        };
        let what = match hash {
            Ok(hash) => What::File(hash),
            Err(error) => What::Unreadable(error.to_string()),
        };
        Ok(Found { path: Ok(path), meta, what })
    }

    /// What is in directory `at`, and itself; of what takes longer, `more` is left to do.
    fn look_into(&self, at: Option<&RelPath>, more: &mut Vec<Left>) -> Result<Vec<Found>, FsError> {
        let (dir, entries) = match at {
            Some(at) => {
                let (dir, entries) = self.tree.dir_with_entries(at)?;
                (Arc::new(dir), entries)
            }
            None => (Arc::clone(&self.tree), self.tree.entries()?),
        };
        let (mut found, mut files) = (Vec::new(), Vec::new());
        if let Some(at) = at {
            found.push(Found { path: Ok(at.clone()), meta: dir.own_meta()?, what: What::Dir });
        }
        for (name, kind) in entries {
            let Ok(path) = RelPath::join(at, &name) else {
                let shown = format!("{}{}", at.map_or(String::new(), |at| format!("{at}/")), name.display());
                let path = Err(shown.escape_debug().to_string());
                found.push(Found { path, meta: dir.meta(&name)?, what: What::Special });
                continue;
            };
            let what = match kind {
                EntryKind::Dir => {
                    more.push(Left::Dir(Some(path)));
                    continue;
                }
                EntryKind::File => {
                    files.push((name, path));
                    if files.len() == TAKEN {
                        more.push(Left::Files(Arc::clone(&dir), std::mem::take(&mut files)));
                    }
                    continue;
                }
                EntryKind::Link => What::Link(dir.read_link(&name)?.to_string_lossy().into_owned()),
                EntryKind::Special => What::Special,
            };
            found.push(Found { path: Ok(path), meta: dir.meta(&name)?, what });
        }
        if !files.is_empty() {
            more.push(Left::Files(dir, files));
        }
        Ok(found)
    }
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
