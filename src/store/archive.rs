//! A tar stream as a source: every entry is created by us, beneath the staging directory.
//!
//! The archive is hostile until proven otherwise. Names are checked as paths of a generation, and nothing is
//! created through a symlink; `members` reads the headers.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use tar::EntryType;

use super::content::{Failed, copy, fill};
use super::links::{self, Judgement};
use super::members::{Broken, Member, each_member, shown};
use super::refusal::{PushError, Refusal, refused};
use super::scan::{DIR_MODE, class_of, file_mode};
use super::source::{SMALL, Walk};
use crate::fsx::{self, Dir, FsError};
use crate::model::{Class, ContentHash, Entry, Node, RelPath};

/// Absolute links, by path and target, that are not made yet.
#[derive(Default)]
pub(super) struct AbsoluteLinks(Vec<(RelPath, String)>);

/// What has been met of an archive so far, besides the walk's entries.
#[derive(Default)]
struct Directories {
    /// the directories made, and whether others cannot come there in the source
    hidden: BTreeMap<RelPath, bool>,
    /// where in the walk's entries each regular file is
    files: HashMap<RelPath, usize>,
    links: AbsoluteLinks,
}

impl Directories {
    /// The last entry is a regular file.
    fn note_file(&mut self, entries: &[Entry]) {
        if let Some(last) = entries.last() {
            self.files.insert(last.path.clone(), entries.len() - 1);
        }
    }
}

impl Walk<'_> {
    /// Puts everything that the archive holds into `to`, an empty directory, but for absolute links: these
    /// are given back, for [`Walk::absolute_links`] to judge when it is known what stands for the root.
    pub(super) fn archive(&mut self, from: impl Read, to: &Dir) -> Result<AbsoluteLinks, PushError> {
        let mut directories = Directories::default();
        each_member(from, |member, content| self.entry(member, content, to, &mut directories))?;
        Ok(directories.links)
    }

    /// The one directory that holds everything, where the file `name` is in it: somebody put the directory
    /// itself into the archive (`tar c conf`), not what is in it.
    pub(super) fn wrapped(&self, name: &str) -> Option<&RelPath> {
        let mut top = self.entries.iter().filter(|entry| entry.path.parent().is_none());
        let only = top.next().filter(|_| top.next().is_none())?;
        let inner = RelPath::new(&format!("{}/{name}", only.path)).ok()?;
        self.entries.iter().any(|entry| entry.path == inner).then_some(&only.path)
    }

    /// Makes the absolute links of an archive, which must lead beneath one of the bases.
    pub(super) fn absolute_links(&mut self, links: AbsoluteLinks, to: &Dir) -> Result<(), PushError> {
        links.0.into_iter().try_for_each(|(path, target)| self.symlink(&target, path, to))
    }

    /// Gives every directory its rights, when nothing more is made in it.
    pub(super) fn close(&self, to: &Dir) -> Result<(), PushError> {
        let write = PushError::io("write the generation");
        for entry in self.entries.iter().filter(|entry| entry.node == Node::Dir) {
            to.dir(&entry.path).and_then(|dir| dir.set_mode(DIR_MODE)).map_err(&write)?;
        }
        to.set_mode(DIR_MODE).map_err(write)
    }

    fn entry(
        &mut self,
        member: Member,
        mut content: &mut dyn Read,
        to: &Dir,
        directories: &mut Directories,
    ) -> Result<(), PushError> {
        let shown = member.shown();
        let Member { kind, mode, length, name, link, sparse } = member;
        if sparse {
            return Err(refused(&shown, Refusal::Sparse));
        }
        let Some(path) = path_of(&name).map_err(|why| refused(&shown, Refusal::Name(why)))? else {
            return match kind {
                EntryType::Directory => Ok(()),
                _ => Err(refused(&shown, Refusal::Special)),
            };
        };
        if path.as_str().matches('/').count() >= self.limits.depth {
            return Err(refused(&path, Refusal::Deep(self.limits.depth)));
        }
        if mode & 0o7000 != 0 && kind != EntryType::Directory && kind != EntryType::Symlink {
            return Err(refused(&path, Refusal::Setuid));
        }
        let hidden = match path.parent() {
            Some(parent) => self.parents(&parent, to, directories)?,
            None => false,
        };
        match kind {
            EntryType::Directory => self.directory(path, hidden || mode & 0o001 == 0, to, directories),
            EntryType::Regular | EntryType::Continuous => {
                let (class, executable) = class_of(mode);
                let class = if hidden { Class::Private } else { class };
                self.regular(&mut content, length, path, class, executable, to)?;
                directories.note_file(&self.entries);
                Ok(())
            }
            EntryType::Symlink => {
                let target =
                    text_of(link.unwrap_or_default()).ok_or_else(|| refused(&path, Refusal::LinkText))?;
                if target.starts_with('/') {
                    directories.links.0.push((path, target));
                    return Ok(());
                }
                self.symlink(&target, path, to)
            }
            EntryType::Link => {
                self.second_name(&link.unwrap_or_default(), path, to, directories)?;
                directories.note_file(&self.entries);
                Ok(())
            }
            _ => Err(refused(&path, Refusal::Special)),
        }
    }

    /// Makes the directories on the way to what is in `path`; whether others cannot come there.
    fn parents(
        &mut self,
        path: &RelPath,
        to: &Dir,
        directories: &mut Directories,
    ) -> Result<bool, PushError> {
        if let Some(hidden) = directories.hidden.get(path) {
            return Ok(*hidden);
        }
        let hidden = match path.parent() {
            Some(parent) => self.parents(&parent, to, directories)?,
            None => false,
        };
        self.directory(path.clone(), hidden, to, directories)?;
        Ok(hidden)
    }

    fn directory(
        &mut self,
        path: RelPath,
        hidden: bool,
        to: &Dir,
        directories: &mut Directories,
    ) -> Result<(), PushError> {
        match directories.hidden.get(&path) {
            Some(before) if *before == hidden => return Ok(()),
            Some(_) => return Err(refused(&path, Refusal::LateDirectory)),
            None => {}
        }
        to.create_dir(&path, 0o700).map_err(|e| taken(&path, e))?;
        self.add(path.clone(), Node::Dir)?;
        directories.hidden.insert(path, hidden);
        Ok(())
    }

    fn regular(
        &mut self,
        from: &mut impl Read,
        length: u64,
        path: RelPath,
        class: Class,
        executable: bool,
        to: &Dir,
    ) -> Result<(), PushError> {
        if self.bytes.saturating_add(length) > self.limits.bytes {
            return Err(refused(&path, Refusal::Bytes(self.limits.bytes)));
        }
        let node = |hash| Node::File { class, executable, len: length, hash };
        let create = || to.create_file(&path, file_mode(class, executable)).map_err(|e| taken(&path, e));
        let write = PushError::io("write the generation");
        let cut = || PushError::Archive { why: format!("{path}: it ends in the middle: it was cut") };
        let node = if length <= SMALL {
            let mut bytes = std::mem::take(&mut self.buffer);
            let len = fill(from, &mut bytes, length).map_err(broken)?;
            if len as u64 != length {
                return Err(cut());
            }
            let node = node(ContentHash::of(&bytes[..len]));
            if !self.linked(&path, &node, to, path.as_str().as_ref()) {
                fsx::append(&mut create()?, &bytes[..len]).map_err(write)?;
            }
            self.buffer = bytes;
            node
        } else {
            let (len, hash) =
                copy(&mut from.take(length), &mut create()?).map_err(|failed| match failed {
                    Failed::Read(e) => broken(e),
                    Failed::Write(e) => write(FsError::new("write", to.path().join(&path), e)),
                })?;
            if len != length {
                return Err(cut());
            }
            let node = node(hash);
            if self.is_linkable(&path, &node) {
                to.remove_file(&path).map_err(&write)?;
                if !self.linked(&path, &node, to, path.as_str().as_ref()) {
                    return Err(PushError::Changed { path: path.to_string() });
                }
            }
            node
        };
        self.add(path, node)
    }

    fn symlink(&mut self, target: &str, path: RelPath, to: &Dir) -> Result<(), PushError> {
        match links::judge(&path, None, target, &self.bases) {
            Judgement::Keep(text) => {
                to.symlink(&text, &path).map_err(|e| taken(&path, e))?;
                self.add(path, Node::Link { target: text })
            }
            Judgement::Out => Err(refused(&path, Refusal::LinkOut(target.to_owned()))),
        }
    }

    /// A hard link: the file that it names, which came before, under another name. No inode has two names in
    /// one generation.
    fn second_name(
        &mut self,
        target: &[u8],
        path: RelPath,
        to: &Dir,
        directories: &Directories,
    ) -> Result<(), PushError> {
        let shown = shown(target);
        let first = path_of(target).ok().flatten();
        let first = first.and_then(|first| self.entries.get(*directories.files.get(&first)?)).cloned();
        let Some((first, Node::File { class, executable, len, .. })) =
            first.map(|first| (first.path, first.node))
        else {
            return Err(refused(&path, Refusal::HardLink(shown)));
        };
        let mut file = to.open_file(&first).map_err(PushError::io("write the generation"))?;
        self.regular(&mut file, len, path, class, executable, to)
    }
}

/// The text of a link that can be in a generation.
fn text_of(bytes: Vec<u8>) -> Option<String> {
    String::from_utf8(bytes).ok().filter(|text| !text.is_empty() && !text.chars().any(char::is_control))
}

/// The path that an archive's name means; `None`: the root. `./a` and `a/` are `a`.
fn path_of(name: &[u8]) -> Result<Option<RelPath>, crate::model::PathError> {
    let text = std::str::from_utf8(name).map_err(|_| crate::model::PathError::NotUtf8)?;
    let text = text.trim_start_matches("./").trim_end_matches('/');
    match text {
        "" | "." if !name.starts_with(b"/") => Ok(None),
        text => RelPath::new(text).map(Some),
    }
}

impl From<Broken> for PushError {
    fn from(Broken(why): Broken) -> PushError {
        PushError::Archive { why }
    }
}

fn broken(error: std::io::Error) -> PushError {
    Broken::from(error).into()
}

/// A name that is taken already, or whose way leads over something that is no directory.
fn taken(path: &RelPath, source: FsError) -> PushError {
    if source.is_exists() {
        return refused(path, Refusal::Twice);
    }
    PushError::Io { doing: "write the generation", source }
}
