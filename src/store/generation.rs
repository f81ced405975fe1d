//! Generations: which there are, and what is in one.

use std::collections::{BTreeMap, HashSet};
use std::path::PathBuf;
use std::sync::{Arc, Weak};

use jiff::Timestamp;

use super::error::StoreError;
use super::open::Store;
use crate::fsx::{self, Lock};
use crate::model::{Actor, ContentHash, GenerationId, Manifest, Node, PushRecord, RelPath, Tag};

pub(super) const LARGEST_MANIFEST: u64 = 1 << 30;
/// The most that [`Store::read_file`] reads; for configuration texts, not for data.
const LARGEST_FILE: u64 = 256 << 20;

/// One generation as a list shows it.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Listed {
    /// its id
    pub id: GenerationId,
    /// when it was pushed, UTC
    pub at: Timestamp,
    /// who pushed it
    pub by: Actor,
    /// why, in the pusher's words; the beginning of it where it is long
    pub message: Option<String>,
    /// the generation it was linked against
    pub parent: Option<GenerationId>,
    /// the tags that name it
    pub tags: Vec<Tag>,
    /// whether it is in force
    pub current: bool,
    /// whether it was ever proven good here
    pub good: bool,
    /// whether somebody rolled back from it, and nobody activated it since
    pub rejected: bool,
}

/// Everything the store knows about one generation.
#[derive(Clone, Debug)]
pub struct GenerationInfo {
    /// its line in the list
    pub listed: Listed,
    /// how it came here
    pub record: PushRecord,
    /// what is in it
    pub manifest: Arc<Manifest>,
}

impl Store {
    /// Every generation, the last pushed last. A damaged pointer or record hides none of them.
    pub fn list(&self) -> Result<Vec<Listed>, StoreError> {
        let (pushes, brief) = self.pushes()?;
        let good: HashSet<GenerationId> = brief
            .decided
            .values()
            .filter(|decided| decided.is_good())
            .map(|decided| decided.target)
            .collect();
        let current = self.current().ok().flatten();
        let rejected = self.rejected_ids()?;
        let mut tags: BTreeMap<GenerationId, Vec<Tag>> = BTreeMap::new();
        for (tag, id) in self.tags()? {
            tags.entry(id).or_default().push(tag);
        }
        let listed = pushes.into_iter().map(|push| Listed {
            id: push.id,
            at: push.at,
            by: push.by,
            message: push.message,
            parent: push.parent,
            tags: tags.remove(&push.id).unwrap_or_default(),
            current: current == Some(push.id),
            good: good.contains(&push.id),
            rejected: rejected.contains(&push.id),
        });
        Ok(listed.collect())
    }

    /// Everything about generation `id`.
    pub fn show(&self, id: GenerationId) -> Result<GenerationInfo, StoreError> {
        let manifest = self.manifest(id)?;
        let record = self.push_record(id)?;
        let listed = self.list()?.into_iter().find(|listed| listed.id == id);
        let listed = listed.ok_or(StoreError::NoSuchGeneration { id })?;
        Ok(GenerationInfo { listed, record, manifest })
    }

    /// Whether generation `id` is in the store.
    pub fn has(&self, id: GenerationId) -> Result<bool, StoreError> {
        self.root.exists(format!("generations/{id}")).map_err(StoreError::io("look for a generation"))
    }

    /// The directories in which nothing that is there ever changes: what runs on them never has to write there.
    pub fn sealed_paths(&self) -> Vec<PathBuf> {
        ["generations", "loaded"].map(|part| self.path().join(part)).into()
    }

    /// The absolute path of generation `id`, there or not.
    pub fn generation_path(&self, id: GenerationId) -> PathBuf {
        self.path().join(format!("generations/{id}"))
    }

    /// The absolute path of what was pushed as generation `id`, there or not.
    pub fn tree_path(&self, id: GenerationId) -> PathBuf {
        self.generation_path(id).join("tree")
    }

    /// The manifest of generation `id`, which hashes to `id`: read again each time, and parsed where nobody in this
    /// process holds it.
    pub fn manifest(&self, id: GenerationId) -> Result<Arc<Manifest>, StoreError> {
        let name = format!("generations/{id}/manifest");
        let bytes = match fsx::optional(self.root.read(&name, LARGEST_MANIFEST)) {
            Ok(Some(bytes)) => bytes,
            Ok(None) if !self.has(id)? => return Err(StoreError::NoSuchGeneration { id }),
            Ok(None) => return Err(StoreError::damaged(Some(id), name, "it is missing")),
            Err(source) => return Err(StoreError::Io { doing: "read a manifest", source }),
        };
        if GenerationId::of(&bytes) != id {
            return Err(StoreError::damaged(Some(id), name, "it does not hash to the generation's id"));
        }
        let held = || self.held.lock().expect("no thread panics");
        let parsed = held().get(&id).and_then(Weak::upgrade);
        if let Some(manifest) = parsed {
            return Ok(manifest);
        }
        let manifest = Manifest::parse(&bytes).map_err(|e| StoreError::damaged(Some(id), name, &e))?;
        let manifest = Arc::new(manifest);
        let mut held = held();
        held.retain(|_, manifest| manifest.strong_count() > 0);
        held.insert(id, Arc::downgrade(&manifest));
        Ok(manifest)
    }

    /// How generation `id` came here.
    pub fn push_record(&self, id: GenerationId) -> Result<PushRecord, StoreError> {
        let name = format!("generations/{id}/push.json");
        match fsx::optional(self.root.read(&name, 1 << 20)) {
            Ok(Some(bytes)) => {
                serde_json::from_slice(&bytes).map_err(|e| StoreError::damaged(Some(id), name, &e))
            }
            Ok(None) if !self.has(id)? => Err(StoreError::NoSuchGeneration { id }),
            Ok(None) => Err(StoreError::damaged(Some(id), name, "it is missing")),
            Err(source) => Err(StoreError::Io { doing: "read a push record", source }),
        }
    }

    /// The content of one file of generation `id`, through the links in it: what was pushed, or damage.
    pub fn read_file(&self, id: GenerationId, path: &RelPath) -> Result<Vec<u8>, StoreError> {
        self.read_listed(id, &*self.manifest(id)?, path)
    }

    /// The same, where the generation's manifest is at hand.
    pub fn read_listed(
        &self,
        id: GenerationId,
        manifest: &Manifest,
        path: &RelPath,
    ) -> Result<Vec<u8>, StoreError> {
        let missing = || StoreError::NoSuchPath { id, path: path.to_string() };
        let found = super::links::follow(manifest, path).ok_or_else(missing)?;
        let Some(Node::File { hash, .. }) = manifest.get(&found) else { return Err(missing()) };
        let name = format!("generations/{id}/tree/{found}");
        match fsx::optional(self.root.read(&name, LARGEST_FILE)) {
            Ok(Some(bytes)) if ContentHash::of(&bytes) == *hash => Ok(bytes),
            Ok(Some(_)) => Err(StoreError::damaged(Some(id), name, "its content is not what was pushed")),
            Ok(None) => Err(StoreError::damaged(Some(id), name, "it is missing")),
            Err(source) => Err(StoreError::Io { doing: "read a file of a generation", source }),
        }
    }

    /// Holds generation `id`: it is not taken away until the lease is dropped, or the process ends.
    pub fn lease(&self, id: GenerationId) -> Result<Lock, StoreError> {
        let path = self.generation_path(id);
        // gc may hold it for an instant: then it stays after all, or goes
        for _ in 0..1000 {
            match fsx::optional(Lock::lease(&path)).map_err(StoreError::io("lease a generation"))? {
                Some(Some(lock)) => return Ok(lock),
                Some(None) if self.has(id)? => std::thread::yield_now(),
                _ => return Err(StoreError::NoSuchGeneration { id }),
            }
        }
        Err(StoreError::Leaving { id })
    }

    /// The ids of all generations, sorted.
    pub(super) fn generation_ids(&self) -> Result<Vec<GenerationId>, StoreError> {
        let names = self.part("generations")?.names().map_err(StoreError::io("list the generations"))?;
        Ok(names.iter().filter_map(|name| name.to_str()?.parse().ok()).collect())
    }
}
