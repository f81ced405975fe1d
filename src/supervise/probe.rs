//! Asks a running worker from outside whether it does its work.

use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::model::{Command, HttpUrl, Listen, Probe};

use super::clock;
use super::launch::{self, Given};
use super::oneshot::{self, Cancel, OneShotError};
use super::wire::WorkerSpec;

/// How much of a probe's last output is told with its end.
const TAIL: u64 = 4 << 10;

/// The process that is asked.
#[derive(Clone, Debug)]
pub struct Subject {
    /// what it runs: placeholders and environment of a probe are those of its command
    pub spec: WorkerSpec,
    /// its own directory: `{run}`
    pub directory: PathBuf,
    /// its pid: `POINTSMAN_PID`
    pub pid: u32,
    /// the run directory of the service
    pub run: PathBuf,
}

/// Asks `subject` once, for at most `limit`. Whoever calls `cancel` ends it at once.
///
/// A command runs as checks do ([`oneshot::run`]): in a process group of its own that is gone afterwards, on
/// every way out. It dies with the calling thread.
///
/// # Errors
/// The answer is no, or there is none: what was asked, why, and the end of a command's output.
pub fn ask(
    probe: &Probe,
    subject: &Subject,
    limit: Duration,
    program: &Path,
    cancel: &Cancel,
) -> Result<(), String> {
    match probe {
        Probe::Http(url) => {
            let launch = &subject.spec.launch;
            let text = launch::expand_words(url, launch, &given(subject)?).map_err(|e| e.to_string())?;
            let url = HttpUrl::parse(&text).map_err(|e| format!("{text}: {e}"))?;
            super::http::get(&url, clock::after(limit), cancel).map_err(|why| format!("GET {text}: {why}"))
        }
        Probe::Command(command) => run(command, subject, limit, program, cancel),
    }
}

/// Runs `command` about `subject`; fine is exit status 0. As for [`ask`].
pub(super) fn run(
    command: &Command,
    subject: &Subject,
    limit: Duration,
    program: &Path,
    cancel: &Cancel,
) -> Result<(), String> {
    let mut launch = subject.spec.launch.clone();
    launch.command = command.clone();
    let (status, tail) = match oneshot::run_about(&launch, &given(subject)?, subject, limit, program, cancel)
    {
        Ok(finished) if finished.status.success() => return Ok(()),
        Ok(finished) => (finished.status.to_string(), finished.output_tail),
        Err(OneShotError::TimedOut { limit, output_tail }) => {
            (format!("took longer than {limit:?} and was killed"), output_tail)
        }
        Err(error) => (crate::model::chain(&error), String::new()),
    };
    let tail = last(&tail);
    let said = if tail.is_empty() { String::new() } else { format!("\n{tail}") };
    Err(format!("`{command}`: {status}{said}"))
}

fn given(subject: &Subject) -> Result<Given<'_>, String> {
    let run = subject.directory.to_str().ok_or("the run directory's path is not UTF-8")?;
    let Subject { spec, pid, .. } = subject;
    let about = Some(*pid);
    let mut given =
        Given { run, worker: Some(spec), about, copies_loaded: spec.copies_loaded, ..Given::default() };
    if let Listen::Sockets(sockets) = &subject.spec.listen {
        given.sockets = sockets.iter().map(|(name, socket)| (name.as_str(), &socket.address)).collect();
    }
    Ok(given)
}

fn last(text: &str) -> &str {
    let mut from = text.len().saturating_sub(TAIL as usize);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    text[from..].trim_end()
}
