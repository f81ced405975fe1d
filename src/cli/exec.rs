//! `pointsman exec`

use std::path::Path;

use crate::fsx::Lock;
use crate::manager::{Service, stage_of};
use crate::model::GenerationId;
use crate::store::StoreError;
use crate::supervise;

use super::exit::{Exit, Failure};
use super::flags::ExecFlags;
use super::inspect::resolve;
use super::place::Environment;

/// Resolves the reference and holds what it names. What left the store in between is not what the reference
/// names any more: then it is resolved again.
fn lease(reference: &str, service: &Service) -> Result<(GenerationId, Lock), Failure> {
    loop {
        let id = resolve(service, reference)?;
        match service.store.lease(id) {
            Ok(lease) => return Ok((id, lease)),
            Err(StoreError::NoSuchGeneration { .. }) if resolve(service, reference)? != id => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Becomes the command. Returns only on failure.
pub(super) fn run(flags: &ExecFlags, service: &Service, environment: &Environment) -> Result<Exit, Failure> {
    let ExecFlags { reference, stage, command } = flags;
    match stage {
        None => run_plain(reference, command, service),
        Some(stage) => run_as(stage, reference, command, service, environment),
    }
}

/// Becomes the command, which reads all its files from one generation. Returns only on failure.
fn run_plain(reference: &str, command: &[String], service: &Service) -> Result<Exit, Failure> {
    let (id, lease) = lease(reference, service)?;
    let config = service.store.tree_path(id);
    let mount =
        service.pipeline(id, &*service.store.manifest(id)?)?.pipeline.and_then(|pipeline| pipeline.mount);
    // nothing else in braces means anything here: it may be a shell's or awk's
    let shown = config.display().to_string();
    let words: Vec<String> = command.iter().map(|word| word.replace("{config}", &shown)).collect();
    lease.keep_across_exec()?;
    let mount = mount.as_deref().map(Path::new);
    Err(supervise::exec::become_command(&words, &config, mount, &service.store.sealed_paths()).into())
}

/// Becomes the command in the place of a worker of the group `stage`, or of a check: with its user, environment and
/// directory, on the terminal of whoever asks. Returns only on failure.
fn run_as(
    stage: &str,
    reference: &str,
    command: &[String],
    service: &Service,
    environment: &Environment,
) -> Result<Exit, Failure> {
    let (id, lease) = lease(reference, service)?;
    let Some(place) = stage_of(service, id, stage)? else {
        let why = format!("there is no group `{stage}` in {}; `--as check` is the checks", id.short());
        return Err(Failure::new(Exit::NoSuch, why));
    };
    let shown = service.store.tree_path(id).display().to_string();
    let words: Vec<String> = command.iter().map(|word| word.replace("{config}", &shown)).collect();
    lease.keep_across_exec()?;
    let terminal = environment.terminal.iter().map(|name| ("TERM".to_owned(), name.clone()));
    Err(supervise::stand_in::become_stage(&place, &words, terminal.collect()).into())
}
