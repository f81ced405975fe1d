//! Measures memory and disk for the headroom check; [`crate::activation::headroom`] decides.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::activation::headroom::{self, Headroom, Memory, Space};
use crate::activation::{Act, Plan};
use crate::fsx::{self, Dir};
use crate::model::{Request, Slot, chain};
use crate::supervise::WorkerReport;

use super::Service;
use super::facts::Prepared;

/// What every activation writes into the store: marks, outcome, history, and what is set aside for the way back.
const RECORDS: Space = Space { bytes: 1 << 20, inodes: Some(16) };
/// What a started process takes in the run directory: its own directory with links, records, and its output.
const PROCESS: Space = Space { bytes: 64 << 10, inodes: Some(8) };

/// Looks for room for `prepared` beside `workers`, whose supervisor has the process id `supervisor`. Gives what is
/// doubtful, to be told with the verdict.
///
/// What goes back, brings the service up or finishes what was begun is never refused for want of room: it is told.
///
/// # Errors
/// What there is too little of, with figures.
pub(super) fn check(
    service: &Service,
    prepared: &Prepared,
    supervisor: Option<u32>,
    workers: &[WorkerReport],
) -> Result<Option<String>, String> {
    let plan = &prepared.plan;
    let refuses = !plan.finishes
        && match plan.request {
            Request::Activate | Request::Restart => true,
            Request::Rollback | Request::Start | Request::Confirm | Request::Stop => false,
        };
    let mut doubts = Vec::new();
    let found = disks(service, prepared)?.into_iter().chain([memory(prepared, supervisor, workers)]);
    for headroom in found {
        match headroom {
            Headroom::Enough => {}
            Headroom::Short(why) if refuses => return Err(why),
            Headroom::Short(why) | Headroom::Doubtful(why) => doubts.push(why),
        }
    }
    Ok((!doubts.is_empty()).then(|| doubts.join("; ")))
}

/// What would stand in the way of any activation here and now; nothing where there is room.
pub(super) fn standing(service: &Service) -> Option<String> {
    let place = &service.place;
    [(&place.root, RECORDS), (&place.run, PROCESS)].into_iter().find_map(|(path, need)| {
        let dir = match Dir::open(path) {
            Ok(dir) => dir,
            Err(error) => return Some(chain(&error)),
        };
        match dir.is_read_only() {
            Ok(true) => return Some(format!("{} cannot be written to any more", path.display())),
            Ok(false) => {}
            Err(error) => return Some(chain(&error)),
        }
        match disk(path, need) {
            Ok(Headroom::Enough) => None,
            Ok(Headroom::Short(why) | Headroom::Doubtful(why)) | Err(why) => Some(why),
        }
    })
}

fn disk(path: &Path, need: Space) -> Result<Headroom, String> {
    let (bytes, inodes) = Dir::open(path).and_then(|dir| dir.room()).map_err(|e| chain(&e))?;
    Ok(headroom::disk(&path.display().to_string(), need, Space { bytes, inodes }))
}

fn disks(service: &Service, prepared: &Prepared) -> Result<[Headroom; 2], String> {
    let plan = &prepared.plan;
    let mut need = RECORDS;
    if runs(plan, |act| *act == Act::Load)
        && let Some(last) = prepared.running_loaded
    {
        // no better guess than what the last run of it has made
        let (bytes, inodes) = service.store.loaded_size(last).map_err(|e| chain(&e))?.unwrap_or_default();
        need.bytes = need.bytes.saturating_add(bytes);
        need.inodes = need.inodes.map(|own| own.saturating_add(inodes));
    }
    let started = plan.steps.iter().filter(|step| step.run && step.act.starts_program()).count() as u64;
    let processes =
        Space { bytes: PROCESS.bytes * started, inodes: PROCESS.inodes.map(|inodes| inodes * started) };
    Ok([disk(&service.place.root, need)?, disk(&service.place.run, processes)?])
}

fn runs(plan: &Plan, which: impl Fn(&Act) -> bool) -> bool {
    plan.steps.iter().any(|step| step.run && which(&step.act))
}

fn memory(prepared: &Prepared, supervisor: Option<u32>, workers: &[WorkerReport]) -> Headroom {
    if !runs(&prepared.plan, |act| matches!(act, Act::Replace(_))) {
        return Headroom::Enough;
    }
    let groups = &prepared.target.pipeline.workers;
    let said: BTreeMap<String, u64> =
        groups.iter().filter_map(|(name, group)| Some((name.clone(), group.surroundings.memory?))).collect();
    let mut measured = BTreeMap::new();
    let mut running: BTreeSet<Slot> = BTreeSet::new();
    for worker in workers.iter().filter(|worker| worker.accepted) {
        let Some(pid) = worker.pid else { continue };
        running.insert(worker.slot.clone());
        if !said.contains_key(&worker.slot.group) {
            let largest: &mut u64 = measured.entry(worker.slot.group.clone()).or_default();
            *largest = resident(pid, 0).max(*largest);
        }
    }
    let found = Memory { said, measured, available: available(supervisor) };
    headroom::memory(&prepared.plan, &running, &found)
}

/// What is left for the children of `supervisor`: of the machine, and of every control group that it is in.
fn available(supervisor: Option<u32>) -> Option<u64> {
    let of_machine = kib(&text("/proc/meminfo")?, "MemAvailable:");
    let groups = supervisor.and_then(|pid| text(&format!("/proc/{pid}/cgroup"))).unwrap_or_default();
    let of_groups = levels(&groups).into_iter().filter_map(|level| {
        let [limit, used, reclaimed] = level.files;
        let read = |name: &str| text(&format!("{}/{name}", level.directory));
        room(&read(limit)?, &read(used)?, &read("memory.stat")?, reclaimed)
    });
    of_machine.into_iter().chain(of_groups).min()
}

/// A control group that may limit memory, and what its files are called: limit, use, and the line of
/// `memory.stat` with what the kernel takes back when it is short.
struct Level {
    directory: String,
    files: [&'static str; 3],
}

/// The control groups of a process, as `/proc/PID/cgroup` lists them, up to the root.
fn levels(cgroup: &str) -> Vec<Level> {
    let mut levels = Vec::new();
    for line in cgroup.lines() {
        let mut fields = line.splitn(3, ':').skip(1);
        let (Some(controllers), Some(path)) = (fields.next(), fields.next()) else { continue };
        let (root, files) = if controllers.is_empty() {
            ("/sys/fs/cgroup", ["memory.max", "memory.current", "inactive_file"])
        } else if controllers.split(',').any(|name| name == "memory") {
            (
                "/sys/fs/cgroup/memory",
                ["memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"],
            )
        } else {
            continue;
        };
        let mut path = path.trim_end_matches('/');
        loop {
            levels.push(Level { directory: format!("{root}{path}"), files });
            match path.rsplit_once('/') {
                Some((parent, _)) => path = parent,
                None => break,
            }
        }
    }
    levels
}

/// What a control group leaves; `None` where it sets no limit.
fn room(limit: &str, used: &str, stat: &str, reclaimed: &str) -> Option<u64> {
    let (limit, used): (u64, u64) = (limit.trim().parse().ok()?, used.trim().parse().ok()?);
    let reclaimed = stat.lines().find_map(|line| line.strip_prefix(reclaimed)?.strip_prefix(' '));
    let reclaimed: u64 = reclaimed.and_then(|number| number.parse().ok()).unwrap_or_default();
    Some(limit.saturating_sub(used.saturating_sub(reclaimed)))
}

/// How deep a worker's own processes are looked for.
const DEEPEST: u32 = 4;

/// The resident memory of a process and, where the kernel lists them, its children, in bytes; 0 where it is gone.
fn resident(pid: u32, depth: u32) -> u64 {
    let own =
        text(&format!("/proc/{pid}/status")).and_then(|status| kib(&status, "VmRSS:")).unwrap_or_default();
    let children = match depth {
        DEEPEST.. => String::new(),
        _ => text(&format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default(),
    };
    let children = children.split_whitespace().filter_map(|pid| pid.parse().ok());
    children.fold(own, |sum, child| sum.saturating_add(resident(child, depth + 1)))
}

/// The number of the line `NAME: 123 kB`, in bytes.
fn kib(text: &str, name: &str) -> Option<u64> {
    let number = text.lines().find_map(|line| line.strip_prefix(name))?.trim().strip_suffix(" kB")?;
    number.parse::<u64>().ok()?.checked_mul(1024)
}

/// A file that the kernel makes up. What is not there tells nothing.
fn text(path: &str) -> Option<String> {
    let bytes = fsx::read_path(Path::new(path), 1 << 20).ok()?;
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a24_what_the_kernel_says_is_read() {
        assert_eq!(kib("MemTotal: 9 kB\nMemAvailable:   12 kB\n", "MemAvailable:"), Some(12 << 10));
        assert_eq!(kib("MemTotal: 9 kB\n", "MemAvailable:"), None);
        let directories = |text| levels(text).into_iter().map(|level| level.directory).collect::<Vec<_>>();
        assert_eq!(
            directories("0::/system.slice/web.service\n"),
            ["/sys/fs/cgroup/system.slice/web.service", "/sys/fs/cgroup/system.slice", "/sys/fs/cgroup"]
        );
        assert_eq!(
            directories("9:name=systemd:/\n4:cpu,memory:/a\n"),
            ["/sys/fs/cgroup/memory/a", "/sys/fs/cgroup/memory"]
        );
        assert_eq!(directories(""), Vec::<String>::new());
        let stat = "active_file 1\ninactive_file 30\n";
        assert_eq!(room("100\n", "80\n", stat, "inactive_file"), Some(50));
        assert_eq!(room("100", "180", stat, "inactive_file"), Some(0));
        assert_eq!(room("max\n", "80\n", stat, "inactive_file"), None);
        assert!(resident(std::process::id(), 0) > 1 << 20);
        assert!(available(Some(std::process::id())).is_some());
    }
}
