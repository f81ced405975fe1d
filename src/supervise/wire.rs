//! What the manager and the supervisor say to each other: one JSON object a line, over a unix
//! stream socket that only the store's owner and root may speak on.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::model::{
    Command, GenerationId, GivenSocket, Listen, LoadedKey, Ready, Replace, Restart, Slot, Surroundings, Tell,
};

/// How to start a process on a generation: everything `pointsman __exec` needs that does not differ
/// from one start to the next.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Launch {
    /// words with `{config}`, `{loaded}`, `{run}`, `{fd:NAME}`, `{addr:NAME}` unexpanded
    pub command: Command,
    /// environment besides what every process gets; values may hold placeholders
    pub env: BTreeMap<String, String>,
    /// the generation's tree: `{config}`, the working directory and the source of `mount`
    pub config: PathBuf,
    /// the loader's output: `{loaded}`
    pub loaded: Option<PathBuf>,
    /// where `config` is mounted, read-only, in a mount namespace of its own
    pub mount: Option<PathBuf>,
    /// directories that it cannot write to, whoever it is, where it may have a mount namespace
    #[serde(default)]
    pub read_only: Vec<PathBuf>,
    /// who it is, what it may take, where it starts
    #[serde(default)]
    pub surroundings: Surroundings,
}

/// One worker as it shall run: the supervisor needs nothing else to start it again.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerSpec {
    /// its place
    pub slot: Slot,
    /// the generation it runs
    pub generation: GenerationId,
    /// the loader output it runs on
    pub loaded: Option<LoadedKey>,
    /// how it is started
    pub launch: Launch,
    /// its `{loaded}` is a writable copy of its own
    #[serde(default)]
    pub copies_loaded: bool,
    /// directories that must not be collected while it runs
    pub leases: Vec<PathBuf>,
    /// its listening sockets
    pub listen: Listen,
    /// how it says that it is ready
    pub ready: Ready,
    /// limit for getting ready
    pub start_timeout: Duration,
    /// how long it may finish what it is doing when it is replaced
    pub grace_shutdown_time: Duration,
    /// asks it to finish: `TERM`, `QUIT`, ..
    pub stop_signal: String,
    /// in which order it and its predecessor or successor start and end
    #[serde(default)]
    pub replace: Replace,
    /// how it is told of another generation while it runs; then `{config}` and `{loaded}` are links of its own
    /// directory
    #[serde(default)]
    pub tell: Option<Tell>,
    /// when and how soon it is started again after an end that nobody has asked for
    #[serde(default)]
    pub restart: Restart,
    /// how long it may be silent when it is ready
    #[serde(default)]
    pub watchdog: Option<Duration>,
}

impl WorkerSpec {
    /// Whether it is given `NOTIFY_SOCKET`.
    pub fn talks(&self) -> bool {
        crate::model::talks(&self.ready, self.watchdog, self.tell.as_ref())
    }

    /// How long what is limited to `limit` may take where it asks for more time.
    pub fn longest(&self, limit: Duration) -> Duration {
        crate::model::longest(limit, self.talks())
    }
}

/// What the manager asks of a supervisor.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ask {
    /// all slots and processes: answered by [`Answer::Slots`]
    Slots,
    /// have `spec.slot` run `spec`: start beside the old process, and when it is ready make it the
    /// slot's accepted one and drain the old. Asking the same twice starts one process. `force`
    /// replaces even where the slot runs exactly this. Answered by [`Answer::Accepted`] at once, by
    /// [`News::Ready`] or [`News::Failed`] when decided
    Ensure {
        /// the event it is for
        event: u64,
        /// what shall run
        spec: Box<WorkerSpec>,
        /// replace in any case (once for each event)
        force: bool,
        /// tell the accepted process of it instead of replacing it, where that can be done; replace it where it
        /// does not take it
        #[serde(default)]
        in_place: bool,
    },
    /// give up starting candidates of `event`: they are killed, accepted processes stay
    Abandon {
        /// the event whose candidates shall go
        event: u64,
    },
    /// what only takes away: drain every slot that is not listed, close every socket no slot needs
    Settle {
        /// the slots that shall stay
        slots: Vec<Slot>,
    },
    /// take duplicates of the sockets that a process outside listens on, for the groups whose `listen` names them: by
    /// equal address, or all the rest for one that inherits. That process notices nothing. Answered by
    /// [`Answer::Taken`]
    TakeOver {
        /// the process
        pid: u32,
        /// when it started, in clock ticks since boot
        started: u64,
        /// what each group listens on
        groups: BTreeMap<String, Listen>,
        /// only say what would be taken
        look: bool,
    },
    /// from now on this connection carries [`News`] with numbers above `after`
    Listen {
        /// the last number already seen; 0: only what comes from now on
        after: u64,
    },
    /// let the workers serve on and end the supervisor
    Quit,
}

/// What a supervisor answers.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Answer {
    /// understood; what comes of it is news
    Accepted,
    /// the slots and every process, draining ones included
    Slots {
        /// pid of our own supervisor, where that is who answers
        supervisor: Option<u32>,
        /// number of the newest news
        news: u64,
        /// all processes, by slot, then by start
        workers: Vec<WorkerReport>,
        /// sockets that workers listen on and that could not be taken back from them: by key, with the reason
        #[serde(default)]
        lost: BTreeMap<String, String>,
        /// sockets that somebody else owns and gives now
        #[serde(default)]
        given: Vec<GivenSocket>,
    },
    /// the sockets of a process outside
    Taken(Taken),
    /// could not do what was asked, and why
    Refused {
        /// the reason, in words for the operator
        why: String,
    },
}

/// What a process outside listens on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Taken {
    /// addresses that were, or would be, taken
    pub taken: Vec<String>,
    /// those that no group has
    pub left: Vec<String>,
}

/// One worker process.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReport {
    /// its place
    #[serde(flatten)]
    pub slot: Slot,
    /// its process; `None` while it waits to be started again
    pub pid: Option<u32>,
    /// when the process started, in clock ticks since boot: with the pid, which process it is
    pub started: Option<u64>,
    /// the generation it runs
    pub generation: GenerationId,
    /// the loader output it runs on
    pub loaded: Option<LoadedKey>,
    /// what it is doing
    pub state: WorkerState,
    /// whether it is the slot's accepted process (or stands in for it), not a candidate or a leaver
    pub accepted: bool,
    /// unasked exits of accepted processes of this slot, ever
    pub exits: u64,
    /// those of them since the slot accepted what it runs
    #[serde(default)]
    pub exits_since: u64,
    /// the event for which it was started, or told
    #[serde(default)]
    pub started_for: u64,
    /// its last words: how the last process of the slot ended, or its `STATUS=`
    pub note: String,
    /// how long it may take to end when it is asked to, and asks for more time, in milliseconds
    #[serde(default)]
    pub grace_ms: u64,
    /// why it is not well although it is ready: what it answered when it was asked last
    #[serde(default)]
    pub unwell: Option<String>,
    /// since when it drains, in seconds since boot
    #[serde(default)]
    pub left: Option<u64>,
    /// of one that drains: the connections that it and its process group have open; `status` looks for them
    #[serde(default)]
    pub connections: Option<usize>,
    /// why its program is not the one on disk any more; `status` looks for it
    #[serde(default)]
    pub outdated: Option<String>,
}

impl WorkerReport {
    /// Whether it is ready, and nothing speaks against it.
    pub fn is_well(&self) -> bool {
        self.state == WorkerState::Ready && self.unwell.is_none()
    }
}

/// What a worker process is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum WorkerState {
    /// started, not ready yet
    Starting,
    /// ready
    Ready,
    /// asked to finish
    Draining,
    /// exited unasked; waits to be started again
    Failed,
    /// exited unasked, and is not started again: its pipeline says so
    Ended,
    /// gave its place to a successor that has not got ready yet; is started again if that fails
    Stopped,
}

/// News under its number: what a connection carries after [`Ask::Listen`] was accepted, one a line.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct NewsLine {
    /// one more than that of the news before
    pub number: u64,
    /// what happened
    pub news: News,
}

/// What happened to a worker. `event` is the one it was last ensured for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum News {
    /// the slot runs the generation now, ready; an old process is draining
    Ready {
        /// where
        slot: Slot,
        /// for which event
        event: u64,
        /// what it runs
        generation: GenerationId,
        /// what is to be said of the way there
        #[serde(default)]
        note: String,
    },
    /// the candidate did not get ready and is gone; what ran before runs on
    Failed {
        /// where
        slot: Slot,
        /// for which event
        event: u64,
        /// what it was to run
        generation: GenerationId,
        /// how it ended, with the end of its output
        why: String,
    },
    /// an accepted process that is ready has said no three times in a row; it is left alone
    Unwell {
        /// where
        slot: Slot,
        /// for which event it had been started
        event: u64,
        /// what it runs
        generation: GenerationId,
        /// what it said
        why: String,
    },
    /// an accepted process ended unasked; it will be started again
    Exited {
        /// where
        slot: Slot,
        /// for which event it had been started
        event: u64,
        /// what it ran
        generation: GenerationId,
        /// how it ended, with the end of its output
        why: String,
    },
}
