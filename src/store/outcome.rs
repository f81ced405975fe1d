//! Outcomes: the verdict on each event, written once.

use super::error::StoreError;
use super::events::EventError;
use super::history::Record;
use super::open::{Store, Writer};
use crate::fsx;
use crate::model::Outcome;

pub(super) const LARGEST: u64 = 64 << 20;

impl Store {
    /// The outcome of event `number`; `None` where it has none yet.
    pub fn outcome(&self, number: u64) -> Result<Option<Outcome>, StoreError> {
        let name = format!("events/{number}.outcome.json");
        let Some(bytes) =
            fsx::optional(self.root.read(&name, LARGEST)).map_err(StoreError::io("read an outcome"))?
        else {
            return Ok(None);
        };
        let outcome: Outcome =
            serde_json::from_slice(&bytes).map_err(|e| StoreError::damaged(None, &name, &e))?;
        if outcome.event != number {
            let what = format!("it says that it is about event {}", outcome.event);
            return Err(StoreError::damaged(None, &name, &what));
        }
        Ok(Some(outcome))
    }

    /// Every outcome, by event number.
    pub fn outcomes(&self) -> Result<Vec<Outcome>, StoreError> {
        let mut outcomes = Vec::new();
        for (number, files) in self.event_files()? {
            if files.outcome {
                outcomes.extend(self.outcome(number)?);
            }
        }
        Ok(outcomes)
    }
}

impl Writer {
    /// Writes the verdict on an event. After `Ok` it is durable and in the history; a disk that filled up
    /// since [`Writer::prepare_undo`] does not stop it.
    ///
    /// # Errors
    /// - [`EventError::AlreadyConcluded`]: the first verdict stands.
    /// - [`EventError::NotInHistory`]: the verdict stands; the next writer completes the history.
    /// - [`EventError::NotDurable`]: the verdict stands, unless the power fails before the next event.
    /// - others: the event is still without an outcome.
    ///
    /// The event is durable before its verdict is seen.
    pub fn conclude(&self, outcome: &Outcome) -> Result<(), EventError> {
        let io = EventError::io("write an outcome");
        let number = outcome.event;
        let event = self.event(number).map_err(EventError::Store)?;
        let event = event.ok_or(EventError::NoSuchEvent { number })?;
        let _lock = self.store_lock().map_err(&io)?;
        let tmp = self.part("tmp").map_err(EventError::Store)?;
        let events = self.part("events").map_err(EventError::Store)?;
        let name = format!("{number}.outcome.json");
        if events.exists(&name).map_err(&io)? {
            return Err(EventError::AlreadyConcluded { number });
        }
        self.settle_now(&events, number).map_err(&io)?;
        let json = serde_json::to_string(outcome).expect("outcomes have string keys only") + "\n";
        let history = self.history_lock().map_err(&io)?;
        let written = self.with_reserve(|| {
            let temporary = format!("outcome-{}", fsx::unique());
            let done = tmp
                .write_new(&temporary, json.as_bytes(), 0o444)
                .and_then(|()| tmp.rename_new(&temporary, &events, &name));
            if done.is_err() {
                let _ = tmp.remove_file(&temporary);
            }
            done
        });
        match written {
            Err(error) if error.is_exists() => return Err(EventError::AlreadyConcluded { number }),
            other => other.map_err(io)?,
        }
        // everybody sees it, so it stands
        let durable = events.sync().map_err(|source| EventError::NotDurable { number, source });
        let record = Record::of_event(Some(&event), outcome);
        let remembered = self.with_reserve(|| self.remember(&history, &record));
        durable.and(remembered.map_err(|source| EventError::NotInHistory { number, source }))
    }
}
