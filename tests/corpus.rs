//! Every kept input of the fuzz targets (`fuzz/README.md`) through the checks of its target.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests stand outside of the rooms")]

use std::path::Path;

#[path = "../fuzz/src/checks.rs"]
mod checks;

/// Gives every input of this target to its check.
fn replay(target: &str, check: fn(&[u8])) {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus").join(target);
    let mut inputs: Vec<_> = std::fs::read_dir(&dir).unwrap().map(|entry| entry.unwrap().path()).collect();
    inputs.sort();
    assert!(inputs.len() >= 10, "{} has only {} inputs", dir.display(), inputs.len());
    for input in inputs {
        let bytes = std::fs::read(&input).unwrap();
        assert!(std::panic::catch_unwind(|| check(&bytes)).is_ok(), "{} fails, see above", input.display());
    }
}

#[test]
fn every_archive_is_refused_or_a_whole_generation() {
    replay("archive", checks::archive);
}

#[test]
fn every_document_is_refused_at_its_place_or_a_value() {
    replay("document", checks::document);
}

#[test]
fn every_manifest_is_its_text() {
    replay("manifest", checks::manifest);
}

#[test]
fn every_word_shows_as_what_it_means() {
    replay("words", checks::words);
}
