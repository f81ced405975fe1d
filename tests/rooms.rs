//! The walls between the rooms: a table of allowed arrows, checked against every `crate::` in `src/`.

#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests stand outside of the rooms")]

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// room, and the rooms it may name
const ARROWS: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    ("lib", &["activation", "cli", "fsx", "manager", "model", "store", "supervise"]),
    ("cli", &["activation", "fsx", "manager", "model", "store", "supervise"]),
    ("manager", &["activation", "fsx", "model", "store", "supervise"]),
    ("activation", &["model"]),
    ("supervise", &["fsx", "model"]),
    ("store", &["fsx", "model"]),
    ("model", &[]),
    ("fsx", &[]),
];

/// What a room may not say, because another room owns that door.
const DOORS: &[(&str, &[&str])] = &[
    ("std::process::Command", &["supervise"]),
    ("std::fs", &["fsx"]),
    ("fs_err::", &["fsx", "store"]),
    ("Instant::now", &["manager", "supervise"]),
    ("Timestamp::now", &["manager"]),
    ("env::var", &["main"]),
    ("rustix::", &["fsx", "supervise", "cli", "manager"]),
    // the monotonic clock, whose number workers are told and tell
    ("rustix::time::", &["manager", "supervise"]),
    ("println!", &[]),
];

fn sources(dir: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => sources(&path, found),
            false if path.extension().is_some_and(|e| e == "rs") => found.push(path),
            false => {}
        }
    }
}

/// Every line of the product with its room: no comments, no unit tests.
fn lines() -> Vec<(String, String, usize, String)> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
    let mut files = Vec::new();
    sources(&root, &mut files);
    assert!(files.len() > 40, "the walk over src/ found only {} files", files.len());
    let texts: Vec<(PathBuf, String)> =
        files.into_iter().map(|file| (file.clone(), std::fs::read_to_string(file).unwrap())).collect();
    // `#[cfg(test)]` before `mod name;` makes a whole file a test, before `mod name {` the rest of this one
    let tests: Vec<&str> = texts.iter().flat_map(|(_, text)| test_modules(text)).collect();
    let mut lines = Vec::new();
    for (file, text) in &texts {
        let rel = file.strip_prefix(&root).unwrap();
        // the file of such a module, and those below it
        if rel.with_extension("").iter().any(|part| tests.contains(&part.to_str().unwrap())) {
            continue;
        }
        let first = rel.components().next().unwrap().as_os_str().to_str().unwrap();
        let room = first.trim_end_matches(".rs").to_owned();
        let product = text.split("#[cfg(test)]\nmod tests {").next().unwrap();
        for (index, line) in product.lines().enumerate() {
            if !line.trim_start().starts_with("//") {
                lines.push((room.clone(), rel.display().to_string(), index + 1, line.to_owned()));
            }
        }
    }
    lines
}

fn test_modules(text: &str) -> impl Iterator<Item = &str> {
    let declared = text.split("#[cfg(test)]\nmod ").skip(1);
    declared.filter_map(|rest| rest.lines().next()?.strip_suffix(';'))
}

#[test]
fn rooms_name_only_the_rooms_below_them() {
    let arrows: BTreeMap<&str, &[&str]> = ARROWS.iter().copied().collect();
    let mut wrong = Vec::new();
    for (room, file, number, line) in lines() {
        let allowed =
            arrows.get(room.as_str()).unwrap_or_else(|| panic!("src/{file} is in no room: add it to ARROWS"));
        let own = |named: &str| named == room || allowed.contains(&named);
        for crate_name in ["crate::", "pointsman::"] {
            for (at, _) in line.match_indices(crate_name) {
                let rest = &line[at + crate_name.len()..];
                let named: String = rest.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
                if !own(&named) {
                    let grouped = if named.is_empty() { " (name one room at a time)" } else { "" };
                    wrong.push(format!(
                        "src/{file}:{number}: {room} may not name `{named}`{grouped}: {}",
                        line.trim()
                    ));
                }
            }
        }
    }
    assert!(
        wrong.is_empty(),
        "the arrows are in src/lib.rs; move the code or pass data:\n{}",
        wrong.join("\n")
    );
}

#[test]
fn every_door_has_one_room() {
    let mut wrong = Vec::new();
    for (room, file, number, line) in lines() {
        for (said, rooms) in DOORS {
            // of the system, the manager has the clock only
            let other = room == "manager" && *said == "rustix::" && !line.contains("rustix::time::");
            if line.contains(said) && (other || !rooms.contains(&room.as_str())) {
                wrong.push(format!("src/{file}:{number}: {room} says `{said}`: {}", line.trim()));
            }
        }
    }
    assert!(wrong.is_empty(), "these doors belong to other rooms:\n{}", wrong.join("\n"));
}
