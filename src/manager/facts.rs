//! Gathers the facts that a plan depends on.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::activation::{Facts, LoaderFacts, Plan, Running, plan, way_back};
use crate::fsx;
use crate::model::placeholder::expand;
use crate::model::{
    Claims, Command, ContentHash, Delta, GenerationId, Group, How, LoadedKey, Manifest, Pipeline, RelPath,
    Replace, Request, Retention, Section, SectionError, Slot,
};
use crate::store::Store;
use crate::supervise::WorkerReport;

use super::external::{self, Digests};
use super::launch::Launchable;
use super::objection::objection;
use super::{ManagerError, Service, cold, confirmation, standstill, surroundings};

use super::service::{PIPELINE_FILE, PipelineSource};

/// What is asked, as far as a plan needs it.
#[derive(Clone, Debug)]
pub(super) struct Wish {
    pub(super) request: Request,
    pub(super) target: GenerationId,
    /// what `current` names
    pub(super) current: Option<GenerationId>,
    /// what was in force before; of an interrupted activation: before it began
    pub(super) from: Option<GenerationId>,
    /// of an interrupted cold restart: whether every worker had ended
    pub(super) stopped: bool,
    /// how much of the way
    pub(super) takes: Takes,
    pub(super) how: How,
}

/// How much of the way from what was in force to the target.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Takes {
    /// all of it
    Whole,
    /// what an interrupted activation, which was beyond its checks, has left of it
    Rest,
    /// only the way back: what the target says does not matter any more
    Back,
}

/// A plan and all that is needed to carry it out.
#[derive(Debug)]
pub(super) struct Prepared {
    pub(super) plan: Plan,
    pub(super) target: Launchable,
    /// the generation that a failure goes back to
    pub(super) back: Option<Launchable>,
    /// its slots that are told of it in place
    pub(super) back_in_place: Vec<Slot>,
    /// whether an external of what is in force has changed: its workers are replaced as they are
    pub(super) renews: bool,
    /// a loader output that some worker runs on
    pub(super) running_loaded: Option<LoadedKey>,
    /// what to tell the operator about where the pipeline came from
    pub(super) note: Option<String>,
}

/// The plan of an activation, for `--dry-run`: exactly what `activate` would do now.
pub fn plan_for(
    service: &Service,
    request: Request,
    target: GenerationId,
    how: How,
) -> Result<(Plan, Option<String>), ManagerError> {
    // as for the request itself, a damaged pointer is told before anything is planned
    let current = service.store.current()?;
    if let Some(why) = objection(service, request, target, &how, current)? {
        return Err(ManagerError::Refused { why });
    }
    let wish = Wish { request, target, current, from: current, stopped: false, takes: Takes::Whole, how };
    let workers = super::status::workers(service).unwrap_or_default();
    let prepared = prepare(service, &wish, &workers)?;
    let unlimited = surroundings::unlimited(service, &prepared.target.pipeline, None, &[]);
    let notes: Vec<String> = prepared.note.into_iter().chain(unlimited).collect();
    Ok((prepared.plan, (!notes.is_empty()).then(|| notes.join("; "))))
}

/// Gathers the facts and makes the plan.
pub(super) fn prepare(
    service: &Service,
    wish: &Wish,
    workers: &[WorkerReport],
) -> Result<Prepared, ManagerError> {
    let store = &service.store;
    let target = target_of(service, wish.target);
    let read = target.is_ok();
    let (target, note, manifest) = match target {
        Err(_) if wish.takes == Takes::Back => {
            let pipeline = Pipeline::pointer_only();
            (
                Launchable {
                    id: wish.target,
                    pipeline,
                    has_pipeline: false,
                    key: None,
                    external: Digests::new(),
                    retention: Retention::default(),
                },
                None,
                Arc::default(),
            )
        }
        answer => answer?,
    };
    let target = match wish.how.repair {
        Some(_) => as_it_runs(store, target, workers)?,
        None => target,
    };
    let running = running(workers);
    if wish.takes == Takes::Whole
        && let Some(why) = cold::objection(service, wish, &target, &manifest, &running)?
    {
        return Err(ManagerError::Refused { why });
    }
    let latest = store.latest()?;
    let last_good = match (wish.request, &wish.how.repair) {
        // a repair has no way back
        (_, Some(_)) => Some(wish.target),
        (Request::Start, None) => fallback(store, wish.target)?,
        _ => latest.last_good,
    };
    let back = way_back(wish.request, wish.target, wish.from, last_good);
    let back = match back.filter(|_| !wish.how.pointer_only) {
        Some(id) => {
            let before = store.manifest(id)?;
            let back = match read {
                true => launchable_beside(service, id, &before, &target, &manifest)?,
                false => launchable(service, id, &before)?.0,
            };
            Some(as_it_ran(back, workers))
        }
        None => None,
    };
    let running_loaded = running.iter().find_map(|running| running.loaded);
    let mut changes = BTreeMap::new();
    // of a file with a value that the loader reads, the rest is claimed by nobody
    let sections = target.pipeline.loader.iter().flat_map(|loader| &loader.if_changed);
    let sections: Vec<_> = sections.filter(|section| section.is_whole()).collect();
    let claims = |path: &RelPath| sections.iter().any(|section| section.covers(path));
    for generation in running.iter().map(|r| r.generation).collect::<BTreeSet<_>>() {
        if generation != wish.target
            && let Ok(old) = store.manifest(generation)
        {
            changes.insert(generation, Delta::in_words(&old, &manifest, &claims));
        }
    }
    let pipeline = &target.pipeline;
    if let Some(group) = wish.how.group.as_ref().filter(|group| !pipeline.workers.contains_key(*group)) {
        let groups: Vec<&str> = pipeline.workers.keys().map(String::as_str).collect();
        let why = format!("there is no group `{group}`; the groups are: {}", groups.join(", "));
        return Err(ManagerError::Refused { why });
    }
    let loader = match pipeline.loader.as_ref().zip(target.key) {
        None => None,
        Some((loader, key)) => Some(LoaderFacts {
            key,
            sealed: store.loaded_intact(key)?,
            sections: loader.if_changed.len() + loader.external.len(),
            timeout: loader.timeout,
        }),
    };
    let canary = match &pipeline.canary {
        Some(_) => super::canary::facts(service, &target, store.was_good(wish.target)?),
        None => None,
    };
    // where one process ends before the next is started, that is waited for too: what runs there may be of either
    let turns = |launchable: &Launchable| -> BTreeMap<Slot, Duration> {
        let turns = launchable.slots().filter(|(_, group)| group.replace == Replace::StopFirst);
        turns.map(|(slot, _)| (slot, Duration::ZERO)).collect()
    };
    let mut stop_first = turns(&target);
    stop_first.extend(back.as_ref().map(turns).unwrap_or_default());
    for (slot, group) in target.slots().chain(back.iter().flat_map(Launchable::slots)) {
        if let Some(grace) = stop_first.get_mut(&slot) {
            *grace = (*grace).max(group.longest(group.grace_shutdown_time));
        }
    }
    let limits = |launchable: &Launchable| -> BTreeMap<Slot, Duration> {
        let limit = |slot: &Slot, group: &Group| {
            // told in vain, and then replaced
            let told = group.reload.as_ref().map_or(Duration::ZERO, |_| group.longest(group.start_timeout));
            group.longest(group.start_timeout) + told + stop_first.get(slot).copied().unwrap_or_default()
        };
        launchable.slots().map(|(slot, group)| (slot.clone(), limit(&slot, group))).collect()
    };
    let in_place = in_place(store, &target, &running);
    let back_in_place = back.as_ref().map(|back| {
        // what a slot runs then is what it runs now, or the target
        let then = |r: &Running| Running { generation: target.id, loaded: target.key, ..r.clone() };
        let told = self::in_place(store, back, &running.iter().map(then).collect::<Vec<_>>());
        let now = self::in_place(store, back, &running);
        told.into_keys().filter(|slot| now.contains_key(slot)).collect::<Vec<_>>()
    });
    let back_slots = back.as_ref().map(limits).unwrap_or_default();
    let refuses = wish.takes == Takes::Whole && wish.request == Request::Activate && !wish.how.pointer_only;
    if refuses && let Some(why) = target.external.values().find_map(|digest| digest.as_ref().err()) {
        return Err(ManagerError::External { why: why.clone() });
    }
    // what is known of externals is known of what is in force
    let drifted = match wish.current == Some(wish.target) && !target.external.is_empty() {
        true => external::drifted(&target.external, &external::proven(store, wish.target)?),
        false => Vec::new(),
    };
    let unconfirmed = confirmation::of(store, latest.unconfirmed)?.filter(|open| open.target == wish.target);
    // only an activation proves what is in force already
    let unproven = wish.request == Request::Activate
        && wish.current == Some(wish.target)
        && last_good != Some(wish.target)
        && unconfirmed.is_none();
    let mut facts = Facts {
        drifted,
        unproven,
        repairs: false,
        request: wish.request,
        target: wish.target,
        from: wish.from,
        current: wish.current,
        finishes: wish.takes == Takes::Rest,
        last_good,
        pointer_only: wish.how.pointer_only,
        force: wish.how.force,
        cold: wish.how.cold,
        stopped: wish.stopped,
        grace: target
            .slots()
            .map(|(_, group)| group.longest(group.grace_shutdown_time))
            .fold(standstill::grace(workers), Duration::max),
        group: wish.how.group.clone(),
        confirm: match wish.request {
            Request::Start => unconfirmed.is_some_and(|open| !open.tried),
            _ => wish.how.confirm_within_ms.is_some() && !wish.how.pointer_only,
        },
        loader,
        checks: pipeline.checks.iter().map(ToString::to_string).collect(),
        check_timeout: pipeline.check_timeout,
        canary,
        slots: limits(&target),
        stop_first: stop_first.keys().cloned().collect(),
        in_place,
        probation: pipeline.probation,
        running,
        changes,
        back_limit: back_slots.values().max().copied().unwrap_or_default(),
        back_slots: back_slots.into_keys().collect(),
    };
    let back_in_place = back_in_place.unwrap_or_default();
    if let Some(repair) = &wish.how.repair {
        facts.narrow(repair);
    }
    let renews = !facts.drifted.is_empty();
    Ok(Prepared { plan: plan(&facts), target, back, back_in_place, running_loaded, renews, note })
}

/// The slots of `to` whose process can be told of it where it runs what `running` says, and what has changed for
/// each.
fn in_place(store: &Store, to: &Launchable, running: &[Running]) -> BTreeMap<Slot, String> {
    let mut told = BTreeMap::new();
    // all of a group run the same, as a rule
    let mut known: BTreeMap<(&String, GenerationId), Option<Vec<String>>> = BTreeMap::new();
    for running in running {
        let Some((name, group)) = to.pipeline.workers.get_key_value(&running.slot.group) else { continue };
        let Some(reload) = &group.reload else { continue };
        let changed = known.entry((name, running.generation)).or_insert_with(|| {
            let changed = changed_only(store, &reload.if_only, running.generation, to.id);
            changed.unwrap_or_else(|error| {
                tracing::warn!("{name} is replaced, not told: {}", crate::model::chain(&error));
                None
            })
        });
        let Some(mut changed) = changed.clone() else { continue };
        if running.loaded != to.key {
            changed.push("the loader's output".to_owned());
        }
        let words = match changed.as_slice() {
            [] => "nothing that it reads changed".to_owned(),
            changed => format!("only {} changed", changed.join(", ")),
        };
        told.insert(running.slot.clone(), words);
    }
    told
}

/// The sections that differ, where nothing else does.
fn changed_only(
    store: &Store,
    sections: &[Section],
    old: GenerationId,
    new: GenerationId,
) -> Result<Option<Vec<String>>, ManagerError> {
    let (before, after) = (store.manifest(old)?, store.manifest(new)?);
    let mut read = |is_old: bool, path: &RelPath| {
        store.read_file(if is_old { old } else { new }, path).map_err(ManagerError::Store)
    };
    let claims = Claims::between(sections, &before, &after, &mut read)
        .map_err(|error| ManagerError::Section(Box::new(error)))?;
    Ok(match claims {
        Claims::Only(changed) => Some(changed),
        Claims::Else(_) => None,
    })
}

/// What a cold start of `target` may fall back to: the last good one. Where that is the target itself, it is tried
/// already; but where the target is damaged it cannot be, and the good one under it is the last that can.
fn fallback(store: &Store, target: GenerationId) -> Result<Option<GenerationId>, ManagerError> {
    let good = store.good_stack()?;
    match good.last() {
        Some(last) if *last == target && store.check_intact(target).is_err() => {
            let sound = |id: &&GenerationId| **id != target && store.check_intact(**id).is_ok();
            Ok(good.iter().rev().find(sound).copied())
        }
        last => Ok(last.copied()),
    }
}

fn target_of(
    service: &Service,
    id: GenerationId,
) -> Result<(Launchable, Option<String>, Arc<Manifest>), ManagerError> {
    let manifest = service.store.manifest(id)?;
    let (target, note) = launchable(service, id, &manifest)?;
    Ok((target, note, manifest))
}

/// `back` on the loader output that its workers run on. The key of what the loader would make now may be
/// another one (its program was upgraded), and that output was never made.
fn as_it_ran(mut back: Launchable, workers: &[WorkerReport]) -> Launchable {
    let ran = workers.iter().filter(|worker| worker.generation == back.id);
    let key = ran.max_by_key(|worker| worker.accepted).and_then(|worker| worker.loaded);
    back.key = back.key.map(|made_now| key.unwrap_or(made_now));
    back
}

/// The same for what is to be mended: beside workers that are well. Where their output is gone, it is made again.
///
/// # Errors
/// It cannot be: what the loader would make now is another one.
fn as_it_runs(
    store: &Store,
    target: Launchable,
    workers: &[WorkerReport],
) -> Result<Launchable, ManagerError> {
    let made_now = target.key;
    let target = as_it_ran(target, workers);
    if let Some(key) = target.key.filter(|key| Some(*key) != made_now)
        && !store.loaded_intact(key)?
    {
        let why = format!(
            "the loader's output {} that the workers of {short} run on is gone, and would be another one by now: \
             `pointsman activate --force {short}` replaces them",
            key.short(),
            short = target.id.short()
        );
        return Err(ManagerError::Refused { why });
    }
    Ok(target)
}

/// A generation with its pipeline and its loader's key; and what to tell of where the pipeline came from.
pub(super) fn launchable(
    service: &Service,
    id: GenerationId,
    manifest: &Manifest,
) -> Result<(Launchable, Option<String>), ManagerError> {
    let chosen = service.pipeline(id, manifest)?;
    let note = (chosen.source == PipelineSource::Ignored).then(|| service.ignored_pipeline());
    let (has_pipeline, retention) = (chosen.pipeline.is_some(), chosen.retention);
    let pipeline = chosen.pipeline.unwrap_or_else(Pipeline::pointer_only);
    let external = external::read(&pipeline.external);
    let key = loaded_key(&service.store, id, manifest, &pipeline, &external)?;
    Ok((Launchable { id, pipeline, has_pipeline, key, external, retention }, note))
}

/// As [`launchable`]; where the pipeline of `id` is that of `other`, whose manifest is `of`, it is not read again.
fn launchable_beside(
    service: &Service,
    id: GenerationId,
    manifest: &Manifest,
    other: &Launchable,
    of: &Manifest,
) -> Result<Launchable, ManagerError> {
    let document = RelPath::new(PIPELINE_FILE).expect("a plain name is a path");
    if manifest.get(&document) != of.get(&document) {
        return Ok(launchable(service, id, manifest)?.0);
    }
    let key = loaded_key(&service.store, id, manifest, &other.pipeline, &other.external)?;
    Ok(Launchable { id, key, ..other.clone() })
}

/// The key of the loader's output; `None` where the pipeline has no loader.
fn loaded_key(
    store: &Store,
    id: GenerationId,
    manifest: &Manifest,
    pipeline: &Pipeline,
    external: &Digests,
) -> Result<Option<LoadedKey>, ManagerError> {
    let Some(loader) = &pipeline.loader else { return Ok(None) };
    let mut program = blake3::Hasher::new();
    // a program that is not there is refused later, by name
    if let Some(path) = program_path(&loader.command, &store.tree_path(id)) {
        let hash = |chunk: &[u8]| {
            program.update(chunk);
        };
        fsx::read_chunks(&path, hash).map_err(ManagerError::File)?;
    }
    pipeline
        .loaded_key(
            manifest,
            ContentHash::finish(&program),
            &|glob| match external.get(glob.as_str()) {
                Some(Ok(digest)) => Ok(*digest),
                Some(Err(why)) => Err(ManagerError::External { why: why.clone() }),
                None => unreachable!("every external of the pipeline was read"),
            },
            &mut |path| store.read_file(id, path).map_err(ManagerError::from),
        )
        .map_err(|error| match error {
            SectionError::External(error) => error,
            error => ManagerError::Section(Box::new(error)),
        })
}

/// Where programs are looked for: what workers get as `PATH`.
const PATH: [&str; 6] = ["/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin"];

/// The file that `command` runs on the tree `config`; `None` where there is none.
pub(super) fn program_path(command: &Command, config: &Path) -> Option<PathBuf> {
    let lookup = |name: &str| (name == "config").then(|| config.display().to_string());
    let program = expand(command.0.first()?, &lookup).ok()?;
    let candidates: Vec<PathBuf> = match program.contains('/') {
        true => vec![config.join(&program)],
        false => PATH.iter().map(|dir| Path::new(dir).join(&program)).collect(),
    };
    candidates.into_iter().find(|path| {
        fsx::Meta::of_path(path).is_ok_and(|meta| meta.kind == fsx::EntryKind::File && meta.mode & 0o111 != 0)
    })
}

fn running(workers: &[WorkerReport]) -> Vec<Running> {
    workers
        .iter()
        .filter(|worker| worker.accepted)
        .map(|worker| Running {
            slot: worker.slot.clone(),
            generation: worker.generation,
            loaded: worker.loaded,
            ready: worker.is_well(),
        })
        .collect()
}
