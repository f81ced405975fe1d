//! Building a tree in a staging directory from what the reader of a source tells, on a thread of its own.

use std::sync::{Arc, LazyLock};

use super::feed::{Item, Work};
use super::flush::Written;
use super::refusal::{PushError, Refusal, refused};
use super::rights::{Access, DIR_MODE, file_mode, shared};
use crate::fsx::{self, Dir, EntryKind, FsError};
use crate::model::{Entry, Manifest, Node, RelPath};

/// ext4 ends at 65,000 names for one file; well below it leaves room for others.
pub(super) const MOST_LINKS: u64 = 60_000;
/// Where the second name of a large file waits to take the place of its copy; beside `tree`.
const ASIDE: &str = "linked";

/// The disk begins with a large file each time that so much of it is there: 1 GiB took 0.64 s, and 0.92 s when all
/// of it was left to the end.
const EARLY: u64 = 32 << 20;

/// The generation that unchanged files are linked from.
pub(super) struct Parent {
    pub(super) manifest: Arc<Manifest>,
    pub(super) tree: Dir,
    /// when its push was over: a file modified after was tampered with, and is not linked
    pub(super) sealed: i128,
}

/// The parent generation, if there is a sound one. Whoever looks first reads it: the builder, while the source
/// is read already.
pub(super) type LinkSource = LazyLock<Option<Parent>, Box<dyn FnOnce() -> Option<Parent> + Send>>;

/// What has been built.
pub(super) struct Built {
    pub(super) entries: Vec<Entry>,
    /// what of it is not linked from the parent generation
    pub(super) written: Written,
}

/// An open directory of the tree, on the way to where the last item went.
struct Level {
    /// `None`: the root
    path: Option<RelPath>,
    dir: Dir,
    /// the same directory of the parent generation
    parent: Option<Dir>,
}

impl Level {
    fn text(&self) -> &str {
        self.path.as_ref().map_or("", RelPath::as_str)
    }

    fn enter(&self, path: RelPath, dir: Dir) -> Level {
        let (_, name) = path.split();
        let parent = self.parent.as_ref().and_then(|parent| parent.dir(name).ok());
        Level { path: Some(path), dir, parent }
    }
}

/// A file whose pieces come.
struct Large {
    path: RelPath,
    file: fs_err::File,
    written: u64,
    /// how much of that the disk has been told to begin with
    begun: u64,
}

/// Makes one item after the other.
pub(super) struct Builder<'a> {
    staging: &'a Dir,
    parent: &'a LinkSource,
    owner: u32,
    access: Option<&'a Access>,
    /// the root first, each in the one before
    levels: Vec<Level>,
    large: Option<Large>,
    built: Built,
}

impl<'a> Builder<'a> {
    /// For the empty directory `tree` in `staging`.
    pub(super) fn new(
        staging: &'a Dir,
        tree: Dir,
        parent: &'a LinkSource,
        access: Option<&'a Access>,
    ) -> Builder<'a> {
        Builder {
            staging,
            parent,
            owner: fsx::effective_uid(),
            access,
            levels: vec![Level { path: None, dir: tree, parent: None }],
            large: None,
            built: Built { entries: Vec::new(), written: Written { inodes: 1, bytes: 0 } },
        }
    }

    /// Builds until nothing more comes, and closes the root.
    ///
    /// # Errors
    /// The first item that could not be made; what comes after it is not looked at.
    pub(super) fn run(mut self, work: &Work) -> Result<Built, PushError> {
        let parent = self.parent.as_ref();
        self.levels[0].parent = parent.and_then(|parent| parent.tree.dir(".").ok());
        while let Some(mut batch) = work.next() {
            for item in batch.items.drain(..) {
                self.item(item, &batch.bytes)?;
            }
            work.back(batch);
        }
        self.levels[0].dir.set_mode(DIR_MODE).map_err(not_written)?;
        Ok(self.built)
    }

    fn item(&mut self, item: Item, bytes: &[u8]) -> Result<(), PushError> {
        match item {
            Item::Dir(path) => {
                let at = self.go_to(&path)?;
                let dir = at.dir.create_dir(path.split().1, 0o700).map_err(|e| taken(&path, e))?;
                let level = at.enter(path.clone(), dir);
                self.levels.push(level);
                self.built.written.inodes += 1;
                self.add(path, Node::Dir);
            }
            Item::Close => {
                let closed = self.levels.pop().expect("what is closed was made");
                closed.dir.set_mode(DIR_MODE).map_err(not_written)?;
            }
            Item::File(path, node, content) => {
                if !self.linked(&path, &node)? {
                    let (mode, gid) = shared(self.access, &path, mode_of(&node));
                    let at = self.go_to(&path)?;
                    let made = at.dir.create_file_of(path.split().1, mode, gid);
                    let made = made.and_then(|mut file| fsx::append(&mut file, &bytes[content]));
                    made.map_err(|e| taken(&path, e))?;
                    self.wrote(&node);
                }
                self.add(path, node);
            }
            Item::Same(path, node, answer) => {
                let linked = self.linked(&path, &node)?;
                if linked {
                    self.add(path, node);
                }
                let _ = answer.send(linked); // whoever asked may have ended
            }
            Item::Begin(path, mode) => {
                let (mode, gid) = shared(self.access, &path, mode);
                let at = self.go_to(&path)?;
                let file = at.dir.create_file_of(path.split().1, mode, gid).map_err(|e| taken(&path, e))?;
                self.large = Some(Large { path, file, written: 0, begun: 0 });
            }
            Item::Piece(content) => {
                let large = self.large.as_mut().expect("pieces follow a beginning");
                large.written += content.len() as u64;
                fsx::append(&mut large.file, &bytes[content]).map_err(not_written)?;
                if large.written - large.begun >= EARLY {
                    fsx::start_writing(&large.file, large.begun, large.written - large.begun);
                    large.begun = large.written;
                }
            }
            Item::End(node) => {
                let Large { path, .. } = self.large.take().expect("an end follows a beginning");
                self.replace_by_link(&path, &node)?;
                self.add(path, node);
            }
            Item::Link(path, target) => {
                let at = self.go_to(&path)?;
                at.dir.symlink(&target, path.split().1).map_err(|e| taken(&path, e))?;
                self.built.written.inodes += 1;
                self.add(path, Node::Link { target });
            }
            Item::Settled(answer) => {
                let _ = answer.send(()); // whoever asked may have ended
            }
            Item::CloseAll => {
                self.levels.truncate(1);
                for entry in self.built.entries.iter().filter(|entry| entry.node == Node::Dir) {
                    let closed = self.levels[0].dir.dir(&entry.path).and_then(|dir| dir.set_mode(DIR_MODE));
                    closed.map_err(not_written)?;
                }
            }
        }
        Ok(())
    }

    fn add(&mut self, path: RelPath, node: Node) {
        self.built.entries.push(Entry { path, node });
    }

    fn wrote(&mut self, node: &Node) {
        self.built.written.inodes += 1;
        self.built.written.bytes += if let Node::File { len, .. } = node { *len } else { 0 };
    }

    /// The directory that `path` is in.
    fn go_to(&mut self, path: &RelPath) -> Result<&Level, PushError> {
        let wanted = path.split().0.unwrap_or_default();
        while self.top().text() != wanted {
            let at = self.top().text().len();
            let inside = wanted.strip_prefix(self.top().text());
            let inside = if at == 0 { inside } else { inside.and_then(|rest| rest.strip_prefix('/')) };
            let Some(rest) = inside else {
                self.levels.pop();
                continue;
            };
            let end = wanted.len() - rest.find('/').map_or(0, |slash| rest.len() - slash);
            let next = RelPath::new(&wanted[..end]).expect("the beginning of a path is one");
            let dir = self.top().dir.dir(next.split().1).map_err(not_written)?;
            let level = self.top().enter(next, dir);
            self.levels.push(level);
        }
        Ok(self.top())
    }

    fn top(&self) -> &Level {
        self.levels.last().expect("the root is never left")
    }

    fn parent_has(&self, path: &RelPath, node: &Node) -> bool {
        self.parent.as_ref().is_some_and(|parent| parent.manifest.get(path) == Some(node))
    }

    /// Gives the parent generation's file a second name here, where it is the same in every way.
    fn linked(&mut self, path: &RelPath, node: &Node) -> Result<bool, PushError> {
        if !self.parent_has(path, node) {
            return Ok(false);
        }
        self.go_to(path)?;
        let (_, name) = path.split();
        // whatever stands in the way of a link (EMLINK, EXDEV, EPERM): a copy is as good
        Ok(self.linkable(path, node).is_some_and(|from| from.hard_link(name, &self.top().dir, name).is_ok()))
    }

    /// Where the parent generation has the large file that has just been written: that one takes its place.
    fn replace_by_link(&mut self, path: &RelPath, node: &Node) -> Result<(), PushError> {
        let (_, name) = path.split();
        if self.parent_has(path, node)
            && let Some(from) = self.linkable(path, node)
            && from.hard_link(name, self.staging, ASIDE).is_ok()
        {
            return self.staging.rename(ASIDE, &self.top().dir, name).map_err(not_written);
        }
        self.wrote(node);
        Ok(())
    }

    /// The directory of the parent generation whose file at `path` may stand for `node` here.
    fn linkable(&self, path: &RelPath, node: &Node) -> Option<&Dir> {
        let (parent, from) = (self.parent.as_ref()?, self.top().parent.as_ref()?);
        let Node::File { len, .. } = node else { return None };
        let meta = from.meta(path.split().1).ok()?;
        let (mode, gid) = shared(self.access, path, mode_of(node));
        let same = *len > 0
            && meta.kind == EntryKind::File
            && meta.len == *len
            && meta.mode == mode
            && gid.is_none_or(|gid| gid == meta.gid)
            && meta.uid == self.owner
            && meta.modified <= parent.sealed
            && meta.links < MOST_LINKS;
        same.then_some(from)
    }
}

/// The permission bits of a file.
fn mode_of(node: &Node) -> u32 {
    match node {
        Node::File { class, executable, .. } => file_mode(*class, *executable),
        Node::Dir | Node::Link { .. } => unreachable!("only files are asked for"),
    }
}

fn not_written(source: FsError) -> PushError {
    PushError::Io { doing: "write the generation", source }
}

/// A name that is taken already, or whose way leads over something that is no directory.
fn taken(path: &RelPath, source: FsError) -> PushError {
    if source.is_exists() {
        return refused(path, Refusal::Twice);
    }
    not_written(source)
}
