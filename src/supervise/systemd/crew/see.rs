//! Looks at the units, and turns what they are doing into the table's transitions.

use std::time::Duration;

use crate::model::Listen;
use crate::supervise::crew::{Check, heard, watch};
use crate::supervise::doing::Doing as _;
use crate::supervise::process::{self, Ended};
use crate::supervise::readiness::written_out;
use crate::supervise::slots::{Role, Table, Worker};
use crate::supervise::{clock, closing, memory};

use super::super::bus::{Bus, BusError, Listed};
use super::super::own::NOT_AGAIN;
use super::super::unit::{self, Names, State};
use super::{Crew, length, with_tail};

/// A process that systemd has killed is gone within this time, mostly.
const KILLING: Duration = Duration::from_secs(1);

impl Crew {
    /// Looks at every unit.
    ///
    /// # Errors
    /// systemd does not answer: it is looked again.
    pub(in crate::supervise::systemd) fn look(&mut self) -> Result<(), BusError> {
        let units: Vec<String> = self.live.values().map(|live| live.unit.clone()).collect();
        if units.is_empty() {
            return Ok(());
        }
        let units: Vec<&str> = units.iter().map(String::as_str).collect();
        for listed in self.bus.units(&units)? {
            if let Some(n) = self.names.number(&listed.name) {
                self.see(n, &listed)?;
            }
        }
        Ok(())
    }

    fn see(&mut self, n: u64, listed: &Listed) -> Result<(), BusError> {
        let (Some(live), Some(worker)) = (self.live.get(&n), self.table.worker(n)) else { return Ok(()) };
        let (role, ready, known) = (worker.role, worker.ready, worker.pid);
        let fell = live.fell;
        match (unit::state(&listed.active, &listed.sub, listed.job), role) {
            (State::Gone, _) => self.gone(n, listed)?,
            (_, Role::Leaving) => {}
            (State::Ready, _) => {
                let pid: u32 = self.bus.property(listed, "MainPID")?;
                if pid == 0 {
                    return Ok(()); // it has ended since: that is told next
                }
                if ready && known == Some(pid) {
                    return self.listen(n, listed);
                }
                let lives = known.is_some_and(|known| process::start_of(known) == worker.started);
                if ready && lives {
                    // it has named another process of its own
                    self.runs(n, pid);
                    return Ok(());
                }
                if ready {
                    // it has ended and come back while nobody looked
                    let why = "ended while nobody looked".to_owned();
                    let acts = self.table.fell(n, why);
                    self.carry_out(acts);
                }
                self.runs(n, pid);
                self.became_ready(n);
            }
            (State::Starting, _) => {
                let pid: u32 = self.bus.property(listed, "MainPID")?;
                if pid == 0 {
                    return Ok(());
                }
                if ready && known != Some(pid) {
                    let acts = self.table.fell(n, "ended while nobody looked".to_owned());
                    self.carry_out(acts);
                }
                self.runs(n, pid);
                self.listen(n, listed)?;
            }
            (State::Waiting, Role::Candidate) | (State::Leaving, Role::Candidate) => {
                self.listen(n, listed)?;
                let what = self.table.worker(n).map(|worker| self.end_of(n, worker, listed)).transpose()?;
                let acts = self.table.condemn(n, what.unwrap_or_default());
                self.carry_out(acts);
            }
            (State::Waiting, Role::Accepted) => {
                let started: u64 = self.bus.property(listed, "ExecMainStartTimestampMonotonic")?;
                if fell != Some(started) {
                    let what = self.what(n, listed)?;
                    if self.bus.property::<u32>(listed, "MainPID")? != 0 {
                        return Ok(()); // it has been started since: what was read may be about either
                    }
                    self.fell(n, what);
                    if let Some(live) = self.live.get_mut(&n) {
                        live.fell = Some(started);
                    }
                }
            }
            (State::Leaving, Role::Accepted) if !ready => {
                let _ = self.bus.kill(&listed.name, "all", 9);
            }
            // it is being ended for its silence: that counts when it is gone
            (State::Leaving, Role::Accepted) if listed.sub == "stop-watchdog" => {
                let unwell = silent(worker);
                self.table.feels(n, Some(unwell));
            }
            (State::Leaving, Role::Accepted) => {}
            // it serves until the table settles, and is not missed before
            (State::Waiting | State::Leaving, Role::Staying) => {}
        }
        Ok(())
    }

    /// What it says of itself.
    pub(super) fn listen(&mut self, n: u64, listed: &Listed) -> Result<(), BusError> {
        let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker_mut(n)) else {
            return Ok(());
        };
        let told = if worker.spec.talks() { live.telling.as_mut() } else { None };
        let mut is_over = false;
        if let Some(Check::Message(reload)) = told.map(|telling| &mut telling.check) {
            // before what it does now: it may have done two things since
            let changed: u64 = self.bus.unit_property(listed, "StateChangeTimestampMonotonic")?;
            let reloading = self.bus.unit_property::<String>(listed, "ActiveState")? == "reloading";
            is_over = reload.is_over(reloading, changed);
        }
        if worker.spec.talks() {
            (worker.note, worker.reloading) = words(&self.bus, listed)?;
        }
        if is_over {
            self.has_taken(n, Ok(()));
        }
        Ok(())
    }

    fn runs(&mut self, n: u64, pid: u32) {
        if let Some(worker) = self.table.worker_mut(n) {
            (worker.pid, worker.started) = (Some(pid), process::start_of(pid));
        }
    }

    fn became_ready(&mut self, n: u64) {
        let Some(worker) = self.table.worker(n) else { return };
        let (spec, pid, given) = (worker.spec.clone(), worker.pid, worker.sockets.clone());
        let keys = match &spec.listen {
            Listen::Sockets(_) => given,
            Listen::Inherit(_) => {
                self.fetch();
                let bound = self.run.read(self.file(n, "bound"), 1 << 20).unwrap_or_default();
                serde_json::from_slice(&bound).unwrap_or_default()
            }
        };
        tracing::info!(slot = %spec.slot, pid, "is ready");
        let acts = self.table.ready(n, keys);
        if let (Some(live), Some(worker)) = (self.live.get_mut(&n), self.table.worker(n)) {
            live.check = watch(worker);
        }
        // from here on systemd starts it again by itself
        self.rewrite(n);
        self.carry_out(acts);
    }

    /// The accepted process has ended, and is started again by systemd.
    fn fell(&mut self, n: u64, what: String) {
        let Some(worker) = self.table.worker(n) else { return };
        let slot = worker.spec.slot.clone();
        let log = self.log_path(n, worker);
        let why = with_tail(&log, what, worker.log_from);
        tracing::info!(%slot, why, "has ended; systemd starts it again");
        let log_from = length(&log);
        if let Some(worker) = self.table.worker_mut(n) {
            (worker.log_from, worker.reloading) = (log_from, false);
        }
        if let Some(live) = self.live.get_mut(&n) {
            (live.check, live.telling) = (Check::None, None);
        }
        let acts = self.table.fell(n, why);
        self.carry_out(acts);
    }

    /// The unit is down: its process is gone for good.
    fn gone(&mut self, n: u64, listed: &Listed) -> Result<(), BusError> {
        let failed = listed.active == "failed";
        let what = self.what(n, listed)?;
        if failed {
            let _ = self.bus.forget(&listed.name);
        }
        let Some(live) = self.live.remove(&n) else { return Ok(()) };
        let _ = self.bus.leave(&live.unit);
        let Some(worker) = self.table.worker(n) else { return Ok(()) };
        let well = !failed && !live.found && worker.verdict.is_none();
        let why = with_tail(&self.log_path(n, worker), what, worker.log_from);
        tracing::info!(slot = %worker.spec.slot, unit = listed.name, why, "is gone");
        self.remove_files(n);
        let listen = (!worker.ready).then(|| worker.spec.listen.clone());
        let acts = self.table.ended(n, why, clock::now() - live.since, well);
        closing::close_unneeded(self, listen.as_ref());
        self.carry_out(acts);
        self.let_go();
        Ok(())
    }

    /// How a process has ended, or why it is not ready, and what it said last.
    fn what(&self, n: u64, listed: &Listed) -> Result<String, BusError> {
        let Some(worker) = self.table.worker(n) else { return Ok(String::new()) };
        let what = self.end_of(n, worker, listed)?;
        let now = if worker.spec.talks() { said(&self.bus, listed)? } else { String::new() };
        // one that is down may say nothing any more
        let said = if now.is_empty() { worker.note.clone() } else { now };
        Ok(if said.is_empty() { what } else { format!("{what}; it said last: {said}") })
    }

    fn end_of(&self, n: u64, worker: &Worker, listed: &Listed) -> Result<String, BusError> {
        if let Some(verdict) = &worker.verdict {
            return Ok(verdict.clone());
        }
        if let Ok(reason) = self.run.read(self.file(n, "why"), 64 << 10) {
            return Ok(String::from_utf8_lossy(&reason).into_owned());
        }
        if listed.active == "inactive" && self.live.get(&n).is_some_and(|live| live.found) {
            return Ok("ended while nobody looked".to_owned());
        }
        if listed.active == "inactive" {
            return Ok(Ended::Exited(0).to_string());
        }
        let result: String = self.bus.property(listed, "Result")?;
        let code: i32 = self.bus.property(listed, "ExecMainCode")?;
        let status: i32 = self.bus.property(listed, "ExecMainStatus")?;
        // the words of waitid(2)
        let ended = match code {
            1 if status == i32::from(NOT_AGAIN) => "failed while nobody looked".to_owned(),
            1 => Ended::Exited(status).to_string(),
            2 | 3 => Ended::Killed(status).to_string(),
            _ if result == "success" => "ended while nobody looked".to_owned(),
            _ => format!("systemd says `{result}`"),
        };
        Ok(match result.as_str() {
            "timeout" if !worker.ready => {
                let time = |name| self.bus.property::<u64>(listed, name).map(Duration::from_micros);
                let (from, to) =
                    (time("ExecMainStartTimestampMonotonic")?, time("ExecMainExitTimestampMonotonic")?);
                // killing takes its time, too
                let waited = to.saturating_sub(from).saturating_sub(KILLING);
                format!("was not ready within {}", heard::limit(worker.spec.start_timeout, waited))
            }
            "watchdog" => silent(worker),
            "oom-kill" if worker.spec.launch.surroundings.memory.is_some() => {
                format!("{ended}; {}", memory::SHORT)
            }
            "oom-kill" => format!("{ended}; the machine had no more memory for it"),
            _ => ended,
        })
    }
}

/// What a worker that systemd has ended for its silence, or since it said so, is told to have done: systemd does not
/// say which.
fn silent(worker: &Worker) -> String {
    let gave_up = "has given up (WATCHDOG=trigger)";
    match worker.spec.watchdog {
        Some(limit) => format!("was silent for {limit:?} (watchdog), or {gave_up}"),
        None => gave_up.to_owned(),
    }
}

/// The `STATUS=` of a unit.
fn said(bus: &Bus, listed: &Listed) -> Result<String, BusError> {
    Ok(written_out(&bus.property::<String>(listed, "StatusText")?))
}

/// The `STATUS=` of a unit, and whether it says that it reloads.
fn words(bus: &Bus, listed: &Listed) -> Result<(String, bool), BusError> {
    let said = said(bus, listed)?;
    // both come with one message, and the list was made before
    Ok((said, bus.unit_property::<String>(listed, "ActiveState")? == "reloading"))
}

/// Notes in `table`, for those who only look, what the units are doing now.
pub(in crate::supervise::systemd) fn observe(
    table: &mut Table,
    bus: &Bus,
    names: &Names,
) -> Result<(), BusError> {
    let units: Vec<(u64, String)> = table
        .workers()
        .filter(|(_, worker)| !worker.held)
        .map(|(n, worker)| (n, names.worker(&worker.spec.slot.group, n)))
        .collect();
    let wanted: Vec<&str> = units.iter().map(|(_, unit)| unit.as_str()).collect();
    for listed in bus.units(&wanted)? {
        let Some(n) = names.number(&listed.name) else { continue };
        let state = unit::state(&listed.active, &listed.sub, listed.job);
        let pid = match state {
            State::Waiting | State::Gone => 0,
            State::Starting | State::Ready | State::Leaving => bus.property::<u32>(&listed, "MainPID")?,
        };
        let talks = table.worker(n).is_some_and(|worker| worker.spec.talks());
        let words = match state {
            State::Starting | State::Ready if talks => Some(words(bus, &listed)?),
            _ => None,
        };
        let Some(worker) = table.worker_mut(n) else { continue };
        if let Some(words) = words {
            (worker.note, worker.reloading) = words;
        }
        if worker.role == Role::Leaving && state == State::Gone {
            // what follows from it is for whoever writes the record
            drop(table.gone(n, String::new(), Duration::ZERO));
            continue;
        }
        worker.pid = Some(pid).filter(|pid| *pid != 0);
        // without a process it has ended since the list was made
        worker.ready = state == State::Ready && worker.pid.is_some();
        worker.started = worker.pid.and_then(process::start_of);
    }
    Ok(())
}
