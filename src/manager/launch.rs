//! From a generation and its pipeline to what the supervisor and the one-shots are given.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::{Command, GenerationId, Group, LoadedKey, Pipeline, Retention, Slot, Surroundings};
use crate::store::Store;
use crate::supervise::stand_in::StandIn;
use crate::supervise::{Launch, WorkerSpec};

use super::external::Digests;
use super::facts::launchable;
use super::{ManagerError, Service};

/// A generation with its pipeline, ready to be launched.
#[derive(Clone, Debug)]
pub(super) struct Launchable {
    pub(super) id: GenerationId,
    pub(super) pipeline: Pipeline,
    /// whether any pipeline counts for it; else `pipeline` is the empty one
    pub(super) has_pipeline: bool,
    /// the key of the loader's output, where there is a loader
    pub(super) key: Option<LoadedKey>,
    /// what its externals are now
    pub(super) external: Digests,
    /// what the host keeps
    pub(super) retention: Retention,
}

/// The place of a worker of the group `stage`, or of a check (`check`), on the generation `id`; `None` where there is
/// no such group.
///
/// # Errors
/// Its pipeline cannot be read.
pub fn stage_of(service: &Service, id: GenerationId, stage: &str) -> Result<Option<StandIn>, ManagerError> {
    let store = &service.store;
    let (target, _) = launchable(service, id, &*store.manifest(id)?)?;
    let run = service.place.run.clone();
    // a group of that name comes first
    let slot = Slot { group: stage.to_owned(), instance: 1 };
    if let Some(mut worker) = target.worker(store, &slot) {
        // no worker has this number, as with a canary
        worker.slot.instance = 0;
        worker.tell = None;
        let launch = worker.launch.clone();
        return Ok(Some(StandIn { launch, worker: Some(worker), run }));
    }
    let launch = target.launch(store, &Command(vec!["true".to_owned()]), BTreeMap::new());
    Ok((stage == "check").then_some(StandIn { launch, worker: None, run }))
}

impl Launchable {
    /// How `command` is started on this generation.
    pub(super) fn launch(&self, store: &Store, command: &Command, env: BTreeMap<String, String>) -> Launch {
        Launch {
            command: command.clone(),
            env,
            config: store.tree_path(self.id),
            loaded: self.key.map(|key| store.loaded_path(key)),
            mount: self.pipeline.mount.as_ref().map(PathBuf::from),
            read_only: store.sealed_paths(),
            surroundings: Surroundings::default(),
        }
    }

    /// All slots, in the order they are replaced.
    pub(super) fn slots(&self) -> impl Iterator<Item = (Slot, &Group)> {
        self.pipeline.workers.iter().flat_map(|(name, group)| {
            (1..=group.instances).map(move |instance| (Slot { group: name.clone(), instance }, group))
        })
    }

    /// What the supervisor is told to run in `slot`; `None` where the pipeline has no such slot.
    pub(super) fn worker(&self, store: &Store, slot: &Slot) -> Option<WorkerSpec> {
        let (slot, group) = self.slots().find(|(candidate, _)| candidate == slot)?;
        let mut leases = vec![store.generation_path(self.id)];
        leases.extend(self.key.map(|key| store.loaded_path(key)));
        Some(WorkerSpec {
            slot,
            generation: self.id,
            loaded: self.key,
            launch: Launch {
                surroundings: group.surroundings.clone(),
                ..self.launch(store, &group.command, group.env.clone())
            },
            copies_loaded: group.copies_loaded,
            leases,
            listen: group.listen.clone(),
            ready: group.ready.clone(),
            start_timeout: group.start_timeout,
            grace_shutdown_time: group.grace_shutdown_time,
            stop_signal: group.stop_signal.clone(),
            replace: group.replace,
            restart: group.restart.clone(),
            watchdog: group.watchdog,
            tell: group.reload.as_ref().map(|reload| reload.tell.clone()),
        })
    }
}
