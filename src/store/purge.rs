//! Purges generations whatever retention says: a secret was pushed. Rule S21 of `spec/store.md`.

use std::collections::{BTreeSet, HashSet};
use std::fmt;

use serde::Serialize;

use super::aside::{Freed, Victim};
use super::error::{Kind, StoreError};
use super::gc::{Decision, GcProgress, Policy, Probe, Stays, View, stays};
use super::open::{Store, Writer};
use super::roots::{self, Reason};
use crate::model::{ContentHash, GenerationId, LoadedKey, Node};

/// Something that must end before a generation can be purged.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Obstacle {
    /// the generation
    pub id: GenerationId,
    /// what is in the way
    pub why: Reason,
}

impl fmt::Display for Obstacle {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: ", self.id.short())?;
        match &self.why {
            Reason::Current => f.write_str("it is in force; `pointsman activate REF` another one"),
            Reason::Tag(tag) => write!(f, "tag {tag} names it; `pointsman tag -d {tag}`"),
            Reason::Event(number) => {
                write!(f, "event {number} is not finished; `pointsman history` shows its verdict when it is")
            }
            Reason::Worker(name) => write!(f, "worker {name} runs on it; wait for its end, or end it"),
            why => write!(f, "{why}, such as `pointsman exec`; end it"),
        }
    }
}

/// Why nothing was purged, or not all of it.
#[derive(Debug, thiserror::Error)]
pub enum PurgeError {
    /// nothing was touched
    #[error("nothing is purged:{}", .0.iter().map(|o| format!("\n  {o}")).collect::<String>())]
    InTheWay(Vec<Obstacle>),
    /// the store could not do its part
    #[error(transparent)]
    Store(StoreError),
}

impl PurgeError {
    /// What it means for whoever asked.
    pub fn kind(&self) -> Kind {
        match self {
            PurgeError::InTheWay(_) => Kind::Refused,
            PurgeError::Store(error) => error.kind(),
        }
    }
}

impl From<StoreError> for PurgeError {
    fn from(error: StoreError) -> PurgeError {
        PurgeError::Store(error)
    }
}

/// A generation that stays and holds some of what was purged.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct SharedFiles {
    /// which
    pub id: GenerationId,
    /// how many of its files have the content of a purged one
    pub files: usize,
}

/// What a purge came to, or would.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Purged {
    /// the generations that are gone
    pub removed: Vec<GenerationId>,
    /// the loader outputs that are gone with them, and those that nothing names
    pub removed_loaded: Vec<LoadedKey>,
    /// what the file system got back
    pub freed: Freed,
    /// the generations that stay and hold files with the same content
    pub shared: Vec<SharedFiles>,
    /// the loader outputs that were made from what is gone, and stay
    pub shared_loaded: Vec<Stays<LoadedKey>>,
}

impl Store {
    /// What [`Writer::purge`] would do now. Changes nothing, waits for nobody.
    pub fn would_purge(
        &self,
        ids: &BTreeSet<GenerationId>,
        policy: &Policy<'_>,
    ) -> Result<Purged, PurgeError> {
        let view = self.view(policy)?;
        self.free_of_use(&view, ids, &mut |victim| self.probe(victim))?;
        let decision = Decision::purge(&view, ids, &mut |victim| self.probe(victim))?;
        let mut purged = Purged::of(&view, ids, &decision);
        purged.freed = self.would_free(&decision.gone)?;
        purged.shared = self.sharing(&self.contents(ids), ids)?;
        Ok(purged)
    }

    /// Whether nothing is in the way of purging `ids`.
    fn free_of_use(
        &self,
        view: &View,
        ids: &BTreeSet<GenerationId>,
        probe: &mut dyn FnMut(Victim) -> Result<Probe, crate::fsx::FsError>,
    ) -> Result<(), PurgeError> {
        let kept = roots::generations(&view.facts);
        let mut obstacles = Vec::new();
        for id in ids.iter().copied() {
            if !view.facts.generations.contains_key(&id) {
                return Err(StoreError::NoSuchGeneration { id }.into());
            }
            let mut uses: BTreeSet<Reason> =
                kept.get(&id).into_iter().flatten().filter(|why| why.is_use()).cloned().collect();
            // what an event makes and needs beside its target is not known before its verdict
            uses.extend(view.facts.pending.keys().map(|number| Reason::Event(*number)));
            let free = probe(Victim::Generation(id)).map_err(StoreError::io("look at a generation"))?;
            // a worker holds it, too
            if !matches!(free, Probe::Free) && !uses.iter().any(|why| matches!(why, Reason::Worker(_))) {
                uses.insert(Reason::Leased);
            }
            obstacles.extend(uses.into_iter().map(|why| Obstacle { id, why }));
        }
        if obstacles.is_empty() { Ok(()) } else { Err(PurgeError::InTheWay(obstacles)) }
    }

    /// The content of every file of `ids`, but empty ones. A damaged manifest tells of none.
    fn contents(&self, ids: &BTreeSet<GenerationId>) -> HashSet<ContentHash> {
        let manifests: Vec<_> = ids.iter().filter_map(|id| self.manifest(*id).ok()).collect();
        let nodes = manifests.iter().flat_map(|manifest| manifest.iter().map(|(_, node)| node));
        nodes.filter_map(content).collect()
    }

    /// The generations but `ids` that hold one of `contents`.
    fn sharing(
        &self,
        contents: &HashSet<ContentHash>,
        ids: &BTreeSet<GenerationId>,
    ) -> Result<Vec<SharedFiles>, StoreError> {
        let mut sharing = Vec::new();
        for id in self.generation_ids()?.into_iter().filter(|id| !ids.contains(id)) {
            // one that is taken away meanwhile, or damaged, which `verify` names
            let Ok(manifest) = self.manifest(id) else { continue };
            let nodes = manifest.iter().filter_map(|(_, node)| content(node));
            let files = nodes.filter(|hash| contents.contains(hash)).count();
            if files > 0 {
                sharing.push(SharedFiles { id, files });
            }
        }
        Ok(sharing)
    }
}

fn content(node: &Node) -> Option<ContentHash> {
    match node {
        Node::File { hash, len, .. } if *len > 0 => Some(*hash),
        _ => None,
    }
}

impl Purged {
    fn of(view: &View, ids: &BTreeSet<GenerationId>, decision: &Decision) -> Purged {
        let made = |key: &LoadedKey| {
            view.facts.ended.iter().any(|ended| ended.loaded == Some(*key) && ids.contains(&ended.target))
        };
        let mut purged = Purged { shared_loaded: stays(decision.kept_loaded.clone()), ..Purged::default() };
        purged.shared_loaded.retain(|output| made(&output.id));
        for victim in &decision.gone {
            match victim {
                Victim::Generation(id) => purged.removed.push(*id),
                Victim::Loaded(key) => purged.removed_loaded.push(*key),
            }
        }
        purged
    }
}

impl Writer {
    /// Takes generations `ids` away whatever retention says, with the loader outputs that were made from them
    /// alone, and unlinks everything. What other generations share with them stays there and is named.
    ///
    /// # Errors
    /// [`PurgeError::InTheWay`], [`StoreError::Damaged`]: nothing was touched. Others: nothing can reach what was
    /// taken away, but parts of it may still be in `tmp/`.
    pub fn purge(
        &self,
        ids: &BTreeSet<GenerationId>,
        policy: &Policy<'_>,
        told: &mut dyn FnMut(GcProgress),
    ) -> Result<Purged, PurgeError> {
        let contents = self.contents(ids);
        let lock = self.take_alone(true, told)?.expect("whoever waits gets the lock, or an error");
        let view = self.view(policy)?;
        let mut locked = Vec::new();
        let mut hold = |victim| {
            let one = self.lock_victim(victim)?;
            let free = if one.is_some() { Probe::Free } else { Probe::Held };
            locked.extend(one);
            Ok(free)
        };
        self.free_of_use(&view, ids, &mut hold)?;
        let decision = Decision::purge(&view, ids, &mut hold)?;
        let mut purged = Purged::of(&view, ids, &decision);
        let (aside, renamed) = self.move_aside(&view, locked, lock)?;
        for (index, one) in aside.into_iter().enumerate() {
            purged.freed.add(self.unlink(&one)?);
            told(GcProgress::Removing { done: index + 1 });
        }
        renamed?;
        purged.shared = self.sharing(&contents, ids)?;
        Ok(purged)
    }
}
