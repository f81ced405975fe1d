//! The plan: every step of an activation and the reason for each, chosen before the first one runs.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use crate::model::{GenerationId, LoadedKey, Request, Slot, Stage};

/// Everything the plan depends on, gathered beforehand.
#[derive(Clone, Debug)]
pub struct Facts {
    /// what is asked
    pub request: Request,
    /// the generation asked for
    pub target: GenerationId,
    /// the generation in force when the event began; what a failure goes back to
    pub from: Option<GenerationId>,
    /// what `current` names now: `from`, or `target` when an interrupted activation is finished
    pub current: Option<GenerationId>,
    /// an interrupted activation that was beyond its checks is finished
    pub finishes: bool,
    /// the top of the stack of good generations
    pub last_good: Option<GenerationId>,
    /// only the pointer shall move
    pub pointer_only: bool,
    /// replace workers even where nothing changed
    pub force: bool,
    /// everything ends before anything is started
    pub cold: bool,
    /// of an interrupted cold restart: every worker had ended, and what runs was started after that
    pub stopped: bool,
    /// how long what runs, or will, may take to end
    pub grace: Duration,
    /// of a restart: the only group whose workers are replaced
    pub group: Option<String>,
    /// somebody has to say that it may stay
    pub confirm: bool,
    /// the target's loader, if it has one
    pub loader: Option<LoaderFacts>,
    /// the target's checks as the operator wrote them, and the limit of each
    pub checks: Vec<String>,
    /// the limit of each check
    pub check_timeout: Duration,
    /// the target's live canary, if it has one
    pub canary: Option<CanaryFacts>,
    /// the target's slots and how long each may take to get ready
    pub slots: BTreeMap<Slot, Duration>,
    /// those of them in which the old process ends before the new one is started
    pub stop_first: BTreeSet<Slot>,
    /// those whose process can be told of the target instead of being replaced: why, in words
    pub in_place: BTreeMap<Slot, String>,
    /// how long the workers must live
    pub probation: Duration,
    /// the slots as they run: the accepted process of each
    pub running: Vec<Running>,
    /// what differs between a generation that some slot runs and the target, in words
    pub changes: BTreeMap<GenerationId, String>,
    /// the externals of the target that are others than when it was proven; it is in force
    pub drifted: Vec<String>,
    /// nothing has proven the target on this machine since it was put in force
    pub unproven: bool,
    /// it mends what the watchdog has found: these facts are about nothing else
    pub repairs: bool,
    /// the slots of the generation a failure goes back to
    pub back_slots: Vec<Slot>,
    /// the longest that one of them may take to get ready
    pub back_limit: Duration,
}

/// What is known of the target's loader.
#[derive(Clone, Debug)]
pub struct LoaderFacts {
    /// the key of its output
    pub key: LoadedKey,
    /// whether a sealed, intact output of that key is there
    pub sealed: bool,
    /// how many sections went into the key
    pub sections: usize,
    /// its limit
    pub timeout: Duration,
}

/// What is known of the target's live canary.
#[derive(Clone, Debug)]
pub struct CanaryFacts {
    /// what it does, in words
    pub what: String,
    /// whether this machine has seen the target good
    pub seen_good: bool,
    /// how long it may take, from its start to its last process
    pub limit: Duration,
}

/// What one slot runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Running {
    /// where
    pub slot: Slot,
    /// the generation it accepted
    pub generation: GenerationId,
    /// the loader output it runs on
    pub loaded: Option<LoadedKey>,
    /// whether it is ready
    pub ready: bool,
}

/// Where a failure after the swing goes back to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Back {
    /// there was nothing before: the pointer goes away again and so do the workers
    Nothing,
    /// this generation, with these slots
    To {
        /// the generation
        generation: GenerationId,
        /// its slots
        slots: Vec<Slot>,
        /// slots that ran it: a failed change takes none of them away, whatever its pipeline says by now
        ran: Vec<Slot>,
        /// whether every one of them is put back, or only those that the plan has touched
        whole: bool,
        /// how long each may take to get ready
        #[serde(skip)]
        limit: Duration,
    },
    /// nowhere: a cold start failed and no other generation is known good
    Nowhere,
}

/// One step, and why it runs or not.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct PlannedStep {
    /// its stage
    pub stage: Stage,
    /// what it does
    pub act: Act,
    /// whether it runs
    pub run: bool,
    /// why, in words for the operator
    pub why: String,
    /// how long it may take; the time of a probation
    #[serde(skip)]
    pub limit: Duration,
}

/// What a step does.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Act {
    /// look for what can be refused before anything runs
    Preflight,
    /// make and seal the loader's output
    Load,
    /// run the check of this index
    Check(usize),
    /// run one worker of the target out of the clients' reach, and probe it
    Canary,
    /// move the pointer onto the target
    Swing,
    /// end every worker, whatever it runs, before one is started
    Stop,
    /// have this slot run the target: start, ready, then drain the old
    Replace(Slot),
    /// watch the workers for a while
    Probation,
    /// stop what only the old generation needs, after the verdict
    Remove(Slot),
}

impl Act {
    /// Whether a program of the generation is started for it.
    pub fn starts_program(&self) -> bool {
        match self {
            Act::Load | Act::Check(_) | Act::Canary | Act::Replace(_) => true,
            Act::Preflight | Act::Swing | Act::Stop | Act::Probation | Act::Remove(_) => false,
        }
    }
}

impl Plan {
    /// Whether it starts any program of the generation.
    pub fn starts_programs(&self) -> bool {
        self.steps.iter().any(|step| step.run && step.act.starts_program())
    }

    /// Whether there is more to it than a look and the move of the pointer.
    pub fn takes_time(&self) -> bool {
        self.steps.iter().any(|step| step.run && !matches!(step.act, Act::Preflight | Act::Swing))
    }

    /// Whether anything is done after the swing: what may fail then needs a way back.
    pub fn goes_on_after_the_swing(&self) -> bool {
        self.steps.iter().skip_while(|step| step.act != Act::Swing).skip(1).any(|step| step.run)
    }
}

/// The name of the step in which every worker ends.
pub(super) const STOP: &str = "stop";

impl PlannedStep {
    /// The step's name in reports: `loader`, `check 1`, `web/1`.
    pub fn name(&self) -> String {
        match &self.act {
            Act::Preflight => "preflight".to_owned(),
            Act::Load => "loader".to_owned(),
            Act::Check(index) => format!("check {}", index + 1),
            Act::Canary => "canary".to_owned(),
            Act::Swing => "swing".to_owned(),
            Act::Stop => STOP.to_owned(),
            Act::Replace(slot) => slot.to_string(),
            Act::Probation => "probation".to_owned(),
            Act::Remove(slot) => format!("remove {slot}"),
        }
    }
}

/// All steps of an activation, in the order they run.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Plan {
    /// what is asked
    pub request: Request,
    /// the generation asked for
    pub target: GenerationId,
    /// what was in force before
    pub from: Option<GenerationId>,
    /// where a failure goes back to
    pub back: Back,
    /// only the pointer moves, which proves nothing
    pub pointer_only: bool,
    /// the steps
    pub steps: Vec<PlannedStep>,
    /// how long it may take until every worker has ended, on the way back of a cold restart
    #[serde(skip)]
    pub cold: Option<Duration>,
    /// the target's slots
    pub slots: Vec<Slot>,
    /// those that are told in place
    pub in_place: Vec<Slot>,
    /// whether an interrupted activation is finished, which was beyond its checks
    pub finishes: bool,
    /// whether somebody has to say that it may stay: what only takes away waits for that
    pub confirm: bool,
}

impl Plan {
    /// Whether nothing is to be done: the target is in force and its workers are well.
    pub fn is_empty(&self) -> bool {
        self.steps.iter().all(|step| !step.run)
    }
}

/// The limit of steps that wait for nothing but the local disk.
const LOCAL: Duration = Duration::from_secs(120);

/// Chooses every step beforehand. What is planned here is what [`super::step`] carries out.
pub fn plan(facts: &Facts) -> Plan {
    let swings = facts.current != Some(facts.target);
    let stops = stops(facts);
    let mut replaced = Vec::new();
    let mut in_place = Vec::new();
    for (slot, limit) in &facts.slots {
        let (run, mut why) = match () {
            () if facts.pointer_only => (false, asked_pointer_only()),
            () if stops => (true, "started, when every worker has ended".to_owned()),
            () => replacement(facts, slot),
        };
        let running = facts.running.iter().find(|running| running.slot == *slot);
        let stays =
            facts.request != Request::Restart && !facts.force && !stops && running.is_some_and(|r| r.ready);
        if let Some(words) = facts.in_place.get(slot).filter(|_| run && stays) {
            why = format!("told in place, {words}");
            in_place.push(slot.clone());
        } else if run && !stops && running.is_some() && facts.stop_first.contains(slot) {
            why.push_str("; the old one ends before the new one starts");
        }
        replaced.push(PlannedStep {
            stage: Stage::Workers,
            act: Act::Replace(slot.clone()),
            run,
            why,
            limit: *limit,
        });
    }
    let removed: Vec<Slot> = facts
        .running
        .iter()
        .filter(|running| !facts.pointer_only && !stops && !facts.slots.contains_key(&running.slot))
        .map(|running| running.slot.clone())
        .collect();
    let finishes = facts.finishes;
    let works = finishes || stops || replaced.iter().any(|step| step.run);
    let unproven = facts.unproven && !facts.pointer_only && !swings;
    let remakes = facts.repairs && facts.loader.as_ref().is_some_and(|loader| !loader.sealed);
    let acts = swings || works || unproven || remakes || !removed.is_empty();
    let proves = acts && !facts.pointer_only && !finishes;

    let mut steps = vec![PlannedStep {
        stage: Stage::Preflight,
        act: Act::Preflight,
        run: acts,
        why: if acts {
            "whether it can be done at all"
        } else {
            "in force already, and its workers are well"
        }
        .to_owned(),
        limit: LOCAL,
    }];
    if let Some(loader) = &facts.loader {
        let (run, why) = load(facts, loader, proves);
        steps.push(PlannedStep { stage: Stage::Loader, act: Act::Load, run, why, limit: loader.timeout });
    }
    for (index, check) in facts.checks.iter().enumerate() {
        let why = if proves { check.clone() } else { idle(facts) };
        let act = Act::Check(index);
        steps.push(PlannedStep { stage: Stage::Canary, act, run: proves, why, limit: facts.check_timeout });
    }
    if let Some(canary) = &facts.canary {
        let (run, why) = live(facts, canary, proves);
        steps.push(PlannedStep { stage: Stage::Canary, act: Act::Canary, run, why, limit: canary.limit });
    }
    let why = match facts.from {
        _ if unproven => "current names it already, and nothing has proven it".to_owned(),
        _ if facts.repairs && !swings && facts.from != Some(facts.target) => {
            "current names something else, which a repair leaves alone".to_owned()
        }
        _ if !swings => "current names it already".to_owned(),
        Some(from) => format!("current: {} -> {}", from.short(), facts.target.short()),
        None => format!("current: nothing -> {}", facts.target.short()),
    };
    steps.push(PlannedStep { stage: Stage::Swing, act: Act::Swing, run: swings, why, limit: LOCAL });
    if facts.cold && !facts.pointer_only {
        let why = match stops {
            true => "every worker ends before the first one is started, as asked",
            false if finishes => "every worker had ended before the engine was interrupted",
            false => "no worker is to be replaced",
        };
        let (why, limit) = (why.to_owned(), facts.grace + LOCAL);
        steps.push(PlannedStep { stage: Stage::Workers, act: Act::Stop, run: stops, why, limit });
    }
    steps.append(&mut replaced);
    if !facts.slots.is_empty() {
        let run = works && !facts.probation.is_zero();
        let why = match (works, run) {
            (true, true) => format!("{} without a crash", seconds(facts.probation)),
            (true, false) => "none is asked for".to_owned(),
            (false, _) => "no worker was replaced".to_owned(),
        };
        steps.push(PlannedStep {
            stage: Stage::Probation,
            act: Act::Probation,
            run,
            why,
            limit: facts.probation,
        });
    }
    for slot in removed {
        let why = removed_since(facts, &slot);
        steps.push(PlannedStep {
            stage: Stage::Probation,
            act: Act::Remove(slot),
            run: true,
            why,
            limit: LOCAL,
        });
    }
    Plan {
        request: facts.request,
        target: facts.target,
        from: facts.from,
        back: back(facts),
        pointer_only: facts.pointer_only,
        steps,
        cold: (facts.cold && !facts.pointer_only).then_some(facts.grace + LOCAL),
        slots: facts.slots.keys().cloned().collect(),
        in_place,
        finishes,
        confirm: facts.confirm,
    }
}

/// Whether every worker is to end before one is started: of a cold restart, unless nothing is to be done, or what
/// was interrupted is beyond that and has started on the target.
fn stops(facts: &Facts) -> bool {
    if !facts.cold || facts.pointer_only {
        return false;
    }
    if facts.finishes {
        return !facts.stopped;
    }
    let touched = facts.slots.keys().any(|slot| replacement(facts, slot).0);
    touched || facts.running.iter().any(|running| !facts.slots.contains_key(&running.slot))
}

fn replacement(facts: &Facts, slot: &Slot) -> (bool, String) {
    let Some(running) = facts.running.iter().find(|running| running.slot == *slot) else {
        return (true, started(facts, slot));
    };
    if facts.request == Request::Restart {
        return match &facts.group {
            Some(group) if *group != slot.group => (false, format!("only {group} is restarted")),
            _ => (true, "replaced, as asked".to_owned()),
        };
    }
    if running.generation != facts.target {
        let change = facts.changes.get(&running.generation).map_or("another generation", String::as_str);
        return (true, format!("replaced, {change}"));
    }
    if running.loaded != facts.loader.as_ref().map(|loader| loader.key) {
        return (true, "replaced, the loader's output is another one".to_owned());
    }
    if let [drifted, ..] = facts.drifted.as_slice() {
        return (true, format!("replaced, {drifted} is not as it was proven"));
    }
    if !running.ready {
        return (true, "started again, it is not ready".to_owned());
    }
    if facts.force {
        return (true, "replaced, as asked".to_owned());
    }
    (false, format!("left alone, it runs {} already", facts.target.short()))
}

/// Why a slot is started that nothing runs in.
fn started(facts: &Facts, slot: &Slot) -> String {
    let running = facts.running.iter().filter(|running| running.slot.group == slot.group).count();
    let wanted = instances(facts, &slot.group);
    match running {
        _ if facts.repairs => "started, nothing ran there any more".to_owned(),
        _ if facts.running.is_empty() => "started, nothing runs yet".to_owned(),
        0 => format!("started, group {} is new", slot.group),
        _ if running < wanted => format!("started, {running} of {wanted} run"),
        _ => "started, nothing runs there".to_owned(),
    }
}

/// Why a slot is stopped that the target does not have.
fn removed_since(facts: &Facts, slot: &Slot) -> String {
    let why = match instances(facts, &slot.group) {
        0 => format!("the target has no group {}", slot.group),
        1 => format!("{} has 1 instance now", slot.group),
        n => format!("{} has {n} instances now", slot.group),
    };
    format!("stopped after the verdict, {why}")
}

fn instances(facts: &Facts, group: &str) -> usize {
    facts.slots.keys().filter(|slot| slot.group == group).count()
}

fn load(facts: &Facts, loader: &LoaderFacts, proves: bool) -> (bool, String) {
    let short = loader.key.short();
    let of = match loader.sections {
        0 => "for the whole generation".to_owned(),
        1 => "for its section".to_owned(),
        n => format!("for its {n} sections"),
    };
    if !proves {
        (false, idle(facts))
    } else if loader.sealed {
        (false, format!("not run, output {short} {of} is sealed"))
    } else {
        (true, format!("run, there is no sealed output {short} {of}"))
    }
}

fn live(facts: &Facts, canary: &CanaryFacts, proves: bool) -> (bool, String) {
    match facts.request {
        _ if !proves => (false, idle(facts)),
        Request::Activate | Request::Confirm | Request::Stop => (true, canary.what.clone()),
        // what has served here is wanted back at once
        Request::Rollback | Request::Start | Request::Restart if canary.seen_good => {
            (false, format!("this machine has seen {} good", facts.target.short()))
        }
        Request::Rollback | Request::Start | Request::Restart => (true, canary.what.clone()),
    }
}

fn idle(facts: &Facts) -> String {
    match facts {
        _ if facts.pointer_only => asked_pointer_only(),
        _ if facts.finishes => "passed before the engine was interrupted".to_owned(),
        _ => "nothing is to be done".to_owned(),
    }
}

fn asked_pointer_only() -> String {
    "only the pointer moves, as asked".to_owned()
}

/// The generation that a failure goes back to: the one in force before. Where that is the target itself
/// (a cold start, a pointer that was moved alone), it is the last good one: what fails now proves nothing.
pub fn way_back(
    request: Request,
    target: GenerationId,
    from: Option<GenerationId>,
    last_good: Option<GenerationId>,
) -> Option<GenerationId> {
    let good = last_good.filter(|good| *good != target);
    match request {
        Request::Start => good,
        Request::Activate | Request::Rollback if from == Some(target) => good.or(from),
        // what could not be replaced serves on: there is nowhere else to go
        Request::Activate | Request::Rollback | Request::Restart | Request::Confirm | Request::Stop => from,
    }
}

fn back(facts: &Facts) -> Back {
    match way_back(facts.request, facts.target, facts.from, facts.last_good) {
        Some(generation) => Back::To {
            generation,
            slots: facts.back_slots.clone(),
            ran: running_on(facts, generation),
            // the engine that is gone may have touched any of them; what does not run `from` may run
            // anything; and where nothing ran, some of them alone would be half a service
            whole: facts.finishes || Some(generation) != facts.from || facts.running.is_empty(),
            limit: facts.back_limit,
        },
        None if facts.request == Request::Start => Back::Nowhere,
        None => Back::Nothing,
    }
}

fn running_on(facts: &Facts, generation: GenerationId) -> Vec<Slot> {
    let running = facts.running.iter().filter(|running| running.generation == generation);
    running.map(|running| running.slot.clone()).collect()
}

fn seconds(time: Duration) -> String {
    if time.subsec_millis() == 0 { format!("{}s", time.as_secs()) } else { format!("{}ms", time.as_millis()) }
}
