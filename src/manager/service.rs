//! One service: its store, its run directory, its host file, and which pipeline counts.

use std::cell::RefCell;
use std::path::PathBuf;

use crate::fsx::{self, FsError};
use crate::model::{
    DocumentError, GenerationId, HostFile, HostPipeline, Manifest, Node, Pipeline, RelPath, Retention,
    SectionError, chain,
};
use crate::store::{Access, EventError, PointerError, PushError, Store, StoreError};
use crate::supervise::client::Unreachable;
use crate::supervise::{ServiceManager, Workers};

/// Where a service lives.
#[derive(Clone, Debug)]
pub struct Place {
    /// its name: what a single `worker:` group is called
    pub name: String,
    /// the store
    pub root: PathBuf,
    /// the run directory: locks, sockets, per-process directories
    pub run: PathBuf,
    /// the host file
    pub host: PathBuf,
    /// this program, for the processes it starts
    pub program: PathBuf,
}

/// An opened service.
#[derive(Clone, Debug)]
pub struct Service {
    /// where it lives
    pub place: Place,
    /// its store
    pub store: Store,
    /// this boot
    pub boot: String,
    /// who looks after the workers
    pub(super) workers: Workers,
}

/// Which pipeline counts for a generation, and why.
#[derive(Debug)]
pub struct Chosen {
    /// the pipeline; `None`: only the pointer moves
    pub pipeline: Option<Pipeline>,
    /// where it came from
    pub source: PipelineSource,
    /// what the host file, which was read for it, keeps
    pub retention: Retention,
}

/// Where a pipeline came from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PipelineSource {
    /// `pipeline:` of the host file
    Host,
    /// `pointsman.yaml` of the generation
    Pushed,
    /// there is none: only the pointer moves
    None,
    /// the generation has a `pointsman.yaml`, but the store is root's and the host file does not let it count
    Ignored,
}

/// What can go wrong between a request and its verdict, apart from the verdict itself.
#[derive(Debug, thiserror::Error)]
pub enum ManagerError {
    /// the store could not do its part
    #[error(transparent)]
    Store(StoreError),
    /// an event could not be written or read
    #[error(transparent)]
    Event(EventError),
    /// the pointer could not be read or moved
    #[error(transparent)]
    Pointer(PointerError),
    /// a file outside of the store could not be read
    #[error(transparent)]
    File(FsError),
    /// the host file or the pipeline says something that it must not
    #[error("{0}; correct it there")]
    Pipeline(Box<DocumentError>),
    /// what should be the host file or the pipeline is no file that could be one
    #[error("{name} {why}")]
    NoDocument {
        /// its name
        name: String,
        /// what it is, and what to do
        why: &'static str,
    },
    /// what [`crate::store::Writer::push`] would refuse
    #[error(transparent)]
    Push(PushError),
    /// something speaks against the request: a freeze, a rejection, another generation in force
    #[error("{why}")]
    Refused {
        /// what
        why: String,
    },
    /// nobody is there who would carry the request out
    #[error(
        "no manager runs that would see to it; run `pointsman manager`, or ask without --no-wait and --confirm-within"
    )]
    NoManager,
    /// the commands need a namespace, and this process may not make one
    #[error("{why}")]
    MayNotMount {
        /// the reason
        why: String,
    },
    /// a section of the loader cannot be read
    #[error("a section of the loader cannot be read")]
    Section(#[source] Box<SectionError<ManagerError>>),
    /// what the pipeline calls external cannot be read
    #[error("{why}")]
    External {
        /// which, and why
        why: String,
    },
    /// worker steps need a supervisor, and none answers
    #[error("{}; or `--pointer-only` to move nothing but the pointer", unserved(.0))]
    NoSupervisor(#[source] Unreachable),
    /// the same, of what has no step without workers
    #[error(
        "the workers of this service need a supervisor, and none answers; run `pointsman manager`, and ask again"
    )]
    Unsupervised(#[source] Unreachable),
    /// the caller was asked to end while another engine works on its event
    #[error("asked to end; event {event} goes on, `pointsman history` shows its verdict")]
    NotWaited {
        /// the event
        event: u64,
    },
    /// the manager cannot go on; what runs goes on without it
    #[error(
        "the manager gives up: {why}\nthe workers serve on; `pointsman status` shows them, and when the cause is \
         gone `pointsman manager` goes on"
    )]
    Fatal {
        /// why
        why: String,
    },
    /// there is no good generation to roll back to
    #[error("there is no good generation under the one in force; `pointsman history` shows what was good")]
    NothingToRollBackTo,
    /// the wake-up watch could not be set up
    #[error("cannot watch the events directory")]
    Watch(#[source] notify::Error),
    /// signals could not be caught
    #[error("cannot catch signals")]
    Signals(#[source] std::io::Error),
}

/// What is missing for the workers, and what to do.
fn unserved(why: &Unreachable) -> &'static str {
    match why {
        Unreachable::Absent { .. } | Unreachable::Gone { .. } => {
            "the workers of this service need a supervisor, and none answers; run `pointsman manager`"
        }
        Unreachable::NoSystemd { .. } => {
            "the workers of this service need systemd; see that it and D-Bus run, or choose another `service_manager` in the host file"
        }
        Unreachable::Refused { .. } => "the workers of this service cannot be asked for",
    }
}

impl From<StoreError> for ManagerError {
    fn from(error: StoreError) -> ManagerError {
        ManagerError::Store(error)
    }
}

impl From<EventError> for ManagerError {
    fn from(error: EventError) -> ManagerError {
        ManagerError::Event(error)
    }
}

impl From<PointerError> for ManagerError {
    fn from(error: PointerError) -> ManagerError {
        ManagerError::Pointer(error)
    }
}

impl From<PushError> for ManagerError {
    fn from(error: PushError) -> ManagerError {
        ManagerError::Push(error)
    }
}

impl From<DocumentError> for ManagerError {
    fn from(error: DocumentError) -> ManagerError {
        ManagerError::Pipeline(Box::new(error))
    }
}

/// The name of the pipeline at the root of a generation.
pub const PIPELINE_FILE: &str = "pointsman.yaml";

/// The largest host file or pipeline that is read, in bytes; the reader has its own, smaller limit.
const LARGEST_DOCUMENT: u64 = 1 << 20;

impl Place {
    /// What the host file says; nothing where there is none.
    pub fn host_file(&self) -> Result<HostFile, ManagerError> {
        let path = &self.host;
        let name = path.display().to_string();
        let Some(meta) = fsx::optional(fsx::Meta::of_path(path)).map_err(ManagerError::File)? else {
            return Ok(HostFile::default());
        };
        readable(meta, &name)?;
        let text = fsx::read_path(path, LARGEST_DOCUMENT).map_err(ManagerError::File)?;
        Ok(HostFile::parse(&text, &name, &self.name)?)
    }
}

impl Place {
    /// The group that the host file lets read private files.
    ///
    /// # Errors
    /// As [`Place::host_file`]; [`ManagerError::Refused`]: there is no such group.
    pub fn access(&self) -> Result<Option<Access>, ManagerError> {
        let Some(files) = self.host_file()?.group else { return Ok(None) };
        let groups = fsx::read_path("/etc/group".as_ref(), LARGEST_DOCUMENT).map_err(ManagerError::File)?;
        match files.gid(&String::from_utf8_lossy(&groups)) {
            Some(gid) => Ok(Some(Access { gid, files })),
            None => {
                let why = format!(
                    "{}: group: there is no group `{}` in /etc/group; make it, or name another",
                    self.host.display(),
                    files.group
                );
                Err(ManagerError::Refused { why })
            }
        }
    }
}

/// Where the pointer stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Standing {
    /// what `current` names; nothing where it is damaged
    pub(super) current: Option<GenerationId>,
    /// what is in force, to go back to: the same; of a damaged pointer the last good generation that is there
    pub(super) in_force: Option<GenerationId>,
}

impl Service {
    /// Where the pointer stands. A damaged one is no error here: an activation makes it anew.
    pub(super) fn standing(&self) -> Result<Standing, ManagerError> {
        match self.store.current() {
            Ok(current) => Ok(Standing { current, in_force: current }),
            Err(error @ PointerError::Damaged { .. }) => {
                tracing::warn!("{error}");
                let good = self.store.good_stack()?.into_iter().rev();
                let in_force = good.into_iter().find(|id| self.store.manifest(*id).is_ok());
                Ok(Standing { current: None, in_force })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The id of this machine: `/etc/machine-id`; empty where it has none.
    pub fn machine(&self) -> String {
        machine_id()
    }

    /// Reaches whoever looks after the workers; starts nobody.
    pub(super) fn reach(&self) -> Result<Box<dyn ServiceManager>, Unreachable> {
        self.workers.reach()
    }

    /// Opens the store at `place`.
    pub fn open(place: Place) -> Result<Service, ManagerError> {
        let store = Store::open(&place.root, &place.run)?;
        // where the host file cannot be read, whatever writes says so
        let access = place.access().ok().flatten();
        let store = store.with_access(access);
        let choice = place.host_file().map(|host| host.service_manager).unwrap_or_default();
        let named = !place.host.starts_with(&place.root);
        let workers = Workers::of(&place.run, &place.program, choice, named);
        Ok(Service { place, store, boot: boot_id()?, workers })
    }

    /// The pipeline that counts for the generation `id`, whose manifest is `manifest`.
    pub fn pipeline(&self, id: GenerationId, manifest: &Manifest) -> Result<Chosen, ManagerError> {
        let path = RelPath::new(PIPELINE_FILE).expect("a plain name is a path");
        let name = format!("{}:{PIPELINE_FILE}", id.short());
        let pushed = match manifest.get(&path) {
            None => None,
            Some(Node::File { .. }) => Some(self.store.read_listed(id, manifest, &path)?),
            Some(_) => return Err(ManagerError::NoDocument { name, why: NO_FILE }),
        };
        self.choose(&name, pushed.as_deref())
    }

    /// The pipeline that counts where a tree brings the text `pushed` with it, which errors call `name`.
    pub fn choose(&self, name: &str, pushed: Option<&[u8]>) -> Result<Chosen, ManagerError> {
        let HostFile { pipeline, retention, group, .. } = self.place.host_file()?;
        // who else may read private files, where the host lets workers in
        let reads = group.filter(|group| group.workers).map(|group| group.group);
        let with_access = |mut pipeline: Pipeline| {
            for group in pipeline.workers.values_mut().filter(|group| group.surroundings.names_somebody()) {
                group.surroundings.reads.clone_from(&reads);
            }
            Some(pipeline)
        };
        let trusted = match pipeline {
            HostPipeline::Own(pipeline) => {
                return Ok(Chosen {
                    pipeline: with_access(*pipeline),
                    source: PipelineSource::Host,
                    retention,
                });
            }
            HostPipeline::Pushed => true,
            HostPipeline::Absent => self.store.owner()? != 0,
        };
        let Some(text) = pushed else {
            return Ok(Chosen { pipeline: None, source: PipelineSource::None, retention });
        };
        if !trusted {
            return Ok(Chosen { pipeline: None, source: PipelineSource::Ignored, retention });
        }
        let pipeline = Pipeline::parse(text, name, &self.place.name)?;
        Ok(Chosen { pipeline: with_access(pipeline), source: PipelineSource::Pushed, retention })
    }

    /// Chooses the pipeline of what is being read, remembers it in `chosen`, and gives its mount: what
    /// [`crate::store::PushOptions`] asks for.
    pub fn inspect(
        &self,
        name: &str,
        text: Option<&[u8]>,
        chosen: &RefCell<Option<Chosen>>,
    ) -> Result<Option<PathBuf>, String> {
        let found = self.choose(name, text).map_err(|e| chain(&e))?;
        let mount = found.pipeline.as_ref().and_then(|pipeline| pipeline.mount.as_ref()).map(PathBuf::from);
        chosen.replace(Some(found));
        Ok(mount)
    }

    /// What to tell whoever pushed a pipeline that does not count.
    pub fn ignored_pipeline(&self) -> String {
        format!(
            "{PIPELINE_FILE} does not count: this store belongs to root, and {} neither says `pipeline: pushed` nor has a pipeline",
            self.place.host.display()
        )
    }
}

const NO_FILE: &str = "is no regular file; make it one, or remove it";

/// Refuses what cannot be a document before it is opened: a fifo would be waited for.
fn readable(meta: fsx::Meta, name: &str) -> Result<(), ManagerError> {
    let why = match meta.kind {
        fsx::EntryKind::File if meta.len <= LARGEST_DOCUMENT => return Ok(()),
        fsx::EntryKind::File => "is larger than 1 MiB; a pipeline is a page of text",
        _ => NO_FILE,
    };
    Err(ManagerError::NoDocument { name: name.to_owned(), why })
}

/// The id of this boot: `/proc/sys/kernel/random/boot_id`.
pub(crate) fn boot_id() -> Result<String, ManagerError> {
    read_line("/proc/sys/kernel/random/boot_id").map_err(ManagerError::File)
}

/// This machine's id, or nothing where it has none.
pub(crate) fn machine_id() -> String {
    read_line("/etc/machine-id").unwrap_or_default()
}

fn read_line(path: &str) -> Result<String, FsError> {
    let bytes = fsx::read_path(path.as_ref(), 4096)?;
    Ok(String::from_utf8_lossy(&bytes).trim().to_owned())
}
