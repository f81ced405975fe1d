//! The record `supervisor.json`: what of a supervisor outlives it, within one boot.

use std::io::Write as _;
use std::path::Path;

use serde::{Deserialize, Serialize};

use crate::fsx::{Dir, FsError};

use super::slots::Table;
use super::wire::WorkerReport;

pub(super) const NAME: &str = "supervisor.json";

/// The record in a run directory.
pub(super) struct Record {
    run: Dir,
    name: &'static str,
    boot: String,
    /// which directory it is: what was copied elsewhere with it are the processes of the original
    place: (u64, u64),
}

#[derive(Serialize, Deserialize)]
struct Saved<T> {
    boot: String,
    #[serde(default)]
    place: (u64, u64),
    news: u64,
    table: T,
}

impl Record {
    /// The supervisor's record in `run`, which need not be there yet.
    pub(super) fn open(run: Dir) -> Result<Record, FsError> {
        Record::named(run, NAME)
    }

    /// The record of that name.
    pub(super) fn named(run: Dir, name: &'static str) -> Result<Record, FsError> {
        let boot = crate::fsx::read_path(Path::new("/proc/sys/kernel/random/boot_id"), 64)?;
        let place = run.own_meta()?.identity;
        Ok(Record { run, name, boot: String::from_utf8_lossy(&boot).trim().to_owned(), place })
    }

    /// The table and the number of the last news; nothing where there is none of this boot and directory.
    pub(super) fn load(&self) -> Result<(Table, u64), FsError> {
        let Some(bytes) = crate::fsx::optional(self.run.read(self.name, 64 << 20))? else {
            return Ok(Default::default());
        };
        let saved = serde_json::from_slice::<Saved<Table>>(&bytes)
            .map_err(|e| FsError::new("understand", self.run.path().join(self.name), e))?;
        let current = Some(saved).filter(|saved| saved.boot == self.boot && saved.place == self.place);
        Ok(current.map_or_else(Default::default, |saved| (saved.table, saved.news)))
    }

    /// Writes it anew and renames it into place. Not flushed: no boot but this one reads it.
    pub(super) fn save(&self, table: &Table, news: u64) -> Result<(), FsError> {
        let saved = Saved { boot: self.boot.clone(), place: self.place, news, table };
        let bytes = serde_json::to_vec(&saved).expect("the record is plain data");
        let temporary = format!(".{}.new", self.name);
        self.run.remove_tree(&temporary)?;
        let mut file = self.run.create_file(&temporary, 0o600)?;
        file.write_all(&bytes).map_err(|e| FsError::new("write", self.run.path().join(&temporary), e))?;
        self.run.rename(&temporary, &self.run, self.name)
    }
}

/// What whoever keeps the record `name` in `run` wrote down last that it runs, as [`super::Ask::Slots`] answers it;
/// it need not live, and what it started serves on without it. Writes nothing. Empty where there is no record of
/// this boot.
///
/// # Errors
/// A record that cannot be read: nobody knows what runs.
pub(super) fn recorded(run: &Path, name: &'static str) -> Result<Vec<WorkerReport>, FsError> {
    Ok(table(run, name)?.report())
}

/// The highest number of an event that whoever keeps the record `name` in `run` has started or told anything for in
/// this boot, as far as it remembers; 0 where it remembers none, or it cannot be read.
pub(super) fn last_event(run: &Path, name: &'static str) -> u64 {
    table(run, name).map(|table| table.last_event()).unwrap_or_default()
}

// most run directories have one record at most, and every command looks for all of them
fn table(run: &Path, name: &'static str) -> Result<Table, FsError> {
    match crate::fsx::optional(Dir::open(run))? {
        Some(dir) if dir.exists(name)? => Ok(Record::named(dir, name)?.load()?.0),
        _ => Ok(Table::default()),
    }
}
