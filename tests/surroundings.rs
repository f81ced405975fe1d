//! Who a worker is, what it may take and where it starts; what is said of it, and told to it. Rules P17 to P24 of
//! `spec/pipeline.md`, W19 to W26 of `spec/workers.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use common::Sandbox;

/// The user that a worker becomes: there is one of this name everywhere.
const USER: &str = "www-data";

/// Whether this test can be done at all: what takes root says so where it is skipped.
fn is_root() -> bool {
    let root = rustix::process::geteuid().is_root();
    if !root {
        eprintln!("skipped: only root can run a worker as another user");
    }
    root
}

/// A sandbox that other users can look into.
fn open() -> Sandbox {
    let mut sandbox = Sandbox::new();
    std::fs::set_permissions(sandbox.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.start_manager();
    sandbox
}

/// Writes `name` with one group that runs `script` and has these words; gives the directory.
fn write(sandbox: &Sandbox, name: &str, script: &str, words: &str) -> String {
    sandbox.write(&format!("{name}/script"), script);
    let words = words.replace('\n', "\n  ");
    let pipeline = format!(
        "version: 1\nprobation: 0s\nworker:\n  command: sh {{config}}/script\n  start_timeout: 10s\n  {words}\n"
    );
    sandbox.write(&format!("{name}/pointsman.yaml"), &pipeline.replace("\n  TOP ", "\n"));
    sandbox.path(name).display().to_string()
}

/// Deploys it, insists on `good`, and gives the outcome.
fn deploy(sandbox: &Sandbox, name: &str, script: &str, words: &str) -> serde_json::Value {
    let directory = write(sandbox, name, script, words);
    let outcome = sandbox.json(&["deploy", &directory], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    outcome
}

/// The `{run}` of the only worker.
fn run_of(sandbox: &Sandbox) -> std::path::PathBuf {
    let (_, process) = sandbox.workers().pop_first().unwrap();
    let environment = std::fs::read(format!("/proc/{}/environ", process.pid)).unwrap();
    let mut words = environment.split(|&byte| byte == 0);
    let run = words.find_map(|word| word.strip_prefix(b"POINTSMAN_RUN=")).unwrap();
    String::from_utf8(run.to_vec()).unwrap().into()
}

/// What the only worker has written to a file of its `{run}`.
fn said(sandbox: &Sandbox, file: &str) -> String {
    std::fs::read_to_string(run_of(sandbox).join(file)).unwrap()
}

const READY: &str = "ready: {file: '{run}/ready'}";

#[test]
fn p17_a_worker_is_its_user_and_owns_what_it_is_given() {
    if !is_root() {
        return;
    }
    let sandbox = open();
    let script = "id -u >$POINTSMAN_RUN/id; id -g >>$POINTSMAN_RUN/id; echo $USER $HOME >>$POINTSMAN_RUN/id
cd $POINTSMAN_RUN; echo to the log >/dev/stderr; touch file; readlink config >ready; exec sleep 1000";
    let words = format!("user: {USER}\numask: \"027\"\n{READY}");
    let outcome = deploy(&sandbox, "one", script, &words);
    assert_eq!(said(&sandbox, "id"), "33\n33\nwww-data /var/www\n");
    let run = run_of(&sandbox);
    let meta = |path: &str| std::fs::metadata(run.join(path)).unwrap();
    assert_eq!((meta("").uid(), meta("").gid()), (33, 33));
    assert_eq!(meta("file").mode() & 0o777, 0o640);
    assert!(
        said(&sandbox, "ready").trim().ends_with(&format!("{}/tree", outcome["target"].as_str().unwrap()))
    );
    let (_, process) = sandbox.workers().pop_first().unwrap();
    let status = std::fs::read_to_string(format!("/proc/{}/status", process.pid)).unwrap();
    let capabilities = status.lines().find(|line| line.starts_with("CapEff:")).unwrap();
    assert!(capabilities.ends_with("\t0000000000000000"), "{capabilities}");
    assert!(status.contains("\nUid:\t33\t33\t33\t33\n"), "it cannot go back: {status}");
}

#[test]
fn p17_notify_and_sockets_work_for_another_user() {
    if !is_root() {
        return;
    }
    let sandbox = open();
    let port = common::nginx::port();
    let directory = sandbox.path("one");
    sandbox.write("one/body", "hello");
    let greeter = common::greeter();
    let open = sandbox.path("greeter");
    std::fs::copy(greeter, &open).unwrap();
    let pipeline = format!(
        "version: 1\nprobation: 0s\ncanary: {{probe: {{http: \"http://{{addr:http}}/\"}}}}\nworker:\n  command: {}\n  listen: {{http: \"tcp://127.0.0.1:{port}\"}}\n  ready: notify\n  user: {USER}\n",
        open.display()
    );
    sandbox.write("one/pointsman.yaml", &pipeline);
    let outcome = sandbox.json(&["deploy", &directory.display().to_string()], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    let (_, process) = sandbox.workers().pop_first().unwrap();
    assert_eq!(std::fs::metadata(format!("/proc/{}", process.pid)).unwrap().uid(), 33);
}

#[test]
fn p17_a_user_that_cannot_be_is_refused_before_anything_runs() {
    let sandbox = open();
    let directory = write(&sandbox, "one", "exit 3", &format!("user: no-such-user\n{READY}"));
    let outcome = sandbox.json(&["deploy", &directory], 7);
    assert_eq!(outcome["verdict"], "refused", "{outcome:#}");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("there is no user `no-such-user` in /etc/passwd"), "{reason}");
    if !rustix::process::geteuid().is_root() {
        let directory = write(&sandbox, "two", "exit 3", &format!("user: root\n{READY}"));
        let outcome = sandbox.json(&["deploy", &directory], 7);
        assert!(outcome["reason"].as_str().unwrap().contains("only root can run workers as `root`"));
    }
}

#[test]
fn p18_private_files_are_read_by_the_group_of_the_host_file() {
    if !is_root() {
        return;
    }
    let sandbox = open();
    let script = "cat $POINTSMAN_CONFIG/key >$POINTSMAN_RUN/key || exit 4\necho 1 >$POINTSMAN_RUN/ready; exec sleep 1000";
    let words = format!("user: {USER}\n{READY}");
    let directory = write(&sandbox, "one", script, &words);
    let key = sandbox.write("one/key", "secret");
    std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
    let outcome = sandbox.json(&["deploy", &directory], 1);
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("Permission denied"), "{reason}");
    // a doubt alone, where the worker gets ready all the same
    let fine = "[ -e $POINTSMAN_CONFIG/key ] && echo 1 >$POINTSMAN_RUN/ready; exec sleep 1000";
    write(&sandbox, "one", fine, &words);
    let outcome = sandbox.json(&["deploy", &directory], 0);
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("`www-data` cannot read key, which is private"), "{reason}");
    let host = |workers: bool| {
        sandbox.host(&format!("pipeline: pushed\ngroup: {{name: '50', workers: {workers}}}\n"));
    };
    host(true);
    // what was pushed before keeps the rights it had
    write(&sandbox, "one", &format!("{script}\n# anew"), &words);
    let outcome = sandbox.json(&["deploy", &directory], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    assert!(!outcome["reason"].as_str().unwrap().contains("private"), "{outcome:#}");
    assert_eq!(said(&sandbox, "key"), "secret");
}

#[test]
fn p19_limits_umask_and_directory_are_set() {
    let sandbox = open();
    let script = "{ ulimit -Sn; ulimit -Hn; ulimit -Sc; umask; pwd; } >$POINTSMAN_RUN/said; echo 1 >$POINTSMAN_RUN/ready; exec sleep 1000";
    let words = format!(
        "limits: {{nofile: {{soft: 100, hard: 200}}, core: 0B}}\numask: \"077\"\ndirectory: \"{{run}}\"\n{READY}"
    );
    deploy(&sandbox, "one", script, &words);
    let run = run_of(&sandbox).display().to_string();
    assert_eq!(said(&sandbox, "said"), format!("100\n200\n0\n0077\n{run}\n"));
    // another limit is another way to run it
    let first = sandbox.workers();
    deploy(&sandbox, "one", script, &words.replace("100", "150"));
    assert_ne!(sandbox.workers(), first);
    assert!(said(&sandbox, "said").starts_with("150\n200\n"));
    // a directory that is not there fails the worker, with the reason
    let directory = write(&sandbox, "two", script, &words.replace("{run}\"\n", "/nowhere/at/all\"\n"));
    let outcome = sandbox.json(&["deploy", &directory], 1);
    assert!(outcome["reason"].as_str().unwrap().contains("cannot enter /nowhere/at/all"), "{outcome:#}");
}

#[test]
fn p20_memory_is_a_limit_where_a_control_group_is_to_be_had() {
    let sandbox = open();
    let ready = "echo 1 >$POINTSMAN_RUN/ready; exec sleep 1000";
    deploy(&sandbox, "one", ready, &format!("memory: 64MiB\n{READY}"));
    let status = sandbox.status();
    let advice = status["advice"].to_string();
    let (_, process) = sandbox.workers().pop_first().unwrap();
    let group = std::fs::read_to_string(format!("/proc/{}/cgroup", process.pid)).unwrap();
    // ours for each process, or that of its unit
    let unit = group.lines().find_map(|line| line.strip_prefix("0::")).unwrap_or_default();
    let limit = std::fs::read_to_string(format!("/sys/fs/cgroup{unit}/memory.max")).unwrap_or_default();
    let own = match common::systemd::backend() {
        Some(_) => limit.trim() == (64 << 20).to_string(),
        None => group.contains(&format!("/pointsman-{}", process.pid)),
    };
    assert_eq!(own, !advice.contains("`memory:` is not enforced here"), "{group}\n{advice}");
    if !own {
        eprintln!("skipped: no control group for memory can be made here");
        return;
    }
    // dash reads the whole of it into one variable
    let greedy =
        "x=$(head -c 200000000 /dev/zero | tr '\\0' x)\necho 1 >$POINTSMAN_RUN/ready; exec sleep 1000";
    let directory = write(&sandbox, "two", greedy, &format!("memory: 64MiB\n{READY}"));
    let outcome = sandbox.json(&["deploy", &directory], 1);
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("it needed more memory than `memory:` says"), "{reason}");
    // the one that serves is untouched, and no group of one that is gone stays
    assert!(process.is_alive());
    if common::systemd::backend().is_some() {
        return;
    }
    let parent = group.lines().find(|line| line.contains("pointsman-")).unwrap();
    let (controllers, path) = parent.split_once(':').unwrap().1.split_once(':').unwrap();
    let root = if controllers.is_empty() { "/sys/fs/cgroup" } else { "/sys/fs/cgroup/memory" };
    let parent = std::path::PathBuf::from(format!("{root}{path}"));
    for entry in std::fs::read_dir(parent.parent().unwrap()).unwrap().flatten() {
        let name = entry.file_name().into_string().unwrap();
        if let Some(pid) = name.strip_prefix("pointsman-").and_then(|pid| pid.parse().ok()) {
            assert!(common::process(pid).is_some(), "{name} is left");
        }
    }
}

/// The processes that have `mark` in their command line.
fn marked(mark: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if String::from_utf8_lossy(&line).contains(mark) {
            found.extend(pid.filter(|pid| common::process(*pid).is_some()));
        }
    }
    found
}

#[test]
fn w22_what_a_worker_has_detached_ends_with_it() {
    let sandbox = open();
    let mark = format!("10{:06}", std::process::id());
    // a daemon of its own session, which keeps the descriptors it was leaked
    let script = format!(
        "setsid sh -c 'setsid sleep {mark} & exec sleep {mark}' &\nuntil [ $(pgrep -cfx 'sleep {mark}') = 2 ]; do sleep 0.01; done\necho 1 >$POINTSMAN_RUN/ready; exec sleep 1000"
    );
    deploy(&sandbox, "one", &script, READY);
    let strays = marked(&format!("sleep\0{mark}"));
    assert_eq!(strays.len(), 2, "{strays:?}");
    let (_, first) = sandbox.workers().pop_first().unwrap();
    common::signal_to(first.pid, rustix::process::Signal::KILL);
    let again = |status: &serde_json::Value| common::workers(status).values().any(|now| *now != first);
    sandbox.wait("it is started again", again);
    assert!(strays.iter().all(|pid| common::process(*pid).is_none()), "{strays:?}");
}

#[test]
fn w21_signals_reach_main_processes_by_group_and_generation() {
    let sandbox = open();
    // on TERM it stays for as long as it is not told otherwise
    let script = "trap 'echo usr1 >>$POINTSMAN_RUN/got' USR1; trap 'echo term >>$POINTSMAN_RUN/got' TERM
echo 1 >$POINTSMAN_RUN/ready; while :; do sleep 0.01; done";
    let one = deploy(&sandbox, "one", script, READY);
    let run_one = run_of(&sandbox);
    let (_, first) = sandbox.workers().pop_first().unwrap();
    assert!(sandbox.run(&["signal", "SIGUSR1"], 0).starts_with("USR1 to "));
    let two = deploy(&sandbox, "two", &format!("{script}\n# two"), READY);
    let draining = |status: &serde_json::Value| status["workers"].as_array().unwrap().len() == 2;
    sandbox.wait("one drains", draining);
    let reached = sandbox.json(&["signal", "usr1", "--generation", one["target"].as_str().unwrap()], 0);
    assert_eq!(reached["signal"], "USR1");
    let reached = reached["reached"].as_array().unwrap();
    assert_eq!((reached.len(), &reached[0]["state"]), (1, &"draining".into()));
    assert_eq!(reached[0]["pid"], first.pid);
    let got = || std::fs::read_to_string(run_one.join("got")).unwrap_or_default();
    sandbox.wait("it has got both", |_| got().matches("usr1").count() == 2 && got().contains("term"));
    assert_eq!(sandbox.json(&["signal", "CONT"], 0)["reached"].as_array().unwrap().len(), 2);
    assert!(sandbox.error(&["signal", "NOPE"], 2).contains("`NOPE` is no signal"));
    assert!(sandbox.error(&["signal", "HUP", "dns"], 3).contains("no worker of the group `dns` runs"));
    sandbox.error(&["signal", "HUP", "--generation", "ffff"], 3);
    // without a supervisor, too
    let id = two["target"].as_str().unwrap();
    sandbox.json(&["signal", "KILL", "--generation", one["target"].as_str().unwrap()], 0);
    sandbox.wait("it is gone", |status| status["workers"].as_array().unwrap().len() == 1);
    let said = sandbox.error(&["signal", "HUP", "--generation", one["target"].as_str().unwrap()], 3);
    assert!(said.contains("runs; `pointsman status`"), "{said}");
    assert_eq!(sandbox.current().as_deref(), Some(id));
}

#[test]
fn c8_what_programs_say_is_written_out_where_people_look() {
    let sandbox = open();
    let script = "printf 'oh \\033]0;owned\\007\\033[2J no\\n'; exit 3";
    let directory = write(&sandbox, "one", script, READY);
    let output = sandbox.output(&["deploy", &directory], 1);
    let shown = [output.stdout, output.stderr].concat();
    assert!(!shown.contains(&0x1b) && String::from_utf8(shown).unwrap().contains("oh \\u{1b}]0;owned"));
    assert!(sandbox.run(&["status"], 0).contains("oh \\u{1b}]0;owned\\u{7}\\u{1b}[2J no"));
    let reason = sandbox.status()["last"]["reason"].as_str().unwrap().to_owned();
    assert!(reason.contains("oh \u{1b}]0;owned\u{7}\u{1b}[2J no"), "JSON carries it as it is: {reason:?}");
}

/// All that is kept of what workers have written, by file.
fn outputs(sandbox: &Sandbox) -> std::collections::BTreeMap<String, u64> {
    let mut found = std::collections::BTreeMap::new();
    for entry in std::fs::read_dir(sandbox.path("store/run/log")).unwrap().flatten() {
        found.insert(entry.file_name().into_string().unwrap(), entry.metadata().map_or(0, |meta| meta.len()));
    }
    found
}

#[test]
fn w20_who_writes_without_end_is_bounded_and_never_waits() {
    let sandbox = open();
    let script = "yes flood | head -c 100000000\nuntil [ $(stat -Lc %s /proc/$$/fd/1) -lt 4194304 ]; do sleep 0.01; done\necho the end\necho 1 >$POINTSMAN_RUN/ready; exec sleep 1000";
    let outcome = deploy(&sandbox, "one", script, READY);
    let event = outcome["event"].as_u64().unwrap();
    let small = || outputs(&sandbox).values().all(|size| *size <= 16 << 20);
    sandbox.wait("what is too long is put aside", |_| small());
    let last = || sandbox.run(&["logs", "-n", "2"], 0);
    sandbox.wait("its end is there", |_| last().ends_with("the end"));
    let lines = last();
    assert!(lines.contains(&format!("started for event {event}\n")) && lines.ends_with("the end"), "{lines}");
    // few of those that have ended are kept
    for _ in 0..8 {
        sandbox.json(&["restart"], 0);
    }
    let kept = outputs(&sandbox);
    let workers = kept.keys().filter(|name| name.ends_with(".log") && name.contains(".1.")).count();
    assert!((2..=7).contains(&workers), "{kept:?}");
    assert!(kept.values().sum::<u64>() < 160 << 20, "{kept:?}");
}

#[test]
fn c9_logs_show_what_was_started_for_an_event() {
    let sandbox = open();
    let script = "echo this is $POINTSMAN_GENERATION; echo 1 >$POINTSMAN_RUN/ready; exec sleep 1000";
    let words = format!("{READY}\nTOP check: echo looks fine");
    assert_eq!(sandbox.run(&["logs"], 0), "");
    let one = deploy(&sandbox, "one", script, &words);
    let two = deploy(&sandbox, "two", &format!("{script}\n# two"), &words);
    let all = sandbox.run(&["logs"], 0);
    let id = |outcome: &serde_json::Value| outcome["target"].as_str().unwrap().to_owned();
    assert!(all.find(&id(&one)).unwrap() < all.find(&id(&two)).unwrap() && !all.contains("fine"), "{all}");
    let event = one["event"].to_string();
    let of_one = sandbox.run(&["logs", "--event", &event], 0);
    assert!(of_one.contains(&id(&one)) && !of_one.contains(&id(&two)), "{of_one}");
    assert!(of_one.contains("==> echo looks fine\nlooks fine\n"), "{of_one}");
    assert!(of_one.contains(&format!("==> stages of event {event}")), "{of_one}");
    // a failed change is found by its event, too
    let bad = write(&sandbox, "bad", "echo broken beyond repair; exit 3", &words);
    let bad = sandbox.json(&["deploy", &bad], 1)["event"].to_string();
    assert!(sandbox.run(&["logs", "--event", &bad], 0).contains("broken beyond repair"));
    assert!(sandbox.error(&["logs", "--event", "99"], 3).contains("no output of event 99 is kept"));
    assert!(sandbox.error(&["logs", "dns"], 3).contains("no output of the group `dns` is kept"));
    assert!(sandbox.command(&["--json", "logs"]).status().unwrap().code() == Some(2));
}

#[test]
fn c9_following_goes_on_across_replacement_and_what_is_put_aside() {
    let sandbox = open();
    // each piece ends with a small write that makes it too long: nobody writes while it is put aside, nor before
    // the one before is seen, since only one is kept
    let count = "echo 1 >$POINTSMAN_RUN/ready; echo begun
for i in 1 2 3; do
until [ -e $POINTSMAN_CONFIG/../../../go$i ]; do sleep 0.01; done
seq ${i}000000 ${i}524400 >$POINTSMAN_RUN/piece
for skip in 0 1; do dd if=$POINTSMAN_RUN/piece bs=4192008 count=1 skip=$skip 2>/dev/null; done
until [ $(stat -Lc %s /proc/$$/fd/1) = 0 ]; do sleep 0.01; done; done; echo over; exec sleep 1000";
    deploy(&sandbox, "one", count, READY);
    let log = sandbox.log("followed");
    let mut follower = sandbox.command(&["logs", "-f"]).stdout(log).spawn().unwrap();
    let followed = || std::fs::read_to_string(sandbox.path("followed")).unwrap_or_default();
    sandbox.wait("it has begun", |_| followed().ends_with("begun\n"));
    for piece in 1..=3 {
        sandbox.write(&format!("store/go{piece}"), "");
        let last = if piece == 3 { "\nover\n".to_owned() } else { format!("\n{piece}524400\n") };
        sandbox.wait("it is seen", |_| followed().ends_with(&last));
    }
    let numbers: Vec<u32> = followed().lines().filter_map(|line| line.parse().ok()).collect();
    assert!(numbers.windows(2).all(|pair| pair[0] < pair[1]), "nothing twice, nothing out of order");
    assert_eq!(numbers.len(), 3 * 524_401, "nothing left out");
    deploy(&sandbox, "two", "echo here I am; echo 1 >$POINTSMAN_RUN/ready; exec sleep 1000", READY);
    sandbox.wait("the new one is seen", |_| followed().ends_with("here I am\n"));
    follower.kill().unwrap();
    follower.wait().unwrap();
}

#[test]
fn w23_who_drains_is_listed_with_age_and_connections() {
    let sandbox = open();
    let port = common::nginx::port();
    let greeter = sandbox.path("greeter");
    std::fs::copy(common::greeter(), &greeter).unwrap();
    let push = |name: &str| {
        sandbox.write(&format!("{name}/body"), name);
        let words = format!(
            "version: 1\nprobation: 0s\nworker:\n  command: {}\n  listen: {{http: \"tcp://127.0.0.1:{port}\"}}\n  ready: notify\n",
            greeter.display()
        );
        sandbox.write(&format!("{name}/pointsman.yaml"), &words);
        assert_eq!(sandbox.json(&["deploy", name], 0)["verdict"], "good");
    };
    push("one");
    let (_, first) = sandbox.workers().pop_first().unwrap();
    let has = || std::fs::read_dir(format!("/proc/{}/fd", first.pid)).map_or(0, Iterator::count);
    let before = has();
    // a connection that has been taken, and asks nothing
    let client = std::net::TcpStream::connect(common::nginx::address(port)).unwrap();
    let idle = sandbox.wait("the connection is taken", |_| has() > before);
    assert!(idle["workers"][0]["connections"].is_null() && idle["workers"][0]["left"].is_null(), "{idle:#}");
    push("two");
    let draining = |status: &serde_json::Value| status["workers"][0]["state"] == "draining";
    let status = sandbox.wait("it drains", draining);
    assert_eq!(status["workers"][0]["connections"], 1, "{status:#}");
    assert!(status["workers"][0]["left"].is_u64(), "{status:#}");
    let shown = sandbox.run(&["status"], 0);
    assert!(shown.contains("draining for ") && shown.contains("s, 1 connection"), "{shown}");
    drop(client);
    sandbox.wait("it is gone", |status| status["workers"].as_array().unwrap().len() == 1);
}

#[test]
fn w24_a_worker_on_a_replaced_program_is_told_with_what_to_do() {
    let sandbox = open();
    let sleep = sandbox.path("sleep");
    std::fs::copy("/bin/sleep", &sleep).unwrap();
    let script = format!("echo 1 >$POINTSMAN_RUN/ready; exec {} 1000", sleep.display());
    deploy(&sandbox, "one", &script, READY);
    sandbox.wait("it runs", |_| {
        let (_, process) = sandbox.workers().pop_first().unwrap();
        std::fs::read_link(format!("/proc/{}/exe", process.pid)).is_ok_and(|path| path == sleep)
    });
    let advice = || sandbox.status()["advice"].to_string();
    assert!(!advice().contains("not on disk"), "{}", advice());
    std::fs::copy("/bin/sleep", sandbox.path("new")).unwrap();
    std::fs::rename(sandbox.path("new"), &sleep).unwrap();
    let said = advice();
    assert!(said.contains("has been replaced or removed: `pointsman restart worker`"), "{said}");
    sandbox.json(&["restart", "worker"], 0);
    sandbox.wait("the new one runs", |status| !status["advice"].to_string().contains("not on disk"));
}

#[test]
fn c10_a_command_stands_in_for_a_stage() {
    let sandbox = open();
    let user = if rustix::process::geteuid().is_root() { format!("user: {USER}\n") } else { String::new() };
    let ready = "echo 1 >$POINTSMAN_RUN/ready; exec sleep 1000";
    let words = format!("{user}env: {{WHO: \"{{run}}\"}}\numask: \"027\"\ndirectory: \"{{run}}\"\n{READY}");
    deploy(&sandbox, "one", ready, &words);
    let said = sandbox.run(
        &["exec", "--as", "worker", "--", "sh", "-c", "id -u; umask; pwd; echo $WHO; touch mine; env"],
        0,
    );
    let lines: Vec<&str> = said.lines().collect();
    let uid = if user.is_empty() { rustix::process::geteuid().as_raw() } else { 33 };
    assert_eq!((lines[0], lines[1]), (uid.to_string().as_str(), "0027"), "{said}");
    assert!(lines[2] == lines[3] && lines[2].contains("/store/run/p/x"), "{said}");
    assert!(said.contains("POINTSMAN_GROUP=worker\n") && said.contains("POINTSMAN_INSTANCE=0\n"), "{said}");
    let check = sandbox.run(&["exec", "--as", "check", "--", "sh", "-c", "id -u; pwd; env"], 0);
    assert!(check.starts_with(&format!("{}\n", rustix::process::geteuid().as_raw())), "{check}");
    assert!(check.contains("/tree\n") && !check.contains("POINTSMAN_GROUP"), "{check}");
    assert!(sandbox.error(&["exec", "--as", "dns", "--", "true"], 3).contains("there is no group `dns`"));
}

#[test]
fn d1_as_the_systems_systemd() {
    common::systemd::passes_under(common::systemd::Scope::System, &[], 7);
}

#[test]
fn d1_as_the_users_systemd() {
    // a user's systemd listens where nobody else may go
    let others = ["p17_notify_and_sockets_work_for_another_user"];
    common::systemd::passes_under(common::systemd::Scope::User, &others, 7);
}
