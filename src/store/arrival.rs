//! The generations of an export as they arrive: verified against their manifests, and put into the staging
//! where the store does not have them.

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::sync::Arc;

use tar::EntryType;

use super::assembly::{Assembly, Trouble, pour};
use super::bundle::{FirstSeen, ImportError, expect, refused, unexpected};
use super::error::StoreError;
use super::links;
use super::members::{Broken, Member};
use super::open::Writer;
use super::shared::Known;
use super::staging::Staging;
use crate::fsx::Dir;
use crate::model::{GenerationId, Limits, Manifest, Node, PushRecord, RelPath};

/// Bytes of a manifest for each entry that a generation may have.
pub(super) const LONGEST_LINE: u64 = 512;

/// Where a generation of the stream is, as long as the import lasts.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// in the store, intact
    There,
    /// in the store, damaged: a whole one is in the staging
    Damaged,
    /// in the staging
    New,
}

/// A generation that the stream has brought.
pub(super) struct Arrived {
    pub(super) id: GenerationId,
    pub(super) place: Place,
    pub(super) record: PushRecord,
}

/// A generation on its way in.
pub(super) struct Generation {
    pub(super) id: GenerationId,
    text: Vec<u8>,
    manifest: Manifest,
    /// entries that have come
    done: usize,
    paths: Vec<RelPath>,
    pub(super) record: Option<(PushRecord, Vec<u8>)>,
    place: Place,
    /// `None`: it is there, and is only compared
    assembly: Option<Assembly>,
}

impl Generation {
    /// Whether everything that its manifest lists has come.
    pub(super) fn is_complete(&self) -> bool {
        self.done == self.paths.len()
    }
}

/// All that have arrived, and what they may share files with.
pub(super) struct Arrivals<'a> {
    writer: &'a Writer,
    staging: &'a Staging,
    pub(super) limits: Limits,
    seen: FirstSeen,
    known: Known,
    pub(super) generations: Vec<Arrived>,
    arrived: HashSet<GenerationId>,
    /// where each generation of the stream is, and each of the store that was looked at
    places: HashMap<GenerationId, Place>,
    /// an intact generation of the store whose files may get second names
    base: Option<(GenerationId, Arc<Manifest>)>,
    buffer: Vec<u8>,
}

impl<'a> Arrivals<'a> {
    pub(super) fn new(writer: &'a Writer, staging: &'a Staging, limits: Limits) -> Arrivals<'a> {
        Arrivals {
            writer,
            staging,
            limits,
            seen: FirstSeen::default(),
            known: Known::default(),
            generations: Vec::new(),
            arrived: HashSet::new(),
            places: HashMap::new(),
            base: None,
            buffer: Vec::new(),
        }
    }

    /// Whether generation `id` has arrived whole.
    pub(super) fn has(&self, id: GenerationId) -> bool {
        self.arrived.contains(&id)
    }

    /// A manifest that may come in, and the directory for what it lists.
    pub(super) fn begin(&mut self, id: GenerationId, text: Vec<u8>) -> Result<Generation, ImportError> {
        let bad = |why: &str| refused(format!("generations/{id}/manifest: {why}; make the export again"));
        if GenerationId::of(&text) != id {
            return Err(bad("it does not hash to the generation's id"));
        }
        let manifest = Manifest::parse(&text).map_err(|e| bad(&e.to_string()))?;
        let bytes = manifest.iter().fold(0u64, |sum, (_, node)| match node {
            Node::File { len, .. } => sum.saturating_add(*len),
            _ => sum,
        });
        if manifest.len() > self.limits.entries || bytes > self.limits.bytes {
            return Err(refused(format!("generation {id} is larger than a push may be; export it alone")));
        }
        let deep = |path: &RelPath| path.as_str().matches('/').count() >= self.limits.depth;
        if let Some((path, _)) = manifest.iter().find(|(path, _)| deep(path)) {
            return Err(bad(&format!("{path} is more than {} directories deep", self.limits.depth)));
        }
        if let Some((path, target)) = links::first_leaving(&manifest) {
            return Err(bad(&format!("the link {path} leads out of the generation, to {target}")));
        }
        let place = match self.writer.check_intact_knowing(id, &mut self.known) {
            Ok(()) => Place::There,
            Err(StoreError::NoSuchGeneration { .. }) => Place::New,
            Err(StoreError::Damaged(_)) => Place::Damaged,
            Err(error) => return Err(error.into()),
        };
        let assembly = match place {
            Place::There => None,
            Place::Damaged | Place::New => Some(
                Assembly::new(self.staging.dir(), &id.to_string(), self.writer.access())
                    .map_err(ImportError::io("write what is imported"))?,
            ),
        };
        self.places.insert(id, place);
        let paths = manifest.iter().map(|(path, _)| path.clone()).collect();
        Ok(Generation { id, text, manifest, done: 0, paths, record: None, place, assembly })
    }

    /// Chooses what a new generation may share files with, besides those of the stream: its parent, where that
    /// is here, else what a push would take. Only an intact one: a second name would be as damaged.
    pub(super) fn choose_base(&mut self, record: &PushRecord) -> Result<(), ImportError> {
        let here = |id: &GenerationId| self.writer.has(*id).unwrap_or(false);
        let id = record.parent.filter(here).or_else(|| self.writer.current().ok().flatten());
        if self.base.as_ref().map(|(id, _)| *id) == id {
            return Ok(());
        }
        self.base = None;
        if let Some(id) = id {
            let place = match self.places.get(&id) {
                Some(place) => *place,
                None => match self.writer.check_intact_knowing(id, &mut self.known) {
                    Ok(()) => Place::There,
                    Err(StoreError::Damaged(_) | StoreError::NoSuchGeneration { .. }) => Place::Damaged,
                    Err(error) => return Err(error.into()),
                },
            };
            self.places.insert(id, place);
            if place == Place::There {
                self.base = Some((id, self.writer.manifest(id)?));
            }
        }
        Ok(())
    }

    /// One path of a generation, which has to be as the manifest says.
    pub(super) fn entry(
        &mut self,
        generation: &mut Generation,
        member: &Member,
        content: &mut dyn Read,
    ) -> Result<(), ImportError> {
        let write = ImportError::io("write what is imported");
        let path = &generation.paths[generation.done];
        let node = generation.manifest.get(path).expect("the paths are the manifest's");
        let name = format!("generations/{}/tree/{path}", generation.id);
        match node {
            Node::Dir => {
                expect(member, EntryType::Directory, &format!("{name}/"))?;
                generation.assembly.as_ref().map_or(Ok(()), |to| to.directory(path)).map_err(write)?;
            }
            Node::Link { target } => {
                expect(member, EntryType::Symlink, &name)?;
                if member.link.as_deref() != Some(target.as_bytes()) {
                    return Err(refused(format!(
                        "{name} does not lead to {target}, as the manifest says; make the export again"
                    )));
                }
                generation.assembly.as_ref().map_or(Ok(()), |to| to.link(path, target)).map_err(write)?;
            }
            Node::File { .. } => {
                if member.name != name.as_bytes() {
                    return Err(unexpected(&member.shown(), &name));
                }
                let fits = match member.kind {
                    EntryType::Regular => self.content(generation.assembly.as_ref(), path, node, content),
                    EntryType::Link => {
                        let first = self.seen.get(path, node);
                        let target = first.map(|first| format!("generations/{first}/tree/{path}"));
                        match (first, target) {
                            (Some(first), Some(target))
                                if member.link.as_deref() == Some(target.as_bytes()) =>
                            {
                                self.second_name(generation.assembly.as_ref(), first, path, node)
                            }
                            _ => {
                                return Err(refused(format!(
                                    "{name} is a hard link to what is not the same file; make the export again"
                                )));
                            }
                        }
                    }
                    _ => return Err(unexpected(&member.shown(), "a regular file")),
                };
                match fits {
                    Ok(true) => {}
                    Ok(false) => {
                        return Err(refused(format!(
                            "{name} is not what its manifest says; make the export again"
                        )));
                    }
                    Err(Trouble::Source(error)) => return Err(Broken::from(error).into()),
                    Err(Trouble::Store(error)) => return Err(write(error)),
                }
                self.seen.insert(path, node, generation.id);
            }
        }
        generation.done += 1;
        Ok(())
    }

    /// A file whose content is in the stream: into the staging, unless it gets a second name or is there.
    fn content(
        &mut self,
        to: Option<&Assembly>,
        path: &RelPath,
        node: &Node,
        content: &mut dyn Read,
    ) -> Result<bool, Trouble> {
        let Some(to) = to else { return pour(node, content, None, &mut self.buffer) };
        let base = self.base.as_ref().filter(|(_, manifest)| manifest.get(path) == Some(node));
        let empty = matches!(node, Node::File { len: 0, .. });
        match base.map(|(id, _)| *id).filter(|_| !empty) {
            Some(base) => Ok(pour(node, content, None, &mut self.buffer)?
                && self.second_name(Some(to), base, path, node)?),
            None => to.file(path, node, content, &mut self.buffer),
        }
    }

    fn second_name(
        &mut self,
        to: Option<&Assembly>,
        first: GenerationId,
        path: &RelPath,
        node: &Node,
    ) -> Result<bool, Trouble> {
        let Some(to) = to else { return Ok(true) };
        let place: (&Dir, String) = match self.places.get(&first) {
            Some(Place::There) => (&self.writer.root, format!("generations/{first}/tree/{path}")),
            _ => (self.staging.dir(), format!("{first}/tree/{path}")),
        };
        to.second_name(path, node, (place.0, &place.1), &mut self.buffer)
    }

    /// Completes a generation, of which everything has come.
    pub(super) fn finish(&mut self, generation: Generation) -> Result<(), ImportError> {
        let (id, place) = (generation.id, generation.place);
        let (record, text) = generation.record.expect("it came before the tree");
        if let Some(assembly) = generation.assembly {
            // how a generation came here stays, where it is still known
            let own = self.writer.root.read(format!("generations/{id}/push.json"), 1 << 20);
            let own = own.ok().filter(|_| place == Place::Damaged && self.writer.push_record(id).is_ok());
            assembly
                .finish(&generation.manifest, &generation.text, &own.unwrap_or(text))
                .map_err(ImportError::io("write what is imported"))?;
        }
        self.arrived.insert(id);
        self.generations.push(Arrived { id, place, record });
        Ok(())
    }
}
