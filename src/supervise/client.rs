//! The manager's side of the supervisor's socket.

use std::collections::{BTreeMap, VecDeque};
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::SocketType;

use crate::fsx::Dir;
use crate::model::{GivenSocket, Listen, Slot, TakeOver};

use super::service_manager::{NewsSource, ServiceManager};
use super::wire::{Answer, Ask, News, NewsLine, Taken, WorkerReport, WorkerSpec};
use super::{clients, keeper, local, process, sockets, unit};

/// A supervisor answers from memory; one that takes longer is stuck.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long systemd may take to start another supervisor.
const UNIT_LIMIT: Duration = Duration::from_secs(10);
/// How often is looked whether it has.
const LOOK: Duration = Duration::from_millis(20);
/// More than a report of every process a host could run.
const ANSWER: u64 = 64 << 20;

/// Why a supervisor could not be asked, or would not.
#[derive(Debug, thiserror::Error)]
pub enum Unreachable {
    /// nobody answers in this run directory
    #[error("no supervisor answers in {}: {why}", run.display())]
    Absent {
        /// the run directory
        run: PathBuf,
        /// the reason
        why: String,
    },
    /// systemd does not answer, or somebody else has its hands on the units of this run directory
    #[error("systemd cannot be asked: {why}")]
    NoSystemd {
        /// the reason
        why: String,
    },
    /// the connection broke before the answer came; what was asked may have been done
    #[error("whoever looks after the workers is gone: {why}")]
    Gone {
        /// the reason
        why: String,
    },
    /// it answered no; nothing has been done
    #[error("whoever looks after the workers refuses: {why}")]
    Refused {
        /// its reason
        why: String,
    },
}

/// All slots and processes at one moment.
#[derive(Clone, Debug)]
pub struct Slots {
    /// pid of our own supervisor, where that is who was asked
    pub supervisor: Option<u32>,
    /// number of the newest news
    pub news: u64,
    /// all processes, by slot, then by start
    pub workers: Vec<WorkerReport>,
    /// sockets that workers listen on and that nobody can give to their successors: by key, with the reason
    pub lost: BTreeMap<String, String>,
}

impl Slots {
    pub(super) fn of(answer: Answer) -> Result<Slots, Unreachable> {
        match answer {
            Answer::Slots { supervisor, news, workers, lost, .. } => {
                Ok(Slots { supervisor, news, workers, lost })
            }
            other => Err(unexpected(&other)),
        }
    }

    /// Why no process of `group` that listens on `listen` can be started, where a socket of it is lost.
    pub fn lost_to(&self, group: &str, listen: &Listen) -> Option<String> {
        sockets::lost_to(&self.lost, group, listen).map(|error| error.to_string())
    }
}

impl Taken {
    pub(super) fn of(answer: Answer) -> Result<Taken, Unreachable> {
        match answer {
            Answer::Taken(taken) => Ok(taken),
            other => Err(unexpected(&other)),
        }
    }
}

fn unexpected(answer: &Answer) -> Unreachable {
    Unreachable::Gone { why: format!("an unexpected answer: {answer:?}") }
}

/// A connection on which one thing at a time is asked.
#[derive(Debug)]
pub struct Client {
    run: PathBuf,
    stream: BufReader<UnixStream>,
}

impl Client {
    /// Connects to the supervisor of the run directory `run`.
    ///
    /// # Errors
    /// [`Unreachable::Absent`]: nobody is there.
    pub fn connect(run: &Path) -> Result<Client, Unreachable> {
        let absent = |why: String| Unreachable::Absent { run: run.to_owned(), why };
        let dir = Dir::open(run).map_err(|e| absent(e.kind().to_string()))?;
        let socket = local::connect(&dir, clients::SOCKET, SocketType::STREAM);
        let stream = UnixStream::from(socket.map_err(|e| absent(e.to_string()))?);
        let patience = Some(PATIENCE);
        stream
            .set_read_timeout(patience)
            .and_then(|()| stream.set_write_timeout(patience))
            .map_err(|e| absent(e.to_string()))?;
        Ok(Client { run: run.to_owned(), stream: BufReader::new(stream) })
    }

    /// Ends the supervisor; its workers serve on.
    ///
    /// # Errors
    /// [`Unreachable::Gone`].
    pub fn quit(&mut self) -> Result<(), Unreachable> {
        self.tell(&Ask::Quit)
    }

    fn tell(&mut self, ask: &Ask) -> Result<(), Unreachable> {
        self.ask(ask).map(drop)
    }

    fn ask(&mut self, ask: &Ask) -> Result<Answer, Unreachable> {
        let mut line = serde_json::to_vec(ask).expect("what is asked is plain text");
        line.push(b'\n');
        self.stream.get_mut().write_all(&line).map_err(|e| Unreachable::Gone { why: e.to_string() })?;
        match read_line(&mut self.stream)? {
            Answer::Refused { why } => Err(Unreachable::Refused { why }),
            answer => Ok(answer),
        }
    }
}

impl ServiceManager for Client {
    fn slots(&mut self) -> Result<Slots, Unreachable> {
        Slots::of(self.ask(&Ask::Slots)?)
    }

    fn given(&mut self) -> Result<Vec<GivenSocket>, Unreachable> {
        match self.ask(&Ask::Slots)? {
            Answer::Slots { given, .. } => Ok(given),
            other => Err(Unreachable::Gone { why: format!("an unexpected answer: {other:?}") }),
        }
    }

    fn ensure(&mut self, event: u64, spec: &WorkerSpec, force: bool) -> Result<(), Unreachable> {
        self.tell(&Ask::Ensure { event, spec: Box::new(spec.clone()), force, in_place: false })
    }

    fn ensure_in_place(&mut self, event: u64, spec: &WorkerSpec) -> Result<(), Unreachable> {
        self.tell(&Ask::Ensure { event, spec: Box::new(spec.clone()), force: false, in_place: true })
    }

    fn abandon(&mut self, event: u64) -> Result<(), Unreachable> {
        self.tell(&Ask::Abandon { event })
    }

    fn settle(&mut self, keep: &[Slot]) -> Result<(), Unreachable> {
        self.tell(&Ask::Settle { slots: keep.to_vec() })
    }

    fn take_over(
        &mut self,
        from: &TakeOver,
        groups: BTreeMap<String, Listen>,
        look: bool,
    ) -> Result<Taken, Unreachable> {
        Taken::of(self.ask(&Ask::TakeOver { pid: from.pid, started: from.started, groups, look })?)
    }

    fn listen(&mut self, after: u64) -> Result<Box<dyn NewsSource>, Unreachable> {
        // a connection that carries news answers nothing else
        Ok(Box::new(news(&self.run, after)?))
    }
}

fn read_line<T: serde::de::DeserializeOwned>(stream: &mut BufReader<UnixStream>) -> Result<T, Unreachable> {
    let gone = |why: String| Unreachable::Gone { why };
    let mut line = Vec::new();
    stream.take(ANSWER).read_until(b'\n', &mut line).map_err(|e| gone(e.to_string()))?;
    if line.last() != Some(&b'\n') {
        return Err(gone("it closed the connection".to_owned()));
    }
    serde_json::from_slice(&line).map_err(|e| gone(e.to_string()))
}

/// The news of a supervisor, from a number on.
#[derive(Debug)]
pub struct NewsStream {
    stream: UnixStream,
    partial: Vec<u8>,
    ready: VecDeque<NewsLine>,
}

/// Ends a [`NewsSource`] that another thread may be waiting for, when dropped.
pub struct HangUp(Option<Box<dyn FnOnce() + Send>>);

impl HangUp {
    pub(super) fn by(end: impl FnOnce() + Send + 'static) -> HangUp {
        HangUp(Some(Box::new(end)))
    }
}

impl Drop for HangUp {
    fn drop(&mut self) {
        if let Some(end) = self.0.take() {
            end();
        }
    }
}

impl NewsSource for NewsStream {
    fn hang_up(&self) -> Option<HangUp> {
        let stream = self.stream.try_clone().ok()?;
        // gone already is as good
        Some(HangUp::by(move || drop(stream.shutdown(std::net::Shutdown::Both))))
    }

    fn next_within(&mut self, limit: Duration) -> Result<Option<(u64, News)>, Unreachable> {
        let gone = |why: String| Unreachable::Gone { why };
        let deadline = super::clock::after(limit);
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some((line.number, line.news)));
            }
            if !process::wait_readable(&self.stream, Some(super::clock::until(deadline))) {
                if super::clock::until(deadline).is_zero() {
                    return Ok(None);
                }
                continue;
            }
            let mut bytes = [0u8; 16 << 10];
            let count = self.stream.read(&mut bytes).map_err(|e| gone(e.to_string()))?;
            if count == 0 {
                return Err(gone("it closed the connection".to_owned()));
            }
            self.partial.extend_from_slice(&bytes[..count]);
            while let Some(end) = self.partial.iter().position(|&byte| byte == b'\n') {
                let line: Vec<u8> = self.partial.drain(..=end).collect();
                self.ready.push_back(serde_json::from_slice(&line).map_err(|e| gone(e.to_string()))?);
            }
        }
    }
}

/// Listens for news with numbers above `after`; 0: only what comes from now on.
///
/// # Errors
/// As for [`Client::connect`].
pub fn news(run: &Path, after: u64) -> Result<NewsStream, Unreachable> {
    let mut client = Client::connect(run)?;
    client.tell(&Ask::Listen { after })?;
    let partial = client.stream.buffer().to_vec();
    let stream = client.stream.into_inner();
    stream.set_read_timeout(None).map_err(|e| Unreachable::Gone { why: e.to_string() })?;
    let mut news = NewsStream { stream, partial: Vec::new(), ready: VecDeque::new() };
    for line in partial.split_inclusive(|&byte| byte == b'\n') {
        match line.ends_with(b"\n") {
            true => news.ready.push_back(
                serde_json::from_slice(line).map_err(|e| Unreachable::Gone { why: e.to_string() })?,
            ),
            false => news.partial = line.to_vec(),
        }
    }
    Ok(news)
}

/// A supervisor that is starting or has been found.
#[derive(Debug)]
pub struct Detached {
    /// its pid
    pub pid: u32,
    /// it is a child of this process: readable when it has ended. `None`: it was there already
    pub process: Option<OwnedFd>,
}

/// Whether systemd starts the supervisor of `run`, as seen from this process: then nobody else does.
pub fn is_unit(run: &Path) -> bool {
    unit::of_daemon("supervisor", run).is_some()
}

/// Starts `program supervisor --run DIR` in a session of its own, its output in
/// `log/supervisor.log`, and waits until one answers: this one, or one that was there already. One that
/// ends while this process lives is reaped. Called from our own units it only waits: systemd starts it.
///
/// # Errors
/// [`Unreachable::Absent`], with the end of its log: it ended or did not answer in five seconds, and
/// is not there any more; or systemd has not started one in ten seconds.
pub fn start_detached(program: &Path, run: &Path) -> Result<Detached, Unreachable> {
    let absent = |why: String| Unreachable::Absent { run: run.to_owned(), why };
    let dir = Dir::create_all(run, 0o755).map_err(|e| absent(e.to_string()))?;
    if let Some(pid) = supervisor_of(run) {
        return Ok(Detached { pid, process: None });
    }
    if let Some(unit) = unit::of_daemon("supervisor", run) {
        let deadline = super::clock::after(UNIT_LIMIT);
        loop {
            match supervisor_of(run) {
                Some(pid) => return Ok(Detached { pid, process: None }),
                None if super::clock::until(deadline).is_zero() => {
                    return Err(absent(format!("systemd does not start it; `systemctl start {unit}`")));
                }
                None => std::thread::sleep(LOOK),
            }
        }
    }
    let mut child = keeper::start_daemon(program, "supervisor", &dir).map_err(absent)?;
    let answer = keeper::await_daemon(&child, || supervisor_of(run));
    match answer {
        Some(pid) if pid == child.pid => {
            process::reap_in_time(&child.pidfd).map_err(|e| absent(e.to_string()))?;
            Ok(Detached { pid: child.pid, process: Some(child.pidfd) })
        }
        other => {
            child.end();
            match other {
                Some(pid) => Ok(Detached { pid, process: None }),
                None => Err(absent(keeper::last_words(run, "supervisor"))),
            }
        }
    }
}

fn supervisor_of(run: &Path) -> Option<u32> {
    Client::connect(run).ok()?.slots().ok()?.supervisor
}
