//! What was asked, and what came of it: the records the store keeps for each activation event.

use std::collections::BTreeMap;
use std::fmt;

use serde::{Deserialize, Serialize};

use super::{ContentHash, GenerationId, LoadedKey, Metadata, Slot};

/// Who asked: the true uid, and claims that nothing here can check.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Actor {
    /// the real user id of the process
    pub uid: u32,
    /// `SUDO_USER`, as claimed by the environment
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sudo_user: Option<String>,
    /// `SSH_CONNECTION`, as claimed by the environment
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ssh_connection: Option<String>,
}

impl fmt::Display for Actor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "uid {}", self.uid)?;
        self.sudo_user.iter().try_for_each(|user| write!(f, " (sudo: {user})"))
    }
}

/// How a generation came into the store. Not part of its id.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PushRecord {
    /// when, UTC
    pub at: jiff::Timestamp,
    /// who
    pub by: Actor,
    /// the directory it was read from
    pub source: String,
    /// why, in the pusher's words
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// what the pusher says of it besides: commit, pipeline, ticket
    #[serde(default, skip_serializing_if = "Metadata::is_empty")]
    pub meta: Metadata,
    /// the generation it was linked against: in force at the time, else the latest
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub parent: Option<GenerationId>,
}

/// What an activation event asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Request {
    /// put a generation in force; it goes on top of the stack of good ones
    Activate,
    /// go back; what was in force leaves the stack
    Rollback,
    /// bring the workers of the generation in force up, nothing else
    Start,
    /// replace the workers of the generation in force: of one group, or all of them
    Restart,
    /// what is in force unconfirmed is good
    Confirm,
    /// end every worker; nobody starts one before somebody asks for a start
    Stop,
}

/// An activation event: what somebody asked for. Durable before the asker hears "accepted", and
/// never changed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// its number: one more than the highest ever
    pub number: u64,
    /// what is asked
    pub request: Request,
    /// the generation it is about, named when the event was accepted
    pub target: GenerationId,
    /// how it is to be done, and on which conditions
    #[serde(flatten)]
    pub how: How,
    /// when, UTC
    pub at: jiff::Timestamp,
    /// the boot it was asked in
    pub boot: String,
    /// who
    pub by: Actor,
}

/// How a request is to be done. The default: all of it, on no condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct How {
    /// only the pointer shall move, no worker step may run
    #[serde(default)]
    pub pointer_only: bool,
    /// replace the workers even where nothing changed, and activate what was rolled back from
    #[serde(default)]
    pub force: bool,
    /// what only a cold restart may change may change
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cold: bool,
    /// nobody asked: the manager does it by itself, and what a person has said stands in its way
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unasked: bool,
    /// of a stop: why, in the words of whoever asks
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// only while this generation is in force
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub if_current: Option<GenerationId>,
    /// of a restart: only this group
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    /// it goes back unless it is confirmed within so many milliseconds
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_within_ms: Option<u64>,
    /// of a start that the watchdog asks for: only this
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub repair: Option<Repair>,
    /// the workers start on the sockets of a service that runs outside
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub take_over: Option<TakeOver>,
}

/// A service that runs outside, and whose sockets are taken over.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct TakeOver {
    /// the systemd unit that it is; `None`: it was named by its process
    pub unit: Option<String>,
    /// its main process
    pub pid: u32,
    /// when that started, in clock ticks since boot
    pub started: u64,
}

/// What the watchdog wants mended. Whatever is well stays as it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Repair {
    /// the slots in which nothing is well; none where only the loader's output is gone
    pub slots: Vec<Slot>,
    /// what was found, in words
    pub why: String,
    /// what `current` named then: where it names something else by now, there is nothing to mend
    #[serde(default)]
    pub current: Option<GenerationId>,
    /// the pointer names something else, and stays there
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub pointer_stays: bool,
}

/// A time of one boot: it goes on while the machine sleeps, nobody can set it, and a reboot ends it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BootTime {
    /// the boot id
    pub boot: String,
    /// milliseconds since that boot
    pub ms: u64,
}

/// A stage of an activation, in the order they run.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Stage {
    /// what can be refused before anything runs
    Preflight,
    /// the one-shot that makes `loaded/<key>`
    Loader,
    /// the checks, on the candidate's own path
    Canary,
    /// the move of the pointer
    Swing,
    /// the replacement of the workers
    Workers,
    /// the time after the last worker is ready
    Probation,
    /// the time in which somebody has to say that it may stay
    Confirm,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Stage::Preflight => "preflight",
            Stage::Loader => "loader",
            Stage::Canary => "canary",
            Stage::Swing => "swing",
            Stage::Workers => "workers",
            Stage::Probation => "probation",
            Stage::Confirm => "confirm",
        })
    }
}

/// How an event ended. Every event gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// the target is in force, its workers are ready and outlived probation
    Good,
    /// the target was in force already and its workers are well
    Unchanged,
    /// as good, but it goes back unless somebody confirms it in time
    Unconfirmed,
    /// only the pointer moved, as asked; proves nothing
    PointerOnly,
    /// the workers failed after the swing; everything is back
    Reverted,
    /// a stage before the swing failed; nothing moved
    Failed,
    /// refused before anything ran
    Refused,
    /// a later request took its place before it began
    Superseded,
    /// the way back failed too: a person has to look
    Stuck,
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Verdict::Good => "good",
            Verdict::Unchanged => "unchanged",
            Verdict::Unconfirmed => "unconfirmed",
            Verdict::PointerOnly => "pointer-only",
            Verdict::Reverted => "reverted",
            Verdict::Failed => "failed",
            Verdict::Refused => "refused",
            Verdict::Superseded => "superseded",
            Verdict::Stuck => "stuck",
        })
    }
}

/// One step of an activation as it went.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct StepReport {
    /// the stage it belongs to
    pub stage: Stage,
    /// which step: `loader`, `check 1`, `swing`, `web/1`
    pub step: String,
    /// how it went
    pub result: StepResult,
    /// what was done and why, or why not, in words for the operator
    pub why: String,
    /// how long it took, in milliseconds
    pub ms: u64,
}

/// How one step went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum StepResult {
    /// done
    Ok,
    /// there was nothing to do
    Skipped,
    /// failed; the activation turns back
    Failed,
    /// taken back
    Undone,
}

/// A line of an event's steps file. The first three are durable before what they announce is done;
/// a note only tells a waiting caller how far it is.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mark {
    /// an engine took the event up, in this boot
    Begun {
        /// boot id
        boot: String,
    },
    /// the pointer is about to move
    Swinging {
        /// where it was; `None`: there was none yet
        from: Option<GenerationId>,
        /// where it goes
        to: GenerationId,
    },
    /// everything is about to be taken back
    Undoing {
        /// the stage that failed
        stage: Stage,
        /// what failed
        why: String,
    },
    /// how often what ran the target already, when it was begun, had ended by then; where it had
    Exits {
        /// by slot
        slots: Vec<(Slot, u64)>,
    },
    /// progress
    Note(StepReport),
}

/// The verdict on an event, written once. `activate --json` prints it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Outcome {
    /// the event's number
    pub event: u64,
    /// what was asked
    pub request: Request,
    /// how it ended
    pub verdict: Verdict,
    /// whether another generation is in force now than before
    pub changed: bool,
    /// the last stage that ran
    pub stage: Stage,
    /// why it ended so; with the end of the output where a program failed
    pub reason: String,
    /// refused because the target is damaged
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// what was asked for
    pub target: GenerationId,
    /// what `current` names now
    pub serving: Option<GenerationId>,
    /// the key of the target's loader output, where its pipeline has a loader and was read
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub loaded: Option<LoadedKey>,
    /// what each external of the target was when the event began, by its glob, where all workers run with it
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub external: BTreeMap<String, ContentHash>,
    /// until when it has to be confirmed, where it has to be
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub confirm_by: Option<BootTime>,
    /// every step, in order
    pub steps: Vec<StepReport>,
    /// when it ended, UTC
    pub at: jiff::Timestamp,
    /// the machine that decided: `/etc/machine-id`
    pub machine: String,
    /// where it is from, if not from here: then it proves nothing here
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub imported: Option<ImportedEvent>,
}

/// The event of an imported outcome, as it was where it was decided.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ImportedEvent {
    /// its number there
    pub event: u64,
    /// when it was asked, UTC
    pub asked: jiff::Timestamp,
    /// who asked
    pub by: Actor,
}
