//! Stopped and started, cold, after a crash and from a backup: rules A9, A10, A22 and A31 to A36 of
//! `spec/activation.md`. The built program, small workers.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::process::{Child, Command, Stdio};
use std::time::Instant;

use common::{PATIENCE, PROGRAM, Sandbox, process, signal_to};
use rustix::process::Signal;
use serde_json::Value;

/// Two workers that do nothing; `more` are further lines of the pipeline, `worker` of the worker.
fn pipeline(more: &str, worker: &str) -> String {
    format!(
        "version: 1\nprobation: 0s\n{more}\nworkers:\n  web:\n    instances: 2\n    command: sleep 600\n    \
         ready: {{after: 1ms}}\n    grace_shutdown_time: 5s\n    {worker}\n"
    )
}

/// Pushes a generation that is told from others by its file `name`.
fn push(sandbox: &Sandbox, name: &str, pipeline: &str) -> String {
    sandbox.write(&format!("{name}/name"), name);
    sandbox.write(&format!("{name}/pointsman.yaml"), pipeline);
    sandbox.run(&["push", name], 0)
}

/// A sandbox with a manager, and two workers of its first generation.
fn serving() -> (Sandbox, String) {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = push(&sandbox, "one", &pipeline("", ""));
    sandbox.run(&["activate", &one], 0);
    assert_eq!(sandbox.workers().len(), 2);
    (sandbox, one)
}

/// As after a reboot: no process is left, and the run directory is of another boot.
fn rebooted(sandbox: &Sandbox) {
    assert_eq!(sandbox.processes(), Vec::<u32>::new());
    std::fs::write(sandbox.path("store/run/boot"), "another\n").unwrap();
    let who = common::systemd::backend().unwrap_or_else(|| "supervisor".to_owned());
    let record = sandbox.path(&format!("store/run/{who}.json"));
    let mut saved: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    saved["boot"] = "another".into();
    std::fs::write(record, saved.to_string()).unwrap();
}

fn background(sandbox: &Sandbox, args: &[&str]) -> Child {
    let mut command = sandbox.command(&[&["--json"], args].concat());
    command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap()
}

fn end(child: Child, code: i32) -> Value {
    let output = child.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(output.status.code(), Some(code), "{text}");
    serde_json::from_str(&text).unwrap()
}

fn until(what: &str, state: impl Fn() -> bool) {
    let begun = Instant::now();
    while !state() {
        assert!(begun.elapsed() < PATIENCE, "{what} does not come");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn verdict(outcome: &Value) -> (&str, &str) {
    (outcome["verdict"].as_str().unwrap(), outcome["stage"].as_str().unwrap())
}

/// The advice of `status` that has `what` in it.
fn advises(sandbox: &Sandbox, what: &str) -> String {
    let status = sandbox.status();
    let all = status["advice"].as_array().unwrap().clone();
    let found = all.iter().find(|advice| advice.as_str().unwrap().contains(what));
    found.unwrap_or_else(|| panic!("{what} is not advised: {status:#}")).as_str().unwrap().to_owned()
}

fn events(sandbox: &Sandbox) -> Vec<Value> {
    let mut events = sandbox.json(&["history"], 0)["events"].as_array().unwrap().clone();
    events.reverse();
    events
}

/// Every event has exactly one verdict; gives the last one's number.
fn all_decided(sandbox: &Sandbox) -> u64 {
    let events = events(sandbox);
    assert!(events.iter().all(|event| !event["end"].is_null()), "{events:#?}");
    events.last().unwrap()["number"].as_u64().unwrap()
}

#[test]
fn a31_what_is_stopped_stays_so_until_start() {
    let (mut sandbox, one) = serving();
    let before = sandbox.workers();
    let stop = sandbox.json(&["stop", "--why", "the disk is replaced"], 0);
    assert_eq!((verdict(&stop), &stop["request"]), (("good", "workers"), &"stop".into()), "{stop:#}");
    assert_eq!((&stop["changed"], &stop["serving"]), (&false.into(), &one.as_str().into()), "{stop:#}");
    assert!(stop["reason"].as_str().unwrap().contains("2 workers have ended"), "{stop:#}");
    assert!(before.values().all(|process| !process.is_alive()), "they are gone before the verdict");
    let status = sandbox.status();
    assert_eq!(status["stopped"]["why"], "the disk is replaced", "{status:#}");
    assert_eq!(status["stopped"]["event"], stop["event"]);
    assert_eq!(status["workers"], serde_json::json!([]));
    let advice = advises(&sandbox, "stopped");
    assert!(advice.contains("by uid 0") && advice.contains("the disk is replaced"), "{advice}");
    assert!(advice.ends_with("`pointsman start` brings it up"), "{advice}");
    assert_eq!(verdict(&sandbox.json(&["stop"], 0)), ("unchanged", "preflight"));
    assert_eq!(sandbox.status()["stopped"]["why"], "the disk is replaced", "the first stop counts");

    // a new manager, and all processes gone, as after a reboot: nothing is started
    sandbox.kill_everything();
    sandbox.start_manager();
    let last = all_decided(&sandbox);
    assert_eq!(sandbox.status()["workers"], serde_json::json!([]));
    assert_eq!(sandbox.status()["stopped"]["event"], stop["event"]);

    let start = sandbox.json(&["start"], 0);
    assert_eq!((verdict(&start).0, start["event"].as_u64()), ("good", Some(last + 1)), "{start:#}");
    assert_eq!(sandbox.workers().len(), 2);
    assert_eq!(sandbox.status()["stopped"], Value::Null);
    let serving = sandbox.workers();
    assert_eq!(verdict(&sandbox.json(&["start"], 0)), ("unchanged", "preflight"));
    assert_eq!(sandbox.workers(), serving, "a start of what runs touches nothing");
    let requests: Vec<_> = events(&sandbox).iter().map(|event| event["request"].clone()).collect();
    assert_eq!(requests, ["activate", "stop", "stop", "start", "start"]);
}

#[test]
fn a31_stop_drains_and_closes_the_sockets() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let port = common::nginx::port();
    // they finish what they do before they go
    let listen = format!("grace_shutdown_time: 5s\n    listen: {{web: \"tcp://127.0.0.1:{port}\"}}");
    let text = noting(&sandbox, "one").replace("grace_shutdown_time: 5s", &listen);
    let one = push(&sandbox, "one", &text);
    sandbox.run(&["activate", &one], 0);
    let address = common::nginx::address(port);
    std::net::TcpStream::connect(address).unwrap();
    sandbox.run(&["stop"], 0);
    assert_eq!(log(&sandbox), "+one +one -one -one ", "both could finish");
    until("the socket is closed", || std::net::TcpStream::connect(address).is_err());
    sandbox.run(&["start"], 0);
    std::net::TcpStream::connect(address).unwrap();
}

#[test]
fn a33_nothing_starts_workers_behind_a_stop() {
    let (sandbox, one) = serving();
    let two = push(&sandbox, "two", &pipeline("", ""));
    sandbox.run(&["activate", &two], 0);
    sandbox.run(&["stop", "--why", "moving"], 0);
    for args in [&["activate", &*one, "--force"] as &[&str], &["rollback"], &["restart"], &["activate", "@"]]
    {
        let refused = sandbox.json(args, 7);
        assert_eq!(verdict(&refused), ("refused", "preflight"), "{args:?}: {refused:#}");
        let reason = refused["reason"].as_str().unwrap();
        assert!(reason.contains("moving") && reason.contains("`pointsman start`"), "{reason}");
    }
    assert!(sandbox.error(&["activate", &one, "--dry-run"], 7).contains("is stopped"));
    sandbox.write("three/name", "three");
    sandbox.write("three/pointsman.yaml", &pipeline("", ""));
    assert_eq!(verdict(&sandbox.json(&["deploy", "three"], 7)).0, "refused");
    assert_eq!(sandbox.current(), Some(two));
    // the pointer alone may move; start proves what it names
    assert_eq!(verdict(&sandbox.json(&["rollback", "--pointer-only"], 0)).0, "pointer-only");
    assert_eq!((sandbox.current(), sandbox.workers().len()), (Some(one.clone()), 0));
    let start = sandbox.json(&["start"], 0);
    assert_eq!((verdict(&start).0, &start["serving"]), ("good", &one.as_str().into()), "{start:#}");
    assert!(sandbox.status()["workers"].as_array().unwrap().iter().all(|w| w["generation"] == one.as_str()));
    all_decided(&sandbox);
}

#[test]
fn a32_start_of_what_runs_otherwise_is_left_to_activate() {
    let (sandbox, _) = serving();
    let two = push(&sandbox, "two", &pipeline("", ""));
    sandbox.run(&["activate", &two, "--pointer-only"], 0);
    let before = sandbox.workers();
    let refused = sandbox.json(&["start"], 7);
    assert!(refused["reason"].as_str().unwrap().contains("`pointsman activate @`"), "{refused:#}");
    assert_eq!(sandbox.workers(), before);
}

#[test]
fn a31_stop_takes_the_place_of_an_activation() {
    let (sandbox, one) = serving();
    let begun = sandbox.path("begun");
    let check = format!("check: [sh, -c, 'echo > {}; sleep 600']", begun.display());
    let two = push(&sandbox, "two", &pipeline(&check, ""));
    let activating = background(&sandbox, &["activate", &two]);
    until("the check", || begun.exists());
    let stop = sandbox.json(&["stop"], 0);
    assert_eq!(verdict(&stop).0, "good", "{stop:#}");
    let superseded = end(activating, 5);
    assert_eq!(verdict(&superseded), ("superseded", "canary"), "{superseded:#}");
    assert!(superseded["reason"].as_str().unwrap().contains("stop 3"), "{superseded:#}");
    assert_eq!(sandbox.current(), Some(one.clone()));
    let list = sandbox.json(&["list"], 0);
    let two = list["generations"].as_array().unwrap().iter().find(|g| g["id"] == two.as_str()).unwrap();
    assert_eq!(two["rejected"], false, "a stop says nothing of it");
    assert_eq!(sandbox.json(&["start"], 0)["serving"], one.as_str());
}

#[test]
fn a31_a_stop_whose_engine_is_killed_goes_on() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    // they do not go before they are let go
    let text = pipeline("", "stop_signal: WINCH").replace("5s", "60s");
    let one = push(&sandbox, "one", &text);
    sandbox.run(&["activate", &one], 0);
    let stopping = background(&sandbox, &["stop"]);
    sandbox.wait("they drain", |status| {
        status["workers"].as_array().unwrap().iter().all(|worker| worker["state"] == "draining")
    });
    sandbox.end_manager(Signal::KILL);
    // the caller goes on where the manager left off
    let draining: Vec<u32> = sandbox.status()["workers"]
        .as_array()
        .unwrap()
        .iter()
        .map(|worker| u32::try_from(worker["pid"].as_u64().unwrap()).unwrap())
        .collect();
    assert_eq!(draining.len(), 2);
    draining.iter().for_each(|pid| signal_to(*pid, Signal::KILL));
    assert_eq!(verdict(&end(stopping, 0)).0, "good");
    assert!(draining.iter().all(|pid| process(*pid).is_none()));
    all_decided(&sandbox);
}

#[test]
fn a32_without_a_manager_a_supervisor_is_enough_and_without_both_it_says_so() {
    let (mut sandbox, _) = serving();
    sandbox.end_manager(Signal::TERM);
    assert_eq!(verdict(&sandbox.json(&["stop"], 0)).0, "good");
    assert_eq!(verdict(&sandbox.json(&["start"], 0)).0, "good");
    assert_eq!(sandbox.workers().len(), 2);
    let count = all_decided(&sandbox);
    let supervisor = u32::try_from(sandbox.status()["supervisor"].as_u64().unwrap()).unwrap();
    signal_to(supervisor, Signal::KILL);
    until("it is gone", || sandbox.status()["supervisor"].is_null());
    for args in [&["stop"] as &[&str], &["start"]] {
        let error = sandbox.error(args, 5);
        assert!(error.contains("`pointsman manager`"), "{error}");
    }
    assert_eq!(all_decided(&sandbox), count, "nothing was accepted");
    // what the next supervisor would start again has to be taken off its list
    sandbox.kill_everything();
    assert!(sandbox.error(&["stop"], 5).contains("`pointsman manager`"));
    rebooted(&sandbox);
    // now nothing is there that would have to be asked
    assert_eq!(verdict(&sandbox.json(&["stop"], 0)).0, "good");
    assert!(sandbox.error(&["start"], 5).contains("`pointsman manager`"));
    sandbox.start_manager();
    assert_eq!(verdict(&sandbox.json(&["start"], 0)).0, "good");
}

#[test]
fn a32_a_start_that_fails_tries_the_last_good_then_is_stuck() {
    let (sandbox, one) = serving();
    let two = push(
        &sandbox,
        "two",
        &pipeline("", "").replace("sleep 600", "sleep no").replace("{after: 1ms}", "notify"),
    );
    sandbox.run(&["stop"], 0);
    sandbox.run(&["activate", &two, "--pointer-only"], 0);
    let start = sandbox.json(&["start"], 1);
    assert_eq!(
        (verdict(&start), &start["serving"]),
        (("reverted", "workers"), &one.as_str().into()),
        "{start:#}"
    );
    assert_eq!(sandbox.workers().len(), 2);
    assert_eq!(sandbox.status()["stopped"], Value::Null, "who asks for a start wants it to run");
}

/// Makes a file of a generation another one, behind the store's back.
fn damage(sandbox: &Sandbox, id: &str, file: &str) {
    let path = sandbox.path(&format!("store/generations/{id}/{file}"));
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, text + "x").unwrap();
}

#[test]
fn a9_a_damaged_generation_in_force_gives_way_to_the_good_one_under_it() {
    for file in ["tree/name", "manifest"] {
        let (mut sandbox, one) = serving();
        let two = push(&sandbox, "two", &pipeline("", ""));
        sandbox.run(&["activate", &two], 0);
        sandbox.kill_everything();
        rebooted(&sandbox);
        damage(&sandbox, &two, file);
        sandbox.start_manager();
        let status = sandbox.wait("two workers", |status| common::workers(status).len() == 2);
        assert_eq!(
            (status["current"].as_str(), &status["last"]["verdict"]),
            (Some(&*one), &"reverted".into())
        );
        let last = events(&sandbox).pop().unwrap();
        assert_eq!(
            (&last["request"], &last["end"]["stage"]),
            (&"start".into(), &"preflight".into()),
            "{last:#}"
        );
    }
}

#[test]
fn a9_a_damaged_generation_without_a_good_one_under_it_is_stuck_and_says_what_to_do() {
    let (mut sandbox, one) = serving();
    sandbox.kill_everything();
    rebooted(&sandbox);
    damage(&sandbox, &one, "tree/name");
    sandbox.spawn_manager(); // it gives up with that
    let status = sandbox.wait("a verdict", |status| status["last"]["verdict"] == "stuck");
    assert_eq!(status["current"], one.as_str());
    assert!(status["last"]["reason"].as_str().unwrap().contains("tree/name"), "{status:#}");
    assert!(advises(&sandbox, "is stuck").contains("`pointsman "));
    assert!(sandbox.workers().is_empty());
    all_decided(&sandbox);
}

/// A worker that notes when it comes and goes, and takes its time to go.
fn noting(sandbox: &Sandbox, name: &str) -> String {
    let log = sandbox.path("log").display().to_string();
    let script = format!(
        "echo +{name} >> {log}; trap \"sleep 0.1; echo -{name} >> {log}; exit 0\" TERM; echo > {{run}}/up; while :; do sleep 0.02; done"
    );
    pipeline("", "")
        .replace("sleep 600", &format!("[sh, -c, '{script}']"))
        .replace("{after: 1ms}", "{file: \"{run}/up\"}")
}

fn log(sandbox: &Sandbox) -> String {
    std::fs::read_to_string(sandbox.path("log")).unwrap().replace('\n', " ")
}

#[test]
fn a34_cold_ends_everything_before_anything_starts() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = push(&sandbox, "one", &noting(&sandbox, "one"));
    sandbox.run(&["activate", &one], 0);
    let two = push(&sandbox, "two", &noting(&sandbox, "two"));
    let plan = sandbox.run(&["activate", &two, "--cold", "--dry-run"], 0);
    let planned: Vec<&str> = plan.lines().filter_map(|line| line.split_whitespace().nth(1)).collect();
    assert_eq!(planned, ["preflight", "swing", "stop", "web/1", "web/2", "probation"], "{plan}");
    assert!(plan.contains("every worker ends before the first one is started, as asked"), "{plan}");
    let outcome = sandbox.json(&["activate", &two, "--cold"], 0);
    assert_eq!(verdict(&outcome).0, "good", "{outcome:#}");
    assert_eq!(log(&sandbox), "+one +one -one -one +two +two ");
    // nothing is to be done: nobody is disturbed
    assert_eq!(verdict(&sandbox.json(&["activate", "@", "--cold"], 0)).0, "unchanged");
    assert_eq!(sandbox.json(&["rollback", "--cold"], 0)["serving"], one.as_str());
    assert_eq!(log(&sandbox), "+one +one -one -one +two +two -two -two +one +one ");
}

#[test]
fn a34_a_cold_restart_that_fails_goes_back_as_cold() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = push(&sandbox, "one", &noting(&sandbox, "one"));
    sandbox.run(&["activate", &one], 0);
    let text = noting(&sandbox, "two")
        .replace("echo > {run}/up", "test $POINTSMAN_INSTANCE = 1 || exit 3; echo > {run}/up");
    let two = push(&sandbox, "two", &text);
    let outcome = sandbox.json(&["activate", &two, "--cold"], 1);
    assert_eq!(
        (verdict(&outcome), &outcome["serving"]),
        (("reverted", "workers"), &one.as_str().into()),
        "{outcome:#}"
    );
    let steps = outcome["steps"].as_array().unwrap();
    let undone: Vec<_> =
        steps.iter().filter(|s| s["result"] == "undone").map(|s| s["step"].clone()).collect();
    assert_eq!(undone, ["pointer", "stop", "web/2", "web/1"], "{outcome:#}");
    assert_eq!(log(&sandbox), "+one +one -one -one +two +two -two +one +one ");
    assert_eq!(sandbox.workers().len(), 2);
}

#[test]
fn a34_a_cold_restart_whose_engine_is_killed_is_finished_or_undone() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let wait = "stop_signal: WINCH";
    let one = push(&sandbox, "one", &pipeline("", wait).replace("5s", "60s"));
    sandbox.run(&["activate", &one], 0);
    let old = sandbox.workers();
    let two = push(&sandbox, "two", &pipeline("", ""));
    let activating = background(&sandbox, &["activate", &two, "--cold"]);
    sandbox.wait("they drain", |status| {
        status["workers"].as_array().unwrap().iter().all(|worker| worker["state"] == "draining")
    });
    sandbox.end_manager(Signal::KILL);
    // the caller is the engine now; it starts nothing before they are gone
    let finishing =
        |status: &Value| status["workers"].as_array().unwrap().len() == 2 && status["manager"].is_null();
    let status = sandbox.wait("the caller goes on", finishing);
    assert!(status["workers"].as_array().unwrap().iter().all(|worker| worker["state"] == "draining"));
    old.values().for_each(|process| signal_to(process.pid, Signal::KILL));
    let outcome = end(activating, 0);
    assert_eq!((verdict(&outcome).0, &outcome["serving"]), ("good", &two.as_str().into()), "{outcome:#}");
    assert_eq!(sandbox.workers().len(), 2);
    all_decided(&sandbox);
}

#[test]
fn a35_a_worker_that_ended_while_no_engine_was_there_counts() {
    let (mut sandbox, one) = serving();
    let two = push(&sandbox, "two", &pipeline("", "").replace("probation: 0s", "probation: 60s"));
    sandbox.run(&["activate", &two, "--no-wait"], 0);
    let on_two = |status: &Value| {
        let workers = status["workers"].as_array().unwrap();
        let ready = workers.iter().filter(|w| w["generation"] == two.as_str() && w["state"] == "ready");
        workers.len() == 2 && ready.count() == 2
    };
    sandbox.wait("both run it", on_two);
    sandbox.end_manager(Signal::KILL);
    let before = sandbox.workers()["web/1"];
    signal_to(before.pid, Signal::KILL);
    let again = |status: &Value| {
        on_two(status) && common::workers(status).get("web/1").is_some_and(|now| *now != before)
    };
    sandbox.wait("it was started again", again);
    sandbox.start_manager();
    let last = events(&sandbox).pop().unwrap();
    let (end, reason) = (&last["end"], last["end"]["reason"].as_str().unwrap());
    assert_eq!((&end["verdict"], &end["serving"]), (&"reverted".into(), &one.as_str().into()), "{last:#}");
    // systemd does not keep how one has ended that it has started again
    let how = if common::systemd::backend().is_some() { "ended while nobody looked" } else { "signal 9" };
    assert!(reason.contains("web/1 ended meanwhile") && reason.contains(how), "{reason}");
    sandbox.wait("the old generation", |status| {
        let workers = status["workers"].as_array().unwrap();
        workers.len() == 2 && workers.iter().all(|worker| worker["generation"] == one.as_str())
    });
}

#[test]
fn a10_a_request_of_before_a_reboot_is_begun_only_while_it_is_young() {
    let sandbox = Sandbox::new();
    let ids = ["one", "two"].map(|name| {
        sandbox.write(&format!("{name}/name"), name);
        sandbox.run(&["push", name], 0)
    });
    sandbox.run(&["activate", &ids[0]], 0);
    // what was accepted and never begun, as a power cut leaves it; whoever comes next is its engine
    let leave = |hours: i64, target: &str| {
        let number = all_decided(&sandbox) + 1;
        let path = |number| sandbox.path(&format!("store/events/{number}.json"));
        let mut event: Value = serde_json::from_slice(&std::fs::read(path(1)).unwrap()).unwrap();
        let at = jiff::Timestamp::now() - jiff::SignedDuration::from_hours(hours);
        (event["number"], event["target"]) = (number.into(), target.into());
        (event["boot"], event["at"]) = ("another".into(), at.to_string().into());
        std::fs::write(path(number), event.to_string()).unwrap();
        sandbox.json(&["confirm"], 7);
        events(&sandbox).into_iter().find(|event| event["number"] == number).unwrap()["end"].clone()
    };
    assert_eq!(leave(0, &ids[1])["verdict"], "good");
    let old = leave(2, &ids[0]);
    assert_eq!((&old["verdict"], &old["stage"]), (&"failed".into(), &"preflight".into()), "{old:#}");
    assert_eq!(old["reason"], "never started: the request is older than request_ttl");
    assert_eq!(sandbox.current().as_ref(), Some(&ids[1]));
    sandbox.host("pipeline: pushed\nrequest_ttl: 1d\n");
    assert_eq!(leave(2, &ids[0])["verdict"], "good");
    assert_eq!(leave(25, &ids[1])["verdict"], "failed");
}

/// Runs lines of shell in the sandbox, as the README has them.
fn shell(sandbox: &Sandbox, script: &str) {
    let mut command = Command::new("sh");
    let output = command.args(["-euc", script]).current_dir(sandbox.path("")).output().unwrap();
    assert!(output.status.success(), "{script}: {output:?}");
}

const BACK_UP: &str = "\
tar -C store -cf web.tar --exclude=./run --exclude=./tmp --exclude=./generations .
tar -C store -rf web.tar ./generations";

const RESTORE: &str = "\
mkdir store.new
tar -C store.new -xpf web.tar
mv store store.old
mv store.new store";

#[test]
fn a36_the_recipe_is_what_the_readme_says() {
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/README.md")).unwrap();
    for line in BACK_UP.lines().chain(RESTORE.lines()) {
        // there it is a service with a name
        let there = line.replace("store.", "web.").replace(" store", " web");
        assert!(readme.contains(&there), "the README does not say `{there}`");
    }
}

#[test]
fn a36_a_store_from_a_backup_leaves_alone_what_runs_and_goes_on() {
    let (mut sandbox, one) = serving();
    shell(&sandbox, BACK_UP);
    let two = push(&sandbox, "two", &pipeline("", ""));
    sandbox.run(&["activate", &two], 0);
    sandbox.run(&["restart"], 0);
    let before = sandbox.workers();
    sandbox.end_manager(Signal::TERM);
    shell(&sandbox, RESTORE);
    shell(&sandbox, "mv store.old/run store/run");
    sandbox.run(&["init"], 0);
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    sandbox.start_manager();
    assert_eq!(sandbox.workers(), before, "nothing that runs is touched");
    assert_eq!((sandbox.current(), all_decided(&sandbox)), (Some(one.clone()), 1));
    assert!(advises(&sandbox, "drift").contains("`pointsman activate @`"));
    // what runs was started for event 3, which the store has never heard of
    let cold = push(&sandbox, "cold", &pipeline("cold_only: [name]", ""));
    let refused = sandbox.json(&["activate", &cold], 7);
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.contains("which is not in the store") && reason.contains("--cold`"), "{reason}");
    assert_eq!(refused["event"], 4, "no number is given twice");
    let outcome = sandbox.json(&["activate", "@"], 0);
    assert_eq!((verdict(&outcome).0, &outcome["event"]), ("good", &5.into()), "{outcome:#}");
    let status = sandbox.wait("its own workers", |status| status["workers"].as_array().unwrap().len() == 2);
    assert!(status["workers"].as_array().unwrap().iter().all(|worker| worker["generation"] == one.as_str()));
    assert!(before.values().all(|process| !process.is_alive()));
    assert_eq!(status["advice"], serde_json::json!([]), "{status:#}");
    assert_eq!(all_decided(&sandbox), 5);
}

#[test]
fn a36_a_backup_comes_up_on_another_machine() {
    let (mut sandbox, one) = serving();
    shell(&sandbox, BACK_UP);
    sandbox.kill_everything();
    shell(&sandbox, RESTORE);
    sandbox.run(&["init"], 0);
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    sandbox.start_manager();
    sandbox.wait("two workers", |status| common::workers(status).len() == 2);
    assert_eq!((sandbox.current(), all_decided(&sandbox)), (Some(one), 2));
}

#[test]
fn a36_a_copy_with_its_run_directory_does_not_lay_hands_on_the_original() {
    let (sandbox, _) = serving();
    let before = sandbox.workers();
    shell(&sandbox, "cp -a store copy");
    let copy = |args: &[&str]| {
        let mut command = Command::new(PROGRAM);
        command.arg("--store").arg(sandbox.path("copy")).args(args).env_clear();
        command.env("PATH", "/usr/sbin:/usr/bin:/sbin:/bin");
        common::systemd::lead_to_it(&mut command);
        command
    };
    let mut manager =
        copy(&["manager"]).stdout(sandbox.log("copy.log")).stderr(sandbox.log("copy.log")).spawn().unwrap();
    let status = || {
        let output = copy(&["--json", "status"]).output().unwrap();
        serde_json::from_slice::<Value>(&output.stdout).unwrap()
    };
    until("its own workers", || common::workers(&status()).len() == 2);
    let own = common::workers(&status());
    assert!(own.values().all(|process| !before.values().any(|other| other.pid == process.pid)), "{own:?}");
    let stop = copy(&["stop"]).output().unwrap();
    assert!(stop.status.success(), "{stop:?}");
    assert_eq!(sandbox.workers(), before);
    manager.kill().unwrap();
    manager.wait().unwrap();
}

#[test]
fn a36_a_backup_that_came_back_as_somebody_elses_is_named_and_mended() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can give files away");
        return;
    }
    let (mut sandbox, one) = serving();
    shell(&sandbox, BACK_UP);
    let two = push(&sandbox, "two", &pipeline("", ""));
    sandbox.run(&["activate", &two], 0);
    let before = sandbox.workers();
    sandbox.end_manager(Signal::TERM);
    shell(&sandbox, RESTORE);
    shell(&sandbox, "mv store.old/run store/run; chown -R 1234:1234 store/generations");
    sandbox.run(&["init"], 0);
    let said = sandbox.run(&["verify"], 4);
    assert!(said.contains("belongs to uid 1234, not to the store's owner 0"), "{said}");
    sandbox.start_manager();
    let refused = sandbox.json(&["activate", "@"], 4);
    assert_eq!((verdict(&refused).0, sandbox.workers()), ("refused", before), "{refused:#}");
    sandbox.run(&["verify", "--repair"], 0);
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    assert_eq!(sandbox.json(&["activate", "@"], 0)["serving"], one.as_str());
}

#[test]
fn a8_a_disk_that_fills_up_after_the_swing_does_not_block_the_way_back() {
    let sandbox = Sandbox::bare();
    // a small file system for the store and one for the run directory, both of which go with the shell; the second
    // worker fills the one, and then fails
    std::fs::create_dir(sandbox.path("small")).unwrap();
    let ready = pipeline("", "").replace("{after: 1ms}", "{file: \"{run}/up\"}");
    let worker = |first: &str| format!("[sh, -c, '{first} echo > {{run}}/up; exec sleep 600']");
    let full = sandbox.path("small/ballast").display().to_string();
    let fills = format!("if test $POINTSMAN_INSTANCE = 2; then cat /dev/zero > {full}; exit 3; fi;");
    sandbox.write("one/pointsman.yaml", &ready.replace("sleep 600", &worker("")));
    sandbox.write("two/pointsman.yaml", &ready.replace("sleep 600", &worker(&fills)));
    let script = r#"
        mount -t tmpfs -o size=6m none small || exit 99
        p() { "$PROGRAM" --store small/store "$@"; }
        mkdir -p small/store/run && mount -t tmpfs -o size=4m none small/store/run || exit 98
        p init --pipeline pushed && one=$(p push one) && two=$(p push two) || exit 97
        "$PROGRAM" supervisor --run small/store/run >> supervisor.log 2>&1 & supervisor=$!
        trap 'kill $supervisor' EXIT
        until p status | grep -q "supervisor pid"; do sleep 0.01; done
        p activate $one || exit 96
        p --json activate $two > outcome; echo "exit: $?"
        df --output=avail small/store | tail -1
        p --json status > status; p --json history > events; readlink small/store/current
        rm -f small/ballast
        p verify; echo "verify: $?"
        p activate $one > again; echo "again: $?"
        p stop > stopped; echo "stop: $?"
    "#;
    let mut command = Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).env("PROGRAM", PROGRAM).current_dir(sandbox.path(""));
    let output = command.output().unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.code() == Some(99) || err.contains("unshare failed") {
        return eprintln!("skipped: this machine does not let us mount a small file system");
    }
    for line in ["exit: 1", "verify: 0", "again: 0", "stop: 0"] {
        assert!(out.lines().any(|told| told == line), "{line}\nstdout: {out}\nstderr: {err}");
    }
    let read =
        |name: &str| serde_json::from_slice::<Value>(&std::fs::read(sandbox.path(name)).unwrap()).unwrap();
    let outcome = read("outcome");
    assert_eq!(verdict(&outcome), ("reverted", "workers"), "{outcome:#}");
    let one = outcome["serving"].as_str().unwrap();
    assert!(out.contains(&format!("generations/{one}/tree")) && one != outcome["target"], "{out}");
    let status = read("status");
    let serving = status["workers"].as_array().unwrap();
    let on_one = serving.iter().filter(|w| w["generation"] == one && w["state"] == "ready").count();
    assert_eq!((on_one, &status["last"]["verdict"]), (2, &"reverted".into()), "{status:#}");
    let history = read("events");
    assert_eq!(history["events"].as_array().unwrap().len(), 2, "{history:#}");
    assert_eq!(history["events"][0]["end"]["verdict"], "reverted", "{history:#}");
}

/// It ends the supervisor: where systemd is there, whoever asks does it all.
const NOT_UNDER_SYSTEMD: &[&str] =
    &["a32_without_a_manager_a_supervisor_is_enough_and_without_both_it_says_so"];

#[test]
fn d1_as_the_systems_systemd() {
    common::systemd::passes_under(common::systemd::Scope::System, NOT_UNDER_SYSTEMD, 20);
}

#[test]
fn d1_as_the_users_systemd() {
    common::systemd::passes_under(common::systemd::Scope::User, NOT_UNDER_SYSTEMD, 20);
}
