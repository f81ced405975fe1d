//! Who a process is, what it may take, where it starts: found out where it is started, set by itself.

use std::path::{Path, PathBuf};

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{Gid, Resource, Rlimit, Uid};
use serde::{Deserialize, Serialize};

use crate::fsx::{Dir, FsError};
use crate::model::{Bounds, Identity, Surroundings};

use super::exec::{ExecError, Start};
use super::launch::{self, Given};
use super::memory;
use super::wire::Launch;

/// `/etc/passwd` and `/etc/group` of more than this are no files of ours.
const ACCOUNTS: u64 = 16 << 20;

/// [`Surroundings`] with names looked up: what `__exec` sets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Settings {
    /// whom to become; `None`: whoever starts it
    identity: Option<Identity>,
    umask: Option<u32>,
    nofile: Option<Bounds>,
    core: Option<Bounds>,
    memory: Option<u64>,
}

/// Who a process with these surroundings is; `None`: whoever starts it.
///
/// # Errors
/// A name that is not in `/etc/passwd` or `/etc/group`: nobody else is asked.
pub fn identity(surroundings: &Surroundings) -> Result<Option<Identity>, String> {
    if !surroundings.names_somebody() {
        return Ok(None);
    }
    let read = |path: &str| {
        let bytes = crate::fsx::read_path(Path::new(path), ACCOUNTS).map_err(|e| crate::model::chain(&e))?;
        Ok::<_, String>(String::from_utf8_lossy(&bytes).into_owned())
    };
    let (passwd, groups) = (read("/etc/passwd")?, read("/etc/group")?);
    surroundings.identity(&passwd, &groups, crate::fsx::effective_uid()).map_err(|e| e.to_string())
}

/// Whether this user can give a process these surroundings, but for `memory`.
///
/// # Errors
/// What it cannot, and what to do.
pub fn may(surroundings: &Surroundings) -> Result<(), String> {
    let own = (crate::fsx::effective_uid(), rustix::process::getegid().as_raw());
    if let Some(identity) = identity(surroundings)?
        && own.0 != 0
        && own != (identity.uid, identity.gid)
    {
        let (key, who) = match (&surroundings.user, &surroundings.group) {
            (Some(user), _) if identity.uid != own.0 => ("user", user),
            (Some(who), None) | (_, Some(who)) => ("group", who),
            (None, None) => unreachable!("an identity has a user or a group"),
        };
        return Err(format!(
            "{key}: only root can run workers as `{who}`, and this is the store of user {}; leave it out, or keep the store as root",
            own.0
        ));
    }
    for (key, resource, bounds) in
        [("nofile", Resource::Nofile, surroundings.nofile), ("core", Resource::Core, surroundings.core)]
    {
        let (Some(bounds), Some(most)) = (bounds, rustix::process::getrlimit(resource).maximum) else {
            continue;
        };
        if own.0 != 0 && bounds.hard.is_none_or(|hard| hard > most) {
            let hard = bounds.hard.map_or("unlimited".to_owned(), |hard| hard.to_string());
            return Err(format!(
                "limits.{key}: {hard} is above the hard limit {most} of this user; write {most} or less"
            ));
        }
    }
    Ok(())
}

/// The start of `launch` as [`launch::start`] makes it, with its surroundings.
pub(super) fn start(launch: &Launch, given: &Given<'_>) -> Result<Start, String> {
    let mut start = launch::start(launch, given).map_err(|e| e.to_string())?;
    let Surroundings { umask, nofile, core, memory, .. } = launch.surroundings;
    // whoever asks a worker takes nothing of what is the worker's
    let memory = memory.filter(|_| given.about.is_none());
    start.settings = Settings { identity: identity(&launch.surroundings)?, umask, nofile, core, memory };
    if let Some(Identity { name, home, .. }) = &start.settings.identity {
        let own = [("HOME", home), ("USER", name), ("LOGNAME", name)];
        for (variable, value) in own.into_iter().filter(|(variable, _)| !launch.env.contains_key(*variable)) {
            start.env.extend(value.clone().map(|value| (variable.to_owned(), value)));
        }
    }
    Ok(start)
}

impl Settings {
    /// Gives `directory` to whoever the process becomes.
    pub(super) fn give(&self, directory: &Dir) -> Result<(), FsError> {
        match self.other() {
            Some(identity) => directory.give(identity.uid, identity.gid),
            None => Ok(()),
        }
    }

    /// Gives the open file at `path` to it.
    pub(super) fn give_file(&self, file: impl std::os::fd::AsFd, path: &Path) -> Result<(), FsError> {
        match self.other() {
            Some(identity) => crate::fsx::give(file, path, identity.uid, identity.gid),
            None => Ok(()),
        }
    }

    /// Whether its memory is limited, where it can be.
    pub(super) fn is_limited(&self) -> bool {
        self.memory.is_some()
    }

    /// Leaves its memory to whoever starts it.
    pub(super) fn without_memory(self) -> Settings {
        Settings { memory: None, ..self }
    }

    /// Whom it becomes, where that is somebody else; only root can.
    fn other(&self) -> Option<&Identity> {
        self.identity.as_ref().filter(|_| crate::fsx::effective_uid() == 0)
    }

    /// Limits the calling process: before it becomes somebody who may not.
    pub(super) fn limit(&self) -> Result<(), ExecError> {
        if let Some(bytes) = self.memory {
            memory::enter(bytes);
        }
        for (what, resource, bounds) in
            [("nofile", Resource::Nofile, self.nofile), ("core", Resource::Core, self.core)]
        {
            let Some(Bounds { soft, hard }) = bounds else { continue };
            rustix::process::setrlimit(resource, Rlimit { current: soft, maximum: hard })
                .map_err(|e| setup(&format!("set limits.{what}"), e))?;
        }
        if let Some(umask) = self.umask {
            rustix::process::umask(Mode::from_raw_mode(umask));
        }
        Ok(())
    }

    /// Becomes whom it shall be, for good. The calling process has one thread: what is set is set for all of it.
    pub(super) fn become_somebody(&self) -> Result<(), ExecError> {
        let Some(Identity { uid, gid, groups, .. }) = self.other() else { return Ok(()) };
        let groups: Vec<Gid> = groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
        let (user, group) = (Uid::from_raw(*uid), Gid::from_raw(*gid));
        rustix::thread::set_thread_groups(&groups).map_err(|e| setup("set the groups", e))?;
        rustix::thread::set_thread_res_gid(group, group, group)
            .map_err(|e| setup(&format!("become group {gid}"), e))?;
        rustix::thread::set_thread_res_uid(user, user, user)
            .map_err(|e| setup(&format!("become user {uid}"), e))
    }
}

fn setup(what: &str, error: Errno) -> ExecError {
    ExecError::Setup { what: what.to_owned(), why: error.to_string() }
}

/// Where a process starts that says nothing else: as its pipeline wrote it, or in `otherwise`.
pub(super) fn directory(
    launch: &Launch,
    otherwise: &Path,
    expand: impl Fn(&str) -> Result<String, launch::LaunchError>,
) -> Result<PathBuf, launch::LaunchError> {
    match &launch.surroundings.directory {
        Some(directory) => Ok(PathBuf::from(expand(directory)?)),
        None => Ok(otherwise.to_owned()),
    }
}
