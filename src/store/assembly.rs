//! A generation being put together in a staging, entry by entry, from pieces whose hashes are known before.

use std::io::{Read, Write as _};

use super::rights::{Access, DIR_MODE, file_mode, shared};
use crate::fsx::{self, Dir, FsError};
use crate::model::{ContentHash, Manifest, Node, RelPath};

/// Why a file could not be made.
pub(super) enum Trouble {
    /// what it is made from cannot be read
    Source(std::io::Error),
    /// the store cannot be written, or not be read
    Store(FsError),
}

/// A generation's directory, not yet complete. Nothing of it is flushed or visible.
pub(super) struct Assembly {
    place: Dir,
    tree: Dir,
    access: Option<Access>,
}

impl Assembly {
    /// A fresh directory `name` in `within`.
    pub(super) fn new(within: &Dir, name: &str, access: Option<&Access>) -> Result<Assembly, FsError> {
        let place = within.create_dir(name, 0o755)?;
        let tree = place.create_dir("tree", 0o700)?;
        Ok(Assembly { place, tree, access: access.cloned() })
    }

    pub(super) fn directory(&self, path: &RelPath) -> Result<(), FsError> {
        self.tree.create_dir(path, 0o700).map(drop)
    }

    pub(super) fn link(&self, path: &RelPath, target: &str) -> Result<(), FsError> {
        self.tree.symlink(target, path)
    }

    /// The file at `path`, from what `from` gives. `false`: that is not its content, and nothing is there.
    pub(super) fn file(
        &self,
        path: &RelPath,
        node: &Node,
        from: &mut dyn Read,
        buffer: &mut Vec<u8>,
    ) -> Result<bool, Trouble> {
        let Node::File { class, executable, .. } = node else { unreachable!("only files have content") };
        let (mode, gid) = shared(self.access.as_ref(), path, file_mode(*class, *executable));
        let mut out = self.tree.create_file_of(path, mode, gid).map_err(Trouble::Store)?;
        if pour(node, from, Some(&mut out), buffer)? {
            return Ok(true);
        }
        self.tree.remove_file(path).map_err(Trouble::Store)?;
        Ok(false)
    }

    /// The file at `path` as a second name of the file `from` beneath `dir`, which is the same in every way.
    /// Whatever stands in the way of a link (too many names, another file system): a copy is as good.
    pub(super) fn second_name(
        &self,
        path: &RelPath,
        node: &Node,
        (dir, from): (&Dir, &str),
        buffer: &mut Vec<u8>,
    ) -> Result<bool, Trouble> {
        let Node::File { class, executable, .. } = node else { unreachable!("only files have second names") };
        let (mode, gid) = shared(self.access.as_ref(), path, file_mode(*class, *executable));
        let room = dir.meta(from).is_ok_and(|meta| {
            let right = meta.mode == mode && gid.is_none_or(|gid| gid == meta.gid);
            right && meta.links < super::build::MOST_LINKS
        });
        if room && dir.hard_link(from, &self.tree, path).is_ok() {
            return Ok(true);
        }
        let mut file = dir.open_file(from).map_err(Trouble::Store)?;
        self.file(path, node, &mut file, buffer).map_err(|trouble| match trouble {
            Trouble::Source(e) => Trouble::Store(FsError::new("read", dir.path().join(from), e)),
            Trouble::Store(e) => Trouble::Store(e),
        })
    }

    /// The rest of a generation of `manifest`, when everything in it has been made: `push.json` last, so that
    /// no file is younger than it.
    pub(super) fn finish(self, manifest: &Manifest, text: &[u8], record: &[u8]) -> Result<(), FsError> {
        for (path, _) in manifest.iter().filter(|(_, node)| **node == Node::Dir) {
            self.tree.dir(path)?.set_mode(DIR_MODE)?;
        }
        self.tree.set_mode(DIR_MODE)?;
        for (name, bytes) in [("manifest", text), ("push.json", record)] {
            fsx::append(&mut self.place.create_file(name, 0o444)?, bytes)?;
        }
        Ok(())
    }
}

/// Reads all of `from` into `to`: whether it is the content of `node`. Reads no further than its length.
pub(super) fn pour(
    node: &Node,
    from: &mut dyn Read,
    mut to: Option<&mut fs_err::File>,
    buffer: &mut Vec<u8>,
) -> Result<bool, Trouble> {
    let Node::File { len, hash, .. } = node else { unreachable!("only files have content") };
    let mut hasher = blake3::Hasher::new();
    let mut total = 0;
    buffer.resize(128 << 10, 0);
    loop {
        match from.read(buffer) {
            Ok(0) => return Ok(total == *len && ContentHash::finish(&hasher) == *hash),
            Ok(n) => {
                total += n as u64;
                if total > *len {
                    return Ok(false);
                }
                hasher.update(&buffer[..n]);
                if let Some(to) = &mut to {
                    let written = to.write_all(&buffer[..n]);
                    written.map_err(|e| Trouble::Store(FsError::new("write", to.path(), e)))?;
                }
            }
            Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
            Err(e) => return Err(Trouble::Source(e)),
        }
    }
}
