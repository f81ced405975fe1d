//! A store at hand: making it, opening it, and the right to write.

use std::collections::HashMap;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, Weak};

use super::brief::Reading;
use super::due::Due;
use super::error::StoreError;
use super::rights::Access;
use super::staging;
use crate::fsx::{self, Dir, FsError, Lock, Meta};
use crate::model::{GenerationId, Manifest};

const FORMAT: &str = "pointsman-store 1\n";
pub(super) const DIRECTORIES: [&str; 6] = ["generations", "loaded", "events", "tags", "rejected", "tmp"];

/// What may be in a directory before it becomes a store.
const MAY_PRECEDE: [&str; 3] = ["run", "host.yaml", "lost+found"];

/// The file in the run directory whose lock guards its emptying; the one thing emptying leaves.
const RUN_LOCK: &str = "lock";
const BOOT: &str = "boot";

/// A store, for reading. Cheap to clone; writes nothing, ever.
#[derive(Clone, Debug)]
pub struct Store {
    pub(super) root: Arc<Dir>,
    run: Arc<PathBuf>,
    access: Option<Arc<Access>>,
    /// what this process has read of the history
    pub(super) reading: Arc<Mutex<Reading>>,
    /// the manifests that somebody in this process holds
    pub(super) held: Arc<Mutex<HashMap<GenerationId, Weak<Manifest>>>>,
}

/// A store, and the right to write in it: its owner, in a run directory of this boot. Everything a
/// [`Store`] can, a `Writer` can.
#[derive(Clone, Debug)]
pub struct Writer {
    store: Store,
    run_dir: Arc<Dir>,
    /// what this process has yet to make durable
    pub(super) due: Arc<Mutex<Due>>,
}

impl Deref for Writer {
    type Target = Store;

    fn deref(&self) -> &Store {
        &self.store
    }
}

impl Store {
    /// Makes the layout at `root` (with `mode`, where it is new) and its run directory. A store of this
    /// format is completed where a part is missing, else left as it is.
    ///
    /// # Errors
    /// [`StoreError::NotEmpty`]: a directory that holds something else; nothing was written.
    pub fn init(root: &Path, run: &Path, mode: u32) -> Result<Store, StoreError> {
        let io = StoreError::io("make the store");
        let dir = Dir::create_all(root, mode).map_err(&io)?;
        owned(&dir)?;
        if dir.exists("format").map_err(&io)? {
            known_format(&dir)?;
        } else {
            for name in dir.names().map_err(&io)? {
                let name = name.to_string_lossy();
                if !MAY_PRECEDE.contains(&&*name) && !name.starts_with(".format.") {
                    return Err(StoreError::NotEmpty { path: root.to_owned(), name: name.into_owned() });
                }
            }
            // first: a directory that has it is a store, however much of `init` came after
            dir.replace_file("format", FORMAT.as_bytes(), 0o644).map_err(&io)?;
        }
        for name in DIRECTORIES {
            if !dir.exists(name).map_err(&io)? {
                dir.create_dir(name, 0o755).map_err(&io)?;
            }
        }
        dir.append_file("history", 0o644).map_err(&io)?;
        dir.sync().map_err(&io)?;
        Dir::create_all(run, 0o755).map_err(&io)?;
        Store::open(root, run)
    }

    /// Opens the store at `root` for reading; creates nothing. `run` is where writers will keep their
    /// locks, and need not exist.
    ///
    /// # Errors
    /// [`StoreError::NotAStore`], [`StoreError::UnknownFormat`].
    pub fn open(root: &Path, run: &Path) -> Result<Store, StoreError> {
        let absolute = match fsx::canonical(root) {
            Ok(path) => path,
            Err(error) => return Err(unopened(root, error)),
        };
        let dir = Dir::open(&absolute).map_err(|error| unopened(root, error))?;
        known_format(&dir)?;
        Ok(Store {
            root: Arc::new(dir),
            run: Arc::new(run.to_owned()),
            access: None,
            reading: Arc::default(),
            held: Arc::default(),
        })
    }

    /// The same store, where a group may read private files.
    pub fn with_access(self, access: Option<Access>) -> Store {
        Store { access: access.map(Arc::new), ..self }
    }

    /// The group that may read private files.
    pub(super) fn access(&self) -> Option<&Access> {
        self.access.as_deref()
    }

    /// The absolute path of the store.
    pub fn path(&self) -> &Path {
        self.root.path()
    }

    /// The directory of events and outcomes, to be watched.
    pub fn events_path(&self) -> PathBuf {
        self.path().join("events")
    }

    /// The uid that the store belongs to.
    pub fn owner(&self) -> Result<u32, StoreError> {
        Ok(Meta::of_fd(&*self.root, self.path()).map_err(StoreError::io("look at the store"))?.uid)
    }

    /// The right to write. Makes the run directory where it is missing, empties it where it is from
    /// another boot than `boot`, and removes what crashes left in the store.
    ///
    /// # Errors
    /// [`StoreError::NotOwner`], [`StoreError::ForeignRun`]: nothing was touched.
    pub fn writer(&self, boot: &str) -> Result<Writer, StoreError> {
        owned(&self.root)?;
        let io = StoreError::io("prepare the run directory");
        let run_dir = Dir::create_all(&self.run, 0o755).map_err(&io)?;
        owned(&run_dir)?;
        let rebooted = recorded_boot(&run_dir).map_err(&io)?.as_deref() != Some(boot);
        let writer = Writer { store: self.clone(), run_dir: Arc::new(run_dir), due: Arc::default() };
        if rebooted {
            // nobody writes before the boot is recorded
            empty_run(&writer.run_dir, boot, || {
                writer.remove_torn_outcomes()?;
                // what a power cut took of the history does not show in its time
                writer.append_missing()
            })?;
        }
        writer.tidy()?;
        Ok(writer)
    }

    pub(super) fn part(&self, name: &str) -> Result<Dir, StoreError> {
        match fsx::optional(self.root.dir(name)) {
            Ok(Some(dir)) => Ok(dir),
            Ok(None) => {
                Err(StoreError::damaged(None, name, "it is missing (`pointsman init` makes it again)"))
            }
            Err(source) => Err(StoreError::Io { doing: "read the store", source }),
        }
    }
}

impl Writer {
    /// The run directory, held open.
    pub fn run(&self) -> &Dir {
        &self.run_dir
    }

    /// The lock of whoever carries events out: one at a time. `None` where another holds it and `wait`
    /// is not set.
    pub fn engine_lock(&self, wait: bool) -> Result<Option<Lock>, StoreError> {
        let taken = if wait {
            Lock::exclusive(&self.run_dir, "engine.lock").map(Some)
        } else {
            Lock::try_exclusive(&self.run_dir, "engine.lock")
        };
        taken.map_err(StoreError::io("take the engine lock"))
    }

    /// The lock under which `current` is compared and moved.
    pub fn swing_lock(&self) -> Result<Lock, StoreError> {
        Lock::exclusive(&self.run_dir, "swing.lock").map_err(StoreError::io("take the swing lock"))
    }

    /// The store lock, shared: what is being written is not taken away meanwhile.
    pub(super) fn store_lock(&self) -> Result<Lock, FsError> {
        Lock::shared(&self.run_dir, "store.lock")
    }

    /// The store lock, exclusive: nobody else writes, and roots that are read now stay roots. `None` where
    /// somebody writes and `wait` is not set.
    pub(super) fn store_lock_alone(&self, wait: bool) -> Result<Option<Lock>, FsError> {
        match wait {
            true => Lock::exclusive(&self.run_dir, "store.lock").map(Some),
            false => Lock::try_exclusive(&self.run_dir, "store.lock"),
        }
    }

    fn tidy(&self) -> Result<(), StoreError> {
        let io = StoreError::io("remove what a crash left in tmp/");
        let tmp = self.part("tmp")?;
        let left = |name: &std::ffi::OsString| name != staging::UNDO && name != staging::RESERVE;
        if tmp.names().map_err(&io)?.iter().any(left) {
            // what cannot be removed yet (a stray loader still writes there) is in nobody's way
            if let Some(_alone) = Lock::try_exclusive(&self.run_dir, "store.lock").map_err(&io)? {
                let _ = staging::clean_files(&tmp);
            }
            // there may be much of it: each directory has a lock of its own, and nobody waits for this
            let _ = staging::clean_directories(&self.root, &tmp);
        }
        if self.history_may_lack()? { self.complete_history() } else { Ok(()) }
    }
}

fn unopened(root: &Path, error: FsError) -> StoreError {
    if error.is_not_found() || error.kind() == std::io::ErrorKind::NotADirectory {
        return StoreError::NotAStore { path: root.to_owned() };
    }
    StoreError::Io { doing: "open the store", source: error }
}

fn known_format(dir: &Dir) -> Result<(), StoreError> {
    let path = || dir.path().to_owned();
    match fsx::optional(dir.read("format", 256)) {
        Ok(Some(text)) if text == FORMAT.as_bytes() => Ok(()),
        Ok(Some(text)) => {
            let found = String::from_utf8_lossy(&text).trim_end().escape_debug().to_string();
            Err(StoreError::UnknownFormat { path: path(), found })
        }
        Ok(None) => Err(StoreError::NotAStore { path: path() }),
        Err(source) => Err(StoreError::Io { doing: "open the store", source }),
    }
}

fn owned(dir: &Dir) -> Result<(), StoreError> {
    let (me, owner) =
        (fsx::effective_uid(), dir.own_meta().map_err(StoreError::io("look at the store"))?.uid);
    if me == owner {
        return Ok(());
    }
    Err(StoreError::NotOwner { path: dir.path().to_owned(), owner, me })
}

fn recorded_boot(run: &Dir) -> Result<Option<String>, FsError> {
    let text = fsx::optional(run.read(BOOT, 256))?;
    Ok(text.map(|text| String::from_utf8_lossy(&text).trim_end().to_owned()))
}

/// Empties the run directory, does what is `due` after a reboot, and records `boot`. A directory without a
/// recorded boot is taken only where it is empty: a mistyped path must not cost anybody their files.
fn empty_run(run: &Dir, boot: &str, due: impl FnOnce() -> Result<(), StoreError>) -> Result<(), StoreError> {
    let io = StoreError::io("empty the run directory");
    let ours = |name: &str| name == RUN_LOCK || name.starts_with(".boot.");
    let recorded = recorded_boot(run).map_err(&io)?;
    if recorded.is_none() {
        let names = run.names().map_err(&io)?;
        if let Some(name) = names.iter().map(|name| name.to_string_lossy()).find(|name| !ours(name)) {
            // another writer may have come first
            if recorded_boot(run).map_err(&io)?.as_deref() == Some(boot) {
                return Ok(());
            }
            return Err(StoreError::ForeignRun { path: run.path().to_owned(), name: name.into_owned() });
        }
    }
    let _lock = Lock::exclusive(run, RUN_LOCK).map_err(&io)?;
    if recorded_boot(run).map_err(&io)?.as_deref() == Some(boot) {
        return Ok(());
    }
    for name in run.names().map_err(&io)? {
        if name != RUN_LOCK && name != BOOT {
            run.remove_tree(&name).map_err(&io)?;
        }
    }
    due()?;
    run.replace_file(BOOT, format!("{boot}\n").as_bytes(), 0o644).map_err(&io)
}
