//! The one place where YAML is parsed.
//!
//! The parser accepts duplicate keys and expands a 70 KB document of aliases to 389 MiB, so nobody else
//! calls it: here the text is capped and looked over first, and the value is built by our own visitor.

use std::cell::Cell;
use std::fmt;

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

use super::document::{DocumentError, Step};
use super::reader::{Limits, Node, Reader};
use super::scan::scan;
use super::value::Value;

/// Reads a file whose format is ours: `pointsman.yaml`, the host file. UTF-8, one document, no anchor,
/// alias, tag or merge key, no key twice, only text keys.
pub(super) fn parse_strict(text: &[u8]) -> Result<Value, DocumentError> {
    let limits = Limits::STRICT;
    let text = utf8(text, limits)?;
    let seen = scan(text);
    if let Some((what, place)) = seen.indirection {
        let message = format!(
            "expected plain values, found {what} (text that begins with `&`, `*` or `!` needs quotes)"
        );
        return Err(DocumentError::new(place, &[], message));
    }
    read(text, limits, true)
}

/// Reads some program's file. Anchors, aliases and tags are allowed, within a budget.
pub(super) fn parse_content(text: &[u8]) -> Result<Value, DocumentError> {
    read(utf8(text, Limits::CONTENT)?, Limits::CONTENT, false)
}

/// The text, if it is not too long, with no byte order mark.
pub(super) fn utf8(text: &[u8], limits: Limits) -> Result<&str, DocumentError> {
    let error = |place, message: String| Err(DocumentError::new(place, &[], message));
    if text.len() > limits.file_bytes {
        let message = format!("expected at most {} bytes, found {}", limits.file_bytes, text.len());
        return error((1, 1), message);
    }
    match std::str::from_utf8(text) {
        Ok(text) => Ok(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(bad) => {
            let good = std::str::from_utf8(&text[..bad.valid_up_to()]).unwrap_or_default();
            error(super::document::place(good, good.len()), "expected UTF-8 text".to_owned())
        }
    }
}

fn read(text: &str, limits: Limits, strict: bool) -> Result<Value, DocumentError> {
    let seen = scan(text);
    if let Some(place) = seen.second {
        return Err(DocumentError::new(place, &[], "expected one document, found a second one"));
    }
    // the parser itself needs time quadratic in the open brackets, and memory for every token
    if seen.deepest.0 > limits.depth {
        let message = format!("expected at most {} levels of lists and maps", limits.depth);
        return Err(DocumentError::new(seen.deepest.1, &[], message));
    }
    if seen.tokens > 4 * limits.nodes {
        let message = format!("expected at most {} values in a file, aliases expanded", limits.nodes);
        return Err(DocumentError::new((1, 1), &[], message));
    }
    let mut reader = Reader::new(limits, strict, text);
    let result = Node { reader: &mut reader, depth: 0 }.deserialize(serde_yaml::Deserializer::from_str(text));
    result.map_err(|error| {
        let place = error.location().map_or((1, 1), |at| (at.line(), at.column()));
        match reader.fault.take() {
            Some((path, message)) => DocumentError::new(place, &path, message),
            None if error.to_string().contains("repetition limit") => {
                let message =
                    "expected at most 100 values for each that is written: the aliases repeat too much";
                DocumentError::new(place, &[], message)
            }
            None => DocumentError::new(place, &[], format!("not YAML: {}", without_place(&error))),
        }
    })
}

// the parser's message names the place too, in its own words
fn without_place(error: &serde_yaml::Error) -> String {
    let text = error.to_string();
    text.split(", ").map(|part| part.split(" at line ").next().unwrap_or(part)).collect::<Vec<_>>().join(", ")
}

/// Which part of a member is meant.
#[derive(Clone, Copy, PartialEq)]
pub(super) enum Spot {
    /// the key
    Key,
    /// the value
    Value,
}

/// The place of the key or value at `path` in a text that `parse_strict` has accepted.
///
/// The parser tells no places of values, but it marks errors that are raised in a visitor with the
/// event it is at: so this reads the document a second time and fails on purpose.
pub(super) fn locate(text: &str, path: &[Step], spot: Spot) -> (usize, usize) {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let result = Seek { path, spot }.deserialize(serde_yaml::Deserializer::from_str(text));
    let at = result.err().and_then(|error| error.location());
    at.map_or((1, 1), |at| (at.line(), at.column()))
}

struct Seek<'p> {
    path: &'p [Step],
    spot: Spot,
}

impl<'de> DeserializeSeed<'de> for Seek<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        if self.path.is_empty() {
            deserializer.deserialize_any(Here)
        } else {
            deserializer.deserialize_any(self)
        }
    }
}

impl<'de> Visitor<'de> for Seek<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("what was there at the first reading")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<(), A::Error> {
        let mut index = 0;
        while let Some(()) = match &self.path[0] {
            Step::Index(wanted) if *wanted == index => {
                seq.next_element_seed(Seek { path: &self.path[1..], spot: self.spot })?
            }
            _ => seq.next_element::<IgnoredAny>()?.map(|_| ()),
        } {
            index += 1;
        }
        Ok(())
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<(), A::Error> {
        let Step::Key(wanted) = &self.path[0] else { return Ok(()) };
        let stop = self.path.len() == 1 && self.spot == Spot::Key;
        let found = Cell::new(false);
        while map.next_key_seed(SeekKey { wanted, stop, found: &found })?.is_some() {
            if found.replace(false) {
                map.next_value_seed(Seek { path: &self.path[1..], spot: self.spot })?;
            } else {
                map.next_value::<IgnoredAny>()?;
            }
        }
        Ok(())
    }
}

struct SeekKey<'p> {
    wanted: &'p str,
    stop: bool,
    found: &'p Cell<bool>,
}

impl<'de> DeserializeSeed<'de> for SeekKey<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for SeekKey<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text key")
    }

    fn visit_str<E: serde::de::Error>(self, key: &str) -> Result<(), E> {
        self.found.set(key == self.wanted);
        if self.stop && key == self.wanted { Err(E::custom("here")) } else { Ok(()) }
    }
}

// refuses every value, by not visiting any
struct Here;

impl Visitor<'_> for Here {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("nothing: the place is what is wanted")
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn refused(text: &str) -> String {
        parse_strict(text.as_bytes()).expect_err(text).to_string()
    }

    #[test]
    fn p3_what_is_refused_is_refused_at_its_place() {
        let deep = "[".repeat(33) + &"]".repeat(33);
        for (text, want) in [
            ("a: 1\nb:\n  c: 1\n  \"c\": 2\n", "4:3: b.c: expected every key once, found \"c\" again"),
            ("a: {b: 1, b: 2}", "1:11: a.b: expected every key once, found \"b\" again"),
            ("a: b\n1: c\n", "2:1: 1: expected a text key, found 1 (write it in quotes)"),
            ("x:\n- ~: c\n", "2:3: x[0].null: expected a text key, found null (write it in quotes)"),
            ("[a]: c\n", "1:1: expected a text key, found a list"),
            ("a:\n  <<: {b: 1}\n", "2:3: a.\"<<\": expected no merge key: write the values out"),
            (
                "a: &b 1",
                "1:4: expected plain values, found an anchor (text that begins with `&`, `*` or `!` needs quotes)",
            ),
            (
                "a: !x 1",
                "1:4: expected plain values, found a tag (text that begins with `&`, `*` or `!` needs quotes)",
            ),
            ("a: 1\n---\nb: 1\n", "2:1: expected one document, found a second one"),
            (&deep, "1:33: expected at most 32 levels of lists and maps"),
            (
                "a:\n\tb: 1\n",
                "2:1: not YAML: found character that cannot start any token, while scanning for the next token",
            ),
            ("a: [1, 2\n", "2:1: not YAML: did not find expected ',' or ']', while parsing a flow sequence"),
        ] {
            assert_eq!(refused(text), want, "{text:?}");
        }
        let error = parse_strict(b"a: b\nc: \xff\n").unwrap_err();
        assert_eq!(error.in_file("f.yaml").to_string(), "f.yaml:2:4: expected UTF-8 text");
        let block: String = (0..40).map(|i| format!("{}a:\n", " ".repeat(i))).collect();
        assert!(refused(&block).contains("expected at most 32 levels"), "{}", refused(&block));
    }

    #[test]
    fn p2_long_files_and_many_values_are_refused() {
        let long = format!("a: '{}'", "x".repeat(256 << 10));
        assert_eq!(refused(&long), format!("1:1: expected at most 262144 bytes, found {}", long.len()));
        let many = format!("[{}]", "1,".repeat(60_000));
        assert!(refused(&many).ends_with("expected at most 50000 values in a file, aliases expanded"));
    }

    #[test]
    fn p2_marks_and_line_ends_of_other_systems_are_read() {
        for text in ["\u{feff}a: 1\nb: 2\n", "\u{feff}a: 1\r\nb: 2\r\n", "---\na: 1\nb: 2\n...\n"] {
            let value = parse_strict(text.as_bytes()).unwrap();
            assert_eq!(value.get("b"), Some(&Value::Int(2)), "{text:?}");
        }
        assert_eq!(parse_strict(b"").unwrap(), Value::Null);
        assert_eq!(parse_strict(b"# nothing\n").unwrap(), Value::Null);
    }

    #[test]
    fn p2_bombs_are_refused_quickly() {
        let mut laughs = String::from("a0: &a0 [lol, lol, lol, lol, lol, lol, lol, lol, lol]\n");
        for i in 1..10 {
            let line = vec![format!("*a{}", i - 1); 9].join(", ");
            laughs.push_str(&format!("a{i}: &a{i} [{line}]\n"));
        }
        let scalar = format!("a: &a {}\nb: [{}]\n", "x".repeat(10_000), "*a,".repeat(20_000));
        let list = format!("a: &a [{}]\nb: [{}]\n", "1,".repeat(2_000), "*a,".repeat(2_000));
        let itself = "a: &a [*a]".to_owned();
        let brackets = "[".repeat(4 << 20);
        let pairs = format!("[{}]", "[],".repeat(1 << 20));
        let entries = "- ".repeat(1 << 20);
        for text in [laughs, scalar, list, itself, brackets, pairs, entries] {
            let error = parse_content(text.as_bytes()).expect_err("a bomb");
            assert!(error.message.contains("expected at most"), "{error}");
        }
        assert_eq!(parse_content(b"a: &x [1]\nb: *x").unwrap().pointer("/b/0"), Some(&Value::Int(1)));
    }

    #[test]
    fn p4_keys_and_values_are_located() {
        let text = "a: 1\nbé:\n  - x\n  - c: {d: e,\n        f: }\n";
        let key = |k: &str| Step::Key(k.to_owned());
        let f = [key("bé"), Step::Index(1), key("c"), key("f")];
        assert_eq!(locate(text, &f, Spot::Key), (5, 9));
        assert_eq!(locate(text, &f, Spot::Value), (5, 12));
        assert_eq!(locate(text, &f[..3], Spot::Value), (4, 8));
        assert_eq!(locate(text, &f[..1], Spot::Key), (2, 1));
        assert_eq!(locate(text, &[], Spot::Value), (1, 1));
    }

    proptest! {
        #[test]
        fn p2_no_text_makes_the_reader_panic(text in "[a-c0~<&*!|>'\"{}\\[\\]:,#?%@\n\t -]{0,60}") {
            let strict = parse_strict(text.as_bytes());
            if let Ok(value) = parse_content(text.as_bytes()) {
                // strict mode knows fewer documents, but no other values
                if let Ok(strict) = strict {
                    prop_assert_eq!(format!("{strict:?}"), format!("{value:?}").replace("Word(", "String(").replace("key: Word", "key: Text"));
                }
            } else {
                prop_assert!(strict.is_err());
            }
        }
    }
}
