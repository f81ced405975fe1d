//! `pointsman check`: validates a directory or generation and runs its loader and checks; moves nothing.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::Serialize;

use crate::fsx::{self, Dir};
use crate::model::{GenerationId, Pipeline};
use crate::supervise::Launch;
use crate::supervise::oneshot::{self, Cancel, OneShot};

use super::facts::PipelineSource;
use super::outside::verdict_of;
use super::service::PIPELINE_FILE;
use super::{ManagerError, Service};

/// What is checked.
#[derive(Clone, Debug)]
pub enum CheckTarget {
    /// a directory that is not in the store
    Directory(PathBuf),
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

/// The largest pipeline that is read, in bytes; the reader has its own, smaller limit.
const LARGEST: u64 = 1 << 20;

/// Validates the pipeline, runs the loader into a directory that is thrown away, and then the checks.
///
/// # Errors
/// What cannot even be checked: an unreadable directory, a pipeline that says what it must not.
pub fn check(service: &Service, target: &CheckTarget) -> Result<CheckReport, ManagerError> {
    let (config, pushed) = match target {
        CheckTarget::Directory(path) => {
            let dir = Dir::open(path).map_err(ManagerError::File)?;
            let pushed = fsx::optional(dir.read(PIPELINE_FILE, LARGEST)).map_err(ManagerError::File)?;
            (fsx::canonical(path).map_err(ManagerError::File)?, service.choose(pushed.as_deref())?)
        }
        CheckTarget::Generation(id) => (service.store.tree_path(*id), service.pipeline(*id)?),
    };
    let note = match pushed.source {
        PipelineSource::Ignored => Some(service.ignored_pipeline()),
        PipelineSource::None => Some("there is no pipeline: nothing but the pointer would move".to_owned()),
        PipelineSource::Host | PipelineSource::Pushed => None,
    };
    let mut report = CheckReport { ok: true, ran: Vec::new(), reason: None, note };
    if let Some(pipeline) = pushed.pipeline {
        run(service, &pipeline, &config, &mut report)?;
    }
    Ok(report)
}

fn run(
    service: &Service,
    pipeline: &Pipeline,
    config: &std::path::Path,
    report: &mut CheckReport,
) -> Result<(), ManagerError> {
    let writer = service.store.writer(&service.boot)?;
    let scratch = match &pipeline.loader {
        Some(_) => Some(writer.stage_loaded()?),
        None => None,
    };
    let loader = pipeline.loader.iter().map(|l| ("loader".to_owned(), &l.command, l.timeout));
    let checks = pipeline.checks.iter().map(|c| (format!("`{c}`"), c, pipeline.check_timeout));
    for (name, command, timeout) in loader.chain(checks) {
        let launch = Launch {
            command: command.clone(),
            env: BTreeMap::new(),
            config: config.to_owned(),
            loaded: scratch.as_ref().map(|staging| staging.path().to_owned()),
            mount: pipeline.mount.as_ref().map(PathBuf::from),
        };
        let run = service.place.run.clone();
        let output = run.join("log/stages.log");
        let one_shot = OneShot { launch, run, timeout, output };
        report.ran.push(name.clone());
        let cancel = Cancel::new().map_err(ManagerError::Signals)?;
        let done = oneshot::run(&one_shot, &service.place.program, &cancel);
        if let Err(why) = verdict_of(&name, done) {
            report.ok = false;
            report.reason = Some(why);
            return Ok(());
        }
    }
    Ok(())
}
