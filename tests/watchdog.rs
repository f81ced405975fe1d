//! What the manager does about errors that nobody has asked for: the built program, and workers of a few lines of
//! shell. Rules A28 to A30 of `spec/activation.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::collections::BTreeMap;
use std::process::{Child, Stdio};
use std::time::{Duration, Instant};

use common::systemd::backend;
use common::{Notified, PATIENCE, PROGRAM, Process, Sandbox, signal_to, workers};
use pointsman::model::{GenerationId, How, Mark, Repair, Request, ServiceManagerChoice, Slot};
use pointsman::store::{EventDraft, Store};
use pointsman::supervise::client::Client;
use pointsman::supervise::{ServiceManager, WorkerSpec, Workers};
use rustix::process::Signal;
use serde_json::Value;

/// A manager of the sandbox whose end a test waits for.
struct Manager(Child);

impl Manager {
    /// Starts it and waits until it is at work.
    fn start(sandbox: &Sandbox) -> Manager {
        let said = Notified::new(&sandbox.path("manager.notify"));
        let mut command = sandbox.command(&["manager"]);
        command.env("NOTIFY_SOCKET", &said.path);
        let mut manager = Manager::spawn(sandbox, command);
        let log = || std::fs::read_to_string(sandbox.path("manager.log")).unwrap_or_default();
        said.until_ready(&mut manager.0, log);
        manager
    }

    fn launch(sandbox: &Sandbox) -> Manager {
        Manager::spawn(sandbox, sandbox.command(&["manager"]))
    }

    fn spawn(sandbox: &Sandbox, mut command: std::process::Command) -> Manager {
        let log = sandbox.log("manager.log");
        Manager(command.stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap())
    }

    /// Waits until it ends by itself: its exit code.
    fn ends(mut self) -> i32 {
        let begun = Instant::now();
        loop {
            if let Some(status) = self.0.try_wait().unwrap() {
                return status.code().unwrap();
            }
            assert!(begun.elapsed() < PATIENCE, "the manager does not end");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn kill(mut self) {
        self.0.kill().unwrap();
        self.0.wait().unwrap();
    }
}

/// A sandbox whose host file says this of the watchdog.
fn sandbox(watchdog: &str) -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.host(&format!("pipeline: pushed\nwatchdog: {{{watchdog}}}\n"));
    sandbox
}

/// Looks all the time, and forgives nothing.
const OFTEN: &str = "interval: 50ms, max_errors: 9, decay: 1d";

/// Pushes a generation of `instances` workers that begin with `script`.
fn push(sandbox: &Sandbox, name: &str, instances: u32, script: &str, words: &str) -> String {
    let run = sandbox.write(
        &format!("{name}/run"),
        &format!("#!/bin/sh\n{script}\necho 1 > $POINTSMAN_RUN/ready\nexec sleep 1000\n"),
    );
    std::fs::set_permissions(run, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let pipeline = format!(
        "version: 1\nprobation: 0s\nworkers:\n  web:\n    command: \"{{config}}/run\"\n    instances: {instances}\n    ready: {{file: '{{run}}/ready'}}\n    start_timeout: 5s\n{words}"
    );
    sandbox.write(&format!("{name}/pointsman.yaml"), &pipeline);
    sandbox.write(&format!("{name}/name"), name);
    sandbox.run(&["push", name], 0)
}

/// A manager, and a good generation of two workers.
fn serving(watchdog: &str, script: &str) -> (Sandbox, Manager, String) {
    let sandbox = sandbox(watchdog);
    let manager = Manager::start(&sandbox);
    let one = push(&sandbox, "one", 2, script, "");
    assert_eq!(sandbox.json(&["activate", &one], 0)["verdict"], "good");
    assert_eq!(sandbox.workers().len(), 2);
    (sandbox, manager, one)
}

/// Whoever looks after the workers. With systemd that is this process, where no manager is.
fn client(sandbox: &Sandbox) -> Box<dyn ServiceManager> {
    let run = sandbox.path("store/run");
    match backend() {
        Some(said) => {
            let choice = ServiceManagerChoice::ALL.into_iter().find(|choice| choice.to_string() == said);
            Workers::of(&run, PROGRAM.as_ref(), choice.unwrap(), true).reach().unwrap()
        }
        None => Box::new(Client::connect(&run).unwrap()),
    }
}

fn slot(instance: u32) -> Slot {
    Slot { group: "web".to_owned(), instance }
}

/// Has every slot but these forgotten, behind the manager's back.
fn forget_all_but(sandbox: &Sandbox, slots: &[Slot]) {
    client(sandbox).settle(slots).unwrap();
}

/// The same while a manager runs. With systemd it is another one afterwards: what was asked for by one process is not
/// to be changed by a second one.
fn forget_under(sandbox: &Sandbox, manager: Manager, slots: &[Slot]) -> Manager {
    if backend().is_none() {
        forget_all_but(sandbox, slots);
        return manager;
    }
    manager.kill();
    forget_all_but(sandbox, slots);
    Manager::launch(sandbox)
}

fn supervisor(status: &Value) -> u32 {
    u32::try_from(status["supervisor"].as_u64().unwrap()).unwrap()
}

/// Kills the supervisor and waits until it is gone, not even a zombie.
fn kill_supervisor(sandbox: &Sandbox) -> u32 {
    let pid = supervisor(&sandbox.status());
    signal_to(pid, Signal::KILL);
    pid
}

/// Kills the supervisor twice: after the second error, the watchdog has looked at everything since the first.
fn have_it_look(sandbox: &Sandbox) {
    for _ in 0..2 {
        let so_far = errors(&sandbox.status());
        let dead = kill_supervisor(sandbox);
        sandbox.wait("another supervisor", |status| {
            let now = status["supervisor"].as_u64();
            now.is_some_and(|pid| pid != u64::from(dead)) && errors(status) > so_far
        });
    }
}

fn errors(status: &Value) -> u64 {
    status["watchdog"]["errors"].as_u64().unwrap()
}

fn events(sandbox: &Sandbox) -> Vec<Value> {
    sandbox.json(&["history"], 0)["events"].as_array().unwrap().clone()
}

fn last(sandbox: &Sandbox) -> (Value, Value, String) {
    let last = events(sandbox).remove(0);
    let reason = last["end"]["reason"].as_str().unwrap_or_default().to_owned();
    (last["request"].clone(), last["end"]["verdict"].clone(), reason)
}

#[test]
fn a28_a_dead_supervisor_is_replaced_at_once_and_adopts_what_runs() {
    // it looks by itself after a week
    let (sandbox, manager, _) = serving("interval: 7d", "");
    let (before, history) = (sandbox.workers(), events(&sandbox).len());
    let dead = kill_supervisor(&sandbox);
    let status = sandbox.wait("another supervisor", |status| {
        status["supervisor"].as_u64().is_some_and(|pid| pid != u64::from(dead)) && errors(status) == 1
    });
    assert_eq!(workers(&status), before);
    // it does not answer, or has died before its answer
    let why = status["watchdog"]["last"]["why"].as_str().unwrap();
    assert!(why.contains("supervisor") || why.contains("looks after the workers is gone"), "{status:#}");
    assert_eq!(events(&sandbox).len(), history, "nothing is to be activated for that");
    let zombie = sandbox.path(&format!("/proc/{dead}"));
    sandbox.wait("no zombie", |_| !zombie.exists());
    // and the next one
    let next = kill_supervisor(&sandbox);
    sandbox.wait("a third supervisor", |status| {
        status["supervisor"].as_u64().is_some_and(|pid| pid != u64::from(next)) && errors(status) == 2
    });
    assert_eq!(sandbox.workers(), before);
    assert!(sandbox.run(&["status"], 0).contains("watchdog   2 errors"));
    manager.kill();
}

#[test]
fn a29_a_slot_that_is_gone_is_brought_back_by_one_repair() {
    let (sandbox, manager, one) = serving(OFTEN, "");
    let before = sandbox.workers();
    let manager = forget_under(&sandbox, manager, &[slot(1)]);
    let status = sandbox.wait("it is back", |status| {
        let now = workers(status);
        now.get("web/2").is_some_and(|now| *now != before["web/2"]) && status["activation"].is_null()
    });
    assert_eq!(workers(&status)["web/1"], before["web/1"], "what is well is left alone");
    assert_eq!((errors(&status), status["current"].as_str()), (1, Some(one.as_str())), "{status:#}");
    let (request, verdict, reason) = last(&sandbox);
    assert_eq!((request, verdict), ("start".into(), "good".into()));
    assert!(reason.starts_with("web/2 is gone; mended"), "{reason}");
    assert_eq!(events(&sandbox).len(), 2, "one repair for one error");
    manager.kill();
}

#[test]
fn a28_too_many_errors_end_the_manager_and_no_worker() {
    let (sandbox, manager, _) = serving("interval: 7d, max_errors: 1", "");
    let before = sandbox.workers();
    let dead = kill_supervisor(&sandbox);
    sandbox.wait("another supervisor", |status| {
        status["supervisor"].as_u64().is_some_and(|pid| pid != u64::from(dead)) && errors(status) == 1
    });
    kill_supervisor(&sandbox);
    assert_eq!(manager.ends(), 8);
    assert!(before.values().all(|process| process.is_alive()));
    let log = std::fs::read_to_string(sandbox.path("manager.log")).unwrap();
    assert!(log.contains("2 errors are too many") && log.contains("the workers serve on"), "{log}");
    let status = sandbox.status();
    assert!(status["watchdog"]["fatal"]["why"].as_str().unwrap().contains("2 errors"), "{status:#}");
    let advice = status["advice"].to_string();
    assert!(advice.contains("has given up: 2 errors") && advice.contains("`pointsman manager`"), "{advice}");

    // the next one takes it up, and counts on
    let manager = Manager::start(&sandbox);
    let status = sandbox.status();
    assert_eq!((errors(&status), &status["watchdog"]["fatal"]), (2, &Value::Null), "{status:#}");
    assert_eq!(workers(&status), before);
    kill_supervisor(&sandbox);
    assert_eq!(manager.ends(), 8);
    assert_eq!(errors(&sandbox.status()), 3);
    assert!(before.values().all(|process| process.is_alive()));
}

#[test]
fn a28_errors_are_forgiven_in_time() {
    let (sandbox, manager, _) = serving("interval: 7d, max_errors: 1, decay: 1ms", "");
    for _ in 0..4 {
        let dead = kill_supervisor(&sandbox);
        let other = |status: &Value| status["supervisor"].as_u64().is_some_and(|pid| pid != u64::from(dead));
        let status = sandbox.wait("another supervisor", other);
        assert!(status["watchdog"]["last"]["why"].is_string());
        sandbox.wait("it is forgiven", |status| errors(status) == 0);
    }
    manager.kill();
}

#[test]
fn a29_a_repair_that_fails_is_fatal_and_stops_nobody() {
    let sandbox = sandbox(OFTEN);
    let manager = Manager::start(&sandbox);
    let gate = sandbox.write("gate", "");
    let script = format!("[ -e {} ] || {{ echo no gate; exit 3; }}", gate.display());
    let one = push(&sandbox, "one", 2, &script, "");
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    std::fs::remove_file(gate).unwrap();
    let manager = forget_under(&sandbox, manager, &[slot(1)]);
    assert_eq!(manager.ends(), 8);
    let (request, verdict, reason) = last(&sandbox);
    assert_eq!((request, verdict), ("start".into(), "stuck".into()));
    assert!(reason.contains("no gate"), "{reason}");
    let log = std::fs::read_to_string(sandbox.path("manager.log")).unwrap();
    assert!(log.contains("the repair, event 2, is stuck"), "{log}");
    assert_eq!(workers(&sandbox.status()), BTreeMap::from([("web/1".to_owned(), before["web/1"])]));
    assert_eq!(sandbox.current(), Some(one));
}

#[test]
fn a29_a_repair_has_no_way_back_though_the_good_one_is_damaged() {
    let (sandbox, manager, _) = serving(OFTEN, "");
    let two = push(&sandbox, "two", 2, "", "");
    assert_eq!(sandbox.json(&["activate", &two], 0)["verdict"], "good");
    let before = sandbox.workers();
    let name = sandbox.path("store").join(format!("generations/{two}/tree/name"));
    std::fs::set_permissions(&name, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(name, "damaged").unwrap();
    let manager = forget_under(&sandbox, manager, &[slot(1)]);
    assert_eq!(manager.ends(), 8);
    let (request, verdict, reason) = last(&sandbox);
    assert_eq!((request, verdict), ("start".into(), "stuck".into()));
    assert!(reason.contains("tree/name"), "{reason}");
    assert_eq!(workers(&sandbox.status()), BTreeMap::from([("web/1".to_owned(), before["web/1"])]));
    assert_eq!(sandbox.current(), Some(two));
}

#[test]
fn a29_a_repair_leads_to_the_last_good_never_to_what_was_asked_for() {
    let (sandbox, manager, one) = serving(OFTEN, "");
    let bad = push(&sandbox, "bad", 2, "exit 3", "");
    assert_eq!(sandbox.json(&["activate", &bad], 1)["verdict"], "reverted");
    let manager = forget_under(&sandbox, manager, &[slot(2)]);
    let status = sandbox.wait("it is back", |status| workers(status).len() == 2);
    assert_eq!(status["current"], one.as_str());
    assert!(status["workers"].as_array().unwrap().iter().all(|w| w["generation"] == one.as_str()));

    // nothing runs any more, and the pointer is on what nobody has proven: it goes back, too
    sandbox.wait("the repair is done", |status| status["activation"].is_null());
    manager.kill();
    point_at(&sandbox, &bad);
    kill_all_workers(&sandbox);
    forget_all_but(&sandbox, &[]);
    // a worker of the last good one shows that this is no cold start
    let ill = spec(&sandbox, 2, &bad, "exit 3");
    client(&sandbox).ensure(99, &ill, false).unwrap();
    let manager = Manager::launch(&sandbox);
    let status = sandbox.wait("both are back", |status| {
        workers(status).len() == 2 && status["activation"].is_null() && status["current"] == one.as_str()
    });
    assert!(status["workers"].as_array().unwrap().iter().all(|w| w["generation"] == one.as_str()));
    manager.kill();
}

/// Moves the pointer as a person with a shell would.
fn point_at(sandbox: &Sandbox, id: &str) {
    let (link, new) = (sandbox.path("store/current"), sandbox.path("store/tmp/by-hand"));
    std::os::unix::fs::symlink(format!("generations/{id}/tree"), &new).unwrap();
    std::fs::rename(new, link).unwrap();
}

fn kill_all_workers(sandbox: &Sandbox) {
    for process in sandbox.workers().values() {
        signal_to(process.pid, Signal::KILL);
    }
}

/// A worker as the supervisor is told of it.
fn spec(sandbox: &Sandbox, instance: u32, id: &str, script: &str) -> WorkerSpec {
    let config = sandbox.path(&format!("store/generations/{id}/tree"));
    common::spec::worker(instance, id.parse().unwrap(), config, script)
}

#[test]
fn a29_drift_is_shown_and_left_alone() {
    let (sandbox, manager, one) = serving(OFTEN, "");
    let before = sandbox.workers();
    let two = push(&sandbox, "two", 1, "", "");
    point_at(&sandbox, &two);
    have_it_look(&sandbox);
    let status = sandbox.status();
    assert!(status["advice"].to_string().contains("drift"), "{status:#}");
    assert_eq!((workers(&status), events(&sandbox).len()), (before.clone(), 1));
    // a slot that is gone is brought back where the pointer is not asked
    let manager = forget_under(&sandbox, manager, &[slot(2)]);
    let status =
        sandbox.wait("it is back", |status| workers(status).len() == 2 && status["activation"].is_null());
    assert_eq!(workers(&status)["web/2"], before["web/2"]);
    assert_eq!((sandbox.current().as_ref(), status["last_good"].as_str()), (Some(&two), Some(one.as_str())));
    assert!(status["workers"].as_array().unwrap().iter().all(|w| w["generation"] == one.as_str()));
    assert_eq!(errors(&status), 3);
    manager.kill();
}

#[test]
fn a30_what_a_settled_activation_should_have_taken_away_goes() {
    let (sandbox, manager, one) = serving(OFTEN, "");
    let two = push(&sandbox, "two", 1, "", "");
    sandbox.run(&["activate", &two], 0);
    sandbox.wait("the second is gone", |status| status["workers"].as_array().unwrap().len() == 1);
    let before = sandbox.workers();
    let surplus = |id: &str| {
        let mut client = client(&sandbox);
        let spec = spec(&sandbox, 2, id, "echo 1 > $POINTSMAN_RUN/ready; exec sleep 1000");
        client.ensure(2, &spec, false).unwrap();
        client
    };
    let gone = || {
        let status = sandbox.wait("it is taken away", |status| {
            status["workers"].as_array().unwrap().len() == 1 && workers(status).len() == 1
        });
        assert_eq!((workers(&status), errors(&status)), (before.clone(), 0), "{status:#}");
    };
    // while the manager runs, and while none did
    if backend().is_none() {
        surplus(&one);
        gone();
    }
    manager.kill();
    let client = surplus(&one);
    sandbox.wait("two of them", |status| workers(status).len() == 2);
    drop(client);
    let manager = Manager::start(&sandbox);
    gone();
    assert_eq!(events(&sandbox).len(), 2);
    manager.kill();
}

#[test]
fn a29_a_worker_that_does_not_get_well_is_an_error_after_a_while() {
    let sandbox = sandbox("interval: 50ms, max_errors: 0");
    let manager = Manager::start(&sandbox);
    let gate = sandbox.write("gate", "");
    let script = format!("[ -e {} ] || {{ echo no gate; exit 3; }}", gate.display());
    let words = "    restart: {backoff: 20ms..40ms}\n";
    let one = push(&sandbox, "one", 2, &script, words);
    sandbox.run(&["activate", &one], 0);
    let before: BTreeMap<String, Process> = sandbox.workers();
    // what comes back at once is the supervisor's business
    signal_to(before["web/1"].pid, Signal::KILL);
    sandbox.wait("it is back", |status| {
        workers(status).get("web/1").is_some_and(|process| *process != before["web/1"])
    });
    assert_eq!(errors(&sandbox.status()), 0);
    std::fs::remove_file(gate).unwrap();
    signal_to(before["web/2"].pid, Signal::KILL);
    assert_eq!(manager.ends(), 8);
    let why = sandbox.status()["watchdog"]["fatal"]["why"].to_string();
    assert!(why.contains("web/2 does not get well"), "{why}");
}

#[test]
fn a29_a_worker_whose_pipeline_wants_no_second_start_is_no_error() {
    let sandbox = sandbox(OFTEN);
    let manager = Manager::start(&sandbox);
    let one = push(&sandbox, "one", 2, "", "    restart: {on: never}\n");
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    signal_to(before["web/1"].pid, Signal::KILL);
    let ended = |status: &Value| status["workers"].as_array().unwrap().iter().any(|w| w["state"] == "ended");
    sandbox.wait("it has ended", ended);
    have_it_look(&sandbox);
    let status = sandbox.status();
    assert!(ended(&status) && errors(&status) == 2, "{status:#}");
    assert_eq!(events(&sandbox).len(), 1);
    manager.kill();
}

#[test]
fn a29_a_loader_output_that_is_gone_is_made_again_beside_the_workers() {
    let sandbox = sandbox(OFTEN);
    let manager = Manager::start(&sandbox);
    let loader = "loader: {command: [sh, -c, 'cp {config}/name {loaded}/name']}\n";
    let one = push(&sandbox, "one", 2, "", loader);
    let outcome = sandbox.json(&["activate", &one], 0);
    let (before, key) = (sandbox.workers(), outcome["loaded"].as_str().unwrap().to_owned());
    let sealed = sandbox.path(&format!("store/loaded/{key}"));
    std::fs::rename(&sealed, sandbox.path("lost")).unwrap();
    let status = sandbox.wait("it is there", |status| status["activation"].is_null() && sealed.exists());
    assert_eq!((workers(&status), errors(&status)), (before, 1), "{status:#}");
    let (request, verdict, reason) = last(&sandbox);
    assert_eq!((request, verdict), ("start".into(), "good".into()));
    assert!(reason.contains("output") && reason.contains("is gone"), "{reason}");
    assert_eq!(std::fs::read_to_string(sealed.join("tree/name")).unwrap(), "one");
    manager.kill();
}

#[test]
fn a29_what_nobody_has_confirmed_goes_back_where_a_worker_of_it_is_gone() {
    let (sandbox, manager, one) = serving(OFTEN, "");
    let two = push(&sandbox, "two", 2, "", "");
    sandbox.run(&["activate", &two, "--confirm-within", "1h"], 0);
    let manager = forget_under(&sandbox, manager, &[slot(1)]);
    let status = sandbox.wait("it is back", |status| {
        status["current"] == one.as_str() && status["activation"].is_null() && workers(status).len() == 2
    });
    assert!(
        status["workers"]
            .as_array()
            .unwrap()
            .iter()
            .filter(|w| w["state"] == "ready")
            .all(|w| { w["generation"] == one.as_str() })
    );
    let (request, verdict, _) = last(&sandbox);
    assert_eq!((request, verdict, errors(&status)), ("rollback".into(), "good".into(), 1));
    manager.kill();
}

#[test]
fn a29_a_repair_goes_on_after_its_engine_was_killed() {
    let sandbox = sandbox(OFTEN);
    let manager = Manager::start(&sandbox);
    let gate = sandbox.write("gate", "");
    let script = format!("until [ -e {} ]; do sleep 0.01; done", gate.display());
    let one = push(&sandbox, "one", 2, &script, "");
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    std::fs::remove_file(&gate).unwrap();
    let manager = forget_under(&sandbox, manager, &[slot(1)]);
    sandbox.wait("it is being started", |status| {
        status["workers"].as_array().unwrap().iter().any(|worker| worker["state"] == "starting")
    });
    manager.kill();
    let manager = Manager::launch(&sandbox);
    std::fs::write(&gate, "").unwrap();
    let status = sandbox.wait("it is back", |status| {
        workers(status).len() == 2 && status["activation"].is_null() && status["manager"].is_object()
    });
    assert_eq!((workers(&status)["web/1"], errors(&status)), (before["web/1"], 1), "{status:#}");
    let (request, verdict, _) = last(&sandbox);
    assert_eq!((request, verdict, events(&sandbox).len()), ("start".into(), "good".into(), 2));
    manager.kill();
}

#[test]
fn a28_a_start_that_fails_is_fatal() {
    let sandbox = sandbox(OFTEN);
    let manager = Manager::start(&sandbox);
    let gate = sandbox.write("gate", "");
    let script = format!("[ -e {} ] || {{ echo no gate; exit 3; }}", gate.display());
    let one = push(&sandbox, "one", 1, &script, "");
    sandbox.run(&["activate", &one], 0);
    manager.kill();
    std::fs::remove_file(&gate).unwrap();
    forget_all_but(&sandbox, &[]);
    assert_eq!(Manager::launch(&sandbox).ends(), 8);
    let why = sandbox.status()["watchdog"]["fatal"]["why"].to_string();
    assert!(why.contains("the start, event 2, is stuck") && why.contains("no gate"), "{why}");
    // it is no error of the watchdog's, and the next start is another one
    assert_eq!(errors(&sandbox.status()), 0);
    std::fs::write(&gate, "").unwrap();
    let manager = Manager::launch(&sandbox);
    sandbox.wait("it serves", |status| workers(status).len() == 1 && status["activation"].is_null());
    manager.kill();
}

#[test]
fn a29_a_changed_host_file_starts_and_stops_nothing() {
    let sandbox = Sandbox::new();
    let host = |instances: u32, interval: &str| {
        let pipeline = format!(
            "watchdog: {{interval: {interval}, max_errors: 9}}\npipeline:\n  version: 1\n  probation: 0s\n  workers:\n    web: {{command: [sleep, '1000'], ready: {{after: 1ms}}, instances: {instances}}}\n"
        );
        sandbox.host(&pipeline);
    };
    host(2, "50ms");
    sandbox.write("one/name", "one");
    let one = sandbox.run(&["push", "one"], 0);
    let manager = Manager::start(&sandbox);
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    for instances in [3, 1] {
        host(instances, "50ms");
        have_it_look(&sandbox);
        let status = sandbox.status();
        assert_eq!((workers(&status), events(&sandbox).len()), (before.clone(), 1), "{status:#}");
    }
    manager.kill();
}

#[test]
fn a29_a_repair_whose_time_has_passed_mends_nothing() {
    let (sandbox, manager, one) = serving(OFTEN, "");
    manager.kill();
    forget_all_but(&sandbox, &[slot(2)]);
    sandbox.wait("one is gone", |status| workers(status).len() == 1);
    let before = sandbox.workers();
    let one: GenerationId = one.parse().unwrap();
    let boot = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap().trim().to_owned();
    let store = Store::open(&sandbox.path("store"), &sandbox.path("store/run")).unwrap();
    let writer = store.writer(&boot).unwrap();
    for (boot, current) in [("another", Some(one)), (boot.as_str(), None)] {
        let repair = Repair { slots: vec![slot(2)], why: "gone".into(), current, pointer_stays: false };
        let draft = EventDraft {
            request: Request::Start,
            target: one,
            how: How { repair: Some(repair), ..How::default() },
            at: jiff::Timestamp::now(),
            boot: boot.to_owned(),
            by: Default::default(),
            above: 0,
        };
        let event = writer.accept(draft).unwrap();
        if boot == "another" {
            // it had come as far as the workers
            writer.mark(event.number, &Mark::Begun { boot: boot.to_owned() }).unwrap();
            writer.mark(event.number, &Mark::Swinging { from: None, to: one }).unwrap();
        }
    }
    drop(writer);
    // it mends what it finds itself
    let manager = Manager::start(&sandbox);
    sandbox.wait("it is back", |status| workers(status).len() == 2 && status["activation"].is_null());
    let verdicts: Vec<Value> = events(&sandbox).iter().map(|event| event["end"]["verdict"].clone()).collect();
    assert_eq!(verdicts, ["good", "superseded", "superseded", "good"]);
    assert_eq!(sandbox.workers()["web/2"], before["web/2"]);
    manager.kill();
}

/// What is only about our own supervisor.
const NOT_UNDER_SYSTEMD: &[&str] = &[
    // what they make go wrong is the supervisor's end
    "a28_a_dead_supervisor_is_replaced_at_once_and_adopts_what_runs",
    "a28_too_many_errors_end_the_manager_and_no_worker",
    "a28_errors_are_forgiven_in_time",
    // they know by its end that the watchdog has looked
    "a29_drift_is_shown_and_left_alone",
    "a29_a_worker_whose_pipeline_wants_no_second_start_is_no_error",
    "a29_a_changed_host_file_starts_and_stops_nothing",
];

#[test]
fn d1_as_the_systems_systemd() {
    common::systemd::passes_under(common::systemd::Scope::System, NOT_UNDER_SYSTEMD, 11);
}

#[test]
fn d1_as_the_users_systemd() {
    common::systemd::passes_under(common::systemd::Scope::User, NOT_UNDER_SYSTEMD, 11);
}
