//! An operator's command in the place of a worker or a check, to see what that sees.

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::model::Listen;

use super::exec::{self, ExecError};
use super::launch::Given;
use super::oneshot::Scratch;
use super::surroundings;
use super::wire::{Launch, WorkerSpec};

/// Whose place it is.
#[derive(Clone, Debug)]
pub struct StandIn {
    /// how that is started; what it runs does not matter
    pub launch: Launch,
    /// the worker, where it is one
    pub worker: Option<WorkerSpec>,
    /// the run directory: `{run}` is made beneath, and removed some time after the command has ended
    pub run: PathBuf,
}

/// Becomes `words` in the place of `stand`, with the variables `besides`, in the session and on the terminal of the
/// caller. It is told the addresses of the worker's sockets and has none of them; its memory is not limited. Returns
/// only on failure.
pub fn become_stage(stand: &StandIn, words: &[String], besides: BTreeMap<String, String>) -> ExecError {
    let prepared = prepare(stand, words, besides);
    match prepared {
        Ok(start) => exec::stand_in(&start),
        Err(why) => ExecError::Setup { what: "stand in".to_owned(), why },
    }
}

fn prepare(
    stand: &StandIn,
    words: &[String],
    besides: BTreeMap<String, String>,
) -> Result<super::exec::Start, String> {
    let chain = |e: crate::fsx::FsError| crate::model::chain(&e);
    let scratch = Scratch::new(&stand.run).map_err(chain)?;
    scratch.dir().symlink(&stand.launch.config, "config").map_err(chain)?;
    if let Some(loaded) = &stand.launch.loaded {
        scratch.dir().symlink(loaded, "loaded").map_err(chain)?;
    }
    let run = scratch.path().to_str().ok_or("the run directory's path is not UTF-8")?;
    let own = std::process::id();
    let mut given = Given { run, worker: stand.worker.as_ref(), about: Some(own), ..Given::default() };
    if let Some(WorkerSpec { listen: Listen::Sockets(sockets), .. }) = &stand.worker {
        given.sockets = sockets.iter().map(|(name, socket)| (name.as_str(), &socket.address)).collect();
    }
    let mut start = surroundings::start(&stand.launch, &given)?;
    start.env.remove("POINTSMAN_PID");
    start.env.extend(besides);
    start.argv = words.to_vec();
    start.settings.give(scratch.dir()).map_err(chain)?;
    scratch.keep_across_exec().map_err(chain)?;
    Ok(start)
}
