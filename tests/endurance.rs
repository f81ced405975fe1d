//! Many replacements leave nothing behind: W2, W8, W12 and W20 of `spec/workers.md`. 50 of them; 1,000 with
//! `scripts/soak`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr, unreachable_pub)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;

use common::actor::{Part, Stage};
use common::{PROGRAM, process, until};

/// What one of our processes has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Holdings {
    descriptors: usize,
    threads: usize,
}

/// Our processes, by what they are.
fn daemons(stage: &Stage) -> BTreeMap<&'static str, u32> {
    let mut found = BTreeMap::new();
    for pid in stage.sandbox.processes() {
        let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let words: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
        let ours = words[0] == PROGRAM && process(pid).is_some();
        for name in ["manager", "supervisor", "holder"] {
            if ours && words.contains(&name) {
                assert_eq!(found.insert(name, pid), None, "two of them: {name}");
            }
        }
    }
    found
}

fn count(path: String) -> usize {
    std::fs::read_dir(path).unwrap().count()
}

fn holdings(daemons: &BTreeMap<&'static str, u32>) -> BTreeMap<&'static str, Holdings> {
    let of = |pid: &u32| Holdings {
        descriptors: count(format!("/proc/{pid}/fd")),
        threads: count(format!("/proc/{pid}/task")),
    };
    daemons.iter().map(|(name, pid)| (*name, of(pid))).collect()
}

/// Memory in KiB that is their own.
fn memory(daemons: &BTreeMap<&'static str, u32>) -> BTreeMap<&'static str, u64> {
    let of = |pid: &u32| {
        let text = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let line = text.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap();
        line.trim().trim_end_matches(" kB").parse().unwrap()
    };
    daemons.iter().map(|(name, pid)| (*name, of(pid))).collect()
}

/// The zombies that wait for one of these.
fn zombies(daemons: &BTreeMap<&'static str, u32>) -> Vec<String> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let stat = std::fs::read_to_string(entry.path().join("stat")).unwrap_or_default();
        let Some((_, rest)) = stat.rsplit_once(") ") else { continue };
        let fields: Vec<&str> = rest.split(' ').collect();
        if fields[0] == "Z" && daemons.values().any(|pid| pid.to_string() == fields[1]) {
            found.push(stat);
        }
    }
    found
}

fn names(directory: &Path) -> Vec<String> {
    let entries = std::fs::read_dir(directory).unwrap();
    let mut names: Vec<_> = entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// Replaces two workers each time, until so many have been; gives the memory of our processes before and after.
fn replace(replacements: usize) -> [BTreeMap<&'static str, u64>; 2] {
    let stage = Stage::with(Part::default());
    let ids = ["one", "two"].map(|marker| stage.push(marker, Part { marker, ..Part::default() }));
    let load = stage.load(&["one a", "two a"]);
    let activate = |turn: usize| {
        let outcome = stage.sandbox.json(&["activate", &ids[(turn + 1) % 2]], 0);
        assert_eq!(outcome["verdict"], "good", "{turn}: {outcome:#}");
    };
    let quiet = || {
        let workers: Vec<_> = stage.sandbox.workers().into_values().collect();
        assert_eq!(workers.len(), 2);
        until("the end of those that leave", || stage.alive().len() == 2);
        stage.sandbox.nothing_left_over("all is quiet");
    };
    // whatever is only made at the first time has been made
    (0..6).for_each(activate);
    quiet();
    let ours = daemons(&stage);
    let before = (holdings(&ours), memory(&ours));
    let starts = stage.log().iter().filter(|[kind, ..]| kind == "worker").count();
    (6..6 + replacements / 2).for_each(activate);
    quiet();
    let seen = load.end();
    assert_eq!(seen.failures, Vec::<String>::new());
    let started = stage.log().iter().filter(|[kind, ..]| kind == "worker").count() - starts;
    assert_eq!(started, replacements, "each was a replacement");
    assert_eq!(daemons(&stage), ours, "nobody was started again");

    // of requests just answered something may be open for a moment
    until("what they hold is what they held", || holdings(&ours) == before.0);
    assert_eq!(zombies(&ours), Vec::<String>::new());
    let run = stage.sandbox.path("store/run");
    assert_eq!(names(&run.join("p")).len(), 2, "{:?}", names(&run.join("p")));
    // of each slot: who writes, and four that have ended; of stages the last 32 events; of daemons one each
    let logs = names(&run.join("log"));
    let of = |prefix: &str| logs.iter().filter(|name| name.starts_with(prefix)).count();
    assert!(
        of("worker.1.") <= 6 && of("worker.2.") <= 6 && of("stages.") <= 33 && logs.len() <= 48,
        "{logs:?}"
    );
    let tmp = names(&stage.sandbox.path("store/tmp"));
    assert!(tmp.iter().all(|name| name == "undo" || name == "reserve"), "{tmp:?}");
    [before.1, memory(&ours)]
}

#[test]
fn w2_w8_w12_w20_50_replacements_leave_nothing_behind() {
    replace(50);
}

/// Takes some minutes.
#[test]
#[ignore = "scripts/soak"]
fn w2_w8_w12_w20_1000_replacements_leave_nothing_behind() {
    let [before, after] = replace(1000);
    eprintln!("memory of their own in KiB, before and after 1,000 replacements: {before:?} {after:?}");
    // the supervisor remembers 4096 news, and a manager what the allocator has not given back
    for (name, kib) in after {
        assert!(kib <= before[name] + 4096, "{name} grows: {before:?}");
    }
}
