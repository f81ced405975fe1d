//! What a manager makes of a D-Bus that goes away and comes back, where systemd is the service manager. Each kind of
//! systemd is the test's own. Rule numbers are those of `spec/systemd.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use common::Sandbox;
use common::systemd::{Scope, backend, passes_under};

#[test]
fn d12_the_systems_systemd() {
    passes_under(Scope::System, &[], 1);
}

#[test]
fn d12_the_users_systemd() {
    passes_under(Scope::User, &[], 1);
}

fn push(sandbox: &Sandbox, name: &str) -> String {
    sandbox.write(
        &format!("{name}/pointsman.yaml"),
        "version: 1\nprobation: 0s\nworker:\n  command: [sleep, '1000']\n  instances: 2\n  ready: {after: 1ms}\n",
    );
    sandbox.write(&format!("{name}/name"), name);
    sandbox.run(&["push", name], 0)
}

#[test]
#[ignore = "d12 runs it inside of a systemd"]
fn d12_a_manager_outlives_the_bus() {
    let mut sandbox = Sandbox::new();
    sandbox.host("pipeline: pushed\nwatchdog: {interval: 1s, max_errors: 9, decay: 1d}\n");
    let manager = sandbox.start_manager();
    let one = push(&sandbox, "one");
    assert_eq!(sandbox.json(&["activate", &one], 0)["verdict"], "good");
    let before = sandbox.workers();
    let whose = if backend().as_deref() == Some("systemd") { "--system" } else { "--user" };
    let restart = std::process::Command::new("systemctl").args([whose, "restart", "dbus.service"]).output();
    assert!(restart.as_ref().unwrap().status.success(), "{restart:?}");
    let told = sandbox.wait("the manager has noticed", |status| status["watchdog"]["errors"] != 0);
    let why = told["watchdog"]["last"]["why"].as_str().unwrap();
    assert!(why.contains("the connection to systemd is lost"), "{why}");
    assert_eq!((told["manager"]["pid"].as_u64(), sandbox.workers()), (Some(manager.into()), before.clone()));

    // it sees again what becomes of them, and does what it is asked
    common::signal_to(before["worker/1"].pid, rustix::process::Signal::KILL);
    sandbox.wait("it is counted, and there again", |status| {
        let now = common::workers(status).get("worker/1").is_some_and(|now| *now != before["worker/1"]);
        now && status["workers"][0]["exits"] == 1
    });
    let two = push(&sandbox, "two");
    assert_eq!(sandbox.json(&["activate", &two], 0)["verdict"], "good");
    assert_eq!(sandbox.status()["manager"]["pid"], manager);
}
