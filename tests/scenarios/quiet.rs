//! K7: no change of a content file, wherever it is, causes anything. Each is followed by a request, to which the service
//! acts: so there was something to see.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io::Write as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use crate::all_right;
use crate::common::actor::{Mark, Part, Stage, Starts, starts};
use crate::common::load::Load;
use crate::common::{PROGRAM, Process};

/// The ways in which people and programs change a file.
const WAYS: [fn(&Path); 3] = [
    |file| fs::OpenOptions::new().append(true).open(file).unwrap().write_all(b" more").unwrap(),
    |file| {
        let new = file.with_file_name("new");
        fs::write(&new, format!("{} moved", fs::read_to_string(file).unwrap())).unwrap();
        fs::rename(new, file).unwrap();
    },
    |file| {
        let text = fs::read_to_string(file).unwrap();
        fs::remove_file(file).unwrap();
        fs::write(file, format!("{text} again")).unwrap();
    },
];

/// Everything that would be another if somebody had acted.
#[derive(Debug, PartialEq)]
struct Rest {
    current: Option<String>,
    workers: BTreeMap<String, Process>,
    outputs: usize,
    starts: Starts,
}

fn rest(stage: &Stage, mark: Mark) -> Rest {
    Rest {
        current: stage.sandbox.current(),
        workers: stage.sandbox.workers(),
        outputs: stage.outputs().len(),
        starts: stage.since(mark),
    }
}

/// Changes a file, after which nothing is as it would be if that had caused anything.
fn changed(stage: &Stage, way: fn(&Path), file: &Path) {
    let mark = stage.mark();
    let (before, events, load) = (rest(stage, mark), stage.events(), stage.load(&[&stage.answer()]));
    way(file);
    // a request that is refused stands behind whatever the manager might have made of the change
    let refused = stage.sandbox.json(&["activate", "other", "--if-current", "other"], 7);
    assert_eq!(refused["event"], events + 1, "{file:?}: somebody has asked for something: {refused:#}");
    load.more(50);
    all_right(&load.end());
    assert_eq!((rest(stage, mark), stage.events()), (before, events + 1), "{file:?}");
    nobody_watches_but_requests(stage);
}

/// No process of the service has asked the kernel to be told of any file but of requests, and of the output of its
/// workers.
fn nobody_watches_but_requests(stage: &Stage) {
    let mut watched = BTreeSet::new();
    for pid in stage.sandbox.processes() {
        let ours = fs::read_link(format!("/proc/{pid}/exe")).is_ok_and(|exe| exe == Path::new(PROGRAM));
        let infos = fs::read_dir(format!("/proc/{pid}/fdinfo")).into_iter().flatten().flatten();
        for info in infos.filter(|_| ours) {
            let text = fs::read_to_string(info.path()).unwrap_or_default();
            let watches =
                text.lines().filter(|line| line.starts_with("inotify ") || line.starts_with("fanotify "));
            watched.extend(watches.map(|line| {
                let inode = line.split(' ').find_map(|word| word.strip_prefix("ino:")).unwrap();
                u64::from_str_radix(inode, 16).unwrap()
            }));
        }
    }
    let known = ["store/events", "store/run/log"];
    assert_eq!(watched, known.map(|dir| fs::metadata(stage.sandbox.path(dir)).unwrap().ino()).into());
}

/// A service of which generation `other`, to be expected in vain, is known but not in force.
fn stage(part: Part<'_>) -> Stage {
    let stage = Stage::with(part);
    // with no file that it shares with the one in force
    let other = stage.push("elsewhere", Part { marker: "other", rules: "other", ..part });
    stage.sandbox.run(&["tag", "other", &other], 0);
    stage
}

#[test]
fn k7_changes_in_the_pushed_directory_cause_nothing_until_somebody_deploys_it() {
    let stage = stage(Part::default());
    for way in WAYS {
        changed(&stage, way, &stage.sandbox.path("first/rules/list"));
        let rules = fs::read_to_string(stage.sandbox.path("first/rules/list")).unwrap();
        let (mark, load) =
            (stage.mark(), Load::on(stage.address(), &[&stage.answer(), &format!("one {rules}")]));
        assert_eq!(stage.sandbox.json(&["deploy", "first"], 0)["verdict"], "good");
        all_right(&load.end());
        assert_eq!(stage.answer(), format!("one {rules}"));
        assert_eq!(stage.since(mark), starts([("loader", 1), ("check", 1), ("canary", 1), ("tell", 2)]));
    }
}

#[test]
fn k7_changes_of_what_is_external_cause_nothing_until_somebody_applies_them() {
    // where it is has to be known before there is a pipeline
    let elsewhere = tempfile::tempdir().unwrap();
    let file = elsewhere.path().join("cert");
    fs::write(&file, "cert").unwrap();
    let glob = format!("{}/**", elsewhere.path().display());
    let (pipeline, loads) = (format!("external: ['{glob}']"), format!(", '{glob}'"));
    let stage = stage(Part { pipeline: &pipeline, loads: &loads, ..Part::default() });
    for way in WAYS {
        changed(&stage, way, &file);
        let status = stage.sandbox.run(&["status"], 0);
        assert!(status.contains(&glob), "it is shown: {status}");
        let (mark, before) = (stage.mark(), stage.sandbox.workers());
        assert_eq!(stage.sandbox.json(&["activate", "@"], 0)["verdict"], "good");
        assert_eq!(stage.since(mark), starts([("loader", 1), ("check", 1), ("canary", 1), ("worker", 2)]));
        assert!(stage.sandbox.workers().iter().all(|(slot, process)| before[slot] != *process));
    }
}

#[test]
fn k7_changes_inside_the_store_cause_nothing_until_somebody_reads_it() {
    let stage = stage(Part::default());
    let id = stage.sandbox.current().unwrap();
    let output = fs::read_dir(stage.sandbox.path("store/loaded")).unwrap().next().unwrap().unwrap().path();
    let tree = stage.sandbox.path(&format!("store/generations/{id}/tree"));
    let mode = |path: &Path, mode: u32| fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
    let find = |name: &str| {
        let found = std::process::Command::new("find").arg(&output).args(["-name", name]).output().unwrap();
        String::from_utf8(found.stdout).unwrap().trim().to_owned()
    };
    for file in [tree.join("rules/list"), Path::new(&find("rules")).to_owned()] {
        let dir = file.parent().unwrap();
        let whole = fs::read(&file).unwrap();
        for way in WAYS {
            mode(dir, 0o755);
            mode(&file, 0o644);
            changed(&stage, way, &file);
            assert_eq!(stage.sandbox.json(&["verify"], 4)["ok"], false, "there was something to see");
            if file.starts_with(&tree) {
                let before = stage.sandbox.workers();
                assert_eq!(stage.sandbox.json(&["activate", "@", "--force"], 4)["verdict"], "refused");
                assert_eq!(stage.sandbox.workers(), before);
            }
            fs::write(&file, &whole).unwrap();
            mode(&file, 0o444);
            mode(dir, 0o555);
            assert_eq!(stage.sandbox.json(&["verify"], 0)["ok"], true);
            assert_eq!(stage.sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
        }
    }
}
