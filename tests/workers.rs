//! What an operator sees of a pipeline's words about workers: the built program, and workers of a few lines of
//! shell. Rule numbers are those of `spec/activation.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::os::unix::fs::PermissionsExt as _;

use common::Sandbox;

/// Writes `<name>/pointsman.yaml` with one group of two workers, `script`, and what else is given; pushes it.
fn push(sandbox: &Sandbox, name: &str, script: &str, words: &str) -> String {
    sandbox.write(&format!("{name}/run"), &format!("#!/bin/sh\n{script}\n"));
    let run = std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(sandbox.path(&format!("{name}/run")), run).unwrap();
    let pipeline = format!(
        "version: 1\nworkers:\n  web:\n    command: \"{{config}}/run\"\n    instances: 2\n    start_timeout: 10s\n    {}\n",
        words.replace('\n', "\n    ")
    );
    sandbox.write(&format!("{name}/pointsman.yaml"), &pipeline.replace("    probation:", "probation:"));
    sandbox.run(&["push", name], 0)
}

/// A sandbox with a manager and the generation of `push` in force.
fn serving(script: &str, words: &str) -> (Sandbox, String) {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let id = push(&sandbox, "one", script, words);
    assert_eq!(sandbox.json(&["activate", &id], 0)["verdict"], "good");
    assert_eq!(sandbox.workers().len(), 2);
    (sandbox, id)
}

const SLEEP: &str = "exec sleep 1000";

#[test]
fn a25_a_worker_that_says_no_in_probation_takes_everything_back() {
    let (sandbox, one) = serving(SLEEP, "ready: {command: 'true'}\nprobation: 100ms");
    let before = sandbox.workers();
    // well when it is started, and never again
    let script = "echo 1 > $POINTSMAN_RUN/started; exec sleep 1000";
    let probe = "ready: {command: [sh, -c, 'echo short of cheese; rm $POINTSMAN_RUN/started']}";
    let two = push(&sandbox, "two", script, &format!("{probe}\nprobation: 60s"));
    let outcome = sandbox.json(&["activate", &two], 1);
    assert_eq!(outcome["verdict"], "reverted", "{outcome:#}");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("does not do its work") && reason.contains("short of cheese"), "{reason}");
    assert_eq!(sandbox.current(), Some(one));
    let after = sandbox.workers();
    assert!(after.len() == 2 && after != before, "{after:?}");
}

#[test]
fn a25_a_last_answer_of_no_ends_no_probation() {
    let (sandbox, one) = serving(SLEEP, "ready: {command: 'true'}\nprobation: 100ms");
    let script = "echo 1 > $POINTSMAN_RUN/started; exec sleep 1000";
    let probe = "ready: {command: [sh, -c, 'rm $POINTSMAN_RUN/started']}";
    // too short for three noes
    let two = push(&sandbox, "two", script, &format!("{probe}\nprobation: 300ms"));
    let outcome = sandbox.json(&["activate", &two], 1);
    assert_eq!(
        (&outcome["verdict"], &outcome["stage"]),
        (&"reverted".into(), &"probation".into()),
        "{outcome:#}"
    );
    assert_eq!(sandbox.current(), Some(one));
}

/// Insists on being alone: a second one beside it fails.
fn alone(sandbox: &Sandbox, then: &str) -> String {
    let at = sandbox.path("alone").display().to_string();
    format!(
        "mkdir {at}-$POINTSMAN_INSTANCE || exit 9\ntrap 'sleep 0.1; rmdir {at}-$POINTSMAN_INSTANCE; exit 0' TERM\n{then}\nwhile :; do sleep 0.01; done"
    )
}

#[test]
fn a26_stop_first_replaces_one_after_the_other_and_puts_the_old_one_back() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let words = "ready: {file: '{run}/ready'}\nreplace: stop-first\nprobation: 0s";
    let script = alone(&sandbox, "echo 1 > $POINTSMAN_RUN/ready");
    let one = push(&sandbox, "one", &script, words);
    sandbox.run(&["activate", &one], 0);
    let first = sandbox.workers();
    let two = push(&sandbox, "two", &format!("{script}\n# two"), words);
    let plan = sandbox.run(&["activate", "--dry-run", &two], 0);
    assert!(plan.contains("the old one ends before the new one starts"), "{plan}");
    let outcome = sandbox.json(&["activate", &two], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    assert!(first.values().all(|process| !process.is_alive()));

    // the second instance fails: both are put back, one after the other
    let bad = "[ $POINTSMAN_INSTANCE = 1 ] || { rmdir ALONE; echo second to none; exit 3; }\necho 1 > $POINTSMAN_RUN/ready";
    let bad = bad.replace("ALONE", &sandbox.path("alone-2").display().to_string());
    let bad = push(&sandbox, "bad", &alone(&sandbox, &bad), words);
    let outcome = sandbox.json(&["activate", &bad], 1);
    assert_eq!(outcome["verdict"], "reverted", "{outcome:#}");
    assert!(outcome["reason"].as_str().unwrap().contains("second to none"), "{outcome:#}");
    assert_eq!((sandbox.current().as_ref(), sandbox.workers().len()), (Some(&two), 2));
    let status = sandbox.status();
    let generations: Vec<_> =
        status["workers"].as_array().unwrap().iter().map(|w| &w["generation"]).collect();
    assert_eq!(generations, [two.as_str(), two.as_str()], "{status:#}");
}
