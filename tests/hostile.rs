//! What goes wrong at the worst moment: every test here has been a lost verdict, a wrong way back or a stray.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::time::{Duration, Instant};

use common::{Sandbox, until};
use rustix::process::Signal;
use serde_json::Value;

/// A generation whose workers are a shell script: `start` runs before it says that it is ready.
fn source(sandbox: &Sandbox, name: &str, start: &str, pipeline: &str) -> String {
    sandbox.write(&format!("{name}/start"), &format!("{start}\necho > \"$1/ready\"\nexec sleep 1000\n"));
    sandbox.write(
        &format!("{name}/pointsman.yaml"),
        &format!(
            "version: 1\nprobation: 100ms\nworker:\n  command: sh {{config}}/start {{run}}\n  instances: 2\n  \
             ready: {{file: \"{{run}}/ready\"}}\n  start_timeout: 10s\n{pipeline}"
        ),
    );
    sandbox.path(name).display().to_string()
}

fn push(sandbox: &Sandbox, name: &str, start: &str, pipeline: &str) -> String {
    sandbox.run(&["push", &source(sandbox, name, start, pipeline)], 0)
}

/// A manager, and generation `one` in force on two workers.
fn serving() -> (Sandbox, String) {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = push(&sandbox, "one", ":", "");
    sandbox.run(&["activate", &one], 0);
    (sandbox, one)
}

/// A second instance that fails, while the first gets ready.
const SECOND_FAILS: &str = "[ \"$POINTSMAN_INSTANCE\" = 1 ] || { echo second to none >&2; exit 3; }";

fn generations(sandbox: &Sandbox) -> Vec<String> {
    let status = sandbox.status();
    let accepted = status["workers"].as_array().unwrap().iter().filter(|w| w["accepted"] == true);
    accepted.map(|w| format!("{} {}", w["generation"].as_str().unwrap(), w["state"])).collect()
}

fn all_on(id: &str) -> Vec<String> {
    vec![format!("{id} \"ready\""); 2]
}

fn verdict(outcome: &Value) -> (&str, &str) {
    (outcome["verdict"].as_str().unwrap(), outcome["stage"].as_str().unwrap())
}

fn supervisor(sandbox: &Sandbox) -> u32 {
    u32::try_from(sandbox.status()["supervisor"].as_u64().unwrap()).unwrap()
}

fn ends(sandbox: &Sandbox) -> Vec<(u64, String, String)> {
    let history = sandbox.json(&["history"], 0);
    let of = |event: &Value| {
        let text = |name: &str| event["end"][name].as_str().unwrap_or_default().to_owned();
        (event["number"].as_u64().unwrap(), text("verdict"), text("reason"))
    };
    let mut ends: Vec<_> = history["events"].as_array().unwrap().iter().map(of).collect();
    ends.sort();
    ends
}

/// A check that says that it runs, and ends when it is let go.
const CHECK: &str =
    "check: sh -c 'cd {config}/../../../..; echo > checking; while [ ! -e go ]; do sleep 0.01; done'\n";

/// Starts `activate` in the background with its output in `caller.log`.
fn in_background(sandbox: &Sandbox, args: &[&str]) -> std::process::Child {
    let log = sandbox.log("caller.log");
    sandbox.command(args).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
}

/// The exit code of a process that ends within patience.
fn code(sandbox: &Sandbox, mut child: std::process::Child) -> i32 {
    let begun = Instant::now();
    loop {
        if let Some(status) = child.try_wait().unwrap() {
            return status.code().unwrap_or(-1);
        }
        if begun.elapsed() > Duration::from_secs(15) {
            child.kill().unwrap();
            child.wait().unwrap();
            let manager = std::fs::read_to_string(sandbox.path("manager.log")).unwrap_or_default();
            let end: Vec<&str> = manager.lines().rev().take(20).collect();
            panic!("it waits for ever; {end:#?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

#[test]
fn a12_rollback_while_an_activation_has_not_swung_yet_goes_to_what_it_started_from() {
    let (sandbox, _) = serving();
    let two = push(&sandbox, "two", ": two", "");
    sandbox.run(&["activate", &two], 0);
    let three =
        push(&sandbox, "three", ": three", "check: sh -c 'echo > {config}/../../../../checking; sleep 2'\n");
    let caller = in_background(&sandbox, &["activate", &three]);
    until("the check", || sandbox.path("checking").exists());
    let plan = sandbox.json(&["rollback", "--dry-run"], 0);
    assert_eq!(plan["target"], two.as_str(), "{plan:#}");
    assert_eq!(code(&sandbox, caller), 0);
}

#[test]
fn a12_two_rollbacks_at_once_are_one() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = push(&sandbox, "one", "sleep 0.7", "");
    sandbox.run(&["activate", &one], 0);
    sandbox.run(&["activate", "--force", &push(&sandbox, "two", ": two", "")], 0);
    let first = in_background(&sandbox, &["rollback"]);
    until("the first", || sandbox.path("store/events/3.json").exists());
    let plan = sandbox.json(&["rollback", "--dry-run"], 0);
    assert_eq!(code(&sandbox, first), 0);
    assert_eq!(sandbox.current(), Some(one.clone()));
    assert_eq!(plan["target"], one.as_str(), "{plan:#}");
}

#[test]
fn a8_a_pointer_that_was_moved_alone_goes_back_to_the_last_good_with_its_workers() {
    let (sandbox, one) = serving();
    let before = sandbox.workers();
    let bad = push(&sandbox, "bad", SECOND_FAILS, "");
    sandbox.run(&["activate", "--pointer-only", &bad], 0);
    assert_eq!(sandbox.workers(), before);
    let outcome = sandbox.json(&["activate", "@"], 1);
    assert_eq!(verdict(&outcome), ("reverted", "workers"), "{outcome:#}");
    assert_eq!(generations(&sandbox), all_on(&one));
    assert_eq!(sandbox.current(), Some(one));
}

#[test]
fn a10_an_activation_without_a_swing_that_is_interrupted_twice_does_not_stay_half_way() {
    let (mut sandbox, one) = serving();
    let slow = "[ \"$POINTSMAN_INSTANCE\" = 1 ] || { sleep 2; exit 3; }";
    let two = push(&sandbox, "two", slow, "");
    sandbox.run(&["activate", "--pointer-only", &two], 0);
    sandbox.end_manager(Signal::KILL);
    let half = |status: &Value| {
        let workers = status["workers"].as_array().unwrap();
        workers.iter().any(|w| w["state"] == "starting" && w["instance"] == 2)
    };
    for engine in [vec!["activate", "@"], vec!["manager"]] {
        let mut engine = in_background(&sandbox, &engine);
        sandbox.wait("the second is starting", half);
        engine.kill().unwrap();
        engine.wait().unwrap();
    }
    sandbox.start_manager();
    sandbox.wait("all events have their verdict", |status| status["activation"].is_null());
    let now = generations(&sandbox);
    assert!(now == all_on(&one) || now == all_on(&two), "half-way: {now:#?}");
}

#[test]
fn a8_the_way_back_uses_the_output_that_the_workers_had() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    sandbox.write("load", "#!/bin/sh\necho 1 > \"$1/out\"\n");
    let program = sandbox.path("load");
    let mode = |path: &std::path::Path| {
        std::fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    };
    mode(&program);
    let loader =
        format!("loader: {{command: [{}, \"{{loaded}}\"], if_changed: [rules]}}\n", program.display());
    sandbox.write("one/rules", "1");
    let one = push(&sandbox, "one", ":", &loader);
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    // the loader's program is upgraded: its outputs have another key from now on
    sandbox.write("load.new", "#!/bin/sh\necho 2 > \"$1/out\"\n");
    mode(&sandbox.path("load.new"));
    std::fs::rename(sandbox.path("load.new"), &program).unwrap();
    let bad = push(&sandbox, "bad", "exit 3", &loader);
    let outcome = sandbox.json(&["activate", &bad], 1);
    assert_eq!(verdict(&outcome), ("reverted", "workers"), "{outcome:#}");
    assert_eq!(sandbox.workers(), before);
    assert_eq!(sandbox.current(), Some(one));
}

#[test]
fn a8_a_failed_change_leaves_no_fewer_workers_though_the_host_file_wants_fewer() {
    let mut sandbox = Sandbox::new();
    let host = |sandbox: &Sandbox, instances: u32| {
        sandbox.write(
            "store/host.yaml",
            &format!(
                "version: 1\npipeline:\n  version: 1\n  probation: 100ms\n  worker:\n    command: sh {{config}}/start {{run}}\n    \
                 instances: {instances}\n    ready: {{file: \"{{run}}/ready\"}}\n"
            ),
        );
    };
    host(&sandbox, 2);
    sandbox.start_manager();
    let one = push(&sandbox, "one", ":", "");
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    host(&sandbox, 1);
    let bad = push(&sandbox, "bad", "exit 3", "");
    let outcome = sandbox.json(&["activate", &bad], 1);
    assert_eq!(verdict(&outcome), ("reverted", "workers"), "{outcome:#}");
    // what is taken away is asked to leave before the verdict is given
    assert_eq!(sandbox.workers(), before);
}

#[test]
fn a10_a_way_back_that_cannot_be_planned_gets_a_verdict_and_holds_nobody_up() {
    let (mut sandbox, one) = serving();
    let two = push(&sandbox, "two", "sleep 3", "");
    let mut caller = in_background(&sandbox, &["activate", &two]);
    sandbox.wait("the first is starting", |status| {
        status["workers"].as_array().unwrap().iter().any(|w| w["state"] == "starting")
    });
    caller.kill().unwrap();
    caller.wait().unwrap();
    sandbox.end_manager(Signal::KILL);
    let manifest = sandbox.path(&format!("store/generations/{one}/manifest"));
    let intact = std::fs::read(&manifest).unwrap();
    std::fs::write(&manifest, "spoiled").unwrap();
    // somebody has to be told, and not for ever by a disk full of marks
    let _ = code(&sandbox, in_background(&sandbox, &["activate", "--pointer-only", &two]));
    let steps = std::fs::metadata(sandbox.path("store/events/2.steps")).unwrap().len();
    assert!(steps < 10_000, "{steps} bytes of marks");
    std::fs::write(&manifest, intact).unwrap();
    let outcome = sandbox.json(&["history"], 0);
    let second = outcome["events"].as_array().unwrap().iter().find(|e| e["number"] == 2).unwrap().clone();
    assert_eq!(second["end"]["verdict"], "stuck", "{outcome:#}");
    assert_eq!(second["end"]["serving"], one.as_str(), "the pointer was back: {outcome:#}");
    sandbox.start_manager();
    sandbox.run(&["activate", &one], 0);
    assert_eq!(generations(&sandbox), all_on(&one));
}

#[test]
fn a1_a_pointer_damaged_on_the_way_ends_no_verdict() {
    let (sandbox, one) = serving();
    let before = sandbox.workers();
    // a change that fails goes back to what was in force
    let bad = push(&sandbox, "bad", "sleep 1; exit 3", "");
    let caller = in_background(&sandbox, &["--json", "activate", &bad]);
    sandbox.wait("the first is starting", |status| {
        status["workers"].as_array().unwrap().iter().any(|w| w["state"] == "starting")
    });
    std::fs::remove_file(sandbox.path("store/current")).unwrap();
    std::os::unix::fs::symlink("nowhere", sandbox.path("store/current")).unwrap();
    assert_eq!(code(&sandbox, caller), 1);
    let outcome: Value =
        serde_json::from_str(&std::fs::read_to_string(sandbox.path("caller.log")).unwrap()).unwrap();
    assert_eq!(verdict(&outcome), ("reverted", "workers"), "{outcome:#}");
    assert_eq!(sandbox.current(), Some(one));
    assert_eq!(sandbox.workers(), before);
}

#[test]
fn w3_what_a_check_has_started_does_not_outlive_the_next_engine() {
    let (mut sandbox, one) = serving();
    let check = "check: sh -c 'sleep 987 & echo $! > {config}/../../../../stray; wait'\n";
    let two = push(&sandbox, "two", ":", check);
    let mut caller = in_background(&sandbox, &["activate", &two]);
    until("the check", || std::fs::read_to_string(sandbox.path("stray")).is_ok_and(|t| t.ends_with('\n')));
    let stray: u32 = std::fs::read_to_string(sandbox.path("stray")).unwrap().trim().parse().unwrap();
    caller.kill().unwrap();
    caller.wait().unwrap();
    sandbox.end_manager(Signal::KILL);
    std::fs::remove_file(sandbox.path("stray")).unwrap();
    let manager = in_background(&sandbox, &["manager"]);
    until("the check once more", || sandbox.path("stray").exists());
    until("the end of the first check's child", || common::process(stray).is_none());
    common::signal_to(manager.id(), Signal::TERM);
    assert_eq!(code(&sandbox, manager), 0);
    assert_eq!(sandbox.current(), Some(one));
}

#[test]
fn a11_an_engine_that_is_asked_to_end_begins_nothing_more() {
    let (mut sandbox, one) = serving();
    sandbox.end_manager(Signal::KILL);
    let check = "check: sh -c 'echo > {config}/../../../../checking; sleep 5'\n";
    let two = push(&sandbox, "two", ":", check);
    let three = push(&sandbox, "three", ": three", "");
    let first = in_background(&sandbox, &["activate", &two]);
    until("the check", || sandbox.path("checking").exists());
    let mut second = in_background(&sandbox, &["activate", &three]);
    sandbox.wait("both are accepted", |_| sandbox.path("store/events/3.json").exists());
    // a caller that is killed leaves its event to the engine
    second.kill().unwrap();
    second.wait().unwrap();
    common::signal_to(first.id(), Signal::INT);
    assert_eq!(code(&sandbox, first), 1, "withdrawn");
    assert_eq!(sandbox.current(), Some(one), "the other's event has not been begun");
    assert!(!sandbox.path("store/events/3.outcome.json").exists());
}

#[test]
fn a2_a_manager_that_waits_for_the_engine_lock_ends_when_asked() {
    let (mut sandbox, _) = serving();
    let manager = in_background(&sandbox, &["manager"]);
    until("it waits", || {
        std::fs::read_to_string(sandbox.path("caller.log")).is_ok_and(|log| log.contains("waiting"))
    });
    common::signal_to(manager.id(), Signal::TERM);
    assert_eq!(code(&sandbox, manager), 0);
    sandbox.end_manager(Signal::TERM);
}

#[test]
fn a8_a_supervisor_that_dies_in_the_middle_of_a_start_does_not_end_the_activation() {
    let (sandbox, _) = serving();
    let gate = sandbox.path("gate");
    let script = format!("until [ -e {} ]; do sleep 0.01; done", gate.display());
    let two = push(&sandbox, "two", &script, "");
    let caller = in_background(&sandbox, &["activate", &two]);
    sandbox.wait("the first is starting", |status| {
        status["workers"].as_array().unwrap().iter().any(|w| w["state"] == "starting")
    });
    common::signal_to(supervisor(&sandbox), Signal::KILL);
    std::fs::write(gate, "").unwrap();
    let code = code(&sandbox, caller);
    assert_eq!(code, 0, "{}", std::fs::read_to_string(sandbox.path("caller.log")).unwrap());
    assert_eq!(generations(&sandbox), all_on(&two));
}

#[test]
fn a8_a_worker_that_dies_with_the_supervisor_in_probation_takes_everything_back() {
    let (sandbox, one) = serving();
    source(&sandbox, "two", ": two", "");
    let pipeline = std::fs::read_to_string(sandbox.path("two/pointsman.yaml")).unwrap();
    sandbox.write("two/pointsman.yaml", &pipeline.replace("probation: 100ms", "probation: 4s"));
    let two = sandbox.run(&["push", "two"], 0);
    let caller = in_background(&sandbox, &["activate", &two]);
    sandbox.wait("both are ready", |status| {
        let workers = common::workers(status);
        let on_two = status["workers"].as_array().unwrap().iter().all(|w| w["generation"] == two.as_str());
        on_two && workers.len() == 2
    });
    let victim = sandbox.workers()["worker/2"];
    let supervisor = supervisor(&sandbox);
    common::signal_to(supervisor, Signal::STOP);
    common::signal_to(victim.pid, Signal::KILL);
    common::signal_to(supervisor, Signal::KILL);
    assert_eq!(code(&sandbox, caller), 1);
    assert_eq!(sandbox.current(), Some(one.clone()));
    sandbox.wait("only the old ones", |_| generations(&sandbox) == all_on(&one));
}

#[test]
fn w9_a_worker_that_does_not_get_up_is_started_by_the_pipeline_as_it_is_now() {
    let mut sandbox = Sandbox::new();
    let host = |sandbox: &Sandbox, command: &str| {
        sandbox.write(
            "store/host.yaml",
            &format!(
                "version: 1\npipeline:\n  version: 1\n  probation: 100ms\n  worker:\n    command: {command}\n    \
                 ready: {{file: \"{{run}}/ready\"}}\n"
            ),
        );
    };
    let flag = sandbox.write("flag", "");
    host(&sandbox, &format!("sh -c 'test -e {} && sh {{config}}/start {{run}}'", flag.display()));
    sandbox.start_manager();
    let one = push(&sandbox, "one", ":", "");
    sandbox.run(&["activate", &one], 0);
    std::fs::remove_file(&flag).unwrap();
    common::signal_to(sandbox.workers()["worker/1"].pid, Signal::KILL);
    sandbox.wait("it does not get up", |status| status["workers"][0]["state"] == "failed");
    host(&sandbox, "sh {config}/start {run}");
    sandbox.run(&["activate", "@"], 0);
    assert_eq!(sandbox.workers().len(), 1);
}

#[test]
fn a10_damaged_marks_end_as_stuck_and_hold_nobody_up() {
    let (mut sandbox, one) = serving();
    sandbox.end_manager(Signal::KILL);
    let two = push(&sandbox, "two", ":", "check: sh -c 'echo > {config}/../../../../checking; sleep 30'\n");
    let mut caller = in_background(&sandbox, &["activate", &two]);
    until("the check", || sandbox.path("checking").exists());
    caller.kill().unwrap();
    caller.wait().unwrap();
    let steps = sandbox.path("store/events/2.steps");
    let text = std::fs::read_to_string(&steps).unwrap();
    std::fs::write(&steps, text.replacen("begun", "begum", 1)).unwrap();
    let again = in_background(&sandbox, &["activate", &one]);
    assert_eq!(code(&sandbox, again), 0);
    let history = sandbox.json(&["history"], 0);
    let second = history["events"].as_array().unwrap().iter().find(|e| e["number"] == 2).unwrap().clone();
    assert_eq!(second["end"]["verdict"], "stuck", "{history:#}");
}

#[test]
fn a4_a_manager_whose_supervisor_died_knows_what_runs() {
    let (sandbox, one) = serving();
    let before = sandbox.workers();
    let supervisor = supervisor(&sandbox);
    common::signal_to(supervisor, Signal::KILL);
    until("its end", || common::process(supervisor).is_none());
    let outcome = sandbox.json(&["activate", &one], 0);
    assert_eq!(outcome["verdict"], "unchanged", "{outcome:#}");
    assert_eq!(sandbox.workers(), before);
}

#[test]
fn a2_the_latest_wins_but_not_over_a_rollback() {
    let (sandbox, one) = serving();
    let two = push(&sandbox, "two", ": two", "");
    sandbox.run(&["activate", &two], 0);
    let slow = push(&sandbox, "slow", ": slow", CHECK);
    let mut callers = vec![in_background(&sandbox, &["activate", &slow])];
    until("the check", || sandbox.path("checking").exists());
    // what the rollback leaves comes back by force only
    for (number, args) in [
        (4, vec!["activate", two.as_str()]),
        (5, vec!["rollback", one.as_str()]),
        (6, vec!["activate", "--force", two.as_str()]),
    ] {
        callers.push(in_background(&sandbox, &args));
        until("the event", || sandbox.path(&format!("store/events/{number}.json")).exists());
    }
    sandbox.write("go", "");
    for caller in callers {
        code(&sandbox, caller);
    }
    let verdicts: Vec<String> = ends(&sandbox).into_iter().map(|(_, verdict, _)| verdict).collect();
    assert_eq!(verdicts, ["good", "good", "superseded", "superseded", "good", "good"]);
    assert_eq!(sandbox.current(), Some(two));
}

#[test]
fn a10_interrupted_twice_in_a_check_is_the_end() {
    let (mut sandbox, one) = serving();
    sandbox.end_manager(Signal::KILL);
    let two = push(&sandbox, "two", ": two", CHECK);
    for engine in [vec!["activate", &two], vec!["manager"]] {
        let mut engine = in_background(&sandbox, &engine);
        until("the check", || sandbox.path("checking").exists());
        engine.kill().unwrap();
        engine.wait().unwrap();
        std::fs::remove_file(sandbox.path("checking")).unwrap();
    }
    sandbox.start_manager();
    let (_, verdict, reason) = ends(&sandbox).pop().unwrap();
    assert_eq!(verdict, "failed");
    assert!(reason.contains("interrupted twice"), "{reason}");
    assert!(!sandbox.path("checking").exists(), "it was not run a third time");
    assert_eq!(sandbox.current(), Some(one));
}

#[test]
fn a6_a_generation_that_is_not_intact_is_refused() {
    let (sandbox, one) = serving();
    let two = push(&sandbox, "two", ": two", "");
    let file = sandbox.path(&format!("store/generations/{two}/tree/start"));
    std::fs::set_permissions(&file, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    let outcome = sandbox.json(&["activate", &two], 4);
    assert_eq!(verdict(&outcome), ("refused", "preflight"), "{outcome:#}");
    assert_eq!(sandbox.current(), Some(one));
}

#[test]
fn a8_a_pointer_that_somebody_else_moved_meanwhile_is_not_moved_over() {
    let (sandbox, one) = serving();
    let before = sandbox.workers();
    let other = push(&sandbox, "other", ": other", "");
    let two = push(&sandbox, "two", ": two", CHECK);
    let caller = in_background(&sandbox, &["activate", &two]);
    until("the check", || sandbox.path("checking").exists());
    std::os::unix::fs::symlink(format!("generations/{other}/tree"), sandbox.path("store/new")).unwrap();
    std::fs::rename(sandbox.path("store/new"), sandbox.path("store/current")).unwrap();
    sandbox.write("go", "");
    assert_eq!(code(&sandbox, caller), 1);
    let (_, verdict, reason) = ends(&sandbox).pop().unwrap();
    assert_eq!(verdict, "failed");
    assert!(reason.contains("somebody else"), "{reason}");
    assert_eq!((sandbox.current(), sandbox.workers()), (Some(one), before));
}

/// Whether somebody who has come to a socket of process `pid` waits until it takes notice.
fn is_asked(pid: u32) -> bool {
    let itself = rustix::process::Pid::from_raw(i32::try_from(pid).unwrap()).unwrap();
    let itself = rustix::process::pidfd_open(itself, rustix::process::PidfdFlags::empty()).unwrap();
    let numbers = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().flatten();
    let numbers = numbers.map(|entry| entry.file_name().to_str().unwrap().parse().unwrap());
    numbers.into_iter().any(|number| {
        let none = rustix::process::PidfdGetfdFlags::empty();
        let Ok(fd) = rustix::process::pidfd_getfd(&itself, number, none) else { return false };
        let mut polled = [rustix::event::PollFd::new(&fd, rustix::event::PollFlags::IN)];
        let listens = rustix::net::sockopt::socket_acceptconn(&fd).unwrap_or(false);
        listens && rustix::event::poll(&mut polled, Some(&rustix::time::Timespec::default())) == Ok(1)
    })
}

#[test]
fn a8_a_probation_is_not_outlived_because_nobody_tells() {
    let (sandbox, one) = serving();
    source(&sandbox, "two", ": two", "");
    let pipeline = std::fs::read_to_string(sandbox.path("two/pointsman.yaml")).unwrap();
    sandbox.write("two/pointsman.yaml", &pipeline.replace("probation: 100ms", "probation: 6s"));
    let two = sandbox.run(&["push", "two"], 0);
    let caller = in_background(&sandbox, &["activate", &two]);
    sandbox.wait("both are ready", |status| {
        let all = status["workers"].as_array().unwrap();
        all.iter().all(|w| w["generation"] == two.as_str()) && common::workers(status).len() == 2
    });
    let (victim, supervisor) = (sandbox.workers()["worker/2"], supervisor(&sandbox));
    common::signal_to(supervisor, Signal::STOP);
    common::signal_to(victim.pid, Signal::KILL);
    until("the end of the probation, of which it is asked", || is_asked(supervisor));
    common::signal_to(supervisor, Signal::CONT);
    assert_eq!(code(&sandbox, caller), 1);
    assert_eq!(sandbox.current(), Some(one));
}

#[test]
fn a6_a_lost_pipeline_stops_no_worker() {
    let mut sandbox = Sandbox::new();
    let start = sandbox.path("ready").display().to_string();
    let host = format!(
        "pipeline:\n  version: 1\n  probation: 100ms\n  worker:\n    command: [sh, -c, 'echo > {start}; exec sleep 1000']\n    \
         ready: {{after: 50ms}}\n"
    );
    sandbox.write("store/host.yaml", &host);
    sandbox.start_manager();
    sandbox.write("one/a", "1");
    sandbox.run(&["deploy", "one"], 0);
    let (before, current) = (sandbox.workers(), sandbox.current());
    assert_eq!(before.len(), 1);
    sandbox.write("store/host.yaml", "pipeline: pushed\n");
    sandbox.write("one/a", "2");
    let outcome = sandbox.json(&["deploy", "one"], 7);
    assert_eq!(verdict(&outcome), ("refused", "preflight"), "{outcome:#}");
    assert!(outcome["reason"].as_str().unwrap().contains("--pointer-only"), "{outcome:#}");
    assert_eq!((sandbox.workers(), sandbox.current()), (before.clone(), current));
    let two = outcome["target"].as_str().unwrap();
    sandbox.run(&["activate", "--pointer-only", two], 0);
    assert_eq!(sandbox.workers(), before);
    // brought back, it is applied
    sandbox.write("store/host.yaml", &host);
    sandbox.run(&["activate", two], 0);
    assert_ne!(sandbox.workers(), before);
}
