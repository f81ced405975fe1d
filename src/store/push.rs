//! Push: a directory becomes a generation.
//!
//! The order is the promise: contents durable, then visible by one rename, then that durable, then the
//! history. A generation that can be seen is complete.

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use super::build::{Builder, Built, LinkSource, Parent};
use super::error::StoreError;
use super::feed::{self, Stop};
use super::flush::{self, Written};
use super::history::Record;
use super::links;
use super::open::{Store, Writer};
use super::refusal::{PushError, Refusal};
use super::source::Walk;
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
    /// is told now and then how far the push is
    pub observe: &'a dyn Fn(Progress),
}

/// How far a push is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Progress {
    /// the source is being read: what has come so far
    Reading {
        /// files, directories and links
        entries: usize,
        /// bytes in files
        bytes: u64,
    },
    /// everything is read, and on its way to the disk
    Flushing,
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

/// A source read into a staging directory, `manifest` included.
struct Staged {
    staging: Staging,
    manifest: Manifest,
    written: Written,
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
        let store: Store = (**self).clone();
        let parent = LinkSource::new(Box::new(move || store.link_source(parent_id?)));
        let Staged { mut staging, mut written, pushed, .. } = self.stage(&mut source, &options, &parent)?;
        drop(parent); // with what the staging was made from, the most that a push holds
        let id = pushed.id;
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
                    let again = self.stage(&mut source, &options, &nothing())?;
                    (staging, written) = (again.staging, again.written);
                    if again.pushed.id != id {
                        return Err(PushError::Changed { path: ".".to_owned() });
                    }
                }
                Err(error) => return Err(PushError::Store(error)),
            }
        }

        let record = PushRecord { parent: parent_id.filter(|parent| *parent != id), ..options.record };
        let json = serde_json::to_string(&record).expect("records have string keys only") + "\n";
        staging.dir().write_unflushed("push.json", json.as_bytes(), 0o444).map_err(&io)?;
        (options.observe)(Progress::Flushing);
        flush::flush(staging.dir(), written).map_err(&io)?;
        let history = self.owe_a_line().map_err(&io)?;
        if there {
            staging.replace(&generations, &name).map_err(io)?;
        } else if !staging.publish(&generations, &name).map_err(&io)? {
            generations.sync().map_err(io)?;
            history.paid();
            return Ok(pushed);
        }
        self.remember(&history, &Record::of_push(id, &record))
            .map_err(|source| PushError::NotInHistory { id, source })?;
        history.paid();
        Ok(Pushed { changed: !there, repaired: there, ..pushed })
    }

    /// Reads `source` as a push would, to be looked at and thrown away: nothing is pushed.
    pub fn scratch(&self, mut source: Source<'_>, options: &PushOptions<'_>) -> Result<Scratch, PushError> {
        let staged = self.stage(&mut source, options, &nothing())?;
        Ok(Scratch { staging: staged.staging, manifest: staged.manifest })
    }

    /// Reads the source into a fresh staging directory; nothing of it is flushed or visible.
    fn stage(
        &self,
        source: &mut Source<'_>,
        options: &PushOptions<'_>,
        parent: &LinkSource,
    ) -> Result<Staged, PushError> {
        let io = PushError::io("write the generation");
        let staging = Staging::new(&self.root).map_err(&io)?;
        let tree = staging.dir().dir("tree").map_err(&io)?;
        let builder =
            Builder::new(staging.dir(), staging.dir().dir("tree").map_err(&io)?, parent, self.access());
        let (feed, work) = feed::feed();
        let walk = Walk {
            limits: options.limits,
            copy_links: options.copy_links,
            bases: Vec::new(),
            forbidden: self.forbidden().map_err(&io)?,
            parent,
            feed,
            observe: options.observe,
            entries: 0,
            bytes: 0,
            read: 0,
            above: Vec::new(),
        };
        let (told, built) = std::thread::scope(|scope| {
            let building = std::thread::Builder::new().spawn_scoped(scope, move || builder.run(&work));
            let building = building.map_err(|e| io(FsError::new("start a thread for", staging.path(), e)))?;
            let told = tell(source, options, &tree, walk);
            Ok::<_, PushError>((told, building.join().expect("building does not panic")))
        })?;
        // what could not be built came before what was told last
        let Built { entries, written } = built?;
        let text = told.map_err(|stop| match stop {
            Stop::Because(error) => error,
            Stop::NotBuilt => unreachable!("a builder that ends early says why"),
        })?;
        // what was inspected is what was stored
        if inspected(&tree, options.inspected)? != text {
            return Err(PushError::Changed { path: options.inspected.to_owned() });
        }
        let manifest = Manifest::new(entries).expect("a walk meets each path once, its directory first");
        if let Some((path, target)) = links::first_leaving(&manifest) {
            let why = Refusal::LinkOutThroughLinks(target.to_owned());
            return Err(PushError::Refused { path: path.to_string(), why });
        }
        let id = write_manifest(staging.dir(), &manifest).map_err(io)?;
        let (entries, bytes) = (manifest.len(), manifest.bytes());
        let pushed = Pushed { id, changed: false, repaired: false, entries, bytes };
        Ok(Staged { staging, manifest, written, pushed })
    }

    /// The generation to link against: in force, else the latest.
    fn parent(&self) -> Result<Option<GenerationId>, PushError> {
        match self.current() {
            Ok(Some(id)) => Ok(Some(id)),
            // a damaged pointer must not stand in the way of the push that will repair it
            _ => Ok(self.ledger().map_err(PushError::Store)?.pushes.last().map(|push| push.id)),
        }
    }

    fn forbidden(&self) -> Result<Vec<(u64, u64)>, FsError> {
        Ok(vec![self.root.own_meta()?.identity, self.run().own_meta()?.identity])
    }
}

impl Store {
    /// Generation `id` as a source of links; `None` where it is damaged: everything is copied then.
    fn link_source(&self, id: GenerationId) -> Option<Parent> {
        let manifest = self.manifest(id).ok()?;
        let generation = self.root.dir(format!("generations/{id}")).ok()?;
        let sealed = generation.meta("push.json").ok()?.modified;
        Some(Parent { manifest, tree: generation.dir("tree").ok()?, sealed })
    }
}

/// For what is made from nothing but the source.
fn nothing() -> LinkSource {
    LinkSource::new(Box::new(|| None))
}

/// Tells the builder of `tree` everything in the source, and that it was everything. Gives the text of the inspected file.
fn tell(
    source: &mut Source<'_>,
    options: &PushOptions<'_>,
    tree: &Dir,
    mut walk: Walk<'_>,
) -> Result<Option<Vec<u8>>, Stop> {
    let inspect = |text: Option<&[u8]>| (options.inspect)(text).map_err(|why| PushError::Disapproved { why });
    let text = match source {
        Source::Directory(path) => {
            let given = Given::open(path)?;
            let text = inspected(&given.dir, options.inspected)?;
            walk.bases = bases(Some(&given), inspect(text.as_deref())?.as_deref());
            walk.root(&given.dir)?;
            text
        }
        Source::Archive(stream) => {
            let met = walk.archive(stream, tree)?;
            let text = inspected(tree, options.inspected)?;
            if text.is_none()
                && let Some(within) = met.wrapped(options.inspected)
            {
                let why = format!("all of it is in {within}; make it with `tar c -C {within} .`");
                return Err(PushError::Archive { why }.into());
            }
            walk.bases = bases(None, inspect(text.as_deref())?.as_deref());
            walk.absolute_links(met)?;
            text
        }
    };
    walk.feed.finish()?;
    Ok(text)
}

/// Writes the file `manifest`, not flushed. Gives the id that it makes.
fn write_manifest(dir: &Dir, manifest: &Manifest) -> Result<GenerationId, FsError> {
    /// Hashes what it writes.
    struct Hashed(fs_err::File, blake3::Hasher);

    impl Write for Hashed {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            let written = self.0.write(bytes)?;
            self.1.update(&bytes[..written]);
            Ok(written)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    let mut to = Hashed(dir.create_file("manifest", 0o444)?, blake3::Hasher::new());
    manifest.write(&mut to).map_err(|e| FsError::new("write", dir.path().join("manifest"), e))?;
    Ok(GenerationId::finish(&to.1))
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
