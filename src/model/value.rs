//! A parsed document, whatever it was written in, and the digest of a part of it.

use std::collections::BTreeMap;

use super::ContentHash;

/// One value of a YAML, JSON or TOML document. Comments, key order and quoting are gone. Every NaN is equal
/// to every other: they are written the same.
#[derive(Clone, Debug)]
pub enum Value {
    /// nothing: `null`, `~`, an empty value
    Null,
    /// `true`, `false`
    Bool(bool),
    /// a whole number
    Int(i128),
    /// any other number
    Float(f64),
    /// text
    String(String),
    /// unquoted YAML text that older readers take for something else (`no`, `0755`, `12:30`): text to
    /// us, but never the same as the quoted text, since quoting it may be the very repair
    Word(String),
    /// a value with a YAML tag of its own (`!include x`)
    Tagged(String, Box<Value>),
    /// a list
    Seq(Vec<Value>),
    /// a map; two keys never have the same text
    Map(BTreeMap<String, Member>),
}

/// What a map's key stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Member {
    /// what the key was before it became text
    pub key: KeyKind,
    /// the value
    pub value: Value,
}

/// What a map's key was before it became text: `1` and `"1"` look the same afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KeyKind {
    /// text
    Text,
    /// unquoted YAML text that is like a [`Value::Word`]
    Word,
    /// `null`
    Null,
    /// `true`, `false`
    Bool,
    /// a number
    Number,
}

impl PartialEq for Value {
    fn eq(&self, other: &Value) -> bool {
        match (self, other) {
            (Value::Null, Value::Null) => true,
            (Value::Bool(one), Value::Bool(two)) => one == two,
            (Value::Int(one), Value::Int(two)) => one == two,
            (Value::Float(one), Value::Float(two)) => one == two || (one.is_nan() && two.is_nan()),
            (Value::String(one), Value::String(two)) | (Value::Word(one), Value::Word(two)) => one == two,
            (Value::Tagged(a, one), Value::Tagged(b, two)) => a == b && one == two,
            (Value::Seq(one), Value::Seq(two)) => one == two,
            (Value::Map(one), Value::Map(two)) => one == two,
            _ => false,
        }
    }
}

impl Eq for Value {}

impl Value {
    /// The value a JSON pointer (RFC 6901) leads to; `""` is the whole document.
    pub fn pointer(&self, pointer: &str) -> Option<&Value> {
        if pointer.is_empty() {
            return Some(self);
        }
        pointer.strip_prefix('/')?.split('/').try_fold(self, |value, part| {
            let part = part.replace("~1", "/").replace("~0", "~");
            match value.untagged() {
                Value::Map(members) => members.get(&part).map(|member| &member.value),
                Value::Seq(items) => items.get(index(&part)?),
                _ => None,
            }
        })
    }

    /// Takes away what a JSON pointer leads to; an item of a list becomes null, so that the others keep their
    /// places.
    pub(super) fn cut(&mut self, pointer: &str) {
        let Some((above, last)) = pointer.rsplit_once('/') else {
            *self = Value::Null;
            return;
        };
        let mut value = self;
        for part in above.split('/').skip(1) {
            let part = part.replace("~1", "/").replace("~0", "~");
            let next = match value.untagged_mut() {
                Value::Map(members) => members.get_mut(&part).map(|member| &mut member.value),
                Value::Seq(items) => index(&part).and_then(|at| items.get_mut(at)),
                _ => None,
            };
            match next {
                Some(next) => value = next,
                None => return,
            }
        }
        let last = last.replace("~1", "/").replace("~0", "~");
        match value.untagged_mut() {
            Value::Map(members) => drop(members.remove(&last)),
            Value::Seq(items) => {
                if let Some(item) = index(&last).and_then(|at| items.get_mut(at)) {
                    *item = Value::Null;
                }
            }
            _ => {}
        }
    }

    /// The text of a `String` or `Word`.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Value::String(text) | Value::Word(text) => Some(text),
            _ => None,
        }
    }

    /// The value of `key`, where this is a map that has it.
    pub fn get(&self, key: &str) -> Option<&Value> {
        match self {
            Value::Map(members) => members.get(key).map(|member| &member.value),
            _ => None,
        }
    }

    fn untagged(&self) -> &Value {
        match self {
            Value::Tagged(_, value) => value.untagged(),
            value => value,
        }
    }

    fn untagged_mut(&mut self) -> &mut Value {
        match self {
            Value::Tagged(_, value) => value.untagged_mut(),
            value => value,
        }
    }

    fn feed(&self, hasher: &mut blake3::Hasher) {
        match self {
            Value::Null => feed(hasher, b'n', b""),
            Value::Bool(yes) => feed(hasher, b'b', &[u8::from(*yes)]),
            Value::Int(number) => feed(hasher, b'i', &number.to_be_bytes()),
            // 0.0 and -0.0 are equal, and every NaN is the same to us
            Value::Float(number) if *number == 0.0 => feed(hasher, b'f', &0_f64.to_be_bytes()),
            Value::Float(number) if number.is_nan() => feed(hasher, b'f', b"nan"),
            Value::Float(number) => feed(hasher, b'f', &number.to_be_bytes()),
            Value::String(text) => feed(hasher, b's', text.as_bytes()),
            Value::Word(text) => feed(hasher, b'w', text.as_bytes()),
            Value::Tagged(tag, value) => {
                feed(hasher, b't', tag.as_bytes());
                value.feed(hasher);
            }
            Value::Seq(items) => {
                feed(hasher, b'l', &(items.len() as u64).to_be_bytes());
                items.iter().for_each(|item| item.feed(hasher));
            }
            Value::Map(members) => {
                feed(hasher, b'm', &(members.len() as u64).to_be_bytes());
                for (key, Member { key: kind, value }) in members {
                    let kind = match kind {
                        KeyKind::Text => b's',
                        KeyKind::Word => b'w',
                        KeyKind::Null => b'n',
                        KeyKind::Bool => b'b',
                        KeyKind::Number => b'i',
                    };
                    feed(hasher, kind, key.as_bytes());
                    value.feed(hasher);
                }
            }
        }
    }
}

/// The digest of a value: equal for equal values, however they were written, and different for
/// different ones (`1`, `1.0` and `"1"` differ).
pub fn digest(value: &Value) -> ContentHash {
    let mut hasher = blake3::Hasher::new();
    hasher.update(b"pointsman-value 1\n");
    value.feed(&mut hasher);
    ContentHash::finish(&hasher)
}

// tag, length, bytes: no two sequences of these read the same
fn feed(hasher: &mut blake3::Hasher, tag: u8, bytes: &[u8]) {
    hasher.update(&[tag]);
    hasher.update(&(bytes.len() as u64).to_be_bytes());
    hasher.update(bytes);
}

fn index(part: &str) -> Option<usize> {
    let canonical = part.bytes().all(|b| b.is_ascii_digit()) && (part == "0" || !part.starts_with('0'));
    canonical.then(|| part.parse().ok()).flatten()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::RelPath;
    use crate::model::content;
    use proptest::prelude::*;

    fn yaml(text: &str) -> Value {
        content::parse(&RelPath::new("t.yaml").unwrap(), text.as_bytes()).unwrap()
    }

    #[test]
    fn p12_a_pointer_walks_maps_and_lists() {
        // the document of RFC 6901, section 5
        let text = r#"{"foo": ["bar", "baz"], "": 0, "a/b": 1, "c%d": 2, "m~n": 8, "k\"l": 6}"#;
        let value = yaml(text);
        for (pointer, want) in [("/", 0), ("/a~1b", 1), ("/c%d", 2), ("/k\"l", 6), ("/m~0n", 8)] {
            assert_eq!(value.pointer(pointer), Some(&Value::Int(want)), "{pointer}");
        }
        assert_eq!(value.pointer(""), Some(&value));
        assert_eq!(value.pointer("/foo/1").and_then(Value::as_str), Some("baz"));
        for absent in ["foo", "/foo/2", "/foo/01", "/foo/-", "/foo/bar", "/x", "/a/b", "/foo/+1"] {
            assert_eq!(value.pointer(absent), None, "{absent}");
        }
        assert_eq!(yaml("a: !x {b: 1}").pointer("/a/b"), Some(&Value::Int(1)));
    }

    #[test]
    fn p13_equal_values_have_equal_digests_and_no_others() {
        let same = [
            ("a: 1\nb: [x, z]", "# why\nb:\n  - x   # here\n  - \"z\"\n\na: 0x1"),
            ("a: {b: 1, c: 2}", "{\"a\": {\"c\": 2, \"b\": 1}}"),
            ("a: ~", "a:"),
            ("a: x y", "a: 'x y'"),
            ("a: |\n  x\n  y\n", "a: \"x\\ny\\n\""),
            ("x: &a [1]\ny: *a", "x: [1]\ny: [1]"),
            ("x: [.nan, !t .NaN]", "x: [.NAN, !t .nan]"),
            ("x: -0.0", "x: 0.0"),
        ];
        for (one, two) in same {
            assert_eq!(yaml(one), yaml(two));
            assert_eq!(digest(&yaml(one)), digest(&yaml(two)), "{one:?} {two:?}");
        }
        let different = [
            "1",
            "\"1\"",
            "1.0",
            "true",
            "\"true\"",
            "no",
            "\"no\"",
            "0755",
            "\"0755\"",
            "~",
            "\"\"",
            "[]",
            "{}",
            "[[]]",
            "[[], []]",
            "[a, b]",
            "[ab]",
            "{a: b}",
            "{a: [b]}",
            "{1: a}",
            "{no: a}",
            "{\"no\": a}",
            "{\"1\": a}",
            "{a: {b: c}}",
            "{a: ~}",
            "!x a",
            "!y a",
            "a",
            "[a, b, c]",
            "[[a, b], c]",
            "[a, [b, c]]",
            "12:30",
            "'12:30'",
        ];
        for (i, one) in different.iter().enumerate() {
            for two in &different[..i] {
                assert_ne!(yaml(one), yaml(two));
                assert_ne!(digest(&yaml(one)), digest(&yaml(two)), "{one} {two}");
            }
        }
    }

    fn any_value() -> impl Strategy<Value = serde_json::Value> {
        let leaf = prop_oneof![
            Just(serde_json::Value::Null),
            any::<bool>().prop_map(Into::into),
            any::<i64>().prop_map(Into::into),
            "[a-z0-9:~ \"é]{0,4}".prop_map(Into::into),
        ];
        leaf.prop_recursive(3, 20, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Into::into),
                proptest::collection::btree_map("[a-c]{1,2}", inner, 0..4)
                    .prop_map(|map| serde_json::Value::Object(map.into_iter().collect())),
            ]
        })
    }

    // the same value as block YAML: keys backwards, a comment after every one
    fn block(value: &serde_json::Value, indent: usize) -> String {
        let pad = " ".repeat(indent);
        match value {
            serde_json::Value::Array(items) if !items.is_empty() => {
                items.iter().map(|item| format!("\n{pad}-{}", block(item, indent + 2))).collect()
            }
            serde_json::Value::Object(map) if !map.is_empty() => map
                .iter()
                .rev()
                .map(|(k, v)| format!("\n{pad}# c\n{pad}\"{k}\":{}", block(v, indent + 2)))
                .collect(),
            leaf => format!(" {leaf}"),
        }
    }

    proptest! {
        #[test]
        fn p13_comments_key_order_and_format_do_not_matter(json in any_value()) {
            let a = content::parse(&RelPath::new("a.json").unwrap(), json.to_string().as_bytes()).unwrap();
            let b = yaml(&block(&json, 0));
            prop_assert_eq!(&a, &b);
            prop_assert_eq!(digest(&a), digest(&b));
        }

        #[test]
        fn p13_different_values_have_different_digests(one in any_value(), two in any_value()) {
            let [a, b] = [one, two].map(|v| yaml(&v.to_string()));
            prop_assert_eq!(a == b, digest(&a) == digest(&b));
        }
    }
}
