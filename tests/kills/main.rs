//! Manager, supervisor and holder are killed, each alone and any of them together, in every order and at once: W8, W13
//! and W37 of `spec/workers.md`, A9 and A10 of `spec/activation.md`. Run by whoever may look into the workers, as the
//! supervisor's user may, and root (`tests/unprivileged.rs` has what is not to be had otherwise).
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr, unreachable_pub)]

#[path = "../common/mod.rs"]
mod common;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Child;
use std::time::{Duration, Instant};

use common::actor::{Part, Stage, starts};
use common::load::Load;
use common::{PATIENCE, PROGRAM, Process, process, signal_to, until};
use rustix::process::Signal;
use serde_json::Value;

/// Our processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Daemon {
    Manager,
    Supervisor,
    Holder,
}
use Daemon::{Holder, Manager, Supervisor};

/// Each of them, every two and all three, in every order.
const ORDERS: [&[Daemon]; 15] = [
    &[Manager],
    &[Supervisor],
    &[Holder],
    &[Manager, Supervisor],
    &[Supervisor, Manager],
    &[Manager, Holder],
    &[Holder, Manager],
    &[Supervisor, Holder],
    &[Holder, Supervisor],
    &[Manager, Supervisor, Holder],
    &[Manager, Holder, Supervisor],
    &[Supervisor, Manager, Holder],
    &[Supervisor, Holder, Manager],
    &[Holder, Manager, Supervisor],
    &[Holder, Supervisor, Manager],
];

/// Those that are killed at once, before anybody is gone.
const TOGETHER: [&[Daemon]; 4] =
    [&[Manager, Supervisor], &[Manager, Holder], &[Supervisor, Holder], &[Manager, Supervisor, Holder]];

/// Every way: who is killed, and whether at once.
fn ways() -> impl Iterator<Item = (&'static [Daemon], bool)> {
    ORDERS.into_iter().map(|order| (order, false)).chain(TOGETHER.into_iter().map(|all| (all, true)))
}

/// What each answer has the workers write: half a hundred of them are 1 MiB.
const MUTTERS: &str = "workers mutters 20000";
/// So many answers at least are awaited at each stop.
const ANSWERS: usize = 60;

/// The actors, under load.
struct Theatre {
    stage: Stage,
    load: Load,
    /// what answers may be of: what is in force, and what comes
    markers: Vec<String>,
    count: usize,
    /// the sockets that clients come to
    bound: BTreeSet<u64>,
    /// what was started in place of something killed
    started: Vec<Child>,
}

/// Clients that leave something of the machine to others.
fn clients(stage: &Stage, right: &[&str]) -> Load {
    Load::resting(2, Duration::from_millis(2), stage.address(), right)
}

impl Theatre {
    fn new() -> Theatre {
        let mut sandbox = common::Sandbox::new();
        // each kill is an error of the watchdog's
        sandbox.write("store/host.yaml", "pipeline: pushed\nwatchdog: {max_errors: 1000000}\n");
        sandbox.start_manager();
        let stage = Stage { sandbox, port: common::nginx::port() };
        let first = stage.push("m0", Part { marker: "m0", plays: MUTTERS, ..Part::default() });
        stage.sandbox.run(&["activate", &first], 0);
        let load = clients(&stage, &["m0 a"]);
        let markers = vec!["m0".to_owned()];
        let mut theatre =
            Theatre { stage, load, markers, count: 0, bound: BTreeSet::new(), started: Vec::new() };
        theatre.bound = theatre.sockets();
        assert_eq!(theatre.bound.len(), 1);
        theatre
    }

    /// Pushes another generation that its workers play with these lines, too; its marker and its id.
    fn push(&mut self, plays: &str) -> (String, String) {
        self.count += 1;
        let marker = format!("m{}", self.count);
        let plays = format!("{MUTTERS}\n{plays}");
        let part = Part { marker: &marker, plays: &plays, start_timeout: "120s", ..Part::default() };
        (marker.clone(), self.stage.push(&marker, part))
    }

    fn pid(&self, which: Daemon) -> Option<u32> {
        let word = match which {
            Manager => "manager",
            Supervisor => "supervisor",
            Holder => "holder",
        };
        let is_it = |pid: &u32| {
            let line = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            let words: Vec<&str> = line.trim_end_matches('\0').split('\0').collect();
            words[0] == PROGRAM && words.contains(&word) && process(*pid).is_some()
        };
        self.stage.sandbox.processes().into_iter().find(is_it)
    }

    /// Kills them, one after the other or all at once; everybody is served all the while, `check` says the rest.
    fn kill(&mut self, order: &[Daemon], at_once: bool, case: &str, check: impl Fn()) {
        if at_once {
            let victims: Vec<u32> = order.iter().map(|daemon| self.found(*daemon, case)).collect();
            let processes: Vec<Process> = victims.iter().filter_map(|pid| process(*pid)).collect();
            victims.iter().for_each(|pid| signal_to(*pid, Signal::KILL));
            if order.contains(&Manager) {
                self.stage.sandbox.end_manager(Signal::KILL);
            }
            until("their end", || processes.iter().all(|it| !it.is_alive()));
            self.serves(case);
            return check();
        }
        for daemon in order {
            if *daemon == Manager {
                self.stage.sandbox.end_manager(Signal::KILL);
            } else {
                let pid = self.found(*daemon, case);
                let victim = process(pid);
                signal_to(pid, Signal::KILL);
                until("its end", || victim.is_none_or(|it| !it.is_alive()));
            }
            self.serves(case);
            check();
        }
    }

    /// The process that it is: another one may be on its way.
    fn found(&self, which: Daemon, case: &str) -> u32 {
        let begun = Instant::now();
        loop {
            if let Some(pid) = self.pid(which) {
                return pid;
            }
            assert!(begun.elapsed() < PATIENCE, "{case}: there is no {which:?}");
        }
    }

    /// Clients are answered, there was none that was not, and the socket that they come to is the same one.
    fn serves(&self, case: &str) {
        let (first, begun) = (self.load.requests(), Instant::now());
        while self.load.requests() < first + ANSWERS {
            assert!(begun.elapsed() < PATIENCE, "{case}: the clients get no answers");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.load.failures(), Vec::<String>::new(), "{case}");
        assert_eq!(self.sockets(), self.bound, "{case}: another socket was bound");
    }

    /// The sockets that listen for clients, by inode.
    fn sockets(&self) -> BTreeSet<u64> {
        common::tcp::listening(self.stage.port).into_iter().map(|socket| socket.inode).collect()
    }

    /// Clients who have lost nothing so far.
    fn forgive(&mut self) {
        let none = Load::resting(0, Duration::ZERO, self.stage.address(), &[]);
        std::mem::replace(&mut self.load, none).end();
        let right: Vec<String> = self.markers.iter().map(|marker| format!("{marker} a")).collect();
        self.load = clients(&self.stage, &right.iter().map(String::as_str).collect::<Vec<_>>());
        self.bound = self.sockets();
    }

    /// Has everybody back, as a service manager does.
    fn restart(&mut self, case: &str) {
        if self.stage.sandbox.manager().is_none() {
            self.stage.sandbox.spawn_manager();
        } else if self.pid(Supervisor).is_none() {
            let log = self.stage.sandbox.log("supervisor.log");
            let mut command = self.stage.sandbox.command(&["supervisor"]);
            self.started.push(command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap());
        }
        self.stage.sandbox.wait(&format!("{case}: a supervisor"), |status| {
            status["manager"]["pid"].is_u64() && status["supervisor"].is_u64()
        });
        until("a holder", || self.pid(Holder).is_some());
    }

    /// Waits until nothing is going on: two workers, which are all that play.
    fn quiet(&mut self, case: &str) -> BTreeMap<String, Process> {
        let status = self.stage.sandbox.wait(&format!("{case}: both workers are well"), |status| {
            let list = status["workers"].as_array().unwrap();
            let on_it = list.iter().all(|worker| worker["generation"] == status["current"]);
            status["activation"].is_null() && list.len() == 2 && on_it && common::workers(status).len() == 2
        });
        let workers = common::workers(&status);
        let mut known: Vec<_> = workers.values().copied().collect();
        known.sort();
        let begun = Instant::now();
        while self.stage.alive().len() > 2 {
            let who = |process: &Process| {
                let file =
                    |name: &str| std::fs::read(format!("/proc/{}/{name}", process.pid)).unwrap_or_default();
                String::from_utf8_lossy(&[file("cmdline"), file("status"), file("environ")].concat())
                    .replace('\0', " ")
            };
            let all: Vec<String> = self.stage.alive().iter().map(who).collect();
            assert!(begun.elapsed() < PATIENCE, "{case}: others live on\n{}\n{status:#}", all.join("\n\n"));
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(self.stage.alive(), known, "{case}: one set");
        self.started.retain_mut(|child| child.try_wait().unwrap().is_none());
        self.stage.sandbox.nothing_left_over(case);
        workers
    }

    /// From now on answers may be of these.
    fn expect(&mut self, markers: &[&str]) {
        self.markers = markers.iter().map(ToString::to_string).collect();
        let right: Vec<String> = self.markers.iter().map(|marker| format!("{marker} a")).collect();
        self.load.expect(&right.iter().map(String::as_str).collect::<Vec<_>>());
    }

    /// Everything is done and answered by `marker` from now on.
    fn on(&mut self, marker: &str, case: &str) {
        self.expect(&[marker]);
        self.serves(case);
    }

    /// The next activation is carried out, with every worker replaced.
    fn works(&mut self, case: &str) {
        let before = self.quiet(case);
        let (marker, id) = self.push("");
        let mark = self.stage.mark();
        self.expect(&[&self.markers[0].clone(), &marker]);
        let outcome = self.stage.sandbox.json(&["activate", &id], 0);
        assert_eq!(outcome["verdict"], "good", "{case}: {outcome:#}");
        let after = self.quiet(case);
        assert!(before.values().all(|old| !after.values().any(|new| new == old)), "{case}");
        let expected = starts([("check", 1), ("canary", 1), ("worker", 2)]);
        assert_eq!(self.stage.since(mark), expected, "{case}");
        self.on(&marker, case);
    }
}

#[test]
fn w8_w13_w37_at_rest_whoever_is_killed_costs_nobody_a_process_or_a_request() {
    let mut theatre = Theatre::new();
    for (order, at_once) in ways() {
        let case = format!("{order:?}, at once: {at_once}");
        let (before, mark) = (theatre.quiet(&case), theatre.stage.mark());
        theatre.kill(order, at_once, &case, || {});
        theatre.restart(&case);
        assert_eq!(theatre.quiet(&case), before, "{case}: adopted");
        theatre.serves(&case);
        assert_eq!(theatre.stage.since(mark), starts([]), "{case}: nothing was started");
        theatre.works(&case);
    }
}

/// An activation that is held at the start of its second worker.
struct Held {
    file: PathBuf,
    marker: String,
    id: String,
    event: u64,
}

impl Theatre {
    fn hold(&mut self, case: &str) -> Held {
        let file = self.stage.sandbox.write("held", "");
        let (marker, id) = self.push(&format!("2 waits {}", file.display()));
        let mark = self.stage.mark();
        self.expect(&[&self.markers[0].clone(), &marker]);
        let asked = self.stage.sandbox.json(&["activate", "--no-wait", &id], 0);
        until(case, || self.stage.since(mark).get("worker") == Some(&2));
        Held { file, marker, id, event: asked["event"].as_u64().unwrap() }
    }

    fn verdict(&self, event: u64) -> Value {
        let path = self.stage.sandbox.path(&format!("store/events/{event}.outcome.json"));
        until("the verdict", || path.exists());
        serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
    }
}

#[test]
fn a10_w8_w13_w37_in_a_replacement_whoever_is_killed_costs_nobody_a_request_and_it_is_carried_out() {
    let mut theatre = Theatre::new();
    for (order, at_once) in ways() {
        let case = format!("held, {order:?}, at once: {at_once}");
        let before = theatre.quiet(&case);
        let held = theatre.hold(&case);
        let midway = theatre.stage.sandbox.workers();
        assert_eq!(midway.len(), 2, "{case}");
        assert!(
            midway["worker/1"] != before["worker/1"] && midway["worker/2"] == before["worker/2"],
            "{case}"
        );
        let alive = || assert!(midway.values().all(|process| process.is_alive()), "{case}");
        theatre.kill(order, at_once, &case, alive);
        theatre.restart(&case);
        theatre.serves(&case);
        alive();
        std::fs::remove_file(&held.file).unwrap();
        let outcome = theatre.verdict(held.event);
        assert_eq!(outcome["verdict"], "good", "{case}: {outcome:#}");
        let after = theatre.quiet(&case);
        assert_eq!(theatre.stage.sandbox.current(), Some(held.id), "{case}");
        assert_eq!(after["worker/1"], midway["worker/1"], "{case}: it was replaced already");
        assert_ne!(after["worker/2"], before["worker/2"], "{case}");
        theatre.on(&held.marker, &case);
        theatre.works(&case);
    }
}

#[test]
fn a9_where_everything_is_killed_at_once_the_next_manager_starts_what_is_in_force() {
    let mut theatre = Theatre::new();
    for held in [false, true] {
        let case = format!("held: {held}");
        let activation = held.then(|| theatre.hold(&case));
        let load = std::mem::replace(
            &mut theatre.load,
            Load::resting(0, Duration::ZERO, theatre.stage.address(), &[]),
        );
        assert_eq!(load.end().failures, Vec::<String>::new(), "{case}");
        theatre.stage.sandbox.kill_everything();
        assert_eq!(theatre.stage.alive(), [], "{case}");
        if let Some(held) = &activation {
            std::fs::remove_file(&held.file).unwrap();
        }
        let current = theatre.stage.sandbox.current();
        let mark = theatre.stage.mark();
        theatre.stage.sandbox.start_manager();
        let serving = theatre.quiet(&case);
        assert_eq!(serving.len(), 2, "{case}");
        if let Some(held) = activation {
            theatre.verdict(held.event);
        } else {
            assert_eq!(theatre.stage.sandbox.current(), current, "{case}");
        }
        assert!(theatre.stage.since(mark)["worker"] >= 2, "{case}");
        let answer = theatre.stage.answer();
        let (marker, _) = answer.split_once(' ').unwrap();
        theatre.markers = vec![marker.to_owned()];
        theatre.forgive();
        theatre.works(&case);
    }
}
