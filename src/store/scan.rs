//! Reading a tree that lies in the store: every path with its facts and content hash.

use super::content::hash_rest;
use crate::fsx::{Dir, EntryKind, FsError, Meta};
use crate::model::{Class, ContentHash, Node, RelPath};

/// What lies at one path.
pub(super) struct Found {
    /// the path, or what can be shown of one that cannot be in a manifest
    pub(super) path: Result<RelPath, String>,
    pub(super) meta: Meta,
    pub(super) what: What,
}

pub(super) enum What {
    Dir,
    File(ContentHash),
    Link(String),
    Special,
    /// its content cannot be read: the disk's reason
    Unreadable(String),
}

/// The permission bits of a file of this class.
pub(super) fn file_mode(class: Class, executable: bool) -> u32 {
    match (class, executable) {
        (Class::Public, false) => 0o444,
        (Class::Public, true) => 0o555,
        (Class::Private, false) => 0o400,
        (Class::Private, true) => 0o500,
    }
}

/// The class and executability that permission bits mean.
pub(super) fn class_of(mode: u32) -> (Class, bool) {
    (if mode & 0o004 != 0 { Class::Public } else { Class::Private }, mode & 0o111 != 0)
}

/// The permission bits of every directory in a tree: readers pass, nobody adds.
pub(super) const DIR_MODE: u32 = 0o555;

/// Everything beneath `tree`, a directory before what is in it.
///
/// # Errors
/// Missing rights. What a broken disk does not give is [`What::Unreadable`].
pub(super) fn scan(tree: &Dir) -> Result<Vec<Found>, FsError> {
    let mut found = Vec::new();
    beneath(tree, None, &mut Vec::new(), &mut found)?;
    Ok(found)
}

fn beneath(
    dir: &Dir,
    at: Option<&RelPath>,
    buffer: &mut Vec<u8>,
    found: &mut Vec<Found>,
) -> Result<(), FsError> {
    for (name, kind) in dir.entries()? {
        let path = RelPath::join(at, &name);
        let Ok(path) = path else {
            let shown = format!("{}{}", at.map_or(String::new(), |at| format!("{at}/")), name.display());
            found.push(Found {
                path: Err(shown.escape_debug().to_string()),
                meta: dir.meta(&name)?,
                what: What::Special,
            });
            continue;
        };
        let (meta, what) = match kind {
            EntryKind::Dir => {
                let sub = dir.dir(&name)?;
                found.push(Found { path: Ok(path.clone()), meta: sub.own_meta()?, what: What::Dir });
                beneath(&sub, Some(&path), buffer, found)?;
                continue;
            }
            EntryKind::File => {
                let (mut file, meta) = dir.open_file_meta(&name)?;
                let what = match hash_rest(&mut file, buffer) {
                    Ok((_, hash)) => What::File(hash),
                    Err(error) => What::Unreadable(error.to_string()),
                };
                (meta, what)
            }
            EntryKind::Link => {
                (dir.meta(&name)?, What::Link(dir.read_link(&name)?.to_string_lossy().into_owned()))
            }
            EntryKind::Special => (dir.meta(&name)?, What::Special),
        };
        found.push(Found { path: Ok(path), meta, what });
    }
    Ok(())
}

/// How what was found differs from what the manifest says; `None`: not at all.
pub(super) fn differs(found: &Found, node: &Node, owner: u32) -> Option<String> {
    if found.meta.uid != owner {
        return Some(format!("it belongs to uid {}, not to the store's owner {owner}", found.meta.uid));
    }
    let mode = |right: u32| {
        (found.meta.mode != right).then(|| format!("its mode is {:04o}, not {right:04o}", found.meta.mode))
    };
    match (&found.what, node) {
        (What::Unreadable(why), _) => Some(format!("it cannot be read: {why}")),
        (What::Dir, Node::Dir) => mode(DIR_MODE),
        (What::File(actual), Node::File { class, executable, hash, len }) => {
            if found.meta.len != *len {
                return Some(format!("it is {} bytes long, not {len}", found.meta.len));
            }
            if actual != hash {
                return Some("its content is not what was pushed".to_owned());
            }
            mode(file_mode(*class, *executable))
        }
        (What::Link(actual), Node::Link { target }) => {
            (actual != target).then(|| format!("it leads to {actual}, not to {target}"))
        }
        (_, Node::Dir) => Some("it is no directory".to_owned()),
        (_, Node::File { .. }) => Some("it is no regular file".to_owned()),
        (_, Node::Link { .. }) => Some("it is no symlink".to_owned()),
    }
}
