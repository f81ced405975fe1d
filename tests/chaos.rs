//! Whatever comes, in any order: good changes and bad ones of every kind, rollbacks, restarts, reloads, kills of
//! manager, supervisor and holder. Clients are served all the time, `current` always resolves, every event has one
//! verdict, nothing is left over. Rules A1, A8 and A10 of `spec/activation.md`, W13 of `spec/workers.md`.
//!
//! 30 seconds of a seed that is printed; `scripts/chaos SECONDS SEED` runs it for longer, or once more.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr, unreachable_pub)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant, SystemTime};

use common::load::{Load, get};
use common::nginx::{address, port};
use common::{PATIENCE, Sandbox, example, process, signal_to, workers};
use rustix::process::Signal;
use serde_json::Value;

/// Ways of being bad: what the actor plays, and another word of the pipeline. None of them takes a connection that
/// it does not answer: that would be its own failure, not ours.
const BAD: [(&str, &str, &str, &str); 10] = [
    ("the check fails", "check fails 3", "", ""),
    ("the loader fails", "loader fails 4", "", ""),
    ("the loader hangs", "loader hangs", "timeout: 30s", "timeout: 500ms"),
    ("the canary dies", "canary fails 5", "", ""),
    ("the workers exit at their start", "workers fails 6", "", ""),
    ("never ready", "workers hangs", "start_timeout: 30s", "start_timeout: 500ms"),
    ("ready, and dies", "workers ready-then-dies 8\nall accepts-not GATE", "", ""),
    ("dies in probation", "1 crashes 100\nall accepts-not GATE", "", ""),
    ("the second instance fails", "2 fails 9", "", ""),
    ("the program is not there", "", "command: [ACTOR, worker", "command: [/nowhere/ACTOR, worker"),
];

/// The same numbers for the same seed.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        // splitmix64
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        usize::try_from((z ^ (z >> 31)) % sides as u64).unwrap()
    }
}

/// What was done, told where something is wrong.
struct Diary {
    seed: u64,
    begun: Instant,
    lines: Vec<String>,
}

impl Diary {
    fn note(&mut self, line: impl Into<String>) {
        let at = self.begun.elapsed().as_secs_f64();
        self.lines.push(format!("{at:8.3} {}", line.into()));
    }
}

impl Drop for Diary {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("seed {}; what was done:\n{}", self.seed, self.lines.join("\n"));
        }
    }
}

struct Chaos {
    sandbox: Sandbox,
    load: Load,
    port: u16,
    dice: Dice,
    diary: Diary,
    /// what was pushed, and is worth asking for again
    pushed: Vec<String>,
    /// every answer that is right
    bodies: Vec<String>,
    marker: usize,
    rules: usize,
    /// commands under way, and what they are
    asked: Vec<(String, Child)>,
    /// what was started in place of something killed
    started: Vec<Child>,
    supervisor: u32,
    holder: u32,
    kills: BTreeMap<&'static str, usize>,
}

impl Chaos {
    fn new(seed: u64) -> Chaos {
        let mut sandbox = Sandbox::new();
        // a manager whose supervisor is killed more than twice in half an hour would give up
        let host = std::fs::read_to_string(sandbox.path("store/host.yaml")).unwrap();
        sandbox.write("store/host.yaml", &format!("{host}watchdog: {{max_errors: 1000000}}\n"));
        sandbox.write("gate", "");
        sandbox.start_manager();
        let port = port();
        let mut chaos = Chaos {
            load: Load::resting(0, Duration::ZERO, address(port), &[]),
            port,
            dice: Dice(seed),
            diary: Diary { seed, begun: Instant::now(), lines: Vec::new() },
            pushed: Vec::new(),
            bodies: Vec::new(),
            marker: 0,
            rules: 0,
            asked: Vec::new(),
            started: Vec::new(),
            supervisor: 0,
            holder: 0,
            kills: BTreeMap::new(),
            sandbox,
        };
        let first = chaos.push(None, false).unwrap();
        chaos.sandbox.run(&["activate", &first], 0);
        let right: Vec<&str> = chaos.bodies.iter().map(String::as_str).collect();
        chaos.load = Load::resting(2, Duration::from_millis(2), address(port), &right);
        chaos.know_daemons();
        chaos
    }

    /// Writes and pushes a generation; `None` where the push itself is refused.
    fn push(&mut self, bad: Option<usize>, rules_only: bool) -> Option<String> {
        self.rules += 1;
        self.marker += usize::from(!rules_only);
        let (_, plays, word, other) = bad.and_then(|bad| BAD.get(bad)).copied().unwrap_or_default();
        let gate = self.sandbox.path("gate").display().to_string();
        let plays = plays.replace("GATE", &gate);
        let (log, port) = (self.sandbox.path("starts").display().to_string(), self.port);
        let pipeline = format!(
            "version: 1\nloader: {{command: [ACTOR, load, {log}, \"{{loaded}}\"], if_changed: [\"rules/**\"], timeout: 30s}}\n\
             check: [ACTOR, check, {log}]\ncanary: {{worker: web, probe: {{http: \"http://{{addr:http}}/\"}}}}\n\
             probation: 300ms\nworkers:\n  web:\n    command: [ACTOR, worker, {log}]\n    instances: 2\n    \
             listen: {{http: \"tcp://127.0.0.1:{port}\"}}\n    ready: notify\n    start_timeout: 30s\n    \
             grace_shutdown_time: 20s\n    reload: {{if_only: [\"rules/**\"], command: [ACTOR, tell, {log}]}}\n"
        );
        // the canary is asked, so it answers also where the workers do not
        let probe = if plays.contains("accepts-not") { "probe: {command: \"true\"}" } else { "" };
        let pipeline = match probe {
            "" => pipeline,
            probe => pipeline.replace("probe: {http: \"http://{addr:http}/\"}", probe),
        };
        let broken = bad == Some(BAD.len());
        let pipeline = if broken { pipeline + "nonsense: 1\n" } else { pipeline };
        let pipeline =
            pipeline.replace(word, other).replace("ACTOR", &example("actor").display().to_string());
        self.sandbox.write("conf/pointsman.yaml", &pipeline);
        self.sandbox.write("conf/marker", &format!("m{}", self.marker));
        self.sandbox.write("conf/rules/a", &format!("r{}", self.rules));
        self.sandbox.write("conf/behaviour", &plays);
        if broken {
            self.sandbox.run(&["push", "conf"], 7);
            return None;
        }
        self.bodies.push(format!("m{} r{}", self.marker, self.rules));
        let right: Vec<&str> = self.bodies.iter().map(String::as_str).collect();
        self.load.expect(&right);
        Some(self.sandbox.run(&["push", "conf"], 0))
    }

    /// Begins a command.
    fn ask(&mut self, args: &[&str]) {
        self.diary.note(format!("asks: {}", args.join(" ")));
        let mut command = self.sandbox.command(&[&["--json"], args].concat());
        let log = self.sandbox.log("callers.log");
        let child = command.stdout(Stdio::piped()).stderr(log).spawn().unwrap();
        self.asked.push((args.join(" "), child));
    }

    /// One request, of any kind.
    fn request(&mut self) {
        match self.dice.roll(12) {
            0..=5 => {
                let bad = (self.dice.roll(3) == 0).then(|| self.dice.roll(BAD.len() + 1));
                let rules_only = bad.is_none() && self.dice.roll(3) == 0;
                let what = bad.map_or(if rules_only { "rules" } else { "good" }, |bad| {
                    BAD.get(bad).map_or("the pipeline is broken", |bad| bad.0)
                });
                self.diary.note(format!("pushes: {what}"));
                let Some(id) = self.push(bad, rules_only) else { return };
                if bad.is_none() {
                    self.pushed.push(id.clone());
                }
                self.ask(&["activate", &id]);
            }
            6 => {
                let Some(id) = self.any_pushed() else { return };
                let force = self.dice.roll(2) == 0;
                let args: &[&str] = if force { &["activate", "--force", &id] } else { &["activate", &id] };
                self.ask(args);
            }
            7 | 8 => self.ask(&["rollback"]),
            9 => {
                let Some(id) = self.any_pushed() else { return };
                self.ask(&["rollback", &id]);
            }
            10 => self.ask(&["restart"]),
            _ => {
                self.diary.note("HUP to the manager");
                if let Some(pid) = self.sandbox.manager() {
                    signal_to(pid, Signal::HUP);
                }
            }
        }
    }

    fn any_pushed(&mut self) -> Option<String> {
        let recent = self.pushed.len().saturating_sub(8);
        let choice = self.dice.roll((self.pushed.len() - recent).max(1));
        self.pushed.get(recent + choice).cloned()
    }

    /// Takes the answers of the commands that have ended; waits for all, or goes on.
    fn answers(&mut self, all: bool) {
        let begun = Instant::now();
        while !self.asked.is_empty() {
            let asked = std::mem::take(&mut self.asked);
            for (what, mut child) in asked {
                match child.try_wait().unwrap() {
                    None => self.asked.push((what, child)),
                    Some(status) => {
                        self.diary.note(format!("{what}: {status}"));
                        // 3: nothing to roll back to; 5: superseded, or nobody was there; 7: rejected, or no program
                        let known = matches!(status.code(), Some(0 | 1 | 3 | 5 | 7));
                        let output = child.wait_with_output().unwrap();
                        assert!(known, "{what}: {status}: {output:?}");
                    }
                }
            }
            if !all {
                return;
            }
            assert!(begun.elapsed() < 3 * PATIENCE, "no answer: {:?}", self.asked);
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// Kills one of our processes, and has it started again as a service manager does.
    fn kill(&mut self) {
        let pause = Duration::from_millis(self.dice.roll(300) as u64);
        let which = ["manager", "supervisor", "holder"][self.dice.roll(3)];
        self.diary.note(format!("kills the {which}, and waits {} ms", pause.as_millis()));
        *self.kills.entry(which).or_default() += 1;
        match which {
            "manager" => {
                let signal = if self.dice.roll(4) == 0 { Signal::TERM } else { Signal::KILL };
                self.sandbox.end_manager(signal);
                std::thread::sleep(pause);
                self.sandbox.spawn_manager();
            }
            "supervisor" => {
                self.end(self.supervisor);
                std::thread::sleep(pause);
                let log = self.sandbox.log("supervisor.log");
                let mut command = self.sandbox.command(&["supervisor"]);
                self.started.push(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
            }
            _ => self.end(self.holder),
        }
        // the sockets are in the supervisor and in the holder: one of them lives until the other has them again
        self.know_daemons();
        self.sandbox.status();
        self.started.retain_mut(|child| child.try_wait().unwrap().is_none());
    }

    /// Kills a process, and waits until it is gone.
    fn end(&self, pid: u32) {
        signal_to(pid, Signal::KILL);
        let begun = Instant::now();
        while process(pid).is_some() {
            assert!(begun.elapsed() < PATIENCE, "{pid} lives on");
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Waits until supervisor and holder are there, and learns who they are.
    fn know_daemons(&mut self) {
        let status = self.sandbox.wait("a supervisor", |status| status["supervisor"].is_u64());
        self.supervisor = u32::try_from(status["supervisor"].as_u64().unwrap()).unwrap();
        let begun = Instant::now();
        let is_holder = |pid: &u32| {
            let words = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            words.contains("\0holder\0") && process(*pid).is_some()
        };
        self.holder = loop {
            if let Some(pid) = self.sandbox.processes().into_iter().find(is_holder) {
                break pid;
            }
            assert!(begun.elapsed() < PATIENCE, "no holder");
            std::thread::sleep(Duration::from_millis(5));
        };
    }

    /// Waits until nothing is going on and both workers run what is in force.
    fn quiet(&mut self) {
        self.answers(true);
        self.sandbox.wait("both workers are well", |status| {
            let list = status["workers"].as_array().unwrap();
            let on_it = list.iter().all(|worker| worker["generation"] == status["current"]);
            status["activation"].is_null() && list.len() == 2 && on_it && workers(status).len() == 2
        });
        self.sandbox.nothing_left_over("all is quiet");
    }

    /// How many descriptors each of our processes has, but for those of a request that it is just answering.
    fn descriptors(&self) -> BTreeMap<String, usize> {
        let mut pids: BTreeMap<String, u32> =
            self.sandbox.workers().into_iter().map(|(slot, process)| (slot, process.pid)).collect();
        let daemons = [
            ("manager", self.sandbox.manager().unwrap()),
            ("supervisor", self.supervisor),
            ("holder", self.holder),
        ];
        pids.extend(daemons.map(|(name, pid)| (name.to_owned(), pid)));
        let count = |pid: u32| std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count();
        let mut least = BTreeMap::new();
        for _ in 0..20 {
            for (name, pid) in &pids {
                let now = count(*pid);
                let known = least.entry(name.clone()).or_insert(now);
                *known = now.min(*known);
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        least
    }

    /// A file of an event, which may have been put away.
    fn event_file(&self, number: u64, rest: &str) -> Option<Vec<u8>> {
        let places = ["events", "events/finished"].map(|place| format!("store/{place}/{number}.{rest}"));
        places.iter().find_map(|place| std::fs::read(self.sandbox.path(place)).ok())
    }

    /// Each event has one verdict, the one that it had before; none is stuck.
    fn verdicts(&self, before: &mut BTreeMap<u64, Value>) -> BTreeMap<String, usize> {
        let mut counts = BTreeMap::<String, usize>::new();
        for number in 1.. {
            let Some(_) = self.event_file(number, "json") else { return counts };
            // a manager that was asked by HUP, or mends something, asks when it likes
            let verdict = || self.event_file(number, "outcome.json").is_some();
            common::until(&format!("the verdict of event {number}"), verdict);
            let bytes = self.event_file(number, "outcome.json").unwrap();
            let outcome: Value = serde_json::from_slice(&bytes).unwrap();
            assert_ne!(outcome["verdict"], "stuck", "{outcome:#}");
            *counts.entry(outcome["verdict"].as_str().unwrap().to_owned()).or_default() += 1;
            let known = before.entry(number).or_insert_with(|| outcome.clone());
            assert_eq!(*known, outcome, "another verdict");
        }
        counts
    }
}

/// Polls `current` until it is told to stop: it leads to a whole generation each time.
fn reader(current: &Path, stop: &AtomicBool, reads: &AtomicU64) {
    while !stop.load(Ordering::Relaxed) {
        let marker = std::fs::read_to_string(current.join("marker")).expect("current resolves");
        assert!(marker.starts_with('m'), "{marker:?}");
        reads.fetch_add(1, Ordering::Relaxed);
        std::thread::sleep(Duration::from_millis(1));
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().unwrap_or_else(|_| panic!("{name}={text}")))
}

#[test]
fn a1_a8_a10_w13_whatever_comes_clients_are_served_and_every_event_has_one_verdict() {
    let clock = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    let seed = number("POINTSMAN_CHAOS_SEED").unwrap_or(clock.as_secs());
    let seconds = number("POINTSMAN_CHAOS_SECONDS").unwrap_or(30);
    eprintln!("chaos for {seconds} s, POINTSMAN_CHAOS_SEED={seed}");
    let mut chaos = Chaos::new(seed);
    let (stop, reads) = (AtomicBool::new(false), AtomicU64::new(0));
    let current = chaos.sandbox.path("store/current");
    let mut outcomes = BTreeMap::new();
    std::thread::scope(|scope| {
        let watch = scope.spawn(|| reader(&current, &stop, &reads));
        let until = Instant::now() + Duration::from_secs(seconds);
        let ended = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            while Instant::now() < until {
                round(&mut chaos, true);
                chaos.verdicts(&mut outcomes);
                assert!(!watch.is_finished(), "`current` did not resolve");
                assert_eq!(chaos.load.failures(), Vec::<String>::new());
            }
            // nobody is killed any more: what each process holds open is as it was
            chaos.know_daemons();
            let before = chaos.descriptors();
            for _ in 0..6 {
                round(&mut chaos, false);
            }
            let begun = Instant::now();
            while chaos.descriptors() != before {
                assert!(begun.elapsed() < PATIENCE, "descriptors: {before:?}, now {:?}", chaos.descriptors());
                std::thread::sleep(Duration::from_millis(20));
            }
        }));
        stop.store(true, Ordering::Relaxed);
        let read = watch.join();
        if let Err(panic) = ended {
            std::panic::resume_unwind(panic);
        }
        read.unwrap();
    });
    let counts = chaos.verdicts(&mut outcomes);
    assert_eq!(chaos.sandbox.run(&["verify"], 0), "ok");
    let body = get(address(chaos.port)).unwrap();
    assert!(chaos.bodies.contains(&body), "{body:?}");
    let seen =
        std::mem::replace(&mut chaos.load, Load::resting(0, Duration::ZERO, address(chaos.port), &[])).end();
    assert_eq!(seen.failures, Vec::<String>::new());
    eprintln!(
        "seed {seed}: {} events {counts:?}; killed {:?}; {} requests, {} readings, no failure",
        outcomes.len(),
        chaos.kills,
        seen.requests(),
        reads.load(Ordering::Relaxed)
    );
    assert!(counts.contains_key("good") && seen.requests() > 100);
}

/// One or two requests, and somebody killed on their way, or nobody.
fn round(chaos: &mut Chaos, kills: bool) {
    chaos.request();
    if chaos.dice.roll(4) == 0 {
        std::thread::sleep(Duration::from_millis(chaos.dice.roll(300) as u64));
        chaos.request();
    }
    if kills {
        for _ in 0..chaos.dice.roll(3) {
            std::thread::sleep(Duration::from_millis(chaos.dice.roll(400) as u64));
            chaos.answers(false);
            chaos.kill();
        }
    }
    chaos.quiet();
}
