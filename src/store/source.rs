//! Reading what is pushed: one walk over the source, hashing, and copying or linking into the staging.

use std::ffi::OsStr;
use std::io::{Seek as _, SeekFrom};

use super::content::{Failed, copy, fill, hash_rest};
use super::links::{self, Judgement};
use super::refusal::{PushError, Refusal, refused, unreadable};
use super::scan::{DIR_MODE, class_of, file_mode};
use crate::fsx::{self, Dir, EntryKind, FsError, Meta};
use crate::model::{Class, ContentHash, Entry, Limits, Manifest, Node, RelPath};

/// Up to this length a file is read whole, then hashed, then linked or written.
pub(super) const SMALL: u64 = 1 << 20;
/// ext4 ends at 65,000 names for one file; well below it leaves room for others.
pub(super) const MOST_LINKS: u64 = 60_000;

/// The generation that unchanged files are linked from.
pub(super) struct Parent {
    pub(super) manifest: Manifest,
    pub(super) tree: Dir,
    /// when its push was over: a file modified after was tampered with, and is not linked
    pub(super) sealed: i128,
}

/// One walk. `entries` and `bytes` are what it has put into the staging so far.
pub(super) struct Walk<'a> {
    pub(super) limits: Limits,
    pub(super) copy_links: bool,
    /// absolute prefixes that mean the root
    pub(super) bases: Vec<String>,
    /// directories that must not be walked into: the store and its run directory
    pub(super) forbidden: Vec<(u64, u64)>,
    pub(super) parent: Option<&'a Parent>,
    pub(super) owner: u32,
    pub(super) entries: Vec<Entry>,
    pub(super) bytes: u64,
    pub(super) buffer: Vec<u8>,
    /// the directories from the root to here
    pub(super) above: Vec<(u64, u64)>,
}

/// Where a walk is, besides the two open directories.
#[derive(Clone, Copy)]
struct Place<'p> {
    at: Option<&'p RelPath>,
    /// the copied directory that links beneath must stay in
    floor: Option<&'p RelPath>,
    /// others cannot come here in the source: nothing beneath is public
    hidden: bool,
}

impl Walk<'_> {
    /// Puts everything in `from` into `to`, an empty directory, and closes that.
    pub(super) fn root(&mut self, from: &Dir, to: &Dir) -> Result<(), PushError> {
        self.dir(from, to, Place { at: None, floor: None, hidden: false })
    }

    fn dir(&mut self, from: &Dir, to: &Dir, place: Place<'_>) -> Result<(), PushError> {
        let shown = || place.at.map_or(".".to_owned(), ToString::to_string);
        let before = from.own_meta().map_err(|e| unreadable(&shown(), e))?;
        if self.forbidden.contains(&before.identity) {
            return Err(refused(&shown(), Refusal::Store));
        }
        if self.above.contains(&before.identity) {
            return Err(refused(&shown(), Refusal::Loop));
        }
        if self.above.len() > self.limits.depth {
            return Err(refused(&shown(), Refusal::Deep(self.limits.depth)));
        }
        self.above.push(before.identity);
        for (name, kind) in from.entries().map_err(|e| unreadable(&shown(), e))? {
            let path = RelPath::join(place.at, &name).map_err(|why| {
                let shown = format!("{}/{}", shown(), name.display()).escape_debug().to_string();
                refused(&shown, Refusal::Name(why))
            })?;
            match kind {
                EntryKind::Dir => {
                    let sub = from.dir(&name).map_err(|e| unreadable(&path, e))?;
                    self.sub(&sub, to, &name, &path, place)?;
                }
                EntryKind::File => {
                    let opened = from.open_file_meta(&name).map_err(|e| unreadable(&path, e))?;
                    self.file(opened, to, &name, path, place.hidden)?;
                }
                EntryKind::Link => self.link(from, to, &name, path, place)?,
                EntryKind::Special => return Err(refused(&path, Refusal::Special)),
            }
        }
        self.above.pop();
        let after = from.own_meta().map_err(|e| unreadable(&shown(), e))?;
        if after.modified != before.modified {
            return Err(PushError::Changed { path: shown() });
        }
        to.set_mode(DIR_MODE).map_err(PushError::io("write the generation"))
    }

    fn sub(
        &mut self,
        from: &Dir,
        to: &Dir,
        name: &OsStr,
        path: &RelPath,
        place: Place<'_>,
    ) -> Result<(), PushError> {
        let meta = from.own_meta().map_err(|e| unreadable(path, e))?;
        let hidden = place.hidden || meta.mode & 0o001 == 0;
        let made = to.create_dir(name, 0o700).map_err(PushError::io("write the generation"))?;
        self.add(path.clone(), Node::Dir)?;
        self.dir(from, &made, Place { at: Some(path), hidden, ..place })
    }

    pub(super) fn add(&mut self, path: RelPath, node: Node) -> Result<(), PushError> {
        if let Node::File { len, .. } = &node {
            self.bytes = self.bytes.saturating_add(*len);
        }
        if self.entries.len() >= self.limits.entries {
            return Err(refused(&path, Refusal::Entries(self.limits.entries)));
        }
        if self.bytes > self.limits.bytes {
            return Err(refused(&path, Refusal::Bytes(self.limits.bytes)));
        }
        self.entries.push(Entry { path, node });
        Ok(())
    }

    fn link(
        &mut self,
        from: &Dir,
        to: &Dir,
        name: &OsStr,
        path: RelPath,
        place: Place<'_>,
    ) -> Result<(), PushError> {
        let target = from.read_link(name).map_err(|e| unreadable(&path, e))?;
        let Some(target) = target.to_str().filter(|text| !text.chars().any(char::is_control)) else {
            return Err(refused(&path, Refusal::LinkText));
        };
        match links::judge(&path, place.floor, target, &self.bases) {
            Judgement::Keep(text) => {
                to.symlink(&text, name).map_err(PushError::io("write the generation"))?;
                return self.add(path, Node::Link { target: text });
            }
            Judgement::Out if !self.copy_links => {
                return Err(refused(&path, Refusal::LinkOut(target.to_owned())));
            }
            Judgement::Out => {}
        }
        // looked at before it is opened: opening a device can do things
        let meta = match fsx::optional(from.meta_following(name)) {
            Ok(Some(meta)) => meta,
            Ok(None) => return Err(refused(&path, Refusal::LinkNowhere(target.to_owned()))),
            Err(source) => return Err(unreadable(&path, source)),
        };
        match meta.kind {
            EntryKind::File => {
                let opened = from.open_following(name).map_err(|e| unreadable(&path, e))?;
                self.file(opened, to, name, path, place.hidden)
            }
            EntryKind::Dir => {
                let sub = from.dir_following(name).map_err(|e| unreadable(&path, e))?;
                self.sub(&sub, to, name, &path, Place { floor: Some(&path), ..place })
            }
            EntryKind::Link | EntryKind::Special => Err(refused(&path, Refusal::Special)),
        }
    }

    fn file(
        &mut self,
        (mut file, before): (fs_err::File, Meta),
        to: &Dir,
        name: &OsStr,
        path: RelPath,
        hidden: bool,
    ) -> Result<(), PushError> {
        if before.mode & 0o7000 != 0 {
            return Err(refused(&path, Refusal::Setuid));
        }
        if self.bytes.saturating_add(before.len) > self.limits.bytes {
            return Err(refused(&path, Refusal::Bytes(self.limits.bytes)));
        }
        let (class, executable) = class_of(before.mode);
        let class = if hidden { Class::Private } else { class };
        let node = |hash| Node::File { class, executable, len: before.len, hash };
        let read = |e| unreadable(&path, FsError::new("read", path.as_str(), e));
        let unchanged = |file: &fs_err::File, len| {
            let after = Meta::of_fd(file.file(), file.path()).map_err(|e| unreadable(&path, e))?;
            if after == before && len == before.len {
                Ok(())
            } else {
                Err(PushError::Changed { path: path.to_string() })
            }
        };
        let node = if before.len <= SMALL {
            let mut bytes = std::mem::take(&mut self.buffer);
            let len = fill(&mut file, &mut bytes, before.len).map_err(read)?;
            unchanged(&file, len as u64)?;
            let node = node(ContentHash::of(&bytes[..len]));
            if !self.linked(&path, &node, to, name) {
                let write = PushError::io("write the generation");
                let mut out = to.create_file(name, file_mode(class, executable)).map_err(&write)?;
                fsx::append(&mut out, &bytes[..len]).map_err(write)?;
            }
            self.buffer = bytes;
            node
        } else {
            let expected = self.parent.and_then(|parent| parent.manifest.get(&path));
            let mut linked = None;
            if let Some(Node::File { len, hash, .. }) = expected
                && *len == before.len
            {
                let (len, actual) = hash_rest(&mut file, &mut self.buffer).map_err(read)?;
                unchanged(&file, len)?;
                if actual == *hash && self.linked(&path, &node(actual), to, name) {
                    linked = Some(node(actual));
                }
                file.seek(SeekFrom::Start(0)).map_err(read)?;
            }
            match linked {
                Some(node) => node,
                None => {
                    let write = PushError::io("write the generation");
                    let mut out = to.create_file(name, file_mode(class, executable)).map_err(&write)?;
                    let (len, hash) = copy(&mut file, &mut out).map_err(|failed| match failed {
                        Failed::Read(e) => read(e),
                        Failed::Write(e) => write(FsError::new("write", to.path().join(name), e)),
                    })?;
                    unchanged(&file, len)?;
                    node(hash)
                }
            }
        };
        self.add(path, node)
    }

    /// Whether the parent generation has the same file at the same path.
    pub(super) fn is_linkable(&self, path: &RelPath, node: &Node) -> bool {
        self.parent.is_some_and(|parent| parent.manifest.get(path) == Some(node))
    }

    /// Gives the parent generation's file a second name here, where it is the same in every way.
    pub(super) fn linked(&self, path: &RelPath, node: &Node, to: &Dir, name: &OsStr) -> bool {
        let (Some(parent), Node::File { class, executable, len, .. }) = (self.parent, node) else {
            return false;
        };
        if *len == 0 || parent.manifest.get(path) != Some(node) {
            return false;
        }
        let Ok(meta) = parent.tree.meta(path) else { return false };
        let same = meta.kind == EntryKind::File
            && meta.len == *len
            && meta.mode == file_mode(*class, *executable)
            && meta.uid == self.owner
            && meta.modified <= parent.sealed
            && meta.links < MOST_LINKS;
        // whatever stands in the way of a link (EMLINK, EXDEV, EPERM): a copy is as good
        same && parent.tree.hard_link(path, to, name).is_ok()
    }
}
