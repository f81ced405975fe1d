//! What is in force only until somebody confirms it: which activation, and how long it has left.

use std::time::Duration;

use crate::model::{BootTime, GenerationId};
use crate::store::{Store, Unconfirmed};

use super::{ManagerError, clock};

/// An activation that waits to be confirmed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Open {
    /// its event
    pub(super) event: u64,
    /// what it put in force
    pub(super) target: GenerationId,
    /// until when
    pub(super) by: BootTime,
    /// whether the way back was tried, in vain: a person has to look
    pub(super) tried: bool,
}

/// The activation that waits to be confirmed, if one does: the last of those that put something in force.
pub(super) fn open(store: &Store) -> Result<Option<Open>, ManagerError> {
    of(store, store.unconfirmed()?)
}

/// As [`open`], where it is known which event that is.
pub(super) fn of(store: &Store, unconfirmed: Option<Unconfirmed>) -> Result<Option<Open>, ManagerError> {
    let Some(Unconfirmed { event, target, tried }) = unconfirmed else { return Ok(None) };
    let by = store.outcome(event)?.and_then(|outcome| outcome.confirm_by);
    Ok(by.map(|by| Open { event, target, by, tried }))
}

impl Open {
    /// How long there is left to confirm it; none after a reboot.
    pub(super) fn left(&self, boot: &str) -> Duration {
        match self.by.boot == boot {
            true => Duration::from_millis(self.by.ms.saturating_sub(clock::since_boot())),
            false => Duration::ZERO,
        }
    }
}
