//! Our own units under a real systemd, installed by `scripts/install`: rules U1 to U6 of `spec/units.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::path::Path;

use common::PROGRAM;
use common::host::{Host, INSTALL};
use common::load::Load;
use common::nginx::address;
use common::systemd::Scope;

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
    assert_eq!(install(&["--dry-run"]).matches("would write").count(), 4);
    assert_eq!(files(), 0);
    install(&["--prefix", "/opt/pointsman"]);
    assert_eq!(files(), 4);
    for unit in ["pointsman@", "pointsman-supervisor@", "pointsman-holder@"] {
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
