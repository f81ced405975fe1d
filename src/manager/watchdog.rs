//! Looks after what is in force, every so often and on the supervisor's news. What it makes of it is decided by
//! [`crate::activation::watchdog`], and mended by the engine, as an event.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::mpsc::Sender;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::activation::watchdog::{Health, Next, Seat, Seen, Tally, Unconfirmed, look};
use crate::fsx::{self, Dir, FsError};
use crate::model::{
    GenerationId, How, LoadedKey, Repair, Request, Slot, Stage, Verdict, WatchdogPolicy, chain,
};
use crate::store::{HistoryEntry, Store, Writer};
use crate::supervise::client::{Slots, Unreachable};
use crate::supervise::{News, ServiceManager, Started, WorkerReport, WorkerState, oneshot};

use super::daemon::ask;
use super::wake::Woken;
use super::{ManagerError, Service, clock, headroom};

/// The record in the run directory: it outlives a manager, not a boot.
const FILE: &str = "watchdog.json";
/// How long a worker may take to get ready whose pipeline cannot be read by now.
const START: Duration = Duration::from_secs(30);

/// What `status` shows of the watchdog.
#[derive(Clone, Debug, Serialize)]
pub struct WatchdogReport {
    /// errors that are not forgiven yet
    pub errors: u32,
    /// one more than this ends the manager
    pub max_errors: u32,
    /// the last error of this boot
    pub last: Option<Fault>,
    /// why the last manager has given up
    pub fatal: Option<Fault>,
}

/// What was wrong, and when.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fault {
    /// when it was found, UTC
    pub at: jiff::Timestamp,
    /// what it is
    pub why: String,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Record {
    boot: String,
    tally: Tally,
    last: Option<Fault>,
    fatal: Option<Fault>,
    awaits: Option<Awaited>,
}

/// An event of the manager's own, without which it cannot go on.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Awaited {
    event: u64,
    /// a repair; else the start of everything
    repair: bool,
}

/// Whether the news of those who look after the workers are read.
#[derive(Debug, Default)]
enum Ear {
    /// not yet
    #[default]
    Deaf,
    /// on a thread of its own
    Listens,
    /// the same; an error was counted already for what may have ended them
    Excused,
    /// not any more: they have ended
    Lost(Unreachable),
}

/// The manager's eye on what is in force.
pub(super) struct Watchdog<'a> {
    service: &'a Service,
    writer: &'a Writer,
    wake: Sender<Woken>,
    policy: WatchdogPolicy,
    record: Record,
    /// when it looks next
    next: Instant,
    /// since when a slot was not seen well
    ill: BTreeMap<Slot, Instant>,
    /// what became of whoever reads the supervisor's news
    ear: Arc<Mutex<Ear>>,
    /// whose news are read, and who has taken over: as long as these are there, somebody sees what happens
    held: (Option<Box<dyn ServiceManager>>, Option<Started>),
    /// whether the supervisor was told that everything has settled
    told: bool,
}

impl<'a> Watchdog<'a> {
    /// Goes on counting where the last manager of this boot ended.
    pub(super) fn begin(
        service: &'a Service,
        writer: &'a Writer,
        wake: Sender<Woken>,
    ) -> Result<Watchdog<'a>, ManagerError> {
        let policy = service.place.host_file()?.watchdog;
        let mut record = recorded(service).unwrap_or_default();
        (record.boot, record.fatal) = (service.boot.clone(), None);
        let watchdog = Watchdog {
            service,
            writer,
            wake,
            policy,
            record,
            next: clock::instant(),
            ill: BTreeMap::new(),
            ear: Arc::default(),
            held: (None, None),
            told: false,
        };
        watchdog.write().map_err(ManagerError::File)?;
        Ok(watchdog)
    }

    /// How long until it looks again.
    pub(super) fn left(&self) -> Duration {
        self.next.saturating_duration_since(clock::instant())
    }

    /// Something has happened that is worth a look.
    pub(super) fn hear(&mut self) {
        self.next = clock::instant();
    }

    /// The manager cannot go on where this event, which starts everything, fails.
    pub(super) fn starts(&mut self, event: u64) {
        self.record.awaits = Some(Awaited { event, repair: false });
        self.save();
    }

    /// The manager was asked to end: what that has cut short is nobody's fault.
    pub(super) fn forget(&mut self) {
        if self.record.awaits.take().is_some() {
            self.save();
        }
    }

    /// Reads the verdict that is waited for, where it is there.
    ///
    /// # Errors
    /// [`ManagerError::Fatal`]: a repair has failed, or the start.
    pub(super) fn judge(&mut self) -> Result<(), ManagerError> {
        let Some(Awaited { event, repair }) = self.record.awaits else { return Ok(()) };
        // what cannot be read now is read the next time
        let Ok(Some(outcome)) = self.service.store.outcome(event) else { return Ok(()) };
        self.record.awaits = None;
        let done = match outcome.verdict {
            Verdict::Good
            | Verdict::Unchanged
            | Verdict::Unconfirmed
            | Verdict::PointerOnly
            | Verdict::Superseded => true,
            // a start that has ended on the last good generation
            Verdict::Reverted => !repair,
            Verdict::Failed | Verdict::Refused | Verdict::Stuck => false,
        };
        if done {
            self.save();
            return Ok(());
        }
        let what = if repair { "the repair" } else { "the start" };
        Err(self.fatal(format!("{what}, event {event}, is {}: {}", outcome.verdict, outcome.reason)))
    }

    /// Looks, where it is time to. `true`: there is something to be done at once.
    ///
    /// # Errors
    /// [`ManagerError::Fatal`]: there are too many errors, or one cannot be repaired.
    pub(super) fn look(&mut self) -> Result<bool, ManagerError> {
        if !self.left().is_zero() {
            return Ok(false);
        }
        match self.service.place.host_file() {
            Ok(host) => self.policy = host.watchdog,
            Err(error) => tracing::warn!("the watchdog goes on as before: {}", chain(&error)),
        }
        self.next = clock::instant() + self.policy.interval;
        if let Err(error) = oneshot::sweep(&self.service.place.run) {
            tracing::warn!("what a dead engine has started may live on: {}", chain(&error));
        }
        let workers = match self.slots() {
            Ok(slots) => slots.workers,
            Err(error) => return self.replace_supervisor(&error),
        };
        let next = match self.see(&workers) {
            Ok(seen) => look(&seen),
            Err(error) => return self.error(&chain(&error)).map(|()| false),
        };
        match next {
            Next::Restore(good, repair) => {
                self.error(&repair.why)?;
                return self.repair(Request::Start, good, How { repair: Some(repair), ..How::default() });
            }
            Next::GoBack(good, why) => {
                self.error(&why)?;
                return self.repair(Request::Rollback, good, How { cold: true, ..How::default() });
            }
            Next::Settle(keep) => self.settle(&keep),
            Next::Nothing => {}
        }
        match headroom::standing(self.service) {
            Some(why) => self.error(&why).map(|()| false),
            None => Ok(false),
        }
    }

    /// What the supervisor runs; from then on its news wake the manager.
    fn slots(&mut self) -> Result<Slots, Unreachable> {
        let mut ear = self.ear.lock().expect("no thread panics");
        let listens = matches!(*ear, Ear::Listens | Ear::Excused);
        let lost = if listens { Ear::Deaf } else { std::mem::take(&mut *ear) };
        drop(ear);
        match lost {
            // a supervisor is found to be gone where it is asked; a connection may be there again by then
            Ear::Lost(error) if !self.service.workers.is_ours() => return Err(error),
            _ if listens => {}
            _ => self.listen()?,
        }
        self.service.reach()?.slots()
    }

    /// Has the news wake the manager from now on.
    fn listen(&mut self) -> Result<(), Unreachable> {
        let mut client = self.service.reach()?;
        let mut stream = client.listen(0)?;
        self.held.0 = Some(client);
        *self.ear.lock().expect("no thread panics") = Ear::Listens;
        let (wake, ear) = (self.wake.clone(), Arc::clone(&self.ear));
        std::thread::spawn(move || {
            loop {
                let lost = match stream.next() {
                    Ok((_, News::Ready { .. })) => continue,
                    Ok((_, News::Failed { .. } | News::Unwell { .. } | News::Exited { .. })) => None,
                    Err(error) => Some(error),
                };
                let over = lost.is_some();
                if let Some(error) = lost {
                    let mut ear = ear.lock().expect("no thread panics");
                    *ear = if matches!(*ear, Ear::Excused) { Ear::Deaf } else { Ear::Lost(error) };
                }
                if wake.send(Woken::News).is_err() || over {
                    return;
                }
            }
        });
        Ok(())
    }

    /// Starts another supervisor in the place of one that does not answer: it adopts what runs. Where that is not
    /// ours to do, it is looked again later, and nothing is lost meanwhile but an error. Where systemd starts it, a
    /// restart is nobody's error.
    fn replace_supervisor(&mut self, error: &Unreachable) -> Result<bool, ManagerError> {
        let mut ear = self.ear.lock().expect("no thread panics");
        if matches!(*ear, Ear::Listens) {
            *ear = Ear::Excused;
        }
        drop(ear);
        if !self.service.workers.is_unit() {
            self.error(&chain(error))?;
        }
        match self.service.workers.start() {
            Ok(started) => {
                tracing::info!(fresh = started.fresh, "the workers are looked after again");
                self.held.1 = Some(started);
            }
            Err(_) if !self.service.workers.is_ours() => return Ok(false),
            Err(error) => return Err(self.fatal(chain(&error))),
        }
        self.hear();
        Ok(true)
    }

    fn repair(&mut self, request: Request, target: GenerationId, how: How) -> Result<bool, ManagerError> {
        match ask(self.service, self.writer, request, target, how) {
            Ok(event) => {
                self.record.awaits = Some(Awaited { event, repair: true });
                self.save();
                Ok(true)
            }
            Err(error) => Err(self.fatal(format!("the repair cannot be asked for: {}", chain(&error)))),
        }
    }

    fn settle(&mut self, keep: &[Slot]) {
        match self.service.reach().and_then(|mut client| client.settle(keep)) {
            Ok(()) => self.told = true,
            Err(error) => tracing::warn!("surplus workers are not stopped: {}", chain(&error)),
        }
    }

    /// Counts one error.
    fn error(&mut self, why: &str) -> Result<(), ManagerError> {
        self.record.tally = self.record.tally.add(clock::since_boot(), self.policy.decay);
        let errors = self.record.tally.errors;
        tracing::warn!("error {errors} (more than {} end the manager): {why}", self.policy.max_errors);
        self.record.last = Some(Fault { at: clock::now(), why: why.to_owned() });
        if errors > self.policy.max_errors {
            return Err(self.fatal(format!("{errors} errors are too many, the last one: {why}")));
        }
        self.save();
        Ok(())
    }

    fn fatal(&mut self, why: String) -> ManagerError {
        self.record.fatal = Some(Fault { at: clock::now(), why: why.clone() });
        self.save();
        ManagerError::Fatal { why }
    }

    /// Writes the record. What a full disk keeps from it is known as long as this manager lives.
    fn save(&self) {
        if let Err(error) = self.write() {
            tracing::error!("{}", chain(&error));
        }
    }

    fn write(&self) -> Result<(), FsError> {
        let text = serde_json::to_vec(&self.record).expect("a plain record is JSON");
        Dir::open(&self.service.place.run)?.replace_file(FILE, &text, 0o644)
    }

    /// Gathers what is decided from.
    fn see(&mut self, workers: &[WorkerReport]) -> Result<Seen, ManagerError> {
        let store = &self.service.store;
        let history: Vec<HistoryEntry> =
            store.history()?.into_iter().filter(|entry| entry.imported.is_none()).collect();
        let current = self.service.standing()?.current;
        let ended = |entry: &HistoryEntry| entry.end.as_ref().map(|end| end.verdict);
        let unconfirmed = store.unconfirmed()?;
        let mut seen = Seen {
            busy: !store.pending()?.is_empty() || store.stopped()?.is_some(),
            good: store.last_good()?,
            current,
            current_proven: history
                .iter()
                .any(|entry| Some(entry.target) == current && ended(entry) == Some(Verdict::Good)),
            unconfirmed: unconfirmed.map(|open| Unconfirmed { target: open.target, tried: open.tried }),
            settled: history.iter().rev().filter_map(ended).find_map(settles).unwrap_or(false),
            told: self.told,
            ..Seen::default()
        };
        let Some(held) = seen.held() else { return Ok(seen) };
        seen.slots = self.slots_of(held, &history)?;
        let known: BTreeSet<GenerationId> = history.iter().map(|entry| entry.target).collect();
        let mut ill = BTreeMap::new();
        for worker in workers.iter().filter(|worker| worker.accepted) {
            let slot = worker.slot.clone();
            let health = match worker.state {
                WorkerState::Ended => Health::Ended,
                _ if worker.is_well() => Health::Well,
                _ => {
                    let since = self.ill.get(&slot).copied().unwrap_or_else(clock::instant);
                    ill.insert(slot.clone(), since);
                    Health::Ill(clock::instant().saturating_duration_since(since))
                }
            };
            let known = known.contains(&worker.generation);
            seen.seats.push(Seat { slot, generation: worker.generation, health, known });
            let lost = worker.loaded.filter(|_| worker.generation == held);
            if let Some(key) = lost
                && !is_there(store, key)?
            {
                seen.lost = Some(key);
            }
        }
        self.ill = ill;
        Ok(seen)
    }

    /// The slots that generation `id` was last proven with, and how long each may be ill: a look and a start; no
    /// time where its pipeline does not have it any more.
    ///
    /// Not those of its pipeline: where that is the host's, somebody may have changed it since, and nothing
    /// happens because of that.
    fn slots_of(
        &self,
        id: GenerationId,
        history: &[HistoryEntry],
    ) -> Result<BTreeMap<Slot, Option<Duration>>, ManagerError> {
        let store = &self.service.store;
        let mut proven = BTreeSet::new();
        for entry in history.iter().rev().filter(|entry| entry.target == id) {
            let verdict = entry.end.as_ref().map(|end| end.verdict);
            if !matches!(verdict, Some(Verdict::Good | Verdict::Unconfirmed))
                || entry.request == Request::Confirm
                || store.event(entry.number)?.is_some_and(|event| event.how.repair.is_some())
            {
                continue;
            }
            let Some(outcome) = store.outcome(entry.number)? else { continue };
            let steps = outcome.steps.iter().filter(|step| step.stage == Stage::Workers);
            proven.extend(steps.filter_map(|step| Slot::named(&step.step)));
            break;
        }
        let manifest = store.manifest(id)?;
        let pipeline = self.service.pipeline(id, &manifest).map(|chosen| chosen.pipeline);
        let groups = match pipeline {
            Ok(pipeline) => Some(pipeline.map(|pipeline| pipeline.workers).unwrap_or_default()),
            Err(error) => {
                tracing::warn!("{}", chain(&error));
                None
            }
        };
        let limit = |slot: &Slot| match &groups {
            None => Some(START),
            Some(groups) => {
                let group = groups.get(&slot.group).filter(|group| slot.instance <= group.instances)?;
                Some(group.longest(group.start_timeout))
            }
        };
        let interval = self.policy.interval;
        let with_limit = |slot: Slot| (slot.clone(), limit(&slot).map(|limit| limit + interval));
        Ok(proven.into_iter().map(with_limit).collect())
    }
}

/// Whether everything that only takes away has been done, or was to be, after such a verdict; nothing where it
/// decides nothing.
fn settles(verdict: Verdict) -> Option<bool> {
    match verdict {
        Verdict::Good | Verdict::Reverted => Some(true),
        Verdict::Unconfirmed | Verdict::PointerOnly | Verdict::Stuck => Some(false),
        Verdict::Unchanged | Verdict::Failed | Verdict::Refused | Verdict::Superseded => None,
    }
}

/// Whether the loader's output `key` is there: not whether it is intact, which takes as long as it is large.
pub(super) fn is_there(store: &Store, key: LoadedKey) -> Result<bool, ManagerError> {
    Ok(store.loaded_size(key)?.is_some() && Dir::open(&store.loaded_path(key)).is_ok())
}

/// What the last manager of this boot has written down.
fn recorded(service: &Service) -> Option<Record> {
    let run = Dir::open(&service.place.run).ok()?;
    let bytes = fsx::optional(run.read(FILE, 1 << 20)).ok()??;
    let record: Record = serde_json::from_slice(&bytes).ok()?;
    (record.boot == service.boot).then_some(record)
}

/// What there is to show of it; nothing before the first manager of this boot.
pub(super) fn report(service: &Service) -> Option<WatchdogReport> {
    let record = recorded(service)?;
    let policy = service.place.host_file().unwrap_or_default().watchdog;
    let errors = record.tally.at(clock::since_boot(), policy.decay).errors;
    Some(WatchdogReport { errors, max_errors: policy.max_errors, last: record.last, fatal: record.fatal })
}

/// What a repair has done, for its verdict.
pub(super) fn mended(repair: &Repair, target: &str) -> String {
    format!("{}; mended on {target}", repair.why)
}
