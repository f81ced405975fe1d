//! How far long work is: one line on a terminal, written over by the next, nothing elsewhere.

use std::io::{IsTerminal as _, Write as _};
use std::sync::mpsc::{RecvTimeoutError, Sender, channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::store::{Meter, Progress};

use super::output::count;

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

/// What takes less shows nothing.
const MOMENT: Duration = Duration::from_millis(500);
/// Between two looks.
const TICK: Duration = Duration::from_millis(100);

/// The line. Dropping it removes it.
#[derive(Default)]
pub(super) struct ProgressLine {
    last: Arc<Mutex<Option<Progress>>>,
    drawing: Option<(Sender<()>, JoinHandle<()>)>,
}

impl ProgressLine {
    /// A line on stderr where that is a terminal, else nothing.
    pub(super) fn new() -> ProgressLine {
        let mut line = ProgressLine::default();
        if std::io::stderr().is_terminal() {
            let (end, ended) = channel::<()>();
            let last = Arc::clone(&line.last);
            let thread = std::thread::spawn(move || {
                let mut shown = false;
                let mut wait = MOMENT;
                while let Err(RecvTimeoutError::Timeout) = ended.recv_timeout(wait) {
                    wait = TICK;
                    let now = *last.lock().expect("nobody panics with it");
                    if let Some(now) = now {
                        show(&text(now));
                        shown = true;
                    }
                }
                if shown {
                    clear();
                }
            });
            line.drawing = Some((end, thread));
        }
        line
    }

    /// Takes note of how far the push is.
    pub(super) fn tell(&self, progress: Progress) {
        *self.last.lock().expect("nobody panics with it") = Some(progress);
    }
}

impl Drop for ProgressLine {
    fn drop(&mut self) {
        if let Some((end, thread)) = self.drawing.take() {
            drop(end);
            let _ = thread.join(); // a line that could not be drawn is no reason to fail
        }
    }
}

fn text(progress: Progress) -> String {
    match progress {
        Progress::Reading { entries, bytes } => {
            format!("reading: {}, {}", count(entries as u64, "entry", "entries"), size(bytes))
        }
        Progress::Flushing => "making it durable".to_owned(),
    }
}

/// A number of bytes as people read it.
fn size(bytes: u64) -> String {
    match bytes {
        0..0x40_0000 => format!("{} KiB", bytes >> 10),
        0x40_0000..0x1_0000_0000 => format!("{} MiB", bytes >> 20),
        _ => format!("{} GiB", bytes >> 30),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_what_has_come_so_far() {
        let reading = |entries, bytes| text(Progress::Reading { entries, bytes });
        assert_eq!(reading(1, 2000), "reading: 1 entry, 1 KiB");
        assert_eq!(reading(12_345, 45 << 20), "reading: 12345 entries, 45 MiB");
        assert_eq!(reading(2, 16 << 30), "reading: 2 entries, 16 GiB");
        assert_eq!(text(Progress::Flushing), "making it durable");
    }
}
