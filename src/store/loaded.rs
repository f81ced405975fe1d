//! Loader outputs: made in a staging directory, sealed under their key, never changed after.

use std::path::PathBuf;
use std::sync::Arc;

use super::error::{Damage, StoreError};
use super::flush::{self, Written};
use super::open::{Store, Writer};
use super::rights::{self, DIR_MODE};
use super::scan::{self, What};
use super::staging::Staging;
use super::{generation, links};
use crate::fsx::{self, Dir};
use crate::model::{Entry, LoadedKey, Manifest, Node};

impl Store {
    /// The absolute path of the loader output `key`, there or not.
    pub fn loaded_path(&self, key: LoadedKey) -> PathBuf {
        self.path().join(format!("loaded/{key}/tree"))
    }

    /// Everything in the loader outputs that is not as it was sealed.
    pub(super) fn loaded_damage(&self) -> Result<Vec<Damage>, StoreError> {
        let mut damages = Vec::new();
        let names = self.part("loaded")?.names().map_err(StoreError::io("list the loader outputs"))?;
        for key in names.iter().filter_map(|name| name.to_str()?.parse::<LoadedKey>().ok()) {
            let place = format!("loaded/{key}");
            let damage = |path: &str, what| {
                let path = format!("{place}/{path}");
                Damage { generation: None, path, what, shared: Vec::new() }
            };
            let read = self.root.read(format!("{place}/manifest"), generation::LARGEST_MANIFEST);
            match fsx::optional(read)
                .map_err(StoreError::io("read a manifest"))?
                .as_deref()
                .map(Manifest::parse)
            {
                Some(Ok(manifest)) => {
                    let found = self.compare(&place, &manifest)?.into_iter();
                    damages.extend(found.map(|(path, what)| damage(&format!("tree/{path}"), what)));
                }
                Some(Err(error)) => damages.push(damage("manifest", error.to_string())),
                None => damages.push(damage("manifest", "it is missing".to_owned())),
            }
        }
        Ok(damages)
    }

    /// Length of all files in the loader output `key` in bytes, and the number of its entries; `None` where there
    /// is no such output, or not as it was sealed.
    pub fn loaded_size(&self, key: LoadedKey) -> Result<Option<(u64, u64)>, StoreError> {
        let read = self.root.read(format!("loaded/{key}/manifest"), generation::LARGEST_MANIFEST);
        let text = fsx::optional(read).map_err(StoreError::io("read a manifest"))?;
        let manifest = text.and_then(|text| Manifest::parse(&text).ok());
        Ok(manifest.map(|manifest| (manifest.bytes(), manifest.len() as u64)))
    }

    /// Whether the loader output `key` is there, complete and as it was sealed.
    pub fn loaded_intact(&self, key: LoadedKey) -> Result<bool, StoreError> {
        let place = format!("loaded/{key}");
        let read = self.root.read(format!("{place}/manifest"), generation::LARGEST_MANIFEST);
        let Some(text) = fsx::optional(read).map_err(StoreError::io("read a manifest"))? else {
            return Ok(false);
        };
        match Manifest::parse(&text) {
            Ok(manifest) => Ok(self.compare(&place, &manifest)?.is_empty()),
            Err(_) => Ok(false),
        }
    }
}

impl Writer {
    /// A fresh directory for a loader to write into. Dropping it removes it and all that is in it.
    pub fn stage_loaded(&self) -> Result<Staging, StoreError> {
        Staging::new(&self.root).map_err(StoreError::io("make a directory for the loader's output"))
    }

    /// Takes a damaged output away.
    pub(super) fn remove_loaded(&self, key: &str) -> Result<(), StoreError> {
        let io = StoreError::io("remove a damaged loader output");
        let (loaded, tmp) = (self.part("loaded")?, self.part("tmp")?);
        // under a name of its own in tmp/: what is left of it after a crash is garbage
        let aside = format!("damaged-{}", fsx::unique());
        if fsx::optional(loaded.rename(key, &tmp, &aside)).map_err(&io)?.is_some() {
            loaded.sync().map_err(&io)?;
            tmp.remove_tree(&aside).map_err(io)?;
        }
        Ok(())
    }

    /// Makes what a loader wrote read-only and gives it its place under `key`, durably. Where an intact
    /// output with this key is there already, that one stays; a damaged one is replaced.
    ///
    /// # Errors
    /// [`StoreError::Damaged`]: the loader left what cannot be sealed, with its path. Nothing is under
    /// `key` that was not before, and the staging is gone.
    pub fn seal_loaded(&self, staging: Staging, key: LoadedKey) -> Result<(), StoreError> {
        let io = StoreError::io("seal the loader's output");
        let _lock = self.store_lock().map_err(&io)?;
        let tree = Arc::new(staging.dir().dir("tree").map_err(&io)?);
        let manifest = seal(&tree, &staging.path().to_string_lossy())?;
        staging.dir().write_unflushed("manifest", manifest.text().as_bytes(), 0o444).map_err(&io)?;
        let written = Written { inodes: manifest.len(), bytes: manifest.bytes() };
        flush::flush(staging.dir(), written).map_err(&io)?;
        let loaded = self.part("loaded")?;
        let name = key.to_string();
        if loaded.exists(&name).map_err(&io)? {
            if self.loaded_intact(key)? {
                return loaded.sync().map_err(io);
            }
            self.remove_loaded(&name)?;
        }
        // `false`: somebody sealed the same key just now
        staging.publish(&loaded, &name).map(|_| ()).map_err(io)
    }
}

/// Makes everything beneath `tree` read-only and lists it. Absolute links to `own`, where the tree is now,
/// become relative.
fn seal(tree: &Arc<Dir>, own: &str) -> Result<Manifest, StoreError> {
    let io = StoreError::io("seal the loader's output");
    let bad = |path: &str, what: &str| StoreError::damaged(None, format!("{{loaded}}/{path}"), what);
    let mut entries = Vec::new();
    let mut directories = Vec::new();
    for found in scan::scan(Arc::clone(tree), usize::MAX).map_err(&io)? {
        let path = found
            .path
            .map_err(|shown| bad(&shown, "a name without control characters, in UTF-8, is needed"))?;
        let node = match found.what {
            What::Dir => {
                directories.push(path.clone());
                Node::Dir
            }
            What::File(hash) => {
                let (class, executable) = rights::class_of(found.meta.mode);
                if found.meta.links != 1 {
                    return Err(bad(path.as_str(), "it is a hard link; a copy is needed"));
                }
                if found.meta.mode & 0o7000 != 0 {
                    return Err(bad(path.as_str(), "it has a setuid, setgid or sticky bit"));
                }
                tree.set_file_mode(&path, rights::file_mode(class, executable)).map_err(&io)?;
                Node::File { class, executable, len: found.meta.len, hash }
            }
            What::Link(target) => match links::judge(&path, None, &target, &[own.to_owned()]) {
                links::Judgement::Keep(text) if !text.chars().any(char::is_control) => {
                    if text != target {
                        tree.remove_file(&path).and_then(|()| tree.symlink(&text, &path)).map_err(&io)?;
                    }
                    Node::Link { target: text }
                }
                _ => return Err(bad(path.as_str(), "it leads out of the output")),
            },
            What::Special => return Err(bad(path.as_str(), "it is no file, directory or link")),
            What::Unreadable(why) => return Err(bad(path.as_str(), &why)),
        };
        entries.push(Entry { path, node });
    }
    let manifest = Manifest::new(entries).map_err(|e| bad("", &e.to_string()))?;
    if let Some((path, _)) = links::first_leaving(&manifest) {
        return Err(bad(path.as_str(), "it leads out of the output"));
    }
    // deepest first: a directory is closed when everything in it is done
    for path in directories.iter().rev() {
        tree.dir(path).and_then(|dir| dir.set_mode(DIR_MODE)).map_err(&io)?;
    }
    tree.set_mode(DIR_MODE).map_err(io)?;
    Ok(manifest)
}
