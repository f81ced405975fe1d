//! What must hold in every state, by the number of the promise that it is: P1 a reader always finds a
//! whole generation, P3 only what is proven is in force, P4 one verdict, and a true one, P5 no fewer
//! workers than before, P6 what a crash interrupts is finished or undone.
//!
//! P2, P7 and P8 are not the machine's: what a generation is, what causes an event and who may ask. Beside them, what
//! rules of `spec/activation.md` say of a repair (A29) and of a cold restart (A34).

use super::super::*;
use super::world::{World, from, to};
use crate::model::{GenerationId, Request, Slot, Verdict};

/// One promise: whether it holds of an activation in a world.
pub(super) type Promise = fn(&Activation, &World) -> bool;

/// What holds in every state, also between two actions that belong together.
pub(super) const ALWAYS: &[(&str, Promise)] = &[
    ("p1_current_names_what_is_whole", p1_current_names_what_is_whole),
    ("p3_current_moves_onto_what_has_passed", p3_current_moves_onto_what_has_passed),
    ("p3_the_pointer_goes_back_first", p3_the_pointer_goes_back_first),
    ("p5_no_fewer_ready_workers", p5_no_fewer_ready_workers),
    ("p6_what_is_done_was_recorded", p6_what_is_done_was_recorded),
    ("a29_a_repair_touches_only_what_it_mends", a29_a_repair_touches_only_what_it_mends),
    ("a34_workers_end_after_the_pointer_has_moved", a34_workers_end_after_the_pointer_has_moved),
    ("a34_nothing_starts_beside_another", a34_nothing_starts_beside_another),
];

/// What holds wherever the machine waits.
pub(super) const WAITING: &[(&str, Promise)] = &[
    ("p4_nothing_waits_for_ever", p4_nothing_waits_for_ever),
    ("p6_never_forward_out_of_undoing", p6_never_forward_out_of_undoing),
];

/// What holds when it has ended.
pub(super) const AT_THE_END: &[(&str, Promise)] = &[
    ("p3_current_moves_back_when_it_fails", p3_current_moves_back_when_it_fails),
    ("p3_good_has_outlived_probation", p3_good_has_outlived_probation),
    ("p4_the_verdict_is_true", p4_the_verdict_is_true),
    ("p6_nothing_is_half_way", p6_nothing_is_half_way),
];

/// `p4_one_verdict`: held while actions are performed, where a second one would show.
pub(super) const ONE_VERDICT: &str = "p4_one_verdict";

/// The pointer names what was in force, the way back, or the target once preflight has hashed it. Where it
/// named something it never names nothing.
fn p1_current_names_what_is_whole(activation: &Activation, world: &World) -> bool {
    match world.current {
        None => world.from.is_none(),
        Some(id) if id == from() || world.from == Some(id) => true,
        Some(id) => id == to() && world.proven.contains(&Act::Preflight) && activation.plan.target == id,
    }
}

/// Before the pointer moves every program of the plan has passed for this engine; where it has moved, they
/// had passed. Not asked of the pointer alone, whose verdict says that it proves nothing.
fn p3_current_moves_onto_what_has_passed(activation: &Activation, world: &World) -> bool {
    let plan = &activation.plan;
    let swings = world.working.is_some_and(|at| plan.steps[at].act == Act::Swing);
    let moved = world.current == Some(to()) && world.from != Some(to());
    plan.pointer_only
        || ((!moved || world.needs.is_subset(&world.proven))
            && (!swings || world.needs.is_subset(&world.proven_here)))
}

/// On the way back no worker is put back while the pointer still names what failed, but where the pointer
/// cannot be moved.
fn p3_the_pointer_goes_back_first(activation: &Activation, world: &World) -> bool {
    let Back::To { generation, .. } = activation.plan.back else { return true };
    let is_back = |(_, ensured): &(_, GenerationId)| *ensured == generation;
    let puts_back = world.ensuring.as_ref().is_some_and(is_back) && activation.plan.target != generation;
    !(puts_back || world.stopping_back) || world.current == Some(generation) || world.trouble
}

/// Not good, so the pointer is where it was, or on the last good generation where it was on the target.
fn p3_current_moves_back_when_it_fails(activation: &Activation, world: &World) -> bool {
    match (world.verdict, &activation.plan.back) {
        (Some(Verdict::Good | Verdict::Unchanged | Verdict::Unconfirmed | Verdict::PointerOnly), _) => {
            world.current == Some(to()) || (pointer_stays(world) && world.current == world.from)
        }
        (Some(Verdict::Stuck) | None, _) => true,
        // what was started of a repair is what is in force (A11)
        (Some(_), Back::Nowhere) if world.repair.is_some() && world.current == Some(to()) => true,
        // refused, or failed before anything was done
        (Some(_), _) if !world.undoing() && !world.lost_mark => world.current == world.from,
        (Some(_), Back::To { generation, .. }) => world.current == Some(*generation),
        (Some(_), Back::Nothing) => world.current.is_none(),
        (Some(_), Back::Nowhere) => world.current == world.from,
    }
}

/// Good means that every worker outlived probation: it passed in full, and none of the target died.
fn p3_good_has_outlived_probation(_: &Activation, world: &World) -> bool {
    let good = matches!(world.verdict, Some(Verdict::Good | Verdict::Unconfirmed));
    !good || !world.probation || (world.proven_here.contains(&Act::Probation) && !world.died)
}

/// Whoever waits is told when the time is up.
fn p4_nothing_waits_for_ever(activation: &Activation, world: &World) -> bool {
    activation.phase == Phase::Finished || world.deadline.is_some()
}

/// It has a verdict when it has ended; good says that every slot of the target runs it, stuck that
/// something stood in the way.
fn p4_the_verdict_is_true(activation: &Activation, world: &World) -> bool {
    let Some(verdict) = world.verdict else { return false };
    let plan = &activation.plan;
    match verdict {
        Verdict::Good | Verdict::Unchanged | Verdict::Unconfirmed => {
            let well = |slot| !world.down.contains(slot) && !world.ill.contains(slot);
            plan.slots.iter().all(|slot| world.slots.get(slot) == Some(&to()) && well(slot))
        }
        Verdict::Stuck => world.trouble || plan.back == Back::Nowhere,
        Verdict::PointerOnly => plan.pointer_only,
        Verdict::Reverted | Verdict::Failed | Verdict::Refused | Verdict::Superseded => true,
    }
}

/// Until it is good, each slot that was ready runs something ready; one at a time may wait for its
/// successor where the operator chose stop-first, and what a cold restart has had end is back with the verdict.
fn p5_no_fewer_ready_workers(_: &Activation, world: &World) -> bool {
    use Verdict::{Failed, Refused, Reverted, Superseded};
    let as_before = matches!(world.verdict, Some(Reverted | Failed | Refused | Superseded));
    let asked = |slot: &Slot| world.cold && !as_before && world.ended.contains(slot);
    let gone = world.before.iter().filter(|slot| !world.slots.contains_key(*slot) && !asked(slot)).count();
    let down = world.before.iter().filter(|slot| world.down.contains(*slot)).count();
    match world.verdict {
        Some(Verdict::Good) => true,
        // what one engine had stopped comes back by itself, or with the next; what does not is stuck
        _ if world.stop_first => gone == 0 && (down <= 1 || world.interrupted() || world.trouble),
        _ => gone == 0,
    }
}

/// Once it is known to go back, no engine goes forward.
fn p6_never_forward_out_of_undoing(activation: &Activation, world: &World) -> bool {
    !world.undoing() || !matches!(activation.phase, Phase::Step { .. })
}

/// The pointer moves, either way, only after the record that the next engine needs.
fn p6_what_is_done_was_recorded(activation: &Activation, world: &World) -> bool {
    let plan = &activation.plan;
    let swings = world.working.is_some_and(|at| plan.steps[at].act == Act::Swing);
    let moved = world.current == Some(to()) && world.from != Some(to());
    (!(swings || moved) || world.swinging())
        && (!(world.swinging_back.is_some() || world.stopping_back) || world.undoing() || world.lost_mark)
}

/// Whatever was interrupted, the end is all on the target or all on what was before; or stuck.
fn p6_nothing_is_half_way(activation: &Activation, world: &World) -> bool {
    let all = |id: GenerationId| world.slots.values().all(|accepted| *accepted == id);
    let plan = &activation.plan;
    match world.verdict {
        None | Some(Verdict::Stuck) => true,
        Some(Verdict::PointerOnly) => world.slots.values().all(|id| world.from == Some(*id)),
        Some(Verdict::Good | Verdict::Unchanged) => world.down.is_empty() && all(to()),
        Some(Verdict::Unconfirmed) => world.down.is_empty(),
        // it goes nowhere else: what it has not mended is as it was
        Some(_) if world.repair.is_some() => all(to()),
        Some(_) if !world.undoing() && !world.lost_mark => {
            let untouched = world.down.is_empty() || plan.request == Request::Start;
            untouched && world.slots.values().all(|id| Some(*id) == world.from || *id == from())
        }
        Some(_) => match &plan.back {
            Back::To { generation, slots, .. } => {
                let whole = slots.iter().all(|slot| world.slots.contains_key(slot));
                // after a reboot nothing ran, and nothing was started: a cold start comes next
                let cold = world.slots.is_empty() && world.verdict != Some(Verdict::Reverted);
                (whole || cold && world.before.is_empty()) && all(*generation) && world.down.is_empty()
            }
            Back::Nothing => world.slots.is_empty(),
            Back::Nowhere => true,
        },
    }
}

/// A repair starts the last good generation in the slots that it is about, and that is all: what is well is left
/// alone, and there is no way back.
fn a29_a_repair_touches_only_what_it_mends(activation: &Activation, world: &World) -> bool {
    let Some(repair) = &world.repair else { return true };
    let mends =
        |(slot, generation): &(Slot, GenerationId)| repair.slots.contains(slot) && *generation == to();
    let stays = !repair.pointer_stays || world.current == world.from;
    let others = world.before.iter().filter(|slot| !repair.slots.contains(slot));
    world.ensuring.as_ref().is_none_or(mends)
        && others.into_iter().all(|slot| world.slots.get(slot) == Some(&to()))
        && stays
        && world.swinging_back.is_none()
        && !world.stops(&activation.plan)
}

fn pointer_stays(world: &World) -> bool {
    world.repair.as_ref().is_some_and(|repair| repair.pointer_stays)
}

/// Workers end only where that was asked for, and under the generation that is started next.
fn a34_workers_end_after_the_pointer_has_moved(activation: &Activation, world: &World) -> bool {
    let plan = &activation.plan;
    let back = match plan.back {
        Back::To { generation, .. } => Some(generation),
        Back::Nothing | Back::Nowhere => None,
    };
    let next = if world.stopping_back { back } else { Some(plan.target) };
    !world.stops(plan) || (world.cold && (world.current == next || world.trouble))
}

/// No process of one generation meets one of another, whenever an engine is killed.
fn a34_nothing_starts_beside_another(_: &Activation, world: &World) -> bool {
    let Some((_, started)) = world.ensuring.as_ref().filter(|_| world.cold && !world.trouble) else {
        return true;
    };
    !world.draining && world.slots.values().all(|generation| generation == started)
}
