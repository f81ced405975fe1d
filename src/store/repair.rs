//! Repair: a damaged generation is put together anew from intact pieces, and takes its own place in one step.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::io::Read;
use std::sync::Arc;

use super::arrival::Place;
use super::assembly::{Assembly, Trouble};
use super::bundle::{ImportError, Meter};
use super::error::{Damage, StoreError};
use super::generation::LARGEST_MANIFEST;
use super::history::PushLine;
use super::incoming::receive;
use super::open::Writer;
use super::push::Scratch;
use super::scan::{Found, What, differs};
use super::shared::Known;
use super::staging::Staging;
use crate::fsx::Dir;
use crate::model::{ContentHash, GenerationId, Limits, Manifest, Node, PushRecord, RelPath};

/// Where intact pieces may come from, besides the store itself.
pub enum Pieces<'a> {
    /// nowhere
    Store,
    /// this generation of the store, before the others
    Generation(GenerationId),
    /// a directory as a push reads it, and the record that a push of it would leave
    Directory(&'a Scratch, PushRecord),
    /// an export, read once
    Export(&'a mut dyn Read),
}

/// What a repair came to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Repair {
    /// what is whole again
    pub repaired: Vec<Repaired>,
    /// what is not, as [`super::Store::verify`] names it after all
    pub left: Vec<Damage>,
}

/// One thing that is whole again.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Repaired {
    /// the generation; `None`: something else in the store
    pub generation: Option<GenerationId>,
    /// the path, beneath the store
    pub path: String,
    /// what was done, and what could not be had back
    pub how: String,
}

/// A damaged generation whose manifest and record are at hand.
struct Plan {
    id: GenerationId,
    manifest: Arc<Manifest>,
    text: Vec<u8>,
    record: Vec<u8>,
    /// what is known no more
    lost: Option<&'static str>,
    /// how much of each of its files is there
    own: BTreeMap<RelPath, Own>,
}

/// What is left of a file in its own place.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Own {
    /// all of it
    Whole,
    /// the content, with other rights
    Content,
    /// nothing
    Nothing,
}

/// A file that may have the content that is looked for.
struct Piece<'a> {
    dir: &'a Dir,
    at: String,
    /// its path in a generation of this store, and what its manifest says of it
    listed: Option<(RelPath, Node)>,
}

impl Piece<'_> {
    /// Whether a second name of it may be at `path` (S7).
    fn is(&self, path: &RelPath, node: &Node) -> bool {
        self.listed.as_ref().is_some_and(|(at, as_what)| at == path && as_what == node)
    }
}

impl Writer {
    /// Makes whole what is damaged, in generation `id` and those that share its damaged files, or everywhere.
    /// Generations are rebuilt from their own intact files, from any file of the store with the same content,
    /// and from `pieces`; each takes its place in one step, when it is complete and durable. Loader outputs that
    /// are damaged are removed, a history with a damaged middle is written anew.
    ///
    /// A lease on a damaged generation holds what was there: that stays, out of sight, until the lease is dropped.
    ///
    /// # Errors
    /// What is whole again stays so; the same repair again does the rest.
    pub fn repair(
        &self,
        id: Option<GenerationId>,
        mut pieces: Pieces<'_>,
        limits: Limits,
        meter: Meter<'_>,
    ) -> Result<Repair, ImportError> {
        let io = ImportError::io("repair the store");
        let _lock = self.store_lock().map_err(&io)?;
        let damages = self.verify(id)?;
        if damages.is_empty() {
            return Ok(Repair { repaired: Vec::new(), left: damages });
        }
        let mut repaired = Vec::new();
        let mut ids: BTreeSet<GenerationId> = damages.iter().filter_map(|damage| damage.generation).collect();
        ids.extend(damages.iter().flat_map(|damage| &damage.shared));
        if !ids.is_empty() {
            let staging = Staging::new(&self.root).map_err(&io)?;
            let mut received = Vec::new();
            if let Pieces::Export(stream) = &mut pieces {
                for arrived in receive(self, &staging, stream, limits, meter)?.generations {
                    match arrived.place {
                        Place::Damaged if ids.remove(&arrived.id) => {
                            staging.dir().sync_file_system().map_err(&io)?;
                            self.put_in_place(&staging, arrived.id)?;
                            repaired.push(of_generation(arrived.id, "made anew from the export".to_owned()));
                        }
                        Place::New | Place::Damaged => received.push(arrived.id),
                        Place::There => {}
                    }
                }
            }
            repaired.extend(self.rebuild_all(&ids, &pieces, &staging, &received)?);
        }
        for damage in damages.iter().filter(|damage| damage.generation.is_none()) {
            repaired.extend(self.repair_other(damage)?);
        }
        repaired.dedup();
        let left = self.verify(id)?;
        Ok(Repair { repaired, left })
    }

    /// Lets the generation in the staging take its place.
    fn put_in_place(&self, staging: &Staging, id: GenerationId) -> Result<(), ImportError> {
        let name = id.to_string();
        let to = self.part("generations")?;
        let whole = staging.split(&name).map_err(ImportError::io("repair a generation"))?;
        whole.replace(&to, &name).map_err(ImportError::io("repair a generation"))
    }

    fn rebuild_all(
        &self,
        ids: &BTreeSet<GenerationId>,
        pieces: &Pieces<'_>,
        staging: &Staging,
        received: &[GenerationId],
    ) -> Result<Vec<Repaired>, ImportError> {
        let mut known = Known::default();
        let mut plans = Vec::new();
        // parents first: what they get, their children share
        for id in self.by_push()?.into_iter().filter(|id| ids.contains(id)) {
            plans.extend(self.plan(id, pieces, &mut known)?);
        }
        let lacking = |plan: &Plan| -> Vec<ContentHash> {
            let of = |node: Option<&Node>| {
                if let Some(Node::File { hash, .. }) = node { Some(*hash) } else { None }
            };
            let lost = plan.own.iter().filter(|(_, own)| **own == Own::Nothing);
            lost.filter_map(|(path, _)| of(plan.manifest.get(path))).collect()
        };
        let wanted: BTreeSet<ContentHash> = plans.iter().flat_map(lacking).collect();
        let scratch = match pieces {
            Pieces::Directory(scratch, _) => {
                Some(scratch.tree().map_err(ImportError::io("repair the store"))?)
            }
            _ => None,
        };
        let mut found: HashMap<ContentHash, Vec<Piece<'_>>> = HashMap::new();
        let mut offer = |manifest: &Manifest, dir, at: String, ours: bool| {
            for (path, node) in manifest.iter() {
                if let Node::File { hash, .. } = node
                    && wanted.contains(hash)
                {
                    let listed = ours.then(|| (path.clone(), node.clone()));
                    found.entry(*hash).or_default().push(Piece { dir, at: format!("{at}{path}"), listed });
                }
            }
        };
        let first = if let Pieces::Generation(id) = pieces { Some(*id) } else { None };
        for id in first.into_iter().chain(self.generation_ids()?) {
            if let Ok(manifest) = self.manifest(id) {
                offer(&manifest, &*self.root, format!("generations/{id}/tree/"), true);
            }
        }
        for id in received {
            let text = staging.dir().read(format!("{id}/manifest"), LARGEST_MANIFEST);
            let text = text.map_err(ImportError::io("repair the store"))?;
            let manifest = Manifest::parse(&text).expect("it was parsed when it came in");
            offer(&manifest, staging.dir(), format!("{id}/tree/"), false);
        }
        if let (Pieces::Directory(from, _), Some(tree)) = (pieces, &scratch) {
            offer(from.manifest(), tree, String::new(), false);
        }
        let mut repaired = Vec::new();
        for plan in plans {
            repaired.extend(self.rebuild(plan, staging, &found, &mut known)?);
        }
        Ok(repaired)
    }

    /// The manifest and record of damaged generation `id`, and what of its files is whole; `None` where one of the
    /// first two is nowhere.
    fn plan(
        &self,
        id: GenerationId,
        pieces: &Pieces<'_>,
        known: &mut Known,
    ) -> Result<Option<Plan>, ImportError> {
        let pushed = match pieces {
            Pieces::Directory(scratch, record) if scratch.manifest().id() == id => {
                Some((scratch.manifest(), record))
            }
            _ => None,
        };
        let manifest = match (self.manifest(id), pushed) {
            (Ok(manifest), _) => manifest,
            (Err(StoreError::Damaged(_)), Some((manifest, _))) => Arc::new(manifest.clone()),
            (Err(StoreError::Damaged(_)), None) => return Ok(None),
            (Err(error), _) => return Err(error.into()),
        };
        let line = |id| -> Result<Option<PushLine>, StoreError> {
            Ok(self.ledger()?.pushes.into_iter().find(|push| push.id == id))
        };
        let json = |record: &PushRecord| {
            serde_json::to_string(record).expect("records have string keys only").into_bytes()
        };
        let (record, lost) = match self.push_record(id) {
            // as it is: it may have members of a newer program
            Ok(_) => {
                let name = format!("generations/{id}/push.json");
                let bytes = self.root.read(name, 1 << 20).map_err(ImportError::io("read a push record"))?;
                (bytes, None)
            }
            Err(StoreError::Damaged(_)) => match (line(id)?, pushed) {
                (Some(PushLine { at, by, message, parent, .. }), _) => {
                    let record = PushRecord {
                        at,
                        by,
                        source: "(lost)".to_owned(),
                        message,
                        meta: crate::model::Metadata::new(),
                        parent,
                    };
                    (json(&record), Some("push.json is from the history: what was pushed from where is lost"))
                }
                (None, Some((_, record))) => {
                    (json(record), Some("push.json is new: who pushed it first, and when, is lost"))
                }
                (None, None) => return Ok(None),
            },
            Err(error) => return Err(error.into()),
        };
        let mut own = BTreeMap::new();
        for (path, node) in manifest.iter().filter(|(_, node)| matches!(node, Node::File { .. })) {
            let at = format!("generations/{id}/tree/{path}");
            own.insert(path.clone(), self.look((&self.root, &at), path, node, known)?);
        }
        let text = manifest.text().into_bytes();
        Ok(Some(Plan { id, manifest, text, record, lost, own }))
    }

    /// How much of `node` the file `at` beneath `dir` is. What cannot be read is nothing.
    fn look(
        &self,
        (dir, at): (&Dir, &str),
        path: &RelPath,
        node: &Node,
        known: &mut Known,
    ) -> Result<Own, ImportError> {
        let Node::File { hash, .. } = node else { unreachable!("only files are looked at") };
        let Ok((mut file, meta)) = dir.open_file_meta(at) else { return Ok(Own::Nothing) };
        let Ok(actual) = known.read(&mut file, &meta, &mut Vec::new()) else { return Ok(Own::Nothing) };
        if actual != *hash {
            return Ok(Own::Nothing);
        }
        let found = Found { path: Err(at.to_owned()), meta, what: What::File(actual) };
        let right = differs(&found, path, node, self.owner()?, self.access()).is_none();
        Ok(if right { Own::Whole } else { Own::Content })
    }

    /// Puts a generation together and into its place; `None` where a piece is nowhere.
    fn rebuild(
        &self,
        plan: Plan,
        staging: &Staging,
        found: &HashMap<ContentHash, Vec<Piece<'_>>>,
        known: &mut Known,
    ) -> Result<Option<Repaired>, ImportError> {
        let io = ImportError::io("repair a generation");
        let Plan { id, manifest, text, record, lost, own } = plan;
        let name = id.to_string();
        let assembly = Assembly::new(staging.dir(), &name, self.access()).map_err(&io)?;
        let mut buffer = Vec::new();
        let mut anew = 0;
        for (path, node) in manifest.iter() {
            let hash = match node {
                Node::Dir => {
                    assembly.directory(path).map_err(&io)?;
                    continue;
                }
                Node::Link { target } => {
                    assembly.link(path, target).map_err(&io)?;
                    continue;
                }
                Node::File { hash, .. } => hash,
            };
            let at = format!("generations/{id}/tree/{path}");
            let mine = Piece { dir: &self.root, at, listed: Some((path.clone(), node.clone())) };
            let there = own.get(path).is_some_and(|own| *own != Own::Nothing);
            let others = found.get(hash).into_iter().flatten();
            let mut made = false;
            // its own file, then one to share, then one to copy
            let (same, elsewhere): (Vec<_>, Vec<_>) = others.partition(|piece| piece.is(path, node));
            for piece in there.then_some(&mine).into_iter().chain(same).chain(elsewhere) {
                made = self.take(piece, path, node, &assembly, &mut buffer, known)?;
                if made {
                    break;
                }
            }
            if !made {
                staging.dir().remove_tree(&name).map_err(&io)?;
                return Ok(None);
            }
            anew += u64::from(own.get(path) != Some(&Own::Whole));
        }
        assembly.finish(&manifest, &text, &record).map_err(&io)?;
        staging.dir().sync_file_system().map_err(&io)?;
        self.put_in_place(staging, id)?;
        let how = match anew {
            0 => "its intact files put together anew".to_owned(),
            1 => "1 file made anew".to_owned(),
            _ => format!("{anew} files made anew"),
        };
        let how = lost.map_or(how.clone(), |lost| format!("{how}; {lost}"));
        Ok(Some(of_generation(id, how)))
    }

    /// Makes the file at `path` from `piece`, a second name of it where S7 allows. `false`: it is not that content.
    fn take(
        &self,
        piece: &Piece<'_>,
        path: &RelPath,
        node: &Node,
        to: &Assembly,
        buffer: &mut Vec<u8>,
        known: &mut Known,
    ) -> Result<bool, ImportError> {
        let done = match self.look((piece.dir, &piece.at), path, node, known)? {
            Own::Nothing => return Ok(false),
            Own::Whole
                if piece.listed.as_ref().is_some_and(|(at, as_what)| at == path && as_what == node) =>
            {
                to.second_name(path, node, (piece.dir, &piece.at), buffer)
            }
            Own::Whole | Own::Content => match piece.dir.open_file(&piece.at) {
                Ok(mut file) => to.file(path, node, &mut file, buffer),
                Err(_) => return Ok(false),
            },
        };
        match done {
            Ok(done) => Ok(done),
            Err(Trouble::Source(_)) => Ok(false),
            Err(Trouble::Store(error)) => Err(ImportError::io("repair a generation")(error)),
        }
    }

    /// Repairs what is no generation, where nothing is lost by it.
    fn repair_other(&self, damage: &Damage) -> Result<Option<Repaired>, ImportError> {
        let repaired = |path: &str, how: &str| {
            Some(Repaired { generation: None, path: path.to_owned(), how: how.to_owned() })
        };
        let mut parts = damage.path.split('/');
        match (parts.next(), parts.next()) {
            (Some("loaded"), Some(key)) => {
                self.remove_loaded(key)?;
                let path = format!("loaded/{key}");
                Ok(repaired(&path, "removed; the loader makes it again at the next activation that needs it"))
            }
            (Some("history"), None) => {
                self.rewrite_history()?;
                Ok(repaired("history", "written anew from its sound lines, generations/ and events/"))
            }
            _ => Ok(None),
        }
    }
}

fn of_generation(id: GenerationId, how: String) -> Repaired {
    Repaired { generation: Some(id), path: format!("generations/{id}"), how }
}
