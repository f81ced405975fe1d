//! The live canary, as an operator and the clients see it: rule A20 of `spec/activation.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::process::Command;
use std::time::Instant;

use common::load::{Load, get};
use common::nginx::{Site, address, port, site};
use common::{PATIENCE, PROGRAM, Process, Sandbox, end, greeter, process, until};
use rustix::process::Signal;
use serde_json::Value;

/// A generation of the example server. Lines of shell come before it; only in a canary is
/// `$POINTSMAN_INSTANCE` 0.
#[derive(Clone, Copy, Default)]
struct Greeter<'a> {
    body: &'a str,
    before: &'a str,
    /// the probe and more of the canary
    canary: &'a str,
    /// more of the worker
    worker: &'a str,
    pipeline: &'a str,
}

/// Pushes a generation that serves on `port`.
fn push(sandbox: &Sandbox, port: u16, of: Greeter<'_>) -> String {
    let Greeter { body, before, canary, worker, pipeline } = of;
    sandbox.write(&format!("{body}/body"), body);
    let start = format!("{before}\necho ready > \"$POINTSMAN_RUN/ready\"\nexec {}\n", greeter().display());
    sandbox.write(&format!("{body}/start"), &start);
    let canary = match canary {
        "" => String::new(),
        canary => format!("canary: {{{canary}}}\n"),
    };
    let text = format!(
        "version: 1\nprobation: 0s\ncheck_timeout: 10s\n{canary}{pipeline}worker:\n  command: [sh, '{{config}}/start', '{{loaded}}']\n  \
         listen: {{http: 'tcp://127.0.0.1:{port}'}}\n  ready: {{file: '{{run}}/ready'}}\n  {worker}\n"
    );
    let text = if pipeline.contains("loader") { text } else { text.replace(", '{loaded}'", "") };
    sandbox.write(&format!("{body}/pointsman.yaml"), &text);
    sandbox.run(&["push", body], 0)
}

/// A sandbox in which generation `one` serves, without a canary.
fn serving() -> (Sandbox, u16) {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let port = port();
    let one = push(&sandbox, port, Greeter { body: "one", ..Greeter::default() });
    sandbox.run(&["activate", &one], 0);
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    (sandbox, port)
}

/// Activates what has to fail in its canary, after which everything is as before and nothing is left.
fn refuses(sandbox: &Sandbox, port: u16, bad: Greeter<'_>) -> String {
    let (current, before) = (sandbox.current(), sandbox.workers());
    let bad = push(sandbox, port, bad);
    let outcome = sandbox.json(&["activate", &bad], 1);
    assert_eq!((&outcome["verdict"], &outcome["stage"]), (&"failed".into(), &"canary".into()), "{outcome:#}");
    assert_eq!((sandbox.current(), sandbox.workers()), (current, before));
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    nothing_left(sandbox);
    outcome["reason"].as_str().unwrap().to_owned()
}

/// No process of a canary, and no directory of one.
fn nothing_left(sandbox: &Sandbox) {
    let names = std::fs::read_dir(sandbox.path("store/run/p")).unwrap();
    let names: Vec<String> = names.map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
    assert!(names.iter().all(|name| !name.starts_with('x')), "{names:?}");
    let canary = |pid: &u32| environment(*pid).is_some_and(|text| text.contains("POINTSMAN_INSTANCE=0\0"));
    assert_eq!(sandbox.processes().into_iter().filter(canary).collect::<Vec<_>>(), Vec::<u32>::new());
}

fn environment(pid: u32) -> Option<String> {
    process(pid)?;
    Some(String::from_utf8_lossy(&std::fs::read(format!("/proc/{pid}/environ")).ok()?).into_owned())
}

/// The process whose pid something wrote to a file of the sandbox.
fn written(sandbox: &Sandbox, name: &str) -> Process {
    let read = || process(std::fs::read_to_string(sandbox.path(name)).ok()?.trim().parse().ok()?);
    let begun = Instant::now();
    loop {
        if let Some(process) = read() {
            return process;
        }
        assert!(begun.elapsed() < PATIENCE, "{name} is not written");
        std::thread::sleep(std::time::Duration::from_millis(5));
    }
}

fn step(outcome: &Value) -> Value {
    let steps = outcome["steps"].as_array().unwrap();
    steps.iter().find(|step| step["step"] == "canary").unwrap_or_else(|| panic!("{outcome:#}")).clone()
}

/// Says what answers at the address given first.
const ASK: &str = "exec 3<>/dev/tcp/${1%:*}/${1#*:}; printf \"GET / HTTP/1.0\\r\\n\\r\\n\" >&3; cat <&3";

#[test]
fn a20_a_canary_passes_and_no_client_ever_meets_it() {
    let (sandbox, port) = serving();
    sandbox.write("ask", ASK);
    let (said, go) = (sandbox.path("said"), sandbox.path("go"));
    let canary = format!(
        "probe: {{command: [bash, -c, 'bash {} {{addr:http}} > {}.new && mv {}.new {}; while ! test -e {}; do sleep 0.01; done']}}",
        sandbox.path("ask").display(),
        said.display(),
        said.display(),
        said.display(),
        go.display()
    );
    let two = push(&sandbox, port, Greeter { body: "two", canary: &canary, ..Greeter::default() });
    let load = Load::on(address(port), &["one"]);
    load.more(50);
    let asked = sandbox.background(&["activate", &two]);
    until("the probe's answer", || said.exists());
    load.more(200);
    assert!(std::fs::read_to_string(&said).unwrap().ends_with("\r\n\r\ntwo"), "the probe met the candidate");
    load.expect(&["one", "two"]);
    std::fs::write(&go, "").unwrap();
    let outcome = end(asked, 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    let step = step(&outcome);
    assert_eq!((&step["result"], &step["stage"]), (&"ok".into(), &"canary".into()));
    assert!(
        step["why"]
            .as_str()
            .unwrap()
            .starts_with("one process of worker on sockets of its own, probed by `bash")
    );
    nothing_left(&sandbox);
    load.more(50);
    assert_eq!(load.end().failures, Vec::<String>::new());
}

#[test]
fn a20_a_canary_that_never_gets_ready_fails_the_activation() {
    let (sandbox, port) = serving();
    let before = "echo warming up; echo $$ > ../../../pid; exec sleep 1000"
        .replace("../../../pid", sandbox.path("pid").to_str().unwrap());
    let bad = Greeter {
        body: "bad",
        before: &before,
        canary: "probe: {command: 'true'}",
        worker: "start_timeout: 700ms",
        ..Greeter::default()
    };
    let reason = refuses(&sandbox, port, bad);
    assert_eq!(reason, "canary: it was not ready within 700ms\nthe worker said:\nwarming up");
}

#[test]
fn a20_a_canary_that_dies_fails_the_activation() {
    let (sandbox, port) = serving();
    let bad = Greeter {
        body: "early",
        before: "echo no such rule >&2; exit 3",
        canary: "probe: {command: 'true'}",
        ..Greeter::default()
    };
    let reason = refuses(&sandbox, port, bad);
    assert_eq!(reason, "canary: it exited with status 3 before it was ready\nthe worker said:\nno such rule");
    // dead when it is asked
    let bad = Greeter {
        body: "late",
        before: "echo ready > \"$POINTSMAN_RUN/ready\"; echo cannot go on; exit 4",
        canary: "probe: {command: [sleep, '1000']}",
        ..Greeter::default()
    };
    let reason = refuses(&sandbox, port, bad);
    assert!(reason.starts_with("canary: it exited with status 4 when"), "{reason}");
    assert!(reason.ends_with("cannot go on"), "{reason}");
}

#[test]
fn a20_a_probe_that_fails_or_hangs_fails_the_activation() {
    let (sandbox, port) = serving();
    let fails = "probe: {command: [sh, -c, 'echo no answer; exit 9']}";
    let reason = refuses(&sandbox, port, Greeter { body: "no", canary: fails, ..Greeter::default() });
    assert!(reason.starts_with("canary: `sh -c"), "{reason}");
    assert!(reason.contains(": exited with status 9\nno answer\nthe worker said:\n"), "{reason}");
    let hangs = format!(
        "probe: {{command: [sh, -c, 'echo $$ > {}; exec sleep 1000']}}",
        sandbox.path("pid").display()
    );
    let bad = Greeter { body: "hangs", canary: &hangs, pipeline: "", ..Greeter::default() };
    let id = push(&sandbox, port, bad);
    let text = std::fs::read_to_string(sandbox.path("hangs/pointsman.yaml")).unwrap();
    sandbox.write("hangs/pointsman.yaml", &text.replace("check_timeout: 10s", "check_timeout: 700ms"));
    assert_ne!(sandbox.run(&["push", "hangs"], 0), id);
    let outcome = sandbox.json(&["deploy", "hangs"], 1);
    assert_eq!(outcome["stage"], "canary");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("took longer than 700ms and was killed"), "{reason}");
    nothing_left(&sandbox);
    let http = "probe: {http: 'http://{addr:http}/up'}";
    let before =
        "test $POINTSMAN_INSTANCE = 0 && { echo ready > \"$POINTSMAN_RUN/ready\"; exec sleep 1000; }";
    let id = push(&sandbox, port, Greeter { body: "silent", canary: http, before, ..Greeter::default() });
    let text = std::fs::read_to_string(sandbox.path("silent/pointsman.yaml")).unwrap();
    sandbox.write("silent/pointsman.yaml", &text.replace("check_timeout: 10s", "check_timeout: 700ms"));
    let outcome = sandbox.json(&["deploy", "silent"], 1);
    assert_ne!(outcome["target"], id.as_str());
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.starts_with("canary: GET http://127.0.0.1:"), "{reason}");
    nothing_left(&sandbox);
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    let good = push(&sandbox, port, Greeter { body: "good", canary: http, ..Greeter::default() });
    assert_eq!(sandbox.json(&["activate", &good], 0)["verdict"], "good");
}

#[test]
fn a20_a_group_that_is_asked_whether_it_is_ready_is_asked_on_the_canary_s_sockets() {
    let (sandbox, port) = serving();
    let asked = sandbox.path("asked");
    let text = |body: &str, before: &str| {
        sandbox.write(&format!("{body}/body"), body);
        let start = format!("{before}\nexec {}\n", greeter().display());
        sandbox.write(&format!("{body}/start"), &start);
        let probe = format!("[sh, -c, 'echo {{addr:http}} >> {}']", asked.display());
        let pipeline = format!(
            "version: 1\nprobation: 0s\ncanary: {{network: private, probe: {{command: {probe}}}}}\nworker:\n  command: [sh, '{{config}}/start']\n  \
             listen: {{http: 'tcp://127.0.0.1:{port}'}}\n  ready: {{http: 'http://{{addr:http}}/'}}\n  start_timeout: 2s\n"
        );
        sandbox.write(&format!("{body}/pointsman.yaml"), &pipeline);
        body.to_owned()
    };
    let outcome = sandbox.json(&["deploy", &text("two", "")], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    assert_eq!(std::fs::read_to_string(&asked).unwrap(), format!("127.0.0.1:{port}\n"));
    assert_eq!(get(address(port)).as_deref(), Ok("two"));
    let outcome = sandbox.json(&["deploy", &text("bad", "exec sleep 1000")], 1);
    assert_eq!(outcome["stage"], "canary", "{outcome:#}");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.starts_with("canary: it was not ready within 2s\nGET http://127.0.0.1:"), "{reason}");
    nothing_left(&sandbox);
}

#[test]
fn a20_a_canary_gets_every_socket_of_its_group_elsewhere() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let (http, udp) = (port(), port());
    let (seen, real) = (sandbox.path("seen"), sandbox.path("real.sock"));
    sandbox.write("two/body", "two");
    sandbox.write(
        "two/start",
        &format!(
            "echo \"$POINTSMAN_INSTANCE $LISTEN_FDNAMES $*\" >> {}; test -S \"$2\" || exit 5\nexec {}\n",
            seen.display(),
            greeter().display()
        ),
    );
    for network in ["host", "private"] {
        let pipeline = format!(
            "version: 1\nprobation: 0s\ncanary: {{network: {network}, probe: {{command: [test, -S, '{{addr:sock}}']}}}}\nworker:\n  \
             command: [sh, '{{config}}/start', '{{addr:http}}', '{{addr:sock}}', '{{addr:udp}}', '{{fd:udp}}']\n  ready: notify\n  \
             listen: {{http: 'tcp://127.0.0.1:{http}', sock: 'unix://{}', udp: 'udp://127.0.0.1:{udp}'}}\n",
            real.display()
        );
        sandbox.write("two/pointsman.yaml", &pipeline);
        let outcome = sandbox.json(&["deploy", "two"], 0);
        assert_eq!(outcome["verdict"], "good", "{outcome:#}");
        let text = std::fs::read_to_string(&seen).unwrap();
        let [canary, worker] = text.lines().collect::<Vec<_>>()[..] else { panic!("{text}") };
        let real = format!("127.0.0.1:{http} {} 127.0.0.1:{udp} 5", real.display());
        assert_eq!(worker, format!("1 http:sock:udp {real}"));
        let words: Vec<&str> = canary.split(' ').collect();
        assert_eq!((words[0], words[1], words[5]), ("0", "http:sock:udp", "5"));
        assert!(words[3].ends_with("/listen-sock"), "{canary}");
        let elsewhere = words[2] != format!("127.0.0.1:{http}") && words[4] != format!("127.0.0.1:{udp}");
        assert_eq!(elsewhere, network == "host", "{canary}");
        std::fs::remove_file(&seen).unwrap();
    }
    nothing_left(&sandbox);
}

#[test]
fn a20_whatever_a_canary_has_started_is_gone_afterwards() {
    let (sandbox, port) = serving();
    let before = format!(
        "if test $POINTSMAN_INSTANCE = 0; then setsid sleep 1000 & echo $! > {}; trap '' TERM; echo ready > \"$POINTSMAN_RUN/ready\"\n\
         while :; do sleep 0.05; done; fi",
        sandbox.path("child").display()
    );
    let probe =
        format!("probe: {{command: [sh, -c, 'cat {0} > {0}.seen']}}", sandbox.path("child").display());
    let two = push(
        &sandbox,
        port,
        Greeter {
            body: "two",
            before: &before,
            canary: &probe,
            worker: "grace_shutdown_time: 300ms",
            ..Greeter::default()
        },
    );
    let asked = sandbox.background(&["activate", &two]);
    let child = written(&sandbox, "child");
    let outcome = end(asked, 0);
    assert_eq!(outcome["verdict"], "good", "one that does not listen to TERM has passed all the same");
    assert!(!child.is_alive(), "it had a session of its own");
    nothing_left(&sandbox);
    assert_eq!(get(address(port)).as_deref(), Ok("two"));
}

/// A canary that waits for the end of its probe, which does not come.
fn waiting<'a>(sandbox: &Sandbox, before: &'a mut String, canary: &'a mut String) -> Greeter<'a> {
    *before = format!(
        "if test $POINTSMAN_INSTANCE = 0; then setsid sleep 1000 & echo $! > {}; echo $$ > {}; fi",
        sandbox.path("child").display(),
        sandbox.path("worker").display()
    );
    *canary = format!(
        "probe: {{command: [sh, -c, 'echo $$ > {}; test -e {} || exec sleep 1000']}}",
        sandbox.path("probe").display(),
        sandbox.path("go").display()
    );
    Greeter { body: "two", before, canary, ..Greeter::default() }
}

#[test]
fn a20_withdrawn_or_preempted_a_canary_ends_at_once() {
    let (mut sandbox, port) = serving();
    let (mut before, mut canary) = (String::new(), String::new());
    let two = push(&sandbox, port, waiting(&sandbox, &mut before, &mut canary));
    let asked = sandbox.background(&["activate", &two]);
    let processes = ["probe", "worker", "child"].map(|name| written(&sandbox, name));
    let one = sandbox.current().unwrap();
    sandbox.run(&["rollback", &one], 0);
    assert_eq!(end(asked, 5)["verdict"], "superseded");
    assert!(processes.iter().all(|process| !process.is_alive()), "{processes:?}");
    nothing_left(&sandbox);
    for name in ["probe", "worker", "child"] {
        std::fs::remove_file(sandbox.path(name)).unwrap();
    }
    let asked = sandbox.background(&["activate", "--force", &two]);
    let processes = ["probe", "worker", "child"].map(|name| written(&sandbox, name));
    sandbox.end_manager(Signal::TERM);
    assert!(processes.iter().all(|process| !process.is_alive()), "{processes:?}");
    let outcome = end(asked, 1);
    assert_eq!((&outcome["verdict"], &outcome["stage"]), (&"failed".into(), &"canary".into()), "{outcome:#}");
    assert!(outcome["reason"].as_str().unwrap().contains("withdrawn by"), "{outcome:#}");
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}

#[test]
fn a20_a_killed_manager_leaves_no_canary_and_the_next_tries_again() {
    let (mut sandbox, port) = serving();
    let (mut before, mut canary) = (String::new(), String::new());
    let two = push(&sandbox, port, waiting(&sandbox, &mut before, &mut canary));
    let asked = sandbox.background(&["activate", "--no-wait", &two]);
    let [probe, worker, child] = ["probe", "worker", "child"].map(|name| written(&sandbox, name));
    end(asked, 0);
    sandbox.end_manager(Signal::KILL);
    until("the worker and its probe go with it", || !probe.is_alive() && !worker.is_alive());
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    std::fs::write(sandbox.path("go"), "").unwrap();
    sandbox.start_manager();
    let status = sandbox.wait("the verdict", |status| status["last"]["verdict"] == "good");
    assert_eq!(status["current"], two.as_str());
    assert!(!child.is_alive(), "what it had started is gone, too");
    nothing_left(&sandbox);
}

#[test]
fn a20_a_private_network_has_the_real_address_while_the_real_one_serves_on_it() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let port = port();
    sandbox.write("ask", ASK);
    let said = sandbox.path("said");
    let canary = format!(
        "canary: {{network: private, probe: {{command: [bash, -c, 'bash {} 127.0.0.1:{port} >> {}']}}}}\n",
        sandbox.path("ask").display(),
        said.display()
    );
    let site = |body| site(&sandbox, body, port, Site { body, pipeline: &canary, ..Site::default() });
    for body in ["one", "two"] {
        let outcome = sandbox.json(&["deploy", &site(body)], 0);
        assert_eq!(outcome["verdict"], "good", "{outcome:#}");
        assert!(step(&outcome)["why"].as_str().unwrap().contains("in a network of its own"));
        assert!(std::fs::read_to_string(&said).unwrap().ends_with(body), "the probe met the candidate");
        assert_eq!(get(address(port)).as_deref(), Ok(body));
    }
    nothing_left(&sandbox);
    let bad = canary.replace("127.0.0.1:", "192.0.2.1:");
    let bad =
        common::nginx::site(&sandbox, "bad", port, Site { body: "bad", pipeline: &bad, ..Site::default() });
    let outcome = sandbox.json(&["deploy", &bad], 1);
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("there is no DNS and no route in there"), "{reason}");
    assert_eq!(get(address(port)).as_deref(), Ok("two"));
}

#[test]
fn a20_a_private_network_is_given_the_sockets_of_the_group_and_more_addresses() {
    let (sandbox, port) = serving();
    let canary = "network: private, addresses: [192.0.2.7, 'fd00::7'], probe: {http: 'http://{addr:http}/'}";
    let before = format!(
        "test $POINTSMAN_INSTANCE != 0 || {{ ip -o address > {0}; cat /proc/sys/net/ipv4/ip_unprivileged_port_start > {0}.ports; }}",
        sandbox.path("addresses").display()
    );
    let two = push(&sandbox, port, Greeter { body: "two", canary, before: &before, ..Greeter::default() });
    let outcome = sandbox.json(&["activate", &two], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    let ports = std::fs::read_to_string(sandbox.path("addresses.ports")).unwrap();
    assert_eq!(ports, std::fs::read_to_string("/proc/sys/net/ipv4/ip_unprivileged_port_start").unwrap());
    let addresses = std::fs::read_to_string(sandbox.path("addresses")).unwrap_or_default();
    if !addresses.is_empty() {
        assert!(addresses.contains("192.0.2.7/32") && addresses.contains("fd00::7/128"), "{addresses}");
        assert!(addresses.lines().all(|line| line.contains(": lo ")), "{addresses}");
    }
}

#[test]
fn a20_a_rollback_tries_only_what_was_never_good_here() {
    let (sandbox, port) = serving();
    let count = sandbox.path("count");
    let canary = format!("probe: {{command: [sh, -c, 'echo probed >> {}']}}", count.display());
    let probed = || std::fs::read_to_string(&count).unwrap_or_default().lines().count();
    let one = sandbox.current().unwrap();
    let two = push(&sandbox, port, Greeter { body: "two", canary: &canary, ..Greeter::default() });
    let new = push(&sandbox, port, Greeter { body: "new", canary: &canary, ..Greeter::default() });
    sandbox.run(&["activate", &two], 0);
    sandbox.run(&["activate", &one], 0);
    assert_eq!(probed(), 1);
    let outcome = sandbox.json(&["rollback", &two], 0);
    let skipped = step(&outcome);
    assert_eq!((&skipped["result"], probed()), (&"skipped".into(), 1));
    assert_eq!(skipped["why"], format!("this machine has seen {} good", &two[..8]), "{outcome:#}");
    assert_eq!(step(&sandbox.json(&["rollback", &new], 0))["result"], "ok");
    assert_eq!(probed(), 2);
    sandbox.run(&["activate", "--force", &two], 0);
    assert_eq!(probed(), 3, "an activate tries it always");
}

#[test]
fn a20_check_tries_a_generation_and_says_that_it_does_not_try_a_directory() {
    let (sandbox, port) = serving();
    let fails = "probe: {command: [sh, -c, 'echo no answer; exit 9']}";
    let bad = push(&sandbox, port, Greeter { body: "bad", canary: fails, ..Greeter::default() });
    let report = sandbox.json(&["check", &bad], 1);
    assert!(report["reason"].as_str().unwrap().contains("no answer"), "{report:#}");
    assert!(report["ran"][0].as_str().unwrap().starts_with("canary"), "{report:#}");
    let report = sandbox.json(&["check", "./bad"], 0);
    assert_eq!(report["ran"], serde_json::json!([]));
    assert!(report["note"].as_str().unwrap().contains("canary"), "{report:#}");
    let loads = "loader: {command: [sh, -c, 'echo rules > $1/rules', sh, '{loaded}']}\n";
    let before = "test -s \"$1/rules\" || exit 5";
    let probe = "probe: {command: [grep, -q, rules, '{loaded}/rules']}";
    let good = push(
        &sandbox,
        port,
        Greeter { body: "good", canary: probe, before, pipeline: loads, ..Greeter::default() },
    );
    let report = sandbox.json(&["check", &good], 0);
    assert_eq!(report["ran"].as_array().unwrap().len(), 2, "{report:#}");
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
    nothing_left(&sandbox);
}

#[test]
fn a20_without_the_right_to_namespaces_a_private_network_is_refused() {
    // a user namespace in which no more of them may be made
    let sandbox = Sandbox::new();
    let canary = "network: private, probe: {command: 'true'}";
    let two = push(&sandbox, port(), Greeter { body: "two", canary, ..Greeter::default() });
    let script = format!(
        "echo 0 > /proc/sys/user/max_net_namespaces && exec {PROGRAM} --store {} check {two}",
        sandbox.path("store").display()
    );
    let output =
        Command::new("unshare").args(["--user", "--map-root-user", "sh", "-c", &script]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(7), "{said}");
    assert!(said.contains("canary: network: private: cannot make a network namespace"), "{said}");
    assert!(said.contains("it needs root, or user namespaces"), "{said}");
}

#[test]
fn a21_each_process_has_a_writable_copy_of_its_own() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let port = port();
    let loads = "loader: {command: [sh, -c, 'mkdir $1/db; echo rules > $1/db/rules', sh, '{loaded}']}\n";
    let seen = sandbox.path("seen");
    let before = format!(
        "test \"$1\" = \"$POINTSMAN_LOADED\" || exit 5\necho \"$POINTSMAN_INSTANCE $1 $(cat $1/db/rules)\" >> {}\n\
         echo $POINTSMAN_INSTANCE >> $1/db/rules; echo lock > $1/db/lock",
        seen.display()
    );
    let two = Greeter {
        body: "two",
        before: &before,
        canary: "probe: {command: [grep, -q, '0', '{loaded}/db/rules']}",
        worker: "loaded: copy\n  instances: 2",
        pipeline: loads,
    };
    let id = push(&sandbox, port, two);
    let outcome = sandbox.json(&["activate", &id], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    let run = sandbox.path("store/run/p").display().to_string();
    let text = std::fs::read_to_string(&seen).unwrap();
    let lines: Vec<Vec<&str>> = text.lines().map(|line| line.split(' ').collect()).collect();
    assert_eq!(lines.iter().map(|line| line[0]).collect::<Vec<_>>(), ["0", "1", "2"]);
    assert!(lines.iter().all(|line| line[1].starts_with(&run) && line[2] == "rules"), "{text}");
    let copies: Vec<&str> = lines[1..].iter().map(|line| line[1]).collect();
    assert_eq!(std::fs::read_to_string(format!("{}/db/rules", copies[1])).unwrap(), "rules\n2\n");
    assert!(!std::path::Path::new(lines[0][1]).exists(), "the canary's is gone with it");
    assert_eq!(sandbox.json(&["verify"], 0)["ok"], true, "what is sealed is as it was");
    sandbox.run(&["restart"], 0);
    sandbox.wait("the old directories are gone", |_| {
        copies.iter().all(|copy| !std::path::Path::new(copy).exists())
    });
}

#[test]
fn a21_a_disk_too_full_for_the_copy_is_a_failed_start_that_says_so() {
    let (sandbox, port) = serving();
    let loads = "loader: {command: [sh, -c, 'head -c 3000000 /dev/zero > $1/big', sh, '{loaded}']}\n";
    let two = Greeter { body: "two", worker: "loaded: copy", pipeline: loads, ..Greeter::default() };
    let id = push(&sandbox, port, two);
    let run = sandbox.path("store/run/p");
    let full =
        Command::new("mount").args(["-t", "tmpfs", "-o", "size=1m", "tmpfs"]).arg(&run).output().unwrap();
    if !full.status.success() {
        // nobody may mount here: the way is walked where somebody may
        return;
    }
    let output = sandbox.command(&["--json", "activate", &id]).output().unwrap();
    Command::new("umount").arg("-l").arg(&run).status().unwrap();
    let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(outcome["verdict"], "reverted", "{outcome:#}");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(
        reason.contains("cannot copy the loader's output") && reason.contains("No space left"),
        "{reason}"
    );
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}

#[test]
fn a7_a_loader_that_never_stops_talking_is_ended_and_its_last_words_are_told() {
    let (sandbox, port) = serving();
    let child = sandbox.path("child");
    let loads = format!(
        "loader: {{timeout: 1s, command: [sh, -c, 'sleep 1000 & echo $! > {}; yes flood | head -c 30000000; echo stuck with {{loaded}}; wait']}}\n",
        child.display()
    );
    let bad = Greeter { body: "bad", pipeline: &loads, ..Greeter::default() };
    let id = push(&sandbox, port, bad);
    let outcome = sandbox.json(&["activate", &id], 1);
    assert_eq!((&outcome["verdict"], &outcome["stage"]), (&"failed".into(), &"loader".into()), "{outcome:#}");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.starts_with("loader: it took longer than 1s and was killed\n"), "{reason:.200}");
    assert!(reason.lines().last().unwrap().starts_with("stuck with /"), "{} bytes", reason.len());
    assert!(reason.len() < 66_000, "{}", reason.len());
    let pid = std::fs::read_to_string(&child).unwrap().trim().parse().unwrap();
    until("its child is gone", || process(pid).is_none());
    let log = sandbox.path(&format!("store/run/log/stages.{}.log", outcome["event"]));
    assert!(std::fs::metadata(log).unwrap().len() < 70_000);
    assert_eq!(get(address(port)).as_deref(), Ok("one"));
}
