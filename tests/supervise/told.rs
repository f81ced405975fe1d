//! Workers that are told of another generation while they run.

use std::fs;
use std::time::Duration;

use pointsman::model::{Command as Words, Ready, Tell};
use pointsman::supervise::{News, WorkerSpec};

use crate::stage::{self, Stage, until};

/// Answers with its configuration, read at the start and on HUP.
const READS: &str = "answer() { cat $POINTSMAN_CONFIG/body > answer.new; mv answer.new answer; }
    trap answer HUP; answer; while :; do sleep 0.01; done";

fn spec(stage: &Stage, generation: u8, tell: Tell) -> WorkerSpec {
    let mut spec = stage.spec(generation, READS);
    spec.ready = Ready::File("{run}/answer".into());
    spec.tell = Some(tell);
    spec
}

fn by(script: &str) -> Tell {
    Tell::Command(Words(["sh", "-c", script].map(str::to_owned).into()))
}

fn hup(verify: Ready) -> Tell {
    Tell::Signal { signal: "HUP".into(), verify }
}

/// The answer of the only process.
fn answer(stage: &Stage) -> Option<String> {
    let directories = fs::read_dir(stage.run().join("p")).unwrap().flatten();
    directories.filter_map(|entry| fs::read_to_string(entry.path().join("answer")).ok()).next()
}

fn tell(stage: &Stage, event: u64, spec: &WorkerSpec) -> News {
    let mut news = stage.news(0);
    stage.client().ensure_in_place(event, spec).unwrap();
    stage::news_of(&mut news)
}

#[test]
fn w18_a_worker_is_told_in_place_and_is_started_again_on_what_it_was_told() {
    let verify = || Ready::File("{run}/answer".into());
    let script = "kill -HUP $POINTSMAN_PID; until cmp -s {config}/body {run}/answer; do sleep 0.01; done";
    for way in [by(script), hup(verify())] {
        let stage = Stage::new();
        let process = stage.ready(1, &spec(&stage, 1, way.clone()));
        let News::Ready { note, event: 2, .. } = tell(&stage, 2, &spec(&stage, 2, way.clone())) else {
            panic!()
        };
        assert_eq!(note, "");
        assert_eq!(stage.accepted(), Some(process), "it is the same process");
        assert_eq!(answer(&stage).as_deref(), Some("generation 2\n"));
        assert_eq!(stage.slots()[0].generation, stage::id(2));

        process.kill();
        let next = until("a new process", || stage.accepted().filter(|&it| it != process));
        until("it answers", || (answer(&stage)? == "generation 2\n").then_some(()));
        assert!(matches!(tell(&stage, 3, &spec(&stage, 1, way)), News::Ready { .. }));
        assert_eq!((stage.accepted(), answer(&stage).as_deref()), (Some(next), Some("generation 1\n")));
    }
}

#[test]
fn w18_a_worker_that_does_not_take_it_is_replaced() {
    let stage = Stage::new();
    let old = stage.ready(1, &spec(&stage, 1, by("true")));
    let no = spec(&stage, 2, by("echo no thanks; exit 4"));
    let News::Ready { note, .. } = tell(&stage, 2, &no) else { panic!() };
    assert!(note.contains("exited with status 4\nno thanks"), "{note}");
    assert_ne!(stage.accepted(), Some(old));

    // not in time, and the new one fails, too: the links lead back
    let mut bad = spec(&stage, 3, hup(Ready::File("{run}/never".into())));
    bad.start_timeout = Duration::from_millis(300);
    fs::remove_file(bad.launch.config.join("body")).unwrap();
    bad.ready = Ready::File("{run}/never".into());
    let process = stage.accepted().unwrap();
    let News::Failed { why, .. } = tell(&stage, 3, &bad) else { panic!() };
    assert!(why.contains("has not taken it within 300ms"), "{why}");
    let worker = &stage.slots()[0];
    assert!(worker.unwell.is_some() && worker.generation == stage::id(2), "{worker:?}");
    assert!(matches!(tell(&stage, 4, &spec(&stage, 2, by("true"))), News::Ready { .. }));
    assert!(stage.accepted() == Some(process) && stage.slots()[0].is_well());
}
