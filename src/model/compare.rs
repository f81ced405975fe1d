//! How two structured values differ, by key path.

use std::fmt;

use super::Value;

/// One place where two values differ. Shown as JSON pointer and both values.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct ValueChange {
    /// JSON pointer of the place
    pub path: String,
    /// the old value, shortened; `None`: it was not there
    pub old: Option<String>,
    /// the new value, shortened; `None`: it is not there any more
    pub new: Option<String>,
}

impl fmt::Display for ValueChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let path = if self.path.is_empty() { "(the whole)" } else { &self.path };
        match (&self.old, &self.new) {
            (None, Some(new)) => write!(f, "+ {path}: {new}"),
            (Some(old), None) => write!(f, "- {path}: {old}"),
            (old, new) => {
                let text = |value: &Option<String>| value.clone().unwrap_or_default();
                write!(f, "~ {path}: {} -> {}", text(old), text(new))
            }
        }
    }
}

/// Every place where `new` differs from `old`, maps by key and lists by index. Empty: they are equal.
pub fn compare(old: &Value, new: &Value) -> Vec<ValueChange> {
    let mut changes = Vec::new();
    descend("", Some(old), Some(new), &mut changes);
    changes
}

fn descend(path: &str, old: Option<&Value>, new: Option<&Value>, changes: &mut Vec<ValueChange>) {
    match (old, new) {
        (Some(old), Some(new)) if old == new => {}
        (Some(Value::Map(old)), Some(Value::Map(new))) => {
            let keys: std::collections::BTreeSet<&String> = old.keys().chain(new.keys()).collect();
            for key in keys {
                let path = format!("{path}/{}", key.replace('~', "~0").replace('/', "~1"));
                let of = |member: Option<&super::Member>| member.map(|member| member.key);
                let (before, after) = (old.get(key), new.get(key));
                let values = (before.map(|member| &member.value), after.map(|member| &member.value));
                if before.is_some() && after.is_some() && of(before) != of(after) && values.0 == values.1 {
                    // `1:` became `"1":`, which no value shows
                    changes.push(ValueChange {
                        path,
                        old: Some("another key".into()),
                        new: Some("the same text".into()),
                    });
                } else {
                    descend(&path, values.0, values.1, changes);
                }
            }
        }
        (Some(Value::Seq(old)), Some(Value::Seq(new))) => {
            for index in 0..old.len().max(new.len()) {
                descend(&format!("{path}/{index}"), old.get(index), new.get(index), changes);
            }
        }
        (None, None) => {}
        (old, new) => {
            changes.push(ValueChange { path: path.to_owned(), old: old.map(show), new: new.map(show) });
        }
    }
}

/// The most characters of a value that are shown.
const LONGEST: usize = 120;

fn show(value: &Value) -> String {
    let text = match value {
        Value::Null => "null".to_owned(),
        Value::Bool(bool) => bool.to_string(),
        Value::Int(int) => int.to_string(),
        Value::Float(float) => float.to_string(),
        Value::String(text) => format!("{text:?}"),
        Value::Word(text) => text.clone(),
        Value::Tagged(tag, value) => format!("!{} {}", tag.trim_start_matches('!'), show(value)),
        Value::Seq(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
        Value::Map(members) => {
            let members = members.iter().map(|(key, member)| format!("{key}: {}", show(&member.value)));
            format!("{{{}}}", members.collect::<Vec<_>>().join(", "))
        }
    };
    match text.char_indices().nth(LONGEST) {
        Some((end, _)) => format!("{}..", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{RelPath, content};

    fn changes(old: &str, new: &str) -> Vec<String> {
        let parse = |text: &str| content::parse(&RelPath::new("a.yaml").unwrap(), text.as_bytes()).unwrap();
        compare(&parse(old), &parse(new)).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn s20_values_differ_by_key_path() {
        let old = "a: 1\nb: {c: [x, q], d: no}\ngone: {k: v}\n'a/b': 1\n";
        let new = "# a comment\nb: {d: \"no\", c: [x, z, w]}\na: 2\nnew: text\n'a/b': 2\n";
        let expected = [
            "~ /a: 1 -> 2",
            "~ /a~1b: 1 -> 2",
            "~ /b/c/1: \"q\" -> \"z\"",
            "+ /b/c/2: \"w\"",
            "~ /b/d: no -> \"no\"",
            "- /gone: {k: \"v\"}",
            "+ /new: \"text\"",
        ];
        assert_eq!(changes(old, new), expected);
        assert_eq!(changes(old, &format!("# only a comment\n{old}")), Vec::<String>::new());
        assert_eq!(changes("[1]", "x"), ["~ (the whole): [1] -> \"x\""]);
        assert_eq!(changes("a: [.nan]\nb: 1", "a: [.nan]\nb: 2"), ["~ /b: 1 -> 2"]);
    }
}
