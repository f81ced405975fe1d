//! A host whose systemd is a real one and which has our own units, as `scripts/install` puts them there.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Instant;

use serde_json::Value;

use super::load::Load;
use super::nginx::port;
use super::systemd::{Scope, Systemd};
use super::{PATIENCE, greeter};

pub const INSTALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install");

/// A host with a systemd and nothing else of its own but /etc, /var/lib and /run.
pub struct Host {
    pub systemd: Systemd,
    pub scratch: tempfile::TempDir,
    pub scope: Scope,
    pub service: &'static str,
    /// holder, supervisor, manager
    pub units: [&'static str; 3],
    pub port: u16,
    /// what was deployed last
    pub body: RefCell<String>,
}

/// Which processes the workers are, by slot: pid and start time.
type Workers = BTreeMap<String, (u64, String)>;

impl Host {
    /// Nothing where there can be none here: said, with the reason.
    pub fn new(scope: Scope) -> Option<Host> {
        let systemd = match Systemd::start(scope) {
            Ok(systemd) => systemd,
            Err(why) => {
                eprintln!("skipped: {why}");
                return None;
            }
        };
        let scratch = tempfile::Builder::new().prefix("pm").tempdir_in("/tmp").unwrap();
        // two hosts that see each other's processes must not take them for their own
        let (service, units) = match scope {
            Scope::System => ("web", ["pointsman-holder@web", "pointsman-supervisor@web", "pointsman@web"]),
            Scope::User => ("a-b", ["pointsman-holder@a-b", "pointsman-supervisor@a-b", "pointsman@a-b"]),
        };
        let body = RefCell::default();
        let host = Host { systemd, scratch, scope, service, units, port: port(), body };
        let dir = host.path("").display().to_string();
        // the real ones are not ours to write to
        let mounts = format!(
            "cd {dir} && mkdir lib && cp -a /etc etc && mount --bind lib /var/lib && mount --bind etc /etc"
        );
        host.run("sh", &["-c", &mounts], 0);
        Some(host)
    }

    pub fn path(&self, rel: &str) -> PathBuf {
        self.scratch.path().join(rel)
    }

    /// What `program` says, run on this host to its end.
    pub fn run(&self, program: &str, args: &[&str], code: i32) -> String {
        let output = self.systemd.command(program).args(args).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{program} {args:?}\n{out}\n{err}");
        format!("{out}{err}")
    }

    pub fn systemctl(&self, args: &[&str], code: i32) -> String {
        let whose = if self.scope == Scope::User { "--user" } else { "--system" };
        self.run("systemctl", &[&[whose], args].concat(), code)
    }

    pub fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(&["show", "-p", name, "--value", unit], 0).trim().to_owned()
    }

    pub fn main_pid(&self, unit: &str) -> u64 {
        self.property(unit, "MainPID").parse().unwrap()
    }

    pub fn program(&self) -> String {
        self.path("usr/bin/pointsman").display().to_string()
    }

    /// The last place where systemd looks: the one with the units of this host.
    pub fn unit_directory(&self) -> PathBuf {
        let places = self.systemctl(&["show", "-p", "UnitPath", "--value"], 0);
        PathBuf::from(places.split_whitespace().last().unwrap())
    }

    /// Writes a unit and has systemd read it.
    pub fn write_unit(&self, name: &str, text: &str) {
        std::fs::write(self.unit_directory().join(name), text).unwrap();
        self.systemctl(&["daemon-reload"], 0);
    }

    /// Makes a store whose pushed pipelines count, and whose workers are our own supervisor's.
    pub fn init(&self) {
        let made = self.pointsman(&["--json", "init", "--pipeline", "pushed"], 0);
        let made: Value = serde_json::from_str(&made).unwrap();
        let file = made["host_file"].as_str().unwrap();
        self.run("sh", &["-c", "echo 'service_manager: supervisor' >> \"$0\"", file], 0);
    }

    pub fn install(&self, binary: &Path) -> String {
        let units = self.unit_directory();
        let units = units.to_str().unwrap();
        let prefix = self.path("usr").display().to_string();
        let mut args = vec!["--prefix", &prefix, "--units", units, "--binary", binary.to_str().unwrap()];
        args.extend((self.scope == Scope::User).then_some("--user"));
        self.run(INSTALL, &args, 0)
    }

    pub fn pointsman(&self, args: &[&str], code: i32) -> String {
        self.run(&self.program(), &[&["-s", self.service], args].concat(), code)
    }

    pub fn status(&self) -> Value {
        serde_json::from_str(&self.pointsman(&["--json", "status"], 0)).unwrap()
    }

    /// The ready workers: both of them.
    pub fn workers(&self) -> Workers {
        let status = self.status();
        let ready = |worker: &&Value| worker["state"] == "ready" && worker["accepted"] == true;
        let of = |worker: &Value| {
            let pid = worker["pid"].as_u64().unwrap();
            let stat = self.run("cat", &[&format!("/proc/{pid}/stat")], 0);
            let started = stat.rsplit_once(") ").unwrap().1.split(' ').nth(19).unwrap().to_owned();
            (worker["instance"].to_string(), (pid, started))
        };
        let workers: Workers = status["workers"].as_array().unwrap().iter().filter(ready).map(of).collect();
        assert_eq!(workers.len(), 2, "{status:#}");
        workers
    }

    pub fn until(&self, what: &str, state: impl Fn() -> bool) {
        let begun = Instant::now();
        while !state() {
            let shown =
                |unit| self.systemctl(&["show", "-p", "Id,ActiveState,Result,ExecMainStatus", unit], 0);
            assert!(begun.elapsed() < PATIENCE, "{what} does not come\n{}", self.units.map(shown).join("\n"));
            super::rest(begun);
        }
    }

    /// Waits until all three units run, and are what the program takes for manager and supervisor.
    pub fn settled(&self) {
        self.until("that all units are at work", || {
            let active = self.units.iter().all(|unit| self.property(unit, "ActiveState") == "active");
            let status = self.status();
            active
                && status["manager"]["pid"] == self.main_pid(self.units[2])
                && status["supervisor"] == self.main_pid(self.units[1])
                && status["activation"].is_null()
        });
    }

    /// Deploys a generation that answers `body`, and lets the clients expect it.
    pub fn deploy(&self, body: &str, load: Option<&Load>) {
        self.deploy_on(&format!("http: 'tcp://127.0.0.1:{}'", self.port), body, load);
    }

    /// The same with another socket.
    pub fn deploy_on(&self, listen: &str, body: &str, load: Option<&Load>) {
        let dir = self.path(body);
        std::fs::create_dir(&dir).unwrap();
        let pipeline = format!(
            "version: 1\nprobation: 100ms\nworker:\n  command: [{}]\n  instances: 2\n  \
             listen: {{{listen}}}\n  ready: notify\n",
            greeter().display(),
        );
        std::fs::write(dir.join("pointsman.yaml"), pipeline).unwrap();
        std::fs::write(dir.join("body"), body).unwrap();
        let before = self.body.replace(body.to_owned());
        if let Some(load) = load {
            load.expect(&[&before, body]);
        }
        self.pointsman(&["deploy", dir.to_str().unwrap()], 0);
        if let Some(load) = load {
            load.expect(&[body]);
            load.more(20);
        }
    }

    /// Does `disturb`, waits for the state after it, and insists that the same workers have served all the while.
    pub fn undisturbed(&self, load: &Load, what: &str, disturb: impl FnOnce()) {
        let before = self.workers();
        disturb();
        self.settled();
        load.more(50);
        let now = self.workers();
        let said = || format!("{what}\n{:#}\n{}", self.status(), self.pointsman(&["logs"], 0));
        assert_eq!(now, before, "{}", said());
        assert_eq!(load.failures(), Vec::<String>::new(), "{}", said());
    }

    /// The sockets that listen for clients, by inode.
    pub fn sockets(&self) -> Vec<u64> {
        super::tcp::listening(self.port).into_iter().map(|socket| socket.inode).collect()
    }

    /// Waits until each unit has another process than these.
    pub fn replaced(&self, before: [u64; 3]) {
        self.until("another process of each unit", || {
            let pairs = self.units.map(|unit| self.main_pid(unit)).into_iter().zip(before);
            pairs.into_iter().all(|(now, before)| now != 0 && now != before)
        });
    }

    /// Nobody has started what systemd starts.
    pub fn nothing_detached(&self) {
        let begins = ["holder", "supervisor"].map(|daemon| format!("{}\0{daemon}\0--run", self.program()));
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let words = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            // a holder that has been given what systemd keeps has become itself again
            let detached = begins.iter().any(|begin| words.starts_with(begin)) && !words.contains("--stored");
            assert!(!detached, "{words:?}");
        }
    }
}
