//! What many generations share: one inode is read once, and its damage is that of all of them.

use std::collections::HashMap;

use super::content::hash_rest;
use super::error::{Damage, StoreError};
use super::open::Store;
use crate::fsx::{EntryKind, Meta};
use crate::model::{ContentHash, GenerationId};

/// The content of inodes with more than one name, as long as nothing touches them.
#[derive(Default)]
pub(super) struct Known {
    hashes: HashMap<(u64, u64), (Meta, ContentHash)>,
}

impl Known {
    /// The hash of what has been read from a file with these facts; `None` where it has to be read.
    pub(super) fn hash(&self, meta: &Meta) -> Option<ContentHash> {
        let (then, hash) = self.hashes.get(&meta.identity)?;
        // a new name changes the times of the inode, not its content
        let same = then.modified == meta.modified && then.len == meta.len;
        (same && (then.changed == meta.changed || then.links != meta.links)).then_some(*hash)
    }

    /// Remembers what was read from a file with these facts.
    pub(super) fn learn(&mut self, meta: &Meta, hash: ContentHash) {
        if meta.links > 1 {
            self.hashes.insert(meta.identity, (*meta, hash));
        }
    }

    /// The hash of an open file, read only where its inode is not known.
    pub(super) fn read(
        &mut self,
        file: &mut fs_err::File,
        meta: &Meta,
        buffer: &mut Vec<u8>,
    ) -> std::io::Result<ContentHash> {
        if let Some(hash) = self.hash(meta) {
            return Ok(hash);
        }
        let (_, hash) = hash_rest(file, buffer)?;
        self.learn(meta, hash);
        Ok(hash)
    }
}

impl Store {
    /// The inode that `damage` is of, where it has another name.
    fn shared_inode(&self, damage: &Damage) -> Option<(u64, u64)> {
        damage.generation?;
        let meta = self.root.meta(&damage.path).ok()?;
        (meta.kind == EntryKind::File && meta.links > 1).then_some(meta.identity)
    }

    /// One damage for each damaged file, of all those in all generations: the first one, naming the others.
    pub(super) fn once_each(&self, damages: Vec<Damage>) -> Vec<Damage> {
        let mut first: HashMap<(u64, u64), usize> = HashMap::new();
        let mut once: Vec<Damage> = Vec::new();
        for damage in damages {
            if let Some(inode) = self.shared_inode(&damage) {
                if let Some(at) = first.get(&inode) {
                    once[*at].shared.extend(damage.generation);
                    continue;
                }
                first.insert(inode, once.len());
            }
            once.push(damage);
        }
        once
    }

    /// Names in each of `damages` of one generation the others that have the damaged file, too.
    pub(super) fn name_sharers(&self, damages: &mut [Damage]) -> Result<(), StoreError> {
        let mut ids: Option<Vec<GenerationId>> = None;
        for damage in damages {
            let (Some(inode), Some(own)) = (self.shared_inode(damage), damage.generation) else { continue };
            let ids = match &mut ids {
                Some(ids) => ids,
                none => none.insert(self.generation_ids()?),
            };
            // a second name is under the same path (S7)
            let path = damage.path.strip_prefix(&format!("generations/{own}/")).unwrap_or_default();
            let same = |id: &GenerationId| {
                let meta = self.root.meta(format!("generations/{id}/{path}"));
                *id != own && meta.is_ok_and(|meta| meta.identity == inode)
            };
            damage.shared = ids.iter().copied().filter(same).collect();
        }
        Ok(())
    }
}
