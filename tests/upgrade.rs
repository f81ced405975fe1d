//! The program is replaced while manager, supervisor and holder run: whoever is started anew is the newer one, and takes
//! over what runs. W13 and W24 of `spec/workers.md`; `tests/units.rs` has the same for systemd (U5).
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests stand outside of the rooms")]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::Child;

use common::load::Load;
use common::nginx::{address, port};
use common::{PROGRAM, Sandbox, greeter, process, signal_to, until, workers};
use rustix::process::Signal;

/// Puts a program where it is started from, by rename.
fn install(sandbox: &Sandbox, bytes: &[u8]) -> PathBuf {
    let (new, program) = (sandbox.path("bin/new"), sandbox.path("bin/pointsman"));
    std::fs::create_dir_all(sandbox.path("bin")).unwrap();
    std::fs::write(&new, bytes).unwrap();
    std::fs::set_permissions(&new, std::fs::Permissions::from_mode(0o755)).unwrap();
    std::fs::rename(new, &program).unwrap();
    program
}

fn manager(sandbox: &Sandbox, program: &Path) -> Child {
    let log = sandbox.log("manager.log");
    let mut command = sandbox.command_of(program, &["manager"]);
    let child = command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap();
    sandbox.wait("the manager is at work", |status| {
        status["manager"]["pid"] == child.id()
            && status["supervisor"].is_u64()
            && status["activation"].is_null()
    });
    child
}

/// The pid of the daemon that has this word, and how long its program is.
fn daemon(sandbox: &Sandbox, word: &str) -> Option<(u32, u64)> {
    let program = format!("{}\0", sandbox.path("bin/pointsman").display());
    let is_it = |pid: &u32| {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        line.starts_with(&program) && line.contains(&format!("\0{word}\0")) && process(*pid).is_some()
    };
    let pid = sandbox.processes().into_iter().find(is_it)?;
    Some((pid, std::fs::metadata(format!("/proc/{pid}/exe")).ok()?.len()))
}

fn push(sandbox: &Sandbox, body: &str, port: u16) -> String {
    let pipeline = format!(
        "version: 1\nprobation: 100ms\nworker:\n  command: [{}]\n  instances: 2\n  \
         listen: {{http: 'tcp://127.0.0.1:{port}'}}\n  ready: notify\n",
        greeter().display()
    );
    sandbox.write(&format!("{body}/pointsman.yaml"), &pipeline);
    sandbox.write(&format!("{body}/body"), body);
    sandbox.run(&["push", body], 0)
}

#[test]
fn w13_w24_newer_daemons_adopt_what_runs_and_status_names_the_older_ones() {
    let sandbox = Sandbox::new();
    let old = std::fs::read(PROGRAM).unwrap();
    let newer = [&old[..], b"newer"].concat();
    let length = newer.len() as u64;
    let program = install(&sandbox, &old);
    let mut first = manager(&sandbox, &program);
    let port = port();
    sandbox.run(&["activate", &push(&sandbox, "one", port)], 0);
    let load = Load::on(address(port), &["one"]);
    load.more(20);
    let advice = || sandbox.status()["advice"].to_string();
    assert_eq!(advice(), "[]");

    // what runs goes on with the old one, and what it starts begins as the newer one
    install(&sandbox, &newer);
    for name in ["manager", "supervisor"] {
        assert!(advice().contains(&format!("the {name} is not what is on disk any more, ")), "{}", advice());
    }
    load.expect(&["one", "two"]);
    assert_eq!(sandbox.json(&["activate", &push(&sandbox, "two", port)], 0)["verdict"], "good");
    load.expect(&["two"]);
    load.more(20);

    let before = workers(&sandbox.status());
    for word in ["supervisor", "holder"] {
        let (pid, was) = daemon(&sandbox, word).unwrap();
        assert_eq!(was, old.len() as u64, "{word}");
        signal_to(pid, Signal::TERM);
        until("a newer one", || daemon(&sandbox, word).is_some_and(|(now, is)| now != pid && is == length));
        load.more(20);
    }
    sandbox.wait("it answers", |status| status["supervisor"].is_u64());
    assert!(!advice().contains("the supervisor is not"), "{}", advice());
    signal_to(first.id(), Signal::TERM);
    first.wait().unwrap();
    let mut second = manager(&sandbox, &program);
    assert_eq!((advice(), workers(&sandbox.status())), ("[]".to_owned(), before));
    load.expect(&["two", "three"]);
    assert_eq!(sandbox.json(&["activate", &push(&sandbox, "three", port)], 0)["verdict"], "good");
    load.expect(&["three"]);
    load.more(20);
    assert_eq!(load.end().failures, Vec::<String>::new());
    second.kill().unwrap();
    second.wait().unwrap();
}
