//! Starts processes as units, and the holder that keeps their sockets.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

use crate::model::{Listen, Ready, Socket, chain};
use crate::supervise::crew::Check;
use crate::supervise::doing::Doing as _;
use crate::supervise::holder::Holder;
use crate::supervise::launch::{self, Given};
use crate::supervise::logs;
use crate::supervise::wire::WorkerSpec;
use crate::supervise::{clock, surroundings};

use super::super::own::{Own, Wanted};
use super::super::ready::Task;
use super::super::unit::{self, Files};
use super::{Crew, FILES, Live, PATIENCE, latest, length};

impl Crew {
    pub(super) fn start(&mut self, n: u64) -> Result<(), String> {
        let known = self.table.worker(n).map(|worker| (worker.spec.clone(), self.log_path(n, worker)));
        let Some((spec, log)) = known else { return Ok(()) };
        self.hold()?;
        self.lease_for(&spec)?;
        let keys = self.sockets_for(&spec)?;
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
        let latest = self.table.worker(n).and_then(latest);
        let live = Live { unit, since, latest, check, telling: None, fell: None, found: false };
        self.live.insert(n, live);
        Ok(())
    }

    /// Sees to it that somebody keeps the sockets.
    pub(super) fn hold(&mut self) -> Result<(), String> {
        if self.holder.as_ref().is_some_and(|holder| !holder.is_broken() && holder.list().is_ok()) {
            return Ok(());
        }
        let log = self.run.path().join("log/holder.log");
        let properties = unit::holder(&self.program, self.run.path(), &log);
        let unit = self.names.holder();
        let deadline = clock::after(PATIENCE);
        let mut anew = Some(clock::after(PATIENCE / 3));
        let mut refused = None;
        let holder = loop {
            match Holder::connect(&self.run) {
                // one that ends just now may still be connected to
                Ok(holder) if holder.list().is_ok() => break holder,
                other if clock::until(deadline).is_zero() => {
                    let error = other.err().map_or("it ends again and again".to_owned(), |e| e.to_string());
                    return Err(format!("nobody keeps the sockets: {}", refused.unwrap_or(error)));
                }
                Ok(_) => std::thread::sleep(Duration::from_millis(10)),
                Err(_) => {
                    // refused where it is there already: up, on its way, or stopped, and named by workers
                    let _ = self.bus.forget(&unit);
                    let started = self.bus.start(&unit, properties.clone());
                    let started = started.or_else(|_| self.bus.start_again(&unit));
                    refused = started.err().map(|e| e.to_string());
                    if anew.take_if(|at| clock::until(*at).is_zero()).is_some() {
                        // it is up, and not to be found: the run directory is another one. It gets all that it has
                        let _ = self.bus.restart(&unit);
                    }
                    std::thread::sleep(Duration::from_millis(10));
                }
            }
        };
        self.sockets.fetch(&holder).and_then(|()| self.sockets.give(&holder)).map_err(|e| e.to_string())?;
        self.sockets.let_in(&self.table.closing);
        self.holder = Some(holder);
        Ok(())
    }

    pub(super) fn lease_for(&mut self, spec: &WorkerSpec) -> Result<(), String> {
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
                given.sockets =
                    sockets.iter().map(|(name, socket)| (name.as_str(), &socket.address)).collect();
                Wanted::Keys(sockets.values().map(Socket::key).collect())
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
        if let Some(watchdog) = spec.watchdog {
            start.env.insert("WATCHDOG_USEC".to_owned(), watchdog.as_micros().to_string());
            start.watchdog_pid = true;
        }
        start.own = Some(Own {
            once: first.then(|| path("once")),
            directory: directory.clone(),
            links,
            ready_file,
            note: path("note"),
            run: self.run.path().to_owned(),
            sockets,
            talks: spec.talks(),
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
    pub(super) fn rewrite(&self, n: u64) {
        let Some(spec) = self.table.worker(n).map(|worker| worker.spec.clone()) else { return };
        if let Err(why) = self.write_files(n, &spec, false) {
            tracing::error!(slot = %spec.slot, why, "what it is started again with is not what it has accepted");
        }
    }
}
