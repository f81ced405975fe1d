//! What becomes of a process that is told of another generation while it runs.

use crate::model::Ready;
use crate::supervise::wire::{News, WorkerSpec};

use super::{Accepted, Act, Table, Telling, Worker};

impl Table {
    /// Process `n` has taken what it was told of.
    pub(in crate::supervise) fn told(&mut self, n: u64) -> Vec<Act> {
        let Some(worker) = self.workers.get_mut(&n) else { return Vec::new() };
        let Some(Telling { event, spec }) = worker.telling.take() else { return Vec::new() };
        let (slot, generation) = (spec.slot.clone(), spec.generation);
        let Some(accepted) = self.places.get_mut(&slot).and_then(|place| place.accepted.as_mut()) else {
            return Vec::new();
        };
        (worker.event, worker.unsure, worker.unwell, worker.reloading) = (event, false, None, false);
        worker.watched = matches!(spec.ready, Ready::Probe(_));
        (accepted.event, accepted.started_for, accepted.exits) = (event, event, 0);
        accepted.spec = spec.clone();
        worker.spec = spec;
        vec![Act::Tell(News::Ready { slot, event, generation, note: String::new() })]
    }

    /// Process `n` has not taken what it was told of, for the reason `why`: it is replaced.
    pub(in crate::supervise) fn not_told(&mut self, n: u64, why: String) -> Vec<Act> {
        let telling = self.workers.get_mut(&n).and_then(|worker| worker.telling.take());
        let Some(Telling { event, spec }) = telling else { return Vec::new() };
        let mut acts = vec![Act::Hush(n)];
        acts.extend(self.bring(event, spec, Some(why)));
        acts
    }
}

/// Why the accepted process cannot be told of `spec`; `None`: it can.
pub(super) fn cannot_be_told(
    accepted: &Accepted,
    worker: &Worker,
    spec: &WorkerSpec,
) -> Option<&'static str> {
    let (old, new) = (&accepted.spec.launch, &spec.launch);
    if !worker.ready || worker.verdict.is_some() {
        return Some("it is not ready");
    }
    let talks = (accepted.spec.talks(), accepted.spec.watchdog) == (spec.talks(), spec.watchdog);
    let told = accepted.spec.tell.is_some() && spec.tell.is_some() && talks;
    let alike =
        (&old.command, &old.env, &old.mount, &old.surroundings, old.loaded.is_some(), &accepted.spec.listen)
            == (&new.command, &new.env, &new.mount, &new.surroundings, new.loaded.is_some(), &spec.listen);
    (!told || !alike).then_some("it was started in another way")
}
