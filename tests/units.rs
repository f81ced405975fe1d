//! Our own units under a real systemd, installed by `scripts/install`: rules U1 to U6 of `spec/units.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::Path;

use common::host::{Host, INSTALL};
use common::load::Load;
use common::nginx::address;
use common::systemd::Scope;
use common::{PATIENCE, PROGRAM};
use serde_json::Value;

/// All three at once, by one command: restarted, killed, stopped and started.
fn together(host: &Host, load: &Load) {
    let units = host.units;
    let all = |words: &[&str]| {
        host.systemctl(&[words, &units].concat(), 0);
    };
    let sockets = host.sockets();
    assert_eq!(sockets.len(), 1);
    let same = |what: &str| assert_eq!(host.sockets(), sockets, "{what}: one socket, and the same");
    host.undisturbed(load, "a restart of all", || all(&["restart"]));
    same("restart");
    host.undisturbed(load, "a restart of all, and systemd reads its units meanwhile", || {
        let before = units.map(|unit| host.main_pid(unit));
        all(&["restart", "--no-block"]);
        host.systemctl(&["daemon-reload"], 0);
        host.replaced(before);
    });
    same("daemon-reload");
    host.undisturbed(load, "all killed", || {
        let before = units.map(|unit| host.main_pid(unit));
        all(&["kill", "--kill-who=main", "-s", "KILL"]);
        host.replaced(before);
    });
    same("kill");
    host.undisturbed(load, "a stop of all", || {
        all(&["stop"]);
        load.more(50);
        host.systemctl(&["start", units[2]], 0);
    });
    same("stop and start");
}

/// Killed with the workers, nobody has the socket but systemd: who comes meanwhile waits.
fn all_killed(host: &Host) {
    let sockets = host.sockets();
    let before = host.units.map(|unit| host.main_pid(unit));
    let workers = host.workers();
    host.systemctl(&[&["kill", "-s", "KILL"][..], &host.units].concat(), 0);
    let gone = |pid: u64| !Path::new(&format!("/proc/{pid}")).exists();
    if host.scope == Scope::User {
        host.until("the end of the workers", || workers.values().all(|(pid, _)| gone(*pid)));
    }
    let mut waits = TcpStream::connect(address(host.port)).expect("the queue is still there");
    waits.set_read_timeout(Some(PATIENCE)).unwrap();
    waits.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let mut answer = String::new();
    waits.read_to_string(&mut answer).unwrap();
    assert!(answer.ends_with(&*host.body.borrow()), "{answer}");
    host.replaced(before);
    host.settled();
    host.until("both workers", || {
        let ready = |worker: &&Value| worker["state"] == "ready" && worker["accepted"] == true;
        host.status()["workers"].as_array().unwrap().iter().filter(ready).count() == 2
    });
    assert!(host.workers().values().all(|now| !workers.values().any(|old| now == old)));
    assert_eq!(host.sockets(), sockets, "one socket, and the same");
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

    host.init();
    let enabled = host.systemctl(&["enable", "--now", units[2]], 0);
    let target = if scope == Scope::User { "default.target.wants" } else { "multi-user.target.wants" };
    assert!(enabled.contains(target), "{enabled}");
    host.settled();
    host.deploy("one", None);
    let load = Load::on(address(host.port), &["one"]);
    load.more(20);

    // U10: here to a file, since this host has no journal
    let journal = host.path("journal");
    let words = format!("[Service]\nStandardOutput=append:{}\n", journal.display());
    std::fs::create_dir(host.unit_directory().join("pointsman-journal@.service.d")).unwrap();
    std::fs::write(host.unit_directory().join("pointsman-journal@.service.d/file.conf"), words).unwrap();
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

    together(&host, &load);
    host.nothing_detached();
    host.deploy("five", Some(&load));

    // U4: a reload is an activation of what is in force, with its end
    host.undisturbed(&load, "reload", || {
        host.systemctl(&["reload", units[2]], 0);
        host.pointsman(&["freeze", "--why", "the auditors"], 0);
        host.systemctl(&["reload", units[2]], 1);
        host.pointsman(&["thaw"], 0);
        host.systemctl(&["reload", units[2]], 0);
    });

    // U5: an upgrade, by one command
    let newer = host.path("newer");
    std::fs::write(&newer, [std::fs::read(PROGRAM).unwrap(), b"newer".to_vec()].concat()).unwrap();
    std::fs::set_permissions(&newer, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let size = std::fs::metadata(&newer).unwrap().len().to_string();
    host.undisturbed(&load, "the program replaced", || {
        assert!(host.install(&newer).contains("wrote"), "the program is another one");
    });
    host.undisturbed(&load, "an upgrade", || {
        host.systemctl(&[&["restart"][..], &units].concat(), 0);
    });
    for unit in units {
        let exe = format!("/proc/{}/exe", host.main_pid(unit));
        assert_eq!(host.run("stat", &["-Lc", "%s", &exe], 0).trim(), size, "{unit}");
    }
    host.deploy("six", Some(&load));

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
    host.deploy("seven", Some(&load));
    copied("serves six");
    assert_eq!(host.property(&copier, "NRestarts"), "0");
    assert_eq!(load.end().failures, Vec::<String>::new());
    all_killed(&host);
    host.deploy("eight", None);
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
    assert_eq!(install(&["--dry-run"]).matches("would write").count(), 8);
    assert_eq!(files(), 0);
    install(&["--prefix", "/opt/pointsman"]);
    assert_eq!(files(), 8);
    let completion = format!("{destdir}/opt/pointsman/share/bash-completion/completions/pointsman");
    assert!(std::fs::read_to_string(completion).unwrap().contains("complete -F _pointsman "));
    for unit in ["pointsman@", "pointsman-supervisor@", "pointsman-holder@", "pointsman-journal@"] {
        let path = format!("{destdir}/etc/systemd/system/{unit}.service");
        let text = std::fs::read_to_string(path).unwrap();
        assert!(text.contains("ExecStart=/opt/pointsman/bin/pointsman -s %i "), "{text}");
    }
    let other = std::process::Command::new(INSTALL)
        .args(["--destdir", destdir, "--binary", "/bin/true"])
        .output()
        .unwrap();
    assert!(!other.status.success() && String::from_utf8_lossy(&other.stderr).contains("another program"));
    assert_eq!(files(), 8, "what cannot be had is said before anything is changed");
    std::fs::create_dir_all(root.path().join("var/lib/pointsman/web")).unwrap();
    install(&["--prefix", "/opt/pointsman", "--uninstall"]);
    assert_eq!(files(), 0);
    assert!(root.path().join("var/lib/pointsman/web").exists(), "a store is not the program's");
    assert_eq!(install(&["--uninstall"]).matches("removed").count(), 0);
}
