//! Workers of a target that ended while no engine was there to hear of it.

use crate::model::{Event, Mark, Slot};
use crate::supervise::WorkerReport;

/// What is to be remembered when `event` is begun: how often those have ended that run its target already. `None`
/// where there is nothing to remember, or it is not begun for the first time.
pub(super) fn before(event: &Event, marks: &[Mark], workers: &[WorkerReport]) -> Option<Mark> {
    let slots: Vec<(Slot, u64)> = of_target(event, workers)
        .filter(|worker| worker.exits_since > 0)
        .map(|worker| (worker.slot.clone(), worker.exits_since))
        .collect();
    (marks.is_empty() && !slots.is_empty()).then_some(Mark::Exits { slots })
}

/// A worker of the target that has ended since `event` was begun, though it may have been started again since.
pub(super) fn since(event: &Event, marks: &[Mark], workers: &[WorkerReport]) -> Option<String> {
    let known = |worker: &WorkerReport| {
        let slots = marks.iter().find_map(|mark| match mark {
            Mark::Exits { slots } => Some(slots),
            Mark::Begun { .. } | Mark::Swinging { .. } | Mark::Undoing { .. } | Mark::Note(_) => None,
        });
        let known = slots.and_then(|slots| slots.iter().find(|(slot, _)| *slot == worker.slot));
        // what was started for it has none but new ones
        known.filter(|_| worker.started_for != event.number).map_or(0, |(_, exits)| *exits)
    };
    let worker = of_target(event, workers).find(|worker| worker.exits_since > known(worker))?;
    Some(format!("{} ended meanwhile: {}", worker.slot, worker.note))
}

fn of_target<'a>(event: &Event, workers: &'a [WorkerReport]) -> impl Iterator<Item = &'a WorkerReport> {
    let target = event.target;
    workers.iter().filter(move |worker| worker.accepted && worker.generation == target)
}
