//! Whether the workers of a generation can be given the surroundings that its pipeline names.

use crate::fsx::Meta;
use crate::model::{Class, Group, Node, Pipeline, RelPath};
use crate::supervise::{self, WorkerReport};

use super::Service;
use super::launch::Launchable;

/// Looks whether every group of `target` can have its user, group and limits. Gives what is doubtful: private files
/// that a worker cannot read.
///
/// # Errors
/// What cannot be had, and of which group.
pub(super) fn check(service: &Service, target: &Launchable) -> Result<Option<String>, String> {
    let workers =
        target.pipeline.workers.iter().map(|(name, group)| (format!("worker {name}"), &group.surroundings));
    let loader = target.pipeline.loader.iter().map(|loader| ("loader".to_owned(), &loader.surroundings));
    for (of, surroundings) in workers.chain(loader) {
        supervise::surroundings::may(surroundings).map_err(|why| format!("{of}: {why}"))?;
    }
    let doubts: Vec<String> = target
        .pipeline
        .workers
        .iter()
        .filter_map(|(name, group)| unreadable(service, target, name, group))
        .collect();
    Ok((!doubts.is_empty()).then(|| doubts.join("; ")))
}

/// That `memory:` of `pipeline` is no limit for what `supervisor` starts, or this process where there is none yet.
/// Where systemd is the service manager, that is seen at `workers`.
pub(super) fn unlimited(
    service: &Service,
    pipeline: &Pipeline,
    supervisor: Option<u32>,
    workers: &[WorkerReport],
) -> Option<String> {
    if !service.workers.is_ours() {
        let memory = |group: &str| pipeline.workers.get(group)?.surroundings.memory;
        let limits = workers.iter().filter_map(|worker| Some((worker.pid?, memory(&worker.slot.group)?)));
        // what was started before a change of the pipeline has the limit of then
        let limits = limits.collect::<Vec<_>>();
        let is_free = !limits.is_empty()
            && limits.iter().all(|(pid, bytes)| !supervise::memory::is_limited(*pid, *bytes));
        return is_free.then(|| {
            "`memory:` is not enforced here: systemd has no control group for memory to give to workers"
                .to_owned()
        });
    }
    let starter = supervisor.unwrap_or_else(std::process::id);
    let named = pipeline.workers.values().any(|group| group.surroundings.memory.is_some());
    (named && !supervise::memory::is_enforced(starter)).then(|| {
        "`memory:` is not enforced here: there is no control group for memory that pointsman may write to"
            .to_owned()
    })
}

/// That workers of `group` cannot read a private file of `target`.
fn unreadable(service: &Service, target: &Launchable, name: &str, group: &Group) -> Option<String> {
    let identity = supervise::surroundings::identity(&group.surroundings).ok()??;
    // root reads everything; the owner what is its own
    if identity.uid == 0 || service.store.owner().is_ok_and(|owner| owner == identity.uid) {
        return None;
    }
    let manifest = service.store.manifest(target.id).ok()?;
    let tree = service.store.tree_path(target.id);
    // by what it is: a generation keeps the rights that the host file gave it when it was pushed
    let reads = |path: &RelPath| {
        Meta::of_path(&tree.join(path.as_str())).is_ok_and(|m| m.mode & 0o040 != 0 && identity.is_in(m.gid))
    };
    let is_private = |node: &Node| matches!(node, Node::File { class: Class::Private, .. });
    let (private, _) = manifest.iter().find(|(path, node)| is_private(node) && !reads(path))?;
    let user = group.surroundings.user.as_deref().unwrap_or("its user");
    Some(format!(
        "worker {name}: `{user}` cannot read {private}, which is private: name a group for such files in the host file, with `workers: true` where the user is no member, and push it anew"
    ))
}
