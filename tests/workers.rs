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

/// Answers with its rules, read at the start and on HUP. Does not start on poison.
const READS: &str = r#"answer() { cat $POINTSMAN_CONFIG/rules/x > $POINTSMAN_RUN/new; mv $POINTSMAN_RUN/new $POINTSMAN_RUN/answer; }
grep -q poison $POINTSMAN_CONFIG/rules/x && { echo poisoned; exit 3; }
trap answer HUP
answer
while :; do sleep 0.01; done"#;

/// Tells it, unless the rules say no.
const TELLS: &str = "ready: {file: '{run}/answer'}
reload:
  if_only: [\"rules/**\"]
  command: [sh, -c, 'grep -qE \"no|poison\" {config}/rules/x && { echo no thanks; exit 4; }; kill -HUP $POINTSMAN_PID; until cmp -s {config}/rules/x {run}/answer; do sleep 0.01; done']
probation: 100ms";

fn rules(sandbox: &Sandbox, name: &str, rules: &str) -> String {
    sandbox.write(&format!("{name}/rules/x"), rules);
    push(sandbox, name, READS, TELLS)
}

/// What each worker answers.
fn answers(sandbox: &Sandbox) -> Vec<String> {
    let mut answers = Vec::new();
    for entry in std::fs::read_dir(sandbox.path("store/run/p")).unwrap().flatten() {
        answers.extend(std::fs::read_to_string(entry.path().join("answer")).ok());
    }
    answers
}

fn whys(outcome: &serde_json::Value) -> String {
    let steps = outcome["steps"].as_array().unwrap();
    steps.iter().map(|step| format!("{}: {}\n", step["step"], step["why"])).collect()
}

#[test]
fn a27_what_is_told_in_place_keeps_its_processes() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = rules(&sandbox, "one", "1");
    sandbox.run(&["activate", &one], 0);
    let first = sandbox.workers();
    let two = rules(&sandbox, "two", "2");
    let plan = sandbox.run(&["activate", "--dry-run", &two], 0);
    assert!(plan.contains("told in place, only rules/** changed"), "{plan}");
    let outcome = sandbox.json(&["activate", &two], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    assert_eq!((sandbox.workers(), answers(&sandbox)), (first.clone(), vec!["2".to_owned(); 2]));

    // killed, it is started again on what it has accepted
    let killed = first["web/1"];
    common::signal_to(killed.pid, rustix::process::Signal::KILL);
    sandbox.wait("two workers", |status| {
        let now = common::workers(status);
        now.len() == 2 && now["web/1"] != killed
    });
    assert_eq!(answers(&sandbox), ["2", "2"]);
    let before = sandbox.workers();
    assert_eq!(sandbox.json(&["rollback"], 0)["verdict"], "good");
    assert_eq!((sandbox.workers(), answers(&sandbox)), (before.clone(), vec!["1".to_owned(); 2]));

    // what no section claims is more than it can be told
    sandbox.write("three/other", "1");
    let three = rules(&sandbox, "three", "3");
    let outcome = sandbox.json(&["activate", &three], 0);
    assert!(whys(&outcome).contains("replaced, "), "{outcome:#}");
    assert!(sandbox.workers().values().all(|process| !before.values().any(|old| old == process)));
}

#[test]
fn a27_what_is_not_taken_is_replaced_and_what_fails_is_told_back() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = rules(&sandbox, "one", "1");
    sandbox.run(&["activate", &one], 0);
    let first = sandbox.workers();
    let no = rules(&sandbox, "no", "no");
    let outcome = sandbox.json(&["activate", &no], 0);
    let said = whys(&outcome);
    assert!(said.contains("could not be told in place") && said.contains("no thanks"), "{said}");
    let second = sandbox.workers();
    assert!(second.len() == 2 && second.values().all(|process| !first.values().any(|old| old == process)));

    let poison = rules(&sandbox, "poison", "poison");
    let outcome = sandbox.json(&["activate", &poison], 1);
    assert_eq!(outcome["verdict"], "reverted", "{outcome:#}");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("poisoned") && reason.contains("no thanks"), "{reason}");
    // whoever was killed takes its directory along
    let two = |status: &serde_json::Value| status["workers"].as_array().unwrap().len() == 2;
    let status = sandbox.wait("only two are left", two);
    assert_eq!((sandbox.current().as_ref(), answers(&sandbox)), (Some(&no), vec!["no".to_owned(); 2]));
    assert!(
        status["workers"].as_array().unwrap().iter().all(|worker| worker["unwell"].is_null()),
        "{status:#}"
    );
}

#[test]
fn a27_an_undo_tells_back_whom_it_has_told() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = rules(&sandbox, "one", "1");
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    // the second instance dies of what it is told
    let dies = "[ $POINTSMAN_INSTANCE = 1 ] && true || { kill -KILL $POINTSMAN_PID; sleep 60; }";
    sandbox.write("two/rules/x", "2");
    let script =
        TELLS.replace("kill -HUP", &format!("grep -q 2 {{config}}/rules/x && {{ {dies}; }}; kill -HUP"));
    let start = READS.replace("grep -q poison", "[ $POINTSMAN_INSTANCE = 2 ] && grep -q 2");
    sandbox.write("zero/rules/x", "1");
    let zero = push(&sandbox, "zero", &start, &script);
    sandbox.run(&["activate", &zero], 0);
    assert_ne!(sandbox.workers(), before);
    let before = sandbox.workers();
    let two = push(&sandbox, "two", &start, &script);
    let outcome = sandbox.json(&["activate", &two], 1);
    assert_eq!(outcome["verdict"], "reverted", "{outcome:#}");
    let after = sandbox.workers();
    assert_eq!(after["web/1"], before["web/1"], "told, and told back");
    assert_ne!(after["web/2"], before["web/2"]);
    assert_eq!((sandbox.current(), answers(&sandbox)), (Some(zero), vec!["1".to_owned(); 2]));
}

#[test]
fn d1_the_same_holds_under_systemd() {
    common::systemd::passes_under(common::systemd::Scope::System, &[], 4);
}
