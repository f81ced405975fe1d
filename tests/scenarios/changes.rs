//! K1 to K13: what a change starts and whom it tells, and what is no change.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::common::actor::{Part, Stage, Starts, starts};
use crate::common::{PATIENCE, end, signal_to};
use crate::{activate, all_right, one_set, verdict};
use rustix::process::Signal;
use serde_json::Value;

const SETTINGS: &str = "views: [x]\ntls: {cert: c}\nrundir: /r\nthreads: 4\n";

/// What the activation of a generation that differs like this starts, and whether all processes stay.
fn change(stage: &Stage, name: &str, part: Part<'_>) -> (Starts, bool) {
    let id = stage.push(name, part);
    let (mark, before) = (stage.mark(), stage.sandbox.workers());
    activate(stage, &id);
    let after = stage.sandbox.workers();
    let stays = before == after;
    assert!(
        stays || !before.values().any(|old| after.values().any(|new| old == new)),
        "only some are replaced"
    );
    (stage.since(mark), stays)
}

fn told() -> Starts {
    starts([("check", 1), ("canary", 1), ("tell", 2)])
}

fn replaced() -> Starts {
    starts([("check", 1), ("canary", 1), ("worker", 2)])
}

#[test]
fn k1_a_cold_start_goes_by_loader_check_canary_and_workers_and_is_good_when_they_answer() {
    let stage = Stage::new();
    let one = stage.push("one", Part::default());
    let outcome = activate(&stage, &one);
    for _ in 0..20 {
        assert_eq!(stage.answer(), "one a");
    }
    let log = stage.log();
    let kinds: Vec<&str> = log.iter().map(|[kind, ..]| kind.as_str()).collect();
    assert_eq!(kinds, ["loader", "check", "canary", "worker", "worker"]);
    assert!(log.iter().all(|[_, generation, ..]| *generation == one), "{log:?}");
    assert_eq!(
        log.iter().map(|[_, _, instance, _]| instance.as_str()).collect::<Vec<_>>(),
        ["-", "-", "0", "1", "2"]
    );
    let steps = outcome["steps"].as_array().unwrap();
    assert!(steps.iter().all(|step| step["result"] == "ok" || step["result"] == "skipped"), "{outcome:#}");
    one_set(&stage);
}

#[test]
fn k2_the_same_generation_again_touches_no_process_unless_it_is_forced() {
    let stage = Stage::with(Part::default());
    let one = stage.sandbox.current().unwrap();
    let (mark, before) = (stage.mark(), stage.sandbox.workers());
    assert_eq!(stage.push("again", Part::default()), one);
    for args in [["activate", &one], ["activate", "@"], ["deploy", "again"]] {
        let outcome = stage.sandbox.json(&args, 0);
        assert_eq!(
            (&outcome["verdict"], &outcome["changed"]),
            (&"unchanged".into(), &false.into()),
            "{outcome:#}"
        );
    }
    assert_eq!((stage.sandbox.workers(), stage.since(mark)), (before.clone(), starts([])));
    let load = stage.load(&["one a"]);
    assert_eq!(stage.sandbox.json(&["activate", &one, "--force"], 0)["verdict"], "good");
    all_right(&load.end());
    let after = stage.sandbox.workers();
    assert!(after.len() == 2 && after.iter().all(|(slot, process)| before[slot] != *process));
    assert_eq!(stage.since(mark), replaced());
    one_set(&stage);
}

#[test]
fn k3_the_stages_run_again_on_what_is_in_force_when_somebody_asks() {
    let mut stage = Stage::with(Part::default());
    let before = stage.sandbox.workers();
    let mark = stage.mark();
    // HUP asks for `activate @`
    let manager = u32::try_from(stage.sandbox.status()["manager"]["pid"].as_u64().unwrap()).unwrap();
    signal_to(manager, Signal::HUP);
    let status = stage.sandbox.wait("its verdict", |status| status["last"]["event"] == 2);
    assert_eq!(status["last"]["verdict"], "unchanged");
    assert_eq!((stage.sandbox.workers(), stage.since(mark)), (before.clone(), starts([])));
    assert_eq!(stage.sandbox.json(&["restart"], 0)["verdict"], "good");
    let again = stage.sandbox.workers();
    assert!(again.len() == 2 && again.iter().all(|(slot, process)| before[slot] != *process));
    assert_eq!(stage.since(mark), starts([("check", 1), ("worker", 2)]), "the canary has passed");
    let mark = stage.mark();
    assert_eq!(stage.sandbox.json(&["activate", "@", "--force"], 0)["verdict"], "good");
    assert_eq!(stage.since(mark), replaced(), "sealed output of the loader is used again");
    // output that is gone is made again
    let mark = stage.mark();
    stage.sandbox.end_manager(Signal::TERM);
    for output in std::fs::read_dir(stage.sandbox.path("store/loaded")).unwrap().flatten() {
        std::process::Command::new("chmod").args(["-R", "u+w"]).arg(output.path()).status().unwrap();
        std::fs::remove_dir_all(output.path()).unwrap();
    }
    stage.sandbox.start_manager();
    assert_eq!(stage.sandbox.json(&["activate", "@", "--force"], 0)["verdict"], "good");
    assert_eq!(stage.since(mark).get("loader"), Some(&1));
    assert_eq!(stage.answer(), "one a");
}

/// How many workers are ready, and how many are there and do not leave.
fn counted(status: &Value) -> (usize, usize) {
    let all = status["workers"].as_array().unwrap();
    let count = |state: fn(&Value) -> bool| all.iter().filter(|worker| state(&worker["state"])).count();
    (count(|state| state == "ready"), count(|state| state != "draining"))
}

#[test]
fn k4_on_the_way_to_five_there_are_never_fewer_than_before_nor_more_than_six() {
    let stage = Stage::with(Part::default());
    let gates = [1, 2, 3, 4, 5].map(|instance| stage.sandbox.write(&format!("gate{instance}"), ""));
    let plays =
        gates.iter().zip(1..).map(|(gate, instance)| format!("{instance} waits {}\n", gate.display()));
    let plays = plays.collect::<String>();
    let five = Part { plays: &plays, instances: 5, start_timeout: "60s", ..Part::default() };
    let five = stage.push("five", five);
    let (mark, load, done) = (stage.mark(), stage.load(&["one a"]), AtomicBool::new(false));
    let asked = stage.sandbox.background(&["activate", &five]);
    let (steps, seen) = std::thread::scope(|scope| {
        let watcher = scope.spawn(|| {
            let mut seen = Vec::new();
            while !done.load(Ordering::Relaxed) {
                seen.push(counted(&stage.sandbox.status()));
            }
            seen
        });
        // each is held while it starts, so that every step is seen
        let steps = gates.iter().zip(1..).map_while(|(gate, instance)| {
            let starts = |worker: &Value| worker["state"] == "starting" && worker["instance"] == instance;
            let begun = Instant::now();
            let status = loop {
                let status = stage.sandbox.status();
                if status["workers"].as_array().unwrap().iter().any(starts) {
                    break status;
                }
                if begun.elapsed() > PATIENCE {
                    return None;
                }
            };
            std::fs::remove_file(gate).unwrap();
            Some(counted(&status))
        });
        let steps: Vec<_> = steps.collect();
        done.store(true, Ordering::Relaxed);
        (steps, watcher.join().unwrap())
    });
    end(asked, 0);
    all_right(&load.end());
    assert_eq!(steps, [(2, 3), (2, 3), (2, 3), (3, 4), (4, 5)]);
    assert!(seen.iter().all(|(ready, present)| *ready >= 2 && *present <= 6), "{seen:?}");
    assert_eq!(stage.since(mark), starts([("check", 1), ("canary", 1), ("worker", 5)]));
    one_set(&stage);
    assert_eq!(stage.alive().len(), 5);
}

#[test]
fn k5_the_id_in_the_status_is_what_a_change_may_insist_on() {
    let stage = Stage::with(Part::default());
    let seen = stage.sandbox.status()["current"].as_str().unwrap().to_owned();
    let (two, three) = (
        stage.push("two", Part { rules: "b", ..Part::default() }),
        stage.push("three", Part { rules: "c", ..Part::default() }),
    );
    let by = |id: &str, code: i32| stage.sandbox.json(&["activate", id, "--if-current", &seen], code);
    assert_eq!(by(&two, 0)["verdict"], "good");
    assert_eq!(stage.sandbox.status()["current"], two.as_str());
    let (mark, before) = (stage.mark(), stage.sandbox.workers());
    let refused = by(&three, 7);
    assert_eq!(verdict(&refused), ("refused", "preflight"), "{refused:#}");
    assert!(refused["reason"].as_str().unwrap().contains(&seen[..8]), "{refused:#}");
    assert_eq!(
        (stage.since(mark), stage.sandbox.workers(), stage.answer()),
        (starts([]), before, "one b".into())
    );
    assert_eq!(stage.sandbox.current(), Some(two));
}

#[test]
fn k6_workers_are_told_exactly_where_nothing_differs_but_what_they_can_be_told() {
    let stage = Stage::with(Part::default());
    let tls = SETTINGS.replace("cert: c", "cert: d");
    let part = Part { settings: &tls, ..Part::default() };
    assert_eq!(change(&stage, "tls", part), (told(), true));
    // the same again
    let mark = stage.mark();
    assert_eq!(stage.sandbox.json(&["deploy", "tls"], 0)["verdict"], "unchanged");
    assert_eq!(stage.since(mark), starts([]));
    // with something else
    let both = SETTINGS.replace("cert: c", "cert: e").replace("threads: 4", "threads: 8");
    assert_eq!(change(&stage, "both", Part { settings: &both, ..Part::default() }), (replaced(), false));
    // something else alone
    let other = both.replace("threads: 8", "threads: 16");
    assert_eq!(change(&stage, "other", Part { settings: &other, ..Part::default() }), (replaced(), false));
    // and back to what they can be told
    let last = other.replace("cert: e", "cert: f");
    assert_eq!(change(&stage, "last", Part { settings: &last, ..Part::default() }), (told(), true));
}

#[test]
fn k8_rules_of_a_new_generation_mean_the_loader_and_a_word_to_the_workers() {
    let part = Part { start_timeout: "8s", ..Part::default() };
    let stage = Stage::with(part);
    let load = stage.load(&["one a", "one b"]);
    let mut loaded = told();
    loaded.insert("loader".to_owned(), 1);
    assert_eq!(change(&stage, "two", Part { rules: "b", ..part }), (loaded.clone(), true));
    load.expect(&["one b"]);
    load.more(50);
    // one that does not take it is replaced, and nobody else
    loaded.insert("worker".to_owned(), 1);
    for (plays, rules, answers) in
        [("2 reload-no", "c", ["one b", "one c"]), ("2 reload-hangs", "d", ["one c", "one d"])]
    {
        stage.sandbox.write(&format!("{rules}/rules/behaviour"), plays);
        let next = stage.push(rules, Part { rules, ..part });
        let (mark, before) = (stage.mark(), stage.sandbox.workers());
        load.expect(&answers);
        activate(&stage, &next);
        one_set(&stage);
        load.expect(&answers[1..]);
        load.more(50);
        let after = stage.sandbox.workers();
        assert_eq!(before["worker/1"], after["worker/1"]);
        assert_ne!(before["worker/2"], after["worker/2"]);
        assert_eq!(stage.since(mark), loaded);
    }
    all_right(&load.end());
}

#[test]
fn k10_a_section_is_what_it_says_and_not_how_it_is_written() {
    let stage = Stage::with(Part::default());
    let loaded = || {
        let mut loaded = told();
        loaded.insert("loader".to_owned(), 1);
        loaded
    };
    let views = SETTINGS.replace("[x]", "[y]");
    assert_eq!(change(&stage, "views", Part { settings: &views, ..Part::default() }), (loaded(), true));
    // comments, another order of keys, another way to write a list: nothing that anybody would load
    let written = "# by hand\nthreads: 4 # four\nrundir: \"/r\"\ntls:\n  cert: c\nviews:\n  - y\n";
    assert_eq!(change(&stage, "written", Part { settings: written, ..Part::default() }), (told(), true));
    // another section of the same file
    let other = format!("{written}more: 1\n");
    assert_eq!(change(&stage, "other", Part { settings: &other, ..Part::default() }), (replaced(), false));
}

/// How many connections wait at a port that nobody has accepted.
fn queued(port: u16) -> usize {
    crate::common::tcp::listening(port)[0].queued
}

#[test]
fn k12_whoever_waits_in_the_queue_is_answered_by_those_that_stay() {
    let stage = Stage::with(Part { instances: 1, ..Part::default() });
    let closed = stage.sandbox.write("closed", "");
    let plays = format!("workers accepts-not {}", closed.display());
    let part = Part { plays: &plays, ..Part::default() };
    activate(&stage, &stage.push("eight", Part { instances: 8, ..part }));
    one_set(&stage);
    let clients: Vec<TcpStream> = (0..60)
        .map(|_| {
            let mut client = TcpStream::connect(stage.address()).unwrap();
            client.set_read_timeout(Some(PATIENCE)).unwrap();
            client.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
            client
        })
        .collect();
    assert_eq!(queued(stage.port), 60);
    activate(&stage, &stage.push("four", Part { instances: 4, ..part }));
    one_set(&stage);
    assert_eq!((stage.alive().len(), queued(stage.port)), (4, 60));
    std::fs::remove_file(closed).unwrap();
    for mut client in clients {
        let mut answer = String::new();
        client.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200") && answer.ends_with("one a"), "{answer}");
    }
}

#[test]
fn k13_without_a_manager_all_serve_on_and_the_next_one_hears_what_is_asked() {
    let mut stage = Stage::with(Part { instances: 3, ..Part::default() });
    let before = stage.sandbox.workers();
    let (mark, load) = (stage.mark(), stage.load(&["one a"]));
    stage.sandbox.end_manager(Signal::KILL);
    load.more(200);
    assert_eq!(stage.sandbox.workers(), before);
    stage.sandbox.start_manager();
    load.more(200);
    assert_eq!((stage.sandbox.workers(), stage.since(mark)), (before.clone(), starts([])));
    load.expect(&["one a", "one b"]);
    activate(&stage, &stage.push("two", Part { rules: "b", instances: 3, ..Part::default() }));
    assert_eq!(stage.sandbox.workers(), before);
    load.expect(&["one b", "three b"]);
    activate(
        &stage,
        &stage.push("three", Part { marker: "three", rules: "b", instances: 3, ..Part::default() }),
    );
    all_right(&load.end());
    assert!(stage.sandbox.workers().iter().all(|(slot, process)| before[slot] != *process));
    one_set(&stage);
}
