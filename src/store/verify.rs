//! Whether the store still holds what was put into it: everything hashed again.

use std::collections::BTreeSet;

use super::error::{Damage, StoreError};
use super::open::{DIRECTORIES, Store};
use super::{links, scan};
use crate::fsx;
use crate::model::{GenerationId, Manifest, RelPath};

impl Store {
    /// Everything in one generation, or in all of them, the pointer and the records, that is not as it was
    /// written; where the store itself lacks a part, only that.
    /// Empty: all is well.
    ///
    /// # Errors
    /// The store cannot be read, for lack of rights for example: nothing is said about damage then.
    pub fn verify(&self, id: Option<GenerationId>) -> Result<Vec<Damage>, StoreError> {
        if let Some(id) = id {
            return self.verify_one(id);
        }
        let mut damages = Vec::new();
        if let Err(error) = self.current() {
            damages.push(into_damage(error.into())?);
        }
        for part in DIRECTORIES {
            if let Err(error) = self.part(part) {
                damages.push(into_damage(error)?);
            }
        }
        if !damages.is_empty() {
            return Ok(damages);
        }
        let records = [
            self.history().map(drop),
            self.tags().map(drop),
            self.outcomes().map(drop),
            self.frozen().map(drop),
            self.rejections().map(drop),
        ];
        for error in records.into_iter().filter_map(Result::err) {
            damages.push(into_damage(error)?);
        }
        for id in self.generation_ids()? {
            let _lease = match self.lease(id) {
                Ok(lease) => Some(lease),
                // taken away meanwhile: that is no damage
                Err(StoreError::NoSuchGeneration { .. } | StoreError::Leaving { .. }) => continue,
                Err(_) => None,
            };
            damages.extend(self.verify_one(id)?);
        }
        Ok(damages)
    }

    /// Whether generation `id` is there and complete, every byte of it.
    ///
    /// # Errors
    /// [`StoreError::NoSuchGeneration`], [`StoreError::Damaged`] with the first damaged path.
    pub fn check_intact(&self, id: GenerationId) -> Result<(), StoreError> {
        match self.verify_one(id)?.into_iter().next() {
            None => Ok(()),
            Some(damage) => Err(StoreError::Damaged(damage)),
        }
    }

    fn verify_one(&self, id: GenerationId) -> Result<Vec<Damage>, StoreError> {
        let place = format!("generations/{id}");
        let manifest = match self.manifest(id) {
            Ok(manifest) => manifest,
            Err(error) => return Ok(vec![into_damage(error)?]),
        };
        let mut damages = Vec::new();
        if let Err(error) = self.push_record(id) {
            damages.push(into_damage(error)?);
        }
        let damage =
            |path: &str, what: String| Damage { generation: Some(id), path: format!("{place}/{path}"), what };
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
            self.compare(&place, &manifest)?
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
        let io = StoreError::io("verify a tree");
        let owner = self.root.own_meta().map_err(&io)?.uid;
        let name = format!("{place}/tree");
        let Some(tree) = fsx::optional(self.root.dir(&name)).map_err(&io)? else {
            return Ok(vec![(String::new(), "it is missing".to_owned())]);
        };
        let mut missing: BTreeSet<&RelPath> = manifest.iter().map(|(path, _)| path).collect();
        let mut damages = Vec::new();
        for found in scan::scan(&tree).map_err(&io)? {
            let path = match &found.path {
                Ok(path) => path,
                Err(shown) => {
                    damages.push((shown.clone(), "nobody put it there".to_owned()));
                    continue;
                }
            };
            missing.remove(path);
            let what = match manifest.get(path) {
                Some(node) => scan::differs(&found, node, owner),
                None => Some("nobody put it there".to_owned()),
            };
            damages.extend(what.map(|what| (path.to_string(), what)));
        }
        damages.extend(missing.into_iter().map(|path| (path.to_string(), "it is missing".to_owned())));
        damages.sort();
        Ok(damages)
    }
}

fn into_damage(error: StoreError) -> Result<Damage, StoreError> {
    match error {
        StoreError::Damaged(damage) => Ok(damage),
        other => Err(other),
    }
}
