//! Starts `pointsman __exec` and tells it what to become, in two steps with the caller's record
//! between them: killed in that gap, the caller leaves no process that nobody knows.
#![expect(clippy::disallowed_methods, reason = "this module is one of the two doors to processes")]

use std::io;
use std::os::fd::{AsRawFd as _, OwnedFd, RawFd};
use std::path::Path;
use std::process::{Command, Stdio};

use command_fds::{CommandFdExt as _, FdMapping};
use rustix::process::{PidfdFlags, Signal};

use super::exec::FIRST_FD;
use super::exec::Start;
use super::process::{self, Ended};

/// More than the kernel takes for a command line.
const LONGEST_LINE: u64 = 8 << 20;

/// A process that waits to be told what to become. Dropped before that, it ends by itself.
#[derive(Debug)]
pub(super) struct Spawned {
    /// its number
    pub(super) pid: u32,
    /// which process it is: with the pid, for ever
    pub(super) started: u64,
    /// the process itself
    pub(super) pidfd: OwnedFd,
    spec: Option<OwnedFd>,
}

/// A process that could not be started.
#[derive(Debug, thiserror::Error)]
#[error("cannot start {program}: {source}")]
pub(super) struct SpawnError {
    program: String,
    source: io::Error,
}

/// Starts `program __exec 0`, a child whose descriptors are: 0 the pipe it is told on, 1 and 2
/// `output`, and `sockets` from 3 on; everything else is closed by its exec. The child leads no group
/// and no session until it has been told.
pub(super) fn spawn(program: &Path, output: OwnedFd, sockets: Vec<OwnedFd>) -> Result<Spawned, SpawnError> {
    try_spawn(program, output, sockets)
        .map_err(|source| SpawnError { program: program.display().to_string(), source })
}

fn try_spawn(program: &Path, output: OwnedFd, sockets: Vec<OwnedFd>) -> io::Result<Spawned> {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut command = Command::new(program);
    command.args(["__exec", "0"]).env_clear();
    command.stdin(Stdio::from(read)).stdout(Stdio::from(output.try_clone()?)).stderr(Stdio::from(output));
    // std opens a pipe of its own while spawning; were it to get one of the numbers the sockets go
    // to, the child would lose it
    let _taken = take_numbers_below(FIRST_FD + sockets.len())?;
    let mapping = |(index, parent_fd)| FdMapping { parent_fd, child_fd: (FIRST_FD + index) as RawFd };
    let mappings = sockets.into_iter().enumerate().map(mapping).collect();
    command.fd_mappings(mappings).map_err(io::Error::other)?;
    let pid = command.spawn()?.id();
    let number = process::number(pid).ok_or_else(|| io::Error::other("no such pid"))?;
    // it is our child and not reaped: the number is still its own
    let pidfd = rustix::process::pidfd_open(number, PidfdFlags::empty())?;
    let started = process::stat(pid).map(|stat| stat.started);
    let started = started.ok_or_else(|| io::Error::other("/proc does not show it"))?;
    Ok(Spawned { pid, started, pidfd, spec: Some(write) })
}

/// Whether process `pid` is the program it was told to become, and not what sets it up any more.
pub(super) fn has_become(pid: u32) -> bool {
    let line = crate::fsx::read_path(Path::new(&format!("/proc/{pid}/cmdline")), LONGEST_LINE);
    line.is_ok_and(|line| !line.is_empty() && line.split(|byte| *byte == 0).nth(1) != Some(b"__exec"))
}

fn take_numbers_below(end: usize) -> io::Result<Vec<OwnedFd>> {
    let (some, _) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    let mut taken = Vec::new();
    loop {
        let fd = rustix::io::fcntl_dupfd_cloexec(&some, FIRST_FD as RawFd)?;
        if fd.as_raw_fd() as usize >= end {
            return Ok(taken);
        }
        taken.push(fd);
    }
}

impl Spawned {
    /// Tells the process what to become. An error means that it has died meanwhile.
    pub(super) fn tell(&mut self, start: &Start) -> io::Result<()> {
        use std::io::Write as _;
        let Some(pipe) = self.spec.take() else { return Ok(()) };
        let bytes = serde_json::to_vec(start).expect("a start is plain text");
        io::PipeWriter::from(pipe).write_all(&bytes)
    }

    /// Kills the process with its group, waits for its end and reaps it.
    pub(super) fn end(&mut self) -> Ended {
        drop(self.spec.take());
        process::signal(&self.pidfd, Signal::KILL);
        process::kill_group(self.pid, self.started);
        while !process::wait_readable(&self.pidfd, None) {}
        process::kill_group(self.pid, self.started);
        process::reap(&self.pidfd).unwrap_or(Ended::Unknown)
    }
}
