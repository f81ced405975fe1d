//! Reads what a pipeline calls `external`: files that live elsewhere and only move forward.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::Read as _;

use crate::fsx::{self, Dir, EntryKind, FsError};
use crate::model::{ContentHash, External, ExternalNode, GenerationId, Verdict, chain};
use crate::store::Store;

use super::ManagerError;

/// What each external glob is now, by its text: its digest, or why it has none.
pub(super) type Digests = BTreeMap<String, Result<ContentHash, String>>;

/// The most that is looked at, and taken in, for one glob: an external is a handful of files, not a disk.
const MOST_LOOKED_AT: usize = 100_000;
const MOST_FILES: usize = 10_000;
const MOST_BYTES: u64 = 256 << 20;
const DEEPEST: usize = 32;

/// Reads what `externals` are now.
pub(super) fn read(externals: &[External]) -> Digests {
    externals.iter().map(|external| (external.as_str().to_owned(), digest(external))).collect()
}

/// Those whose digest is another one than `proven`, and those that cannot be read.
pub(super) fn drifted(now: &Digests, proven: &BTreeMap<String, ContentHash>) -> Vec<String> {
    let other = |glob: &String, digest: &ContentHash| proven.get(glob).is_some_and(|before| before != digest);
    now.iter()
        .filter(|(glob, digest)| digest.as_ref().is_ok_and(|digest| other(glob, digest)))
        .map(|(glob, _)| glob.clone())
        .collect()
}

/// What the externals were when `id` was last proven here; nothing where it never was.
pub(super) fn proven(store: &Store, id: GenerationId) -> Result<BTreeMap<String, ContentHash>, ManagerError> {
    for entry in
        store.history()?.into_iter().rev().filter(|entry| entry.target == id && entry.imported.is_none())
    {
        let proves = entry.end.is_some_and(|end| proves(end.verdict));
        if proves
            && let Some(outcome) = store.outcome(entry.number)?
            && !outcome.external.is_empty()
        {
            return Ok(outcome.external);
        }
    }
    Ok(BTreeMap::new())
}

/// Whether all workers run with the externals as they were found, after such a verdict.
pub(super) fn proves(verdict: Verdict) -> bool {
    match verdict {
        Verdict::Good | Verdict::Unchanged | Verdict::Unconfirmed => true,
        Verdict::PointerOnly
        | Verdict::Reverted
        | Verdict::Failed
        | Verdict::Refused
        | Verdict::Superseded
        | Verdict::Stuck => false,
    }
}

fn digest(external: &External) -> Result<ContentHash, String> {
    let mut walk = Walk { external, found: BTreeMap::new(), looked_at: 0, bytes: 0 };
    let base = fsx::optional(Dir::open(external.base().as_ref())).map_err(|e| walk.error(&chain(&e)))?;
    if let Some(base) = base {
        let path = external.base().trim_end_matches('/').to_owned();
        walk.directory(&base, &path, 1)?;
    }
    Ok(External::digest(&walk.found))
}

struct Walk<'e> {
    external: &'e External,
    found: BTreeMap<String, ExternalNode>,
    looked_at: usize,
    bytes: u64,
}

impl Walk<'_> {
    fn error(&self, why: &str) -> String {
        format!("external {}: {why}", self.external)
    }

    fn directory(&mut self, dir: &Dir, path: &str, level: usize) -> Result<(), String> {
        if level > DEEPEST {
            return Err(self.error(&format!("{path} is more than {DEEPEST} directories deep")));
        }
        for (name, kind) in dir.entries().map_err(|e| self.error(&chain(&e)))? {
            self.looked_at += 1;
            if self.looked_at > MOST_LOOKED_AT {
                let why = format!("more than {MOST_LOOKED_AT} files to look at; name a narrower directory");
                return Err(self.error(&why));
            }
            let Some(shown) = name.to_str() else { continue };
            let path = format!("{path}/{shown}");
            if self.external.covers(&path) {
                let node = self.node(dir, &name, kind)?;
                self.found.extend(node.map(|node| (path.clone(), node)));
                if self.found.len() > MOST_FILES {
                    return Err(self.error(&format!("more than {MOST_FILES} files match")));
                }
            }
            if kind == EntryKind::Dir && self.external.reaches(level + 1) {
                // what was just removed is as if it had never been there
                if let Some(dir) = self.there(dir.dir(&name))? {
                    self.directory(&dir, &path, level + 1)?;
                }
            }
        }
        Ok(())
    }

    fn node(&mut self, dir: &Dir, name: &OsStr, kind: EntryKind) -> Result<Option<ExternalNode>, String> {
        match kind {
            EntryKind::Dir => return Ok(Some(ExternalNode::Dir)),
            EntryKind::Special => return Ok(Some(ExternalNode::Special)),
            EntryKind::Link => match self.there(dir.meta_following(name))?.map(|meta| meta.kind) {
                None => return Ok(Some(ExternalNode::Dangling)),
                Some(EntryKind::Dir) => return Ok(Some(ExternalNode::LinkedDir)),
                Some(EntryKind::Special) => return Ok(Some(ExternalNode::Special)),
                Some(EntryKind::File | EntryKind::Link) => {}
            },
            EntryKind::File => {}
        }
        let Some((mut file, _)) = self.there(dir.open_following(name))? else { return Ok(None) };
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 128 << 10];
        loop {
            let length = match file.read(&mut buffer) {
                Ok(0) => return Ok(Some(ExternalNode::File(ContentHash::finish(&hasher)))),
                Ok(length) => length,
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => continue,
                Err(e) => return Err(self.error(&chain(&e))),
            };
            self.bytes += length as u64;
            if self.bytes > MOST_BYTES {
                return Err(self.error(&format!("more than {} MiB match", MOST_BYTES >> 20)));
            }
            hasher.update(&buffer[..length]);
        }
    }

    fn there<T>(&self, result: Result<T, FsError>) -> Result<Option<T>, String> {
        fsx::optional(result).map_err(|e| self.error(&chain(&e)))
    }
}
