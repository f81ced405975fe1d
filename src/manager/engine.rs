//! Runs events to their verdict: the shell around [`crate::activation::step`].
//!
//! Whoever holds the engine lock is the engine: the manager, or the caller of `activate` where there is
//! none. Both run this.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::sync::mpsc::channel;
use std::time::Duration;

use crate::activation::{
    Action, Activation, Observation, Recovery, Trace, begin, has_stopped, recover, undo,
};
use crate::model::{
    BootTime, Event, GenerationId, Mark, Outcome, Repair, Request, Retention, Stage, StepReport, Verdict,
    chain,
};
use crate::store::{Ahead, EventError, StoreError, Writer};
use crate::supervise::{WorkerReport, oneshot};

use super::facts::{Prepared, Takes, Wish, launchable, prepare};
use super::launch::Launchable;
use super::objection::{flaw, is_damaged, objection};
use super::outside::{InFlight, Inbound, Outside, swing_back};
use super::rejection::settle_rejections;
use super::run::{Run, can_be_preempted};
use super::service::Standing;
use super::wake::{Wake, watch_events, watch_signals};
use super::{ManagerError, Service, clock, confirmation, fallen, standstill};

/// Hears of each step of an event as it ends.
pub type Progress<'a> = dyn FnMut(u64, &StepReport) + 'a;

/// The one engine of a service; whoever makes it holds the engine lock.
pub(super) struct Engine<'a> {
    pub(super) service: &'a Service,
    pub(super) writer: &'a Writer,
    pub(super) wake: &'a Wake,
    /// whether a missing supervisor may be started
    pub(super) starts_supervisor: bool,
    /// what to collect by, since an activation was good and the host file asks for it
    pub(super) collects: &'a Cell<Option<Retention>>,
}

/// Requests older than this are not begun after a reboot, where the host file has no `request_ttl`.
const REQUEST_TTL: Duration = Duration::from_secs(3600);

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
                    self.conclude(event, Verdict::Stuck, Stage::Preflight, chain(&error))?;
                    continue;
                }
                Err(error) => return Err(error.into()),
            };
            // who asks for a start of what is stopped wants no more and no less
            let holds = event.request == Request::Start && !matches!(self.service.store.stopped(), Ok(None));
            let later = |later: &&Event| {
                marks.is_empty() && supersedes(later, event) && (!holds || later.request == Request::Stop)
            };
            match pending[1..].iter().find(later) {
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
            self.conclude(event, Verdict::Failed, Stage::Preflight, why)?;
        }
        Ok(fresh)
    }

    fn supersede(&self, event: &Event, later: &Event) -> Result<(), ManagerError> {
        let reason = format!("event {} took its place before it began", later.number);
        self.conclude(event, Verdict::Superseded, Stage::Preflight, reason)
    }

    fn run(&self, event: &Event, marks: &[Mark], progress: &mut Progress<'_>) -> Result<(), ManagerError> {
        // while it is planned, the target is read
        let fresh = marks.is_empty() && matches!(event.request, Request::Activate | Request::Rollback);
        let mut ahead = fresh.then(|| self.service.store.look_ahead(event.target)).flatten();
        let standing = self.service.standing()?;
        let current = standing.current;
        if event.request == Request::Confirm {
            return self.confirm(event, current);
        }
        // what runs is known by a supervisor only
        if self.starts_supervisor
            && let Err(error) = self.service.workers.start()
        {
            tracing::warn!("{}", chain(&error));
        }
        if event.request == Request::Stop {
            return standstill::stop(self, event, progress);
        }
        let workers = super::status::workers(self.service);
        let fallen = workers.as_deref().and_then(|workers| fallen::since(event, marks, workers));
        let alive = fallen.is_none()
            && workers.as_ref().is_some_and(|workers| {
                let of_target = |worker: &&WorkerReport| worker.accepted && worker.generation == event.target;
                workers.iter().filter(of_target).all(WorkerReport::is_well)
            });
        let expired = event.boot != self.service.boot && self.is_older_than_requests_may_be(event);
        let boot = &self.service.boot;
        // asked only where it matters: whether a swing that was interrupted has anything after it
        let bare = !marks.is_empty() && self.is_bare(event, workers.as_deref());
        let doing = self.doing(event, marks, &standing, workers.as_deref().unwrap_or_default());
        let trace = Trace { marks, target: event.target, current, boot, alive, bare, expired, doing };
        let mut recovery = recover(&trace);
        if let (Recovery::Undo { why, .. }, Some(fallen)) = (&mut recovery, &fallen)
            && !marks.iter().any(|mark| matches!(mark, Mark::Undoing { .. }))
        {
            *why = format!("{why}: {fallen}");
        }
        let from = match &recovery {
            Recovery::Finish { from } | Recovery::Undo { from, .. } => *from,
            Recovery::Run | Recovery::Fail { .. } => standing.in_force,
        };
        if !marks.is_empty()
            && let Err(error) = oneshot::sweep(&self.service.place.run)
        {
            tracing::warn!("what the last engine had started may live on: {}", chain(&error));
        }
        if let Some(repair) =
            event.how.repair.as_ref().filter(|_| recovery == Recovery::Run || event.boot != *boot)
            && let Some(why) = void(event, repair, boot, current)
        {
            return self.conclude(event, Verdict::Superseded, Stage::Preflight, why.to_owned());
        }
        if let Recovery::Fail { stage, why } = recovery {
            return self.conclude(event, Verdict::Failed, stage, why);
        }
        if recovery == Recovery::Run {
            let objection =
                objection(self.service, event.request, event.target, &event.how, standing.in_force)?;
            if let Some(why) = objection {
                return self.conclude(event, Verdict::Refused, Stage::Preflight, why);
            }
            let stopped = !matches!(self.service.store.stopped(), Ok(None));
            let no_start = match &workers {
                Some(workers) => standstill::runs_otherwise(event, stopped, workers),
                // it would fail on every generation: that is no reason to leave the one in force
                None if event.request == Request::Start && !self.is_bare(event, None) => Some(
                    "no supervisor answers, and none could be started; `pointsman manager` says why"
                        .to_owned(),
                ),
                None => None,
            };
            if let Some(why) = no_start {
                return self.conclude(event, Verdict::Refused, Stage::Preflight, why);
            }
        }
        self.writer.settle_later(event.number);
        self.writer.mark(event.number, &Mark::Begun { boot: boot.clone() })?;
        if let Some(mark) = workers.as_deref().and_then(|workers| fallen::before(event, marks, workers)) {
            self.writer.mark(event.number, &mark)?;
        }
        if event.request == Request::Start {
            self.writer.settle(event.number)?;
            self.writer.unstop()?;
        }
        let wish = Wish {
            request: event.request,
            target: event.target,
            current,
            from,
            stopped: has_stopped(marks),
            takes: match &recovery {
                Recovery::Run | Recovery::Fail { .. } => Takes::Whole,
                Recovery::Finish { .. } => Takes::Rest,
                Recovery::Undo { .. } => Takes::Back,
            },
            how: event.how.clone(),
        };
        let workers = workers.unwrap_or_default();
        let (prepared, recovery) = match (prepare(self.service, &wish, &workers), recovery) {
            (Ok(prepared), recovery) => (prepared, recovery),
            // whatever is the matter with what is in force, the last good one may be sound
            (Err(error), Recovery::Run) if event.request == Request::Start => {
                let why = chain(&error);
                let back = Wish { takes: Takes::Back, ..wish };
                match prepare(self.service, &back, &workers) {
                    Ok(prepared) => (prepared, Recovery::Undo { from, stage: Stage::Preflight, why }),
                    Err(error) => return self.give_up(event, from, Stage::Preflight, &why, &error),
                }
            }
            // nothing can be planned, so nothing has been done
            (Err(error), Recovery::Run | Recovery::Fail { .. }) => {
                return self.refuse(event, chain(&error));
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
        // what is in force already and asked for again is looked at as if it were not
        if plan.is_empty()
            && matches!(event.request, Request::Activate | Request::Rollback)
            && let Some(flaw) = flaw(self.service, event.target, ahead.take())
        {
            return self.refuse(event, chain(&flaw));
        }
        if plan.starts_programs() || !matches!(recovery, Recovery::Run) {
            // what a program was started for is known after a power cut; else the swing's mark is early enough
            self.writer.flush_marks(event.number)?;
        }
        let (activation, actions) = match recovery {
            Recovery::Undo { stage, why, .. } => undo(plan, stage, why),
            Recovery::Run | Recovery::Finish { .. } | Recovery::Fail { .. } => begin(plan),
        };
        self.carry_out(event, &prepared, ahead, activation, actions, progress)
    }

    /// Says of what is in force unconfirmed that it may stay. What only takes away was left to this moment.
    fn confirm(&self, event: &Event, current: Option<GenerationId>) -> Result<(), ManagerError> {
        let waits = confirmation::open(&self.service.store)?.filter(|open| {
            open.target == event.target
                && current == Some(open.target)
                && !open.left(&self.service.boot).is_zero()
        });
        let Some(open) = waits else {
            let why = "nothing in force waits to be confirmed; `pointsman history` shows why".to_owned();
            return self.conclude(event, Verdict::Refused, Stage::Confirm, why);
        };
        let why = format!("{} of event {} may stay", event.target.short(), open.event);
        let manifest = self.service.store.manifest(event.target)?;
        let (target, _) = launchable(self.service, event.target, &manifest)?;
        let outcome = self.outcome(event, Verdict::Good, Stage::Confirm, why, false, Vec::new())?;
        // now it is good, whichever way it came
        if let Some(asked) = self.service.store.event(open.event)? {
            let from = self.service.store.marks(open.event)?.into_iter().rev().find_map(|mark| match mark {
                Mark::Swinging { from, .. } => Some(from),
                Mark::Begun { .. } | Mark::Undoing { .. } | Mark::Exits { .. } | Mark::Note(_) => None,
            });
            settle_rejections(self.writer, &asked, from.flatten());
        }
        self.conclude_launched(outcome, &target)?;
        let slots: Vec<_> = target.slots().map(|(slot, _)| slot).collect();
        if let Ok(mut workers) = self.service.reach()
            && let Err(error) = workers.settle(&slots)
        {
            tracing::warn!("surplus workers are not stopped: {}", chain(&error));
        }
        Ok(())
    }

    fn is_older_than_requests_may_be(&self, event: &Event) -> bool {
        // one that cannot be read is told by whatever comes of the request
        let said = self.service.place.host_file().ok().and_then(|host| host.request_ttl);
        let ttl = i128::try_from(said.unwrap_or(REQUEST_TTL).as_nanos()).unwrap_or(i128::MAX);
        clock::now().duration_since(event.at).as_nanos() > ttl
    }

    /// Whether nothing follows the swing of `event`; not, where that cannot be told.
    fn is_bare(&self, event: &Event, workers: Option<&[WorkerReport]>) -> bool {
        if event.how.pointer_only {
            return true;
        }
        let Ok(manifest) = self.service.store.manifest(event.target) else { return false };
        let Ok((target, _)) = launchable(self.service, event.target, &manifest) else { return false };
        target.pipeline.workers.is_empty() && workers.is_none_or(<[_]>::is_empty)
    }

    /// The stage that `event` was in when its engine was interrupted, where it was so more than once: the plan's,
    /// after the steps that were noted.
    fn doing(&self, event: &Event, marks: &[Mark], standing: &Standing, workers: &[WorkerReport]) -> Stage {
        let is_begun = |mark: &&Mark| matches!(mark, Mark::Begun { .. });
        if marks.iter().filter(is_begun).count() < 2 {
            return Stage::Preflight;
        }
        let wish = Wish {
            request: event.request,
            target: event.target,
            current: standing.current,
            from: standing.in_force,
            stopped: false,
            takes: Takes::Whole,
            how: event.how.clone(),
        };
        let since = marks.iter().rev().take_while(|mark| !is_begun(mark));
        let notes: Vec<Stage> = since
            .filter_map(|mark| if let Mark::Note(note) = mark { Some(note.stage) } else { None })
            .collect();
        let step = prepare(self.service, &wish, workers)
            .ok()
            .and_then(|p| p.plan.steps.into_iter().nth(notes.len()));
        step.map(|step| step.stage).or(notes.first().copied()).unwrap_or(Stage::Preflight)
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
        self.conclude(event, Verdict::Stuck, stage, reason)
    }

    /// The shell: actions out, observations in, until the verdict is written.
    fn carry_out(
        &self,
        event: &Event,
        prepared: &Prepared,
        ahead: Option<Ahead>,
        activation: Activation,
        actions: Vec<Action>,
        progress: &mut Progress<'_>,
    ) -> Result<(), ManagerError> {
        let (sender, inbox) = channel();
        // what takes no time is not worth a watch: a rollback comes after it
        let watched = prepared.plan.starts_programs() && can_be_preempted(event.request);
        let asked = sender.clone();
        let watcher = watched.then(|| {
            watch_events(&self.service.store.events_path(), move || {
                let _ = asked.send(Inbound::Asked);
            })
        });
        let _watcher = watcher.transpose()?;
        if watched {
            // it may have come before anybody watched
            let _ = sender.send(Inbound::Asked);
        }
        let signalled = sender.clone();
        let on_signal = move |signal| {
            let withdrawn = Observation::Withdrawn(format!("withdrawn by {}", name_of(signal)));
            signal == signal_hook::consts::SIGHUP || signalled.send(Inbound::Seen(withdrawn)).is_ok()
        };
        // nor is a signal: the verdict is there before it could be heard
        let signals = prepared.plan.takes_time().then(|| watch_signals(on_signal)).transpose()?;
        if self.wake.ends() {
            // it came before anybody listened
            let withdrawn = Observation::Withdrawn("withdrawn by a signal".to_owned());
            let _ = sender.send(Inbound::Seen(withdrawn));
        }
        let mut outside = Outside {
            service: self.service,
            writer: self.writer,
            event,
            prepared,
            inbox: sender,
            starts_supervisor: self.starts_supervisor,
            in_flight: InFlight::default(),
            news: None,
            doubt: None,
            held: None,
            beside: None,
            turned_back: false,
            ahead,
        };
        outside.follow();
        let result = Run::new(self, event, outside, progress).finish(activation, actions, &inbox);
        if let Some(signals) = signals {
            signals.close();
        }
        result
    }

    /// Ends an event for which nothing was done.
    pub(super) fn conclude(
        &self,
        event: &Event,
        verdict: Verdict,
        stage: Stage,
        reason: String,
    ) -> Result<(), ManagerError> {
        self.write(&self.outcome(event, verdict, stage, reason, false, Vec::new())?)
    }

    /// Refuses what was looked at and found wanting: it says so where that is damage.
    fn refuse(&self, event: &Event, why: String) -> Result<(), ManagerError> {
        let outcome = self.outcome(event, Verdict::Refused, Stage::Preflight, why, false, Vec::new())?;
        self.write(&Outcome { damaged: is_damaged(self.service, event.target), ..outcome })
    }

    pub(super) fn outcome(
        &self,
        event: &Event,
        verdict: Verdict,
        stage: Stage,
        reason: String,
        changed: bool,
        steps: Vec<StepReport>,
    ) -> Result<Outcome, ManagerError> {
        let confirm_by = match (verdict, event.how.confirm_within_ms) {
            (Verdict::Unconfirmed, Some(within)) => Some(BootTime {
                boot: self.service.boot.clone(),
                ms: clock::since_boot().saturating_add(within),
            }),
            // started again: the time goes on
            (Verdict::Unconfirmed, None) => confirmation::open(&self.service.store)?.map(|open| open.by),
            _ => None,
        };
        Ok(Outcome {
            confirm_by,
            event: event.number,
            request: event.request,
            verdict,
            changed,
            stage,
            reason,
            damaged: false,
            target: event.target,
            serving: self.service.standing()?.current,
            loaded: None,
            external: BTreeMap::new(),
            steps,
            at: clock::now(),
            machine: super::service::machine_id(),
            imported: None,
        })
    }

    /// Writes the verdict of an activation whose target's pipeline was read: with what it ran on, and what is to
    /// be collected after it.
    pub(super) fn conclude_launched(
        &self,
        outcome: Outcome,
        target: &Launchable,
    ) -> Result<(), ManagerError> {
        let good = outcome.verdict == Verdict::Good;
        self.write(&Outcome { loaded: target.key, ..outcome })?;
        if good && target.retention.automatic {
            self.collects.set(Some(target.retention));
        }
        Ok(())
    }

    pub(super) fn write(&self, outcome: &Outcome) -> Result<(), ManagerError> {
        match self.writer.conclude(outcome) {
            Ok(()) => {}
            // the verdict stands; the next writer completes the history, the next event makes it durable
            Err(error @ (EventError::NotInHistory { .. } | EventError::NotDurable { .. })) => {
                tracing::warn!("{}", chain(&error));
            }
            Err(error) => return Err(error.into()),
        }
        tracing::info!("event {}: {} ({})", outcome.event, outcome.verdict, outcome.stage);
        Ok(())
    }
}

/// Whether `later`, still waiting, makes `event` pointless: the latest wins, but a rollback is never
/// superseded by an activate, and a stop by nothing.
fn supersedes(later: &Event, event: &Event) -> bool {
    match (later.request, event.request) {
        (Request::Rollback, Request::Confirm) | (_, Request::Stop) => false,
        (Request::Rollback, _)
        | (Request::Activate, Request::Activate | Request::Start)
        | (Request::Stop, Request::Activate | Request::Restart | Request::Start) => true,
        (Request::Activate, Request::Rollback | Request::Restart | Request::Confirm)
        | (Request::Stop, Request::Rollback | Request::Confirm)
        | (Request::Start | Request::Restart | Request::Confirm, _) => false,
    }
}

/// Why there is nothing left to mend of what the watchdog has found; `None`: there may be.
fn void(event: &Event, repair: &Repair, boot: &str, current: Option<GenerationId>) -> Option<&'static str> {
    match () {
        () if event.boot != boot => Some("the machine went down, and nothing is left to mend"),
        () if current != repair.current => Some("the pointer has moved since: the watchdog looks again"),
        () => None,
    }
}

fn name_of(signal: i32) -> &'static str {
    match signal {
        signal_hook::consts::SIGINT => "SIGINT",
        _ => "SIGTERM",
    }
}
