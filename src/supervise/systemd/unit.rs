//! The units of a run directory: their names, what they are made of, and what their states mean. Pure.

use std::path::Path;
use std::time::Duration;

use zbus::zvariant::Value;

use crate::model::{Listen, Ready, RestartOn};
use crate::supervise::process;
use crate::supervise::wire::WorkerSpec;

use super::bus::Property;
use super::own::NOT_AGAIN;

/// What `__ready` may take beyond the worker's own limit: it ends by itself before.
const SLACK: Duration = Duration::from_secs(10);

/// The names of all units of one run directory begin alike.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Names {
    prefix: String,
}

impl Names {
    /// Those of the run directory `run`: that of a named service gives its name, and any other place is told
    /// apart by a hash.
    pub(super) fn of(run: &Path) -> Names {
        let text = run.to_string_lossy();
        let name = run.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let named = run.parent().is_some_and(|parent| parent.ends_with("pointsman"))
            && (text.starts_with("/run/pointsman/") || text.starts_with("/run/user/"));
        let word = match named {
            true => name,
            false => blake3::hash(text.as_bytes()).to_hex()[..12].to_owned(),
        };
        // no service's prefix is the beginning of another one's
        Names { prefix: format!("pointsman-{}", escaped(&word).replace('-', "\\x2d")) }
    }

    /// What all of them begin with.
    pub(super) fn prefix(&self) -> String {
        format!("{}-", self.prefix)
    }

    /// The unit of process `n` of `group`.
    pub(super) fn worker(&self, group: &str, n: u64) -> String {
        format!("{}-{}@{n}.service", self.prefix, escaped(group))
    }

    /// All units of workers, as a pattern.
    pub(super) fn workers(&self) -> String {
        format!("{}-*@*.service", self.prefix)
    }

    /// The number of the process that the unit `name` is.
    pub(super) fn number(&self, name: &str) -> Option<u64> {
        let rest = name.strip_prefix(&self.prefix())?.strip_suffix(".service")?;
        rest.rsplit_once('@')?.1.parse().ok()
    }

    /// The unit that keeps the sockets.
    pub(super) fn holder(&self) -> String {
        format!("{}-holder.service", self.prefix)
    }
}

/// `text` as a part of a unit's name.
fn escaped(text: &str) -> String {
    let letter = |byte: u8| match byte {
        b'0'..=b'9' | b'a'..=b'z' | b'A'..=b'Z' | b'_' | b'.' | b'-' => char::from(byte).to_string(),
        other => format!("\\x{other:02x}"),
    };
    text.bytes().map(letter).collect()
}

/// The words of a program to run; systemd is to leave `$` as it is.
fn command(words: &[&str]) -> Value<'static> {
    let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
    Value::from(vec![(words[0].clone(), words, false)])
}

fn literal(path: &Path) -> String {
    path.display().to_string().replace('$', "$$")
}

fn microseconds(time: Duration) -> Value<'static> {
    // zero is for ever in their words
    Value::from(u64::try_from(time.as_micros()).unwrap_or(u64::MAX - 1).max(1))
}

/// Exit statuses, then signals.
fn statuses(exits: &[i32], signals: &[i32]) -> Value<'static> {
    Value::from((exits.to_vec(), signals.to_vec()))
}

fn output(log: &Path) -> [Property; 2] {
    let log = log.display().to_string();
    [
        ("StandardOutputFileToAppend", Value::from(log.clone())),
        ("StandardErrorFileToAppend", Value::from(log)),
    ]
}

/// Where the files of one process are.
pub(super) struct Files<'a> {
    /// our own binary
    pub(super) program: &'a Path,
    /// what it is to become
    pub(super) start: &'a Path,
    /// what there is to wait for
    pub(super) task: &'a Path,
    /// what it says
    pub(super) log: &'a Path,
}

/// The unit of one process that runs `spec`; `holder` keeps its sockets; `version` is systemd's.
pub(super) fn worker(spec: &WorkerSpec, files: &Files<'_>, holder: &str, version: u32) -> Vec<Property> {
    let program = literal(files.program);
    let notifies = spec.ready == Ready::Notify;
    let description = format!("pointsman worker {} on {}", spec.slot, spec.generation.short());
    let signal = process::signal_named(&spec.stop_signal).map_or(15, rustix::process::Signal::as_raw);
    let restart = match spec.restart.on {
        RestartOn::Failure => "on-failure",
        RestartOn::Always => "always",
        RestartOn::Never => "no",
    };
    let mut all: Vec<Property> = vec![
        ("Description", Value::from(description)),
        ("Type", Value::from(if notifies { "notify" } else { "exec" })),
        ("NotifyAccess", Value::from(if spec.talks() { "all" } else { "none" })),
        ("ExecStart", command(&[&program, "__exec", "0"])),
        ("StandardInputFile", Value::from(files.start.display().to_string())),
        (
            "TimeoutStartUSec",
            microseconds(if notifies { spec.start_timeout } else { spec.start_timeout + SLACK }),
        ),
        ("TimeoutStartFailureMode", Value::from("kill")),
        ("TimeoutStopUSec", microseconds(spec.grace_shutdown_time)),
        ("KillMode", Value::from("mixed")),
        ("KillSignal", Value::from(signal)),
        ("Restart", Value::from(restart)),
        ("RestartUSec", microseconds(spec.restart.first)),
        ("StartLimitIntervalUSec", Value::from(0u64)),
        ("RestartPreventExitStatus", statuses(&[i32::from(NOT_AGAIN)], &[])),
        // an end by these is no good end of a worker that nobody has asked to end
        ("RestartForceExitStatus", statuses(&[], &[1, 2, 13, 15])),
        ("Wants", Value::from(vec![holder.to_owned()])),
        ("After", Value::from(vec![holder.to_owned()])),
    ];
    if version >= 254 && spec.restart.longest > spec.restart.first {
        // each pause twice as long
        let ratio = spec.restart.longest.as_secs_f64() / spec.restart.first.as_secs_f64().max(0.001);
        all.push(("RestartSteps", Value::from((ratio.log2().ceil() as u32).max(1))));
        all.push(("RestartMaxDelayUSec", microseconds(spec.restart.longest)));
    }
    if !notifies || matches!(spec.listen, Listen::Inherit(_)) {
        all.push(("ExecStartPost", command(&[&program, "__ready", &literal(files.task), "${MAINPID}"])));
    }
    if let Some(watchdog) = spec.watchdog.filter(|_| notifies) {
        all.push(("WatchdogUSec", microseconds(watchdog)));
    }
    if let Some(memory) = spec.launch.surroundings.memory {
        all.push(("MemoryMax", Value::from(memory)));
        // one that is half gone is of no use
        all.push(("OOMPolicy", Value::from("kill")));
    }
    all.extend(output(files.log));
    all
}

/// The unit that keeps the sockets of `run`.
pub(super) fn holder(program: &Path, run: &Path, log: &Path) -> Vec<Property> {
    let run = literal(run);
    let mut all: Vec<Property> = vec![
        ("Description", Value::from(format!("pointsman sockets of {run}"))),
        ("Type", Value::from("notify")),
        ("FileDescriptorStoreMax", Value::from(1024u32)),
        ("ExecStart", command(&[&literal(program), "holder", "--run", &run])),
        ("Restart", Value::from("always")),
        ("RestartUSec", Value::from(100_000u64)),
        ("StartLimitIntervalUSec", Value::from(0u64)),
        ("OOMPolicy", Value::from("continue")),
    ];
    all.extend(output(log));
    all
}

/// What a unit is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    /// on its way up
    Starting,
    /// up
    Ready,
    /// its process has ended, and is started again after a pause
    Waiting,
    /// on its way down
    Leaving,
    /// down
    Gone,
}

/// What the states of a unit mean; `job`: something is still to be done with it.
pub(super) fn state(active: &str, sub: &str, job: bool) -> State {
    match (active, sub) {
        ("active" | "reloading", _) => State::Ready,
        ("activating", "auto-restart" | "auto-restart-queued") => State::Waiting,
        ("activating", _) => State::Starting,
        ("deactivating", _) => State::Leaving,
        _ if job => State::Starting,
        _ => State::Gone,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d1_names_are_those_of_the_service_or_of_the_place() {
        let names = Names::of(Path::new("/run/pointsman/web"));
        assert_eq!(names.worker("a b", 7), "pointsman-web-a\\x20b@7.service");
        assert_eq!(names.number("pointsman-web-a\\x20b@7.service"), Some(7));
        assert_eq!(names.number("pointsman-other-a@7.service"), None);
        assert!(!Names::of(Path::new("/run/pointsman/web-a")).prefix().starts_with(&names.prefix()));
        assert_ne!(Names::of(Path::new("/a/run")), Names::of(Path::new("/b/run")));
    }

    #[test]
    fn d5_a_unit_that_has_a_job_is_not_gone() {
        assert_eq!(state("inactive", "dead", true), State::Starting);
        assert_eq!(state("failed", "failed", false), State::Gone);
        assert_eq!(state("activating", "auto-restart", false), State::Waiting);
    }
}
