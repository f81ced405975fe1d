//! Our own units under a real systemd, installed by `scripts/install`: rules U1 to U6 of `spec/units.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use common::load::Load;
use common::nginx::{address, port};
use common::systemd::{Scope, Systemd};
use common::{PATIENCE, PROGRAM, greeter};
use serde_json::Value;

const INSTALL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/install");

/// A host with a systemd and nothing else of its own but /etc, /var/lib and /run.
struct Host {
    systemd: Systemd,
    scratch: tempfile::TempDir,
    scope: Scope,
    service: &'static str,
    /// holder, supervisor, manager
    units: [&'static str; 3],
    port: u16,
    /// what was deployed last
    body: RefCell<String>,
}

/// Which processes the workers are, by slot: pid and start time.
type Workers = BTreeMap<String, (u64, String)>;

impl Host {
    /// Nothing where there can be none here: said, with the reason.
    fn new(scope: Scope) -> Option<Host> {
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

    fn path(&self, rel: &str) -> PathBuf {
        self.scratch.path().join(rel)
    }

    /// What `program` says, run on this host to its end.
    fn run(&self, program: &str, args: &[&str], code: i32) -> String {
        let output = self.systemd.command(program).args(args).output().unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert_eq!(output.status.code(), Some(code), "{program} {args:?}\n{out}\n{err}");
        format!("{out}{err}")
    }

    fn systemctl(&self, args: &[&str], code: i32) -> String {
        let whose = if self.scope == Scope::User { "--user" } else { "--system" };
        self.run("systemctl", &[&[whose], args].concat(), code)
    }

    fn property(&self, unit: &str, name: &str) -> String {
        self.systemctl(&["show", "-p", name, "--value", unit], 0).trim().to_owned()
    }

    fn main_pid(&self, unit: &str) -> u64 {
        self.property(unit, "MainPID").parse().unwrap()
    }

    fn program(&self) -> String {
        self.path("usr/bin/pointsman").display().to_string()
    }

    /// The last place where it looks, which is the one with the units of this host.
    fn unit_path(&self) -> PathBuf {
        let places = self.systemctl(&["show", "-p", "UnitPath", "--value"], 0);
        PathBuf::from(places.split_whitespace().last().unwrap())
    }

    fn install(&self, binary: &Path) -> String {
        let units = self.unit_path().display().to_string();
        let prefix = self.path("usr").display().to_string();
        let mut args = vec!["--prefix", &prefix, "--units", &units, "--binary", binary.to_str().unwrap()];
        args.extend((self.scope == Scope::User).then_some("--user"));
        self.run(INSTALL, &args, 0)
    }

    fn pointsman(&self, args: &[&str], code: i32) -> String {
        self.run(&self.program(), &[&["-s", self.service], args].concat(), code)
    }

    fn status(&self) -> Value {
        serde_json::from_str(&self.pointsman(&["--json", "status"], 0)).unwrap()
    }

    /// The ready workers: both of them.
    fn workers(&self) -> Workers {
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

    fn until(&self, what: &str, state: impl Fn() -> bool) {
        let begun = Instant::now();
        while !state() {
            let units = self
                .units
                .map(|unit| self.systemctl(&["show", "-p", "Id,ActiveState,Result,ExecMainStatus", unit], 0));
            assert!(begun.elapsed() < PATIENCE, "{what} does not come\n{}", units.join("\n"));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Waits until all three units run, and are what the program takes for manager and supervisor.
    fn settled(&self) {
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
    fn deploy(&self, body: &str, load: Option<&Load>) {
        let dir = self.path(body);
        std::fs::create_dir(&dir).unwrap();
        let pipeline = format!(
            "version: 1\nprobation: 100ms\nworker:\n  command: [{}]\n  instances: 2\n  \
             listen: {{http: 'tcp://127.0.0.1:{}'}}\n  ready: notify\n",
            greeter().display(),
            self.port
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
    fn undisturbed(&self, load: &Load, what: &str, disturb: impl FnOnce()) {
        let before = self.workers();
        disturb();
        self.settled();
        load.more(50);
        let now = self.workers();
        let said = || format!("{what}\n{:#}\n{}", self.status(), self.pointsman(&["logs"], 0));
        assert_eq!(now, before, "{}", said());
        assert_eq!(load.failures(), Vec::<String>::new(), "{}", said());
    }

    /// Nobody has started what systemd starts.
    fn nothing_detached(&self) {
        let begins = ["holder", "supervisor"].map(|daemon| format!("{}\0{daemon}\0--run", self.program()));
        for entry in std::fs::read_dir("/proc").unwrap().flatten() {
            let words = std::fs::read_to_string(entry.path().join("cmdline")).unwrap_or_default();
            assert!(!begins.iter().any(|begin| words.starts_with(begin)), "{words:?}");
        }
    }
}

/// The whole story: once for each kind of systemd, because to start one takes longer than what is done with it.
fn story(scope: Scope) {
    let Some(host) = Host::new(scope) else { return };
    let units = host.units;
    let said = host.install(Path::new(PROGRAM));
    assert!(said.contains("enable --now pointsman@web"), "{said}");
    assert!(!host.install(Path::new(PROGRAM)).contains("wrote"), "what is there is not written again");
    // without a store there is nothing to manage, and nobody tries for ever
    host.systemctl(&["start", units[2]], 1);
    host.until("the end of all tries", || {
        units.iter().all(|unit| host.property(unit, "ActiveState") == "failed")
    });
    assert_eq!(host.property(units[2], "ExecMainStatus"), "2");
    host.systemctl(&[&["reset-failed"][..], &units].concat(), 0);

    let made = host.pointsman(&["--json", "init", "--pipeline", "pushed"], 0);
    let made: serde_json::Value = serde_json::from_str(&made).unwrap();
    // the units are our supervisor's
    let file = made["host_file"].as_str().unwrap();
    host.run("sh", &["-c", "echo 'service_manager: supervisor' >> \"$0\"", file], 0);
    let enabled = host.systemctl(&["enable", "--now", units[2]], 0);
    let target = if scope == Scope::User { "default.target.wants" } else { "multi-user.target.wants" };
    assert!(enabled.contains(target), "{enabled}");
    host.settled();
    host.deploy("one", None);
    let load = Load::on(address(host.port), &["one"]);
    load.more(20);

    // U9: here to a file, since this host has no journal
    let journal = host.path("journal");
    let words = format!("[Service]\nStandardOutput=append:{}\n", journal.display());
    std::fs::create_dir(host.unit_path().join("pointsman-journal@.service.d")).unwrap();
    std::fs::write(host.unit_path().join("pointsman-journal@.service.d/file.conf"), words).unwrap();
    let copier = format!("pointsman-journal@{}", host.service);
    host.systemctl(&["daemon-reload"], 0);
    host.systemctl(&["start", &copier], 0);
    let copied = |what: &str| {
        host.until(what, || std::fs::read_to_string(&journal).unwrap_or_default().contains(what));
    };
    copied("serves one");

    // U1, U2
    for (unit, body) in units.into_iter().zip(["two", "three", "four"]) {
        host.undisturbed(&load, &format!("restart of {unit}"), || {
            host.systemctl(&["restart", unit], 0);
        });
        host.undisturbed(&load, &format!("kill of {unit}"), || {
            let pid = host.main_pid(unit);
            host.systemctl(&["kill", "--kill-who=main", "-s", "KILL", unit], 0);
            host.until("another process of the unit", || {
                !matches!(host.main_pid(unit), 0) && host.main_pid(unit) != pid
            });
        });
        host.nothing_detached();
        host.deploy(body, Some(&load));
    }

    // U4: a reload is an activation of what is in force, with its end
    host.undisturbed(&load, "reload", || {
        host.systemctl(&["reload", units[2]], 0);
        host.pointsman(&["freeze", "--why", "the auditors"], 0);
        host.systemctl(&["reload", units[2]], 1);
        host.pointsman(&["thaw"], 0);
        host.systemctl(&["reload", units[2]], 0);
    });

    // U5: an upgrade, one after the other
    let newer = host.path("newer");
    std::fs::write(&newer, [std::fs::read(PROGRAM).unwrap(), b"newer".to_vec()].concat()).unwrap();
    std::fs::set_permissions(&newer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let size = std::fs::metadata(&newer).unwrap().len().to_string();
    host.undisturbed(&load, "the program replaced", || {
        assert!(host.install(&newer).contains("wrote"), "the program is another one");
    });
    // the last two at once: what the new holder has not been given yet, the supervisor waits for
    host.undisturbed(&load, "an upgrade", || {
        for unit in [units[2], units[0], units[1]] {
            host.systemctl(&["restart", unit], 0);
        }
    });
    for unit in units {
        let exe = format!("/proc/{}/exe", host.main_pid(unit));
        assert_eq!(host.run("stat", &["-Lc", "%s", &exe], 0).trim(), size, "{unit}");
    }
    host.deploy("five", Some(&load));

    // U3: what systemd stops is not what pointsman stops
    host.undisturbed(&load, "a stop of the manager", || {
        host.systemctl(&["stop", units[2]], 0);
        load.more(50);
        host.systemctl(&["start", units[2]], 0);
    });
    host.undisturbed(&load, "a stop of manager and supervisor", || {
        host.systemctl(&["stop", units[1], units[2]], 0);
        load.more(50);
        host.systemctl(&["start", units[2]], 0);
    });
    host.undisturbed(&load, "a stop of the supervisor", || {
        host.systemctl(&["stop", units[1]], 0);
        host.until("the end of the manager's patience", || {
            host.property(units[2], "ActiveState") == "failed"
        });
        assert_eq!(host.property(units[2], "ExecMainStatus"), "8");
        assert_eq!(host.property(units[1], "ActiveState"), "inactive", "nobody has started it again");
        host.systemctl(&["start", units[2]], 0);
    });
    host.nothing_detached();
    host.deploy("six", Some(&load));
    copied("serves six");
    assert_eq!(host.property(&copier, "NRestarts"), "0");
    assert_eq!(load.end().failures, Vec::<String>::new());
}

#[test]
fn u1_units_of_the_machine_come_and_go_and_the_workers_serve_on() {
    story(Scope::System);
}

#[test]
fn u1_units_of_a_user_come_and_go_and_the_workers_serve_on() {
    story(Scope::User);
}

#[test]
fn u6_install_beneath_another_root_says_what_it_does_and_takes_it_back() {
    let root = tempfile::tempdir().unwrap();
    let destdir = root.path().to_str().unwrap();
    let install = |args: &[&str]| {
        let output = std::process::Command::new(INSTALL)
            .args(["--destdir", destdir, "--binary", PROGRAM])
            .args(args)
            .output()
            .unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let files = || {
        let output = std::process::Command::new("find").args([destdir, "-type", "f"]).output().unwrap();
        String::from_utf8(output.stdout).unwrap().lines().count()
    };
    assert_eq!(install(&["--dry-run"]).matches("would write").count(), 5);
    assert_eq!(files(), 0);
    install(&["--prefix", "/opt/pointsman"]);
    assert_eq!(files(), 5);
    for unit in ["pointsman@", "pointsman-supervisor@", "pointsman-holder@", "pointsman-journal@"] {
        let path = format!("{destdir}/etc/systemd/system/{unit}.service");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("ExecStart=/opt/pointsman/bin/pointsman -s %i "), "{text}");
    }
    std::fs::create_dir_all(root.path().join("var/lib/pointsman/web")).unwrap();
    install(&["--prefix", "/opt/pointsman", "--uninstall"]);
    assert_eq!(files(), 0);
    assert!(root.path().join("var/lib/pointsman/web").exists(), "a store is not the program's");
    assert_eq!(install(&["--uninstall"]).matches("removed").count(), 0);
}
