//! Whether the store still holds what was put into it: everything hashed again.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::error::{Damage, StoreError};
use super::finished::Lying;
use super::open::{DIRECTORIES, Store};
use super::scan::Begun;
use super::shared::Known;
use super::{history, lines, links, scan};
use crate::fsx;
use crate::model::{GenerationId, Manifest, RelPath, Tag};

/// A generation that another thread has begun to read; dropped, it is not read on.
pub struct Ahead {
    id: GenerationId,
    /// whoever asks for it meanwhile need not parse it again
    _manifest: Arc<Manifest>,
    begun: Begun,
}

impl Store {
    /// Everything in one generation, or in all of them, the pointer and the records, that is not as it was
    /// written; where the store itself lacks a part, only that.
    /// Empty: all is well.
    ///
    /// # Errors
    /// The store cannot be read, for lack of rights for example: nothing is said about damage then.
    pub fn verify(&self, id: Option<GenerationId>) -> Result<Vec<Damage>, StoreError> {
        if let Some(id) = id {
            let mut damages = self.verify_one(id, None, &mut Known::default())?;
            self.name_sharers(&mut damages)?;
            return Ok(damages);
        }
        let mut damages = Vec::new();
        for part in DIRECTORIES {
            if let Err(error) = self.part(part) {
                damages.push(into_damage(error)?);
            }
        }
        let whole = damages.is_empty();
        if let Err(error) = self.current() {
            damages.push(into_damage(error.into())?);
        }
        if !whole {
            return Ok(damages);
        }
        self.verify_records(&mut damages)?;
        let mut known = Known::default();
        let mut of_generations = Vec::new();
        for id in self.generation_ids()? {
            let _lease = match self.lease(id) {
                Ok(lease) => Some(lease),
                // taken away meanwhile: that is no damage
                Err(StoreError::NoSuchGeneration { .. } | StoreError::Leaving { .. }) => continue,
                Err(_) => None,
            };
            of_generations.extend(self.verify_one(id, None, &mut known)?);
        }
        damages.extend(self.once_each(of_generations));
        damages.extend(self.loaded_damage()?);
        Ok(damages)
    }

    /// The history, tags, events and outcomes.
    fn verify_records(&self, damages: &mut Vec<Damage>) -> Result<(), StoreError> {
        let io = StoreError::io("read the history");
        let history =
            fsx::optional(self.root.read("history", history::LONGEST)).map_err(io)?.unwrap_or_default();
        let mut errors = Vec::new();
        if let Some(line) = lines::parse(&history).damaged {
            let what = format!("line {line} is not as it was written");
            errors.push(StoreError::damaged(None, "history", &what));
        }
        for name in self.part("tags")?.names().map_err(StoreError::io("list the tags"))? {
            if let Some(tag) = name.to_str().and_then(|name| name.parse::<Tag>().ok()) {
                errors.extend(self.tagged(&tag).err());
            }
        }
        for (number, _) in self.event_files(Lying::Anywhere)? {
            errors.extend(self.event(number).err());
            errors.extend(self.marks(number).err());
            errors.extend(self.outcome(number).err());
        }
        errors.extend(self.frozen().err());
        errors.extend(self.stopped().err());
        for id in self.rejected_ids()? {
            errors.extend(self.rejected(id).err());
        }
        for error in errors {
            damages.push(into_damage(error)?);
        }
        Ok(())
    }

    /// Whether generation `id` is there and complete, every byte of it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchGeneration`], [`StoreError::Damaged`] with the first damaged path.
    pub fn check_intact(&self, id: GenerationId) -> Result<(), StoreError> {
        self.check_intact_knowing(id, &mut Known::default())
    }

    /// As [`Store::check_intact`], reading no inode that is `known`.
    pub(super) fn check_intact_knowing(&self, id: GenerationId, known: &mut Known) -> Result<(), StoreError> {
        first(self.verify_one(id, None, known)?)
    }

    /// Begins to read generation `id` on a thread of its own, for [`Store::check_begun`]; `None` where it cannot be read.
    /// A small one is read when it is checked.
    pub fn look_ahead(&self, id: GenerationId) -> Option<Ahead> {
        let manifest = self.manifest(id).ok()?;
        let tree = self.root.dir(format!("generations/{id}/tree")).ok()?;
        let begun = Begun::new(Arc::new(tree), manifest.len(), Known::default());
        Some(Ahead { id, _manifest: manifest, begun })
    }

    /// As [`Store::check_intact`], going on with what [`Store::look_ahead`] has begun to read, if it is `id`.
    pub fn check_begun(&self, id: GenerationId, ahead: Option<Ahead>) -> Result<(), StoreError> {
        let begun = ahead.filter(|ahead| ahead.id == id).map(|ahead| ahead.begun);
        first(self.verify_one(id, begun, &mut Known::default())?)
    }

    fn verify_one(
        &self,
        id: GenerationId,
        begun: Option<Begun>,
        known: &mut Known,
    ) -> Result<Vec<Damage>, StoreError> {
        let place = format!("generations/{id}");
        let manifest = match self.manifest(id) {
            Ok(manifest) => manifest,
            Err(error) => return Ok(vec![into_damage(error)?]),
        };
        let mut damages = Vec::new();
        if let Err(error) = self.push_record(id) {
            damages.push(into_damage(error)?);
        }
        let damage = |path: &str, what: String| {
            let path = format!("{place}/{path}");
            Damage { generation: Some(id), path, what, shared: Vec::new() }
        };
        if let Some((path, target)) = links::first_leaving(&manifest) {
            damages
                .push(damage(&format!("tree/{path}"), format!("it leads out of the generation: {target}")));
        }
        let expected = ["manifest", "push.json", "tree"];
        for name in self.part(&place)?.names().map_err(StoreError::io("list a generation"))? {
            if !expected.iter().any(|expected| name == *expected) {
                damages.push(damage(&name.to_string_lossy(), "nobody put it there".to_owned()));
            }
        }
        damages.extend(
            self.compare_knowing(&place, &manifest, begun, known)?
                .into_iter()
                .map(|(path, what)| damage(&format!("tree/{path}"), what)),
        );
        Ok(damages)
    }

    /// What beneath `<place>/tree` differs from `manifest`, by path.
    pub(super) fn compare(
        &self,
        place: &str,
        manifest: &Manifest,
    ) -> Result<Vec<(String, String)>, StoreError> {
        self.compare_knowing(place, manifest, None, &mut Known::default())
    }

    fn compare_knowing(
        &self,
        place: &str,
        manifest: &Manifest,
        begun: Option<Begun>,
        known: &mut Known,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let io = StoreError::io("verify a tree");
        let owner = self.root.own_meta().map_err(&io)?.uid;
        let name = format!("{place}/tree");
        let tree = match fsx::optional(self.root.meta(&name)).map_err(&io)?.map(|meta| meta.kind) {
            Some(fsx::EntryKind::Dir) => self.root.dir(&name).map_err(&io)?,
            Some(_) => return Ok(vec![(String::new(), "it is no directory".to_owned())]),
            None => return Ok(vec![(String::new(), "it is missing".to_owned())]),
        };
        let mut missing: BTreeSet<&RelPath> = manifest.iter().map(|(path, _)| path).collect();
        let mut damages = Vec::new();
        let found = match begun {
            Some(begun) => begun.finish(known),
            None => scan::scan_knowing(Arc::new(tree), manifest.len(), known),
        };
        for found in found.map_err(&io)? {
            let path = match &found.path {
                Ok(path) => path,
                Err(shown) => {
                    damages.push((shown.clone(), "nobody put it there".to_owned()));
                    continue;
                }
            };
            missing.remove(path);
            let what = match manifest.get(path) {
                Some(node) => scan::differs(&found, path, node, owner, self.access()),
                None => Some("nobody put it there".to_owned()),
            };
            damages.extend(what.map(|what| (path.to_string(), what)));
        }
        damages.extend(missing.into_iter().map(|path| (path.to_string(), "it is missing".to_owned())));
        damages.sort();
        Ok(damages)
    }
}

fn first(damages: Vec<Damage>) -> Result<(), StoreError> {
    match damages.into_iter().next() {
        None => Ok(()),
        Some(damage) => Err(StoreError::Damaged(damage)),
    }
}

fn into_damage(error: StoreError) -> Result<Damage, StoreError> {
    match error {
        StoreError::Damaged(damage) => Ok(damage),
        other => Err(other),
    }
}
