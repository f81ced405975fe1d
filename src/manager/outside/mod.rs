//! Carries actions out: programs, the pointer, the workers. Decides nothing.

mod preflight;
mod programs;
mod workers;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender};
use std::time::Duration;

use crate::activation::{Act, Observation};
use crate::model::{Event, GenerationId, Slot, chain};
use crate::store::{Ahead, Staging, Writer};
use crate::supervise::ServiceManager;
use crate::supervise::client::HangUp;
use crate::supervise::oneshot::Cancel;

use super::Service;
use super::facts::Prepared;

pub(super) use preflight::may_mount;
pub(super) use programs::{stage_shot, verdict_of};

/// How long a successor of the supervisor may take to answer: a service manager starts one within a second.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often is looked for it, and how long until what the disk has refused is tried again.
const LOOK: Duration = Duration::from_millis(20);

/// How often the pointer is put back: where it cannot be, it names what does not run.
const TRIES: u32 = 3;

/// What comes into the engine's loop.
#[derive(Debug)]
pub(super) enum Inbound {
    /// news for the machine
    Seen(Observation),
    /// the loader's output is there, to be sealed
    Loaded { at: usize, staging: Staging },
    /// something was written to the events directory
    Asked,
    /// the supervisor's news have ended: it is gone
    SupervisorLost {
        /// number of the last news that came
        seen: u64,
    },
}

/// The outside of one activation.
pub(super) struct Outside<'a> {
    pub(super) service: &'a Service,
    pub(super) writer: &'a Writer,
    pub(super) event: &'a Event,
    pub(super) prepared: &'a Prepared,
    pub(super) inbox: Sender<Inbound>,
    /// whether a missing supervisor may be started: the manager may, a caller may not
    pub(super) starts_supervisor: bool,
    pub(super) in_flight: InFlight,
    /// ends the reading of the supervisor's news with this
    pub(super) news: Option<HangUp>,
    /// whether it is on its way back
    pub(super) turned_back: bool,
    /// what preflight has found doubtful
    pub(super) doubt: Option<String>,
    /// whoever looks after the workers, as long as this activation goes on
    pub(super) held: Option<Box<dyn ServiceManager>>,
    /// the service whose sockets were taken, and what is to be done with it
    pub(super) beside: Option<String>,
    /// the target, which is read already
    pub(super) ahead: Option<Ahead>,
}

/// What has been asked for and not answered yet.
#[derive(Default)]
pub(super) struct InFlight {
    /// ends the program that runs; and what hangs up when it is gone
    program: Option<(Arc<Cancel>, Receiver<()>)>,
    /// asked of the supervisor
    ensuring: Option<(Slot, GenerationId)>,
}

impl Outside<'_> {
    /// Does step `at`; what comes of it is sent to the inbox.
    pub(super) fn act(&mut self, at: usize) {
        let result = match &self.prepared.plan.steps[at].act {
            Act::Preflight => self.preflight().map(|doubt| self.doubt = doubt),
            Act::Swing => self.swing(),
            Act::Load => return self.load(at),
            Act::Check(index) => return self.check(at, *index),
            Act::Canary => return self.canary(at),
            Act::Stop => {
                return self.stop(move |ended| match ended {
                    Ok(()) => Observation::Passed { at },
                    Err(why) => Observation::Failed { at, why },
                });
            }
            Act::Replace(_) | Act::Probation | Act::Remove(_) => {
                unreachable!("the machine asks for these by actions of their own")
            }
        };
        self.send(match result {
            Ok(()) => Observation::Passed { at },
            Err(why) => Observation::Failed { at, why },
        });
    }

    /// Step `at` cannot even be begun.
    pub(super) fn failed(&self, at: usize, why: String) {
        self.send(Observation::Failed { at, why });
    }

    fn send(&self, seen: Observation) {
        // the loop that reads it owns us: it is there
        let _ = self.inbox.send(Inbound::Seen(seen));
    }

    fn swing(&self) -> Result<(), String> {
        let _lock = self.writer.swing_lock().map_err(|e| chain(&e))?;
        let from = self.prepared.plan.from;
        let standing = self.service.standing().map_err(|e| chain(&e))?;
        if standing.in_force != from {
            let now = standing.current.map_or("nothing".to_owned(), |id| id.short());
            return Err(format!("somebody else has moved `current` meanwhile: it names {now}"));
        }
        let target = self.prepared.plan.target;
        let swung = match self.prepared.plan.goes_on_after_the_swing() {
            true => self.writer.prepare_undo(from).and_then(|()| self.writer.swing(Some(target))),
            false => {
                let prepared = self.writer.prepare_verdict();
                prepared.and_then(|()| self.writer.swing_at_last(self.event.number, target))
            }
        };
        swung.map_err(|e| chain(&e))
    }

    /// Puts the pointer back. Fine where it is back already.
    pub(super) fn swing_back(&mut self, to: Option<GenerationId>) {
        self.turned_back = true;
        self.send(Observation::SwungBack(swing_back(self.service, self.writer, to)));
    }

    /// Ends the running program and the candidates of this event.
    pub(super) fn cancel(&mut self) {
        if let Some((cancel, over)) = self.in_flight.program.take() {
            cancel.cancel();
            // what was started is gone before the verdict, which may be the end of this process
            let _ = over.recv_timeout(PATIENCE);
        }
        if self.in_flight.ensuring.take().is_some() {
            let _ = self.ask(|client| client.abandon(self.event.number));
        }
    }

    /// What to tell besides the verdict: where the pipeline came from, and what preflight has found doubtful.
    pub(super) fn note(&self) -> Option<String> {
        let beside = self.beside.as_ref().filter(|_| !self.turned_back);
        let notes: Vec<&str> = [self.prepared.note.as_ref(), self.doubt.as_ref(), beside]
            .into_iter()
            .flatten()
            .map(String::as_str)
            .collect();
        (!notes.is_empty()).then(|| notes.join("; "))
    }
}

/// Puts the pointer on `to`. Fine where it is there already.
pub(super) fn swing_back(service: &Service, writer: &Writer, to: Option<GenerationId>) -> Result<(), String> {
    let _lock = writer.swing_lock().map_err(|e| chain(&e))?;
    if service.standing().is_ok_and(|standing| standing.current == to && standing.in_force == to) {
        return Ok(());
    }
    let mut left = TRIES;
    loop {
        left -= 1;
        match writer.swing(to) {
            Err(error) if left > 0 => {
                tracing::warn!("the pointer is not back, it is tried again: {}", chain(&error));
                std::thread::sleep(LOOK);
            }
            done => return done.map_err(|e| chain(&e)),
        }
    }
}
