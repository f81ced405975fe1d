//! A service of today, whose sockets are to be taken over: which process it is, and what is to be done with it then.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::fsx::{self, Dir};
use crate::model::{Listen, Pipeline, TakeOver, chain};
use crate::supervise::{Taken, process_start};

use super::ManagerError;

/// The process that `what` names: a number, the absolute path of a pid file, else a systemd unit (`.service` may be
/// left out), whose main process is known by its control group.
///
/// # Errors
/// [`ManagerError::Refused`]: there is no such process, or it is not clear which.
pub fn take_over(what: &str) -> Result<TakeOver, ManagerError> {
    find(what).map_err(|why| ManagerError::Refused { why: format!("--take-over {what}: {why}") })
}

fn find(what: &str) -> Result<TakeOver, String> {
    let (unit, pid) = match what.parse::<u32>() {
        Ok(pid) => (None, pid),
        Err(_) if what.starts_with('/') => {
            let text = fsx::read_path(Path::new(what), 64).map_err(|e| chain(&e))?;
            let text = String::from_utf8_lossy(&text).into_owned();
            (
                None,
                text.trim()
                    .parse()
                    .map_err(|_| "it is no pid file: a number is expected in it".to_owned())?,
            )
        }
        Err(_) => {
            let unit = if what.contains('.') { what.to_owned() } else { format!("{what}.service") };
            let pid = main_process(&unit)?;
            (Some(unit), pid)
        }
    };
    let started = process_start(pid).ok_or_else(|| format!("there is no process {pid}"))?;
    Ok(TakeOver { unit, pid, started })
}

/// The process of a unit that no other process of it has started.
fn main_process(unit: &str) -> Result<u32, String> {
    let mut members = BTreeMap::new();
    for name in Dir::open(Path::new("/proc")).and_then(|proc| proc.names()).map_err(|e| chain(&e))? {
        let Some(pid) = name.to_str().and_then(|name| name.parse::<u32>().ok()) else { continue };
        let read = |file: &str| {
            let text = fsx::read_path(Path::new(&format!("/proc/{pid}/{file}")), 1 << 16).unwrap_or_default();
            String::from_utf8_lossy(&text).into_owned()
        };
        // ID:CONTROLLERS:PATH, and a path of a unit ends with it or goes on below it
        let is_of = |line: &str| {
            line.splitn(3, ':').nth(2).is_some_and(|path| path.split('/').any(|part| part == unit))
        };
        if read("cgroup").lines().any(is_of) {
            let parent =
                read("status").lines().find_map(|line| line.strip_prefix("PPid:")?.trim().parse().ok());
            members.insert(pid, parent.unwrap_or(0u32));
        }
    }
    let all: BTreeSet<u32> = members.keys().copied().collect();
    let roots: Vec<u32> =
        members.iter().filter(|(_, parent)| !all.contains(parent)).map(|(pid, _)| *pid).collect();
    match roots.as_slice() {
        [pid] => Ok(*pid),
        [] => Err(format!(
            "no process of the unit {unit} runs; name a process, or its pid file by an absolute path"
        )),
        several => {
            let pids: Vec<String> = several.iter().map(ToString::to_string).collect();
            Err(format!("the unit has the processes {}; name the one that has the sockets", pids.join(", ")))
        }
    }
}

/// What each group of a pipeline listens on.
pub(super) fn listens(pipeline: &Pipeline) -> BTreeMap<String, Listen> {
    pipeline.workers.iter().map(|(name, group)| (name.clone(), group.listen.clone())).collect()
}

/// What to tell of a service whose sockets were taken: it serves beside the workers until somebody ends it.
pub(super) fn what_next(from: &TakeOver, taken: &Taken) -> String {
    let addresses = taken.taken.join(", ");
    let mut text = match &from.unit {
        Some(unit) => format!(
            "{unit} (process {}) still serves beside the workers, on {addresses}: `systemctl disable --now {unit}` ends it",
            from.pid
        ),
        None => format!(
            "process {} still serves beside the workers, on {addresses}: end it in the way in which it finishes what it \
             has begun (nginx: `kill -QUIT {}`), and see to it that nothing starts it at boot",
            from.pid, from.pid
        ),
    };
    text.push_str("; until then `pointsman stop` goes back to it");
    if !taken.left.is_empty() {
        text.push_str(&format!("; nobody will listen on {} then", taken.left.join(", ")));
    }
    if taken.taken.iter().any(|address| address.starts_with("unix")) {
        text.push_str("; look whether it removes the paths of its unix sockets at its end");
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w35_a_service_is_named_by_its_process_its_pid_file_or_its_unit() {
        let own = std::process::id();
        assert_eq!(find(&own.to_string()).unwrap().pid, own);
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.write_new("a.pid", format!("{own}\n").as_bytes(), 0o600).unwrap();
        dir.write_new("b.pid", b"none\n", 0o600).unwrap();
        assert_eq!(find(temp.path().join("a.pid").to_str().unwrap()).unwrap().pid, own);
        assert!(find(temp.path().join("b.pid").to_str().unwrap()).unwrap_err().contains("no pid file"));
        assert!(find("4194305").unwrap_err().contains("there is no process 4194305"));
        let error = find("pointsman-no-such-unit").unwrap_err();
        assert!(error.contains("no process of the unit pointsman-no-such-unit.service runs"), "{error}");
    }
}
