//! Reading what is pushed: one walk over the source, hashing, and telling the builder what to make.

use std::ffi::OsStr;
use std::io::{Read, Seek as _, SeekFrom};

use super::build::LinkSource;
use super::content::{fill, hash_rest};
use super::feed::{Feed, Item, SMALL, Stop};
use super::links::{self, Judgement};
use super::push::Progress;
use super::refusal::{PushError, Refusal, refused, unreadable};
use super::rights::{class_of, file_mode};
use crate::fsx::{self, Dir, EntryKind, FsError, Meta};
use crate::model::{Class, ContentHash, Limits, Node, RelPath};

/// One walk. `entries` and `bytes` are what it has met so far.
pub(super) struct Walk<'a> {
    pub(super) limits: Limits,
    pub(super) copy_links: bool,
    /// absolute prefixes that mean the root
    pub(super) bases: Vec<String>,
    /// directories that must not be walked into: the store and its run directory
    pub(super) forbidden: Vec<(u64, u64)>,
    pub(super) parent: &'a LinkSource,
    pub(super) feed: Feed,
    pub(super) observe: &'a dyn Fn(Progress),
    pub(super) entries: usize,
    pub(super) bytes: u64,
    /// how many of the bytes have been read
    pub(super) read: u64,
    /// the directories from the root to here
    pub(super) above: Vec<(u64, u64)>,
}

/// Where a walk is, besides the open directory.
#[derive(Clone, Copy)]
struct Place<'p> {
    at: Option<&'p RelPath>,
    /// the copied directory that links beneath must stay in
    floor: Option<&'p RelPath>,
    /// others cannot come here in the source: nothing beneath is public
    hidden: bool,
}

/// A file that is met, but for its content.
pub(super) struct Head {
    pub(super) path: RelPath,
    pub(super) class: Class,
    pub(super) executable: bool,
    pub(super) len: u64,
}

impl Head {
    fn node(&self, hash: ContentHash) -> Node {
        Node::File { class: self.class, executable: self.executable, len: self.len, hash }
    }
}

impl Walk<'_> {
    /// Tells everything in `from`.
    pub(super) fn root(&mut self, from: &Dir) -> Result<(), Stop> {
        self.dir(from, Place { at: None, floor: None, hidden: false })
    }

    fn dir(&mut self, from: &Dir, place: Place<'_>) -> Result<(), Stop> {
        let shown = || place.at.map_or(".".to_owned(), ToString::to_string);
        let before = from.own_meta().map_err(|e| unreadable(&shown(), e))?;
        if self.forbidden.contains(&before.identity) {
            return Err(refused(&shown(), Refusal::Store).into());
        }
        if self.above.contains(&before.identity) {
            return Err(refused(&shown(), Refusal::Loop).into());
        }
        if self.above.len() > self.limits.depth {
            return Err(refused(&shown(), Refusal::Deep(self.limits.depth)).into());
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
                    self.sub(&sub, &path, place)?;
                }
                EntryKind::File => {
                    let opened = from.open_file_meta(&name).map_err(|e| unreadable(&path, e))?;
                    self.file(opened, path, place.hidden)?;
                }
                EntryKind::Link => self.link(from, &name, path, place)?,
                EntryKind::Special => return Err(refused(&path, Refusal::Special).into()),
            }
        }
        self.above.pop();
        let after = from.own_meta().map_err(|e| unreadable(&shown(), e))?;
        if after.modified != before.modified {
            return Err(PushError::Changed { path: shown() }.into());
        }
        Ok(())
    }

    fn sub(&mut self, from: &Dir, path: &RelPath, place: Place<'_>) -> Result<(), Stop> {
        let meta = from.own_meta().map_err(|e| unreadable(path, e))?;
        let hidden = place.hidden || meta.mode & 0o001 == 0;
        self.count(path, 0)?;
        self.feed.put(Item::Dir(path.clone()))?;
        self.dir(from, Place { at: Some(path), hidden, ..place })?;
        self.feed.put(Item::Close)
    }

    /// Counts one entry, with `len` bytes of content.
    pub(super) fn count(&mut self, path: &RelPath, len: u64) -> Result<(), PushError> {
        self.bytes = self.bytes.saturating_add(len);
        if self.bytes > self.limits.bytes {
            return Err(refused(path, Refusal::Bytes(self.limits.bytes)));
        }
        if self.entries >= self.limits.entries {
            return Err(refused(path, Refusal::Entries(self.limits.entries)));
        }
        self.entries += 1;
        Ok(())
    }

    fn link(&mut self, from: &Dir, name: &OsStr, path: RelPath, place: Place<'_>) -> Result<(), Stop> {
        let target = from.read_link(name).map_err(|e| unreadable(&path, e))?;
        let Some(target) = target.to_str().filter(|text| !text.chars().any(char::is_control)) else {
            return Err(refused(&path, Refusal::LinkText).into());
        };
        match links::judge(&path, place.floor, target, &self.bases) {
            Judgement::Keep(text) => {
                self.count(&path, 0)?;
                return self.feed.put(Item::Link(path, text));
            }
            Judgement::Out if !self.copy_links => {
                return Err(refused(&path, Refusal::LinkOut(target.to_owned())).into());
            }
            Judgement::Out => {}
        }
        // looked at before it is opened: opening a device can do things
        let meta = match fsx::optional(from.meta_following(name)) {
            Ok(Some(meta)) => meta,
            Ok(None) => return Err(refused(&path, Refusal::LinkNowhere(target.to_owned())).into()),
            Err(source) => return Err(unreadable(&path, source).into()),
        };
        match meta.kind {
            EntryKind::File => {
                let opened = from.open_following(name).map_err(|e| unreadable(&path, e))?;
                self.file(opened, path, place.hidden)
            }
            EntryKind::Dir => {
                let sub = from.dir_following(name).map_err(|e| unreadable(&path, e))?;
                self.sub(&sub, &path, Place { floor: Some(&path), ..place })
            }
            EntryKind::Link | EntryKind::Special => Err(refused(&path, Refusal::Special).into()),
        }
    }

    fn file(
        &mut self,
        (mut file, before): (fs_err::File, Meta),
        path: RelPath,
        hidden: bool,
    ) -> Result<(), Stop> {
        if before.mode & 0o7000 != 0 {
            return Err(refused(&path, Refusal::Setuid).into());
        }
        self.count(&path, before.len)?;
        let (class, executable) = class_of(before.mode);
        let class = if hidden { Class::Private } else { class };
        let head = Head { path, class, executable, len: before.len };
        let path = head.path.clone();
        let read = |e| unreadable(&path, FsError::new("read", path.as_str(), e));
        let unchanged = |file: &mut fs_err::File, len| {
            let after = Meta::of_fd(file.file(), file.path()).map_err(|e| unreadable(&path, e))?;
            if after == before && len == before.len {
                return Ok(());
            }
            Err(PushError::Changed { path: path.to_string() })
        };
        // hashed first, in the hope that it can be linked then: a large file that is as long as before is
        // most often the same; one that is not is read a second time, from memory
        if head.len > SMALL as u64
            && let Some(Node::File { len, hash, .. }) =
                self.parent.as_ref().and_then(|parent| parent.manifest.get(&path))
            && *len == head.len
        {
            let (len, actual) = hash_rest(&mut file, &mut Vec::new()).map_err(read)?;
            unchanged(&mut file, len)?;
            let same = |answer| Item::Same(path.clone(), head.node(actual), answer);
            if actual == *hash && self.feed.ask(same)? {
                self.read += len;
                self.tell();
                return Ok(());
            }
            file.seek(SeekFrom::Start(0)).map_err(read)?;
        }
        self.content(&mut file, head, read, unchanged)
    }

    /// Tells a file with what is left to read of `from`. `failed` names what cannot be read; `whole` is given
    /// how many bytes there were, and says whether that is the file.
    pub(super) fn content<R: Read>(
        &mut self,
        from: &mut R,
        head: Head,
        failed: impl Fn(std::io::Error) -> PushError,
        whole: impl FnOnce(&mut R, u64) -> Result<(), PushError>,
    ) -> Result<(), Stop> {
        if let Some(len) = usize::try_from(head.len).ok().filter(|len| *len <= SMALL) {
            // room for one more than there should be: less than was asked for is the end
            let (read, hash) = {
                let room = self.feed.room(len + 1);
                let read = fill(from, room, len).map_err(failed)?;
                (read, ContentHash::of(&room[..read]))
            };
            whole(from, read as u64)?;
            let content = self.feed.claim(read);
            let node = head.node(hash);
            self.feed.put(Item::File(head.path, node, content))?;
            self.read += read as u64;
        } else {
            let mode = file_mode(head.class, head.executable);
            self.feed.put(Item::Begin(head.path.clone(), mode))?;
            let mut hasher = blake3::Hasher::new();
            let mut total = 0;
            // what grows without end while it is read ends here
            while total <= head.len {
                let room = self.feed.room(SMALL);
                let read = fill(from, room, SMALL).map_err(&failed)?;
                hasher.update(&room[..read]);
                if read == 0 {
                    break;
                }
                let content = self.feed.claim(read);
                self.feed.put(Item::Piece(content))?;
                total += read as u64;
                self.read += read as u64;
                self.tell();
            }
            whole(from, total)?;
            self.feed.put(Item::End(head.node(ContentHash::finish(&hasher))))?;
        }
        self.tell();
        Ok(())
    }

    /// Tells whoever watches how far this is.
    fn tell(&self) {
        (self.observe)(Progress::Reading { entries: self.entries, bytes: self.read });
    }
}
