//! What is in force, who looks after it, and what runs.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::fsx::{self, Dir};
use crate::model::{
    Fit, GenerationId, PushRecord, Request, ServiceManagerChoice, Slot, Stage, Verdict, Veto, chain,
};
use crate::supervise::{WorkerReport, WorkerState, facts, process_start};

use super::watchdog::{self, WatchdogReport};
use super::{ManagerError, Service, confirmation, external, given, surroundings};

/// What `pointsman status` shows; `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct StatusReport {
    /// the service's name
    pub service: String,
    /// its store
    pub store: String,
    /// what `current` names
    pub current: Option<GenerationId>,
    /// how that came into the store
    pub push: Option<PushRecord>,
    /// the top of the stack of good generations
    pub last_good: Option<GenerationId>,
    /// since when, by whom and why nothing may be activated
    pub frozen: Option<Veto>,
    /// since when, by whom and why nothing may be started
    pub stopped: Option<Veto>,
    /// what is in force unconfirmed
    pub unconfirmed: Option<Unconfirmed>,
    /// the manager, where one runs
    pub manager: Option<ManagerReport>,
    /// the errors of this boot, where a manager has looked for them
    pub watchdog: Option<WatchdogReport>,
    /// who looks after the workers, as the host file calls it
    pub service_manager: String,
    /// pid of our own supervisor, where one answers
    pub supervisor: Option<u32>,
    /// the activation that is being carried out
    pub activation: Option<ActivationReport>,
    /// the last verdict
    pub last: Option<LastVerdict>,
    /// the externals of what is in force that are others than when it was proven
    pub external: Vec<String>,
    /// every worker process
    pub workers: Vec<WorkerReport>,
    /// what an operator should know or do next
    pub advice: Vec<String>,
}

/// An activation that goes back unless it is confirmed.
#[derive(Clone, Debug, Serialize)]
pub struct Unconfirmed {
    /// its event
    pub event: u64,
    /// whether the way back was tried, in vain
    pub tried: bool,
    /// milliseconds left to confirm it
    pub left_ms: u64,
}

/// A running manager, as it wrote itself down in the run directory.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct ManagerReport {
    /// its process
    pub pid: u32,
    /// when that started, in clock ticks since boot
    pub started: u64,
}

/// An activation on its way.
#[derive(Clone, Debug, Serialize)]
pub struct ActivationReport {
    /// its event
    pub event: u64,
    /// what is asked
    pub request: Request,
    /// the generation asked for
    pub target: GenerationId,
    /// the last stage that was reported
    pub stage: Option<Stage>,
}

/// The newest verdict.
#[derive(Clone, Debug, Serialize)]
pub struct LastVerdict {
    /// its event
    pub event: u64,
    /// the verdict
    pub verdict: Verdict,
    /// why
    pub reason: String,
}

/// The name of the manager's own record in the run directory.
pub(super) const MANAGER_FILE: &str = "status.json";

/// Looks at the store, the run directory and the supervisor. Waits for nothing.
pub fn report(service: &Service) -> Result<StatusReport, ManagerError> {
    let store = &service.store;
    let current = store.current()?;
    let last_good = store.last_good()?;
    let (supervisor, workers, lost) = match service.reach().and_then(|mut workers| workers.slots()) {
        Ok(slots) => (slots.supervisor, slots.workers, slots.lost),
        Err(_) => (None, Vec::new(), BTreeMap::new()),
    };
    let activation = match store.pending()?.into_iter().next() {
        None => None,
        Some(event) => {
            let stage = store.marks(event.number)?.iter().rev().find_map(|mark| match mark {
                crate::model::Mark::Note(note) => Some(note.stage),
                _ => None,
            });
            Some(ActivationReport {
                event: event.number,
                request: event.request,
                target: event.target,
                stage,
            })
        }
    };
    // what was decided elsewhere says nothing of this service
    let last = store.last_outcome()?;
    let last = last.map(|outcome| LastVerdict {
        event: outcome.event,
        verdict: outcome.verdict,
        reason: outcome.reason,
    });
    let push = match current {
        None => None,
        Some(id) => store.show(id).ok().map(|info| info.record),
    };
    let mut report = StatusReport {
        service: service.place.name.clone(),
        store: service.place.root.display().to_string(),
        current,
        push,
        last_good,
        frozen: store.frozen()?,
        stopped: store.stopped()?,
        unconfirmed: confirmation::open(store)?.map(|open| Unconfirmed {
            event: open.event,
            tried: open.tried,
            left_ms: u64::try_from(open.left(&service.boot).as_millis()).unwrap_or(u64::MAX),
        }),
        manager: manager(service),
        watchdog: watchdog::report(service),
        service_manager: service.workers.name(),
        supervisor,
        activation,
        last,
        workers,
        external: Vec::new(),
        advice: Vec::new(),
    };
    for worker in &mut report.workers {
        look_at(worker);
    }
    report.advice = advice(&report);
    report.advice.extend(lost.iter().map(|(key, why)| {
        format!(
            "the socket of {key} is lost: its workers serve on, and cannot be replaced ({why}); start the supervisor \
             (with systemd: the manager) anew with that right, or stop and start the service"
        )
    }));
    let daemons = [("manager", report.manager.as_ref().map(|it| it.pid)), ("supervisor", report.supervisor)];
    let replaced = daemons.into_iter().filter_map(|(name, pid)| {
        let why = facts::outdated(pid?)?;
        Some(format!("the {name} is not what is on disk any more, {why}: end it and start it anew, the workers serve on"))
    });
    report.advice.extend(replaced);
    look_outside(service, &mut report);
    Ok(report)
}

/// What `/proc` says of a worker.
fn look_at(worker: &mut WorkerReport) {
    let (Some(pid), true) = (worker.pid, worker.pid.and_then(process_start) == worker.started) else {
        return;
    };
    match worker.state {
        WorkerState::Draining => worker.connections = facts::connections(pid),
        WorkerState::Ready => worker.outdated = facts::outdated(pid),
        WorkerState::Starting | WorkerState::Failed | WorkerState::Ended | WorkerState::Stopped => {}
    }
}

/// What this machine does not give it, and what lives elsewhere and has changed since. A pipeline that cannot be read is told by whatever needs it.
fn look_outside(service: &Service, report: &mut StatusReport) {
    let Some(id) = report.current else { return };
    let Ok(manifest) = service.store.manifest(id) else { return };
    let Ok(Some(pipeline)) = service.pipeline(id, &manifest).map(|chosen| chosen.pipeline) else { return };
    let unlimited = surroundings::unlimited(service, &pipeline, report.supervisor, &report.workers);
    report.advice.extend(unlimited);
    report.advice.extend(match given::fit(service.reach(), &pipeline) {
        Ok(Fit { misnamed, doubts }) => [misnamed, doubts].concat(),
        Err(why) => vec![why],
    });
    if pipeline.external.is_empty() {
        return;
    }
    let now = external::read(&pipeline.external);
    report.advice.extend(now.values().filter_map(|digest| digest.as_ref().err()).cloned());
    match external::proven(&service.store, id) {
        Ok(proven) => report.external = external::drifted(&now, &proven),
        Err(error) => report.advice.push(chain(&error)),
    }
    let drift = |glob: &String| {
        format!("drift: {glob} is not as it was proven: `pointsman activate @` proves and applies it")
    };
    report.advice.extend(report.external.iter().map(drift));
}

fn advice(report: &StatusReport) -> Vec<String> {
    let mut advice = Vec::new();
    if report.current.is_none() {
        advice.push("nothing is in force yet: `pointsman deploy DIR`".to_owned());
    }
    if let Some(last) = report.last.as_ref().filter(|last| last.verdict == Verdict::Stuck) {
        let next = report.last_good.map_or("pointsman activate REF".to_owned(), |good| {
            format!("pointsman activate --force {}", good.short())
        });
        advice.push(format!("event {} is stuck, a person has to look; then `{next}`", last.event));
    }
    if let Some(open) = &report.unconfirmed {
        advice.push(match open.tried {
            true => format!(
                "event {} was not confirmed, and the way back failed: look at `pointsman history`, then `pointsman rollback`",
                open.event
            ),
            false => {
                let left = open.left_ms / 1000;
                format!("event {} goes back in {left}s: `pointsman confirm` lets it stay", open.event)
            }
        });
    }
    if let Some(veto) = &report.stopped {
        advice.push(match report.workers.is_empty() || report.activation.is_some() {
            true => format!("stopped {veto}; `pointsman start` brings it up"),
            false => format!("stopped {veto}, but not everything has ended: `pointsman stop` asks again"),
        });
    }
    if let Some(veto) = &report.frozen {
        advice.push(format!("frozen {veto}; `pointsman thaw` lets changes in again"));
    }
    let fatal = report.watchdog.as_ref().and_then(|watchdog| watchdog.fatal.as_ref());
    if let Some(fatal) = fatal.filter(|_| report.manager.is_none()) {
        let why = fatal.why.lines().next().unwrap_or_default();
        advice.push(format!("the manager has given up: {why}; correct that, then `pointsman manager`"));
    }
    if report.manager.is_none() {
        if let Some(activation) = &report.activation {
            advice.push(format!("event {} waits for an engine: `pointsman manager`", activation.event));
        }
        let ours = report.service_manager == ServiceManagerChoice::Supervisor.to_string();
        let unseen = ours && report.supervisor.is_none() && !report.workers.is_empty();
        if unseen && report.current.is_some() {
            advice.push("no supervisor answers: `pointsman manager` starts one".to_owned());
        }
    }
    let strays: Vec<&Slot> = report
        .workers
        .iter()
        .filter(|worker| worker.accepted && Some(worker.generation) != report.current)
        .map(|worker| &worker.slot)
        .collect();
    let settled = report.activation.is_none() && report.unconfirmed.is_none();
    if settled && strays.is_empty() && report.current.is_some() && report.current != report.last_good {
        let how = "`pointsman activate @` does";
        advice.push(format!("drift: nothing has proven what `current` names here: {how}"));
    }
    let mut groups: Vec<(&String, &String)> = report
        .workers
        .iter()
        .filter_map(|worker| Some((&worker.slot.group, worker.outdated.as_ref()?)))
        .collect();
    groups.dedup_by_key(|(group, _)| *group);
    advice.extend(groups.iter().map(|(group, why)| {
        format!("{group} runs what is not on disk any more, {why}: `pointsman restart {group}`")
    }));
    if let [first, ..] = strays.as_slice()
        && report.activation.is_none()
    {
        advice.push(format!(
            "drift: {first} does not run what `current` names: `pointsman activate @` proves and applies it"
        ));
    }
    advice
}

/// The worker processes, or `None` where nobody who knows them answers.
pub(super) fn workers(service: &Service) -> Option<Vec<WorkerReport>> {
    Some(service.reach().ok()?.slots().ok()?.workers)
}

/// Every process of a worker that runs, draining ones included: as whoever looks after them says, or as is written
/// down where nobody answers.
///
/// # Errors
/// What was written down cannot be read.
pub fn running_workers(service: &Service) -> Result<Vec<WorkerReport>, ManagerError> {
    let told = workers(service).map_or_else(|| service.workers.recorded().map_err(ManagerError::File), Ok)?;
    Ok(told.into_iter().filter(|worker| worker.pid.is_some()).collect())
}

/// The manager that wrote itself down, if that very process still lives.
fn manager(service: &Service) -> Option<ManagerReport> {
    let run = Dir::open(&service.place.run).ok()?;
    let bytes = fsx::optional(run.read(MANAGER_FILE, 1 << 16)).ok()??;
    let written: ManagerReport = serde_json::from_slice(&bytes).ok()?;
    (process_start(written.pid) == Some(written.started)).then_some(written)
}
