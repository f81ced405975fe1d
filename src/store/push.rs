//! Push: a directory becomes a generation.
//!
//! The order is the promise: contents durable, then visible by one rename, then that durable, then the
//! history. A generation that can be seen is complete.

use std::io::Read;
use std::path::{Path, PathBuf};

use super::error::StoreError;
use super::history::Record;
use super::links;
use super::open::Writer;
use super::refusal::{PushError, Refusal};
use super::source::{Parent, Walk};
use super::staging::Staging;
use crate::fsx::{self, Dir, EntryKind, FsError};
use crate::model::{GenerationId, Limits, Manifest, PushRecord, RelPath};

/// The largest file that is inspected, in bytes; its reader has a smaller limit of its own.
const LARGEST_INSPECTED: u64 = 1 << 20;

/// What is pushed.
pub enum Source<'a> {
    /// a directory
    Directory(&'a Path),
    /// a tar stream, read once
    Archive(&'a mut dyn Read),
}

/// Looks at the file at the root that says what a generation is for (its text, where there is one), before
/// anything is visible. Gives the absolute path that stands for the root in absolute links; an error is the
/// reason why this must not be pushed.
#[allow(unreachable_pub, reason = "callers need the name to write the closure down")]
pub type Inspect<'a> = dyn Fn(Option<&[u8]>) -> Result<Option<PathBuf>, String> + 'a;

/// How to push.
pub struct PushOptions<'a> {
    /// who, when, why; its parent is filled in by the push
    pub record: PushRecord,
    /// store what links to the outside lead to, instead of refusing them
    pub copy_links: bool,
    /// the name of the file that is inspected
    pub inspected: &'a str,
    /// its inspection
    pub inspect: &'a Inspect<'a>,
    /// how much it may be
    pub limits: Limits,
}

/// What a push came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Pushed {
    /// the generation that now is in the store
    pub id: GenerationId,
    /// whether it was not there before
    pub changed: bool,
    /// whether it was there, but damaged, and has been made whole from the source
    pub repaired: bool,
    /// files, directories and links in it
    pub entries: usize,
    /// bytes in its files
    pub bytes: u64,
}

/// What a push would make a generation of. Removed when it is dropped.
#[derive(Debug)]
pub struct Scratch {
    staging: Staging,
    manifest: Manifest,
}

impl Scratch {
    /// Everything in it.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    pub(super) fn tree(&self) -> Result<Dir, FsError> {
        self.staging.dir().dir("tree")
    }

    /// The content of the file `path`, at most `limit` bytes.
    pub fn read(&self, path: &RelPath, limit: u64) -> Result<Vec<u8>, StoreError> {
        let tree = self.staging.dir().dir("tree");
        tree.and_then(|tree| tree.read(path, limit)).map_err(StoreError::io("read what was staged"))
    }
}

/// A source read into a staging directory.
struct Staged {
    staging: Staging,
    text: String,
    pushed: Pushed,
}

impl Writer {
    /// Makes `source` a generation: complete, durable and in the history after `Ok`. The same content gives
    /// the same id, whatever its times, owners and umask, from a directory or from a stream; where it is in
    /// the store already, that is success and nothing changes; a damaged one is replaced in one step by
    /// what its id says it is.
    ///
    /// # Errors
    /// Nothing is in the store that was not before, except with [`PushError::NotInHistory`].
    pub fn push(&self, mut source: Source<'_>, options: PushOptions<'_>) -> Result<Pushed, PushError> {
        let io = PushError::io("write the generation");
        let _lock = self.store_lock().map_err(&io)?;

        let parent_id = self.parent()?;
        let parent = parent_id.and_then(|id| self.link_source(id));
        let mut staged = self.stage(&mut source, &options, parent.as_ref())?;
        let id = staged.pushed.id;
        let pushed = staged.pushed;
        let generations = self.part("generations").map_err(PushError::Store)?;
        let name = id.to_string();
        let there = generations.exists(&name).map_err(&io)?;
        if there {
            match self.check_intact(id) {
                Ok(()) => {
                    generations.sync().map_err(&io)?; // another push may have renamed it just now
                    generations.touch(&name).map_err(io)?; // it is asked for anew: `gc` counts from now
                    return Ok(pushed);
                }
                Err(StoreError::Damaged(_)) => {
                    // made anew from nothing but the source: what was linked may be what is damaged
                    if let Source::Archive(_) = source {
                        return Err(PushError::DamagedThere { id });
                    }
                    staged = self.stage(&mut source, &options, None)?;
                    if staged.pushed.id != id {
                        return Err(PushError::Changed { path: ".".to_owned() });
                    }
                }
                Err(error) => return Err(PushError::Store(error)),
            }
        }

        let record = PushRecord { parent: parent_id.filter(|parent| *parent != id), ..options.record };
        let json = serde_json::to_string(&record).expect("records have string keys only") + "\n";
        let staging = staged.staging;
        write(staging.dir(), "manifest", staged.text.as_bytes()).map_err(&io)?;
        write(staging.dir(), "push.json", json.as_bytes()).map_err(&io)?;
        staging.dir().sync_file_system().map_err(&io)?;
        let history = self.history_lock().map_err(&io)?;
        if there {
            staging.replace(&generations, &name).map_err(io)?;
        } else if !staging.publish(&generations, &name).map_err(&io)? {
            generations.sync().map_err(io)?;
            return Ok(pushed);
        }
        self.remember(&history, &Record::of_push(id, &record))
            .map_err(|source| PushError::NotInHistory { id, source })?;
        Ok(Pushed { changed: !there, repaired: there, ..pushed })
    }

    /// Reads `source` as a push would, to be looked at and thrown away: nothing is pushed.
    pub fn scratch(&self, mut source: Source<'_>, options: &PushOptions<'_>) -> Result<Scratch, PushError> {
        let staged = self.stage(&mut source, options, None)?;
        let manifest = Manifest::parse(staged.text.as_bytes()).expect("it was made as this text");
        Ok(Scratch { staging: staged.staging, manifest })
    }

    /// Reads the source into a fresh staging directory; nothing of it is flushed or visible.
    fn stage(
        &self,
        source: &mut Source<'_>,
        options: &PushOptions<'_>,
        parent: Option<&Parent>,
    ) -> Result<Staged, PushError> {
        let io = PushError::io("write the generation");
        let staging = Staging::new(&self.root).map_err(&io)?;
        let tree = staging.dir().dir("tree").map_err(&io)?;
        let mut walk = Walk {
            limits: options.limits,
            copy_links: options.copy_links,
            bases: Vec::new(),
            forbidden: self.forbidden().map_err(&io)?,
            parent,
            owner: fsx::effective_uid(),
            entries: Vec::new(),
            bytes: 0,
            buffer: Vec::new(),
            above: Vec::new(),
        };
        let inspect =
            |text: Option<&[u8]>| (options.inspect)(text).map_err(|why| PushError::Disapproved { why });
        match source {
            Source::Directory(path) => {
                let given = Given::open(path)?;
                let text = inspected(&given.dir, options.inspected)?;
                walk.bases = bases(Some(&given), inspect(text.as_deref())?.as_deref());
                walk.root(&given.dir, &tree)?;
                // what was inspected is what was stored
                if inspected(&tree, options.inspected)? != text {
                    return Err(PushError::Changed { path: options.inspected.to_owned() });
                }
            }
            Source::Archive(stream) => {
                let links = walk.archive(stream, &tree)?;
                let text = inspected(&tree, options.inspected)?;
                if text.is_none()
                    && let Some(within) = walk.wrapped(options.inspected)
                {
                    let why = format!("all of it is in {within}; make it with `tar c -C {within} .`");
                    return Err(PushError::Archive { why });
                }
                walk.bases = bases(None, inspect(text.as_deref())?.as_deref());
                walk.absolute_links(links, &tree)?;
                walk.close(&tree)?;
            }
        }
        let (entries, bytes) = (walk.entries.len(), walk.bytes);
        let manifest = Manifest::new(walk.entries).expect("a walk meets each path once, its directory first");
        if let Some((path, target)) = links::first_leaving(&manifest) {
            let why = Refusal::LinkOutThroughLinks(target.to_owned());
            return Err(PushError::Refused { path: path.to_string(), why });
        }
        let text = manifest.text();
        let id = GenerationId::of(text.as_bytes());
        let pushed = Pushed { id, changed: false, repaired: false, entries, bytes };
        Ok(Staged { staging, text, pushed })
    }

    /// The generation to link against: in force, else the latest.
    fn parent(&self) -> Result<Option<GenerationId>, PushError> {
        match self.current() {
            Ok(Some(id)) => Ok(Some(id)),
            // a damaged pointer must not stand in the way of the push that will repair it
            _ => Ok(self.ledger().map_err(PushError::Store)?.pushes.last().map(|push| push.id)),
        }
    }

    /// Generation `id` as a source of links; `None` where it is damaged: everything is copied then.
    fn link_source(&self, id: GenerationId) -> Option<Parent> {
        let manifest = self.manifest(id).ok()?;
        let generation = self.root.dir(format!("generations/{id}")).ok()?;
        let sealed = generation.meta("push.json").ok()?.modified;
        Some(Parent { manifest, tree: generation.dir("tree").ok()?, sealed })
    }

    fn forbidden(&self) -> Result<Vec<(u64, u64)>, FsError> {
        Ok(vec![self.root.own_meta()?.identity, self.run().own_meta()?.identity])
    }
}

/// Creates a file without flushing it: one flush of the file system follows.
fn write(dir: &Dir, name: &str, bytes: &[u8]) -> Result<(), FsError> {
    fsx::append(&mut dir.create_file(name, 0o444)?, bytes)
}

/// The text of the regular file `name` at the root of `dir`, where there is one.
fn inspected(dir: &Dir, name: &str) -> Result<Option<Vec<u8>>, PushError> {
    let unreadable = |source| PushError::Unreadable { path: name.to_owned(), source };
    match fsx::optional(dir.meta(name)).map_err(unreadable)? {
        None => Ok(None),
        Some(meta) if meta.kind != EntryKind::File => {
            let why = format!("cannot push {name}: it is no regular file; make it one, or remove it");
            Err(PushError::Disapproved { why })
        }
        Some(meta) if meta.len > LARGEST_INSPECTED => {
            let why = format!(
                "cannot push {name}: it is larger than {LARGEST_INSPECTED} bytes; make it a page of text"
            );
            Err(PushError::Disapproved { why })
        }
        Some(_) => dir.read(name, LARGEST_INSPECTED).map(Some).map_err(unreadable),
    }
}

/// A directory to push, held open, by both of its names.
struct Given {
    dir: Dir,
    path: PathBuf,
    canonical: PathBuf,
}

impl Given {
    fn open(path: &Path) -> Result<Given, PushError> {
        let no_source = |source| PushError::NoSource { path: path.to_owned(), source };
        let dir = Dir::open(path).map_err(no_source)?;
        let canonical = fsx::canonical(path).map_err(no_source)?;
        Ok(Given { dir, path: path.to_owned(), canonical })
    }
}

/// The absolute prefixes that mean the root of what is pushed.
fn bases(given: Option<&Given>, mount: Option<&Path>) -> Vec<String> {
    let (path, canonical) = given.map(|given| (given.path.as_path(), given.canonical.as_path())).unzip();
    [path, canonical, mount]
        .into_iter()
        .flatten()
        .filter(|path| path.is_absolute())
        .filter_map(|path| path.to_str().map(str::to_owned))
        .collect()
}
