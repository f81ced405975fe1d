//! `pointsman __ready FILE PID`, which systemd runs beside a process that it has started: ends when that is ready,
//! with success, or when it is clear that it is not. So what comes of systemd's job is what comes of the worker.

use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::fsx::{Dir, Lock};
use crate::model::{Listen, Probe, Ready, chain};
use crate::supervise::clock;
use crate::supervise::holder::Holder;
use crate::supervise::launch;
use crate::supervise::oneshot::Cancel;
use crate::supervise::probe::{self, Subject};
use crate::supervise::process::{self, start_of};
use crate::supervise::readiness::{Age, FileMark, POLL};
use crate::supervise::sockets::Sockets;
use crate::supervise::tries::{FIRST, SLOWEST};
use crate::supervise::wire::WorkerSpec;

use super::own::{Note, write_in};

/// What there is to wait for.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Task {
    /// the worker
    pub(super) spec: WorkerSpec,
    /// its `{run}`
    pub(super) directory: PathBuf,
    /// the run directory of the service
    pub(super) run: PathBuf,
    /// our own binary
    pub(super) program: PathBuf,
    /// what it notes before it becomes its program
    pub(super) note: PathBuf,
    /// where to write why it is not ready
    pub(super) reason: PathBuf,
    /// where to write which sockets it has bound
    pub(super) bound: PathBuf,
}

/// Waits until process `pid` is ready, as the task in the file `task` says, and keeps the sockets that it has
/// bound. `false`: it is not, or has ended; why is written where the task says, unless it has ended.
///
/// # Errors
/// The task cannot be read.
pub fn await_ready(task: &Path, pid: u32) -> Result<bool, String> {
    let bytes = crate::fsx::read_path(task, 8 << 20).map_err(|e| chain(&e))?;
    let task: Task = serde_json::from_slice(&bytes).map_err(|e| e.to_string())?;
    let result = match start_of(pid).and_then(|started| process::open(pid, started)) {
        Some(pidfd) => task.wait(pid, &pidfd),
        None => Err(None),
    };
    match result {
        Ok(()) => Ok(true),
        Err(why) => {
            if let Some(why) = why {
                write_in(&task.reason, why.as_bytes(), true).map_err(|e| chain(&e))?;
            }
            Ok(false)
        }
    }
}

/// Why not; nothing to say where it has ended.
type Not = Option<String>;

impl Task {
    fn wait(&self, pid: u32, pidfd: &std::os::fd::OwnedFd) -> Result<(), Not> {
        let limit = self.spec.start_timeout;
        let deadline = clock::after(limit);
        let late = |said: &str| Some(format!("was not ready within {limit:?}{said}"));
        let mark = loop {
            match self.noted(pid) {
                Some(mark) => break mark,
                None if process::wait_readable(pidfd, Some(POLL)) => return Err(None),
                None if clock::until(deadline).is_zero() => return Err(late("")),
                None => {}
            }
        };
        match &self.spec.ready {
            Ready::Notify => {}
            Ready::After(time) => {
                let mut age = Age::of(*time);
                while !age.is_reached(pid) {
                    if process::wait_readable(pidfd, Some(age.left())) {
                        return Err(None);
                    }
                    if clock::until(deadline).is_zero() {
                        return Err(late(""));
                    }
                }
            }
            Ready::File(path) => {
                let run =
                    self.directory.to_str().ok_or_else(|| Some("its directory is not UTF-8".to_owned()))?;
                let path =
                    launch::expand_path(path, run, &self.spec.launch).map_err(|e| Some(e.to_string()))?;
                while !mark.is_passed(&path) {
                    if process::wait_readable(pidfd, Some(POLL)) {
                        return Err(None);
                    }
                    if clock::until(deadline).is_zero() {
                        return Err(late(""));
                    }
                }
            }
            Ready::Probe(probe) => self.ask(probe, pid, pidfd)?,
        }
        if process::ended(pidfd) {
            return Err(None);
        }
        self.take(pid, pidfd).map_err(Some)?;
        self.mind();
        Ok(())
    }

    /// From now on it may not be silent. Where systemd knows that it is ready by another word than ours, it does so by
    /// itself: before, nobody has to speak.
    fn mind(&self) {
        if let Some(watchdog) = self.spec.watchdog.filter(|_| self.spec.ready != Ready::Notify) {
            let word = format!("WATCHDOG_USEC={}", watchdog.as_micros());
            if let Err(error) = sd_notify::notify(&[sd_notify::NotifyState::Custom(&word)]) {
                tracing::warn!(%error, "its watchdog is not minded");
            }
        }
    }

    /// What process `pid` has noted, once it has.
    fn noted(&self, pid: u32) -> Option<FileMark> {
        let note: Note = serde_json::from_slice(&crate::fsx::read_path(&self.note, 4096).ok()?).ok()?;
        (note.pid == pid).then_some(note.mark)
    }

    /// Asks until the answer is yes.
    fn ask(&self, probe: &Probe, pid: u32, pidfd: &std::os::fd::OwnedFd) -> Result<(), Not> {
        let limit = self.spec.start_timeout;
        let deadline = clock::after(limit);
        let cancel = Cancel::new().map_err(|e| Some(e.to_string()))?;
        // an exit ends the wait at once
        let watched = pidfd.try_clone().map_err(|e| Some(e.to_string()))?;
        let ends = cancel.clone();
        std::thread::spawn(move || {
            while !process::wait_readable(&watched, None) {}
            ends.cancel();
        });
        let subject = Subject {
            spec: self.spec.clone(),
            directory: self.directory.clone(),
            pid,
            run: self.run.clone(),
        };
        let (mut pause, mut said) = (FIRST, String::new());
        loop {
            if process::wait_readable(pidfd, Some(pause.min(clock::until(deadline)))) {
                return Err(None);
            }
            let left = clock::until(deadline);
            if left.is_zero() {
                return Err(Some(format!("was not ready within {limit:?}{said}")));
            }
            match probe::ask(probe, &subject, left, &self.program, &cancel) {
                _ if process::ended(pidfd) => return Err(None),
                Ok(()) => return Ok(()),
                // one that was only cut off says less than the one before
                Err(_) if clock::until(deadline).is_zero() && !said.is_empty() => {}
                Err(why) => said = format!(": {why}"),
            }
            pause = (pause * 2).min(SLOWEST);
        }
    }

    /// Has the holder keep what it has bound itself.
    fn take(&self, pid: u32, pidfd: &std::os::fd::OwnedFd) -> Result<(), String> {
        let Listen::Inherit(_) = self.spec.listen else { return Ok(()) };
        let run = Dir::open(&self.run).map_err(|e| chain(&e))?;
        // two that get ready at once must not take each other's names
        let _turn = Lock::exclusive(&run, "take.lock").map_err(|e| chain(&e))?;
        let holder = Holder::connect(&run).map_err(|e| e.to_string())?;
        let mut sockets = Sockets::default();
        sockets.fetch(&holder).map_err(|e| e.to_string())?;
        let keys =
            sockets.take(&self.spec.slot.group, pid, pidfd, Some(&holder)).map_err(|e| e.to_string())?;
        let keys = serde_json::to_vec(&keys).expect("keys are text");
        write_in(&self.bound, &keys, true).map(drop).map_err(|e| chain(&e))
    }
}
