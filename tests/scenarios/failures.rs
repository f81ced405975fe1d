//! X1 to X12: what is known to take another service down, and what it takes here.

use crate::common::actor::{Part, Stage, starts};
use crate::common::{end, load, signal_to, until};
use crate::{activate, all_right, one_set, verdict};
use rustix::process::Signal;

/// Activates what has to end so, after which everything is as before: pointer, processes, loader output, and every
/// answer meanwhile. Returns the reason.
fn changes_nothing(stage: &Stage, id: &str, code: i32, expected: (&str, &str)) -> String {
    let (sandbox, answer) = (&stage.sandbox, stage.answer());
    let before = (sandbox.current(), sandbox.workers(), stage.outputs());
    let load = stage.load(&[&answer]);
    let outcome = sandbox.json(&["activate", id], code);
    load.more(50);
    all_right(&load.end());
    assert_eq!(verdict(&outcome), expected, "{outcome:#}");
    assert_eq!((sandbox.current(), sandbox.workers(), stage.outputs()), before);
    one_set(stage);
    outcome["reason"].as_str().unwrap().to_owned()
}

#[test]
fn x1_where_every_new_worker_would_fail_the_canary_does_and_no_client_notices() {
    let stage = Stage::with(Part::default());
    for (plays, start_timeout, said) in [
        ("all fails 3", "10s", "told to fail"),
        ("all ready-then-dies 4", "10s", "status 4"),
        ("all never-ready", "1s", "not ready within 1s"),
    ] {
        let bad = Part { marker: "bad", plays, start_timeout, ..Part::default() };
        let bad = stage.push("bad", bad);
        let mark = stage.mark();
        let reason = changes_nothing(&stage, &bad, 1, ("failed", "canary"));
        assert!(reason.contains("canary") && reason.contains(said), "{reason}");
        assert_eq!(stage.since(mark), starts([("check", 1), ("canary", 1)]));
    }
}

#[test]
fn x2_where_the_loader_fails_no_canary_is_started() {
    let stage = Stage::with(Part::default());
    let bad = Part { marker: "bad", rules: "bad", plays: "loader fails 5\nall fails 3", ..Part::default() };
    let bad = stage.push("bad", bad);
    let mark = stage.mark();
    let reason = changes_nothing(&stage, &bad, 1, ("failed", "loader"));
    assert!(reason.contains("status 5") && reason.contains("told to fail"), "{reason}");
    assert_eq!(stage.since(mark), starts([("loader", 1)]));
}

#[test]
fn x3_what_only_a_cold_start_may_change_is_refused_before_anything_is_loaded() {
    let stage = Stage::with(Part::default());
    let settings = "views: [y]\ntls: {cert: c}\nrundir: /elsewhere\nthreads: 4\n";
    let bad = stage.push("bad", Part { rules: "b", settings, ..Part::default() });
    let mark = stage.mark();
    let reason = changes_nothing(&stage, &bad, 7, ("refused", "preflight"));
    assert!(reason.contains("settings.yaml#/rundir") && reason.contains("--cold"), "{reason}");
    assert_eq!(stage.since(mark), starts([]));
}

#[test]
fn x4_a_bad_file_ends_a_deploy_with_a_reason_and_an_exit_code_of_its_own() {
    let stage = Stage::with(Part::default());
    let before = (stage.sandbox.current(), stage.sandbox.workers());
    let mark = stage.mark();
    let broken = Part { settings: "views: [x\n", ..Part::default() };
    let refused = Part { marker: "bad", plays: "check fails 4", ..Part::default() };
    let unknown = Part { pipeline: "wrokers: {}\n", ..Part::default() };
    let said = |name: &str, part: Part<'_>, code: i32| {
        stage.write(name, part);
        String::from_utf8(stage.sandbox.output(&["deploy", name], code).stderr).unwrap()
    };
    let text = said("broken", broken, 7);
    assert!(text.contains("settings.yaml"), "{text}");
    let text = said("unknown", unknown, 7);
    assert!(text.contains("wrokers") && text.contains("workers"), "{text}");
    assert_eq!(stage.since(mark), starts([]));
    let text = said("refused", refused, 1);
    assert!(text.contains("status 4") && text.contains("told to fail"), "{text}");
    assert_eq!(stage.since(mark), starts([("check", 1)]));
    assert_eq!((stage.sandbox.current(), stage.sandbox.workers()), before);
    assert_eq!(stage.answer(), "one a");
}

#[test]
fn x5_a_manager_killed_at_rest_costs_nobody_a_process() {
    let mut stage = Stage::with(Part::default());
    let before = (stage.sandbox.current(), stage.sandbox.workers(), stage.events());
    let (mark, load) = (stage.mark(), stage.load(&["one a"]));
    for _ in 0..3 {
        stage.sandbox.end_manager(Signal::KILL);
        load.more(50);
        assert_eq!(stage.sandbox.workers(), before.1, "without a manager");
        stage.sandbox.start_manager();
        load.more(50);
    }
    all_right(&load.end());
    assert_eq!((stage.sandbox.current(), stage.sandbox.workers(), stage.events()), before);
    assert_eq!(stage.since(mark), starts([]));
    one_set(&stage);
}

#[test]
fn x6_a_bad_wish_and_a_killed_manager_cost_nobody_a_process() {
    let mut stage = Stage::with(Part::default());
    let before = (stage.sandbox.current(), stage.sandbox.workers());
    let held = stage.sandbox.write("held", "");
    let plays = format!("check waits {}\nall fails 3", held.display());
    let bad = stage.push("bad", Part { marker: "bad", plays: &plays, ..Part::default() });
    let (mark, load) = (stage.mark(), stage.load(&["one a"]));
    end(stage.sandbox.background(&["activate", "--no-wait", &bad]), 0);
    until("the check", || stage.since(mark).contains_key("check"));
    stage.sandbox.end_manager(Signal::KILL);
    std::fs::remove_file(held).unwrap();
    stage.sandbox.start_manager();
    let last = &stage.sandbox.status()["last"];
    assert_eq!((&last["verdict"], &last["event"]), (&"failed".into(), &2.into()), "{last:#}");
    // the pointer alone on what cannot run: it is shown, and acted upon only when somebody asks
    stage.sandbox.run(&["activate", "--pointer-only", &bad], 0);
    stage.sandbox.end_manager(Signal::KILL);
    stage.sandbox.start_manager();
    load.more(50);
    assert_eq!(stage.sandbox.workers(), before.1);
    assert_eq!(stage.since(mark), starts([("check", 2), ("canary", 1)]), "the second one was interrupted");
    let outcome = stage.sandbox.json(&["activate", "@"], 1);
    assert_eq!(verdict(&outcome), ("failed", "canary"), "{outcome:#}");
    stage.sandbox.run(&["rollback"], 0);
    load.more(50);
    all_right(&load.end());
    assert_eq!((stage.sandbox.current(), stage.sandbox.workers()), before);
    one_set(&stage);
}

#[test]
fn x7_a_supervisor_killed_and_started_again_adopts_the_one_set() {
    let mut stage = Stage::with(Part::default());
    let before = stage.sandbox.workers();
    let (mark, load) = (stage.mark(), stage.load(&["one a"]));
    let supervisor =
        |stage: &Stage| u32::try_from(stage.sandbox.status()["supervisor"].as_u64().unwrap()).unwrap();
    // below a manager, which starts the next one when it needs it
    let first = supervisor(&stage);
    signal_to(first, Signal::KILL);
    until("its end", || crate::common::process(first).is_none());
    assert_eq!(stage.sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
    let second = supervisor(&stage);
    assert_ne!(first, second);
    one_set(&stage);
    // and with it
    stage.sandbox.end_manager(Signal::KILL);
    signal_to(second, Signal::KILL);
    until("its end", || crate::common::process(second).is_none());
    load.more(50);
    stage.sandbox.start_manager();
    one_set(&stage);
    assert_eq!(stage.sandbox.workers(), before);
    all_right(&load.end());
    assert_eq!(stage.since(mark), starts([]));
    // what was adopted is replaced like any other
    activate(&stage, &stage.push("two", Part { marker: "two", ..Part::default() }));
    one_set(&stage);
    assert_eq!(stage.since(mark), starts([("check", 1), ("canary", 1), ("worker", 2)]));
    assert!(before.values().all(|process| !process.is_alive()));
}

#[test]
fn x8_of_changes_that_come_together_the_latest_wins_and_every_caller_gets_a_verdict() {
    let stage = Stage::with(Part::default());
    let held = stage.sandbox.write("held", "");
    let plays = format!("check waits {}\ncheck fails 4", held.display());
    let first = stage.push("held-up", Part { marker: "held-up", plays: &plays, ..Part::default() });
    let (two, three) = (
        stage.push("two", Part { marker: "two", ..Part::default() }),
        stage.push("three", Part { marker: "three", ..Part::default() }),
    );
    let (mark, load) = (stage.mark(), stage.load(&["one a", "three a"]));
    let first = stage.sandbox.background(&["activate", &first]);
    until("the check", || stage.since(mark).contains_key("check"));
    let mut waiting = Vec::new();
    for (id, event) in [(&two, 3), (&three, 4)] {
        waiting.push(stage.sandbox.background(&["activate", id]));
        until("its event", || stage.sandbox.path(&format!("store/events/{event}.json")).exists());
    }
    std::fs::remove_file(held).unwrap();
    let (three_out, two_out) = (end(waiting.pop().unwrap(), 0), end(waiting.pop().unwrap(), 5));
    assert_eq!(end(first, 1)["verdict"], "failed");
    assert_eq!(two_out["verdict"], "superseded", "{two_out:#}");
    assert_eq!((&three_out["verdict"], &three_out["serving"]), (&"good".into(), &three.as_str().into()));
    all_right(&load.end());
    assert_eq!(
        stage.since(mark),
        starts([("check", 2), ("canary", 1), ("worker", 2)]),
        "one change, not two"
    );
    one_set(&stage);
}

#[test]
fn x9_a_first_start_takes_n_processes_and_a_canary_and_so_does_a_change() {
    let mut stage = Stage::new();
    let nothing = stage.mark();
    let one = stage.push("one", Part { instances: 3, ..Part::default() });
    activate(&stage, &one);
    assert_eq!(stage.since(nothing), starts([("loader", 1), ("check", 1), ("canary", 1), ("worker", 3)]));
    let mark = stage.mark();
    activate(&stage, &stage.push("two", Part { marker: "two", instances: 3, ..Part::default() }));
    assert_eq!(stage.since(mark), starts([("check", 1), ("canary", 1), ("worker", 3)]));
    assert_eq!(stage.sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
    // as after a boot: it is known to be good, so that nothing need be tried before it serves
    stage.sandbox.kill_everything();
    std::fs::remove_dir_all(stage.sandbox.path("store/run")).unwrap();
    let mark = stage.mark();
    stage.sandbox.start_manager();
    let status = stage.sandbox.wait("the cold start", |status| status["last"]["event"] == 4);
    assert_eq!(status["last"]["verdict"], "good");
    assert_eq!(stage.since(mark), starts([("check", 1), ("worker", 3)]));
    assert_eq!(stage.answer(), "two a");
    one_set(&stage);
}

#[test]
fn x10_the_same_bad_change_meets_the_canary_each_time() {
    let stage = Stage::with(Part::default());
    let bad = stage.push("bad", Part { marker: "bad", plays: "all fails 3", ..Part::default() });
    for _ in 0..3 {
        let mark = stage.mark();
        changes_nothing(&stage, &bad, 1, ("failed", "canary"));
        assert_eq!(stage.since(mark), starts([("check", 1), ("canary", 1)]));
    }
}

#[test]
fn x11_where_a_later_worker_fails_the_replaced_ones_are_put_back() {
    let stage = Stage::with(Part { instances: 3, ..Part::default() });
    let one = stage.sandbox.current();
    let first = stage.sandbox.workers();
    // who fails, and how many of the bad ones and of those put back are started
    for (plays, started) in [("3 fails 3", 3 + 2), ("2 hangs", 2 + 1)] {
        let before = stage.sandbox.workers();
        let part = Part { marker: "bad", plays, instances: 3, start_timeout: "5s", ..Part::default() };
        let bad = stage.push("bad", part);
        let (mark, load) = (stage.mark(), stage.load(&["one a", "bad a"]));
        let outcome = stage.sandbox.json(&["activate", &bad], 1);
        assert_eq!(verdict(&outcome), ("reverted", "workers"), "{outcome:#}");
        one_set(&stage);
        load.expect(&["one a"]);
        load.more(50);
        all_right(&load.end());
        assert_eq!((stage.sandbox.current(), on(&stage, &bad)), (one.clone(), 0));
        let after = stage.sandbox.workers();
        let kept = after.iter().filter(|(slot, process)| before[*slot] == **process).count();
        assert_eq!((after.len(), 3 - kept), (3, started / 2), "only whom it had replaced");
        assert_eq!(stage.since(mark), starts([("check", 1), ("canary", 1), ("worker", started)]));
    }
    assert_eq!(first["worker/3"], stage.sandbox.workers()["worker/3"], "nothing ever took its place");
    // all were replaced when one of them dies; what it had accepted dies with it, so that nobody asks meanwhile
    let part = Part {
        marker: "bad",
        plays: "3 crashes 500",
        instances: 3,
        pipeline: "probation: 60s",
        ..Part::default()
    };
    let bad = stage.push("bad", part);
    let outcome = stage.sandbox.json(&["activate", &bad], 1);
    assert_eq!(outcome["verdict"], "reverted", "{outcome:#}");
    one_set(&stage);
    assert_eq!((stage.sandbox.current(), on(&stage, &bad)), (one, 0));
    assert_eq!((stage.sandbox.workers().len(), stage.answer().as_str()), (3, "one a"));
}

/// How many workers run a generation.
fn on(stage: &Stage, id: &str) -> usize {
    let status = stage.sandbox.status();
    status["workers"].as_array().unwrap().iter().filter(|worker| worker["generation"] == id).count()
}

#[test]
fn x12_no_request_is_lost_while_workers_are_replaced() {
    let stage = Stage::with(Part { plays: "workers slow-answer 30", ..Part::default() });
    let load = stage.load(&["one a"]);
    let mut before = "one a".to_owned();
    for (marker, plays) in
        [("two", "workers slow-answer 60"), ("three", "workers slow-end 200"), ("four", "workers forks")]
    {
        let after = format!("{marker} a");
        let old = stage.sandbox.workers();
        let id = stage.push(marker, Part { marker, plays, ..Part::default() });
        load.expect(&[&before, &after]);
        activate(&stage, &id);
        load.more(50);
        until("the end of the old ones", || old.values().all(|process| !process.is_alive()));
        load.expect(&[&after]);
        load.more(50);
        before = after;
    }
    let seen = load.end();
    all_right(&seen);
    assert_eq!(seen.bodies.len(), 4, "{seen:?}");
    assert_eq!(load::get(stage.address()).as_deref(), Ok("four a"));
}
