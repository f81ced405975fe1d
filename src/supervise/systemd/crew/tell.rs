//! Tells a running process of another generation: its links first, then itself; then waits for what says that
//! it has taken it.

use crate::model::chain;
use crate::supervise::crew::tell::{begin, link};
use crate::supervise::crew::{Check, Telling, subject, watch};
use crate::supervise::doing::Doing as _;
use crate::supervise::process;
use crate::supervise::tries::Done;

use super::Crew;

impl Crew {
    /// Tells process `n` what the table says that it is being told.
    pub(super) fn inform(&mut self, n: u64) -> Result<(), String> {
        let worker = self.table.worker(n).ok_or("it is not there")?;
        let spec = worker.telling.as_ref().map(|telling| telling.spec.clone());
        let (Some(spec), Some(pid)) = (spec, worker.pid) else { return Err("it is not there".to_owned()) };
        self.lease_for(&spec)?;
        link(&self.run, n, &spec).map_err(|e| chain(&e))?;
        let Some(live) = self.live.get_mut(&n) else { return Err("it is not there".to_owned()) };
        let listed = self.bus.units(&[&live.unit]).map_err(|e| e.to_string())?;
        let reloading = listed.iter().any(|listed| listed.active == "reloading");
        let subject = subject(self.tries.run(), n, pid, &spec);
        let (check, signal) = begin(n, &spec, subject, reloading, &mut self.tries)?;
        if let Some(signal) = signal {
            self.bus.kill(&live.unit, "main", signal.as_raw()).map_err(|e| e.to_string())?;
        }
        live.telling = Some(Telling::of(&spec, check));
        // nobody asks meanwhile whether it is well
        live.check = Check::None;
        tracing::info!(slot = %spec.slot, pid, generation = spec.generation.short(), "is told");
        Ok(())
    }

    /// Takes `done` where it is about telling; gives it back where it is not.
    pub(super) fn on_told(&mut self, done: Done) -> Option<Done> {
        let telling = self.live.get_mut(&done.n).and_then(|live| live.telling.as_mut());
        match telling.map(|telling| &mut telling.check) {
            Some(Check::Told(now)) if now.is(&done) => self.has_taken(done.n, done.answer),
            Some(Check::Ask(asking)) => {
                if !asking.is_answered_by(&done) {
                    return Some(done);
                }
                match done.answer {
                    Ok(()) => self.has_taken(done.n, Ok(())),
                    Err(why) => asking.not_yet(why),
                }
            }
            _ => return Some(done),
        }
        None
    }

    /// Process `n` has taken what it was told of, or has not.
    pub(super) fn has_taken(&mut self, n: u64, answer: Result<(), String>) {
        let Some(live) = self.live.get_mut(&n) else { return };
        live.telling = None;
        // whoever has ended has taken nothing; that it has ended is told next
        let worker = self.table.worker(n);
        if worker.and_then(|worker| process::start_of(worker.pid?))
            != worker.and_then(|worker| worker.started)
        {
            return;
        }
        let acts = match answer {
            Ok(()) => self.table.told(n),
            Err(why) => self.table.not_told(n, why),
        };
        if let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker(n)) {
            live.check = watch(worker);
        }
        self.rewrite(n);
        self.carry_out(acts);
    }

    /// Looks for what says that somebody has taken it, and at the time.
    pub(super) fn on_time_to_tell(&mut self) {
        let numbers: Vec<u64> = self.live.keys().copied().collect();
        for n in numbers {
            let telling = self.live.get_mut(&n).and_then(|live| live.telling.as_mut());
            let worker = self.table.worker(n);
            let told = worker.and_then(|worker| Some((&worker.telling.as_ref()?.spec, worker.pid?)));
            let (Some(telling), Some((spec, pid))) = (telling, told) else { continue };
            if let Some(answer) = telling.turn(n, spec, pid, &mut self.tries) {
                self.has_taken(n, answer);
            }
        }
    }
}
