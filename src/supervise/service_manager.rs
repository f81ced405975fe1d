//! What a manager needs of whoever starts and watches the workers, whichever program that is.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fsx::FsError;
use crate::model::{ServiceManagerChoice, Slot};

use super::client::{self, Client, Slots, Unreachable};
use super::record;
use super::wire::{News, WorkerReport, WorkerSpec};

/// Starts and watches workers, and knows what runs: slot, process, generation accepted, exits since.
///
/// What is asked may be asked twice: it is done once. The rules are those of `spec/workers.md`, and every
/// implementation passes the tests in `tests/contract`.
pub trait ServiceManager: Send {
    /// All slots and processes, draining ones included.
    ///
    /// # Errors
    /// [`Unreachable::Gone`].
    fn slots(&mut self) -> Result<Slots, Unreachable>;

    /// Has `spec.slot` run `spec` for `event`: see [`super::Ask::Ensure`]. What comes of it is news.
    ///
    /// # Errors
    /// [`Unreachable::Refused`]: the spec makes no sense. [`Unreachable::Gone`]: ask again.
    fn ensure(&mut self, event: u64, spec: &WorkerSpec, force: bool) -> Result<(), Unreachable>;

    /// The same, but the process that runs in the slot is told of `spec` and stays, where it takes it.
    ///
    /// # Errors
    /// As for [`ServiceManager::ensure`].
    fn ensure_in_place(&mut self, event: u64, spec: &WorkerSpec) -> Result<(), Unreachable>;

    /// Kills the candidates of `event`; there is no news about them.
    ///
    /// # Errors
    /// [`Unreachable::Gone`]: ask again.
    fn abandon(&mut self, event: u64) -> Result<(), Unreachable>;

    /// Drains every slot that is not in `keep`, and closes the sockets no slot needs.
    ///
    /// # Errors
    /// [`Unreachable::Gone`]: ask again.
    fn settle(&mut self, keep: &[Slot]) -> Result<(), Unreachable>;

    /// The news with numbers above `after`; 0: only what comes from now on.
    ///
    /// # Errors
    /// [`Unreachable::Gone`].
    fn listen(&mut self, after: u64) -> Result<Box<dyn NewsSource>, Unreachable>;
}

/// News as they come.
pub trait NewsSource: Send {
    /// The next news and its number, or `None` where none comes within `limit`.
    ///
    /// # Errors
    /// [`Unreachable::Gone`]: nothing more will come; listen again with the last number seen.
    fn next_within(&mut self, limit: Duration) -> Result<Option<(u64, News)>, Unreachable>;

    /// Waits for the next news.
    ///
    /// # Errors
    /// As for [`NewsSource::next_within`].
    #[allow(clippy::should_implement_trait, reason = "it has no end, and an error ends it")]
    fn next(&mut self) -> Result<(u64, News), Unreachable> {
        loop {
            if let Some(next) = self.next_within(Duration::from_secs(3600))? {
                return Ok(next);
            }
        }
    }
}

/// Which program looks after the workers of a run directory, and how it is reached.
#[derive(Clone, Debug)]
pub struct Workers {
    run: PathBuf,
    program: PathBuf,
}

impl Workers {
    /// Those of the run directory `run`; `program` is our own binary.
    pub fn of(run: &Path, program: &Path, _choice: ServiceManagerChoice) -> Workers {
        Workers { run: run.to_owned(), program: program.to_owned() }
    }

    /// Whoever looks after the workers, where that one is there.
    ///
    /// # Errors
    /// [`Unreachable::Absent`].
    pub fn reach(&self) -> Result<Box<dyn ServiceManager>, Unreachable> {
        Ok(Box::new(Client::connect(&self.run)?))
    }

    /// The same; whoever is not there is started. `true`: it was.
    ///
    /// # Errors
    /// [`Unreachable::Absent`]: it could not be.
    pub fn start(&self) -> Result<bool, Unreachable> {
        if Client::connect(&self.run).is_ok() {
            return Ok(false);
        }
        Ok(client::start_detached(&self.program, &self.run)?.process.is_some())
    }

    /// What is written down of what runs; nobody is asked.
    ///
    /// # Errors
    /// A record that cannot be read: nobody knows what runs.
    pub fn recorded(&self) -> Result<Vec<WorkerReport>, FsError> {
        record::recorded(&self.run)
    }
}
