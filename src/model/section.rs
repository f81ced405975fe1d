//! A named part of a configuration that some stage cares about.

/// A file glob, optionally with a JSON pointer into each matching YAML, JSON or TOML file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Section {
    glob: String,
    pointer: Option<String>,
}
