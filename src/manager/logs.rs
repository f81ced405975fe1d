//! What workers and stages have written, from the files that they write to.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::mpsc::channel;

use crate::fsx::{self, Meta};
use crate::supervise::logs::{LogFile, list};

use super::wake::watch_events;
use super::{ManagerError, Service};

/// Which output is wanted.
#[derive(Clone, Debug, Default)]
pub struct LogQuery {
    /// of this group only
    pub group: Option<String>,
    /// of what was started for this event only, with its stages
    pub event: Option<u64>,
    /// the last so many lines of each; all where `None`
    pub lines: Option<usize>,
}

/// A piece of one output, as it was written.
#[derive(Debug)]
pub struct LogPiece<'a> {
    /// whose it is
    pub file: &'a LogFile,
    /// what was written
    pub bytes: Vec<u8>,
}

/// More than two of the longest files together.
const LARGEST: u64 = 1 << 30;

impl LogQuery {
    fn wants(&self, file: &LogFile) -> bool {
        match &file.slot {
            Some(slot) => {
                self.group.as_ref().is_none_or(|group| slot.group == *group)
                    && self.event.is_none_or(|event| file.event == event)
            }
            None => self.group.is_none() && self.event == Some(file.event),
        }
    }

    /// The outputs that are wanted, in the order in which they were begun.
    fn files(&self, service: &Service) -> Result<Vec<LogFile>, ManagerError> {
        let mut files = list(&service.place.run).map_err(ManagerError::File)?;
        files.retain(|file| self.wants(file));
        Ok(files)
    }
}

/// Hands all that is kept of the wanted outputs to `show`, and says how many there were.
///
/// # Errors
/// One of them cannot be read.
pub fn logs(
    service: &Service,
    query: &LogQuery,
    show: &mut dyn FnMut(LogPiece<'_>),
) -> Result<usize, ManagerError> {
    let files = query.files(service)?;
    for file in &files {
        let bytes = whole(file)?;
        show(LogPiece { file, bytes: last_lines(bytes, query.lines) });
    }
    Ok(files.len())
}

/// As [`logs`], and then what comes, also of processes that are started later and beyond what is put aside, until
/// `show` says `false`, or the run directory has been emptied as that of another boot.
///
/// # Errors
/// One of them cannot be read, or nobody can watch them.
pub fn follow_logs(
    service: &Service,
    query: &LogQuery,
    show: &mut dyn FnMut(LogPiece<'_>) -> bool,
) -> Result<(), ManagerError> {
    let directory = service.place.run.join("log");
    fsx::Dir::create_all(&directory, 0o755).map_err(ManagerError::File)?;
    let (sender, changed) = channel();
    let _watcher = watch_events(&directory, move || {
        let _ = sender.send(());
    })?;
    let watched = Meta::of_path(&directory).map_err(ManagerError::File)?.identity;
    let mut places: BTreeMap<PathBuf, Place> = BTreeMap::new();
    let mut lines = query.lines;
    loop {
        let files = query.files(service)?;
        places.retain(|path, _| files.iter().any(|file| file.path == *path));
        for file in &files {
            let place = places.entry(file.path.clone()).or_default();
            let is_new = *place == Place::default();
            let (bytes, now) = place.advance(file)?;
            *place = now;
            let bytes = if is_new { last_lines(bytes, lines) } else { bytes };
            if !bytes.is_empty() && !show(LogPiece { file, bytes }) {
                return Ok(());
            }
        }
        // what begins later is shown from its beginning
        lines = None;
        if changed.recv().is_err() {
            return Ok(());
        }
        while changed.try_recv().is_ok() {}
        // of what comes in its place nobody would hear
        let now = fsx::optional(Meta::of_path(&directory)).map_err(ManagerError::File)?;
        if now.is_none_or(|now| now.identity != watched) {
            return Ok(());
        }
    }
}

/// All that is kept of an output; one that is just now put aside may be shown in part.
fn whole(file: &LogFile) -> Result<Vec<u8>, ManagerError> {
    let aside = PathBuf::from(format!("{}.1", file.path.display()));
    let identity = fsx::optional(Meta::of_path(&aside)).map_err(ManagerError::File)?;
    Ok(Place::default().read(file, &aside, identity.map(|meta| meta.identity))?.0)
}

/// How far an output was read.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Place {
    /// what has been put aside last, by identity
    aside: Option<(u64, u64)>,
    /// the length that was read since
    offset: u64,
}

impl Place {
    /// What has come since, and where that ends.
    fn advance(&self, file: &LogFile) -> Result<(Vec<u8>, Place), ManagerError> {
        let aside = PathBuf::from(format!("{}.1", file.path.display()));
        let new = PathBuf::from(format!("{}.new", aside.display()));
        // what has been put aside, and whether something is just now
        let state = || {
            let there = |path| fsx::optional(Meta::of_path(path)).map_err(ManagerError::File);
            Ok::<_, ManagerError>((there(&aside)?.map(|meta| meta.identity), there(&new)?.is_some()))
        };
        let before = state()?;
        let found = self.read(file, &aside, before.0)?;
        // while it is, nobody knows which part is which; its end is told
        if before.1 || state()? != before { Ok((Vec::new(), self.clone())) } else { Ok(found) }
    }

    fn read(
        &self,
        file: &LogFile,
        aside: &PathBuf,
        identity: Option<(u64, u64)>,
    ) -> Result<(Vec<u8>, Place), ManagerError> {
        let read = |path: &PathBuf, from: u64| {
            let bytes = fsx::optional(fsx::read_path(path, LARGEST)).map_err(ManagerError::File)?;
            let bytes = bytes.unwrap_or_default();
            let from = usize::try_from(from).unwrap_or(usize::MAX);
            Ok::<_, ManagerError>((bytes.get(from..).unwrap_or_default().to_vec(), bytes.len() as u64))
        };
        if identity == self.aside {
            let (bytes, length) = read(&file.path, self.offset)?;
            return Ok((bytes, Place { aside: identity, offset: self.offset.max(length) }));
        }
        let (mut bytes, _) = read(aside, self.offset)?;
        let (rest, offset) = read(&file.path, 0)?;
        bytes.extend(rest);
        Ok((bytes, Place { aside: identity, offset }))
    }
}

fn last_lines(bytes: Vec<u8>, lines: Option<usize>) -> Vec<u8> {
    let Some(lines) = lines else { return bytes };
    let body = bytes.strip_suffix(b"\n").unwrap_or(&bytes);
    let mut ends = body.iter().enumerate().rev().filter(|(_, byte)| **byte == b'\n').map(|(at, _)| at + 1);
    match lines {
        0 => Vec::new(),
        lines => bytes[ends.nth(lines - 1).unwrap_or(0)..].to_vec(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c9_the_last_lines_are_whole() {
        let last = |text: &str, lines| String::from_utf8(last_lines(text.into(), lines)).unwrap();
        assert_eq!(last("a\nb\nc\n", None), "a\nb\nc\n");
        assert_eq!(last("a\nb\nc\n", Some(2)), "b\nc\n");
        assert_eq!(last("a\nb\nc", Some(1)), "c");
        assert_eq!(last("a\n", Some(5)), "a\n");
        assert_eq!((last("a\n", Some(0)), last("", Some(1))), (String::new(), String::new()));
    }

    #[test]
    fn c9_nothing_is_shown_twice_or_left_out_when_it_is_put_aside() {
        let temp = tempfile::tempdir().unwrap();
        let dir = fsx::Dir::open(temp.path()).unwrap();
        let file = LogFile { event: 1, n: 1, slot: None, path: temp.path().join("a.log") };
        let write = |text: &str| {
            let (mut file, _) = dir.append_file("a.log", 0o640).unwrap();
            fsx::append(&mut file, text.as_bytes()).unwrap();
        };
        let mut place = Place::default();
        let mut seen = String::new();
        let mut look = |seen: &mut String| {
            let (bytes, now) = place.advance(&file).unwrap();
            place = now;
            seen.push_str(&String::from_utf8(bytes).unwrap());
        };
        write("one two ");
        look(&mut seen);
        write("three ");
        fsx::put_aside(&dir, "a.log", "a.log.1", 100).unwrap();
        // longer than what was read before
        write("four five six seven ");
        look(&mut seen);
        look(&mut seen);
        fsx::put_aside(&dir, "a.log", "a.log.1", 100).unwrap();
        look(&mut seen);
        write("eight");
        look(&mut seen);
        assert_eq!(seen, "one two three four five six seven eight");
    }
}
