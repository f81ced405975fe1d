//! A service that `examples/actor.rs` plays: what to push, what was started, what answers.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::PathBuf;

use super::load::{Load, get};
use super::nginx::{address, port};
use super::{Process, Sandbox};

/// A generation. Only what differs from [`Part::default`] need be said.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// what no section claims: another one means other workers
    pub marker: &'a str,
    /// what the loader makes its output of, and workers are told of in place
    pub rules: &'a str,
    /// lines of the file `behaviour`
    pub plays: &'a str,
    /// lines of `settings.yaml`: `views` is the loader's and told in place, `tls` is told in place, `rundir` is only
    /// for a cold start, the rest is nobody's
    pub settings: &'a str,
    pub instances: u32,
    pub start_timeout: &'a str,
    /// more lines of the worker, indented by two
    pub worker: &'a str,
    /// more lines of the pipeline
    pub pipeline: &'a str,
    /// more of what the loader depends on
    pub loads: &'a str,
}

impl Default for Part<'_> {
    fn default() -> Self {
        Part {
            marker: "one",
            rules: "a",
            plays: "",
            settings: "views: [x]\ntls: {cert: c}\nrundir: /r\nthreads: 4\n",
            instances: 2,
            start_timeout: "10s",
            worker: "",
            pipeline: "",
            loads: "",
        }
    }
}

/// How many processes of each kind were started.
pub type Starts = BTreeMap<String, usize>;

/// Starts as one writes them down.
pub fn starts<const N: usize>(counts: [(&str, usize); N]) -> Starts {
    counts.into_iter().map(|(kind, count)| (kind.to_owned(), count)).collect()
}

/// What [`Stage::since`] counts from.
#[derive(Clone, Copy, Debug)]
pub struct Mark(usize);

/// A service with its sandbox.
pub struct Stage {
    pub sandbox: Sandbox,
    pub port: u16,
}

impl Stage {
    /// A stage on which nobody plays yet, with a manager.
    pub fn new() -> Stage {
        let mut sandbox = Sandbox::new();
        sandbox.start_manager();
        Stage { sandbox, port: port() }
    }

    /// A stage on which `part` plays.
    pub fn with(part: Part<'_>) -> Stage {
        let stage = Stage::new();
        let id = stage.push("first", part);
        let outcome = stage.sandbox.json(&["activate", &id], 0);
        assert_eq!(outcome["verdict"], "good", "{outcome:#}");
        stage
    }

    pub fn address(&self) -> SocketAddr {
        address(self.port)
    }

    /// Writes a directory to be pushed.
    pub fn write(&self, name: &str, part: Part<'_>) -> PathBuf {
        let file = |rel: &str, text: &str| self.sandbox.write(&format!("{name}/{rel}"), text);
        file("marker", part.marker);
        file("rules/list", part.rules);
        file("behaviour", part.plays);
        file("settings.yaml", part.settings);
        let (actor, log, port) = (super::example("actor"), self.sandbox.path("starts"), self.port);
        let (actor, log) = (actor.display(), log.display());
        let Part { instances, start_timeout, worker, pipeline, loads, .. } = part;
        let probation = if pipeline.contains("probation:") { "" } else { "probation: 100ms\n" };
        file(
            "pointsman.yaml",
            &format!(
                "version: 1
{probation}cold_only: ['settings.yaml#/rundir']
loader:
  command: [{actor}, load, {log}, '{{loaded}}']
  if_changed: ['rules/**', 'settings.yaml#/views'{loads}]
check: [{actor}, check, {log}]
canary: {{probe: {{http: 'http://{{addr:http}}/'}}}}
worker:
  command: [{actor}, worker, {log}]
  instances: {instances}
  listen: {{http: 'tcp://127.0.0.1:{port}'}}
  ready: notify
  start_timeout: {start_timeout}
  reload:
    if_only: ['rules/**', 'settings.yaml#/views', 'settings.yaml#/tls']
    command: [{actor}, tell, {log}]
{worker}
{pipeline}
"
            ),
        );
        self.sandbox.path(name)
    }

    /// Writes and pushes a generation.
    pub fn push(&self, name: &str, part: Part<'_>) -> String {
        self.write(name, part);
        self.sandbox.run(&["push", name], 0)
    }

    /// Every start so far, oldest first: kind, generation, instance and pid.
    pub fn log(&self) -> Vec<[String; 4]> {
        let text = std::fs::read_to_string(self.sandbox.path("starts")).unwrap_or_default();
        let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
        text.lines().map(|line| words(line).try_into().unwrap()).collect()
    }

    pub fn mark(&self) -> Mark {
        Mark(self.log().len())
    }

    /// What was started since then.
    pub fn since(&self, mark: Mark) -> Starts {
        let mut starts = Starts::new();
        for [kind, ..] in self.log().split_off(mark.0) {
            *starts.entry(kind).or_default() += 1;
        }
        starts
    }

    /// The living processes that play a worker or a canary, by the log: also those nobody knows of any more.
    pub fn alive(&self) -> Vec<Process> {
        let players = self.log().into_iter().filter(|[kind, ..]| kind == "worker" || kind == "canary");
        let mut alive: Vec<_> = players.filter_map(|[.., pid]| self.playing(pid.parse().unwrap())).collect();
        alive.sort();
        alive.dedup();
        alive
    }

    /// The process `pid`, where it is still one of this stage.
    fn playing(&self, pid: u32) -> Option<Process> {
        let words = std::fs::read(format!("/proc/{pid}/cmdline")).ok()?;
        let log = self.sandbox.path("starts").display().to_string();
        String::from_utf8_lossy(&words).contains(&log).then(|| super::process(pid)).flatten()
    }

    /// One request on a fresh connection.
    pub fn answer(&self) -> String {
        get(self.address()).unwrap()
    }

    /// Clients at work, to whom only these answers are right.
    pub fn load(&self, right: &[&str]) -> Load {
        let load = Load::on(self.address(), right);
        load.more(20);
        load
    }

    /// The sealed outputs of the loader, with their contents.
    pub fn outputs(&self) -> Vec<String> {
        let all = self.sandbox.snapshot();
        all.lines().filter(|line| line.contains("/store/loaded/")).map(str::to_owned).collect()
    }

    /// How many events there are.
    pub fn events(&self) -> usize {
        self.sandbox.json(&["history"], 0)["events"].as_array().unwrap().len()
    }
}
