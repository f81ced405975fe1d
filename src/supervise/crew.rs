//! The live processes behind the table: does what it says ([`Doing`]), and turns exits, messages and deadlines
//! into the table's transitions. Records first, then acts.

use std::collections::btree_map::{BTreeMap, Entry};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Instant;

use rustix::process::Signal;

use crate::fsx::{Dir, FsError, Lock};
use crate::model::{Listen, Ready, Slot, chain};

use super::closing::{self, Closing};
use super::doing::{Doing, Parts};
use super::keeper::Keeper;
use super::launch::{self, Given};
use super::logs::{self, Logs};
use super::news::Bulletin;
use super::probe::Subject;
use super::process::{self, Ended};
use super::readiness::{self, Age, FileMark, NotifySocket};
use super::record::Record;
use super::slots::{Role, Table, Worker};
use super::tries::{Asking, Health, Tries, Try};
use super::wire::WorkerSpec;
use super::{clock, memory, spawn, strays, surroundings, taking};

pub(super) mod heard;
pub(super) mod tell;

use heard::Reload;

/// How much of a worker's last output is told with its end.
pub(super) const TAIL: u64 = 4 << 10;

/// All processes of a run directory, their record and what they are given.
pub(super) struct Crew {
    /// what shall run
    pub(super) table: Table,
    /// what has happened
    pub(super) bulletin: Bulletin,
    /// their sockets
    pub(super) keeper: Keeper,
    /// where they say that they are ready
    pub(super) notify: NotifySocket,
    /// what is asked of them
    pub(super) tries: Tries,
    /// the length of what they write
    pub(super) logs: Logs,
    run: Dir,
    program: PathBuf,
    record: Record,
    live: BTreeMap<u64, Live>,
    leases: BTreeMap<PathBuf, Lock>,
    restarts: BTreeMap<Slot, Instant>,
    closing: Option<Closing>,
}

struct Live {
    pidfd: OwnedFd,
    pid: u32,
    started: u64,
    since: Instant,
    /// it is condemned or killed when this passes
    deadline: Option<Instant>,
    /// as far as it can have that put off
    latest: Instant,
    /// it has been silent for too long when this passes
    silence: Option<Instant>,
    check: Check,
    telling: Option<Telling>,
}

/// A process that is being told: until when, and by what it is known that it has taken it.
pub(super) struct Telling {
    pub(super) deadline: Instant,
    /// as far as it can have that put off
    pub(super) latest: Instant,
    pub(super) check: Check,
}

/// What is waited for.
pub(super) enum Check {
    /// told, or nothing to wait for
    None,
    File(PathBuf, FileMark),
    After(Age),
    /// until it is ready, and then through probation
    Ask(Asking),
    /// the end of the command that tells it
    Told(Try),
    /// a message of its own
    Message(Reload),
}

impl Check {
    /// When there is something to look for at the latest.
    pub(super) fn next(&self) -> Option<Instant> {
        match self {
            Check::None | Check::Told(_) | Check::Message(_) => None,
            Check::File(..) => Some(clock::after(readiness::POLL)),
            Check::After(age) => Some(clock::after(age.left())),
            Check::Ask(asking) => asking.next(),
        }
    }
}

impl Crew {
    /// Reads the record in `run` and adopts what of it is alive.
    pub(super) fn muster(run: Dir, program: PathBuf, keeper: Keeper) -> Result<Crew, FsError> {
        let record = Record::open(Dir::open(run.path())?)?;
        let (table, news) = record.load()?;
        let mut crew = Crew {
            table,
            bulletin: Bulletin::after(news),
            keeper,
            notify: NotifySocket::bind(&run)?,
            tries: Tries::new(run.path(), &program)?,
            logs: Logs::open(run.path())?,
            run,
            program,
            record,
            live: BTreeMap::new(),
            leases: BTreeMap::new(),
            restarts: BTreeMap::new(),
            closing: None,
        };
        crew.adopt()?;
        Ok(crew)
    }

    fn adopt(&mut self) -> Result<(), FsError> {
        let mut gone = Vec::new();
        for (n, worker) in self.table.workers() {
            let (Some(pid), Some(started)) = (worker.pid, worker.started) else { continue };
            match process::open(pid, started) {
                Some(pidfd) => {
                    tracing::info!(slot = %worker.spec.slot, pid, "adopted");
                    let since = clock::now();
                    let check = watch(worker);
                    // it may have spoken while nobody listened
                    let silence = worker.spec.watchdog.filter(|_| worker.ready).map(clock::after);
                    let (deadline, latest, telling) = (None, since, None);
                    let live = Live { pidfd, pid, started, since, deadline, latest, silence, check, telling };
                    self.live.insert(n, live);
                }
                None => {
                    process::kill_group(pid, started);
                    gone.push(n);
                }
            }
        }
        self.end_strays(&gone);
        memory::sweep();
        // before anybody who starts is killed: nobody else may have its sockets
        taking::take_back(self);
        let alive = self.live.keys().copied().collect();
        let acts = self.table.adopt(&alive);
        let processes = Dir::create_all(&self.run.path().join("p"), 0o755)?;
        for name in processes.names()? {
            let number = name.to_str().and_then(|name| name.parse::<u64>().ok());
            if number.is_some_and(|n| self.table.worker(n).is_none()) {
                processes.remove_tree(&name)?;
            }
        }
        self.keeper.sockets.let_in(&self.table.closing);
        closing::let_go_of_stale(self);
        closing::resume(self, acts);
        Ok(())
    }

    /// Sees to it that there is a holder (`gone`: the one there was is not).
    pub(super) fn tend_holder(&mut self, gone: bool) {
        if self.keeper.tend(gone) {
            self.join_holder();
        }
    }

    /// Looks whether there is a holder by now, where there was none.
    pub(super) fn look_for_holder(&mut self) {
        if self.keeper.look() {
            self.join_holder();
        }
    }

    /// There is another holder, and what it had is here: where that is what was lost, it is not lost any more.
    fn join_holder(&mut self) {
        self.keeper.sockets.let_in(&self.table.closing);
        taking::take_back(self);
        closing::let_go_of_stale(self);
    }

    /// The processes to wait for, by number.
    pub(super) fn pidfds(&self) -> impl Iterator<Item = (u64, &OwnedFd)> {
        self.live.iter().map(|(n, live)| (*n, &live.pidfd))
    }

    /// When [`Crew::on_time`] has something to do at the latest.
    pub(super) fn next_time(&self) -> Option<Instant> {
        let deadlines = self.live.values().flat_map(|live| [live.deadline, live.silence]).flatten();
        deadlines.chain(self.next()).chain(self.keeper.next()).min()
    }

    /// These processes have ended: what is left of their groups and beyond is killed, and they are reaped. All at once,
    /// since one look for strays takes about 16 microseconds for each process of the machine.
    pub(super) fn on_exits(&mut self, numbers: &[u64]) {
        let mut gone = Vec::new();
        for n in numbers {
            let Some(live) = self.live.remove(n) else { continue };
            // before it is reaped: the zombie keeps the number of its group from being anybody else's
            process::kill_group(live.pid, live.started);
            let ended = process::reap(&live.pidfd).unwrap_or(Ended::Unknown);
            gone.push((*n, live, ended));
        }
        self.end_strays(&gone.iter().map(|(n, ..)| *n).collect::<Vec<_>>());
        for (n, live, ended) in gone {
            self.has_ended(n, &live, ended);
        }
    }

    fn has_ended(&mut self, n: u64, live: &Live, ended: Ended) {
        self.remove_directory(n);
        let Some(worker) = self.table.worker(n) else { return };
        let mut what = worker.verdict.clone().unwrap_or_else(|| ended.to_string());
        if worker.spec.launch.surroundings.memory.is_some() && memory::leave(live.pid) {
            what = format!("{what}; {}", memory::SHORT);
        }
        if !worker.note.is_empty() {
            what = format!("{what}; it said last: {}", worker.note);
        }
        let tail = logs::tail(&self.log_path(n, worker), worker.log_from, TAIL);
        let why = if tail.is_empty() { what.clone() } else { format!("{what}\n{tail}") };
        tracing::info!(slot = %worker.spec.slot, pid = live.pid, what, "is gone");
        let well = ended.success() && worker.verdict.is_none();
        let listen = (!worker.ready).then(|| worker.spec.listen.clone());
        let acts = self.table.ended(n, why, clock::now() - live.since, well);
        closing::close_unneeded(self, listen.as_ref());
        self.carry_out(acts);
    }

    /// Does what is due.
    pub(super) fn on_time(&mut self) {
        let numbers: Vec<u64> = self.live.keys().copied().collect();
        for n in numbers {
            let Some(live) = self.live.get_mut(&n) else { continue };
            let mut unwell = None;
            let ready = match &mut live.check {
                Check::None | Check::Told(_) | Check::Message(_) => false,
                Check::Ask(asking) => {
                    let Some(worker) = self.table.worker(n) else { continue };
                    let limit = live.deadline.map(clock::until);
                    let pid = live.pid;
                    unwell = asking.turn(n, &mut self.tries, limit, |run| subject(run, n, pid, &worker.spec));
                    false
                }
                Check::File(path, before) => before.is_passed(path),
                Check::After(age) => age.is_reached(live.pid),
            };
            if unwell.is_some() {
                self.table.feels(n, unwell);
            }
            let Some(live) = self.live.get_mut(&n) else { continue };
            if ready && !process::ended(&live.pidfd) {
                self.became_ready(n);
            } else if live.deadline.is_some_and(|at| clock::until(at).is_zero()) {
                let waited = live.deadline.take().map(|at| at - live.since).unwrap_or_default();
                match self.table.worker(n) {
                    // asked to finish, or aborted
                    Some(worker) if worker.role == Role::Leaving || worker.verdict.is_some() => self.kill(n),
                    Some(worker) => {
                        let said = match &live.check {
                            Check::Ask(Asking { last: Some(said), .. }) => format!(": {said}"),
                            _ => String::new(),
                        };
                        let limit = heard::limit(worker.spec.start_timeout, waited);
                        let why = format!("was not ready within {limit}{said}");
                        let acts = self.table.condemn(n, why);
                        self.carry_out(acts);
                    }
                    None => {}
                }
            }
        }
        self.logs.on_time();
        self.on_silence();
        self.on_time_to_tell();
        closing::on_time_to_close(self);
        self.on_time_to_restart();
    }

    /// Takes the answers of workers that were asked.
    pub(super) fn on_answers(&mut self) {
        for done in self.tries.done() {
            if self.is_told_by(done.n, |check| matches!(check, Check::Told(now) if now.is(&done))) {
                self.has_taken(done.n, done.answer);
                continue;
            }
            let Some(live) = self.live.get_mut(&done.n) else { continue };
            if let Some(Telling { check: Check::Ask(asking), .. }) = &mut live.telling
                && asking.is_answered_by(&done)
            {
                match done.answer {
                    Ok(()) => self.has_taken(done.n, Ok(())),
                    Err(why) => asking.not_yet(why),
                }
                continue;
            }
            let Check::Ask(asking) = &mut live.check else { continue };
            if !asking.is_answered_by(&done) {
                continue;
            }
            let n = done.n;
            if self.table.worker(n).is_none_or(|worker| !worker.ready) {
                match done.answer {
                    // whoever ended was not ready, though another may have answered in its place
                    Ok(()) if process::ended(&live.pidfd) => {}
                    Ok(()) => self.became_ready(n),
                    Err(why) => asking.not_yet(why),
                }
                continue;
            }
            match asking.heard(done.answer) {
                Health::Well => self.table.feels(n, None),
                Health::Unwell(why) => self.table.feels(n, Some(why)),
                Health::Failed(why) => {
                    let acts = self.table.failing(n, why);
                    self.carry_out(acts);
                }
            }
        }
    }

    fn became_ready(&mut self, n: u64) {
        let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker(n)) else { return };
        (live.check, live.deadline) = (Check::None, None);
        let mut keys = worker.sockets.clone();
        if let Listen::Inherit(_) = worker.spec.listen {
            let (sockets, link) = self.keeper.parts();
            match sockets.take(&worker.spec.slot.group, live.pid, &live.pidfd, link) {
                Ok(taken) => keys = taken,
                Err(error) => {
                    let acts = self.table.condemn(n, error.to_string());
                    return self.carry_out(acts);
                }
            }
        }
        tracing::info!(slot = %worker.spec.slot, pid = live.pid, "is ready");
        let acts = self.table.ready(n, keys);
        if let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker(n)) {
            live.check = watch(worker);
            live.silence = worker.spec.watchdog.map(clock::after);
        }
        self.carry_out(acts);
    }

    fn start(&mut self, n: u64) -> Result<(), String> {
        let Some(spec) = self.table.worker(n).map(|worker| worker.spec.clone()) else { return Ok(()) };
        self.lease_for(&spec)?;
        let keys = self.sockets_for(&spec)?;
        let fds = self.keeper.sockets.duplicates(&keys).map_err(|e| e.to_string())?;
        let directory = self.make_directory(n, &spec).map_err(|e| chain(&e))?;
        let run = directory.path().to_str().ok_or("the run directory's path is not UTF-8")?;
        let copies_loaded = spec.copies_loaded;
        let mut given = Given { run, worker: Some(&spec), copies_loaded, ..Given::default() };
        match &spec.listen {
            Listen::Sockets(sockets) => {
                given.sockets =
                    sockets.iter().map(|(name, socket)| (name.as_str(), &socket.address)).collect();
            }
            Listen::Inherit(variable) => given.inherited = Some((variable, fds.len())),
        }
        let mut check = Check::None;
        given.notify = Some(self.notify.path()).filter(|_| spec.talks());
        match &spec.ready {
            Ready::Notify => {}
            Ready::File(path) => {
                let path = launch::expand_path(path, run, &spec.launch).map_err(|e| e.to_string())?;
                let before = FileMark::of(&path);
                check = Check::File(path, before);
            }
            Ready::After(time) => check = Check::After(Age::of(*time)),
            Ready::Probe(probe) => check = Check::Ask(Asking::new(probe)),
        }
        let start = surroundings::start(&spec.launch, &given)?;
        start.settings.give(&directory).map_err(|e| chain(&e))?;
        let path = self.table.worker(n).map(|worker| self.log_path(n, worker)).unwrap_or_default();
        logs::prune(self.run.path(), &spec.slot, &self.live.keys().copied().collect());
        let log = Path::new("log").join(path.file_name().unwrap_or_default());
        let log = self.run.append_file(log, 0o640).map(|(log, _)| log);
        let (log, _) = log.map_err(|e| chain(&e))?.into_parts();
        start.settings.give_file(&log, &path).map_err(|e| chain(&e))?;
        let log_from = crate::fsx::Meta::of_fd(&log, &path).map_err(|e| chain(&e))?.len;

        let mut child = spawn::spawn(&self.program, log.into(), fds).map_err(|e| e.to_string())?;
        if let Some(worker) = self.table.worker_mut(n) {
            (worker.pid, worker.started) = (Some(child.pid), Some(child.started));
            (worker.log_from, worker.sockets) = (log_from, keys);
        }
        self.keeper.sockets.note(&mut self.table);
        let told = self
            .record
            .save(&self.table, self.bulletin.last())
            .map_err(|e| chain(&e))
            .and_then(|()| child.tell(&start).map_err(|e| e.to_string()));
        if let Err(why) = told {
            child.end();
            return Err(why);
        }
        let since = clock::now();
        let deadline = Some(clock::after(spec.start_timeout));
        let generation = spec.generation.short();
        tracing::info!(slot = %spec.slot, pid = child.pid, generation, "started");
        let (pid, started) = (child.pid, child.started);
        let latest = clock::after(spec.longest(spec.start_timeout));
        let (pidfd, silence, telling) = (child.pidfd, None, None);
        self.live.insert(n, Live { pidfd, pid, started, since, deadline, latest, silence, check, telling });
        Ok(())
    }

    /// `p/<n>`, with links to what the process shall use.
    fn make_directory(&self, n: u64, spec: &WorkerSpec) -> Result<Dir, FsError> {
        let name = Path::new("p").join(n.to_string());
        self.run.remove_tree(&name)?;
        let directory = self.run.create_dir(&name, 0o755)?;
        directory.symlink(&spec.launch.config, "config")?;
        // a copy is made there by the process itself
        if let Some(loaded) = spec.launch.loaded.as_ref().filter(|_| !spec.copies_loaded) {
            directory.symlink(loaded, "loaded")?;
        }
        Ok(directory)
    }

    /// Ends what these processes, which are gone, have started and what has left their groups: known by its
    /// environment.
    fn end_strays(&self, numbers: &[u64]) {
        let run = self.run.path().join("p");
        let directories: Vec<PathBuf> = numbers.iter().map(|n| run.join(n.to_string())).collect();
        if directories.is_empty() {
            return;
        }
        if let Err(error) = strays::kill(&directories) {
            tracing::warn!(error = chain(&error), "what they had started may live on");
        }
    }

    fn remove_directory(&self, n: u64) {
        if let Err(error) = self.run.remove_tree(Path::new("p").join(n.to_string())) {
            tracing::warn!(error = chain(&error), "stays behind");
        }
    }

    fn drain(&mut self, n: u64) {
        let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker_mut(n)) else { return };
        let grace = worker.spec.grace_shutdown_time;
        if !worker.told {
            let signal = process::signal_named(&worker.spec.stop_signal).unwrap_or(Signal::TERM);
            process::signal(&live.pidfd, signal);
            (worker.told, worker.left) = (true, process::uptime());
        }
        tracing::info!(slot = %worker.spec.slot, pid = live.pid, ?grace, "drains");
        (live.check, live.deadline, live.telling) = (Check::None, Some(clock::after(grace)), None);
        (live.latest, live.silence) = (clock::after(worker.spec.longest(grace)), None);
        if grace.is_zero() {
            self.kill(n);
        }
    }

    fn kill(&mut self, n: u64) {
        let Some(live) = self.live.get_mut(&n) else { return };
        tracing::info!(pid = live.pid, "killed with its process group");
        (live.check, live.deadline, live.telling, live.silence) = (Check::None, None, None, None);
        process::signal(&live.pidfd, Signal::KILL);
        process::kill_group(live.pid, live.started);
    }

    /// Holds a lease on every directory that is needed and lets the others go. Those it cannot have,
    /// where there are any.
    fn lease(&mut self) -> Option<Vec<PathBuf>> {
        let needed = self.table.needed_leases();
        self.leases.retain(|path, _| needed.contains(path));
        let mut missing = Vec::new();
        for path in needed {
            let Entry::Vacant(place) = self.leases.entry(path) else { continue };
            match Lock::lease(place.key()) {
                Ok(Some(lock)) => {
                    place.insert(lock);
                }
                Ok(None) | Err(_) => missing.push(place.into_key()),
            }
        }
        Some(missing).filter(|missing| !missing.is_empty())
    }

    /// Holds a lease on everything that `spec` needs.
    fn lease_for(&mut self, spec: &WorkerSpec) -> Result<(), String> {
        let missing = self.lease().unwrap_or_default();
        match spec.leases.iter().find(|path| missing.contains(path)) {
            Some(path) => Err(format!("{} is not there or is being collected", path.display())),
            None => Ok(()),
        }
    }

    fn log_path(&self, n: u64, worker: &Worker) -> PathBuf {
        self.run.path().join("log").join(logs::name(&worker.spec.slot, worker.started_for, n))
    }
}

impl Doing for Crew {
    fn parts(&mut self) -> Parts<'_> {
        let Crew { table, bulletin, restarts, keeper, closing, .. } = self;
        let (sockets, holder) = keeper.parts();
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
        self.keeper.sockets.note(&mut self.table);
        if let Err(error) = self.record.save(&self.table, self.bulletin.last()) {
            tracing::error!(error = chain(&error), "the record could not be written");
        }
    }

    fn start(&mut self, n: u64) -> Result<(), String> {
        Crew::start(self, n)
    }

    fn remove(&self, n: u64) {
        self.remove_directory(n);
    }

    fn drain(&mut self, n: u64) {
        Crew::drain(self, n);
    }

    fn until_heard(&self, _numbers: &[u64]) {
        // a signal is there when it has been sent
    }

    fn kill(&mut self, n: u64) {
        Crew::kill(self, n);
    }

    fn inform(&mut self, n: u64) -> Result<(), String> {
        Crew::inform(self, n)
    }

    fn release(&mut self) {
        let _ = self.lease();
    }

    fn hold(&mut self) -> Result<(), String> {
        // the keeper looks after it all the time, and the next holder is given what is here
        Ok(())
    }
}

/// Worker `n` as whoever is asked about it is told.
pub(super) fn subject(run: &Path, n: u64, pid: u32, spec: &WorkerSpec) -> Subject {
    Subject { spec: spec.clone(), directory: run.join("p").join(n.to_string()), pid, run: run.to_owned() }
}

/// How a ready worker is looked after.
pub(super) fn watch(worker: &Worker) -> Check {
    match &worker.spec.ready {
        Ready::Probe(probe) if worker.watched => Check::Ask(Asking::new(probe)),
        _ => Check::None,
    }
}
