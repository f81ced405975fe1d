//! Workers that are asked whether they are ready, and whether they still are.

use std::fs;
use std::time::Duration;

use pointsman::model::{Command as Words, Probe, Ready};
use pointsman::supervise::{News, WorkerSpec};

use crate::stage::{self, Process, Stage, until, until_gone};

fn command(script: &str) -> Ready {
    Ready::Probe(Probe::Command(Words(["sh", "-c", script].map(str::to_owned).into())))
}

/// A worker that does nothing, and is well while there is a file `well` in its configuration.
fn well(stage: &Stage, generation: u8) -> WorkerSpec {
    let mut spec = stage.spec(generation, "exec sleep 1000");
    spec.ready = command("test -e {config}/well || { echo not well; exit 4; }");
    spec
}

#[test]
fn w15_a_worker_is_ready_when_it_answers() {
    let stage = Stage::new();
    let mut spec = stage.greeter(1, stage::free_address());
    spec.ready = Ready::Probe(Probe::Http("http://{addr:http}/".into()));
    stage.ready(1, &spec);

    let mut spec = stage.spec(2, "exec sleep 1000");
    spec.launch.env = [("COLOUR".to_owned(), "green".to_owned())].into();
    // it is asked again while this is read
    let script = "env > {config}/new; mv {config}/new {config}/seen; ls /proc/self/fd > {config}/fds; echo $0 > {config}/words";
    spec.ready = command(script);
    let process = stage.ready(2, &spec);
    let seen = fs::read_to_string(spec.launch.config.join("seen")).unwrap();
    let has = |line: &str| assert!(seen.lines().any(|known| known == line), "{line} in:\n{seen}");
    has(&format!("POINTSMAN_PID={}", process.pid));
    has("POINTSMAN_GROUP=web");
    has("COLOUR=green");
    let run = seen.lines().find_map(|line| line.strip_prefix("POINTSMAN_RUN=")).unwrap();
    assert!(std::path::Path::new(run).join("config").exists(), "it is the worker's: {run}");
    let scratch = seen.lines().find_map(|line| line.strip_prefix("POINTSMAN_SCRATCH=")).unwrap();
    assert!(scratch.starts_with(stage.run().to_str().unwrap()) && scratch != run, "{scratch}");
    assert!(!seen.contains("LISTEN_") && !seen.contains("NOTIFY_SOCKET"), "{seen}");
}

#[test]
fn w15_a_worker_that_says_no_until_its_time_is_up_is_not_ready() {
    let stage = Stage::new();
    let old = stage.ready(1, &stage.spec(1, crate::PLAIN));
    let mut spec = well(&stage, 2);
    spec.start_timeout = Duration::from_millis(400);
    let News::Failed { why, .. } = stage.ensure(2, &spec) else { panic!() };
    let says = ["was not ready within 400ms", "exited with status 4", "not well"];
    assert!(says.iter().all(|text| why.contains(text)), "{why}");
    let mut spec = stage.spec(3, "exec sleep 1000");
    spec.start_timeout = Duration::from_millis(400);
    spec.ready = Ready::Probe(Probe::Http("http://unix:{run}/socket:/".into()));
    let News::Failed { why, .. } = stage.ensure(3, &spec) else { panic!() };
    assert!(why.contains("/socket:/: cannot connect to"), "{why}");
    assert_eq!(stage.accepted(), Some(old));
}

#[test]
fn w15_the_end_of_a_worker_ends_the_wait_and_what_asks_it() {
    let stage = Stage::new();
    let mut spec = stage.spec(1, "until [ -e ../asked ]; do sleep 0.01; done; echo out of cheese; exit 3");
    spec.start_timeout = Duration::from_secs(1000);
    spec.ready = command("sleep 1000 & echo $! > ../asked.new; mv ../asked.new ../asked; wait");
    let mut news = stage.news(0);
    stage.client().ensure(1, &spec, false).unwrap();
    let asked = stage.path().join("asked");
    let pid = until("it is asked", || fs::read_to_string(&asked).ok()?.trim().parse().ok());
    let child = Process::of(pid);
    let News::Failed { why, .. } = stage::news_of(&mut news) else { panic!() };
    assert_eq!(why, "exited with status 3\nout of cheese");
    child.into_iter().for_each(until_gone);
}

#[test]
fn w16_three_noes_are_told_until_it_has_settled() {
    let stage = Stage::new();
    let spec = well(&stage, 1);
    let mark = spec.launch.config.join("well");
    fs::write(&mark, "").unwrap();
    let process = stage.ready(1, &spec);
    let mut news = stage.news(0);
    fs::remove_file(&mark).unwrap();
    let News::Unwell { why, event: 1, .. } = stage::news_of(&mut news) else { panic!() };
    assert!(why.contains("exited with status 4\nnot well"), "{why}");
    let unwell = stage.slots()[0].unwell.clone();
    assert_eq!(unwell, Some(why));
    assert_eq!(stage.accepted(), Some(process), "it serves on");
    fs::write(&mark, "").unwrap();
    until("it is well again", || stage.slots()[0].is_well().then_some(()));

    stage.client().settle(std::slice::from_ref(&spec.slot)).unwrap();
    fs::remove_file(&mark).unwrap();
    let silent = news.next_within(Duration::from_millis(2500)).unwrap();
    assert!(silent.is_none() && stage.slots()[0].is_well(), "nobody asks any more: {silent:?}");
}

#[test]
fn w16_the_next_supervisor_goes_on_asking() {
    let mut stage = Stage::new();
    let spec = well(&stage, 1);
    let mark = spec.launch.config.join("well");
    fs::write(&mark, "").unwrap();
    let process = stage.ready(1, &spec);
    stage.kill_supervisor();
    stage.up();
    let mut news = stage.news(0);
    fs::remove_file(&mark).unwrap();
    assert!(matches!(stage::news_of(&mut news), News::Unwell { .. }));
    assert_eq!(stage.accepted(), Some(process));
}
