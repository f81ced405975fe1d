//! How far long work is: one line on a terminal, written over by the next, nothing elsewhere.

use std::io::{IsTerminal as _, Write as _};

use crate::store::Meter;

/// Shows `text` in place of the line before.
pub(super) fn show(text: &str) {
    let mut stderr = std::io::stderr().lock();
    if stderr.is_terminal() {
        let _ = write!(stderr, "\r\x1b[K{text}");
    }
}

/// Takes the line away.
pub(super) fn clear() {
    show("");
}

/// Shows what has been `done`.
pub(super) fn meter(done: &'static str) -> Meter<'static> {
    Meter::new(move |generations, bytes| {
        show(&format!("{done}: {generations} generations, {} MiB", bytes >> 20));
    })
}
