//! What workers write: a plain file for each process, opened for appending and theirs from then on; nobody of us
//! reads along. Bounded all the same: what grows too long is put aside, and of those that have ended few are kept.

use std::collections::BTreeSet;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::fs::inotify::{self, CreateFlags, Reader, WatchFlags};

use crate::fsx::{Dir, FsError};
use crate::model::{Slot, chain};

use super::clock;

/// A file that is longer is put aside.
const LONGEST: u64 = 4 << 20;
/// Of what is put aside, this much at most is kept: more than was written since the last look, as a rule.
const ASIDE: u64 = 2 * LONGEST;
/// How many processes of a slot are remembered besides those that are there.
const ENDED: usize = 4;
/// How many events' stages are.
const EVENTS: usize = 32;
/// After a look at what has grown, nobody looks again for this long: whoever writes much does not wake us for
/// every line.
const PAUSE: Duration = Duration::from_millis(100);

/// The output of one worker process, or of the stages of one event.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct LogFile {
    /// what had it started
    pub event: u64,
    /// the number of the process; 0: the stages of the event
    pub n: u64,
    /// whose; `None`: the stages of the event
    pub slot: Option<Slot>,
    /// its path; what was put aside of it is beside it as `NAME.1`
    pub path: PathBuf,
}

/// The name of the file for process `n`, started in `slot` for `event`.
pub(super) fn name(slot: &Slot, event: u64, n: u64) -> String {
    format!("{}.{}.{event}.{n}.log", slot.group, slot.instance)
}

/// Where the stages of `event` are logged in the run directory `run`; makes room for one more.
pub fn of_stages(run: &Path, event: u64) -> PathBuf {
    let mut old: Vec<LogFile> = list(run).unwrap_or_default();
    old.retain(|file| file.slot.is_none() && file.event != event);
    forget(old, EVENTS - 1);
    run.join("log").join(format!("stages.{event}.log"))
}

/// Every output that is kept in the run directory `run`, in the order in which it was begun.
///
/// # Errors
/// The directory cannot be read. One that is not there holds nothing.
pub fn list(run: &Path) -> Result<Vec<LogFile>, FsError> {
    let directory = run.join("log");
    let Some(dir) = crate::fsx::optional(Dir::open(&directory))? else { return Ok(Vec::new()) };
    let names = dir.names()?;
    let mut files: Vec<LogFile> = names.iter().filter_map(|name| parse(&directory, name.to_str()?)).collect();
    files.sort();
    Ok(files)
}

fn parse(directory: &Path, name: &str) -> Option<LogFile> {
    let stem = name.strip_suffix(".log")?;
    let path = directory.join(name);
    if let Some(event) = stem.strip_prefix("stages.") {
        return Some(LogFile { event: event.parse().ok()?, n: 0, slot: None, path });
    }
    let mut fields = stem.rsplitn(4, '.');
    let (n, event) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let (instance, group) = (fields.next()?.parse().ok()?, fields.next()?.to_owned());
    Some(LogFile { event, n, slot: Some(Slot { group, instance }), path })
}

/// Makes room for one more of `slot`: `there` are the numbers of the processes that write still.
pub(super) fn prune(run: &Path, slot: &Slot, there: &BTreeSet<u64>) {
    let mut old = list(run).unwrap_or_default();
    old.retain(|file| file.slot.as_ref() == Some(slot) && !there.contains(&file.n));
    forget(old, ENDED);
}

fn forget(mut files: Vec<LogFile>, keep: usize) {
    let surplus = files.len().saturating_sub(keep);
    for file in files.drain(..surplus) {
        let Some((directory, name)) = file.path.parent().zip(file.path.file_name()) else { continue };
        let Ok(dir) = Dir::open(directory) else { continue };
        let _ = dir.remove_file(name);
        let _ = dir.remove_file(aside(&name.to_string_lossy()));
    }
}

fn aside(name: &str) -> String {
    format!("{name}.1")
}

/// The end of what is in `path` from `from` on, with what was put aside of it, as text.
pub(super) fn tail(path: &Path, from: u64, limit: u64) -> String {
    let bytes = crate::fsx::read_tail(path, from, limit).unwrap_or_default();
    let short = limit.saturating_sub(bytes.len() as u64);
    let old = PathBuf::from(aside(&path.to_string_lossy()));
    let mut all = match from {
        0 => crate::fsx::read_tail(&old, 0, short).unwrap_or_default(),
        _ => Vec::new(),
    };
    all.extend(bytes);
    String::from_utf8_lossy(&all).trim_end().to_owned()
}

/// Looks after the length of all files in `log`.
pub(super) struct Logs {
    dir: Dir,
    /// tells which have grown; `None`: nothing does, and nothing is put aside
    watch: Option<OwnedFd>,
    /// not looked at before
    pause: Option<Instant>,
}

impl Logs {
    /// Those in the run directory `run`.
    pub(super) fn open(run: &Path) -> Result<Logs, FsError> {
        let dir = Dir::create_all(&run.join("log"), 0o755)?;
        let watch = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK).and_then(|watch| {
            inotify::add_watch(&watch, dir.path(), WatchFlags::MODIFY)?;
            Ok(watch)
        });
        if let Err(error) = &watch {
            tracing::warn!(%error, "cannot watch the output of the workers: it is not bounded");
        }
        let mut logs = Logs { dir, watch: watch.ok(), pause: None };
        // what has grown while nobody was there
        let names = logs.dir.names()?;
        for name in names.iter().filter(|name| name.to_string_lossy().ends_with(".log.1.new")) {
            logs.dir.remove_tree(name)?;
        }
        logs.look(&names.iter().filter_map(|name| name.to_str()).map(str::to_owned).collect());
        Ok(logs)
    }

    /// The descriptor to poll, when there is time for it.
    pub(super) fn fd(&self) -> Option<&OwnedFd> {
        self.watch.as_ref().filter(|_| self.pause.is_none())
    }

    /// When [`Logs::on_time`] has something to do at the latest.
    pub(super) fn next(&self) -> Option<Instant> {
        self.pause
    }

    pub(super) fn on_time(&mut self) {
        self.pause = self.pause.filter(|at| !clock::until(*at).is_zero());
    }

    /// Some have grown.
    pub(super) fn tend(&mut self) {
        let Some(watch) = &self.watch else { return };
        let mut buffer = [MaybeUninit::uninit(); 4096];
        let mut reader = Reader::new(watch, &mut buffer);
        let mut grown = BTreeSet::new();
        while let Ok(event) = reader.next() {
            grown.extend(event.file_name().and_then(|name| name.to_str().ok()).map(str::to_owned));
        }
        self.look(&grown);
        self.pause = Some(clock::after(PAUSE));
    }

    fn look(&mut self, names: &BTreeSet<String>) {
        for name in names.iter().filter(|name| name.ends_with(".log")) {
            if self.dir.meta(name).is_ok_and(|meta| meta.len > LONGEST)
                && let Err(error) = crate::fsx::put_aside(&self.dir, name, &aside(name), ASIDE)
            {
                tracing::warn!(name, error = chain(&error), "is not put aside");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w20_outputs_are_found_by_their_names() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::create_all(&temp.path().join("log"), 0o755).unwrap();
        let slot = Slot { group: "web".to_owned(), instance: 2 };
        for n in 1..=7 {
            dir.write_unflushed(name(&slot, 10 + n, n), b"said", 0o640).unwrap();
        }
        dir.write_unflushed("web.2.11.1.log.1", b"said before", 0o640).unwrap();
        dir.write_unflushed("stages.12.log", b"", 0o640).unwrap();
        dir.write_unflushed("supervisor.log", b"", 0o640).unwrap();
        let events =
            || list(temp.path()).unwrap().iter().map(|file| (file.event, file.n)).collect::<Vec<_>>();
        assert_eq!(events(), [(11, 1), (12, 0), (12, 2), (13, 3), (14, 4), (15, 5), (16, 6), (17, 7)]);
        // the oldest lives
        prune(temp.path(), &slot, &[1].into());
        assert_eq!(events(), [(11, 1), (12, 0), (14, 4), (15, 5), (16, 6), (17, 7)]);
        prune(temp.path(), &slot, &[].into());
        assert_eq!(events(), [(12, 0), (14, 4), (15, 5), (16, 6), (17, 7)]);
        assert!(!dir.exists("web.2.11.1.log.1").unwrap());
        assert_eq!(of_stages(temp.path(), 13), temp.path().join("log/stages.13.log"));
    }

    #[test]
    fn w20_the_tail_goes_on_in_what_was_put_aside() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        dir.write_unflushed("a.log", b"0123456789", 0o640).unwrap();
        crate::fsx::put_aside(&dir, "a.log", "a.log.1", 8).unwrap();
        dir.append_file("a.log", 0o640)
            .map(|(mut file, _)| crate::fsx::append(&mut file, b"ab").unwrap())
            .unwrap();
        let path = temp.path().join("a.log");
        assert_eq!(tail(&path, 0, 5), "789ab");
        assert_eq!(tail(&path, 0, 100), "23456789ab");
        assert_eq!(tail(&path, 1, 100), "b");
    }
}
