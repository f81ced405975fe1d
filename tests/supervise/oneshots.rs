//! Loaders and checks.

use std::fs;
use std::path::Path;
use std::time::Duration;

use pointsman::model::Command;
use pointsman::supervise::oneshot::{self, Cancel, Finished, OneShot, OneShotError};
use pointsman::supervise::{Ended, Launch};

use crate::stage::{PROGRAM, Process, until, until_gone};

fn shot(dir: &Path, script: &str) -> OneShot {
    OneShot {
        name: "shot".into(),
        launch: Launch {
            command: Command(["sh", "-c", script, "sh", "{run}"].map(str::to_owned).into()),
            env: Default::default(),
            config: dir.to_owned(),
            loaded: None,
            mount: None,
            read_only: Vec::new(),
            surroundings: Default::default(),
        },
        run: dir.join("run"),
        timeout: Duration::from_secs(10),
        output: dir.join("output"),
    }
}

fn run(shot: &OneShot) -> Result<Finished, OneShotError> {
    oneshot::run(shot, PROGRAM.as_ref(), &Cancel::new().unwrap())
}

fn child(dir: &Path) -> Process {
    let pid = until("the child", || fs::read_to_string(dir.join("child")).ok()?.trim().parse().ok());
    Process::of(pid).unwrap_or_else(|| panic!("{pid} is gone already"))
}

fn nothing_left(dir: &Path) {
    assert_eq!(fs::read_dir(dir.join("run/p")).unwrap().count(), 0);
}

#[test]
fn w3_a_one_shot_runs_to_its_end_and_leaves_nothing() {
    let dir = tempfile::tempdir().unwrap();
    fs::write(dir.path().join("output"), "before\n").unwrap();
    let done =
        run(&shot(dir.path(), "ls -A \"$1\"; sleep 1000 & echo $! > child; echo said; exit 4")).unwrap();
    assert_eq!((done.status, done.output_tail.as_str()), (Ended::Exited(4), "said"));
    let pid: u32 = fs::read_to_string(dir.path().join("child")).unwrap().trim().parse().unwrap();
    until("its stray is gone", || Process::of(pid).is_none().then_some(()));
    nothing_left(dir.path());
}

#[test]
fn w3_only_the_end_of_what_a_one_shot_says_is_kept() {
    let dir = tempfile::tempdir().unwrap();
    let done = run(&shot(dir.path(), "yes flood | head -c 48000000; echo the end; exit 4")).unwrap();
    assert_eq!(done.status, Ended::Exited(4));
    assert!(done.output_tail.ends_with("flood\nthe end"));
    assert!(done.output_tail.len() > 60_000 && done.output_tail.len() <= 65_536);
    let log = fs::read(dir.path().join("output")).unwrap();
    let log = log.strip_prefix(b"==> shot\n").unwrap();
    assert!(log.len() <= 65_536 && log.ends_with(b"the end\n"), "{} bytes", log.len());
    // one that never stops is ended by its limit all the same
    let mut shot = shot(dir.path(), "echo $$ > child; exec yes flood");
    shot.timeout = Duration::from_millis(400);
    let error = run(&shot).unwrap_err();
    assert!(
        matches!(&error, OneShotError::TimedOut { output_tail, .. } if output_tail.contains("flood\nflood")),
        "{error}"
    );
    let pid: u32 = fs::read_to_string(dir.path().join("child")).unwrap().trim().parse().unwrap();
    assert!(Process::of(pid).is_none());
    nothing_left(dir.path());
}

#[test]
fn w3_a_one_shot_that_takes_too_long_is_killed_with_its_children() {
    let dir = tempfile::tempdir().unwrap();
    let mut shot = shot(dir.path(), "sleep 1000 & echo $! > child; echo working; wait");
    shot.timeout = Duration::from_millis(400);
    let error = std::thread::scope(|scope| {
        let end = scope.spawn(|| run(&shot).unwrap_err());
        let child = child(dir.path());
        let error = end.join().unwrap();
        until_gone(child);
        error
    });
    assert!(
        matches!(&error, OneShotError::TimedOut { output_tail, .. } if output_tail == "working"),
        "{error}"
    );
    nothing_left(dir.path());
}

#[test]
fn w3_a_one_shot_can_be_called_off() {
    let dir = tempfile::tempdir().unwrap();
    let shot = shot(dir.path(), "sleep 1000 & echo $! > child; wait");
    let cancel = Cancel::new().unwrap();
    std::thread::scope(|scope| {
        let end = scope.spawn(|| oneshot::run(&shot, PROGRAM.as_ref(), &cancel).unwrap_err());
        let child = child(dir.path());
        cancel.cancel();
        assert!(matches!(end.join().unwrap(), OneShotError::Cancelled));
        until_gone(child);
    });
    nothing_left(dir.path());
}

#[test]
fn w3_a_one_shot_dies_with_the_thread_that_waits_for_it() {
    const DIR: &str = "ONESHOT_DIR";
    if let Some(dir) = std::env::var_os(DIR) {
        // we are the process in place of a manager, which is killed while its loader runs
        let _ = run(&shot(&std::path::PathBuf::from(dir), "echo $$ > child; exec sleep 1000"));
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let mut manager = std::process::Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "oneshots::w3_a_one_shot_dies_with_the_thread_that_waits_for_it"])
        .env(DIR, dir.path())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let child = child(dir.path());
    manager.kill().unwrap();
    manager.wait().unwrap();
    until_gone(child);
}
