//! What the watchdog makes of what it sees: nothing, or one repair towards the last good generation. Pure: the
//! manager looks and acts.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{GenerationId, LoadedKey, Repair, Slot};

use super::plan::Facts;

/// How many errors there were, one forgiven after each `decay`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Tally {
    /// how many
    pub errors: u32,
    /// since when the next one to be forgiven waits, in milliseconds since boot
    since_ms: u64,
}

impl Tally {
    /// What is left of it at `now_ms` since boot.
    pub fn at(self, now_ms: u64, decay: Duration) -> Tally {
        let decay = u64::try_from(decay.as_millis()).unwrap_or(u64::MAX).max(1);
        let passed = now_ms.saturating_sub(self.since_ms) / decay;
        let forgiven = u32::try_from(passed).unwrap_or(u32::MAX).min(self.errors);
        Tally {
            errors: self.errors - forgiven,
            since_ms: self.since_ms.saturating_add(decay.saturating_mul(u64::from(forgiven))),
        }
    }

    /// With one more.
    #[must_use]
    pub fn add(self, now_ms: u64, decay: Duration) -> Tally {
        let now = self.at(now_ms, decay);
        let since_ms = if now.errors == 0 { now_ms } else { now.since_ms };
        Tally { errors: now.errors.saturating_add(1), since_ms }
    }
}

/// One process that a slot has accepted, or what stands in for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Seat {
    /// where
    pub slot: Slot,
    /// the generation it runs
    pub generation: GenerationId,
    /// how it is
    pub health: Health,
    /// whether an event of this store has ever named its generation
    pub known: bool,
}

/// How an accepted process is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Health {
    /// ready, and nothing speaks against it
    Well,
    /// it has ended, and its pipeline wants it left alone
    Ended,
    /// neither, at every look for so long
    Ill(Duration),
}

/// What is in force only until somebody confirms it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Unconfirmed {
    /// the generation
    pub target: GenerationId,
    /// whether the way back was tried, in vain
    pub tried: bool,
}

/// Everything that is decided from, as it was at one look.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// an event has no verdict yet, or the service is stopped: nothing is missed
    pub busy: bool,
    /// the last good generation
    pub good: Option<GenerationId>,
    /// what `current` names
    pub current: Option<GenerationId>,
    /// whether this machine has ever seen that good
    pub current_proven: bool,
    /// what waits to be confirmed
    pub unconfirmed: Option<Unconfirmed>,
    /// whether the last event that decided anything has left everything as it is to be
    pub settled: bool,
    /// whether somebody has told the supervisor so since this manager began
    pub told: bool,
    /// the slots that [`Seen::held`] was proven with, and how long each may be ill; no time: its pipeline does not
    /// have it any more, so that nobody misses it
    pub slots: BTreeMap<Slot, Option<Duration>>,
    /// what the slots run
    pub seats: Vec<Seat>,
    /// an output of the loader that a process of [`Seen::held`] runs on and that is not there any more
    pub lost: Option<LoadedKey>,
}

/// What is to be done.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Next {
    /// all is well, or it is not the watchdog's to judge
    Nothing,
    /// stop every worker but these: an activation that is over should have done it
    Settle(Vec<Slot>),
    /// an error: have these slots run the last good generation again
    Restore(GenerationId, Repair),
    /// an error: go back to the last good generation from what nobody has confirmed
    GoBack(GenerationId, String),
}

impl Seen {
    /// The generation whose workers have to be there: what waits to be confirmed, else the last good one.
    pub fn held(&self) -> Option<GenerationId> {
        match self.waiting() {
            Some(open) => Some(open.target),
            None => self.good,
        }
    }

    /// What waits to be confirmed, where that is what `current` names.
    fn waiting(&self) -> Option<Unconfirmed> {
        self.unconfirmed.filter(|open| self.current == Some(open.target))
    }

    fn seat(&self, slot: &Slot) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.slot == *slot)
    }

    fn is_well(&self, which: impl Fn(&Seat) -> bool) -> bool {
        self.seats.iter().any(|seat| seat.health == Health::Well && which(seat))
    }

    /// Slots that have nothing well in them, and what is wrong with each.
    fn faults(&self) -> Vec<(&Slot, &'static str)> {
        let fault = |slot: &Slot, limit: Duration| match self.seat(slot).map(|seat| seat.health) {
            None => Some("is gone"),
            Some(Health::Ill(time)) if time >= limit => Some("does not get well"),
            Some(Health::Ill(_) | Health::Well | Health::Ended) => None,
        };
        self.slots.iter().filter_map(|(slot, limit)| Some((slot, fault(slot, (*limit)?)?))).collect()
    }
}

/// What follows from `seen`.
pub fn look(seen: &Seen) -> Next {
    let Some(good) = seen.good.filter(|_| !seen.busy) else { return Next::Nothing };
    let waiting = seen.waiting();
    let drifted = waiting.is_none() && seen.current != Some(good);
    // where a person has moved the pointer and workers with it, nobody knows what is wanted
    let taken_over = drifted && seen.is_well(|seat| Some(seat.generation) == seen.current);
    if taken_over || waiting.is_some_and(|open| open.tried) {
        return Next::Nothing;
    }
    let faults = seen.faults();
    if faults.is_empty() && seen.lost.is_none() {
        return match drifted || waiting.is_some() {
            true => Next::Nothing,
            false => surplus(seen, good),
        };
    }
    let lost = seen.lost.map(|key| format!("the loader's output {} is gone", key.short()));
    let why: Vec<String> = faults.iter().map(|(slot, what)| format!("{slot} {what}")).chain(lost).collect();
    let why = why.join(", ");
    if waiting.is_some() {
        return Next::GoBack(good, why);
    }
    // a pointer that was moved alone stays where workers show what is in force without it
    let pointer_stays = drifted && (seen.current_proven || seen.is_well(|_| true));
    let slots = faults.into_iter().map(|(slot, _)| slot.clone()).collect();
    Next::Restore(good, Repair { slots, why, current: seen.current, pointer_stays })
}

/// What a settled activation has left behind, where everything else is as it has left it.
fn surplus(seen: &Seen, good: GenerationId) -> Next {
    let stands = |(slot, limit): (&Slot, &Option<Duration>)| match seen.seat(slot) {
        Some(seat) => seat.generation == good,
        None => limit.is_none(),
    };
    if !seen.settled || seen.slots.is_empty() || !seen.slots.iter().all(stands) {
        return Next::Nothing;
    }
    let mut surplus = seen.seats.iter().filter(|seat| !seen.slots.contains_key(&seat.slot)).peekable();
    if surplus.peek().is_none() && seen.told {
        return Next::Nothing;
    }
    // a generation that no event here has named came with a store that was put back, or by another hand
    match surplus.all(|seat| seat.known) {
        true => Next::Settle(seen.slots.keys().cloned().collect()),
        false => Next::Nothing,
    }
}

impl Facts {
    /// Leaves of these facts what `repair` is about: slots in which something is well are none of it.
    pub fn narrow(&mut self, repair: &Repair) {
        let well: BTreeSet<&Slot> = self.running.iter().filter(|r| r.ready).map(|r| &r.slot).collect();
        // of what was interrupted, one may be well already: it has its probation to come
        let finishes = self.finishes;
        self.slots.retain(|slot, _| repair.slots.contains(slot) && (finishes || !well.contains(slot)));
        self.running.retain(|running| self.slots.contains_key(&running.slot));
        self.drifted.clear();
        (self.repairs, self.unproven) = (true, false);
        // there is nothing to go back to
        self.last_good = Some(self.target);
        if repair.pointer_stays {
            self.current = Some(self.target);
        }
    }
}

#[cfg(test)]
mod tests;
