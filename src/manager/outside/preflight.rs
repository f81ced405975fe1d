//! What can be refused before anything runs.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::activation::Act;
use crate::model::{Command, Fit, Probe, Ready, Request, Tell, chain};
use crate::supervise::Launch;
use crate::supervise::client::Slots;
use crate::supervise::oneshot::{self, Cancel};

use super::super::facts::program_path;
use super::super::watchdog::is_there;
use super::super::{ManagerError, Service, canary, given, headroom, surroundings, take_over};
use super::{Outside, stage_shot};

impl Outside<'_> {
    /// What can be refused before anything runs; what is doubtful, to be told with the verdict.
    pub(super) fn preflight(&mut self) -> Result<Option<String>, String> {
        // a manager outlives many a host file
        let access = self.service.place.access().map_err(|e| chain(&e))?;
        let store = &self.service.store.clone().with_access(access);
        let target = &self.prepared.target;
        store.check_begun(target.id, self.ahead.take()).map_err(|e| chain(&e))?;
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
}

/// Whether `launch`, of a program that does nothing, gets its mount: the right to is best known by trying.
///
/// # Errors
/// The reason, on one line.
pub(in crate::manager) fn may_mount(service: &Service, launch: Launch) -> Result<(), String> {
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
