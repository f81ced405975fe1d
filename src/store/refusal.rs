//! Why nothing was pushed.

use std::path::PathBuf;

use super::error::{Kind, StoreError};
use crate::fsx::FsError;
use crate::model::{GenerationId, PathError, size};

/// Why one path cannot be pushed, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum Refusal {
    #[error("{0}; rename it")]
    Name(PathError),
    #[error("it is a device, socket or fifo; remove it, a generation holds files, directories and links")]
    Special,
    #[error("it has a setuid, setgid or sticky bit; clear it (chmod u-s,g-s,-t)")]
    Setuid,
    #[error("the link leads out of the directory, to {0}; make it relative, or push with --copy-links")]
    LinkOut(String),
    #[error(
        "the link leads out of the archive, to {0}; make it relative, or have tar put in what it leads to (tar -h)"
    )]
    LinkOutOfArchive(String),
    #[error("the link leads out by way of other links, to {0}; let it lead to the place itself")]
    LinkOutThroughLinks(String),
    #[error("the link leads to {0}, which is not there; remove it or make what it names")]
    LinkNowhere(String),
    #[error("the link's text has a control character or is not UTF-8; make it anew")]
    LinkText,
    #[error("the directory is in itself, by a link or a mount; remove what leads back")]
    Loop,
    #[error("it is more than {0} directories deep; push less, or raise `limits: depth` in the host file")]
    Deep(usize),
    #[error("it is a sparse file; make the archive without --sparse")]
    Sparse,
    #[error("it is there twice; make the archive of one directory only")]
    Twice,
    #[error(
        "its directory entry comes after what is in it, with other rights; make the archive of one directory"
    )]
    LateDirectory,
    #[error("the hard link leads to {0}, which is no file of the archive before it")]
    HardLink(String),
    #[error("it is the store itself; push a directory that does not hold the store")]
    Store,
    #[error("the source holds more than {0} entries; push less, or raise `limits: entries` in the host file")]
    Entries(usize),
    #[error("the source holds more than {size}; push less, or raise `limits: bytes` in the host file", size = size::show(*.0))]
    Bytes(u64),
}

/// Why nothing was pushed.
#[derive(Debug, thiserror::Error)]
pub enum PushError {
    /// the source is not there or no directory
    #[error("cannot push {}", path.display())]
    NoSource {
        /// the source
        path: PathBuf,
        /// why not
        source: FsError,
    },
    /// something in the source cannot be in a generation
    #[error("cannot push {path}: {why}")]
    Refused {
        /// where, beneath the source
        path: String,
        /// why, and what to do
        why: Refusal,
    },
    /// something in the source cannot be read
    #[error("cannot push {path}; give this user the right to read it, or remove it")]
    Unreadable {
        /// where, beneath the source
        path: String,
        /// why not
        source: FsError,
    },
    /// something in the source was written to while it was read
    #[error("{path} changed while it was read; push again when nothing writes to it")]
    Changed {
        /// where, beneath the source
        path: String,
    },
    /// its pipeline cannot be used
    #[error("{why}")]
    Disapproved {
        /// the reason, with file, line and column
        why: String,
    },
    /// the generation is there, damaged, and a stream cannot be read twice to make it anew
    #[error("generation {id} is in the store and damaged; push it from a directory to make it whole")]
    DamagedThere {
        /// which
        id: GenerationId,
    },
    /// the stream is no whole archive
    #[error("cannot push the archive: {why}; make it again, and send all of it")]
    Archive {
        /// what is wrong with it
        why: String,
    },
    /// the store could not be written to; nothing was pushed
    #[error("cannot {doing}")]
    Io {
        /// what was tried
        doing: &'static str,
        /// why not
        source: FsError,
    },
    /// the generation is there and complete, but its line is not in the history yet
    #[error("generation {id} is pushed, but its line is not in the history yet; the next push adds it")]
    NotInHistory {
        /// what was pushed
        id: GenerationId,
        /// why
        source: FsError,
    },
    /// the store could not be read; nothing was pushed
    #[error(transparent)]
    Store(StoreError),
}

impl PushError {
    /// What it means for whoever asked.
    pub fn kind(&self) -> Kind {
        match self {
            PushError::Refused { .. } | PushError::Archive { .. } | PushError::Disapproved { .. } => {
                Kind::Refused
            }
            PushError::DamagedThere { .. } => Kind::Damaged,
            PushError::Changed { .. } => Kind::Busy,
            PushError::NoSource { .. }
            | PushError::Unreadable { .. }
            | PushError::Io { .. }
            | PushError::NotInHistory { .. } => Kind::Failed,
            PushError::Store(error) => error.kind(),
        }
    }

    /// Whether one of [`crate::model::Limits`] was met: the message then ends with "in the host file".
    pub fn is_limit(&self) -> bool {
        use Refusal::{Bytes, Deep, Entries};
        matches!(self, PushError::Refused { why: Deep(_) | Entries(_) | Bytes(_), .. })
    }

    pub(super) fn io(doing: &'static str) -> impl Fn(FsError) -> PushError {
        move |source| PushError::Io { doing, source }
    }
}

pub(super) fn refused(path: &(impl ToString + ?Sized), why: Refusal) -> PushError {
    PushError::Refused { path: path.to_string(), why }
}

/// What was listed a moment ago and is gone, or is something else now, has changed meanwhile.
pub(super) fn unreadable(path: &(impl ToString + ?Sized), source: FsError) -> PushError {
    if source.is_not_found() {
        return PushError::Changed { path: path.to_string() };
    }
    PushError::Unreadable { path: path.to_string(), source }
}
