//! What is in force only until somebody confirms it: which activation, and how long it has left.

use std::time::Duration;

use crate::model::{BootTime, GenerationId, Request, Verdict};
use crate::store::Store;

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
}

/// The activation that waits to be confirmed, if one does: the last of those that put something in force.
pub(super) fn open(store: &Store) -> Result<Option<Open>, ManagerError> {
    let mut waits = None;
    for entry in store.history()? {
        let Some(end) = entry.end else { continue };
        match (end.verdict, entry.request) {
            (Verdict::Unconfirmed, _) => waits = Some((entry.number, entry.target)),
            // what was restarted is in force as it was
            (Verdict::Good, Request::Restart) => {}
            (Verdict::Good | Verdict::PointerOnly, _) => waits = None,
            (
                Verdict::Unchanged
                | Verdict::Reverted
                | Verdict::Failed
                | Verdict::Refused
                | Verdict::Superseded
                | Verdict::Stuck,
                _,
            ) => {}
        }
    }
    let Some((event, target)) = waits else { return Ok(None) };
    let by = store.outcome(event)?.and_then(|outcome| outcome.confirm_by);
    Ok(by.map(|by| Open { event, target, by }))
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
