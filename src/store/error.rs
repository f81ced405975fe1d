//! What can go wrong with a store, as decisions: what a caller can do about it.

use std::path::PathBuf;

use crate::fsx::FsError;
use crate::model::GenerationId;

/// What an error means for whoever asked; the command line makes its exit code of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// it did not work; the store is as before
    Failed,
    /// no such, or more than one such generation
    NoSuch,
    /// the store is damaged
    Damaged,
    /// somebody is in the way: try again
    Busy,
    /// refused for what it is or who asks
    Refused,
    /// what was named is no store
    NoStore,
}

/// One thing in the store that is not as it was written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error, serde::Serialize)]
#[error("{path}: {what}{}", also(shared))]
pub struct Damage {
    /// the generation it belongs to; `None`: the store itself
    pub generation: Option<GenerationId>,
    /// the damaged path, beneath the store
    pub path: String,
    /// what is wrong with it
    pub what: String,
    /// the other generations that have this very file, and so the same damage
    pub shared: Vec<GenerationId>,
}

fn also(shared: &[GenerationId]) -> String {
    let ids: Vec<String> = shared.iter().map(GenerationId::short).collect();
    if ids.is_empty() { String::new() } else { format!(" (the same file is in {})", ids.join(", ")) }
}

/// Why a store cannot be opened, or a record of it not be read or written.
#[derive(Debug, thiserror::Error)]
#[allow(missing_docs, reason = "the messages say it")]
pub enum StoreError {
    #[error("{} is no store; `pointsman init` makes one", path.display())]
    NotAStore { path: PathBuf },
    #[error("{} has layout `{found}`, which this program does not know; use the one that wrote it", path.display())]
    UnknownFormat { path: PathBuf, found: String },
    #[error("{} holds `{name}` and is no store; give an empty or new directory", path.display())]
    NotEmpty { path: PathBuf, name: String },
    #[error("{} belongs to uid {owner}, this is uid {me}; use sudo", path.display())]
    NotOwner { path: PathBuf, owner: u32, me: u32 },
    #[error("run directory {} holds `{name}` and is not ours; give an empty or new directory", path.display())]
    ForeignRun { path: PathBuf, name: String },
    #[error("no tag `{name}`; `pointsman list` shows what there is")]
    NoSuchTag { name: String },
    #[error("generation {id} is not in the store; `pointsman list` shows what is")]
    NoSuchGeneration { id: GenerationId },
    #[error("{path} is not in generation {}; `pointsman show {}` lists what is", id.short(), id.short())]
    NoSuchPath { id: GenerationId, path: String },
    #[error("generation {} is being taken away; `pointsman list` shows what is there", id.short())]
    Leaving { id: GenerationId },
    #[error("the store is damaged at {0}; `pointsman verify` names everything that is")]
    Damaged(Damage),
    #[error("cannot {doing}")]
    Io { doing: &'static str, source: FsError },
}

impl StoreError {
    /// What it means for whoever asked.
    pub fn kind(&self) -> Kind {
        match self {
            StoreError::NotAStore { .. } => Kind::NoStore,
            StoreError::Io { .. } => Kind::Failed,
            StoreError::NoSuchTag { .. }
            | StoreError::NoSuchGeneration { .. }
            | StoreError::NoSuchPath { .. } => Kind::NoSuch,
            StoreError::UnknownFormat { .. } | StoreError::Damaged(_) => Kind::Damaged,
            StoreError::Leaving { .. } => Kind::Busy,
            StoreError::NotEmpty { .. } | StoreError::NotOwner { .. } | StoreError::ForeignRun { .. } => {
                Kind::Refused
            }
        }
    }

    pub(super) fn io(doing: &'static str) -> impl Fn(FsError) -> StoreError {
        move |source| StoreError::Io { doing, source }
    }

    pub(super) fn damaged(
        generation: Option<GenerationId>,
        path: impl Into<String>,
        what: &(impl ToString + ?Sized),
    ) -> StoreError {
        let (path, what) = (path.into(), what.to_string());
        StoreError::Damaged(Damage { generation, path, what, shared: Vec::new() })
    }
}
