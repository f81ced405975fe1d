//! `pointsman __exec FD`: turns itself into the program it is told to be.
//!
//! Everything that has to happen between fork and exec happens here, in a program of its own with one
//! thread, where any call is allowed.
#![expect(clippy::disallowed_methods, reason = "this module is one of the two doors to processes")]

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Write as _;
use std::net::IpAddr;
use std::os::fd::RawFd;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::fs::{Mode, OFlags};
use rustix::process::Signal;
use serde::{Deserialize, Serialize};

use crate::fsx::Dir;
use crate::model::{Address, Socket};

use super::namespace::{self, NamespaceError};
use super::sockets;
use super::surroundings::Settings;
use super::systemd::own::{self, Fetched, Own};

/// The first descriptor of a passed socket, as in `sd_listen_fds(3)`.
pub(super) const FIRST_FD: usize = 3;

/// More than any command line and environment the kernel would take (2 MiB).
const LIMIT: u64 = 8 << 20;

/// What to become: final words, nothing left to expand.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Start {
    /// the program and its arguments
    pub(super) argv: Vec<String>,
    /// the whole environment, but for `LISTEN_PID` and `WATCHDOG_PID`
    pub(super) env: BTreeMap<String, String>,
    /// how many descriptors from 3 on are passed sockets
    pub(super) sockets: usize,
    /// set `LISTEN_PID` to the own pid
    pub(super) listen_pid: bool,
    /// set `WATCHDOG_PID` to the own pid
    #[serde(default)]
    pub(super) watchdog_pid: bool,
    /// sockets to be bound here, from the descriptor after the passed ones on
    #[serde(default)]
    pub(super) bind: Vec<Socket>,
    /// not the network of whoever starts it
    #[serde(default)]
    pub(super) network: Option<Network>,
    /// a directory to be copied, writable
    #[serde(default)]
    pub(super) copy: Option<Mount>,
    /// a mount namespace of its own with this in it
    pub(super) mount: Option<Mount>,
    /// directories that it cannot write to, where it may have a mount namespace
    #[serde(default)]
    pub(super) read_only: Vec<PathBuf>,
    /// where to start
    pub(super) directory: PathBuf,
    /// who to be, and what it may take
    #[serde(default)]
    pub(super) settings: Settings,
    /// be killed when the thread of this process that started us ends
    pub(super) die_with_parent: Option<u32>,
    /// what is left to be done here, where a service manager starts it by itself
    #[serde(default)]
    pub(super) own: Option<Own>,
}

impl Start {
    /// Leaves the caller where it sees the mounts that it shall see.
    fn see_mounts(&self) -> Result<(), ExecError> {
        match &self.mount {
            Some(mount) => namespace::enter(&mount.source, &mount.target, &self.read_only)?,
            None => namespace::protect(&self.read_only)?,
        }
        Ok(())
    }
}

/// Whose network it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) enum Network {
    /// its own: loopback with these addresses besides, no route
    Own {
        /// the addresses
        addresses: Vec<IpAddr>,
    },
    /// that of process
    Of {
        /// its pid
        pid: u32,
    },
}

/// A directory to be seen, read-only, in another one's place, or to be copied there.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Mount {
    /// what to show
    pub(super) source: PathBuf,
    /// where
    pub(super) target: PathBuf,
}

/// Why the program did not start.
#[derive(Debug, thiserror::Error)]
pub enum ExecError {
    /// the starter died before it had recorded us: nobody waits for this process
    #[error("the starter is gone")]
    Abandoned,
    /// a candidate that has failed once; that is its verdict
    #[error("it has failed already, and is not tried again")]
    NotAgain,
    /// what came from the descriptor is no start
    #[error("cannot read what to start from descriptor {fd}: {why}")]
    Unreadable {
        /// the descriptor
        fd: RawFd,
        /// the reason
        why: String,
    },
    /// the process could not be set up as asked
    #[error("cannot {what}: {why}")]
    Setup {
        /// what was tried
        what: String,
        /// the system's reason
        why: String,
    },
    /// no namespace, no start
    #[error(transparent)]
    Namespace(#[from] NamespaceError),
    /// the loader's output could not be copied
    #[error("cannot copy the loader's output: {why}")]
    NoCopy {
        /// the file, and the system's reason
        why: String,
    },
    /// a socket in its own network could not be bound
    #[error("cannot listen on {address}: {why}")]
    NoSocket {
        /// the address
        address: Address,
        /// the system's reason
        why: String,
    },
    /// the program is not there
    #[error("cannot run {program}: there is no such program; give its path, or install it")]
    NotFound {
        /// its name
        program: String,
    },
    /// the program is there and could not be run
    #[error("cannot run {program}: {why}; it has to be a program that this user may run")]
    NotRunnable {
        /// its name
        program: String,
        /// the system's reason
        why: String,
    },
}

impl ExecError {
    /// Says why on stderr (the worker's output file) in one line, and gives the exit status that
    /// shells use for it: 127 not found, 126 not runnable. An abandoned process says nothing.
    pub fn report(&self) -> u8 {
        match self {
            ExecError::Abandoned => return 0,
            ExecError::NotAgain => return own::NOT_AGAIN,
            other => {
                let _ = writeln!(std::io::stderr(), "pointsman: {other}");
            }
        }
        if matches!(self, ExecError::NotFound { .. }) { 127 } else { 126 }
    }
}

/// Becomes the program described on descriptor `fd`, which is read to its end first; our starters pass
/// 0, which the program then finds to be /dev/null. Returns only on failure, and then the caller ends
/// with [`ExecError::report`].
/// `notify` is the `NOTIFY_SOCKET` of whoever started this process: where the program is to tell them, it gets it.
pub fn run(fd: RawFd, notify: Option<&OsStr>) -> ExecError {
    match prepare(fd, notify) {
        Ok((start, mappings)) => become_it(&start, mappings),
        Err(error) => error,
    }
}

/// Sets this process up: first what takes rights, then whom it shall be, then the rest, as that user.
fn prepare(fd: RawFd, notify: Option<&OsStr>) -> Result<(Start, Vec<FdMapping>), ExecError> {
    let unreadable = |why: String| ExecError::Unreadable { fd, why };
    let bytes = crate::fsx::read_path(Path::new(&format!("/proc/self/fd/{fd}")), LIMIT)
        .map_err(|e| unreadable(e.to_string()))?;
    if bytes.is_empty() {
        return Err(ExecError::Abandoned);
    }
    let mut start: Start = serde_json::from_slice(&bytes).map_err(|e| unreadable(e.to_string()))?;
    let setup = |what: &str| {
        let what = what.to_owned();
        move |e: rustix::io::Errno| ExecError::Setup { what, why: e.to_string() }
    };
    match (&start.own, rustix::process::setsid()) {
        (_, Ok(_)) => {}
        // a service manager has given it one
        (Some(_), Err(rustix::io::Errno::PERM)) => {}
        (_, Err(error)) => return Err(setup("start a session")(error)),
    }
    let fetched = match start.own.take() {
        Some(own) => {
            let mut fetched = own.prepare(&start.settings)?;
            start.env.extend(fetched.told.take());
            let notify = notify.filter(|_| own.talks).and_then(OsStr::to_str);
            start.env.extend(notify.map(|socket| ("NOTIFY_SOCKET".to_owned(), socket.to_owned())));
            fetched
        }
        None => Fetched::default(),
    };
    match &start.network {
        Some(Network::Own { addresses }) => namespace::own_network(addresses)?,
        Some(Network::Of { pid }) => namespace::join_network(*pid)?,
        None => {}
    }
    start.see_mounts()?;
    start.settings.limit()?;
    let mappings = mappings(&start, fetched)?;
    start.settings.become_somebody()?;
    if let Some(parent) = start.die_with_parent {
        // after the namespace and the user: a change of credentials would clear it
        rustix::process::set_parent_process_death_signal(Some(Signal::KILL))
            .map_err(setup("tie this process to its parent"))?;
        let now = rustix::process::getppid().map(|pid| pid.as_raw_nonzero().get().unsigned_abs());
        if now != Some(parent) {
            return Err(ExecError::Abandoned);
        }
    }
    if let Some(Mount { source, target }) = &start.copy {
        let copied =
            Dir::open(source).and_then(|from| crate::fsx::copy_tree(&from, &Dir::create_all(target, 0o755)?));
        copied.map_err(|e| ExecError::NoCopy { why: crate::model::chain(&e) })?;
    }
    rustix::process::chdir(&start.directory)
        .map_err(setup(&format!("enter {}", start.directory.display())))?;
    Ok((start, mappings))
}

/// Becomes what `start` says, in the session and with the descriptors of the caller. Returns only on failure.
pub(super) fn stand_in(start: &Start) -> ExecError {
    let ready = start
        .see_mounts()
        .and_then(|()| start.settings.limit())
        .and_then(|()| start.settings.become_somebody());
    if let Err(error) = ready {
        return error;
    }
    if let Err(error) = rustix::process::chdir(&start.directory) {
        let what = format!("enter {}", start.directory.display());
        return ExecError::Setup { what, why: error.to_string() };
    }
    let Some((program, arguments)) = start.argv.split_first() else {
        return ExecError::Setup { what: "run nothing".to_owned(), why: "there is no command".to_owned() };
    };
    heed_signals();
    not_become(program, &Command::new(program).args(arguments).env_clear().envs(&start.env).exec())
}

/// Becomes the command `words` of an operator: with the environment and directory it has, but for
/// `POINTSMAN_CONFIG`, with `config` seen at `mount`, and what is in `read_only` protected as it is from a worker.
/// Returns only on failure.
pub fn become_command(
    words: &[String],
    config: &Path,
    mount: Option<&Path>,
    read_only: &[PathBuf],
) -> ExecError {
    let entered = match mount {
        Some(target) => namespace::enter(config, target, read_only),
        None => namespace::protect(read_only),
    };
    if let Err(error) = entered {
        return error.into();
    }
    // the directory it is in may be one of those: what is there is what the path leads to now
    if let Ok(directory) = rustix::process::getcwd(Vec::new()) {
        let _ = rustix::process::chdir(directory);
    }
    let Some((program, arguments)) = words.split_first() else {
        return ExecError::Setup { what: "run nothing".to_owned(), why: "there is no command".to_owned() };
    };
    not_become(program, &Command::new(program).args(arguments).env("POINTSMAN_CONFIG", config).exec())
}

/// Puts /dev/null in place of every descriptor that neither we nor our starter opened: those that
/// whoever started *it* had left open. Closing them would take `unsafe`; this lets go of what they
/// were just as well.
fn strangers(own: usize) -> Result<Vec<FdMapping>, String> {
    let table = Dir::open(Path::new("/proc/self/fd")).map_err(|e| e.to_string())?;
    let own = (FIRST_FD + own) as RawFd;
    let mut strangers: Vec<RawFd> = Vec::new();
    for name in table.names().map_err(|e| e.to_string())? {
        let info = Path::new("/proc/self/fdinfo").join(&name);
        let number =
            name.to_str().and_then(|name| name.parse::<RawFd>().ok()).filter(|&number| number >= own);
        let info = crate::fsx::read_path(&info, 4096).unwrap_or_default();
        let flags = String::from_utf8_lossy(&info)
            .lines()
            .find_map(|line| i64::from_str_radix(line.strip_prefix("flags:")?.trim(), 8).ok());
        let stays = flags.is_some_and(|flags| flags & i64::from(OFlags::CLOEXEC.bits()) == 0);
        // one that is shut off already may have a number that `limits.nofile` does not allow any more
        let shut = table.read_link(&name).is_ok_and(|path| path == "/dev/null");
        strangers.extend(number.filter(|_| stays && !shut));
    }
    let mut mappings = Vec::new();
    for child_fd in strangers {
        let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty());
        mappings.push(FdMapping { parent_fd: null.map_err(|e| e.to_string())?, child_fd });
    }
    Ok(mappings)
}

fn become_it(start: &Start, mappings: Vec<FdMapping>) -> ExecError {
    let Some((program, arguments)) = start.argv.split_first() else {
        return ExecError::Unreadable { fd: 0, why: "there is no command".to_owned() };
    };
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(&start.env).stdin(Stdio::null());
    if start.listen_pid {
        command.env("LISTEN_PID", std::process::id().to_string());
    }
    if start.watchdog_pid {
        command.env("WATCHDOG_PID", std::process::id().to_string());
    }
    if let Err(error) = command.fd_mappings(mappings) {
        return shut(error.to_string());
    }
    heed_signals();
    not_become(program, &command.exec())
}

/// What whoever started the supervisor ignores (`nohup`; a script with `&`) would be ignored by the program, too, and
/// a shell could not even trap it. A signal that has a handler gets its default back by the exec that follows.
fn heed_signals() {
    let status = crate::fsx::read_path(Path::new("/proc/self/status"), 1 << 20).unwrap_or_default();
    let status = String::from_utf8_lossy(&status);
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    let ignored = ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).unwrap_or_default();
    let heard = Arc::default();
    for signal in (1..=64).filter(|signal| ignored >> (signal - 1) & 1 == 1) {
        if !signal_hook::consts::FORBIDDEN.contains(&signal) {
            // those of the C library's own cannot have one
            let _ = signal_hook::flag::register(signal, Arc::clone(&heard));
        }
    }
}

/// The sockets that are fetched or bound here, and what is shut off.
fn mappings(start: &Start, fetched: Fetched) -> Result<Vec<FdMapping>, ExecError> {
    let given = start.sockets + fetched.sockets.len();
    let mapping = |(index, parent_fd)| FdMapping { parent_fd, child_fd: (FIRST_FD + index) as RawFd };
    let mut mappings: Vec<FdMapping> = fetched.sockets.into_iter().enumerate().map(mapping).collect();
    for (index, socket) in start.bind.iter().enumerate() {
        let child_fd = (FIRST_FD + given + index) as RawFd;
        let parent_fd = sockets::bind(socket)
            .map_err(|why| ExecError::NoSocket { address: socket.address.clone(), why })?;
        mappings.push(FdMapping { parent_fd, child_fd });
    }
    let strangers = strangers(given + start.bind.len()).map_err(shut)?;
    let highest = mappings.iter().chain(&strangers).map(|mapping| mapping.child_fd).max();
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    // two more while they are put in place
    if let (Some(highest), Some(limit)) = (highest, limit)
        && highest as u64 + 2 >= limit
    {
        return Err(shut(format!("descriptor {highest} is open, and `limits.nofile` allows {limit}")));
    }
    mappings.extend(strangers);
    Ok(mappings)
}

fn shut(why: String) -> ExecError {
    ExecError::Setup { what: "shut descriptors off".to_owned(), why }
}

fn not_become(program: &str, error: &std::io::Error) -> ExecError {
    let program = program.to_owned();
    match error.kind() {
        std::io::ErrorKind::NotFound => ExecError::NotFound { program },
        _ => ExecError::NotRunnable { program, why: error.to_string() },
    }
}
