//! What the table says to those who only look: reports, and what must be kept for it.

use std::collections::BTreeSet;
use std::path::PathBuf;

use crate::model::{Listen, Socket};
use crate::supervise::sockets::given::is_at;
use crate::supervise::wire::{WorkerReport, WorkerSpec, WorkerState};

use super::{Role, Table};

impl Table {
    /// Every socket that some slot still needs.
    pub(in crate::supervise) fn needed_sockets(&self) -> BTreeSet<String> {
        let mut needed = BTreeSet::new();
        for worker in self.workers.values().filter(|worker| worker.role != Role::Leaving) {
            needed.extend(worker.sockets.iter().cloned());
        }
        for accepted in self.places.values().filter_map(|place| place.accepted.as_ref()) {
            needed.extend(accepted.sockets.iter().cloned());
            if let Listen::Sockets(sockets) = &accepted.spec.listen {
                // in the place of one that is given none was bound
                let is_given =
                    |socket: &&Socket| accepted.sockets.iter().any(|key| is_at(key, &socket.address));
                needed.extend(sockets.values().filter(|socket| !is_given(socket)).map(Socket::key));
            }
        }
        needed
    }

    /// The sockets that were bound for accepted processes, as their pipelines say.
    pub(in crate::supervise) fn accepted_sockets(&self) -> Vec<Socket> {
        let listens = self.places.values().filter_map(|place| Some(&place.accepted.as_ref()?.spec.listen));
        let mut all: Vec<Socket> = Vec::new();
        for listen in listens {
            let Listen::Sockets(sockets) = listen else { continue };
            for socket in sockets.values() {
                if !all.contains(socket) {
                    all.push(socket.clone());
                }
            }
        }
        all
    }

    /// The highest number of an event that is remembered.
    pub(in crate::supervise) fn last_event(&self) -> u64 {
        let accepted = self.places.values().filter_map(|place| place.accepted.as_ref());
        let accepted = accepted.flat_map(|accepted| [accepted.event, accepted.started_for]);
        let told = self.workers.values().filter_map(|worker| worker.telling.as_ref());
        let started = self.workers.values().map(|worker| worker.event);
        started.chain(told.map(|telling| telling.event)).chain(accepted).max().unwrap_or_default()
    }

    /// Every directory that must not be collected.
    pub(in crate::supervise) fn needed_leases(&self) -> BTreeSet<PathBuf> {
        let accepted = self.places.values().filter_map(|place| place.accepted.as_ref()).map(|a| &a.spec);
        let told = self.workers.values().filter_map(|worker| worker.telling.as_ref()).map(|t| &t.spec);
        let specs = self.workers.values().map(|worker| &worker.spec).chain(accepted).chain(told);
        specs.flat_map(|spec| spec.leases.iter().cloned()).collect()
    }

    /// Everything, by slot, then by start.
    pub(in crate::supervise) fn report(&self) -> Vec<WorkerReport> {
        let mut all: Vec<(u64, WorkerReport)> = Vec::new();
        for (n, worker) in &self.workers {
            let place = self.places.get(&worker.spec.slot);
            let accepted = place.and_then(|place| place.accepted.as_ref());
            let accepted = accepted.filter(|accepted| accepted.worker == Some(*n));
            let note = match (&worker.note, place) {
                (note, Some(place)) if note.is_empty() && worker.role == Role::Accepted => &place.note,
                (note, _) => note,
            };
            let state = match (worker.role, worker.ready) {
                (Role::Leaving | Role::Staying, _) => WorkerState::Draining,
                (_, true) => WorkerState::Ready,
                // whoever keeps it starts it again
                (Role::Accepted, false) if worker.pid.is_none() => WorkerState::Failed,
                (_, false) => WorkerState::Starting,
            };
            all.push((
                *n,
                WorkerReport {
                    slot: worker.spec.slot.clone(),
                    pid: worker.pid,
                    started: worker.started,
                    generation: worker.spec.generation,
                    loaded: worker.spec.loaded,
                    state,
                    accepted: worker.role == Role::Accepted,
                    exits: place.map_or(0, |place| place.exits),
                    exits_since: accepted.map_or(0, |accepted| accepted.exits),
                    started_for: accepted.map_or(worker.event, |accepted| accepted.started_for),
                    left: worker.left,
                    connections: None,
                    outdated: None,
                    note: note.clone(),
                    grace_ms: grace_ms(&worker.spec),
                    unwell: match worker.unsure {
                        true => Some("it was told of another generation, and has not taken it".to_owned()),
                        false if worker.unwell.is_none() && worker.reloading => Some("reloading".to_owned()),
                        false => worker.unwell.clone(),
                    },
                },
            ));
        }
        for (slot, place) in &self.places {
            let Some(accepted) = place.accepted.as_ref().filter(|a| a.worker.is_none()) else { continue };
            all.push((
                0,
                WorkerReport {
                    slot: slot.clone(),
                    pid: None,
                    started: None,
                    generation: accepted.spec.generation,
                    loaded: accepted.spec.loaded,
                    state: match self.takes_turns(slot) && (self.is_left(slot) || self.has_candidate(slot)) {
                        true => WorkerState::Stopped,
                        false if accepted.rests => WorkerState::Ended,
                        false => WorkerState::Failed,
                    },
                    accepted: true,
                    exits: place.exits,
                    exits_since: accepted.exits,
                    started_for: accepted.started_for,
                    left: None,
                    connections: None,
                    outdated: None,
                    note: place.note.clone(),
                    grace_ms: grace_ms(&accepted.spec),
                    unwell: None,
                },
            ));
        }
        all.sort_by(|(a, x), (b, y)| (&x.slot, a).cmp(&(&y.slot, b)));
        all.into_iter().map(|(_, report)| report).collect()
    }
}

fn grace_ms(spec: &WorkerSpec) -> u64 {
    u64::try_from(spec.longest(spec.grace_shutdown_time).as_millis()).unwrap_or(u64::MAX)
}
