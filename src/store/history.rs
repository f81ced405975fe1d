//! `history`: one checksummed line per push and finished event, so that listing is one read.
//!
//! The truth is in `generations/` and `events/`: what a crash kept from the history is read from there
//! and appended by the next writer.

use std::collections::{BTreeMap, HashSet};

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use super::error::StoreError;
use super::finished::Lying;
use super::lines;
use super::open::{Store, Writer};
use crate::fsx::{self, FsError, Lock};
use crate::model::{
    Actor, Event, GenerationId, ImportedEvent, LoadedKey, Outcome, PushRecord, Request, Stage, Verdict,
};

pub(super) const LONGEST: u64 = 1 << 30;
/// The most characters of a message or reason that a line of the history holds.
const WORDS: usize = 2000;

/// One event in the history.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct HistoryEntry {
    /// the event's number
    pub number: u64,
    /// what was asked
    pub request: Request,
    /// the generation it is about
    pub target: GenerationId,
    /// when it was asked, UTC
    pub asked: Timestamp,
    /// who asked
    pub by: Actor,
    /// how it ended; `None`: not yet
    pub end: Option<End>,
    /// where it was decided, if not here: then it proves nothing here
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<Elsewhere>,
}

/// An event of another store.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Elsewhere {
    /// the machine that decided
    pub machine: String,
    /// the event's number there
    pub event: u64,
}

impl HistoryEntry {
    /// Whether it has proven its target good on this machine.
    pub(super) fn proves_good(&self) -> bool {
        let good = self.end.as_ref().is_some_and(|end| end.verdict == Verdict::Good);
        self.imported.is_none() && good && self.request != Request::Stop
    }
}

/// How an event of the history ended: its outcome without the steps, the reason cut to a length.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct End {
    /// how
    pub verdict: Verdict,
    /// the last stage that ran
    pub stage: Stage,
    /// whether another generation is in force now than before
    pub changed: bool,
    /// why
    pub reason: String,
    /// what was in force then
    pub serving: Option<GenerationId>,
    /// the key of the target's loader output, where it had one
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded: Option<LoadedKey>,
    /// when, UTC
    pub at: Timestamp,
}

/// A push in the history.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(super) struct PushLine {
    pub(super) id: GenerationId,
    pub(super) at: Timestamp,
    pub(super) by: Actor,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) message: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) parent: Option<GenerationId>,
}

impl PushLine {
    fn of(id: GenerationId, record: &PushRecord) -> PushLine {
        PushLine {
            id,
            at: record.at,
            by: record.by.clone(),
            message: record.message.as_deref().map(shortened),
            parent: record.parent,
        }
    }
}

/// Of the `lines` in the file those that count, one for each generation that is `there`; and which of these have
/// none.
pub(super) fn last_of_each(
    lines: Vec<PushLine>,
    there: &HashSet<GenerationId>,
) -> (Vec<PushLine>, HashSet<GenerationId>) {
    let mut lost = there.clone();
    // a generation pushed again after it was taken away has two lines: the last one counts
    let mut pushes: Vec<PushLine> = lines.into_iter().rev().filter(|push| lost.remove(&push.id)).collect();
    pushes.reverse();
    (pushes, lost)
}

#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Record {
    Push(PushLine),
    Event(HistoryEntry),
}

impl Record {
    /// When what it tells of was over.
    fn at(&self) -> Option<Timestamp> {
        match self {
            Record::Push(push) => Some(push.at),
            Record::Event(entry) => entry.end.as_ref().map(|end| end.at),
        }
    }

    pub(super) fn of_push(id: GenerationId, record: &PushRecord) -> Record {
        Record::Push(PushLine::of(id, record))
    }

    pub(super) fn of_event(event: Option<&Event>, outcome: &Outcome) -> Record {
        let end = End {
            verdict: outcome.verdict,
            stage: outcome.stage,
            changed: outcome.changed,
            reason: shortened(&outcome.reason),
            serving: outcome.serving,
            loaded: outcome.loaded,
            at: outcome.at,
        };
        let imported = outcome.imported.as_ref();
        let asked = imported.map(|imported| imported.asked).or(event.map(|event| event.at));
        let by = imported.map(|imported| &imported.by).or(event.map(|event| &event.by));
        let origin = |from: &ImportedEvent| Elsewhere { machine: outcome.machine.clone(), event: from.event };
        Record::Event(HistoryEntry {
            number: outcome.event,
            request: outcome.request,
            target: outcome.target,
            asked: asked.unwrap_or(outcome.at),
            by: by.cloned().unwrap_or_default(),
            end: Some(end),
            imported: imported.map(origin),
        })
    }
}

fn json(records: &[Record]) -> Vec<String> {
    let json = |record| serde_json::to_string(record).expect("records have string keys only");
    records.iter().map(json).collect()
}

fn shortened(text: &str) -> String {
    text.chars().take(WORDS).collect()
}

/// The history, completed from what lies in the store.
pub(super) struct Ledger {
    /// every generation that is there, damaged ones too
    pub(super) there: HashSet<GenerationId>,
    /// every generation that is there, in the order of their pushes
    pub(super) pushes: Vec<PushLine>,
    /// every finished event by number
    pub(super) finished: BTreeMap<u64, HistoryEntry>,
    /// numbers of the events without an outcome, ascending
    pub(super) pending: Vec<u64>,
    /// what the file lacks
    pub(super) missing: Vec<Record>,
}

impl Store {
    /// Every event ever, by number; those without an outcome have no end.
    pub fn history(&self) -> Result<Vec<HistoryEntry>, StoreError> {
        let ledger = self.ledger()?;
        let mut entries = ledger.finished;
        for number in ledger.pending {
            if let Some(event) = self.event(number)? {
                let Event { request, target, at: asked, by, .. } = event;
                let entry = HistoryEntry { number, request, target, asked, by, end: None, imported: None };
                entries.insert(number, entry);
            }
        }
        Ok(entries.into_values().collect())
    }

    /// Whether an event of this machine has ever proven generation `id` good.
    pub fn was_good(&self, id: GenerationId) -> Result<bool, StoreError> {
        Ok(self.brief()?.decided.values().any(|decided| decided.target == id && decided.is_good()))
    }

    pub(super) fn ledger(&self) -> Result<Ledger, StoreError> {
        let io = StoreError::io("read the history");
        let bytes = fsx::optional(self.root.read("history", LONGEST)).map_err(&io)?.unwrap_or_default();
        let there: HashSet<GenerationId> = self.generation_ids()?.into_iter().collect();
        let mut pushes = Vec::new();
        let mut finished = BTreeMap::new();
        for json in lines::parse(&bytes).sound {
            // a line of a newer program that this one cannot read stands for nothing here
            match serde_json::from_str(json) {
                Ok(Record::Push(push)) => pushes.push(push),
                Ok(Record::Event(entry)) => drop(finished.insert(entry.number, entry)),
                Err(_) => {}
            }
        }
        let (pushes, lost) = last_of_each(pushes, &there);
        let mut ledger = Ledger { there, pushes, finished, pending: Vec::new(), missing: Vec::new() };
        self.complete(&mut ledger, lost)?;
        Ok(ledger)
    }

    /// The lines that `lost` generations ought to have, by time.
    pub(super) fn lost_pushes(&self, lost: HashSet<GenerationId>) -> Vec<PushLine> {
        // one just taken away, or a damaged one, has none: `verify` names it
        let push = |id| self.push_record(id).ok().map(|record| PushLine::of(id, &record));
        let mut pushes: Vec<PushLine> = lost.into_iter().filter_map(push).collect();
        pushes.sort_by_key(|push| (push.at, push.id));
        pushes
    }

    /// Adds to `ledger` what `lost` generations and the events directory know and the file does not.
    fn complete(&self, ledger: &mut Ledger, lost: HashSet<GenerationId>) -> Result<(), StoreError> {
        for push in self.lost_pushes(lost) {
            ledger.pushes.push(push.clone());
            ledger.missing.push(Record::Push(push));
        }
        for (number, files) in self.event_files(Lying::Anywhere)? {
            if ledger.finished.contains_key(&number) {
                continue;
            }
            let outcome = if files.outcome { self.outcome(number)? } else { None };
            let Some(outcome) = outcome else {
                if files.event {
                    ledger.pending.push(number);
                }
                continue;
            };
            let record = Record::of_event(self.event(number)?.as_ref(), &outcome);
            if let Record::Event(entry) = &record {
                ledger.finished.insert(number, entry.clone());
            }
            ledger.missing.push(record);
        }
        Ok(())
    }
}

/// The lock on the end of `history`. A note in it says that something is seen that has no line yet, or is not durable.
const HISTORY_LOCK: &str = "history.lock";

/// The end of `history`, held by who owes it a line. Dropped without [`Owed::paid`], or with its process, it has the next
/// writer look for what is missing.
pub(super) struct Owed {
    lock: Lock,
    /// whether somebody who is gone owes something, too
    inherited: bool,
}

impl Owed {
    /// What became visible is durable, as far as it will be, and has its line.
    pub(super) fn paid(self) {
        if !self.inherited {
            let _ = self.lock.note(false); // else the next writer looks in vain
        }
    }
}

impl Writer {
    /// Takes the lock on the end of `history` for what becomes visible now, and notes that its line is owed. What a
    /// killed writer has left there is durable before.
    pub(super) fn owe_a_line(&self) -> Result<Owed, FsError> {
        let lock = self.history_lock()?;
        let inherited = self.settle_inherited()?;
        if !inherited {
            lock.note(true)?;
        }
        Ok(Owed { lock, inherited })
    }

    /// Makes durable what a killed writer may have left visible and not durable: nothing may come after it that a power
    /// cut would keep without it. Whether there is a note of one.
    fn settle_inherited(&self) -> Result<bool, FsError> {
        let inherited = Lock::is_noted(self.run(), HISTORY_LOCK)?;
        if inherited {
            self.root.sync_file_system()?;
        }
        Ok(inherited)
    }

    fn history_lock(&self) -> Result<Lock, FsError> {
        Lock::exclusive(self.run(), HISTORY_LOCK)
    }

    /// The lock on the end of `history`; `None` where somebody has it.
    pub(super) fn try_history_lock(&self) -> Result<Option<Lock>, FsError> {
        Lock::try_exclusive(self.run(), HISTORY_LOCK)
    }

    /// Appends one record. It is not flushed: what a power cut takes of the index, the first writer after it
    /// reads from what it tells of. The caller has had the lock since before that became visible: nobody takes the line
    /// for lost and adds it too.
    pub(super) fn remember(&self, owed: &Owed, record: &Record) -> Result<(), FsError> {
        self.remember_all(owed, std::slice::from_ref(record))
    }

    /// As [`Writer::remember`], for several at once.
    pub(super) fn remember_all(&self, _owed: &Owed, records: &[Record]) -> Result<(), FsError> {
        if records.is_empty() {
            return Ok(());
        }
        lines::append(&self.root, "history", &json(records), false)
    }

    /// Whether the history may lack a line: a writer was killed while it owed one, or the history, written after all
    /// that it tells of, is older than that.
    pub(super) fn history_may_lack(&self) -> Result<bool, StoreError> {
        let io = StoreError::io("look at the history");
        let Some(history) = fsx::optional(self.root.meta("history")).map_err(&io)? else { return Ok(true) };
        let generations = self.root.meta("generations").map_err(&io)?;
        let events = self.root.meta("events").map_err(&io)?;
        Ok(Lock::is_noted(self.run(), HISTORY_LOCK).map_err(&io)?
            || generations.modified > history.modified
            || events.modified > history.modified)
    }

    /// Appends what a crash kept from the history. Whoever writes there now is left in peace: the next
    /// writer looks again.
    pub(super) fn complete_history(&self) -> Result<(), StoreError> {
        let io = StoreError::io("complete the history");
        let Some(lock) = self.try_history_lock().map_err(&io)? else { return Ok(()) };
        self.settle_inherited().map_err(&io)?;
        self.append_missing()?;
        lock.note(false).map_err(io)
    }

    /// The same, for a caller who knows that nobody else writes to the history.
    pub(super) fn append_missing(&self) -> Result<(), StoreError> {
        let io = StoreError::io("complete the history");
        if !self.brief()?.lacks {
            // newer than all it tells of, whatever the clock of files says of writes in one tick
            return fsx::optional(self.root.touch("history")).map(drop).map_err(io);
        }
        let missing = self.ledger()?.missing;
        lines::append(&self.root, "history", &json(&missing), false).map_err(&io)
    }

    /// Writes the history anew: its sound lines as they are, and what the store knows besides, by time.
    pub(super) fn rewrite_history(&self) -> Result<(), StoreError> {
        let io = StoreError::io("repair the history");
        let _lock = self.history_lock().map_err(&io)?;
        let bytes = self.root.read("history", LONGEST).map_err(&io)?;
        let at = |json: &str| serde_json::from_str::<Record>(json).ok().and_then(|record| record.at());
        let mut records: Vec<(Option<Timestamp>, String)> =
            lines::parse(&bytes).sound.into_iter().map(|json| (at(json), json.to_owned())).collect();
        let missing = self.ledger()?.missing;
        for (record, json) in missing.iter().zip(json(&missing)) {
            let later = records.iter().position(|(at, _)| *at > record.at());
            records.insert(later.unwrap_or(records.len()), (record.at(), json));
        }
        let text: String = records.iter().map(|(_, json)| lines::line(json)).collect();
        self.root.replace_file("history", text.as_bytes(), 0o644).map_err(io)
    }
}
