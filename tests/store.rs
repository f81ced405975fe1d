//! The store on real directories. Test names carry the number of the rule in `spec/store.md` they hold.
#![allow(clippy::disallowed_methods, reason = "tests make what the store must find")]
#![allow(clippy::unwrap_used, reason = "a helper that fails is a test that fails")]

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};

use jiff::Timestamp;
use pointsman::model::*;
use pointsman::store::*;
use proptest::prelude::*;

struct Sandbox {
    dir: tempfile::TempDir,
}

impl Sandbox {
    fn new() -> Sandbox {
        let sandbox = Sandbox { dir: tempfile::tempdir().unwrap() };
        Store::init(&sandbox.path("store"), &sandbox.path("run"), 0o755).unwrap();
        sandbox
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn store(&self) -> Store {
        Store::open(&self.path("store"), &self.path("run")).unwrap()
    }

    fn writer(&self) -> Writer {
        self.store().writer("boot-1").unwrap()
    }

    fn write(&self, name: &str, text: &str) {
        let path = self.path(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, text).unwrap();
        chmod(&path, 0o644);
    }

    fn push(&self, source: &str) -> Pushed {
        self.writer().push(Source::Directory(&self.path(source)), options()).unwrap()
    }

    fn generation(&self, text: &str) -> GenerationId {
        self.write("made/text", text);
        self.push("made").id
    }

    fn refusal(&self, source: &str, options: PushOptions<'_>) -> (String, Refusal) {
        let error = self.writer().push(Source::Directory(&self.path(source)), options).unwrap_err();
        assert!(names(&self.path("store/tmp")).is_empty(), "the staging is gone");
        match error {
            PushError::Refused { path, why } => (path, why),
            other => panic!("{other}"),
        }
    }
}

fn chmod(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

fn names(dir: &Path) -> Vec<String> {
    let mut names: Vec<_> =
        fs::read_dir(dir).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).unwrap()
}

fn options() -> PushOptions<'static> {
    let record = PushRecord {
        at: at(1),
        by: Actor::default(),
        source: "test".into(),
        message: None,
        meta: Metadata::new(),
        parent: None,
    };
    PushOptions {
        record,
        copy_links: false,
        inspected: "pipeline",
        inspect: &|_| Ok(None),
        limits: Limits::default(),
        observe: &|_| {},
    }
}

fn copying() -> PushOptions<'static> {
    PushOptions { copy_links: true, ..options() }
}

fn draft(target: GenerationId) -> EventDraft {
    EventDraft {
        request: Request::Activate,
        target,
        how: How::default(),
        at: at(2),
        boot: "boot-1".into(),
        above: 0,
        by: Actor::default(),
    }
}

fn outcome(event: &Event, verdict: Verdict) -> Outcome {
    Outcome {
        external: Default::default(),
        confirm_by: None,
        event: event.number,
        request: event.request,
        verdict,
        changed: true,
        stage: Stage::Swing,
        reason: "test".into(),
        damaged: false,
        target: event.target,
        serving: Some(event.target),
        loaded: None,
        steps: Vec::new(),
        at: at(3),
        machine: "m".into(),
        imported: None,
    }
}

fn good(writer: &Writer, request: Request, target: GenerationId) {
    let event = writer.accept(EventDraft { request, ..draft(target) }).unwrap();
    writer.conclude(&outcome(&event, Verdict::Good)).unwrap();
}

fn path(text: &str) -> RelPath {
    RelPath::new(text).unwrap()
}

#[test]
fn s1_init_is_idempotent_and_spares_what_is_no_store() {
    let sandbox = Sandbox::new();
    let id = sandbox.generation("a");
    Store::init(&sandbox.path("store"), &sandbox.path("run"), 0o755).unwrap();
    assert!(sandbox.store().has(id).unwrap());
    sandbox.write("other/file", "x");
    let error = Store::init(&sandbox.path("other"), &sandbox.path("run"), 0o755).unwrap_err();
    assert!(matches!(error, StoreError::NotEmpty { .. }), "{error}");
    let error = Store::open(&sandbox.path("other"), &sandbox.path("run")).unwrap_err();
    assert!(error.to_string().contains("pointsman init"));
    assert!(Store::open(&sandbox.path("none"), &sandbox.path("run")).is_err());
    fs::write(sandbox.path("store/format"), "pointsman-store 9\n").unwrap();
    let error = Store::open(&sandbox.path("store"), &sandbox.path("run")).unwrap_err();
    assert!(matches!(error, StoreError::UnknownFormat { .. }) && error.kind() == Kind::Damaged, "{error}");
}

#[test]
fn s1_reading_creates_nothing() {
    let sandbox = Sandbox::new();
    fs::remove_dir(sandbox.path("run")).unwrap();
    let before = names(&sandbox.path("store"));
    let store = sandbox.store();
    assert!(store.list().unwrap().is_empty() && store.history().unwrap().is_empty());
    assert!(store.current().unwrap().is_none() && store.verify(None).unwrap().is_empty());
    assert_eq!(names(&sandbox.path("store")), before);
    assert!(!sandbox.path("run").exists());
}

#[test]
fn s4_the_same_content_has_the_same_id_and_is_pushed_once() {
    let sandbox = Sandbox::new();
    sandbox.write("a/x.conf", "x");
    sandbox.write("a/d/y.conf", "y");
    let first = sandbox.push("a");
    assert!(first.changed && first.entries == 3 && first.bytes == 2, "{first:?}");
    let again = sandbox.push("a");
    assert_eq!((again.id, again.changed), (first.id, false));
    let tree = sandbox.store().tree_path(first.id);
    assert_eq!(names(&tree), ["d", "x.conf"]);
    assert_eq!(fs::metadata(tree.join("d")).unwrap().mode() & 0o7777, 0o555);
    assert_eq!(names(&sandbox.store().generation_path(first.id)), ["manifest", "push.json", "tree"]);
    let manifest = fs::read(sandbox.store().generation_path(first.id).join("manifest")).unwrap();
    assert_eq!(GenerationId::of(&manifest), first.id);
    assert_eq!(sandbox.store().read_file(first.id, &path("d/y.conf")).unwrap(), b"y");
    assert!(names(&sandbox.path("store/tmp")).is_empty());
}

#[test]
fn s5_modes_are_two_classes() {
    let sandbox = Sandbox::new();
    for (name, mode, stored) in [
        ("public", 0o664, 0o444),
        ("public-x", 0o755, 0o555),
        ("private", 0o640, 0o400),
        ("private-x", 0o710, 0o500),
        ("odd", 0o604, 0o444),
    ] {
        sandbox.write(&format!("a/{name}"), name);
        chmod(&sandbox.path(&format!("a/{name}")), mode);
        let id = sandbox.push("a").id;
        let tree = sandbox.store().tree_path(id);
        assert_eq!(fs::metadata(tree.join(name)).unwrap().mode() & 0o7777, stored, "{name}");
    }
    // what others could not reach in the source does not become public
    sandbox.write("a/closed/key", "secret");
    chmod(&sandbox.path("a/closed"), 0o700);
    chmod(&sandbox.path("a"), 0o700);
    let tree = sandbox.store().tree_path(sandbox.push("a").id);
    assert_eq!(fs::metadata(tree.join("closed/key")).unwrap().mode() & 0o7777, 0o400);
    assert_eq!(fs::metadata(tree.join("public")).unwrap().mode() & 0o7777, 0o444);
}

#[test]
fn s5_what_cannot_be_in_a_generation_is_refused_by_name() {
    type Case<'a> = (&'a str, &'a dyn Fn(&Path), Refusal);
    let cases: [Case; 4] = [
        ("d/socket", &|at| drop(std::os::unix::net::UnixListener::bind(at).unwrap()), Refusal::Special),
        (
            "d/fifo",
            &|at| {
                let mode = rustix::fs::Mode::from_raw_mode(0o644);
                rustix::fs::mknodat(rustix::fs::CWD, at, rustix::fs::FileType::Fifo, mode, 0).unwrap();
            },
            Refusal::Special,
        ),
        (
            "d/suid",
            &|at| {
                fs::write(at, "x").unwrap();
                chmod(at, 0o4755);
            },
            Refusal::Setuid,
        ),
        (
            "d/sticky",
            &|at| {
                fs::write(at, "x").unwrap();
                chmod(at, 0o1644);
            },
            Refusal::Setuid,
        ),
    ];
    for (name, make, expected) in cases {
        let sandbox = Sandbox::new();
        sandbox.write("a/d/fine", "x");
        make(&sandbox.path("a").join(name));
        assert_eq!(sandbox.refusal("a", options()), (name.to_owned(), expected));
        assert!(sandbox.store().list().unwrap().is_empty());
    }
    let sandbox = Sandbox::new();
    sandbox.write("a/new\nline", "x");
    let (shown, why) = sandbox.refusal("a", options());
    assert_eq!((shown.as_str(), why), ("./new\\nline", Refusal::Name(PathError::Control)));
    fs::remove_file(sandbox.path("a/new\nline")).unwrap();
    use std::os::unix::ffi::OsStrExt as _;
    fs::write(sandbox.path("a").join(std::ffi::OsStr::from_bytes(b"\xff")), "x").unwrap();
    assert_eq!(sandbox.refusal("a", options()).1, Refusal::Name(PathError::NotUtf8));
}

#[test]
fn s5_limits_and_the_store_itself() {
    let sandbox = Sandbox::new();
    sandbox.write("a/d/e/x", "12345");
    let limited = |limits| PushOptions { limits, ..options() };
    let limits = Limits::default();
    assert_eq!(
        sandbox.refusal("a", limited(Limits { entries: 2, ..limits })),
        ("d/e/x".into(), Refusal::Entries(2))
    );
    assert_eq!(
        sandbox.refusal("a", limited(Limits { bytes: 4, ..limits })),
        ("d/e/x".into(), Refusal::Bytes(4))
    );
    assert_eq!(
        sandbox.refusal("a", limited(Limits { depth: 1, ..limits })),
        ("d/e".into(), Refusal::Deep(1))
    );
    let holding = sandbox.dir.path().to_owned();
    let error = sandbox.writer().push(Source::Directory(&holding), options()).unwrap_err();
    assert!(matches!(error, PushError::Refused { why: Refusal::Store, .. }), "{error}");
    assert!(matches!(
        sandbox.writer().push(Source::Directory(&sandbox.path("none")), options()),
        Err(PushError::NoSource { .. })
    ));
}

#[test]
fn s6_links_stay_inside() {
    let sandbox = Sandbox::new();
    sandbox.write("a/conf/x", "x");
    symlink("conf/x", sandbox.path("a/relative")).unwrap();
    symlink("conf/none", sandbox.path("a/dangling")).unwrap();
    symlink(sandbox.path("a/conf/x"), sandbox.path("a/conf/own")).unwrap();
    symlink("/etc/app/conf", sandbox.path("a/mounted")).unwrap();
    symlink("loop", sandbox.path("a/loop")).unwrap();
    let mounted = PushOptions { inspect: &|_| Ok(Some("/etc/app".into())), ..options() };
    let id = sandbox.writer().push(Source::Directory(&sandbox.path("a")), mounted).unwrap().id;
    let tree = sandbox.store().tree_path(id);
    for (name, target) in [
        ("relative", "conf/x"),
        ("dangling", "conf/none"),
        ("conf/own", "../conf/x"),
        ("mounted", "conf"),
        ("loop", "loop"),
    ] {
        assert_eq!(fs::read_link(tree.join(name)).unwrap(), Path::new(target), "{name}");
    }
    assert_eq!(sandbox.store().read_file(id, &path("mounted/x")).unwrap(), b"x");
    assert_eq!(sandbox.refusal("a", options()), ("mounted".into(), Refusal::LinkOut("/etc/app/conf".into())));
}

#[test]
fn s6_links_that_lead_out_are_refused() {
    for (name, target) in [("d/up", "../../x"), ("abs", "/etc/passwd"), ("d/tricky", "../d/../../x")] {
        let sandbox = Sandbox::new();
        sandbox.write("a/d/fine", "x");
        symlink(target, sandbox.path("a").join(name)).unwrap();
        assert_eq!(sandbox.refusal("a", options()), (name.to_owned(), Refusal::LinkOut(target.to_owned())));
    }
    let sandbox = Sandbox::new();
    sandbox.write("a/d/e/fine", "x");
    symlink("../..", sandbox.path("a/d/e/up")).unwrap();
    symlink("d/e/up/../x", sandbox.path("a/out")).unwrap();
    let why = Refusal::LinkOutThroughLinks("d/e/up/../x".into());
    assert_eq!(sandbox.refusal("a", options()), ("out".to_owned(), why));
}

#[test]
fn s6_copy_links_stores_what_they_lead_to() {
    let sandbox = Sandbox::new();
    sandbox.write("outside/dir/f", "content");
    sandbox.write("outside/top", "top");
    symlink("../top", sandbox.path("outside/dir/climbs")).unwrap();
    symlink("f", sandbox.path("outside/dir/stays")).unwrap();
    sandbox.write("a/fine", "x");
    symlink(sandbox.path("outside/dir"), sandbox.path("a/dir")).unwrap();
    symlink("../outside/dir/f", sandbox.path("a/file")).unwrap();
    let id = sandbox.writer().push(Source::Directory(&sandbox.path("a")), copying()).unwrap().id;
    let tree = sandbox.store().tree_path(id);
    assert!(fs::symlink_metadata(tree.join("dir")).unwrap().is_dir());
    assert!(fs::symlink_metadata(tree.join("file")).unwrap().is_file());
    assert_eq!(fs::read(tree.join("dir/climbs")).unwrap(), b"top");
    assert_eq!(fs::read_link(tree.join("dir/stays")).unwrap(), Path::new("f"));
    assert!(sandbox.store().verify(None).unwrap().is_empty());

    for (target, expected) in [
        ("/dev/null", Refusal::Special),
        ("/none/there", Refusal::LinkNowhere("/none/there".into())),
        ("../a", Refusal::Loop),
    ] {
        symlink(target, sandbox.path("a/z")).unwrap();
        assert_eq!(sandbox.refusal("a", copying()), ("z".to_owned(), expected), "{target}");
        fs::remove_file(sandbox.path("a/z")).unwrap();
    }
}

#[test]
fn s7_unchanged_files_are_hard_links_to_the_parent() {
    let sandbox = Sandbox::new();
    for name in ["same", "edited", "closed", "large"] {
        sandbox.write(&format!("a/{name}"), name);
    }
    fs::write(sandbox.path("a/large"), vec![7; 3 << 20]).unwrap();
    sandbox.write("a/empty", "");
    let first = sandbox.push("a").id;
    sandbox.write("a/edited", "other!");
    sandbox.write("a/moved", "same");
    chmod(&sandbox.path("a/closed"), 0o600);
    let second = sandbox.push("a").id;
    let store = sandbox.store();
    let inode = |id, name: &str| fs::metadata(store.tree_path(id).join(name)).unwrap().ino();
    for (name, shared) in
        [("same", true), ("large", true), ("edited", false), ("closed", false), ("empty", false)]
    {
        assert_eq!(inode(first, name) == inode(second, name), shared, "{name}");
    }
    assert_ne!(inode(second, "moved"), inode(second, "same"));
    assert_eq!(store.push_record(second).unwrap().parent, Some(first));
    assert!(store.verify(None).unwrap().is_empty());
}

#[test]
fn s7_a_tampered_file_is_not_linked() {
    let sandbox = Sandbox::new();
    sandbox.write("a/x", "right");
    let first = sandbox.push("a").id;
    let stored = sandbox.store().tree_path(first).join("x");
    std::thread::sleep(std::time::Duration::from_millis(20)); // the clock of files is coarse
    chmod(&stored, 0o644);
    fs::write(&stored, "wrong").unwrap();
    chmod(&stored, 0o444);
    sandbox.write("a/y", "new");
    let second = sandbox.push("a").id;
    assert!(sandbox.store().check_intact(second).is_ok());
    let damages = sandbox.store().verify(None).unwrap();
    assert_eq!(damages.len(), 1);
    assert_eq!((damages[0].generation, damages[0].path.ends_with("tree/x")), (Some(first), true));
}

#[test]
fn s4_pushing_a_damaged_generation_again_makes_it_whole() {
    let sandbox = Sandbox::new();
    sandbox.write("a/x", "right");
    let id = sandbox.push("a").id;
    sandbox.writer().swing(Some(id)).unwrap();
    // as a bad disk does it: neither times nor mode tell
    let stored = sandbox.store().tree_path(id).join("x");
    let modified = fs::metadata(&stored).unwrap().modified().unwrap();
    chmod(&stored, 0o644);
    fs::write(&stored, "wrong").unwrap();
    fs::File::options().append(true).open(&stored).unwrap().set_modified(modified).unwrap();
    chmod(&stored, 0o444);
    assert!(sandbox.store().check_intact(id).is_err());
    let pushed = sandbox.push("a");
    assert_eq!((pushed.id, pushed.changed, pushed.repaired), (id, false, true));
    assert_eq!(fs::read(sandbox.path("store/current/x")).unwrap(), b"right");
    assert!(sandbox.store().verify(None).unwrap().is_empty());
    assert_eq!(sandbox.store().list().unwrap().len(), 1);
    assert!(names(&sandbox.path("store/tmp")).is_empty());
    assert!(!sandbox.push("a").repaired);
}

#[test]
fn s8_leftovers_of_crashes_are_removed_and_what_is_held_stays() {
    let sandbox = Sandbox::new();
    let writer = sandbox.writer();
    let held = writer.stage_loaded().unwrap();
    fs::create_dir_all(sandbox.path("store/tmp/1-1/tree/d")).unwrap();
    fs::write(sandbox.path("store/tmp/1-1/tree/d/f"), "x").unwrap();
    chmod(&sandbox.path("store/tmp/1-1/tree/d"), 0o555);
    fs::write(sandbox.path("store/tmp/event-1-1"), "half").unwrap();
    sandbox.writer();
    assert!(held.path().exists());
    assert_eq!(names(&sandbox.path("store/tmp")).len(), 1);
    drop(held);
    assert!(names(&sandbox.path("store/tmp")).is_empty());
}

#[test]
fn s8_pushes_at_once_agree() {
    let sandbox = Sandbox::new();
    for n in 0..20 {
        sandbox.write(&format!("a/{n}"), &format!("content {n}"));
        sandbox.write("b/x", "other");
    }
    let pushed: Vec<Pushed> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|n| {
                let sandbox = &sandbox;
                scope.spawn(move || sandbox.push(if n % 2 == 0 { "a" } else { "b" }))
            })
            .collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).collect()
    });
    assert_eq!(pushed.iter().filter(|pushed| pushed.changed).count(), 2);
    let store = sandbox.store();
    assert_eq!(store.list().unwrap().len(), 2);
    assert!(store.verify(None).unwrap().is_empty());
    assert!(names(&sandbox.path("store/tmp")).is_empty());
    let history = fs::read_to_string(sandbox.path("store/history")).unwrap();
    assert_eq!(history.lines().count(), 2);
}

#[test]
fn s9_numbers_are_claimed_once_and_never_again() {
    let sandbox = Sandbox::new();
    let id = sandbox.generation("a");
    let writer = sandbox.writer();
    let mut numbers: Vec<u64> = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..8)
            .map(|_| {
                let writer = &writer;
                scope.spawn(move || {
                    (0..5).map(|_| writer.accept(draft(id)).unwrap().number).collect::<Vec<_>>()
                })
            })
            .collect();
        threads.into_iter().flat_map(|thread| thread.join().unwrap()).collect()
    });
    numbers.sort_unstable();
    assert_eq!(numbers, (1..=40).collect::<Vec<_>>());
    assert_eq!(writer.pending().unwrap().iter().map(|event| event.number).collect::<Vec<_>>(), numbers);
    assert_eq!(writer.event(7).unwrap().unwrap().target, id);
    fs::remove_file(sandbox.path("store/events/40.json")).unwrap();
    fs::write(sandbox.path("store/events/77.steps"), "").unwrap();
    assert_eq!(writer.accept(draft(id)).unwrap().number, 78);
    let unknown = GenerationId::of(b"unknown");
    assert_eq!(writer.accept(draft(unknown)).unwrap_err().kind(), Kind::NoSuch);
}

#[test]
fn s9_what_a_power_cut_left_of_an_event_that_was_not_accepted_is_none() {
    let sandbox = Sandbox::new();
    let id = sandbox.generation("a");
    let writer = sandbox.writer();
    let event = writer.accept_to_settle(draft(id)).unwrap();
    assert_eq!(writer.pending().unwrap(), [event]);
    let file = sandbox.path("store/events/1.json");
    let whole = fs::read(&file).unwrap();
    fs::remove_file(&file).unwrap();
    for torn in [&b""[..], &[0; 244], &[&whole[..100], &[0; 20]].concat()] {
        fs::write(&file, torn).unwrap();
        assert_eq!((writer.event(1).unwrap(), writer.pending().unwrap().len()), (None, 0));
        assert!(writer.history().unwrap().is_empty() && writer.verify(None).unwrap().is_empty());
    }
    // its number is not given again
    assert_eq!(writer.accept(draft(id)).unwrap().number, 2);
    // anything else is damage
    fs::write(&file, &whole[..100]).unwrap();
    assert_eq!(writer.event(1).unwrap_err().kind(), Kind::Damaged);
}

#[test]
fn s10_a_torn_step_is_cut() {
    let sandbox = Sandbox::new();
    let id = sandbox.generation("a");
    let writer = sandbox.writer();
    let event = writer.accept(draft(id)).unwrap();
    let begun = Mark::Begun { boot: "boot-1".into() };
    let swinging = Mark::Swinging { from: None, to: id };
    writer.mark(event.number, &begun).unwrap();
    let file = sandbox.path("store/events/1.steps");
    let sound = fs::read(&file).unwrap();
    for torn in [&b"0123"[..], b"0123456789abcdef {\"begun\"}\n", &[0; 50]] {
        fs::write(&file, [&sound, torn].concat()).unwrap();
        assert_eq!(writer.marks(1).unwrap(), std::slice::from_ref(&begun));
        writer.mark(1, &swinging).unwrap();
        assert_eq!(writer.marks(1).unwrap(), [begun.clone(), swinging.clone()]);
    }
    let text = fs::read_to_string(&file).unwrap();
    fs::write(&file, text.replacen("boot-1", "boot-2", 1)).unwrap();
    assert_eq!(writer.marks(1).unwrap_err().kind(), Kind::Damaged);
    assert!(matches!(writer.mark(9, &begun), Err(EventError::NoSuchEvent { number: 9 })));
}

#[test]
fn s11_a_verdict_is_written_once() {
    let sandbox = Sandbox::new();
    let id = sandbox.generation("a");
    let writer = sandbox.writer();
    let event = writer.accept(draft(id)).unwrap();
    assert_eq!(writer.history().unwrap()[0].end, None);
    let first = outcome(&event, Verdict::Good);
    writer.conclude(&first).unwrap();
    let second = writer.conclude(&outcome(&event, Verdict::Failed));
    assert!(matches!(second, Err(EventError::AlreadyConcluded { number: 1 })));
    assert_eq!(writer.outcome(1).unwrap(), Some(first.clone()));
    assert_eq!(writer.last_outcome().unwrap(), Some(first));
    assert!(writer.pending().unwrap().is_empty());
    let history = writer.history().unwrap();
    assert_eq!(history[0].end.as_ref().unwrap().verdict, Verdict::Good);
    assert_eq!(writer.last_good().unwrap(), Some(id));
    assert!(writer.list().unwrap()[0].good);
    assert!(writer.outcome(2).unwrap().is_none());
}

#[test]
fn s11_what_a_power_cut_left_of_a_verdict_that_nobody_was_told_of_is_none() {
    let sandbox = Sandbox::new();
    let id = sandbox.generation("a");
    let writer = sandbox.writer();
    let event = writer.accept_to_settle(draft(id)).unwrap();
    let verdict = outcome(&event, Verdict::Good);
    writer.swing_at_last(event.number, id).unwrap();
    writer.conclude(&verdict).unwrap();
    let file = sandbox.path("store/events/1.outcome.json");
    let whole = fs::read(&file).unwrap();
    for (boot, torn) in [&b""[..], &[0; 500], &[&whole[..100], &[0; 400]].concat()].into_iter().enumerate() {
        fs::remove_file(&file).unwrap();
        fs::write(&file, torn).unwrap();
        assert_eq!(sandbox.store().outcome(1).unwrap(), None);
        let writer = sandbox.store().writer(&format!("boot-{boot}")).unwrap();
        assert!(!file.exists());
        assert_eq!(writer.pending().unwrap(), std::slice::from_ref(&event));
        writer.conclude(&verdict).unwrap();
        assert_eq!(fs::read(&file).unwrap(), whole);
        assert_eq!(writer.history().unwrap().len(), 1);
    }
    // anything else is damage, and stays
    fs::remove_file(&file).unwrap();
    fs::write(&file, &whole[..100]).unwrap();
    let writer = sandbox.store().writer("boot-9").unwrap();
    assert_eq!(writer.outcome(1).unwrap_err().kind(), Kind::Damaged);
}

/// What the store says of its events.
#[derive(Debug, PartialEq)]
struct Seen {
    history: Vec<pointsman::store::HistoryEntry>,
    good: Vec<GenerationId>,
    last_good: Option<GenerationId>,
    unconfirmed: Option<pointsman::store::Unconfirmed>,
    pending: Vec<Event>,
    last: Option<Outcome>,
    first: (Option<Event>, usize, Option<Outcome>),
}

fn seen(store: &Store) -> Seen {
    Seen {
        history: store.history().unwrap(),
        good: store.good_stack().unwrap(),
        last_good: store.last_good().unwrap(),
        unconfirmed: store.unconfirmed().unwrap(),
        pending: store.pending().unwrap(),
        last: store.last_outcome().unwrap(),
        first: (store.event(1).unwrap(), store.marks(1).unwrap().len(), store.outcome(1).unwrap()),
    }
}

fn copy_all(from: &Path, to: &Path) {
    fs::remove_dir_all(to).unwrap();
    assert!(std::process::Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// The names in `events/`, and what was put away.
fn recent_and_finished(sandbox: &Sandbox) -> (Vec<String>, Vec<String>) {
    let names = |path: &str| {
        let entries = fs::read_dir(sandbox.path(path)).map(|entries| entries.map(|entry| entry.unwrap()));
        let files = entries.into_iter().flatten().filter(|entry| entry.file_type().unwrap().is_file());
        files.map(|entry| entry.file_name().into_string().unwrap()).collect()
    };
    (names("store/events"), names("store/events/finished"))
}

#[test]
fn s28_what_is_put_away_half_way_is_what_it_was() {
    let sandbox = Sandbox::new();
    let (a, b) = (sandbox.generation("a"), sandbox.generation("b"));
    let writer = sandbox.writer();
    let begun = Mark::Begun { boot: "boot-1".into() };
    for n in 0..63 {
        let event = writer.accept(draft(if n % 2 == 0 { a } else { b })).unwrap();
        writer.mark(event.number, &begun).unwrap();
        writer.conclude(&outcome(&event, Verdict::Good)).unwrap();
    }
    // what was never accepted has a number all the same
    fs::write(sandbox.path("store/events/7.json"), "").unwrap();
    fs::remove_file(sandbox.path("store/events/7.outcome.json")).unwrap();
    let before = seen(&sandbox.store());
    for number in (1..=32).filter(|number| *number != 9) {
        for rest in ["json", "steps", "outcome.json"] {
            let (from, to) = ("store/events", "store/events/finished");
            fs::create_dir_all(sandbox.path(to)).unwrap();
            let name = format!("{number}.{rest}");
            if number != 7 || rest != "outcome.json" {
                fs::rename(sandbox.path(&format!("{from}/{name}")), sandbox.path(&format!("{to}/{name}")))
                    .unwrap();
            }
            assert_eq!(seen(&sandbox.store()), before, "up to {name}");
            assert_eq!(seen(&writer), before, "up to {name}, with what was read before");
        }
    }
    // with the next one, the rest follows
    let event = writer.accept(draft(b)).unwrap();
    assert_eq!(event.number, 64);
    writer.conclude(&outcome(&event, Verdict::Failed)).unwrap();
    let (recent, finished) = recent_and_finished(&sandbox);
    assert!(!recent.contains(&"9.json".to_owned()) && finished.contains(&"9.json".to_owned()));
    assert_eq!((recent.len(), finished.len()), (3 * 32, 3 * 32 - 1), "{recent:?}");
    let after = seen(&sandbox.store());
    assert_eq!((after.history.len(), &after.good, &after.first), (64, &before.good, &before.first));
    assert!(writer.verify(None).unwrap().is_empty());
    assert!(matches!(
        writer.conclude(&outcome(&before.first.0.unwrap(), Verdict::Good)),
        Err(EventError::AlreadyConcluded { number: 1 })
    ));
    // an emptied directory does not give numbers again
    for name in recent {
        fs::remove_file(sandbox.path(&format!("store/events/{name}"))).unwrap();
    }
    assert_eq!(writer.accept(draft(b)).unwrap().number, 33);
    assert_eq!(seen(&sandbox.store()).good, before.good);
}

#[test]
fn s28_what_came_last_is_what_the_whole_history_says() {
    let sandbox = Sandbox::new();
    let ids: Vec<_> = ["a", "b", "c"].iter().map(|name| sandbox.generation(name)).collect();
    let writer = sandbox.writer();
    let mut dice = 7u64;
    let mut roll = |sides: u64| {
        dice = dice.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        (dice >> 33) % sides
    };
    for n in 1..=400 {
        // long times in which nothing is decided, too
        let verdict = match roll(if n % 200 < 90 { 5 } else { 500 }) {
            0 | 1 => Verdict::Good,
            2 => Verdict::Unconfirmed,
            3 => Verdict::PointerOnly,
            _ => Verdict::Reverted,
        };
        let request = match roll(6) {
            0 => Request::Rollback,
            1 => Request::Restart,
            2 => Request::Start,
            3 => Request::Stop,
            _ => Request::Activate,
        };
        let target = ids[roll(3) as usize];
        let event = writer.accept(EventDraft { request, ..draft(target) }).unwrap();
        assert_eq!(event.number, n);
        writer.conclude(&outcome(&event, verdict)).unwrap();
        let store = sandbox.store();
        let latest = (store.last_good().unwrap(), store.unconfirmed().unwrap());
        assert_eq!((writer.last_good().unwrap(), writer.unconfirmed().unwrap()), latest, "after {n}");
        assert_eq!(latest.0, store.good_stack().unwrap().pop(), "after {n}");
        if n % 20 == 0 {
            // the same events, none of them put away
            let whole = Sandbox::new();
            copy_all(&sandbox.path("store"), &whole.path("store"));
            for name in recent_and_finished(&whole).1 {
                let (from, to) = (format!("store/events/finished/{name}"), format!("store/events/{name}"));
                fs::rename(whole.path(&from), whole.path(&to)).unwrap();
            }
            let _ = fs::remove_dir(whole.path("store/events/finished"));
            fs::remove_file(whole.path("store/history")).unwrap();
            assert_eq!(whole.store().unconfirmed().unwrap(), latest.1, "after {n}");
        }
    }
    assert!(recent_and_finished(&sandbox).0.len() <= 3 * 96);
    // a history that lacks what was put away is not believed
    let before = sandbox.store().last_good().unwrap();
    let text = fs::read_to_string(sandbox.path("store/history")).unwrap();
    for gone in [0..403, 3..403, 200..403, 200..355] {
        let lines = text.split_inclusive('\n').enumerate().filter(|(at, _)| !gone.contains(at));
        fs::write(sandbox.path("store/history"), lines.map(|(_, line)| line).collect::<String>()).unwrap();
        assert_eq!(sandbox.store().last_good().unwrap(), before, "without the lines {gone:?}");
    }
}

/// A history that lacks its second line, but is as new as one that does not; the file, and what it held with one line
/// and with both.
fn lacking_a_line(sandbox: &Sandbox) -> (PathBuf, String, String) {
    sandbox.generation("a");
    let file = sandbox.path("store/history");
    let one = fs::read_to_string(&file).unwrap();
    sandbox.generation("b");
    let both = fs::read_to_string(&file).unwrap();
    fs::write(&file, &one).unwrap();
    let later = std::time::SystemTime::now() + std::time::Duration::from_secs(5);
    fs::File::options().write(true).open(&file).unwrap().set_modified(later).unwrap();
    (file, one, both)
}

#[test]
fn s12_the_next_writer_looks_for_the_line_that_a_killed_one_owed() {
    let sandbox = Sandbox::new();
    let (file, _, both) = lacking_a_line(&sandbox);
    let lock = sandbox.path("run/history.lock");
    assert_eq!(fs::metadata(&lock).unwrap().len(), 0, "nothing is owed");
    fs::write(&lock, "x").unwrap();
    sandbox.writer();
    assert_eq!(fs::read_to_string(&file).unwrap(), both);
    assert_eq!(fs::metadata(&lock).unwrap().len(), 0);
}

#[test]
fn s12_who_writes_after_a_killed_one_leaves_its_debt_to_who_looks_for_it() {
    let sandbox = Sandbox::new();
    let writer = sandbox.writer();
    let (file, _, both) = lacking_a_line(&sandbox);
    let lock = sandbox.path("run/history.lock");
    fs::write(&lock, "x").unwrap();
    // it had looked before the other was killed
    let id = writer.list().unwrap()[0].id;
    good(&writer, Request::Activate, id);
    assert_eq!(fs::metadata(&lock).unwrap().len(), 1);
    sandbox.writer();
    let lines = fs::read_to_string(&file).unwrap();
    assert!(lines.contains(both.lines().nth(1).unwrap()) && lines.lines().count() == 3, "{lines}");
    assert_eq!(fs::metadata(&lock).unwrap().len(), 0);
}

#[test]
fn s12_the_first_writer_after_a_reboot_completes_the_history_whatever_its_time_says() {
    let sandbox = Sandbox::new();
    // a power cut took the line, not the time
    let (file, one, both) = lacking_a_line(&sandbox);
    sandbox.writer();
    assert_eq!(
        fs::read_to_string(&file).unwrap(),
        one,
        "the same boot believes the time, and that nothing is owed"
    );
    sandbox.store().writer("boot-2").unwrap();
    assert_eq!(fs::read_to_string(&file).unwrap(), both);
}

#[test]
fn s12_the_history_is_read_on_and_another_one_anew() {
    let sandbox = Sandbox::new();
    let (one, two) = (sandbox.generation("a"), sandbox.generation("b"));
    let (writer, reader) = (sandbox.writer(), sandbox.writer());
    let file = sandbox.path("store/history");
    let good = || [one, two].map(|id| reader.was_good(id).unwrap());
    let conclude = |id| {
        let event = writer.accept(draft(id)).unwrap();
        writer.conclude(&outcome(&event, Verdict::Good)).unwrap();
        // what the file does not say is read from the events
        let number = event.number;
        for rest in ["json", "outcome.json"] {
            fs::remove_file(sandbox.path(&format!("store/events/{number}.{rest}"))).unwrap();
        }
        fs::read_to_string(&file).unwrap()
    };
    assert_eq!(good(), [false, false]);
    let first = conclude(one);
    assert_eq!(good(), [true, false]);
    let both = conclude(two);
    assert!(both.starts_with(&first));
    assert_eq!(good(), [true, true]);
    // torn, and cut again
    fs::write(&file, format!("{both}0123")).unwrap();
    assert_eq!(good(), [true, true]);
    // shorter
    fs::write(&file, &first).unwrap();
    assert_eq!(good(), [true, false]);
    // longer, and another one
    let (rest, second) = (&first[..first.trim_end().rfind('\n').unwrap() + 1], &both[first.len()..]);
    fs::write(&file, format!("{rest}{second}{second}")).unwrap();
    assert_eq!(good(), [false, true]);
    fs::remove_file(&file).unwrap();
    assert_eq!(good(), [false, false]);
    fs::write(&file, &both).unwrap();
    assert_eq!(good(), [true, true]);
    // as long, and its last line the same
    fs::write(sandbox.path("other"), both.replacen("\"number\":1", "\"number\":9", 1)).unwrap();
    fs::rename(sandbox.path("other"), &file).unwrap();
    assert_eq!(good(), [false, true]);
}

#[test]
fn s12_what_a_crash_kept_from_the_history_is_read_and_then_written() {
    let sandbox = Sandbox::new();
    let (a, b) = (sandbox.generation("a"), sandbox.generation("b"));
    good(&sandbox.writer(), Request::Activate, a);
    let file = sandbox.path("store/history");
    let whole = fs::read_to_string(&file).unwrap();
    let listed = |store: &Store| store.list().unwrap().iter().map(|l| (l.id, l.good)).collect::<Vec<_>>();
    let expected = listed(&sandbox.store());
    assert_eq!(expected, [(a, true), (b, false)]);
    // every possible end of the file
    for cut in (0..whole.len()).step_by(7) {
        fs::write(&file, &whole[..cut]).unwrap();
        // as a crash leaves it: the directory is newer
        fs::File::open(sandbox.path("store/events"))
            .unwrap()
            .set_modified(std::time::SystemTime::now())
            .unwrap();
        let store = sandbox.store();
        let mut seen = listed(&store);
        seen.sort();
        let mut sorted = expected.clone();
        sorted.sort();
        assert_eq!(seen, sorted, "cut at {cut}");
        assert_eq!(store.last_good().unwrap(), Some(a));
        assert_eq!(fs::read_to_string(&file).unwrap(), whole[..cut], "readers write nothing");
        sandbox.writer();
        let lines = fs::read_to_string(&file).unwrap();
        assert_eq!(lines.lines().count(), 3, "cut at {cut}");
    }
    fs::rename(sandbox.store().generation_path(b), sandbox.path("taken-away")).unwrap();
    assert_eq!(listed(&sandbox.store()), [(a, true)]);
}

#[test]
fn s13_the_run_directory_is_emptied_on_a_new_boot() {
    let sandbox = Sandbox::new();
    let writer = sandbox.writer();
    fs::write(sandbox.path("run/status.json"), "{}").unwrap();
    fs::create_dir(sandbox.path("run/web-1")).unwrap();
    drop(writer.engine_lock(false).unwrap().unwrap());
    sandbox.writer();
    assert!(sandbox.path("run/status.json").exists());
    sandbox.store().writer("boot-2").unwrap();
    let left = names(&sandbox.path("run"));
    assert!(!left.iter().any(|name| name == "status.json" || name == "web-1"), "{left:?}");
    assert!(left.contains(&"lock".to_owned()));
    // a directory that is not ours is not emptied
    sandbox.write("precious/file", "x");
    let store = Store::open(&sandbox.path("store"), &sandbox.path("precious")).unwrap();
    let error = store.writer("boot-2").unwrap_err();
    assert!(matches!(error, StoreError::ForeignRun { .. }), "{error}");
    assert!(sandbox.path("precious/file").exists());
}

#[test]
fn s13_one_engine_at_a_time() {
    let sandbox = Sandbox::new();
    let (one, two) = (sandbox.writer(), sandbox.writer());
    let held = one.engine_lock(false).unwrap();
    assert!(held.is_some() && two.engine_lock(false).unwrap().is_none());
    drop(held);
    assert!(two.engine_lock(true).unwrap().is_some());
}

#[test]
fn s13_a_stranger_may_read_and_not_write() {
    let sandbox = Sandbox::new();
    if !rustix::process::geteuid().is_root() {
        return; // only root can make a store of somebody else's
    }
    let id = sandbox.generation("a");
    std::os::unix::fs::chown(sandbox.path("store"), Some(12345), None).unwrap();
    let store = sandbox.store();
    assert_eq!(store.list().unwrap()[0].id, id);
    let error = store.writer("boot-1").unwrap_err();
    assert!(error.to_string().contains("belongs to uid 12345"), "{error}");
    assert_eq!(error.kind(), Kind::Refused);
}

#[test]
fn s3_the_pointer_moves_and_comes_back() {
    let sandbox = Sandbox::new();
    let (a, b) = (sandbox.generation("a"), sandbox.generation("b"));
    let writer = sandbox.writer();
    assert_eq!(writer.current().unwrap(), None);
    writer.prepare_undo(None).unwrap();
    writer.swing(Some(a)).unwrap();
    assert_eq!(writer.current().unwrap(), Some(a));
    assert_eq!(
        fs::read_link(sandbox.path("store/current")).unwrap(),
        Path::new(&format!("generations/{a}/tree"))
    );
    writer.swing(None).unwrap();
    assert_eq!(writer.current().unwrap(), None);
    writer.swing(None).unwrap();

    writer.swing(Some(a)).unwrap();
    writer.prepare_undo(Some(a)).unwrap();
    writer.prepare_undo(Some(a)).unwrap();
    writer.swing(Some(b)).unwrap();
    sandbox.writer();
    assert!(names(&sandbox.path("store/tmp")).contains(&"undo".to_owned()), "cleaning leaves the way back");
    writer.swing(Some(a)).unwrap();
    assert_eq!(writer.current().unwrap(), Some(a));
    assert_eq!(names(&sandbox.path("store/tmp")), ["reserve"]);
    let unknown = GenerationId::of(b"unknown");
    assert!(matches!(writer.swing(Some(unknown)), Err(PointerError::NoSuchGeneration { .. })));
    assert_eq!(writer.current().unwrap(), Some(a));
}

#[test]
fn s3_a_pointer_that_is_none_is_damage() {
    let sandbox = Sandbox::new();
    let id = sandbox.generation("a");
    let current = sandbox.path("store/current");
    for target in ["/etc", "generations", &format!("generations/{}/tree", "0".repeat(64))] {
        symlink(target, &current).unwrap();
        assert_eq!(sandbox.store().current().unwrap_err().kind(), Kind::Damaged, "{target}");
        assert_eq!(sandbox.store().verify(None).unwrap().len(), 1);
        assert!(sandbox.store().list().is_ok());
        fs::remove_file(&current).unwrap();
    }
    fs::write(&current, "x").unwrap();
    assert_eq!(sandbox.store().current().unwrap_err().kind(), Kind::Damaged);
    sandbox.writer().swing(Some(id)).unwrap();
    assert_eq!(sandbox.store().current().unwrap(), Some(id));
}

#[test]
fn s14_references() {
    let sandbox = Sandbox::new();
    let (a, b, c) = (sandbox.generation("a"), sandbox.generation("b"), sandbox.generation("c"));
    let writer = sandbox.writer();
    let resolve = |text: &str| writer.resolve(&text.parse().unwrap());
    assert!(matches!(resolve("@"), Err(RefError::NothingInForce)));
    assert!(matches!(resolve("@-1"), Err(RefError::NoOlderGood { back: 1, have: 0 })));
    good(&writer, Request::Activate, a);
    good(&writer, Request::Activate, b);
    writer.swing(Some(b)).unwrap();
    assert_eq!(resolve("@").unwrap(), b);
    assert_eq!(resolve("@-1").unwrap(), a);
    assert!(matches!(resolve("@-2"), Err(RefError::NoOlderGood { back: 2, have: 2 })));
    good(&writer, Request::Activate, c);
    good(&writer, Request::Rollback, a);
    assert_eq!(writer.last_good().unwrap(), Some(a));
    assert_eq!(resolve(&a.to_string()).unwrap(), a);
    assert_eq!(resolve(&a.to_string()[..20]).unwrap(), a);
    let error = resolve(&"0".repeat(64)).unwrap_err();
    assert!(error.to_string().ends_with("`pointsman list` shows what is") && error.kind() == Kind::NoSuch);
    assert!(matches!(resolve("release-1"), Err(RefError::NotFound { .. })));

    let tag: Tag = "release-1".parse().unwrap();
    writer.tag(&tag, a).unwrap();
    writer.tag(&tag, b).unwrap();
    assert_eq!(resolve("release-1").unwrap(), b);
    assert_eq!(fs::read_to_string(sandbox.path("store/tags/release-1")).unwrap(), format!("{b}\n"));
    let listed = writer.list().unwrap().into_iter().find(|listed| listed.id == b).unwrap();
    assert!(listed.current && listed.tags == std::slice::from_ref(&tag));
    assert_eq!(writer.show(b).unwrap().listed, listed);
    writer.untag(&tag).unwrap();
    assert_eq!(writer.untag(&tag).unwrap_err().kind(), Kind::NoSuch);
    assert!(writer.tags().unwrap().is_empty());
    assert_eq!(writer.tag(&tag, GenerationId::of(b"unknown")).unwrap_err().kind(), Kind::NoSuch);

    // two that begin alike
    fs::create_dir(sandbox.path(&format!("store/generations/{}", "ab".repeat(32)))).unwrap();
    fs::create_dir(sandbox.path(&format!("store/generations/{}cd", "ab".repeat(31)))).unwrap();
    match resolve("abab") {
        Err(RefError::Ambiguous { candidates, .. }) => assert_eq!(candidates.len(), 2),
        other => panic!("{other:?}"),
    }
}

#[test]
fn s15_every_damage_is_named() {
    let sandbox = Sandbox::new();
    for name in ["content", "mode", "gone", "longer", "d/kind"] {
        sandbox.write(&format!("a/{name}"), name);
    }
    symlink("mode", sandbox.path("a/link")).unwrap();
    let id = sandbox.push("a").id;
    let store = sandbox.store();
    assert!(store.check_intact(id).is_ok());
    let tree = store.tree_path(id);
    let rewrite = |name: &str, text: &str| {
        chmod(&tree.join(name), 0o644);
        fs::write(tree.join(name), text).unwrap();
        chmod(&tree.join(name), 0o444);
    };
    for dir in [tree.clone(), tree.join("d")] {
        chmod(&dir, 0o755);
    }
    rewrite("content", "CONTENT");
    rewrite("longer", "longer than it was");
    chmod(&tree.join("mode"), 0o644);
    fs::remove_file(tree.join("gone")).unwrap();
    fs::remove_file(tree.join("link")).unwrap();
    symlink("content", tree.join("link")).unwrap();
    fs::remove_file(tree.join("d/kind")).unwrap();
    fs::create_dir(tree.join("d/kind")).unwrap();
    fs::write(tree.join("extra"), "x").unwrap();
    chmod(&tree.join("d"), 0o555);
    let damaged: Vec<String> = store
        .verify(Some(id))
        .unwrap()
        .into_iter()
        .map(|damage| damage.path.rsplit_once("tree/").unwrap().1.to_owned())
        .collect();
    assert_eq!(damaged, ["content", "d/kind", "extra", "gone", "link", "longer", "mode"]);
    let error = store.check_intact(id).unwrap_err();
    assert!(error.kind() == Kind::Damaged && error.to_string().contains("content"), "{error}");

    let manifest = store.generation_path(id).join("manifest");
    fs::remove_file(&manifest).unwrap();
    fs::write(&manifest, "pointsman-manifest 1\n").unwrap();
    assert_eq!(store.manifest(id).unwrap_err().kind(), Kind::Damaged);
    assert_eq!(store.verify(None).unwrap().len(), 1);
}

#[test]
fn s16_loader_outputs_are_sealed_once() {
    let sandbox = Sandbox::new();
    let writer = sandbox.writer();
    let key = LoadedKey::of(b"inputs");
    assert!(!writer.loaded_intact(key).unwrap());
    let make = |text: &str| {
        let staging = writer.stage_loaded().unwrap();
        fs::create_dir(staging.path().join("d")).unwrap();
        fs::write(staging.path().join("d/rules"), text).unwrap();
        symlink(staging.path().join("d"), staging.path().join("link")).unwrap();
        staging
    };
    writer.seal_loaded(make("one"), key).unwrap();
    assert!(writer.loaded_intact(key).unwrap());
    let file = writer.loaded_path(key).join("link/rules");
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o222, 0);
    writer.seal_loaded(make("two"), key).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"one");
    chmod(&file, 0o644);
    assert!(!writer.loaded_intact(key).unwrap());
    writer.seal_loaded(make("three"), key).unwrap();
    assert_eq!(fs::read(&file).unwrap(), b"three");
    assert!(writer.loaded_intact(key).unwrap());

    let bad = make("four");
    symlink("/etc/passwd", bad.path().join("out")).unwrap();
    let error = writer.seal_loaded(bad, LoadedKey::of(b"other")).unwrap_err();
    assert!(error.to_string().contains("{loaded}/out"), "{error}");
    assert!(!writer.loaded_intact(LoadedKey::of(b"other")).unwrap());
    assert!(names(&sandbox.path("store/tmp")).is_empty());
}

#[test]
fn s17_leases_are_shared_and_never_wait() {
    let sandbox = Sandbox::new();
    let id = sandbox.generation("a");
    let store = sandbox.store();
    let (_one, _two) = (store.lease(id).unwrap(), store.lease(id).unwrap());
    assert!(pointsman::fsx::Lock::try_dir(&store.generation_path(id)).unwrap().is_none());
    assert_eq!(store.lease(GenerationId::of(b"unknown")).unwrap_err().kind(), Kind::NoSuch);
}

/// A small random tree: path to content and mode, or to a link's target.
#[derive(Clone, Debug)]
enum Thing {
    File(Vec<u8>, bool, bool),
    Link(String),
}

fn tree() -> impl Strategy<Value = BTreeMap<String, Thing>> {
    let thing = prop_oneof![
        4 => (proptest::collection::vec(any::<u8>(), 0..40), any::<bool>(), any::<bool>())
            .prop_map(|(bytes, public, executable)| Thing::File(bytes, public, executable)),
        1 => "[a-c]{1,2}".prop_map(Thing::Link),
    ];
    // directories begin with d, files with another letter: no path is both
    proptest::collection::btree_map("(d[ab]/){0,2}[a-c]{1,2}", thing, 0..8)
}

fn build(root: &Path, things: &BTreeMap<String, Thing>, backwards: bool) {
    fs::create_dir_all(root).unwrap();
    let mut all: Vec<_> = things.iter().collect();
    if backwards {
        all.reverse();
    }
    for (name, thing) in all {
        let path = root.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match thing {
            Thing::File(bytes, public, executable) => {
                fs::write(&path, bytes).unwrap();
                // bits that are not part of the class differ between the two copies
                let noise = if backwards { 0o060 } else { 0 };
                let mode =
                    0o600 | noise | if *public { 0o004 } else { 0 } | if *executable { 0o100 } else { 0 };
                chmod(&path, mode);
                if backwards {
                    let file = fs::File::open(&path).unwrap();
                    file.set_modified(std::time::UNIX_EPOCH).unwrap();
                    if rustix::process::geteuid().is_root() {
                        std::os::unix::fs::chown(&path, Some(4711), Some(4711)).unwrap();
                    }
                }
            }
            Thing::Link(target) => symlink(target, &path).unwrap(),
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn s4_content_alone_makes_the_id(first in tree(), second in tree()) {
        let sandbox = Sandbox::new();
        build(&sandbox.path("one"), &first, false);
        build(&sandbox.path("two"), &first, true);
        let id = sandbox.push("one").id;
        let again = sandbox.push("two");
        prop_assert_eq!((again.id, again.changed), (id, false));
        // and another on top of it, linked where it is the same
        let mut both = first.clone();
        both.extend(second);
        build(&sandbox.path("three"), &both, false);
        let other = sandbox.push("three").id;
        for (id, things) in [(id, &first), (other, &both)] {
            let store = sandbox.store();
            let manifest = store.manifest(id).unwrap();
            let files = manifest.iter().filter(|(_, node)| **node != Node::Dir).count();
            prop_assert_eq!(files, things.len());
            for (name, thing) in things {
                let stored = store.tree_path(id).join(name);
                match thing {
                    Thing::File(bytes, public, executable) => {
                        prop_assert_eq!(&fs::read(&stored).unwrap(), bytes);
                        let mode = if *public { 0o444 } else { 0o400 };
                        let mode = mode | if *executable { if *public { 0o111 } else { 0o100 } } else { 0 };
                        prop_assert_eq!(fs::metadata(&stored).unwrap().mode() & 0o7777, mode);
                    }
                    Thing::Link(target) => prop_assert_eq!(fs::read_link(&stored).unwrap(), Path::new(target)),
                }
            }
            prop_assert!(store.check_intact(id).is_ok());
        }
    }
}
