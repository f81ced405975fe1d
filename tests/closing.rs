//! Whoever closes a socket, or keeps it, is killed or ended: the next one goes on with it. Rules W34 and W37 of
//! `spec/workers.md`, and D7 of `spec/systemd.md`; the built program, nginx, loopback only.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::io::{ErrorKind, Read as _, Write as _};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use common::load::{Load, get};
use common::nginx::{Site, address, port, site};
use common::systemd::{Scope, backend, passes_under};
use common::{Process, Sandbox};
use rustix::process::Signal;

#[test]
fn d7_as_the_systems_systemd() {
    passes_under(Scope::System, &[], 4);
}

#[test]
fn d7_as_the_users_systemd() {
    passes_under(Scope::User, &[], 4);
}

/// Pushes a generation that listens on `port`.
fn push(sandbox: &Sandbox, name: &str, port: u16, instances: u32) -> String {
    let listen = format!("{{http: \"tcp://127.0.0.1:{port}\"}}\n  env: {{NGINX: \"{{fd:http}};\"}}");
    let what = Site { body: name, listen: &listen, instances, ..Site::default() };
    sandbox.run(&["push", &site(sandbox, name, port, what)], 0)
}

/// The socket that a worker was given.
fn socket_of(worker: Process) -> String {
    std::fs::read_link(format!("/proc/{}/fd/3", worker.pid)).unwrap().display().to_string()
}

/// strace, which kills whoever it looks at when that one makes a call on one socket.
struct Killer {
    strace: Child,
    log: PathBuf,
}

impl Killer {
    /// Kills at the first `call` on `socket`; `whom`: what to start, or `-p` and a process.
    fn of(sandbox: &Sandbox, call: &str, socket: &str, whom: &[&str]) -> Killer {
        let log = sandbox.path("strace.log");
        let mut command = Command::new("strace");
        command.args(["-P", socket, "--trace", call, "--inject", &format!("{call}:signal=KILL")]);
        // a supervisor has one thread, and children that outlive it
        command.args((whom[0] != "-p").then_some("-f"));
        let said = sandbox.log("strace.said");
        command.arg("-o").arg(&log).args(whom).stdin(Stdio::null()).stdout(Stdio::null()).stderr(said);
        let strace = command.spawn().unwrap();
        if whom[0] == "-p" {
            let said = || std::fs::read_to_string(sandbox.path("strace.said")).unwrap();
            common::until("strace is attached", || said().contains("attached"));
        }
        Killer { strace, log }
    }

    fn has_killed(mut self) {
        let said = || std::fs::read_to_string(&self.log).unwrap_or_default();
        common::until("it is killed", || said().contains("+++ killed by SIGKILL +++"));
        self.strace.wait().unwrap();
    }
}

/// Nobody listens at `port` any more, also not somebody who lets nobody in.
fn until_refused(port: u16) {
    let refused = || {
        let limit = std::time::Duration::from_millis(200);
        let answer = TcpStream::connect_timeout(&address(port), limit);
        answer.is_err_and(|error| error.kind() == ErrorKind::ConnectionRefused)
    };
    common::until("connections are refused", refused);
}

/// Changes from one address to another. Whoever closes the old socket is killed at its first `call` on it; `waits`: while
/// its worker does not take the connection that waits in its queue.
fn killed_at(call: &str, waits: bool) {
    let mut sandbox = Sandbox::new();
    let (old, new) = (port(), port());
    let one = push(&sandbox, "one", old, 1);
    let two = push(&sandbox, "two", new, 1);
    if backend().is_none() {
        // a supervisor, and nobody who would start another one
        sandbox.start_manager();
        sandbox.end_manager(Signal::TERM);
    }
    sandbox.run(&["activate", &one], 0);
    let worker = sandbox.workers()["worker/1"];
    let socket = socket_of(worker);
    let group = rustix::process::Pid::from_raw(i32::try_from(worker.pid).unwrap()).unwrap();
    let signal = |signal| rustix::process::kill_process_group(group, signal).unwrap();
    let waiting = waits.then(|| {
        signal(Signal::STOP);
        let mut stream = TcpStream::connect(address(old)).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        stream
    });

    let asker = match backend() {
        None => {
            let supervisor = sandbox.status()["supervisor"].to_string();
            let killer = Killer::of(&sandbox, call, &socket, &["-p", &supervisor]);
            let asker = sandbox.background(&["activate", &two]);
            killer.has_killed();
            Some(asker)
        }
        Some(_) => {
            let store = sandbox.path("store").display().to_string();
            let words = [common::PROGRAM, "--store", &store, "activate", &two];
            Killer::of(&sandbox, call, &socket, &words).has_killed();
            None
        }
    };
    let name = backend().unwrap_or_else(|| "supervisor".to_owned());
    let record = std::fs::read_to_string(sandbox.path(&format!("store/run/{name}.json"))).unwrap();
    assert!(record.contains(&format!("\"closing\":[\"tcp://127.0.0.1:{old}\"]")), "{record}");
    assert_eq!(get(address(new)).as_deref(), Ok("two"));

    // a manager asks for nothing, and has it go on all the same
    if waits {
        signal(Signal::CONT);
    }
    sandbox.start_manager();
    if let Some(mut stream) = waiting {
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.ends_with("one"), "whoever waited is served: {answer:?}");
    }
    until_refused(old);
    common::until("its worker has ended", || !worker.is_alive());
    if let Some(asker) = asker {
        assert_eq!(common::end(asker, 0)["verdict"], "good");
    }
    assert_eq!(get(address(new)).as_deref(), Ok("two"));
    assert_eq!(sandbox.json(&["rollback"], 0)["verdict"], "good");
    assert_eq!(get(address(old)).as_deref(), Ok("one"));
    until_refused(new);
}

#[test]
fn w34_one_that_is_killed_while_a_socket_is_emptied_is_succeeded() {
    killed_at("ppoll", true);
}

#[test]
fn w34_one_that_is_killed_before_the_listening_ends_is_succeeded() {
    killed_at("shutdown", false);
}

/// Ends the holder and what systemd keeps for it; whoever is asked next starts another one.
fn lose_the_holder(sandbox: &Sandbox) {
    let whose = if backend().as_deref() == Some("systemd") { "--system" } else { "--user" };
    let hash = blake3::hash(sandbox.path("store/run").to_str().unwrap().as_bytes()).to_hex();
    let unit = format!("pointsman-{}-holder.service", &hash[..12]);
    assert!(Command::new("systemctl").args([whose, "stop", &unit]).status().unwrap().success());
}

#[test]
#[ignore = "d7 runs it inside of a systemd"]
fn d7_what_holder_and_store_have_lost_is_taken_back_from_the_workers() {
    let sandbox = Sandbox::new();
    let port = port();
    let one = push(&sandbox, "one", port, 2);
    let two = push(&sandbox, "two", port, 2);
    sandbox.run(&["activate", &one], 0);
    let socket = socket_of(sandbox.workers()["worker/1"]);
    let load = Load::on(address(port), &["one", "two"]);
    load.more(50);
    lose_the_holder(&sandbox);
    assert_eq!(sandbox.json(&["activate", &two], 0)["verdict"], "good");
    assert!(sandbox.workers().values().all(|worker| socket_of(*worker) == socket));
    load.more(200);
    load.expect(&["two"]);
    load.more(50);
    assert_eq!(load.end().failures, Vec::<String>::new());
}

#[test]
#[ignore = "d7 runs it inside of a systemd"]
fn d7_a_worker_whose_socket_nobody_has_any_more_gets_another_one() {
    let mut sandbox = Sandbox::new();
    let port = port();
    let one = push(&sandbox, "one", port, 1);
    sandbox.run(&["activate", &one], 0);
    let first = sandbox.workers()["worker/1"];
    lose_the_holder(&sandbox);
    common::signal_to(first.pid, Signal::KILL);
    common::until("it is gone, and its socket with it", || TcpStream::connect(address(port)).is_err());
    sandbox.start_manager();
    sandbox.wait("it is there again", |status| common::workers(status).contains_key("worker/1"));
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}
