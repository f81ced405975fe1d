//! From errors and verdicts to exit codes: the one table.

use std::error::Error;
use std::io::{self, ErrorKind};
use std::path::Path;

use crate::fsx::FsError;
use crate::manager::ManagerError;
use crate::model::{Verdict, chain};
use crate::store::{
    EventError, ExportError, ImportError, Kind, PointerError, PurgeError, PushError, RefError, StoreError,
};
use crate::supervise::exec::ExecError;
use crate::supervise::holder::DaemonError;

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
    /// `manager`: it has given up; to start it again mends nothing
    Fatal = 8,
    /// `exec`: the program is there and cannot be run; what shells say
    NotRunnable = 126,
    /// `exec`: there is no such program; what shells say
    NoProgram = 127,
}

/// A command that could not be done, and why.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) exit: Exit,
    pub(super) error: Box<dyn Error>,
}

impl Failure {
    pub(super) fn new(exit: Exit, error: impl Into<Box<dyn Error>>) -> Failure {
        Failure { exit, error: error.into() }
    }

    pub(super) fn usage(message: impl Into<String>) -> Failure {
        Failure::new(Exit::Usage, message.into())
    }

    /// The chain of reasons, once, and the next step.
    pub(super) fn text(&self) -> String {
        let mut text = chain(&*self.error);
        // an error of ours says what to do behind a semicolon; a bare one of the system does not
        if !text.contains("; ")
            && let Some(next) = next_step(&*self.error)
        {
            text.push_str("; ");
            text.push_str(next);
        }
        text
    }
}

/// What can be done about the system's reason at the end of the chain.
fn next_step(mut error: &(dyn Error + 'static)) -> Option<&'static str> {
    while let Some(source) = error.source() {
        error = source;
    }
    Some(match error.downcast_ref::<io::Error>()?.kind() {
        ErrorKind::NotFound => "give a path that is there",
        ErrorKind::NotADirectory => "give a directory",
        ErrorKind::PermissionDenied => "run it as a user who may, or change the rights",
        ErrorKind::StorageFull | ErrorKind::QuotaExceeded => "make room and run it again",
        ErrorKind::FileTooLarge => "raise the limit (`ulimit -f`) and run it again",
        ErrorKind::ReadOnlyFilesystem => "make the file system writable and run it again",
        _ => return None,
    })
}

/// The exit code of a verdict.
pub(super) fn of_verdict(verdict: Verdict) -> Exit {
    match verdict {
        Verdict::Good | Verdict::Unchanged | Verdict::Unconfirmed | Verdict::PointerOnly => Exit::Done,
        Verdict::Reverted | Verdict::Failed => Exit::Failed,
        Verdict::Superseded => Exit::Busy,
        Verdict::Stuck => Exit::Stuck,
        Verdict::Refused => Exit::Refused,
    }
}

/// Why nothing was pushed; where a limit was met, with the path of the host file that sets it.
pub(super) fn of_push(error: PushError, host: &Path) -> Failure {
    if error.is_limit() {
        return Failure::new(of_kind(error.kind()), format!("{} {}", chain(&error), host.display()));
    }
    error.into()
}

fn of_kind(kind: Kind) -> Exit {
    match kind {
        Kind::Failed => Exit::Failed,
        Kind::NoSuch => Exit::NoSuch,
        Kind::Damaged => Exit::Damaged,
        Kind::Busy => Exit::Busy,
        Kind::Refused => Exit::Refused,
        Kind::NoStore => Exit::Usage,
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

failure_by_kind!(
    StoreError,
    EventError,
    ExportError,
    ImportError,
    PointerError,
    PurgeError,
    PushError,
    RefError
);

impl From<FsError> for Failure {
    fn from(error: FsError) -> Failure {
        Failure::new(Exit::Failed, error)
    }
}

impl From<ExecError> for Failure {
    fn from(error: ExecError) -> Failure {
        let exit = match &error {
            ExecError::NotFound { .. } => Exit::NoProgram,
            ExecError::NotRunnable { .. } => Exit::NotRunnable,
            ExecError::Namespace(_) => Exit::Refused,
            ExecError::Abandoned
            | ExecError::NotAgain
            | ExecError::Unreadable { .. }
            | ExecError::Setup { .. }
            | ExecError::NoCopy { .. }
            | ExecError::NoSocket { .. } => Exit::Failed,
        };
        Failure::new(exit, error)
    }
}

impl From<DaemonError> for Failure {
    fn from(error: DaemonError) -> Failure {
        let exit = match &error {
            DaemonError::Taken { .. } => Exit::Busy,
            DaemonError::Files { .. } | DaemonError::System { .. } => Exit::Failed,
        };
        Failure::new(exit, error)
    }
}

impl From<ManagerError> for Failure {
    fn from(error: ManagerError) -> Failure {
        let exit = match &error {
            ManagerError::Store(error) => of_kind(error.kind()),
            ManagerError::Event(error) => of_kind(error.kind()),
            ManagerError::Pointer(error) => of_kind(error.kind()),
            ManagerError::NoManager
            | ManagerError::NoSupervisor(_)
            | ManagerError::Unsupervised(_)
            | ManagerError::NotWaited { .. } => Exit::Busy,
            ManagerError::Fatal { .. } => Exit::Fatal,
            ManagerError::NothingToRollBackTo => Exit::NoSuch,
            ManagerError::Push(error) => of_kind(error.kind()),
            ManagerError::Refused { .. }
            | ManagerError::Pipeline(_)
            | ManagerError::NoDocument { .. }
            | ManagerError::Section(_)
            | ManagerError::External { .. }
            | ManagerError::MayNotMount { .. } => Exit::Refused,
            ManagerError::File(_) | ManagerError::Watch(_) | ManagerError::Signals(_) => Exit::Failed,
        };
        Failure::new(exit, error)
    }
}
