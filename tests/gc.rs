//! What the store gives back, and what it never does: rules S21 and S22 of `spec/store.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests stand outside of the rooms")]

mod common;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Write as _};
use std::process::Stdio;

use common::{PROGRAM, Sandbox, process, signal_to};
use rustix::process::Signal;
use serde_json::Value;

/// Keeps nothing that is only worth keeping.
const NOTHING: &str = "keep: 0\nkeep_days: 0\nkeep_pushed: 0s\n";

/// A sandbox whose host file says this besides `pipeline: pushed`.
fn keeping(retention: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    keep(&sandbox, retention);
    sandbox
}

fn keep(sandbox: &Sandbox, retention: &str) {
    sandbox.write("store/host.yaml", &format!("pipeline: pushed\n{retention}"));
}

/// Pushes a generation of its own, named by its only content.
fn push(sandbox: &Sandbox, name: &str) -> String {
    sandbox.write(&format!("{name}/name"), name);
    sandbox.write(&format!("{name}/same"), "in all of them\n");
    sandbox.run(&["push", name], 0)
}

fn deploy(sandbox: &Sandbox, name: &str) -> String {
    let id = push(sandbox, name);
    assert_eq!(sandbox.json(&["activate", &id], 0)["verdict"], "good");
    id
}

/// The ids of the generations that are there.
fn there(sandbox: &Sandbox) -> Vec<String> {
    entries(sandbox, "generations")
}

fn entries(sandbox: &Sandbox, part: &str) -> Vec<String> {
    let entries = std::fs::read_dir(sandbox.path("store").join(part)).unwrap();
    let mut names: Vec<_> = entries.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

/// What is in `tmp/` and should not be.
fn left(sandbox: &Sandbox) -> Vec<String> {
    entries(sandbox, "tmp").into_iter().filter(|name| name != "undo" && name != "reserve").collect()
}

fn sorted<const N: usize>(ids: [&String; N]) -> Vec<String> {
    let mut ids = ids.map(Clone::clone).to_vec();
    ids.sort();
    ids
}

/// Why each kept one is kept.
fn why(report: &Value, what: &str) -> BTreeMap<String, String> {
    let stays = report[what].as_array().unwrap().iter();
    let of = |one: &Value| {
        let why: Vec<_> = one["why"].as_array().unwrap().iter().map(|why| why.as_str().unwrap()).collect();
        (one["id"].as_str().unwrap().to_owned(), why.join(", "))
    };
    stays.map(of).collect()
}

#[test]
fn s21_each_root_stays_and_says_why_and_a_dry_run_changes_nothing() {
    let sandbox = Sandbox::new();
    let [old, tagged, third, way_back, current] =
        ["old", "tagged", "third", "way_back", "current"].map(|name| deploy(&sandbox, name));
    sandbox.run(&["tag", "v1", &tagged], 0);
    let bad = push(&sandbox, "bad");
    sandbox.write("bad/pointsman.yaml", "version: 1\ncheck: 'false'\n");
    let failed = sandbox.run(&["push", "bad"], 0);
    sandbox.run(&["activate", &failed], 1);
    keep(&sandbox, "keep: 3\nkeep_days: 0\nkeep_pushed: 1h\n");

    let before = sandbox.snapshot();
    let would = sandbox.json(&["gc", "--dry-run"], 0);
    let text = sandbox.run(&["gc", "--dry-run"], 0);
    assert_eq!(sandbox.snapshot(), before, "a dry run changes nothing");
    let expected = BTreeMap::from([
        (tagged.clone(), "tag v1".to_owned()),
        (third.clone(), "keep 3".to_owned()),
        (way_back.clone(), "rollback goes there, keep 3".to_owned()),
        (current.clone(), "current, last good, keep 3".to_owned()),
        (bad.clone(), "keep_pushed 1h".to_owned()),
    ]);
    assert_eq!(why(&would, "kept"), expected);
    assert!(text.contains(&format!("kept {tagged}: tag v1")), "{text}");
    assert!(text.contains(&format!("would remove {old}\n")), "{text}");

    let done = sandbox.json(&["gc"], 0);
    assert_eq!(done["removed"], would["removed"]);
    assert_eq!(done["freed"], would["freed"], "a dry run counts what the removal frees");
    let removed: Vec<&str> =
        done["removed"].as_array().unwrap().iter().map(|id| id.as_str().unwrap()).collect();
    assert_eq!(removed, sorted([&old, &failed]));
    assert_eq!(there(&sandbox), sorted([&tagged, &third, &way_back, &current, &bad]));
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    assert_eq!(sandbox.run(&["gc"], 0), "nothing to remove");
    assert_eq!(sandbox.run(&["rollback"], 0).lines().last().unwrap(), format!("in force: {way_back}"));
}

#[test]
fn s21_freed_is_what_has_no_other_name() {
    let sandbox = keeping(NOTHING);
    push(&sandbox, "first");
    let big = "x".repeat(100_000);
    sandbox.write("first/big", &big);
    let with_big = sandbox.run(&["push", "first"], 0);
    sandbox.run(&["activate", "--pointer-only", &with_big], 0);
    sandbox.write("first/name", "another");
    sandbox.run(&["push", "first"], 0);
    // the big file has two names, of which one stays; two trees of directories and small files go
    let freed = sandbox.json(&["gc"], 0)["freed"].clone();
    assert!(freed["bytes"].as_u64().unwrap() < 100_000, "{freed}");
    assert_eq!(there(&sandbox), [with_big]);
}

#[test]
fn s21_a_push_again_counts_anew() {
    let sandbox = keeping("keep: 0\nkeep_days: 0\nkeep_pushed: 1h\n");
    let id = push(&sandbox, "conf");
    let long_ago = ["-d", "2 hours ago", sandbox.path("store/generations").join(&id).to_str().unwrap()]
        .map(str::to_owned);
    let touch = || assert!(std::process::Command::new("touch").args(&long_ago).status().unwrap().success());
    touch();
    assert_eq!(sandbox.json(&["push", "conf"], 0)["changed"], false);
    sandbox.run(&["gc"], 0);
    assert_eq!(there(&sandbox), [id], "it was asked for just now");
    touch();
    sandbox.run(&["gc"], 0);
    assert!(there(&sandbox).is_empty());
}

#[test]
fn s21_damage_to_what_names_roots_collects_nothing() {
    let sandbox = keeping(NOTHING);
    let id = deploy(&sandbox, "one");
    push(&sandbox, "two");
    sandbox.run(&["tag", "v1", &id], 0);
    let pending = format!(
        "{{\"number\":2,\"request\":\"activate\",\"target\":\"{id}\",\"at\":\"2026-01-01T00:00:00Z\",\"boot\":\"b\",\"by\":{{\"uid\":0}}}}"
    );
    let there_before = there(&sandbox);
    let cases: [(&str, &[(&str, &str)]); 4] = [
        ("tags/v1", &[("tags/v1", "no id\n")]),
        ("events/2.json", &[("events/2.json", "{")]),
        ("events/2.steps", &[("events/2.json", &pending), ("events/2.steps", "x\n0000000000000000 {}\n")]),
        ("events/2.outcome.json", &[("events/2.json", &pending), ("events/2.outcome.json", "{}")]),
    ];
    for (name, files) in cases {
        let was = std::fs::read(sandbox.path("store").join(name)).ok();
        for (file, text) in files {
            sandbox.write(&format!("store/{file}"), text);
        }
        // a damaged steps file needs a sound line after the damaged one
        if name.ends_with(".steps") {
            let json = "{\"begun\":{\"boot\":\"b\"}}";
            let sum = &blake3::hash(json.as_bytes()).to_hex()[..16];
            sandbox.write("store/events/2.steps", &format!("torn\n{sum} {json}\n"));
        }
        for args in [vec!["gc"], vec!["gc", "--dry-run"], vec!["gc", &there_before[0], "--now"]] {
            let error = sandbox.error(&args, 4);
            assert!(error.contains(name), "{args:?}: {error}");
        }
        assert_eq!(there(&sandbox), there_before);
        for (file, _) in files {
            std::fs::remove_file(sandbox.path("store").join(file)).unwrap();
        }
        if let Some(was) = was {
            std::fs::write(sandbox.path("store").join(name), was).unwrap();
        }
    }
    std::fs::remove_file(sandbox.path("store/current")).unwrap();
    std::os::unix::fs::symlink("generations/gone/tree", sandbox.path("store/current")).unwrap();
    assert!(sandbox.error(&["gc"], 4).contains("current"));
    assert_eq!(there(&sandbox), there_before);
}

#[test]
fn s21_what_a_running_exec_reads_stays() {
    let sandbox = keeping(NOTHING);
    let current = deploy(&sandbox, "current");
    let old = push(&sandbox, "old");
    let mut reader = sandbox.command(&[
        "exec",
        &old,
        "--",
        "sh",
        "-c",
        "echo at work; read line; cat $POINTSMAN_CONFIG/name",
    ]);
    let mut reader = reader.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut said = BufReader::new(reader.stdout.take().unwrap()).lines();
    assert_eq!(said.next().unwrap().unwrap(), "at work");

    let report = sandbox.json(&["gc"], 0);
    assert_eq!(why(&report, "kept")[&old], "held by a process");
    let error = sandbox.error(&["gc", &old, "--now"], 7);
    assert!(error.contains("held by a process") && error.contains("; end it"), "{error}");
    assert_eq!(there(&sandbox), sorted([&old, &current]));

    reader.stdin.take().unwrap().write_all(b"go on\n").unwrap();
    assert_eq!(said.next().unwrap().unwrap(), "old", "it reads on from its generation");
    assert!(reader.wait().unwrap().success());
    sandbox.run(&["gc"], 0);
    assert_eq!(there(&sandbox), [current]);
}

/// A generation with a worker that takes its time to end, and a loader.
fn slow_worker(sandbox: &Sandbox, name: &str, rules: &str) -> String {
    sandbox.write(&format!("{name}/rules"), rules);
    sandbox.write(
        &format!("{name}/pointsman.yaml"),
        "version: 1\nprobation: 0s\n\
         loader: {command: [sh, -c, 'cp {config}/rules {loaded}/made'], if_changed: [rules]}\n\
         worker:\n  command: [sh, -c, 'trap \"\" TERM; while :; do sleep 1; done']\n  \
         env: {RULES: '{loaded}/made'}\n  ready: {after: 10ms}\n  grace_shutdown_time: 1h\n",
    );
    push(sandbox, name)
}

#[test]
fn s21_what_a_worker_runs_on_stays_with_and_without_a_supervisor() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let mut ids = Vec::new();
    for name in ["one", "two", "three", "four"] {
        let id = slow_worker(&sandbox, name, name);
        assert_eq!(sandbox.json(&["activate", &id], 0)["verdict"], "good");
        ids.push(id);
    }
    keep(&sandbox, NOTHING);
    // `one` and `two` are kept by nothing but processes that do not end
    let mut report = sandbox.json(&["gc"], 0);
    assert!(why(&report, "kept")[&ids[0]].starts_with("worker worker/1 (pid "), "{report:#}");
    assert_eq!(there(&sandbox).len(), 4);
    assert_eq!(entries(&sandbox, "loaded").len(), 4);
    let error = sandbox.error(&["gc", &ids[0], "--now"], 7);
    assert!(error.contains("worker worker/1 (pid ") && !error.contains("held by"), "{error}");

    // a supervisor that is gone holds nothing, and what it has started runs on
    sandbox.end_manager(Signal::TERM);
    let supervisor = u32::try_from(sandbox.status()["supervisor"].as_u64().unwrap()).unwrap();
    let alive = process(supervisor).unwrap();
    signal_to(supervisor, Signal::KILL);
    while alive.is_alive() {
        std::thread::yield_now();
    }
    report = sandbox.json(&["gc"], 0);
    assert!(why(&report, "kept")[&ids[0]].starts_with("worker worker/1 (pid "), "{report:#}");
    assert_eq!(why(&report, "kept_loaded").len(), 4, "{report:#}");
    assert_eq!((there(&sandbox).len(), entries(&sandbox, "loaded").len()), (4, 4));

    // the first one's process ends; the next supervisor knows
    let status = sandbox.status();
    assert!(status["supervisor"].is_null());
    sandbox.start_manager();
    let status = sandbox.status();
    let workers = status["workers"].as_array().unwrap().iter();
    let first = workers.filter(|worker| worker["generation"] == ids[0].as_str());
    for worker in first {
        signal_to(u32::try_from(worker["pid"].as_u64().unwrap()).unwrap(), Signal::KILL);
    }
    sandbox.wait("the first one is gone", |status| {
        status["workers"].as_array().unwrap().iter().all(|worker| worker["generation"] != ids[0].as_str())
    });
    sandbox.run(&["gc"], 0);
    assert_eq!(there(&sandbox), sorted([&ids[1], &ids[2], &ids[3]]));
    assert_eq!(entries(&sandbox, "loaded").len(), 3, "its loader output goes with it");
}

#[test]
fn s21_loader_outputs_live_as_long_as_their_generations() {
    let sandbox = Sandbox::new();
    let with_loader = |name: &str, rules: &str| {
        let pipeline =
            "version: 1\nloader: {command: [cp, '{config}/rules', '{loaded}/made'], if_changed: [rules]}\n";
        sandbox.write(&format!("{name}/pointsman.yaml"), pipeline);
        sandbox.write(&format!("{name}/rules"), rules);
        let outcome = sandbox.json(&["deploy", name], 0);
        (outcome["target"].as_str().unwrap().to_owned(), outcome["loaded"].as_str().unwrap().to_owned())
    };
    let (_, old) = with_loader("one", "old rules");
    let (two, shared) = with_loader("two", "rules");
    sandbox.write("three/more", "of it");
    let (three, same) = with_loader("three", "rules");
    assert_eq!(shared, same, "two generations, one loader output");
    assert_eq!(entries(&sandbox, "loaded"), sorted([&old, &shared]));
    keep(&sandbox, NOTHING);
    let report = sandbox.json(&["gc"], 0);
    assert_eq!(report["removed_loaded"], serde_json::json!([old]));
    assert_eq!(entries(&sandbox, "loaded"), std::slice::from_ref(&shared));
    let both = sorted([&two, &three]).iter().map(|id| format!("generation {}", &id[..8])).collect::<Vec<_>>();
    assert_eq!(why(&report, "kept_loaded")[&shared], both.join(", "));
    // what was made from a purged one, and from one that stays, stays and is named
    let purged = sandbox.output(&["gc", &two, "--now"], 0);
    let said = String::from_utf8(purged.stderr).unwrap();
    assert!(said.contains(&format!("loader output {} was made from them and stays", &shared[..8])), "{said}");
    assert!(said.contains(&format!("{} holds 2 files of the same content", &three[..8])), "{said}");
    assert_eq!(entries(&sandbox, "loaded"), [shared]);
}

#[test]
fn s21_a_purge_leaves_nothing_and_names_what_others_hold() {
    let sandbox = Sandbox::new();
    let secret = "the secret of this test\n";
    let pipeline = "version: 1\nloader: {command: [cp, '{config}/key', '{loaded}/made']}\n";
    sandbox.write("bad/key", secret);
    sandbox.write("bad/pointsman.yaml", pipeline);
    let bad = deploy(&sandbox, "bad");
    sandbox.write("bad/key", "harmless\n");
    let good = deploy(&sandbox, "bad");
    let holds = || {
        let mut grep = std::process::Command::new("grep");
        let found = grep.args(["-rlF", secret.trim()]).arg(sandbox.path("store")).output().unwrap();
        String::from_utf8(found.stdout).unwrap()
    };
    let found = holds();
    assert!(found.contains("/generations/") && found.contains("/loaded/"), "{found}");
    let before = sandbox.snapshot();
    let would = sandbox.json(&["gc", "@-1", "--now", "--dry-run"], 0);
    assert_eq!(sandbox.snapshot(), before, "a dry run changes nothing");
    let done = sandbox.json(&["gc", "@-1", "--now"], 0);
    assert_eq!((&done["removed"], &done["freed"]), (&would["removed"], &would["freed"]));
    assert_eq!(done["removed"], serde_json::json!([bad]));
    assert_eq!(done["shared"], serde_json::json!([{ "id": good, "files": 3 }]));
    assert_eq!(holds(), "", "nothing of it is left");
    assert_eq!(left(&sandbox), [""; 0]);
    // the stack closes over it
    assert!(sandbox.error(&["rollback"], 3).contains("no good generation"));
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    // the same content may come again
    sandbox.write("bad/key", secret);
    assert_eq!(sandbox.run(&["push", "bad"], 0), bad);
}

#[test]
fn s21_a_purge_names_everything_that_is_in_its_way() {
    let sandbox = Sandbox::new();
    let current = deploy(&sandbox, "current");
    sandbox.run(&["tag", "v1", "@"], 0);
    sandbox.run(&["tag", "v2", "@"], 0);
    let other = push(&sandbox, "other");
    // an event that nobody carries out: the engine lock is held by a stranger
    let lock = std::fs::File::open(sandbox.path("store/run/engine.lock")).unwrap();
    rustix::fs::flock(&lock, rustix::fs::FlockOperation::LockExclusive).unwrap();
    let mut waiting =
        sandbox.command(&["activate", &other]).stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    sandbox.wait("it is accepted", |status| status["activation"]["event"] == 2);

    let before = sandbox.snapshot();
    let error = sandbox.error(&["gc", "v1", &other, "--now"], 7);
    for part in ["it is in force", "tag v1", "tag v2", "event 2 is not finished"] {
        assert!(
            error.contains(&format!("\n  {}: ", &current[..8])) && error.contains(part),
            "{part}: {error}"
        );
    }
    assert!(error.contains(&format!("\n  {}: event 2 is not finished", &other[..8])), "{error}");
    for line in error.lines().skip(1) {
        assert!(line.contains("; "), "each with the next step: {line}");
    }
    let report: Value = sandbox.json(&["gc", "v1", "--now"], 7);
    assert_eq!(report["exit"], 7);
    sandbox.error(&["gc", "v1", "--now", "--dry-run"], 7);
    assert_eq!(sandbox.snapshot(), before);
    // and collecting leaves it, too
    keep(&sandbox, NOTHING);
    assert_eq!(why(&sandbox.json(&["gc"], 0), "kept")[&other], "event 2 is not finished");

    drop(lock);
    assert!(waiting.wait().unwrap().success());
    sandbox.run(&["tag", "-d", "v1"], 0);
    sandbox.run(&["tag", "-d", "v2"], 0);
    sandbox.run(&["gc", &current, "--now"], 0);
    assert_eq!(there(&sandbox), [other]);
    assert!(sandbox.error(&["gc", &current, "--now"], 3).contains("is not in the store"));
}

#[test]
fn s21_after_a_good_activation_where_the_host_file_says_so() {
    let sandbox = Sandbox::new();
    let count = || there(&sandbox).len();
    for name in ["a", "b", "c"] {
        deploy(&sandbox, name);
    }
    keep(&sandbox, "keep_pushed: 0s\n");
    deploy(&sandbox, "d");
    assert_eq!(count(), 4, "nobody said how much to keep");
    keep(&sandbox, "keep: 2\nkeep_days: 0\nkeep_pushed: 0s\n");
    sandbox.write("bad/pointsman.yaml", "version: 1\ncheck: 'false'\n");
    let bad = push(&sandbox, "bad");
    sandbox.run(&["activate", &bad], 1);
    assert_eq!(count(), 5, "not after a failure");
    sandbox.run(&["activate", "@"], 0);
    assert_eq!(count(), 5, "not where nothing was to be done");
    let last = deploy(&sandbox, "e");
    assert_eq!(count(), 2);
    assert!(there(&sandbox).contains(&last));
    // what cannot be collected is no verdict
    sandbox.write("store/tags/v1", "no id\n");
    let next = push(&sandbox, "f");
    let output = sandbox.output(&["activate", &next], 0);
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("note: old generations were not removed") && said.contains("tags/v1"), "{said}");
}

#[test]
fn s21_a_manager_collects_when_the_verdict_is_out() {
    let mut sandbox = keeping("keep: 2\nkeep_days: 0\n");
    sandbox.start_manager();
    let ids = ["a", "b", "c", "d"].map(|name| deploy(&sandbox, name));
    sandbox.wait("the others are gone", |_| there(&sandbox) == sorted([&ids[2], &ids[3]]));
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
}

#[test]
fn s21_what_a_killed_collection_left_is_removed_by_the_next_writer() {
    let sandbox = keeping(NOTHING);
    let kept = deploy(&sandbox, "kept");
    for file in 0..50 {
        sandbox.write(&format!("large/{file}"), &file.to_string());
    }
    sandbox.run(&["push", "large"], 0);
    let mut killed = std::process::Command::new("strace");
    killed.arg("-o").arg(sandbox.path("log")).arg("--inject=unlinkat:signal=SIGKILL:when=20");
    killed.arg(PROGRAM).arg("--store").arg(sandbox.path("store")).arg("gc");
    assert!(!killed.output().unwrap().status.success());
    assert_eq!(there(&sandbox), [kept], "out of reach at once");
    let [garbage] = left(&sandbox).try_into().unwrap();
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    // one that is still being removed is left alone, and nobody waits for it
    let dir = std::fs::File::open(sandbox.path("store/tmp").join(&garbage)).unwrap();
    rustix::fs::flock(&dir, rustix::fs::FlockOperation::LockExclusive).unwrap();
    sandbox.run(&["tag", "v1", "@"], 0);
    assert_eq!(left(&sandbox), [garbage]);
    drop(dir);
    sandbox.run(&["tag", "v2", "@"], 0);
    assert!(left(&sandbox).is_empty());
}

#[test]
fn s21_collections_and_pushes_at_once() {
    let sandbox = keeping(NOTHING);
    let current = deploy(&sandbox, "current");
    std::thread::scope(|scope| {
        for pusher in 0..3 {
            let sandbox = &sandbox;
            scope.spawn(move || (0..8).for_each(|n| drop(push(sandbox, &format!("{pusher}-{n}")))));
        }
        scope.spawn(|| {
            for _ in 0..12 {
                sandbox.run(&["gc"], 0);
            }
        });
        scope.spawn(|| {
            for _ in 0..6 {
                assert_eq!(sandbox.run(&["verify"], 0), "ok");
            }
        });
    });
    sandbox.run(&["gc"], 0);
    assert_eq!(there(&sandbox), [current]);
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    assert!(left(&sandbox).is_empty());
}

#[test]
fn s22_limits_are_the_hosts_and_a_refusal_says_where() {
    let sandbox = Sandbox::new();
    for file in ["a", "b", "d/e/c"] {
        sandbox.write(&format!("conf/{file}"), "12345");
    }
    let host = sandbox.path("store/host.yaml").display().to_string();
    for (limits, key) in [("entries: 3", "entries"), ("bytes: 14B", "bytes"), ("depth: 1", "depth")] {
        sandbox.write("store/host.yaml", &format!("pipeline: pushed\nlimits: {{{limits}}}\n"));
        for args in [["push", "./conf"], ["check", "./conf"], ["deploy", "./conf"]] {
            let error = sandbox.error(&args, 7);
            let want = format!("or raise `limits: {key}` in the host file {host}");
            assert!(error.contains(&want), "{args:?}: {error}");
        }
        let error = sandbox.error(&["diff", "./conf", "./conf"], 7);
        assert!(error.contains(&host), "{error}");
    }
    sandbox.write("store/host.yaml", "pipeline: pushed\nlimits: {entries: 5, bytes: 1KiB, depth: 2}\n");
    sandbox.run(&["push", "conf"], 0);
}
