//! The history in a few words: what the deciding needs of it, read without making everything else of it.
//! [`super::history`] has the whole.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::error::StoreError;
use super::history::{HistoryEntry, LONGEST, PushLine, last_of_each};
use super::lines;
use super::open::Store;
use crate::fsx;
use crate::model::{GenerationId, Outcome, Request, Verdict};

/// What a finished event came to.
#[derive(Clone, Copy, Debug)]
pub(super) struct Decided {
    pub(super) request: Request,
    pub(super) target: GenerationId,
    /// how it ended; `None`: it was decided elsewhere, and says nothing here
    pub(super) verdict: Option<Verdict>,
}

impl Decided {
    /// Whether it has proven its target good on this machine.
    pub(super) fn is_good(&self) -> bool {
        self.verdict == Some(Verdict::Good) && self.request != Request::Stop
    }
}

/// What finished events came to, completed from what lies in the store.
#[derive(Debug)]
pub struct Brief {
    /// every finished event by number
    pub(super) decided: BTreeMap<u64, Decided>,
    /// every generation that is there, damaged ones too
    pub(super) there: HashSet<GenerationId>,
    /// whether the file lacks the line of an outcome or of a generation
    pub(super) lacks: bool,
}

/// What was read of the file so far: lines are only ever added to it.
#[derive(Debug, Default)]
pub(super) struct Reading {
    /// which file
    identity: (u64, u64),
    /// bytes up to the end of the last sound line
    end: u64,
    /// that line
    last: String,
    /// the generations that have a line
    listed: HashSet<GenerationId>,
    decided: BTreeMap<u64, Decided>,
}

/// What is in force until somebody confirms it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// the event that put it in force
    pub event: u64,
    /// what it put there
    pub target: GenerationId,
    /// whether somebody tried to go back since, in vain
    pub tried: bool,
}

/// A line, with as much of a push as `P` has.
#[derive(Deserialize)]
#[serde(rename_all = "lowercase")]
enum Line<P> {
    Push(P),
    Event(EventLine),
}

#[derive(Deserialize)]
struct PushId {
    id: GenerationId,
}

#[derive(Deserialize)]
struct EventLine {
    number: u64,
    request: Request,
    target: GenerationId,
    end: Option<EndLine>,
    imported: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct EndLine {
    verdict: Verdict,
}

impl From<EventLine> for Decided {
    fn from(line: EventLine) -> Decided {
        let verdict = line.end.map(|end| end.verdict).filter(|_| line.imported.is_none());
        Decided { request: line.request, target: line.target, verdict }
    }
}

impl From<&HistoryEntry> for Decided {
    fn from(entry: &HistoryEntry) -> Decided {
        let verdict = entry.end.as_ref().map(|end| end.verdict).filter(|_| entry.imported.is_none());
        Decided { request: entry.request, target: entry.target, verdict }
    }
}

impl From<&Outcome> for Decided {
    fn from(outcome: &Outcome) -> Decided {
        let verdict = Some(outcome.verdict).filter(|_| outcome.imported.is_none());
        Decided { request: outcome.request, target: outcome.target, verdict }
    }
}

impl Brief {
    /// As [`Store::unconfirmed`].
    pub fn unconfirmed(&self) -> Option<Unconfirmed> {
        let mut waits = None;
        for (&number, decided) in &self.decided {
            match decided.verdict {
                // brought up again: it waits as before
                Some(Verdict::Unconfirmed) if decided.request == Request::Start && waits.is_some() => {}
                Some(Verdict::Unconfirmed) => {
                    waits = Some(Unconfirmed { event: number, target: decided.target, tried: false });
                }
                // what was restarted or stopped is in force as it was
                Some(Verdict::Good) if matches!(decided.request, Request::Restart | Request::Stop) => {}
                Some(Verdict::Good | Verdict::PointerOnly) => waits = None,
                Some(
                    Verdict::Unchanged
                    | Verdict::Reverted
                    | Verdict::Failed
                    | Verdict::Refused
                    | Verdict::Superseded
                    | Verdict::Stuck,
                ) => {
                    if let Some(waits) = waits.as_mut().filter(|_| decided.request == Request::Rollback) {
                        waits.tried = true;
                    }
                }
                None => {}
            }
        }
        waits
    }
}

impl Store {
    /// The last event that put something in force only until somebody confirms it; `None` where that is decided,
    /// or there is none.
    pub fn unconfirmed(&self) -> Result<Option<Unconfirmed>, StoreError> {
        Ok(self.brief()?.unconfirmed())
    }

    /// The history in a few words; of the file is read what was not read before.
    pub fn brief(&self) -> Result<Brief, StoreError> {
        let mut reading = self.reading.lock().expect("no thread panics");
        self.read_on(&mut reading)?;
        let (listed, decided) = (reading.listed.clone(), reading.decided.clone());
        drop(reading);
        let mut brief = self.completed(decided)?;
        brief.lacks |= !brief.there.is_subset(&listed);
        Ok(brief)
    }

    fn read_on(&self, reading: &mut Reading) -> Result<(), StoreError> {
        let io = StoreError::io("read the history");
        let Some((mut file, meta)) = fsx::optional(self.root.open_file_meta("history")).map_err(&io)? else {
            *reading = Reading::default();
            return Ok(());
        };
        if reading.identity != meta.identity {
            *reading = Reading { identity: meta.identity, ..Reading::default() };
        }
        let known = reading.last.len() as u64;
        let mut bytes = fsx::read_from(&mut file, reading.end - known).map_err(&io)?;
        if !bytes.starts_with(reading.last.as_bytes()) {
            // it was written anew
            *reading = Reading { identity: meta.identity, ..Reading::default() };
            bytes = fsx::read_from(&mut file, 0).map_err(&io)?;
        }
        let lines = lines::parse(&bytes[reading.last.len()..]);
        for json in &lines.sound {
            // a line of a newer program that this one cannot read stands for nothing here
            match serde_json::from_str(json) {
                Ok(Line::Push(PushId { id })) => drop(reading.listed.insert(id)),
                Ok(Line::Event(event)) => drop(reading.decided.insert(event.number, Decided::from(event))),
                Err(_) => {}
            }
        }
        reading.end += lines.end as u64;
        if let Some(last) = lines.sound.last() {
            reading.last = lines::line(last);
        }
        Ok(())
    }

    /// Every generation that is there, in the order of their pushes, and what the events came to.
    pub(super) fn pushes(&self) -> Result<(Vec<PushLine>, Brief), StoreError> {
        let (lines, brief) = self.brief_with::<PushLine>()?;
        let (mut pushes, lost) = last_of_each(lines, &brief.there);
        pushes.extend(self.lost_pushes(lost));
        Ok((pushes, brief))
    }

    // the lines of pushes as they are, and the rest, which lacks nothing as far as events go
    fn brief_with<P: DeserializeOwned>(&self) -> Result<(Vec<P>, Brief), StoreError> {
        let io = StoreError::io("read the history");
        let bytes = fsx::optional(self.root.read("history", LONGEST)).map_err(io)?.unwrap_or_default();
        let mut pushes = Vec::new();
        let mut decided = BTreeMap::new();
        for json in lines::parse(&bytes).sound {
            match serde_json::from_str(json) {
                Ok(Line::Push(push)) => pushes.push(push),
                Ok(Line::Event(event)) => drop(decided.insert(event.number, Decided::from(event))),
                Err(_) => {}
            }
        }
        Ok((pushes, self.completed(decided)?))
    }

    /// `decided`, with what the file does not have.
    fn completed(&self, mut decided: BTreeMap<u64, Decided>) -> Result<Brief, StoreError> {
        let there: HashSet<GenerationId> = self.generation_ids()?.into_iter().collect();
        let mut missing = Vec::new();
        self.each_event_file(|number, rest| {
            if rest == "outcome.json" && !decided.contains_key(&number) {
                missing.push(number);
            }
        })?;
        let mut lacks = false;
        for number in missing {
            if let Some(outcome) = self.outcome(number)? {
                lacks = true;
                decided.insert(number, Decided::from(&outcome));
            }
        }
        Ok(Brief { decided, there, lacks })
    }
}
