//! Export: generations, tags and outcomes as one tar stream whose layout is the store's.

use std::collections::HashSet;
use std::io::{Read as _, Write};

use tar::{EntryType, Header};

use super::bundle::{self, FirstSeen, Meter, Origin, Tally};
use super::error::{Damage, Kind, StoreError};
use super::finished::Lying;
use super::generation::LARGEST_MANIFEST;
use super::members::BLOCK;
use super::open::Store;
use super::rights::{Access, DIR_MODE, file_mode};
use super::scan::{self, Found, What};
use super::shared::Known;
use super::{events, outcome};
use crate::fsx::{self, Dir, Meta};
use crate::model::{ContentHash, GenerationId, Manifest, Node, RelPath};

/// What an export holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Exported {
    /// generations in it
    pub generations: u64,
    /// tags in it
    pub tags: u64,
    /// outcomes in it
    pub outcomes: u64,
    /// bytes of the stream
    pub bytes: u64,
}

/// Why an export is not whole: what was written of it has no end, and no import takes it.
#[derive(Debug, thiserror::Error)]
pub enum ExportError {
    /// the store cannot be read, or is damaged there
    #[error(transparent)]
    Store(StoreError),
    /// a generation that cannot be exported as it is
    #[error("cannot export {0}; `pointsman verify --repair` makes it whole where it can")]
    Damaged(Damage),
    /// the stream cannot be written
    #[error("cannot write the export; it is not whole, make it again")]
    Write(#[source] std::io::Error),
}

impl ExportError {
    /// What it means for whoever asked.
    pub fn kind(&self) -> Kind {
        match self {
            ExportError::Store(error) => error.kind(),
            ExportError::Damaged(_) => Kind::Damaged,
            ExportError::Write(_) => Kind::Failed,
        }
    }
}

impl From<StoreError> for ExportError {
    fn from(error: StoreError) -> ExportError {
        match error {
            StoreError::Damaged(damage) => ExportError::Damaged(damage),
            other => ExportError::Store(other),
        }
    }
}

impl Store {
    /// Writes the generations `ids` (`None`: all there are), the tags that name them and the outcomes that are
    /// about them to `to`; `machine` is the id of this one. Each generation is leased while it is read, and
    /// everything is hashed on the way: what is in a stream that ends is what was pushed.
    ///
    /// # Errors
    /// What was written has no end then: it is not to be kept.
    pub fn export(
        &self,
        ids: Option<&[GenerationId]>,
        machine: &str,
        to: &mut dyn Write,
        meter: Meter<'_>,
    ) -> Result<Exported, ExportError> {
        let order = self.by_push()?;
        let chosen = |id: &GenerationId| ids.is_none_or(|ids| ids.contains(id));
        let in_force = self.current().ok().flatten().filter(chosen);
        let mut export = Export {
            stream: Stream { to, written: 0, meter },
            tally: Tally::default(),
            seen: FirstSeen::default(),
            known: Known::default(),
            buffer: Vec::new(),
            owner: self.owner()?,
            access: self.access(),
        };
        export.stream.file(bundle::FORMAT, bundle::FORMAT_TEXT.as_bytes())?;
        let store = self.path().to_string_lossy().into_owned();
        let origin = Origin { machine: machine.to_owned(), store, current: in_force };
        export.record(bundle::ORIGIN, json(&origin).as_bytes())?;
        let mut exported = HashSet::new();
        for id in order.into_iter().filter(chosen) {
            match self.lease(id) {
                Ok(_lease) => export.generation(self, id)?,
                // taken away since it was listed: with `ids`, that is not what was asked for
                Err(StoreError::NoSuchGeneration { .. }) if ids.is_none() => continue,
                Err(error) => return Err(error.into()),
            }
            exported.insert(id);
        }
        for (tag, id) in self.tags()? {
            if exported.contains(&id) {
                export.record(&format!("tags/{tag}"), format!("{id}\n").as_bytes())?;
                export.tally.tags += 1;
            }
        }
        self.export_outcomes(&mut export, ids)?;
        let end = json(&export.tally.end());
        export.stream.file(bundle::END, end.as_bytes())?;
        export.stream.end()?;
        let Tally { generations, tags, outcomes, .. } = export.tally;
        Ok(Exported { generations, tags, outcomes, bytes: export.stream.written })
    }

    /// Every generation, parents before what was linked to them.
    pub(super) fn by_push(&self) -> Result<Vec<GenerationId>, StoreError> {
        let mut ids: Vec<GenerationId> = self.ledger()?.pushes.into_iter().map(|push| push.id).collect();
        // one whose record cannot be read is in no ledger: the export shall meet the damage
        let listed: HashSet<GenerationId> = ids.iter().copied().collect();
        ids.extend(self.generation_ids()?.into_iter().filter(|id| !listed.contains(id)));
        Ok(ids)
    }

    fn export_outcomes(
        &self,
        export: &mut Export<'_>,
        ids: Option<&[GenerationId]>,
    ) -> Result<(), ExportError> {
        let gone = || StoreError::damaged(None, "events", "an event has gone meanwhile");
        let read = |number, rest, limit| {
            let file = self.read_event_file(number, rest, limit).map_err(StoreError::io("read an event"))?;
            file.map(|(_, bytes)| bytes).ok_or_else(gone)
        };
        for (number, files) in self.event_files(Lying::Anywhere)? {
            let Some(outcome) = files.outcome.then(|| self.outcome(number)).transpose()?.flatten() else {
                continue;
            };
            if ids.is_some_and(|ids| !ids.contains(&outcome.target)) {
                continue;
            }
            if files.event {
                let name = format!("events/{number}.json");
                self.event(number)?;
                export.record(&name, &read(number, "json", events::LARGEST_EVENT)?)?;
            }
            let name = format!("events/{number}.outcome.json");
            export.record(&name, &read(number, "outcome.json", outcome::LARGEST)?)?;
            export.tally.outcomes += 1;
        }
        Ok(())
    }
}

fn json(value: &impl serde::Serialize) -> String {
    serde_json::to_string(value).expect("records have string keys only") + "\n"
}

/// An export on its way.
struct Export<'a> {
    stream: Stream<'a>,
    tally: Tally,
    seen: FirstSeen,
    known: Known,
    buffer: Vec<u8>,
    owner: u32,
    access: Option<&'a Access>,
}

impl Export<'_> {
    /// A member that no manifest vouches for.
    fn record(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.tally.record(name, bytes);
        self.stream.file(name, bytes)
    }

    fn generation(&mut self, store: &Store, id: GenerationId) -> Result<(), ExportError> {
        let io = StoreError::io("read a generation");
        let place = format!("generations/{id}");
        let manifest = store.manifest(id)?;
        store.push_record(id)?;
        let read = |name: &str, limit| store.root.read(format!("{place}/{name}"), limit).map_err(&io);
        let (text, record) = (read("manifest", LARGEST_MANIFEST)?, read("push.json", 1 << 20)?);
        self.stream.directory(&place, 0o755)?;
        self.stream.file(&format!("{place}/manifest"), &text)?;
        self.record(&format!("{place}/push.json"), &record)?;
        self.stream.directory(&format!("{place}/tree"), DIR_MODE)?;
        let tree = match fsx::optional(store.root.dir(format!("{place}/tree"))).map_err(&io)? {
            Some(tree) => tree,
            None => {
                return Err(StoreError::damaged(Some(id), format!("{place}/tree"), "it is missing").into());
            }
        };
        self.tree(id, &manifest, &tree)?;
        self.tally.generations += 1;
        self.stream.meter.generation();
        Ok(())
    }

    fn tree(&mut self, id: GenerationId, manifest: &Manifest, tree: &Dir) -> Result<(), ExportError> {
        for (path, node) in manifest.iter() {
            let name = format!("generations/{id}/tree/{path}");
            let damaged = |what: &str| ExportError::from(StoreError::damaged(Some(id), &name, what));
            let io = StoreError::io("read a generation");
            let meta = fsx::optional(tree.meta(path)).map_err(&io)?;
            let meta = meta.ok_or_else(|| damaged("it is missing"))?;
            let what = match (node, meta.kind) {
                (Node::Dir, fsx::EntryKind::Dir) => {
                    self.stream.directory(&name, DIR_MODE)?;
                    What::Dir
                }
                (Node::Link { .. }, fsx::EntryKind::Link) => {
                    let target = tree.read_link(path).map_err(&io)?.to_string_lossy().into_owned();
                    self.stream.header(EntryType::Symlink, &name, &target, 0o777, 0)?;
                    What::Link(target)
                }
                (Node::File { .. }, fsx::EntryKind::File) => {
                    let (file, meta) = tree.open_file_meta(path).map_err(&io)?;
                    match self.file((file, &meta), path, node, &name)? {
                        Ok(hash) => {
                            self.seen.insert(path, node, id);
                            What::File(hash)
                        }
                        Err(why) => What::Unreadable(why.to_string()),
                    }
                }
                _ => What::Special,
            };
            let found = Found { path: Ok(path.clone()), meta, what };
            if let Some(what) = scan::differs(&found, path, node, self.owner, self.access) {
                return Err(damaged(&what));
            }
        }
        Ok(())
    }

    /// One file, or a hard link to the same one earlier in the stream. The hash of what was read; the inner
    /// error is one of reading.
    fn file(
        &mut self,
        (mut file, meta): (fs_err::File, &Meta),
        path: &RelPath,
        node: &Node,
        name: &str,
    ) -> Result<std::io::Result<ContentHash>, ExportError> {
        let Node::File { class, executable, len, .. } = node else { unreachable!("the caller has looked") };
        let mode = file_mode(*class, *executable);
        if let Some(first) = self.seen.get(path, node) {
            let target = format!("generations/{first}/tree/{path}");
            self.stream.header(EntryType::Link, name, &target, mode, 0)?;
            return Ok(self.known.read(&mut file, meta, &mut self.buffer));
        }
        self.stream.header(EntryType::Regular, name, "", mode, *len)?;
        let mut hasher = blake3::Hasher::new();
        let mut left = *len;
        self.buffer.resize(128 << 10, 0);
        // one byte more than there should be would tell that it has grown; its length is looked at by the caller
        while left > 0 {
            let most = self.buffer.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            match file.read(&mut self.buffer[..most]) {
                Ok(0) => return Ok(Err(std::io::ErrorKind::UnexpectedEof.into())),
                Ok(n) => {
                    hasher.update(&self.buffer[..n]);
                    self.stream.bytes(&self.buffer[..n])?;
                    left -= n as u64;
                }
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                Err(e) => return Ok(Err(e)),
            }
        }
        self.stream.pad(*len)?;
        let hash = ContentHash::finish(&hasher);
        self.known.learn(meta, hash);
        Ok(Ok(hash))
    }
}

/// A tar stream being written: GNU headers without times and owners, so that the same store gives the same
/// stream. Not the crate's `Builder`, which writes the end marker even after an error.
struct Stream<'a> {
    to: &'a mut dyn Write,
    written: u64,
    meter: Meter<'a>,
}

/// A name of this length or more has a header of its own.
const LONG: usize = 100;

impl Stream<'_> {
    fn bytes(&mut self, bytes: &[u8]) -> Result<(), ExportError> {
        self.to.write_all(bytes).map_err(ExportError::Write)?;
        self.written += bytes.len() as u64;
        self.meter.bytes(bytes.len() as u64);
        Ok(())
    }

    /// Fills the last block of a member of `len` bytes.
    fn pad(&mut self, len: u64) -> Result<(), ExportError> {
        let rest = usize::try_from(len.next_multiple_of(BLOCK) - len).expect("less than a block");
        self.bytes(&[0; BLOCK as usize][..rest])
    }

    fn file(&mut self, name: &str, bytes: &[u8]) -> Result<(), ExportError> {
        self.header(EntryType::Regular, name, "", 0o444, bytes.len() as u64)?;
        self.bytes(bytes)?;
        self.pad(bytes.len() as u64)
    }

    fn directory(&mut self, name: &str, mode: u32) -> Result<(), ExportError> {
        self.header(EntryType::Directory, &format!("{name}/"), "", mode, 0)
    }

    fn header(
        &mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        mode: u32,
        len: u64,
    ) -> Result<(), ExportError> {
        for (text, kind) in [(name, EntryType::GNULongName), (link, EntryType::GNULongLink)] {
            if text.len() >= LONG {
                let len = text.len() as u64 + 1;
                self.block(kind, "././@LongLink", "", 0o644, len)?;
                self.bytes(text.as_bytes())?;
                self.bytes(&[0])?;
                self.pad(len)?;
            }
        }
        self.block(kind, name, link, mode, len)
    }

    fn block(
        &mut self,
        kind: EntryType,
        name: &str,
        link: &str,
        mode: u32,
        len: u64,
    ) -> Result<(), ExportError> {
        let mut header = Header::new_gnu();
        header.set_entry_type(kind);
        header.set_mode(mode);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(len);
        let old = header.as_old_mut();
        for (field, text) in [(&mut old.name, name), (&mut old.linkname, link)] {
            let text = &text.as_bytes()[..text.len().min(LONG - 1)];
            field[..text.len()].copy_from_slice(text);
        }
        header.set_cksum();
        self.bytes(header.as_bytes())
    }

    /// Two empty blocks, and out of all buffers.
    fn end(&mut self) -> Result<(), ExportError> {
        self.bytes(&[0; 2 * BLOCK as usize])?;
        self.to.flush().map_err(ExportError::Write)
    }
}
