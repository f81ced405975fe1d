//! Bounds the time that a worker may ask for: systemd gives as much as is asked.

use std::time::Instant;

use crate::supervise::clock;
use crate::supervise::crew::heard;
use crate::supervise::doing::Doing as _;
use crate::supervise::slots::{Role, Worker};

use super::Crew;

/// Until when `worker` is waited for, from now on, where it may ask for more time.
pub(super) fn latest(worker: &Worker) -> Option<Instant> {
    let limit = match worker.role {
        Role::Candidate => worker.spec.start_timeout,
        Role::Leaving => worker.spec.grace_shutdown_time,
        Role::Accepted | Role::Staying => return None,
    };
    worker.spec.talks().then(|| clock::after(worker.spec.longest(limit)))
}

impl Crew {
    /// Ends who has asked for more time than there is.
    pub(super) fn on_latest(&mut self) {
        let is_due = |at: Instant| clock::until(at).is_zero();
        let due = self.live.iter().filter(|(_, live)| live.latest.is_some_and(is_due)).map(|(n, _)| *n);
        for n in due.collect::<Vec<u64>>() {
            let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker(n)) else { continue };
            live.latest = None;
            let limit = heard::limit(worker.spec.start_timeout, clock::now() - live.since);
            match worker.role {
                Role::Leaving => self.kill(n),
                Role::Candidate => {
                    // what it said last: when it is down, it says nothing any more
                    let unit = live.unit.clone();
                    let listed = self.bus.units(&[&unit]).unwrap_or_default();
                    if let Some(Err(error)) = listed.first().map(|listed| self.listen(n, listed)) {
                        tracing::debug!(%error, unit, "is not heard");
                    }
                    let acts = self.table.condemn(n, format!("was not ready within {limit}"));
                    self.carry_out(acts);
                }
                Role::Accepted | Role::Staying => {}
            }
        }
    }
}
