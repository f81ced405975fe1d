//! A limit of memory by a control group: one for each process that has one, beneath that of whoever starts it.
//!
//! Where there is none to be had, the process runs without; [`is_enforced`] says so before.

use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::io::Errno;
use rustix::process::{PidfdFlags, Signal};

/// Where a supervisor goes that has been given a control group of its own: what has processes may have no groups
/// beneath it that limit anything (cgroup v2).
const OWN: &str = "pointsman-own";

/// What is said of a process that the kernel has ended, or a part of it, for want of memory.
pub(super) const SHORT: &str = "it needed more memory than `memory:` says";

/// The control group beneath which limited ones are made.
struct Base {
    directory: PathBuf,
    /// the one hierarchy, not one of memory alone
    unified: bool,
}

impl Base {
    /// That of process `pid` (`self`).
    fn of(pid: &str) -> Option<Base> {
        let groups = text(&Path::new("/proc").join(pid).join("cgroup"))?;
        let mut unified = None;
        for line in groups.lines() {
            let mut fields = line.splitn(3, ':').skip(1);
            let (controllers, path) = (fields.next()?, fields.next()?);
            let below = |root: &str| PathBuf::from(format!("{root}{}", path.trim_end_matches('/')));
            if controllers.split(',').any(|name| name == "memory") {
                return Some(Base { directory: below("/sys/fs/cgroup/memory"), unified: false });
            }
            if controllers.is_empty() {
                unified = Some(below("/sys/fs/cgroup"));
            }
        }
        let directory = unified.filter(|directory| has(directory, "cgroup.controllers"))?;
        let own = directory.file_name().is_some_and(|name| name == OWN);
        let directory = if own { directory.parent()?.to_owned() } else { directory };
        Some(Base { directory, unified: true })
    }

    fn group(&self, pid: u32) -> PathBuf {
        self.directory.join(format!("pointsman-{pid}"))
    }

    /// Whether groups beneath it may limit memory; where the whole of it is ours, it is made so.
    fn lends(&self) -> bool {
        if !self.unified || has(&self.directory, "cgroup.subtree_control") {
            return true;
        }
        let control = self.directory.join("cgroup.subtree_control");
        match write(&control, "+memory") {
            Ok(()) => true,
            Err(Errno::BUSY) if self.is_delegated() => self.make_room() && write(&control, "+memory").is_ok(),
            Err(_) => false,
        }
    }

    /// Whether the service manager has left it to us.
    fn is_delegated(&self) -> bool {
        ["trusted.delegate", "user.delegate"].iter().any(|name| {
            let mut value = [0u8; 8];
            rustix::fs::getxattr(&self.directory, *name, &mut value).is_ok_and(|len| value[..len] == *b"1")
        })
    }

    fn make_room(&self) -> bool {
        let own = self.directory.join(OWN);
        let _ = rustix::fs::mkdir(&own, Mode::from_raw_mode(0o755));
        let there = text(&self.directory.join("cgroup.procs")).unwrap_or_default();
        there.lines().all(|pid| write(&own.join("cgroup.procs"), pid).is_ok())
    }
}

/// Whether what process `pid` starts can be limited, as far as can be told without doing it.
pub fn is_enforced(pid: u32) -> bool {
    let Some(base) = Base::of(&pid.to_string()) else { return false };
    let may = rustix::fs::access(&base.directory, rustix::fs::Access::WRITE_OK).is_ok();
    may && (!base.unified || has(&base.directory, "cgroup.subtree_control") || base.is_delegated())
}

/// Whether process `pid` is in a control group that may take no more than `bytes`.
pub fn is_limited(pid: u32, bytes: u64) -> bool {
    let Some(base) = Base::of(&pid.to_string()) else { return false };
    let limit = if base.unified { "memory.max" } else { "memory.limit_in_bytes" };
    let limit = text(&base.directory.join(limit)).and_then(|text| text.trim().parse::<u64>().ok());
    limit.is_some_and(|limit| limit <= bytes)
}

/// Puts the calling process into a group of its own that takes no more than `bytes`, where one is to be had.
pub(super) fn enter(bytes: u64) {
    let Some(base) = Base::of("self").filter(Base::lends) else { return };
    let group = base.group(std::process::id());
    if rustix::fs::mkdir(&group, Mode::from_raw_mode(0o755)).is_err() {
        return;
    }
    let limit = if base.unified { "memory.max" } else { "memory.limit_in_bytes" };
    // one that is half gone is of no use
    let _ = write(&group.join("memory.oom.group"), "1");
    let limited = write(&group.join(limit), &bytes.to_string())
        .and_then(|()| write(&group.join("cgroup.procs"), &std::process::id().to_string()));
    if limited.is_err() {
        let _ = rustix::fs::rmdir(&group);
    }
}

/// Ends what is left in the group of process `pid`, which this process has started and which has ended, and removes
/// it. Whether the kernel has
/// killed something in it for want of memory.
pub(super) fn leave(pid: u32) -> bool {
    let Some(base) = Base::of("self") else { return false };
    let group = base.group(pid);
    let file = if base.unified { "memory.events" } else { "memory.oom_control" };
    let said = text(&group.join(file)).unwrap_or_default();
    // whoever has shed its environment is still in here
    for pid in text(&group.join("cgroup.procs")).unwrap_or_default().lines() {
        let process = pid.parse().ok().and_then(super::process::number);
        let process = process.and_then(|pid| rustix::process::pidfd_open(pid, PidfdFlags::empty()).ok());
        if let Some(process) = process {
            super::process::signal(&process, Signal::KILL);
            super::process::wait_readable(&process, Some(Duration::from_secs(1)));
        }
    }
    let killed = said.lines().find_map(|line| line.strip_prefix("oom_kill ")?.trim().parse::<u64>().ok());
    let _ = rustix::fs::rmdir(&group);
    killed.is_some_and(|killed| killed > 0)
}

/// Removes what a supervisor that is gone has left: only what is empty can be.
pub(super) fn sweep() {
    let Some(base) = Base::of("self") else { return };
    let names = crate::fsx::Dir::open(&base.directory).and_then(|dir| dir.names()).unwrap_or_default();
    for name in names.iter().filter_map(|name| name.to_str()) {
        let pid = name.strip_prefix("pointsman-").and_then(|pid| pid.parse::<u32>().ok());
        // one that has just been made for a process that starts is its own
        if pid.is_some_and(|pid| super::process::stat(pid).is_none()) {
            let _ = rustix::fs::rmdir(base.directory.join(name));
        }
    }
}

fn has(directory: &Path, list: &str) -> bool {
    text(&directory.join(list)).is_some_and(|names| names.split_whitespace().any(|name| name == "memory"))
}

fn text(path: &Path) -> Option<String> {
    String::from_utf8(crate::fsx::read_path(path, 1 << 20).ok()?).ok()
}

fn write(path: &Path, text: &str) -> Result<(), Errno> {
    super::namespace::write_file(path, text.as_bytes())
}
