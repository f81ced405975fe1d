//! The manager killed between an event and its verdict, at every call that changes something and while every
//! stage runs; and refused the disk there. Workers serve while it is gone; afterwards the change is finished or
//! undone as rule A10 of `spec/activation.md` says for what is durable of it, with one verdict.
//!
//! Of the calls a part is tried; `scripts/soak` tries all (the ignored tests).
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;
mod service;
mod table;
mod trace;

use common::process;
use rustix::process::Signal;
use serde_json::Value;
use service::{BAD, Generation, Next, Service, until};
use table::{Duty, durable, marks};
use trace::{Point, Trace, points, spread};

/// What is asked of the manager that is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    /// an activation that ends good
    Good,
    /// one whose second worker fails
    Bad,
    /// a rollback, good
    Rollback,
}

impl Change {
    /// How it ends where it is carried out.
    fn verdict(self) -> &'static str {
        match self {
            Change::Good | Change::Rollback => "good",
            Change::Bad => "reverted",
        }
    }

    fn words(self) -> &'static str {
        if self == Change::Rollback { "rollback" } else { "activate" }
    }

    /// The generation that it leads to.
    fn target(self, service: &mut Service, probation: &str) -> Generation {
        match self {
            Change::Good => service.push("", probation),
            Change::Bad => service.push(BAD, probation),
            Change::Rollback => {
                let back = service.now.clone();
                let next = service.push("", probation);
                service.load.expect(&[&back.body, &next.body]);
                service.sandbox.run(&["activate", &next.id], 0);
                service.settled(next, "before a rollback");
                back
            }
        }
    }
}

/// An event that a killed manager has left.
struct Left {
    case: String,
    change: Change,
    event: u64,
    target: Generation,
}

impl Left {
    /// Has it seen to by `next`, and looks whether it was done as A10 says.
    fn is_taken_up(&self, service: &mut Service, next: Next, well: bool, on_the_way: impl FnOnce(&Service)) {
        let Left { case, change, event, target } = self;
        let before = durable(service, *event, target, well);
        let case = &format!("{case}: {}", before.words);
        let stood = service.outcome(*event);
        let count = |service: &Service, stages: &[&str]| -> usize {
            stages.iter().map(|stage| service.reached(stage, target)).sum()
        };
        let stages = ["loader", "check", "worker-0", "probe"];
        let proven = count(service, &stages);
        let started = count(service, &["worker-1", "worker-2"]);
        let accepted = service.sandbox.workers();
        let running: Vec<Value> = service.sandbox.status()["workers"].as_array().unwrap().clone();
        service.serves();
        on_the_way(service);
        service.take_up(next);
        let outcome = service.verdict(*event);
        let expected = match before.duty {
            Duty::Run | Duty::Finish => change.verdict(),
            Duty::Undo => "reverted",
            Duty::Fail => "failed",
            Duty::Nothing => stood.as_ref().unwrap()["verdict"].as_str().unwrap(),
        };
        assert_eq!(outcome["verdict"], expected, "{case}: {outcome:#}");
        let begun = marks(service, *event).iter().filter(|mark| mark["begun"].is_object()).count();
        let goes_on = !matches!(before.duty, Duty::Fail | Duty::Nothing);
        assert_eq!(begun, before.begun + usize::from(goes_on), "{case}: {outcome:#}");
        assert_eq!(
            outcome["serving"],
            if expected == "good" { &*target.id } else { &*service.now.id },
            "{case}"
        );
        let now = if expected == "good" { target.clone() } else { service.now.clone() };
        let serving = service.settled(now, case);
        if before.duty == Duty::Run {
            assert!(count(service, &["check"]) > 0, "{case}: it is checked");
        } else {
            assert_eq!(count(service, &stages), proven, "{case}: no stage is run again");
        }
        if matches!(before.duty, Duty::Undo | Duty::Fail | Duty::Nothing) {
            assert_eq!(
                count(service, &["worker-1", "worker-2"]),
                started,
                "{case}: nothing of it is started"
            );
        }
        // whoever ran what is in force now was left alone; where the second worker fails, the first goes and comes
        let anew = *change == Change::Bad && matches!(before.duty, Duty::Run | Duty::Finish);
        for worker in running.iter().filter(|worker| worker["generation"] == service.now.id) {
            let slot = format!("{}/{}", worker["group"].as_str().unwrap(), worker["instance"]);
            let there = accepted.get(&slot).filter(|process| worker["pid"] == process.pid);
            if let Some(process) = there.filter(|_| !anew || slot == "worker/2") {
                assert_eq!(serving.get(&slot), Some(process), "{case}: {slot} was replaced for nothing");
            }
        }
        if let Some(stood) = stood {
            assert_eq!(outcome, stood, "{case}");
        }
    }
}

/// What an untouched manager calls for such a change; only from its swing on, where asked.
fn calls(service: &mut Service, change: Change, from_the_swing: bool) -> Vec<String> {
    undisturbed(service);
    let target = change.target(service, "100ms");
    let (trace, event) = traced(service, change, &target, from_the_swing, None);
    let outcome = service.verdict(event);
    assert_eq!(outcome["verdict"], change.verdict(), "{outcome:#}");
    let now = if change == Change::Bad { service.now.clone() } else { target };
    service.sandbox.wait("nothing is left to do", |status| status["activation"].is_null());
    let lines = trace.end();
    service.settled(now, "untouched");
    lines
}

/// Asks for such a change, the manager looked at from the event or from the swing on.
fn traced(
    service: &Service,
    change: Change,
    target: &Generation,
    from_the_swing: bool,
    inject: Option<&str>,
) -> (Trace, u64) {
    let manager = manager_of(service);
    if !from_the_swing {
        let trace = Trace::attach(service, manager, inject);
        return (trace, service.ask(change.words(), target));
    }
    // the last stage before it is held until somebody looks
    let stage = if change == Change::Rollback { "check" } else { "probe" };
    let before = service.reached(stage, target);
    let gate = service.shut(stage, target);
    let event = service.ask(change.words(), target);
    service.until_reached(stage, target, before + 1);
    let trace = Trace::attach(service, manager, inject);
    gate.open();
    (trace, event)
}

/// An activation that nothing happens to: what it leaves in the store is what the enumerated one has found.
fn undisturbed(service: &mut Service) {
    let target = Change::Good.target(service, "0s");
    service.load.expect(&[&service.now.body, &target.body]);
    service.sandbox.run(&["activate", &target.id], 0);
    service.settled(target, "undisturbed");
}

fn manager_of(service: &Service) -> u32 {
    u32::try_from(service.sandbox.status()["manager"]["pid"].as_u64().unwrap()).unwrap()
}

/// Kills the manager at so many of the calls that it makes for such a change.
fn kills(change: Change, many: usize) {
    let mut service = Service::new();
    let all = points(&calls(&mut service, change, false));
    let chosen = spread(&all, many);
    let mut missed = 0;
    for (index, point) in chosen.iter().enumerate() {
        let target = change.target(&mut service, "100ms");
        let manager = manager_of(&service);
        let Point { call, n, .. } = point;
        let inject = format!("{call}:signal=KILL:when={n}");
        let (trace, event) = traced(&service, change, &target, false, Some(&inject));
        until("its end, or that of the change", || {
            let over = service.outcome(event).is_some() && service.sandbox.status()["activation"].is_null();
            (over || process(manager).is_none()).then_some(())
        });
        trace.end();
        service.sandbox.status();
        if process(manager).is_some() {
            // how often it wakes a thread or flushes is not the same each time
            missed += 1;
            let now = if change == Change::Bad { service.now.clone() } else { target };
            service.settled(now, "not killed");
            continue;
        }
        service.sandbox.end_manager(Signal::KILL);
        let left = Left { case: format!("{change:?} killed at {call} {n}"), change, event, target };
        let next = if index % 3 == 2 { Next::Caller } else { Next::Manager };
        left.is_taken_up(&mut service, next, true, |_| {});
    }
    eprintln!("{change:?}: killed at {} of {} calls", chosen.len() - missed, all.len());
    assert!(missed * 4 <= chosen.len(), "{missed} of {} points were not reached", chosen.len());
    assert!(all.len() > 20, "{all:#?}");
    let seen = service.load.end();
    assert_eq!(seen.failures, Vec::<String>::new());
    eprintln!("{change:?}: {} requests, none failed", seen.requests());
}

/// Kills the manager while stage `stage` of the target, or of what is put back, is held.
struct Held {
    change: Change,
    stage: &'static str,
    /// whether it is the stage of the generation from before, on the way back
    back: bool,
    next: Next,
}

impl Held {
    fn is_survived(&self, service: &mut Service) {
        let Held { change, stage, back, next } = *self;
        let target = change.target(service, "100ms");
        let of = if back { service.now.clone() } else { target.clone() };
        let before = service.reached(stage, &of);
        let gate = service.shut(stage, &of);
        let manager = manager_of(service);
        let event = service.ask(change.words(), &target);
        service.until_reached(stage, &of, before + 1);
        service.serves();
        service.sandbox.end_manager(Signal::KILL);
        assert!(process(manager).is_none() && service.outcome(event).is_none());
        let case = format!("{change:?} killed in {stage} of {}", of.body);
        let left = Left { case, change, event, target };
        let is_worker = stage.starts_with("worker") && stage != "worker-0";
        // a candidate waits with nobody there; a program of the manager is gone with it, and runs once more
        left.is_taken_up(service, next, true, |service| {
            assert_eq!(service.reached(stage, &of), before + 1);
            gate.open();
        });
        let again = service.reached(stage, &of) - before;
        // one that has failed meanwhile was not heard of
        let once = is_worker && (change, back) != (Change::Bad, false);
        assert_eq!(again, if once { 1 } else { 2 }, "{}", left.case);
    }
}

#[test]
fn a10_a_good_change_survives_a_kill_at_its_calls() {
    kills(Change::Good, 7);
}

#[test]
fn a10_a_change_that_is_taken_back_survives_a_kill_at_its_calls() {
    kills(Change::Bad, 8);
}

#[test]
fn a10_a_rollback_survives_a_kill_at_its_calls() {
    kills(Change::Rollback, 5);
}

#[test]
#[ignore = "every call: scripts/soak"]
fn a10_every_change_survives_a_kill_at_every_call() {
    for change in [Change::Good, Change::Bad, Change::Rollback] {
        kills(change, usize::MAX);
    }
}

#[test]
fn a10_a_manager_is_killed_while_each_stage_runs() {
    let mut service = Service::new();
    let stages = [
        (Change::Good, "loader", false),
        (Change::Good, "check", false),
        (Change::Good, "worker-0", false),
        (Change::Good, "probe", false),
        (Change::Good, "worker-1", false),
        (Change::Good, "worker-2", false),
        (Change::Bad, "worker-2", false),
        (Change::Bad, "worker-1", true),
        (Change::Rollback, "check", false),
        (Change::Rollback, "worker-1", false),
        (Change::Rollback, "worker-2", false),
    ];
    for (index, (change, stage, back)) in stages.into_iter().enumerate() {
        let next = if index % 2 == 0 { Next::Manager } else { Next::Caller };
        Held { change, stage, back, next }.is_survived(&mut service);
    }
    assert_eq!(service.load.end().failures, Vec::<String>::new());
}

#[test]
fn a10_a_manager_is_killed_in_probation() {
    let mut service = Service::new();
    for next in [Next::Manager, Next::Caller] {
        let change = Change::Good;
        let target = change.target(&mut service, "2s");
        let event = service.ask(change.words(), &target);
        in_probation(&service, event);
        service.sandbox.end_manager(Signal::KILL);
        assert!(service.outcome(event).is_none());
        let left = Left { case: "killed in probation".to_owned(), change, event, target };
        left.is_taken_up(&mut service, next, true, |_| {});
        let outcome = service.outcome(event).unwrap();
        let steps = outcome["steps"].as_array().unwrap();
        let probation = steps.iter().find(|step| step["step"] == "probation").unwrap();
        assert!(probation["ms"].as_u64().unwrap() >= 2000, "in full: {outcome:#}");
    }
    assert_eq!(service.load.end().failures, Vec::<String>::new());
}

#[test]
fn a10_a_worker_that_ends_while_nobody_looks_takes_everything_back() {
    let mut service = Service::new();
    for next in [Next::Manager, Next::Caller] {
        let change = Change::Good;
        let target = change.target(&mut service, "20s");
        let event = service.ask(change.words(), &target);
        in_probation(&service, event);
        service.sandbox.end_manager(Signal::KILL);
        // asked to end, so that it finishes what it has accepted: nobody starts it again
        let victim = service.sandbox.workers()["worker/2"];
        common::signal_to(victim.pid, Signal::TERM);
        until("its end", || (!victim.is_alive()).then_some(()));
        let left = Left { case: "a worker ended".to_owned(), change, event, target };
        left.is_taken_up(&mut service, next, false, |_| {});
        let reason = service.outcome(event).unwrap()["reason"].to_string();
        assert!(reason.contains("interrupted"), "{reason}");
    }
    assert_eq!(service.load.end().failures, Vec::<String>::new());
}

/// Waits until both workers of an event are there, and it has no verdict.
fn in_probation(service: &Service, event: u64) {
    until("probation", || {
        let ready = |mark: &Value| mark["note"]["step"] == "worker/2" && mark["note"]["result"] == "ok";
        marks(service, event).iter().any(ready).then_some(())
    });
    assert!(service.outcome(event).is_none());
}

#[test]
fn a10_interrupted_twice_is_the_end_of_it() {
    let mut service = Service::new();
    for (stage, next) in [("loader", Next::Manager), ("check", Next::Caller), ("worker-0", Next::Manager)] {
        let change = Change::Good;
        let target = change.target(&mut service, "100ms");
        let gate = service.shut(stage, &target);
        let event = service.ask(change.words(), &target);
        service.until_reached(stage, &target, 1);
        service.sandbox.end_manager(Signal::KILL);
        service.sandbox.spawn_manager();
        service.until_reached(stage, &target, 2);
        service.sandbox.end_manager(Signal::KILL);
        let left = Left { case: format!("killed twice in {stage}"), change, event, target };
        left.is_taken_up(&mut service, next, true, |_| {});
        let outcome = service.outcome(event).unwrap();
        let named = if stage == "loader" { "loader" } else { "canary" };
        assert_eq!(outcome["stage"], named, "{outcome:#}");
        assert_eq!(outcome["reason"], format!("interrupted twice in {named}"), "{outcome:#}");
        gate.open();
    }
    assert_eq!(service.load.end().failures, Vec::<String>::new());
}

/// Has the manager refused the disk at so many of the calls that it makes for such a change from the swing on.
fn faults(change: Change, errors: &[&str], many: usize) {
    let mut service = Service::new();
    let lines = calls(&mut service, change, true);
    let swing = lines.iter().position(|line| line.contains("swinging")).expect("the mark of the swing");
    let before = points(&lines[..swing]).len();
    // the rest of its writing is to other processes
    let store = service.sandbox.path("store").display().to_string();
    let all: Vec<Point> =
        points(&lines).into_iter().skip(before).filter(|point| point.line.contains(&store)).collect();
    let chosen = spread(&all, many);
    for (index, point) in chosen.iter().enumerate() {
        let error = errors[index % errors.len()];
        undisturbed(&mut service);
        let target = change.target(&mut service, "100ms");
        let Point { call, n, .. } = point;
        let inject = format!("{call}:error={error}:when={n}");
        let (trace, event) = traced(&service, change, &target, true, Some(&inject));
        let outcome = service.verdict(event);
        service.sandbox.wait("nothing is left to do", |status| status["activation"].is_null());
        let lines = trace.end();
        let case = format!("{change:?}, {error} at {call} {n}");
        let hit = lines.iter().find(|line| line.contains("(INJECTED)"));
        let hit = hit.unwrap_or_else(|| panic!("{case} was not reached: {lines:#?}"));
        let case = format!("{case}: {hit}");
        let back = match outcome["verdict"].as_str().unwrap() {
            "good" => false,
            "failed" | "reverted" => true,
            _ => panic!("{case}: {outcome:#}"),
        };
        assert!(back || change != Change::Bad, "{case}: {outcome:#}");
        let now = if back { service.now.clone() } else { target };
        assert_eq!(outcome["serving"], now.id.as_str(), "{case}: {outcome:#}");
        service.settled(now, &case);
    }
    eprintln!("{change:?}: refused the disk at {} of {} calls", chosen.len(), all.len());
    assert!(all.len() > 5, "{all:#?}");
    assert_eq!(service.load.end().failures, Vec::<String>::new());
}

#[test]
fn a8_a_good_change_survives_a_full_and_a_broken_disk_from_the_swing_on() {
    faults(Change::Good, &["ENOSPC", "EIO"], 5);
}

#[test]
fn a8_a_change_that_is_taken_back_survives_a_full_and_a_broken_disk_from_the_swing_on() {
    faults(Change::Bad, &["EIO", "ENOSPC"], 6);
}

#[test]
#[ignore = "every call: scripts/soak"]
fn a8_every_change_survives_a_full_and_a_broken_disk_from_the_swing_on() {
    for change in [Change::Good, Change::Bad, Change::Rollback] {
        for error in ["ENOSPC", "EIO"] {
            faults(change, &[error], usize::MAX);
        }
    }
}
