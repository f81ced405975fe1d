//! The words of a pipeline: which stages a generation goes through and what its workers are.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::field::Document;
use super::section::SectionError;
use super::{
    Command, ContentHash, DocumentError, External, LoadedKey, Manifest, Parsed, Probe, RelPath, Section,
    Socket, Surroundings,
};

mod canary;
mod listen;
pub(super) mod read;
mod surroundings;

pub use canary::{Canary, Network};

/// Everything a `pointsman.yaml` (or `pipeline:` in the host file) says.
#[derive(Clone, Debug, PartialEq)]
pub struct Pipeline {
    /// every command sees its generation at this absolute path, in a mount namespace of its own
    pub mount: Option<String>,
    /// a change here needs a cold restart
    pub cold_only: Vec<Section>,
    /// files that live elsewhere, and are never rolled back
    pub external: Vec<External>,
    /// the static checks, in order
    pub checks: Vec<Command>,
    /// the limit of each check
    pub check_timeout: Duration,
    /// the live part of the canary stage
    pub canary: Option<Canary>,
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
    /// the sections its output depends on; with none and no external: the whole generation and every external
    pub if_changed: Vec<Section>,
    /// the externals its output depends on
    pub external: Vec<External>,
    /// its limit
    pub timeout: Duration,
    /// how much it may take; it is always the store's owner, whose output it makes
    pub surroundings: Surroundings,
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
    /// each process gets a writable copy of the loader's output for itself
    pub copies_loaded: bool,
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
    /// in which order a worker and its successor end and start
    pub replace: Replace,
    /// when and how a running worker is told of a new generation instead of being replaced
    pub reload: Option<Reload>,
    /// when and how soon it is started again after an end that nobody has asked for
    pub restart: Restart,
    /// how long it may be silent on `NOTIFY_SOCKET` when it is ready; `None`: for ever
    pub watchdog: Option<Duration>,
    /// who they are, what they may take, where they start
    pub surroundings: Surroundings,
}

/// The listening sockets of a group.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Listen {
    /// bound by the supervisor once, passed by name: `LISTEN_FDS`
    Sockets(BTreeMap<String, Socket>),
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
    /// this is answered with yes; it is asked again through probation
    Probe(Probe),
}

/// When and how soon a worker is started again after an end that nobody has asked for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Restart {
    /// after which ends
    pub on: RestartOn,
    /// how long after the second end in a row; it doubles with each
    pub first: Duration,
    /// and how long at most
    pub longest: Duration,
}

impl Default for Restart {
    fn default() -> Restart {
        Restart { on: RestartOn::Failure, first: Duration::from_secs(1), longest: Duration::from_secs(30) }
    }
}

/// After which ends a worker is started again.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum RestartOn {
    /// all but exit status 0 of a worker that was ready
    #[default]
    Failure,
    /// all
    Always,
    /// none
    Never,
}

/// When and how a running worker is told of a new generation.
#[derive(Clone, Debug, PartialEq)]
pub struct Reload {
    /// told where nothing but these sections (and the loader's output) has changed
    pub if_only: Vec<Section>,
    /// how
    pub tell: Tell,
}

/// How a running worker is told, and how it is known that it has understood.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Tell {
    /// by this command: exit status 0 says that it has
    Command(Command),
    /// by a signal
    Signal {
        /// `HUP`, `USR1`, ..
        signal: String,
        /// what says, after the signal, that it has
        verify: Ready,
    },
}

/// In which order a worker and its successor end and start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Replace {
    /// the new one is ready before the old one is asked to finish
    #[default]
    OneByOne,
    /// the old one has ended before the new one is started: for programs that cannot be there twice
    StopFirst,
}

impl Pipeline {
    /// Reads a `pointsman.yaml`. `file` is its name in errors; `service` names the group of `worker:`.
    ///
    /// # Errors
    /// The first thing that is not as it must be (`spec/pipeline.md`), with its place.
    pub fn parse(text: &[u8], file: &str, service: &str) -> Result<Pipeline, DocumentError> {
        read::pipeline(&Document::parse(text, file)?.root(), service)
    }

    /// No stages and no workers: only the pointer moves. What counts where nobody wrote a pipeline.
    pub fn pointer_only() -> Pipeline {
        Pipeline {
            mount: None,
            cold_only: vec![],
            external: vec![],
            checks: vec![],
            check_timeout: Duration::from_secs(30),
            canary: None,
            loader: None,
            workers: BTreeMap::new(),
            probation: Duration::from_secs(10),
        }
    }

    /// The key of the loader's output for the generation that has `manifest`; `None` without a loader.
    ///
    /// Over the mount, the unexpanded command, `program` (the hash of the file it runs) and the digests
    /// of the loader's sections and externals; with none, the whole generation and every external. `external`
    /// gives the digest of one; `read` a file's content, and is called only for sections that have a pointer.
    ///
    /// # Errors
    /// A section or an external has no digest.
    pub fn loaded_key<E: std::error::Error + 'static>(
        &self,
        manifest: &Manifest,
        program: ContentHash,
        external: &dyn Fn(&External) -> Result<ContentHash, E>,
        read: &mut dyn FnMut(&RelPath) -> Result<Vec<u8>, E>,
    ) -> Result<Option<LoadedKey>, SectionError<E>> {
        let Some(loader) = &self.loader else { return Ok(None) };
        let mut text = format!("pointsman-loaded 1\nprogram {program}\n");
        // lengths first, so that no two inputs read the same
        let mount = self.mount.as_deref().unwrap_or_default();
        text.push_str(&format!("mount {} {mount}\n", mount.len()));
        for word in &loader.command.0 {
            text.push_str(&format!("word {} {word}\n", word.len()));
        }
        let mut parsed = Parsed::default();
        for section in &loader.if_changed {
            let digest = section.digest_among(manifest, read, &mut parsed)?;
            text.push_str(&format!("section {digest} {} {section}\n", section.as_str().len()));
        }
        let whole = loader.if_changed.is_empty() && loader.external.is_empty();
        if whole {
            text.push_str(&format!("generation {}\n", manifest.id()));
        }
        for glob in if whole { &self.external } else { &loader.external } {
            let digest = external(glob).map_err(SectionError::External)?;
            text.push_str(&format!("external {digest} {} {glob}\n", glob.as_str().len()));
        }
        Ok(Some(LoadedKey::of(text.as_bytes())))
    }
}

/// A worker that asks for more time gets this many times what its pipeline says, at most: whatever waits for it has to
/// end, too.
const EXTENDED: u32 = 4;

/// Whether a worker of this kind is given `NOTIFY_SOCKET`.
pub fn talks(ready: &Ready, watchdog: Option<Duration>, tell: Option<&Tell>) -> bool {
    let verified = matches!(tell, Some(Tell::Signal { verify: Ready::Notify, .. }));
    *ready == Ready::Notify || watchdog.is_some() || verified
}

/// How long what is limited to `limit` may take for a worker that can ask for more time, where it `talks`.
pub fn longest(limit: Duration, talks: bool) -> Duration {
    if talks { limit.saturating_mul(EXTENDED) } else { limit }
}

impl Group {
    /// How long what is limited to `limit` may take where a worker asks for more time.
    pub fn longest(&self, limit: Duration) -> Duration {
        longest(limit, talks(&self.ready, self.watchdog, self.reload.as_ref().map(|reload| &reload.tell)))
    }

    /// Whether its workers are given the loader's output by name: `{loaded}` in command or environment.
    pub fn needs_loaded(&self) -> bool {
        self.command.0.iter().chain(self.env.values()).any(|text| read::mentions(text, "loaded"))
    }
}

#[cfg(test)]
#[path = "pipeline/tests.rs"]
mod tests;
