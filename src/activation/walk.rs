//! Every reachable state of the machine against a fake outside: none waits for ever, none ends half-way.
//!
//! The outside answers each action in every way it could, deadlines pass at any moment, workers die,
//! a signal comes, news arrive late, and the engine may be killed anywhere and started again.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::*;
use crate::model::{GenerationId, LoadedKey, Mark, Request, Slot, Stage, Verdict};

const BOOT: &str = "boot";

fn from() -> GenerationId {
    GenerationId::of(b"from")
}

fn to() -> GenerationId {
    GenerationId::of(b"to")
}

fn slot(instance: u32) -> Slot {
    Slot { group: "web".to_owned(), instance }
}

/// The fake outside, and what it is owed.
#[derive(Clone, Debug)]
struct World {
    from: Option<GenerationId>,
    current: Option<GenerationId>,
    /// what each slot accepted
    slots: BTreeMap<Slot, GenerationId>,
    /// the old process ends before the new one is started
    stop_first: bool,
    /// a process that runs is told instead of being replaced
    in_place: bool,
    /// everything ends before anything starts
    cold: bool,
    /// every worker was told to end, and nobody has seen that they have
    draining: bool,
    /// slots where nobody knows what runs, if anything, whatever they accepted
    down: BTreeSet<Slot>,
    /// programs that passed, and a probation that was outlived
    proven: BTreeSet<usize>,
    working: Option<usize>,
    ensuring: Option<(Slot, GenerationId)>,
    swinging_back: Option<Option<GenerationId>>,
    stopping_back: bool,
    deadlines: Vec<Waiting>,
    marks: Vec<Mark>,
    verdict: Option<Verdict>,
    /// spontaneous events that may still come
    deaths: u8,
    signals: u8,
    stale: u8,
    crashes: u8,
    /// a worker of the target died after it had been started, before the verdict
    died: bool,
    /// the way back met an error, so that `stuck` is right
    trouble: bool,
}

struct Walk {
    facts: fn(&World) -> Facts,
    seen: BTreeSet<String>,
    ends: BTreeMap<String, usize>,
}

impl Walk {
    fn all(facts: fn(&World) -> Facts, world: World) -> Walk {
        let mut walk = Walk { facts, seen: BTreeSet::new(), ends: BTreeMap::new() };
        let mut world = world;
        world.marks.push(Mark::Begun { boot: BOOT.to_owned() });
        let (activation, actions) = begin(plan(&facts(&world)));
        walk.perform(&activation, actions, world);
        walk
    }

    fn perform(&mut self, activation: &Activation, actions: Vec<Action>, mut world: World) {
        if actions.contains(&Action::Cancel)
            && let Some((slot, generation)) = world.ensuring.clone()
        {
            // it got ready a moment before it was called off
            let mut late = World { ensuring: None, ..world.clone() };
            late.down.remove(&slot);
            late.slots.insert(slot, generation);
            self.perform(activation, actions.clone(), late);
        }
        for action in actions {
            assert!(
                world.verdict.is_none() || matches!(action, Action::Settle(_)),
                "after the verdict: {action:?}"
            );
            match action {
                Action::Mark(durable) => world.marks.push(durable.into()),
                Action::Do(at) => world.working = Some(at),
                Action::StopBack => world.stopping_back = true,
                Action::Ensure(slot, generation) => {
                    if world.cold && !world.trouble {
                        let alone = world.slots.values().all(|other| *other == generation);
                        assert!(alone && !world.draining, "started beside another: {world:?}");
                    }
                    if (world.stop_first || world.in_place) && world.slots.contains_key(&slot) {
                        world.down.insert(slot.clone());
                    }
                    world.ensuring = Some((slot, generation));
                }
                Action::Deadline(waiting, _) => world.deadlines = vec![waiting],
                Action::Cancel => (world.working, world.ensuring) = (None, None),
                Action::SwingBack(to) => world.swinging_back = Some(to),
                Action::Settle(keep) => {
                    let served = world.current.is_some() && !world.trouble;
                    world.slots.retain(|slot, _| keep.contains(slot));
                    world.down.retain(|slot| keep.contains(slot));
                    assert!(!served || keep.iter().all(|slot| world.slots.contains_key(slot)), "{world:?}");
                }
                Action::Report(at, result, note) => {
                    // all that decides is how far the furthest of them is
                    let report = activation.report(at, result, note, 0);
                    let further = |mark: &Mark| matches!(mark, Mark::Note(n) if n.stage >= report.stage);
                    let stopped = has_stopped(&[Mark::Note(report.clone())]);
                    if stopped || !world.marks.iter().any(further) {
                        world.marks.retain(|mark| {
                            !matches!(mark, Mark::Note(_)) || has_stopped(std::slice::from_ref(mark))
                        });
                        world.marks.push(Mark::Note(report));
                    }
                }
                Action::ReportUndo(..) => {}
                Action::Conclude(verdict, ..) => {
                    assert_eq!(world.verdict.replace(verdict), None, "two verdicts");
                }
            }
        }
        self.visit(activation, &world);
    }

    fn visit(&mut self, activation: &Activation, world: &World) {
        if !self.seen.insert(format!("{activation:?} {world:?}")) {
            return;
        }
        assert!(self.seen.len() < 300_000, "the walk does not end");
        let plan = &activation.plan;
        if world.current == Some(to()) && world.from != Some(to()) {
            let programs = plan.steps.iter().enumerate().filter(|(_, step)| {
                step.run && matches!(step.act, Act::Preflight | Act::Load | Act::Check(_) | Act::Canary)
            });
            let whole = world.marks.iter().filter(|mark| matches!(mark, Mark::Begun { .. })).count() > 1;
            assert!(
                whole || programs.into_iter().all(|(at, _)| world.proven.contains(&at)),
                "unproven: {world:?}"
            );
        }
        if activation.phase == Phase::Finished {
            return self.finished(activation, world);
        }
        assert!(!world.deadlines.is_empty(), "waits for ever: {activation:?}");
        self.crash(activation, world);
        for (seen, world) in choices(plan, world) {
            let (next, actions) = step(activation.clone(), seen);
            self.perform(&next, actions, world);
        }
    }

    fn finished(&mut self, activation: &Activation, world: &World) {
        let verdict = world.verdict.expect("finished without a verdict");
        *self.ends.entry(verdict.to_string()).or_default() += 1;
        if verdict != Verdict::Stuck {
            assert!(world.down.is_empty(), "nobody knows what runs: {world:?}");
        }
        let all = |generation| world.slots.values().all(|accepted| *accepted == generation);
        match verdict {
            Verdict::Good | Verdict::Unchanged | Verdict::Unconfirmed => {
                assert_eq!(world.current, Some(to()));
                let steps = activation.plan.steps.iter().enumerate();
                let mut probations = steps.filter(|(_, step)| step.run && step.act == Act::Probation);
                assert!(probations.all(|(at, _)| world.proven.contains(&at)), "no probation: {world:?}");
                assert!(!world.died, "a worker died: {world:?}");
                assert!(all(to()) && activation.plan.slots.iter().all(|slot| world.slots.contains_key(slot)));
            }
            // withdrawn: what was started is what is in force
            Verdict::Failed if activation.plan.request == Request::Start => {
                assert_eq!(world.current, world.from);
                assert!(all(to()), "half-way: {world:?}");
            }
            Verdict::Failed | Verdict::Refused | Verdict::Superseded if world.from == Some(to()) => {
                assert_eq!(world.current, world.from);
                assert!(all(from()), "half-way: {world:?}");
            }
            Verdict::Reverted | Verdict::Failed | Verdict::Refused | Verdict::Superseded => {
                match &activation.plan.back {
                    Back::To { generation, slots, .. } => {
                        assert_eq!(world.current, Some(*generation), "{world:?}");
                        assert!(all(*generation), "half-way: {world:?}");
                        assert!(slots.iter().all(|slot| world.slots.contains_key(slot)), "fewer: {world:?}");
                    }
                    Back::Nothing => assert!(world.current.is_none() && world.slots.is_empty(), "{world:?}"),
                    Back::Nowhere => assert_eq!(world.current, Some(to())),
                }
            }
            Verdict::Stuck => assert!(world.trouble || activation.plan.back == Back::Nowhere, "{world:?}"),
            Verdict::PointerOnly => assert_eq!(world.current, Some(to())),
        }
    }

    /// The engine is killed here; its one-shots die with it, candidates are decided without it.
    fn crash(&mut self, activation: &Activation, world: &World) {
        if world.crashes == 0 {
            return;
        }
        let stops = world.working.is_some_and(|at| activation.plan.steps[at].act == Act::Stop);
        let stops = stops || world.stopping_back;
        let mut world = World {
            crashes: world.crashes - 1,
            working: None,
            swinging_back: None,
            stopping_back: false,
            died: false,
            ..world.clone()
        };
        world.deadlines.clear();
        let candidate = world.ensuring.take();
        let mut worlds = vec![world.clone()];
        worlds.extend(stops.then(|| told_to_end(&world)));
        if let Some((slot, generation)) = candidate {
            world.down.remove(&slot);
            world.slots.insert(slot, generation);
            worlds.push(world);
        }
        for mut world in worlds {
            let facts = (self.facts)(&world);
            let trace = Trace {
                bare: facts.pointer_only || (facts.slots.is_empty() && facts.running.is_empty()),
                marks: &world.marks,
                target: to(),
                current: world.current,
                boot: BOOT,
                // what has been started on the target
                alive: !world.slots.iter().any(|(slot, id)| *id == to() && world.down.contains(slot)),
                expired: false,
                doing: crate::model::Stage::Preflight,
            };
            let recovery = recover(&trace);
            world.marks.push(Mark::Begun { boot: BOOT.to_owned() });
            let (activation, actions) = match recovery {
                Recovery::Run => begin(plan(&(self.facts)(&world))),
                Recovery::Finish { from } => {
                    world.from = from;
                    begin(plan(&Facts { finishes: true, ..(self.facts)(&world) }))
                }
                Recovery::Undo { from, stage, why } => {
                    world.from = from;
                    undo(plan(&(self.facts)(&world)), stage, why)
                }
                Recovery::Fail { stage, why } => {
                    let plan = plan(&(self.facts)(&world));
                    let conclude = vec![Action::Conclude(Verdict::Failed, stage, why)];
                    (Activation { plan, phase: Phase::Finished }, conclude)
                }
            };
            self.perform(&activation, actions, world);
        }
    }
}

/// Everything that could be seen next, and the world in which it is.
fn choices(plan: &Plan, world: &World) -> Vec<(Observation, World)> {
    let mut all = Vec::new();
    let why = || "because".to_owned();
    if let Some(at) = world.working {
        let idle = World { working: None, ..world.clone() };
        let failed = Observation::Failed { at, why: why() };
        let mut passed = World { working: None, ..world.clone() };
        passed.proven.insert(at);
        if plan.steps[at].act == Act::Swing {
            passed.current = Some(plan.target);
            // moved, but not durably
            all.push((failed.clone(), passed.clone()));
        }
        if plan.steps[at].act == Act::Stop {
            all.push((failed.clone(), told_to_end(&idle)));
            passed = World { draining: false, ..told_to_end(&passed) };
        }
        all.push((Observation::Passed { at }, passed));
        all.push((failed, idle));
    }
    if let Some((slot, generation)) = world.ensuring.clone() {
        let mut ready = World { ensuring: None, ..world.clone() };
        ready.slots.insert(slot.clone(), generation);
        ready.down.remove(&slot);
        let note = String::new();
        all.push((Observation::WorkerReady { slot: slot.clone(), generation, note }, ready));
        let failed = World { ensuring: None, trouble: undone(world), ..world.clone() };
        all.push((Observation::WorkerFailed { slot, generation, why: why() }, failed));
    }
    if let Some(to) = world.swinging_back {
        let back = World { swinging_back: None, current: to, ..world.clone() };
        all.push((Observation::SwungBack(Ok(())), back));
        let failed = World { swinging_back: None, trouble: true, ..world.clone() };
        all.push((Observation::SwungBack(Err(why())), failed));
    }
    if world.stopping_back {
        let gone = World { stopping_back: false, ..told_to_end(world) };
        all.push((Observation::StoppedBack(Ok(())), World { draining: false, ..gone.clone() }));
        all.push((Observation::StoppedBack(Err(why())), World { trouble: true, ..gone }));
    }
    for waiting in &world.deadlines {
        let passed = match waiting {
            Waiting::Step(at) => plan.steps[*at].act == Act::Probation,
            Waiting::SwingBack | Waiting::StopBack | Waiting::PutBack(_) => false,
        };
        let mut late = World {
            deadlines: Vec::new(),
            working: None,
            ensuring: world.ensuring.clone().filter(|_| !undone(world)),
            swinging_back: None,
            stopping_back: false,
            trouble: world.trouble || (!passed && undone(world)),
            ..world.clone()
        };
        late.proven.extend(passed_step(waiting).filter(|_| passed));
        all.push((Observation::Overdue(waiting.clone()), late));
        // a deadline of something that has ended is nothing
        let stale = World { stale: 0, ..world.clone() };
        if world.stale > 0 {
            all.push((Observation::Overdue(Waiting::Step(99)), stale));
        }
    }
    if world.stale > 0 {
        let fewer = World { stale: world.stale - 1, ..world.clone() };
        for generation in [from(), GenerationId::of(b"older")] {
            let exited = Observation::WorkerExited { slot: slot(1), generation, why: why() };
            all.push((exited, fewer.clone()));
            let unwell = Observation::WorkerUnwell { slot: slot(1), generation, why: why() };
            all.push((unwell, fewer.clone()));
        }
        let older = GenerationId::of(b"older");
        let ready = Observation::WorkerReady { slot: slot(1), generation: older, note: String::new() };
        all.push((ready, fewer.clone()));
        all.push((Observation::WorkerFailed { slot: slot(1), generation: older, why: why() }, fewer.clone()));
        all.push((Observation::Failed { at: 99, why: why() }, fewer));
    }
    if world.deaths > 0 {
        for slot in world.slots.iter().filter(|(_, accepted)| **accepted == plan.target).map(|(slot, _)| slot)
        {
            let counts = world
                .deadlines
                .iter()
                .filter_map(passed_step)
                .any(|at| matches!(plan.steps[at].act, Act::Replace(_) | Act::Probation));
            let fewer = World { deaths: world.deaths - 1, died: world.died || counts, ..world.clone() };
            let generation = plan.target;
            let exited = Observation::WorkerExited { slot: slot.clone(), generation, why: why() };
            all.push((exited, fewer.clone()));
            all.push((Observation::WorkerUnwell { slot: slot.clone(), generation, why: why() }, fewer));
        }
    }
    if world.signals > 0 {
        let fewer = World { signals: world.signals - 1, ..world.clone() };
        all.push((Observation::Withdrawn(why()), fewer.clone()));
        all.push((Observation::Preempted(why()), fewer));
    }
    all
}

/// Every worker was told to end: none of them is anybody's any more, though it may still be there.
fn told_to_end(world: &World) -> World {
    World { slots: BTreeMap::new(), down: BTreeSet::new(), draining: true, ..world.clone() }
}

fn passed_step(waiting: &Waiting) -> Option<usize> {
    if let Waiting::Step(at) = waiting { Some(*at) } else { None }
}

fn undone(world: &World) -> bool {
    world.marks.iter().any(|mark| matches!(mark, Mark::Undoing { .. }))
}

fn world(from: Option<GenerationId>, slots: u32) -> World {
    World {
        from,
        current: from,
        slots: from.iter().flat_map(|from| (1..=slots).map(|i| (slot(i), *from))).collect(),
        stop_first: false,
        in_place: false,
        cold: false,
        draining: false,
        down: BTreeSet::new(),
        proven: BTreeSet::new(),
        working: None,
        ensuring: None,
        swinging_back: None,
        stopping_back: false,
        deadlines: Vec::new(),
        marks: Vec::new(),
        verdict: None,
        deaths: 1,
        signals: 1,
        stale: 1,
        crashes: 2,
        died: false,
        trouble: false,
    }
}

fn facts(world: &World) -> Facts {
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
        running: running(world),
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

fn running(world: &World) -> Vec<Running> {
    let of = |(slot, generation): (&Slot, &GenerationId)| {
        let loaded = (*generation == to()).then(key);
        let ready = !world.down.contains(slot);
        Running { slot: slot.clone(), generation: *generation, loaded, ready }
    };
    world.slots.iter().map(of).collect()
}

#[test]
fn a3_a_change_ends_on_the_target_or_on_what_was_there() {
    let walk = Walk::all(facts, world(Some(from()), 2));
    println!("{} states, ends {:?}", walk.seen.len(), walk.ends);
    for verdict in ["good", "failed", "refused", "reverted", "stuck"] {
        assert!(walk.ends.contains_key(verdict), "{verdict} was never reached");
    }
}

#[test]
fn a20_a_rollback_tries_only_what_this_machine_has_never_seen_good() {
    let runs = |request, seen_good| {
        let canary = CanaryFacts { what: "one worker".to_owned(), seen_good, limit: Duration::from_secs(1) };
        let facts = Facts { request, canary: Some(canary), ..facts(&world(Some(from()), 2)) };
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
    let walk = Walk::all(facts, World { stop_first: true, stale: 0, ..world(Some(from()), 2) });
    println!("{} states, ends {:?}", walk.seen.len(), walk.ends);
    for verdict in ["good", "failed", "refused", "reverted", "stuck"] {
        assert!(walk.ends.contains_key(verdict), "{verdict} was never reached");
    }
}

#[test]
fn a27_whoever_is_told_in_place_is_told_back_or_replaced() {
    let walk = Walk::all(facts, World { in_place: true, stale: 0, ..world(Some(from()), 2) });
    println!("{} states, ends {:?}", walk.seen.len(), walk.ends);
    for verdict in ["good", "failed", "refused", "reverted", "stuck"] {
        assert!(walk.ends.contains_key(verdict), "{verdict} was never reached");
    }
}

#[test]
fn a3_the_first_activation_ends_on_the_target_or_on_nothing() {
    let walk = Walk::all(facts, world(None, 0));
    println!("{} states, ends {:?}", walk.seen.len(), walk.ends);
}

#[test]
fn a8_a_pointer_that_was_moved_alone_ends_with_its_workers_or_on_the_last_good() {
    fn alone(world: &World) -> Facts {
        Facts { last_good: Some(from()), back_slots: vec![slot(1), slot(2)], ..facts(world) }
    }
    let world = World { from: Some(to()), current: Some(to()), ..world(Some(from()), 2) };
    let walk = Walk::all(alone, world);
    println!("{} states, ends {:?}", walk.seen.len(), walk.ends);
    for verdict in ["good", "failed", "reverted"] {
        assert!(walk.ends.contains_key(verdict), "{verdict} was never reached");
    }
}

#[test]
fn a9_a_cold_start_ends_on_the_target_or_the_last_good_or_stuck() {
    fn cold(world: &World) -> Facts {
        Facts { request: Request::Start, from: Some(to()), last_good: Some(from()), ..facts(world) }
    }
    let down =
        |world: World| World { current: Some(to()), from: Some(to()), slots: BTreeMap::new(), ..world };
    let walk = Walk::all(cold, World { crashes: 0, ..down(world(None, 0)) });
    println!("{} states, ends {:?}", walk.seen.len(), walk.ends);
    assert!(walk.ends.contains_key("good") && walk.ends.contains_key("reverted"));
    assert!(!walk.ends.contains_key("refused"), "what is refused leaves nothing serving");

    fn only(world: &World) -> Facts {
        Facts { request: Request::Start, from: Some(to()), last_good: Some(to()), ..facts(world) }
    }
    let walk = Walk::all(only, World { crashes: 0, ..down(world(None, 0)) });
    assert!(walk.ends.contains_key("good") && walk.ends.contains_key("stuck"));
}

#[test]
fn a34_a_cold_restart_starts_nothing_beside_another_generation() {
    let walk = Walk::all(facts, World { cold: true, stale: 0, ..world(Some(from()), 2) });
    println!("{} states, ends {:?}", walk.seen.len(), walk.ends);
    for verdict in ["good", "failed", "refused", "reverted", "stuck"] {
        assert!(walk.ends.contains_key(verdict), "{verdict} was never reached");
    }
}

#[test]
fn a34_a_cold_restart_says_that_everything_ends_first() {
    let steps = |facts: &Facts| {
        let steps = plan(facts).steps.into_iter().filter(|step| step.stage == Stage::Workers);
        steps.map(|step| (step.name(), step.run, step.why)).collect::<Vec<_>>()
    };
    let change = Facts { cold: true, ..facts(&world(Some(from()), 2)) };
    let planned = steps(&change);
    let names: Vec<_> = planned.iter().map(|(name, run, _)| (name.as_str(), *run)).collect();
    assert_eq!(names, [("stop", true), ("web/1", true), ("web/2", true)]);
    assert!(planned[0].2.contains("every worker ends before the first one is started"), "{planned:?}");
    // what is in force and well is left alone, but by force
    let idle = Facts { from: Some(to()), current: Some(to()), ..change.clone() };
    let idle = Facts { running: running(&world(Some(to()), 2)), ..idle };
    assert!(plan(&idle).is_empty(), "{:?}", steps(&idle));
    assert!(steps(&Facts { force: true, ..idle.clone() }).iter().all(|(_, run, _)| *run));
    // one that is not well takes the others with it
    let mut one_down = idle.clone();
    one_down.running.pop();
    assert!(steps(&one_down).iter().all(|(_, run, _)| *run));
    assert!(steps(&Facts { pointer_only: true, ..change }).iter().all(|(_, run, _)| !run));
}
