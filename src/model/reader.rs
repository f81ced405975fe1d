//! Builds a [`Value`] from any serde format, within limits, and refuses what a map must not hold.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::fmt;

use serde::de::{
    DeserializeSeed, Deserializer, EnumAccess, Error, MapAccess, SeqAccess, VariantAccess, Visitor,
};

use super::document::{Step, quoted};
use super::value::{KeyKind, Member, Value};

/// How much of a document is read before it is refused.
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    /// length of the text
    pub(super) file_bytes: usize,
    /// values in it, aliases expanded
    pub(super) nodes: usize,
    /// levels of lists and maps
    pub(super) depth: usize,
    /// total length of all keys and texts, aliases expanded
    pub(super) scalar_bytes: usize,
}

impl Limits {
    /// For what we define ourselves: a pipeline of a thousand groups is far below.
    pub(super) const STRICT: Limits =
        Limits { file_bytes: 256 << 10, nodes: 50_000, depth: 32, scalar_bytes: 1 << 20 };
    /// For other programs' files. Aliases may make them far larger than their text; half a million
    /// values take about 100 MiB and half a second, which bounds what a bomb can do.
    pub(super) const CONTENT: Limits =
        Limits { file_bytes: 16 << 20, nodes: 500_000, depth: 64, scalar_bytes: 16 << 20 };
}

/// The state of one reading. After a failure `fault` says what our own refusal was, if it was one.
pub(super) struct Reader<'t> {
    limits: Limits,
    strict: bool,
    // the YAML text, in which unquoted words are recognised; empty for other formats
    source: &'t str,
    path: Vec<Step>,
    nodes: usize,
    bytes: usize,
    pub(super) fault: Option<(Vec<Step>, String)>,
}

impl<'t> Reader<'t> {
    pub(super) fn new(limits: Limits, strict: bool, source: &'t str) -> Reader<'t> {
        Reader { limits, strict, source, path: Vec::new(), nodes: 0, bytes: 0, fault: None }
    }

    fn refuse<E: Error>(&mut self, message: String) -> E {
        let error = E::custom(&message);
        self.fault.get_or_insert_with(|| (self.path.clone(), message));
        error
    }

    fn count<E: Error>(&mut self, bytes: usize) -> Result<(), E> {
        self.nodes += 1;
        self.bytes += bytes;
        if self.nodes > self.limits.nodes {
            let limit = self.limits.nodes;
            return Err(self.refuse(format!("expected at most {limit} values in a file, aliases expanded")));
        }
        if self.bytes > self.limits.scalar_bytes {
            let limit = self.limits.scalar_bytes;
            return Err(self.refuse(format!("expected at most {limit} bytes of text, aliases expanded")));
        }
        Ok(())
    }

    fn enter<E: Error>(&mut self, depth: usize) -> Result<(), E> {
        let limit = self.limits.depth;
        if depth >= limit {
            return Err(self.refuse(format!("expected at most {limit} levels of lists and maps")));
        }
        Ok(())
    }

    // a slice of the source with no quote before it, that YAML 1.1 reads as no text
    fn is_word(&self, text: &str) -> bool {
        let Some(at) = (text.as_ptr() as usize).checked_sub(self.source.as_ptr() as usize) else {
            return false;
        };
        let inside = at.checked_add(text.len()).is_some_and(|end| end <= self.source.len());
        let before = at.checked_sub(1).and_then(|i| self.source.as_bytes().get(i));
        inside && !matches!(before, Some(b'"' | b'\'')) && looks_like_another_type(text)
    }
}

fn looks_like_another_type(text: &str) -> bool {
    const WORDS: [&str; 6] = ["y", "n", "yes", "no", "on", "off"];
    WORDS.iter().any(|word| word.eq_ignore_ascii_case(text))
        || text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '+' | '-' | '.' | '='))
}

/// Reads one value.
pub(super) struct Node<'r, 't> {
    pub(super) reader: &'r mut Reader<'t>,
    pub(super) depth: usize,
}

impl<'de> DeserializeSeed<'de> for Node<'_, '_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_, '_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: Error>(self) -> Result<Value, E> {
        self.reader.count(0).map(|()| Value::Null)
    }

    fn visit_none<E: Error>(self) -> Result<Value, E> {
        self.visit_unit()
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Value, E> {
        self.reader.count(0).map(|()| Value::Bool(value))
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Value, E> {
        self.visit_i128(value.into())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Value, E> {
        self.visit_i128(value.into())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Value, E> {
        self.reader.count(0).map(|()| Value::Int(value))
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Value, E> {
        match i128::try_from(value) {
            Ok(value) => self.visit_i128(value),
            Err(_) => self.visit_string(value.to_string()),
        }
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Value, E> {
        self.reader.count(0).map(|()| Value::Float(value))
    }

    fn visit_str<E: Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: Error>(self, value: String) -> Result<Value, E> {
        self.reader.count(value.len()).map(|()| Value::String(value))
    }

    fn visit_borrowed_str<E: Error>(self, value: &'de str) -> Result<Value, E> {
        self.reader.count(value.len())?;
        let word = !self.reader.strict && self.reader.is_word(value);
        Ok(if word { Value::Word(value.to_owned()) } else { Value::String(value.to_owned()) })
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let Node { reader, depth } = self;
        reader.count(0)?;
        reader.enter(depth)?;
        let mut items = Vec::new();
        loop {
            reader.path.push(Step::Index(items.len()));
            let item = seq.next_element_seed(Node { reader: &mut *reader, depth: depth + 1 })?;
            reader.path.pop();
            match item {
                Some(item) => items.push(item),
                None => return Ok(Value::Seq(items)),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let Node { reader, depth } = self;
        reader.count(0)?;
        reader.enter(depth)?;
        let mut members = BTreeMap::new();
        while let Some((text, key)) = map.next_key_seed(Key { reader: &mut *reader, members: &members })? {
            reader.path.push(Step::Key(text.clone()));
            let value = map.next_value_seed(Node { reader: &mut *reader, depth: depth + 1 })?;
            reader.path.pop();
            match members.entry(text) {
                Entry::Vacant(free) => free.insert(Member { key, value }),
                Entry::Occupied(_) => return Err(reader.refuse("expected every key once".to_owned())),
            };
        }
        Ok(Value::Map(members))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        self.reader.enter(self.depth)?;
        let (tag, content) = tagged.variant::<String>()?;
        self.reader.count(tag.len())?;
        if self.reader.strict {
            return Err(self.reader.refuse(format!("expected no tag, found `!{tag}`")));
        }
        let value = content.newtype_variant_seed(Node { reader: self.reader, depth: self.depth + 1 })?;
        Ok(Value::Tagged(tag, Box::new(value)))
    }
}

/// Reads one key. Refusing a duplicate here, and not after the value, is what gives the error the
/// exact place of the second key.
struct Key<'r, 't> {
    reader: &'r mut Reader<'t>,
    members: &'r BTreeMap<String, Member>,
}

impl Key<'_, '_> {
    fn take<E: Error>(self, kind: KeyKind, text: String) -> Result<(String, KeyKind), E> {
        self.reader.count(text.len())?;
        self.reader.path.push(Step::Key(text.clone()));
        if self.reader.strict && kind != KeyKind::Text {
            return Err(self
                .reader
                .refuse(format!("expected a text key, found {text} (write it in quotes)")));
        }
        if self.reader.strict && text == "<<" {
            return Err(self.reader.refuse("expected no merge key: write the values out".to_owned()));
        }
        if self.members.contains_key(&text) {
            return Err(self
                .reader
                .refuse(format!("expected every key once, found {} again", quoted(&text))));
        }
        self.reader.path.pop();
        Ok((text, kind))
    }

    fn no_key<E: Error>(self, what: &str) -> E {
        self.reader.refuse(format!("expected a text key, found {what}"))
    }
}

impl<'de> DeserializeSeed<'de> for Key<'_, '_> {
    type Value = (String, KeyKind);

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(String, KeyKind), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Key<'_, '_> {
    type Value = (String, KeyKind);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a text key")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Self::Value, E> {
        self.take(KeyKind::Text, text.to_owned())
    }

    fn visit_borrowed_str<E: Error>(self, text: &'de str) -> Result<Self::Value, E> {
        let word = !self.reader.strict && self.reader.is_word(text);
        self.take(if word { KeyKind::Word } else { KeyKind::Text }, text.to_owned())
    }

    fn visit_unit<E: Error>(self) -> Result<Self::Value, E> {
        self.take(KeyKind::Null, "null".to_owned())
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<Self::Value, E> {
        self.take(KeyKind::Bool, value.to_string())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<Self::Value, E> {
        self.take(KeyKind::Number, value.to_string())
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<Self::Value, E> {
        self.take(KeyKind::Number, value.to_string())
    }

    fn visit_i128<E: Error>(self, value: i128) -> Result<Self::Value, E> {
        self.take(KeyKind::Number, value.to_string())
    }

    fn visit_u128<E: Error>(self, value: u128) -> Result<Self::Value, E> {
        self.take(KeyKind::Number, value.to_string())
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<Self::Value, E> {
        self.take(KeyKind::Number, format!("{value:?}"))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(self.no_key("a list"))
    }

    fn visit_map<A: MapAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(self.no_key("a map"))
    }

    fn visit_enum<A: EnumAccess<'de>>(self, _: A) -> Result<Self::Value, A::Error> {
        Err(self.no_key("a tag"))
    }
}
