//! What a process that systemd starts does for itself in `__exec`: nobody of ours may be there when systemd
//! starts it again.

use std::collections::BTreeMap;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::fsx::{Dir, FsError};
use crate::model::chain;
use crate::supervise::exec::{ExecError, FIRST_FD};
use crate::supervise::holder::Holder;
use crate::supervise::readiness::FileMark;
use crate::supervise::surroundings::Settings;
use crate::supervise::{clock, sockets};

/// The exit status of a candidate that systemd wants to start a second time: it has failed, and that is its
/// verdict. No shell and no part of systemd uses it.
pub(in crate::supervise) const NOT_AGAIN: u8 = 199;

/// A holder that systemd starts again answers within this time.
const PATIENCE: Duration = Duration::from_secs(5);

/// What is left to do before a process becomes its program.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::supervise) struct Own {
    /// made at the first start; where it is there, there is no second one
    pub(super) once: Option<PathBuf>,
    /// `{run}`, made anew for each process
    pub(super) directory: PathBuf,
    /// the links in it
    pub(super) links: BTreeMap<String, PathBuf>,
    /// the file by which it says that it is ready, if it does
    pub(super) ready_file: Option<PathBuf>,
    /// where to note that all is made, and what was at that file before
    pub(super) note: PathBuf,
    /// the run directory whose holder has its sockets
    pub(super) run: PathBuf,
    /// which
    pub(super) sockets: Wanted,
    /// it is told where it may say how it is
    pub(in crate::supervise) talks: bool,
}

/// What a process notes before it becomes its program.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Note {
    /// which process
    pub(super) pid: u32,
    /// what was at its ready file, if it has one
    pub(super) mark: FileMark,
}

/// Sockets to be fetched.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(in crate::supervise) enum Wanted {
    /// those of these keys
    Keys(Vec<String>),
    /// all that processes of `group` have bound, to be offered in `variable`
    Inherited { group: String, variable: String },
}

/// Sockets that have been fetched.
#[derive(Debug, Default)]
pub(in crate::supervise) struct Fetched {
    /// to be placed at 3, 4, ..
    pub(in crate::supervise) sockets: Vec<OwnedFd>,
    /// the variable that tells of them
    pub(in crate::supervise) told: Option<(String, String)>,
}

impl Own {
    /// Makes what the process with these settings is to find, and fetches its sockets.
    pub(in crate::supervise) fn prepare(&self, settings: &Settings) -> Result<Fetched, ExecError> {
        if let Some(once) = &self.once {
            let first = write_in(once, b"", false).map_err(|e| failed("note its start", &e))?;
            if !first {
                return Err(ExecError::NotAgain);
            }
        }
        self.fresh(settings).map_err(|e| failed("make its directory", &e))?;
        let fetched = self.sockets()?;
        let mark = self.ready_file.as_deref().map(FileMark::of).unwrap_or_default();
        let note = Note { pid: std::process::id(), mark };
        let note = serde_json::to_vec(&note).expect("a note is plain data");
        write_in(&self.note, &note, true).map_err(|e| failed("note its start", &e))?;
        Ok(fetched)
    }

    fn fresh(&self, settings: &Settings) -> Result<(), FsError> {
        let (parent, name) = parts(&self.directory);
        let parent = Dir::create_all(parent, 0o755)?;
        parent.remove_tree(name)?;
        let directory = parent.create_dir(name, 0o755)?;
        self.links.iter().try_for_each(|(name, target)| directory.symlink(target, name))?;
        settings.give(&directory)
    }

    fn sockets(&self) -> Result<Fetched, ExecError> {
        if self.sockets == Wanted::Keys(Vec::new()) {
            return Ok(Fetched::default());
        }
        let what = "fetch its sockets from the holder";
        let run = Dir::open(&self.run).map_err(|e| failed(what, &e))?;
        let deadline = clock::after(PATIENCE);
        let holder = loop {
            match Holder::connect(&run) {
                Ok(holder) => break holder,
                Err(error) if clock::until(deadline).is_zero() => return Err(failed(what, &error)),
                Err(_) => std::thread::sleep(Duration::from_millis(10)),
            }
        };
        let keys = match &self.sockets {
            Wanted::Keys(keys) => keys.clone(),
            Wanted::Inherited { group, .. } => {
                let prefix = sockets::inherit_prefix(group);
                let keys = holder.list().map_err(|e| failed(what, &e))?;
                keys.into_iter().filter(|key| key.starts_with(&prefix)).collect()
            }
        };
        let fds: Result<Vec<OwnedFd>, _> = keys.iter().map(|key| holder.get(key)).collect();
        let fds = fds.map_err(|e| failed(what, &e))?;
        let told = match &self.sockets {
            Wanted::Inherited { variable, .. } if !fds.is_empty() => {
                let numbers = (FIRST_FD..FIRST_FD + fds.len()).map(|fd| format!("{fd};")).collect();
                Some((variable.clone(), numbers))
            }
            _ => None,
        };
        Ok(Fetched { sockets: fds, told })
    }
}

fn failed(what: &str, error: &dyn std::error::Error) -> ExecError {
    ExecError::Setup { what: what.to_owned(), why: chain(error) }
}

/// Writes the file at `path`, in place of another or not at all; false: there was one.
pub(super) fn write_in(path: &Path, bytes: &[u8], replaces: bool) -> Result<bool, FsError> {
    let (parent, name) = parts(path);
    let parent = Dir::open(parent)?;
    if replaces {
        return parent.replace_file(name, bytes, 0o600).map(|()| true);
    }
    match parent.write_unflushed(name, bytes, 0o600) {
        Ok(()) => Ok(true),
        Err(error) if error.is_exists() => Ok(false),
        Err(error) => Err(error),
    }
}

fn parts(path: &Path) -> (&Path, &str) {
    let name = path.file_name().and_then(|name| name.to_str());
    (path.parent().unwrap_or(Path::new("/")), name.expect("we have named it"))
}
