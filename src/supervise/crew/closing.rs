//! Closes sockets without losing anybody: first nobody new gets into their queues, and whoever waits there is served
//! by the processes that still accept; then those are told to finish. And takes lost ones back.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use crate::model::{Listen, Slot};
use crate::supervise::clock;
use crate::supervise::slots::{Act, Role};
use crate::supervise::sockets::of_process;

use super::{Check, Crew};

/// How often is looked whether a queue is empty.
const LOOK: Duration = Duration::from_millis(5);
/// A queue counts as empty after so long without anybody in it: who had begun to connect has arrived by then, on a
/// path with this round trip.
const QUIET: Duration = Duration::from_millis(100);
/// Processes that accept nothing for so long will not empty it.
const LIMIT: Duration = Duration::from_secs(2);

/// Sockets that are being emptied, and what follows then.
pub(super) struct Closing {
    keys: Vec<String>,
    /// ends those who still accept
    then: Vec<Act>,
    /// since when the queues have been empty
    empty: Option<Instant>,
    deadline: Instant,
}

impl Closing {
    /// When there is something to look for at the latest.
    pub(super) fn next(&self) -> Instant {
        self.deadline.min(clock::after(LOOK))
    }
}

impl Crew {
    /// Takes away every slot that is not in `keep`, and the sockets that none needs then; nobody is asked any more
    /// whether it is well. Sockets that somebody accepts from are emptied first, which goes on after this returns.
    pub(in crate::supervise) fn settle(&mut self, keep: &[Slot]) {
        let acts = self.table.settle(keep);
        for (n, live) in &mut self.live {
            if self.table.worker(*n).is_some_and(|worker| worker.ready) {
                live.check = Check::None;
            }
        }
        self.keeper.sockets.adjust(&self.table.accepted_sockets());
        let keys = self.keeper.sockets.surplus(&self.table.needed_sockets());
        let accepts = |act: &Act| match act {
            Act::Drain(n) => self.table.worker(*n).is_some_and(|worker| {
                worker.ready
                    && worker.sockets.iter().any(|key| keys.contains(key))
                    && self.live.contains_key(n)
            }),
            _ => false,
        };
        let (then, acts): (Vec<Act>, Vec<Act>) = acts.into_iter().partition(accepts);
        self.carry_out(acts);
        let (shared, keys): (Vec<String>, Vec<String>) =
            keys.into_iter().partition(|key| self.is_shared(key));
        let (sockets, link) = self.keeper.parts();
        shared.iter().for_each(|key| sockets.let_go(key, link));
        keys.iter().for_each(|key| sockets.shut_out(key, link));
        let wait = if then.is_empty() { Duration::ZERO } else { LIMIT };
        self.closing = Some(Closing { keys, then, empty: None, deadline: clock::after(wait) });
        self.on_time_to_close();
    }

    /// Goes on with what is being closed.
    pub(super) fn on_time_to_close(&mut self) {
        let Some(closing) = &mut self.closing else { return };
        let empty = closing.keys.iter().all(|key| self.keeper.sockets.is_empty(key));
        let since = empty.then(|| closing.empty.unwrap_or_else(clock::now));
        closing.empty = since;
        let quiet = since.is_some_and(|since| clock::now().saturating_duration_since(since) >= QUIET);
        if quiet || clock::until(closing.deadline).is_zero() {
            self.close_now();
        }
    }

    /// Ends what is being closed, without waiting any longer.
    pub(in crate::supervise) fn close_now(&mut self) {
        let Some(Closing { keys, then, .. }) = self.closing.take() else { return };
        // told first: whoever closes its listening socket in time does not meet its end
        self.carry_out(then);
        let (sockets, link) = self.keeper.parts();
        for key in keys {
            sockets.close(&key, link);
            self.table.outsiders.remove(&key);
        }
    }

    /// Lets go what was given once, is not any more, and no slot uses.
    pub(in crate::supervise) fn let_go_of_stale(&mut self) {
        for key in self.keeper.sockets.stale(|| self.table.needed_sockets()) {
            tracing::info!(key, "is not given any more");
            let (sockets, link) = self.keeper.parts();
            sockets.let_go(&key, link);
        }
    }

    /// Closes what was bound for a process that never got ready: nobody will accept from it.
    pub(super) fn close_unneeded(&mut self, listen: Option<&Listen>) {
        let Some(Listen::Sockets(bound)) = listen else { return };
        let needed = self.table.needed_sockets();
        for key in bound.values().map(crate::model::Socket::key).filter(|key| !needed.contains(key)) {
            let shared = self.is_shared(&key);
            let (sockets, link) = self.keeper.parts();
            match shared {
                true => sockets.let_go(&key, link),
                false if sockets.holds(&key) => {
                    sockets.shut_out(&key, link);
                    sockets.close(&key, link);
                }
                false => {}
            }
        }
    }

    /// Sees to it that there is a holder (`gone`: the one there was is not). Where it comes with what was lost, that is
    /// not lost any more.
    pub(in crate::supervise) fn tend_holder(&mut self, gone: bool) {
        if self.keeper.tend(gone) {
            self.take_back();
            self.let_go_of_stale();
        }
    }

    /// Looks whether everything is here that slots need, and takes back what is not from the workers that have it:
    /// holder and supervisor may have died together. What cannot be had stays lost as long as one of them serves.
    pub(super) fn take_back(&mut self) {
        let mut missing = self.table.needed_sockets();
        missing.retain(|key| !self.keeper.sockets.holds(key));
        if missing.is_empty() && self.keeper.sockets.lost().is_empty() {
            return;
        }
        let mut lost: BTreeMap<String, String> = BTreeMap::new();
        for (n, worker) in self.table.workers() {
            let has: Vec<&String> = worker.sockets.iter().filter(|key| missing.contains(*key)).collect();
            let Some(live) = self.live.get(&n).filter(|_| !has.is_empty()) else { continue };
            match of_process(live.pid, &live.pidfd) {
                // a worker that has closed it does not stand in the way of another one
                Ok(found) => {
                    let (sockets, link) = self.keeper.parts();
                    for found in found {
                        let is_it = |key: &&&String| match (self.table.cookies.get(**key), found.cookie) {
                            (Some(known), Some(cookie)) => *known == cookie,
                            _ => false,
                        };
                        let Some(key) = has.iter().find(is_it) else { continue };
                        missing.remove(*key);
                        sockets.take_back(key, found, link);
                    }
                }
                Err(error) if worker.ready && worker.role != Role::Leaving => {
                    lost.extend(has.into_iter().map(|key| (key.clone(), error.to_string())));
                }
                Err(_) => {}
            }
        }
        lost.retain(|key, _| missing.contains(key));
        self.keeper.sockets.set_lost(lost);
    }
}
