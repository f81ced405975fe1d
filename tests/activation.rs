//! What an operator sees of activations: the built program, real nginx, loopback only.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::time::{Duration, Instant};

use common::load::{Load, get};
use common::nginx::{Site, address, port, site, spawns};
use common::{Process, Sandbox, process, workers};
use rustix::process::Signal;

/// A sandbox with a manager and generation `one` serving on two nginx workers.
fn serving() -> (Sandbox, u16, String) {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let port = port();
    let one = site(&sandbox, "one", port, Site { body: "one", ..Site::default() });
    let id = sandbox.run(&["push", &one], 0);
    sandbox.run(&["activate", &id], 0);
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    (sandbox, port, id)
}

/// Deploys a generation that has to fail in `stage`, after which everything is as before.
fn refuses(sandbox: &Sandbox, port: u16, bad: Site<'_>, verdict: &str, stage: &str, says: &str) {
    let (current, before) = (sandbox.current(), sandbox.workers());
    assert_eq!(before.len(), 2);
    let source = site(sandbox, "bad", port, bad);
    let outcome = sandbox.json(&["deploy", &source], 1);
    assert_eq!(outcome["verdict"], verdict, "{outcome:#}");
    assert_eq!(outcome["stage"], stage, "{outcome:#}");
    assert_eq!(outcome["changed"], false, "{outcome:#}");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains(says), "{says:?} is not in the reason: {reason}");
    assert_eq!(sandbox.current(), current);
    assert_eq!(sandbox.workers(), before, "the same workers serve");
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}

#[test]
fn a9_cold_start_brings_the_generation_in_force_up() {
    let (mut sandbox, port, id) = serving();
    sandbox.kill_everything();
    assert!(get(address(port)).is_err(), "nothing serves any more");
    sandbox.start_manager();
    let status = sandbox.wait("two workers", |status| workers(status).len() == 2);
    assert_eq!(status["current"], id.as_str());
    assert_eq!(status["last"]["verdict"], "good");
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}

#[test]
fn a8_a_second_generation_replaces_the_first_under_load_without_a_failed_request() {
    let (sandbox, port, _) = serving();
    let before = sandbox.workers();
    let load = Load::on(address(port), &["one"]);
    load.more(500);
    let two = site(&sandbox, "two", port, Site { body: "two", ..Site::default() });
    let id = sandbox.run(&["push", &two], 0);
    load.expect(&["one", "two"]);
    let outcome = sandbox.json(&["activate", &id], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    sandbox.wait("the old ones are gone", |_| before.values().all(|process| !process.is_alive()));
    load.expect(&["two"]);
    load.more(500);
    let seen = load.end();
    assert_eq!(seen.failures, Vec::<String>::new());
    assert!(seen.requests() >= 1000 && seen.bodies.len() == 2, "{:?}", seen.bodies);
    assert!(sandbox.workers().values().all(|process| !before.values().any(|old| old == process)));
    assert_eq!(sandbox.current(), Some(id));
}

#[test]
fn a12_rollback_by_id_and_without_brings_the_first_back() {
    let (sandbox, port, one) = serving();
    let two = site(&sandbox, "two", port, Site { body: "two", ..Site::default() });
    let two = sandbox.json(&["deploy", &two], 0)["target"].as_str().unwrap().to_owned();
    assert_eq!(get(address(port)).as_deref(), Ok("two"));
    assert_eq!(sandbox.json(&["rollback"], 0)["serving"], one.as_str());
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    assert!(sandbox.error(&["rollback"], 3).contains("no good generation"));
    sandbox.run(&["rollback", &two[..8]], 0);
    assert_eq!(get(address(port)).as_deref(), Ok("two"));
    sandbox.run(&["rollback", &one], 0);
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}

#[test]
fn a7_a_check_that_fails_changes_nothing() {
    let (sandbox, port, _) = serving();
    let before = spawns(&sandbox).len();
    let bad = Site { body: "bad", server: "nonsense;", ..Site::default() };
    refuses(&sandbox, port, bad, "failed", "canary", "unknown directive \"nonsense\"");
    assert_eq!(spawns(&sandbox)[before..], ["check bad"], "no later stage was started");
}

#[test]
fn a7_a_loader_that_fails_changes_nothing() {
    let (sandbox, port, _) = serving();
    let before = spawns(&sandbox).len();
    let loader = "loader: {command: [sh, -c, 'echo half > {loaded}/rules; echo no such rule >&2; exit 9']}\n";
    let bad = Site { body: "bad", pipeline: loader, ..Site::default() };
    refuses(&sandbox, port, bad, "failed", "loader", "no such rule");
    assert_eq!(spawns(&sandbox).len(), before, "no later stage was started");
    assert_eq!(
        std::fs::read_dir(sandbox.path("store/loaded")).unwrap().count(),
        0,
        "its output is thrown away"
    );
}

#[test]
fn a7_loader_output_is_sealed_and_used_again() {
    let (sandbox, port, _) = serving();
    let spawned = sandbox.path("spawns").display().to_string();
    let loader = format!(
        "loader:\n  command: [sh, -c, 'echo loader >> {spawned}; cp {{config}}/rules {{loaded}}/rules']\n  if_changed: [rules]\n"
    );
    let new = Site {
        body: "rules",
        pipeline: &loader,
        before: "cat \"$1/loaded/rules\" >> \"$1/../../../../spawns\"",
        ..Site::default()
    };
    sandbox.write("two/rules", "rule 1\n");
    let two = site(&sandbox, "two", port, new);
    sandbox.run(&["deploy", &two], 0);
    let lines = spawns(&sandbox);
    assert_eq!(lines.iter().filter(|line| *line == "loader").count(), 1, "{lines:?}");
    assert_eq!(lines.iter().filter(|line| *line == "rule 1").count(), 2, "{lines:?}");
    // another body, the same rules: the loader is not run
    let three = site(&sandbox, "two", port, Site { body: "three", ..new });
    let id = sandbox.run(&["push", &three], 0);
    let plan = sandbox.run(&["activate", "--dry-run", &id], 0);
    assert!(
        plan.lines()
            .any(|line| line.starts_with("skip") && line.contains("loader") && line.contains("sealed")),
        "{plan}"
    );
    sandbox.run(&["activate", &id], 0);
    assert_eq!(spawns(&sandbox).iter().filter(|line| *line == "loader").count(), 1);
    assert_eq!(get(address(port)).as_deref(), Ok("three"));
}

#[test]
fn a8_a_first_worker_that_exits_at_start_changes_nothing() {
    let (sandbox, port, _) = serving();
    let before = spawns(&sandbox).len();
    let bad = Site { body: "bad", before: "echo out of cheese >&2; exit 7", ..Site::default() };
    refuses(&sandbox, port, bad, "reverted", "workers", "out of cheese");
    assert_eq!(spawns(&sandbox)[before..], ["check bad", "worker 1 bad"], "the second was not started");
}

#[test]
fn a8_a_first_worker_that_is_never_ready_changes_nothing() {
    let (sandbox, port, _) = serving();
    let bad = Site {
        body: "bad",
        before: "echo still thinking; exec sleep 600",
        worker: "  env: {UNUSED: \"1\"}",
        ..Site::default()
    };
    let source = site(&sandbox, "bad", port, bad);
    let pipeline = std::fs::read_to_string(sandbox.path("bad/pointsman.yaml")).unwrap();
    sandbox.write("bad/pointsman.yaml", &pipeline.replace("start_timeout: 60s", "start_timeout: 700ms"));
    let (current, before) = (sandbox.current(), sandbox.workers());
    let outcome = sandbox.json(&["deploy", &source], 1);
    assert_eq!(
        (&outcome["verdict"], &outcome["stage"]),
        (&"reverted".into(), &"workers".into()),
        "{outcome:#}"
    );
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("700ms") && reason.contains("still thinking"), "{reason}");
    assert_eq!((sandbox.current(), sandbox.workers()), (current, before));
    sandbox.wait("no stray process", |status| status["workers"].as_array().unwrap().len() == 2);
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}

/// Watches from its own thread that never fewer than two workers are ready, and calls `seen` after twenty
/// looks at which one of generation `id` was.
fn never_fewer(sandbox: &Sandbox, id: &str, seen: impl Fn() + Sync, act: impl FnOnce()) {
    let done = std::sync::atomic::AtomicBool::new(false);
    // also where `act` panics: the thread is waited for
    struct Done<'a>(&'a std::sync::atomic::AtomicBool);
    impl Drop for Done<'_> {
        fn drop(&mut self) {
            self.0.store(true, std::sync::atomic::Ordering::Relaxed);
        }
    }
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let mut looks = 0;
            while !done.load(std::sync::atomic::Ordering::Relaxed) {
                let status = sandbox.status();
                let there = status["supervisor"].is_u64() || common::systemd::backend().is_some();
                assert!(there, "the supervisor does not answer: {status:#}");
                let workers = status["workers"].as_array().unwrap();
                let ready: Vec<_> = workers.iter().filter(|w| w["state"] == "ready").collect();
                assert!(ready.len() >= 2, "fewer ready workers than before: {status:#}");
                looks += usize::from(ready.iter().any(|worker| worker["generation"] == id));
                if looks == 20 {
                    seen();
                }
            }
            looks
        });
        let over = Done(&done);
        act();
        drop(over);
        assert!(watch.join().unwrap() >= 20);
    });
}

#[test]
fn a8_a_second_instance_that_fails_takes_everything_back() {
    let (sandbox, port, one) = serving();
    let load = Load::on(address(port), &["one", "bad"]);
    let enough = sandbox.path("enough").display().to_string();
    let fails = format!(
        "[ \"$POINTSMAN_INSTANCE\" = 1 ] || {{ while [ ! -e {enough} ]; do sleep 0.01; done; echo second to none >&2; exit 3; }}"
    );
    let bad = site(&sandbox, "bad", port, Site { body: "bad", before: &fails, ..Site::default() });
    let id = sandbox.run(&["push", &bad], 0);
    let seen = || drop(sandbox.write("enough", ""));
    never_fewer(&sandbox, &id, seen, || {
        let outcome = sandbox.json(&["activate", &id], 1);
        assert_eq!(
            (&outcome["verdict"], &outcome["stage"]),
            (&"reverted".into(), &"workers".into()),
            "{outcome:#}"
        );
        assert!(outcome["reason"].as_str().unwrap().contains("second to none"), "{outcome:#}");
    });
    all_on(&sandbox, &one);
    assert_eq!(load.end().failures, Vec::<String>::new());
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}

#[test]
fn a8_a_crash_in_probation_takes_everything_back() {
    let (sandbox, port, one) = serving();
    // the second instance kills itself some time after it was ready
    let dies = "[ \"$POINTSMAN_INSTANCE\" = 1 ] || ( while [ ! -s \"$1/nginx.pid\" ]; do sleep 0.01; done; sleep 0.2; kill -9 $$ ) &";
    let bad = Site { body: "bad", before: dies, ..Site::default() };
    let source = site(&sandbox, "bad", port, bad);
    let pipeline = std::fs::read_to_string(sandbox.path("bad/pointsman.yaml")).unwrap();
    sandbox.write("bad/pointsman.yaml", &pipeline.replace("probation: 300ms", "probation: 20s"));
    let outcome = sandbox.json(&["deploy", &source], 1);
    assert_eq!(
        (&outcome["verdict"], &outcome["stage"]),
        (&"reverted".into(), &"probation".into()),
        "{outcome:#}"
    );
    assert!(outcome["reason"].as_str().unwrap().contains("worker/2"), "{outcome:#}");
    all_on(&sandbox, &one);
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}

/// The pointer and both workers are on this generation, and nothing else is left.
fn all_on(sandbox: &Sandbox, id: &str) {
    assert_eq!(sandbox.current().as_deref(), Some(id));
    let status =
        sandbox.wait("the others are gone", |status| status["workers"].as_array().unwrap().len() == 2);
    assert_eq!(workers(&status).len(), 2);
    assert!(status["workers"].as_array().unwrap().iter().all(|w| w["generation"] == id), "{status:#}");
}

#[test]
fn a9_a_killed_manager_changes_nothing_and_a_new_one_touches_nothing() {
    let (mut sandbox, port, _) = serving();
    let (before, history, started) = (sandbox.workers(), sandbox.run(&["history"], 0), spawns(&sandbox));
    sandbox.end_manager(Signal::KILL);
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    assert_eq!(sandbox.status()["manager"], serde_json::Value::Null);
    sandbox.start_manager();
    assert_eq!(sandbox.workers(), before);
    assert_eq!(sandbox.run(&["history"], 0), history, "it asked for nothing");
    assert_eq!(spawns(&sandbox), started);
    sandbox.end_manager(Signal::TERM);
    assert_eq!(sandbox.workers(), before);
}

#[test]
fn a2_without_a_manager_the_caller_is_the_engine() {
    let (mut sandbox, port, _) = serving();
    sandbox.end_manager(Signal::KILL);
    let two = site(&sandbox, "two", port, Site { body: "two", ..Site::default() });
    let outcome = sandbox.json(&["deploy", &two], 0);
    assert_eq!(outcome["verdict"], "good");
    assert_eq!(get(address(port)).as_deref(), Ok("two"));
}

#[test]
fn a2_without_a_supervisor_worker_steps_are_refused_and_the_pointer_alone_may_move() {
    let sandbox = Sandbox::new();
    let one = site(&sandbox, "one", port(), Site { body: "one", ..Site::default() });
    let id = sandbox.run(&["push", &one], 0);
    let before = sandbox.snapshot();
    assert!(sandbox.error(&["activate", &id], 5).contains("pointsman manager"));
    assert_eq!(sandbox.snapshot(), before);
    let outcome = sandbox.json(&["activate", "--pointer-only", &id], 0);
    assert_eq!((&outcome["verdict"], &outcome["changed"]), (&"pointer-only".into(), &true.into()));
    assert_eq!(sandbox.current(), Some(id));
    assert_eq!(sandbox.status()["last_good"], serde_json::Value::Null, "it proves nothing");
}

#[test]
fn a4_what_is_in_force_already_is_left_alone() {
    let (sandbox, port, one) = serving();
    let (before, started) = (sandbox.workers(), spawns(&sandbox));
    let outcome = sandbox.json(&["activate", &one], 0);
    assert_eq!((&outcome["verdict"], &outcome["changed"]), (&"unchanged".into(), &false.into()));
    assert_eq!((sandbox.workers(), spawns(&sandbox)), (before.clone(), started));
    sandbox.run(&["activate", "--force", &one], 0);
    assert!(sandbox.workers().iter().all(|(slot, process)| before[slot] != *process), "--force replaces all");
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}

#[test]
fn a5_fewer_instances_are_taken_away_after_the_verdict() {
    let (sandbox, port, _) = serving();
    let load = Load::on(address(port), &["one", "two"]);
    let two = site(&sandbox, "two", port, Site { body: "two", instances: 1, ..Site::default() });
    sandbox.run(&["deploy", &two], 0);
    let status =
        sandbox.wait("one worker is left", |status| status["workers"].as_array().unwrap().len() == 1);
    assert_eq!(workers(&status).keys().collect::<Vec<_>>(), ["worker/1"]);
    assert_eq!(load.end().failures, Vec::<String>::new());
}

#[test]
fn w7_a_crashed_worker_comes_back_on_its_generation() {
    let (sandbox, port, one) = serving();
    let before = sandbox.workers();
    let victim: Process = before["worker/1"];
    common::signal_to(victim.pid, Signal::KILL);
    let status = sandbox.wait("it is back", |status| {
        workers(status).get("worker/1").is_some_and(|process| *process != victim)
    });
    assert_eq!(workers(&status)["worker/2"], before["worker/2"]);
    assert!(status["workers"].as_array().unwrap().iter().all(|w| w["generation"] == one.as_str()));
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}

#[test]
fn a10_an_engine_killed_in_the_middle_is_taken_up_by_the_next() {
    let (mut sandbox, port, one) = serving();
    let two = site(&sandbox, "two", port, Site { body: "two", before: "sleep 1", ..Site::default() });
    let id = sandbox.run(&["push", &two], 0);
    let mut caller = sandbox.command(&["activate", &id]).stderr(sandbox.log("caller.log")).spawn().unwrap();
    sandbox.wait("the first new worker is starting", |status| {
        status["workers"].as_array().unwrap().iter().any(|w| w["state"] == "starting")
    });
    let begun = Instant::now();
    sandbox.end_manager(Signal::KILL);
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    // the caller that waits finds the lock free and is the engine now
    let code = caller.wait().unwrap().code();
    assert_eq!(code, Some(0), "{}", std::fs::read_to_string(sandbox.path("caller.log")).unwrap());
    assert!(begun.elapsed() < Duration::from_secs(20));
    assert_eq!(get(address(port)).as_deref(), Ok("two"));
    sandbox.start_manager();
    let history = sandbox.json(&["history"], 0);
    let verdicts: Vec<_> =
        history["events"].as_array().unwrap().iter().map(|e| e["end"]["verdict"].clone()).collect();
    assert_eq!(verdicts, ["good", "good"]);
    assert_ne!(sandbox.current(), Some(one));
}

#[test]
fn the_subreaper_makes_a_zombie_no_life() {
    let sandbox = Sandbox::bare();
    let mut child = std::process::Command::new("true").spawn().unwrap();
    let pid = child.id();
    let begun = Instant::now();
    while process(pid).is_some() {
        assert!(begun.elapsed() < common::PATIENCE);
    }
    child.wait().unwrap();
    drop(sandbox);
}

#[test]
fn w14_changes_that_end_before_any_worker_leave_no_connection_open() {
    let (sandbox, port, _) = serving();
    let status = sandbox.status();
    let pids = [&status["manager"]["pid"], &status["supervisor"]];
    let open = || pids.map(|pid| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count());
    let bad = site(&sandbox, "bad", port, Site { body: "bad", server: "nonsense;", ..Site::default() });
    sandbox.run(&["deploy", &bad], 1);
    let few = open().map(|count| count + 4);
    for _ in 0..8 {
        sandbox.run(&["deploy", &bad], 1);
    }
    sandbox.wait("they are closed", |_| open().iter().zip(few).all(|(now, few)| *now < few));
}

#[test]
fn d1_the_same_holds_under_systemd() {
    // what has no supervisor needs none, and keeps no connection to it
    let others = [
        "a2_without_a_supervisor_worker_steps_are_refused",
        "w14_changes_that_end_before_any_worker_leave_no_connection_open",
    ];
    common::systemd::passes_under(common::systemd::Scope::System, &others, 15);
}
