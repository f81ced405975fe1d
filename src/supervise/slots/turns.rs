//! Who may be there at once: candidates beside the accepted process, or one after the other.

use crate::model::{Replace, Slot};
use crate::supervise::wire::WorkerSpec;

use super::{Accepted, Act, Role, Table, backoff};

impl Table {
    /// Starts a candidate: beside the accepted process, or after that has ended.
    pub(super) fn bring(&mut self, event: u64, spec: WorkerSpec, instead: Option<String>) -> Vec<Act> {
        let slot = spec.slot.clone();
        let n = self.add(event, spec, Role::Candidate);
        self.workers.get_mut(&n).expect("it was added above").instead = instead;
        if !self.takes_turns(&slot) {
            return vec![Act::Start(n)];
        }
        let mut acts = Vec::new();
        let accepted = self.places.get_mut(&slot).and_then(|place| place.accepted.as_mut());
        if let Some(old) = accepted.and_then(|accepted| accepted.worker.take())
            && let Some(worker) = self.workers.get(&old)
        {
            let kill = !worker.ready;
            acts.push(self.dismiss(old, kill));
        }
        match self.is_left(&slot) {
            true => self.workers.get_mut(&n).expect("it was added above").held = true,
            false => acts.push(Act::Start(n)),
        }
        acts
    }

    /// Ends candidate `n` without news.
    pub(super) fn give_up(&mut self, n: u64) -> Option<Act> {
        let worker = self.workers.get_mut(&n)?;
        if worker.held {
            self.workers.remove(&n);
            return None;
        }
        Some(self.dismiss(n, true))
    }

    /// Whether `slot` may have one process at a time only.
    pub(super) fn takes_turns(&self, slot: &Slot) -> bool {
        let accepted = self.places.get(slot).and_then(|place| place.accepted.as_ref());
        let workers = self.workers.values().map(|worker| &worker.spec).filter(|spec| spec.slot == *slot);
        accepted
            .map(|accepted| &accepted.spec)
            .into_iter()
            .chain(workers)
            .any(|spec| spec.replace == Replace::StopFirst)
    }

    pub(super) fn has_candidate(&self, slot: &Slot) -> bool {
        self.workers.values().any(|worker| worker.role == Role::Candidate && worker.spec.slot == *slot)
    }

    pub(super) fn is_left(&self, slot: &Slot) -> bool {
        self.workers.values().any(|worker| worker.role == Role::Leaving && worker.spec.slot == *slot)
    }

    /// Whose turn it is where nobody leaves `slot` any more: the candidate's, or again the accepted one's.
    pub(super) fn next_turn(&mut self, slot: &Slot) -> Option<Act> {
        if self.is_left(slot) {
            return None;
        }
        match self.candidate_mut(slot) {
            Some((n, candidate)) if candidate.held => {
                candidate.held = false;
                Some(Act::Start(n))
            }
            Some(_) => None,
            None => self.fall_back(slot.clone()),
        }
    }

    /// After a candidate: the accepted one, which was not started again meanwhile.
    pub(super) fn fall_back(&self, slot: Slot) -> Option<Act> {
        let place = self.places.get(&slot)?;
        let waits = |accepted: &&Accepted| accepted.worker.is_none() && !accepted.rests;
        let accepted = place.accepted.as_ref().filter(waits)?;
        let delay = backoff(place.failures, &accepted.spec.restart);
        Some(Act::Restart(slot, delay))
    }
}
