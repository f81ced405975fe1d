//! Walks a strictly read document, and knows where it is when something is wrong.

use std::ops::RangeInclusive;
use std::time::Duration;

use super::document::{DocumentError, Step, quoted};
use super::value::Value;
use super::yaml::{Spot, locate};
use super::{duration, size, yaml};

/// A document in a format of ours, read strictly, with its text for the places of errors.
pub(super) struct Document<'t> {
    text: &'t str,
    file: &'t str,
    value: Value,
}

impl<'t> Document<'t> {
    pub(super) fn parse(text: &'t [u8], file: &'t str) -> Result<Document<'t>, DocumentError> {
        let value = yaml::parse_strict(text).map_err(|error| error.in_file(file))?;
        let text = std::str::from_utf8(text).unwrap_or_default(); // it was read: it is UTF-8
        Ok(Document { text, file, value })
    }

    pub(super) fn root(&self) -> Field<'_> {
        Field { document: self, path: Vec::new(), value: &self.value }
    }
}

/// One value of a document, and the way to it.
#[derive(Clone)]
pub(super) struct Field<'d> {
    document: &'d Document<'d>,
    path: Vec<Step>,
    value: &'d Value,
}

impl<'d> Field<'d> {
    /// An error at this value.
    pub(super) fn error(&self, message: impl Into<String>) -> DocumentError {
        self.error_at(Spot::Value, message)
    }

    /// An error at this value's key.
    pub(super) fn key_error(&self, message: impl Into<String>) -> DocumentError {
        self.error_at(Spot::Key, message)
    }

    fn error_at(&self, spot: Spot, message: impl Into<String>) -> DocumentError {
        let place = locate(self.document.text, &self.path, spot);
        DocumentError::new(place, &self.path, message).in_file(self.document.file)
    }

    /// "expected so-and-so, found this".
    pub(super) fn expected(&self, what: &str) -> DocumentError {
        self.error(format!("expected {what}, found {}", self.found()))
    }

    /// The value in a few words.
    pub(super) fn found(&self) -> String {
        match self.value {
            Value::Null => "nothing".to_owned(),
            Value::Bool(yes) => yes.to_string(),
            Value::Int(number) => number.to_string(),
            Value::Float(number) => number.to_string(),
            Value::String(text) | Value::Word(text) => quoted(text),
            Value::Tagged(..) => "a tag".to_owned(),
            Value::Seq(_) => "a list".to_owned(),
            Value::Map(_) => "a map".to_owned(),
        }
    }

    pub(super) fn is_null(&self) -> bool {
        *self.value == Value::Null
    }

    pub(super) fn is_map(&self) -> bool {
        matches!(self.value, Value::Map(_))
    }

    pub(super) fn as_str(&self) -> Option<&'d str> {
        self.value.as_str()
    }

    /// The member `key`, where this is a map that has it.
    pub(super) fn get(&self, key: &str) -> Option<Field<'d>> {
        let value = self.value.get(key)?;
        Some(Field { document: self.document, path: self.step(Step::Key(key.to_owned())), value })
    }

    /// The member `key`.
    pub(super) fn need(&self, key: &str, example: &str) -> Result<Field<'d>, DocumentError> {
        self.get(key).ok_or_else(|| self.error(format!("expected the key `{key}` ({example})")))
    }

    /// All members of a map, by key.
    pub(super) fn members(&self, what: &str) -> Result<Vec<(&'d str, Field<'d>)>, DocumentError> {
        let Value::Map(members) = self.value else { return Err(self.expected(what)) };
        let member = |(key, member): (&'d String, &'d super::value::Member)| {
            let path = self.step(Step::Key(key.clone()));
            (key.as_str(), Field { document: self.document, path, value: &member.value })
        };
        Ok(members.iter().map(member).collect())
    }

    /// Insists on a map that has no other keys than these.
    pub(super) fn only(&self, what: &str, known: &[&str]) -> Result<(), DocumentError> {
        match self.members(what)?.into_iter().find(|(key, _)| !known.contains(key)) {
            None => Ok(()),
            Some((key, field)) => {
                let message = format!("unknown key, expected one of {}", known.join(", "));
                Err(field.key_error(message + &hint(key, known)))
            }
        }
    }

    /// The items of a list.
    pub(super) fn items(&self, what: &str) -> Result<Vec<Field<'d>>, DocumentError> {
        let Value::Seq(items) = self.value else { return Err(self.expected(what)) };
        let item =
            |(index, value)| Field { document: self.document, path: self.step(Step::Index(index)), value };
        Ok(items.iter().enumerate().map(item).collect())
    }

    pub(super) fn is_list(&self) -> bool {
        matches!(self.value, Value::Seq(_))
    }

    /// Text; numbers and the like are told to be quoted.
    pub(super) fn text(&self, what: &str) -> Result<&'d str, DocumentError> {
        match self.value {
            Value::String(text) | Value::Word(text) if text.contains('\0') => {
                Err(self.error(format!("expected {what} without NUL characters")))
            }
            Value::String(text) | Value::Word(text) => Ok(text),
            Value::Int(_) | Value::Float(_) | Value::Bool(_) => {
                Err(self.error(format!("expected {what}, found {} (write it in quotes)", self.found())))
            }
            _ => Err(self.expected(what)),
        }
    }

    /// A whole number in `range`.
    pub(super) fn number(&self, range: RangeInclusive<u32>) -> Result<u32, DocumentError> {
        let what = format!("a number from {} to {}", range.start(), range.end());
        let Value::Int(number) = self.value else { return Err(self.expected(&what)) };
        let number = u32::try_from(*number).ok().filter(|number| range.contains(number));
        number.ok_or_else(|| self.expected(&what))
    }

    /// `true` or `false`.
    pub(super) fn boolean(&self) -> Result<bool, DocumentError> {
        match self.value {
            Value::Bool(yes) => Ok(*yes),
            _ => Err(self.expected("`true` or `false`")),
        }
    }

    /// A duration; where `positive`, not `0s`.
    pub(super) fn duration(&self, positive: bool) -> Result<Duration, DocumentError> {
        let what = "a duration like 30s or 500ms";
        let duration = match self.value {
            Value::Int(number) if *number >= 0 => duration::parse(&number.to_string()),
            value => duration::parse(value.as_str().ok_or_else(|| self.expected(what))?),
        };
        match duration {
            Ok(duration) if positive && duration.is_zero() => {
                Err(self.expected("a duration of more than 0s"))
            }
            Ok(duration) => Ok(duration),
            Err(why) => Err(self.error(format!("expected {what}, found {} ({why})", self.found()))),
        }
    }

    /// A byte size.
    pub(super) fn size(&self) -> Result<u64, DocumentError> {
        let what = "a size like 256MiB";
        let size = match self.value {
            Value::Int(number) if *number >= 0 => size::parse(&number.to_string()),
            value => size::parse(value.as_str().ok_or_else(|| self.expected(what))?),
        };
        size.map_err(|why| self.error(format!("expected {what}, found {} ({why})", self.found())))
    }

    fn step(&self, step: Step) -> Vec<Step> {
        self.path.iter().cloned().chain([step]).collect()
    }
}

/// ` (did you mean ..?)`, where one of the known words is near.
pub(super) fn hint(word: &str, known: &[&str]) -> String {
    let near = known.iter().map(|known| (distance(word, known), known)).min();
    match near {
        Some((distance, known)) if distance <= 2 && distance < known.len().min(word.len()) => {
            format!(" (did you mean `{known}`?)")
        }
        _ => String::new(),
    }
}

// Levenshtein's; `word` is cut, since it may be a hostile megabyte
fn distance(word: &str, known: &str) -> usize {
    let known: Vec<char> = known.chars().collect();
    let mut row: Vec<usize> = (0..=known.len()).collect();
    for (i, a) in word.chars().take(64).enumerate() {
        let mut corner = std::mem::replace(&mut row[0], i + 1);
        for (j, b) in known.iter().enumerate() {
            let cost = (corner + usize::from(a != *b)).min(row[j] + 1).min(row[j + 1] + 1);
            corner = std::mem::replace(&mut row[j + 1], cost);
        }
    }
    row[known.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p4_the_nearest_word_is_suggested() {
        let known = ["command", "instances", "env"];
        for (word, want) in [
            ("comand", " (did you mean `command`?)"),
            ("Instances", " (did you mean `instances`?)"),
            ("evn", " (did you mean `env`?)"),
            ("x", ""),
            ("user", ""),
            ("", ""),
        ] {
            assert_eq!(hint(word, &known), want, "{word}");
        }
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
    }
}
