//! `pointsman supervisor`: the loop that waits for everything at once and hands it on.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;
use std::path::PathBuf;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::SocketType;
use rustix::pipe::PipeFlags;

use crate::fsx::Dir;

use super::clients::{self, Clients};
use super::crew::Crew;
use super::doing::Doing as _;
use super::holder::DaemonError;
use super::keeper::Keeper;
use super::wire::Ask;
use super::{clock, fdstore, init, local, process};

const LOCK: &str = "supervisor.lock";

/// What a supervisor is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// the run directory
    pub run: PathBuf,
    /// our own binary, for `__exec` and `holder`
    pub program: PathBuf,
    /// the sockets that we were given are on stdin
    pub given: bool,
}

/// Adopts what runs in the run directory and supervises it until it is told to quit or gets TERM or
/// INT. Workers serve on after that. As process 1 it is an init that has a child do this, and that ends the workers.
///
/// # Errors
/// [`DaemonError::Taken`] where the run directory has a supervisor; else it cannot be used, and
/// nothing has been started or ended.
pub fn run(config: &Config) -> Result<(), DaemonError> {
    let what = "take over the sockets that are given";
    let given = match config.given {
        true => fdstore::from_stdin().map_err(|e| system(what, e))?,
        false => {
            let words = ["supervisor", "--run"].map(OsStr::new);
            let words = [words[0], words[1], config.run.as_os_str(), OsStr::new("--given")];
            fdstore::hand_on(&config.program, &words).map_err(|e| system(what, e))?;
            Vec::new()
        }
    };
    let run = Dir::create_all(&config.run, 0o755)?;
    if init::is_needed() {
        return init::run(config, &path_of(&run)?, &given);
    }
    let _lock = local::claim(&run, LOCK, clients::SOCKET, SocketType::STREAM)?
        .map_err(|who| DaemonError::Taken { what: "supervisor", run: config.run.clone(), who })?;
    // links and names in it are told to workers, which start elsewhere: from here on it is absolute
    let path = path_of(&run)?;
    let run = Dir::open(&path)?;
    Dir::create_all(&path.join("log"), 0o755)?;
    let signals = signals()?;
    let keeper = Keeper::open(Dir::open(&path)?, &config.program, given);
    let crew = Crew::muster(Dir::open(&path)?, config.program.clone(), keeper)?;
    let clients = Clients::listen(&run)?;
    tracing::info!(run = %path.display(), "supervisor is up");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    let mut supervisor = Supervisor { crew, clients, signals, quits: false };
    while !supervisor.quits {
        supervisor.turn()?;
    }
    let _ = run.remove_file(clients::SOCKET);
    supervisor.crew.keeper.hand_over();
    tracing::info!("supervisor ends; the workers serve on");
    Ok(())
}

struct Supervisor {
    crew: Crew,
    clients: Clients,
    signals: OwnedFd,
    quits: bool,
}

#[derive(Clone, Copy)]
enum Source {
    Signal,
    Message,
    Answer,
    Holder,
    Log,
    Process(u64),
    Arrival,
    Client(u64),
}

impl Source {
    fn process(&self) -> Option<u64> {
        match self {
            Source::Process(n) => Some(*n),
            _ => None,
        }
    }
}

impl Supervisor {
    /// Waits for something and deals with all that there is.
    fn turn(&mut self) -> Result<(), DaemonError> {
        // messages before exits: who says that it is ready and then ends was ready
        let woken = self.wait()?;
        let mut ended: Vec<u64> = woken.iter().filter_map(Source::process).collect();
        for source in woken {
            match source {
                Source::Signal => self.quits = true,
                Source::Message => self.crew.on_messages(),
                Source::Answer => self.crew.on_answers(),
                Source::Log => self.crew.logs.tend(),
                Source::Holder => self.crew.tend_holder(true),
                // all at the first
                Source::Process(_) => self.crew.on_exits(&std::mem::take(&mut ended)),
                Source::Arrival => self.clients.accept(),
                Source::Client(id) => {
                    for ask in self.clients.asks(id) {
                        self.on_ask(id, ask);
                    }
                }
            }
        }
        self.crew.on_time();
        self.crew.tend_holder(false);
        self.clients.flush(&self.crew.bulletin);
        Ok(())
    }

    fn wait(&self) -> Result<Vec<Source>, DaemonError> {
        let mut sources = vec![Source::Signal, Source::Message, Source::Answer];
        let mut fds = vec![
            PollFd::new(&self.signals, PollFlags::IN),
            PollFd::new(self.crew.notify.fd(), PollFlags::IN),
            PollFd::new(self.crew.tries.fd(), PollFlags::IN),
        ];
        if let Some(fd) = self.crew.keeper.fd() {
            sources.push(Source::Holder);
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        if let Some(fd) = self.crew.logs.fd() {
            sources.push(Source::Log);
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        for (n, fd) in self.crew.pidfds() {
            sources.push(Source::Process(n));
            fds.push(PollFd::new(fd, PollFlags::IN));
        }
        sources.push(Source::Arrival);
        fds.push(PollFd::new(self.clients.listener(), PollFlags::IN));
        for (id, fd, writes) in self.clients.fds() {
            sources.push(Source::Client(id));
            let flags = if writes { PollFlags::IN | PollFlags::OUT } else { PollFlags::IN };
            fds.push(PollFd::new(fd, flags));
        }
        let limit = self.crew.next_time().map(|at| process::timespec(clock::until(at)));
        match rustix::event::poll(&mut fds, limit.as_ref()) {
            Ok(_) => {}
            Err(Errno::INTR) => return Ok(Vec::new()),
            Err(e) => return Err(system("wait", e)),
        }
        let woken = sources.iter().zip(&fds).filter(|(_, fd)| !fd.revents().is_empty());
        Ok(woken.map(|(source, _)| *source).collect())
    }

    fn on_ask(&mut self, id: u64, ask: Ask) {
        // one that has just come may have been given what is asked for
        self.crew.look_for_holder();
        match &ask {
            Ask::Slots => {
                let answer = self.crew.slots(Some(std::process::id()));
                return self.clients.answer(id, &answer);
            }
            Ask::Listen { after } => {
                let last = self.crew.bulletin.last();
                // a number from the future is from another boot: nothing of this one has been seen,
                // and none of it was meant
                let after = if *after == 0 || *after > last { last } else { *after };
                self.clients.subscribe(id, after);
            }
            Ask::Quit => self.quits = true,
            Ask::Ensure { .. } | Ask::Abandon { .. } | Ask::Settle { .. } | Ask::TakeOver { .. } => {}
        }
        let answer = self.crew.on_ask(ask);
        self.clients.answer(id, &answer);
    }
}

/// A descriptor that becomes readable with the first TERM or INT.
fn signals() -> Result<OwnedFd, DaemonError> {
    let what = "wait for signals";
    let flags = PipeFlags::CLOEXEC | PipeFlags::NONBLOCK;
    let (read, write) = rustix::pipe::pipe_with(flags).map_err(|e| system(what, e))?;
    for signal in [signal_hook::consts::SIGTERM, signal_hook::consts::SIGINT] {
        let write = write.try_clone().map_err(|e| system(what, e))?;
        signal_hook::low_level::pipe::register_raw(signal, write).map_err(|e| system(what, e))?;
    }
    Ok(read)
}

fn path_of(run: &Dir) -> Result<PathBuf, DaemonError> {
    let path = rustix::fs::readlink(format!("/proc/self/fd/{}", raw(run)), Vec::new())
        .map_err(|e| system("find the path of the run directory", e))?;
    let path = path.into_string().map_err(|e| system("read the path of the run directory", e))?;
    Ok(PathBuf::from(path))
}

fn raw(dir: &Dir) -> i32 {
    use std::os::fd::{AsFd as _, AsRawFd as _};
    dir.as_fd().as_raw_fd()
}

fn system(what: &'static str, error: impl std::fmt::Display) -> DaemonError {
    DaemonError::System { what, why: error.to_string() }
}
