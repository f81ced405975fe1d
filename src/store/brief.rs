//! The history in a few words: what the deciding needs of it, read without making everything else of it.
//! [`super::history`] has the whole.

use std::collections::{BTreeMap, HashSet};

use serde::Deserialize;
use serde::de::{DeserializeOwned, IgnoredAny};

use super::error::StoreError;
use super::events::EventFiles;
use super::finished::Lying;
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

    /// Whether it has put its target in force for good: nothing before it matters then for what comes last.
    fn is_in_force(&self) -> bool {
        let puts = match self.request {
            Request::Activate | Request::Rollback | Request::Start | Request::Confirm => true,
            Request::Restart | Request::Stop => false,
        };
        puts && self.is_good()
    }
}

/// What came last.
#[derive(Clone, Copy, Debug)]
pub struct Latest {
    /// as [`Store::last_good`]
    pub last_good: Option<GenerationId>,
    /// as [`Store::unconfirmed`]
    pub unconfirmed: Option<Unconfirmed>,
}

/// So much of the end of the history is read where nothing else is needed: some 160 events.
const END: u64 = 64 * 1024;

/// So many outcomes without a line are read one by one; more of them take longer than the whole history.
const FEW: usize = 16;

/// How much of the history.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Extent {
    /// the end at least
    End,
    Whole,
}

/// What finished events came to, completed from what lies in the store.
#[derive(Debug)]
pub(super) struct Brief {
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
    /// where the reading began
    start: u64,
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

/// What waits to be confirmed after what `decided` says, by number.
fn unconfirmed(decided: &BTreeMap<u64, Decided>) -> Option<Unconfirmed> {
    let mut waits = None;
    for (&number, decided) in decided {
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

impl Store {
    /// The last event that put something in force only until somebody confirms it; `None` where that is decided,
    /// or there is none.
    pub fn unconfirmed(&self) -> Result<Option<Unconfirmed>, StoreError> {
        Ok(self.latest()?.unconfirmed)
    }

    /// What came last: of the history is read the end, where that tells it.
    pub fn latest(&self) -> Result<Latest, StoreError> {
        if let Some(latest) = self.latest_at_the_end()? {
            return Ok(latest);
        }
        let brief = self.brief()?;
        Ok(Latest { last_good: brief.last_good(), unconfirmed: unconfirmed(&brief.decided) })
    }

    /// The same; `None`: the end of the history does not tell.
    fn latest_at_the_end(&self) -> Result<Option<Latest>, StoreError> {
        let recent = self.event_files(Lying::Recent)?;
        let put_away = self.has_put_away()?;
        let mut reading = self.reading.lock().expect("no thread panics");
        self.read_on(&mut reading, Extent::End)?;
        let first = recent.first().map_or(0, |(number, _)| *number);
        // where the event before the first of them has its line, so have all that were put away
        if put_away && !reading.decided.contains_key(&first.saturating_sub(1)) {
            return Ok(None);
        }
        let unlisted =
            |(number, files): &&(u64, EventFiles)| files.outcome && !reading.decided.contains_key(number);
        let unlisted: Vec<u64> = recent.iter().filter(unlisted).map(|(number, _)| *number).collect();
        if unlisted.len() > FEW {
            return Ok(None);
        }
        let mut last = BTreeMap::new();
        for number in unlisted {
            // a damaged one may have its line further up
            let Ok(outcome) = self.outcome(number) else { return Ok(None) };
            last.extend(outcome.map(|outcome| (number, Decided::from(&outcome))));
        }
        for (&number, &decided) in reading.decided.iter().rev() {
            last.insert(number, decided);
            if decided.is_in_force() {
                break;
            }
        }
        let good =
            last.iter().rev().find(|(_, decided)| decided.is_in_force()).map(|(_, decided)| decided.target);
        let last_good = match good {
            // whichever way it came, it is on top of the stack
            Some(id) if self.has(id)? => Some(id),
            None if reading.start == 0 && !put_away => None,
            _ => return Ok(None),
        };
        Ok(Some(Latest { last_good, unconfirmed: unconfirmed(&last) }))
    }

    /// The history in a few words; of the file is read what was not read before.
    pub(super) fn brief(&self) -> Result<Brief, StoreError> {
        let mut reading = self.reading.lock().expect("no thread panics");
        self.read_on(&mut reading, Extent::Whole)?;
        let (listed, decided) = (reading.listed.clone(), reading.decided.clone());
        drop(reading);
        let mut brief = self.completed(decided)?;
        brief.lacks |= !brief.there.is_subset(&listed);
        Ok(brief)
    }

    /// What the lines of the history say that events came to, by number.
    pub(super) fn decided(&self, extent: Extent) -> Result<BTreeMap<u64, Decided>, StoreError> {
        let mut reading = self.reading.lock().expect("no thread panics");
        self.read_on(&mut reading, extent)?;
        Ok(reading.decided.clone())
    }

    fn read_on(&self, reading: &mut Reading, extent: Extent) -> Result<(), StoreError> {
        let io = StoreError::io("read the history");
        let Some((mut file, meta)) = fsx::optional(self.root.open_file_meta("history")).map_err(&io)? else {
            *reading = Reading::default();
            return Ok(());
        };
        let anew = || {
            let start = if extent == Extent::End { meta.len.saturating_sub(END) } else { 0 };
            Reading { identity: meta.identity, start, end: start, ..Reading::default() }
        };
        if reading.identity != meta.identity || (extent == Extent::Whole && reading.start > 0) {
            *reading = anew();
        }
        let known = reading.last.len() as u64;
        let mut bytes = fsx::read_from(&mut file, reading.end - known).map_err(&io)?;
        if !bytes.starts_with(reading.last.as_bytes()) {
            // it was written anew
            *reading = anew();
            bytes = fsx::read_from(&mut file, reading.end).map_err(&io)?;
        }
        // at the end of it, the line that the reading begins in is not sound
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
        self.each_event_file(Lying::Anywhere, |number, rest| {
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
