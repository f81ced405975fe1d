//! `pointsman diff`: what differs between two trees, as text, by key path, or by hash.

use std::sync::Arc;

use serde::Serialize;

use crate::model::{Class, ContentHash, Manifest, Node, RelPath, ValueChange, compare, content};
use crate::store::{Scratch, Store, StoreError};

use super::ManagerError;

/// One side of a comparison.
#[derive(Debug)]
pub enum Side {
    /// a generation of the store
    Generation(crate::model::GenerationId),
    /// a directory or stream, read as a push would
    Scratch(Box<Scratch>),
}

/// One path that differs. `--json` prints it.
#[derive(Clone, Debug, Serialize)]
pub struct FileDiff {
    /// where
    pub path: RelPath,
    /// what it was; `None`: not there
    pub old: Option<String>,
    /// what it is; `None`: not there any more
    pub new: Option<String>,
    /// how the content differs
    pub content: ContentDiff,
}

/// How the content of one path differs.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum ContentDiff {
    /// there is no content on one side, or it is the same: kind, class or mode differ
    None,
    /// only named: it is private
    Private,
    /// only its hashes tell: it is not text, or too large to be compared as text
    Hash {
        /// of the old content
        old: ContentHash,
        /// of the new content
        new: ContentHash,
    },
    /// unified, with three lines around each change
    Text(String),
    /// by key path; empty: only comments or layout differ
    Values(Vec<ValueChange>),
}

/// Above this many bytes two texts are compared by hash.
const LARGEST_TEXT: u64 = 1 << 20;

impl Side {
    fn manifest(&self, store: &Store) -> Result<Arc<Manifest>, StoreError> {
        match self {
            Side::Generation(id) => store.manifest(*id),
            Side::Scratch(scratch) => Ok(Arc::new(scratch.manifest().clone())),
        }
    }

    fn read(&self, store: &Store, path: &RelPath) -> Result<Vec<u8>, StoreError> {
        match self {
            Side::Generation(id) => store.read_file(*id, path),
            Side::Scratch(scratch) => scratch.read(path, LARGEST_TEXT),
        }
    }
}

/// Every path that differs between the two, bytewise. The content of private files is compared only where
/// `private` is set; that they differ is told in any case.
pub fn diff(store: &Store, old: &Side, new: &Side, private: bool) -> Result<Vec<FileDiff>, ManagerError> {
    let (before, after) = (old.manifest(store)?, new.manifest(store)?);
    let paths: std::collections::BTreeSet<&RelPath> =
        before.iter().chain(after.iter()).map(|(path, _)| path).collect();
    let mut diffs = Vec::new();
    for path in paths {
        let (was, is) = (before.get(path), after.get(path));
        if was == is {
            continue;
        }
        let content = match (was, is) {
            (Some(Node::File { hash: a, .. }), Some(Node::File { hash: b, .. })) if a == b => {
                ContentDiff::None
            }
            (Some(was @ Node::File { hash: a, .. }), Some(is @ Node::File { hash: b, .. })) => {
                if !private && (is_private(was) || is_private(is)) {
                    ContentDiff::Private
                } else if length(was).max(length(is)) > LARGEST_TEXT {
                    ContentDiff::Hash { old: *a, new: *b }
                } else {
                    contents(path, (&old.read(store, path)?, *a), (&new.read(store, path)?, *b))
                }
            }
            _ => ContentDiff::None,
        };
        let (old, new) = (was.map(describe), is.map(describe));
        diffs.push(FileDiff { path: path.clone(), old, new, content });
    }
    Ok(diffs)
}

fn contents(path: &RelPath, old: (&[u8], ContentHash), new: (&[u8], ContentHash)) -> ContentDiff {
    // a name that promises structure and content that does not keep it is compared as text
    if let (Ok(a), Ok(b)) = (content::parse(path, old.0), content::parse(path, new.0)) {
        return ContentDiff::Values(compare(&a, &b));
    }
    let text =
        |bytes: &[u8]| std::str::from_utf8(bytes).ok().filter(|text| !text.contains('\0')).map(str::to_owned);
    match (text(old.0), text(new.0)) {
        (Some(a), Some(b)) => {
            let diff = similar::TextDiff::from_lines(&a, &b);
            let (from, to) = (format!("a/{path}"), format!("b/{path}"));
            ContentDiff::Text(diff.unified_diff().context_radius(3).header(&from, &to).to_string())
        }
        _ => ContentDiff::Hash { old: old.1, new: new.1 },
    }
}

fn is_private(node: &Node) -> bool {
    matches!(node, Node::File { class: Class::Private, .. })
}

fn length(node: &Node) -> u64 {
    if let Node::File { len, .. } = node { *len } else { 0 }
}

/// What a node is, in a few words: `file`, `private executable`, `link to ../a`.
fn describe(node: &Node) -> String {
    match node {
        Node::Dir => "directory".to_owned(),
        Node::Link { target } => format!("link to {target}"),
        Node::File { class, executable, .. } => {
            let class = if *class == Class::Private { "private " } else { "" };
            format!("{class}{}", if *executable { "executable" } else { "file" })
        }
    }
}
