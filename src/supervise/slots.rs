//! Which slot runs what, and what follows from news about it. Pure: transitions return [`Act`]s, which
//! the supervisor carries out after it has recorded the table.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{Ready, Restart, RestartOn, Slot};

use super::wire::{News, WorkerSpec};

/// A life of this length wipes out the crashes before it.
const QUIET_LIFE: Duration = Duration::from_secs(30);
/// More leavers than this in one slot are not waited for: the oldest is killed.
const LEAVERS: usize = 8;

/// What a process is to its slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Role {
    /// shall become the accepted one when it is ready
    Candidate,
    /// serves, or stands in for one that did
    Accepted,
    /// gave its place, and serves on, until the table settles, what nobody else accepts from
    Staying,
    /// asked to finish, or being killed; nobody waits for news about it
    Leaving,
}

/// One process, from before its start until it is gone.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Worker {
    /// the event it was last ensured for
    pub(super) event: u64,
    /// the event that had it started
    #[serde(default)]
    pub(super) started_for: u64,
    pub(super) spec: WorkerSpec,
    pub(super) role: Role,
    pub(super) ready: bool,
    /// a candidate that is started when nobody leaves the slot any more
    #[serde(default)]
    pub(super) held: bool,
    /// leaving by SIGKILL, not by its stop signal
    pub(super) kill: bool,
    /// a leaver has had its stop signal: it gets no second one
    pub(super) told: bool,
    /// since when it leaves, in seconds since boot
    #[serde(default)]
    pub(super) left: Option<u64>,
    /// why we ended it, where we did
    pub(super) verdict: Option<String>,
    pub(super) pid: Option<u32>,
    pub(super) started: Option<u64>,
    /// where its output begins in its log
    pub(super) log_from: u64,
    /// keys of the sockets it was given or has bound
    pub(super) sockets: Vec<String>,
    pub(super) note: String,
    /// it is asked again and again, until the table settles
    #[serde(default)]
    pub(super) watched: bool,
    /// ready, but does not do its work, and why
    #[serde(default)]
    pub(super) unwell: Option<String>,
    /// it has said that it reloads; a supervisor that comes later may have missed its end
    #[serde(skip)]
    pub(super) reloading: bool,
    /// what it is being told of
    #[serde(default)]
    pub(super) telling: Option<Telling>,
    /// it was told of something that it has not taken: what it runs is not known
    #[serde(default)]
    pub(super) unsure: bool,
    /// why it is there although another one was to be told in place
    #[serde(default)]
    instead: Option<String>,
}

/// What a running process is told of.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Telling {
    event: u64,
    /// as it shall run when it has taken it
    pub(super) spec: WorkerSpec,
}

/// What a slot has promised to run.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct Accepted {
    spec: WorkerSpec,
    /// the event it was last ensured for
    event: u64,
    /// the event that had it started
    started_for: u64,
    /// its process; `None` while it waits to be started again
    worker: Option<u64>,
    /// how often its process has ended unasked
    #[serde(default)]
    exits: u64,
    /// it has ended, and is not started again before somebody asks for it
    #[serde(default)]
    rests: bool,
    /// somebody waits to hear that it is ready
    awaited: Option<u64>,
    sockets: Vec<String>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Place {
    accepted: Option<Accepted>,
    exits: u64,
    note: String,
    #[serde(skip)]
    failures: u32,
}

/// All slots and all processes.
#[derive(Debug, Default, Serialize, Deserialize)]
pub(super) struct Table {
    /// the last number given to a process: never used twice in one boot
    counter: u64,
    #[serde(with = "pairs")]
    places: BTreeMap<Slot, Place>,
    workers: BTreeMap<u64, Worker>,
    /// sockets of ours, by key, that a process (pid, start) has which is none of ours
    #[serde(default)]
    pub(super) outsiders: BTreeMap<String, (u32, u64)>,
    /// which socket each key is, by the cookie that the kernel has given it for ever
    #[serde(default)]
    pub(super) cookies: BTreeMap<String, u64>,
    /// keys of the sockets that are being closed
    #[serde(default)]
    pub(super) closing: Vec<String>,
    /// what workers listen on and nobody could take back from them, by key, and why
    #[serde(default)]
    pub(super) lost: BTreeMap<String, String>,
}

/// What the supervisor shall do.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Act {
    /// start the process of this number
    Start(u64),
    /// ask it to finish, within its grace time
    Drain(u64),
    /// kill it with its process group
    Kill(u64),
    /// tell it what [`Worker::telling`] says
    Inform(u64),
    /// stop telling it; its links lead again to what it has accepted
    Hush(u64),
    /// let everybody know
    Tell(News),
    /// call [`Table::restart`] for the slot after this time
    Restart(Slot, Duration),
}

impl Table {
    /// The process of number `n`.
    pub(super) fn worker(&self, n: u64) -> Option<&Worker> {
        self.workers.get(&n)
    }

    /// The same, to note facts about it.
    pub(super) fn worker_mut(&mut self, n: u64) -> Option<&mut Worker> {
        self.workers.get_mut(&n)
    }

    /// Whether nothing runs, and nothing is to.
    pub(super) fn is_empty(&self) -> bool {
        self.places.is_empty() && self.workers.is_empty()
    }

    /// All processes by number.
    pub(super) fn workers(&self) -> impl Iterator<Item = (u64, &Worker)> {
        self.workers.iter().map(|(n, worker)| (*n, worker))
    }

    /// `slot` shall run `spec`: see [`super::Ask::Ensure`].
    pub(super) fn ensure(&mut self, event: u64, spec: WorkerSpec, force: bool) -> Vec<Act> {
        self.want(event, spec, force, false)
    }

    /// The same, by telling the accepted process, where that can be done.
    pub(super) fn ensure_in_place(&mut self, event: u64, spec: WorkerSpec) -> Vec<Act> {
        self.want(event, spec, false, true)
    }

    fn want(&mut self, event: u64, spec: WorkerSpec, force: bool, in_place: bool) -> Vec<Act> {
        let slot = spec.slot.clone();
        let mut acts = Vec::new();
        if let Some((n, candidate)) = self.candidate_mut(&slot) {
            if candidate.event == event && same(&candidate.spec, &spec) {
                return acts; // on its way
            }
            acts.extend(self.give_up(n));
        }
        for (n, worker) in self.workers.iter_mut().filter(|(_, worker)| worker.spec.slot == slot) {
            let Some(telling) = &worker.telling else { continue };
            if in_place && telling.event == event && same(&telling.spec, &spec) {
                return acts; // on its way
            }
            worker.telling = None;
            acts.push(Act::Hush(*n));
        }
        let accepted = self.places.get(&slot).and_then(|place| place.accepted.as_ref());
        let running = accepted.and_then(|accepted| Some((accepted.worker?, accepted)));
        let running = running.and_then(|(n, accepted)| Some((n, accepted, self.workers.get(&n)?)));
        let is_unsure = running.is_some_and(|(_, _, worker)| worker.unsure);
        let told = running.map(|(n, accepted, worker)| (n, tell::cannot_be_told(accepted, worker, &spec)));
        let place = self.places.entry(slot.clone()).or_default();
        if let Some(accepted) = &mut place.accepted
            && !is_unsure
            && same(&accepted.spec, &spec)
            && (!force || accepted.started_for == event)
            && (accepted.spec == spec || is_ready(&self.workers, accepted))
        {
            accepted.event = event;
            let n = accepted.worker;
            match n.and_then(|n| self.workers.get_mut(&n)) {
                Some(worker) if worker.ready => {
                    worker.event = event;
                    let generation = worker.spec.generation;
                    acts.push(Act::Tell(News::Ready { slot, event, generation, note: String::new() }));
                }
                Some(worker) => {
                    worker.event = event;
                    accepted.awaited = Some(event);
                }
                None => {
                    accepted.awaited = Some(event);
                    acts.extend(self.restart(&slot));
                }
            }
            return acts;
        }
        match told.filter(|_| in_place && !force) {
            Some((n, None)) => {
                let worker = self.workers.get_mut(&n).expect("it was looked at above");
                // from here on nobody knows what it runs, until it says
                (worker.telling, worker.unsure) = (Some(Telling { event, spec }), true);
                acts.push(Act::Inform(n));
            }
            Some((_, Some(why))) => acts.extend(self.bring(event, spec, Some(why.to_owned()))),
            None => acts.extend(self.bring(event, spec, None)),
        }
        acts
    }

    /// Gives up the candidates of `event`.
    pub(super) fn abandon(&mut self, event: u64) -> Vec<Act> {
        let of_event = |(n, worker): (&u64, &Worker)| {
            (worker.event == event && worker.role == Role::Candidate).then(|| (*n, worker.spec.slot.clone()))
        };
        let candidates: Vec<(u64, Slot)> = self.workers.iter().filter_map(of_event).collect();
        let mut acts = Vec::new();
        for (n, worker) in &mut self.workers {
            if worker.telling.as_ref().is_some_and(|telling| telling.event == event) {
                worker.telling = None;
                acts.push(Act::Hush(*n));
            }
        }
        for (n, slot) in candidates {
            match self.give_up(n) {
                Some(kill) => acts.push(kill),
                None => acts.extend(self.next_turn(&slot)),
            }
        }
        for place in self.places.values_mut() {
            if let Some(accepted) = &mut place.accepted {
                accepted.awaited = accepted.awaited.filter(|&awaited| awaited != event);
            }
        }
        self.forget_empty();
        acts
    }

    /// Takes away every slot that is not in `keep`.
    pub(super) fn settle(&mut self, keep: &[Slot]) -> Vec<Act> {
        let gone = |slot: &Slot| !keep.contains(slot);
        let mut acts = Vec::new();
        let numbers: Vec<u64> = self.workers.keys().copied().collect();
        for n in numbers {
            let worker = &self.workers[&n];
            match worker.role {
                Role::Candidate if gone(&worker.spec.slot) => acts.extend(self.give_up(n)),
                Role::Accepted if gone(&worker.spec.slot) => {
                    let kill = !worker.ready;
                    acts.push(self.dismiss(n, kill));
                }
                Role::Staying => acts.push(self.dismiss(n, false)),
                Role::Candidate | Role::Accepted | Role::Leaving => {}
            }
        }
        for worker in self.workers.values_mut() {
            (worker.watched, worker.unwell) = (false, None);
        }
        self.places.retain(|slot, _| !gone(slot));
        acts
    }

    /// Process `n` is ready and holds `sockets`.
    pub(super) fn ready(&mut self, n: u64, sockets: Vec<String>) -> Vec<Act> {
        let Some(worker) = self.workers.get_mut(&n).filter(|w| !w.ready && w.verdict.is_none()) else {
            return Vec::new();
        };
        let (slot, event) = (worker.spec.slot.clone(), worker.event);
        let generation = worker.spec.generation;
        let mut acts = Vec::new();
        match worker.role {
            Role::Leaving | Role::Staying => return acts,
            Role::Candidate => {
                (worker.ready, worker.role, worker.sockets) = (true, Role::Accepted, sockets.clone());
                worker.watched = matches!(worker.spec.ready, Ready::Probe(_));
                let worker_note = worker.instead.take();
                let accepted = Accepted {
                    spec: worker.spec.clone(),
                    event,
                    started_for: event,
                    worker: Some(n),
                    exits: 0,
                    rests: false,
                    awaited: None,
                    sockets,
                };
                let place = self.places.entry(slot.clone()).or_default();
                (place.failures, place.note) = (0, String::new());
                let old = place.accepted.replace(accepted).and_then(|old| old.worker);
                let note =
                    worker_note.map(|why| format!("replaced, since it could not be told in place: {why}"));
                let note = note.unwrap_or_default();
                acts.push(Act::Tell(News::Ready { slot: slot.clone(), event, generation, note }));
                if let Some(old) = old.filter(|old| self.workers.contains_key(old)) {
                    if self.serves_alone(old) {
                        self.workers.get_mut(&old).expect("it is there").role = Role::Staying;
                    } else {
                        let kill = !self.workers[&old].ready;
                        acts.push(self.dismiss(old, kill));
                        acts.extend(self.cut_leavers(&slot));
                    }
                }
            }
            Role::Accepted => {
                (worker.ready, worker.sockets) = (true, sockets.clone());
                let accepted = self.places.get_mut(&slot).and_then(|place| place.accepted.as_mut());
                if let Some(accepted) = accepted {
                    accepted.sockets = sockets;
                    if let Some(event) = accepted.awaited.take() {
                        acts.push(Act::Tell(News::Ready { slot, event, generation, note: String::new() }));
                    }
                }
            }
        }
        acts
    }

    /// What was last heard of process `n`, which is ready: nothing bad, or why it does not do its work.
    pub(super) fn feels(&mut self, n: u64, unwell: Option<String>) {
        if let Some(worker) = self.workers.get_mut(&n) {
            worker.unwell = unwell;
        }
    }

    /// Process `n`, which is ready, is as good as dead. It is left alone: what follows is for others to say.
    pub(super) fn failing(&mut self, n: u64, why: String) -> Vec<Act> {
        let Some(worker) = self.workers.get_mut(&n).filter(|w| w.role == Role::Accepted) else {
            return Vec::new();
        };
        worker.unwell = Some(why.clone());
        let (slot, event, generation) = (worker.spec.slot.clone(), worker.event, worker.spec.generation);
        vec![Act::Tell(News::Unwell { slot, event, generation, why })]
    }

    /// Process `n` did not get ready, for the reason `why`. It stays what it is until it is gone.
    pub(super) fn condemn(&mut self, n: u64, why: String) -> Vec<Act> {
        match self.workers.get_mut(&n).filter(|worker| worker.verdict.is_none()) {
            Some(worker) => {
                worker.verdict = Some(why);
                vec![Act::Kill(n)]
            }
            None => Vec::new(),
        }
    }

    /// Process `n` has failed after a life of `lived`: see [`Table::ended`].
    pub(super) fn gone(&mut self, n: u64, why: String, lived: Duration) -> Vec<Act> {
        self.ended(n, why, lived, false)
    }

    /// Process `n` is gone after a life of `lived`; `why` says how it ended, with its last output; `well`: by
    /// itself, with status 0.
    pub(super) fn ended(&mut self, n: u64, why: String, lived: Duration, well: bool) -> Vec<Act> {
        let Some(worker) = self.workers.get(&n) else { return Vec::new() };
        let turns = self.takes_turns(&worker.spec.slot);
        let worker = self.workers.remove(&n).expect("it was there above");
        let (slot, generation) = (worker.spec.slot.clone(), worker.spec.generation);
        let mut acts = Vec::new();
        match worker.role {
            Role::Leaving if turns => acts.extend(self.next_turn(&slot)),
            Role::Leaving if worker.kill => acts.extend(self.fall_back(slot)),
            Role::Leaving | Role::Staying => {}
            Role::Candidate => {
                let why = match &worker.instead {
                    Some(instead) => format!(
                        "{why}\nit was started since the running one could not be told in place: {instead}"
                    ),
                    None => why,
                };
                acts.push(Act::Tell(News::Failed {
                    slot: slot.clone(),
                    event: worker.event,
                    generation,
                    why,
                }));
                acts.extend(self.fall_back(slot));
            }
            Role::Accepted => {
                let Some(place) = self.places.get_mut(&slot) else { return acts };
                let Some(accepted) = &mut place.accepted else { return acts };
                place.exits += 1;
                accepted.exits += 1;
                place.note.clone_from(&why);
                place.failures = if lived >= QUIET_LIFE { 0 } else { place.failures };
                let delay = backoff(place.failures, &accepted.spec.restart);
                place.failures += 1;
                accepted.worker = None;
                accepted.rests = match accepted.spec.restart.on {
                    RestartOn::Failure => well && worker.ready,
                    RestartOn::Always => false,
                    RestartOn::Never => true,
                };
                let rests = accepted.rests;
                acts.push(Act::Tell(match accepted.awaited.take() {
                    Some(event) => News::Failed { slot: slot.clone(), event, generation, why },
                    None => News::Exited { slot: slot.clone(), event: accepted.event, generation, why },
                }));
                acts.extend((!rests).then_some(Act::Restart(slot, delay)));
                if let Some(Telling { event, spec }) = worker.telling {
                    acts.extend(self.bring(event, spec, Some("it ended".to_owned())));
                }
            }
        }
        self.forget_empty();
        acts
    }

    /// The accepted process `n` has ended for the reason `why`, and whoever keeps it starts it again under the same
    /// number.
    pub(super) fn fell(&mut self, n: u64, why: String) -> Vec<Act> {
        let Some(worker) = self.workers.get_mut(&n).filter(|w| w.role == Role::Accepted) else {
            return Vec::new();
        };
        (worker.ready, worker.pid, worker.started, worker.unwell) = (false, None, None, None);
        let telling = worker.telling.take();
        let (slot, generation) = (worker.spec.slot.clone(), worker.spec.generation);
        let Some(place) = self.places.get_mut(&slot) else { return Vec::new() };
        let Some(accepted) = &mut place.accepted else { return Vec::new() };
        place.exits += 1;
        accepted.exits += 1;
        place.note.clone_from(&why);
        let mut acts = vec![Act::Tell(match accepted.awaited.take() {
            Some(event) => News::Failed { slot: slot.clone(), event, generation, why },
            None => News::Exited { slot: slot.clone(), event: accepted.event, generation, why },
        })];
        if let Some(Telling { event, spec }) = telling {
            acts.push(Act::Hush(n));
            acts.extend(self.bring(event, spec, Some("it ended".to_owned())));
        }
        acts
    }

    /// What is to be done for slots in which nothing is on its way: whose turn it is, and what waits for its next
    /// start.
    pub(super) fn resume(&mut self) -> Vec<Act> {
        let slots: Vec<Slot> = self.places.keys().cloned().collect();
        let workers =
            self.workers.values().filter(|worker| worker.held).map(|worker| worker.spec.slot.clone());
        let mut slots: BTreeSet<Slot> = slots.into_iter().chain(workers).collect();
        let mut acts = Vec::new();
        for slot in std::mem::take(&mut slots) {
            let next = match self.takes_turns(&slot) {
                true => self.next_turn(&slot),
                false => self.fall_back(slot),
            };
            match next {
                Some(Act::Restart(slot, _)) => acts.push(Act::Restart(slot, Duration::ZERO)),
                other => acts.extend(other),
            }
        }
        acts
    }

    /// Starts what `slot` has accepted where no process of it is there, and no candidate that is to run the
    /// same in another way.
    pub(super) fn restart(&mut self, slot: &Slot) -> Vec<Act> {
        if self.takes_turns(slot) && (self.is_left(slot) || self.has_candidate(slot)) {
            return Vec::new(); // not its turn
        }
        let candidate = self.candidate_mut(slot).map(|(_, candidate)| candidate.spec.clone());
        let accepted = self.places.get(slot).and_then(|place| place.accepted.as_ref());
        let waits = |accepted: &&Accepted| {
            accepted.worker.is_none() && candidate.is_none_or(|candidate| !same(&candidate, &accepted.spec))
        };
        let Some(accepted) = accepted.filter(waits) else { return Vec::new() };
        let n = self.add(accepted.event, accepted.spec.clone(), Role::Accepted);
        let accepted = self.places.get_mut(slot).and_then(|place| place.accepted.as_mut());
        let accepted = accepted.expect("it was there above");
        (accepted.worker, accepted.rests) = (Some(n), false);
        vec![Act::Start(n)]
    }

    /// Goes on where a dead supervisor left off; `alive` are the processes that still are the ones
    /// recorded. What is ready or draining goes on; what was starting is killed and started again.
    pub(super) fn adopt(&mut self, alive: &BTreeSet<u64>) -> Vec<Act> {
        let mut acts = Vec::new();
        let mut candidates = Vec::new();
        let numbers: Vec<u64> = self.workers.keys().copied().collect();
        for n in numbers {
            let worker = self.workers[&n].clone();
            let lives = alive.contains(&n);
            match worker.role {
                Role::Leaving if lives && worker.kill => acts.push(Act::Kill(n)),
                Role::Leaving if lives => acts.push(Act::Drain(n)),
                Role::Staying if lives => {}
                Role::Leaving | Role::Staying => drop(self.workers.remove(&n)),
                Role::Accepted if worker.ready && lives => {
                    if let Some(Telling { event, spec }) =
                        self.workers.get_mut(&n).and_then(|worker| worker.telling.take())
                    {
                        acts.push(Act::Hush(n));
                        candidates.push((event, spec, Some("the supervisor ended meanwhile".to_owned())));
                    }
                }
                Role::Accepted if worker.ready => {
                    let why = "ended while no supervisor was there".to_owned();
                    acts.extend(self.gone(n, why, QUIET_LIFE));
                }
                Role::Candidate | Role::Accepted => {
                    if lives {
                        acts.push(self.dismiss(n, true));
                    } else {
                        self.workers.remove(&n);
                    }
                    let slot = worker.spec.slot.clone();
                    if worker.role == Role::Candidate {
                        candidates.push((worker.event, worker.spec, worker.instead));
                    } else if let Some(accepted) =
                        self.places.get_mut(&slot).and_then(|place| place.accepted.as_mut())
                    {
                        accepted.worker = None;
                        acts.push(Act::Restart(slot, Duration::ZERO));
                    }
                }
            }
        }
        for (event, spec, why) in candidates {
            acts.extend(self.bring(event, spec, why));
        }
        // those that waited for their next start
        for (slot, place) in &self.places {
            let waits = |accepted: &Accepted| accepted.worker.is_none() && !accepted.rests;
            let waits = place.accepted.as_ref().is_some_and(waits);
            let restart = Act::Restart(slot.clone(), Duration::ZERO);
            if waits && !acts.iter().any(|act| matches!(act, Act::Restart(other, _) if other == slot)) {
                acts.push(restart);
            }
        }
        acts
    }

    fn add(&mut self, event: u64, spec: WorkerSpec, role: Role) -> u64 {
        self.counter += 1;
        self.workers.insert(
            self.counter,
            Worker {
                event,
                started_for: event,
                spec,
                role,
                ready: false,
                held: false,
                kill: false,
                told: false,
                left: None,
                verdict: None,
                pid: None,
                started: None,
                log_from: 0,
                sockets: Vec::new(),
                note: String::new(),
                watched: false,
                unwell: None,
                reloading: false,
                telling: None,
                unsure: false,
                instead: None,
            },
        );
        self.counter
    }

    fn candidate_mut(&mut self, slot: &Slot) -> Option<(u64, &mut Worker)> {
        self.workers
            .iter_mut()
            .find(|(_, worker)| worker.role == Role::Candidate && worker.spec.slot == *slot)
            .map(|(n, worker)| (*n, worker))
    }

    fn dismiss(&mut self, n: u64, kill: bool) -> Act {
        if let Some(worker) = self.workers.get_mut(&n) {
            (worker.role, worker.kill, worker.telling) = (Role::Leaving, kill, None);
        }
        if kill { Act::Kill(n) } else { Act::Drain(n) }
    }

    /// Whether process `n`, which is ready, listens on something that no other process accepts from.
    fn serves_alone(&self, n: u64) -> bool {
        let Some(worker) = self.workers.get(&n).filter(|worker| worker.ready) else { return false };
        let accepts = |other: &Worker| other.ready && matches!(other.role, Role::Accepted | Role::Staying);
        worker.sockets.iter().any(|key| {
            !self.workers.iter().any(|(m, other)| *m != n && accepts(other) && other.sockets.contains(key))
        })
    }

    fn cut_leavers(&mut self, slot: &Slot) -> Vec<Act> {
        let leavers: Vec<u64> = self
            .workers
            .iter()
            .filter(|(_, worker)| worker.role == Role::Leaving && worker.spec.slot == *slot)
            .map(|(n, _)| *n)
            .collect();
        let surplus = leavers.len().saturating_sub(LEAVERS);
        leavers[..surplus].iter().map(|&n| self.dismiss(n, true)).collect()
    }

    fn forget_empty(&mut self) {
        let workers = &self.workers;
        self.places.retain(|slot, place| {
            place.accepted.is_some() || workers.values().any(|worker| worker.spec.slot == *slot)
        });
    }
}

fn is_ready(workers: &BTreeMap<u64, Worker>, accepted: &Accepted) -> bool {
    accepted.worker.and_then(|n| workers.get(&n)).is_some_and(|worker| worker.ready)
}

fn same(a: &WorkerSpec, b: &WorkerSpec) -> bool {
    (a.generation, a.loaded) == (b.generation, b.loaded)
}

/// The first crash after a quiet life is answered at once.
fn backoff(failures: u32, restart: &Restart) -> Duration {
    match failures.checked_sub(1) {
        None => Duration::ZERO,
        Some(doublings) => restart.first.saturating_mul(1 << doublings.min(20)).min(restart.longest),
    }
}

mod pairs {
    //! JSON has no maps with keys like a slot: written as a list of pairs.
    use std::collections::BTreeMap;

    use serde::{Deserialize as _, Deserializer, Serializer};

    use super::{Place, Slot};

    pub(super) fn serialize<S: Serializer>(map: &BTreeMap<Slot, Place>, to: S) -> Result<S::Ok, S::Error> {
        to.collect_seq(map)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<BTreeMap<Slot, Place>, D::Error> {
        Ok(Vec::deserialize(from)?.into_iter().collect())
    }
}

mod tell;
mod turns;
mod view;

#[cfg(test)]
pub(super) mod tests;
