//! Pushes, activations, gc and readers at once: nobody sees a mix, a hole or a file that disappears, and what
//! was acknowledged is there or was collected by the rules. Rules S8, S17 and S21 of `spec/store.md`.
//!
//! Ten seconds; `scripts/soak` runs it for longer, by `POINTSMAN_SOAK_SECONDS`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use common::Sandbox;
use serde_json::Value;

const FILES: usize = 10;
const PUSHERS: usize = 8;
const ACTIVATORS: usize = 2;
const READERS: usize = 4;
/// As `keep_pushed` says.
const KEEP_PUSHED: Duration = Duration::from_secs(3);

/// What the threads have seen.
#[derive(Default)]
struct Seen {
    /// pushes that said yes, and when they were asked for
    pushed: Mutex<Vec<(String, Instant)>>,
    /// what somebody asked to activate: a verdict ends the time that a push is kept for
    asked: Mutex<BTreeSet<String>>,
    /// what was pushed with a tag
    tagged: Mutex<Vec<String>>,
    /// what gc says that it has taken away; activators collect too, without telling
    collected: Mutex<BTreeSet<String>>,
    /// good activations
    activated: AtomicU64,
    /// whole readings of ten files
    read: AtomicU64,
}

impl Seen {
    fn any_pushed(&self, choice: usize) -> Option<(String, Instant)> {
        let pushed = self.pushed.lock().unwrap();
        let recent = pushed.len().saturating_sub(40);
        pushed.get(recent + choice % (pushed.len() - recent).max(1)).cloned()
    }
}

/// Pushes directories of its own over and over: half of the files are the same in all, half in none.
fn pusher(sandbox: &Sandbox, name: usize, until: Instant, seen: &Seen) {
    for round in 0.. {
        if Instant::now() >= until {
            return;
        }
        for file in 0..FILES {
            let text = match file % 2 {
                0 => format!("common {file}\n"),
                _ => format!("pusher {name} round {round}\n"),
            };
            sandbox.write(&format!("source-{name}/d{}/f{file}", file % 3), &text);
        }
        let asked = Instant::now();
        let (source, tag) = (format!("source-{name}"), format!("tag-{name}-{round}"));
        let tagged = round % 8 == 7;
        let args = if tagged { vec!["push", &source, "--tag", &tag] } else { vec!["push", &source] };
        let id = sandbox.run(&args, 0);
        if tagged {
            seen.tagged.lock().unwrap().push(id.clone());
        }
        seen.pushed.lock().unwrap().push((id, asked));
    }
}

/// Activates what was pushed lately. What is old enough may have been collected, what somebody else asks for
/// later takes its place: nothing else may go wrong.
fn activator(sandbox: &Sandbox, name: usize, until: Instant, seen: &Seen) {
    for round in 0.. {
        if Instant::now() >= until {
            return;
        }
        let Some((id, pushed)) = seen.any_pushed(round * 7 + name) else { continue };
        let fresh = seen.asked.lock().unwrap().insert(id.clone());
        let output = sandbox.command(&["--json", "activate", &id]).output().unwrap();
        match output.status.code() {
            Some(0) => {
                let verdict: Value = serde_json::from_slice(&output.stdout).unwrap();
                assert!(verdict["verdict"] == "good" || verdict["verdict"] == "unchanged", "{verdict}");
                seen.activated.fetch_add(1, Ordering::Relaxed);
            }
            Some(3) => {
                assert!(
                    !fresh || pushed.elapsed() >= KEEP_PUSHED,
                    "{id} is said not to be there: {output:?}"
                );
                assert!(!seen.tagged.lock().unwrap().contains(&id), "{id} is tagged and gone");
            }
            Some(5) => assert!(String::from_utf8_lossy(&output.stdout).contains("superseded"), "{output:?}"),
            _ => panic!("activate {id}: {output:?}"),
        }
    }
}

fn collector(sandbox: &Sandbox, until: Instant, seen: &Seen) {
    while Instant::now() < until {
        let report = sandbox.json(&["gc"], 0);
        for removed in report["removed"].as_array().unwrap() {
            seen.collected.lock().unwrap().insert(removed.as_str().unwrap().to_owned());
        }
    }
}

/// Reads ten files one after the other through `exec`, each with a pause, and compares them with the manifest.
fn reader(sandbox: &Sandbox, until: Instant, seen: &Seen) {
    let script = "cd {config} && cat ../manifest && for f in d*/f*; do echo \"=== $f\"; sleep 0.003; cat \"$f\" || exit 9; done";
    while Instant::now() < until {
        let text = sandbox.run(&["exec", "@", "--", "sh", "-c", script], 0);
        let (manifest, files) = text.split_once("\n=== ").unwrap();
        let mut expected: BTreeMap<&str, &str> = manifest
            .lines()
            .filter_map(|line| line.strip_prefix("file public "))
            .map(|rest| {
                let fields: Vec<&str> = rest.splitn(3, ' ').collect();
                (fields[2], fields[1])
            })
            .collect();
        assert_eq!(expected.len(), FILES, "{text}");
        for file in files.split("\n=== ") {
            let (path, content) = file.split_once('\n').unwrap_or_else(|| panic!("{file:?} in {text}"));
            let hash = blake3::hash(format!("{content}\n").as_bytes()).to_hex();
            assert_eq!(
                expected.remove(path),
                Some(hash.as_str()),
                "{path} is not of this generation: {text}"
            );
        }
        assert!(expected.is_empty(), "{expected:?} disappeared: {text}");
        seen.read.fetch_add(1, Ordering::Relaxed);
    }
}

#[test]
fn s21_pushes_activations_gc_and_readers_at_once() {
    let sandbox = Sandbox::new();
    let seconds =
        std::env::var("POINTSMAN_SOAK_SECONDS").ok().and_then(|text| text.parse().ok()).unwrap_or(10);
    sandbox.write("store/host.yaml", "pipeline: pushed\nkeep: 2\nkeep_days: 0\nkeep_pushed: 3s\n");
    let seen = Seen::default();
    sandbox.write("first/d0/f0", "first\n");
    for file in 0..FILES {
        sandbox.write(&format!("first/d{}/f{file}", file % 3), &format!("first {file}\n"));
    }
    let first = sandbox.run(&["push", "first"], 0);
    sandbox.run(&["activate", &first], 0);
    let until = Instant::now() + Duration::from_secs(seconds);
    std::thread::scope(|scope| {
        let (sandbox, seen) = (&sandbox, &seen);
        for name in 0..PUSHERS {
            scope.spawn(move || pusher(sandbox, name, until, seen));
        }
        for name in 0..ACTIVATORS {
            scope.spawn(move || activator(sandbox, name, until, seen));
        }
        scope.spawn(move || collector(sandbox, until, seen));
        for _ in 0..READERS {
            scope.spawn(move || reader(sandbox, until, seen));
        }
    });
    let pushed = seen.pushed.into_inner().unwrap();
    let collected = seen.collected.into_inner().unwrap();
    let activated_once = seen.asked.into_inner().unwrap();
    let (activated, read) = (seen.activated.into_inner(), seen.read.into_inner());
    eprintln!(
        "{} pushes, {activated} activations, {} collected, {read} readings in {seconds} s",
        pushed.len(),
        collected.len()
    );
    assert!(pushed.len() > 8 && activated > 2 && !collected.is_empty() && read > 4, "too little happened");
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    let list = sandbox.json(&["list"], 0);
    let there: BTreeSet<&str> =
        list["generations"].as_array().unwrap().iter().map(|g| g["id"].as_str().unwrap()).collect();
    for (id, asked) in &pushed {
        let old = asked.elapsed() >= KEEP_PUSHED || activated_once.contains(id);
        assert!(there.contains(id.as_str()) || old, "{id} was acknowledged and is lost");
    }
    for id in seen.tagged.into_inner().unwrap() {
        assert!(there.contains(id.as_str()), "{id} is tagged and gone");
    }
    let current = sandbox.current().unwrap();
    assert!(there.contains(current.as_str()) && !collected.contains(&current));
    sandbox.run(&["rollback"], 0);
    let history = sandbox.json(&["history"], 0);
    for event in history["events"].as_array().unwrap() {
        assert!(event["end"]["verdict"].is_string(), "no verdict: {event}");
    }
    // the next writer leaves no staging
    sandbox.run(&["tag", "end", "@"], 0);
    let left: Vec<_> =
        std::fs::read_dir(sandbox.path("store/tmp")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| name == "reserve" || name == "undo"), "staging is left: {left:?}");
}
