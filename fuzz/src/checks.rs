//! What must hold for any bytes whatever. The fuzz targets try it with what they come up with, `tests/corpus.rs`
//! with what was kept of that.

#![allow(dead_code, reason = "each target calls one of them")]

use std::cell::RefCell;
use std::collections::BTreeSet;
use std::convert::Infallible;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use pointsman::model::{
    Actor, Address, Class, Command, ContentHash, DocumentError, Entry, GenerationId, HostFile, IdPrefix,
    Limits, Manifest, Metadata, Node, Pipeline, PushRecord, Reference, RelPath, Section, Tag, compare,
    content, digest, duration, placeholder,
};
use pointsman::store::{Kind, PushError, PushOptions, Pushed, Source, Store, Writer};

/// A manifest is its text: what is accepted prints as the same bytes, and holds what it promises.
pub(crate) fn manifest(data: &[u8]) {
    let Ok(manifest) = Manifest::parse(data) else { return };
    assert_eq!(manifest.text().as_bytes(), data);
    assert_eq!(manifest.id(), GenerationId::of(data));
    let mut below = 0;
    for (path, node) in manifest.iter() {
        assert_eq!(RelPath::new(path.as_str()).as_ref(), Ok(path));
        assert_eq!(manifest.get(path), Some(node));
        assert!(path.parent().is_none_or(|parent| manifest.get(&parent) == Some(&Node::Dir)));
        below += manifest.under(path).count();
    }
    // every entry is under each directory on the way to it, and under nothing else
    let depths = manifest.iter().map(|(path, _)| path.as_str().matches('/').count());
    assert_eq!(below, depths.sum::<usize>());
}

/// Short texts that a person writes: what is accepted shows as something that reads the same.
pub(crate) fn words(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    if let Ok(reference) = text.parse::<Reference>() {
        let shown = reference.to_string();
        assert_eq!(shown.parse::<Reference>().unwrap(), reference);
        assert!(shown == text || text.starts_with("@-0"), "{text:?} is shown as {shown:?}");
        assert_eq!(text.parse::<Tag>().is_ok(), matches!(reference, Reference::Tag(_)));
        assert_eq!(IdPrefix::parse(text).is_some(), matches!(reference, Reference::Prefix(_)));
        assert_eq!(text.parse::<GenerationId>().is_ok(), matches!(reference, Reference::Id(_)));
    } else {
        assert!(text.parse::<Tag>().is_err() && text.parse::<GenerationId>().is_err());
    }
    if let Ok(path) = RelPath::new(text) {
        assert_eq!(path.as_str(), text);
        let plain = |part: &Path| part.components().all(|c| matches!(c, std::path::Component::Normal(_)));
        assert!(plain(path.as_ref()));
    }
    if let Ok(section) = Section::parse(text) {
        assert_eq!(section.as_str(), text);
        assert_eq!(Section::parse(&section.to_string()).unwrap(), section);
        let manifest = Manifest::new([]).unwrap();
        section.digest::<Infallible>(&manifest, &mut |_| unreachable!("nothing is there")).unwrap();
    }
    if let Ok(address) = text.parse::<Address>() {
        assert_eq!(address.to_string().parse::<Address>().unwrap(), address);
    }
    if let Ok(time) = duration::parse(text) {
        assert_eq!(duration::parse(&duration::show(time)), Ok(time));
        assert!(time <= duration::LONGEST && time >= Duration::ZERO);
    }
    if let Ok(command) = Command::split(text) {
        assert_eq!(Command::new(command.0.clone()).unwrap(), command);
        assert_eq!(Command::split(&command.to_string()).unwrap(), command, "{text:?} is shown as {command}");
    }
    if let Ok(names) = placeholder::names(text) {
        // put back as they were, the placeholders are the text
        let expanded = placeholder::expand(text, &|name| Some(format!("{{{name}}}"))).unwrap();
        assert_eq!(expanded, text);
        assert_eq!(placeholder::expand(text, &|_| None).is_ok(), names.is_empty());
    }
}

/// A pipeline, a host file, and content files in all formats: refused at a place that is in the text, or
/// read to a value that is equal to itself.
pub(crate) fn document(data: &[u8]) {
    let yaml = value("a.yaml", data);
    for ours in
        [Pipeline::parse(data, "file", "web").map(drop), HostFile::parse(data, "file", "web").map(drop)]
    {
        match ours {
            // what is ours to define is YAML with less in it
            Ok(()) => assert!(yaml.is_ok(), "{yaml:?}"),
            Err(error) => located(&error, "file", data),
        }
    }
    value("a.json", data).ok();
    value("a.toml", data).ok();
}

/// Reads content as the file `name`; its value, its digest and the digests of sections into it agree.
fn value(name: &str, data: &[u8]) -> Result<(), DocumentError> {
    let path = RelPath::new(name).unwrap();
    let read = content::parse(&path, data);
    let hash = ContentHash::of(data);
    let node = Node::File { class: Class::Public, executable: false, len: data.len() as u64, hash };
    let manifest = Manifest::new([Entry { path: path.clone(), node }]).unwrap();
    let section = |pointer: &str| {
        let section = Section::parse(&format!("{name}#{pointer}")).unwrap();
        section.digest::<Infallible>(&manifest, &mut |_| Ok(data.to_vec()))
    };
    match &read {
        Err(error) => {
            located(error, name, data);
            assert!(section("").is_err());
        }
        Ok(value) => {
            assert_eq!(compare(value, value), []);
            assert_eq!(digest(value), digest(&content::parse(&path, data).unwrap()));
            let part = |pointer: &str| value.pointer(pointer).map(digest);
            assert_eq!(part(""), Some(digest(value)));
            assert_eq!(section("/a").unwrap() == section("/b").unwrap(), part("/a") == part("/b"));
            assert_eq!(part("/a") == part("/b"), value.pointer("/a") == value.pointer("/b"));
        }
    }
    read.map(drop)
}

/// The place that an error names is in the text, or at its end.
fn located(error: &DocumentError, file: &str, data: &[u8]) {
    assert_eq!(error.file, file);
    assert!(error.line >= 1 && error.column >= 1, "{error}");
    // YAML knows more line ends than the newline
    let text = String::from_utf8_lossy(data);
    let ends = text.chars().filter(|c| matches!(c, '\n' | '\r' | '\u{85}' | '\u{2028}' | '\u{2029}')).count();
    assert!(error.line <= ends + 2, "{error} in a text of {} lines", ends + 1);
    assert!(error.column <= text.chars().count() + 2, "{error}");
    assert!(!error.message.is_empty());
    assert!(!error.to_string().contains('\n'), "{error}");
}

/// A tar stream: refused without a trace, or a generation that is intact, of which nothing leads out, and
/// that is the same pushed from its own directory.
///
/// The bytes are tried as they are, and once more with the checksums and the end marker put right, without
/// which a changed byte would never get beyond them.
pub(crate) fn archive(data: &[u8]) {
    thread_local! { static GROUND: RefCell<Option<Ground>> = const { RefCell::new(None) }; }
    let mended = mended(data);
    for stream in [data, &mended] {
        GROUND.with_borrow_mut(|ground| {
            let this = ground.get_or_insert_with(Ground::new);
            if this.archive(stream) {
                *ground = None; // the next one finds an empty store again
            }
        });
    }
}

const BLOCK: usize = 512;

/// The stream with the checksum of every header, whole blocks and an end marker.
fn mended(data: &[u8]) -> Vec<u8> {
    let mut stream = data.to_vec();
    stream.resize(stream.len().next_multiple_of(BLOCK), 0);
    let mut at = 0;
    while at < stream.len() {
        let header = &mut stream[at..at + BLOCK];
        at += BLOCK;
        if header.iter().all(|byte| *byte == 0) {
            continue;
        }
        header[148..156].fill(b' ');
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        let digits: String = header[124..136].iter().map(|byte| char::from(*byte)).collect();
        let digits = digits.trim_matches([' ', '\0']);
        let length = usize::from_str_radix(digits, 8).unwrap_or(0);
        at = at.saturating_add(length).checked_next_multiple_of(BLOCK).unwrap_or(usize::MAX);
    }
    stream.resize(stream.len() + 2 * BLOCK, 0);
    stream
}

/// Where streams are pushed: an empty store, and something beside it that must stay as it is.
struct Ground {
    dir: tempfile::TempDir,
    writer: Writer,
    before: BTreeSet<PathBuf>,
}

impl Ground {
    fn new() -> Ground {
        let dir = tempfile::Builder::new().prefix("pm").tempdir().unwrap();
        let store = dir.path().join("store");
        std::fs::write(dir.path().join("outside"), "outside").unwrap();
        let writer = Store::init(&store, &dir.path().join("run"), 0o755).unwrap().writer("boot").unwrap();
        let before = listing(dir.path());
        Ground { dir, writer, before }
    }

    /// Whether the stream was accepted.
    fn archive(&self, stream: &[u8]) -> bool {
        let pushed = match self.push(Source::Archive(&mut &*stream)) {
            Err(error) => {
                assert_eq!(error.kind(), Kind::Refused, "{error:?}");
                assert!(!error.to_string().contains(char::is_control), "{error}");
                assert_eq!(
                    listing(self.dir.path()),
                    self.before,
                    "refused with {error}, and not without a trace"
                );
                return false;
            }
            Ok(pushed) => pushed,
        };
        let generation = self.writer.path().join(format!("generations/{}", pushed.id));
        let tree = generation.join("tree");
        for path in listing(self.dir.path()) {
            assert!(path.starts_with(&generation) || self.before.contains(&path), "{} came", path.display());
            let meta = std::fs::symlink_metadata(&path).unwrap();
            assert!(!meta.is_file() || !path.starts_with(&tree) || meta.nlink() == 1, "{}", path.display());
            assert_eq!(meta.mode() & 0o7000, 0, "{}", path.display());
            if path.starts_with(&tree)
                && let Ok(end) = path.canonicalize()
            {
                assert!(end.starts_with(&tree), "{} leads to {}", path.display(), end.display());
            }
        }
        assert_eq!(std::fs::read(self.dir.path().join("outside")).unwrap(), b"outside");
        let damage = self.writer.verify(None).unwrap();
        assert!(damage.is_empty(), "{damage:?}");
        let scratch = self.writer.scratch(Source::Archive(&mut &*stream), &options()).unwrap();
        assert_eq!(scratch.manifest().id(), pushed.id);
        assert_eq!(scratch.manifest().len(), pushed.entries);
        drop(scratch);
        let again = self.push(Source::Directory(&tree)).unwrap();
        assert_eq!(again, Pushed { changed: false, ..pushed });
        true
    }

    fn push(&self, source: Source<'_>) -> Result<Pushed, PushError> {
        self.writer.push(source, options())
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // what is in a read-only directory could not be removed
        for path in listing(self.dir.path()) {
            if path.symlink_metadata().is_ok_and(|meta| meta.is_dir()) {
                let _ = std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o700));
            }
        }
    }
}

fn inspect(text: Option<&[u8]>) -> Result<Option<PathBuf>, String> {
    let Some(text) = text else { return Ok(Some("/etc/thing".into())) };
    Pipeline::parse(text, "pointsman.yaml", "web")
        .map(|pipeline| pipeline.mount.map(PathBuf::from))
        .map_err(|e| e.to_string())
}

fn options() -> PushOptions<'static> {
    PushOptions {
        record: PushRecord {
            at: jiff::Timestamp::UNIX_EPOCH,
            by: Actor::default(),
            source: "a stream".to_owned(),
            message: None,
            meta: Metadata::new(),
            parent: None,
        },
        copy_links: false,
        inspected: "pointsman.yaml",
        inspect: &inspect,
        limits: Limits { entries: 64, bytes: 3 << 20, depth: 6 },
        observe: &|_| {},
    }
}

/// Every path beneath `dir`, but for the locks: these come with the first use.
fn listing(dir: &Path) -> BTreeSet<PathBuf> {
    let mut found = BTreeSet::new();
    let mut todo = vec![dir.to_owned()];
    while let Some(dir) = todo.pop() {
        for entry in std::fs::read_dir(dir).unwrap() {
            let entry = entry.unwrap();
            if entry.file_type().unwrap().is_dir() {
                todo.push(entry.path());
            }
            if entry.path().extension().is_none_or(|end| end != "lock") {
                found.insert(entry.path());
            }
        }
    }
    found
}
