//! Runs events to their verdict: the shell around [`crate::activation::step`].
//!
//! Whoever holds the engine lock is the engine: the manager, or the caller of `activate` where there is
//! none. Both run this.

use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::{Duration, Instant};

use crate::activation::{
    Action, Activation, Observation, Phase, Recovery, Trace, Waiting, begin, recover, step, undo,
};
use crate::model::{Event, GenerationId, Mark, Outcome, Request, Stage, StepReport, StepResult, Verdict};
use crate::store::{EventError, StoreError, Writer};
use crate::supervise::client::{Client, start_detached};
use crate::supervise::{WorkerReport, WorkerState, oneshot};

use super::facts::{Prepared, Takes, Wish, launchable, prepare};
use super::outside::{InFlight, Inbound, Outside, chain, swing_back};
use super::wake::{Wake, watch_signals};
use super::{ManagerError, Service, clock};

/// Hears of each step of an event as it ends.
pub type Progress<'a> = dyn FnMut(u64, &StepReport) + 'a;

/// The one engine of a service; whoever makes it holds the engine lock.
pub(super) struct Engine<'a> {
    pub(super) service: &'a Service,
    pub(super) writer: &'a Writer,
    pub(super) wake: &'a Wake,
    /// whether a missing supervisor may be started
    pub(super) starts_supervisor: bool,
    /// the event that this process has accepted: durable as it is
    pub(super) accepted: Option<u64>,
}

/// Requests older than this are not begun after a reboot: an hour, as `request_ttl` says.
const REQUEST_TTL_SECONDS: i64 = 3600;

impl Engine<'_> {
    /// Gives every event without a verdict one, oldest first. After INT or TERM it begins no other one.
    pub(super) fn run_pending(&self, progress: &mut Progress<'_>) -> Result<(), ManagerError> {
        loop {
            if self.wake.ends() {
                return Ok(());
            }
            let pending = self.service.store.pending()?;
            let Some(event) = pending.first() else { return Ok(()) };
            let marks = match self.service.store.marks(event.number) {
                Ok(marks) => marks,
                // nobody can know what has been done for it
                Err(error @ StoreError::Damaged { .. }) => {
                    self.conclude(event, Verdict::Stuck, Stage::Preflight, chain(&error), false, Vec::new())?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            match pending[1..].iter().find(|later| marks.is_empty() && supersedes(later, event)) {
                Some(later) => self.supersede(event, later)?,
                None => self.run(event, &marks, progress)?,
            }
        }
    }

    /// Ends `event`, which has not been begun, for its own caller, who was asked to end. `false`: it has
    /// been begun, and goes on.
    pub(super) fn withdraw(&self, event: &Event) -> Result<bool, ManagerError> {
        let fresh = self.service.store.marks(event.number)?.is_empty();
        if fresh {
            let why = "withdrawn by a signal before it began".to_owned();
            self.conclude(event, Verdict::Failed, Stage::Preflight, why, false, Vec::new())?;
        }
        Ok(fresh)
    }

    fn supersede(&self, event: &Event, later: &Event) -> Result<(), ManagerError> {
        let reason = format!("event {} took its place before it began", later.number);
        self.conclude(event, Verdict::Superseded, Stage::Preflight, reason, false, Vec::new())
    }

    fn run(&self, event: &Event, marks: &[Mark], progress: &mut Progress<'_>) -> Result<(), ManagerError> {
        let standing = self.service.standing()?;
        let current = standing.current;
        let run = &self.service.place.run;
        // what runs is known by a supervisor only
        if self.starts_supervisor
            && Client::connect(run).is_err()
            && let Err(error) = start_detached(&self.service.place.program, run)
        {
            tracing::warn!("{}", chain(&error));
        }
        let workers = super::status::workers(self.service);
        let alive = workers.as_ref().is_some_and(|workers| {
            let of_target = |worker: &&WorkerReport| worker.accepted && worker.generation == event.target;
            workers.iter().filter(of_target).all(|w| w.state == WorkerState::Ready)
        });
        let expired = event.boot != self.service.boot
            && clock::now().duration_since(event.at).as_secs() > REQUEST_TTL_SECONDS;
        let boot = &self.service.boot;
        // asked only where it matters: whether a swing that was interrupted has anything after it
        let bare = !marks.is_empty() && self.is_bare(event, workers.as_deref());
        let trace = Trace { marks, target: event.target, current, boot, alive, bare, expired };
        let recovery = recover(&trace);
        let from = match &recovery {
            Recovery::Finish { from } | Recovery::Undo { from, .. } => *from,
            Recovery::Run | Recovery::Fail { .. } => standing.in_force,
        };
        if let Recovery::Fail { stage, why } = recovery {
            return self.conclude(event, Verdict::Failed, stage, why, false, Vec::new());
        }
        if !marks.is_empty()
            && let Err(error) = oneshot::sweep(&self.service.place.run)
        {
            tracing::warn!("what the last engine had started may live on: {}", chain(&error));
        }
        if self.accepted != Some(event.number) {
            self.writer.settle(event.number)?;
        }
        self.writer.mark(event.number, &Mark::Begun { boot: boot.clone() })?;
        let wish = Wish {
            request: event.request,
            target: event.target,
            current,
            from,
            takes: match &recovery {
                Recovery::Run | Recovery::Fail { .. } => Takes::Whole,
                Recovery::Finish { .. } => Takes::Rest,
                Recovery::Undo { .. } => Takes::Back,
            },
            pointer_only: event.pointer_only,
            force: event.force,
        };
        let workers = workers.unwrap_or_default();
        let (prepared, recovery) = match (prepare(self.service, &wish, &workers), recovery) {
            (Ok(prepared), recovery) => (prepared, recovery),
            // nothing can be planned, so nothing has been done
            (Err(error), Recovery::Run | Recovery::Fail { .. }) => {
                let why = chain(&error);
                return self.conclude(event, Verdict::Refused, Stage::Preflight, why, false, Vec::new());
            }
            (Err(error), Recovery::Finish { from }) => {
                let why = format!("interrupted, and cannot be finished: {}", chain(&error));
                let back = Wish { takes: Takes::Back, ..wish };
                match prepare(self.service, &back, &workers) {
                    Ok(prepared) => (prepared, Recovery::Undo { from, stage: Stage::Workers, why }),
                    Err(error) => return self.give_up(event, from, Stage::Workers, &why, &error),
                }
            }
            (Err(error), Recovery::Undo { from, stage, why }) => {
                return self.give_up(event, from, stage, &why, &error);
            }
        };
        let plan = prepared.plan.clone();
        if plan.starts_programs() || !matches!(recovery, Recovery::Run) {
            // what a program was started for is known after a power cut; else the swing's mark is early enough
            self.writer.flush_marks(event.number)?;
        }
        let (activation, actions) = match recovery {
            Recovery::Undo { stage, why, .. } => undo(plan, stage, why),
            Recovery::Run | Recovery::Finish { .. } | Recovery::Fail { .. } => begin(plan),
        };
        self.carry_out(event, &prepared, activation, actions, progress)
    }

    /// Whether nothing follows the swing of `event`; not, where that cannot be told.
    fn is_bare(&self, event: &Event, workers: Option<&[WorkerReport]>) -> bool {
        if event.pointer_only {
            return true;
        }
        let Ok(manifest) = self.service.store.manifest(event.target) else { return false };
        let Ok((target, _)) = launchable(self.service, event.target, &manifest) else { return false };
        target.pipeline.workers.is_empty() && workers.is_none_or(<[_]>::is_empty)
    }

    /// The way back of `event` cannot be planned: the pointer goes back, a person has to see to the workers.
    fn give_up(
        &self,
        event: &Event,
        from: Option<GenerationId>,
        stage: Stage,
        why: &str,
        error: &ManagerError,
    ) -> Result<(), ManagerError> {
        let mut reason =
            format!("{why}\non the way back: the workers were left as they are: {}", chain(error));
        if let Err(error) = swing_back(self.service, self.writer, from) {
            reason = format!("{reason}\non the way back: pointer: {error}");
        }
        self.conclude(event, Verdict::Stuck, stage, reason, false, Vec::new())
    }

    /// The shell: actions out, observations in, until the verdict is written.
    fn carry_out(
        &self,
        event: &Event,
        prepared: &Prepared,
        activation: Activation,
        actions: Vec<Action>,
        progress: &mut Progress<'_>,
    ) -> Result<(), ManagerError> {
        let (sender, inbox) = channel();
        let signalled = sender.clone();
        let signals = watch_signals(move |signal| {
            let withdrawn = Observation::Withdrawn(format!("withdrawn by {}", name_of(signal)));
            signal == signal_hook::consts::SIGHUP || signalled.send(Inbound::Seen(withdrawn)).is_ok()
        })?;
        if self.wake.ends() {
            // it came before anybody listened
            let withdrawn = Observation::Withdrawn("withdrawn by a signal".to_owned());
            let _ = sender.send(Inbound::Seen(withdrawn));
        }
        let outside = Outside {
            service: self.service,
            writer: self.writer,
            event,
            prepared,
            inbox: sender,
            starts_supervisor: self.starts_supervisor,
            in_flight: InFlight::default(),
        };
        outside.follow();
        let mut run = Run {
            engine: self,
            event,
            outside,
            progress,
            steps: Vec::new(),
            deadline: None,
            begun: clock::instant(),
        };
        let result = run.finish(activation, actions, &inbox);
        signals.close();
        result
    }

    fn conclude(
        &self,
        event: &Event,
        verdict: Verdict,
        stage: Stage,
        reason: String,
        changed: bool,
        steps: Vec<StepReport>,
    ) -> Result<(), ManagerError> {
        let outcome = Outcome {
            event: event.number,
            request: event.request,
            verdict,
            changed,
            stage,
            reason,
            target: event.target,
            serving: self.service.standing()?.current,
            steps,
            at: clock::now(),
            machine: super::service::machine_id(),
        };
        match self.writer.conclude(&outcome) {
            Ok(()) => {}
            // the verdict stands; the next writer completes the history
            Err(error @ EventError::NotInHistory { .. }) => tracing::warn!("{}", chain(&error)),
            Err(error) => return Err(error.into()),
        }
        tracing::info!("event {}: {verdict} ({stage})", event.number);
        Ok(())
    }
}

/// One event on its way to its verdict.
struct Run<'e, 'a> {
    engine: &'e Engine<'a>,
    event: &'e Event,
    outside: Outside<'e>,
    progress: &'e mut Progress<'e>,
    steps: Vec<StepReport>,
    deadline: Option<(Waiting, Instant)>,
    /// when the running step began
    begun: Instant,
}

impl Run<'_, '_> {
    fn finish(
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
                    return match unwell {
                        Some((slot, why)) => {
                            Observation::WorkerExited { slot, generation: activation.plan.target, why }
                        }
                        None => Observation::Overdue(waiting),
                    };
                }
            };
            match inbound {
                Inbound::Seen(seen) => return seen,
                Inbound::Loaded { at, staging } => self.outside.seal(at, staging),
                Inbound::SupervisorLost { seen } => self.outside.ask_again(seen),
            }
        }
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
        let reason = match reason.is_empty() {
            true => {
                let note = self.outside.note().map(|note| format!("; {note}")).unwrap_or_default();
                said(verdict, &plan.target.short(), plan.slots.len()) + &note
            }
            false => reason,
        };
        let steps = std::mem::take(&mut self.steps);
        self.engine.conclude(self.event, verdict, stage, reason, changed, steps)
    }
}

/// Whether `later`, still waiting, makes `event` pointless: the latest wins, but a rollback is never
/// superseded by an activate.
fn supersedes(later: &Event, event: &Event) -> bool {
    match (later.request, event.request) {
        (Request::Rollback, _) | (Request::Activate, Request::Activate | Request::Start) => true,
        (Request::Activate, Request::Rollback) | (Request::Start, _) => false,
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

fn name_of(signal: i32) -> &'static str {
    match signal {
        signal_hook::consts::SIGINT => "SIGINT",
        _ => "SIGTERM",
    }
}
