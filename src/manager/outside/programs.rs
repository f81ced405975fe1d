//! Programs of stages: loader, checks, canary.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::mpsc::{Sender, channel};
use std::time::Duration;

use crate::activation::Observation;
use crate::model::{Command, chain};
use crate::store::Staging;
use crate::supervise;
use crate::supervise::Launch;
use crate::supervise::oneshot::{self, Cancel, Finished, OneShot, OneShotError};

use super::super::{Service, canary, standstill};
use super::{Inbound, Outside};

impl Outside<'_> {
    pub(super) fn load(&mut self, at: usize) {
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
    pub(in crate::manager) fn seal(&self, at: usize, staging: Staging) {
        let key = self.prepared.target.key.expect("a loader has a key");
        self.send(match self.writer.seal_loaded(staging, key) {
            Ok(()) => Observation::Passed { at },
            Err(error) => Observation::Failed { at, why: chain(&error) },
        });
    }

    pub(super) fn check(&mut self, at: usize, index: usize) {
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

    pub(super) fn one_shot(&self, command: &Command, timeout: Duration) -> OneShot {
        let launch = self.prepared.target.launch(&self.service.store, command, BTreeMap::new());
        OneShot { output: self.log(), ..stage_shot(self.service, launch, timeout) }
    }

    /// Where the stages of this event are logged.
    fn log(&self) -> std::path::PathBuf {
        supervise::logs::of_stages(&self.service.place.run, self.event.number)
    }

    pub(super) fn canary(&mut self, at: usize) {
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
    pub(in crate::manager) fn stop_back(&mut self) {
        self.stop(Observation::StoppedBack);
    }

    pub(super) fn stop(&mut self, seen: impl FnOnce(Result<(), String>) -> Observation + Send + 'static) {
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
}

/// A program of a stage, on its way to be run.
pub(in crate::manager) fn stage_shot(service: &Service, launch: Launch, timeout: Duration) -> OneShot {
    let run = service.place.run.clone();
    let name = launch.command.to_string();
    OneShot { name, launch, output: run.join("log/stages.log"), run, timeout }
}

type Done = Result<Finished, OneShotError>;

/// The reason a program failed: how it ended and the end of what it said.
pub(in crate::manager) fn verdict_of(name: &str, done: Done) -> Result<(), String> {
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
