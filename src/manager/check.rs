//! `pointsman check`: validates a directory or generation and runs its loader, its checks and, of a generation,
//! its live canary; moves nothing.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use serde::Serialize;

use crate::fsx;
use crate::model::{Actor, Command, GenerationId, Metadata, Pipeline, PushRecord, Surroundings, chain};
use crate::store::{PushOptions, Source, Staging, Writer};
use crate::supervise;
use crate::supervise::Launch;
use crate::supervise::oneshot::{self, Cancel};

use super::canary;
use super::facts::launchable;
use super::launch::Launchable;
use super::outside::{may_mount, stage_shot, verdict_of};
use super::service::{PIPELINE_FILE, PipelineSource};
use super::{ManagerError, Service, clock};

/// What is checked.
#[derive(Clone, Debug)]
pub enum CheckTarget {
    /// a directory that is not in the store
    Directory {
        /// where
        path: PathBuf,
        /// as [`PushOptions`] has it
        copy_links: bool,
    },
    /// a generation of the store
    Generation(GenerationId),
}

/// How a check went. `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct CheckReport {
    /// whether everything passed
    pub ok: bool,
    /// what was run, in order; the last one failed where `ok` is false
    pub ran: Vec<String>,
    /// why it failed
    pub reason: Option<String>,
    /// what to tell the operator besides
    pub note: Option<String>,
}

/// Validates the content and the pipeline, runs the loader into a directory that is thrown away, then the
/// checks, and then, of a generation, the live canary.
///
/// # Errors
/// What cannot even be checked: what a push would refuse, a pipeline that says what it must not, damage,
/// no right to mount.
pub fn check(service: &Service, target: &CheckTarget) -> Result<CheckReport, ManagerError> {
    let writer = service.store.writer(&service.boot)?;
    // it is not taken away while its checks run
    let _lease = match target {
        CheckTarget::Generation(id) => Some(service.store.lease(*id)?),
        CheckTarget::Directory { .. } => None,
    };
    let (config, chosen) = match target {
        CheckTarget::Directory { path, copy_links } => {
            let limits = service.place.host_file()?.limits;
            let name = path.join(PIPELINE_FILE).display().to_string();
            let chosen = RefCell::new(None);
            let inspect = |text: Option<&[u8]>| service.inspect(&name, text, &chosen);
            let record = PushRecord {
                at: clock::now(),
                by: Actor::default(),
                source: path.display().to_string(),
                message: None,
                meta: Metadata::new(),
                parent: None,
            };
            let options = PushOptions {
                record,
                copy_links: *copy_links,
                inspected: PIPELINE_FILE,
                inspect: &inspect,
                limits,
                observe: &|_| {},
            };
            drop(writer.scratch(Source::Directory(path), &options)?);
            let chosen = chosen.take().expect("whatever is read is inspected");
            (fsx::canonical(path).map_err(ManagerError::File)?, chosen)
        }
        CheckTarget::Generation(id) => {
            service.store.check_intact(*id)?;
            (service.store.tree_path(*id), service.pipeline(*id, &*service.store.manifest(*id)?)?)
        }
    };
    let mut note = match chosen.source {
        PipelineSource::Ignored => Some(service.ignored_pipeline()),
        PipelineSource::None => Some("there is no pipeline: nothing but the pointer would move".to_owned()),
        PipelineSource::Host | PipelineSource::Pushed => None,
    };
    let has_canary = chosen.pipeline.as_ref().is_some_and(|pipeline| pipeline.canary.is_some());
    if has_canary && let CheckTarget::Directory { .. } = target {
        note = Some("the canary is tried with a generation only: push it, and check that".to_owned());
    }
    let mut report = CheckReport { ok: true, ran: Vec::new(), reason: None, note };
    if let Some(pipeline) = chosen.pipeline {
        let generation = match target {
            CheckTarget::Generation(id) if has_canary => {
                Some(launchable(service, *id, &*service.store.manifest(*id)?)?.0)
            }
            CheckTarget::Generation(_) | CheckTarget::Directory { .. } => None,
        };
        run(service, &writer, &pipeline, &config, generation.as_ref(), &mut report)?;
    }
    Ok(report)
}

fn run(
    service: &Service,
    writer: &Writer,
    pipeline: &Pipeline,
    config: &Path,
    generation: Option<&Launchable>,
    report: &mut CheckReport,
) -> Result<(), ManagerError> {
    let scratch = match &pipeline.loader {
        Some(_) => Some(writer.stage_loaded()?),
        None => None,
    };
    let launch = |command: &Command| Launch {
        command: command.clone(),
        env: BTreeMap::new(),
        config: config.to_owned(),
        loaded: scratch.as_ref().map(|staging| staging.path().to_owned()),
        mount: pipeline.mount.as_ref().map(PathBuf::from),
        read_only: service.store.sealed_paths(),
        surroundings: Default::default(),
    };
    if pipeline.mount.is_some() {
        let nothing = Command(vec!["true".to_owned()]);
        may_mount(service, launch(&nothing)).map_err(|why| ManagerError::MayNotMount { why })?;
    }
    let canary = generation
        .and_then(|generation| canary::of(service, generation, scratch.as_ref().map(Staging::path)));
    if let Some(canary) = &canary {
        canary::may_run(service, canary).map_err(|why| ManagerError::MayNotMount { why })?;
    }
    let none = Surroundings::default();
    let loader =
        pipeline.loader.iter().map(|l| ("loader".to_owned(), &l.command, l.timeout, &l.surroundings));
    let checks = pipeline.checks.iter().map(|c| (format!("`{c}`"), c, pipeline.check_timeout, &none));
    for (name, command, timeout, surroundings) in loader.chain(checks) {
        report.ran.push(name.clone());
        let cancel = Cancel::new().map_err(ManagerError::Signals)?;
        let mut one_shot = stage_shot(service, launch(command), timeout);
        one_shot.launch.surroundings = surroundings.clone();
        if let Err(why) = verdict_of(&name, oneshot::run(&one_shot, &service.place.program, &cancel)) {
            report.ok = false;
            report.reason = Some(why);
            return Ok(());
        }
    }
    if let Some(canary) = &canary {
        report.ran.push(format!("canary: {}", canary::what(canary)));
        let cancel = Cancel::new().map_err(ManagerError::Signals)?;
        if let Err(error) = supervise::canary::run(canary, &service.place.program, &cancel) {
            report.ok = false;
            report.reason = Some(format!("canary: {}", chain(&error)));
        }
    }
    Ok(())
}
