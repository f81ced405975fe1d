//! A service whose stages can be held: two workers, a loader, a check and a canary, each of which says that it
//! is there and waits where its gate is shut; and a client that asks all the time.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write as _;
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::common::load::Load;
use crate::common::nginx::{address, port};
use crate::common::{PATIENCE, Process, Sandbox, greeter, workers};

/// A generation that the service knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Generation {
    pub id: String,
    /// what its workers answer
    pub body: String,
}

/// Who sees to what the killed manager has left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// the next manager
    Manager,
    /// somebody who asks for something else, where no manager runs
    Caller,
}

/// The service, in force and under load.
pub struct Service {
    pub sandbox: Sandbox,
    pub load: Load,
    port: u16,
    count: usize,
    /// what is in force
    pub now: Generation,
}

/// A stage that does not get on until it is let go.
pub struct Gate {
    path: PathBuf,
    fifo: File,
}

impl Gate {
    /// Lets whoever waits go on, and who comes later pass.
    pub fn open(mut self) {
        std::fs::remove_file(&self.path).unwrap();
        self.fifo.write_all(&[b'\n'; 16]).unwrap();
    }
}

/// The worker in instance 2 ends at its start.
pub const BAD: &str = "[ $POINTSMAN_INSTANCE != 2 ] || { echo second to none; exit 3; }";

impl Service {
    /// A service with its first generation in force, and a manager.
    pub fn new() -> Service {
        let mut sandbox = Sandbox::new();
        std::fs::create_dir(sandbox.path("gates")).unwrap();
        sandbox.write("reached", "");
        sandbox.start_manager();
        let port = port();
        let now = push(&sandbox, port, 1, "", "100ms");
        sandbox.run(&["activate", &now.id], 0);
        let load = Load::resting(1, Duration::from_millis(2), address(port), &[&now.body]);
        load.more(20);
        Service { sandbox, load, port, count: 1, now }
    }

    /// Pushes a generation with a body of its own; `before` is shell that its workers run at their start.
    pub fn push(&mut self, before: &str, probation: &str) -> Generation {
        self.count += 1;
        push(&self.sandbox, self.port, self.count, before, probation)
    }

    /// Shuts the gate of a stage of `generation`.
    pub fn shut(&self, stage: &str, generation: &Generation) -> Gate {
        let path = self.sandbox.path(&format!("gates/{stage}.{}", generation.body));
        assert!(Command::new("mkfifo").arg(&path).status().unwrap().success());
        // open for both: nobody waits for the other end
        let fifo = File::options().read(true).write(true).open(&path).unwrap();
        Gate { path, fifo }
    }

    /// How often a stage of `generation` was begun.
    pub fn reached(&self, stage: &str, generation: &Generation) -> usize {
        let text = std::fs::read_to_string(self.sandbox.path("reached")).unwrap();
        let line = format!("{stage}.{}", generation.body);
        text.lines().filter(|reached| *reached == line).count()
    }

    /// Waits until the stage was begun that many times.
    pub fn until_reached(&self, stage: &str, generation: &Generation, times: usize) {
        until(&format!("{stage} is reached"), || (self.reached(stage, generation) >= times).then_some(()));
    }

    /// Asks the manager for something, and gives the event's number.
    pub fn ask(&self, what: &str, target: &Generation) -> u64 {
        self.load.expect(&[&self.now.body, &target.body]);
        let asked = self.sandbox.json(&[what, "--no-wait", &target.id], 0);
        asked["event"].as_u64().unwrap()
    }

    /// The outcome of an event, where it has one.
    pub fn outcome(&self, event: u64) -> Option<Value> {
        let bytes = std::fs::read(self.sandbox.path(&format!("store/events/{event}.outcome.json"))).ok()?;
        Some(serde_json::from_slice(&bytes).unwrap())
    }

    /// Waits for the outcome of an event.
    pub fn verdict(&self, event: u64) -> Value {
        until("the verdict", || self.outcome(event))
    }

    /// Serves on, whoever is gone.
    pub fn serves(&self) {
        self.load.more(20);
        assert_eq!(self.load.failures(), Vec::<String>::new());
    }

    /// Has what the killed manager has left seen to.
    pub fn take_up(&mut self, next: Next) {
        match next {
            Next::Manager => drop(self.sandbox.start_manager()),
            // nothing waits to be confirmed; what was begun before is seen to first
            Next::Caller => drop(self.sandbox.output(&["--json", "confirm"], 7)),
        }
    }

    /// What must hold when nothing is going on: one verdict for each event, `now` in force and served by both
    /// workers, nothing left over. Starts a manager where none runs.
    pub fn settled(&mut self, now: Generation, case: &str) -> BTreeMap<String, Process> {
        self.now = now;
        let id = self.now.id.clone();
        let status = self.sandbox.wait(&format!("{case}: two workers on {}", self.now.body), |status| {
            status["activation"].is_null()
                && status["workers"].as_array().unwrap().len() == 2
                && status["workers"].as_array().unwrap().iter().all(|worker| worker["generation"] == id)
                && workers(status).len() == 2
        });
        let serving = workers(&status);
        assert_eq!(self.sandbox.current(), Some(id), "{case}");
        if status["manager"].is_null() {
            self.sandbox.start_manager();
            assert_eq!(self.sandbox.workers(), serving, "{case}: the next manager touches nothing");
        }
        self.sandbox.nothing_left_over(case);
        self.load.expect(&[&self.now.body]);
        self.serves();
        let history = self.sandbox.json(&["history"], 0);
        let events = history["events"].as_array().unwrap();
        let numbers: BTreeSet<u64> = events.iter().map(|event| event["number"].as_u64().unwrap()).collect();
        assert_eq!(numbers.len(), events.len(), "{case}: one line for each event: {history:#}");
        assert!(events.iter().all(|event| event["end"]["verdict"].is_string()), "{case}: {history:#}");
        assert_eq!(self.sandbox.run(&["verify"], 0), "ok", "{case}");
        let tmp = std::fs::read_dir(self.sandbox.path("store/tmp")).unwrap();
        let left: Vec<_> = tmp.map(|entry| entry.unwrap().file_name()).collect();
        assert!(left.iter().all(|name| name == "undo" || name == "reserve"), "{case}: {left:?}");
        serving
    }
}

fn push(sandbox: &Sandbox, port: u16, number: usize, before: &str, probation: &str) -> Generation {
    let body = format!("g{number}");
    let root = sandbox.path("").display().to_string();
    let root = root.trim_end_matches('/');
    let stage = format!(
        "name=$1.$(cat $POINTSMAN_CONFIG/body)\necho $name >> {root}/reached\n\
             [ ! -p {root}/gates/$name ] || read x < {root}/gates/$name\n"
    );
    sandbox.write("conf/stage", &stage);
    sandbox.write("conf/body", &body);
    sandbox.write("conf/load", "sh ./stage loader\ncp body $1/rules\n");
    let work = format!("sh ./stage worker-$POINTSMAN_INSTANCE\n{before}\nexec {}\n", greeter().display());
    sandbox.write("conf/work", &work);
    let pipeline = format!(
        "version: 1\nloader: {{command: \"sh ./load {{loaded}}\", if_changed: [body]}}\ncheck: sh ./stage check\n\
             canary: {{worker: worker, probe: {{command: sh ./stage probe}}}}\nprobation: {probation}\n\
             worker:\n  command: sh ./work\n  instances: 2\n  listen: {{http: \"tcp://127.0.0.1:{port}\"}}\n  \
             ready: notify\n  grace_shutdown_time: 20s\n"
    );
    sandbox.write("conf/pointsman.yaml", &pipeline);
    let id = sandbox.run(&["push", "conf"], 0);
    Generation { id, body }
}

/// Waits for something.
pub fn until<T>(what: &str, state: impl Fn() -> Option<T>) -> T {
    let begun = Instant::now();
    loop {
        if let Some(state) = state() {
            return state;
        }
        assert!(begun.elapsed() < PATIENCE, "{what}: does not come");
        std::thread::sleep(Duration::from_millis(2));
    }
}
