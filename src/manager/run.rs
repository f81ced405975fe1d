//! One event on its way to its verdict: actions out, observations in, until the verdict is written.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use crate::activation::{Action, Activation, Observation, Phase, Waiting, step};
use crate::model::{Event, Mark, Request, Stage, StepReport, StepResult, Verdict, chain};

use super::engine::{Engine, Progress};
use super::external::proves;
use super::objection::is_damaged;
use super::outside::{Inbound, Outside};
use super::rejection::{reject, settle_rejections};
use super::watchdog::mended;
use super::{ManagerError, clock};

/// One event on its way to its verdict.
pub(super) struct Run<'e, 'a> {
    engine: &'e Engine<'a>,
    event: &'e Event,
    outside: Outside<'e>,
    progress: &'e mut Progress<'e>,
    steps: Vec<StepReport>,
    deadline: Option<(Waiting, Instant)>,
    /// whether a rollback or a stop has taken its place
    preempted: bool,
    /// when the running step began
    begun: Instant,
}

/// Whether a rollback or a stop takes the place of what was begun. Another rollback or a cold start is not stopped
/// half-way.
pub(super) fn can_be_preempted(request: Request) -> bool {
    match request {
        Request::Activate | Request::Restart => true,
        Request::Rollback | Request::Start | Request::Confirm | Request::Stop => false,
    }
}

impl<'e, 'a> Run<'e, 'a> {
    pub(super) fn new(
        engine: &'e Engine<'a>,
        event: &'e Event,
        outside: Outside<'e>,
        progress: &'e mut Progress<'e>,
    ) -> Run<'e, 'a> {
        let (steps, begun) = (Vec::new(), clock::instant());
        Run { engine, event, outside, progress, steps, deadline: None, preempted: false, begun }
    }

    /// Carries out `actions` and all that come of them, up to the verdict.
    pub(super) fn finish(
        &mut self,
        mut activation: Activation,
        mut actions: Vec<Action>,
        inbox: &Receiver<Inbound>,
    ) -> Result<(), ManagerError> {
        loop {
            self.perform(&activation, actions)?;
            if activation.phase == Phase::Finished {
                return Ok(());
            }
            let seen = self.next(&activation, inbox);
            (activation, actions) = step(activation, seen);
        }
    }

    /// The next news for the machine: what comes in, or that the time is up.
    fn next(&mut self, activation: &Activation, inbox: &Receiver<Inbound>) -> Observation {
        loop {
            let (waiting, until) = self.deadline.clone().expect("whatever waits has a deadline");
            let inbound = match inbox.recv_timeout(until.saturating_duration_since(clock::instant())) {
                Ok(inbound) => inbound,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => {
                    // a probation that has passed is believed only where every worker is there
                    let unwell = self.in_probation(activation).then(|| self.outside.unwell()).flatten();
                    return unwell.unwrap_or(Observation::Overdue(waiting));
                }
            };
            match inbound {
                Inbound::Seen(seen) => return seen,
                Inbound::Asked => {
                    if let Some(seen) = self.preempted() {
                        return seen;
                    }
                }
                Inbound::Loaded { at, staging } => self.outside.seal(at, staging),
                Inbound::SupervisorLost { seen } => self.outside.ask_again(seen),
            }
        }
    }

    /// A rollback that was asked for meanwhile takes the place of this activation: what it leaves is rejected. So
    /// does a stop, which says nothing of it.
    fn preempted(&mut self) -> Option<Observation> {
        if self.preempted || !can_be_preempted(self.event.request) {
            return None;
        }
        let pending = self.engine.service.store.pending().unwrap_or_else(|error| {
            tracing::warn!("cannot look for a rollback: {}", chain(&error));
            Vec::new()
        });
        let takes_over = |request| matches!(request, Request::Rollback | Request::Stop);
        let later = |event: &&Event| event.number > self.event.number && takes_over(event.request);
        let later = pending.iter().find(later)?;
        self.preempted = true;
        if later.request == Request::Stop {
            return Some(Observation::Preempted(format!("stop {} took its place", later.number)));
        }
        if later.target != self.event.target {
            reject(self.engine.writer, self.event.target, later);
        }
        Some(Observation::Preempted(format!("rollback {} took its place", later.number)))
    }

    fn in_probation(&self, activation: &Activation) -> bool {
        match activation.phase {
            Phase::Step { at } => activation.plan.steps[at].stage == Stage::Probation,
            Phase::Undoing(_) | Phase::Finished => false,
        }
    }

    fn perform(&mut self, activation: &Activation, actions: Vec<Action>) -> Result<(), ManagerError> {
        for action in actions {
            match action {
                Action::Mark(durable) => {
                    let mark = Mark::from(durable);
                    let Err(error) = self.engine.writer.mark(self.event.number, &mark) else { continue };
                    match (&mark, &activation.phase) {
                        // not recorded, so not done
                        (Mark::Swinging { .. }, Phase::Step { at }) => {
                            let belief = clock::instant() + Duration::from_secs(1);
                            self.deadline = Some((Waiting::Step(*at), belief));
                            self.outside.failed(*at, chain(&error));
                            return Ok(());
                        }
                        // a full disk must not block the way back
                        _ => tracing::error!("event {}: {}", self.event.number, chain(&error)),
                    }
                }
                Action::Do(at) => {
                    self.begun = clock::instant();
                    self.outside.act(at);
                }
                Action::Ensure(slot, generation) => {
                    self.begun = clock::instant();
                    self.outside.ensure(slot, generation);
                }
                Action::Deadline(waiting, limit) => {
                    if self.in_probation(activation) {
                        self.begun = clock::instant();
                    }
                    self.deadline = Some((waiting, clock::instant() + limit));
                }
                Action::Cancel => self.outside.cancel(),
                Action::SwingBack(to) => {
                    self.begun = clock::instant();
                    self.outside.swing_back(to);
                }
                Action::StopBack => {
                    self.begun = clock::instant();
                    self.outside.stop_back();
                }
                Action::Settle(slots) => self.outside.settle(&slots),
                Action::Report(at, result, note) => {
                    let ms = self.elapsed(result);
                    self.report(activation.report(at, result, note, ms))?;
                }
                Action::ReportUndo(step, result, note) => {
                    let stage = if step == "pointer" { Stage::Swing } else { Stage::Workers };
                    let ms = self.elapsed(result);
                    let why = if note.is_empty() { "back".to_owned() } else { note };
                    self.report(StepReport { stage, step, result, why, ms })?;
                }
                Action::Conclude(verdict, stage, reason) => {
                    self.conclude(activation, verdict, stage, reason)?;
                }
            }
        }
        Ok(())
    }

    fn elapsed(&self, result: StepResult) -> u64 {
        match result {
            StepResult::Skipped => 0,
            _ => u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX),
        }
    }

    fn report(&mut self, report: StepReport) -> Result<(), ManagerError> {
        // a note only tells a waiting caller how far it is: a full disk may swallow it
        if let Err(error) = self.engine.writer.mark(self.event.number, &Mark::Note(report.clone())) {
            tracing::warn!("event {}: {}", self.event.number, chain(&error));
        }
        (self.progress)(self.event.number, &report);
        self.steps.push(report);
        Ok(())
    }

    fn conclude(
        &mut self,
        activation: &Activation,
        verdict: Verdict,
        stage: Stage,
        reason: String,
    ) -> Result<(), ManagerError> {
        let plan = &activation.plan;
        let changed = self.engine.service.standing()?.current != plan.from;
        if verdict == Verdict::Good {
            settle_rejections(self.engine.writer, self.event, plan.from);
        }
        let reason = match (reason.is_empty(), &self.event.how.repair) {
            (true, Some(repair)) => mended(repair, &plan.target.short()),
            (true, None) => {
                let note = self.outside.note().map(|note| format!("; {note}")).unwrap_or_default();
                said(verdict, &plan.target.short(), plan.slots.len()) + &note
            }
            (false, _) => reason,
        };
        let steps = std::mem::take(&mut self.steps);
        let mut outcome = self.engine.outcome(self.event, verdict, stage, reason, changed, steps)?;
        outcome.damaged = verdict == Verdict::Refused && is_damaged(self.engine.service, self.event.target);
        let target = &self.outside.prepared.target;
        // the workers that were left alone may run with what was before
        if proves(verdict) && self.event.how.group.is_none() && self.event.how.repair.is_none() {
            let read = target
                .external
                .iter()
                .filter_map(|(glob, digest)| Some((glob.clone(), *digest.as_ref().ok()?)));
            outcome.external = read.collect();
        }
        self.engine.conclude_launched(outcome, target)
    }
}

fn said(verdict: Verdict, target: &str, workers: usize) -> String {
    match (verdict, workers) {
        (Verdict::PointerOnly, _) => format!("current names {target}; its workers were left alone"),
        (_, 0) => format!("{target} is in force"),
        (_, 1) => format!("{target} is in force, its worker is ready"),
        (_, n) => format!("{target} is in force, its {n} workers are ready"),
    }
}
