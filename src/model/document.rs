//! Where something is in a document, and what is wrong with it there.

use std::fmt;

/// What is wrong with a document, and where. Printed as
/// `pointsman.yaml:12:5: workers.web.instances: expected a number from 1 to 1000, found "many"`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DocumentError {
    /// the file's name as the reader of the message knows it; empty: not said yet
    pub file: String,
    /// line, from 1
    pub line: usize,
    /// column in characters, from 1
    pub column: usize,
    /// keys and indices that lead there: `workers.web.instances`; empty: the document itself
    pub path: String,
    /// what was expected, and what is there
    pub message: String,
}

impl DocumentError {
    pub(super) fn new(place: (usize, usize), path: &[Step], message: impl Into<String>) -> DocumentError {
        let (line, column) = place;
        DocumentError { file: String::new(), line, column, path: show(path), message: message.into() }
    }

    /// The same error, in this file.
    #[must_use]
    pub fn in_file(mut self, name: &str) -> DocumentError {
        name.clone_into(&mut self.file);
        self
    }
}

impl fmt::Display for DocumentError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            write!(f, "{}:", self.file)?;
        }
        write!(f, "{}:{}: ", self.line, self.column)?;
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        f.write_str(&self.message)
    }
}

impl std::error::Error for DocumentError {}

/// One step from a value into it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Key(String),
    Index(usize),
}

/// `workers.web.listen[2]`, with keys that are no plain word in quotes.
pub(super) fn show(path: &[Step]) -> String {
    let mut text = String::new();
    for step in path {
        match step {
            Step::Index(index) => text.push_str(&format!("[{index}]")),
            Step::Key(key) => {
                if !text.is_empty() {
                    text.push('.');
                }
                let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-');
                if !key.is_empty() && key.bytes().all(plain) {
                    text.push_str(key);
                } else {
                    text.push_str(&quoted(key));
                }
            }
        }
    }
    text
}

/// Text in quotes, control characters escaped, cut where it gets long.
pub(super) fn quoted(text: &str) -> String {
    let mut cut: String = text.chars().take(60).collect();
    if cut.len() < text.len() {
        cut.push_str("..");
    }
    format!("{cut:?}")
}

/// Line and column (from 1) of the byte `at` of `text`.
pub(super) fn place(text: &str, at: usize) -> (usize, usize) {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    let before = &text[..at];
    let line_start = before.rfind('\n').map_or(0, |newline| newline + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}
