//! Taking away: renamed into `tmp/` under the store lock, unlinked after it.

use std::path::Path;

use super::error::StoreError;
use super::open::{Store, Writer};
use crate::fsx::{self, Dir, EntryKind, FsError, Lock, Meta};
use crate::model::{GenerationId, LoadedKey};

/// What is taken away.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Victim {
    Generation(GenerationId),
    Loaded(LoadedKey),
}

/// A victim that nobody holds, and that nobody can hold from now on.
#[derive(Debug)]
pub(super) struct Locked {
    pub(super) victim: Victim,
    _locks: Vec<Lock>,
}

/// A victim under its name in `tmp/`. Its lock tells other writers that somebody is removing it.
#[derive(Debug)]
pub(super) struct Aside {
    name: String,
    locked: Locked,
}

/// What the file system gets back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Freed {
    /// files, directories and links whose last name is gone
    pub inodes: u64,
    /// the disk space of these, in bytes
    pub bytes: u64,
}

impl Freed {
    fn inode(&mut self, blocks: u64) {
        self.inodes += 1;
        self.bytes += blocks;
    }

    pub(super) fn add(&mut self, other: Freed) {
        self.inodes += other.inodes;
        self.bytes += other.bytes;
    }
}

impl Victim {
    fn part(self) -> &'static str {
        match self {
            Victim::Generation(_) => "generations",
            Victim::Loaded(_) => "loaded",
        }
    }

    fn name(self) -> String {
        match self {
            Victim::Generation(id) => id.to_string(),
            Victim::Loaded(key) => key.to_string(),
        }
    }
}

impl Aside {
    pub(super) fn victim(&self) -> Victim {
        self.locked.victim
    }
}

impl Store {
    /// Takes the locks that leases are held on. `None`: somebody holds it.
    pub(super) fn lock_victim(&self, victim: Victim) -> Result<Option<Locked>, FsError> {
        let path = self.path().join(victim.part()).join(victim.name());
        let Some(Some(own)) = fsx::optional(Lock::try_dir(&path))? else { return Ok(None) };
        let mut locks = vec![own];
        if let Victim::Loaded(_) = victim {
            // what a process is given of it, and holds
            match fsx::optional(Lock::try_dir(&path.join("tree")))? {
                Some(Some(tree)) => locks.push(tree),
                Some(None) => return Ok(None),
                None => {}
            }
        }
        Ok(Some(Locked { victim, _locks: locks }))
    }

    /// What removing `victims` would give back.
    pub(super) fn would_free(&self, victims: &[Victim]) -> Result<Freed, StoreError> {
        let mut links = Links::default();
        for victim in victims {
            let path = Path::new(victim.part()).join(victim.name());
            // one that is taken away meanwhile frees nothing here
            if let Some(dir) =
                fsx::optional(self.root.dir(path)).map_err(StoreError::io("look at a generation"))?
            {
                links.beneath(&dir).map_err(StoreError::io("look at a generation"))?;
            }
        }
        Ok(links.freed)
    }
}

/// Counts inodes whose every name has been met.
#[derive(Default)]
struct Links {
    met: std::collections::HashMap<(u64, u64), u64>,
    freed: Freed,
}

impl Links {
    fn beneath(&mut self, dir: &Dir) -> Result<(), FsError> {
        self.freed.inode(dir.own_meta()?.blocks);
        for (name, kind) in dir.entries()? {
            if kind == EntryKind::Dir {
                self.beneath(&dir.dir(&name)?)?;
                continue;
            }
            let meta = dir.meta(&name)?;
            let met = self.met.entry(meta.identity).or_default();
            *met += 1;
            if *met == meta.links {
                self.freed.inode(meta.blocks);
            }
        }
        Ok(())
    }
}

impl Writer {
    /// Renames `victims` aside, not durably yet. The caller holds the store lock exclusively. What could not be
    /// renamed stays where it is; the error is then given beside what could.
    pub(super) fn set_aside(&self, victims: Vec<Locked>) -> (Vec<Aside>, Result<(), StoreError>) {
        let mut aside = Vec::new();
        let mut done = Ok(());
        for locked in victims {
            match self.rename_aside(locked.victim) {
                Ok(name) => aside.push(Aside { name, locked }),
                Err(error) => {
                    done = Err(error);
                    break;
                }
            }
        }
        (aside, done.map_err(StoreError::io("take away what is not kept")))
    }

    fn rename_aside(&self, victim: Victim) -> Result<String, FsError> {
        let (from, tmp) = (self.root.dir(victim.part())?, self.root.dir("tmp")?);
        loop {
            let name = fsx::unique();
            match from.rename_new(victim.name(), &tmp, &name) {
                // what another process of this number has left
                Err(error) if error.is_exists() => {}
                done => return done.map(|()| name),
            }
        }
    }

    /// Makes what [`Writer::set_aside`] has renamed gone for good: nothing of it may be unlinked before.
    pub(super) fn sync_aside(&self, aside: &[Aside]) -> Result<(), StoreError> {
        for part in ["generations", "loaded"] {
            if aside.iter().any(|one| one.locked.victim.part() == part) {
                self.part(part)?.sync().map_err(StoreError::io("take away what is not kept"))?;
            }
        }
        Ok(())
    }

    /// Unlinks what was set aside; needs no lock but its own. What fails is left for the next writer.
    pub(super) fn unlink(&self, aside: &Aside) -> Result<Freed, StoreError> {
        let mut freed = Freed::default();
        let mut count = |meta: &Meta| {
            if meta.kind == EntryKind::Dir || meta.links == 1 {
                freed.inode(meta.blocks);
            }
        };
        let removed = self.root.dir("tmp").and_then(|tmp| tmp.remove_tree_telling(&aside.name, &mut count));
        removed.map_err(StoreError::io("remove what was taken away (the next command tries again)"))?;
        Ok(freed)
    }
}
