//! The supervisor's side of the socket holder: starts one where none answers, and gives everything
//! to the next when it dies.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use crate::fsx::Dir;

use super::holder::Holder;
use super::sockets::Sockets;
use super::spawn::{self, Spawned};
use super::{clock, launch, oneshot, process, unit};

/// How long a daemon of ours may take until it answers.
const START_LIMIT: Duration = Duration::from_secs(5);

/// How often is looked for one before the end.
const LOOK: Duration = Duration::from_millis(100);

/// Sockets and the holder behind them.
pub(super) struct Keeper {
    /// what is held
    pub(super) sockets: Sockets,
    run: Dir,
    program: PathBuf,
    link: Option<Holder>,
    child: Option<Spawned>,
    retry: Option<Instant>,
}

impl Keeper {
    /// Finds the holder of `run` or starts one, and fetches what it keeps. Without a holder it goes
    /// on, trying again each second: sockets are held here all the same. `given`: what this process was given, by name.
    pub(super) fn open(run: Dir, program: &Path, given: Vec<(String, OwnedFd)>) -> Keeper {
        let program = program.to_owned();
        let mut sockets = Sockets::default();
        sockets.keep_given(given);
        let mut keeper = Keeper { sockets, run, program, link: None, child: None, retry: None };
        keeper.find();
        keeper
    }

    /// Both at once, for calls that change one and tell the other.
    pub(super) fn parts(&mut self) -> (&mut Sockets, Option<&Holder>) {
        (&mut self.sockets, self.link.as_ref().filter(|link| !link.is_broken()))
    }

    /// The descriptor that becomes readable when the holder is gone.
    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        self.link.as_ref().map(Holder::fd)
    }

    /// When [`Keeper::tend`] wants to be called at the latest.
    pub(super) fn next(&self) -> Option<Instant> {
        self.retry
    }

    /// Before the end: waits a while until a holder has everything, where there is none yet.
    pub(super) fn hand_over(&mut self) {
        let deadline = clock::after(START_LIMIT);
        // one that has just been killed is known by its answer
        while self.link.as_ref().is_none_or(|link| link.list().is_err()) && !clock::until(deadline).is_zero()
        {
            self.link = None;
            self.find();
            if self.link.is_none() {
                std::thread::sleep(LOOK);
            }
        }
    }

    /// Sees to it that there is a holder. `gone`: its connection has been lost. True: there is another one, and what
    /// it had is here, too.
    pub(super) fn tend(&mut self, gone: bool) -> bool {
        if gone || self.link.as_ref().is_some_and(Holder::is_broken) {
            tracing::warn!("the socket holder is gone; another one takes its place");
            self.link = None;
        }
        let due = self.retry.is_none_or(|at| clock::until(at).is_zero());
        if self.link.is_some() || !due {
            return false;
        }
        self.find();
        self.link.is_some()
    }

    fn find(&mut self) {
        if self.child.as_ref().is_some_and(|child| process::reap(&child.pidfd).is_some()) {
            self.child = None;
        }
        match Holder::connect(&self.run).or_else(|_| self.start()) {
            Ok(link) => self.join(link),
            Err(error) => self.try_later(&error),
        }
    }

    /// Looks whether there is a holder by now, where there was none; whether one was found.
    pub(super) fn look(&mut self) -> bool {
        if self.link.is_none()
            && let Ok(link) = Holder::connect(&self.run)
        {
            self.join(link);
            return self.link.is_some();
        }
        false
    }

    /// Both have everything, from now on.
    fn join(&mut self, link: Holder) {
        let sockets = &mut self.sockets;
        let all = sockets.fetch(&link).and_then(|()| sockets.fetch_given(&link));
        match all.and_then(|()| sockets.give(&link)) {
            Ok(()) => (self.link, self.retry) = (Some(link), None),
            Err(error) => self.try_later(&error.to_string()),
        }
    }

    fn try_later(&mut self, error: &str) {
        tracing::warn!(error, "there is no socket holder");
        self.retry = Some(clock::after(Duration::from_secs(1)));
    }

    fn start(&mut self) -> Result<Holder, String> {
        if let Some(unit) = unit::of_daemon("holder", self.run.path()) {
            return Err(format!("systemd starts it; `systemctl status {unit}` says why it has not"));
        }
        let mut child = start_daemon(&self.program, "holder", &self.run)?;
        let run = &self.run;
        let found = await_daemon(&child, || Holder::connect(run).ok());
        if found.is_none() {
            child.end();
            return Err("the one started does not answer; see log/holder.log".to_owned());
        }
        tracing::info!(pid = child.pid, "started the socket holder");
        self.child = Some(child);
        found.ok_or_else(String::new)
    }
}

/// Starts `program command --run DIR` in a session of its own, its output in `log/COMMAND.log`.
pub(super) fn start_daemon(program: &Path, command: &str, run: &Dir) -> Result<Spawned, String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    // the daemon starts in `/`: the path it is told has to be whole
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", run_fd(run)), Vec::new());
    let path = path.map_err(|e| words(&e))?.into_string().map_err(|e| words(&e))?;
    let start = launch::daemon(program, command, Path::new(&path)).map_err(|e| words(&e))?;
    let log = Dir::create_all(&run.path().join("log"), 0o755).map_err(|e| words(&e))?;
    let (log, _) = log.append_file(format!("{command}.log"), 0o640).map_err(|e| words(&e))?;
    let (log, _) = log.into_parts();
    let mut child = spawn::spawn(program, log.into(), Vec::new()).map_err(|e| words(&e))?;
    match child.tell(&start) {
        Ok(()) => Ok(child),
        Err(error) => {
            child.end();
            Err(words(&error))
        }
    }
}

fn run_fd(run: &Dir) -> i32 {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    run.as_fd().as_raw_fd()
}

/// Asks `answer` until it has one, every few milliseconds, as long as `child` lives and at most
/// [`START_LIMIT`]. One that ended may have found another one there: it is asked once more.
pub(super) fn await_daemon<T>(child: &Spawned, mut answer: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = clock::after(START_LIMIT);
    loop {
        let over = process::wait_readable(&child.pidfd, Some(Duration::from_millis(2)))
            || clock::until(deadline).is_zero();
        let found = answer();
        if found.is_some() || over {
            return found;
        }
    }
}

/// The end of a daemon's log, for messages.
pub(super) fn last_words(run: &Path, command: &str) -> String {
    oneshot::tail(&run.join("log").join(format!("{command}.log")), 0, 2048)
}
