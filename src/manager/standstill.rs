//! Nothing runs: how that is reached, by `stop` and between the halves of a cold restart.

use std::time::Duration;

use crate::model::{
    Event, GenerationId, Mark, Outcome, Request, Stage, StepReport, StepResult, Verdict, Veto, chain,
};
use crate::supervise::client::Unreachable;
use crate::supervise::{ServiceManager, WorkerReport, WorkerState, Workers};

use super::engine::{Engine, Progress};
use super::{ManagerError, Service, clock};

/// How often is looked whether they are gone.
const LOOK: Duration = Duration::from_millis(20);
/// How much longer than its grace time a worker may take before nobody believes any more that it ends: whoever looks
/// after it kills it long before.
const BELIEF: Duration = Duration::from_secs(10);
/// How long whoever looks after the workers, or the successor, may not answer.
const PATIENCE: Duration = Duration::from_secs(5);

/// Whoever looks after `workers`; one that is missing is started where that is asked for.
pub(super) fn reached(workers: &Workers, starts: bool) -> Result<Box<dyn ServiceManager>, Unreachable> {
    match workers.reach() {
        Err(_) if starts => {
            // held until it is reached: what it does for us goes on
            let _started = workers.start()?;
            workers.reach()
        }
        answer => answer,
    }
}

/// The longest that one of `workers` may take to end when it is asked to.
pub(super) fn grace(workers: &[WorkerReport]) -> Duration {
    Duration::from_millis(workers.iter().map(|worker| worker.grace_ms).max().unwrap_or_default())
}

/// Has every worker finish within its grace time, closes their sockets, and waits until the last one is gone. Gives
/// how many there were; `None` where `over` has said before that nobody waits any more: they go all the same.
///
/// # Errors
/// Who is still there, or that nobody can be asked.
pub(super) fn reach(
    workers: &Workers,
    starts: bool,
    over: impl Fn() -> bool,
) -> Result<Option<usize>, String> {
    let mut found: Option<usize> = None;
    let mut until = clock::instant() + PATIENCE;
    // whoever is asked stays, so that what follows from an end is done when it comes
    let mut held: Option<Box<dyn ServiceManager>> = None;
    loop {
        // whoever was not told before its supervisor ended is told by the next one
        let told = |workers: &[WorkerReport]| {
            workers.iter().all(|worker| worker.state == WorkerState::Draining) && found.is_some()
        };
        let client = held.take().map_or_else(|| reached(workers, starts), Ok);
        let looked = client.and_then(|mut client| {
            let workers = client.slots()?.workers;
            if !told(&workers) {
                client.settle(&[])?;
            }
            Ok((client, workers))
        });
        match looked {
            Ok((client, workers)) => {
                held = Some(client);
                if found.is_none() {
                    found = Some(workers.len());
                    until = clock::instant() + grace(&workers) + BELIEF;
                } else if workers.is_empty() {
                    return Ok(found);
                }
                if clock::instant() >= until {
                    let left = workers.iter().map(|worker| match worker.pid {
                        Some(pid) => format!("{} (pid {pid})", worker.slot),
                        None => worker.slot.to_string(),
                    });
                    return Err(format!("still there: {}", left.collect::<Vec<_>>().join(", ")));
                }
            }
            Err(error) if clock::instant() >= until => return Err(chain(&error)),
            Err(_) => {}
        }
        if over() {
            return Ok(None);
        }
        std::thread::sleep(LOOK);
    }
}

/// Whether `service` runs nothing, and nothing would be started again by whoever looks after it, now or next.
fn is_idle(service: &Service) -> bool {
    match super::status::workers(service) {
        Some(workers) => workers.is_empty(),
        None => !is_recorded(service),
    }
}

/// Whether the last supervisor has left anything to the next one.
pub(super) fn is_recorded(service: &Service) -> bool {
    // of what cannot be read nobody knows
    service.workers.recorded().map_or(true, |workers| !workers.is_empty())
}

/// What a `stop` is about: what is in force, or would be if the pointer were whole. `None`: nothing was ever.
pub fn stop_target(service: &Service) -> Result<Option<GenerationId>, ManagerError> {
    Ok(service.standing()?.in_force)
}

/// Why a start must be refused that nobody needs: the service runs, but something else than what is in force.
pub(super) fn runs_otherwise(event: &Event, stopped: bool, workers: &[WorkerReport]) -> Option<String> {
    let other = |worker: &&WorkerReport| worker.accepted && worker.generation != event.target;
    let worker = workers.iter().find(other).filter(|_| event.request == Request::Start && !stopped)?;
    Some(format!(
        "it is started, but {} does not run what `current` names; `pointsman activate @` proves and applies that",
        worker.slot
    ))
}

/// Carries a `stop` out: says durably that nothing may be started, then has every worker end. Asked to end
/// meanwhile it leaves the rest to the next engine.
pub(super) fn stop(
    engine: &Engine<'_>,
    event: &Event,
    progress: &mut Progress<'_>,
) -> Result<(), ManagerError> {
    let (service, writer) = (engine.service, engine.writer);
    let earlier = |veto: Veto| veto.event != Some(event.number);
    if service.store.stopped().is_ok_and(|was| was.is_some_and(earlier)) && is_idle(service) {
        let why = "the service is stopped already".to_owned();
        return engine.conclude(event, Verdict::Unchanged, Stage::Preflight, why);
    }
    writer.settle(event.number)?;
    writer.mark(event.number, &Mark::Begun { boot: service.boot.clone() })?;
    let veto =
        Veto { at: event.at, by: event.by.clone(), why: event.how.why.clone(), event: Some(event.number) };
    // first: who starts workers looks for it
    if let Err(error) = writer.stop(&veto) {
        return engine.conclude(event, Verdict::Failed, Stage::Preflight, chain(&error));
    }
    let begun = clock::instant();
    let ended = match is_idle(service) && super::status::workers(service).is_none() {
        // then there need not be a supervisor
        true => Ok(Some(0)),
        false => reach(&service.workers, engine.starts_supervisor, || engine.wake.ends()),
    };
    let (verdict, result, why) = match ended {
        Ok(None) => return Ok(()),
        Ok(Some(0)) => (Verdict::Good, StepResult::Ok, "no worker was there".to_owned()),
        Ok(Some(1)) => (Verdict::Good, StepResult::Ok, "its worker has ended".to_owned()),
        Ok(Some(n)) => (Verdict::Good, StepResult::Ok, format!("its {n} workers have ended")),
        Err(why) => (Verdict::Stuck, StepResult::Failed, why),
    };
    let ms = u64::try_from((clock::instant() - begun).as_millis()).unwrap_or(u64::MAX);
    let step = StepReport { stage: Stage::Workers, step: "stop".to_owned(), result, why: why.clone(), ms };
    if let Err(error) = writer.mark(event.number, &Mark::Note(step.clone())) {
        tracing::warn!("event {}: {}", event.number, chain(&error));
    }
    progress(event.number, &step);
    let next = "nothing is started before `pointsman start`";
    let reason = match verdict {
        Verdict::Good => format!("{why}; {next}"),
        _ => format!("{next}, but not everything has ended: {why}; `pointsman stop` asks again"),
    };
    let outcome: Outcome = engine.outcome(event, verdict, Stage::Workers, reason, false, vec![step])?;
    engine.write(&outcome)
}
