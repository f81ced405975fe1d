//! The table's hands where systemd is the service manager: carries [`Act`]s out on units, and turns their states
//! into the table's transitions. Records first, then acts. Signals only wake it: what counts is what the units'
//! states are when it looks, so nothing is lost while nobody listens.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fsx::{Dir, FsError, Meta};
use crate::model::{Listen, Ready, Slot};
use crate::supervise::crew::{Check, TAIL, Telling, subject, watch};
use crate::supervise::holder::Holder;
use crate::supervise::launch::{self, Given};
use crate::supervise::logs::{self, Logs};
use crate::supervise::news::Bulletin;
use crate::supervise::process::{self, Ended};
use crate::supervise::record::{Record, chain};
use crate::supervise::slots::{Act, Role, Table, Worker};
use crate::supervise::sockets::{Sockets, lease_key};
use crate::supervise::tries::{Health, Tries};
use crate::supervise::wire::{Ask, WorkerSpec};
use crate::supervise::{clock, surroundings};

use super::bus::{Bus, BusError, Listed, Scope};
use super::own::{NOT_AGAIN, Own, Wanted};
use super::ready::Task;
use super::unit::{self, Files, Names, State};

mod tell;

/// Where the files of processes are: what they are told, and what is known of them.
const FILES: &str = "s";
/// How long the holder may take until it answers.
const PATIENCE: Duration = Duration::from_secs(15);

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
    /// nothing has been asked for since it was said what shall stay
    settled: bool,
}

/// A process whose unit is there.
struct Live {
    unit: String,
    since: Instant,
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
            settled: false,
        };
        if let Ok(holder) = Holder::connect(&crew.run) {
            crew.sockets.fetch(&holder).map_err(|e| e.to_string())?;
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
            let live = Live { unit, since: clock::now(), check, telling: None, fell: None, found: true };
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
        self.carry_out(acts);
        self.look()?;
        for live in self.live.values_mut() {
            live.found = false;
        }
        self.settled = self.table.is_empty();
        if self.settled {
            self.let_go();
        }
        Ok(())
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

    /// Does what was asked.
    pub(super) fn on_ask(&mut self, ask: Ask) {
        let acts = match ask {
            Ask::Slots | Ask::Listen { .. } | Ask::Quit => return,
            Ask::Ensure { event, spec, force, in_place } => {
                let slot = spec.slot.clone();
                self.settled = false;
                let acts = match in_place {
                    true => self.table.ensure_in_place(event, *spec),
                    false => self.table.ensure(event, *spec, force),
                };
                self.carry_out(acts);
                return self.hurry(&slot);
            }
            Ask::Abandon { event } => self.table.abandon(event),
            Ask::Settle { slots } => {
                let acts = self.table.settle(&slots);
                self.carry_out(acts);
                self.settled = true;
                return self.settle();
            }
        };
        self.carry_out(acts);
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

    /// After the table has settled: nobody is asked any more, and what no slot needs is let go.
    fn settle(&mut self) {
        for (n, live) in &mut self.live {
            if self.table.worker(*n).is_some_and(|worker| worker.ready) {
                live.check = Check::None;
            }
        }
        self.let_go();
    }

    /// Closes sockets and leases that nobody needs; without any, the holder is not needed either.
    fn let_go(&mut self) {
        if let Some(holder) = &self.holder {
            // workers have given it what they have bound
            if let Err(error) = self.sockets.fetch(holder) {
                tracing::warn!(%error, "some sockets may stay open");
            }
        }
        let mut needed = self.table.needed_sockets();
        needed.extend(self.table.needed_leases().iter().map(|path| lease_key(path)));
        self.sockets.retain(&needed, self.holder.as_ref());
        if self.table.is_empty()
            && let Some(holder) = self.holder.take()
            && self.bus.stop(&self.names.holder()).is_ok()
        {
            // whoever looks for a holder next must not find this one
            process::wait_readable(holder.fd(), Some(PATIENCE));
        }
    }

    /// Records the table, then does what follows from it, and what follows from that.
    pub(super) fn carry_out(&mut self, acts: Vec<Act>) {
        self.save();
        let mut acts = VecDeque::from(acts);
        while let Some(act) = acts.pop_front() {
            match act {
                Act::Start(n) => {
                    if let Err(why) = self.start(n) {
                        tracing::warn!(why, "could not be started");
                        self.remove_files(n);
                        let why = format!("could not be started: {why}");
                        acts.extend(self.table.gone(n, why, Duration::ZERO));
                    }
                }
                Act::Drain(n) => self.drain(n),
                Act::Kill(n) => self.kill(n),
                Act::Inform(n) => {
                    if let Err(why) = self.inform(n) {
                        acts.extend(self.table.not_told(n, why));
                    }
                }
                Act::Hush(n) => self.hush(n),
                Act::Tell(news) => self.bulletin.add(news),
                Act::Restart(slot, delay) => drop(self.restarts.insert(slot, clock::after(delay))),
            }
        }
        self.save();
    }

    /// When [`Crew::on_time`] has something to do at the latest.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let checks = self.live.values().filter_map(|live| live.check.next());
        let told = self.live.values().filter_map(|live| live.telling.as_ref());
        let told = told.flat_map(|telling| telling.check.next().into_iter().chain([telling.deadline]));
        checks.chain(told).chain(self.restarts.values().copied()).chain(self.logs.next()).min()
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
        self.on_time_to_tell();
        let due = |at: &Instant| clock::until(*at).is_zero();
        let due: Vec<Slot> =
            self.restarts.iter().filter(|(_, at)| due(at)).map(|(slot, _)| slot.clone()).collect();
        for slot in due {
            self.restarts.remove(&slot);
            let acts = self.table.restart(&slot);
            self.carry_out(acts);
        }
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

    /// Looks at every unit.
    ///
    /// # Errors
    /// systemd does not answer: it is looked again.
    pub(super) fn look(&mut self) -> Result<(), BusError> {
        let units: Vec<String> = self.live.values().map(|live| live.unit.clone()).collect();
        if units.is_empty() {
            return Ok(());
        }
        let units: Vec<&str> = units.iter().map(String::as_str).collect();
        for listed in self.bus.units(&units)? {
            if let Some(n) = self.names.number(&listed.name) {
                self.see(n, &listed)?;
            }
        }
        Ok(())
    }

    fn see(&mut self, n: u64, listed: &Listed) -> Result<(), BusError> {
        let (Some(live), Some(worker)) = (self.live.get(&n), self.table.worker(n)) else { return Ok(()) };
        let (role, ready, known) = (worker.role, worker.ready, worker.pid);
        let fell = live.fell;
        match (unit::state(&listed.active, &listed.sub, listed.job), role) {
            (State::Gone, _) => self.gone(n, listed)?,
            (_, Role::Leaving) => {}
            (State::Ready, _) => {
                let pid: u32 = self.bus.property(listed, "MainPID")?;
                if pid == 0 {
                    return Ok(()); // it has ended since: that is told next
                }
                if ready && known == Some(pid) {
                    return self.note(n, listed);
                }
                if ready {
                    // it has ended and come back while nobody looked
                    let why = "ended while nobody looked".to_owned();
                    let acts = self.table.fell(n, why);
                    self.carry_out(acts);
                }
                self.runs(n, pid);
                self.became_ready(n);
            }
            (State::Starting, _) => {
                let pid: u32 = self.bus.property(listed, "MainPID")?;
                if pid == 0 {
                    return Ok(());
                }
                if ready && known != Some(pid) {
                    let acts = self.table.fell(n, "ended while nobody looked".to_owned());
                    self.carry_out(acts);
                }
                self.runs(n, pid);
            }
            (State::Waiting, Role::Candidate) | (State::Leaving, Role::Candidate) => {
                let what = self.what(n, listed)?;
                let acts = self.table.condemn(n, what);
                self.carry_out(acts);
            }
            (State::Waiting, Role::Accepted) => {
                let started: u64 = self.bus.property(listed, "ExecMainStartTimestampMonotonic")?;
                if fell != Some(started) {
                    let what = self.what(n, listed)?;
                    if self.bus.property::<u32>(listed, "MainPID")? != 0 {
                        return Ok(()); // it has been started since: what was read may be about either
                    }
                    self.fell(n, what);
                    if let Some(live) = self.live.get_mut(&n) {
                        live.fell = Some(started);
                    }
                }
            }
            (State::Leaving, Role::Accepted) if !ready => {
                let _ = self.bus.kill(&listed.name, "all", 9);
            }
            (State::Leaving, Role::Accepted) => {}
        }
        Ok(())
    }

    /// What it says of itself.
    fn note(&mut self, n: u64, listed: &Listed) -> Result<(), BusError> {
        let said: String = self.bus.property(listed, "StatusText")?;
        if let Some(worker) = self.table.worker_mut(n) {
            worker.note = said.chars().take(200).collect();
        }
        Ok(())
    }

    fn runs(&mut self, n: u64, pid: u32) {
        if let Some(worker) = self.table.worker_mut(n) {
            (worker.pid, worker.started) = (Some(pid), process::start_of(pid));
        }
    }

    fn became_ready(&mut self, n: u64) {
        let Some(worker) = self.table.worker(n) else { return };
        let spec = worker.spec.clone();
        let keys = match &spec.listen {
            Listen::Sockets(_) => worker.sockets.clone(),
            Listen::Inherit(_) => {
                let bound = self.run.read(self.file(n, "bound"), 1 << 20).unwrap_or_default();
                serde_json::from_slice(&bound).unwrap_or_default()
            }
        };
        tracing::info!(slot = %spec.slot, pid = worker.pid, "is ready");
        let acts = self.table.ready(n, keys);
        if let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker(n)) {
            live.check = watch(worker);
        }
        // from here on systemd starts it again by itself
        self.rewrite(n);
        self.carry_out(acts);
    }

    /// The accepted process has ended, and is started again by systemd.
    fn fell(&mut self, n: u64, what: String) {
        let Some(worker) = self.table.worker(n) else { return };
        let slot = worker.spec.slot.clone();
        let log = self.log_path(n, worker);
        let why = with_tail(&log, what, worker.log_from);
        tracing::info!(%slot, why, "has ended; systemd starts it again");
        let log_from = length(&log);
        if let Some(worker) = self.table.worker_mut(n) {
            worker.log_from = log_from;
        }
        if let Some(live) = self.live.get_mut(&n) {
            (live.check, live.telling) = (Check::None, None);
        }
        let acts = self.table.fell(n, why);
        self.carry_out(acts);
    }

    /// The unit is down: its process is gone for good.
    fn gone(&mut self, n: u64, listed: &Listed) -> Result<(), BusError> {
        let failed = listed.active == "failed";
        let what = self.what(n, listed)?;
        if failed {
            let _ = self.bus.forget(&listed.name);
        }
        let Some(live) = self.live.remove(&n) else { return Ok(()) };
        let _ = self.bus.leave(&live.unit);
        let Some(worker) = self.table.worker(n) else { return Ok(()) };
        let well = !failed && !live.found && worker.verdict.is_none();
        let why = with_tail(&self.log_path(n, worker), what, worker.log_from);
        tracing::info!(slot = %worker.spec.slot, unit = listed.name, why, "is gone");
        self.remove_files(n);
        let acts = self.table.ended(n, why, clock::now() - live.since, well);
        self.carry_out(acts);
        let needed = self.table.needed_leases().iter().map(|path| lease_key(path)).collect::<BTreeSet<_>>();
        self.sockets.release(&needed, self.holder.as_ref());
        if self.settled && self.table.is_empty() {
            self.let_go();
        }
        Ok(())
    }

    /// How a process has ended, or why it is not ready.
    fn what(&self, n: u64, listed: &Listed) -> Result<String, BusError> {
        let Some(worker) = self.table.worker(n) else { return Ok(String::new()) };
        if let Some(verdict) = &worker.verdict {
            return Ok(verdict.clone());
        }
        if let Ok(reason) = self.run.read(self.file(n, "why"), 64 << 10) {
            return Ok(String::from_utf8_lossy(&reason).into_owned());
        }
        if listed.active == "inactive" && self.live.get(&n).is_some_and(|live| live.found) {
            return Ok("ended while nobody looked".to_owned());
        }
        if listed.active == "inactive" {
            return Ok(Ended::Exited(0).to_string());
        }
        let result: String = self.bus.property(listed, "Result")?;
        let code: i32 = self.bus.property(listed, "ExecMainCode")?;
        let status: i32 = self.bus.property(listed, "ExecMainStatus")?;
        // the words of waitid(2)
        let ended = match code {
            1 if status == i32::from(NOT_AGAIN) => "failed while nobody looked".to_owned(),
            1 => Ended::Exited(status).to_string(),
            2 | 3 => Ended::Killed(status).to_string(),
            _ if result == "success" => "ended while nobody looked".to_owned(),
            _ => format!("systemd says `{result}`"),
        };
        Ok(match result.as_str() {
            "timeout" if !worker.ready => format!("was not ready within {:?}", worker.spec.start_timeout),
            "oom-kill" => format!("{ended}: it took more memory than it may have"),
            _ => ended,
        })
    }

    fn start(&mut self, n: u64) -> Result<(), String> {
        let known = self.table.worker(n).map(|worker| (worker.spec.clone(), self.log_path(n, worker)));
        let Some((spec, log)) = known else { return Ok(()) };
        self.hold()?;
        self.lease_for(&spec)?;
        let keys = match &spec.listen {
            Listen::Sockets(_) => {
                self.sockets.ensure(&spec.listen, self.holder.as_ref()).map_err(|e| e.to_string())?
            }
            Listen::Inherit(_) => self.sockets.inherited(&spec.slot.group),
        };
        let there = self.table.workers().filter(|(_, worker)| !worker.held).map(|(n, _)| n).collect();
        logs::prune(self.run.path(), &spec.slot, &there);
        let log_from = length(&log);
        if let Some(worker) = self.table.worker_mut(n) {
            (worker.sockets, worker.log_from) = (keys, log_from);
        }
        self.write_files(n, &spec, true)?;
        let unit = self.names.worker(&spec.slot.group, n);
        let path = |of: &str| self.run.path().join(self.file(n, of));
        let (start, task) = (path("start"), path("task"));
        let files = Files { program: &self.program, start: &start, task: &task, log: &log };
        let properties = unit::worker(&spec, &files, &self.names.holder(), self.version);
        self.save();
        let started = self.bus.follow(&unit).and_then(|()| self.bus.start(&unit, properties));
        if let Err(error) = started {
            let _ = self.bus.leave(&unit);
            return Err(error.to_string());
        }
        tracing::info!(slot = %spec.slot, unit, generation = spec.generation.short(), "started");
        let (check, since) = (Check::None, clock::now());
        let live = Live { unit, since, check, telling: None, fell: None, found: false };
        self.live.insert(n, live);
        Ok(())
    }

    /// Sees to it that somebody keeps the sockets.
    fn hold(&mut self) -> Result<(), String> {
        if self.holder.as_ref().is_some_and(|holder| !holder.is_broken() && holder.list().is_ok()) {
            return Ok(());
        }
        let log = self.run.path().join("log/holder.log");
        let properties = unit::holder(&self.program, self.run.path(), &log);
        let unit = self.names.holder();
        let deadline = clock::after(PATIENCE);
        let mut refused = None;
        let holder = loop {
            match Holder::connect(&self.run) {
                Ok(holder) => break holder,
                Err(error) if clock::until(deadline).is_zero() => {
                    let why = refused.unwrap_or_else(|| error.to_string());
                    return Err(format!("nobody keeps the sockets: {why}"));
                }
                Err(_) => {
                    // refused where it is there already, on its way up or down
                    let _ = self.bus.forget(&unit);
                    refused = self.bus.start(&unit, properties.clone()).err().map(|e| e.to_string());
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        };
        self.sockets.fetch(&holder).and_then(|()| self.sockets.give(&holder)).map_err(|e| e.to_string())?;
        self.holder = Some(holder);
        Ok(())
    }

    fn lease_for(&mut self, spec: &WorkerSpec) -> Result<(), String> {
        for path in &spec.leases {
            if self.sockets.lease(path, self.holder.as_ref()).is_none() {
                return Err(format!("{} is not there or is being collected", path.display()));
            }
        }
        Ok(())
    }

    /// Writes what process `n` is to become and what there is to wait for.
    fn write_files(&self, n: u64, spec: &WorkerSpec, first: bool) -> Result<(), String> {
        let directory = self.run.path().join("p").join(n.to_string());
        let run = directory.to_str().ok_or("the run directory's path is not UTF-8")?;
        let path = |of: &str| self.run.path().join(self.file(n, of));
        let copies_loaded = spec.copies_loaded;
        let mut given = Given { run, worker: Some(spec), copies_loaded, ..Given::default() };
        let sockets = match &spec.listen {
            Listen::Sockets(sockets) => {
                given.sockets = sockets.iter().map(|(name, address)| (name.as_str(), address)).collect();
                Wanted::Keys(sockets.values().map(crate::supervise::sockets::text).collect())
            }
            Listen::Inherit(variable) => {
                Wanted::Inherited { group: spec.slot.group.clone(), variable: variable.clone() }
            }
        };
        let ready_file = match &spec.ready {
            Ready::File(file) => {
                Some(launch::expand_path(file, run, &spec.launch).map_err(|e| e.to_string())?)
            }
            Ready::Notify | Ready::After(_) | Ready::Probe(_) => None,
        };
        let mut links = BTreeMap::from([("config".to_owned(), spec.launch.config.clone())]);
        if let Some(loaded) = spec.launch.loaded.as_ref().filter(|_| !copies_loaded) {
            links.insert("loaded".to_owned(), loaded.clone());
        }
        let mut start = surroundings::start(&spec.launch, &given)?;
        // that is the unit's
        start.settings = start.settings.without_memory();
        start.sockets = 0;
        start.own = Some(Own {
            once: first.then(|| path("once")),
            directory: directory.clone(),
            links,
            ready_file,
            note: path("note"),
            run: self.run.path().to_owned(),
            sockets,
            notifies: spec.ready == Ready::Notify,
        });
        let task = Task {
            spec: spec.clone(),
            directory,
            run: self.run.path().to_owned(),
            program: self.program.clone(),
            note: path("note"),
            reason: path("why"),
            bound: path("bound"),
        };
        let files = self.run.dir(FILES).map_err(|e| chain(&e))?;
        let write = |of: &str, bytes: Vec<u8>| {
            files.replace_file(&format!("{n}.{of}"), &bytes, 0o600).map_err(|e| chain(&e))
        };
        let log = self.table.worker(n).map(|worker| self.log_path(n, worker)).unwrap_or_default();
        let name = Path::new("log").join(log.file_name().unwrap_or_default());
        let (file, _) = self.run.append_file(name, 0o640).map_err(|e| chain(&e))?;
        let (file, _) = file.into_parts();
        start.settings.give_file(&file, &log).map_err(|e| chain(&e))?;
        write("start", serde_json::to_vec(&start).expect("a start is plain text"))?;
        write("task", serde_json::to_vec(&task).expect("a task is plain text"))
    }

    /// What systemd starts process `n` again with is what it has accepted.
    fn rewrite(&self, n: u64) {
        let Some(spec) = self.table.worker(n).map(|worker| worker.spec.clone()) else { return };
        if let Err(why) = self.write_files(n, &spec, false) {
            tracing::error!(slot = %spec.slot, why, "what it is started again with is not what it has accepted");
        }
    }

    fn drain(&mut self, n: u64) {
        let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker_mut(n)) else { return };
        let grace = worker.spec.grace_shutdown_time;
        (live.check, live.telling) = (Check::None, None);
        if !worker.told {
            (worker.told, worker.left) = (true, process::uptime());
        }
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
        (live.check, live.telling) = (Check::None, None);
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

    fn save(&self) {
        if let Err(error) = self.record.save(&self.table, self.bulletin.last()) {
            tracing::error!(error = chain(&error), "the record could not be written");
        }
    }
}

fn with_tail(log: &Path, what: String, from: u64) -> String {
    let tail = logs::tail(log, from, TAIL);
    if tail.is_empty() { what } else { format!("{what}\n{tail}") }
}

fn length(log: &Path) -> u64 {
    Meta::of_path(log).map_or(0, |meta| meta.len)
}

/// Notes in `table`, for those who only look, what the units are doing now.
pub(super) fn observe(table: &mut Table, bus: &Bus, names: &Names) -> Result<(), BusError> {
    let units: Vec<(u64, String)> = table
        .workers()
        .filter(|(_, worker)| !worker.held)
        .map(|(n, worker)| (n, names.worker(&worker.spec.slot.group, n)))
        .collect();
    let wanted: Vec<&str> = units.iter().map(|(_, unit)| unit.as_str()).collect();
    for listed in bus.units(&wanted)? {
        let Some(n) = names.number(&listed.name) else { continue };
        let state = unit::state(&listed.active, &listed.sub, listed.job);
        let pid = match state {
            State::Waiting | State::Gone => 0,
            State::Starting | State::Ready | State::Leaving => bus.property::<u32>(&listed, "MainPID")?,
        };
        let Some(worker) = table.worker_mut(n) else { continue };
        if worker.role == Role::Leaving && state == State::Gone {
            // what follows from it is for whoever writes the record
            drop(table.gone(n, String::new(), Duration::ZERO));
            continue;
        }
        worker.ready = state == State::Ready;
        worker.pid = Some(pid).filter(|pid| *pid != 0);
        worker.started = worker.pid.and_then(process::start_of);
    }
    Ok(())
}
