//! From a generation and its pipeline to what the supervisor and the one-shots are given.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::{Command, GenerationId, Group, LoadedKey, Pipeline, Retention, Slot};
use crate::store::Store;
use crate::supervise::{Launch, WorkerSpec};

use super::external::Digests;

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

impl Launchable {
    /// How `command` is started on this generation.
    pub(super) fn launch(&self, store: &Store, command: &Command, env: BTreeMap<String, String>) -> Launch {
        Launch {
            command: command.clone(),
            env,
            config: store.tree_path(self.id),
            loaded: self.key.map(|key| store.loaded_path(key)),
            mount: self.pipeline.mount.as_ref().map(PathBuf::from),
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
            launch: self.launch(store, &group.command, group.env.clone()),
            copies_loaded: group.copies_loaded,
            leases,
            listen: group.listen.clone(),
            ready: group.ready.clone(),
            start_timeout: group.start_timeout,
            grace_shutdown_time: group.grace_shutdown_time,
            stop_signal: group.stop_signal.clone(),
            replace: group.replace,
            restart: group.restart.clone(),
            memory: group.memory,
            tell: group.reload.as_ref().map(|reload| reload.tell.clone()),
        })
    }
}
