//! The pointer: the symlink `current`, which names the generation in force.

use super::error::{Kind, StoreError};
use super::open::{Store, Writer};
use super::staging;
use crate::fsx::{self, FsError};
use crate::model::GenerationId;

const CURRENT: &str = "current";
/// Enough for an outcome with the output of failed programs, a steps line and a directory block each.
const RESERVED: u64 = 256 * 1024;

/// Why the pointer cannot be read or moved.
#[derive(Debug, thiserror::Error)]
pub enum PointerError {
    /// `current` is not a link to a generation that is there
    #[error("`current` is damaged: {what}; remove it, then `pointsman activate REF` makes it anew")]
    Damaged {
        /// what is wrong with it
        what: String,
    },
    /// the generation is not in the store; `current` is as before
    #[error("cannot point at {}: it is not in the store; `pointsman list` shows what is", id.short())]
    NoSuchGeneration {
        /// what was asked for
        id: GenerationId,
    },
    /// the pointer cannot be read, or the move failed: `current` is as before
    #[error("cannot {doing}; `current` is as it was")]
    Refused {
        /// what was tried
        doing: &'static str,
        /// why not
        source: FsError,
    },
    /// `current` has moved; only the directory sync failed
    #[error("`current` has moved, but not durably")]
    NotDurable {
        /// why not
        source: FsError,
    },
}

impl PointerError {
    /// What it means for whoever asked.
    pub fn kind(&self) -> Kind {
        match self {
            PointerError::Damaged { .. } => Kind::Damaged,
            PointerError::NoSuchGeneration { .. } => Kind::NoSuch,
            PointerError::Refused { .. } | PointerError::NotDurable { .. } => Kind::Failed,
        }
    }

    fn refused(doing: &'static str) -> impl Fn(FsError) -> PointerError {
        move |source| PointerError::Refused { doing, source }
    }
}

fn target_of(id: GenerationId) -> String {
    format!("generations/{id}/tree")
}

impl Store {
    /// The generation in force; `None` before the first activation.
    ///
    /// # Errors
    /// [`PointerError::Damaged`]: something else than a link of ours is there, or what it names is gone.
    pub fn current(&self) -> Result<Option<GenerationId>, PointerError> {
        let refused = PointerError::refused("read the pointer");
        let Some(meta) = fsx::optional(self.root.meta(CURRENT)).map_err(&refused)? else { return Ok(None) };
        if meta.kind != fsx::EntryKind::Link {
            return Err(PointerError::Damaged { what: "it is not a symlink".to_owned() });
        }
        let target = self.root.read_link(CURRENT).map_err(&refused)?;
        let id = target
            .to_str()
            .and_then(|target| target.strip_prefix("generations/")?.strip_suffix("/tree")?.parse().ok());
        let Some(id) = id else {
            return Err(PointerError::Damaged { what: format!("it leads to {}", target.display()) });
        };
        if !self.root.exists(target_of(id)).map_err(refused)? {
            return Err(PointerError::Damaged { what: format!("generation {id}, which it names, is gone") });
        }
        Ok(Some(id))
    }
}

impl Writer {
    /// Points `current` at generation `to`, in one atomic rename; `None` removes it, for the undoing of
    /// the very first activation.
    ///
    /// Readers see the old generation or the new one, never neither; after `Ok` the move survives a power
    /// cut. Uses up the way back that [`Writer::prepare_undo`] made where it leads to `to`. Does not check
    /// the generation's content ([`Store::check_intact`] does), does not tell any worker. The caller holds
    /// the swing lock.
    ///
    /// # Errors
    /// - [`PointerError::NoSuchGeneration`], [`PointerError::Refused`]: `current` is as before.
    /// - [`PointerError::NotDurable`]: `current` has moved; only the directory sync failed.
    pub fn swing(&self, to: Option<GenerationId>) -> Result<(), PointerError> {
        self.point_at(to)?;
        self.root.sync().map_err(|source| PointerError::NotDurable { source })
    }

    /// As [`Writer::swing`], for the last thing that event `number` does: where only this process waits for its verdict,
    /// the move survives a power cut when the verdict does.
    pub fn swing_at_last(&self, number: u64, to: GenerationId) -> Result<(), PointerError> {
        if !self.due().is_own(number) {
            return self.swing(Some(to));
        }
        self.point_at(Some(to))?;
        self.due().moved();
        Ok(())
    }

    fn point_at(&self, to: Option<GenerationId>) -> Result<(), PointerError> {
        let refused = PointerError::refused("move the pointer");
        match to {
            None => {
                fsx::optional(self.root.remove_file(CURRENT)).map_err(refused)?;
            }
            Some(id) => {
                let target = target_of(id);
                // first: what is looked for is not taken away meanwhile
                let _lock = self.store_lock().map_err(&refused)?;
                if !self.root.exists(&target).map_err(&refused)? {
                    return Err(PointerError::NoSuchGeneration { id });
                }
                let tmp = self.root.dir("tmp").map_err(&refused)?;
                if tmp.read_link(staging::UNDO).is_ok_and(|undo| undo == *target) {
                    tmp.rename(staging::UNDO, &self.root, CURRENT).map_err(refused)?;
                } else {
                    let name = format!("current-{}", fsx::unique());
                    tmp.symlink(&target, &name).map_err(&refused)?;
                    if let Err(source) = tmp.rename(&name, &self.root, CURRENT) {
                        let _ = tmp.remove_file(&name);
                        return Err(refused(source));
                    }
                }
            }
        }
        Ok(())
    }

    /// Sets disk space aside for the verdict, durably, unless it is set aside already.
    pub fn prepare_verdict(&self) -> Result<(), PointerError> {
        let refused = PointerError::refused("set disk space aside");
        let tmp = self.root.dir("tmp").map_err(&refused)?;
        if tmp.reserve(staging::RESERVE, RESERVED).map_err(&refused)? {
            tmp.sync().map_err(refused)?;
        }
        Ok(())
    }

    /// Makes the way back to `from` before the swing: the link that [`Writer::swing`] will rename, and disk
    /// space set aside for the verdict, both durable. A full disk cannot block the way back then.
    pub fn prepare_undo(&self, from: Option<GenerationId>) -> Result<(), PointerError> {
        let refused = PointerError::refused("prepare the way back");
        let tmp = self.root.dir("tmp").map_err(&refused)?;
        let target = from.map(target_of);
        let there = fsx::optional(tmp.read_link(staging::UNDO)).map_err(&refused)?;
        if there.as_ref().map(|there| there.to_string_lossy()).as_deref() != target.as_deref() {
            tmp.remove_tree(staging::UNDO).map_err(&refused)?;
            if let Some(target) = target {
                tmp.symlink(target, staging::UNDO).map_err(&refused)?;
            }
        }
        tmp.reserve(staging::RESERVE, RESERVED).map_err(&refused)?;
        tmp.sync().map_err(refused)
    }
}

impl From<PointerError> for StoreError {
    fn from(error: PointerError) -> StoreError {
        match error {
            PointerError::Damaged { what } => StoreError::damaged(None, CURRENT, &what),
            PointerError::NoSuchGeneration { id } => StoreError::NoSuchGeneration { id },
            PointerError::Refused { doing, source } => StoreError::Io { doing, source },
            PointerError::NotDurable { source } => {
                StoreError::Io { doing: "make the pointer durable", source }
            }
        }
    }
}
