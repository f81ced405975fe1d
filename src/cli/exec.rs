//! `pointsman exec`

use crate::manager::Service;
use crate::model::placeholder::expand;
use crate::supervise;

use super::exit::{Exit, Failure};
use super::inspect::resolve;

/// Becomes the command, which reads all its files from one generation. Returns only on failure.
pub(super) fn run(reference: &str, command: &[String], service: &Service) -> Result<Exit, Failure> {
    let id = resolve(service, reference)?;
    let lease = service.store.lease(id)?;
    let config = service.store.tree_path(id);
    let mount = service.pipeline(id)?.pipeline.and_then(|pipeline| pipeline.mount);
    let lookup = |name: &str| (name == "config").then(|| config.display().to_string());
    let words: Result<Vec<String>, _> = command.iter().map(|word| expand(word, &lookup)).collect();
    let words = words.map_err(|e| Failure::new(Exit::Usage, e))?;
    lease.keep_across_exec().map_err(|e| Failure::new(Exit::Failed, e))?;
    let error = supervise::exec::become_command(&words, &config, mount.as_deref().map(std::path::Path::new));
    Err(Failure::new(Exit::Failed, error))
}
