//! What a manager needs of whoever starts and watches the workers, whichever program that is.

use std::collections::BTreeMap;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::fsx::{FsError, Meta};
use crate::model::{GivenSocket, Listen, ServiceManagerChoice, Slot, TakeOver};

use super::client::{self, Client, HangUp, Slots, Unreachable};
use super::record;
use super::systemd::{self, Scope, Shared, Systemd};
use super::wire::{News, Taken, WorkerReport, WorkerSpec};

/// Starts and watches workers, and knows what runs: slot, process, generation accepted, exits since.
///
/// What is asked may be asked twice: it is done once. The rules are those of `spec/workers.md`, and every
/// implementation passes the tests in `tests/supervise` that are about workers.
pub trait ServiceManager: Send {
    /// All slots and processes, draining ones included.
    ///
    /// # Errors
    /// [`Unreachable::Gone`].
    fn slots(&mut self) -> Result<Slots, Unreachable>;

    /// The sockets that somebody else owns and gives now: workers that listen there get them. None, unless it can be
    /// given any.
    ///
    /// # Errors
    /// [`Unreachable::Gone`].
    fn given(&mut self) -> Result<Vec<GivenSocket>, Unreachable> {
        Ok(Vec::new())
    }

    /// Has `spec.slot` run `spec` for `event`: see [`super::Ask::Ensure`]. What comes of it is news.
    ///
    /// # Errors
    /// [`Unreachable::Refused`]: the spec makes no sense. [`Unreachable::Gone`]: ask again.
    fn ensure(&mut self, event: u64, spec: &WorkerSpec, force: bool) -> Result<(), Unreachable>;

    /// The same, but the process that runs in the slot is told of `spec` and stays, where it takes it.
    ///
    /// # Errors
    /// As for [`ServiceManager::ensure`].
    fn ensure_in_place(&mut self, event: u64, spec: &WorkerSpec) -> Result<(), Unreachable>;

    /// Kills the candidates of `event`; there is no news about them.
    ///
    /// # Errors
    /// [`Unreachable::Gone`]: ask again.
    fn abandon(&mut self, event: u64) -> Result<(), Unreachable>;

    /// Drains every slot that is not in `keep`, and closes the sockets no slot needs.
    ///
    /// # Errors
    /// [`Unreachable::Gone`]: ask again.
    fn settle(&mut self, keep: &[Slot]) -> Result<(), Unreachable>;

    /// Takes the sockets of a process outside: see [`super::Ask::TakeOver`]; `look`: only says which.
    ///
    /// # Errors
    /// [`Unreachable::Refused`], with the reason: nothing was taken. [`Unreachable::Gone`]: ask again.
    fn take_over(
        &mut self,
        from: &TakeOver,
        groups: BTreeMap<String, Listen>,
        look: bool,
    ) -> Result<Taken, Unreachable>;

    /// The news with numbers above `after`; 0: only what comes from now on.
    ///
    /// # Errors
    /// [`Unreachable::Gone`].
    fn listen(&mut self, after: u64) -> Result<Box<dyn NewsSource>, Unreachable>;
}

/// News as they come.
pub trait NewsSource: Send {
    /// The next news and its number, or `None` where none comes within `limit`.
    ///
    /// # Errors
    /// [`Unreachable::Gone`]: nothing more will come; listen again with the last number seen.
    fn next_within(&mut self, limit: Duration) -> Result<Option<(u64, News)>, Unreachable>;

    /// What ends this source. Where there is nothing left to make it of, nothing does but the next news.
    fn hang_up(&self) -> Option<HangUp>;

    /// Waits for the next news.
    ///
    /// # Errors
    /// As for [`NewsSource::next_within`].
    #[allow(clippy::should_implement_trait, reason = "it has no end, and an error ends it")]
    fn next(&mut self) -> Result<(u64, News), Unreachable> {
        loop {
            if let Some(next) = self.next_within(Duration::from_secs(3600))? {
                return Ok(next);
            }
        }
    }
}

/// Which program looks after the workers of a run directory, and how it is reached.
#[derive(Clone, Debug)]
pub struct Workers {
    run: PathBuf,
    program: PathBuf,
    keeper: Keeper,
    /// workers that somebody else looks after
    elsewhere: Option<Keeper>,
    hands: Shared,
}

/// Somebody looks after the workers.
#[derive(Debug)]
pub struct Started {
    /// it was started for that, and outlives us
    pub fresh: bool,
    /// as long as this is held, ends of workers are seen when they happen, whoever else is there
    _held: Option<Systemd>,
}

/// Who looks after workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Keeper {
    Supervisor,
    Systemd(Scope),
}

impl fmt::Display for Keeper {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let choice = match self {
            Keeper::Supervisor => ServiceManagerChoice::Supervisor,
            Keeper::Systemd(Scope::System) => ServiceManagerChoice::Systemd,
            Keeper::Systemd(Scope::User) => ServiceManagerChoice::SystemdUser,
        };
        choice.fmt(f)
    }
}

const KEEPERS: [Keeper; 3] =
    [Keeper::Supervisor, Keeper::Systemd(Scope::System), Keeper::Systemd(Scope::User)];

impl Workers {
    /// Those of the run directory `run`, looked after as the host says; `program` is our own binary. `named`: it is
    /// a service of the host, not of a directory that somebody tries something in.
    ///
    /// Whoever has workers already keeps them: `auto` is that one, and where another one is asked for by name,
    /// nothing can be asked of it until they are gone.
    pub fn of(run: &Path, program: &Path, choice: ServiceManagerChoice, named: bool) -> Workers {
        // what cannot be read is told by whoever reaches it
        let has = |keeper: &Keeper| recorded_by(run, *keeper).is_ok_and(|workers| !workers.is_empty());
        let there = KEEPERS.into_iter().find(has);
        let keeper = match choice {
            ServiceManagerChoice::Supervisor => Keeper::Supervisor,
            ServiceManagerChoice::Systemd => Keeper::Systemd(Scope::System),
            ServiceManagerChoice::SystemdUser => Keeper::Systemd(Scope::User),
            ServiceManagerChoice::Auto => there.unwrap_or_else(|| usual(named)),
        };
        Workers {
            run: run.to_owned(),
            program: program.to_owned(),
            keeper,
            elsewhere: there.filter(|there| *there != keeper),
            hands: Shared::default(),
        }
    }

    /// What is called so in the host file.
    pub fn name(&self) -> String {
        self.keeper.to_string()
    }

    /// Whoever looks after the workers, where that one is there.
    ///
    /// # Errors
    /// [`Unreachable::Absent`], [`Unreachable::NoSystemd`]; [`Unreachable::Refused`]: another one has workers of this service.
    pub fn reach(&self) -> Result<Box<dyn ServiceManager>, Unreachable> {
        self.refuse()?;
        Ok(match self.keeper {
            Keeper::Supervisor => Box::new(Client::connect(&self.run)?),
            Keeper::Systemd(scope) => Box::new(Systemd::reach(&self.run, &self.program, scope, &self.hands)?),
        })
    }

    /// Sees to it that somebody looks after the workers, and that what has to run is on its way.
    ///
    /// # Errors
    /// As for [`Workers::reach`]; [`Unreachable::Absent`]: it could not be.
    pub fn start(&self) -> Result<Started, Unreachable> {
        match self.keeper {
            Keeper::Supervisor => {
                self.refuse()?;
                let there = Client::connect(&self.run).is_ok();
                let fresh = !there && client::start_detached(&self.program, &self.run)?.process.is_some();
                Ok(Started { fresh, _held: None })
            }
            // it is not ours to start, but what it shall run is
            Keeper::Systemd(scope) => {
                self.refuse()?;
                let held = Systemd::reach(&self.run, &self.program, scope, &self.hands)?.resume()?;
                Ok(Started { fresh: false, _held: Some(held) })
            }
        }
    }

    /// What is written down of what runs; nobody is asked.
    ///
    /// # Errors
    /// A record that cannot be read: nobody knows what runs.
    pub fn recorded(&self) -> Result<Vec<WorkerReport>, FsError> {
        let mut all = Vec::new();
        for keeper in KEEPERS {
            all.extend(recorded_by(&self.run, keeper)?);
        }
        Ok(all)
    }

    /// The highest number of an event that anything was started or told for in this boot, as far as whoever did it
    /// remembers; 0 where nobody remembers one.
    pub fn last_event(&self) -> u64 {
        let remembered = |keeper| match keeper {
            Keeper::Supervisor => record::last_event(&self.run, record::NAME),
            Keeper::Systemd(scope) => systemd::last_event(&self.run, scope),
        };
        KEEPERS.into_iter().map(remembered).max().unwrap_or_default()
    }

    /// Whether whoever looks after the workers is started by us, and again where it is gone.
    pub fn is_ours(&self) -> bool {
        match self.keeper {
            Keeper::Supervisor => true,
            Keeper::Systemd(_) => false,
        }
    }

    /// Whether whoever looks after the workers is a unit that systemd starts again by itself.
    pub fn is_unit(&self) -> bool {
        match self.keeper {
            Keeper::Supervisor => client::is_unit(&self.run),
            Keeper::Systemd(_) => false,
        }
    }

    fn refuse(&self) -> Result<(), Unreachable> {
        // looked at again: it may have let them go meanwhile
        let there = self
            .elsewhere
            .filter(|other| recorded_by(&self.run, *other).map_or(true, |workers| !workers.is_empty()));
        match there {
            None => Ok(()),
            Some(other) => Err(Unreachable::Refused {
                why: format!(
                    "`{other}` runs workers of this service; say `service_manager: {other}` or `auto` until they are stopped"
                ),
            }),
        }
    }
}

/// Who looks after workers where nobody has said who shall: systemd, where it is the system's and so is the service,
/// and nobody has installed the units of our supervisor. A user's systemd is not chosen by itself: what it runs ends
/// with the user's last session.
fn usual(named: bool) -> Keeper {
    let is_there = |path: &str| Meta::of_path(Path::new(path)).is_ok();
    let reachable = || is_there("/run/systemd/system") && is_there("/run/dbus/system_bus_socket");
    let unit = |dir| format!("{dir}/systemd/system/pointsman-supervisor@.service");
    let installed = || ["/etc", "/usr/local/lib", "/usr/lib", "/lib"].iter().any(|dir| is_there(&unit(dir)));
    match named && rustix::process::geteuid().is_root() && reachable() && !installed() {
        true => Keeper::Systemd(Scope::System),
        false => Keeper::Supervisor,
    }
}

fn recorded_by(run: &Path, keeper: Keeper) -> Result<Vec<WorkerReport>, FsError> {
    match keeper {
        Keeper::Supervisor => record::recorded(run, record::NAME),
        Keeper::Systemd(scope) => systemd::recorded(run, scope),
    }
}
