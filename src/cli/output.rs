//! Results to stdout, talk to stderr. A reader that goes away ends the output, not the work.

use std::io::{IsTerminal as _, Write as _};

use serde::Serialize;

use super::exit::Failure;

/// Where a command prints.
pub(super) struct Output {
    json: bool,
    colour: bool,
}

/// The colours, used on a terminal only.
#[derive(Clone, Copy)]
pub(super) enum Colour {
    Good,
    Bad,
    Dim,
}

impl Output {
    pub(super) fn new(json: bool) -> Output {
        Output { json, colour: std::io::stdout().is_terminal() && std::io::stderr().is_terminal() }
    }

    /// Whether one JSON object is wanted.
    pub(super) fn is_json(&self) -> bool {
        self.json
    }

    /// A line of the result.
    pub(super) fn line(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stdout().lock(), "{}", text.as_ref());
    }

    /// Bytes of the result, as they are.
    pub(super) fn bytes(&mut self, bytes: &[u8]) {
        let mut stdout = std::io::stdout().lock();
        let _ = stdout.write_all(bytes);
        let _ = stdout.flush();
    }

    /// The result as JSON.
    pub(super) fn object(&mut self, object: &impl Serialize) {
        let text = serde_json::to_string_pretty(object).expect("a plain report is JSON");
        self.line(text);
    }

    /// A line of talk.
    pub(super) fn talk(&mut self, text: impl AsRef<str>) {
        let _ = writeln!(std::io::stderr().lock(), "{}", text.as_ref());
    }

    pub(super) fn paint(&self, colour: Colour, text: &str) -> String {
        let code = match colour {
            Colour::Good => 32,
            Colour::Bad => 31,
            Colour::Dim => 2,
        };
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A command that could not be done: the chain of reasons, once.
    pub(super) fn failure(&mut self, failure: &Failure) {
        let mut text = failure.error.to_string();
        let mut source = failure.error.source();
        while let Some(error) = source {
            text.push_str(": ");
            text.push_str(&error.to_string());
            source = error.source();
        }
        if self.json {
            self.object(&serde_json::json!({ "error": text, "exit": failure.exit as u8 }));
        }
        self.talk(format!("{} {text}", self.paint(Colour::Bad, "pointsman:")));
    }
}
