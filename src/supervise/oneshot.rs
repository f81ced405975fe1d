//! One-shots: a loader or a check, run to its end in a process group of its own that leaves nothing
//! behind on any way out.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use std::os::fd::OwnedFd;

use rustix::event::{EventfdFlags, PollFd, PollFlags};

use crate::fsx::{Dir, FsError, Lock};

use super::exec::Start;
use super::launch::Given;
use super::output::Output;
use super::probe::Subject;
use super::process::{self, Ended};
use super::wire::Launch;
use super::{clock, memory, spawn, strays, surroundings};

/// A command to run to its end.
#[derive(Clone, Debug)]
pub struct OneShot {
    /// what it is called in the log
    pub name: String,
    /// what to run
    pub launch: Launch,
    /// the run directory: its `{run}` is made beneath and removed afterwards
    pub run: PathBuf,
    /// its limit
    pub timeout: Duration,
    /// where the last 64 KiB of its output are appended, at its end; made with 0640. Beyond 1 MiB the log is put
    /// aside as `NAME.1`
    pub output: PathBuf,
}

/// A one-shot that came to its own end.
#[derive(Debug)]
pub struct Finished {
    /// how
    pub status: Ended,
    /// the last 64 KiB of what it wrote
    pub output_tail: String,
    /// from start to end
    pub took: Duration,
}

/// A one-shot that did not come to its own end. No process of its group is left.
#[derive(Debug, thiserror::Error)]
pub enum OneShotError {
    /// it could not be started, for a reason on our side
    #[error("cannot start it: {why}")]
    NotStarted {
        /// the reason
        why: String,
    },
    /// a file of ours could not be made
    #[error("cannot prepare its start")]
    Files {
        /// which, and why
        source: FsError,
    },
    /// its limit passed; it was killed
    #[error("it took longer than {limit:?} and was killed")]
    TimedOut {
        /// the limit
        limit: Duration,
        /// the last 64 KiB of what it wrote
        output_tail: String,
    },
    /// somebody called [`Cancel::cancel`]; it was killed
    #[error("it was cancelled")]
    Cancelled,
}

/// Calls off one-shots from another thread. Clones are the same thing; once called off is for ever.
#[derive(Clone, Debug)]
pub struct Cancel {
    event: Arc<OwnedFd>,
}

impl Cancel {
    /// Nothing called off yet.
    ///
    /// # Errors
    /// There is no descriptor left.
    pub fn new() -> std::io::Result<Cancel> {
        let event = rustix::event::eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
        Ok(Cancel { event: Arc::new(event) })
    }

    /// Ends every one-shot that has this, now and later.
    pub fn cancel(&self) {
        let _ = rustix::io::write(&*self.event, &1u64.to_ne_bytes());
    }

    /// The descriptor to poll: readable once it has been called off.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.event
    }

    /// Whether it has been called off.
    pub fn is_cancelled(&self) -> bool {
        process::wait_readable(&*self.event, Some(Duration::ZERO))
    }
}

/// Runs `shot` to its end, at most `shot.timeout`, and waits for it.
///
/// Its whole process group is killed on every way out, strays it left behind included. It dies with
/// the calling *thread*. `{run}` is a fresh empty directory that is gone afterwards.
///
/// # Errors
/// See [`OneShotError`]. That it exited with another status than 0 is no error here.
pub fn run(shot: &OneShot, program: &Path, cancel: &Cancel) -> Result<Finished, OneShotError> {
    let files = |source| OneShotError::Files { source };
    let not_started = |why: String| OneShotError::NotStarted { why };
    let scratch = Scratch::new(&shot.run).map_err(files)?;
    let run_text = scratch.path().to_str().ok_or_else(|| not_started("its path is not UTF-8".into()))?;
    let given = Given { run: run_text, parent: Some(std::process::id()), ..Given::default() };
    let start = surroundings::start(&shot.launch, &given).map_err(not_started)?;
    let (done, output) = to_the_end(&start, shot.timeout, program, cancel)?;
    if let Err(error) = output.log(&shot.output, &shot.name) {
        tracing::warn!("the output is not logged: {}", crate::model::chain(&error));
    }
    done
}

/// Runs `launch`, which is about the running worker `subject`, to its end: as [`run`], but `{run}` is the
/// worker's, and the output is gone afterwards with a directory of its own, `POINTSMAN_SCRATCH`.
pub(super) fn run_about(
    launch: &Launch,
    given: &Given<'_>,
    subject: &Subject,
    timeout: Duration,
    program: &Path,
    cancel: &Cancel,
) -> Result<Finished, OneShotError> {
    let files = |source| OneShotError::Files { source };
    let scratch = Scratch::new(&subject.run).map_err(files)?;
    let given = Given {
        scratch: Some(scratch.path()),
        parent: Some(std::process::id()),
        sockets: given.sockets.clone(),
        ..*given
    };
    let start = surroundings::start(launch, &given).map_err(|why| OneShotError::NotStarted { why })?;
    start.settings.give(scratch.dir()).map_err(files)?;
    to_the_end(&start, timeout, program, cancel)?.0
}

fn to_the_end(
    start: &Start,
    timeout: Duration,
    program: &Path,
    cancel: &Cancel,
) -> Result<(Result<Finished, OneShotError>, Output), OneShotError> {
    let not_started = |why: String| OneShotError::NotStarted { why };
    let began = clock::now();
    let deadline = clock::after(timeout);
    let (mut output, write) = Output::new().map_err(|e| not_started(e.to_string()))?;
    let mut child = spawn::spawn(program, write, Vec::new()).map_err(|e| not_started(e.to_string()))?;
    if let Err(error) = child.tell(start) {
        child.end();
        return Err(not_started(error.to_string()));
    }
    let outcome = wait(&child.pidfd, &mut output, cancel, deadline);
    let status = child.end(); // one that has ended keeps its status; this kills what it left behind
    output.take();
    let mut output_tail = output.tail();
    if start.settings.is_limited() && memory::leave(child.pid) {
        output_tail = format!("{}\n{output_tail}", memory::SHORT);
    }
    let done = match outcome {
        Outcome::Ended => Ok(Finished { status, output_tail, took: clock::now() - began }),
        Outcome::Overdue => Err(OneShotError::TimedOut { limit: timeout, output_tail }),
        Outcome::Cancelled => Err(OneShotError::Cancelled),
    };
    Ok((done, output))
}

enum Outcome {
    Ended,
    Overdue,
    Cancelled,
}

fn wait(child: &OwnedFd, output: &mut Output, cancel: &Cancel, deadline: std::time::Instant) -> Outcome {
    loop {
        let mut fds = vec![PollFd::new(child, PollFlags::IN), PollFd::new(&*cancel.event, PollFlags::IN)];
        fds.extend(output.fd().map(|fd| PollFd::new(fd, PollFlags::IN)));
        let left = clock::until(deadline);
        let _ = rustix::event::poll(&mut fds, Some(&process::timespec(left)));
        let (ended, cancelled) = (!fds[0].revents().is_empty(), !fds[1].revents().is_empty());
        drop(fds);
        output.take();
        if ended {
            return Outcome::Ended;
        }
        if cancelled {
            return Outcome::Cancelled;
        }
        if left.is_zero() {
            return Outcome::Overdue;
        }
    }
}

/// The end of the file `output` from `from` on, as text; empty where it cannot be read.
pub(super) fn tail(output: &Path, from: u64, limit: u64) -> String {
    let bytes = crate::fsx::read_tail(output, from, limit).unwrap_or_default();
    String::from_utf8_lossy(&bytes).trim_end().to_owned()
}

/// Ends what is left of one-shots whose engine was killed: it took their first process with it, but not
/// what that one had started.
///
/// # Errors
/// The run directory cannot be read.
pub fn sweep(run: &Path) -> Result<(), FsError> {
    match crate::fsx::optional(Dir::open(&run.join("p")))? {
        Some(parent) => sweep_in(&parent),
        None => Ok(()),
    }
}

fn sweep_in(parent: &Dir) -> Result<(), FsError> {
    for name in parent.names()? {
        let Some(name) = name.to_str().filter(|name| name.starts_with('x')) else { continue };
        let path = parent.path().join(name);
        if Lock::try_dir(&path).is_ok_and(|lock| lock.is_some()) {
            strays::kill(&[&path])?;
            let _ = parent.remove_tree(name);
        }
    }
    Ok(())
}

/// A fresh directory `<run>/p/x<n>`, locked while in use. What a killed process left is swept up.
pub(super) struct Scratch {
    parent: Dir,
    dir: Dir,
    name: String,
    path: PathBuf,
    lock: Option<Lock>,
}

impl Scratch {
    pub(super) fn new(run: &Path) -> Result<Scratch, FsError> {
        let parent = Dir::create_all(&run.join("p"), 0o755)?;
        sweep_in(&parent)?;
        let mut n = 0u64;
        loop {
            n += 1;
            let name = format!("x{n}");
            let dir = match parent.create_dir(&name, 0o755) {
                Ok(dir) => dir,
                Err(error) if error.is_exists() => continue,
                Err(error) => return Err(error),
            };
            let path = parent.path().join(&name);
            // another one's sweep may have come between: then the name is free again
            let lock = crate::fsx::optional(Lock::try_dir(&path))?.flatten();
            if lock.is_some() && parent.exists(&name)? {
                return Ok(Scratch { parent, dir, name, path, lock });
            }
        }
    }

    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Leaves it to what this process becomes: it is swept up some time after that has ended.
    pub(super) fn keep_across_exec(mut self) -> Result<(), FsError> {
        match self.lock.take() {
            Some(lock) => {
                lock.keep_across_exec()?;
                std::mem::forget(self);
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        let _ = self.parent.remove_tree(&self.name);
        drop(self.lock.take());
    }
}
