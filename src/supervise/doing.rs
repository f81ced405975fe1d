//! What is done with processes and sockets alike, whoever keeps the processes: our own supervisor ([`super::crew`]) or
//! systemd ([`super::systemd`]). Those say how one is started, asked to finish and killed.

use std::collections::VecDeque;
use std::collections::btree_map::BTreeMap;
use std::time::{Duration, Instant};

use crate::fsx::Dir;
use crate::model::{Listen, Slot, chain};

use super::closing::{self, Closing};
use super::crew::tell::link;
use super::crew::{Check, Telling};
use super::holder::Holder;
use super::logs::Logs;
use super::news::Bulletin;
use super::slots::{Act, Table};
use super::sockets::{Sockets, lost_to};
use super::wire::{Answer, Ask, WorkerSpec};
use super::{clock, process, taking};

/// What all who carry a table's acts out have.
pub(super) struct Parts<'a> {
    /// what shall run
    pub(super) table: &'a mut Table,
    /// what has happened
    pub(super) bulletin: &'a mut Bulletin,
    /// which slots are started again, and when
    pub(super) restarts: &'a mut BTreeMap<Slot, Instant>,
    /// the sockets
    pub(super) sockets: &'a mut Sockets,
    /// who keeps a duplicate of each, where somebody does
    pub(super) holder: Option<&'a Holder>,
    /// what is being closed
    pub(super) closing: &'a mut Option<Closing>,
}

/// Carries the acts of a table out.
pub(super) trait Doing: Sized {
    /// What it has, to be changed.
    fn parts(&mut self) -> Parts<'_>;

    /// The run directory.
    fn run(&self) -> &Dir;

    /// The processes that are there, by number: what is waited for of each, and what it is being told.
    fn watched(&self) -> impl Iterator<Item = (u64, &Check, Option<&Telling>)>;

    /// The same of process `n`, to be changed, where it is there.
    fn watched_mut(&mut self, n: u64) -> Option<(&mut Check, &mut Option<Telling>)>;

    /// What else there is to look for: the lengths of logs, and what is closed and started again.
    fn times(&self) -> (&Logs, Option<&Closing>, &BTreeMap<Slot, Instant>);

    /// Writes the table down.
    fn save(&mut self);

    /// Starts process `n`; why not, in words for the operator.
    fn start(&mut self, n: u64) -> Result<(), String>;

    /// Removes what belongs to process `n`, which is not there.
    fn remove(&self, n: u64);

    /// Asks process `n` to finish, within its grace time.
    fn drain(&mut self, n: u64);

    /// Returns when these processes, which are asked to finish, have heard it.
    fn until_heard(&self, numbers: &[u64]);

    /// Kills process `n` with all that it has started.
    fn kill(&mut self, n: u64);

    /// Tells process `n` what the table says that it is being told.
    fn inform(&mut self, n: u64) -> Result<(), String>;

    /// Lets go of the leases that nobody needs any more.
    fn release(&mut self);

    /// Sees to it that somebody keeps the sockets when we are gone, as far as that is not seen to all the time.
    fn hold(&mut self) -> Result<(), String>;

    /// Records the table, then does what follows from it, and what follows from that.
    fn carry_out(&mut self, acts: Vec<Act>) {
        self.save();
        let mut acts = VecDeque::from(acts);
        while let Some(act) = acts.pop_front() {
            match act {
                Act::Start(n) => {
                    if let Err(why) = self.start(n) {
                        acts.extend(self.not_started(n, why));
                    }
                }
                Act::Drain(n) => self.drain(n),
                Act::Kill(n) => self.kill(n),
                Act::Inform(n) => {
                    if let Err(why) = self.inform(n) {
                        acts.extend(self.parts().table.not_told(n, why));
                    }
                }
                Act::Hush(n) => self.hush(n),
                Act::Tell(news) => self.parts().bulletin.add(news),
                Act::Restart(slot, delay) => {
                    self.parts().restarts.insert(slot, clock::after(delay));
                }
            }
        }
        self.release();
        self.save();
    }

    /// Process `n` could not be started: what follows.
    fn not_started(&mut self, n: u64, why: String) -> Vec<Act> {
        let worker = self.parts().table.worker(n);
        let slot = worker.map(|worker| worker.spec.slot.to_string());
        let listen = worker.map(|worker| worker.spec.listen.clone());
        tracing::warn!(slot, why, "could not be started");
        self.remove(n);
        let why = format!("could not be started: {why}");
        let acts = self.parts().table.gone(n, why, Duration::ZERO);
        closing::close_unneeded(self, listen.as_ref());
        acts
    }

    /// Stops telling process `n`: its links lead again to what it has accepted.
    fn hush(&mut self, n: u64) {
        let Some((_, telling)) = self.watched_mut(n) else { return };
        *telling = None;
        let Some(spec) = self.parts().table.worker(n).map(|worker| worker.spec.clone()) else { return };
        if let Err(error) = link(self.run(), n, &spec) {
            tracing::warn!(slot = %spec.slot, error = chain(&error), "its links are not what it has accepted");
        }
    }

    /// When there is something to look for at the latest.
    fn next(&self) -> Option<Instant> {
        let checks = self.watched().filter_map(|(_, check, _)| check.next());
        let told = self.watched().filter_map(|(_, _, telling)| telling);
        let told = told.flat_map(|telling| telling.check.next().into_iter().chain([telling.deadline]));
        let (logs, closing, restarts) = self.times();
        checks
            .chain(told)
            .chain(restarts.values().copied())
            .chain(closing.map(Closing::next))
            .chain(logs.next())
            .min()
    }

    /// Starts again what is due.
    fn on_time_to_restart(&mut self) {
        let due = |at: &Instant| clock::until(*at).is_zero();
        let restarts = self.parts().restarts;
        let due: Vec<Slot> =
            restarts.iter().filter(|(_, at)| due(at)).map(|(slot, _)| slot.clone()).collect();
        for slot in due {
            let Parts { restarts, table, .. } = self.parts();
            restarts.remove(&slot);
            let acts = table.restart(&slot);
            self.carry_out(acts);
        }
    }

    /// Binds what a process of `spec` listens on and is not held yet. The keys of all that it is given.
    fn sockets_for(&mut self, spec: &WorkerSpec) -> Result<Vec<String>, String> {
        taking::take_back(self);
        let group = &spec.slot.group;
        let Parts { table, sockets, holder, .. } = self.parts();
        // a second one beside it would take a part of the connections, and never all of them
        if let Some(lost) = lost_to(&table.lost, group, &spec.listen) {
            return Err(lost.to_string());
        }
        match &spec.listen {
            Listen::Sockets(_) => sockets.ensure(&spec.listen, holder).map_err(|e| e.to_string()),
            Listen::Inherit(_) => Ok(sockets.inherited(group)),
        }
    }

    /// Does what was asked. What concerns who asks is for others to do: [`Ask::Slots`], [`Ask::Listen`],
    /// [`Ask::Quit`].
    fn on_ask(&mut self, ask: Ask) -> Answer {
        if matches!(ask, Ask::Ensure { .. } | Ask::TakeOver { .. } | Ask::Quit) {
            // what is being closed may be wanted again
            closing::close_now(self);
        }
        let acts = match ask {
            Ask::Slots | Ask::Listen { .. } | Ask::Quit => return Answer::Accepted,
            Ask::Ensure { event, spec, force, in_place } => match (wrong(&spec), self.parts().table) {
                (Some(why), _) => return Answer::Refused { why },
                (None, table) if in_place => table.ensure_in_place(event, *spec),
                (None, table) => table.ensure(event, *spec, force),
            },
            Ask::Abandon { event } => self.parts().table.abandon(event),
            Ask::Settle { slots } => {
                closing::settle(self, &slots);
                return Answer::Accepted;
            }
            Ask::TakeOver { pid, started, groups, look } => {
                return match taking::take_over(self, pid, started, &groups, look) {
                    Ok(taken) => Answer::Taken(taken),
                    Err(why) => Answer::Refused { why },
                };
            }
        };
        self.carry_out(acts);
        Answer::Accepted
    }

    /// What runs; `supervisor` is our pid where we are one.
    fn slots(&mut self, supervisor: Option<u32>) -> Answer {
        let Parts { table, bulletin, sockets, .. } = self.parts();
        Answer::Slots {
            supervisor,
            news: bulletin.last(),
            workers: table.report(),
            lost: table.lost.clone(),
            given: sockets.given(),
        }
    }
}

/// What is wrong with a spec that could not run by itself.
fn wrong(spec: &WorkerSpec) -> Option<String> {
    let group = &spec.slot.group;
    if group.is_empty() || group.len() > 100 || group.starts_with('.') || group.contains(['/', '\0', ':']) {
        return Some(format!("`{group}` is no name for a group"));
    }
    if process::signal_named(&spec.stop_signal).is_none() {
        return Some(format!("`{}` is no signal to stop by", spec.stop_signal));
    }
    spec.launch.command.0.is_empty().then(|| "there is no command".to_owned())
}
