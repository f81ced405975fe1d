//! Facts about processes and signals to them: a process is a pid *and* a start time; a number alone
//! may be somebody else by now.

use std::fmt;
use std::os::fd::{AsFd, OwnedFd};
use std::path::Path;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, WaitId, WaitIdOptions};

use super::wire::WorkerReport;

/// How a process ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Ended {
    /// with this exit status
    Exited(i32),
    /// by this signal
    Killed(i32),
    /// nobody can say: it was not our child
    Unknown,
}

impl Ended {
    /// Whether it ended by itself with status 0.
    pub fn success(self) -> bool {
        self == Ended::Exited(0)
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Ended::Exited(status) => write!(f, "exited with status {status}"),
            Ended::Killed(number) => match Signal::from_named_raw(*number) {
                Some(signal) => write!(f, "was killed by signal {number} ({})", name_of(signal)),
                None => write!(f, "was killed by signal {number}"),
            },
            Ended::Unknown => write!(f, "ended; it was adopted, so how is not known"),
        }
    }
}

/// What `/proc/PID/stat` says that we need.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stat {
    /// `R`, `S`, `Z`, ..
    pub(super) state: char,
    /// its process group; 0 for the kernel's own
    pub(super) group: u32,
    /// clock ticks between boot and its start
    pub(super) started: u64,
}

/// When the living process `pid` started, in clock ticks since boot: with the pid, which process it is.
pub fn start_of(pid: u32) -> Option<u64> {
    stat(pid).filter(|stat| !matches!(stat.state, 'Z' | 'X')).map(|stat| stat.started)
}

/// Whole seconds since boot.
pub fn uptime() -> Option<u64> {
    let text = crate::fsx::read_path(Path::new("/proc/uptime"), 256).ok()?;
    String::from_utf8_lossy(&text).split('.').next()?.parse().ok()
}

/// The facts about process `pid`, zombies included; `None` where there is none.
pub(super) fn stat(pid: u32) -> Option<Stat> {
    let text = crate::fsx::read_path(Path::new(&format!("/proc/{pid}/stat")), 4096).ok()?;
    let text = String::from_utf8_lossy(&text).into_owned();
    // the name in parentheses may hold blanks and parentheses itself
    let (_, rest) = text.rsplit_once(')')?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    let group = fields.nth(1)?.parse().ok()?; // field 5: `state` is field 3
    let started = fields.nth(16)?.parse().ok()?; // field 22
    Some(Stat { state, group, started })
}

/// Opens process `pid` where it still is the one which started at `started` and lives.
pub(super) fn open(pid: u32, started: u64) -> Option<OwnedFd> {
    let pidfd = rustix::process::pidfd_open(number(pid)?, PidfdFlags::empty()).ok()?;
    // the facts are read after the descriptor is open: the number cannot change hands any more
    let stat = stat(pid)?;
    (stat.started == started && !matches!(stat.state, 'Z' | 'X') && !ended(&pidfd)).then_some(pidfd)
}

/// Whether the process behind `pidfd` has ended.
pub(super) fn ended(pidfd: &OwnedFd) -> bool {
    wait_readable(pidfd, Some(Duration::ZERO))
}

/// Waits until `fd` is readable (a pidfd: until the process ended); false after `limit`.
pub(super) fn wait_readable(fd: impl AsFd, limit: Option<Duration>) -> bool {
    let mut fds = [PollFd::new(&fd, PollFlags::IN)];
    let limit = limit.map(timespec);
    match rustix::event::poll(&mut fds, limit.as_ref()) {
        Ok(count) => count > 0,
        Err(_) => false,
    }
}

/// `limit` in the kernel's words, rounded up to a nanosecond and never negative.
pub(super) fn timespec(limit: Duration) -> Timespec {
    Timespec::try_from(limit).unwrap_or(Timespec { tv_sec: 86400, tv_nsec: 0 })
}

/// Takes the exit status of an ended child; `None` while it lives, `Unknown` where it is not ours.
pub(super) fn reap(pidfd: &OwnedFd) -> Option<Ended> {
    loop {
        let options = WaitIdOptions::EXITED | WaitIdOptions::NOHANG;
        return match rustix::process::waitid(WaitId::PidFd(pidfd.as_fd()), options) {
            Ok(None) => None,
            Ok(Some(status)) => Some(match (status.exit_status(), status.terminating_signal()) {
                (Some(status), _) => Ended::Exited(status),
                (None, Some(signal)) => Ended::Killed(signal),
                (None, None) => Ended::Unknown,
            }),
            Err(Errno::INTR) => continue,
            Err(_) => ended(pidfd).then_some(Ended::Unknown),
        };
    }
}

/// Has the child behind `pidfd` reaped when it ends, on a thread of its own: whoever starts a daemon and goes on
/// has no loop that waits for it.
///
/// # Errors
/// It is not reaped.
pub(super) fn reap_in_time(pidfd: &OwnedFd) -> std::io::Result<()> {
    let child = pidfd.try_clone()?;
    let waits = move || {
        while !wait_readable(&child, None) {}
        let _ = reap(&child);
    };
    // it does next to nothing: a small stack will do
    std::thread::Builder::new().stack_size(64 << 10).spawn(waits).map(drop)
}

/// Sends `signal` to the process behind `pidfd` only. One that has ended needs none.
pub(super) fn signal(pidfd: &OwnedFd, signal: Signal) {
    let _ = rustix::process::pidfd_send_signal(pidfd, signal);
}

/// Kills every process of the group that process (`pid`, `started`) leads or led.
///
/// A pid is not given away again while a group of that number has members, so the group is ours
/// unless the number now belongs to a process of another start time. Whoever still has the leader
/// as a zombie calls this before reaping it.
pub(super) fn kill_group(pid: u32, started: u64) {
    if stat(pid).is_some_and(|now| now.started != started) {
        return;
    }
    if let Some(pid) = number(pid) {
        let _ = rustix::process::kill_process_group(pid, Signal::KILL);
    }
}

/// A pid that a signal may be sent to: never 0 (our own group) or 1.
pub(super) fn number(pid: u32) -> Option<Pid> {
    i32::try_from(pid).ok().filter(|&pid| pid > 1).and_then(Pid::from_raw)
}

const NAMES: [(&str, Signal); 17] = [
    ("TERM", Signal::TERM),
    ("QUIT", Signal::QUIT),
    ("INT", Signal::INT),
    ("HUP", Signal::HUP),
    ("USR1", Signal::USR1),
    ("USR2", Signal::USR2),
    ("WINCH", Signal::WINCH),
    ("CONT", Signal::CONT),
    ("STOP", Signal::STOP),
    ("KILL", Signal::KILL),
    ("ABRT", Signal::ABORT),
    ("SEGV", Signal::SEGV),
    ("BUS", Signal::BUS),
    ("ALRM", Signal::ALARM),
    ("PIPE", Signal::PIPE),
    ("ILL", Signal::ILL),
    ("FPE", Signal::FPE),
];

/// The signal called `name` (`TERM`, `SIGTERM`); `None` where we know none of that name.
pub(super) fn signal_named(name: &str) -> Option<Signal> {
    let name = name.strip_prefix("SIG").unwrap_or(name);
    NAMES.iter().find(|(known, _)| *known == name).map(|(_, signal)| *signal)
}

/// Whether there is a signal of this name, for [`send`].
pub fn is_signal(name: &str) -> bool {
    signal_named(name).is_some()
}

/// Sends the signal called `name` to the main process of `worker`, if that very process still lives: whether it does.
///
/// # Errors
/// It lives, and is not ours to signal.
pub fn send(worker: &WorkerReport, name: &str) -> Result<bool, String> {
    let (Some(pid), Some(started), Some(signal)) = (worker.pid, worker.started, signal_named(name)) else {
        return Ok(false);
    };
    let Some(pidfd) = open(pid, started) else { return Ok(false) };
    match rustix::process::pidfd_send_signal(&pidfd, signal) {
        Ok(()) => Ok(true),
        Err(Errno::SRCH) => Ok(false),
        Err(error) => Err(format!("{}: cannot signal process {pid}: {error}", worker.slot)),
    }
}

fn name_of(signal: Signal) -> &'static str {
    NAMES.iter().find(|(_, known)| *known == signal).map_or("?", |(name, _)| name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_is_a_pid_and_a_start_time() {
        let pid = std::process::id();
        let own = stat(pid).unwrap();
        assert!(open(pid, own.started).is_some());
        assert!(open(pid, own.started + 1).is_none());
    }

    #[test]
    fn ends_are_told_in_words() {
        assert_eq!(Ended::Exited(3).to_string(), "exited with status 3");
        assert_eq!(Ended::Killed(9).to_string(), "was killed by signal 9 (KILL)");
        assert_eq!(signal_named("SIGQUIT"), Some(Signal::QUIT));
        assert_eq!(signal_named("NONE"), None);
    }
}
