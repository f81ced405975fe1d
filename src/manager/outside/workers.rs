//! What is asked of whoever keeps the workers, and what is heard from it.

use crate::activation::Observation;
use crate::model::{GenerationId, Request, Slot, chain};
use crate::supervise::client::Unreachable;
use crate::supervise::{News, ServiceManager};

use super::super::{clock, standstill, take_over};
use super::{Inbound, LOOK, Outside, PATIENCE};

impl Outside<'_> {
    /// Asks for a worker; the answer comes as news.
    pub(in crate::manager) fn ensure(&mut self, slot: Slot, generation: GenerationId) {
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
    pub(in crate::manager) fn settle(&self, slots: &[Slot]) {
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
    pub(in crate::manager) fn follow(&mut self) {
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
    pub(in crate::manager) fn ask_again(&mut self, seen: u64) {
        self.follow_from(seen);
        if let Some((slot, generation)) = self.in_flight.ensuring.take() {
            self.ensure(slot, generation);
        }
    }

    /// Slots of the target that do not run it, ready: what nobody was told of.
    pub(in crate::manager) fn unwell(&self) -> Option<Observation> {
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

    /// Asks a supervisor; while it is gone, its successor (whoever starts that one), for a while. What is
    /// asked of it may be asked twice.
    pub(super) fn ask<T>(
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

    pub(super) fn client(&self) -> Result<Box<dyn ServiceManager>, Unreachable> {
        standstill::reached(&self.service.workers, self.starts_supervisor)
    }
}

fn observation(news: News) -> Observation {
    match news {
        News::Ready { slot, generation, note, .. } => Observation::WorkerReady { slot, generation, note },
        News::Failed { slot, generation, why, .. } => Observation::WorkerFailed { slot, generation, why },
        News::Unwell { slot, generation, why, .. } => Observation::WorkerUnwell { slot, generation, why },
        News::Exited { slot, generation, why, .. } => Observation::WorkerExited { slot, generation, why },
    }
}
