//! An ordinary user has everything but four things, and is told so of these: rule U7 of `spec/units.md`. Run by root,
//! the user is one that owns nothing.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

use common::load::Load;
use common::nginx::{address, port};
use common::{PROGRAM, greeter, signal_to, until, workers};
use rustix::process::Signal;
use serde_json::Value;

const AS_USER: [&str; 4] = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"];

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// An ordinary user with a home and a store there.
struct Somebody {
    dir: tempfile::TempDir,
    manager: Option<Child>,
}

impl Somebody {
    fn new() -> Somebody {
        // orphans become ours, so that a dead one can be told from a living one
        rustix::process::set_child_subreaper(Some(rustix::process::getpid())).unwrap();
        // short, for sockets, and open to whom it is for
        let dir = tempfile::Builder::new().prefix("pm").tempdir_in("/tmp").unwrap();
        let somebody = Somebody { dir, manager: None };
        let open = |name: &str, mode: u32| {
            std::fs::set_permissions(somebody.path(name), std::fs::Permissions::from_mode(mode)).unwrap();
        };
        open("", 0o755);
        // where it was built need not be theirs to read
        for (name, from, mode) in [
            ("pointsman", PROGRAM.into(), 0o755),
            ("greeter", greeter(), 0o755),
            ("unreadable", greeter(), 0o711),
        ] {
            std::fs::copy::<PathBuf, _>(from, somebody.path(name)).unwrap();
            open(name, mode);
        }
        std::fs::create_dir(somebody.path("home")).unwrap();
        if is_root() {
            rustix::fs::chown(
                somebody.path("home"),
                Some(rustix::fs::Uid::from_raw(65534)),
                Some(rustix::fs::Gid::from_raw(65534)),
            )
            .unwrap();
        }
        somebody
    }

    fn path(&self, rel: &str) -> PathBuf {
        self.dir.path().join(rel)
    }

    /// The program as they would call it, by the words in front of it.
    fn command_by(&self, words: &[&str], args: &[&str]) -> Command {
        let program = self.path("pointsman").display().to_string();
        let all: Vec<&str> =
            words.iter().copied().chain([&*program, "-s", "web"]).chain(args.iter().copied()).collect();
        let mut command = Command::new(all[0]);
        command.args(&all[1..]).current_dir(self.path("")).env_clear().stdin(Stdio::null());
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin").env("HOME", self.path("home"));
        command
    }

    fn command(&self, args: &[&str]) -> Command {
        self.command_by(if is_root() { &AS_USER } else { &[] }, args)
    }

    fn run(&self, args: &[&str], code: i32) -> String {
        said(&self.command(args).output().unwrap(), args, code)
    }

    fn json(&self, args: &[&str], code: i32) -> Value {
        serde_json::from_str(&self.run(&[&["--json"], args].concat(), code)).unwrap()
    }

    /// What is said of a deploy that is not to be: nothing of what runs has changed.
    fn refused(&self, name: &str, code: i32) -> String {
        let before = workers(&self.json(&["status"], 0));
        let output = self.command(&["deploy", name]).output().unwrap();
        said(&output, &["deploy", name], code);
        assert_eq!(workers(&self.json(&["status"], 0)), before, "{name}");
        String::from_utf8(output.stderr).unwrap()
    }

    /// A directory that says `body`, by `program`, with these lines of the worker and of the pipeline.
    fn write(&self, body: &str, program: &str, worker: &str, pipeline: &str) {
        std::fs::create_dir_all(self.path(body)).unwrap();
        std::fs::write(self.path(body).join("body"), body).unwrap();
        let program = self.path(program);
        let text = format!(
            "version: 1\nprobation: 100ms\n{pipeline}worker:\n  command: [{}, '127.0.0.1:0']\n  {worker}\n",
            program.display()
        );
        std::fs::write(self.path(body).join("pointsman.yaml"), text).unwrap();
    }

    fn start_manager(&mut self) {
        let log = std::fs::File::create(self.path("manager.log")).unwrap();
        let child = self.command(&["manager"]).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
        let pid = child.id();
        self.manager = Some(child);
        until("the manager", || {
            let status = self.json(&["status"], 0);
            status["manager"]["pid"] == pid && status["supervisor"].is_u64()
        });
    }

    /// Every process that has to do with this directory.
    fn processes(&self) -> Vec<u32> {
        let needle = self.dir.path().to_str().unwrap().to_owned();
        let entries = std::fs::read_dir("/proc").unwrap().flatten();
        let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
        let has = |pid: u32, file: &str| {
            let bytes = std::fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            String::from_utf8_lossy(&bytes).contains(&needle)
        };
        let ours = |pid: &u32| has(*pid, "cmdline") || has(*pid, "environ");
        pids.filter(|pid| *pid != std::process::id()).filter(ours).collect()
    }
}

impl Drop for Somebody {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", std::fs::read_to_string(self.path("manager.log")).unwrap_or_default());
        }
        // whoever restarts others goes with them
        for _ in 0..50 {
            let there = self.processes();
            if there.is_empty() {
                break;
            }
            there.into_iter().for_each(|pid| signal_to(pid, Signal::KILL));
            if let Some(manager) = &mut self.manager {
                let _ = manager.wait();
            }
        }
    }
}

fn said(output: &Output, args: &[&str], code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

#[test]
fn u7_an_ordinary_user_has_everything_but_four_things() {
    let mut somebody = Somebody::new();
    somebody.run(&["init"], 0);
    let state = somebody.path("home/.local/state/pointsman/web");
    assert!(state.join("current").parent().unwrap().join("format").exists(), "the store is where C7 says");
    somebody.start_manager();

    let port = port();
    let listen = format!("instances: 2\n  listen: {{http: 'tcp://127.0.0.1:{port}'}}\n  ready: notify");
    for body in ["one", "two"] {
        somebody.write(body, "greeter", &listen, "check: test -e body\n");
    }
    let one = somebody.run(&["push", "one"], 0);
    assert_eq!(somebody.json(&["activate", one.trim()], 0)["verdict"], "good");
    let load = Load::on(address(port), &["one"]);
    load.more(20);
    load.expect(&["one", "two"]);
    assert_eq!(somebody.json(&["deploy", "two"], 0)["verdict"], "good");
    load.expect(&["two"]);
    load.more(20);
    load.expect(&["one", "two"]);
    assert_eq!(somebody.json(&["rollback"], 0)["verdict"], "good");
    load.expect(&["one"]);
    load.more(20);
    assert_eq!(somebody.json(&["status"], 0)["current"], one.trim());
    assert!(somebody.run(&["logs"], 0).contains("serves one"));
    somebody.run(&["tag", "kept", "@"], 0);
    somebody.run(&["verify"], 0);
    somebody.run(&["gc"], 0);
    assert_eq!(somebody.run(&["exec", "--", "cat", "{config}/body"], 0), "one");

    // 1: another user
    somebody.write("user", "greeter", &format!("user: root\n  {listen}"), "");
    let why = somebody.refused("user", 7);
    assert!(why.contains("user: only root can run workers as `root`"), "{why}");
    // 2: a low port, where the host has any
    let lowest = std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap();
    if lowest.trim().parse::<u16>().unwrap() > 81 {
        somebody.write("low", "greeter", &listen.replace(&port.to_string(), "81"), "");
        let why = somebody.refused("low", 1);
        let says = "tcp://127.0.0.1:81: port 81 needs root, CAP_NET_BIND_SERVICE or `sysctl net.ipv4.ip_unprivileged_port_start=81`";
        assert!(why.contains(says), "{why}");
    } else {
        eprintln!("skipped: everybody may use every port here");
    }
    // 3: sockets of a process that one may not look into, as one may not of a program that one cannot read
    if is_root() {
        somebody.write("sealed", "unreadable", "listen: {inherit: SOCKETS}\n  ready: {after: 500ms}", "");
        let why = somebody.refused("sealed", 1);
        assert!(why.contains("cannot take over the sockets of process"), "{why}");
    } else {
        eprintln!("skipped: only root makes a program that its user cannot read");
    }
    load.more(20);
    assert_eq!(load.end().failures, Vec::<String>::new());
}

#[test]
fn w37_of_workers_that_one_may_not_look_into_a_lost_socket_stays_lost_and_they_serve_on() {
    if !is_root() {
        eprintln!("skipped: only root makes a program that its user cannot read");
        return;
    }
    let mut somebody = Somebody::new();
    somebody.run(&["init", "--pipeline", "pushed"], 0);
    // each kill is an error of the watchdog's
    let host = somebody.path("home/.local/state/pointsman/web/host.yaml");
    std::fs::write(host, "pipeline: pushed\nwatchdog: {max_errors: 1000}\n").unwrap();
    somebody.start_manager();
    let port = port();
    let listen = format!("instances: 2\n  listen: {{http: 'tcp://127.0.0.1:{port}'}}\n  ready: notify");
    for body in ["one", "two"] {
        somebody.write(body, "unreadable", &listen, "");
    }
    somebody.run(&["deploy", "one"], 0);
    let load = Load::on(address(port), &["one"]);
    load.more(20);
    let before = workers(&somebody.json(&["status"], 0));
    let daemon = |word: &str| {
        let is_it = |pid: &u32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            line.contains(&format!("\0{word}\0"))
        };
        somebody.processes().into_iter().find(is_it).unwrap()
    };
    let status = || somebody.json(&["status"], 0);
    let is_lost =
        || status()["advice"].to_string().contains(&format!("the socket of tcp://127.0.0.1:{port} is lost"));
    // a holder that comes back with it later than the supervisor
    let holder = daemon("holder");
    signal_to(holder, Signal::STOP);
    signal_to(daemon("supervisor"), Signal::KILL);
    until("another supervisor, which says so", is_lost);
    signal_to(holder, Signal::CONT);
    until("it is found again", || !is_lost());
    // and none
    for word in ["supervisor", "holder"] {
        signal_to(daemon(word), Signal::KILL);
    }
    until("another supervisor, which says so", is_lost);
    assert_eq!(workers(&status()), before);
    let why = somebody.refused("two", 7);
    assert!(why.contains("is lost"), "{why}");
    load.more(50);
    assert_eq!(load.end().failures, Vec::<String>::new());
    assert_eq!(workers(&status()), before);
    // with its last worker it is gone, and bound anew
    before.values().for_each(|worker| signal_to(worker.pid, Signal::KILL));
    until("others", || {
        let now = workers(&status());
        now.len() == 2 && now.values().all(|worker| !before.values().any(|old| old == worker))
    });
    somebody.run(&["deploy", "two"], 0);
    assert!(!status()["advice"].to_string().contains("is lost"));
}

/// A user namespace that lets nobody in it make another one; it is there as long as its process is.
struct Closed(Child);

impl Closed {
    fn new() -> Closed {
        let own = std::fs::read_link("/proc/self/ns/user").unwrap();
        let child = Command::new("unshare").args(["--user", "sleep", "1000"]).spawn().unwrap();
        let proc = PathBuf::from(format!("/proc/{}", child.id()));
        until("the namespace", || std::fs::read_link(proc.join("ns/user")).is_ok_and(|now| now != own));
        for map in ["uid_map", "gid_map"] {
            std::fs::write(proc.join(map), "0 0 65536").unwrap();
        }
        Closed(child)
    }
}

impl Drop for Closed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn u7_a_mount_without_user_namespaces_is_refused_to_an_ordinary_user() {
    if !is_root() {
        eprintln!("skipped: only root can take user namespaces away");
        return;
    }
    let somebody = Somebody::new();
    somebody.run(&["init"], 0);
    somebody.write("mounted", "greeter", "ready: notify", "mount: /mnt\ncheck: test -e /mnt/body\n");
    let closed = Closed::new();
    let pid = closed.0.id().to_string();
    let inner = "echo 0 >/proc/sys/user/max_user_namespaces && exec \"$@\"";
    let words = [&["nsenter", "-t", &pid, "-U", "sh", "-c", inner, "_"][..], &AS_USER].concat();
    let output = somebody.command_by(&words, &["check", "mounted"]).output().unwrap();
    said(&output, &["check"], 7);
    let why = String::from_utf8(output.stderr).unwrap();
    assert!(why.contains("mount: /mnt: cannot make a mount namespace"), "{why}");
    assert!(why.contains("; it needs root, or user namespaces"), "{why}");
    // where there are some, nothing is in the way
    if std::fs::read_to_string("/proc/sys/user/max_user_namespaces").unwrap().trim() != "0" {
        somebody.run(&["check", "mounted"], 0);
    }
}
