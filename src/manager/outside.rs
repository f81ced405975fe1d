//! Carries actions out: programs, the pointer, the supervisor. Decides nothing.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::time::Duration;

use crate::activation::{Act, Observation};
use crate::model::{Command, Event, Fit, GenerationId, Probe, Ready, Request, Slot, Tell};
use crate::store::{Staging, Writer};
use crate::supervise;
use crate::supervise::client::{HangUp, Slots, Unreachable};
use crate::supervise::oneshot::{self, Cancel, Finished, OneShot, OneShotError};
use crate::supervise::{Launch, News, ServiceManager};

use super::canary;
use super::facts::{Prepared, program_path};
use super::watchdog::is_there;
use super::{ManagerError, Service, clock, given, headroom, standstill, surroundings, take_over};

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

    /// What can be refused before anything runs; what is doubtful, to be told with the verdict.
    fn preflight(&self) -> Result<Option<String>, String> {
        // a manager outlives many a host file
        let access = self.service.place.access().map_err(|e| chain(&e))?;
        let store = &self.service.store.clone().with_access(access);
        let target = &self.prepared.target;
        store.check_intact(target.id).map_err(|e| chain(&e))?;
        let pipeline = &target.pipeline;
        let mut commands: Vec<(String, &Command)> = Vec::new();
        commands.extend(pipeline.loader.iter().map(|loader| ("loader".to_owned(), &loader.command)));
        commands
            .extend(pipeline.checks.iter().enumerate().map(|(i, check)| (format!("check {}", i + 1), check)));
        commands
            .extend(pipeline.workers.iter().map(|(name, group)| (format!("worker {name}"), &group.command)));
        for (name, group) in &pipeline.workers {
            if let Ready::Probe(Probe::Command(command)) = &group.ready {
                commands.push((format!("worker {name}: ready"), command));
            }
            if let Some(Tell::Command(command)) = group.reload.as_ref().map(|reload| &reload.tell) {
                commands.push((format!("worker {name}: reload"), command));
            }
        }
        if let Some(Probe::Command(probe)) = pipeline.canary.as_ref().map(|canary| &canary.probe) {
            commands.push(("canary".to_owned(), probe));
        }
        for (of, command) in commands {
            if program_path(command, &store.tree_path(target.id)).is_none() {
                return Err(format!("{of}: there is no program `{}`", command.0[0]));
            }
        }
        let takes_away = self.prepared.plan.steps.iter().any(|step| matches!(step.act, Act::Remove(_)));
        if takes_away && !target.has_pipeline {
            return Err("no pipeline counts for it, so every worker would be stopped: \
                        bring the pipeline back, or move the pointer alone with --pointer-only"
                .to_owned());
        }
        let doubt = match self.prepared.plan.pointer_only {
            true => None,
            false => surroundings::check(self.service, target)?,
        };
        if !pipeline.workers.is_empty() && !self.prepared.plan.pointer_only {
            self.client().map_err(|e| chain(&ManagerError::NoSupervisor(e)))?;
        }
        if pipeline.mount.is_some() && !self.prepared.plan.pointer_only {
            let nothing = Command(vec!["true".to_owned()]);
            may_mount(self.service, target.launch(store, &nothing, BTreeMap::new()))?;
        }
        let runs = self.prepared.plan.steps.iter().any(|step| step.run && step.act == Act::Canary);
        if let Some(canary) = canary::of(self.service, target, None).filter(|_| runs) {
            canary::may_run(self.service, &canary)?;
        }
        // only who starts workers needs to know what runs
        let starts =
            self.prepared.plan.steps.iter().any(|step| step.run && matches!(step.act, Act::Replace(_)));
        let slots = if starts { self.client().and_then(|mut client| client.slots()).ok() } else { None };
        if let Some(from) = &self.event.how.take_over {
            if !starts {
                return Err(
                    "it starts no worker, so nothing would be taken over; `--force` replaces those that run"
                        .to_owned(),
                );
            }
            let groups = take_over::listens(pipeline);
            self.client()
                .and_then(|mut client| client.take_over(from, groups, true))
                .map_err(|e| chain(&e))?;
        }
        let lost = |slots: &Slots| {
            let mut groups = pipeline.workers.iter();
            groups.find_map(|(name, group)| slots.lost_to(name, &group.listen))
        };
        if let Some(why) = slots.as_ref().and_then(lost) {
            return Err(why);
        }
        let given = if starts { self.given_doubts()? } else { Vec::new() };
        let (supervisor, workers) = slots.map_or((None, Vec::new()), |s| (s.supervisor, s.workers));
        let room = headroom::check(self.service, self.prepared, supervisor, &workers)?;
        let doubts: Vec<String> =
            self.way_back_doubt().into_iter().chain(room).chain(doubt).chain(given).collect();
        Ok((!doubts.is_empty()).then(|| doubts.join("; ")))
    }

    /// What is doubtful about the sockets that are given to us. A new wish that has one elsewhere than where it is given
    /// is refused; what served once serves on.
    fn given_doubts(&self) -> Result<Vec<String>, String> {
        let Fit { misnamed, doubts } = given::fit(self.client(), &self.prepared.target.pipeline)?;
        match misnamed.first() {
            Some(why) if self.event.request == Request::Activate => Err(why.clone()),
            _ => Ok([misnamed, doubts].concat()),
        }
    }

    /// What a failure would have to be put back on, and is not there any more. It is told, not refused: the change
    /// may be the cure.
    fn way_back_doubt(&self) -> Option<String> {
        let back = self.prepared.back.as_ref()?;
        match is_there(&self.service.store, back.key?) {
            Ok(true) => None,
            Ok(false) => Some(format!(
                "the loader's output of {short} is gone: what fails cannot go back to it; \
                 `pointsman activate --force {short}` makes it again",
                short = back.id.short()
            )),
            Err(error) => Some(chain(&error)),
        }
    }

    fn swing(&self) -> Result<(), String> {
        let _lock = self.writer.swing_lock().map_err(|e| chain(&e))?;
        let from = self.prepared.plan.from;
        let standing = self.service.standing().map_err(|e| chain(&e))?;
        if standing.in_force != from {
            let now = standing.current.map_or("nothing".to_owned(), |id| id.short());
            return Err(format!("somebody else has moved `current` meanwhile: it names {now}"));
        }
        let prepared = match self.prepared.plan.goes_on_after_the_swing() {
            true => self.writer.prepare_undo(from),
            false => self.writer.prepare_verdict(),
        };
        prepared.map_err(|e| chain(&e))?;
        self.writer.swing(Some(self.prepared.plan.target)).map_err(|e| chain(&e))
    }

    /// Puts the pointer back. Fine where it is back already.
    pub(super) fn swing_back(&mut self, to: Option<GenerationId>) {
        self.turned_back = true;
        self.send(Observation::SwungBack(swing_back(self.service, self.writer, to)));
    }

    fn load(&mut self, at: usize) {
        let loader = self.prepared.target.pipeline.loader.as_ref().expect("planned from this loader");
        let staging = match self.writer.stage_loaded() {
            Ok(staging) => staging,
            Err(error) => return self.send(Observation::Failed { at, why: chain(&error) }),
        };
        let mut one_shot = self.one_shot(&loader.command, loader.timeout);
        one_shot.launch.surroundings = loader.surroundings.clone();
        one_shot.launch.loaded = Some(staging.path().to_owned());
        self.spawn(one_shot, move |done| match verdict_of("loader", done) {
            Ok(()) => Inbound::Loaded { at, staging },
            Err(why) => Inbound::Seen(Observation::Failed { at, why }),
        });
    }

    /// Seals what the loader has written.
    pub(super) fn seal(&self, at: usize, staging: Staging) {
        let key = self.prepared.target.key.expect("a loader has a key");
        self.send(match self.writer.seal_loaded(staging, key) {
            Ok(()) => Observation::Passed { at },
            Err(error) => Observation::Failed { at, why: chain(&error) },
        });
    }

    fn check(&mut self, at: usize, index: usize) {
        let pipeline = &self.prepared.target.pipeline;
        let command = &pipeline.checks[index];
        let name = format!("`{command}`");
        self.spawn(self.one_shot(command, pipeline.check_timeout), move |done| {
            Inbound::Seen(match verdict_of(&name, done) {
                Ok(()) => Observation::Passed { at },
                Err(why) => Observation::Failed { at, why },
            })
        });
    }

    fn one_shot(&self, command: &Command, timeout: Duration) -> OneShot {
        let launch = self.prepared.target.launch(&self.service.store, command, BTreeMap::new());
        OneShot { output: self.log(), ..stage_shot(self.service, launch, timeout) }
    }

    /// Where the stages of this event are logged.
    fn log(&self) -> std::path::PathBuf {
        supervise::logs::of_stages(&self.service.place.run, self.event.number)
    }

    fn canary(&mut self, at: usize) {
        let canary = canary::of(self.service, &self.prepared.target, None).expect("planned from this canary");
        let canary = supervise::canary::Canary { output: self.log(), ..canary };
        let program = self.service.place.program.clone();
        self.on_thread(move |cancel| {
            let passed = cancel.map_err(std::io::Error::to_string).and_then(|cancel| {
                supervise::canary::run(&canary, &program, cancel).map_err(|error| chain(&error))
            });
            Inbound::Seen(match passed {
                Ok(()) => Observation::Passed { at },
                Err(why) => Observation::Failed { at, why: format!("canary: {why}") },
            })
        });
    }

    /// Has every worker end on the way back.
    pub(super) fn stop_back(&mut self) {
        self.stop(Observation::StoppedBack);
    }

    fn stop(&mut self, seen: impl FnOnce(Result<(), String>) -> Observation + Send + 'static) {
        let (workers, starts) = (self.service.workers.clone(), self.starts_supervisor);
        self.on_thread(move |cancel| {
            let ended = cancel
                .map_err(std::io::Error::to_string)
                .and_then(|cancel| standstill::reach(&workers, starts, || cancel.is_cancelled()));
            Inbound::Seen(seen(ended.map(drop)))
        });
    }

    fn spawn(&mut self, one_shot: OneShot, report: impl FnOnce(Done) -> Inbound + Send + 'static) {
        let program = self.service.place.program.clone();
        self.on_thread(move |cancel| {
            let not_started = |error: &std::io::Error| OneShotError::NotStarted { why: error.to_string() };
            report(cancel.map_err(not_started).and_then(|cancel| oneshot::run(&one_shot, &program, cancel)))
        });
    }

    /// Does what starts programs on a thread of its own, which can be called off.
    fn on_thread(&mut self, work: impl FnOnce(Result<&Cancel, &std::io::Error>) -> Inbound + Send + 'static) {
        let cancel = match Cancel::new() {
            Ok(cancel) => Arc::new(cancel),
            Err(error) => {
                let _ = self.inbox.send(work(Err(&error)));
                return;
            }
        };
        let (ends, over) = channel();
        self.in_flight.program = Some((Arc::clone(&cancel), over));
        let inbox = self.inbox.clone();
        // the program dies with the thread that started it: this one waits for it to the end
        std::thread::spawn(move || {
            let _ends: Sender<()> = ends;
            // nobody reads any more where the engine is gone
            let _ = inbox.send(work(Ok(&cancel)));
        });
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

    /// Asks for a worker; the answer comes as news.
    pub(super) fn ensure(&mut self, slot: Slot, generation: GenerationId) {
        let (prepared, store) = (self.prepared, &self.service.store);
        let launchables = [Some(&prepared.target), prepared.back.as_ref()];
        let spec = launchables
            .into_iter()
            .flatten()
            .find(|l| l.id == generation)
            .and_then(|l| l.worker(store, &slot));
        let asked = match spec {
            None => Err(format!("{} has no slot {slot}", generation.short())),
            Some(spec) => {
                if let Err(why) = self.take_over(generation) {
                    return self.send(Observation::WorkerFailed { slot, generation, why });
                }
                let asked = self.event.how.force || self.event.request == Request::Restart || prepared.renews;
                let to_target = generation == prepared.plan.target;
                // what is put back is well where it runs, also on the target's own generation
                let force = asked && to_target && !self.turned_back;
                let told = if to_target { &prepared.plan.in_place } else { &prepared.back_in_place };
                let told = !force && told.contains(&slot);
                let ensured = self.ask(|client| match told {
                    true => client.ensure_in_place(self.event.number, &spec),
                    false => client.ensure(self.event.number, &spec, force),
                });
                ensured.map_err(|e| chain(&e))
            }
        };
        match asked {
            Ok(()) => self.in_flight.ensuring = Some((slot, generation)),
            Err(why) => self.send(Observation::WorkerFailed { slot, generation, why }),
        }
    }

    /// Takes what is to be taken over, once, before the first worker of the target is started.
    fn take_over(&mut self, generation: GenerationId) -> Result<(), String> {
        let to_target = generation == self.prepared.plan.target && !self.turned_back;
        let Some(from) = self.event.how.take_over.as_ref().filter(|_| to_target && self.beside.is_none())
        else {
            return Ok(());
        };
        let groups = take_over::listens(&self.prepared.target.pipeline);
        let taken =
            self.ask(|client| client.take_over(from, groups.clone(), false)).map_err(|e| chain(&e))?;
        self.beside = Some(take_over::what_next(from, &taken));
        Ok(())
    }

    /// Stops every worker but these; an unreachable supervisor is tried again by the next engine.
    pub(super) fn settle(&self, slots: &[Slot]) {
        // a repair knows only what it mends, and takes nothing away
        if self.event.how.repair.is_some() {
            return;
        }
        // without slots there need not be a supervisor to wait for
        let settled = match slots {
            [] => self.client().and_then(|mut client| client.settle(slots)),
            _ => self.ask(|client| client.settle(slots)),
        };
        match settled {
            Ok(()) => {}
            Err(error) => tracing::warn!("surplus workers are not stopped: {}", chain(&error)),
        }
    }

    /// Reads the supervisor's news from now on, on a thread of its own. Nothing where none answers.
    pub(super) fn follow(&mut self) {
        if let Ok(slots) = self.client().and_then(|mut client| client.slots()) {
            self.follow_from(slots.news);
        }
    }

    fn follow_from(&mut self, mut seen: u64) {
        let Ok((client, mut stream)) = self.asked(|client| client.listen(seen)) else { return };
        self.news = stream.hang_up();
        self.held = Some(client);
        let inbox = self.inbox.clone();
        std::thread::spawn(move || {
            loop {
                let inbound = match stream.next() {
                    Ok((number, news)) => {
                        seen = number;
                        Inbound::Seen(observation(news))
                    }
                    Err(_) => Inbound::SupervisorLost { seen },
                };
                let lost = matches!(inbound, Inbound::SupervisorLost { .. });
                if inbox.send(inbound).is_err() || lost {
                    return;
                }
            }
        });
    }

    /// After the supervisor is gone: hears from its successor what happened meanwhile, and asks it for
    /// what was not answered.
    pub(super) fn ask_again(&mut self, seen: u64) {
        self.follow_from(seen);
        if let Some((slot, generation)) = self.in_flight.ensuring.take() {
            self.ensure(slot, generation);
        }
    }

    /// Slots of the target that do not run it, ready: what nobody was told of.
    pub(super) fn unwell(&self) -> Option<Observation> {
        let workers = self.ask(|client| client.slots()).map(|slots| slots.workers).unwrap_or_default();
        let target = &self.prepared.plan;
        let well = |slot: &Slot| {
            workers.iter().any(|worker| {
                worker.slot == *slot
                    && worker.accepted
                    && worker.generation == target.target
                    && worker.is_well()
            })
        };
        let slot = target.slots.iter().find(|slot| !well(slot))?;
        let worker = workers.iter().find(|worker| worker.slot == *slot && worker.accepted);
        let (slot, generation) = (slot.clone(), target.target);
        let unwell =
            worker.and_then(|worker| worker.unwell.clone().filter(|_| worker.generation == generation));
        Some(match unwell {
            Some(why) => Observation::WorkerUnwell { slot, generation, why },
            None => {
                let why = worker.map_or("it is gone".to_owned(), |worker| worker.note.clone());
                Observation::WorkerExited { slot, generation, why }
            }
        })
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

    /// Asks a supervisor; while it is gone, its successor (whoever starts that one), for a while. What is
    /// asked of it may be asked twice.
    fn ask<T>(
        &self,
        ask: impl Fn(&mut dyn ServiceManager) -> Result<T, Unreachable>,
    ) -> Result<T, Unreachable> {
        self.asked(ask).map(|(_, answer)| answer)
    }

    fn asked<T>(
        &self,
        ask: impl Fn(&mut dyn ServiceManager) -> Result<T, Unreachable>,
    ) -> Result<(Box<dyn ServiceManager>, T), Unreachable> {
        let until = clock::instant() + PATIENCE;
        loop {
            let answer = self.client().and_then(|mut client| Ok((ask(&mut *client)?, client)));
            match answer.map(|(answer, client)| (client, answer)) {
                Err(
                    Unreachable::Absent { .. } | Unreachable::NoSystemd { .. } | Unreachable::Gone { .. },
                ) if clock::instant() < until => {
                    std::thread::sleep(LOOK);
                }
                answer => return answer,
            }
        }
    }

    fn client(&self) -> Result<Box<dyn ServiceManager>, Unreachable> {
        standstill::reached(&self.service.workers, self.starts_supervisor)
    }
}

/// A program of a stage, on its way to be run.
pub(super) fn stage_shot(service: &Service, launch: Launch, timeout: Duration) -> OneShot {
    let run = service.place.run.clone();
    let name = launch.command.to_string();
    OneShot { name, launch, output: run.join("log/stages.log"), run, timeout }
}

/// Whether `launch`, of a program that does nothing, gets its mount: the right to is best known by trying.
///
/// # Errors
/// The reason, on one line.
pub(super) fn may_mount(service: &Service, launch: Launch) -> Result<(), String> {
    let mount = launch.mount.as_ref().map(|path| path.display().to_string()).unwrap_or_default();
    let one_shot = stage_shot(service, launch, Duration::from_secs(10));
    let cancel = Cancel::new().map_err(|e| e.to_string())?;
    let finished = oneshot::run(&one_shot, &service.place.program, &cancel)
        .map_err(|e| format!("mount: {mount}: {}", chain(&e)))?;
    if finished.status.success() {
        return Ok(());
    }
    let said = finished.output_tail.trim_end().lines().last().unwrap_or_default();
    Err(format!("mount: {mount}: {}", said.strip_prefix("pointsman: ").unwrap_or(said)))
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

type Done = Result<Finished, OneShotError>;

/// The reason a program failed: how it ended and the end of what it said.
pub(super) fn verdict_of(name: &str, done: Done) -> Result<(), String> {
    let finished = done.map_err(|error| match &error {
        OneShotError::TimedOut { output_tail, .. } if !output_tail.is_empty() => {
            format!("{name}: {error}\n{output_tail}")
        }
        _ => format!("{name}: {}", chain(&error)),
    })?;
    if finished.status.success() {
        return Ok(());
    }
    let output = finished.output_tail.trim_end();
    let ended = format!("{name}: {}", finished.status);
    Err(if output.is_empty() { ended } else { format!("{ended}\n{output}") })
}

fn observation(news: News) -> Observation {
    match news {
        News::Ready { slot, generation, note, .. } => Observation::WorkerReady { slot, generation, note },
        News::Failed { slot, generation, why, .. } => Observation::WorkerFailed { slot, generation, why },
        News::Unwell { slot, generation, why, .. } => Observation::WorkerUnwell { slot, generation, why },
        News::Exited { slot, generation, why, .. } => Observation::WorkerExited { slot, generation, why },
    }
}

/// An error and its sources, on one line.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        text.push_str(": ");
        text.push_str(&error.to_string());
        source = error.source();
    }
    text
}
