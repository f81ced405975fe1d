//! `pointsman gc`: introduces what the host keeps and what runs to the store, which collects.

use std::collections::BTreeSet;
use std::thread::JoinHandle;

use crate::model::{GenerationId, Retention, chain};
use crate::store::{Collected, GcProgress, Policy, PurgeError, Purged, Running, StoreError};

use super::{ManagerError, Service, clock};

impl Service {
    /// Calls `with` the policy of this host, here and now.
    fn policy<T>(&self, retention: Retention, with: impl FnOnce(&Policy<'_>) -> T) -> T {
        let running = || {
            let workers = self.workers.recorded()?;
            let running = workers.into_iter().map(|worker| Running {
                name: match worker.pid {
                    Some(pid) => format!("{} (pid {pid})", worker.slot),
                    None => worker.slot.to_string(),
                },
                generation: worker.generation,
                loaded: worker.loaded,
            });
            Ok(running.collect())
        };
        with(&Policy { retention, now: clock::now(), running: &running })
    }
}

/// Takes away what nothing needs and the host file does not keep; with `dry_run`, only says what that is.
///
/// # Errors
/// As [`crate::store::Writer::collect`]; a host file that cannot be read.
pub fn collect(
    service: &Service,
    dry_run: bool,
    told: &mut dyn FnMut(GcProgress),
) -> Result<Collected, ManagerError> {
    let retention = service.place.host_file()?.retention;
    if dry_run {
        return Ok(service.policy(retention, |policy| service.store.would_collect(policy))?);
    }
    let writer = service.store.writer(&service.boot)?;
    let collected = service.policy(retention, |policy| writer.collect(policy, true, told))?;
    Ok(collected.expect("whoever waits collects"))
}

/// Takes `ids` away whatever the host file keeps; with `dry_run`, only says what would come of it.
///
/// # Errors
/// As [`crate::store::Writer::purge`].
pub fn purge(
    service: &Service,
    ids: &BTreeSet<GenerationId>,
    dry_run: bool,
    told: &mut dyn FnMut(GcProgress),
) -> Result<Purged, PurgeError> {
    let retention = Retention::default();
    if dry_run {
        return service.policy(retention, |policy| service.store.would_purge(ids, policy));
    }
    let writer = service.store.writer(&service.boot)?;
    service.policy(retention, |policy| writer.purge(ids, policy, told))
}

/// Collects after a good activation, as the host file asked for it: gives way to everybody who writes in the
/// store. How many generations are gone.
pub fn collect_after(service: &Service, retention: Retention) -> Result<usize, StoreError> {
    let writer = service.store.writer(&service.boot)?;
    let collected = service.policy(retention, |policy| writer.collect(policy, false, &mut |_| {}))?;
    Ok(collected.map_or(0, |collected| collected.removed.len()))
}

/// Collects for a manager, on a thread of its own: no event waits for it.
#[derive(Debug, Default)]
pub(super) struct Collector {
    running: Option<JoinHandle<()>>,
}

impl Collector {
    /// Collects by `due`, where something is. While an earlier collection runs, that is enough: the next good
    /// activation asks again.
    pub(super) fn run(&mut self, service: &Service, due: Option<Retention>) {
        let Some(retention) = due else { return };
        if self.running.as_ref().is_some_and(|running| !running.is_finished()) {
            return;
        }
        let service = service.clone();
        // where the manager ends first, the next writer removes what is left
        self.running = Some(std::thread::spawn(move || match collect_after(&service, retention) {
            Ok(0) => {}
            Ok(gone) => tracing::info!("collected {gone} generations that are not kept any more"),
            Err(error) => tracing::warn!("nothing is collected: {}", chain(&error)),
        }));
    }
}
