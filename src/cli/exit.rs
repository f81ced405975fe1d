//! From errors and verdicts to exit codes: the one table.

use crate::manager::ManagerError;
use crate::model::Verdict;
use crate::store::{EventError, Kind, PointerError, PushError, RefError, StoreError};

/// The exit codes. Stable: scripts depend on them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Exit {
    /// done, or nothing was to be done
    Done = 0,
    /// failed or reverted; the last good generation is in force
    Failed = 1,
    /// asked wrongly
    Usage = 2,
    /// no such generation, or more than one
    NoSuch = 3,
    /// the store is damaged
    Damaged = 4,
    /// busy, superseded or unreachable: try again
    Busy = 5,
    /// a person has to look
    Stuck = 6,
    /// refused before anything ran
    Refused = 7,
}

/// A command that could not be done, and why.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) error: Box<dyn std::error::Error>,
}

impl Failure {
    pub(super) fn new(exit: Exit, error: impl Into<Box<dyn std::error::Error>>) -> Failure {
        Failure { exit, error: error.into() }
    }

    pub(super) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message.into())
    }
}

/// The exit code of a verdict.
pub(super) fn of_verdict(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Good | Verdict::Unchanged | Verdict::PointerOnly => Exit::Done,
        Verdict::Reverted | Verdict::Failed => Exit::Failed,
        Verdict::Superseded => Exit::Busy,
        Verdict::Stuck => Exit::Stuck,
        Verdict::Refused => Exit::Refused,
    }
}

fn of_kind(kind: Kind) -> Exit {
    match kind {
        Kind::Failed => Exit::Failed,
        Kind::NoSuch => Exit::NoSuch,
        Kind::Damaged => Exit::Damaged,
        Kind::Busy => Exit::Busy,
        Kind::Refused => Exit::Refused,
    }
}

macro_rules! failure_by_kind {
    ($($error:ty),+) => {
        $(impl From<$error> for Failure {
            fn from(error: $error) -> Failure {
                Failure::new(of_kind(error.kind()), error)
            }
        })+
    };
}

failure_by_kind!(StoreError, EventError, PointerError, PushError, RefError);

impl From<ManagerError> for Failure {
    fn from(error: ManagerError) -> Failure {
        let exit = match &error {
            ManagerError::Store(error) => of_kind(error.kind()),
            ManagerError::Event(error) => of_kind(error.kind()),
            ManagerError::Pointer(error) => of_kind(error.kind()),
            ManagerError::NoSupervisor(_) | ManagerError::NotWaited { .. } => Exit::Busy,
            ManagerError::NothingToRollBackTo => Exit::NoSuch,
            ManagerError::Pipeline(_) | ManagerError::Section(_) => Exit::Refused,
            ManagerError::File(_) | ManagerError::Watch(_) | ManagerError::Signals(_) => Exit::Failed,
        };
        Failure::new(exit, error)
    }
}
