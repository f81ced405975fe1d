//! The state machine that carries a plan out. Pure: the manager performs the actions, in the order
//! given, and brings what comes of them back as observations.
//!
//! ```text
//! step 0 .. preflight, loader, checks, canary ..--> swing --> web/1 .. web/n --> probation --> good
//!            | fails                          | fails    | fails            | a worker dies
//!            v                                v          v                  v
//!     refused / failed             undo: the pointer first, (cold: every worker ends,) then the workers, newest first
//!                                             |                     | fails
//!                                             v                     v
//!                                    failed / reverted            stuck
//! ```

use std::time::Duration;

use super::plan::STOP;
use crate::activation::{Act, Back, Plan};
use crate::model::{GenerationId, Mark, Request, Slot, Stage, StepReport, StepResult, Verdict};

/// One plan being carried out. Plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Activation {
    /// what is carried out
    pub plan: Plan,
    /// how far it is
    pub phase: Phase,
}

/// How far an activation is.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// the step of this index is being done
    Step {
        /// index into the plan's steps
        at: usize,
    },
    /// everything is being taken back
    Undoing(Undo),
    /// it has its verdict
    Finished,
}

/// A way back, half gone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Undo {
    /// the stage that failed
    pub stage: Stage,
    /// what failed
    pub why: String,
    /// whether the pointer is back
    pub swung: bool,
    /// whether every worker has to end before one is put back: of a cold restart, until they have
    pub stops: bool,
    /// slots still to be put back; the last is being done
    pub left: Vec<Slot>,
    /// what failed on the way back
    pub failed: Option<String>,
}

/// What an activation waits for; a deadline names it, so that a late one is recognised.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Waiting {
    /// the step of this index
    Step(usize),
    /// the pointer, on its way back
    SwingBack,
    /// every worker, before one is put back
    StopBack,
    /// this slot, on its way back
    PutBack(Slot),
}

/// News from outside. What comes too late, or is about another generation, changes nothing.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Observation {
    /// preflight, loader, check, canary, swing or stop `at` went well
    Passed {
        /// index of the step
        at: usize,
    },
    /// preflight, loader, check, canary, swing or stop `at` did not
    Failed {
        /// index of the step
        at: usize,
        /// why
        why: String,
    },
    /// the slot runs the generation and is ready
    WorkerReady {
        /// where
        slot: Slot,
        /// what
        generation: GenerationId,
        /// what is to be said of the way there
        note: String,
    },
    /// the slot's candidate did not get ready and is gone
    WorkerFailed {
        /// where
        slot: Slot,
        /// what
        generation: GenerationId,
        /// why
        why: String,
    },
    /// a worker that had been ready ended unasked
    WorkerExited {
        /// where
        slot: Slot,
        /// what
        generation: GenerationId,
        /// why
        why: String,
    },
    /// a worker that is ready does not do its work
    WorkerUnwell {
        /// where
        slot: Slot,
        /// what
        generation: GenerationId,
        /// what it says
        why: String,
    },
    /// the pointer is back, or is not
    SwungBack(Result<(), String>),
    /// every worker has ended on the way back, or not
    StoppedBack(Result<(), String>),
    /// the time for this is up; for a probation that is what it waits for
    Overdue(Waiting),
    /// somebody wants it to end: a signal
    Withdrawn(String),
    /// a rollback that was asked for later takes its place
    Preempted(String),
}

/// What the outside is told to do. Every action is safe to repeat.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Action {
    /// make this durable before doing what comes after; a failure fails the step
    Mark(Durable),
    /// do step `at` (preflight, loader, check, canary, swing, stop): answered by `Passed` or `Failed`
    Do(usize),
    /// have the slot run the generation: answered by `WorkerReady` or `WorkerFailed`
    Ensure(Slot, GenerationId),
    /// answer `Overdue` unless this has ended by then
    Deadline(Waiting, Duration),
    /// end the program of the running step, and candidates that are getting ready
    Cancel,
    /// put the pointer on this, or take it away: answered by `SwungBack`
    SwingBack(Option<GenerationId>),
    /// end every worker on the way back: answered by `StoppedBack`
    StopBack,
    /// stop every worker but these
    Settle(Vec<Slot>),
    /// how a step went, for the report
    Report(usize, StepResult, String),
    /// how a part of the way back went, for the report
    ReportUndo(String, StepResult, String),
    /// the verdict
    Conclude(Verdict, Stage, String),
}

/// What must be durable before it is done.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Durable {
    /// the pointer is about to move from here to there
    Swinging(Option<GenerationId>, GenerationId),
    /// everything is about to be taken back
    Undoing(Stage, String),
}

impl From<Durable> for Mark {
    fn from(durable: Durable) -> Mark {
        match durable {
            Durable::Swinging(from, to) => Mark::Swinging { from, to },
            Durable::Undoing(stage, why) => Mark::Undoing { stage, why },
        }
    }
}

/// How much longer than its own limit a program or worker may take before the machine stops believing
/// that it will be reported. The outside enforces the limits; this only keeps a wait from being endless.
const BELIEF: Duration = Duration::from_secs(10);

/// Starts carrying `plan` out.
pub fn begin(plan: Plan) -> (Activation, Vec<Action>) {
    if plan.is_empty() {
        let reason = format!("{} is in force already", plan.target.short());
        let actions = vec![Action::Conclude(Verdict::Unchanged, Stage::Preflight, reason)];
        return (Activation { plan, phase: Phase::Finished }, actions);
    }
    advance(plan, 0, Vec::new())
}

/// Starts taking `plan` back: of an activation whose engine died after `stage`, because of `why`.
pub fn undo(mut plan: Plan, stage: Stage, why: String) -> (Activation, Vec<Action>) {
    // nobody knows which slots the engine that is gone had touched
    if let Back::To { whole, .. } = &mut plan.back {
        *whole = true;
    }
    let last = plan.steps.len();
    turn_back(plan, last, stage, why, Vec::new())
}

/// What to do next.
pub fn step(now: Activation, seen: Observation) -> (Activation, Vec<Action>) {
    let Activation { plan, phase } = now;
    match phase {
        Phase::Step { at } => in_step(plan, at, seen),
        Phase::Undoing(undo) => in_undo(plan, undo, seen),
        Phase::Finished => (Activation { plan, phase: Phase::Finished }, Vec::new()),
    }
}

fn in_step(plan: Plan, at: usize, seen: Observation) -> (Activation, Vec<Action>) {
    let act = plan.steps[at].act.clone();
    let passed =
        |plan, why: &str| advance(plan, at + 1, vec![Action::Report(at, StepResult::Ok, why.to_owned())]);
    let failed = |plan, why: String| fail(plan, at, why);
    let stays = |plan| (Activation { plan, phase: Phase::Step { at } }, Vec::new());
    match (seen, &act) {
        (
            Observation::Passed { at: of },
            Act::Preflight | Act::Load | Act::Check(_) | Act::Canary | Act::Swing | Act::Stop,
        ) if of == at => passed(plan, ""),
        (
            Observation::Failed { at: of, why },
            Act::Preflight | Act::Load | Act::Check(_) | Act::Canary | Act::Swing | Act::Stop,
        ) if of == at => failed(plan, why),
        (Observation::WorkerReady { slot, generation, note }, Act::Replace(awaited)) => {
            if slot == *awaited && generation == plan.target { passed(plan, &note) } else { stays(plan) }
        }
        // somebody may have waited for it: then its end is told so
        (Observation::WorkerFailed { slot, generation, why }, Act::Replace(_) | Act::Probation) => {
            match (generation == plan.target, &act) {
                (true, Act::Replace(awaited)) if slot == *awaited => failed(plan, format!("{slot}: {why}")),
                (true, _) => failed(plan, format!("{slot} ended: {why}")),
                (false, _) => stays(plan),
            }
        }
        // a worker of ours that dies takes everything back; one of the old generation is not our doing
        (Observation::WorkerExited { slot, generation, why }, Act::Replace(_) | Act::Probation) => {
            if generation == plan.target {
                failed(plan, format!("{slot} ended: {why}"))
            } else {
                stays(plan)
            }
        }
        (Observation::WorkerUnwell { slot, generation, why }, Act::Replace(_) | Act::Probation) => {
            if generation == plan.target {
                failed(plan, format!("{slot} does not do its work: {why}"))
            } else {
                stays(plan)
            }
        }
        (Observation::Overdue(Waiting::Step(of)), Act::Probation) if of == at => passed(plan, ""),
        (Observation::Overdue(Waiting::Step(of)), _) if of == at => {
            failed(plan, "nothing was heard of it within its time".to_owned())
        }
        // what was started of a start is what is in force: it stays, and the next one goes on
        (Observation::Withdrawn(why), _) if plan.request == Request::Start => {
            let stage = plan.steps[at].stage;
            let failed = Action::Report(at, StepResult::Failed, why.clone());
            let actions = vec![Action::Cancel, failed, Action::Conclude(Verdict::Failed, stage, why)];
            (Activation { plan, phase: Phase::Finished }, actions)
        }
        (Observation::Withdrawn(why), _) => failed(plan, why),
        (Observation::Preempted(why), _) => preempted(plan, at, why),
        (
            Observation::Passed { .. }
            | Observation::Failed { .. }
            | Observation::WorkerReady { .. }
            | Observation::WorkerFailed { .. }
            | Observation::WorkerExited { .. }
            | Observation::WorkerUnwell { .. }
            | Observation::SwungBack(_)
            | Observation::StoppedBack(_)
            | Observation::Overdue(_),
            Act::Preflight
            | Act::Load
            | Act::Check(_)
            | Act::Canary
            | Act::Swing
            | Act::Stop
            | Act::Replace(_)
            | Act::Probation
            | Act::Remove(_),
        ) => stays(plan),
    }
}

/// Goes on with the first step from `at` on that is to run.
fn advance(plan: Plan, mut at: usize, mut actions: Vec<Action>) -> (Activation, Vec<Action>) {
    while let Some(next) = plan.steps.get(at) {
        if !next.run {
            actions.push(Action::Report(at, StepResult::Skipped, String::new()));
        } else if !matches!(next.act, Act::Remove(_)) {
            break;
        }
        at += 1;
    }
    let Some(next) = plan.steps.get(at) else {
        let (verdict, stage) = match () {
            () if plan.pointer_only => (Verdict::PointerOnly, Stage::Swing),
            () if plan.confirm => (Verdict::Unconfirmed, Stage::Confirm),
            () => (Verdict::Good, last_stage(&plan)),
        };
        actions.push(Action::Conclude(verdict, stage, String::new()));
        if verdict == Verdict::Good {
            actions.push(Action::Settle(plan.slots.clone()));
        }
        return (Activation { plan, phase: Phase::Finished }, actions);
    };
    match &next.act {
        Act::Preflight | Act::Load | Act::Check(_) | Act::Canary | Act::Stop => actions.push(Action::Do(at)),
        Act::Swing => {
            actions.push(Action::Mark(Durable::Swinging(plan.from, plan.target)));
            actions.push(Action::Do(at));
        }
        Act::Replace(slot) => actions.push(Action::Ensure(slot.clone(), plan.target)),
        Act::Probation => {}
        Act::Remove(_) => unreachable!("skipped above: done after the verdict"),
    }
    let belief = if next.act == Act::Probation { Duration::ZERO } else { BELIEF };
    actions.push(Action::Deadline(Waiting::Step(at), next.limit + belief));
    (Activation { plan, phase: Phase::Step { at } }, actions)
}

fn fail(plan: Plan, at: usize, why: String) -> (Activation, Vec<Action>) {
    let failed = &plan.steps[at];
    let stage = failed.stage;
    let mut actions = vec![Action::Cancel, Action::Report(at, StepResult::Failed, why.clone())];
    let turns_back = match failed.act {
        // a cold start that is refused or fails tries the last good
        Act::Preflight | Act::Load | Act::Check(_) | Act::Canary => {
            plan.finishes || plan.request == Request::Start
        }
        Act::Swing | Act::Stop | Act::Replace(_) | Act::Probation | Act::Remove(_) => true,
    };
    if turns_back {
        return turn_back(plan, at, stage, why, actions);
    }
    let verdict = if stage == Stage::Preflight { Verdict::Refused } else { Verdict::Failed };
    actions.push(Action::Conclude(verdict, stage, why));
    (Activation { plan, phase: Phase::Finished }, actions)
}

/// Ends for a rollback: before the swing nothing was done that anybody would miss.
fn preempted(plan: Plan, at: usize, why: String) -> (Activation, Vec<Action>) {
    let (activation, mut actions) = fail(plan, at, why);
    if let Some(Action::Conclude(verdict @ (Verdict::Failed | Verdict::Refused), ..)) = actions.last_mut() {
        *verdict = Verdict::Superseded;
    }
    (activation, actions)
}

/// Turns back after step `at` failed: the pointer first, then the workers, newest first.
fn turn_back(
    plan: Plan,
    at: usize,
    stage: Stage,
    why: String,
    mut actions: Vec<Action>,
) -> (Activation, Vec<Action>) {
    let touched = plan.steps.iter().take(at + 1).filter(|step| step.run).filter_map(|step| match &step.act {
        Act::Replace(slot) => Some(slot.clone()),
        _ => None,
    });
    // of a cold restart nothing of the target may run beside what is put back, and everything has ended
    let stopped = plan.steps.iter().position(|step| step.act == Act::Stop && step.run);
    // (an engine that is gone may have had it end)
    let unknown = plan.finishes || at >= plan.steps.len();
    let stops = plan.cold.is_some() && (unknown || stopped.is_some_and(|stop| stop <= at));
    let swing_failed = plan.steps.get(at).is_some_and(|step| step.act == Act::Swing);
    let left = match &plan.back {
        Back::Nothing | Back::Nowhere => Vec::new(),
        // no worker was touched yet
        Back::To { .. } if swing_failed => Vec::new(),
        Back::To { slots, whole: true, .. } => slots.clone(),
        Back::To { slots, .. } if stops => slots.clone(),
        // popped from the end: newest first
        Back::To { slots, whole: false, .. } => touched.filter(|slot| slots.contains(slot)).collect(),
    };
    actions.push(Action::Mark(Durable::Undoing(stage, why.clone())));
    let target = match &plan.back {
        Back::Nothing => None,
        Back::To { generation, .. } => Some(*generation),
        Back::Nowhere => {
            let reason = format!("{why}\nno other generation is known good on this machine");
            actions.push(Action::Conclude(Verdict::Stuck, stage, reason));
            return (Activation { plan, phase: Phase::Finished }, actions);
        }
    };
    actions.push(Action::SwingBack(target));
    actions.push(Action::Deadline(Waiting::SwingBack, LOCAL));
    let undo = Undo { stage, why, swung: false, stops, left, failed: None };
    (Activation { plan, phase: Phase::Undoing(undo) }, actions)
}

/// The limit of what waits for nothing but the local disk.
const LOCAL: Duration = Duration::from_secs(120);

fn in_undo(plan: Plan, mut undo: Undo, seen: Observation) -> (Activation, Vec<Action>) {
    let mut actions = Vec::new();
    let back = match &plan.back {
        Back::To { generation, limit, .. } => Some((*generation, *limit)),
        Back::Nothing | Back::Nowhere => None,
    };
    let is_back = |generation| back.is_some_and(|(back, _)| back == generation);
    let awaited = undo.left.last().cloned().filter(|_| undo.swung && !undo.stops);
    let stopping = undo.swung && undo.stops;
    let done = match seen {
        Observation::SwungBack(Ok(())) if !undo.swung => Some(Ok(())),
        Observation::SwungBack(Err(why)) if !undo.swung => Some(Err(why)),
        Observation::Overdue(Waiting::SwingBack) if !undo.swung => Some(Err("it takes too long".to_owned())),
        Observation::StoppedBack(ended) if stopping => Some(ended),
        Observation::Overdue(Waiting::StopBack) if stopping => Some(Err("it takes too long".to_owned())),
        Observation::WorkerReady { slot, generation, .. } if Some(&slot) == awaited.as_ref() => {
            is_back(generation).then_some(Ok(()))
        }
        Observation::WorkerFailed { slot, generation, why } if Some(&slot) == awaited.as_ref() => {
            is_back(generation).then_some(Err(why))
        }
        Observation::Overdue(Waiting::PutBack(slot)) if Some(&slot) == awaited.as_ref() => {
            Some(Err("nothing was heard of it within its time".to_owned()))
        }
        Observation::SwungBack(_)
        | Observation::StoppedBack(_)
        | Observation::Overdue(_)
        | Observation::WorkerReady { .. }
        | Observation::WorkerFailed { .. }
        | Observation::WorkerExited { .. }
        | Observation::WorkerUnwell { .. }
        | Observation::Passed { .. }
        | Observation::Failed { .. }
        // the way back cannot be withdrawn, and leads where a rollback would
        | Observation::Withdrawn(_)
        | Observation::Preempted(_) => None,
    };
    let Some(done) = done else { return (Activation { plan, phase: Phase::Undoing(undo) }, actions) };
    let what = match &awaited {
        None if stopping => STOP.to_owned(),
        None => "pointer".to_owned(),
        Some(slot) => slot.to_string(),
    };
    let (result, note) = match done {
        Ok(()) => (StepResult::Undone, String::new()),
        Err(why) => {
            undo.failed.get_or_insert(format!("{what}: {why}"));
            (StepResult::Failed, why)
        }
    };
    actions.push(Action::ReportUndo(what, result, note));
    match (undo.swung, undo.stops) {
        (true, true) => undo.stops = false,
        (true, false) => drop(undo.left.pop()),
        (false, _) => undo.swung = true,
    }
    if let Some(limit) = plan.cold.filter(|_| undo.stops) {
        actions.extend([Action::StopBack, Action::Deadline(Waiting::StopBack, limit + BELIEF)]);
        return (Activation { plan, phase: Phase::Undoing(undo) }, actions);
    }
    match (undo.left.last(), back) {
        (Some(slot), Some((generation, limit))) => {
            actions.push(Action::Ensure(slot.clone(), generation));
            actions.push(Action::Deadline(Waiting::PutBack(slot.clone()), limit + BELIEF));
            (Activation { plan, phase: Phase::Undoing(undo) }, actions)
        }
        (Some(_), None) | (None, _) => {
            actions.extend(came_back(&plan, undo));
            (Activation { plan, phase: Phase::Finished }, actions)
        }
    }
}

/// The end of the way back: surplus workers go, then the verdict.
fn came_back(plan: &Plan, undo: Undo) -> Vec<Action> {
    let Undo { stage, why, failed, .. } = undo;
    if let Some(failed) = failed {
        let reason = format!("{why}\non the way back: {failed}");
        return vec![Action::Conclude(Verdict::Stuck, stage, reason)];
    }
    let slots = match &plan.back {
        Back::To { slots, ran, .. } => slots.iter().chain(ran).cloned().collect(),
        Back::Nothing | Back::Nowhere => Vec::new(),
    };
    let elsewhere = matches!(plan.back, Back::To { generation, .. } if Some(generation) != plan.from);
    let moved = stage > Stage::Swing || elsewhere;
    let verdict = if moved { Verdict::Reverted } else { Verdict::Failed };
    let settle = (!plan.pointer_only).then_some(Action::Settle(slots));
    settle.into_iter().chain([Action::Conclude(verdict, stage, why)]).collect()
}

fn last_stage(plan: &Plan) -> Stage {
    let ran = plan.steps.iter().filter(|step| step.run && !matches!(step.act, Act::Remove(_)));
    ran.map(|step| step.stage).max().unwrap_or(Stage::Preflight)
}

impl Activation {
    /// The report of step `at`.
    pub fn report(&self, at: usize, result: StepResult, note: String, ms: u64) -> StepReport {
        let step = &self.plan.steps[at];
        let why = match result {
            _ if note.is_empty() => step.why.clone(),
            StepResult::Failed => note,
            _ => format!("{}; {note}", step.why),
        };
        StepReport { stage: step.stage, step: step.name(), result, why, ms }
    }
}
