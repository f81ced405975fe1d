//! Staging directories in `tmp/`: what is being made, and what a crash left of it.

use std::path::{Path, PathBuf};

use crate::fsx::{self, Dir, FsError, Lock};

/// Names in `tmp/` that outlive the process that made them.
pub(super) const UNDO: &str = "undo";
pub(super) const RESERVE: &str = "reserve";

/// A fresh directory in `tmp/` with an empty `tree` in it, held by a lock. Dropping it removes it.
#[derive(Debug)]
pub struct Staging {
    tmp: Dir,
    name: String,
    dir: Dir,
    tree: PathBuf,
    lock: Option<Lock>,
}

impl Staging {
    pub(super) fn new(root: &Dir) -> Result<Staging, FsError> {
        let tmp = root.dir("tmp")?;
        loop {
            let name = fsx::unique();
            // until it is locked, a cleaner may take it for garbage: then take another name
            let dir = match tmp.create_dir(&name, 0o755) {
                Err(error) if error.is_exists() || error.is_not_found() => continue,
                other => other?,
            };
            let path = tmp.path().join(&name);
            let lock = match fsx::optional(Lock::try_dir(&path))? {
                Some(Some(lock)) => lock,
                Some(None) | None => continue,
            };
            if fsx::optional(tmp.meta(&name))?.map(|m| m.identity) != Some(dir.own_meta()?.identity) {
                continue;
            }
            dir.create_dir("tree", 0o755)?;
            return Ok(Staging { tree: path.join("tree"), tmp, name, dir, lock: Some(lock) });
        }
    }

    /// The absolute path of the empty directory to fill.
    pub fn path(&self) -> &Path {
        &self.tree
    }

    pub(super) fn dir(&self) -> &Dir {
        &self.dir
    }

    /// Renames the whole to `name` in `to`, durably. `false` where something has that name: then the
    /// staging is removed.
    pub(super) fn publish(mut self, to: &Dir, name: &str) -> Result<bool, FsError> {
        match self.tmp.rename_new(&self.name, to, name) {
            Ok(()) => {
                self.lock = None; // readers may lease it from now on
                to.sync()?;
                Ok(true)
            }
            Err(error) if error.is_exists() => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Takes the place of `name` in `to`, durably, in one step. What was there is removed; where somebody leases
    /// it, by the first writer after that.
    pub(super) fn replace(mut self, to: &Dir, name: &str) -> Result<(), FsError> {
        self.tmp.exchange(&self.name, to, name)?;
        self.lock = None;
        to.sync()?;
        // a failure leaves garbage, which the next writer removes
        if let Ok(Some(_lock)) = Lock::try_dir(&self.tmp.path().join(&self.name)) {
            let _ = self.tmp.remove_tree(&self.name);
        }
        Ok(())
    }

    /// The directory `name` in this staging, as a staging of its own.
    pub(super) fn split(&self, name: &str) -> Result<Staging, FsError> {
        let within = self.dir.path().join(name);
        // held before it has a name that a cleaner looks at; here nobody else does
        let lock = Lock::try_dir(&within)?;
        let tmp = Dir::open(self.tmp.path())?;
        let dir = self.dir.dir(name)?;
        let own = fsx::unique();
        self.dir.rename_new(name, &tmp, &own)?;
        let tree = tmp.path().join(&own).join("tree");
        Ok(Staging { tmp, name: own, dir, tree, lock })
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        if self.lock.is_some() {
            // a failure leaves garbage, which the next writer removes
            let _ = self.tmp.remove_tree(&self.name);
        }
    }
}

/// Removes the files that crashes left in `tmp/`. The caller holds the store lock exclusively, so that none
/// is in use.
pub(super) fn clean_files(tmp: &Dir) -> Result<(), FsError> {
    for (name, kind) in tmp.entries()? {
        if kind != fsx::EntryKind::Dir && name != UNDO && name != RESERVE {
            tmp.remove_tree(&name)?;
        }
    }
    Ok(())
}

/// Removes the directories that crashes left in `tmp/`: those whose lock is free. What was taken away from
/// `generations/` or `loaded/` is taken away durably first, so that no power cut brings a part of it back.
pub(super) fn clean_directories(root: &Dir, tmp: &Dir) -> Result<(), FsError> {
    let mut synced = false;
    for (name, kind) in tmp.entries()? {
        if kind == fsx::EntryKind::Dir
            && let Some(Some(_lock)) = fsx::optional(Lock::try_dir(&tmp.path().join(&name)))?
        {
            if !std::mem::replace(&mut synced, true) {
                root.dir("generations")?.sync()?;
                root.dir("loaded")?.sync()?;
            }
            tmp.remove_tree(&name)?;
        }
    }
    Ok(())
}
