//! The members of an export as they come in: each is compared with the one that has to come.
//!
//! The stream is hostile until proven otherwise. What an export holds, and in which order, follows from the
//! manifests in it, which hash to their ids; any other member ends the import. So no name in the stream is
//! ever used to make a file.

use std::collections::BTreeMap;
use std::io::Read;

use tar::EntryType;

use super::arrival::{Arrivals, Arrived, Generation, LONGEST_LINE};
use super::bundle::{self, ImportError, Meter, Origin, Tally, expect, refused, unexpected};
use super::events::LARGEST_EVENT;
use super::members::{Broken, Member, each_member, shown};
use super::open::Writer;
use super::outcome;
use super::staging::Staging;
use crate::model::{Event, GenerationId, ImportedEvent, Limits, Outcome, PushRecord, Tag};

/// Every file of an import could be one inode, which ends at 65,000 names.
const MOST_GENERATIONS: u64 = 50_000;
/// Bytes of outcomes in one export: they are held in memory until its end is seen.
const MOST_RECORDS: u64 = 1 << 30;

/// A whole export, read to its end.
pub(super) struct Received {
    pub(super) origin: Origin,
    /// what is not in the store as it has to be is in the staging, under its id
    pub(super) generations: Vec<Arrived>,
    pub(super) tags: BTreeMap<Tag, GenerationId>,
    /// each with where it is from
    pub(super) outcomes: Vec<Outcome>,
}

/// Reads the export `stream`, verifying everything, and puts what `writer` does not have into `staging`: nothing
/// of it is flushed or visible. The caller holds the store lock: what is shared is not taken away.
pub(super) fn receive(
    writer: &Writer,
    staging: &Staging,
    stream: &mut dyn Read,
    limits: Limits,
    meter: Meter<'_>,
) -> Result<Received, ImportError> {
    let mut incoming = Incoming {
        arrivals: Arrivals::new(writer, staging, limits),
        meter,
        next: Next::Format,
        origin: None,
        tally: Tally::default(),
        tags: BTreeMap::new(),
        outcomes: Vec::new(),
        held: 0,
    };
    each_member(stream, |member, content| incoming.member(&member, content))?;
    let Incoming { next: Next::Nothing, origin: Some(origin), arrivals, tags, outcomes, .. } = incoming
    else {
        return Err(refused("it ends before its end: it was cut; make the export again".to_owned()));
    };
    Ok(Received { origin, generations: arrivals.generations, tags, outcomes })
}

/// The member that has to come next.
enum Next {
    Format,
    Origin,
    /// a generation, a tag, an outcome or the end
    Any,
    /// the manifest of a generation
    Manifest(GenerationId),
    /// its push record
    Record(Box<Generation>),
    /// its tree
    Tree(Box<Generation>),
    /// what is in the tree
    Entry(Box<Generation>),
    /// the outcome of the event before it
    Outcome(Box<Event>),
    /// nothing after the end
    Nothing,
}

struct Incoming<'a> {
    arrivals: Arrivals<'a>,
    meter: Meter<'a>,
    next: Next,
    origin: Option<Origin>,
    tally: Tally,
    tags: BTreeMap<Tag, GenerationId>,
    outcomes: Vec<Outcome>,
    /// bytes of outcomes so far
    held: u64,
}

impl Incoming<'_> {
    fn member(&mut self, member: &Member, content: &mut dyn Read) -> Result<(), ImportError> {
        self.meter.bytes(member.length);
        let name = match std::str::from_utf8(&member.name) {
            Ok(name) if !member.sparse => name,
            _ => return Err(unexpected(&member.shown(), "a plain member")),
        };
        let next = std::mem::replace(&mut self.next, Next::Nothing);
        self.next = match next {
            Next::Format => {
                let text = text(member, content, bundle::FORMAT, bundle::LARGEST_NOTE)?;
                self.format(&text)?
            }
            Next::Origin => {
                let text = text(member, content, bundle::ORIGIN, bundle::LARGEST_NOTE)?;
                self.tally.record(bundle::ORIGIN, &text);
                self.origin = Some(parsed(bundle::ORIGIN, &text)?);
                Next::Any
            }
            Next::Any => self.any(member, name, content)?,
            Next::Manifest(id) => {
                let most = (self.arrivals.limits.entries as u64).saturating_mul(LONGEST_LINE);
                let text = text(member, content, &format!("generations/{id}/manifest"), most)?;
                Next::Record(Box::new(self.arrivals.begin(id, text)?))
            }
            Next::Record(mut generation) => {
                let name = format!("generations/{}/push.json", generation.id);
                let text = text(member, content, &name, 1 << 20)?;
                self.tally.record(&name, &text);
                let record: PushRecord = parsed(&name, &text)?;
                self.arrivals.choose_base(&record)?;
                generation.record = Some((record, text));
                Next::Tree(generation)
            }
            Next::Tree(generation) => {
                expect(member, EntryType::Directory, &format!("generations/{}/tree/", generation.id))?;
                self.finished(generation)?
            }
            Next::Entry(mut generation) => {
                self.arrivals.entry(&mut generation, member, content)?;
                self.finished(generation)?
            }
            Next::Outcome(event) => {
                let expected = format!("events/{}.outcome.json", event.number);
                if name != expected {
                    return Err(unexpected(&shown(&member.name), &expected));
                }
                self.outcome(member, content, event.number, Some(&event))?
            }
            Next::Nothing => return Err(unexpected(&member.shown(), "nothing more")),
        };
        Ok(())
    }

    fn format(&mut self, text: &[u8]) -> Result<Next, ImportError> {
        if text == bundle::FORMAT_TEXT.as_bytes() {
            return Ok(Next::Origin);
        }
        let found = String::from_utf8_lossy(text).trim_end().escape_debug().to_string();
        Err(refused(match found.starts_with(bundle::FORMAT_ANY) {
            true => format!("it is a `{found}`, which this program does not know; use the one that wrote it"),
            false => "it is no export; give what `pointsman export` has written".to_owned(),
        }))
    }

    fn any(&mut self, member: &Member, name: &str, content: &mut dyn Read) -> Result<Next, ImportError> {
        let expected = "a generation, a tag, an outcome or the end";
        let wrong = || unexpected(&member.shown(), expected);
        // generations, then tags, then outcomes
        let (no_tag, no_outcome) = (self.tally.tags == 0, self.tally.outcomes == 0);
        if name == bundle::END {
            let text = text(member, content, name, bundle::LARGEST_NOTE)?;
            let end: bundle::End = parsed(name, &text)?;
            if end != self.tally.end() {
                return Err(refused(
                    "its end does not fit what came before: it was changed; make it again".to_owned(),
                ));
            }
            Ok(Next::Nothing)
        } else if let Some(id) = name.strip_prefix("generations/")
            && no_tag
            && no_outcome
        {
            let id: GenerationId = id.strip_suffix('/').and_then(|id| id.parse().ok()).ok_or_else(wrong)?;
            expect(member, EntryType::Directory, &format!("generations/{id}/"))?;
            if self.arrivals.has(id) {
                return Err(refused(format!("generation {id} is in it twice; make the export again")));
            }
            if self.tally.generations >= MOST_GENERATIONS {
                return Err(refused(format!(
                    "more than {MOST_GENERATIONS} generations; export fewer at once"
                )));
            }
            Ok(Next::Manifest(id))
        } else if let Some(tag) = name.strip_prefix("tags/")
            && no_outcome
        {
            let tag: Tag = tag.parse().map_err(|_| wrong())?;
            let text = text(member, content, name, 256)?;
            let id = std::str::from_utf8(&text).ok().and_then(|text| text.strip_suffix('\n')?.parse().ok());
            let id = id.filter(|id| self.arrivals.has(*id));
            let id = id.ok_or_else(|| refused(format!("{name} names no generation in it; make it again")))?;
            if self.tags.last_key_value().is_some_and(|(last, _)| *last >= tag) {
                return Err(wrong());
            }
            self.tally.record(name, &text);
            self.tally.tags += 1;
            self.tags.insert(tag, id);
            Ok(Next::Any)
        } else if let Some((number, rest)) = name.strip_prefix("events/").and_then(|n| n.split_once('.')) {
            let number: u64 = number.parse().map_err(|_| wrong())?;
            match rest {
                "json" => {
                    let text = text(member, content, &format!("events/{number}.json"), LARGEST_EVENT)?;
                    self.tally.record(name, &text);
                    let event: Event = parsed(name, &text)?;
                    match event.number == number {
                        true => Ok(Next::Outcome(Box::new(event))),
                        false => Err(refused(format!("{name} is about another event; make it again"))),
                    }
                }
                "outcome.json" => self.outcome(member, content, number, None),
                _ => Err(wrong()),
            }
        } else {
            Err(wrong())
        }
    }

    fn outcome(
        &mut self,
        member: &Member,
        content: &mut dyn Read,
        number: u64,
        event: Option<&Event>,
    ) -> Result<Next, ImportError> {
        let name = format!("events/{number}.outcome.json");
        let text = text(member, content, &name, outcome::LARGEST)?;
        self.held = self.held.saturating_add(text.len() as u64);
        if self.held > MOST_RECORDS {
            return Err(refused(format!("more than {MOST_RECORDS} bytes of outcomes; export fewer at once")));
        }
        self.tally.record(&name, &text);
        self.tally.outcomes += 1;
        let mut outcome: Outcome = parsed(&name, &text)?;
        if outcome.event != number {
            return Err(refused(format!("{name} is about another event; make it again")));
        }
        // it is shown as it is
        if outcome.machine.len() > 128 || outcome.machine.chars().any(char::is_control) {
            return Err(refused(format!("{name} names a machine that is none; make the export again")));
        }
        // what came to the origin by an import stays what it was before that
        outcome.imported.get_or_insert_with(|| ImportedEvent {
            event: number,
            asked: event.map_or(outcome.at, |event| event.at),
            by: event.map(|event| event.by.clone()).unwrap_or_default(),
        });
        self.outcomes.push(outcome);
        Ok(Next::Any)
    }

    /// What comes after a generation's last entry, or before the next one.
    fn finished(&mut self, generation: Box<Generation>) -> Result<Next, ImportError> {
        if !generation.is_complete() {
            return Ok(Next::Entry(generation));
        }
        self.arrivals.finish(*generation)?;
        self.tally.generations += 1;
        self.meter.generation();
        Ok(Next::Any)
    }
}

/// The content of a small member, which must be a regular file of this name.
fn text(member: &Member, content: &mut dyn Read, name: &str, limit: u64) -> Result<Vec<u8>, ImportError> {
    if member.name != name.as_bytes() || member.kind != EntryType::Regular {
        return match name {
            bundle::FORMAT => {
                Err(refused("it is no export; give what `pointsman export` has written".to_owned()))
            }
            _ => Err(unexpected(&member.shown(), name)),
        };
    }
    if member.length > limit {
        return Err(refused(format!("{name} is larger than {limit} bytes; make the export again")));
    }
    let mut bytes = Vec::new();
    content.read_to_end(&mut bytes).map_err(Broken::from)?;
    if bytes.len() as u64 != member.length {
        return Err(refused(format!("{name} ends in the middle: it was cut; make the export again")));
    }
    Ok(bytes)
}

fn parsed<T: serde::de::DeserializeOwned>(name: &str, text: &[u8]) -> Result<T, ImportError> {
    serde_json::from_slice(text).map_err(|e| refused(format!("{name}: {e}; make the export again")))
}
