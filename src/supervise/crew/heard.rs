//! What workers say on `NOTIFY_SOCKET`, and what becomes of those that say nothing any more.

use std::time::{Duration, Instant};

use rustix::process::Signal;

use crate::model::Ready;
use crate::supervise::readiness::{self, Message};
use crate::supervise::slots::Role;
use crate::supervise::{clock, process};

use super::{Check, Crew};

/// Whether `READY=1` is about what a worker was told, or about a reload that had begun before.
pub(in crate::supervise) struct Reload {
    /// when it was told
    told: u64,
    /// the last that is known to have begun did so before that
    stale: bool,
}

impl Reload {
    /// It is told now; `reloading`: while it reloads already.
    pub(super) fn told(reloading: bool) -> Reload {
        Reload { told: clock::monotonic_usec(), stale: reloading }
    }

    /// Where only states are seen: whether a reload that has begun since it was told is over. `reloading`: it does, since
    /// `changed` or a later time; else it has not since `changed`.
    pub(in crate::supervise) fn is_over(&mut self, reloading: bool, changed: u64) -> bool {
        if changed <= self.told {
            return false;
        }
        match (reloading, self.stale) {
            (true, _) => self.stale = false,
            // that was the end of the one before
            (false, true) => (self.told, self.stale) = (changed, false),
            (false, false) => return true,
        }
        false
    }
}

impl Crew {
    /// Reads what workers have said.
    pub(in crate::supervise) fn on_messages(&mut self) {
        // bounded, so that somebody who never stops talking does not stop the loop
        for _ in 0..64 {
            let Some(message) = self.notify.receive() else { return };
            let from = self.live.iter().find(|(_, live)| readiness::speaks_for(message.sender, live.pid));
            match from.map(|(&n, _)| n) {
                Some(n) => self.heard(n, message),
                None => tracing::debug!(pid = message.sender, "a message of no worker was dropped"),
            }
        }
    }

    /// Process `n` has said `message`.
    fn heard(&mut self, n: u64, message: Message) {
        let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker_mut(n)) else { return };
        if !message.ignored.is_empty() {
            tracing::debug!(slot = %worker.spec.slot, pid = live.pid, words = ?message.ignored, "means nothing here");
        }
        if let Some(status) = message.status {
            worker.note = status;
        }
        if let Some(more) = message.more_time {
            let until = clock::after(more);
            live.deadline = live.deadline.map(|deadline| deadline.max(until.min(live.latest)));
            if let Some(telling) = &mut live.telling {
                telling.deadline = telling.deadline.max(until.min(telling.latest));
            }
        }
        if message.alive && live.silence.is_some() {
            live.silence = worker.spec.watchdog.map(clock::after);
        }
        let mut is_told = false;
        if worker.ready {
            if let Some(since) = message.reloading {
                worker.reloading = true;
                if let Some(Check::Message(reload)) = live.telling.as_mut().map(|telling| &mut telling.check)
                {
                    reload.stale = since.is_some_and(|since| since < reload.told);
                }
            }
            if message.ready {
                worker.reloading = false;
                let check = live.telling.as_ref().map(|telling| &telling.check);
                is_told = matches!(check, Some(Check::Message(reload)) if !reload.stale);
            }
        }
        let waits = !worker.ready && worker.spec.ready == Ready::Notify;
        if message.gives_up {
            self.abort(n, "has given up (WATCHDOG=trigger)".to_owned());
        } else if message.ready && waits {
            self.became_ready(n);
        } else if is_told {
            self.has_taken(n, Ok(()));
        }
    }

    /// Ends who has been silent for too long.
    pub(super) fn on_silence(&mut self) {
        let is_due = |silence: Option<Instant>| silence.is_some_and(|at| clock::until(at).is_zero());
        let silent = self.live.iter().filter(|(_, live)| is_due(live.silence)).map(|(n, _)| *n);
        for n in silent.collect::<Vec<u64>>() {
            let limit = self.table.worker(n).and_then(|worker| worker.spec.watchdog).unwrap_or_default();
            self.abort(n, format!("was silent for {limit:?} (watchdog)"));
        }
    }

    /// Has process `n` end with what it can leave of itself for whoever looks for the reason: by SIGABRT, and after its
    /// grace time by SIGKILL.
    fn abort(&mut self, n: u64, why: String) {
        let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker_mut(n)) else { return };
        if worker.role == Role::Leaving || worker.verdict.is_some() {
            return;
        }
        tracing::warn!(slot = %worker.spec.slot, pid = live.pid, why, "is aborted");
        worker.verdict = Some(why.clone());
        worker.unwell = Some(why);
        process::signal(&live.pidfd, Signal::ABORT);
        let deadline = clock::after(worker.spec.grace_shutdown_time);
        (live.check, live.deadline, live.latest) = (Check::None, Some(deadline), deadline);
        (live.silence, live.telling) = (None, None);
    }
}

/// A limit as the pipeline has it, and what became of it.
pub(in crate::supervise) fn limit(limit: Duration, waited: Duration) -> String {
    // the two are taken from the clock one after the other
    if waited < limit + Duration::from_millis(100) {
        return format!("{limit:?}");
    }
    format!("{} ms, to which it had {limit:?} put off", waited.as_millis())
}

#[cfg(test)]
mod tests {
    use super::Reload;

    #[test]
    fn w40_a_reload_is_over_when_one_that_began_since_has_ended() {
        let mut plain = Reload { told: 10, stale: false };
        assert!(!plain.is_over(false, 9) && !plain.is_over(true, 11) && plain.is_over(false, 12));
        // both changes at once
        assert!(Reload { told: 10, stale: false }.is_over(false, 12));
        let mut stale = Reload { told: 10, stale: true };
        assert!(!stale.is_over(true, 9) && !stale.is_over(false, 11) && !stale.is_over(false, 11));
        assert!(!stale.is_over(true, 12) && stale.is_over(false, 13));
        // the end of the one before was not seen
        let mut stale = Reload { told: 10, stale: true };
        assert!(!stale.is_over(true, 12) && stale.is_over(false, 13));
    }
}
