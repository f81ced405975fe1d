//! A program that plays a service for tests, and behaves as its configuration says.
//!
//! `actor worker LOG`, `actor load LOG {loaded}`, `actor check LOG`, `actor tell LOG`: every start is a line in the
//! file LOG, `KIND GENERATION INSTANCE PID`, with the kinds worker, canary (instance 0), loader, check and tell.
//!
//! The worker serves HTTP on every stream socket of `LISTEN_FDS`. Its answer is `MARKER RULES`: the file `marker` as
//! it was when it started, and the rules that it has loaded, from `{loaded}/rules` where there is a loader, else from
//! the directory `rules`. It says `READY=1`, loads its rules anew on HUP or when `actor tell` says so over
//! `{run}/control`, writes what it answers to `{run}/answer`, and on TERM or QUIT finishes what it has accepted.
//!
//! The files `behaviour` and `rules/behaviour` (which is no rule) have lines `WHO WHAT [VALUE]`, with `#` before a
//! comment. WHO is an instance (the canary is 0), or `workers`, `canary`, `all` (both), `loader`, `check`. WHAT is one
//! of [`KNOWN`].
#![allow(
    clippy::disallowed_methods,
    clippy::exit,
    clippy::print_stderr,
    reason = "it is a program of its own"
)]

use std::error::Error;
use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::fd::OwnedFd;
use std::os::unix::net::{UnixDatagram, UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio, exit};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;
use std::{env, thread};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::SocketFlags;
use rustix::process::{PidfdFlags, PidfdGetfdFlags, getpid, pidfd_getfd, pidfd_open, setsid};
use signal_hook::consts::{SIGHUP, SIGQUIT, SIGTERM};

/// What anybody may be told to do.
const KNOWN: [&str; 18] = [
    // exits with this status before it does anything; also the loader and the check
    "fails",
    // does nothing, for ever; also the loader and the check
    "hangs",
    // writes so many bytes, then goes on; also the loader and the check
    "floods",
    // does nothing while this file exists, then goes on; also the loader and the check
    "waits",
    // serves, and never says ready
    "never-ready",
    // is ready so many milliseconds after its start
    "slow-ready",
    // says ready, serves nobody, and ends with this status
    "ready-then-dies",
    // ends with status 70 so many milliseconds after it was ready
    "crashes",
    // goes on after TERM
    "ignores-term",
    // leaves a process in a session of its own that keeps its descriptors and does nothing
    "forks",
    // accepts nothing while this file exists
    "accepts-not",
    // needs so many milliseconds for an answer
    "slow-answer",
    // writes so many bytes before each answer
    "mutters",
    // needs so many milliseconds for its end
    "slow-end",
    // says no when it is told to load its rules
    "reload-no",
    // never answers when it is told to
    "reload-hangs",
    // ends with status 71 when it is told to
    "reload-dies",
    // stays as it was and says yes
    "reload-lies",
];

type Outcome<T> = Result<T, Box<dyn Error>>;

fn main() -> Outcome<()> {
    let args: Vec<String> = env::args().skip(1).collect();
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    match args[..] {
        ["worker", log] => {
            let instance = env::var("POINTSMAN_INSTANCE")?;
            enter(log, if instance == "0" { "canary" } else { "worker" }, &instance)?;
            Actor::new(&instance)?.play()
        }
        ["load", log, loaded] => {
            enter(log, "loader", "-")?;
            Script::read("loader")?.opening()?;
            Ok(fs::write(Path::new(loaded).join("rules"), rules(&config().join("rules"))?)?)
        }
        ["check", log] => {
            enter(log, "check", "-")?;
            Script::read("check")?.opening()
        }
        ["tell", log] => {
            enter(log, "tell", &env::var("POINTSMAN_INSTANCE")?)?;
            tell()
        }
        ["idle"] => {
            setsid()?;
            hang()
        }
        _ => Err("usage: actor worker LOG | load LOG LOADED | check LOG | tell LOG".into()),
    }
}

/// Writes that somebody has started.
fn enter(log: &str, kind: &str, instance: &str) -> Outcome<()> {
    let tree = fs::canonicalize(config())?;
    let generation = tree.parent().and_then(Path::file_name).ok_or("a configuration is in a generation")?;
    let line = format!("{kind} {} {instance} {}\n", generation.display(), std::process::id());
    // one write, so that lines of many stay whole
    Ok(fs::OpenOptions::new().append(true).create(true).open(log)?.write_all(line.as_bytes())?)
}

fn config() -> PathBuf {
    env::var_os("POINTSMAN_CONFIG").unwrap_or_else(|| ".".into()).into()
}

fn hang() -> ! {
    loop {
        thread::park();
    }
}

fn pause(millis: &str) -> Outcome<()> {
    thread::sleep(Duration::from_millis(millis.parse()?));
    Ok(())
}

fn flood(bytes: &str) -> Outcome<()> {
    let line = [b'f'; 1024];
    let mut left: usize = bytes.parse()?;
    while left > 0 {
        left -= std::io::stderr().write(&line[..left.min(line.len())])?;
    }
    eprintln!();
    Ok(())
}

/// Every file of a directory, in order, as one line.
fn rules(dir: &Path) -> Outcome<String> {
    let mut files = fs::read_dir(dir)?.map(|entry| Ok(entry?.path())).collect::<Outcome<Vec<_>>>()?;
    files.retain(|file| !file.ends_with("behaviour"));
    files.sort();
    let texts = files.iter().map(fs::read_to_string).collect::<Result<Vec<_>, _>>()?;
    Ok(texts.iter().flat_map(|text| text.split_whitespace()).collect::<Vec<_>>().join(" "))
}

/// What one of us has been told to do: words and their values.
struct Script(Vec<(String, String)>);

impl Script {
    /// What the configuration says about `who`.
    fn read(who: &str) -> Outcome<Script> {
        let mut text = String::new();
        for file in ["behaviour", "rules/behaviour"].map(|name| config().join(name)) {
            if file.exists() {
                text += &fs::read_to_string(file)?;
                text.push('\n');
            }
        }
        let mut mine = Vec::new();
        for line in text.lines() {
            let line = line.split('#').next().unwrap_or_default().trim();
            let mut words = line.splitn(3, ' ');
            let (Some(about), Some(what)) = (words.next().filter(|word| !word.is_empty()), words.next())
            else {
                continue;
            };
            if !KNOWN.contains(&what) {
                return Err(format!("behaviour: nobody knows how to play {line:?}").into());
            }
            let plays = !["loader", "check"].contains(&who);
            let group = if who == "0" { "canary" } else { "workers" };
            if about == who || plays && (about == "all" || about == group) {
                mine.push((what.to_owned(), words.next().unwrap_or_default().to_owned()));
            }
        }
        Ok(Script(mine))
    }

    fn says(&self, what: &str) -> Option<&str> {
        debug_assert!(KNOWN.contains(&what), "{what}");
        self.0.iter().find(|(word, _)| word == what).map(|(_, value)| value.as_str())
    }

    /// What everybody can do at the start.
    fn opening(&self) -> Outcome<()> {
        if let Some(bytes) = self.says("floods") {
            flood(bytes)?;
        }
        if let Some(file) = self.says("waits") {
            while Path::new(file).exists() {
                thread::sleep(Duration::from_millis(5));
            }
        }
        if let Some(status) = self.says("fails") {
            eprintln!("told to fail");
            exit(status.parse()?);
        }
        if self.says("hangs").is_some() {
            hang();
        }
        Ok(())
    }
}

/// A worker on the stage.
struct Actor {
    instance: String,
    marker: String,
    script: Mutex<Script>,
    rules: Mutex<String>,
    /// no more connections
    ending: AtomicBool,
    /// connections that wait for an answer
    open: AtomicUsize,
}

impl Actor {
    fn new(instance: &str) -> Outcome<Arc<Actor>> {
        let script = Script::read(instance)?;
        script.opening()?;
        let marker = fs::read_to_string(config().join("marker"))?.trim().to_owned();
        let actor = Actor {
            instance: instance.to_owned(),
            marker,
            script: Mutex::new(script),
            rules: Mutex::default(),
            ending: AtomicBool::new(false),
            open: AtomicUsize::new(0),
        };
        actor.load()?;
        Ok(Arc::new(actor))
    }

    fn play(self: Arc<Actor>) -> Outcome<()> {
        // before anybody may send one
        let mut signals = signal_hook::iterator::Signals::new([SIGTERM, SIGQUIT, SIGHUP])?;
        let told = UnixListener::bind(run().join("control"))?;
        let listener = Arc::clone(&self);
        thread::spawn(move || told.incoming().flatten().try_for_each(|by| listener.told(by)));
        let mut sockets = sockets()?;
        if self.says("ready-then-dies").is_some() {
            sockets.clear();
        }
        let stage: Vec<_> = sockets.into_iter().map(|socket| Arc::clone(&self).serve(socket)).collect();
        self.appear()?;
        for signal in signals.forever() {
            if signal == SIGHUP {
                self.reload().map_err(|no| format!("reload: {no}"))?;
            } else if self.says("ignores-term").is_none() {
                break;
            }
        }
        self.ending.store(true, Ordering::SeqCst);
        for thread in stage {
            thread.join().map_err(|_| "a thread has panicked")?;
        }
        while self.open.load(Ordering::SeqCst) > 0 {
            thread::sleep(Duration::from_millis(5));
        }
        self.says("slow-end").map_or(Ok(()), |millis| pause(&millis))
    }

    fn says(&self, what: &str) -> Option<String> {
        lock(&self.script).says(what).map(str::to_owned)
    }

    /// Says that it is ready, and what comes before and after.
    fn appear(&self) -> Outcome<()> {
        if self.says("forks").is_some() {
            Command::new(env::current_exe()?).arg("idle").stdin(Stdio::inherit()).spawn()?;
        }
        if let Some(millis) = self.says("slow-ready") {
            pause(&millis)?;
        }
        if self.says("never-ready").is_none()
            && let Some(path) = env::var_os("NOTIFY_SOCKET")
        {
            UnixDatagram::unbound()?
                .send_to(format!("READY=1\nSTATUS={}\n", self.marker).as_bytes(), path)?;
        }
        if let Some(status) = self.says("ready-then-dies") {
            exit(status.parse()?);
        }
        if let Some(millis) = self.says("crashes") {
            thread::spawn(move || {
                let _ = pause(&millis);
                exit(70);
            });
        }
        Ok(())
    }

    /// Loads its rules, and leaves its answer in its directory for whoever wants to know.
    fn load(&self) -> Outcome<()> {
        let new = match env::var_os("POINTSMAN_LOADED") {
            Some(loaded) => fs::read_to_string(Path::new(&loaded).join("rules"))?,
            None => rules(&config().join("rules"))?,
        };
        *lock(&self.rules) = new;
        let answer = run().join("answer");
        fs::write(answer.with_extension("new"), self.answer())?;
        Ok(fs::rename(answer.with_extension("new"), answer)?)
    }

    fn answer(&self) -> String {
        format!("{} {}", self.marker, lock(&self.rules)).trim_end().to_owned()
    }

    /// Behaves from now on as its new configuration says, and loads its rules.
    fn reload(&self) -> Outcome<()> {
        *lock(&self.script) = Script::read(&self.instance)?;
        if self.says("reload-hangs").is_some() {
            hang();
        }
        if self.says("reload-dies").is_some() {
            exit(71);
        }
        if self.says("reload-no").is_some() {
            return Err("told to say no".into());
        }
        if self.says("reload-lies").is_some() {
            return Ok(());
        }
        self.load()
    }

    fn told(&self, mut by: UnixStream) -> std::io::Result<()> {
        match self.reload() {
            Ok(()) => by.write_all(b"yes\n"),
            Err(why) => by.write_all(format!("no: {why}\n").as_bytes()),
        }
    }

    fn serve(self: Arc<Actor>, socket: OwnedFd) -> thread::JoinHandle<()> {
        let closed = self.says("accepts-not");
        thread::spawn(move || {
            while !self.ending.load(Ordering::SeqCst) {
                if closed.as_ref().is_some_and(|file| Path::new(file).exists()) {
                    thread::sleep(Duration::from_millis(5));
                    continue;
                }
                // counted before it is taken: an end in between waits for it
                self.open.fetch_add(1, Ordering::SeqCst);
                let Ok(stream) = rustix::net::accept_with(&socket, SocketFlags::CLOEXEC) else {
                    self.open.fetch_sub(1, Ordering::SeqCst);
                    let limit = Timespec { tv_sec: 0, tv_nsec: 20_000_000 };
                    let _ = poll(&mut [PollFd::new(&socket, PollFlags::IN)], Some(&limit));
                    continue;
                };
                let actor = Arc::clone(&self);
                thread::spawn(move || {
                    let _ = actor.reply(TcpStream::from(stream));
                    actor.open.fetch_sub(1, Ordering::SeqCst);
                });
            }
        })
    }

    fn reply(&self, mut stream: TcpStream) -> Outcome<()> {
        stream.set_nonblocking(false)?;
        stream.set_read_timeout(Some(Duration::from_secs(5)))?;
        let mut request = Vec::new();
        let mut bytes = [0; 1024];
        while !request.windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut bytes) {
                Ok(0) => return Ok(()),
                Ok(count) => request.extend_from_slice(&bytes[..count]),
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
        if let Some(bytes) = self.says("mutters") {
            flood(&bytes)?;
        }
        if let Some(millis) = self.says("slow-answer") {
            pause(&millis)?;
        }
        let body = self.answer();
        let length = body.len();
        let answer =
            format!("HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: {length}\r\n\r\n{body}");
        Ok(stream.write_all(answer.as_bytes())?)
    }
}

/// Tells the worker of this directory to load its rules; its answer is the verdict.
fn tell() -> Outcome<()> {
    let mut answer = String::new();
    UnixStream::connect(run().join("control"))?.read_to_string(&mut answer)?;
    if answer == "yes\n" { Ok(()) } else { Err(answer.into()) }
}

fn run() -> PathBuf {
    env::var_os("POINTSMAN_RUN").unwrap_or_else(|| ".".into()).into()
}

/// The listening sockets that were passed.
fn sockets() -> Outcome<Vec<OwnedFd>> {
    let ours = env::var("LISTEN_PID").is_ok_and(|pid| pid == std::process::id().to_string());
    let count = if ours { env::var("LISTEN_FDS")?.parse()? } else { 0 };
    // a duplicate of our own descriptor: to take the number itself would need `unsafe`
    let itself = pidfd_open(getpid(), PidfdFlags::empty())?;
    let mut sockets = Vec::new();
    for number in 3..3 + count {
        let socket = pidfd_getfd(&itself, number, PidfdGetfdFlags::empty())?;
        if rustix::net::sockopt::socket_acceptconn(&socket)? {
            // several share it: whoever loses the race for a connection must not hang
            rustix::io::ioctl_fionbio(&socket, true)?;
            sockets.push(socket);
        }
    }
    Ok(sockets)
}

fn lock<T>(value: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    value.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
