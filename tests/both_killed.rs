//! Manager and supervisor killed together in the middle of an activation: whoever comes next gives the event one
//! verdict, and one generation runs. Rules A8, A10 and W13; the built program, and workers of a few lines of shell.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests stand outside of the rooms")]

mod common;

use std::collections::BTreeSet;
use std::os::unix::fs::PermissionsExt;

use common::{Sandbox, signal_to};
use rustix::process::Signal;
use serde_json::Value;

/// Pushes a generation of two workers that begin with `script`.
fn push(sandbox: &Sandbox, name: &str, script: &str, probation: &str) -> String {
    let text = format!("#!/bin/sh\n{script}\necho 1 > $POINTSMAN_RUN/ready\nexec sleep 1000\n");
    let run = sandbox.write(&format!("{name}/run"), &text);
    std::fs::set_permissions(run, PermissionsExt::from_mode(0o755)).unwrap();
    let pipeline = format!(
        "version: 1\nprobation: {probation}\nworkers:\n  web:\n    command: \"{{config}}/run\"\n    instances: 2\n    \
         ready: {{file: '{{run}}/ready'}}\n    start_timeout: 60s\n"
    );
    sandbox.write(&format!("{name}/name"), name);
    sandbox.write(&format!("{name}/pointsman.yaml"), &pipeline);
    sandbox.run(&["push", name], 0)
}

/// A line that waits until `gate` is there.
fn waits_for(sandbox: &Sandbox, gate: &str) -> String {
    format!("until [ -e {} ]; do sleep 0.01; done", sandbox.path(gate).display())
}

/// A manager, and two workers of generation `one`, which start only while there is a file `gate`.
fn serving() -> (Sandbox, String) {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    sandbox.write("gate", "");
    let script = waits_for(&sandbox, "gate");
    let one = push(&sandbox, "one", &script, "0s");
    sandbox.run(&["activate", &one], 0);
    std::fs::remove_file(sandbox.path("gate")).unwrap();
    (sandbox, one)
}

fn starting(status: &Value, generation: &str) -> bool {
    let workers = status["workers"].as_array().unwrap();
    workers.iter().any(|worker| worker["state"] == "starting" && worker["generation"] == generation)
}

/// Asks for `target`, kills manager and supervisor once it is where `there` says, and has another manager take it up
/// with all gates open: the verdict, and that everything runs `serving`.
fn killed(sandbox: &mut Sandbox, target: &str, there: impl Fn(&Value) -> bool) -> (Value, String) {
    sandbox.run(&["activate", target, "--no-wait"], 0);
    let status = sandbox.wait("it is in the middle", there);
    signal_to(u32::try_from(status["supervisor"].as_u64().unwrap()).unwrap(), Signal::KILL);
    sandbox.end_manager(Signal::KILL);
    sandbox.write("gate", "");
    sandbox.start_manager();
    let events = sandbox.json(&["history"], 0)["events"].as_array().unwrap().clone();
    assert_eq!(events.len(), 2, "one event, one verdict: {events:#?}");
    let serving = sandbox.current().unwrap();
    let status = sandbox.wait("one generation runs", |status| {
        let workers = status["workers"].as_array().unwrap();
        let of: BTreeSet<_> = workers.iter().map(|worker| worker["generation"].as_str()).collect();
        workers.len() == 2
            && common::workers(status).len() == 2
            && of == BTreeSet::from([Some(serving.as_str())])
    });
    sandbox.nothing_left_over("after the verdict");
    assert_eq!(events[0]["end"]["serving"], serving.as_str(), "{status:#}");
    (events[0]["end"]["verdict"].clone(), serving)
}

#[test]
fn a10_manager_and_supervisor_killed_while_a_worker_is_starting_leave_one_verdict() {
    let (mut sandbox, _) = serving();
    let script = waits_for(&sandbox, "gate");
    let two = push(&sandbox, "two", &script, "0s");
    let (verdict, serving) = killed(&mut sandbox, &two, |status| starting(status, &two));
    assert_eq!((verdict, serving), ("good".into(), two));
}

#[test]
fn a10_manager_and_supervisor_killed_in_probation_leave_one_verdict() {
    let (mut sandbox, _) = serving();
    let two = push(&sandbox, "two", "", "3s");
    let both_run_it = |status: &Value| {
        let workers = status["workers"].as_array().unwrap();
        let of_two = workers.iter().filter(|worker| worker["generation"] == two.as_str());
        of_two.filter(|worker| worker["state"] == "ready").count() == 2 && workers.len() == 2
    };
    let (verdict, serving) = killed(&mut sandbox, &two, both_run_it);
    assert_eq!((verdict, serving), ("good".into(), two.clone()));
}

#[test]
fn a10_manager_and_supervisor_killed_on_the_way_back_leave_one_verdict() {
    let (mut sandbox, one) = serving();
    // the second one fails, and the first is put back
    let two = push(&sandbox, "two", "[ $POINTSMAN_INSTANCE = 1 ] || exit 3", "0s");
    let (verdict, serving) = killed(&mut sandbox, &two, |status| starting(status, &one));
    assert_eq!((verdict, serving), ("reverted".into(), one));
}
