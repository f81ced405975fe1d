//! What whoever pushes says of a push: `commit=3f9a`, `pipeline=812`. A claim, not a fact.

use std::collections::BTreeMap;
use std::str::FromStr;

/// The longest key, in bytes.
const LONGEST_KEY: usize = 64;
/// The longest value, in characters.
const LONGEST_VALUE: usize = 1000;

/// Keys and values as they are recorded, sorted by key.
pub type Metadata = BTreeMap<String, String>;

/// One `KEY=VALUE` of a command line. The key is 1 to 64 of `A-Z a-z 0-9 . _ -`; the value goes from the
/// first `=` to the end, up to 1000 characters without control characters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeyValue {
    /// before the first `=`
    pub key: String,
    /// after it
    pub value: String,
}

/// Why a text is no `KEY=VALUE`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeyValueError(&'static str);

impl FromStr for KeyValue {
    type Err = KeyValueError;

    fn from_str(text: &str) -> Result<KeyValue, KeyValueError> {
        let (key, value) = text.split_once('=').ok_or(KeyValueError("write KEY=VALUE"))?;
        let plain = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if key.is_empty() || key.len() > LONGEST_KEY || !key.bytes().all(plain) {
            return Err(KeyValueError("the key is 1 to 64 of A-Z a-z 0-9 . _ -"));
        }
        if value.chars().count() > LONGEST_VALUE || value.chars().any(char::is_control) {
            return Err(KeyValueError("the value has up to 1000 characters and no control characters"));
        }
        Ok(KeyValue { key: key.to_owned(), value: value.to_owned() })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s4_a_key_and_a_value() {
        let parse = |text: &str| text.parse::<KeyValue>().map(|pair| (pair.key, pair.value));
        assert_eq!(parse("commit=3f=9a"), Ok(("commit".into(), "3f=9a".into())));
        assert_eq!(parse("ci.url="), Ok(("ci.url".into(), String::new())));
        for bad in ["", "commit", "=x", "a b=c", "a=b\nc", &format!("{}=x", "k".repeat(65))] {
            assert!(parse(bad).is_err(), "{bad:?}");
        }
        assert!(parse(&format!("k={}", "ä".repeat(1000))).is_ok());
        assert!(parse(&format!("k={}", "ä".repeat(1001))).is_err());
    }
}
