//! Finished events of long ago, put away: whoever looks for what is to be done, or for what came last, reads what lies
//! in `events/` and the end of the history, however much has happened before.

use super::brief::Extent;
use super::error::StoreError;
use super::events::EventFiles;
use super::open::{Store, Writer};
use crate::fsx::{self, FsError};

/// Where finished events are put away.
pub(super) const FINISHED: &str = "events/finished";

/// The outcome of each event with such a number puts away what was finished before.
const EACH: u64 = 64;
/// So many events stay.
const KEPT: usize = 32;

/// Which events.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Lying {
    /// those that were not put away: every pending one and the last ones, with the highest number
    Recent,
    /// all that there are
    Anywhere,
}

impl Store {
    /// The path in the store and the content of the file `<number>.<rest>`, wherever it lies.
    pub(super) fn read_event_file(
        &self,
        number: u64,
        rest: &str,
        limit: u64,
    ) -> Result<Option<(String, Vec<u8>)>, FsError> {
        // in this order: what is put away meanwhile is found there
        for place in ["events", FINISHED] {
            let name = format!("{place}/{number}.{rest}");
            if let Some(bytes) = fsx::optional(self.root.read(&name, limit))? {
                return Ok(Some((name, bytes)));
            }
        }
        Ok(None)
    }

    /// Whether events were ever put away.
    pub(super) fn has_put_away(&self) -> Result<bool, StoreError> {
        self.root.exists(FINISHED).map_err(StoreError::io("look for finished events"))
    }
}

impl Writer {
    /// Puts away what was finished before event `number`, now and then. What cannot be put away stays until the next
    /// time.
    pub(super) fn put_away_before(&self, number: u64) -> Result<(), StoreError> {
        if number.is_multiple_of(EACH) { self.put_away() } else { Ok(()) }
    }

    fn put_away(&self) -> Result<(), StoreError> {
        let io = StoreError::io("put finished events away");
        // nobody else does it, and nobody writes to the history
        let Some(_lock) = self.try_history_lock().map_err(&io)? else { return Ok(()) };
        let recent = self.event_files(Lying::Recent)?;
        let Some(before) = recent.len().checked_sub(KEPT) else { return Ok(()) };
        let listed = self.decided(Extent::Whole)?;
        let over = |(number, files): &&(u64, EventFiles)| -> Result<bool, StoreError> {
            Ok(match files.outcome {
                true => listed.contains_key(number),
                // its outcome may be put away already; of one that was never accepted only the number counts
                false => self.outcome(*number)?.is_some() || self.event(*number)?.is_none(),
            })
        };
        let mut over_with = Vec::new();
        for event in &recent[..before] {
            if over(&event)? {
                over_with.push(event);
            }
        }
        if over_with.is_empty() {
            return Ok(());
        }
        let events = self.part("events")?;
        if !self.has_put_away()? {
            events.create_dir("finished", 0o755).map_err(&io)?;
        }
        let finished = self.root.dir(FINISHED).map_err(&io)?;
        // who does not find them in `events/` believes the history
        self.root.sync_file("history").map_err(&io)?;
        for (number, files) in &over_with {
            if files.outcome {
                events.sync_file(format!("{number}.outcome.json")).map_err(&io)?;
            }
        }
        for (number, _) in over_with {
            // the outcome last: without it an event would be pending again
            for rest in ["json", "steps", "outcome.json"] {
                let name = format!("{number}.{rest}");
                fsx::optional(events.rename_new(&name, &finished, &name)).map_err(&io)?;
            }
        }
        finished.sync().and_then(|()| events.sync()).map_err(io)
    }
}
