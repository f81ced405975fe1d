//! What a caller does: write an event, then wait for its verdict, or be the engine where there is none.

use std::cell::Cell;
use std::sync::Arc;
use std::time::Duration;

use crate::model::{
    Actor, Event, GenerationId, How, Manifest, Mark, Outcome, Request, Retention, StepReport,
};
use crate::store::{EventDraft, Writer};

use super::engine::{Engine, Progress};
use super::wake::{Wake, Woken};
use super::{ManagerError, Service, clock, standstill};

/// A request before it is an event.
#[derive(Clone, Debug)]
pub struct Draft {
    /// what is asked
    pub request: Request,
    /// the generation it is about
    pub target: GenerationId,
    /// how
    pub how: How,
    /// who asks
    pub by: Actor,
}

/// A request that has its verdict.
#[derive(Debug)]
pub struct Submitted {
    /// the verdict
    pub outcome: Outcome,
    /// what [`super::collect_after`] shall collect by, when the verdict has been told: this process was the
    /// engine of a good activation, and the host file asks for it
    pub collects: Option<Retention>,
}

/// How long a caller waits for news before it looks whether the engine is gone.
const LOOK: Duration = Duration::from_millis(200);

/// Makes `draft` an event and sees it through to its verdict: by the engine that runs, or by being it.
///
/// After the event is accepted it gets its verdict whatever happens to this process.
///
/// # Errors
/// Before anything is accepted: what is damaged or broken here and now (pointer, target's manifest, host
/// file), which is no verdict about the request; and [`ManagerError::NoSupervisor`]: worker steps are
/// asked for, nobody is there to do them, and nobody runs who could start one.
pub fn submit(
    service: &Service,
    draft: &Draft,
    progress: &mut Progress<'_>,
) -> Result<Submitted, ManagerError> {
    let writer = service.store.writer(&service.boot)?;
    if draft.request == Request::Stop {
        return stop(service, &writer, draft, progress);
    }
    let manifest = sound(service, draft.target)?;
    let engine = writer.engine_lock(false)?;
    if draft.how.confirm_within_ms.is_some() && engine.is_some() {
        return Err(ManagerError::NoManager);
    }
    if !draft.how.pointer_only && engine.is_some() {
        // a pipeline that cannot be read is the event's verdict, not ours
        let pipeline = service.pipeline(draft.target, &manifest).ok().and_then(|chosen| chosen.pipeline);
        let needs = pipeline.is_some_and(|pipeline| !pipeline.workers.is_empty());
        if needs {
            let missing = match draft.request {
                Request::Start => ManagerError::Unsupervised,
                _ => ManagerError::NoSupervisor,
            };
            service.reach().map_err(missing)?;
        }
    }
    drop(engine);
    see_through(service, &writer, draft, progress)
}

/// A stop is not refused for what is wrong with the store or the host file: it needs neither.
fn stop(
    service: &Service,
    writer: &Writer,
    draft: &Draft,
    progress: &mut Progress<'_>,
) -> Result<Submitted, ManagerError> {
    if writer.engine_lock(false)?.is_some()
        && let Err(absent) = service.reach()
        && standstill::is_recorded(service)
    {
        return Err(ManagerError::Unsupervised(absent));
    }
    see_through(service, writer, draft, progress)
}

/// Makes `draft` an event and waits for its verdict, or finds it.
fn see_through(
    service: &Service,
    writer: &Writer,
    draft: &Draft,
    progress: &mut Progress<'_>,
) -> Result<Submitted, ManagerError> {
    // who is the engine makes it durable with what comes of it
    let mut turn = writer.engine_lock(false)?;
    let event = accept(service, writer, draft, turn.is_some())?;
    let collects = Cell::default();
    let mut told = 0;
    let mut wake = Wake::on_signals()?;
    loop {
        if let Some(outcome) = service.store.outcome(event.number)? {
            tell(service, &event, &mut told, progress);
            return Ok(Submitted { outcome, collects: collects.take() });
        }
        if let Some(_lock) = turn.take().map_or_else(|| writer.engine_lock(false), |lock| Ok(Some(lock)))? {
            let engine =
                Engine { service, writer, wake: &wake, starts_supervisor: false, collects: &collects };
            engine.run_pending(&mut |number, report| {
                if number == event.number {
                    told += 1;
                    progress(number, report);
                }
            })?;
            let goes_on =
                wake.ends() && service.store.outcome(event.number)?.is_none() && !engine.withdraw(&event)?;
            if goes_on {
                writer.settle(event.number)?;
                return Err(ManagerError::NotWaited { event: event.number });
            }
            continue;
        }
        tell(service, &event, &mut told, progress);
        // only who has to wait watches: most callers are the engine themselves
        if wake.watch(&service.store.events_path())? && wake.wait(Some(LOOK)) == Woken::End {
            return Err(ManagerError::NotWaited { event: event.number });
        }
    }
}

/// Makes `draft` an event and leaves it to the manager that runs: gives its number.
///
/// # Errors
/// As [`submit`], and [`ManagerError::NoManager`]; nothing was accepted.
pub fn leave(service: &Service, draft: &Draft) -> Result<u64, ManagerError> {
    let writer = service.store.writer(&service.boot)?;
    sound(service, draft.target)?;
    if writer.engine_lock(false)?.is_some() {
        return Err(ManagerError::NoManager);
    }
    Ok(accept(service, &writer, draft, false)?.number)
}

/// What is damaged or broken here and now is no verdict about a request; the target's manifest.
fn sound(service: &Service, target: GenerationId) -> Result<Arc<Manifest>, ManagerError> {
    service.store.current()?;
    service.place.access()?;
    Ok(service.store.manifest(target)?)
}

/// Makes `draft` an event. `carries_out`: the caller does that now, and nobody hears of it before.
fn accept(
    service: &Service,
    writer: &Writer,
    draft: &Draft,
    carries_out: bool,
) -> Result<Event, ManagerError> {
    let draft = EventDraft {
        request: draft.request,
        target: draft.target,
        how: draft.how.clone(),
        at: clock::now(),
        boot: service.boot.clone(),
        by: draft.by.clone(),
        above: service.workers.last_event(),
    };
    Ok(if carries_out { writer.accept_to_settle(draft) } else { writer.accept(draft) }?)
}

/// Tells of the steps that another engine has noted since the last time.
fn tell(service: &Service, event: &Event, told: &mut usize, progress: &mut Progress<'_>) {
    let Ok(marks) = service.store.marks(event.number) else { return };
    let notes: Vec<&StepReport> = marks
        .iter()
        .filter_map(|mark| if let Mark::Note(report) = mark { Some(report) } else { None })
        .collect();
    for report in notes.iter().skip(*told) {
        progress(event.number, report);
    }
    *told = notes.len().max(*told);
}

/// Where `rollback` without a REF goes: with an activation in flight, to the one that it started from;
/// with the pointer beside the stack, to the top of it; else to the good one under the top.
pub fn rollback_target(service: &Service) -> Result<GenerationId, ManagerError> {
    let store = &service.store;
    let current = service.standing()?.current;
    if let Some(event) = store.pending()?.first() {
        if event.request == Request::Rollback {
            // two people in a hurry want the same
            return Ok(event.target);
        }
        let swung = store.marks(event.number)?.into_iter().rev().find_map(|mark| match mark {
            Mark::Swinging { from, .. } => Some(from),
            Mark::Begun { .. } | Mark::Undoing { .. } | Mark::Exits { .. } | Mark::Note(_) => None,
        });
        // before its swing, what it starts from is in force still
        if let Some(from) = swung.unwrap_or(current).filter(|from| *from != event.target) {
            return Ok(from);
        }
    }
    let good = store.good_stack()?;
    match good.as_slice() {
        [.., top] if current != Some(*top) => Ok(*top),
        [.., under, _] => Ok(*under),
        [] | [_] => Err(ManagerError::NothingToRollBackTo),
    }
}
