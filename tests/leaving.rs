//! Who leaves, and how: downloads that outlast an activation, workers that do not end when they are asked to, that end
//! when they are not, or that leave others behind. W7, W10 to W12, W22 and W23 of `spec/workers.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr, unreachable_pub)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::process::Command;
use std::sync::mpsc::{Sender, channel};
use std::thread::JoinHandle;
use std::time::{Duration, Instant, SystemTime};

use common::actor::{Part, Stage};
use common::nginx::{Site, address, port, site};
use common::{PATIENCE, Process, Sandbox, process, signal_to, until};
use rustix::process::Signal;
use serde_json::Value;

/// A download that has begun.
struct Download {
    reader: JoinHandle<(usize, Instant)>,
    go: Sender<()>,
}

impl Download {
    /// Asks for `path`, and waits until the answer has begun, where that is to be expected.
    fn begin(address: SocketAddr, path: &str, answered: bool) -> Download {
        let mut stream = TcpStream::connect(address).unwrap();
        stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
        stream.write_all(format!("GET {path} HTTP/1.0\r\nHost: test\r\n\r\n").as_bytes()).unwrap();
        let first = if answered { stream.read(&mut [0; 16]).unwrap() } else { 0 };
        let (go, gone_on) = channel();
        let reader = std::thread::spawn(move || {
            let _ = gone_on.recv();
            let mut rest = Vec::new();
            // cut off it may be by an end or by a reset
            let _ = stream.read_to_end(&mut rest);
            (first + rest.len(), Instant::now())
        });
        Download { reader, go }
    }

    /// Reads on: what does not fit into the buffers of the connection has waited for this.
    fn go_on(&self) {
        self.go.send(()).unwrap();
    }

    fn is_over(&self) -> bool {
        self.reader.is_finished()
    }

    /// How much came, and when the last of it did.
    fn end(self) -> (usize, Instant) {
        self.reader.join().unwrap()
    }
}

/// The workers that drain.
fn draining(status: &Value) -> Vec<Value> {
    let workers = status["workers"].as_array().unwrap().iter();
    workers.filter(|worker| worker["state"] == "draining").cloned().collect()
}

/// Waits until somebody drains with a connection, and says since when.
fn listed(sandbox: &Sandbox) {
    sandbox.wait("one drains with its download, and everybody who does since when", |status| {
        let all = draining(status);
        all.iter().any(|worker| worker["connections"].as_u64() >= Some(1))
            && all.iter().all(|worker| worker["left"].is_u64() && worker["pid"].is_u64())
    });
}

fn has_nginx() -> bool {
    let there = std::path::Path::new("/usr/sbin/nginx").exists();
    if !there {
        eprintln!("skipped: there is no nginx");
    }
    there
}

/// The length of `/big`: more than the buffers of a connection hold.
const BIG: usize = 50_000_000;

/// nginx with `/big`, at so many bytes a second (0: as many as there are).
fn downloads(sandbox: &Sandbox, name: &str, port: u16, rate: &str, grace: &str) -> String {
    let files = sandbox.write("files/big", &"x".repeat(BIG));
    let server =
        format!("location /big {{ root {}; limit_rate {rate}; }}", files.parent().unwrap().display());
    let worker = format!("  grace_shutdown_time: {grace}");
    let site_of = Site { body: name, server: &server, worker: &worker, ..Site::default() };
    let directory = site(sandbox, name, port, site_of);
    sandbox.run(&["push", &directory], 0)
}

/// A sandbox with a manager, into which nginx can look.
fn open() -> Sandbox {
    let mut sandbox = Sandbox::new();
    std::fs::set_permissions(sandbox.path(""), std::fs::Permissions::from_mode(0o755)).unwrap();
    sandbox.start_manager();
    sandbox
}

#[test]
fn w11_w23_a_download_of_nginx_that_outlasts_the_activation_finishes() {
    if !has_nginx() {
        return;
    }
    let (sandbox, port) = (open(), port());
    let one = downloads(&sandbox, "one", port, "0", "60s");
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    let download = Download::begin(address(port), "/big", true);
    let two = downloads(&sandbox, "two", port, "0", "60s");
    assert_eq!(sandbox.json(&["activate", &two], 0)["verdict"], "good");
    assert!(!download.is_over(), "it outlasts the activation");
    listed(&sandbox);
    let shown = sandbox.run(&["status"], 0);
    assert!(shown.contains("draining for ") && shown.contains(" connection"), "{shown}");
    download.go_on();
    let (bytes, _) = download.end();
    assert!(bytes > BIG, "only {bytes}");
    until("its worker ends", || before.values().all(|process| !process.is_alive()));
}

/// How long it took until the download was cut off: at least, since the activation was asked for, and at most, since one
/// was seen to drain.
fn cut(sandbox: &Sandbox, download: Download, next: &str) -> (Duration, Duration) {
    download.go_on();
    let asked = Instant::now();
    let event = sandbox.json(&["activate", "--no-wait", next], 0)["event"].clone();
    listed(sandbox);
    let seen = Instant::now();
    let (_, at) = download.end();
    let status = sandbox.wait("the verdict", |status| status["last"]["event"] == event);
    assert_eq!(status["last"]["verdict"], "good", "{status:#}");
    (at - asked, at.saturating_duration_since(seen))
}

#[test]
fn w11_w23_a_download_of_nginx_that_takes_too_long_is_cut_at_the_grace_time() {
    if !has_nginx() {
        return;
    }
    let (sandbox, port) = (open(), port());
    let one = downloads(&sandbox, "one", port, "100k", "8s");
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    let download = Download::begin(address(port), "/big", true);
    let two = downloads(&sandbox, "two", port, "100k", "8s");
    let (least, most) = cut(&sandbox, download, &two);
    assert!(least >= Duration::from_secs(8), "cut after {least:?}");
    // on an idle machine some milliseconds after it
    assert!(most < Duration::from_secs(8) + PATIENCE / 2, "cut {most:?} after it began to drain");
    until("its worker ends", || before.values().all(|process| !process.is_alive()));
}

#[test]
fn w11_w23_an_answer_of_the_actor_is_waited_for_and_cut_at_the_grace_time() {
    let grace = |time: &str| format!("  grace_shutdown_time: {time}");
    let (long, short) = (grace("60s"), grace("8s"));
    let stage = Stage::with(Part { plays: "workers slow-answer 10000", worker: &long, ..Part::default() });
    let download = Download::begin(stage.address(), "/", false);
    // taken, before anybody is asked to leave
    let taken = |stage: &Stage| {
        let workers = stage.sandbox.workers();
        until("it is taken", || workers.values().any(|process| connections(*process) > 0));
    };
    taken(&stage);
    let next = Part { marker: "two", plays: "workers slow-answer 600000", worker: &short, ..Part::default() };
    let two = stage.push("two", next);
    assert_eq!(stage.sandbox.json(&["activate", &two], 0)["verdict"], "good");
    download.go_on();
    let (bytes, _) = download.end();
    assert!(bytes > 20, "a whole answer: {bytes}");

    let download = Download::begin(stage.address(), "/", false);
    taken(&stage);
    let three = stage.push("three", Part { marker: "three", worker: &short, ..Part::default() });
    let (least, most) = cut(&stage.sandbox, download, &three);
    assert!(least >= Duration::from_secs(8), "cut after {least:?}");
    assert!(most < Duration::from_secs(8) + PATIENCE / 2, "cut {most:?} after it began to drain");
    assert_eq!(stage.answer(), "three a");
}

/// How many accepted connections a process has: sockets besides what each actor has.
fn connections(process: Process) -> usize {
    let descriptors = std::fs::read_dir(format!("/proc/{}/fd", process.pid)).into_iter().flatten().flatten();
    let links = descriptors.filter_map(|fd| std::fs::read_link(fd.path()).ok());
    let inodes: Vec<String> = links
        .filter_map(|link| Some(link.to_str()?.strip_prefix("socket:[")?.trim_end_matches(']').to_owned()))
        .collect();
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap();
    let lines = table.lines().map(|line| line.split_whitespace().collect::<Vec<_>>());
    lines.filter(|fields| fields[3] == "01" && inodes.iter().any(|inode| inode == fields[9])).count()
}

/// Pushes `name`: one worker of shell.
fn push(sandbox: &Sandbox, name: &str, script: &str, words: &str) -> String {
    sandbox.write(&format!("{name}/script"), script);
    let words = words.replace('\n', "\n  ");
    let pipeline = format!(
        "version: 1\nprobation: 200ms\nworker:\n  command: sh {{config}}/script\n  start_timeout: 60s\n  \
         ready: {{file: '{{run}}/ready'}}\n  {words}\n"
    );
    sandbox.write(&format!("{name}/pointsman.yaml"), &pipeline);
    sandbox.run(&["push", name], 0)
}

const PLAIN: &str = "echo 1 >$POINTSMAN_RUN/ready; exec sleep 1000";

/// The living processes that have `mark` as a word of their command line.
fn marked(mark: &str) -> Vec<u32> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let pid = entry.file_name().to_str().and_then(|name| name.parse().ok());
        if line.split(|byte| *byte == 0).any(|word| word == mark.as_bytes()) {
            found.extend(pid.filter(|pid| process(*pid).is_some()));
        }
    }
    found
}

/// A word that no other test has: seconds to sleep.
fn mark(number: u32) -> String {
    format!("{number}{:07}", std::process::id())
}

#[test]
fn w11_who_ignores_its_stop_signal_is_killed_after_its_grace_time_with_all_it_has() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let (told, mark) = (sandbox.path("told"), mark(101));
    let script = format!(
        "trap 'date +%s.%N >{}' TERM\nsleep {mark} &\necho 1 >$POINTSMAN_RUN/ready\nwhile :; do sleep 0.02; done",
        told.display()
    );
    let one = push(&sandbox, "one", &script, "grace_shutdown_time: 4s");
    sandbox.run(&["activate", &one], 0);
    let (_, old) = sandbox.workers().pop_first().unwrap();
    let two = push(&sandbox, "two", PLAIN, "");
    assert_eq!(sandbox.json(&["activate", &two], 0)["verdict"], "good");
    until("it is asked to end", || std::fs::metadata(&told).is_ok_and(|meta| meta.len() > 0));
    let asked: f64 = std::fs::read_to_string(&told).unwrap().trim().parse().unwrap();
    let status = sandbox.status();
    assert_eq!(draining(&status).len(), 1, "{status:#}");
    until("its end", || !old.is_alive());
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
    // its shell may have been slow to write down when it was asked
    assert!(now - asked > 2.0, "killed {} s after it was asked", now - asked);
    assert!(now - asked < 4.0 + PATIENCE.as_secs_f64() / 2.0, "killed {} s after it was asked", now - asked);
    until("the end of its child", || marked(&mark).is_empty());
    sandbox.wait("it is gone", |status| draining(status).is_empty());
}

#[test]
fn w11_the_actor_that_ignores_term_is_killed_and_its_successors_serve() {
    let worker = "  grace_shutdown_time: 1s";
    let stage = Stage::with(Part { plays: "workers ignores-term", worker, ..Part::default() });
    let old = stage.sandbox.workers();
    let two = stage.push("two", Part { marker: "two", ..Part::default() });
    assert_eq!(stage.sandbox.json(&["activate", &two], 0)["verdict"], "good");
    until("their end", || old.values().all(|process| !process.is_alive()));
    for _ in 0..20 {
        assert_eq!(stage.answer(), "two a");
    }
}

#[test]
fn w7_w22_who_daemonises_has_ended_before_it_was_ready_and_takes_its_daemon_along() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = push(&sandbox, "one", PLAIN, "");
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    let mark = mark(102);
    // twice forked, in a session of its own, and only it would be ready
    let script = format!(
        "setsid sh -c '(sleep 0.3; echo 1 >$POINTSMAN_RUN/ready) & sleep {mark} &' &\n\
         until pgrep -fx 'sleep {mark}' >/dev/null; do sleep 0.01; done\necho on my own; exit 0"
    );
    let two = push(&sandbox, "two", &script, "");
    let outcome = sandbox.json(&["activate", &two], 1);
    assert_eq!(
        (&outcome["verdict"], &outcome["stage"]),
        (&"reverted".into(), &"workers".into()),
        "{outcome:#}"
    );
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("exited with status 0") && reason.contains("on my own"), "{reason}");
    assert_eq!((sandbox.workers(), sandbox.current()), (before, Some(one)));
    assert_eq!(marked(&mark), Vec::<u32>::new(), "its daemon is gone before anything else is started");
}

#[test]
fn w12_w22_who_goes_into_the_background_when_it_was_ready_has_ended_and_its_daemon_with_it() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let (go, mark) = (sandbox.path("go"), mark(103));
    let script = format!(
        "setsid sh -c 'sleep {mark} &' &\nuntil pgrep -fx 'sleep {mark}' >/dev/null; do sleep 0.01; done\n\
         echo 1 >$POINTSMAN_RUN/ready\nuntil rm {0} 2>/dev/null; do sleep 0.01; done; exit 0",
        go.display()
    );
    let one = push(&sandbox, "one", &script, "restart: {on: always}");
    sandbox.run(&["activate", &one], 0);
    let (first, daemon) = (sandbox.workers(), marked(&mark));
    assert_eq!(daemon.len(), 1);
    std::fs::write(&go, "").unwrap();
    sandbox.wait("it serves again", |status| {
        let now = common::workers(status);
        now.len() == 1 && now != first
    });
    assert!(process(daemon[0]).is_none(), "its daemon has gone before");
    assert_eq!(marked(&mark).len(), 1, "one daemon for one worker");

    // where status 0 is the end of it, it stays away until somebody asks for it
    let two = push(&sandbox, "two", &script, "");
    sandbox.run(&["activate", &two], 0);
    std::fs::write(&go, "").unwrap();
    let status = sandbox.wait("it has ended", |status| status["workers"][0]["state"] == "ended");
    assert_eq!((status["workers"].as_array().unwrap().len(), marked(&mark)), (1, Vec::new()), "{status:#}");
    assert_eq!(sandbox.json(&["restart"], 0)["verdict"], "good");
    assert_eq!((sandbox.workers().len(), marked(&mark).len()), (1, 1));
}

#[test]
fn w10_a_worker_that_dies_between_ready_and_the_verdict_takes_everything_back_at_once() {
    let stage = Stage::with(Part::default());
    let before = stage.sandbox.workers();
    let held = stage.sandbox.write("held", "");
    // one of them takes no connection, since it takes it along when it dies; the other one never starts
    let plays = format!("1 crashes 100\n1 accepts-not {0}\n2 waits {0}", held.display());
    let part = Part { marker: "bad", plays: &plays, start_timeout: "120s", ..Part::default() };
    let bad = stage.push("bad", part);
    let load = stage.load(&["one a"]);
    let outcome = stage.sandbox.json(&["activate", &bad], 1);
    assert_eq!(outcome["verdict"], "reverted", "{outcome:#}");
    assert!(outcome["reason"].as_str().unwrap().contains("status 70"), "{outcome:#}");
    load.more(50);
    assert_eq!(load.end().failures, Vec::<String>::new());
    let after = stage.sandbox.workers();
    assert_eq!((after.len(), after["worker/2"]), (2, before["worker/2"]), "nothing ever took its place");
    until("the end of the others", || stage.alive().len() == 2);
    stage.sandbox.nothing_left_over("taken back");
}

#[test]
fn w22_those_that_end_together_take_all_their_daemons_along() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let mark = mark(104);
    let script = format!(
        "setsid sh -c 'sleep {mark}$POINTSMAN_INSTANCE &' &\n\
         until pgrep -fx \"sleep {mark}$POINTSMAN_INSTANCE\" >/dev/null; do sleep 0.01; done\n{PLAIN}"
    );
    let one = push(&sandbox, "one", &script, "instances: 3");
    sandbox.run(&["activate", &one], 0);
    let before = sandbox.workers();
    let daemons = || (1..=3).flat_map(|instance| marked(&format!("{mark}{instance}"))).collect::<Vec<_>>();
    let first = daemons();
    assert_eq!((before.len(), first.len()), (3, 3));
    // the supervisor, if it is ours, comes to it when all three are gone
    let supervisor = sandbox.status()["supervisor"].as_u64().map(|pid| u32::try_from(pid).unwrap());
    assert_eq!(supervisor.is_some(), common::systemd::backend().is_none());
    supervisor.inspect(|pid| signal_to(*pid, Signal::STOP));
    before.values().for_each(|process| signal_to(process.pid, Signal::KILL));
    until("their end", || before.values().all(|process| !process.is_alive()));
    supervisor.inspect(|pid| signal_to(*pid, Signal::CONT));
    sandbox.wait("three others", |status| {
        let now = common::workers(status);
        now.len() == 3 && now.values().all(|new| !before.values().any(|old| old == new))
    });
    assert!(first.iter().all(|pid| process(*pid).is_none()), "{first:?}");
    assert_eq!(daemons().len(), 3, "one for each");
}

#[test]
fn w22_whoever_is_in_a_container_where_the_same_path_is_another_one_is_left_alone() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: only root can make a container");
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let one = push(&sandbox, "one", PLAIN, "");
    sandbox.run(&["activate", &one], 0);
    let worker = sandbox.workers()["worker/1"];
    let environment = std::fs::read_to_string(format!("/proc/{}/environ", worker.pid)).unwrap();
    let run = environment.split('\0').find(|word| word.starts_with("POINTSMAN_RUN=")).unwrap();
    let (inside, outside) = (mark(105), mark(106));
    let root = sandbox.path("root");
    std::fs::create_dir(&root).unwrap();
    let container = format!(
        "mount -t tmpfs none {0} && mkdir {0}/usr && mount --rbind /usr {0}/usr &&\n\
         ln -s usr/bin usr/lib usr/lib64 {0} && exec chroot {0} env -i '{run}' /usr/bin/sleep {inside}",
        root.display()
    );
    let mut container = Command::new("unshare")
        .args(["--pid", "--fork", "--kill-child", "--mount", "sh", "-c", &container])
        .spawn()
        .unwrap();
    let mut stray = Command::new("env").args(["-i", run, "sleep", &outside]).spawn().unwrap();
    until("both", || (marked(&inside).len(), marked(&outside).len()) == (1, 1));
    signal_to(worker.pid, Signal::KILL);
    stray.wait().unwrap();
    sandbox.wait("another one", |status| {
        common::workers(status).get("worker/1").is_some_and(|process| *process != worker)
    });
    assert_eq!(marked(&inside).len(), 1, "it is none of ours");
    container.kill().unwrap();
    container.wait().unwrap();
}

/// systemd ends control groups, and looks at nobody's environment.
const OURS: [&str; 1] = ["w22_whoever_is_in_a_container"];

#[test]
fn d1_as_the_systems_systemd() {
    common::systemd::passes_under(common::systemd::Scope::System, &OURS, 7);
}

#[test]
fn d1_as_the_users_systemd() {
    common::systemd::passes_under(common::systemd::Scope::User, &OURS, 7);
}
