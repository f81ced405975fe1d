//! `pointsman manager`: the engine that stays.

use std::cell::Cell;
use std::time::Duration;

use crate::fsx::Dir;
use crate::model::{Actor, GenerationId, How, Request, chain};
use crate::store::{EventDraft, Kind, Writer};
use crate::supervise::process_start;

use super::engine::Engine;
use super::facts::launchable;
use super::gc::Collector;
use super::status::{MANAGER_FILE, ManagerReport, workers};
use super::wake::{Wake, Woken};
use super::watchdog::Watchdog;
use super::{ManagerError, Service, clock, confirmation};

/// How often a manager that waits for the engine lock looks whether it is free.
const LOOK: Duration = Duration::from_millis(500);

/// How long until an event that could not be given a verdict (a full disk) is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// Runs until INT or TERM, or until it cannot go on: takes up what a predecessor left, brings the service up where nothing of it
/// runs, then carries out events as they come. Where everything is well it touches nothing. The workers
/// outlive it in any case.
///
/// Waits where another engine holds the lock.
///
/// # Errors
/// What is wrong with the store, the run directory or the host file at its start; [`ManagerError::Fatal`]: too
/// much has gone wrong, or cannot be mended.
pub fn run(service: &Service) -> Result<(), ManagerError> {
    let writer = service.store.writer(&service.boot)?;
    // what nothing could be done with is said before anything is started
    service.store.current()?;
    service.place.access()?;
    let mut wake = Wake::on_signals()?;
    wake.watch(&service.store.events_path())?;
    let mut told = false;
    let _lock = loop {
        if let Some(lock) = writer.engine_lock(false)? {
            break lock;
        }
        if !std::mem::replace(&mut told, true) {
            tracing::info!("another manager or activation runs; waiting for it to end");
        }
        if wake.wait(Some(LOOK)) == Woken::End {
            return Ok(());
        }
    };
    // what the last one gave up for is past where a manager is seen
    let mut watchdog = Watchdog::begin(service, &writer, wake.sender())?;
    write_down(service)?;
    let collects = Cell::default();
    let engine =
        Engine { service, writer: &writer, wake: &wake, starts_supervisor: true, collects: &collects };
    let mut collector = Collector::default();
    let keeper = service.workers.start().map_err(ManagerError::NoSupervisor)?;
    if keeper.fresh {
        tracing::info!("started a supervisor, detached: it outlives this manager");
    }
    engine.run_pending(&mut |_, _| {})?;
    // a reboot counts as no: what goes back must not be started first, which would prove it
    if !wake.ends() && unconfirmed(service, &writer)?.is_some_and(|left| left.is_zero()) {
        engine.run_pending(&mut |_, _| {})?;
    }
    if !wake.ends()
        && needs_cold_start(service)?
        && let Some(event) =
            request(service, &writer, Request::Start, How { unasked: true, ..How::default() })?
    {
        watchdog.starts(event);
        engine.run_pending(&mut |_, _| {})?;
    }
    if !wake.ends() {
        watchdog.judge()?;
    }
    // now whoever is started after us finds the workers there
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    loop {
        let done = engine.run_pending(&mut |_, _| {}).and_then(|()| unconfirmed(service, &writer));
        if watch(&mut watchdog, &wake)? {
            continue;
        }
        let woken = match done {
            Ok(left) => {
                collector.run(service, collects.take());
                let look = watchdog.left();
                wake.wait(Some(left.map_or(look, |left| left.min(look))))
            }
            // what cannot even be given a verdict must not end the manager: it is tried again. What was
            // written while trying must not wake it at once
            Err(error) => {
                tracing::error!("{}", chain(&error));
                wake.pause(RETRY)
            }
        };
        match woken {
            Woken::End => break,
            Woken::Reload => {
                if let Err(error) = request(service, &writer, Request::Activate, How::default()) {
                    tracing::error!("{}", chain(&error));
                }
            }
            Woken::News => watchdog.hear(),
            Woken::Store | Woken::Time => {}
        }
    }
    drop(keeper);
    tracing::info!("asked to end; the workers serve on");
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    Ok(())
}

/// After every event has had its turn: what the watchdog makes of its own, and of everything else where it is time
/// to look. `true`: there is something to be done at once.
fn watch(watchdog: &mut Watchdog<'_>, wake: &Wake) -> Result<bool, ManagerError> {
    if wake.ends() {
        watchdog.forget();
        return Ok(false);
    }
    watchdog.judge()?;
    watchdog.look()
}

/// How long the generation in force has left to be confirmed, where it has to be. Where its time is up, asks
/// for the way back, once: where that fails a person has to look.
fn unconfirmed(service: &Service, writer: &Writer) -> Result<Option<Duration>, ManagerError> {
    let Some(open) = confirmation::open(&service.store)? else { return Ok(None) };
    if open.tried {
        return Ok(None);
    }
    let left = open.left(&service.boot);
    if !left.is_zero() {
        return Ok(Some(left));
    }
    tracing::warn!("event {}: nobody has confirmed {} in time", open.event, open.target.short());
    match service.store.last_good()? {
        Some(good) => {
            // it goes the way it came; and of what is stopped only the pointer goes
            let came = service.store.event(open.event)?.map(|event| event.how).unwrap_or_default();
            let pointer_only = service.store.stopped()?.is_some();
            let how = How { cold: came.cold, unasked: true, pointer_only, ..How::default() };
            ask(service, writer, Request::Rollback, good, how)?;
            Ok(Some(Duration::ZERO))
        }
        // it was there when the request was accepted
        None => Ok(None),
    }
}

/// Whether `current` has workers, not a single process of them is there, and nobody has stopped them.
fn needs_cold_start(service: &Service) -> Result<bool, ManagerError> {
    let Some(current) = service.store.current()? else { return Ok(false) };
    if service.store.stopped()?.is_some() {
        return Ok(false);
    }
    let nothing_runs = workers(service).is_some_and(|workers| workers.is_empty());
    let manifest = match service.store.manifest(current) {
        // what runs on it is left alone; where nothing does, the last good one is tried
        Err(error) if error.kind() == Kind::Damaged => {
            tracing::error!("{}", chain(&error));
            return Ok(nothing_runs);
        }
        manifest => manifest?,
    };
    let (launchable, note) = launchable(service, current, &manifest)?;
    if let Some(note) = note {
        tracing::warn!("{note}");
    }
    Ok(nothing_runs && !launchable.pipeline.workers.is_empty())
}

/// Asks for something about what is in force, on the manager's own account: the event's number.
fn request(
    service: &Service,
    writer: &Writer,
    request: Request,
    how: How,
) -> Result<Option<u64>, ManagerError> {
    match service.store.current()? {
        Some(target) => ask(service, writer, request, target, how).map(Some),
        None => Ok(None),
    }
}

/// Asks for something on the manager's own account: the event's number.
pub(super) fn ask(
    service: &Service,
    writer: &Writer,
    request: Request,
    target: GenerationId,
    how: How,
) -> Result<u64, ManagerError> {
    let event = writer.accept(EventDraft {
        request,
        target,
        how,
        at: clock::now(),
        boot: service.boot.clone(),
        by: Actor { uid: service.store.owner()?, ..Actor::default() },
        above: service.workers.last_event(),
    })?;
    Ok(event.number)
}

fn write_down(service: &Service) -> Result<(), ManagerError> {
    let pid = std::process::id();
    let report = ManagerReport { pid, started: process_start(pid).unwrap_or_default() };
    let text = serde_json::to_vec(&report).expect("a plain record is JSON");
    let run = Dir::open(&service.place.run).map_err(ManagerError::File)?;
    run.replace_file(MANAGER_FILE, &text, 0o644).map_err(ManagerError::File)
}
