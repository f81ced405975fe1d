//! A named part of a configuration that some stage cares about.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use super::content::{self, Format};
use super::glob::Glob;
use super::value::{Value, digest};
use super::{ContentHash, DocumentError, Manifest, Node, RelPath};

/// A file glob, optionally with a JSON pointer into each matching YAML, JSON or TOML file:
/// `rules/**`, `resolver.yaml#/views`. Equal when written the same.
#[derive(Clone)]
pub struct Section {
    text: String,
    // no glob: the one path
    literal: Option<RelPath>,
    glob: Glob,
    // the directory before the first wildcard, where all that matches is in it
    base: Option<RelPath>,
    // what a matching path may begin with: links there lead to matching files under other names
    ancestors: Vec<Glob>,
    pointer: Option<String>,
}

/// Text that is no [`Section`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct SectionParseError(String);

impl SectionParseError {
    pub(super) fn new(why: String) -> SectionParseError {
        SectionParseError(why)
    }
}

/// Why a section has no digest.
#[derive(Debug, thiserror::Error)]
pub enum SectionError<E: std::error::Error + 'static> {
    /// a file of the generation cannot be read
    #[error("section {section}: cannot read {path}")]
    Read {
        /// the section as written
        section: String,
        /// the file
        path: RelPath,
        /// why
        source: E,
    },
    /// what is external cannot be read
    #[error(transparent)]
    External(E),
    /// a file that the pointer shall lead into cannot be parsed
    #[error("section {section}")]
    Document {
        /// the section as written
        section: String,
        /// where and why
        source: DocumentError,
    },
}

/// How many links lead from one to the next before it counts as nothing.
const MOST_LINKS: usize = 40;

impl Section {
    /// Reads `GLOB` or `GLOB#POINTER`. `*`, `?` and `[..]` stay within one part of a path, `**` does
    /// not; a pointer is empty or begins with a slash.
    pub fn parse(text: &str) -> Result<Section, SectionParseError> {
        let error = |why: String| Err(SectionParseError(why));
        let (glob, pointer) = match text.find("#/") {
            Some(at) => (&text[..at], Some(&text[at + 1..])),
            None => text.strip_suffix('#').map_or((text, None), |glob| (glob, Some(""))),
        };
        if let Err(why) = RelPath::new(glob) {
            return error(format!("expected a glob for paths of the generation, found `{glob}`: {why}"));
        }
        let wild = glob.contains(['*', '?', '[', ']', '{', '}', '\\']);
        let literal = if wild { None } else { RelPath::new(glob).ok() };
        if let Some(pointer) = pointer {
            if pointer.split('~').skip(1).any(|rest| !rest.starts_with(['0', '1'])) {
                return error(format!("expected a JSON pointer, found `{pointer}`: after ~ comes 0 or 1"));
            }
            if literal.is_some() && Format::of(glob).is_none() {
                return error(format!(
                    "a pointer needs a file that ends in .yaml, .yml, .json or .toml, found `{glob}`"
                ));
            }
        }
        let matcher = match Glob::parse(glob) {
            Ok(matcher) => matcher,
            Err(bad) => return error(format!("expected a glob, found `{glob}`: {}", bad.kind())),
        };
        let mut ancestors = Vec::new();
        // the directories down to `base` are what they say: no glob is needed for them, nor for a plain path
        let base = if literal.is_none() { base(glob) } else { None };
        let known =
            if literal.is_some() { glob.len() } else { base.as_ref().map_or(0, |base| base.as_str().len()) };
        for (at, _) in glob.match_indices('/').filter(|(at, _)| *at > known || known == 0) {
            // half of a `{a/b,c}` is no glob: then any link may be on the way
            let any = || Glob::parse("**");
            let prefix = if glob.contains('{') { any() } else { Glob::parse(&glob[..at]).or_else(|_| any()) };
            ancestors.extend(prefix);
        }
        Ok(Section {
            text: text.to_owned(),
            base,
            literal,
            glob: matcher,
            ancestors,
            pointer: pointer.map(str::to_owned),
        })
    }

    /// The section as it was written.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// Whether `path` itself is meant, not what it may lead to.
    pub fn covers(&self, path: &RelPath) -> bool {
        match (&self.literal, &self.base) {
            (Some(literal), _) => literal == path,
            (None, Some(base)) if !path.as_str().starts_with(base.as_str()) => false,
            (None, _) => self.glob.is_match(path),
        }
    }

    /// The pointer into each matching file, where there is one.
    pub(super) fn pointer(&self) -> Option<&str> {
        self.pointer.as_deref()
    }

    /// Whether all of a file is meant, not a value in it.
    pub fn is_whole(&self) -> bool {
        self.pointer.is_none()
    }

    /// The digest of this section in the generation that has `manifest`; `read` gives a file's content.
    ///
    /// Without a pointer it is over path, kind, executable bit and hash or link target of everything
    /// that matches, and of what matching links lead to. With one it is over path and value, or
    /// absence, for every matching file, and `read` is called for those only.
    ///
    /// # Errors
    /// A matching file that cannot be read, or has a pointer to it and cannot be parsed.
    pub fn digest<E: std::error::Error + 'static>(
        &self,
        manifest: &Manifest,
        read: &mut dyn FnMut(&RelPath) -> Result<Vec<u8>, E>,
    ) -> Result<ContentHash, SectionError<E>> {
        self.digest_among(manifest, read, &mut Parsed::default())
    }

    /// As [`Section::digest`]; what other sections of the same generation have parsed is not parsed again.
    pub fn digest_among<E: std::error::Error + 'static>(
        &self,
        manifest: &Manifest,
        read: &mut dyn FnMut(&RelPath) -> Result<Vec<u8>, E>,
        parsed: &mut Parsed,
    ) -> Result<ContentHash, SectionError<E>> {
        let mut lines = BTreeMap::new();
        for path in self.matching(manifest) {
            // only what is looked into has to be found first
            let file = self.pointer.as_ref().and_then(|_| resolve(manifest, &path).flatten());
            match (&self.pointer, file.as_ref().and_then(|file| manifest.get(file))) {
                (Some(pointer), Some(Node::File { .. })) if self.names(manifest, &path) => {
                    let file = file.unwrap_or_else(|| path.clone());
                    let value = self.value(&path, &file, pointer, read, parsed)?;
                    lines.insert(path, value);
                }
                (Some(_), Some(Node::Dir)) if manifest.get(&path) == Some(&Node::Dir) => {}
                _ => include(manifest, path, &mut lines),
            }
        }
        let mut text = String::from("pointsman-section 1\n");
        for (path, line) in &lines {
            text.push_str(&format!("{line} {path}\n"));
        }
        Ok(ContentHash::of(text.as_bytes()))
    }

    fn value<E: std::error::Error + 'static>(
        &self,
        path: &RelPath,
        file: &RelPath,
        pointer: &str,
        read: &mut dyn FnMut(&RelPath) -> Result<Vec<u8>, E>,
        parsed: &mut Parsed,
    ) -> Result<String, SectionError<E>> {
        let section = || self.text.clone();
        // the name decides on the format, the file it leads to on the content
        let value = match parsed.documents.contains_key(path) {
            true => &parsed.documents[path],
            false => {
                let text = read(file).map_err(|source| SectionError::Read {
                    section: section(),
                    path: file.clone(),
                    source,
                })?;
                let value = content::parse(path, &text)
                    .map_err(|source| SectionError::Document { section: section(), source })?;
                parsed.keep(path, text.len(), value)
            }
        };
        Ok(value.pointer(pointer).map_or("absent".to_owned(), |value| format!("value {}", digest(value))))
    }

    // whether the path itself is meant, and is not just a link on the way
    fn names(&self, manifest: &Manifest, path: &RelPath) -> bool {
        self.literal.as_ref() == Some(path) || (manifest.get(path).is_some() && self.glob.is_match(path))
    }

    // everything that matches, and the links that a matching path may lead through
    fn matching(&self, manifest: &Manifest) -> BTreeSet<RelPath> {
        if let Some(path) = &self.literal {
            let found = manifest.get(path).is_some() || resolve(manifest, path).is_some();
            return found.then(|| path.clone()).into_iter().collect();
        }
        let on_the_way = |path: &RelPath, node: &Node| {
            matches!(node, Node::Link { .. }) && self.ancestors.iter().any(|prefix| prefix.is_match(path))
        };
        let meant = |(path, node): &(&RelPath, &Node)| self.glob.is_match(path) || on_the_way(path, node);
        let Some(base) = &self.base else {
            return manifest.iter().filter(meant).map(|(path, _)| path.clone()).collect();
        };
        // nothing else is in `base`, and only the directories above it can be links on the way there
        let above = std::iter::successors(Some(base.clone()), RelPath::parent);
        let above: Vec<(RelPath, &Node)> =
            above.filter_map(|path| manifest.get(&path).map(|node| (path, node))).collect();
        let links =
            above.into_iter().filter(|(_, node)| matches!(node, Node::Link { .. })).map(|(path, _)| path);
        links.chain(manifest.under(base).filter(meant).map(|(path, _)| path.clone())).collect()
    }
}

/// The documents of one generation that sections have been looked for in: each is parsed once.
#[derive(Debug, Default)]
pub struct Parsed {
    documents: BTreeMap<RelPath, Value>,
    bytes: usize,
}

impl Parsed {
    /// The most text that is kept parsed at once, in bytes; the largest document may have as much.
    const MOST: usize = 16 << 20;

    fn keep(&mut self, path: &RelPath, bytes: usize, value: Value) -> &Value {
        self.bytes += bytes;
        if self.bytes > Parsed::MOST {
            self.documents.clear();
            self.bytes = bytes;
        }
        self.documents.entry(path.clone()).or_insert(value)
    }
}

// the directory before the first wildcard of `glob`; none where a link anywhere may lead to a match
fn base(glob: &str) -> Option<RelPath> {
    if glob.contains(['{', '[']) {
        return None;
    }
    let wild = glob.find(['*', '?', '\\', ']', '}'])?;
    RelPath::new(&glob[..glob[..wild].rfind('/')?]).ok()
}

// a line for `path` and everything a link there, or on the way there, leads to
fn include(manifest: &Manifest, path: RelPath, lines: &mut BTreeMap<RelPath, String>) {
    let mut todo = vec![path];
    while let Some(path) = todo.pop() {
        if lines.contains_key(&path) {
            continue;
        }
        let line = match manifest.get(&path) {
            Some(Node::Dir) => "dir".to_owned(),
            Some(Node::File { executable, hash, .. }) => {
                format!("file{} {hash}", if *executable { "+x" } else { "" })
            }
            Some(Node::Link { target }) => {
                todo.extend(end_of(manifest, &path));
                format!("link {} {target}", target.len())
            }
            None => {
                todo.extend(end_of(manifest, &path));
                "through a link".to_owned()
            }
        };
        lines.insert(path, line);
    }
}

// what the links of `path` lead to, and everything in it
fn end_of(manifest: &Manifest, path: &RelPath) -> Vec<RelPath> {
    match resolve(manifest, path) {
        None => vec![],
        Some(None) => manifest.iter().map(|(path, _)| path.clone()).collect(),
        Some(Some(end)) => {
            let mut all: Vec<RelPath> = manifest.under(&end).map(|(path, _)| path.clone()).collect();
            all.push(end);
            all
        }
    }
}

/// Where `path` leads when every link is followed (`Some(None)`: to the root); `None`: to nothing inside.
fn resolve(manifest: &Manifest, path: &RelPath) -> Option<Option<RelPath>> {
    let mut left: Vec<String> = path.as_str().rsplit('/').map(str::to_owned).collect();
    let mut here: Vec<String> = Vec::new();
    let mut links = 0;
    while let Some(part) = left.pop() {
        match part.as_str() {
            "" | "." => continue,
            ".." => {
                here.pop()?;
                continue;
            }
            _ => here.push(part),
        }
        match manifest.get(&RelPath::new(&here.join("/")).ok()?)? {
            Node::Link { target } => {
                links += 1;
                if links > MOST_LINKS || target.starts_with('/') {
                    return None;
                }
                here.pop();
                left.extend(target.rsplit('/').map(str::to_owned));
            }
            Node::Dir => {}
            Node::File { .. } if left.is_empty() => {}
            Node::File { .. } => return None,
        }
    }
    if here.is_empty() { Some(None) } else { RelPath::new(&here.join("/")).ok().map(Some) }
}

impl PartialEq for Section {
    fn eq(&self, other: &Section) -> bool {
        self.text == other.text
    }
}

impl Eq for Section {}

impl fmt::Debug for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Section({:?})", self.text)
    }
}

impl fmt::Display for Section {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
#[path = "section_tests.rs"]
mod tests;
