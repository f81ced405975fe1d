//! A throw-away service for black-box tests: the built binary, a store of its own, nothing inherited.
#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests stand outside of the rooms"
)]

pub mod actor;
pub mod host;
pub mod load;
pub mod nginx;
pub mod spec;
pub mod systemd;
pub mod tcp;

use std::collections::BTreeMap;
use std::os::unix::net::UnixDatagram;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// The longest that any awaited state may take on a loaded machine.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The built program.
pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pointsman");

/// What a started process says on its `NOTIFY_SOCKET`.
pub struct Notified {
    /// where it listens
    pub path: PathBuf,
    socket: UnixDatagram,
}

impl Notified {
    /// Listens at `path`.
    pub fn new(path: &Path) -> Notified {
        let _ = std::fs::remove_file(path); // of one before
        let socket = UnixDatagram::bind(path).unwrap();
        socket.set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        Notified { path: path.to_owned(), socket }
    }

    /// Waits for `READY=1` from `process`.
    pub fn until_ready(&self, process: &mut Child, log: impl Fn() -> String) {
        let begun = Instant::now();
        let mut said = [0; 4096];
        loop {
            match self.socket.recv(&mut said) {
                Ok(length) if said[..length].split(|b| *b == b'\n').any(|line| line == b"READY=1") => return,
                _ => {}
            }
            let ended = process.try_wait().unwrap();
            assert!(ended.is_none(), "it ends with {ended:?} before it is ready:\n{}", log());
            assert!(begun.elapsed() < PATIENCE, "it does not get ready:\n{}", log());
        }
    }
}

/// A temporary directory with a store in it, and everything that was started on it.
pub struct Sandbox {
    dir: tempfile::TempDir,
    manager: Option<Child>,
}

impl Sandbox {
    /// A sandbox with an initialised store that lets pushed pipelines count.
    pub fn new() -> Sandbox {
        let sandbox = Sandbox::bare();
        sandbox.run(&["init", "--pipeline", "pushed"], 0);
        if systemd::backend().is_some() {
            sandbox.host("pipeline: pushed\n");
        }
        sandbox
    }

    /// Writes the host file, which says who is the service manager, too.
    pub fn host(&self, text: &str) {
        let backend = systemd::backend().map(|backend| format!("service_manager: {backend}\n"));
        self.write("store/host.yaml", &format!("{text}{}", backend.unwrap_or_default()));
    }

    /// A sandbox without a store.
    pub fn bare() -> Sandbox {
        // orphans become ours, so that a dead one can be told from a living one
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        let dir = tempfile::Builder::new().prefix("pm").tempdir().unwrap();
        Sandbox { dir, manager: None }
    }

    /// A path in the sandbox.
    pub fn path(&self, rel: &str) -> PathBuf {
        self.dir.path().join(rel)
    }

    /// Writes a file, and the directories that it is in.
    pub fn write(&self, rel: &str, text: &str) -> PathBuf {
        let path = self.path(rel);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(&path, text).unwrap();
        path
    }

    /// The program with this sandbox's store and an environment of its own.
    pub fn command(&self, args: &[&str]) -> Command {
        self.command_of(Path::new(PROGRAM), args)
    }

    /// The same with another copy of the program.
    pub fn command_of(&self, program: &Path, args: &[&str]) -> Command {
        let mut command = Command::new(program);
        command.arg("--store").arg(self.path("store")).args(args).current_dir(self.dir.path()).env_clear();
        command.env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        systemd::lead_to_it(&mut command);
        command.stdin(Stdio::null());
        command
    }

    /// Runs the program to its end and insists on the exit code.
    pub fn output(&self, args: &[&str], code: i32) -> Output {
        let output = self.command(args).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "pointsman {args:?}\nstdout: {out}\nstderr: {err}");
        output
    }

    /// What the program prints, without the last newline.
    pub fn run(&self, args: &[&str], code: i32) -> String {
        String::from_utf8(self.output(args, code).stdout).unwrap().trim_end().to_owned()
    }

    /// What the program prints with `--json`.
    pub fn json(&self, args: &[&str], code: i32) -> Value {
        let text = self.run(&[&["--json"], args].concat(), code);
        serde_json::from_str(&text).unwrap_or_else(|e| panic!("{args:?}: {e}: {text}"))
    }

    /// Starts the program with `--json` in the background; [`end`] reads what it prints.
    pub fn background(&self, args: &[&str]) -> Child {
        let mut command = self.command(&[&["--json"], args].concat());
        command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
    }

    /// What the program says on stderr when it fails.
    pub fn error(&self, args: &[&str], code: i32) -> String {
        let output = self.output(args, code);
        assert!(output.stdout.is_empty(), "{args:?} prints on stdout: {output:?}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// Starts a manager.
    pub fn spawn_manager(&mut self) -> u32 {
        let command = self.command(&["manager"]);
        self.spawn_as_manager(command)
    }

    fn spawn_as_manager(&mut self, mut command: Command) -> u32 {
        assert!(self.manager.is_none(), "one manager is enough");
        let log = self.log("manager.log");
        let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let pid = child.id();
        self.manager = Some(child);
        pid
    }

    /// Starts a manager and waits until it says that it is at work: what a predecessor has left is done, and the
    /// service is up where nothing of it ran.
    pub fn start_manager(&mut self) -> u32 {
        let said = Notified::new(&self.path("manager.notify"));
        let mut command = self.command(&["manager"]);
        command.env("NOTIFY_SOCKET", &said.path);
        let pid = self.spawn_as_manager(command);
        said.until_ready(self.manager.as_mut().unwrap(), || {
            let log = std::fs::read_to_string(self.dir.path().join("manager.log")).unwrap_or_default();
            format!("{}\n{log}", self.dir.path().display())
        });
        pid
    }

    /// The manager that was started here.
    pub fn manager(&self) -> Option<u32> {
        self.manager.as_ref().map(Child::id)
    }

    /// Ends the manager with a signal and waits for its end.
    pub fn end_manager(&mut self, signal: rustix::process::Signal) {
        let mut child = self.manager.take().expect("a manager runs");
        signal_to(child.id(), signal);
        child.wait().unwrap();
    }

    /// A file that is appended to.
    pub fn log(&self, name: &str) -> std::fs::File {
        std::fs::OpenOptions::new().create(true).append(true).open(self.path(name)).unwrap()
    }

    /// `status --json`.
    pub fn status(&self) -> Value {
        self.json(&["status"], 0)
    }

    /// Waits for a state of the service.
    pub fn wait(&self, what: &str, state: impl Fn(&Value) -> bool) -> Value {
        let begun = Instant::now();
        loop {
            let status = self.status();
            if state(&status) {
                return status;
            }
            let log = std::fs::read_to_string(self.path("manager.log")).unwrap_or_default();
            assert!(begun.elapsed() < PATIENCE, "{what} does not come:\n{status:#}\n{log}");
            rest(begun);
        }
    }

    /// The generation in force.
    pub fn current(&self) -> Option<String> {
        let target = std::fs::read_link(self.path("store/current")).ok()?;
        Some(target.components().nth(1).unwrap().as_os_str().to_str().unwrap().to_owned())
    }

    /// The ready workers by slot: which process each is.
    pub fn workers(&self) -> BTreeMap<String, Process> {
        workers(&self.status())
    }

    /// Everything in the store but the run directory, as text: to see that nothing has changed.
    pub fn snapshot(&self) -> String {
        let mut lines = Vec::new();
        snapshot(&self.path("store"), &mut lines);
        lines.retain(|line| !line.starts_with(&format!("{}/", self.path("store/run").display())));
        lines.join("\n")
    }

    /// Every living process that has this sandbox's path in its command line or environment.
    pub fn processes(&self) -> Vec<u32> {
        let needle = self.dir.path().to_str().unwrap().to_owned();
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse::<u32>().ok()) else {
                continue;
            };
            if pid == std::process::id() {
                continue;
            }
            let has = |file: &str| {
                let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
                String::from_utf8_lossy(&bytes).contains(&needle)
            };
            if has("cmdline") || has("environ") {
                found.push(pid);
            }
        }
        found
    }

    /// Waits until manager, supervisor (where it is ours), holder and two workers are all that runs.
    pub fn nothing_left_over(&self, case: &str) {
        let begun = Instant::now();
        loop {
            let status = self.status();
            let known: std::collections::BTreeSet<u64> = status["workers"]
                .as_array()
                .unwrap()
                .iter()
                .map(|worker| &worker["pid"])
                .chain([&status["manager"]["pid"], &status["supervisor"]])
                .filter_map(Value::as_u64)
                .collect();
            let words =
                |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let others: Vec<(u32, String)> = self
                .processes()
                .into_iter()
                .filter(|pid| !known.contains(&u64::from(*pid)) && process(*pid).is_some())
                .map(|pid| (pid, words(&pid).replace('\0', " ")))
                .collect();
            let holder = |words: &String| words.starts_with(PROGRAM) && words.contains(" holder");
            let ours = if systemd::backend().is_some() { 3 } else { 4 };
            if known.len() == ours && matches!(others.as_slice(), [(_, words)] if holder(words)) {
                return;
            }
            assert!(begun.elapsed() < PATIENCE, "{case}: left over: {others:?}\n{status:#}");
            rest(begun);
        }
    }

    /// Kills everything that runs on this sandbox, at once.
    pub fn kill_everything(&mut self) {
        if systemd::backend().is_some() {
            // it would start anew what is stopped
            if let Some(mut manager) = self.manager.take() {
                let _ = manager.kill();
                let _ = manager.wait();
            }
            systemd::stop_units(&self.path("store/run"));
        }
        for _ in 0..50 {
            let pids = self.processes();
            if pids.is_empty() {
                break;
            }
            for pid in pids {
                if process(pid).is_some_and(|process| process.group != own_group()) {
                    let group = rustix::process::Pid::from_raw(process(pid).map_or(0, |p| p.group) as i32);
                    if let Some(group) = group {
                        let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
                    }
                }
                signal_to(pid, rustix::process::Signal::KILL);
                reap(pid);
            }
        }
        if let Some(mut manager) = self.manager.take() {
            let _ = manager.kill();
            let _ = manager.wait();
        }
    }
}

impl Drop for Sandbox {
    fn drop(&mut self) {
        if std::thread::panicking() {
            for log in ["manager.log", "store/run/log/supervisor.log"] {
                let text = std::fs::read_to_string(self.path(log)).unwrap_or_default();
                eprintln!("--- {log}\n{text}");
            }
        }
        self.kill_everything();
    }
}

fn own_group() -> u32 {
    rustix::process::getpgrp().as_raw_nonzero().get().unsigned_abs()
}

/// Which process something is: a pid alone may be another one tomorrow.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Process {
    pub pid: u32,
    pub started: u64,
    group: u32,
}

impl Process {
    /// Whether it lives; a zombie does not.
    pub fn is_alive(self) -> bool {
        process(self.pid).is_some_and(|now| now.started == self.started)
    }
}

/// The living process `pid`; a zombie is none, nor is a thread of another process, which has such a number, too.
pub fn process(pid: u32) -> Option<Process> {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    status.lines().find(|line| *line == format!("Tgid:\t{pid}"))?;
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
    let alive = !matches!(fields[0], "Z" | "X");
    alive.then(|| Process { pid, started: fields[19].parse().unwrap(), group: fields[2].parse().unwrap() })
}

/// The ready, accepted workers of a status.
pub fn workers(status: &Value) -> BTreeMap<String, Process> {
    let ready = |worker: &&Value| worker["state"] == "ready" && worker["accepted"] == true;
    let of = |worker: &Value| {
        let slot = format!("{}/{}", worker["group"].as_str().unwrap(), worker["instance"]);
        let pid = u32::try_from(worker["pid"].as_u64().unwrap()).unwrap();
        process(pid).map(|process| (slot, process))
    };
    status["workers"].as_array().unwrap().iter().filter(ready).filter_map(of).collect()
}

/// The example server.
pub fn greeter() -> PathBuf {
    example("greeter")
}

/// A program of `examples/`; built where only one test was asked for.
pub fn example(name: &str) -> PathBuf {
    static ONCE: std::sync::Once = std::sync::Once::new();
    let path = |name: &str| Path::new(PROGRAM).with_file_name("examples").join(name);
    ONCE.call_once(|| {
        if !["actor", "greeter"].iter().all(|name| path(name).exists()) {
            let mut command = Command::new(env!("CARGO"));
            assert!(command.args(["build", "--quiet", "--examples"]).status().unwrap().success());
        }
    });
    path(name)
}

/// Waits for a state of anything but the service.
pub fn until(what: &str, state: impl Fn() -> bool) {
    let begun = Instant::now();
    while !state() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        rest(begun);
    }
}

/// The time between two looks at what is waited for since `begun`: what takes long is looked at less often, since each
/// look takes from what it waits for.
pub fn rest(begun: Instant) {
    std::thread::sleep((begun.elapsed() / 8).clamp(Duration::from_millis(5), Duration::from_millis(25)));
}

/// The `--json` of a command that was started with [`Sandbox::background`], at its end with this exit code.
pub fn end(child: Child, code: i32) -> Value {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    serde_json::from_str(&text).unwrap()
}

/// Sends a signal to a process that the test has started.
pub fn signal_to(pid: u32, signal: rustix::process::Signal) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let _ = rustix::process::kill_process(pid, signal);
}

fn reap(pid: u32) {
    let pid = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap());
    let _ = rustix::process::waitpid(pid, rustix::process::WaitOptions::NOHANG);
}

fn snapshot(dir: &Path, lines: &mut Vec<String>) {
    use std::os::unix::fs::MetadataExt as _;
    let mut entries: Vec<_> = std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let meta = std::fs::symlink_metadata(&path).unwrap();
        let what = if meta.is_symlink() {
            format!("-> {}", std::fs::read_link(&path).unwrap().display())
        } else if meta.is_file() {
            blake3::hash(&std::fs::read(&path).unwrap()).to_string()
        } else {
            String::new()
        };
        lines.push(format!("{} {:o} {what}", path.display(), meta.mode()));
        if meta.is_dir() {
            snapshot(&path, lines);
        }
    }
}
