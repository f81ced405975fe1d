//! The live canary: one real worker where no client reaches it, asked once it is ready, and gone afterwards
//! on every way out.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags};

use crate::fsx::{Dir, FsError, Meta};
use crate::model::{Address, Command, HttpUrl, Listen, Network, Probe, Ready, Socket, Surroundings};

use super::exec::{Network as Where, Start};
use super::launch::{self, Given};
use super::oneshot::{Cancel, Scratch};
use super::output::Output;
use super::process::{self, Ended};
use super::readiness::{self, Age, FileMark, NotifySocket};
use super::spawn::Spawned;
use super::wire::{Launch, WorkerSpec};
use super::{clock, http, sockets, spawn, strays, surroundings};

/// How long a canary that has passed may finish what it does, at most: nobody but its probe has asked it.
pub const GRACE: Duration = Duration::from_secs(2);
/// How often is looked for what nobody tells: a file, the network that the worker goes into.
const LOOK: Duration = Duration::from_millis(20);
/// How long after a no it is asked again whether it is ready.
const AGAIN: Duration = Duration::from_millis(100);
/// How much of the end of the worker's output is told.
const TAIL: usize = 4 << 10;
/// The longest path of a socket.
const LONGEST_SOCKET: usize = 107;

/// One worker to be tried.
#[derive(Clone, Debug)]
pub struct Canary {
    /// the worker; its slot is no real one
    pub spec: WorkerSpec,
    /// where it is kept from the clients
    pub network: Network,
    /// with a network of its own: addresses besides those it listens on
    pub addresses: Vec<IpAddr>,
    /// what has to succeed when it is ready
    pub probe: Probe,
    /// the limit of that
    pub probe_timeout: Duration,
    /// the run directory: its `{run}` is made beneath and removed afterwards
    pub run: PathBuf,
    /// where the end of its output is appended
    pub output: PathBuf,
}

/// A canary that did not pass. No process of it is left.
#[derive(Debug, thiserror::Error)]
pub enum CanaryError {
    /// it could not be started, for a reason on our side
    #[error("cannot start it: {why}")]
    NotStarted {
        /// the reason
        why: String,
    },
    /// it did not get ready, or ended
    #[error("{why}")]
    NotReady {
        /// how it ended, or its limit, with the end of its output
        why: String,
    },
    /// it was ready, and did not answer as it should
    #[error("{why}")]
    NotWell {
        /// the probe and what came of it, with the ends of both outputs
        why: String,
    },
    /// somebody called [`Cancel::cancel`]
    #[error("it was cancelled")]
    Cancelled,
}

/// Starts the worker, waits until it is ready, asks it, and ends it: all of that before this returns.
///
/// It is in a process group of its own and dies with the calling *thread*, as its probe does. Afterwards no
/// process of either group is left, nor any other that was given its `{run}`.
///
/// # Errors
/// See [`CanaryError`].
pub fn run(canary: &Canary, program: &Path, cancel: &Cancel) -> Result<(), CanaryError> {
    let files = |e: FsError| CanaryError::NotStarted { why: crate::model::chain(&e) };
    let scratch = Scratch::new(&canary.run).map_err(files)?;
    let result = Trial::start(canary, program, cancel, &scratch).and_then(|mut trial| {
        let result = trial.prove();
        trial.finish(result.is_ok());
        result
    });
    if let Err(error) = strays::kill(&[scratch.path()]) {
        tracing::warn!("what the canary had started may live on: {}", crate::model::chain(&error));
    }
    result
}

/// Whether this process may make a network with `addresses` for a canary: best known by trying.
///
/// # Errors
/// The reason, on one line.
pub fn may_isolate(run: &Path, program: &Path, addresses: &[IpAddr]) -> Result<(), String> {
    let scratch = Scratch::new(run).map_err(|e| crate::model::chain(&e))?;
    let launch = Launch {
        command: Command(vec!["true".to_owned()]),
        env: BTreeMap::new(),
        config: PathBuf::from("/"),
        loaded: None,
        mount: None,
        read_only: Vec::new(),
        surroundings: Default::default(),
    };
    let run = scratch.path().to_str().ok_or("the run directory's path is not UTF-8")?;
    let given = Given { run, parent: Some(std::process::id()), ..Given::default() };
    let mut start = surroundings::start(&launch, &given)?;
    start.network = Some(Where::Own { addresses: addresses.to_vec() });
    let mut child = Program::start(&start, program, Vec::new())?;
    let deadline = clock::after(Duration::from_secs(10));
    while !child.has_ended() && !clock::until(deadline).is_zero() {
        poll(&mut [&mut child], &[], clock::until(deadline));
    }
    if child.end().success() {
        return Ok(());
    }
    let said = child.output.tail();
    let said = said.lines().last().unwrap_or("no answer in time");
    Err(said.strip_prefix("pointsman: ").unwrap_or(said).to_owned())
}

/// Gets `url`, which has no placeholders any more. Whoever calls it keeps the time.
///
/// # Errors
/// Why it is not well, on one line.
pub fn get(url: &str) -> Result<(), String> {
    let parsed = HttpUrl::parse(url).map_err(|e| format!("{url}: {e}"))?;
    let cancel = Cancel::new().map_err(|e| e.to_string())?;
    http::get(&parsed, clock::after(Duration::from_secs(3600)), &cancel)
        .map_err(|why| format!("GET {url}: {why}"))
}

/// A running program with its output.
struct Program {
    child: Spawned,
    output: Output,
}

impl Program {
    fn start(start: &Start, program: &Path, sockets: Vec<OwnedFd>) -> Result<Program, String> {
        let (output, write) = Output::new().map_err(|e| e.to_string())?;
        let mut child = spawn::spawn(program, write, sockets).map_err(|e| e.to_string())?;
        if let Err(error) = child.tell(start) {
            child.end();
            return Err(error.to_string());
        }
        Ok(Program { child, output })
    }

    fn has_ended(&self) -> bool {
        process::ended(&self.child.pidfd)
    }

    /// Ends it with its group, and takes the last of its output.
    fn end(&mut self) -> Ended {
        let ended = self.child.end();
        self.output.take();
        ended
    }
}

/// Waits until one of the programs has said something or ended, or one of `others` is readable; takes what
/// was said.
fn poll(programs: &mut [&mut Program], others: &[&OwnedFd], limit: Duration) {
    let mut fds = Vec::new();
    for program in programs.iter() {
        fds.push(PollFd::new(&program.child.pidfd, PollFlags::IN));
        fds.extend(program.output.fd().map(|fd| PollFd::new(fd, PollFlags::IN)));
    }
    fds.extend(others.iter().map(|fd| PollFd::new(*fd, PollFlags::IN)));
    let _ = rustix::event::poll(&mut fds, Some(&process::timespec(limit)));
    drop(fds);
    for program in programs.iter_mut() {
        program.output.take();
    }
}

/// How its readiness is seen.
enum Check {
    Notify(NotifySocket),
    File(PathBuf, FileMark),
    After(Age),
    /// asked again and again
    Probe(Probe),
}

/// What came of asking it once.
enum Answer {
    Yes,
    /// and why
    No(String),
    /// none in time to this question
    None(String),
}

/// A canary that runs.
struct Trial<'a> {
    canary: &'a Canary,
    program: &'a Path,
    cancel: &'a Cancel,
    run: &'a str,
    /// where it really listens
    addresses: BTreeMap<String, Address>,
    worker: Program,
    check: Check,
    status: Option<String>,
    /// it has asked for more time, until then
    more: Option<Instant>,
}

impl<'a> Trial<'a> {
    fn start(
        canary: &'a Canary,
        program: &'a Path,
        cancel: &'a Cancel,
        scratch: &'a Scratch,
    ) -> Result<Trial<'a>, CanaryError> {
        Trial::try_start(canary, program, cancel, scratch).map_err(|why| CanaryError::NotStarted { why })
    }

    fn try_start(
        canary: &'a Canary,
        program: &'a Path,
        cancel: &'a Cancel,
        scratch: &'a Scratch,
    ) -> Result<Trial<'a>, String> {
        let spec = &canary.spec;
        let chain = |e: FsError| crate::model::chain(&e);
        let run = scratch.path().to_str().ok_or("the run directory's path is not UTF-8")?;
        let dir = Dir::open(scratch.path()).map_err(chain)?;
        dir.symlink(&spec.launch.config, "config").map_err(chain)?;
        if let Some(loaded) = spec.launch.loaded.as_ref().filter(|_| !spec.copies_loaded) {
            dir.symlink(loaded, "loaded").map_err(chain)?;
        }
        let (sockets, fds) = sockets_for(canary, run)?;
        let addresses: BTreeMap<String, Address> =
            sockets.iter().map(|(name, socket)| (name.clone(), socket.address.clone())).collect();
        let check = match &spec.ready {
            Ready::Notify => Check::Notify(NotifySocket::bind(&dir).map_err(chain)?),
            Ready::File(path) => {
                let path = launch::expand_path(path, run, &spec.launch).map_err(|e| e.to_string())?;
                let before = FileMark::of(&path);
                Check::File(path, before)
            }
            Ready::After(time) => Check::After(Age::of(*time)),
            Ready::Probe(probe) => Check::Probe(probe.clone()),
        };
        let notify = match &check {
            Check::Notify(socket) if canary.network == Network::Private && !socket.has_path() => {
                return Err(format!(
                    "{} is too long a path for NOTIFY_SOCKET with `network: private`; use a store or run directory with a shorter one",
                    dir.path().display()
                ));
            }
            Check::Notify(socket) => Some(socket.path()),
            Check::File(..) | Check::After(_) | Check::Probe(_) => None,
        };
        let given = Given {
            run,
            worker: Some(spec),
            sockets: addresses.iter().map(|(name, address)| (name.as_str(), address)).collect(),
            notify,
            parent: Some(std::process::id()),
            copies_loaded: spec.copies_loaded,
            ..Given::default()
        };
        let mut start = surroundings::start(&spec.launch, &given)?;
        start.settings.give(&dir).map_err(chain)?;
        if canary.network == Network::Private {
            start.sockets = 0;
            start.bind = sockets.into_values().collect();
            start.network = Some(Where::Own { addresses: own_addresses(canary) });
        }
        let worker = Program::start(&start, program, fds)?;
        Ok(Trial { canary, program, cancel, run, addresses, worker, check, status: None, more: None })
    }

    fn prove(&mut self) -> Result<(), CanaryError> {
        match self.check {
            Check::Probe(ref probe) => self.await_yes(&probe.clone())?,
            Check::Notify(_) | Check::File(..) | Check::After(_) => self.await_ready()?,
        }
        let limit = self.canary.probe_timeout;
        match self.ask(&self.canary.probe, clock::after(limit))? {
            Answer::Yes => Ok(()),
            Answer::No(why) => Err(CanaryError::NotWell { why: self.told(why) }),
            Answer::None(what) => {
                let why = format!("{what}: took longer than {limit:?} and was killed");
                Err(CanaryError::NotWell { why: self.told(why) })
            }
        }
    }

    /// Asks until the answer is yes.
    fn await_yes(&mut self, probe: &Probe) -> Result<(), CanaryError> {
        let limit = self.canary.spec.start_timeout;
        let deadline = clock::after(limit);
        let mut last = String::new();
        loop {
            if self.is_in_its_network() {
                match self.ask(probe, deadline)? {
                    Answer::Yes => return Ok(()),
                    Answer::No(why) => last = format!("\n{why}"),
                    Answer::None(what) => last = format!("\n{what}: no answer"),
                }
            }
            if clock::until(deadline).is_zero() {
                let why = self.told(format!("it was not ready within {limit:?}{last}"));
                return Err(CanaryError::NotReady { why });
            }
            poll(&mut [&mut self.worker], &[self.cancel.fd()], AGAIN);
            self.still_there("before it was ready")?;
        }
    }

    fn await_ready(&mut self) -> Result<(), CanaryError> {
        let limit = self.canary.spec.start_timeout;
        let (mut deadline, latest) = (clock::after(limit), clock::after(self.canary.spec.longest(limit)));
        loop {
            deadline = self.more.take().map_or(deadline, |more| deadline.max(more.min(latest)));
            let patience = match &self.check {
                _ if !self.is_in_its_network() => LOOK,
                Check::Notify(_) => Duration::MAX,
                Check::File(..) | Check::Probe(_) => LOOK,
                Check::After(age) => age.left(),
            };
            let mut others = vec![self.cancel.fd()];
            others.extend(if let Check::Notify(socket) = &self.check { Some(socket.fd()) } else { None });
            poll(&mut [&mut self.worker], &others, patience.min(clock::until(deadline)));
            // before exits: who says that it is ready and then ends was ready, and will not answer
            let ready = self.is_ready();
            self.still_there(if ready { "when it was ready" } else { "before it was ready" })?;
            if ready && self.is_in_its_network() {
                return Ok(());
            }
            if clock::until(deadline).is_zero() {
                let why = self.told(format!("it was not ready within {limit:?}"));
                return Err(CanaryError::NotReady { why });
            }
        }
    }

    fn is_ready(&mut self) -> bool {
        let pid = self.worker.child.pid;
        match &mut self.check {
            Check::File(path, before) => before.is_passed(path),
            Check::After(age) => age.is_reached(pid),
            Check::Probe(_) => false,
            Check::Notify(socket) => {
                let mut ready = false;
                // bounded, for somebody who never stops talking
                for message in std::iter::from_fn(|| socket.receive()).take(64) {
                    if readiness::speaks_for(message.sender, pid) {
                        ready |= message.ready;
                        self.more = message.more_time.map(clock::after).or(self.more);
                        self.status = message.status.or(self.status.take());
                    }
                }
                ready
            }
        }
    }

    /// With a network of its own: whether it has gone there, so that its probe finds it.
    fn is_in_its_network(&self) -> bool {
        let network = |process: &str| Meta::of_path(Path::new(&format!("/proc/{process}/ns/net")));
        let own = network("self").map(|meta| meta.identity).ok();
        // one that cannot be looked at is no child of this network any more
        self.canary.network == Network::Host
            || network(&self.worker.child.pid.to_string()).map(|meta| meta.identity).ok() != own
    }

    /// That it runs, and nobody has called it off.
    fn still_there(&mut self, when: &str) -> Result<(), CanaryError> {
        if self.cancel.is_cancelled() {
            return Err(CanaryError::Cancelled);
        }
        if self.worker.has_ended() {
            let ended = self.worker.end();
            return Err(CanaryError::NotReady { why: self.told(format!("it {ended} {when}")) });
        }
        Ok(())
    }

    /// Asks once.
    fn ask(&mut self, probe: &Probe, deadline: Instant) -> Result<Answer, CanaryError> {
        let not_started = |why: String| CanaryError::NotStarted { why };
        let (what, start) = self.question(probe).map_err(not_started)?;
        let mut probe = Program::start(&start, self.program, Vec::new()).map_err(not_started)?;
        let mut there = Ok(());
        while there.is_ok() && !probe.has_ended() && !clock::until(deadline).is_zero() {
            poll(&mut [&mut self.worker, &mut probe], &[self.cancel.fd()], clock::until(deadline));
            there = self.still_there(&format!("when {what} asked it"));
        }
        let in_time = probe.has_ended();
        let ended = probe.end();
        there?;
        if ended.success() {
            return Ok(Answer::Yes);
        }
        if !in_time {
            return Ok(Answer::None(what));
        }
        let said = probe.output.tail();
        Ok(Answer::No(if said.is_empty() {
            format!("{what}: {ended}")
        } else {
            format!("{what}: {ended}\n{said}")
        }))
    }

    /// What is asked, in words, and the process that does it: where the worker is, and told of it alone.
    fn question(&self, probe: &Probe) -> Result<(String, Start), String> {
        let spec = &self.canary.spec;
        let given = Given {
            run: self.run,
            worker: Some(spec),
            sockets: self.addresses.iter().map(|(name, address)| (name.as_str(), address)).collect(),
            about: Some(self.worker.child.pid),
            parent: Some(std::process::id()),
            copies_loaded: spec.copies_loaded,
            ..Given::default()
        };
        let mut launch = spec.launch.clone();
        let what = match probe {
            Probe::Command(command) => {
                launch.command = command.clone();
                format!("`{command}`")
            }
            Probe::Http(url) => {
                let url = launch::expand_words(url, &launch, &given).map_err(|e| e.to_string())?;
                let program = self.program.to_str().ok_or("the path of this program is not UTF-8")?;
                let what = format!("GET {url}");
                launch.command = Command(vec![program.to_owned(), "__get".to_owned(), url]);
                // the question is ours, and not about files
                launch.mount = None;
                launch.surroundings = Surroundings::default();
                what
            }
        };
        let mut start = surroundings::start(&launch, &given)?;
        start.network = match self.canary.network {
            Network::Private => Some(Where::Of { pid: self.worker.child.pid }),
            Network::Host => None,
        };
        Ok((what, start))
    }

    /// `why` with the last that is known of the worker.
    fn told(&self, why: String) -> String {
        let mut told = why;
        if self.canary.network == Network::Private {
            told.push_str("\nit had a network of its own: there is no DNS and no route in there");
        }
        if let Some(status) = &self.status {
            told.push_str(&format!("\nits status: {status}"));
        }
        let tail = self.worker.output.tail();
        let mut from = tail.len().saturating_sub(TAIL);
        while !tail.is_char_boundary(from) {
            from += 1;
        }
        if !tail.is_empty() {
            told.push_str(&format!("\nthe worker said:\n{}", &tail[from..]));
        }
        told
    }

    /// Ends it: one that has passed is asked to, and has a moment for it.
    fn finish(mut self, passed: bool) {
        if passed && let Some(signal) = process::signal_named(&self.canary.spec.stop_signal) {
            process::signal(&self.worker.child.pidfd, signal);
            let deadline = clock::after(self.canary.spec.grace_shutdown_time.min(GRACE));
            while !self.worker.has_ended() && !self.cancel.is_cancelled() && !clock::until(deadline).is_zero()
            {
                poll(&mut [&mut self.worker], &[self.cancel.fd()], clock::until(deadline));
            }
        }
        self.worker.end();
        if let Err(error) = self.worker.output.log(&self.canary.output, "canary") {
            tracing::warn!("the canary's output is not logged: {}", crate::model::chain(&error));
        }
    }
}

/// What the canary's own network has on its loopback.
fn own_addresses(canary: &Canary) -> Vec<IpAddr> {
    let listens = match &canary.spec.listen {
        Listen::Sockets(sockets) => sockets
            .values()
            .filter_map(|socket| match &socket.address {
                Address::Tcp(at) | Address::Udp(at) => Some(at.ip()),
                Address::Unix(_) | Address::UnixDatagram(_) => None,
            })
            .collect(),
        Listen::Inherit(_) => Vec::new(),
    };
    listens.into_iter().chain(canary.addresses.iter().copied()).collect()
}

/// What the canary listens on instead of what its group does, by name; with the network of the host bound already.
/// Paths are private in both.
fn sockets_for(canary: &Canary, run: &str) -> Result<(BTreeMap<String, Socket>, Vec<OwnedFd>), String> {
    let Listen::Sockets(listen) = &canary.spec.listen else { return Ok((BTreeMap::new(), Vec::new())) };
    let (mut own, mut fds) = (BTreeMap::new(), Vec::new());
    for (name, socket) in listen {
        let mut socket = Socket { owner: None, group: None, ..socket.clone() };
        socket.address = match socket.address {
            Address::Unix(_) => Address::Unix(format!("{run}/listen-{name}")),
            Address::UnixDatagram(_) => Address::UnixDatagram(format!("{run}/listen-{name}")),
            address if canary.network == Network::Private => address,
            Address::Tcp(at) => Address::Tcp(loopback(at)),
            Address::Udp(at) => Address::Udp(loopback(at)),
        };
        if let Some(path) = socket.address.path().filter(|path| path.len() > LONGEST_SOCKET) {
            return Err(format!("{path} is too long for a socket ({LONGEST_SOCKET} bytes)"));
        }
        if canary.network == Network::Host {
            let fd = sockets::bind(&socket)
                .map_err(|why| format!("cannot listen on {}: {why}", socket.address))?;
            if let Address::Tcp(at) | Address::Udp(at) = &mut socket.address {
                let bound = rustix::net::getsockname(&fd).map_err(|e| e.to_string())?;
                *at = SocketAddr::try_from(bound).map_err(|e| e.to_string())?;
            }
            fds.push(fd);
        }
        own.insert(name.clone(), socket);
    }
    Ok((own, fds))
}

/// Any port of the loopback of the same kind.
fn loopback(at: SocketAddr) -> SocketAddr {
    match at {
        SocketAddr::V4(_) => SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        SocketAddr::V6(_) => SocketAddr::from((Ipv6Addr::LOCALHOST, 0)),
    }
}
