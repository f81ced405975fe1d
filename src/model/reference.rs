//! What a person may write for a generation, and names a person gives.

use std::fmt;
use std::str::FromStr;

use super::{GenerationId, IdPrefix};

/// A name for a generation that a person gave: 1 to 64 of `A-Z a-z 0-9 . _ -`, beginning with a letter
/// or digit, and not readable as an id or a prefix of one.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Tag(String);

impl Tag {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for Tag {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Tag, ReferenceError> {
        let error = |why| ReferenceError { text: text.chars().take(80).collect(), why };
        let ok = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if text.is_empty()
            || text.len() > 64
            || !text.bytes().all(ok)
            || !text.as_bytes()[0].is_ascii_alphanumeric()
        {
            return Err(error(
                "is no name for a tag; write 1 to 64 letters, digits, `.`, `_` or `-`, beginning with a letter or digit",
            ));
        }
        if IdPrefix::parse(text).is_some() || text.parse::<GenerationId>().is_ok() {
            return Err(error("could be read as the beginning of an id; a tag needs another letter in it"));
        }
        Ok(Tag(text.to_owned()))
    }
}

/// What a person may write where a generation is wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reference {
    /// `@`: the generation in force; `@-N`: the Nth good one under it on the stack
    Back(usize),
    /// a full id
    Id(GenerationId),
    /// the beginning of an id
    Prefix(IdPrefix),
    /// a tag
    Tag(Tag),
}

/// Text that is neither a reference nor a tag, and why.
#[derive(Debug, thiserror::Error)]
#[error("`{text}` {why}")]
pub struct ReferenceError {
    text: String,
    why: &'static str,
}

impl FromStr for Reference {
    type Err = ReferenceError;

    fn from_str(text: &str) -> Result<Reference, ReferenceError> {
        if text == "@" {
            return Ok(Reference::Back(0));
        }
        if let Some(back) = text.strip_prefix("@-") {
            let number = back.parse().ok().filter(|n| *n > 0 && !back.starts_with('+'));
            let error = || ReferenceError {
                text: text.chars().take(80).collect(),
                why: "is no REF; the good ones before are `@-1`, `@-2`, ..",
            };
            return number.map(Reference::Back).ok_or_else(error);
        }
        if let Ok(id) = text.parse() {
            return Ok(Reference::Id(id));
        }
        if let Some(prefix) = IdPrefix::parse(text) {
            return Ok(Reference::Prefix(prefix));
        }
        let why = "is no REF; write an id, the beginning of one (4 digits or more), a tag, `@` or `@-1`";
        let error = |e: ReferenceError| ReferenceError { text: e.text, why };
        text.parse().map(Reference::Tag).map_err(error)
    }
}

impl fmt::Display for Reference {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reference::Back(0) => f.write_str("@"),
            Reference::Back(n) => write!(f, "@-{n}"),
            Reference::Id(id) => write!(f, "{id}"),
            Reference::Prefix(prefix) => write!(f, "{prefix}"),
            Reference::Tag(tag) => write!(f, "{tag}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reference_is_one_thing_only() {
        let id = "0".repeat(64);
        for (text, shown) in
            [("@", "@"), ("@-1", "@-1"), (id.as_str(), id.as_str()), ("beef", "beef"), ("v1.2", "v1.2")]
        {
            assert_eq!(text.parse::<Reference>().unwrap().to_string(), shown);
        }
        assert!(matches!("beef".parse(), Ok(Reference::Prefix(_))));
        assert!(matches!("bee".parse(), Ok(Reference::Tag(_))));
        for bad in ["", "@-0", "@-", "@1", "@-+1", "../x", "a/b", "-x", ".hidden", "a b", "ä"] {
            assert!(bad.parse::<Reference>().is_err(), "{bad}");
        }
        assert!("deadbeef".parse::<Tag>().is_err());
    }
}
