//! The same tests with systemd in the supervisor's place: a real one, as the user's and as the system's. This file
//! starts it, and then itself again in there.

use crate::stage::BACKEND;
use crate::systemd_of_tests::{Scope, Systemd};

/// What is only about our own supervisor: its socket, its holder's death, its own process. And what says that
/// nobody was there, which with systemd is the rule.
const OTHERS: [&str; 7] = [
    "w14_",
    "w3_",
    "w8_",
    "w1_",
    "systemd::",
    "w7_ready_counts_only_from_the_worker_itself",
    "w13_the_workers_serve_on_when_the_supervisor_is_told_to_quit",
];

fn passes_the_contract(scope: Scope, backend: &str) {
    let systemd = match Systemd::start(scope) {
        Ok(systemd) => systemd,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    let own = std::env::current_exe().unwrap();
    let mut command = systemd.command(own.to_str().unwrap());
    for other in OTHERS {
        command.args(["--skip", other]);
    }
    let output = command.env(BACKEND, backend).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // a filter that lets nothing through proves nothing
    let passed = said.split_once("ok. ").and_then(|(_, rest)| rest.split_once(" passed"));
    assert!(passed.is_some_and(|(count, _)| count.parse::<u32>().unwrap() >= 15), "{said}");
}

#[test]
fn d1_the_users_systemd_passes_the_contract() {
    passes_the_contract(Scope::User, "systemd-user");
}

#[test]
fn d1_the_systems_systemd_passes_the_contract() {
    passes_the_contract(Scope::System, "systemd");
}
