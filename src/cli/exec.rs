//! `pointsman exec`

use std::path::Path;

use crate::manager::Service;
use crate::supervise;

use super::exit::{Exit, Failure};
use super::inspect::resolve;

/// Becomes the command, which reads all its files from one generation. Returns only on failure.
pub(super) fn run(reference: &str, command: &[String], service: &Service) -> Result<Exit, Failure> {
    let id = resolve(service, reference)?;
    let lease = service.store.lease(id)?;
    let config = service.store.tree_path(id);
    let mount =
        service.pipeline(id, &service.store.manifest(id)?)?.pipeline.and_then(|pipeline| pipeline.mount);
    // nothing else in braces means anything here: it may be a shell's or awk's
    let shown = config.display().to_string();
    let words: Vec<String> = command.iter().map(|word| word.replace("{config}", &shown)).collect();
    lease.keep_across_exec()?;
    Err(supervise::exec::become_command(&words, &config, mount.as_deref().map(Path::new)).into())
}
