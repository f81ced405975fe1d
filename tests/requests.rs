//! What may be asked, and what becomes of what is under way when somebody asks for something else. Rules A13 to
//! A18 of `spec/activation.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use common::{Sandbox, end, until, workers};
use rustix::process::Signal;
use serde_json::Value;

/// A pipeline with two groups of a program that does nothing, ready at once.
const SLEEPERS: &str = "version: 1\nprobation: 0s\nworkers:\n  a: {command: [sleep, '1000'], ready: {after: 1ms}}\n  b: {command: [sleep, '1000'], ready: {after: 1ms}}\n";

/// Pushes a directory whose one file says `name`, with a pipeline where one is given.
fn push(sandbox: &Sandbox, name: &str, pipeline: &str) -> String {
    sandbox.write(&format!("{name}/name"), name);
    if !pipeline.is_empty() {
        sandbox.write(&format!("{name}/pointsman.yaml"), pipeline);
    }
    sandbox.run(&["push", name], 0)
}

#[test]
fn a13_a_frozen_service_lets_only_rollbacks_in() {
    let sandbox = Sandbox::new();
    let (one, two) = (push(&sandbox, "one", ""), push(&sandbox, "two", ""));
    sandbox.run(&["activate", &one], 0);
    sandbox.run(&["activate", &two], 0);
    assert!(sandbox.run(&["freeze", "--why", "release weekend"], 0).starts_with("frozen by uid"));
    let refused = sandbox.json(&["activate", &one], 7);
    assert_eq!(
        (refused["verdict"].as_str(), refused["stage"].as_str()),
        (Some("refused"), Some("preflight"))
    );
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.contains("release weekend") && reason.contains("pointsman thaw"), "{reason}");
    assert!(sandbox.error(&["activate", &one, "--dry-run"], 7).contains("release weekend"));
    assert_eq!(sandbox.status()["frozen"]["why"], "release weekend");
    assert_eq!(sandbox.json(&["rollback"], 0)["serving"], one.as_str());
    assert_eq!(sandbox.run(&["thaw"], 0), "thawed");
    assert_eq!(sandbox.run(&["thaw"], 0), "it was not frozen");
    assert_eq!(sandbox.status()["frozen"], Value::Null);
    sandbox.run(&["activate", &two, "--force"], 0);
    // the freeze comes first: nothing slips in behind the rollback
    sandbox.run(&["rollback", "--freeze"], 0);
    assert_eq!(sandbox.json(&["activate", &two, "--force"], 7)["verdict"], "refused");
}

#[test]
fn a14_what_was_rolled_back_from_comes_back_by_force_only() {
    let sandbox = Sandbox::new();
    let (one, two) = (push(&sandbox, "one", ""), push(&sandbox, "two", ""));
    sandbox.run(&["activate", &one], 0);
    sandbox.run(&["activate", &two], 0);
    let rollback = sandbox.json(&["rollback"], 0);
    let rejected = |id: &str| {
        let list = sandbox.json(&["list"], 0);
        let all = list["generations"].as_array().unwrap().clone();
        all.iter().find(|g| g["id"] == id).unwrap()["rejected"].clone()
    };
    assert_eq!((rejected(&one), rejected(&two)), (false.into(), true.into()));
    let refused = sandbox.json(&["activate", &two], 7);
    let reason = refused["reason"].as_str().unwrap();
    assert!(reason.contains("rolled back from") && reason.contains("--force"), "{reason}");
    let mark: Value =
        serde_json::from_slice(&std::fs::read(sandbox.path("store/rejected").join(&two)).unwrap()).unwrap();
    assert_eq!(mark["event"], rollback["event"]);
    assert_eq!(sandbox.json(&["activate", &two, "--force"], 0)["verdict"], "good");
    assert_eq!(rejected(&two), false, "who insists has the last word");
    // an explicit rollback may go anywhere
    sandbox.run(&["rollback"], 0);
    sandbox.run(&["rollback", &two], 0);
    assert_eq!((rejected(&one), rejected(&two)), (true.into(), false.into()));
    std::fs::write(sandbox.path("store/rejected").join(&one), "{").unwrap();
    assert!(sandbox.run(&["verify"], 4).contains("rejected/"));
}

#[test]
fn a15_a_stale_expectation_is_refused() {
    let sandbox = Sandbox::new();
    let (one, two, three) =
        (push(&sandbox, "one", ""), push(&sandbox, "two", ""), push(&sandbox, "three", ""));
    sandbox.run(&["activate", &one], 0);
    sandbox.run(&["activate", &two, "--if-current", &one[..8]], 0);
    let refused = sandbox.json(&["activate", &three, "--if-current", &one], 7);
    assert!(refused["reason"].as_str().unwrap().contains(&format!("{} is not in force", &one[..8])));
    assert_eq!(sandbox.current(), Some(two));
    sandbox.error(&["activate", &three, "--if-current", "nosuch"], 3);
}

/// Spoils a file of a generation.
fn spoil(sandbox: &Sandbox, id: &str, file: &str) {
    let path = sandbox.path(&format!("store/generations/{id}/tree/{file}"));
    std::fs::remove_file(&path).unwrap();
    std::fs::write(path, "rotten").unwrap();
}

#[test]
fn a15_what_the_caller_insists_on_is_looked_at_before_the_target() {
    let sandbox = Sandbox::new();
    let (one, two) = (push(&sandbox, "one", ""), push(&sandbox, "two", ""));
    sandbox.run(&["activate", &one], 0);
    spoil(&sandbox, &two, "name");
    let events = || sandbox.json(&["history"], 0)["events"].as_array().unwrap().len();
    let stale = sandbox.json(&["activate", &two, "--if-current", &two], 7);
    assert!(stale["reason"].as_str().unwrap().contains("is not in force any more"), "{stale}");
    assert_eq!(stale.get("damaged"), None);
    assert!(
        sandbox.error(&["activate", &two, "--if-current", &two, "--dry-run"], 7).contains("not in force")
    );
    sandbox.run(&["freeze"], 0);
    assert!(sandbox.json(&["activate", &two], 7)["reason"].as_str().unwrap().contains("frozen"));
    sandbox.run(&["thaw"], 0);
    let damaged = sandbox.json(&["activate", &two, "--if-current", &one], 4);
    assert_eq!((damaged["verdict"].as_str(), &damaged["damaged"]), (Some("refused"), &true.into()));
    assert!(damaged["reason"].as_str().unwrap().contains("tree/name"), "{damaged}");
    assert_eq!((sandbox.current(), events()), (Some(one), 4));
}

#[test]
fn a6_a_damaged_generation_in_force_is_named_though_nothing_is_to_be_done() {
    let mut sandbox = Sandbox::new();
    let (one, two) = (push(&sandbox, "one", SLEEPERS), push(&sandbox, "two", SLEEPERS));
    sandbox.start_manager();
    sandbox.run(&["activate", &one], 0);
    sandbox.run(&["activate", &two], 0);
    let before = sandbox.workers();
    assert_eq!(sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
    spoil(&sandbox, &two, "name");
    for args in [&["activate", "@"][..], &["activate", "@", "--pointer-only"], &["rollback", "@"]] {
        let refused = sandbox.json(args, 4);
        assert_eq!((refused["verdict"].as_str(), &refused["damaged"]), (Some("refused"), &true.into()));
        assert!(refused["reason"].as_str().unwrap().contains("tree/name"), "{refused}");
        assert_eq!((&refused["serving"], &refused["changed"]), (&two.as_str().into(), &false.into()));
    }
    let text = sandbox.error(&["activate", "@"], 4);
    assert!(text.contains("refused") && text.contains("push the same content again"), "{text}");
    assert_eq!((sandbox.workers(), sandbox.current()), (before, Some(two)));
    // what is pushed again is whole again
    sandbox.run(&["push", "two"], 0);
    assert_eq!(sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
}

#[test]
fn a16_what_is_left_to_the_manager_is_accepted_only_where_one_runs() {
    let mut sandbox = Sandbox::new();
    let one = push(&sandbox, "one", "");
    assert!(sandbox.error(&["activate", &one, "--no-wait"], 5).contains("pointsman manager"));
    assert_eq!(sandbox.json(&["history"], 0)["events"].as_array().unwrap().len(), 0);
    sandbox.start_manager();
    let accepted = sandbox.json(&["activate", &one, "--no-wait"], 0);
    assert_eq!((accepted["event"].as_u64(), accepted["target"].as_str()), (Some(1), Some(one.as_str())));
    let status = sandbox.wait("its verdict", |status| status["last"]["event"] == 1);
    assert_eq!(status["last"]["verdict"], "good");
}

#[test]
fn a17_a_rollback_takes_the_place_of_what_has_not_swung_yet() {
    let sandbox = Sandbox::new();
    let one = push(&sandbox, "one", "");
    sandbox.run(&["activate", &one], 0);
    let fifo = sandbox.path("fifo");
    rustix::fs::mkfifoat(rustix::fs::CWD, &fifo, rustix::fs::Mode::from_raw_mode(0o600)).unwrap();
    // the check waits for somebody who never comes
    let checking = sandbox.path("checking");
    let check = format!("echo > {}; cat {}", checking.display(), fifo.display());
    let two = push(&sandbox, "two", &format!("version: 1\ncheck: [sh, -c, '{check}']\n"));
    let activating = sandbox.background(&["activate", &two]);
    until("the check", || checking.exists());
    let rollback = sandbox.json(&["rollback"], 0);
    assert_eq!(
        (rollback["verdict"].as_str(), rollback["serving"].as_str()),
        (Some("unchanged"), Some(&*one))
    );
    let superseded = end(activating, 5);
    assert_eq!(superseded["verdict"], "superseded", "{superseded:#}");
    assert_eq!(superseded["stage"], "canary");
    assert!(superseded["reason"].as_str().unwrap().contains("rollback 3"), "{superseded:#}");
    assert_eq!(sandbox.json(&["activate", &two], 7)["verdict"], "refused", "it was left");
    until("the check is ended", || sandbox.processes().is_empty());
}

#[test]
fn a17_a_rollback_undoes_what_has_swung() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = push(&sandbox, "one", SLEEPERS);
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    let two = push(&sandbox, "two", &SLEEPERS.replace("probation: 0s", "probation: 600s"));
    let activating = sandbox.background(&["activate", &two]);
    sandbox.wait("the swing", |status| status["current"] == two.as_str());
    sandbox.wait("probation", |_| sandbox.workers().values().all(|w| !before.values().any(|b| b == w)));
    let rollback = sandbox.json(&["rollback"], 0);
    assert_eq!(rollback["serving"], one.as_str(), "{rollback:#}");
    let reverted = end(activating, 1);
    assert_eq!(reverted["verdict"], "reverted", "{reverted:#}");
    assert!(reverted["reason"].as_str().unwrap().contains("took its place"));
    assert_eq!(sandbox.current(), Some(one.clone()));
    let status = sandbox.wait("two workers", |status| common::workers(status).len() == 2);
    assert!(status["workers"].as_array().unwrap().iter().all(|w| w["generation"] == one.as_str()));
}

#[test]
fn a18_what_is_confirmed_in_time_stays() {
    let mut sandbox = Sandbox::new();
    let (one, two) = (push(&sandbox, "one", ""), push(&sandbox, "two", ""));
    sandbox.run(&["activate", &one], 0);
    assert!(sandbox.error(&["activate", &two, "--confirm-within", "1m"], 5).contains("pointsman manager"));
    sandbox.error(&["activate", &two, "--confirm-within", "soon"], 2);
    assert_eq!(sandbox.json(&["confirm"], 7)["verdict"], "refused");
    sandbox.start_manager();
    let unconfirmed = sandbox.json(&["activate", &two, "--confirm-within", "10m"], 0);
    assert_eq!(
        (unconfirmed["verdict"].as_str(), unconfirmed["stage"].as_str()),
        (Some("unconfirmed"), Some("confirm")),
        "{unconfirmed:#}"
    );
    let status = sandbox.status();
    assert_eq!((status["current"].as_str(), status["last_good"].as_str()), (Some(&*two), Some(&*one)));
    assert!(status["unconfirmed"]["left_ms"].as_u64().unwrap() > 500_000, "{status:#}");
    assert!(status["advice"].to_string().contains("pointsman confirm"), "{status:#}");
    assert_eq!(sandbox.json(&["confirm"], 0)["verdict"], "good");
    let status = sandbox.status();
    assert_eq!((status["last_good"].as_str(), status["unconfirmed"].is_null()), (Some(&*two), true));
}

#[test]
fn a14_what_is_confirmed_is_rejected_no_more() {
    let mut sandbox = Sandbox::new();
    let (one, two) = (push(&sandbox, "one", ""), push(&sandbox, "two", ""));
    sandbox.run(&["activate", &one], 0);
    sandbox.run(&["activate", &two], 0);
    sandbox.run(&["rollback"], 0);
    sandbox.start_manager();
    let rejected = || -> Vec<String> {
        let list = sandbox.json(&["list"], 0);
        let all = list["generations"].as_array().unwrap().iter().filter(|listed| listed["rejected"] == true);
        all.map(|listed| listed["id"].as_str().unwrap().to_owned()).collect()
    };
    sandbox.run(&["activate", &two, "--force", "--confirm-within", "10m"], 0);
    assert_eq!(rejected(), [two.as_str()], "nobody has said yet that it may stay");
    sandbox.run(&["confirm"], 0);
    assert_eq!(rejected(), Vec::<String>::new());
    assert_eq!(sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
    // and what a rollback has left is, once that may stay
    sandbox.run(&["rollback", "--confirm-within", "10m"], 0);
    assert_eq!(rejected(), Vec::<String>::new());
    sandbox.run(&["confirm"], 0);
    assert_eq!(rejected(), [two.as_str()]);
}

#[test]
fn a18_what_nobody_confirms_goes_back() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let (one, two) = (push(&sandbox, "one", SLEEPERS), push(&sandbox, "two", SLEEPERS));
    assert_eq!(
        sandbox.json(&["activate", &one, "--confirm-within", "10m"], 7)["verdict"],
        "refused",
        "there is nothing to go back to"
    );
    sandbox.run(&["activate", &one], 0);
    sandbox.run(&["activate", &two, "--confirm-within", "300ms"], 0);
    let back = |status: &Value| status["current"] == one.as_str() && status["activation"].is_null();
    let status = sandbox.wait("the way back", back);
    assert_eq!((status["last"]["verdict"].as_str(), status["unconfirmed"].is_null()), (Some("good"), true));
    assert!(status["workers"].as_array().unwrap().iter().any(|w| w["generation"] == one.as_str()));
    assert_eq!(sandbox.json(&["activate", &two], 7)["verdict"], "refused", "what was left is rejected");
    // nobody forgets the time: not a manager that was killed ..
    sandbox.run(&["activate", &two, "--force", "--confirm-within", "1s"], 0);
    sandbox.end_manager(Signal::KILL);
    sandbox.start_manager();
    sandbox.wait("the way back", back);
    // .. nor a reboot, which is a no
    let event = sandbox.json(&["activate", &two, "--force", "--confirm-within", "10m"], 0)["event"].clone();
    sandbox.end_manager(Signal::TERM);
    let outcome = sandbox.path(&format!("store/events/{event}.outcome.json"));
    let mut record: Value = serde_json::from_slice(&std::fs::read(&outcome).unwrap()).unwrap();
    record["confirm_by"]["boot"] = "another".into();
    std::fs::remove_file(&outcome).unwrap();
    std::fs::write(&outcome, record.to_string()).unwrap();
    sandbox.start_manager();
    sandbox.wait("the way back", back);
}

#[test]
fn a18_bringing_it_up_again_does_not_confirm_it() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let (one, two) = (push(&sandbox, "one", SLEEPERS), push(&sandbox, "two", SLEEPERS));
    sandbox.run(&["activate", &one], 0);
    let asked = sandbox.json(&["activate", &two, "--confirm-within", "10m"], 0);
    let left = |sandbox: &Sandbox| {
        let status = sandbox.wait("both workers", |status| workers(status).len() == 2);
        assert_eq!((status["current"].as_str(), status["last_good"].as_str()), (Some(&*two), Some(&*one)));
        status["unconfirmed"]["left_ms"].as_u64().unwrap_or_else(|| panic!("nothing waits: {status:#}"))
    };
    let before = left(&sandbox);
    // not when everything has died ..
    sandbox.kill_everything();
    sandbox.start_manager();
    assert!(left(&sandbox) < before, "the time goes on");
    // .. nor when somebody has stopped it
    sandbox.run(&["stop"], 0);
    let started = sandbox.json(&["start"], 0);
    assert_eq!(
        (&started["verdict"], &started["stage"]),
        (&"unconfirmed".into(), &"confirm".into()),
        "{started:#}"
    );
    assert_eq!(started["confirm_by"], asked["confirm_by"], "{started:#}");
    assert_eq!(sandbox.status()["unconfirmed"]["event"], asked["event"]);
    assert!(left(&sandbox) < before, "the time goes on");
    assert_eq!(sandbox.json(&["confirm"], 0)["verdict"], "good");
    assert_eq!(sandbox.status()["last_good"], two.as_str());
}

#[test]
fn a18_a_way_back_that_fails_is_asked_for_once() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let flag = sandbox.path("flag");
    let one = push(&sandbox, "one", &format!("version: 1\ncheck: [test, '!', -e, {}]\n", flag.display()));
    let two = push(&sandbox, "two", "");
    sandbox.run(&["activate", &one], 0);
    sandbox.write("flag", "");
    sandbox.run(&["activate", &two, "--confirm-within", "100ms"], 0);
    let status = sandbox.wait("the way back", |status| status["last"]["event"] == 3);
    assert_eq!(
        (status["last"]["verdict"].as_str(), status["current"].as_str()),
        (Some("failed"), Some(&*two))
    );
    assert!(status["advice"].to_string().contains("pointsman rollback"), "{status:#}");
    // whatever comes next is the very next event
    let next = sandbox.json(&["activate", &two], 0);
    assert_eq!(next["event"], 4, "{next:#}");
    std::fs::remove_file(flag).unwrap();
    assert_eq!(sandbox.json(&["rollback"], 0)["serving"], one.as_str());
    assert!(sandbox.status()["unconfirmed"].is_null());
}

#[test]
fn a19_a_restart_replaces_the_workers_of_one_group_or_of_all() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = push(&sandbox, "one", SLEEPERS);
    sandbox.run(&["activate", &one], 0);
    let first = sandbox.workers();
    let restarted = sandbox.json(&["restart", "a"], 0);
    assert_eq!((restarted["verdict"].as_str(), restarted["changed"].as_bool()), (Some("good"), Some(false)));
    let second = sandbox.workers();
    assert_ne!(first["a/1"], second["a/1"]);
    assert_eq!(first["b/1"], second["b/1"], "the other group is left alone");
    sandbox.run(&["restart"], 0);
    let third = sandbox.workers();
    assert!(second.iter().all(|(slot, process)| third[slot] != *process));
    let refused = sandbox.json(&["restart", "c"], 7);
    assert!(refused["reason"].as_str().unwrap().contains("the groups are: a, b"), "{refused:#}");
    assert_eq!(sandbox.status()["last_good"], one.as_str());
    sandbox.run(&["freeze"], 0);
    assert_eq!(sandbox.json(&["restart"], 7)["verdict"], "refused");
}

#[test]
fn d1_as_the_systems_systemd() {
    common::systemd::passes_under(common::systemd::Scope::System, &[], 7);
}

#[test]
fn d1_as_the_users_systemd() {
    common::systemd::passes_under(common::systemd::Scope::User, &[], 7);
}
