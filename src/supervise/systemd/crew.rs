//! The table's hands where systemd is the service manager: carries [`Act`]s out on units, and turns their states
//! into the table's transitions. Records first, then acts. Signals only wake it: what counts is what the units'
//! states are when it looks, so nothing is lost while nobody listens.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fsx::{Dir, FsError, Meta};
use crate::model::{Slot, chain};
use crate::supervise::closing::{self, Closing};
use crate::supervise::crew::{Check, TAIL, Telling, subject, watch};
use crate::supervise::doing::{Doing, Parts};
use crate::supervise::holder::Holder;
use crate::supervise::logs::{self, Logs};
use crate::supervise::news::Bulletin;
use crate::supervise::record::Record;
use crate::supervise::slots::{Act, Role, Table, Worker};
use crate::supervise::sockets::{Sockets, lease_key};
use crate::supervise::tries::{Health, Tries};
use crate::supervise::wire::{Answer, Ask};
use crate::supervise::{clock, process, taking};

use super::bus::{Bus, BusError, Listed, Scope};
use super::unit::{self, Names, State};

mod latest;
mod see;
mod start;
mod tell;

use latest::latest;
pub(super) use see::observe;

/// Where the files of processes are: what they are told, and what is known of them.
const FILES: &str = "s";
/// How long the holder may take until it answers.
const PATIENCE: Duration = Duration::from_secs(15);
/// How long systemd may take from a request to stop a unit until its process is told to finish.
const HEARD: Duration = Duration::from_secs(5);
/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(2);

/// All processes of a run directory, as units.
pub(super) struct Crew {
    pub(super) table: Table,
    pub(super) bulletin: Bulletin,
    pub(super) tries: Tries,
    /// the length of what they write, while somebody is there
    pub(super) logs: Logs,
    run: Dir,
    program: PathBuf,
    bus: Bus,
    names: Names,
    version: u32,
    record: Record,
    sockets: Sockets,
    holder: Option<Holder>,
    live: BTreeMap<u64, Live>,
    restarts: BTreeMap<Slot, Instant>,
    pub(super) closing: Option<Closing>,
    /// nothing has been asked for since it was said what shall stay
    settled: bool,
}

/// A process whose unit is there.
struct Live {
    unit: String,
    since: Instant,
    /// as far as it can have put off that it gets ready or ends
    latest: Option<Instant>,
    check: Check,
    telling: Option<Telling>,
    /// when the process had started whose end was told last, in systemd's words
    fell: Option<u64>,
    /// somebody else had it started: if it is gone, nobody has seen its end
    found: bool,
}

impl Crew {
    /// Reads the record in `run`, and looks at what the units are doing.
    ///
    /// # Errors
    /// In words for the operator.
    pub(super) fn muster(run: Dir, program: &Path, scope: Scope, bus: Bus) -> Result<Crew, String> {
        let words = |error: FsError| chain(&error);
        let record =
            Record::named(Dir::open(run.path()).map_err(words)?, super::record_name(scope)).map_err(words)?;
        let (table, news) = record.load().map_err(words)?;
        for name in ["p", FILES, "log"] {
            Dir::create_all(&run.path().join(name), 0o755).map_err(words)?;
        }
        let names = Names::of(run.path());
        let version = bus.version().map_err(|e| e.to_string())?;
        let mut crew = Crew {
            table,
            bulletin: Bulletin::after(news),
            tries: Tries::new(run.path(), program).map_err(words)?,
            logs: Logs::open(run.path()).map_err(words)?,
            run,
            program: program.to_owned(),
            bus,
            names,
            version,
            record,
            sockets: Sockets::default(),
            holder: None,
            live: BTreeMap::new(),
            restarts: BTreeMap::new(),
            closing: None,
            settled: false,
        };
        if let Ok(holder) = Holder::connect(&crew.run) {
            crew.sockets.fetch(&holder).map_err(|e| e.to_string())?;
            crew.sockets.let_in(&crew.table.closing);
            crew.holder = Some(holder);
        }
        crew.adopt().map_err(|e| e.to_string())?;
        Ok(crew)
    }

    /// Goes on where whoever was here before left off.
    fn adopt(&mut self) -> Result<(), BusError> {
        let units = self.bus.units_like(&self.names.workers())?;
        let mut acts = Vec::new();
        for listed in units {
            let number = self.names.number(&listed.name);
            if number.is_none_or(|n| self.table.worker(n).is_none()) {
                tracing::warn!(unit = listed.name, "nobody knows it; it is stopped");
                self.end(&listed.name);
                let _ = self.bus.forget(&listed.name);
            }
        }
        let numbers: Vec<u64> = self.table.workers().filter(|(_, w)| !w.held).map(|(n, _)| n).collect();
        for n in numbers {
            let Some(worker) = self.table.worker(n) else { continue };
            let unit = self.names.worker(&worker.spec.slot.group, n);
            // before it is looked: nothing is missed in between
            self.bus.follow(&unit)?;
            let listed = self.bus.units(&[&unit])?.into_iter().next();
            let state = listed.map_or(State::Gone, |l| match l.active.as_str() {
                // it has been there: what became of it is to be seen
                "failed" => State::Leaving,
                _ => unit::state(&l.active, &l.sub, l.job),
            });
            let begun = self.run.exists(self.file(n, "once")).unwrap_or(false) || worker.pid.is_some();
            let (role, kill, told) = (worker.role, worker.kill, worker.telling.is_some());
            if state == State::Gone && !begun && role != Role::Leaving {
                self.bus.leave(&unit)?;
                acts.push(Act::Start(n));
                continue;
            }
            let check = watch(worker);
            let (since, latest) = (clock::now(), latest(worker));
            let live = Live { unit, since, latest, check, telling: None, fell: None, found: true };
            self.live.insert(n, live);
            match role {
                Role::Leaving if kill => acts.push(Act::Kill(n)),
                Role::Leaving => acts.push(Act::Drain(n)),
                _ if told => acts.extend(self.table.not_told(n, "whoever told it has ended".to_owned())),
                _ => {}
            }
        }
        self.sweep("p");
        self.sweep(FILES);
        acts.extend(self.table.resume());
        if !self.table.is_empty()
            && let Err(why) = self.hold()
        {
            tracing::warn!(why, "workers cannot be started again");
        }
        closing::let_go_of_stale(self);
        closing::resume(self, acts);
        self.look()?;
        for live in self.live.values_mut() {
            live.found = false;
        }
        self.settled = self.table.is_empty();
        match self.settled {
            true => self.let_go(),
            false => self.find_sockets(),
        }
        Ok(())
    }

    /// Sees to it that nobody who is started again finds nothing: what the holder has lost is had back or made anew.
    fn find_sockets(&mut self) {
        taking::take_back(self);
        let leases = self.table.needed_leases();
        let Parts { sockets, holder, .. } = self.parts();
        for path in leases {
            sockets.lease(&path, holder);
        }
        let waits = |worker: &Worker| worker.role == Role::Accepted && !worker.ready;
        let specs = self.table.workers().filter(|(_, worker)| waits(worker)).map(|(_, w)| w.spec.clone());
        for spec in specs.collect::<Vec<_>>() {
            if let Err(why) = self.sockets_for(&spec) {
                tracing::warn!(slot = %spec.slot, why, "it cannot be started again");
            }
        }
    }

    /// Removes what belongs to processes that are not there any more.
    fn sweep(&self, directory: &str) {
        let Ok(files) = self.run.dir(directory) else { return };
        for name in files.names().unwrap_or_default() {
            let number = name.to_str().and_then(|name| name.split('.').next()?.parse::<u64>().ok());
            if number.is_some_and(|n| self.table.worker(n).is_none()) {
                let _ = files.remove_tree(&name);
            }
        }
    }

    /// Does what was asked, or answers it.
    pub(super) fn asked(&mut self, ask: Ask) -> Answer {
        let (mut slot, mut settles) = (None, false);
        match &ask {
            Ask::Slots => return self.slots(None),
            Ask::Ensure { spec, .. } => (slot, self.settled) = (Some(spec.slot.clone()), false),
            Ask::TakeOver { look: false, .. } => self.settled = false,
            Ask::Settle { .. } => {
                settles = true;
                self.fetch();
            }
            Ask::Listen { .. } | Ask::Quit | Ask::Abandon { .. } | Ask::TakeOver { .. } => {}
        }
        let answer = self.on_ask(ask);
        if let Some(slot) = slot {
            self.hurry(&slot);
        }
        if settles {
            self.settled = true;
            self.let_go();
        }
        answer
    }

    /// What of `slot` waits for its next start is started now.
    fn hurry(&mut self, slot: &Slot) {
        let waits = |worker: &Worker| {
            worker.role == Role::Accepted
                && !worker.ready
                && worker.pid.is_none()
                && worker.spec.slot == *slot
        };
        let n = self.table.workers().find(|(_, worker)| waits(worker)).map(|(n, _)| n);
        let live = n.and_then(|n| self.live.get_mut(&n));
        if let Some(live) = live.filter(|live| live.fell.is_some())
            && let Err(error) = self.bus.restart(&live.unit)
        {
            tracing::warn!(%error, unit = live.unit, "is not started before its time");
        }
    }

    /// Fetches what workers have given the holder.
    pub(super) fn fetch(&mut self) {
        if self.table.is_empty() && self.holder.is_none() {
            return; // nobody has given it anything
        }
        let held = self.hold();
        let fetched = held.and_then(|()| match &self.holder {
            Some(holder) => self.sockets.fetch(holder).map_err(|e| e.to_string()),
            None => Ok(()),
        });
        if let Err(why) = fetched {
            tracing::warn!(why, "some sockets may stay open");
        }
    }

    /// When nothing runs and nothing is to, nobody has to keep sockets.
    fn let_go(&mut self) {
        let needed = !self.settled || !self.table.is_empty() || self.closing.is_some();
        if needed || self.holder.is_none() {
            return;
        }
        // what whoever was here before has left
        closing::settle(self, &[]);
        if let Some(holder) = self.holder.take()
            && self.bus.stop(&self.names.holder()).is_ok()
        {
            // whoever looks for a holder next must not find this one
            process::wait_readable(holder.fd(), Some(PATIENCE));
        }
    }

    /// When [`Crew::on_time`] has something to do at the latest.
    pub(super) fn next_time(&self) -> Option<Instant> {
        self.next().into_iter().chain(self.live.values().filter_map(|live| live.latest)).min()
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self) {
        let numbers: Vec<u64> = self.live.keys().copied().collect();
        for n in numbers {
            let Some(Live { check: Check::Ask(asking), .. }) = self.live.get_mut(&n) else { continue };
            let Some(worker) = self.table.worker(n) else { continue };
            let Some(pid) = worker.pid else { continue };
            let unwell = asking.turn(n, &mut self.tries, None, |run| subject(run, n, pid, &worker.spec));
            if unwell.is_some() {
                self.table.feels(n, unwell);
            }
        }
        self.logs.on_time();
        self.on_latest();
        self.on_time_to_tell();
        closing::on_time_to_close(self);
        self.on_time_to_restart();
        self.let_go();
    }

    /// Takes the answers of workers that were asked.
    pub(super) fn on_answers(&mut self) {
        for done in self.tries.done() {
            let Some(done) = self.on_told(done) else { continue };
            let Some(live) = self.live.get_mut(&done.n) else { continue };
            let Check::Ask(asking) = &mut live.check else { continue };
            if !asking.is_answered_by(&done) {
                continue;
            }
            match asking.heard(done.answer) {
                Health::Well => self.table.feels(done.n, None),
                Health::Unwell(why) => self.table.feels(done.n, Some(why)),
                Health::Failed(why) => {
                    let acts = self.table.failing(done.n, why);
                    self.carry_out(acts);
                }
            }
        }
    }

    fn drain(&mut self, n: u64) {
        let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker_mut(n)) else { return };
        let grace = worker.spec.grace_shutdown_time;
        (live.check, live.telling) = (Check::None, None);
        if !worker.told {
            (worker.told, worker.left) = (true, process::uptime());
        }
        live.latest = latest(worker);
        tracing::info!(slot = %worker.spec.slot, unit = live.unit, ?grace, "drains");
        let unit = live.unit.clone();
        if grace.is_zero() {
            return self.end(&unit);
        }
        if let Err(error) = self.bus.stop(&unit) {
            tracing::debug!(%error, unit, "is not stopped");
        }
    }

    fn kill(&mut self, n: u64) {
        let Some(live) = self.live.get_mut(&n) else { return };
        (live.check, live.telling, live.latest) = (Check::None, None, None);
        let unit = live.unit.clone();
        self.end(&unit);
    }

    /// Stops the unit for good, at once. One that is not there needs nothing.
    fn end(&self, unit: &str) {
        let stopped = self.bus.stop(unit);
        let killed = self.bus.kill(unit, "all", 9);
        if let Err(error) = stopped.and(killed) {
            tracing::debug!(%error, unit, "is not killed");
        }
    }

    fn remove_files(&self, n: u64) {
        let _ = self.run.remove_tree(Path::new("p").join(n.to_string()));
        for of in ["start", "task", "once", "note", "why", "bound"] {
            let _ = self.run.remove_tree(self.file(n, of));
        }
    }

    fn file(&self, n: u64, of: &str) -> PathBuf {
        Path::new(FILES).join(format!("{n}.{of}"))
    }

    fn log_path(&self, n: u64, worker: &Worker) -> PathBuf {
        self.run.path().join("log").join(logs::name(&worker.spec.slot, worker.started_for, n))
    }
}

impl Doing for Crew {
    fn parts(&mut self) -> Parts<'_> {
        let Crew { table, bulletin, restarts, sockets, holder, closing, .. } = self;
        let holder = holder.as_ref().filter(|holder| !holder.is_broken());
        Parts { table, bulletin, restarts, sockets, holder, closing }
    }

    fn run(&self) -> &Dir {
        &self.run
    }

    fn watched(&self) -> impl Iterator<Item = (u64, &Check, Option<&Telling>)> {
        self.live.iter().map(|(n, live)| (*n, &live.check, live.telling.as_ref()))
    }

    fn watched_mut(&mut self, n: u64) -> Option<(&mut Check, &mut Option<Telling>)> {
        self.live.get_mut(&n).map(|live| (&mut live.check, &mut live.telling))
    }

    fn times(&self) -> (&Logs, Option<&Closing>, &BTreeMap<Slot, Instant>) {
        (&self.logs, self.closing.as_ref(), &self.restarts)
    }

    fn save(&mut self) {
        self.sockets.note(&mut self.table);
        if let Err(error) = self.record.save(&self.table, self.bulletin.last()) {
            tracing::error!(error = chain(&error), "the record could not be written");
        }
    }

    fn start(&mut self, n: u64) -> Result<(), String> {
        Crew::start(self, n)
    }

    fn remove(&self, n: u64) {
        self.remove_files(n);
    }

    fn drain(&mut self, n: u64) {
        Crew::drain(self, n);
    }

    fn until_heard(&self, numbers: &[u64]) {
        let units = numbers.iter().filter_map(|n| Some(self.live.get(n)?.unit.as_str()));
        let units: Vec<&str> = units.collect();
        let deadline = clock::after(HEARD);
        let is_up = |listed: &Listed| listed.active == "active";
        // systemd does it when it has nothing else to do
        while !units.is_empty() && self.bus.units(&units).is_ok_and(|all| all.iter().any(is_up)) {
            if clock::until(deadline).is_zero() {
                return tracing::warn!(?units, "systemd takes its time to stop them");
            }
            std::thread::sleep(LOOK);
        }
    }

    fn kill(&mut self, n: u64) {
        Crew::kill(self, n);
    }

    fn inform(&mut self, n: u64) -> Result<(), String> {
        Crew::inform(self, n)
    }

    fn release(&mut self) {
        let needed = self.table.needed_leases().iter().map(|path| lease_key(path)).collect();
        let Parts { sockets, holder, .. } = self.parts();
        sockets.release(&needed, holder);
    }

    fn hold(&mut self) -> Result<(), String> {
        Crew::hold(self)
    }
}

fn with_tail(log: &Path, what: String, from: u64) -> String {
    let tail = logs::tail(log, from, TAIL);
    if tail.is_empty() { what } else { format!("{what}\n{tail}") }
}

fn length(log: &Path) -> u64 {
    Meta::of_path(log).map_or(0, |meta| meta.len)
}
