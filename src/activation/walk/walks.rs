//! Where the walks begin, and the ends that each of them must have.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::super::*;
use super::Walk;
use super::world::{Budget, World, from, slot, to};
use crate::model::{GenerationId, LoadedKey, Repair, Request, Slot, Stage, Verdict};

pub(super) fn facts(world: &World) -> Facts {
    let second = Duration::from_secs(1);
    Facts {
        request: Request::Activate,
        target: to(),
        from: world.from,
        current: world.current,
        finishes: false,
        last_good: world.from,
        pointer_only: false,
        force: false,
        cold: world.cold,
        stopped: has_stopped(&world.marks),
        grace: second,
        group: None,
        confirm: false,
        loader: Some(LoaderFacts { key: key(), sealed: false, sections: 2, timeout: second }),
        checks: vec!["first".to_owned(), "second".to_owned()],
        check_timeout: second,
        canary: Some(CanaryFacts { what: "one worker".to_owned(), seen_good: false, limit: second }),
        slots: (1..=2).map(|i| (slot(i), second)).collect(),
        stop_first: if world.stop_first { [slot(1), slot(2)].into() } else { BTreeSet::new() },
        in_place: match world.in_place {
            true => world.slots.keys().map(|slot| (slot.clone(), String::new())).collect(),
            false => BTreeMap::new(),
        },
        probation: second,
        running: runs(world),
        changes: BTreeMap::new(),
        drifted: Vec::new(),
        unproven: false,
        repairs: false,
        back_slots: if world.from.is_some() { vec![slot(1), slot(2)] } else { Vec::new() },
        back_limit: second,
    }
}

fn key() -> LoadedKey {
    LoadedKey::of(b"key")
}

fn runs(world: &World) -> Vec<Running> {
    let of = |(slot, generation): (&Slot, &GenerationId)| {
        let loaded = (*generation == to()).then(key);
        let ready = !world.down.contains(slot) && !world.ill.contains(slot);
        Running { slot: slot.clone(), generation: *generation, loaded, ready }
    };
    world.slots.iter().map(of).collect()
}

/// A service that runs, and is changed.
pub(super) fn running() -> World {
    World::new(Some(from()), 2)
}

/// As few steps as there can be of each kind but the canary.
pub(super) fn small(world: &World) -> Facts {
    let mut facts = Facts { canary: None, loader: None, back_slots: vec![slot(1)], ..facts(world) };
    facts.slots.retain(|of, _| *of == slot(1));
    facts.checks.truncate(1);
    facts.running.iter_mut().for_each(|running| running.loaded = None);
    facts
}

/// The pointer was moved alone: nothing of what it names runs.
pub(super) fn moved_alone() -> World {
    World { from: Some(to()), current: Some(to()), ..running() }
}

/// The machine has just come up.
pub(super) fn down() -> World {
    World { from: Some(to()), current: Some(to()), ..World::new(None, 0) }
}

pub(super) fn alone(world: &World) -> Facts {
    Facts { last_good: Some(from()), back_slots: vec![slot(1), slot(2)], ..facts(world) }
}

pub(super) fn cold(world: &World) -> Facts {
    let (from, last_good) = (Some(to()), Some(from()));
    Facts { request: Request::Start, from, last_good, ..facts(world) }
}

/// A cold start on a machine that knows nothing else good.
pub(super) fn cold_and_only(world: &World) -> Facts {
    Facts { last_good: Some(to()), ..cold(world) }
}

pub(super) fn confirmed(world: &World) -> Facts {
    Facts { confirm: true, ..facts(world) }
}

pub(super) fn pointer_only(world: &World) -> Facts {
    Facts { pointer_only: true, back_slots: Vec::new(), ..facts(world) }
}

pub(super) fn restart(world: &World) -> Facts {
    Facts { request: Request::Restart, last_good: Some(to()), ..facts(world) }
}

/// What is in force runs, and is restarted.
pub(super) fn in_force() -> World {
    let slots = [slot(1), slot(2)].map(|slot| (slot, to())).into();
    World { slots, ..moved_alone() }
}

/// The last good generation is in force, with a slot that runs something and one that does not; it is put right, and
/// what was good before it would be sound.
pub(super) fn repair(world: &World) -> Facts {
    Facts {
        request: Request::Start,
        last_good: Some(from()),
        loader: Some(LoaderFacts { key: key(), sealed: true, sections: 2, timeout: Duration::from_secs(1) }),
        canary: None,
        back_slots: vec![slot(1), slot(2)],
        ..facts(world)
    }
}

/// One slot of two is gone.
pub(super) fn one_gone() -> World {
    let slots = [(slot(1), to())].into();
    let repair =
        Repair { slots: vec![slot(2)], why: "gone".to_owned(), current: Some(to()), pointer_stays: false };
    World { slots, before: [slot(1)].into(), repair: Some(repair), ..moved_alone() }
}

/// Everything is gone, and `current` names what nobody has seen good: a repair takes the pointer along.
pub(super) fn all_gone() -> World {
    let slots = vec![slot(1), slot(2)];
    let repair = Repair { slots, why: "gone".to_owned(), current: Some(from()), pointer_stays: false };
    World { repair: Some(repair), ..World { slots: BTreeMap::new(), before: BTreeSet::new(), ..running() } }
}

/// One slot is gone, and the pointer alone was moved off the last good generation: it stays where it is.
fn one_gone_under_another() -> World {
    let repair =
        Repair { slots: vec![slot(2)], why: "gone".to_owned(), current: Some(from()), pointer_stays: true };
    World { from: Some(from()), current: Some(from()), repair: Some(repair), ..one_gone() }
}

/// What is in force is restarted cold.
pub(super) fn forced(world: &World) -> Facts {
    Facts { force: true, last_good: Some(to()), ..facts(world) }
}

/// The target has two slots, what is in force three.
fn fewer(world: &World) -> Facts {
    Facts { back_slots: vec![slot(1), slot(2), slot(3)], ..facts(world) }
}

/// The target has two slots, what is in force one.
fn more(world: &World) -> Facts {
    Facts { back_slots: vec![slot(1)], ..facts(world) }
}

fn reaches(walk: &Walk, verdicts: &[&str]) {
    for verdict in verdicts {
        assert!(walk.ends.contains_key(*verdict), "{verdict} was never reached");
    }
}

const ANY: &[&str] = &["good", "failed", "refused", "reverted", "stuck", "superseded"];

const NO_CRASH: Budget = Budget { deaths: 1, signals: 1, stale: 1, crashes: 0, full: 0 };
const ONE_CRASH: Budget = Budget { crashes: 1, ..NO_CRASH };
const CRASHES: Budget = Budget { crashes: 2, ..NO_CRASH };

#[test]
fn a3_a_change_ends_on_the_target_or_on_what_was_there() {
    reaches(&Walk::all(facts, World { budget: ONE_CRASH, ..running() }), ANY);
}

#[test]
fn a10_killed_or_powered_off_twice_it_is_finished_or_undone() {
    // of everything that can come between, with fewer steps for it to come between
    let budget = Budget { stale: 0, ..CRASHES };
    reaches(&Walk::all(small, World { budget, ..World::new(Some(from()), 1) }), ANY);
    let budget = Budget { crashes: 2, ..Budget::default() };
    reaches(&Walk::all(facts, World { budget, ..running() }), &["good", "failed", "reverted", "stuck"]);
}

#[test]
fn a3_a_full_disk_leaves_nothing_half_way() {
    let budget = Budget { full: 1, stale: 0, signals: 0, ..CRASHES };
    reaches(&Walk::all(small, World { budget, ..World::new(Some(from()), 1) }), &["good", "reverted"]);
    let budget = Budget { full: 1, crashes: 1, ..Budget::default() };
    reaches(&Walk::all(facts, World { budget, ..running() }), &["good", "failed", "reverted", "stuck"]);
}

#[test]
fn a5_what_the_target_does_not_have_goes_after_the_verdict() {
    let budget = Budget { stale: 0, signals: 0, ..ONE_CRASH };
    reaches(&Walk::all(fewer, World { budget, ..World::new(Some(from()), 3) }), &["good", "reverted"]);
    reaches(&Walk::all(more, World { budget, ..World::new(Some(from()), 1) }), &["good", "reverted"]);
}

#[test]
fn a20_a_rollback_tries_only_what_this_machine_has_never_seen_good() {
    let runs = |request, seen_good| {
        let canary = CanaryFacts { what: "one worker".to_owned(), seen_good, limit: Duration::from_secs(1) };
        let facts = Facts { request, canary: Some(canary), ..facts(&World::new(Some(from()), 2)) };
        let plan = plan(&facts);
        let step = plan.steps.iter().find(|step| step.act == Act::Canary).unwrap();
        let swing = plan.steps.iter().position(|step| step.act == Act::Swing);
        let place = plan.steps.iter().position(|step| step.act == Act::Canary);
        assert!(place < swing && place > plan.steps.iter().position(|step| step.act == Act::Check(1)));
        (step.run, step.why.clone())
    };
    for request in [Request::Activate, Request::Rollback, Request::Restart, Request::Start] {
        assert_eq!(runs(request, false), (true, "one worker".to_owned()));
    }
    assert!(runs(Request::Activate, true).0);
    for request in [Request::Rollback, Request::Restart, Request::Start] {
        assert_eq!(runs(request, true), (false, format!("this machine has seen {} good", to().short())));
    }
}

#[test]
fn a26_a_change_that_stops_first_leaves_no_slot_without_a_process() {
    let budget = Budget { stale: 0, ..ONE_CRASH };
    reaches(&Walk::all(facts, World { stop_first: true, budget, ..running() }), ANY);
}

#[test]
fn a27_whoever_is_told_in_place_is_told_back_or_replaced() {
    let budget = Budget { stale: 0, deaths: 0, ..ONE_CRASH };
    reaches(&Walk::all(facts, World { in_place: true, budget, ..running() }), ANY);
}

#[test]
fn a3_the_first_activation_ends_on_the_target_or_on_nothing() {
    reaches(&Walk::all(facts, World { budget: ONE_CRASH, ..World::new(None, 0) }), ANY);
}

#[test]
fn a8_a_pointer_that_was_moved_alone_ends_with_its_workers_or_on_the_last_good() {
    reaches(
        &Walk::all(alone, World { budget: Budget { stale: 0, signals: 0, ..ONE_CRASH }, ..moved_alone() }),
        &["good", "failed", "reverted"],
    );
}

#[test]
fn a9_a_cold_start_ends_on_the_target_or_the_last_good_or_stuck() {
    let budget = Budget { stale: 0, ..ONE_CRASH };
    reaches(&Walk::all(cold, World { budget, ..down() }), &["good", "reverted"]);
    reaches(&Walk::all(cold_and_only, World { budget, ..down() }), &["good", "stuck"]);
}

#[test]
fn a18_what_waits_to_be_confirmed_is_whole() {
    let budget = Budget { stale: 0, signals: 0, ..ONE_CRASH };
    reaches(&Walk::all(confirmed, World { budget, ..running() }), &["unconfirmed", "reverted"]);
}

#[test]
fn a19_a_restart_that_fails_leaves_what_serves() {
    reaches(
        &Walk::all(restart, World { budget: Budget { stale: 0, signals: 0, ..ONE_CRASH }, ..in_force() }),
        &["good", "failed"],
    );
}

#[test]
fn a2_the_pointer_alone_moves_and_touches_no_worker() {
    reaches(&Walk::all(pointer_only, World { budget: ONE_CRASH, ..running() }), &["pointer-only", "failed"]);
}

#[test]
fn a34_a_cold_restart_starts_nothing_beside_another_generation() {
    let cold = |budget, world| World { cold: true, budget, ..world };
    let budget = Budget { stale: 0, ..ONE_CRASH };
    reaches(&Walk::all(facts, cold(budget, running())), ANY);
    let budget = Budget { crashes: 2, ..Budget::default() };
    reaches(&Walk::all(small, cold(budget, World::new(Some(from()), 1))), &["good", "reverted", "stuck"]);
    let budget = Budget { full: 1, crashes: 1, ..Budget::default() };
    reaches(&Walk::all(small, cold(budget, World::new(Some(from()), 1))), &["good", "reverted", "stuck"]);
}

#[test]
fn a34_a_cold_restart_of_what_is_in_force_ends_on_it() {
    let budget = Budget { stale: 0, signals: 0, ..ONE_CRASH };
    let world = World { cold: true, budget, ..in_force() };
    reaches(&Walk::all(forced, world), &["good", "failed", "reverted", "stuck"]);
    let world = World { cold: true, budget, ..moved_alone() };
    reaches(&Walk::all(alone, world), &["good", "failed", "reverted"]);
    reaches(&Walk::all(facts, World { cold: true, budget, ..World::new(None, 0) }), &["good", "reverted"]);
}

#[test]
fn a29_a_repair_leaves_alone_what_is_well_and_never_goes_back() {
    let budget = Budget { stale: 0, ..CRASHES };
    for world in [one_gone(), all_gone(), one_gone_under_another()] {
        let walk = Walk::all(repair, World { budget, ..world });
        reaches(&walk, &["good", "stuck"]);
        assert!(!walk.ends.contains_key("reverted"), "{:?}", walk.ends);
    }
}

#[test]
fn a34_a_cold_restart_says_that_everything_ends_first() {
    let steps = |facts: &Facts| {
        let steps = plan(facts).steps.into_iter().filter(|step| step.stage == Stage::Workers);
        steps.map(|step| (step.name(), step.run, step.why)).collect::<Vec<_>>()
    };
    let change = Facts { cold: true, ..facts(&running()) };
    let planned = steps(&change);
    let names: Vec<_> = planned.iter().map(|(name, run, _)| (name.as_str(), *run)).collect();
    assert_eq!(names, [("stop", true), ("web/1", true), ("web/2", true)]);
    assert!(planned[0].2.contains("every worker ends before the first one is started"), "{planned:?}");
    // what is in force and well is left alone, but by force
    let idle = Facts { from: Some(to()), current: Some(to()), ..change.clone() };
    let idle = Facts { running: runs(&in_force()), ..idle };
    assert!(plan(&idle).is_empty(), "{:?}", steps(&idle));
    assert!(steps(&Facts { force: true, ..idle.clone() }).iter().all(|(_, run, _)| *run));
    // one that is not well takes the others with it
    let mut one_down = idle.clone();
    one_down.running.pop();
    assert!(steps(&one_down).iter().all(|(_, run, _)| *run));
    assert!(steps(&Facts { pointer_only: true, ..change }).iter().all(|(_, run, _)| !run));
}

#[test]
fn a8_where_nothing_ran_the_way_back_is_the_whole_of_what_was_before() {
    // the machine has come up, and a change is asked for before anything is started
    let nothing_runs = Facts { running: Vec::new(), loader: None, ..small(&running()) };
    let all = vec![slot(1), slot(2), slot(3)];
    let facts = Facts { back_slots: all.clone(), ..nothing_runs };
    let first = |step: &PlannedStep| step.act == Act::Replace(slot(1));
    let at = plan(&facts).steps.iter().position(first).unwrap();
    let (mut now, _) = begin(plan(&facts));
    while now.phase != (Phase::Step { at }) {
        let Phase::Step { at } = now.phase else { panic!("{:?}", now.phase) };
        now = step(now, Observation::Passed { at }).0;
    }
    let failed = Observation::WorkerFailed { slot: slot(1), generation: to(), why: "exit 3".to_owned() };
    let (mut now, _) = step(now, failed);
    let mut seen = Observation::SwungBack(Ok(()));
    for slot in all.into_iter().rev() {
        let (next, actions) = step(now, seen);
        assert!(actions.contains(&Action::Ensure(slot.clone(), from())), "{slot}: {actions:?}");
        (now, seen) = (next, Observation::WorkerReady { slot, generation: from(), note: String::new() });
    }
    let (_, actions) = step(now, seen);
    assert!(matches!(actions.as_slice(), [.., Action::Conclude(Verdict::Reverted, ..)]), "{actions:?}");
}
