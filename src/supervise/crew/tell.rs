//! Tells a running process of another generation: its links first, then itself; then waits for what says that
//! it has taken it.

use std::path::Path;

use rustix::process::Signal;

use crate::fsx::{Dir, FsError};
use crate::model::{Probe, Ready, Tell, chain};
use crate::supervise::doing::Doing as _;
use crate::supervise::launch::Given;
use crate::supervise::probe::Subject;
use crate::supervise::readiness::{Age, FileMark};
use crate::supervise::tries::{Asking, Tries};
use crate::supervise::wire::WorkerSpec;
use crate::supervise::{clock, launch, process};

use super::{Check, Crew, Reload, Telling, subject};

impl Crew {
    /// Tells process `n` what the table says that it is being told.
    pub(super) fn inform(&mut self, n: u64) -> Result<(), String> {
        let spec = self.table.worker(n).and_then(|worker| Some(worker.telling.as_ref()?.spec.clone()));
        let (Some(spec), true) = (spec, self.live.contains_key(&n)) else {
            return Err("it is not there".to_owned());
        };
        self.lease_for(&spec)?;
        link(&self.run, n, &spec).map_err(|e| chain(&e))?;
        let Some(live) = self.live.get_mut(&n) else { return Ok(()) };
        let pid = live.pid;
        let subject = subject(self.tries.run(), n, pid, &spec);
        let reloading = self.table.worker(n).is_some_and(|worker| worker.reloading);
        let (check, signal) = begin(n, &spec, subject, reloading, &mut self.tries)?;
        if let Some(signal) = signal {
            process::signal(&live.pidfd, signal);
        }
        live.telling = Some(Telling::of(&spec, check));
        // nobody asks meanwhile whether it is well
        live.check = Check::None;
        tracing::info!(slot = %spec.slot, pid, generation = spec.generation.short(), "is told");
        Ok(())
    }

    /// Whether process `n` is being told, and `known` is how it is known that it has taken it.
    pub(super) fn is_told_by(&self, n: u64, known: impl FnOnce(&Check) -> bool) -> bool {
        self.live.get(&n).and_then(|live| live.telling.as_ref()).is_some_and(|telling| known(&telling.check))
    }

    /// Process `n` has taken what it was told of, or has not.
    pub(super) fn has_taken(&mut self, n: u64, answer: Result<(), String>) {
        let Some(live) = self.live.get_mut(&n) else { return };
        live.telling = None;
        // whoever has ended has taken nothing; that it has ended is told next
        if process::ended(&live.pidfd) {
            return;
        }
        let acts = match answer {
            Ok(()) => self.table.told(n),
            Err(why) => self.table.not_told(n, why),
        };
        if let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker(n)) {
            live.check = super::watch(worker);
        }
        self.carry_out(acts);
    }

    /// Looks for what says that somebody has taken it, and at the time.
    pub(super) fn on_time_to_tell(&mut self) {
        let numbers: Vec<u64> = self.live.keys().copied().collect();
        for n in numbers {
            let Some(live) = self.live.get_mut(&n) else { continue };
            let (pid, Some(telling)) = (live.pid, &mut live.telling) else { continue };
            let worker = self.table.worker(n).and_then(|worker| worker.telling.as_ref());
            let Some(spec) = worker.map(|told| &told.spec) else { continue };
            if let Some(answer) = telling.turn(n, spec, pid, &mut self.tries) {
                self.has_taken(n, answer);
            }
        }
    }
}

impl Telling {
    /// It is told of `spec` now.
    pub(in crate::supervise) fn of(spec: &WorkerSpec, check: Check) -> Telling {
        let limit = spec.start_timeout;
        Telling { deadline: clock::after(limit), latest: clock::after(spec.longest(limit)), check }
    }

    /// What has come of it by now, where something has: process `n`, with the pid `pid`, has taken `spec`, or why not.
    pub(in crate::supervise) fn turn(
        &mut self,
        n: u64,
        spec: &WorkerSpec,
        pid: u32,
        tries: &mut Tries,
    ) -> Option<Result<(), String>> {
        let mut said = String::new();
        let taken = match &mut self.check {
            Check::None | Check::Told(_) | Check::Message(_) => false,
            Check::File(path, before) => before.is_passed(path),
            Check::After(age) => age.is_reached(pid),
            Check::Ask(asking) => {
                let limit = Some(clock::until(self.deadline));
                asking.turn(n, tries, limit, |run| subject(run, n, pid, spec));
                said = asking.last.iter().map(|said| format!(": {said}")).collect();
                false
            }
        };
        let late = clock::until(self.deadline).is_zero();
        let limit = spec.start_timeout;
        taken
            .then_some(Ok(()))
            .or_else(|| late.then(|| Err(format!("it has not taken it within {limit:?}{said}"))))
    }
}

/// Begins to tell process `n`, which is `subject`, of `spec`: by what it is known that it has taken it, and the signal
/// that is to be sent to it now. `reloading`: it reloads something already.
pub(in crate::supervise) fn begin(
    n: u64,
    spec: &WorkerSpec,
    subject: Subject,
    reloading: bool,
    tries: &mut Tries,
) -> Result<(Check, Option<Signal>), String> {
    match &spec.tell {
        Some(Tell::Command(command)) => {
            let command = Probe::Command(command.clone());
            Ok((Check::Told(tries.ask(n, command, subject, spec.start_timeout)), None))
        }
        Some(Tell::Signal { signal, verify }) => {
            // what there is to be seen of it must not have been there before
            let check = match verify {
                Ready::Notify => Check::Message(Reload::told(reloading)),
                Ready::File(path) => {
                    let run = subject.directory.to_str().ok_or("its directory is not UTF-8")?;
                    let given = Given { run, worker: Some(spec), ..Given::default() };
                    let path = launch::expand_words(path, &spec.launch, &given).map_err(|e| e.to_string())?;
                    let path = Path::new(&path).to_owned();
                    let before = FileMark::of(&path);
                    Check::File(path, before)
                }
                Ready::After(time) => Check::After(Age::of(*time)),
                Ready::Probe(probe) => Check::Ask(Asking::new(probe)),
            };
            let signal = process::signal_named(signal).ok_or("there is no such signal")?;
            Ok((check, Some(signal)))
        }
        None => Err("it has no way to be told".to_owned()),
    }
}

/// Has the links in the directory of process `n` lead to what `spec` runs, each in one step.
pub(in crate::supervise) fn link(run: &Dir, n: u64, spec: &WorkerSpec) -> Result<(), FsError> {
    let directory = run.dir(Path::new("p").join(n.to_string()))?;
    let loaded = spec.launch.loaded.as_ref().map(|loaded| ("loaded", loaded));
    for (name, target) in [("config", &spec.launch.config)].into_iter().chain(loaded) {
        let temporary = format!(".{name}.new");
        directory.remove_tree(&temporary)?;
        directory.symlink(target, &temporary)?;
        directory.rename(&temporary, &directory, name)?;
    }
    Ok(())
}
