//! Import: what an export holds comes into this store, each generation whole or not at all.

use std::collections::{BTreeMap, HashSet};
use std::io::Read;

use super::arrival::{Arrived, Place};
use super::bundle::{ImportError, Meter, Origin};
use super::error::StoreError;
use super::finished::Lying;
use super::history::Record;
use super::incoming::{Received, receive};
use super::open::Writer;
use super::staging::Staging;
use crate::fsx;
use crate::model::{GenerationId, Limits, Outcome, Tag};

/// What an import came to.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Imported {
    /// where the export was made
    pub origin: Origin,
    /// generations that were not here before
    pub new: Vec<GenerationId>,
    /// those that were
    pub there: Vec<GenerationId>,
    /// those that were here, damaged, and are whole now
    pub repaired: Vec<GenerationId>,
    /// tags made
    pub tags: Vec<Tag>,
    /// tags that name another generation here, and go on doing so
    pub kept: Vec<KeptTag>,
    /// outcomes that were not here before
    pub outcomes: u64,
}

/// A tag that an import left alone.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct KeptTag {
    /// its name
    pub tag: Tag,
    /// what it names here
    pub here: GenerationId,
    /// what it names in the export
    pub there: GenerationId,
}

impl Writer {
    /// Brings in what `stream`, an export, holds: generations under their ids with their push records, tags
    /// where the name is free, and outcomes, which keep where they are from and prove nothing here. What is
    /// here already is not brought in again. `current` is not moved. After `Ok` all of it is durable.
    ///
    /// # Errors
    /// - [`ImportError::Refused`]: nothing was imported.
    /// - others: the generations, tags and outcomes that are in the store are whole; the same import again
    ///   brings the rest.
    pub fn import(
        &self,
        stream: &mut dyn Read,
        limits: Limits,
        meter: Meter<'_>,
    ) -> Result<Imported, ImportError> {
        let io = ImportError::io("write what is imported");
        let lock = self.store_lock().map_err(&io)?;
        let staging = Staging::new(&self.root).map_err(&io)?;
        let Received { origin, generations, tags, outcomes } =
            receive(self, &staging, stream, limits, meter)?;
        let mut imported = Imported {
            origin,
            new: Vec::new(),
            there: Vec::new(),
            repaired: Vec::new(),
            tags: Vec::new(),
            kept: Vec::new(),
            outcomes: 0,
        };
        self.publish_all(&staging, generations, &mut imported)?;
        drop(lock);
        // alone: no event is accepted under a number that an outcome gets, no tag made under a name
        let _lock = self.store_lock_alone(true).map_err(&io)?;
        self.import_tags(tags, &mut imported)?;
        imported.outcomes = self.import_outcomes(&staging, outcomes)?;
        Ok(imported)
    }

    /// Makes what was staged durable, then visible, then the history tell of it.
    fn publish_all(
        &self,
        staging: &Staging,
        generations: Vec<Arrived>,
        imported: &mut Imported,
    ) -> Result<(), ImportError> {
        let io = ImportError::io("publish what is imported");
        let to = self.part("generations")?;
        if generations.iter().any(|arrived| arrived.place != Place::There) {
            staging.dir().sync_file_system().map_err(&io)?;
        }
        let history = self.owe_a_line().map_err(&io)?;
        let mut records = Vec::new();
        for Arrived { id, place, record } in generations {
            let name = id.to_string();
            match place {
                Place::There => imported.there.push(id),
                Place::Damaged => {
                    let whole = staging.split(&name).map_err(&io)?;
                    whole.replace(&to, &name).map_err(&io)?;
                    imported.repaired.push(id);
                }
                Place::New => match staging.dir().rename_new(&name, &to, &name) {
                    Ok(()) => {
                        records.push(Record::of_push(id, &record));
                        imported.new.push(id);
                    }
                    // somebody has pushed it meanwhile
                    Err(error) if error.is_exists() => imported.there.push(id),
                    Err(error) => return Err(io(error)),
                },
            }
        }
        to.sync().map_err(&io)?; // also what a push or an import has renamed just now
        self.remember_all(&history, &records).map_err(io)?;
        history.paid();
        Ok(())
    }

    fn import_tags(
        &self,
        tags: BTreeMap<Tag, GenerationId>,
        imported: &mut Imported,
    ) -> Result<(), ImportError> {
        for (tag, there) in tags {
            match self.tagged(&tag) {
                Ok(Some(here)) if here == there => continue,
                Ok(Some(here)) => {
                    imported.kept.push(KeptTag { tag, here, there });
                    continue;
                }
                // a damaged one says nothing
                Ok(None) | Err(StoreError::Damaged(_)) => {}
                Err(error) => return Err(error.into()),
            }
            let text = format!("{there}\n");
            let written = self.part("tags")?.replace_file(tag.as_str(), text.as_bytes(), 0o644);
            written.map_err(ImportError::io("write a tag"))?;
            imported.tags.push(tag);
        }
        Ok(())
    }

    /// Writes the outcomes that are not here yet under the next free numbers, without an event: nobody asked
    /// for them here. The caller holds the store lock alone.
    fn import_outcomes(&self, staging: &Staging, outcomes: Vec<Outcome>) -> Result<u64, ImportError> {
        let io = ImportError::io("write an outcome");
        let identity = |outcome: &Outcome| {
            let number = outcome.imported.as_ref().map_or(outcome.event, |imported| imported.event);
            (outcome.machine.clone(), number, outcome.at)
        };
        let mut here = HashSet::new();
        let mut number = 0;
        for (found, files) in self.event_files(Lying::Anywhere)? {
            number = found;
            // one that cannot be read is not known: `verify` names it
            if files.outcome
                && let Ok(Some(outcome)) = self.outcome(found)
            {
                here.insert(identity(&outcome));
            }
        }
        let mut fresh = Vec::new();
        for mut outcome in outcomes {
            if here.insert(identity(&outcome)) {
                number += 1;
                outcome.event = number;
                let json = serde_json::to_string(&outcome).expect("outcomes have string keys only") + "\n";
                let name = format!("{number}.outcome.json");
                let file = staging.dir().create_file(&name, 0o444);
                file.and_then(|mut file| fsx::append(&mut file, json.as_bytes())).map_err(&io)?;
                fresh.push((name, outcome));
            }
        }
        if fresh.is_empty() {
            return Ok(0);
        }
        staging.dir().sync_file_system().map_err(&io)?;
        let events = self.part("events")?;
        let history = self.owe_a_line().map_err(&io)?;
        for (name, _) in &fresh {
            staging.dir().rename_new(name, &events, name).map_err(&io)?;
        }
        events.sync().map_err(&io)?;
        let records: Vec<Record> = fresh.iter().map(|(_, outcome)| Record::of_event(None, outcome)).collect();
        self.remember_all(&history, &records).map_err(io)?;
        history.paid();
        Ok(fresh.len() as u64)
    }
}
