//! Which generations and loader outputs stay, and why. Pure: rule S21 of `spec/store.md`.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::time::Duration;

use jiff::Timestamp;

use crate::model::{GenerationId, LoadedKey, Retention, Tag, duration};

/// Why a generation or loader output stays.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Reason {
    /// `current` names it
    Current,
    /// a tag names it
    Tag(Tag),
    /// an event that has no verdict yet names it
    Event(u64),
    /// a process that the supervisor looks after runs on it
    Worker(String),
    /// a process holds a lease on it
    Leased,
    /// the top of the stack of good generations
    LastGood,
    /// where a `rollback` would go
    Rollback,
    /// one of the last so many good ones
    Good(u32),
    /// good within so many days
    Recent(u32),
    /// pushed within this time, and no verdict since
    Pushed(Duration),
    /// of a loader output: this generation, which stays, was last run, or last good, with it
    Of(GenerationId),
}

impl Reason {
    /// Whether it stands in the way of a purge, too. The others are about what is worth keeping.
    pub fn is_use(&self) -> bool {
        match self {
            Reason::Current | Reason::Tag(_) | Reason::Event(_) | Reason::Worker(_) | Reason::Leased => true,
            Reason::LastGood
            | Reason::Rollback
            | Reason::Good(_)
            | Reason::Recent(_)
            | Reason::Pushed(_)
            | Reason::Of(_) => false,
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::Current => f.write_str("current"),
            Reason::Tag(tag) => write!(f, "tag {tag}"),
            Reason::Event(number) => write!(f, "event {number} is not finished"),
            Reason::Worker(slot) => write!(f, "worker {slot}"),
            Reason::Leased => f.write_str("held by a process"),
            Reason::LastGood => f.write_str("last good"),
            Reason::Rollback => f.write_str("rollback goes there"),
            Reason::Good(keep) => write!(f, "keep {keep}"),
            Reason::Recent(days) => write!(f, "keep_days {days}"),
            Reason::Pushed(within) => write!(f, "keep_pushed {}", duration::show(*within)),
            Reason::Of(id) => write!(f, "generation {}", id.short()),
        }
    }
}

impl serde::Serialize for Reason {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

/// A process that was started on a generation and may still run.
#[derive(Clone, Debug)]
pub struct Running {
    /// what it is, for people: `web/1 (pid 12)`
    pub name: String,
    /// the generation it runs
    pub generation: GenerationId,
    /// the loader output it runs on
    pub loaded: Option<LoadedKey>,
}

/// A finished event, as far as it matters here.
#[derive(Clone, Debug)]
pub(super) struct Ended {
    pub(super) target: GenerationId,
    pub(super) good: bool,
    pub(super) loaded: Option<LoadedKey>,
    pub(super) at: Timestamp,
}

/// Everything that is decided from, as it was at one moment.
#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// every generation that is there, and when it was last pushed
    pub(super) generations: BTreeMap<GenerationId, Timestamp>,
    pub(super) current: Option<GenerationId>,
    pub(super) tags: BTreeMap<Tag, GenerationId>,
    /// what each event without a verdict names: its target, and what its marks say
    pub(super) pending: BTreeMap<u64, BTreeSet<GenerationId>>,
    pub(super) running: Vec<Running>,
    /// the finished events, by number
    pub(super) ended: Vec<Ended>,
    /// the stack of good generations that are there
    pub(super) stack: Vec<GenerationId>,
    pub(super) retention: Retention,
    pub(super) now: Timestamp,
}

/// Why something stays; what is not in it may go.
pub(super) type Kept<T> = BTreeMap<T, BTreeSet<Reason>>;

const DAY: u64 = 24 * 3600;

/// The generations that stay, and why. Only those that are there.
pub(super) fn generations(facts: &Facts) -> Kept<GenerationId> {
    let Facts { retention, .. } = facts;
    let mut kept: Kept<GenerationId> = BTreeMap::new();
    let mut keep = |id: GenerationId, why: Reason| {
        if facts.generations.contains_key(&id) {
            kept.entry(id).or_default().insert(why);
        }
    };
    facts.current.iter().for_each(|id| keep(*id, Reason::Current));
    facts.tags.iter().for_each(|(tag, id)| keep(*id, Reason::Tag(tag.clone())));
    for (number, named) in &facts.pending {
        named.iter().for_each(|id| keep(*id, Reason::Event(*number)));
    }
    facts.running.iter().for_each(|running| keep(running.generation, Reason::Worker(running.name.clone())));
    let mut under = facts.stack.iter().rev();
    under.next().iter().for_each(|id| keep(**id, Reason::LastGood));
    under.next().iter().for_each(|id| keep(**id, Reason::Rollback));

    let mut good: BTreeSet<GenerationId> = BTreeSet::new();
    let recent =
        |at: Timestamp| within(facts.now, at, Duration::from_secs(u64::from(retention.keep_days) * DAY));
    for ended in facts.ended.iter().rev().filter(|ended| ended.good) {
        let there = facts.generations.contains_key(&ended.target);
        if there && good.len() < retention.keep as usize && good.insert(ended.target) {
            keep(ended.target, Reason::Good(retention.keep));
        }
        if recent(ended.at) {
            keep(ended.target, Reason::Recent(retention.keep_days));
        }
    }
    let mut verdicts: BTreeMap<GenerationId, Timestamp> = BTreeMap::new();
    for ended in &facts.ended {
        let last = verdicts.entry(ended.target).or_insert(ended.at);
        *last = ended.at.max(*last);
    }
    for (id, pushed) in &facts.generations {
        let since = verdicts.get(id).is_none_or(|verdict| pushed > verdict);
        if since && within(facts.now, *pushed, retention.keep_pushed) {
            keep(*id, Reason::Pushed(retention.keep_pushed));
        }
    }
    kept
}

/// The loader outputs among `there` that stay where the generations `stay`, and why.
pub(super) fn outputs(
    facts: &Facts,
    stay: &BTreeSet<GenerationId>,
    there: &BTreeSet<LoadedKey>,
) -> Kept<LoadedKey> {
    let mut kept: Kept<LoadedKey> = BTreeMap::new();
    let mut keep = |key: LoadedKey, why: Reason| {
        if there.contains(&key) {
            kept.entry(key).or_default().insert(why);
        }
    };
    // what an event needs is known when its pipeline has been read: until its verdict everything stays
    for number in facts.pending.keys() {
        there.iter().for_each(|key| keep(*key, Reason::Event(*number)));
    }
    for running in &facts.running {
        running.loaded.iter().for_each(|key| keep(*key, Reason::Worker(running.name.clone())));
    }
    // what the program makes of the same generation may change with it: the last ones count
    let (mut last, mut last_good) = (BTreeMap::new(), BTreeMap::new());
    for ended in &facts.ended {
        let Some(key) = ended.loaded.filter(|_| stay.contains(&ended.target)) else { continue };
        last.insert(ended.target, key);
        if ended.good {
            last_good.insert(ended.target, key);
        }
    }
    last.into_iter().chain(last_good).for_each(|(id, key)| keep(key, Reason::Of(id)));
    kept
}

/// Whether `at` is less than `time` ago; a clock that was put back makes it so, too. Never where `time` is 0.
fn within(now: Timestamp, at: Timestamp, time: Duration) -> bool {
    !time.is_zero()
        && now.duration_since(at) < jiff::SignedDuration::try_from(time).unwrap_or(jiff::SignedDuration::MAX)
}

#[cfg(test)]
mod tests;
