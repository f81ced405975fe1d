//! What an operator sees where systemd is the service manager: a real one, started by these tests. Rule numbers are
//! those of `spec/systemd.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use common::Sandbox;
use common::load::{Load, get};
use common::nginx::{Site, address, port, site};
use common::systemd::{Scope, backend, passes_under};

#[test]
fn d1_as_the_systems_systemd() {
    passes_under(Scope::System, &[], 5);
}

#[test]
fn d1_as_the_users_systemd() {
    passes_under(Scope::User, &[], 5);
}

/// The units of this sandbox, as `systemctl` lists them.
fn units(sandbox: &Sandbox, pattern: &str) -> Vec<String> {
    let whose = if backend().as_deref() == Some("systemd") { "--system" } else { "--user" };
    let run = sandbox.path("store/run");
    let hash = blake3::hash(run.to_str().unwrap().as_bytes()).to_hex();
    let mut command = std::process::Command::new("systemctl");
    command.args([whose, "list-units", "--all", "--plain", "--no-legend"]);
    let output = command.arg(format!("pointsman-{}-{pattern}", &hash[..12])).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    text.lines().map(|line| line.split_whitespace().next().unwrap().to_owned()).collect()
}

#[test]
#[ignore = "d1 runs it inside of a systemd"]
fn d4_nginx_is_replaced_under_load_refused_and_rolled_back_and_nobody_of_us_stays() {
    let sandbox = Sandbox::new();
    let port = port();
    let push = |name: &str, what: Site<'_>| {
        let source = site(&sandbox, name, port, what);
        sandbox.run(&["push", &source], 0)
    };
    let one = push("one", Site { body: "one", ..Site::default() });
    assert_eq!(sandbox.json(&["activate", &one], 0)["verdict"], "good");
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    let status = sandbox.status();
    assert_eq!(
        (&status["manager"], &status["supervisor"]),
        (&serde_json::Value::Null, &serde_json::Value::Null)
    );
    assert_eq!(status["service_manager"], backend().unwrap());
    assert_eq!(status["advice"], serde_json::json!([]), "nobody is missing");
    let before = sandbox.workers();
    assert_eq!(
        (before.len(), units(&sandbox, "worker@*").len(), units(&sandbox, "holder*").len()),
        (2, 2, 1)
    );

    let load = Load::on(address(port), &["one"]);
    load.more(200);
    let two = push("two", Site { body: "two", ..Site::default() });
    load.expect(&["one", "two"]);
    assert_eq!(sandbox.json(&["activate", &two], 0)["verdict"], "good");
    sandbox.wait("the old ones are gone", |_| before.values().all(|process| !process.is_alive()));
    load.expect(&["two"]);

    let second = sandbox.workers();
    let dies = "[ \"$POINTSMAN_INSTANCE\" = 1 ] || { echo second to none >&2; exit 3; }";
    let bad = push("bad", Site { body: "bad", before: dies, ..Site::default() });
    load.expect(&["two", "bad"]);
    let outcome = sandbox.json(&["activate", &bad], 1);
    assert_eq!(outcome["verdict"], "reverted", "{outcome:#}");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("exited with status 3\n") && reason.contains("second to none"), "{reason}");
    assert_eq!(sandbox.workers()["worker/2"], second["worker/2"], "it was not touched");
    // refused by its check: nothing was started
    let broken = push("broken", Site { body: "x", server: "nonsense;", ..Site::default() });
    assert_eq!(sandbox.json(&["activate", &broken], 1)["stage"], "canary");

    load.expect(&["one", "two"]);
    assert_eq!(sandbox.json(&["rollback"], 0)["verdict"], "good");
    sandbox.wait("only two are left", |status| status["workers"].as_array().unwrap().len() == 2);
    load.expect(&["one"]);
    load.more(200);
    let seen = load.end();
    assert_eq!(seen.failures, Vec::<String>::new());
    assert_eq!(sandbox.current(), Some(one));
    assert_eq!(units(&sandbox, "worker@*").len(), 2, "what is gone has left no unit");
}

#[test]
#[ignore = "d1 runs it inside of a systemd"]
fn d6_a_crash_is_answered_while_nobody_of_us_is_there() {
    let sandbox = Sandbox::new();
    let port = port();
    let source = site(&sandbox, "one", port, Site { body: "one", instances: 1, ..Site::default() });
    let one = sandbox.run(&["push", &source], 0);
    sandbox.run(&["activate", &one], 0);
    let first = sandbox.workers()["worker/1"];
    let load = Load::on(address(port), &["one"]);
    common::signal_to(first.pid, rustix::process::Signal::KILL);
    let again = |status: &serde_json::Value| {
        common::workers(status).get("worker/1").is_some_and(|process| *process != first)
    };
    sandbox.wait("it is there again", again);
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    load.more(50);
    drop(load.end());
    // whoever asks next counts it, and leaves it alone
    let second = sandbox.workers();
    assert_eq!(sandbox.json(&["activate", "--force", &one], 0)["verdict"], "good");
    assert_ne!(sandbox.workers(), second);
    assert_eq!(sandbox.status()["workers"][0]["exits"], 1);
}

#[test]
#[ignore = "d1 runs it inside of a systemd"]
fn d7_sockets_outlive_the_holder() {
    let sandbox = Sandbox::new();
    let port = port();
    let push = |name: &str| {
        let source = site(&sandbox, name, port, Site { body: name, ..Site::default() });
        sandbox.run(&["push", &source], 0)
    };
    let (one, two) = (push("one"), push("two"));
    sandbox.run(&["activate", &one], 0);
    let load = Load::on(address(port), &["one", "two"]);
    let holder = || {
        let pids = sandbox.processes();
        let is = |pid: &u32| {
            let line = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
            String::from_utf8_lossy(&line).contains("\0holder\0")
        };
        pids.into_iter().find(is).and_then(common::process)
    };
    let first = holder().unwrap();
    common::signal_to(first.pid, rustix::process::Signal::KILL);
    sandbox.wait("another holder", |_| holder().is_some_and(|now| now != first));
    let outcome = sandbox.json(&["activate", &two], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    load.more(100);
    assert_eq!(load.end().failures, Vec::<String>::new());
    assert_eq!(get(address(port)).as_deref(), Ok("two"));
}

#[test]
#[ignore = "d1 runs it inside of a systemd"]
fn d2_the_words_of_the_pipeline_are_those_of_the_unit() {
    let sandbox = Sandbox::new();
    let worker = "  memory: 300MiB\n  grace_shutdown_time: 7s\n  restart: {on: always, backoff: 3s..9s}";
    let what = Site { body: "one", instances: 1, worker, ..Site::default() };
    let source = site(&sandbox, "one", port(), what);
    let one = sandbox.run(&["push", &source], 0);
    sandbox.run(&["activate", &one], 0);
    let [unit] = &units(&sandbox, "worker@*")[..] else { panic!() };
    let whose = if backend().as_deref() == Some("systemd") { "--system" } else { "--user" };
    let mut command = std::process::Command::new("systemctl");
    let output = command.args([whose, "show", unit]).output().unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    for line in [
        "MemoryMax=314572800",
        "OOMPolicy=kill",
        "TimeoutStopUSec=7s",
        "KillSignal=3",
        "KillMode=mixed",
        "Restart=always",
        "RestartUSec=3s",
    ] {
        assert!(said.lines().any(|known| known == line), "{line} in:\n{said}");
    }
}

#[test]
#[ignore = "d1 runs it inside of a systemd"]
fn d10_whoever_has_workers_keeps_them() {
    let sandbox = Sandbox::new();
    let source = site(&sandbox, "one", port(), Site { body: "one", instances: 1, ..Site::default() });
    let one = sandbox.run(&["push", &source], 0);
    sandbox.run(&["activate", &one], 0);
    sandbox.write("store/host.yaml", "pipeline: pushed\nservice_manager: supervisor\n");
    let said = sandbox.error(&["activate", "--force", &one], 5);
    assert!(said.contains("runs workers of this service"), "{said}");
    sandbox.write("store/host.yaml", "pipeline: pushed\n");
    assert_eq!(sandbox.json(&["activate", "--force", &one], 0)["verdict"], "good");
}

#[test]
#[ignore = "d1 runs it inside of a systemd"]
fn d7_a_holder_that_is_not_to_be_found_is_started_again_with_all_it_has() {
    let sandbox = Sandbox::new();
    let port = port();
    let push = |name: &str| {
        let source = site(&sandbox, name, port, Site { body: name, ..Site::default() });
        sandbox.run(&["push", &source], 0)
    };
    let (one, two) = (push("one"), push("two"));
    sandbox.run(&["activate", &one], 0);
    // as where the run directory was moved away with a store
    std::fs::remove_file(sandbox.path("store/run/holder.sock")).unwrap();
    let load = Load::on(address(port), &["one", "two"]);
    let outcome = sandbox.json(&["activate", &two], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    load.more(50);
    assert_eq!(load.end().failures, Vec::<String>::new());
}
