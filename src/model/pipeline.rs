//! The words of a pipeline: which stages a generation goes through and what its workers are.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Address, Command, Section};

/// Everything a `pointsman.yaml` (or `pipeline:` in the host file) says.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// every command sees its generation at this absolute path, in a mount namespace of its own
    pub mount: Option<String>,
    /// the static checks, in order
    pub checks: Vec<Command>,
    /// the limit of each check
    pub check_timeout: Duration,
    /// the one-shot before the checks
    pub loader: Option<Loader>,
    /// the workers by group; empty: only the pointer moves
    pub workers: BTreeMap<String, Group>,
    /// how long the workers must live after the last one is ready
    pub probation: Duration,
}

/// The one-shot stage that makes `loaded/<key>`.
#[derive(Clone, Debug, PartialEq)]
pub struct Loader {
    /// what to run; `{loaded}` is the directory it shall fill
    pub command: Command,
    /// the sections its output depends on; empty: the whole generation
    pub if_changed: Vec<Section>,
    /// its limit
    pub timeout: Duration,
}

/// One group of equal worker processes.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// what to run
    pub command: Command,
    /// how many
    pub instances: u32,
    /// the listening sockets it gets
    pub listen: Listen,
    /// its environment, besides what every worker gets
    pub env: BTreeMap<String, String>,
    /// how it says that it is ready
    pub ready: Ready,
    /// the limit for getting ready
    pub start_timeout: Duration,
    /// how long a replaced worker may finish what it is doing
    pub grace_shutdown_time: Duration,
    /// the signal that asks it to finish: `TERM`, `QUIT`, ..
    pub stop_signal: String,
}

/// The listening sockets of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listen {
    /// bound by the supervisor once, passed by name: `LISTEN_FDS`
    Sockets(BTreeMap<String, Address>),
    /// bound by the first worker itself, kept, and offered to its successor in this variable ("4;5;")
    Inherit(String),
}

/// How a worker says that it is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ready {
    /// `READY=1` on `NOTIFY_SOCKET`
    Notify,
    /// this file, created after the start and not empty
    File(String),
    /// still alive after this time
    After(Duration),
}
