//! What is written and not yet durable: who has nobody to tell before the end makes it durable at once, in one commit
//! of the file system's journal.

use std::sync::MutexGuard;

use super::events::{EventError, steps_of};
use super::open::Writer;
use crate::fsx::{self, Dir, FsError};

/// Two files and a directory take three commits of the journal, one `syncfs` takes one and what others have left in
/// memory besides: on ext4, 1.0 ms against 0.4 ms, and 0.4 ms more for each MiB of others.
const LITTLE: u64 = 1 << 20;

/// What waits to be made durable.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Due {
    /// the event whose files wait
    event: Option<u64>,
    /// whether the move of `current` waits
    pointer: bool,
    /// the event that this process has asked for and carries out: nobody else waits for its verdict
    own: Option<u64>,
}

impl Due {
    /// Event `number` was written by this process, which carries it out.
    pub(super) fn asked_here(&mut self, number: u64) {
        (self.event, self.own) = (Some(number), Some(number));
    }

    /// Whether nobody but this process waits for the verdict on event `number`.
    pub(super) fn is_own(&self, number: u64) -> bool {
        self.own == Some(number)
    }

    /// The pointer has moved; the outcome of the process's own event takes that along.
    pub(super) fn moved(&mut self) {
        self.pointer = true;
    }
}

impl Writer {
    pub(super) fn due(&self) -> MutexGuard<'_, Due> {
        self.due.lock().expect("no thread panics")
    }

    /// Makes event `number` durable with its marks and the names of both.
    pub fn settle(&self, number: u64) -> Result<(), EventError> {
        let events = self.part("events").map_err(EventError::Store)?;
        self.flush_event(&events, number).map_err(EventError::io("take up an event"))
    }

    /// Has the first mark of event `number` that is durable, or its outcome, make the event durable: for an engine, which
    /// may have seen it before whoever wrote it has said so.
    pub fn settle_later(&self, number: u64) {
        self.due().event = Some(number);
    }

    /// Makes every mark of event `number` durable.
    pub fn flush_marks(&self, number: u64) -> Result<(), EventError> {
        let events = self.part("events").map_err(EventError::Store)?;
        self.flush_steps(&events, number).map_err(EventError::io("write down a step"))
    }

    /// Makes every mark of event `number` durable, and the event where it is due.
    pub(super) fn flush_steps(&self, events: &Dir, number: u64) -> Result<(), FsError> {
        if self.due().event == Some(number) {
            return self.flush_event(events, number);
        }
        let (steps, _) = events.append_file(steps_of(number), 0o644)?;
        fsx::flush(&steps)
    }

    /// Makes what is due of event `number` durable before anybody sees its outcome.
    pub(super) fn flush_due(&self, events: &Dir, number: u64) -> Result<(), FsError> {
        let is_due = self.due().event == Some(number);
        if is_due { self.flush_event(events, number) } else { Ok(()) }
    }

    /// Makes the outcome of the process's own event `number` durable with all that is due.
    pub(super) fn flush_outcome(&self, events: &Dir, number: u64, outcome: &str) -> Result<(), FsError> {
        let due = *self.due();
        if is_little(events) {
            events.sync_file_system()?;
        } else {
            events.sync_file(outcome)?;
            if due.event == Some(number) {
                sync_files(events, number)?;
            }
            events.sync()?;
            if due.pointer {
                self.root.sync()?;
            }
        }
        *self.due() = Due::default();
        Ok(())
    }

    fn flush_event(&self, events: &Dir, number: u64) -> Result<(), FsError> {
        if is_little(events) {
            events.sync_file_system()?;
        } else {
            sync_files(events, number)?;
            events.sync()?;
        }
        let mut due = self.due();
        due.event = due.event.filter(|due| *due != number);
        Ok(())
    }
}

/// Makes the files of event `number` durable, not their names.
fn sync_files(events: &Dir, number: u64) -> Result<(), FsError> {
    events.sync_file(format!("{number}.json"))?;
    events.sync_file(steps_of(number))
}

/// Whether so little waits to be written on the file system of `dir` that all of it is written at once.
fn is_little(dir: &Dir) -> bool {
    dir.dirty_bytes().is_some_and(|dirty| dirty <= LITTLE)
}
