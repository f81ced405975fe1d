//! A tar stream as a source: every entry is created by us, beneath the staging directory.
//!
//! The archive is hostile until proven otherwise. Names are checked as paths of a generation, and nothing is
//! created through a symlink; `members` reads the headers.

use std::collections::{BTreeMap, HashMap};
use std::io::Read;

use tar::EntryType;

use super::feed::{Item, Stop};
use super::links::{self, Judgement};
use super::members::{Broken, Member, each_member, shown};
use super::refusal::{PushError, Refusal, refused};
use super::rights::class_of;
use super::source::{Head, Walk};
use crate::fsx::Dir;
use crate::model::{Class, RelPath};

/// What has been met of an archive so far.
#[derive(Default)]
pub(super) struct Met {
    /// the directories, and whether others cannot come there in the source
    hidden: BTreeMap<RelPath, bool>,
    /// the regular files: all that a second name needs besides the content
    files: HashMap<RelPath, (Class, bool, u64)>,
    /// the links whose target is absolute, not told yet
    absolute: Vec<(RelPath, String)>,
    /// the first names at the root, two at most
    top: Vec<RelPath>,
}

impl Met {
    fn note(&mut self, path: &RelPath) {
        if self.top.len() < 2 && path.split().0.is_none() && !self.top.contains(path) {
            self.top.push(path.clone());
        }
    }

    /// The one directory that holds everything, where the file `name` is in it: somebody put the directory
    /// itself into the archive (`tar c conf`), not what is in it.
    pub(super) fn wrapped(&self, name: &str) -> Option<&RelPath> {
        let [only] = self.top.as_slice() else { return None };
        let inner = RelPath::new(&format!("{only}/{name}")).ok()?;
        self.files.contains_key(&inner).then_some(only)
    }
}

impl Walk<'_> {
    /// Tells everything that the archive holds, but for absolute links: these are for
    /// [`Walk::absolute_links`] to judge when it is known what stands for the root. All of it is in `tree`
    /// after `Ok`.
    pub(super) fn archive(&mut self, from: impl Read, tree: &Dir) -> Result<Met, Stop> {
        let mut met = Met::default();
        each_member(from, |member, content| self.entry(member, content, tree, &mut met))?;
        self.feed.ask(Item::Settled)?;
        Ok(met)
    }

    /// Tells the absolute links of an archive, which must lead beneath one of the bases, and that this is
    /// the end of it.
    pub(super) fn absolute_links(&mut self, met: Met) -> Result<(), Stop> {
        for (path, target) in met.absolute {
            self.symlink(&target, path)?;
        }
        self.feed.put(Item::CloseAll)
    }

    fn entry(
        &mut self,
        member: Member,
        mut content: &mut dyn Read,
        tree: &Dir,
        met: &mut Met,
    ) -> Result<(), Stop> {
        let shown = member.shown();
        let Member { kind, mode, length, name, link, sparse } = member;
        if sparse {
            return Err(refused(&shown, Refusal::Sparse).into());
        }
        let Some(path) = path_of(&name).map_err(|why| refused(&shown, Refusal::Name(why)))? else {
            return match kind {
                EntryType::Directory => Ok(()),
                _ => Err(refused(&shown, Refusal::Special).into()),
            };
        };
        if path.as_str().matches('/').count() >= self.limits.depth {
            return Err(refused(&path, Refusal::Deep(self.limits.depth)).into());
        }
        if mode & 0o7000 != 0 && kind != EntryType::Directory && kind != EntryType::Symlink {
            return Err(refused(&path, Refusal::Setuid).into());
        }
        let hidden = match path.parent() {
            Some(parent) => self.parents(&parent, met)?,
            None => false,
        };
        met.note(&path);
        match kind {
            EntryType::Directory => self.directory(path, hidden || mode & 0o001 == 0, met),
            EntryType::Regular | EntryType::Continuous => {
                let (class, executable) = class_of(mode);
                let class = if hidden { Class::Private } else { class };
                self.regular(&mut content, Head { path, class, executable, len: length }, met)
            }
            EntryType::Symlink => {
                let target =
                    text_of(link.unwrap_or_default()).ok_or_else(|| refused(&path, Refusal::LinkText))?;
                if target.starts_with('/') {
                    met.absolute.push((path, target));
                    return Ok(());
                }
                self.symlink(&target, path)
            }
            EntryType::Link => self.second_name(&link.unwrap_or_default(), path, tree, met),
            _ => Err(refused(&path, Refusal::Special).into()),
        }
    }

    /// Tells the directories on the way to what is in `path`; whether others cannot come there.
    fn parents(&mut self, path: &RelPath, met: &mut Met) -> Result<bool, Stop> {
        if let Some(hidden) = met.hidden.get(path) {
            return Ok(*hidden);
        }
        let hidden = match path.parent() {
            Some(parent) => self.parents(&parent, met)?,
            None => false,
        };
        met.note(path);
        self.directory(path.clone(), hidden, met)?;
        Ok(hidden)
    }

    fn directory(&mut self, path: RelPath, hidden: bool, met: &mut Met) -> Result<(), Stop> {
        match met.hidden.get(&path) {
            Some(before) if *before == hidden => return Ok(()),
            Some(_) => return Err(refused(&path, Refusal::LateDirectory).into()),
            None => {}
        }
        self.count(&path, 0)?;
        met.hidden.insert(path.clone(), hidden);
        self.feed.put(Item::Dir(path))
    }

    fn regular(&mut self, from: &mut impl Read, head: Head, met: &mut Met) -> Result<(), Stop> {
        self.count(&head.path, head.len)?;
        let Head { ref path, class, executable, len } = head;
        met.files.insert(path.clone(), (class, executable, len));
        let why = format!("{path}: it ends in the middle: it was cut");
        let whole = |_: &mut _, read| match read == len {
            true => Ok(()),
            false => Err(PushError::Archive { why }),
        };
        self.content(from, head, broken, whole)
    }

    fn symlink(&mut self, target: &str, path: RelPath) -> Result<(), Stop> {
        match links::judge(&path, None, target, &self.bases) {
            Judgement::Keep(text) => {
                self.count(&path, 0)?;
                self.feed.put(Item::Link(path, text))
            }
            Judgement::Out => Err(refused(&path, Refusal::LinkOutOfArchive(target.to_owned())).into()),
        }
    }

    /// A hard link: the file that it names, which came before, under another name. No inode has two names in
    /// one generation.
    fn second_name(&mut self, target: &[u8], path: RelPath, tree: &Dir, met: &mut Met) -> Result<(), Stop> {
        let first = path_of(target).ok().flatten();
        let first = first.and_then(|first| Some((*met.files.get(&first)?, first)));
        let Some(((class, executable, len), first)) = first else {
            return Err(refused(&path, Refusal::HardLink(shown(target))).into());
        };
        self.feed.ask(Item::Settled)?;
        let mut file = tree.open_file(&first).map_err(PushError::io("write the generation"))?;
        self.regular(&mut file, Head { path, class, executable, len }, met)
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

impl From<Broken> for Stop {
    fn from(broken: Broken) -> Stop {
        PushError::from(broken).into()
    }
}

fn broken(error: std::io::Error) -> PushError {
    Broken::from(error).into()
}
