//! Reads a content file of a generation to a [`Value`], by the ending of its name.

use serde::de::DeserializeSeed;

use super::document::{DocumentError, place};
use super::reader::{Limits, Node, Reader};
use super::value::Value;
use super::{RelPath, yaml};

/// The formats that a JSON pointer can lead into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    Yaml,
    Json,
    Toml,
}

impl Format {
    /// By the ending of the file's name.
    pub(super) fn of(path: &str) -> Option<Format> {
        match path.rsplit('/').next()?.rsplit_once('.')?.1 {
            "yaml" | "yml" => Some(Format::Yaml),
            "json" => Some(Format::Json),
            "toml" => Some(Format::Toml),
            _ => None,
        }
    }
}

/// Reads the file `path` of a generation: `.yaml`, `.yml`, `.json` or `.toml`.
///
/// # Errors
/// Not that format, a key twice, larger than the limits, or another ending: the error names the file.
pub fn parse(path: &RelPath, text: &[u8]) -> Result<Value, DocumentError> {
    let value = match Format::of(path.as_str()) {
        Some(Format::Yaml) => yaml::parse_content(text),
        Some(Format::Json) => json(text),
        Some(Format::Toml) => toml(text),
        None => {
            let message = "expected a name that ends in .yaml, .yml, .json or .toml";
            Err(DocumentError::new((1, 1), &[], message))
        }
    };
    value.map_err(|error| error.in_file(path.as_str()))
}

fn json(text: &[u8]) -> Result<Value, DocumentError> {
    let text = yaml::utf8(text, Limits::CONTENT)?;
    let mut reader = Reader::new(Limits::CONTENT, false, "");
    let mut json = serde_json::Deserializer::from_str(text);
    let result = Node { reader: &mut reader, depth: 0 }.deserialize(&mut json);
    result.and_then(|value| json.end().map(|()| value)).map_err(|error| {
        let place = (error.line().max(1), error.column().max(1));
        match reader.fault.take() {
            Some((path, message)) => DocumentError::new(place, &path, message),
            None => {
                let text = error.to_string();
                let text = text.split(" at line ").next().unwrap_or_default();
                DocumentError::new(place, &[], format!("not JSON: {text}"))
            }
        }
    })
}

fn toml(text: &[u8]) -> Result<Value, DocumentError> {
    let text = yaml::utf8(text, Limits::CONTENT)?;
    let mut reader = Reader::new(Limits::CONTENT, false, "");
    let result = toml::Deserializer::parse(text)
        .and_then(|toml| Node { reader: &mut reader, depth: 0 }.deserialize(toml));
    result.map_err(|error| {
        let place = place(text, error.span().map_or(0, |span| span.start));
        match reader.fault.take() {
            Some((path, message)) => DocumentError::new(place, &path, message),
            None => {
                DocumentError::new(place, &[], format!("not TOML: {}", error.message().replace('\n', ", ")))
            }
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::value::digest;

    fn read(name: &str, text: &str) -> Result<Value, String> {
        parse(&RelPath::new(name).unwrap(), text.as_bytes()).map_err(|error| error.to_string())
    }

    #[test]
    fn p13_three_formats_give_one_value() {
        let yaml = read("a.yaml", "a: 1\nb: {c: [true, x]}\nd: 1.5").unwrap();
        let json = read("d/a.json", r#"{"d": 1.5, "b": {"c": [true, "x"]}, "a": 1}"#).unwrap();
        let toml = read("a.toml", "a = 1\nd = 1.5\n[b]\nc = [true, \"x\"]\n").unwrap();
        assert_eq!(yaml, json);
        assert_eq!(json, toml);
        assert_eq!(digest(&yaml), digest(&toml));
        let dates = ["a = 2020-01-01", "a = 2020-01-02", "a = \"2020-01-01\""]
            .map(|t| digest(&read("a.toml", t).unwrap()));
        assert!(dates[0] != dates[1] && dates[0] != dates[2]);
    }

    #[test]
    fn p12_a_file_that_cannot_be_read_is_named() {
        for (name, text, want) in [
            ("a.json", "{\"a\": 1,\n \"a\": 2}", "a.json:2:4: a: expected every key once, found \"a\" again"),
            ("a.json", "{\"a\": }", "a.json:1:7: not JSON: expected value"),
            ("a.json", "{} x", "a.json:1:4: not JSON: trailing characters"),
            ("a.toml", "a = 1\na = 2\n", "a.toml:2:1: not TOML: duplicate key"),
            ("x/a.yml", "a: 1\na: 2\n", "x/a.yml:2:1: a: expected every key once, found \"a\" again"),
            ("a.conf", "", "a.conf:1:1: expected a name that ends in .yaml, .yml, .json or .toml"),
            ("yaml", "", "yaml:1:1: expected a name that ends in .yaml, .yml, .json or .toml"),
        ] {
            assert_eq!(read(name, text).unwrap_err(), want);
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert!(read("a.json", &deep).unwrap_err().contains("at most 64 levels"));
        assert!(read("a.toml", &format!("a = {deep}")).is_err());
    }
}
