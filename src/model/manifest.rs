//! The list of everything in a generation, as canonical text.
//!
//! One entry a line, sorted bytewise by path, each ended by a newline; the fields are separated by one
//! space and the path comes last, so that it may hold spaces:
//!
//! ```text
//! pointsman-manifest 1
//! dir conf.d
//! file public 12 6a953581d60dbebc9749b56d2383277fb02b58d260b4ccf6f119108fa0f1d4c9 conf.d/a.conf
//! file private+x 5 ... bin/reload
//! link 18 ../sites-available sites-enabled
//! ```
//!
//! A link's target may hold spaces too: the number before it is its length in bytes.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use super::{ContentHash, GenerationId, RelPath};

const HEADER: &str = "pointsman-manifest 1\n";

/// Who may read a file besides its owner.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Class {
    /// everybody
    Public,
    /// nobody, or the group the host file names
    Private,
}

/// What one path of a generation is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Node {
    /// a directory
    Dir,
    /// a regular file
    File {
        /// who may read it
        class: Class,
        /// whether it may be executed
        executable: bool,
        /// length in bytes
        len: u64,
        /// hash of its content
        hash: ContentHash,
    },
    /// a symbolic link whose target stays inside, relative
    Link {
        /// the text of the link
        target: String,
    },
}

/// One path of a generation and what it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    /// where
    pub path: RelPath,
    /// what
    pub node: Node,
}

/// The sorted list of everything in a generation.
///
/// Holds: paths are unique, and every entry's parent is a `Dir` entry. Whether link targets stay inside
/// is checked at the push, not here.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    entries: BTreeMap<RelPath, Node>,
}

/// Why a text is no manifest.
#[derive(Debug, thiserror::Error)]
#[error("manifest line {line}: {why}")]
pub struct ManifestError {
    line: usize,
    why: String,
}

impl Manifest {
    /// A manifest of `entries`, in any order.
    ///
    /// # Errors
    /// A path given twice, or one whose parent is not a directory of the same manifest.
    pub fn new(entries: impl IntoIterator<Item = Entry>) -> Result<Manifest, ManifestError> {
        let mut manifest = Manifest::default();
        for (index, Entry { path, node }) in entries.into_iter().enumerate() {
            let why = format!("{path} is there twice");
            if manifest.entries.insert(path, node).is_some() {
                return Err(ManifestError { line: index + 2, why });
            }
        }
        for (index, path) in manifest.entries.keys().enumerate() {
            if let Some(parent) = path.parent()
                && manifest.entries.get(&parent) != Some(&Node::Dir)
            {
                return Err(ManifestError { line: index + 2, why: format!("{parent} is not a directory") });
            }
        }
        Ok(manifest)
    }

    /// The canonical text. Its BLAKE3 is the generation's id.
    pub fn text(&self) -> String {
        let mut text = String::from(HEADER);
        for (path, node) in &self.entries {
            let done = match node {
                Node::Dir => writeln!(text, "dir {path}"),
                Node::File { class, executable, len, hash } => {
                    let class = match class {
                        Class::Public => "public",
                        Class::Private => "private",
                    };
                    let x = if *executable { "+x" } else { "" };
                    writeln!(text, "file {class}{x} {len} {hash} {path}")
                }
                Node::Link { target } => writeln!(text, "link {} {target} {path}", target.len()),
            };
            done.expect("writing to a string cannot fail");
        }
        text
    }

    /// The id of the generation that has this manifest.
    pub fn id(&self) -> GenerationId {
        GenerationId::of(self.text().as_bytes())
    }

    /// Reads the canonical text, and nothing but it: what is accepted prints as the same bytes.
    pub fn parse(text: &[u8]) -> Result<Manifest, ManifestError> {
        let error = |line, why: &str| ManifestError { line, why: why.to_owned() };
        let text = std::str::from_utf8(text).map_err(|_| error(1, "it is not UTF-8"))?;
        let body = text.strip_prefix(HEADER).ok_or_else(|| error(1, "expected `pointsman-manifest 1`"))?;
        let mut entries = Vec::new();
        for (index, line) in body.lines().enumerate() {
            entries.push(Entry::parse(line).map_err(|why| ManifestError { line: index + 2, why })?);
        }
        let manifest = Manifest::new(entries)?;
        if manifest.text() != text {
            return Err(error(1, "it is not in canonical form"));
        }
        Ok(manifest)
    }

    /// All entries, bytewise by path: a directory before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = (&RelPath, &Node)> {
        self.entries.iter()
    }

    /// Everything in the directory `dir`, at any depth, bytewise by path; not `dir` itself.
    pub fn under(&self, dir: &RelPath) -> impl Iterator<Item = (&RelPath, &Node)> {
        // `a-b` sorts between `a` and `a/b`, so what is in `a` is no range of its own after it
        let prefix = format!("{dir}/");
        let end = format!("{dir}0"); // the byte after the slash
        let after = self.entries.range((std::ops::Bound::Excluded(dir.clone()), std::ops::Bound::Unbounded));
        after
            .take_while(move |(path, _)| path.as_str() < end.as_str())
            .filter(move |(path, _)| path.as_str().starts_with(&prefix))
    }

    /// What `path` is, if it is there.
    pub fn get(&self, path: &RelPath) -> Option<&Node> {
        self.entries.get(path)
    }

    /// Number of entries.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether it lists nothing.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Total length of all files in bytes.
    pub fn bytes(&self) -> u64 {
        self.entries.values().map(|node| if let Node::File { len, .. } = node { *len } else { 0 }).sum()
    }
}

impl Entry {
    fn parse(line: &str) -> Result<Entry, String> {
        let (kind, rest) = line.split_once(' ').ok_or("expected `dir`, `file` or `link`")?;
        let (node, path) = match kind {
            "dir" => (Node::Dir, rest),
            "file" => {
                let mut fields = rest.splitn(4, ' ');
                let mut next = |what: &str| fields.next().ok_or_else(|| format!("expected {what}"));
                let (class, executable) = match next("a class")? {
                    "public" => (Class::Public, false),
                    "public+x" => (Class::Public, true),
                    "private" => (Class::Private, false),
                    "private+x" => (Class::Private, true),
                    other => return Err(format!("unknown class `{other}`")),
                };
                let len = next("a length")?.parse().map_err(|_| "the length is not a number")?;
                let hash = next("a hash")?.parse().map_err(|e| format!("{e}"))?;
                (Node::File { class, executable, len, hash }, next("a path")?)
            }
            "link" => {
                let (len, rest) = rest.split_once(' ').ok_or("expected the target's length")?;
                let len: usize = len.parse().map_err(|_| "the target's length is not a number")?;
                let target = rest.get(..len).ok_or("the target is shorter than its length")?;
                let path = rest[len..].strip_prefix(' ').ok_or("the target is not as long as its length")?;
                if target.is_empty() || target.chars().any(char::is_control) {
                    return Err("the target is empty or has a control character".to_owned());
                }
                (Node::Link { target: target.to_owned() }, path)
            }
            other => return Err(format!("unknown kind `{other}`")),
        };
        let path = RelPath::new(path).map_err(|e| format!("path `{}`: {e}", path.escape_debug()))?;
        Ok(Entry { path, node })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn entry() -> impl Strategy<Value = Entry> {
        let node = prop_oneof![
            (any::<bool>(), any::<bool>(), any::<u64>(), any::<[u8; 4]>()).prop_map(
                |(p, executable, len, seed)| {
                    let class = if p { Class::Public } else { Class::Private };
                    Node::File { class, executable, len, hash: ContentHash::of(&seed) }
                }
            ),
            "[a-z .]{1,12}".prop_map(|target| Node::Link { target }),
            Just(Node::Dir),
        ];
        ("[a-c ]{1,3}", node).prop_map(|(name, node)| Entry { path: RelPath::new(&name).unwrap(), node })
    }

    proptest! {
        #[test]
        fn s2_text_and_manifest_are_one_and_the_same(entries in proptest::collection::vec(entry(), 0..8)) {
            if let Ok(manifest) = Manifest::new(entries) {
                let again = Manifest::parse(manifest.text().as_bytes()).unwrap();
                prop_assert_eq!(&again, &manifest);
                prop_assert_eq!(again.id(), manifest.id());
            }
        }

        #[test]
        fn s2_no_text_makes_the_parser_panic(text in "(pointsman-manifest 1\n)?[dirfelnk 0-9a-f/.\n+x-]{0,60}") {
            if let Ok(manifest) = Manifest::parse(text.as_bytes()) {
                prop_assert_eq!(manifest.text(), text);
            }
        }
    }

    #[test]
    fn s2_only_the_canonical_text_is_read() {
        for bad in [
            "",
            "pointsman-manifest 2\n",
            "pointsman-manifest 1\ndir b\ndir a\n",
            "pointsman-manifest 1\ndir a\ndir a\n",
            "pointsman-manifest 1\ndir a",
            "pointsman-manifest 1\ndir a/b\n",
            "pointsman-manifest 1\ndir ../a\n",
            "pointsman-manifest 1\nlink 5 a b\n",
            "pointsman-manifest 1\nfile public 01 0000000000000000000000000000000000000000000000000000000000000000 a\n",
        ] {
            assert!(Manifest::parse(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }
}
