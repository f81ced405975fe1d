//! Events: what was asked, numbered, and how far each is.

use jiff::Timestamp;

use super::error::{Kind, StoreError};
use super::finished::{FINISHED, Lying};
use super::open::{Store, Writer};
use super::{lines, staging};
use crate::fsx::{self, FsError};
use crate::model::{Actor, Event, GenerationId, How, Mark, Request};

pub(super) const LARGEST_EVENT: u64 = 1 << 20;
const LARGEST_STEPS: u64 = 256 << 20;

/// An event before it has a number.
#[derive(Clone, Debug)]
pub struct EventDraft {
    /// what is asked
    pub request: Request,
    /// the generation it is about
    pub target: GenerationId,
    /// how
    pub how: How,
    /// when, UTC
    pub at: Timestamp,
    /// the boot it is asked in
    pub boot: String,
    /// who
    pub by: Actor,
    /// its number is above this one: what runs was started for events up to it, whatever the store knows of them
    pub above: u64,
}

/// Why an event was not accepted, marked or concluded.
#[derive(Debug, thiserror::Error)]
pub enum EventError {
    /// the target is not in the store; nothing was accepted
    #[error("generation {id} is not in the store; `pointsman list` shows what is")]
    NoSuchGeneration {
        /// the target
        id: GenerationId,
    },
    /// no event has this number
    #[error("there is no event {number}; `pointsman history` shows what there is")]
    NoSuchEvent {
        /// the number
        number: u64,
    },
    /// it has its verdict; that one stands
    #[error("event {number} has its verdict already; `pointsman history` shows it")]
    AlreadyConcluded {
        /// the number
        number: u64,
    },
    /// the verdict is written and stands, but the history does not have it yet: the next writer adds it
    #[error("event {number} is concluded, but its line is not in the history yet")]
    NotInHistory {
        /// the number
        number: u64,
        /// why
        source: FsError,
    },
    /// the verdict stands, but a power cut may take it back until the next event is accepted
    #[error("event {number} is concluded, but not durably")]
    NotDurable {
        /// the number
        number: u64,
        /// why
        source: FsError,
    },
    /// nothing was written, or nothing that counts
    #[error("cannot {doing}")]
    Io {
        /// what was tried
        doing: &'static str,
        /// why not
        source: FsError,
    },
    /// a record could not be read
    #[error(transparent)]
    Store(StoreError),
}

impl EventError {
    /// What it means for whoever asked.
    pub fn kind(&self) -> Kind {
        match self {
            EventError::NoSuchGeneration { .. } | EventError::NoSuchEvent { .. } => Kind::NoSuch,
            EventError::AlreadyConcluded { .. } => Kind::Busy,
            EventError::NotInHistory { .. } | EventError::NotDurable { .. } | EventError::Io { .. } => {
                Kind::Failed
            }
            EventError::Store(error) => error.kind(),
        }
    }

    pub(super) fn io(doing: &'static str) -> impl Fn(FsError) -> EventError {
        move |source| EventError::Io { doing, source }
    }
}

/// Which files an event number has.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct EventFiles {
    pub(super) event: bool,
    pub(super) outcome: bool,
}

pub(super) fn steps_of(number: u64) -> String {
    format!("{number}.steps")
}

/// Whether `bytes` of a record, which is written before it gets its name, are what a power cut has left of one that was
/// not made durable: nothing, or blocks that were never written.
pub(super) fn is_torn(bytes: &[u8]) -> bool {
    bytes.is_empty() || bytes.contains(&0)
}

impl Store {
    /// Event `number`; `None` where there is none, or only what a power cut has left of one that was never accepted.
    pub fn event(&self, number: u64) -> Result<Option<Event>, StoreError> {
        let file = self.read_event_file(number, "json", LARGEST_EVENT);
        let Some((name, bytes)) = file.map_err(StoreError::io("read an event"))? else { return Ok(None) };
        if is_torn(&bytes) {
            return Ok(None);
        }
        let event: Event =
            serde_json::from_slice(&bytes).map_err(|e| StoreError::damaged(None, &name, &e))?;
        if event.number != number {
            let what = format!("it says that it is event {}", event.number);
            return Err(StoreError::damaged(None, &name, &what));
        }
        Ok(Some(event))
    }

    /// The events without an outcome, by number.
    pub fn pending(&self) -> Result<Vec<Event>, StoreError> {
        let mut pending = Vec::new();
        for (number, files) in self.event_files(Lying::Recent)? {
            // it may have been finished and put away while they were listed
            if files.event && !files.outcome && self.outcome(number)?.is_none() {
                pending.extend(self.event(number)?);
            }
        }
        Ok(pending)
    }

    /// The marks of event `number`, in order. What a crash left of the last one is not there.
    pub fn marks(&self, number: u64) -> Result<Vec<Mark>, StoreError> {
        let file = self.read_event_file(number, "steps", LARGEST_STEPS);
        let file = file.map_err(StoreError::io("read the steps of an event"))?;
        let (name, bytes) = file.unwrap_or_default();
        let lines = lines::parse(&bytes);
        if let Some(line) = lines.damaged {
            return Err(StoreError::damaged(None, &name, &format!("line {line} is not as it was written")));
        }
        let marks = lines.sound.into_iter().map(serde_json::from_str).collect::<Result<_, _>>();
        marks.map_err(|e| StoreError::damaged(None, &name, &e))
    }

    /// Every event number and which files it has, by number.
    pub(super) fn event_files(&self, lying: Lying) -> Result<Vec<(u64, EventFiles)>, StoreError> {
        let mut files: Vec<(u64, EventFiles)> = Vec::new();
        // steps: the number counts, nothing else
        self.each_event_file(lying, |number, rest| {
            files.push((number, EventFiles { event: rest == "json", outcome: rest == "outcome.json" }));
        })?;
        files.sort_unstable_by_key(|(number, _)| *number);
        files.dedup_by(|(number, file), (same, all)| {
            let is_same = number == same;
            if is_same {
                all.event |= file.event;
                all.outcome |= file.outcome;
            }
            is_same
        });
        Ok(files)
    }

    /// Calls `each` with the number and the rest of the name of every file of an event, in no order.
    pub(super) fn each_event_file(
        &self,
        lying: Lying,
        mut each: impl FnMut(u64, &str),
    ) -> Result<(), StoreError> {
        let mut named = |name: &[u8]| {
            let parts = std::str::from_utf8(name).ok().and_then(|name| name.split_once('.'));
            if let Some((number, rest)) = parts
                && let Ok(number) = number.parse()
            {
                each(number, rest);
            }
        };
        let io = StoreError::io("list the events");
        self.part("events")?.for_each_name(&mut named).map_err(&io)?;
        // after: what is put away meanwhile is seen twice, not missed
        if lying == Lying::Anywhere
            && let Some(finished) = fsx::optional(self.root.dir(FINISHED)).map_err(&io)?
        {
            finished.for_each_name(&mut named).map_err(&io)?;
        }
        Ok(())
    }

    /// The highest number that an event has; 0: there is none.
    fn highest_number(&self) -> Result<u64, StoreError> {
        let mut highest = 0;
        self.each_event_file(Lying::Recent, |number, _| highest = highest.max(number))?;
        if highest == 0 {
            // the highest is never put away; but somebody may have emptied the directory
            self.each_event_file(Lying::Anywhere, |number, _| highest = highest.max(number))?;
        }
        Ok(highest)
    }
}

impl Writer {
    /// Accepts an event: after `Ok` it is durable under the number it got, one more than any before and than
    /// [`EventDraft::above`].
    ///
    /// # Errors
    /// Nothing was accepted.
    pub fn accept(&self, draft: EventDraft) -> Result<Event, EventError> {
        let event = self.claim(draft, true)?;
        let events = self.part("events").map_err(EventError::Store)?;
        events.sync().map_err(EventError::io("accept an event"))?;
        Ok(event)
    }

    /// As [`Writer::accept`], for the holder of the engine lock, who carries it out at once and is the only one who
    /// waits for its verdict: what is durable of it next takes it along, at the latest its outcome. Until then a power
    /// cut undoes the acceptance: nobody may be told of it, and nothing be done for it.
    pub fn accept_to_settle(&self, draft: EventDraft) -> Result<Event, EventError> {
        let event = self.claim(draft, false)?;
        self.due().asked_here(event.number);
        Ok(event)
    }

    /// Gives `draft` its number and its files. Everybody sees them; their names are not durable, and what the event says
    /// is where it is `flushed`, before anybody sees it.
    fn claim(&self, draft: EventDraft, flushed: bool) -> Result<Event, EventError> {
        let io = EventError::io("accept an event");
        let _lock = self.store_lock().map_err(&io)?;
        if !self.has(draft.target).map_err(EventError::Store)? {
            return Err(EventError::NoSuchGeneration { id: draft.target });
        }
        let EventDraft { request, target, how, at, boot, by, above } = draft;
        let mut event = Event { number: 0, request, target, how, at, boot, by };
        let tmp = self.part("tmp").map_err(EventError::Store)?;
        let events = self.part("events").map_err(EventError::Store)?;
        loop {
            let highest = self.highest_number().map_err(EventError::Store)?;
            event.number = highest.max(above) + 1;
            let name = format!("event-{}", fsx::unique());
            let json = serde_json::to_string(&event).expect("events have string keys only") + "\n";
            let mut file = tmp.create_file(&name, 0o444).map_err(&io)?;
            fsx::append(&mut file, json.as_bytes()).map_err(&io)?;
            match flushed {
                true => fsx::sync(&file).map_err(&io)?,
                // it is when it is flushed with its steps
                false => fsx::start_writing(&file, 0, json.len() as u64),
            }
            let claimed = tmp.hard_link(&name, &events, format!("{}.json", event.number));
            let _ = tmp.remove_file(&name); // else garbage, which the next writer removes
            match claimed {
                Err(error) if error.is_exists() => {}
                other => {
                    other.map_err(&io)?;
                    events.append_file(steps_of(event.number), 0o644).map_err(&io)?;
                    return Ok(event);
                }
            }
        }
    }

    /// Adds a mark to event `number`. After `Ok` a [`Mark::Swinging`] or [`Mark::Undoing`] is durable, and all
    /// marks before it; others once [`Writer::flush_marks`] was called. Called by the holder of the engine
    /// lock only.
    pub fn mark(&self, number: u64, mark: &Mark) -> Result<(), EventError> {
        let io = EventError::io("write down a step");
        let events = self.part("events").map_err(EventError::Store)?;
        if !events.exists(format!("{number}.json")).map_err(&io)? {
            return Err(EventError::NoSuchEvent { number });
        }
        let durable = match mark {
            Mark::Swinging { .. } | Mark::Undoing { .. } => true,
            Mark::Begun { .. } | Mark::Exits { .. } | Mark::Note(_) => false,
        };
        let json = [serde_json::to_string(mark).expect("marks have string keys only")];
        let name = steps_of(number);
        let write = || {
            lines::append(&events, &name, &json, false)?;
            if durable { self.flush_steps(&events, number) } else { Ok(()) }
        };
        self.with_reserve(write).map_err(io)
    }

    /// Runs `write`; where the disk is full, gives the reserve of [`Writer::prepare_undo`] back and runs it
    /// once more. `write` may be run twice.
    pub(super) fn with_reserve<T>(&self, write: impl Fn() -> Result<T, FsError>) -> Result<T, FsError> {
        let first = write();
        let full = |e: &FsError| {
            matches!(e.kind(), std::io::ErrorKind::StorageFull | std::io::ErrorKind::QuotaExceeded)
        };
        if !first.as_ref().is_err_and(full) {
            return first;
        }
        let Ok(tmp) = self.root.dir("tmp") else { return first };
        if tmp.remove_file(staging::RESERVE).is_err() {
            return first;
        }
        write()
    }
}
