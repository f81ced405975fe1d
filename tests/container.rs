//! The supervisor as process 1: W28 of `spec/workers.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr, unreachable_pub)]

mod common;

use std::net::TcpListener;
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt as _, FdMapping};
use common::load::get;
use common::{PROGRAM, Process, Sandbox, process, signal_to, until};
use rustix::process::Signal;
use serde_json::Value;

/// A process namespace in which the supervisor is process 1.
struct Container {
    sandbox: Sandbox,
    /// the one outside that waits for it
    unshare: Child,
    /// process 1, as it is called outside
    first: u32,
}

/// The children of a process.
fn children(pid: u32) -> Vec<u32> {
    let text = std::fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    text.split_whitespace().map(|pid| pid.parse().unwrap()).collect()
}

fn words(pid: u32) -> String {
    std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default().replace('\0', " ")
}

impl Container {
    /// `None`, with a word about it, where there can be none.
    fn new() -> Option<Container> {
        Container::given(None)
    }

    /// The same, whose process 1 is given a socket, as a container's is by its engine.
    fn given(socket: Option<&TcpListener>) -> Option<Container> {
        let unshare = ["--pid", "--fork", "--mount-proc"];
        let works = Command::new("unshare").args(unshare).arg("true").status();
        let works = works.is_ok_and(|status| status.success());
        if !works || !rustix::process::geteuid().is_root() {
            eprintln!("skipped: only root can make a process namespace");
            return None;
        }
        let sandbox = Sandbox::new();
        let mut command = Command::new("unshare");
        let script = "test -z \"$LISTEN_FDS\" || export LISTEN_PID=$$; exec \"$0\" --store \"$1\" supervisor";
        command.args(unshare).args(["sh", "-c", script, PROGRAM]).arg(sandbox.path("store"));
        if let Some(socket) = socket {
            let parent_fd = OwnedFd::from(socket.try_clone().unwrap());
            command.env("LISTEN_FDS", "1").env("LISTEN_FDNAMES", "http");
            command.fd_mappings(vec![FdMapping { parent_fd, child_fd: 3 }]).unwrap();
        }
        let log = sandbox.log("manager.log");
        let unshare = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let running = || {
            let first = children(unshare.id()).first().copied();
            first.filter(|pid| words(*pid).contains("supervisor"))
        };
        until("process 1", || running().is_some());
        let first = running().unwrap();
        let container = Container { sandbox, unshare, first };
        until("a supervisor", || container.supervisor().is_some());
        Some(container)
    }

    /// The program, inside.
    fn command(&self, args: &[&str]) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.first.to_string(), "-p", "-m", "--", PROGRAM, "--json", "--store"]);
        command.arg(self.sandbox.path("store")).args(args).stdin(Stdio::null());
        command
    }

    fn json(&self, args: &[&str]) -> Value {
        let output = self.command(args).output().unwrap();
        serde_json::from_slice(&output.stdout).unwrap_or_else(|e| panic!("{args:?}: {e}: {output:?}"))
    }

    fn wait(&self, what: &str, state: impl Fn(&Value) -> bool) {
        until(what, || state(&self.json(&["status"])));
    }

    /// The supervisor, as it is called outside: started by process 1, or by the manager.
    fn supervisor(&self) -> Option<Process> {
        let mut all = self.sandbox.processes().into_iter();
        let is_one = |pid: &u32| *pid != self.first && words(*pid).contains(" supervisor --run");
        all.find(|pid| is_one(pid) && process(*pid).is_some()).and_then(process)
    }

    /// Those that process 1 has not reaped.
    fn zombies(&self) -> Vec<u32> {
        children(self.first).into_iter().filter(|pid| process(*pid).is_none()).collect()
    }

    fn lines(&self, file: &str) -> usize {
        std::fs::read_to_string(self.sandbox.path(file)).unwrap_or_default().lines().count()
    }

    /// The worker that has written its name, as it is called outside.
    fn worker(&self) -> Option<Process> {
        let mark = self.sandbox.path("conf/script");
        let all = children(self.first)
            .into_iter()
            .chain(self.supervisor().map_or(Vec::new(), |it| children(it.pid)));
        let mut workers = all.filter(|pid| words(*pid).contains("script") && mark.exists());
        workers.find_map(process)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        if self.unshare.try_wait().unwrap().is_none() {
            signal_to(self.first, Signal::KILL);
            self.unshare.wait().unwrap();
        }
    }
}

#[test]
fn w28_as_process_1_it_reaps_every_orphan_outlives_a_supervisor_and_ends_its_workers() {
    let Some(mut container) = Container::new() else { return };
    let path = |name: &str| -> PathBuf { container.sandbox.path(name) };
    let (orphans, ended) = (path("orphans"), path("ended"));
    // one orphan after the other, each of which ends at once; a while for its end
    container.sandbox.write(
        "conf/script",
        &format!(
            "trap 'sleep 0.3; echo ended >>{}; exit 0' TERM\necho 1 >$POINTSMAN_RUN/ready\n\
             while :; do (sh -c 'echo orphan >>{}' &); sleep 0.02; done\n",
            ended.display(),
            orphans.display()
        ),
    );
    container.sandbox.write(
        "conf/pointsman.yaml",
        "version: 1\nprobation: 0s\nworker:\n  command: sh {config}/script\n  ready: {file: '{run}/ready'}\n",
    );
    let log = container.sandbox.log("manager.log");
    let mut manager =
        container.command(&["manager"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    container.wait("a manager", |status| status["manager"]["pid"].is_u64() && status["supervisor"].is_u64());
    let outcome = container.json(&["deploy", container.sandbox.path("conf").to_str().unwrap()]);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    let many = |more: usize| {
        let first = container.lines("orphans");
        until("orphans", || container.lines("orphans") >= first + more);
    };
    many(30);
    until("they are reaped", || container.zombies().is_empty());

    // a worker that is killed is started again
    let worker = container.worker().unwrap();
    signal_to(worker.pid, Signal::KILL);
    until("it is gone, and reaped", || !PathBuf::from(format!("/proc/{}", worker.pid)).exists());
    container.wait("another one", |status| status["workers"][0]["state"] == "ready");
    // a supervisor that is killed costs nobody a process
    let (supervisor, worker) = (container.supervisor().unwrap(), container.worker().unwrap());
    signal_to(supervisor.pid, Signal::KILL);
    until("another supervisor", || container.supervisor().is_some_and(|now| now != supervisor));
    container.wait("it answers", |status| {
        status["supervisor"].is_u64() && status["workers"][0]["state"] == "ready"
    });
    assert_eq!(container.worker(), Some(worker), "adopted");
    many(30);
    until("they are reaped", || container.zombies().is_empty());
    // one that was adopted is nobody's child but process 1's
    signal_to(worker.pid, Signal::KILL);
    until("it is gone, and reaped", || !PathBuf::from(format!("/proc/{}", worker.pid)).exists());
    container.wait("another worker", |status| status["workers"][0]["state"] == "ready");

    assert!(!ended.exists());
    signal_to(container.first, Signal::TERM);
    let status = container.unshare.wait().unwrap();
    assert_eq!(container.lines("ended"), 1, "the worker was asked, and waited for");
    assert!(status.success(), "{status}");
    manager.wait().unwrap();
}

#[test]
fn w36_process_1_passes_on_what_it_is_given() {
    let socket = TcpListener::bind("127.0.0.1:0").unwrap();
    socket.set_nonblocking(true).unwrap();
    let at = socket.local_addr().unwrap();
    let Some(container) = Container::given(Some(&socket)) else { return };
    let log = container.sandbox.log("manager.log");
    let mut manager =
        container.command(&["manager"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    container.wait("a manager", |status| status["manager"]["pid"].is_u64() && status["supervisor"].is_u64());
    for body in ["one", "two"] {
        let pipeline = format!(
            "version: 1\nprobation: 0s\nworker:\n  command: [{}]\n  listen: {{http: 'tcp://{at}'}}\n  ready: notify\n",
            common::greeter().display()
        );
        container.sandbox.write(&format!("{body}/pointsman.yaml"), &pipeline);
        container.sandbox.write(&format!("{body}/body"), body);
        let outcome = container.json(&["deploy", container.sandbox.path(body).to_str().unwrap()]);
        assert_eq!(outcome["verdict"], "good", "{outcome:#}");
        assert_eq!(get(at).as_deref(), Ok(body));
        let supervisor = container.supervisor().unwrap();
        signal_to(supervisor.pid, Signal::KILL);
        until("another supervisor", || container.supervisor().is_some_and(|now| now != supervisor));
        container.wait("it answers", |status| status["supervisor"].is_u64());
    }
    signal_to(container.first, Signal::TERM);
    manager.wait().unwrap();
}
