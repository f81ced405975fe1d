//! What workers say on `NOTIFY_SOCKET`, beside that they are ready. Rules W40 to W44 of `spec/workers.md`.

use std::time::Duration;

use pointsman::model::{Ready, Tell};
use pointsman::supervise::{News, NewsSource, WorkerSpec, WorkerState};

use crate::stage::{self, Stage, until, until_gone};

/// Microseconds, as `MONOTONIC_USEC=` has them.
fn now() -> i64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    time.tv_sec * 1_000_000 + time.tv_nsec / 1000
}

/// Why the only slot's process ended unasked.
fn exited(news: News) -> String {
    let News::Exited { why, .. } = news else { panic!("{news:?}") };
    why
}

#[test]
fn w40_a_worker_is_not_well_while_it_reloads() {
    let stage = Stage::new();
    let process = stage.ready(1, &stage.speaker(1, "READY=1"));
    stage.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now()));
    let worker = &stage.slots()[0];
    assert_eq!((worker.state, worker.unwell.as_deref()), (WorkerState::Ready, Some("reloading")));
    stage.say("READY=1");
    assert!(stage.slots()[0].is_well());
    assert_eq!(stage.accepted(), Some(process));
}

/// A speaker that is told by a signal, and says itself that it has taken it.
fn told(stage: &Stage, generation: u8) -> WorkerSpec {
    let mut spec = stage.speaker(generation, "READY=1");
    spec.tell = Some(Tell::Signal { signal: "HUP".into(), verify: Ready::Notify });
    spec.start_timeout = Duration::from_secs(60);
    spec
}

/// It says that it has reloaded, and has taken what it was told of for `event`.
fn reloads(stage: &Stage, event: u64, news: &mut Box<dyn NewsSource>) {
    stage.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now()));
    stage.say("READY=1");
    let News::Ready { event: of, note, .. } = stage::news_of(news) else { panic!() };
    assert_eq!((of, note.as_str()), (event, ""));
    assert!(stage.slots()[0].is_well());
}

#[test]
fn w18_w40_the_end_of_a_reload_says_that_it_has_taken_what_it_was_told() {
    let stage = Stage::new();
    let process = stage.ready(1, &told(&stage, 1));
    let mut news = stage.news(0);
    stage.client().ensure_in_place(2, &told(&stage, 2)).unwrap();
    reloads(&stage, 2, &mut news);

    // one that had begun before does not
    stage.say(&format!("RELOADING=1\nMONOTONIC_USEC={}", now()));
    stage.client().ensure_in_place(3, &told(&stage, 3)).unwrap();
    stage.say("READY=1");
    assert_eq!(stage.slots()[0].generation, stage::id(2), "that was the reload before");
    reloads(&stage, 3, &mut news);
    assert_eq!((stage.accepted(), stage.slots()[0].generation), (Some(process), stage::id(3)));
}

#[test]
fn w40_a_reload_that_had_begun_before_by_its_own_word_does_not_answer() {
    let stage = Stage::new();
    let process = stage.ready(1, &told(&stage, 1));
    let before = now();
    let mut news = stage.news(0);
    stage.client().ensure_in_place(2, &told(&stage, 2)).unwrap();
    stage.say(&format!("RELOADING=1\nMONOTONIC_USEC={before}"));
    stage.say("READY=1");
    assert_eq!(stage.slots()[0].generation, stage::id(1), "that was the reload before");
    reloads(&stage, 2, &mut news);
    assert_eq!(stage.accepted(), Some(process));
}

#[test]
fn w41_more_time_is_given_within_bounds() {
    let stage = Stage::new();
    let mut spec = stage.speaker(1, "EXTEND_TIMEOUT_USEC=600000000\nSTATUS=reading \u{1b}[2J much");
    spec.start_timeout = Duration::from_secs(2);
    let News::Failed { why, .. } = stage.ensure(1, &spec) else { panic!() };
    assert!(why.starts_with("was not ready within 8") && why.contains("it had 2s put off"), "{why}");
    assert!(why.contains("it said last: reading \\u{1b}[2J much"), "{why}");

    // in time, then
    let mut news = stage.news(0);
    spec.start_timeout = Duration::from_secs(60);
    stage.client().ensure(2, &spec, false).unwrap();
    stage.say("READY=1");
    assert!(matches!(stage::news_of(&mut news), News::Ready { event: 2, .. }));
}

#[test]
fn w42_a_worker_that_is_silent_is_aborted_and_counts_as_a_crash() {
    let stage = Stage::new();
    let script =
        "trap 'echo aborted; exit 0' ABRT; echo 1 > $POINTSMAN_RUN/ready; while :; do sleep 0.01; done";
    let mut spec = stage.spec(1, script);
    spec.watchdog = Some(Duration::from_millis(300));
    let mut news = stage.news(0);
    stage.client().ensure(1, &spec, false).unwrap();
    assert!(matches!(stage::news_of(&mut news), News::Ready { event: 1, .. }));
    let why = exited(stage::news_of(&mut news));
    assert!(why.starts_with("was silent for 300ms (watchdog)") && why.contains("aborted"), "{why}");
    assert!(stage.slots()[0].exits >= 1);
    stage.client().settle(&[]).unwrap();

    // who does not heed it is killed
    let mut spec = stage.spec(2, "trap '' ABRT; echo 1 > $POINTSMAN_RUN/ready; while :; do sleep 0.01; done");
    (spec.watchdog, spec.grace_shutdown_time) =
        (Some(Duration::from_millis(300)), Duration::from_millis(300));
    spec.slot.group = "deaf".into();
    let mut news = stage.news(0);
    stage.client().ensure(2, &spec, false).unwrap();
    assert!(matches!(stage::news_of(&mut news), News::Ready { event: 2, .. }));
    assert!(exited(stage::news_of(&mut news)).starts_with("was silent"));
}

#[test]
fn w42_a_worker_that_speaks_lives_until_it_gives_up() {
    let stage = Stage::new();
    let mut spec = stage.speaker(1, "READY=1");
    spec.watchdog = Some(Duration::from_secs(3));
    spec.launch.env.insert("BEATS".into(), "100".into());
    let process = stage.ready(1, &spec);
    let log = stage.log();
    assert!(log.contains(&format!("WATCHDOG_PID={}\nWATCHDOG_USEC=3000000\n", process.pid)), "{log}");
    // so many take longer than it may be silent
    let beats = || stage.log().lines().filter(|line| *line == "beat").count();
    until("beats", || (beats() > 32).then_some(()));
    assert_eq!(stage.accepted(), Some(process));
    let mut news = stage.news(0);
    stage.say("WATCHDOG=1");
    let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
    let mut runs = std::fs::read_dir(stage.run().join("p")).unwrap().flatten();
    socket.send_to(b"WATCHDOG=trigger", runs.next().unwrap().path().join("say")).unwrap();
    let why = exited(stage::news_of(&mut news));
    // systemd does not say which of the two it was
    let why = why.strip_prefix("was silent for 3s (watchdog), or ").unwrap_or(&why);
    assert!(why.starts_with("has given up (WATCHDOG=trigger)"), "{why}");
    until_gone(process);
}

#[test]
fn w43_words_that_mean_nothing_here_change_nothing() {
    let stage = Stage::new();
    let process = stage.ready(1, &stage.speaker(1, "READY=1"));
    stage.say("STOPPING=1\nERRNO=5\nFDSTORE=1\nFDNAME=a\nMAINPID=1\nWATCHDOG=1\nWATCHDOG_USEC=1\nX\n=\n");
    let worker = &stage.slots()[0];
    assert_eq!((stage.accepted(), worker.exits, worker.is_well()), (Some(process), 0, true));
}

#[test]
fn w44_a_run_directory_with_a_long_path_hears_its_workers() {
    let mut stage = Stage::within(&"deep".repeat(40));
    let spec = stage.speaker(1, "READY=1\nSTATUS=far away");
    let process = stage.ready(1, &spec);
    assert_eq!(stage.slots()[0].note, "far away");
    let log = stage.log();
    assert!(log.contains("NOTIFY_SOCKET=@pointsman/"), "{log}");
    // the next supervisor hears it at the same address
    stage.kill_supervisor();
    stage.up();
    assert_eq!(stage.accepted(), Some(process));
    assert!(matches!(stage.ensure(2, &spec), News::Ready { event: 2, .. }));
    let other = stage.ready(3, &stage.speaker(2, "READY=1"));
    assert_ne!(other, process);
}
