//! Gives back what nothing needs. What stays is decided in [`super::roots`]: rule S21 of `spec/store.md`.

use std::collections::{BTreeMap, BTreeSet};

use jiff::Timestamp;
use serde::Serialize;

use super::aside::{Aside, Freed, Locked, Victim};
use super::brief::Decided;
use super::error::StoreError;
use super::open::{Store, Writer};
use super::roots::{self, Ended, Facts, Kept, Reason, Running};
use super::stack;
use crate::fsx::{self, FsError, Lock};
use crate::model::{GenerationId, LoadedKey, Mark, Retention};

/// So many are renamed aside under one hold of the store lock. Each keeps a descriptor open (a loader output
/// two) until it is unlinked, and the usual limit is 1024; and nobody waits longer for the lock the more
/// there is.
const BATCH: usize = 100;

/// What to collect by.
pub struct Policy<'a> {
    /// what is worth keeping
    pub retention: Retention,
    /// the time, UTC
    pub now: Timestamp,
    /// what runs now; asked under the store lock
    pub running: &'a dyn Fn() -> Result<Vec<Running>, FsError>,
}

/// How far a collection is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GcProgress {
    /// somebody writes in the store; it is waited for
    Waiting,
    /// what was taken away is being unlinked
    Removing {
        /// so many are gone
        done: usize,
    },
}

/// Something that stays.
#[derive(Clone, Debug, Serialize)]
pub struct Stays<T> {
    /// its id or key
    pub id: T,
    /// why
    pub why: BTreeSet<Reason>,
}

/// What a collection came to, or would.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Collected {
    /// the generations that are gone
    pub removed: Vec<GenerationId>,
    /// the loader outputs that are gone
    pub removed_loaded: Vec<LoadedKey>,
    /// what the file system got back
    pub freed: Freed,
    /// the generations that stay
    pub kept: Vec<Stays<GenerationId>>,
    /// the loader outputs that stay
    pub kept_loaded: Vec<Stays<LoadedKey>>,
}

/// The store as a collection sees it.
pub(super) struct View {
    pub(super) facts: Facts,
    pub(super) loaded: BTreeSet<LoadedKey>,
    /// whether the history lacks nothing
    whole_history: bool,
}

/// What goes and what stays.
pub(super) struct Decision {
    pub(super) gone: Vec<Victim>,
    pub(super) kept: Kept<GenerationId>,
    pub(super) kept_loaded: Kept<LoadedKey>,
    /// some may go, and did not fit into this batch
    more: bool,
}

/// What came of the try to lock a victim.
pub(super) enum Probe {
    /// nobody holds it
    Free,
    /// somebody does
    Held,
    /// not tried
    Later,
}

impl Store {
    /// What [`Writer::collect`] would do now. Changes nothing, waits for nobody.
    pub fn would_collect(&self, policy: &Policy<'_>) -> Result<Collected, StoreError> {
        let view = self.view(policy)?;
        let decision = decide(&view, &mut |victim| self.probe(victim))?;
        let mut collected = Collected { freed: self.would_free(&decision.gone)?, ..Collected::default() };
        decision.gone.iter().for_each(|victim| collected.gone(*victim));
        collected.stay(decision);
        Ok(collected)
    }

    /// Whether nobody holds `victim` at this instant.
    pub(super) fn probe(&self, victim: Victim) -> Result<Probe, FsError> {
        Ok(if self.lock_victim(victim)?.is_some() { Probe::Free } else { Probe::Held })
    }

    /// Reads everything that is decided from. Whatever cannot be read or is damaged is an error: what it names
    /// is not known, so nothing may go.
    pub(super) fn view(&self, policy: &Policy<'_>) -> Result<View, StoreError> {
        let io = StoreError::io("look at a generation");
        let ledger = self.ledger()?;
        let part = self.part("generations")?;
        let mut generations = BTreeMap::new();
        for id in &ledger.there {
            // made by the push, and set anew when the same content is pushed again
            if let Some(meta) = fsx::optional(part.meta(id.to_string())).map_err(&io)? {
                generations.insert(*id, Timestamp::from_nanosecond(meta.modified).unwrap_or(policy.now));
            }
        }
        let mut pending: BTreeMap<u64, BTreeSet<GenerationId>> = BTreeMap::new();
        for number in &ledger.pending {
            let named = pending.entry(*number).or_default();
            named.extend(self.event(*number)?.map(|event| event.target));
            for mark in self.marks(*number)? {
                if let Mark::Swinging { from, to } = mark {
                    named.extend(from.into_iter().chain([to]));
                }
            }
        }
        // what was decided elsewhere says nothing of what is worth keeping here
        let decided_here = ledger.finished.values().filter(|entry| entry.imported.is_none());
        let ended = decided_here.filter_map(|entry| {
            let end = entry.end.as_ref()?;
            let good = entry.proves_good();
            Some(Ended { target: entry.target, good, loaded: end.loaded, at: end.at })
        });
        let keys = self.part("loaded")?.names().map_err(StoreError::io("list the loader outputs"))?;
        let facts = Facts {
            generations,
            current: self.current()?,
            tags: self.tags()?,
            pending,
            running: (policy.running)().map_err(StoreError::io("find out what runs"))?,
            ended: ended.collect(),
            stack: stack::standing(stack::stack(ledger.finished.values().map(Decided::from)), &ledger.there),
            retention: policy.retention,
            now: policy.now,
        };
        let loaded = keys.iter().filter_map(|name| name.to_str()?.parse().ok()).collect();
        Ok(View { facts, loaded, whole_history: ledger.missing.is_empty() })
    }
}

/// What goes by retention, of that which `probe` finds free.
fn decide(
    view: &View,
    probe: &mut dyn FnMut(Victim) -> Result<Probe, FsError>,
) -> Result<Decision, StoreError> {
    let mut decision = Decision {
        gone: Vec::new(),
        kept: roots::generations(&view.facts),
        kept_loaded: Kept::new(),
        more: false,
    };
    let mut stay: BTreeSet<GenerationId> = decision.kept.keys().copied().collect();
    for id in view
        .facts
        .generations
        .keys()
        .filter(|id| !decision.kept.contains_key(id))
        .copied()
        .collect::<Vec<_>>()
    {
        let victim = Victim::Generation(id);
        match probe(victim).map_err(StoreError::io("look at a generation"))? {
            Probe::Free => {
                decision.gone.push(victim);
                continue;
            }
            Probe::Held => drop(decision.kept.entry(id).or_default().insert(Reason::Leased)),
            Probe::Later => decision.more = true,
        }
        stay.insert(id);
    }
    decision.outputs(view, &stay, probe)?;
    Ok(decision)
}

impl Decision {
    /// A purge: of generations, exactly `gone`.
    pub(super) fn purge(
        view: &View,
        gone: &BTreeSet<GenerationId>,
        probe: &mut dyn FnMut(Victim) -> Result<Probe, FsError>,
    ) -> Result<Decision, StoreError> {
        let gone_first = gone.iter().map(|id| Victim::Generation(*id)).collect();
        let mut decision =
            Decision { gone: gone_first, kept: Kept::new(), kept_loaded: Kept::new(), more: false };
        let stay = view.facts.generations.keys().filter(|id| !gone.contains(id)).copied().collect();
        decision.outputs(view, &stay, probe)?;
        Ok(decision)
    }

    /// Decides about the loader outputs where the generations `stay`.
    fn outputs(
        &mut self,
        view: &View,
        stay: &BTreeSet<GenerationId>,
        probe: &mut dyn FnMut(Victim) -> Result<Probe, FsError>,
    ) -> Result<(), StoreError> {
        self.kept_loaded = roots::outputs(&view.facts, stay, &view.loaded);
        for key in view.loaded.iter().filter(|key| !self.kept_loaded.contains_key(key)).collect::<Vec<_>>() {
            let victim = Victim::Loaded(*key);
            match probe(victim).map_err(StoreError::io("look at a loader output"))? {
                Probe::Free => self.gone.push(victim),
                Probe::Held => drop(self.kept_loaded.entry(*key).or_default().insert(Reason::Leased)),
                Probe::Later => self.more = true,
            }
        }
        Ok(())
    }
}

impl Collected {
    fn gone(&mut self, victim: Victim) {
        match victim {
            Victim::Generation(id) => self.removed.push(id),
            Victim::Loaded(key) => self.removed_loaded.push(key),
        }
    }

    fn stay(&mut self, decision: Decision) {
        self.kept = stays(decision.kept);
        self.kept_loaded = stays(decision.kept_loaded);
    }
}

pub(super) fn stays<T>(kept: Kept<T>) -> Vec<Stays<T>> {
    kept.into_iter().map(|(id, why)| Stays { id, why }).collect()
}

impl Writer {
    /// Takes away every generation and loader output that nothing needs, and unlinks them. Where somebody writes
    /// in the store, that is waited for, or, without `wait`, nothing is done: `None`.
    ///
    /// What is decided from is read under the store lock, and only renaming happens under it.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]: a record that says what is needed is damaged; nothing is taken away. Others: what
    /// was taken away before the failure is gone, all else is as it was.
    pub fn collect(
        &self,
        policy: &Policy<'_>,
        wait: bool,
        told: &mut dyn FnMut(GcProgress),
    ) -> Result<Option<Collected>, StoreError> {
        let mut collected = Collected::default();
        let mut done = 0;
        loop {
            let Some(lock) = self.take_alone(wait, told)? else {
                // of a later batch: what is done is done, the next collection goes on
                return Ok((done > 0).then_some(collected));
            };
            let view = self.view(policy)?;
            let mut locked = Vec::new();
            let decision = decide(&view, &mut |victim| self.hold(victim, &mut locked))?;
            let more = decision.more;
            collected.stay(decision);
            let (aside, renamed) = self.move_aside(&view, locked, lock)?;
            for one in aside {
                collected.gone(one.victim());
                collected.freed.add(self.unlink(&one)?);
                done += 1;
                told(GcProgress::Removing { done });
            }
            renamed?;
            if !more {
                return Ok(Some(collected));
            }
        }
    }

    /// The store lock, exclusive, with everything durable that is decided from.
    pub(super) fn take_alone(
        &self,
        wait: bool,
        told: &mut dyn FnMut(GcProgress),
    ) -> Result<Option<Lock>, StoreError> {
        // what others have left to be flushed takes its time: not under the lock
        self.sync_roots()?;
        let io = StoreError::io("take the store lock");
        let mut lock = self.store_lock_alone(false).map_err(&io)?;
        if lock.is_none() && wait {
            told(GcProgress::Waiting);
            lock = self.store_lock_alone(true).map_err(&io)?;
        }
        if lock.is_some() {
            self.sync_roots()?;
        }
        Ok(lock)
    }

    /// No power cut may bring back a root that has been replaced by what is read now.
    fn sync_roots(&self) -> Result<(), StoreError> {
        let io = StoreError::io("make the store durable");
        self.root.sync().map_err(&io)?;
        for part in ["tags", "events"] {
            self.part(part)?.sync().map_err(&io)?;
        }
        Ok(())
    }

    /// As [`Store::probe`]; what is free is locked from now on, until there are enough for a batch.
    fn hold(&self, victim: Victim, locked: &mut Vec<Locked>) -> Result<Probe, FsError> {
        if locked.len() >= BATCH {
            return Ok(Probe::Later);
        }
        Ok(match self.lock_victim(victim)? {
            Some(one) => {
                locked.push(one);
                Probe::Free
            }
            None => Probe::Held,
        })
    }

    /// Renames what is `locked` aside, lets the store `lock` go, and makes that durable: till then a power cut
    /// brings it back, whole.
    pub(super) fn move_aside(
        &self,
        view: &View,
        locked: Vec<Locked>,
        lock: Lock,
    ) -> Result<(Vec<Aside>, Result<(), StoreError>), StoreError> {
        let (aside, renamed) = self.set_aside(locked);
        if view.whole_history && !aside.is_empty() {
            // nobody pushes now, so it lacks nothing, and need not be looked through by the next writer.
            // A failure costs that one a look
            let _ = self.root.touch("history");
        }
        drop(lock);
        self.sync_aside(&aside)?;
        Ok((aside, renamed))
    }
}
