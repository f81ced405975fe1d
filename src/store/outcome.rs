//! Outcomes: the verdict on each event, written once.

use super::error::StoreError;
use super::events::{EventError, is_torn};
use super::finished::Lying;
use super::history::Record;
use super::open::{Store, Writer};
use crate::fsx;
use crate::model::Outcome;

pub(super) const LARGEST: u64 = 64 << 20;

impl Store {
    /// The outcome of event `number`; `None` where it has none yet, or only what a power cut has left of one that
    /// nobody was told of.
    pub fn outcome(&self, number: u64) -> Result<Option<Outcome>, StoreError> {
        let file = self.read_event_file(number, "outcome.json", LARGEST);
        let Some((name, bytes)) = file.map_err(StoreError::io("read an outcome"))? else { return Ok(None) };
        if is_torn(&bytes) {
            return Ok(None);
        }
        let outcome: Outcome =
            serde_json::from_slice(&bytes).map_err(|e| StoreError::damaged(None, &name, &e))?;
        if outcome.event != number {
            let what = format!("it says that it is about event {}", outcome.event);
            return Err(StoreError::damaged(None, &name, &what));
        }
        Ok(Some(outcome))
    }

    /// The outcome with the highest number that was decided here.
    pub fn last_outcome(&self) -> Result<Option<Outcome>, StoreError> {
        for lying in [Lying::Recent, Lying::Anywhere] {
            for (number, _) in self.event_files(lying)?.into_iter().rev().filter(|(_, files)| files.outcome) {
                let outcome = self.outcome(number)?;
                if outcome.as_ref().is_some_and(|outcome| outcome.imported.is_none()) {
                    return Ok(outcome);
                }
            }
        }
        Ok(None)
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
    /// The event is durable before its verdict is seen, and so is the verdict; but of an event that only this process
    /// waits for ([`Writer::accept_to_settle`]) everything that is not durable yet is so when this is done.
    pub fn conclude(&self, outcome: &Outcome) -> Result<(), EventError> {
        let io = EventError::io("write an outcome");
        let number = outcome.event;
        let event = self.event(number).map_err(EventError::Store)?;
        let event = event.ok_or(EventError::NoSuchEvent { number })?;
        let _lock = self.store_lock().map_err(&io)?;
        let tmp = self.part("tmp").map_err(EventError::Store)?;
        let events = self.part("events").map_err(EventError::Store)?;
        let name = format!("{number}.outcome.json");
        let concluded = self.read_event_file(number, "outcome.json", LARGEST).map_err(&io)?;
        if concluded.is_some() {
            return Err(EventError::AlreadyConcluded { number });
        }
        let is_own = self.due().is_own(number);
        if !is_own {
            self.flush_due(&events, number).map_err(&io)?;
        }
        let json = serde_json::to_string(outcome).expect("outcomes have string keys only") + "\n";
        let history = self.with_reserve(|| self.owe_a_line()).map_err(&io)?;
        let written = self.with_reserve(|| {
            let temporary = format!("outcome-{}", fsx::unique());
            let written = match is_own {
                true => tmp.write_begun(&temporary, json.as_bytes(), 0o444),
                false => tmp.write_new(&temporary, json.as_bytes(), 0o444),
            };
            let done = written.and_then(|()| tmp.rename_new(&temporary, &events, &name));
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
        let record = Record::of_event(Some(&event), outcome);
        let remembered = self.with_reserve(|| self.remember(&history, &record));
        let durable = match is_own {
            true => self.flush_outcome(&events, number, &name),
            false => events.sync(),
        };
        durable.map_err(|source| EventError::NotDurable { number, source })?;
        remembered.map_err(|source| EventError::NotInHistory { number, source })?;
        history.paid();
        let _ = self.put_away_before(number); // else the next time
        Ok(())
    }

    /// Removes what a power cut has left of outcomes that nobody was told of: their events are pending again.
    pub(super) fn remove_torn_outcomes(&self) -> Result<(), StoreError> {
        let io = StoreError::io("remove a torn outcome");
        let events = self.part("events")?;
        let mut outcomes = Vec::new();
        // what was put away was durable before
        self.each_event_file(Lying::Recent, |number, rest| {
            if rest == "outcome.json" {
                outcomes.push(number);
            }
        })?;
        for number in outcomes {
            let name = format!("{number}.outcome.json");
            // one that cannot be read is damaged: `verify` names it
            if events.read(&name, LARGEST).is_ok_and(|bytes| is_torn(&bytes)) {
                events.remove_file(&name).map_err(&io)?;
            }
        }
        events.sync().map_err(io)
    }
}
