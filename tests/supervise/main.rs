//! The real binary, driven as a manager drives it. Rule numbers are those of `spec/workers.md`.
#![allow(unreachable_pub, clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

mod asked;
mod handoff;
mod lost;
mod oneshots;
mod sockets;
#[path = "../common/spec.rs"]
mod spec_of_tests;
mod spoken;
mod stage;
mod systemd;
#[path = "../common/systemd.rs"]
mod systemd_of_tests;
mod told;

use std::fs;
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::Duration;

use pointsman::model::Ready;
use pointsman::supervise::{News, WorkerState, client};
use stage::{PROGRAM, Process, Stage, until, until_gone};

/// Ready at once, and serves until it is told to stop.
const PLAIN: &str = "echo up; echo 1 > $POINTSMAN_RUN/ready; exec sleep 1000";
/// Ready once there is a file `go` in its configuration.
const GATED: &str = "until [ -e go ]; do sleep 0.01; done; echo 1 > $POINTSMAN_RUN/ready; exec sleep 1000";

#[test]
fn w1_an_empty_spec_pipe_ends_quietly() {
    let output = Command::new(PROGRAM).args(["__exec", "0"]).stdin(Stdio::null()).output().unwrap();
    assert!(output.status.success() && output.stdout.is_empty() && output.stderr.is_empty(), "{output:?}");
}

#[test]
fn w2_a_worker_is_given_a_clean_environment_and_no_descriptor_of_ours() {
    let stage = Stage::new();
    let address = stage::free_address();
    let mut spec = stage.greeter(1, address);
    let script = "env | sort; for fd in /proc/$$/fd/*; do echo \"$fd -> $(readlink $fd)\"; done; \
                  ls $POINTSMAN_RUN; grep SigIgn /proc/$$/status; echo self=$$; echo 1 > $POINTSMAN_RUN/ready; exec sleep 1000";
    spec.launch.command.0 = ["sh", "-c", script].map(str::to_owned).into();
    spec.launch.env = [("WHERE".to_owned(), "{addr:http} at {fd:http}".to_owned())].into();
    spec.ready = Ready::File("{run}/ready".into());
    let process = stage.ready(1, &spec);
    let log = stage.log();
    let pid = process.pid;
    let expected = [
        format!("LISTEN_PID={pid}"),
        "LISTEN_FDS=1".into(),
        "LISTEN_FDNAMES=http".into(),
        format!("WHERE={address} at 3"),
        "POINTSMAN_GROUP=web".into(),
        "POINTSMAN_INSTANCE=1".into(),
        format!("POINTSMAN_GENERATION={}", stage::id(1)),
        format!("POINTSMAN_CONFIG={}", spec.launch.config.display()),
        format!("PWD={}", spec.launch.config.display()),
        format!("/proc/{pid}/fd/0 -> /dev/null"),
        "config".into(),
    ];
    for line in expected {
        assert!(log.lines().any(|known| known == line), "{line} in:\n{log}");
    }
    assert!(!log.contains("CARGO"), "{log}");
    let ignored = log.lines().find_map(|line| line.strip_prefix("SigIgn:\t")).unwrap();
    // 32 and 33 are the C library's own
    let ignored = u64::from_str_radix(ignored, 16).unwrap() & !(0b11 << 31);
    assert_eq!(ignored, 0, "what the supervisor ignores: {log}");
    let sockets: Vec<&str> = log.lines().filter(|line| line.contains("-> socket:")).collect();
    assert!(matches!(sockets[..], [one] if one.contains("/fd/3 ")), "{log}");
    // a shell that redirects has one more for a moment
    until("it sleeps", || {
        fs::read(format!("/proc/{pid}/cmdline")).unwrap().starts_with(b"sleep").then_some(())
    });
    for fd in fs::read_dir(format!("/proc/{pid}/fd")).unwrap() {
        let number: u32 = fd.as_ref().unwrap().file_name().to_str().unwrap().parse().unwrap();
        let target = fs::read_link(fd.unwrap().path()).unwrap();
        assert!(number <= 3 || target == std::path::Path::new("/dev/null"), "{number} is {target:?}");
    }
}

#[test]
fn w2_a_command_that_is_not_there_says_so() {
    let stage = Stage::new();
    let mut spec = stage.spec(1, "");
    spec.launch.command.0 = vec!["no-such-program".into()];
    let News::Failed { why, .. } = stage.ensure(1, &spec) else { panic!() };
    assert!(why.contains("127") && why.contains("pointsman: cannot run no-such-program"), "{why}");
}

#[test]
fn w7_the_time_of_a_worker_begins_with_its_program() {
    let stage = Stage::new();
    let mut spec = stage.spec(1, "");
    spec.launch.command.0 = vec!["no-such-program".into()];
    spec.ready = Ready::After(Duration::from_millis(1));
    let News::Failed { why, .. } = stage.ensure(1, &spec) else { panic!("it was ready before it ran") };
    assert!(why.contains("pointsman: cannot run no-such-program"), "{why}");
    let mut spec = stage.spec(2, PLAIN);
    spec.ready = Ready::After(Duration::from_millis(1));
    stage.ready(2, &spec);
}

#[test]
fn w4_the_mount_shows_the_configuration_read_only() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("skipped: needs root");
        return;
    }
    let stage = Stage::new();
    let target = stage.path().join("etc");
    fs::create_dir(&target).unwrap();
    fs::write(target.join("host"), "host\n").unwrap();
    let mut spec = stage.spec(
        1,
        "cat $T/body; ls $T; touch $T/x || echo denied; echo 1 > $POINTSMAN_RUN/ready; exec sleep 1000",
    );
    spec.launch.env = [("T".to_owned(), target.to_str().unwrap().to_owned())].into();
    spec.launch.mount = Some(target.clone());
    stage.ready(1, &spec);
    let log = stage.log();
    assert!(log.contains("generation 1\nbody\n") && log.contains("denied"), "{log}");
    assert!(target.join("host").exists() && !target.join("body").exists(), "the host sees its own");

    let mut spec = stage.spec(2, PLAIN);
    spec.launch.mount = Some(stage.path().join("missing"));
    let News::Failed { why, .. } = stage.ensure(2, &spec) else { panic!() };
    assert!(why.contains("there is no such directory"), "{why}");
}

#[test]
fn w7_ready_counts_only_from_the_worker_itself() {
    let stage = Stage::new();
    let mut spec = stage.greeter(1, stage::free_address());
    let greeter = std::mem::replace(&mut spec.launch.command.0, ["sleep", "1000"].map(str::to_owned).into());
    stage.client().ensure(1, &spec, false).unwrap();
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    socket.send_to(b"READY=1\nSTATUS=forged\n", stage.run().join("notify")).unwrap();
    let worker = &stage.slots()[0];
    assert_eq!((worker.state, worker.note.as_str()), (WorkerState::Starting, ""));

    spec.launch.command.0 = greeter;
    spec.generation = stage::id(2);
    stage.ready(2, &spec);
    assert_eq!(stage.slots()[0].note, "greeting");
}

#[test]
fn w9_ensuring_twice_gives_one_process() {
    let stage = Stage::new();
    let spec = stage.spec(1, GATED);
    let mut news = stage.news(0);
    stage.client().ensure(1, &spec, false).unwrap();
    stage.client().ensure(1, &spec, false).unwrap();
    assert_eq!(stage.slots().len(), 1);
    fs::write(spec.launch.config.join("go"), "").unwrap();
    assert!(matches!(stage::news_of(&mut news), News::Ready { event: 1, .. }));
    let process = stage.accepted().unwrap();
    assert_eq!(stage.ready(2, &spec), process);
    assert_eq!(stage.slots().len(), 1);
}

#[test]
fn w10_the_old_process_serves_until_the_new_one_is_ready() {
    let stage = Stage::new();
    let old = stage.ready(1, &stage.spec(1, PLAIN));
    let spec = stage.spec(2, GATED);
    let mut news = stage.news(0);
    stage.client().ensure(2, &spec, false).unwrap();
    let states: Vec<_> = stage.slots().iter().map(|worker| (worker.state, worker.accepted)).collect();
    assert_eq!(states, [(WorkerState::Ready, true), (WorkerState::Starting, false)]);
    fs::write(spec.launch.config.join("go"), "").unwrap();
    assert!(matches!(stage::news_of(&mut news), News::Ready { event: 2, .. }));
    until_gone(old);
    until("one process left", || (stage.slots().len() == 1).then_some(()));
    let directories = fs::read_dir(stage.run().join("p")).unwrap().count();
    assert_eq!(directories, 1, "the old one's directory is gone");
}

#[test]
fn w10_a_candidate_that_exits_leaves_the_old_process_alone() {
    let stage = Stage::new();
    let old = stage.ready(1, &stage.spec(1, PLAIN));
    let News::Failed { why, event: 2, .. } =
        stage.ensure(2, &stage.spec(2, "echo the port is taken; exit 3"))
    else {
        panic!()
    };
    assert_eq!(why, "exited with status 3\nthe port is taken");
    assert_eq!(stage.accepted(), Some(old));
}

#[test]
fn w10_a_candidate_that_is_never_ready_is_killed_with_its_children() {
    let stage = Stage::new();
    let old = stage.ready(1, &stage.spec(1, PLAIN));
    let mut spec = stage.spec(2, "sleep 1000 & echo $! > ../child; wait");
    spec.start_timeout = Duration::from_millis(300);
    let mut news = stage.news(0);
    stage.client().ensure(2, &spec, false).unwrap();
    let pid = until("the child", || fs::read_to_string(stage.path().join("child")).ok()?.trim().parse().ok());
    let child = Process::of(pid).unwrap();
    let News::Failed { why, .. } = stage::news_of(&mut news) else { panic!() };
    assert!(why.starts_with("was not ready within 300ms"), "{why}");
    until_gone(child);
    assert_eq!(stage.accepted(), Some(old));
    assert_eq!(stage.slots().len(), 1);
}

#[test]
fn w11_draining_is_bounded_and_ends_the_whole_group() {
    let stage = Stage::new();
    let mut spec = stage.spec(
        1,
        "trap '' TERM; sleep 1000 & echo $! > ../child; echo 1 > $POINTSMAN_RUN/ready; wait; while :; do sleep 1; done",
    );
    spec.grace_shutdown_time = Duration::from_millis(400);
    let old = stage.ready(1, &spec);
    let child =
        Process::of(fs::read_to_string(stage.path().join("child")).unwrap().trim().parse().unwrap()).unwrap();
    stage.ready(2, &stage.spec(2, PLAIN));
    assert!(old.lives() && child.lives(), "it has its grace time");
    assert!(stage.slots().iter().any(|worker| worker.state == WorkerState::Draining));
    until_gone(old);
    until_gone(child);
}

#[test]
fn w12_a_crash_is_told_and_answered_with_a_new_process() {
    let stage = Stage::new();
    let spec = stage.spec(1, "sleep 1000 & echo $! > ../child; echo 1 > $POINTSMAN_RUN/ready; wait");
    let first = stage.ready(7, &spec);
    let child =
        Process::of(fs::read_to_string(stage.path().join("child")).unwrap().trim().parse().unwrap()).unwrap();
    let mut news = stage.news(0);
    first.kill();
    let News::Exited { why, event: 7, .. } = stage::news_of(&mut news) else { panic!() };
    assert!(why.contains("killed by signal 9"), "{why}");
    until_gone(child);
    let second = until("a new process", || stage.accepted());
    assert_ne!(first, second);
    assert_eq!(stage.slots()[0].exits, 1);
    second.kill();
    stage::news_of(&mut news);
    assert_eq!((stage.slots()[0].state, stage.slots()[0].exits), (WorkerState::Failed, 2));
    // whoever asks for it does not wait for the backoff
    let third = stage.ready(8, &spec);
    assert!(third.lives());
}

#[test]
fn w13_the_next_supervisor_adopts_what_runs() {
    let mut stage = Stage::new();
    let spec = stage.spec(1, PLAIN);
    let process = stage.ready(1, &spec);
    let mut gated = stage.spec(2, GATED);
    gated.slot.instance = 2;
    stage.client().ensure(2, &gated, false).unwrap();
    stage.kill_supervisor();
    assert!(process.lives());
    stage.up();
    assert_eq!(stage.accepted(), Some(process));
    assert_eq!(stage.ready(3, &spec), process);
    let mut news = stage.news(0);
    fs::write(gated.launch.config.join("go"), "").unwrap();
    assert!(matches!(stage::news_of(&mut news), News::Ready { event: 2, .. }), "started again");
    stage.client().settle(std::slice::from_ref(&spec.slot)).unwrap();
    until("the candidate went", || (stage.slots().len() == 1).then_some(()));
    process.kill();
    let second = until("a new process", || stage.accepted().filter(|&it| it != process));

    stage.kill_supervisor();
    second.kill();
    until_gone(second);
    stage.up();
    until("a third process", || stage.accepted());
    assert_eq!(stage.slots()[0].exits, 2, "an end that nobody saw counts");
}

#[test]
fn w13_the_workers_serve_on_when_the_supervisor_is_told_to_quit() {
    let mut stage = Stage::new();
    let process = stage.ready(1, &stage.spec(1, PLAIN));
    stage.supervisor().quit().unwrap();
    stage.kill_supervisor();
    assert!(process.lives());
    stage.up();
    assert_eq!(stage.accepted(), Some(process));
}

#[test]
fn w13_a_lease_is_held_while_a_worker_lives() {
    let stage = Stage::new();
    let mut spec = stage.spec(1, PLAIN);
    spec.leases = vec![spec.launch.config.clone()];
    let held = |spec: &pointsman::supervise::WorkerSpec| {
        pointsman::fsx::Lock::try_dir(&spec.launch.config).unwrap().is_none()
    };
    stage.ready(1, &spec);
    assert!(held(&spec));
    stage.client().settle(&[]).unwrap();
    until("the lease is let go", || (!held(&spec)).then_some(()));
    spec.leases = vec![stage.path().join("collected")];
    let News::Failed { why, .. } = stage.ensure(2, &spec) else { panic!() };
    assert!(why.contains("is not there"), "{why}");
}

#[test]
fn w14_there_is_one_supervisor_and_it_answers_whatever_others_do() {
    let stage = Stage::new();
    let output = Command::new(PROGRAM).args(["supervisor", "--run"]).arg(stage.run()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let pid = stage.client().slots().unwrap().supervisor.unwrap();
    assert!(!output.status.success() && said.contains(&format!("already: process {pid}")), "{said}");

    let socket = stage.run().join("supervisor.sock");
    let mut rude = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    rude.write_all(b"\"sl").unwrap();
    stage.slots();
    rude.write_all(b"ots\"\nnonsense\n").unwrap();
    let mut endless = std::os::unix::net::UnixStream::connect(&socket).unwrap();
    while endless.write_all(&[b'x'; 64 << 10]).is_ok() {}
    stage.slots();
    rude.shutdown(std::net::Shutdown::Write).unwrap();
    let mut answers = String::new();
    rude.read_to_string(&mut answers).unwrap();
    assert!(answers.contains("supervisor") && answers.contains("not understood"), "{answers}");
}

#[test]
fn w14_a_supervisor_is_started_detached_where_the_run_directory_has_a_long_path() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("a".repeat(120));
    let first = client::start_detached(PROGRAM.as_ref(), &run).unwrap();
    assert!(first.process.is_some());
    let again = client::start_detached(PROGRAM.as_ref(), &run).unwrap();
    assert_eq!((again.pid, again.process.is_none()), (first.pid, true));
    client::Client::connect(&run).unwrap().quit().unwrap();
    until_gone_if(Process::of(first.pid));
    Process::of(holder_of(&run)).unwrap().kill();
    drop(first);
}

#[test]
fn w14_a_detached_supervisor_that_ends_leaves_no_zombie() {
    let dir = tempfile::tempdir().unwrap();
    let run = dir.path().join("run");
    let started = client::start_detached(PROGRAM.as_ref(), &run).unwrap();
    let holder = Process::of(holder_of(&run)).unwrap();
    Process::of(started.pid).unwrap().kill();
    until("it is reaped", || (!Path::new(&format!("/proc/{}", started.pid)).exists()).then_some(()));
    holder.kill();
}

/// The pid of the holder of a run directory.
fn holder_of(run: &Path) -> u32 {
    let holders =
        Command::new("pgrep").args(["-f", &format!("holder --run {}", run.display())]).output().unwrap();
    String::from_utf8(holders.stdout).unwrap().trim().parse().unwrap()
}

fn until_gone_if(process: Option<Process>) {
    if let Some(process) = process {
        until_gone(process);
    }
}

#[test]
fn w12_a_worker_that_is_done_is_left_alone_until_somebody_asks_for_it() {
    let stage = Stage::new();
    let script = "echo 1 > $POINTSMAN_RUN/ready; until [ -e go ]; do sleep 0.01; done; exit 0";
    let spec = stage.spec(1, script);
    let first = stage.ready(1, &spec);
    let mut news = stage.news(0);
    let go = spec.launch.config.join("go");
    fs::write(&go, "").unwrap();
    assert!(matches!(stage::news_of(&mut news), News::Exited { .. }));
    fs::remove_file(&go).unwrap();
    assert_eq!(stage.slots()[0].state, WorkerState::Ended);
    assert_ne!(stage.ready(2, &spec), first);

    let mut spec = stage.spec(2, script);
    spec.restart.on = pointsman::model::RestartOn::Always;
    let second = stage.ready(3, &spec);
    let mut news = stage.news(0);
    fs::write(spec.launch.config.join("go"), "").unwrap();
    assert!(matches!(stage::news_of(&mut news), News::Exited { .. }));
    fs::remove_file(spec.launch.config.join("go")).unwrap();
    until("a new process", || stage.accepted().filter(|&it| it != second));
}
