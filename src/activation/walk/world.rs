//! The fake outside: what the slots run, where the pointer is, what is durable; and what it may do next.

use std::collections::{BTreeMap, BTreeSet};

use super::super::*;
use super::news::{News, unasked};
use crate::activation::machine::Durable;
use crate::model::{GenerationId, Mark, Repair, Request, Slot, Stage, StepReport, Verdict};

pub(super) fn from() -> GenerationId {
    GenerationId::of(b"from")
}

pub(super) fn to() -> GenerationId {
    GenerationId::of(b"to")
}

pub(super) fn older() -> GenerationId {
    GenerationId::of(b"older")
}

pub(super) fn slot(instance: u32) -> Slot {
    Slot { group: "web".to_owned(), instance }
}

/// The fake outside, and what it is owed.
#[derive(Clone, Debug, Hash)]
pub(super) struct World {
    /// what was in force when the event came
    pub from: Option<GenerationId>,
    pub current: Option<GenerationId>,
    /// where the pointer may be after a power cut, since its last move was not durable
    pub soft: Option<Option<GenerationId>>,
    /// what each slot accepted
    pub slots: BTreeMap<Slot, GenerationId>,
    /// the slots that were ready when the event came; none after a reboot
    pub before: BTreeSet<Slot>,
    /// the old process ends before the new one is started
    pub stop_first: bool,
    /// a process that runs is told instead of being replaced
    pub in_place: bool,
    /// everything ends before anything is started
    pub cold: bool,
    /// every worker was told to end, and nobody has seen that they have
    pub draining: bool,
    /// slots whose process a cold restart has had end, and that nothing has been put into since
    pub ended: BTreeSet<Slot>,
    /// what the watchdog asks to be mended
    pub repair: Option<Repair>,
    /// slots where nobody knows what runs, if anything, whatever they accepted
    pub down: BTreeSet<Slot>,
    /// slots whose process died while there was no engine
    pub ill: BTreeSet<Slot>,
    /// the programs that have to pass before the pointer moves onto the target
    pub needs: BTreeSet<Act>,
    /// whether the workers have to outlive something
    pub probation: bool,
    /// what has passed for this event, and a probation that was outlived
    pub proven: BTreeSet<Act>,
    /// what has passed since this engine took the event up
    pub proven_here: BTreeSet<Act>,
    /// the step that is being done
    pub working: Option<usize>,
    /// the step whose mark could not be written, so that it is not done
    pub unrecorded: Option<usize>,
    pub ensuring: Option<(Slot, GenerationId)>,
    pub swinging_back: Option<Option<GenerationId>>,
    pub stopping_back: bool,
    pub deadline: Option<Waiting>,
    pub marks: Vec<Mark>,
    pub verdict: Option<Verdict>,
    pub boot: u8,
    pub budget: Budget,
    /// a worker of the target died after it had been started, before the verdict
    pub died: bool,
    /// the way back met an error, so that `stuck` is right
    pub trouble: bool,
    /// a mark of the way back was not written: the disk was full
    pub lost_mark: bool,
}

/// What may still happen unasked, and how often.
#[derive(Clone, Copy, Debug, Default, Hash)]
pub(super) struct Budget {
    /// a worker of the target dies, or says that it is unwell
    pub deaths: u8,
    /// somebody wants an end, or a rollback comes
    pub signals: u8,
    /// news that are late, or of something else
    pub stale: u8,
    /// the engine is killed, or the machine goes down
    pub crashes: u8,
    /// a mark cannot be written
    pub full: u8,
}

/// An observation that the outside may make, and the world in which it has.
pub(super) type Choice = (News, Observation, World);

fn why() -> String {
    "because".to_owned()
}

impl World {
    /// In force is `from`; `slots` slots run it, ready.
    pub(super) fn new(from: Option<GenerationId>, slots: u32) -> World {
        let slots: BTreeMap<_, _> = from.iter().flat_map(|id| (1..=slots).map(|i| (slot(i), *id))).collect();
        World {
            from,
            current: from,
            soft: None,
            before: slots.keys().cloned().collect(),
            slots,
            stop_first: false,
            in_place: false,
            cold: false,
            draining: false,
            ended: BTreeSet::new(),
            repair: None,
            down: BTreeSet::new(),
            ill: BTreeSet::new(),
            needs: BTreeSet::new(),
            probation: false,
            proven: BTreeSet::new(),
            proven_here: BTreeSet::new(),
            working: None,
            unrecorded: None,
            ensuring: None,
            swinging_back: None,
            stopping_back: false,
            deadline: None,
            marks: Vec::new(),
            verdict: None,
            boot: 1,
            budget: Budget { deaths: 1, signals: 1, stale: 1, crashes: 2, full: 0 },
            died: false,
            trouble: false,
            lost_mark: false,
        }
    }

    /// What the facts ask for, whatever a plan makes of them.
    pub(super) fn depends_on(&mut self, facts: &Facts) {
        let proven = facts.request != Request::Activate;
        self.needs.insert(Act::Preflight);
        self.needs.extend(facts.loader.iter().filter(|loader| !loader.sealed).map(|_| Act::Load));
        self.needs.extend((0..facts.checks.len()).map(Act::Check));
        self.needs.extend(facts.canary.iter().filter(|c| !(proven && c.seen_good)).map(|_| Act::Canary));
        self.probation = !facts.slots.is_empty() && !facts.probation.is_zero();
    }

    /// What is planned from `facts`: of a repair, only what it is about.
    pub(super) fn plan(&self, plan: fn(&Facts) -> Plan, mut facts: Facts) -> Plan {
        if let Some(repair) = &self.repair {
            facts.narrow(repair);
        }
        plan(&facts)
    }

    /// Whether more than one engine has taken the event up.
    pub(super) fn interrupted(&self) -> bool {
        self.marks.iter().filter(|mark| matches!(mark, Mark::Begun { .. })).count() > 1
    }

    pub(super) fn boot_id(&self) -> String {
        format!("boot {}", self.boot)
    }

    pub(super) fn begun(&mut self) {
        self.marks.push(Mark::Begun { boot: self.boot_id() });
    }

    /// Records how far it is; all that decides is the furthest of them, and that everything has ended.
    fn note(&mut self, report: StepReport) {
        let further = |mark: &Mark| matches!(mark, Mark::Note(n) if n.stage >= report.stage);
        let stopped = |mark: &Mark| has_stopped(std::slice::from_ref(mark));
        let report = Mark::Note(StepReport { why: String::new(), ..report });
        if stopped(&report) || !self.marks.iter().any(further) {
            self.marks.retain(|mark| !matches!(mark, Mark::Note(_)) || stopped(mark));
            self.marks.push(report);
        }
    }

    /// A process of `generation` is ready in `slot`, and it is known that it is what runs there.
    fn runs(&mut self, slot: Slot, generation: GenerationId) {
        for slots in [&mut self.down, &mut self.ill, &mut self.ended] {
            slots.remove(&slot);
        }
        self.slots.insert(slot, generation);
    }

    /// Every worker was told to end: none of them is anybody's any more, though it may still be there.
    fn told_to_end(&self) -> World {
        let mut world = self.clone();
        world.ended.extend(std::mem::take(&mut world.slots).into_keys());
        world.down.clear();
        world.ill.clear();
        World { draining: true, ..world }
    }

    /// Every worker has ended.
    fn all_ended(&self) -> World {
        World { draining: false, ..self.told_to_end() }
    }

    /// Whether whatever runs `generation` is ready.
    pub(super) fn all_well(&self, generation: GenerationId) -> bool {
        let well = |slot| !self.down.contains(slot) && !self.ill.contains(slot);
        self.slots.iter().all(|(slot, accepted)| *accepted != generation || well(slot))
    }

    /// Whether workers are being told to end: nobody knows whether they have been.
    pub(super) fn stops(&self, plan: &Plan) -> bool {
        self.stopping_back || self.working.is_some_and(|at| plan.steps[at].act == Act::Stop)
    }

    pub(super) fn undoing(&self) -> bool {
        self.marks.iter().any(|mark| matches!(mark, Mark::Undoing { .. }))
    }

    pub(super) fn swinging(&self) -> bool {
        self.marks.iter().any(|mark| matches!(mark, Mark::Swinging { .. }))
    }

    /// Every world that `action` can lead to, and whether the actions after it are left out.
    pub(super) fn performs(&self, activation: &Activation, action: &Action) -> Vec<(World, bool)> {
        let mut worlds = Vec::new();
        let mut world = self.clone();
        match action {
            Action::Mark(durable) => {
                if self.budget.full > 0 {
                    let mut full = self.clone();
                    full.budget.full -= 1;
                    match (durable, &activation.phase) {
                        // not recorded, so not done
                        (Durable::Swinging(..), Phase::Step { at }) => {
                            full.unrecorded = Some(*at);
                            full.deadline = Some(Waiting::Step(*at));
                            worlds.push((full, true));
                        }
                        // a full disk must not block the way back
                        _ => worlds.push((World { lost_mark: true, ..full }, false)),
                    }
                }
                world.marks.push(match durable.clone().into() {
                    // its words have no part in what is done next
                    Mark::Undoing { stage, .. } => Mark::Undoing { stage, why: String::new() },
                    mark => mark,
                });
            }
            Action::Do(at) => world.working = Some(*at),
            Action::Ensure(slot, generation) => {
                if (world.stop_first || world.in_place) && world.slots.contains_key(slot) {
                    world.down.insert(slot.clone());
                }
                world.ensuring = Some((slot.clone(), *generation));
            }
            Action::Deadline(waiting, _) => world.deadline = Some(waiting.clone()),
            Action::Cancel => {
                (world.working, world.unrecorded, world.ensuring) = (None, None, None);
                if let Some((slot, generation)) = self.ensuring.clone() {
                    // it got ready a moment before it was called off
                    let mut late = world.clone();
                    late.runs(slot, generation);
                    worlds.push((late, false));
                }
                if self.stops(&activation.plan) {
                    worlds.push((world.told_to_end(), false));
                }
            }
            Action::SwingBack(to) => world.swinging_back = Some(*to),
            Action::StopBack => world.stopping_back = true,
            // a repair takes nothing away
            Action::Settle(_) if world.repair.is_some() => {}
            Action::Settle(keep) => {
                world.slots.retain(|slot, _| keep.contains(slot));
                world.down.retain(|slot| keep.contains(slot));
                world.ill.retain(|slot| keep.contains(slot));
            }
            Action::Report(at, result, note) => {
                world.note(activation.report(*at, *result, note.clone(), 0));
            }
            Action::ReportUndo(step, result, why) => {
                let stage = if step == "pointer" { Stage::Swing } else { Stage::Workers };
                let (step, why) = (step.clone(), why.clone());
                world.note(StepReport { stage, step, result: *result, why, ms: 0 });
            }
            Action::Conclude(verdict, ..) => world.verdict = Some(*verdict),
        }
        worlds.push((world, false));
        worlds
    }

    /// Everything that could be seen next, and the world in which it is.
    pub(super) fn choices(&self, activation: &Activation) -> Vec<Choice> {
        let mut all = Vec::new();
        self.answers(&activation.plan, &mut all);
        self.times(&activation.plan, &mut all);
        if self.budget.stale > 0 {
            let mut fewer = self.clone();
            fewer.budget.stale -= 1;
            all.extend(unasked(activation).into_iter().map(|(news, seen)| (news, seen, fewer.clone())));
        }
        self.deaths(&activation.plan, &mut all);
        if self.budget.signals > 0 {
            let mut fewer = self.clone();
            fewer.budget.signals -= 1;
            all.push((News::Withdrawn, Observation::Withdrawn(why()), fewer.clone()));
            all.push((News::Preempted, Observation::Preempted(why()), fewer));
        }
        all
    }

    /// What was asked for is answered, in every way it could be.
    fn answers(&self, plan: &Plan, all: &mut Vec<Choice>) {
        if let Some(at) = self.unrecorded {
            let idle = World { unrecorded: None, ..self.clone() };
            all.push((News::Failed, Observation::Failed { at, why: why() }, idle));
        }
        if let Some(at) = self.working {
            let idle = World { working: None, ..self.clone() };
            let mut passed = idle.clone();
            passed.proven.insert(plan.steps[at].act.clone());
            passed.proven_here.insert(plan.steps[at].act.clone());
            let failed = Observation::Failed { at, why: why() };
            if plan.steps[at].act == Act::Stop {
                passed = passed.all_ended();
                all.push((News::Failed, failed.clone(), idle.told_to_end()));
            }
            if plan.steps[at].act == Act::Swing {
                passed.current = Some(plan.target);
                // moved, but not durably
                let soft = World { soft: Some(self.current), ..passed.clone() };
                all.push((News::Failed, failed.clone(), soft));
            }
            all.push((News::Passed, Observation::Passed { at }, passed));
            all.push((News::Failed, failed, idle));
        }
        if let Some((slot, generation)) = self.ensuring.clone() {
            let mut ready = World { ensuring: None, ..self.clone() };
            ready.runs(slot.clone(), generation);
            let seen = Observation::WorkerReady { slot: slot.clone(), generation, note: String::new() };
            all.push((News::Ready, seen, ready));
            let failed = World { ensuring: None, trouble: self.trouble || self.goes_back(), ..self.clone() };
            let seen = Observation::WorkerFailed { slot, generation, why: why() };
            all.push((News::NotReady, seen, failed));
        }
        if let Some(to) = self.swinging_back {
            let back = World { swinging_back: None, current: to, soft: None, ..self.clone() };
            let soft = World { soft: Some(self.current), trouble: true, ..back.clone() };
            all.push((News::PointerBack, Observation::SwungBack(Ok(())), back));
            let failed = World { swinging_back: None, trouble: true, ..self.clone() };
            for world in [failed, soft] {
                all.push((News::PointerNotBack, Observation::SwungBack(Err(why())), world));
            }
        }
        if self.stopping_back {
            let idle = World { stopping_back: false, ..self.clone() };
            all.push((News::AllEnded, Observation::StoppedBack(Ok(())), idle.all_ended()));
            let failed = World { trouble: true, ..idle };
            for world in [failed.told_to_end(), failed] {
                all.push((News::NotAllEnded, Observation::StoppedBack(Err(why())), world));
            }
        }
    }

    fn goes_back(&self) -> bool {
        self.undoing() || self.lost_mark
    }

    /// The time is up for what is waited for.
    fn times(&self, plan: &Plan, all: &mut Vec<Choice>) {
        let Some(waiting) = self.deadline.clone() else { return };
        let outlived = matches!(&waiting, Waiting::Step(at) if plan.steps[*at].act == Act::Probation);
        let mut late = World {
            deadline: None,
            working: None,
            unrecorded: None,
            ensuring: self.ensuring.clone().filter(|_| !self.goes_back()),
            swinging_back: None,
            stopping_back: false,
            trouble: self.trouble || (!outlived && self.goes_back()),
            ..self.clone()
        };
        if outlived {
            late.proven.insert(Act::Probation);
            late.proven_here.insert(Act::Probation);
        }
        if self.stops(plan) {
            all.push((News::Overdue, Observation::Overdue(waiting.clone()), late.told_to_end()));
        }
        all.push((News::Overdue, Observation::Overdue(waiting), late));
    }

    /// A worker of the target dies, or does not do its work any more.
    fn deaths(&self, plan: &Plan, all: &mut Vec<Choice>) {
        if self.budget.deaths == 0 {
            return;
        }
        let counts = match &self.deadline {
            Some(Waiting::Step(at)) => matches!(plan.steps[*at].act, Act::Replace(_) | Act::Probation),
            Some(Waiting::SwingBack | Waiting::StopBack | Waiting::PutBack(_)) | None => false,
        };
        for slot in self.slots.iter().filter(|(_, id)| **id == plan.target).map(|(slot, _)| slot) {
            let mut fewer = self.clone();
            fewer.budget.deaths -= 1;
            fewer.died |= counts;
            let (slot, generation) = (slot.clone(), plan.target);
            let awaited = self.ensuring.as_ref().is_some_and(|(awaited, _)| *awaited == slot);
            if !awaited {
                // somebody had waited for it, and is told so
                let seen = Observation::WorkerFailed { slot: slot.clone(), generation, why: why() };
                all.push((News::OtherNotReady, seen, fewer.clone()));
            }
            let seen = Observation::WorkerExited { slot: slot.clone(), generation, why: why() };
            all.push((News::Exited, seen, fewer.clone()));
            let seen = Observation::WorkerUnwell { slot, generation, why: why() };
            all.push((News::Unwell, seen, fewer));
        }
    }

    /// The engine is killed here, or the whole machine goes down; what the next engine may find.
    pub(super) fn crashes(&self, plan: &Plan) -> Vec<(News, World)> {
        if self.budget.crashes == 0 || self.verdict.is_some() {
            return Vec::new();
        }
        // a pointer that was on its way may have arrived
        let mut places = BTreeSet::from([self.current]);
        if self.working.is_some() && self.swinging() {
            places.insert(Some(to()));
        }
        places.extend(self.swinging_back);
        let mut all = Vec::new();
        for current in places {
            // one-shots die with the engine
            let mut world = World {
                current,
                working: None,
                unrecorded: None,
                ensuring: None,
                swinging_back: None,
                stopping_back: false,
                deadline: None,
                died: false,
                proven_here: BTreeSet::new(),
                ..self.clone()
            };
            world.budget.crashes -= 1;
            // candidates are decided without it
            let mut worlds = vec![world.clone()];
            if self.stops(plan) {
                worlds.push(world.told_to_end());
            }
            if let Some((slot, generation)) = self.ensuring.clone() {
                let mut ready = world.clone();
                ready.runs(slot, generation);
                worlds.push(ready);
            }
            for world in worlds {
                for slot in world.slots.keys().filter(|_| world.budget.deaths > 0).cloned() {
                    let mut dead = world.clone();
                    dead.budget.deaths -= 1;
                    dead.ill.insert(slot);
                    all.push((News::KilledWithWorker, dead));
                }
                all.push((News::Killed, world));
            }
            let mut gone = World { boot: self.boot + 1, soft: None, draining: false, ..world };
            gone.slots.clear();
            for slots in [&mut gone.down, &mut gone.ill, &mut gone.ended, &mut gone.before] {
                slots.clear();
            }
            all.extend(self.soft.map(|current| (News::MachineDown, World { current, ..gone.clone() })));
            all.push((News::MachineDown, gone));
        }
        all
    }
}
