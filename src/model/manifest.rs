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

use std::cmp::Ordering;
use std::fmt::Write as _;
use std::io::Write;

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
/// is checked at the push, not here. 100,000 entries take about 15 MiB.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Manifest {
    /// sorted by path; a tree would take half as much again, and the text comes sorted
    entries: Vec<Entry>,
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
        let mut entries: Vec<Entry> = entries.into_iter().collect();
        entries.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        let manifest = Manifest { entries };
        manifest.check()?;
        Ok(manifest)
    }

    /// That the entries are in order, each once, and in directories that are there.
    fn check(&self) -> Result<(), ManifestError> {
        let mut before: Option<&RelPath> = None;
        // most entries are in the directory that the one before them is in
        let mut inside: Option<&str> = None;
        for (index, Entry { path, .. }) in self.entries.iter().enumerate() {
            let error = |why| Err(ManifestError { line: index + 2, why });
            match before.map(|before| before.cmp(path)) {
                Some(Ordering::Equal) => return error(format!("{path} is there twice")),
                Some(Ordering::Greater) => return error(format!("{path} is not in its place")),
                Some(Ordering::Less) | None => before = Some(path),
            }
            let (parent, _) = path.split();
            if parent != inside
                && let Some(parent) = parent
                && self.find(parent) != Some(&Node::Dir)
            {
                return error(format!("{parent} is not a directory"));
            }
            inside = parent;
        }
        Ok(())
    }

    /// Writes the canonical text, in pieces, without ever holding the whole of it.
    pub fn write(&self, to: &mut impl Write) -> std::io::Result<()> {
        const PIECE: usize = 64 << 10;
        let mut piece = String::with_capacity(PIECE);
        piece.push_str(HEADER);
        for entry in &self.entries {
            entry.print(&mut piece);
            if piece.len() > PIECE - RelPath::LONGEST {
                to.write_all(piece.as_bytes())?;
                piece.clear();
            }
        }
        to.write_all(piece.as_bytes())
    }

    /// The canonical text. Its BLAKE3 is the generation's id.
    pub fn text(&self) -> String {
        let mut text = Vec::new();
        self.write(&mut text).expect("writing to memory cannot fail");
        String::from_utf8(text).expect("it is printed from strings")
    }

    /// The id of the generation that has this manifest.
    pub fn id(&self) -> GenerationId {
        let mut hasher = blake3::Hasher::new();
        self.write(&mut hasher).expect("hashing cannot fail");
        GenerationId::finish(&hasher)
    }

    /// Reads the canonical text, and nothing but it: what is accepted prints as the same bytes.
    pub fn parse(text: &[u8]) -> Result<Manifest, ManifestError> {
        let error = |line, why: &str| ManifestError { line, why: why.to_owned() };
        let text = std::str::from_utf8(text).map_err(|_| error(1, "it is not UTF-8"))?;
        let body = text.strip_prefix(HEADER).ok_or_else(|| error(1, "expected `pointsman-manifest 1`"))?;
        let mut entries = Vec::with_capacity(body.bytes().filter(|byte| *byte == b'\n').count());
        let mut printed = String::new();
        for (index, line) in body.split_inclusive('\n').enumerate() {
            let entry = Entry::parse(line.strip_suffix('\n').unwrap_or(line))
                .map_err(|why| ManifestError { line: index + 2, why })?;
            printed.clear();
            entry.print(&mut printed);
            if printed != line {
                return Err(error(index + 2, "it is not in canonical form"));
            }
            entries.push(entry);
        }
        let manifest = Manifest { entries };
        manifest.check()?;
        Ok(manifest)
    }

    /// All entries, bytewise by path: a directory before what is in it.
    pub fn iter(&self) -> impl Iterator<Item = (&RelPath, &Node)> {
        self.entries.iter().map(|Entry { path, node }| (path, node))
    }

    /// Everything in the directory `dir`, at any depth, bytewise by path; not `dir` itself.
    pub fn under(&self, dir: &RelPath) -> impl Iterator<Item = (&RelPath, &Node)> {
        // `a-b` sorts between `a` and `a/b`: what is in `a` does not follow it, but is together
        let prefix = format!("{dir}/");
        let from = self.entries.partition_point(|entry| entry.path.as_str() < prefix.as_str());
        let inside = move |entry: &&Entry| entry.path.as_str().starts_with(&prefix);
        self.entries[from..].iter().take_while(inside).map(|Entry { path, node }| (path, node))
    }

    /// What `path` is, if it is there.
    pub fn get(&self, path: &RelPath) -> Option<&Node> {
        self.find(path.as_str())
    }

    fn find(&self, path: &str) -> Option<&Node> {
        let at = self.entries.binary_search_by(|entry| entry.path.as_str().cmp(path)).ok()?;
        Some(&self.entries[at].node)
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
        let length = |entry: &Entry| if let Node::File { len, .. } = entry.node { len } else { 0 };
        self.entries.iter().map(length).sum()
    }
}

impl Entry {
    /// Appends the line of this entry. By hand: the formatter takes longer than all else in a large manifest.
    fn print(&self, text: &mut String) {
        match &self.node {
            Node::Dir => text.push_str("dir "),
            Node::File { class, executable, len, hash } => {
                text.push_str(match (class, executable) {
                    (Class::Public, false) => "file public ",
                    (Class::Public, true) => "file public+x ",
                    (Class::Private, false) => "file private ",
                    (Class::Private, true) => "file private+x ",
                });
                write!(text, "{len} ").expect("writing to a string cannot fail");
                hash.print(text);
                text.push(' ');
            }
            Node::Link { target } => {
                write!(text, "link {} {target} ", target.len()).expect("writing to a string cannot fail");
            }
        }
        text.push_str(self.path.as_str());
        text.push('\n');
    }

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
