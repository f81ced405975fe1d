//! Files that a configuration depends on and does not hold: certificates, zone files, a database.

use std::collections::BTreeMap;
use std::fmt;

use globset::{GlobBuilder, GlobMatcher};

use super::{ContentHash, RelPath, SectionParseError};

/// A glob of absolute paths: `/etc/letsencrypt/live/dns/**`. Equal when written the same.
#[derive(Clone)]
pub struct External {
    text: String,
    glob: GlobMatcher,
    // the directory before the first wildcard; of a plain path the one that it is in
    base: String,
    // how many levels below `base` anything may match; `None`: any
    depth: Option<usize>,
}

/// What an external path was found to be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ExternalNode {
    /// a regular file, or a link that leads to one
    File(ContentHash),
    /// a directory
    Dir,
    /// a link to a directory, which is not looked into
    LinkedDir,
    /// a link that leads to nothing
    Dangling,
    /// a device, socket or fifo, which is not read
    Special,
}

impl External {
    /// Reads a glob. Its first part has no wildcard: nobody means the whole machine.
    pub fn parse(text: &str) -> Result<External, SectionParseError> {
        let error = |why: String| Err(SectionParseError::new(why));
        let Some(rest) = text.strip_prefix('/') else {
            return error(format!("expected a glob of absolute paths, found `{text}`"));
        };
        if let Err(why) = RelPath::new(rest) {
            return error(format!("expected a glob of absolute paths, found `{text}`: {why}"));
        }
        if text.contains('#') {
            return error(format!("expected a glob without `#`: of `{text}` whole files count"));
        }
        let wild = |part: &&str| part.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let parts: Vec<&str> = rest.split('/').collect();
        let plain = parts.iter().take_while(|part| !wild(part)).count();
        if plain == 0 {
            return error(format!("expected a directory before the first wildcard, found `{text}`"));
        }
        let base = plain.min(parts.len() - 1);
        let glob = match GlobBuilder::new(text).literal_separator(true).backslash_escape(true).build() {
            Ok(glob) => glob.compile_matcher(),
            Err(bad) => return error(format!("expected a glob, found `{text}`: {}", bad.kind())),
        };
        // a slash may be in braces, and `**` is any number of them
        let deep = text.contains("**") || text.contains('{');
        let depth = (!deep).then(|| parts.len() - base);
        Ok(External { text: text.to_owned(), glob, base: format!("/{}", parts[..base].join("/")), depth })
    }

    /// The glob as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The directory that everything which matches is in, at some depth.
    pub fn base(&self) -> &str {
        &self.base
    }

    /// Whether something so many levels below [`External::base`] may match: 1 is what is in it.
    pub fn reaches(&self, level: usize) -> bool {
        self.depth.is_none_or(|depth| level <= depth)
    }

    /// Whether the absolute path `path` matches.
    pub fn covers(&self, path: &str) -> bool {
        self.glob.is_match(path)
    }

    /// The digest over what was found: absolute path and content, or kind, of everything that matches.
    pub fn digest(found: &BTreeMap<String, ExternalNode>) -> ContentHash {
        let mut text = String::from("pointsman-external 1\n");
        for (path, node) in found {
            let what = match node {
                ExternalNode::File(hash) => format!("file {hash}"),
                ExternalNode::Dir => "dir".to_owned(),
                ExternalNode::LinkedDir => "linked-dir".to_owned(),
                ExternalNode::Dangling => "dangling".to_owned(),
                ExternalNode::Special => "special".to_owned(),
            };
            text.push_str(&format!("{what} {} {path}\n", path.len()));
        }
        ContentHash::of(text.as_bytes())
    }
}

impl PartialEq for External {
    fn eq(&self, other: &External) -> bool {
        self.text == other.text
    }
}

impl fmt::Debug for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "External({:?})", self.text)
    }
}

impl fmt::Display for External {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn p35_a_glob_of_absolute_paths_begins_with_a_directory() {
        for (text, base, reaches) in [
            ("/etc/hosts", "/etc", 1),
            ("/vmlinuz", "/", 1),
            ("/etc/ssl/*.pem", "/etc/ssl", 1),
            ("/etc/*/live/?.pem", "/etc", 3),
        ] {
            let external = External::parse(text).unwrap();
            assert_eq!(external.base(), base, "{text}");
            assert!(external.reaches(reaches) && !external.reaches(reaches + 1), "{text}");
        }
        let tree = External::parse("/etc/ssl/**").unwrap();
        assert!(tree.reaches(99) && tree.covers("/etc/ssl/a/b") && !tree.covers("/etc/other"));
        for bad in ["", "/", "etc/a", "/**", "/*/a", "/etc/../a", "/etc//a", "/etc/[", "/etc/a#/b"] {
            assert!(External::parse(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn p35_the_digest_is_over_paths_and_contents() {
        let file = |text: &[u8]| ExternalNode::File(ContentHash::of(text));
        let of = |path: &str, node| External::digest(&[(path.to_owned(), node)].into());
        let one = of("/a", file(b"1"));
        assert_eq!(one, of("/a", file(b"1")));
        for other in [of("/b", file(b"1")), of("/a", file(b"2")), of("/a", ExternalNode::Dangling)] {
            assert_ne!(one, other);
        }
        assert_ne!(one, External::digest(&BTreeMap::new()));
    }
}
