//! The layout of an export, as both ends know it (`spec/store.md`, S23), and why a stream is none.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use tar::EntryType;

use super::error::{Kind, StoreError};
use super::members::{Broken, Member};
use crate::fsx::FsError;
use crate::model::{Class, ContentHash, GenerationId, Node, RelPath};

/// The first member, and what it holds.
pub(super) const FORMAT: &str = "format";
pub(super) const FORMAT_TEXT: &str = "pointsman-export 1\n";
/// What the text of every version begins with.
pub(super) const FORMAT_ANY: &str = "pointsman-export ";
/// The second member: an [`Origin`].
pub(super) const ORIGIN: &str = "origin.json";
/// The last member: an [`End`].
pub(super) const END: &str = "end";
/// The largest `origin.json` and `end`, in bytes.
pub(super) const LARGEST_NOTE: u64 = 64 << 10;

/// Where an export was made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Origin {
    /// the machine: `/etc/machine-id`
    pub machine: String,
    /// the path of the store there
    pub store: String,
    /// the generation in force there, where the export has it
    pub current: Option<GenerationId>,
}

/// What ends an export: how much there must have been.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct End {
    pub(super) generations: u64,
    pub(super) tags: u64,
    pub(super) outcomes: u64,
    /// over everything that no manifest vouches for, see [`Tally::record`]
    pub(super) records: ContentHash,
}

/// Counts what passes, on either end.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) generations: u64,
    pub(super) tags: u64,
    pub(super) outcomes: u64,
    hasher: blake3::Hasher,
}

impl Tally {
    /// A member that no manifest vouches for: its name, a newline, its length in decimal, a newline, its bytes.
    pub(super) fn record(&mut self, name: &str, bytes: &[u8]) {
        self.hasher.update(format!("{name}\n{}\n", bytes.len()).as_bytes()).update(bytes);
    }

    pub(super) fn end(&self) -> End {
        let Tally { generations, tags, outcomes, ref hasher } = *self;
        End { generations, tags, outcomes, records: ContentHash::finish(hasher) }
    }
}

/// Which generation of the stream has the content of a file: a later one with the same line in its manifest
/// has a hard link to it.
#[derive(Default)]
pub(super) struct FirstSeen(HashMap<ContentHash, GenerationId>);

impl FirstSeen {
    /// Enough for a thousand generations that differ in a thousand files each; beyond it, files are in the
    /// stream more than once.
    const MOST: usize = 1 << 20;

    /// The generation whose file at `path` is the same in every way. Empty files are never linked.
    pub(super) fn get(&self, path: &RelPath, node: &Node) -> Option<GenerationId> {
        self.0.get(&line(path, node)?).copied()
    }

    pub(super) fn insert(&mut self, path: &RelPath, node: &Node, id: GenerationId) {
        if self.0.len() < FirstSeen::MOST
            && let Some(line) = line(path, node)
        {
            self.0.entry(line).or_insert(id);
        }
    }
}

fn line(path: &RelPath, node: &Node) -> Option<ContentHash> {
    let Node::File { class, executable, len, hash } = node else { return None };
    let public = *class == Class::Public;
    (*len > 0).then(|| ContentHash::of(format!("{public} {executable} {len} {hash} {path}").as_bytes()))
}

/// Tells how far long work is: whole generations, and bytes of the stream.
pub struct Meter<'a> {
    generations: u64,
    bytes: u64,
    told: u64,
    tell: Box<dyn FnMut(u64, u64) + 'a>,
}

impl<'a> Meter<'a> {
    /// Not every member is worth a line.
    const STEP: u64 = 16 << 20;

    /// `tell` is called with generations and bytes, now and then.
    pub fn new(tell: impl FnMut(u64, u64) + 'a) -> Meter<'a> {
        Meter { generations: 0, bytes: 0, told: 0, tell: Box::new(tell) }
    }

    pub(super) fn bytes(&mut self, bytes: u64) {
        self.bytes += bytes;
        if self.bytes - self.told >= Meter::STEP {
            self.told = self.bytes;
            (self.tell)(self.generations, self.bytes);
        }
    }

    pub(super) fn generation(&mut self) {
        self.generations += 1;
        self.told = self.bytes;
        (self.tell)(self.generations, self.bytes);
    }
}

/// Why an import ended.
#[derive(Debug, thiserror::Error)]
pub enum ImportError {
    /// the stream is no export, or not a whole one; nothing was imported
    #[error("cannot import: {why}")]
    Refused {
        /// what is wrong with it, and what to do
        why: String,
    },
    /// the store could not be written to; the generations that are in it are whole
    #[error("cannot {doing}")]
    Io {
        /// what was tried
        doing: &'static str,
        /// why not
        source: FsError,
    },
    /// the store could not be read, or is damaged where it is needed
    #[error(transparent)]
    Store(StoreError),
}

impl ImportError {
    /// What it means for whoever asked.
    pub fn kind(&self) -> Kind {
        match self {
            ImportError::Refused { .. } => Kind::Refused,
            ImportError::Io { .. } => Kind::Failed,
            ImportError::Store(error) => error.kind(),
        }
    }

    pub(super) fn io(doing: &'static str) -> impl Fn(FsError) -> ImportError {
        move |source| ImportError::Io { doing, source }
    }
}

impl From<StoreError> for ImportError {
    fn from(error: StoreError) -> ImportError {
        ImportError::Store(error)
    }
}

impl From<Broken> for ImportError {
    fn from(Broken(why): Broken) -> ImportError {
        refused(format!("{why}; make the export again"))
    }
}

pub(super) fn refused(why: String) -> ImportError {
    ImportError::Refused { why }
}

pub(super) fn unexpected(found: &str, expected: &str) -> ImportError {
    refused(format!("{found} is where {expected} has to be; give what `pointsman export` has written"))
}

/// That the next member is what it has to be.
pub(super) fn expect(member: &Member, kind: EntryType, name: &str) -> Result<(), ImportError> {
    if member.kind == kind && member.name == name.as_bytes() {
        return Ok(());
    }
    Err(unexpected(&member.shown(), name))
}
