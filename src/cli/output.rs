//! Results to stdout, talk to stderr. A reader that goes away ends the output, not the work.

use std::borrow::Cow;
use std::io::{ErrorKind, IsTerminal as _, Write as _};

use jiff::Timestamp;
use serde::Serialize;

use super::exit::{Exit, Failure};

/// Where a command prints.
pub(super) struct Output {
    json: bool,
    colour: bool,
    /// stdout is a terminal
    terminal: bool,
    /// the reader has gone away
    unread: bool,
    /// why the result could not be written; a reader that went away is no reason
    lost: Option<std::io::Error>,
}

/// The colours, used on a terminal only.
#[derive(Clone, Copy)]
pub(super) enum Colour {
    Good,
    Bad,
    Dim,
}

impl Output {
    /// Of a command of which one JSON object is wanted or not; `colours` may be used where people look.
    pub(super) fn new(json: bool, colours: bool) -> Output {
        let terminal = std::io::stdout().is_terminal();
        let colour = colours && terminal && std::io::stderr().is_terminal();
        Output { json, colour, terminal, unread: false, lost: None }
    }

    /// Whether one JSON object is wanted.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// A line of the result, for people: a pipe ends at a terminal as a rule.
    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        self.bytes(format!("{}\n", escaped(text.as_ref())).as_bytes());
    }

    /// Lines of the result, in one write.
    pub(super) fn lines(&mut self, lines: &[String]) {
        if !lines.is_empty() {
            self.line(lines.join("\n"));
        }
    }

    /// Bytes of the result, as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        let written = stdout.write_all(bytes).and_then(|()| stdout.flush());
        match written {
            Ok(()) => {}
            Err(error) if error.kind() == ErrorKind::BrokenPipe => self.unread = true,
            Err(error) => self.lost = Some(error),
        }
    }

    /// What a program has written: into a pipe as it is, on a terminal as it can be shown.
    pub(super) fn foreign(&mut self, bytes: &[u8]) {
        match self.terminal {
            true => self.bytes(escaped(&String::from_utf8_lossy(bytes)).as_bytes()),
            false => self.bytes(bytes),
        }
    }

    /// Whether nobody reads the result any more, or it cannot be written.
    pub(super) fn is_unread(&self) -> bool {
        self.unread || self.lost.is_some()
    }

    /// The result as JSON.
    pub(super) fn object(&mut self, object: &impl Serialize) {
        let text = serde_json::to_string_pretty(object).expect("a plain report is JSON");
        // it is JSON's own business how a text is written
        self.bytes(format!("{text}\n").as_bytes());
    }

    /// A line of talk.
    pub(super) fn talk(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{}", escaped(text.as_ref()));
    }

    /// What did not go well, as everything that fails begins.
    pub(super) fn complain(&mut self, text: impl AsRef<str>) {
        let program = self.paint(Colour::Bad, "pointsman:");
        self.talk(format!("{program} {}", text.as_ref()));
    }

    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => 32,
            Colour::Bad => 31,
            Colour::Dim => 2,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A command that could not be done.
    pub(super) fn failure(&mut self, failure: &Failure) {
        let text = failure.text();
        self.error_object(&text, failure.exit);
        self.complain(text);
    }

    /// With `--json`: why a command could not be done.
    pub(super) fn error_object(&mut self, text: &str, exit: Exit) {
        if self.json {
            self.object(&serde_json::json!({ "error": text, "exit": exit as u8 }));
        }
    }

    /// The exit code of a command that ended with `exit`: a result that could not be written is a failure.
    pub(super) fn finish(&mut self, exit: Exit) -> Exit {
        let Some(error) = self.lost.take() else { return exit };
        self.complain(format!("cannot write the result to stdout: {error}; what was asked for is done"));
        if exit == Exit::Done { Exit::Failed } else { exit }
    }
}

/// What [`Output::paint`] puts around a text.
const COLOURS: [&str; 4] = ["\x1b[32m", "\x1b[31m", "\x1b[2m", "\x1b[0m"];

/// `text` with every character written out that a terminal would obey or that would hide others: all controls but
/// line feed and tab, and what turns the direction of writing. Colours of our own stay.
pub(super) fn escaped(text: &str) -> Cow<'_, str> {
    let obeyed = |c: char| {
        (c.is_control() && !matches!(c, '\n' | '\t'))
            || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
    };
    if !text.contains(obeyed) {
        return Cow::Borrowed(text);
    }
    let mut shown = String::with_capacity(text.len() + 16);
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if let Some(colour) = COLOURS.iter().find(|colour| rest.starts_with(**colour)) {
            shown.push_str(colour);
            rest = &rest[colour.len()..];
            continue;
        }
        match obeyed(c) {
            true => shown.extend(c.escape_default()),
            false => shown.push(c),
        }
        rest = &rest[c.len_utf8()..];
    }
    Cow::Owned(shown)
}

/// A time as people read it: to the second, UTC.
pub(super) fn when(at: Timestamp) -> String {
    at.strftime("%F %TZ").to_string()
}

/// `1 entry`, `2 entries`.
pub(super) fn count(number: u64, one: &str, many: &str) -> String {
    format!("{number} {}", if number == 1 { one } else { many })
}

/// The first line of a reason that may have the output of a program under it.
pub(super) fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn c8_what_a_terminal_would_obey_is_written_out() {
        assert_eq!(escaped("plain\ttext\nand é"), "plain\ttext\nand é");
        assert_eq!(escaped("a\x1b]0;title\x07b\rc"), "a\\u{1b}]0;title\\u{7}b\\rc");
        assert_eq!(escaped("\u{9b}31m \u{7f} \u{202e}"), "\\u{9b}31m \\u{7f} \\u{202e}");
        assert_eq!(escaped("\x1b[31mbad\x1b[0m\x1b[2J"), "\x1b[31mbad\x1b[0m\\u{1b}[2J");
    }
}
