//! Checksummed lines: the append-only files of the store.
//!
//! A line is 16 hex digits (the first of the BLAKE3 of the rest), a space, JSON, a newline. What a crash
//! leaves of the last one is not read, and is cut before the next is appended.

use crate::fsx::{self, Dir, FsError};

/// How much of the end is read to find the last sound line; longer lines cost a full read.
const TAIL: u64 = 16 * 1024;

/// What a file of lines holds.
pub(super) struct Lines<'a> {
    /// the JSON of each sound line
    pub(super) sound: Vec<&'a str>,
    /// bytes up to the end of the last sound line
    pub(super) end: usize,
    /// number of a damaged line with a sound one after it: no crash does that
    pub(super) damaged: Option<usize>,
}

/// One line for `json`, which holds no newline.
pub(super) fn line(json: &str) -> String {
    format!("{} {json}\n", check(json))
}

fn check(json: &str) -> String {
    blake3::hash(json.as_bytes()).to_hex()[..16].to_owned()
}

/// Reads lines; never fails, see [`Lines::damaged`].
pub(super) fn parse(bytes: &[u8]) -> Lines<'_> {
    let mut lines = Lines { sound: Vec::new(), end: 0, damaged: None };
    let mut at = 0;
    let mut bad = None;
    for (index, whole) in bytes.split_inclusive(|b| *b == b'\n').enumerate() {
        at += whole.len();
        let sound = whole
            .strip_suffix(b"\n")
            .and_then(|text| std::str::from_utf8(text).ok())
            .and_then(|text| text.split_once(' '))
            .filter(|(sum, json)| *sum == check(json));
        if let Some((_, json)) = sound {
            lines.sound.push(json);
            lines.end = at;
            lines.damaged = lines.damaged.or(bad);
        } else {
            bad = bad.or(Some(index + 1));
        }
    }
    lines
}

/// Appends a line for each of `json` to `name` in `dir`, after cutting what a crash left there.
/// With `durable`, all lines and the name of a file that was made now are flushed before `Ok`. One writer
/// at a time.
pub(super) fn append(dir: &Dir, name: &str, json: &[String], durable: bool) -> Result<(), FsError> {
    let (mut file, made) = dir.append_file(name, 0o644)?;
    let len = fsx::Meta::of_fd(file.file(), file.path())?.len;
    let start = len.saturating_sub(TAIL);
    let tail = fsx::read_from(&mut file, start)?;
    // a line that begins before the window does not check out, and is not the last: no harm
    let mut end = start + parse(&tail).end as u64;
    if end == start && start > 0 {
        end = parse(&fsx::read_from(&mut file, 0)?).end as u64;
    }
    if end < len {
        fsx::cut(&file, end)?;
    }
    let text: String = json.iter().map(|json| line(json)).collect();
    fsx::append(&mut file, text.as_bytes())?;
    if durable {
        fsx::flush(&file)?;
        if made {
            dir.sync()?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s9_a_torn_or_damaged_end_is_not_read() {
        let text = line("{\"a\":1}") + &line("{\"b\":2}");
        for cut in 0..text.len() {
            let lines = parse(&text.as_bytes()[..cut]);
            assert_eq!(lines.sound.len(), usize::from(cut >= line("{\"a\":1}").len()));
            assert!(lines.damaged.is_none());
        }
        let zeros = [text.as_bytes(), &[0; 100]].concat();
        assert_eq!((parse(&zeros).sound.len(), parse(&zeros).end), (2, text.len()));
        let middle = text.replacen("\"a\"", "\"x\"", 1);
        assert_eq!((parse(middle.as_bytes()).sound.len(), parse(middle.as_bytes()).damaged), (1, Some(1)));
    }
}
