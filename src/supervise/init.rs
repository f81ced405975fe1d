//! What `pointsman supervisor` is where it is process 1: in a container, say. It starts the supervisor as a child, reaps
//! whoever is left to it, and ends the workers before it ends itself, since the kernel would kill them.
//!
//! Not the supervisor itself: that one waits for its own children one by one, on several threads, and whoever reaped
//! them all would take their statuses away. And it may die, as anywhere else: its workers serve on, and the next one
//! adopts them.

use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::pipe::PipeFlags;
use rustix::process::WaitOptions;

use super::client::Client;
use super::holder::DaemonError;
use super::service_manager::ServiceManager as _;
use super::supervisor::Config;
use super::{clock, launch, process, spawn};

/// A supervisor is not started more often than that.
const PAUSE: Duration = Duration::from_secs(1);
/// How often is looked whether the workers have ended.
const LOOK: Duration = Duration::from_millis(20);

/// Whether this process is process 1.
pub(super) fn is_needed() -> bool {
    std::process::id() == 1
}

/// Keeps a supervisor of `run` (an absolute path) running until TERM or INT; then ends all workers, each within its grace
/// time. A second signal ends them at once. Each supervisor is `given` the same sockets.
///
/// # Errors
/// The first supervisor cannot be started, or signals cannot be waited for.
pub(super) fn run(config: &Config, run: &Path, given: &[(String, OwnedFd)]) -> Result<(), DaemonError> {
    let (told, ended) = (pipe()?, pipe()?);
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        announce(signal, &told.1)?;
    }
    announce(signal_hook::consts::SIGCHLD, &ended.1)?;
    let mut init = Init { told: told.0, ended: ended.0, child: None };
    let mut due: Option<Instant> = None;
    loop {
        init.reap();
        let is_due = due.is_none_or(|at| clock::until(at).is_zero());
        // a manager may have started one meanwhile
        if init.child.is_none() && is_due && Client::connect(run).is_err() {
            match start(config, run, given) {
                Ok(pid) => init.child = Some(pid),
                Err(why) if due.is_none() => return Err(system("start the supervisor", why)),
                Err(why) => tracing::warn!(why, "the supervisor could not be started"),
            }
        }
        if is_due {
            due = Some(clock::after(PAUSE));
        }
        let limit = init.child.is_none().then_some(PAUSE);
        if init.is_told(limit) {
            break;
        }
    }
    tracing::info!("ends the workers, and then itself");
    init.end_workers(run);
    Ok(())
}

struct Init {
    told: OwnedFd,
    ended: OwnedFd,
    /// the supervisor, where it was started here
    child: Option<u32>,
}

impl Init {
    /// Waits until there is something to reap, a signal to end has come, or `limit` has passed; whether it has come.
    fn is_told(&self, limit: Option<Duration>) -> bool {
        let mut fds = [PollFd::new(&self.told, PollFlags::IN), PollFd::new(&self.ended, PollFlags::IN)];
        let _ = rustix::event::poll(&mut fds, limit.map(process::timespec).as_ref());
        let told = !fds[0].revents().is_empty();
        if told {
            drain(&self.told);
        }
        drain(&self.ended);
        told
    }

    /// Reaps all that have ended.
    fn reap(&mut self) {
        loop {
            match rustix::process::wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) => {
                    let pid = pid.as_raw_nonzero().get().unsigned_abs();
                    if self.child == Some(pid) {
                        let status = status.as_raw();
                        tracing::warn!(pid, status, "the supervisor has ended");
                        self.child = None;
                    }
                }
                Err(Errno::INTR) => {}
                Ok(None) | Err(_) => return,
            }
        }
    }

    /// Has every worker end, and waits for it, as long as there is somebody who sees to it.
    fn end_workers(&mut self, run: &Path) {
        let Ok(mut client) = Client::connect(run) else { return };
        if client.settle(&[]).is_err() {
            return;
        }
        while client.slots().is_ok_and(|slots| !slots.workers.is_empty()) {
            self.reap();
            if self.is_told(Some(LOOK)) {
                return;
            }
        }
        let _ = client.quit();
    }
}

/// Starts a supervisor that says on our stderr what it has to say.
fn start(config: &Config, run: &Path, given: &[(String, OwnedFd)]) -> Result<u32, String> {
    let words = |e: &dyn std::fmt::Display| e.to_string();
    let mut start = launch::daemon(&config.program, "supervisor", run).map_err(|e| words(&e))?;
    if !given.is_empty() {
        (start.sockets, start.listen_pid) = (given.len(), true);
        let names: Vec<&str> = given.iter().map(|(name, _)| name.as_str()).collect();
        start.env.insert("LISTEN_FDS".to_owned(), given.len().to_string());
        start.env.insert("LISTEN_FDNAMES".to_owned(), names.join(":"));
    }
    let fds = given.iter().map(|(_, fd)| fd.try_clone()).collect::<Result<_, _>>().map_err(|e| words(&e))?;
    let output = std::io::stderr().as_fd().try_clone_to_owned().map_err(|e| words(&e))?;
    let mut child = spawn::spawn(&config.program, output, fds).map_err(|e| words(&e))?;
    match child.tell(&start) {
        Ok(()) => Ok(child.pid),
        Err(error) => {
            child.end();
            Err(words(&error))
        }
    }
}

fn pipe() -> Result<(OwnedFd, OwnedFd), DaemonError> {
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    rustix::pipe::pipe_with(flags).map_err(|e| system("wait for signals", e))
}

fn announce(signal: i32, to: &OwnedFd) -> Result<(), DaemonError> {
    let write = to.as_fd().try_clone_to_owned().map_err(|e| system("wait for signals", e))?;
    let registered = signal_hook::low_level::pipe::register_raw(signal, write);
    registered.map(drop).map_err(|e| system("wait for signals", e))
}

fn drain(pipe: &OwnedFd) {
    let mut bytes = [0u8; 64];
    while rustix::io::read(pipe, &mut bytes[..]).is_ok_and(|count| count > 0) {}
}

fn system(what: &'static str, error: impl std::fmt::Display) -> DaemonError {
    DaemonError::System { what, why: error.to_string() }
}
