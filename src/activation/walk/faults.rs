//! Faults planted into the machine, one each: the walk must find it, and by the promise that it breaks.

use super::super::*;
use super::walks::{facts, one_gone, repair, running};
use super::world::{Budget, World, from, slot};
use super::{Machine, REAL, Walk};
use crate::activation::machine::Durable;
use crate::model::{Stage, Verdict};

type Next = (Activation, Vec<Action>);

/// The walk with the fault ends at `promise`, and shows a way of several steps there.
fn is_found(machine: Machine, promise: &str) {
    is_found_in(running(), facts, machine, promise);
}

/// The same of a cold restart.
fn is_found_cold(machine: Machine, promise: &str) {
    is_found_in(World { cold: true, ..running() }, facts, machine, promise);
}

/// The same where this is asked in `world`.
fn is_found_in(world: World, facts: fn(&World) -> Facts, machine: Machine, promise: &str) {
    let budget = Budget { deaths: 1, signals: 1, stale: 1, crashes: 1, full: 0 };
    let Err(broken) = Walk::explore(machine, facts, World { budget, ..world }) else {
        panic!("the fault was not found");
    };
    assert_eq!(broken.promise, promise, "{broken}");
    assert!(!broken.way.is_empty() && broken.to_string().contains(promise));
}

/// The real step, and what `spoil` makes of its actions.
fn spoilt(now: Activation, seen: Observation, spoil: fn(&Activation, &mut Vec<Action>)) -> Next {
    let (next, mut actions) = step(now, seen);
    spoil(&next, &mut actions);
    (next, actions)
}

#[test]
fn p1_a_way_back_to_nothing_is_found() {
    fn to_nothing(now: Activation, seen: Observation) -> Next {
        spoilt(now, seen, |_, actions| {
            for action in actions.iter_mut() {
                if let Action::SwingBack(to) = action {
                    *to = None;
                }
            }
        })
    }
    is_found(Machine { step: to_nothing, ..REAL }, "p1_current_names_what_is_whole");
}

#[test]
fn p3_a_canary_that_is_left_out_is_found() {
    fn without(facts: &Facts) -> Plan {
        let mut plan = plan(facts);
        plan.steps.iter_mut().filter(|step| step.act == Act::Canary).for_each(|step| step.run = false);
        plan
    }
    is_found(Machine { plan: without, ..REAL }, "p3_current_moves_onto_what_has_passed");
}

#[test]
fn p3_a_swing_before_a_check_is_found() {
    fn early(facts: &Facts) -> Plan {
        let mut plan = plan(facts);
        let of = |act| plan.steps.iter().position(|step| step.act == act);
        if let (Some(check), Some(swing)) = (of(Act::Check(1)), of(Act::Swing)) {
            plan.steps.swap(check, swing);
        }
        plan
    }
    is_found(Machine { plan: early, ..REAL }, "p3_current_moves_onto_what_has_passed");
}

#[test]
fn p3_a_failure_that_is_taken_for_a_pass_is_found() {
    fn deaf(now: Activation, seen: Observation) -> Next {
        match seen {
            Observation::Failed { at, .. } => step(now, Observation::Passed { at }),
            seen => step(now, seen),
        }
    }
    is_found(Machine { step: deaf, ..REAL }, "p3_current_moves_onto_what_has_passed");
}

#[test]
fn p3_workers_that_go_back_before_the_pointer_are_found() {
    fn workers_first(now: Activation, seen: Observation) -> Next {
        let (mut next, mut actions) = step(now, seen);
        if let Phase::Undoing(undo) = &mut next.phase
            && !undo.swung
            && let Some(slot) = undo.left.last().cloned()
        {
            undo.swung = true;
            actions.retain(|action| !matches!(action, Action::SwingBack(_) | Action::Deadline(..)));
            actions.push(Action::Ensure(slot.clone(), from()));
            actions.push(Action::Deadline(Waiting::PutBack(slot), std::time::Duration::ZERO));
        }
        (next, actions)
    }
    is_found(Machine { step: workers_first, ..REAL }, "p3_the_pointer_goes_back_first");
}

#[test]
fn p3_a_swing_that_failed_and_is_not_taken_back_is_found() {
    fn stays(now: Activation, seen: Observation) -> Next {
        let swings = matches!(now.phase, Phase::Step { at } if now.plan.steps[at].act == Act::Swing);
        match (swings, seen) {
            (true, Observation::Failed { why, .. }) => {
                let conclude = vec![Action::Conclude(Verdict::Failed, Stage::Swing, why)];
                (Activation { phase: Phase::Finished, ..now }, conclude)
            }
            (_, seen) => step(now, seen),
        }
    }
    is_found(Machine { step: stays, ..REAL }, "p3_current_moves_back_when_it_fails");
}

#[test]
fn p3_good_without_probation_is_found() {
    fn hasty(now: Activation, seen: Observation) -> Next {
        let (next, mut actions) = step(now, seen);
        match next.phase {
            Phase::Step { at } if next.plan.steps[at].act == Act::Probation => {
                let (next, more) = step(next, Observation::Overdue(Waiting::Step(at)));
                actions.extend(more);
                (next, actions)
            }
            _ => (next, actions),
        }
    }
    is_found(Machine { step: hasty, ..REAL }, "p3_good_has_outlived_probation");
}

#[test]
fn p3_a_death_in_probation_that_is_ignored_is_found() {
    fn hardened(now: Activation, seen: Observation) -> Next {
        match seen {
            Observation::WorkerExited { .. } => (now, Vec::new()),
            seen => step(now, seen),
        }
    }
    is_found(Machine { step: hardened, ..REAL }, "p3_good_has_outlived_probation");
}

#[test]
fn p4_a_second_verdict_is_found() {
    fn twice(now: Activation, seen: Observation) -> Next {
        spoilt(now, seen, |_, actions| {
            let verdict = actions.iter().find(|action| matches!(action, Action::Conclude(..))).cloned();
            actions.extend(verdict);
        })
    }
    is_found(Machine { step: twice, ..REAL }, "p4_one_verdict");
}

#[test]
fn p4_a_deadline_that_is_ignored_is_found() {
    fn patient(now: Activation, seen: Observation) -> Next {
        match seen {
            Observation::Overdue(_) => (now, Vec::new()),
            seen => step(now, seen),
        }
    }
    is_found(Machine { step: patient, ..REAL }, "p4_nothing_waits_for_ever");
}

#[test]
fn p4_news_of_another_generation_that_count_are_found() {
    fn credulous(now: Activation, seen: Observation) -> Next {
        let target = now.plan.target;
        match seen {
            Observation::WorkerReady { slot, note, .. } => {
                step(now, Observation::WorkerReady { slot, generation: target, note })
            }
            seen => step(now, seen),
        }
    }
    is_found(Machine { step: credulous, ..REAL }, "p4_the_verdict_is_true");
}

#[test]
fn p5_a_worker_that_is_stopped_before_its_successor_is_ready_is_found() {
    fn stops_first(now: Activation, seen: Observation) -> Next {
        spoilt(now, seen, |next, actions| {
            let asked = actions.iter().position(|action| matches!(action, Action::Ensure(..)));
            if let Some(place) = asked
                && let Action::Ensure(slot, _) = actions[place].clone()
            {
                let others = next.plan.slots.iter().filter(|other| **other != slot).cloned().collect();
                actions.insert(place, Action::Settle(others));
            }
        })
    }
    is_found(Machine { step: stops_first, ..REAL }, "p5_no_fewer_ready_workers");
}

#[test]
fn p6_a_slot_that_is_forgotten_on_the_way_back_is_found() {
    fn forgetful(now: Activation, seen: Observation) -> Next {
        let (mut next, actions) = step(now, seen);
        if let Phase::Undoing(undo) = &mut next.phase
            && !undo.swung
            && undo.left.len() > 1
        {
            undo.left.remove(0);
        }
        (next, actions)
    }
    is_found(Machine { step: forgetful, ..REAL }, "p6_nothing_is_half_way");
}

#[test]
fn p6_a_swing_that_is_not_recorded_is_found() {
    fn silent(now: Activation, seen: Observation) -> Next {
        spoilt(now, seen, |_, actions| {
            actions.retain(|action| !matches!(action, Action::Mark(Durable::Swinging(..))));
        })
    }
    is_found(Machine { step: silent, ..REAL }, "p6_what_is_done_was_recorded");
}

#[test]
fn p6_a_recovery_that_goes_forward_out_of_undoing_is_found() {
    fn forward(trace: &Trace<'_>) -> Recovery {
        match recover(trace) {
            Recovery::Undo { from, .. } => Recovery::Finish { from },
            other => other,
        }
    }
    is_found(Machine { recover: forward, ..REAL }, "p6_never_forward_out_of_undoing");
}

#[test]
fn p6_an_undo_that_forgets_what_the_engine_before_it_has_touched_is_found() {
    fn partial(plan: Plan, stage: Stage, why: String) -> Next {
        let (mut next, actions) = undo(plan, stage, why);
        if let Phase::Undoing(undo) = &mut next.phase {
            undo.left.pop();
        }
        (next, actions)
    }
    is_found(Machine { undo: partial, ..REAL }, "p6_nothing_is_half_way");
}

#[test]
fn a34_workers_that_start_before_all_have_ended_are_found() {
    fn hasty(now: Activation, seen: Observation) -> Next {
        let (next, mut actions) = step(now, seen);
        match next.phase {
            Phase::Step { at } if next.plan.steps[at].act == Act::Stop => {
                let (next, more) = step(next, Observation::Passed { at });
                actions.extend(more);
                (next, actions)
            }
            _ => (next, actions),
        }
    }
    is_found_cold(Machine { step: hasty, ..REAL }, "a34_nothing_starts_beside_another");
}

#[test]
fn a34_a_way_back_that_starts_the_old_before_the_new_have_ended_is_found() {
    fn mixes(now: Activation, seen: Observation) -> Next {
        let (mut next, actions) = step(now, seen);
        if let Phase::Undoing(undo) = &mut next.phase
            && !undo.swung
        {
            undo.stops = false;
        }
        (next, actions)
    }
    is_found_cold(Machine { step: mixes, ..REAL }, "a34_nothing_starts_beside_another");
}

#[test]
fn a34_an_undo_of_what_was_interrupted_that_ends_nobody_is_found() {
    fn mixes(plan: Plan, stage: Stage, why: String) -> Next {
        let (mut next, actions) = undo(plan, stage, why);
        if let Phase::Undoing(undo) = &mut next.phase {
            undo.stops = false;
        }
        (next, actions)
    }
    is_found_cold(Machine { undo: mixes, ..REAL }, "a34_nothing_starts_beside_another");
}

#[test]
fn a34_an_engine_that_believes_all_have_ended_is_found() {
    fn credulous(facts: &Facts) -> Plan {
        plan(&Facts { stopped: true, ..facts.clone() })
    }
    is_found_cold(Machine { plan: credulous, ..REAL }, "a34_nothing_starts_beside_another");
}

#[test]
fn a34_workers_that_end_before_the_swing_are_found() {
    fn early(facts: &Facts) -> Plan {
        let mut plan = plan(facts);
        let of = |act| plan.steps.iter().position(|step| step.act == act);
        if let (Some(stop), Some(swing)) = (of(Act::Stop), of(Act::Swing)) {
            plan.steps.swap(stop, swing);
        }
        plan
    }
    is_found_cold(Machine { plan: early, ..REAL }, "a34_workers_end_after_the_pointer_has_moved");
}

#[test]
fn a34_workers_that_end_though_nobody_asked_are_found() {
    fn harsh(facts: &Facts) -> Plan {
        plan(&Facts { cold: true, ..facts.clone() })
    }
    is_found(Machine { plan: harsh, ..REAL }, "a34_workers_end_after_the_pointer_has_moved");
}

#[test]
fn p5_a_slot_that_a_cold_way_back_leaves_empty_is_found() {
    fn forgetful(now: Activation, seen: Observation) -> Next {
        let (mut next, actions) = step(now, seen);
        if let Phase::Undoing(undo) = &mut next.phase
            && !undo.swung
            && undo.stops
        {
            undo.left.truncate(1);
        }
        (next, actions)
    }
    is_found_cold(Machine { step: forgetful, ..REAL }, "p5_no_fewer_ready_workers");
}

#[test]
fn a29_a_repair_that_replaces_what_is_well_is_found() {
    fn greedy(facts: &Facts) -> Plan {
        let mut facts = facts.clone();
        facts.slots.insert(slot(1), std::time::Duration::ZERO);
        plan(&facts)
    }
    is_found_in(
        one_gone(),
        repair,
        Machine { plan: greedy, ..REAL },
        "a29_a_repair_touches_only_what_it_mends",
    );
}

#[test]
fn a29_a_repair_that_goes_back_is_found() {
    fn turns(facts: &Facts) -> Plan {
        plan(&Facts { last_good: Some(from()), ..facts.clone() })
    }
    is_found_in(
        one_gone(),
        repair,
        Machine { plan: turns, ..REAL },
        "a29_a_repair_touches_only_what_it_mends",
    );
}
