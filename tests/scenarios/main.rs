//! Whole mornings of an operator: `spec/activation.md`, Scenarios. A test is named after the number there.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

#[path = "../common/mod.rs"]
mod common;

mod changes;
mod failures;
mod quiet;

use common::actor::{Part, Stage, starts};
use common::load::Seen;
use rustix::process::Signal;
use serde_json::Value;

/// Every request was answered as expected, and there were some.
fn all_right(seen: &Seen) {
    assert!(seen.failures.is_empty() && !seen.bodies.is_empty(), "{seen:#?}");
}

/// The processes that play are the ready workers of the status and nobody else.
fn one_set(stage: &Stage) {
    let mut known: Vec<_> = stage.sandbox.workers().into_values().collect();
    known.sort();
    common::until("the end of those that leave", || stage.alive().len() <= known.len());
    assert_eq!(stage.alive(), known);
}

fn verdict(outcome: &Value) -> (&str, &str) {
    (outcome["verdict"].as_str().unwrap(), outcome["stage"].as_str().unwrap_or_default())
}

fn activate(stage: &Stage, id: &str) -> Value {
    let outcome = stage.sandbox.json(&["activate", id], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    outcome
}

#[test]
fn a_rules_only_change_keeps_every_process_and_is_served_by_their_successors_too() {
    let mut stage = Stage::with(Part::default());
    let before = stage.sandbox.workers();
    let two = stage.push("two", Part { rules: "b", ..Part::default() });
    let load = stage.load(&["one a", "one b"]);
    activate(&stage, &two);
    load.expect(&["one b"]);
    load.more(100);
    all_right(&load.end());
    assert_eq!(stage.sandbox.workers(), before);
    let started_again = |stage: &Stage, killed: common::Process| {
        common::signal_to(killed.pid, Signal::KILL);
        stage.sandbox.wait("two workers", |status| {
            let now = common::workers(status);
            now.len() == 2 && !now.values().any(|process| *process == killed)
        });
        for _ in 0..50 {
            assert_eq!(stage.answer(), "one b");
        }
        one_set(stage);
    };
    let mark = stage.mark();
    started_again(&stage, before["worker/1"]);
    stage.sandbox.end_manager(Signal::KILL);
    started_again(&stage, before["worker/2"]);
    assert_eq!(stage.since(mark), starts([("worker", 2)]));
}
