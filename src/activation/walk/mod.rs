//! Every reachable state of the machine against a fake outside, and in each of them the promises.
//!
//! The outside answers each action in every way it could, deadlines pass at any moment, workers die,
//! signals come, news arrive late, disks are full, and the engine is killed or the machine goes down
//! between any two actions, up to twice. `faults.rs` plants faults into the machine and shows that the walk
//! finds each; `table.rs` and `diagram.rs` write down what the walk has seen.

mod diagram;
mod faults;
mod news;
mod promises;
mod table;
mod walks;
mod world;

use std::collections::{BTreeMap, BTreeSet, HashSet, VecDeque};
use std::fmt;
use std::hash::{DefaultHasher, Hash, Hasher};

use super::*;
use crate::model::{Stage, Verdict};
use news::{News, Place, unasked};
use world::World;

/// The functions under test, so that one can be exchanged for one with a fault.
#[derive(Clone, Copy)]
struct Machine {
    plan: fn(&Facts) -> Plan,
    begin: fn(Plan) -> (Activation, Vec<Action>),
    step: fn(Activation, Observation) -> (Activation, Vec<Action>),
    undo: fn(Plan, Stage, String) -> (Activation, Vec<Action>),
    recover: fn(&Trace<'_>) -> Recovery,
}

const REAL: Machine = Machine { plan, begin, step, undo, recover };

/// What becomes of news.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Leads {
    /// nothing
    Stays,
    /// the next wait
    To(Place),
    /// a verdict
    Ends(String),
    /// the next engine begins it again
    Again,
    /// the next engine goes on
    Finishes,
    /// the next engine takes it back
    Undoes,
    /// the next engine gives the verdict `failed` and does nothing else
    GivesUp,
}

impl Leads {
    fn of(before: &Activation, after: &Activation, actions: &[Action]) -> Leads {
        let verdict = actions.iter().find_map(|action| match action {
            Action::Conclude(verdict, ..) => Some(verdict.to_string()),
            _ => None,
        });
        match verdict {
            Some(verdict) => Leads::Ends(verdict),
            None if before.phase == after.phase && actions.is_empty() => Leads::Stays,
            None => Leads::To(Place::of(after)),
        }
    }
}

/// A promise that does not hold, and the way there.
#[derive(Debug)]
struct Broken {
    promise: &'static str,
    way: Vec<String>,
    state: String,
}

impl fmt::Display for Broken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{} does not hold after", self.promise)?;
        for (number, news) in self.way.iter().enumerate() {
            writeln!(f, "{:>4}  {news}", number + 1)?;
        }
        write!(f, "in {}", self.state)
    }
}

/// All that was seen.
struct Walk {
    machine: Machine,
    facts: fn(&World) -> Facts,
    seen: HashSet<u64>,
    /// worlds in which the next engine has begun already
    taken_up: HashSet<u64>,
    plans: Vec<Plan>,
    waits: VecDeque<(usize, Activation, World)>,
    /// how each state was reached: from which, and by what
    ways: Vec<(usize, String)>,
    ends: BTreeMap<String, usize>,
    cells: BTreeMap<(Place, News), BTreeSet<Leads>>,
}

/// Tells states apart: 64 bits of a hash, which for a million states is enough.
fn key(state: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    state.hash(&mut hasher);
    hasher.finish()
}

/// What is said of a failure has no part in what is done next.
fn without_words(phase: &Phase) -> Phase {
    let mut phase = phase.clone();
    if let Phase::Undoing(undo) = &mut phase {
        undo.why.clear();
        undo.failed.iter_mut().for_each(String::clear);
    }
    phase
}

/// How a state was reached: from which, and by what.
type Way<'a> = (usize, &'a dyn fmt::Debug);

impl Walk {
    /// Explores everything that can become of `world`.
    ///
    /// # Errors
    /// The first promise that does not hold, by one of the shortest ways there.
    fn explore(machine: Machine, facts: fn(&World) -> Facts, mut world: World) -> Result<Walk, Broken> {
        let mut walk = Walk {
            machine,
            facts,
            seen: HashSet::new(),
            taken_up: HashSet::new(),
            plans: Vec::new(),
            waits: VecDeque::new(),
            ways: vec![(0, String::new())],
            ends: BTreeMap::new(),
            cells: BTreeMap::new(),
        };
        let known = facts(&world);
        world.depends_on(&known);
        world.begun();
        let (activation, actions) = (machine.begin)(world.plan(machine.plan, known));
        walk.perform((0, &"begun"), &activation, &actions, world)?;
        while let Some((here, activation, world)) = walk.waits.pop_front() {
            assert!(walk.seen.len() < 1_000_000, "the walk does not end");
            let place = Place::of(&activation);
            walk.take_up((here, &""), Some(place), &activation.plan, &world)?;
            for (news, seen, world) in world.choices(&activation) {
                let (next, actions) = (machine.step)(activation.clone(), seen.clone());
                let leads = Leads::of(&activation, &next, &actions);
                walk.cells.entry((place, news)).or_default().insert(leads);
                walk.perform((here, &seen), &next, &actions, world)?;
            }
        }
        Ok(walk)
    }

    /// As `explore`, of the machine as it is; says how large it was.
    fn all(facts: fn(&World) -> Facts, world: World) -> Walk {
        let walk = Walk::explore(REAL, facts, world).unwrap_or_else(|broken| panic!("{broken}"));
        println!("{} states, ends {:?}", walk.seen.len(), walk.ends);
        walk
    }

    /// Performs `actions` one by one, in every way they can go; the engine may be killed between two.
    fn perform(
        &mut self,
        way: Way<'_>,
        activation: &Activation,
        actions: &[Action],
        world: World,
    ) -> Result<(), Broken> {
        let mut open = vec![(0, world)];
        while let Some((done, world)) = open.pop() {
            self.hold(promises::ALWAYS, way, activation, &world)?;
            let Some(action) = actions.get(done) else {
                self.arrive(way, activation, world)?;
                continue;
            };
            if world.verdict.is_some() && !matches!(action, Action::Settle(_)) {
                return Err(self.broken(promises::ONE_VERDICT, way, activation, &world));
            }
            if done > 0 {
                self.take_up(way, None, &activation.plan, &world)?;
            }
            for (world, rest_is_left_out) in world.performs(activation, action) {
                open.push((if rest_is_left_out { actions.len() } else { done + 1 }, world));
            }
        }
        Ok(())
    }

    /// All actions are performed: it waits, or it has ended.
    fn arrive(&mut self, way: Way<'_>, activation: &Activation, world: World) -> Result<(), Broken> {
        let plan = self.plans.iter().position(|plan| *plan == activation.plan).unwrap_or_else(|| {
            self.plans.push(activation.plan.clone());
            self.plans.len() - 1
        });
        if !self.seen.insert(key(&(plan, without_words(&activation.phase), &world))) {
            return Ok(());
        }
        self.hold(promises::WAITING, way, activation, &world)?;
        if activation.phase == Phase::Finished {
            self.hold(promises::AT_THE_END, way, activation, &world)?;
            for (news, seen) in unasked(activation) {
                let (next, actions) = (self.machine.step)(activation.clone(), seen);
                let leads = Leads::of(activation, &next, &actions);
                if leads != Leads::Stays {
                    return Err(self.broken(promises::ONE_VERDICT, way, activation, &world));
                }
                self.cells.entry((Place::Finished, news)).or_default().insert(leads);
            }
            let verdict = world.verdict.expect("p4_the_verdict_is_true holds");
            *self.ends.entry(verdict.to_string()).or_default() += 1;
            return Ok(());
        }
        self.ways.push((way.0, format!("{:?}", way.1)));
        self.waits.push_back((self.ways.len() - 1, activation.clone(), world));
        Ok(())
    }

    /// The engine is killed in `world`, with the machine or alone; the next one takes the event up.
    fn take_up(
        &mut self,
        way: Way<'_>,
        place: Option<Place>,
        interrupted: &Plan,
        world: &World,
    ) -> Result<(), Broken> {
        let Machine { plan, begin, undo, recover, .. } = self.machine;
        for (news, mut world) in world.crashes(interrupted) {
            let facts = (self.facts)(&world);
            let boot = world.boot_id();
            let trace = Trace {
                bare: facts.pointer_only || (facts.slots.is_empty() && facts.running.is_empty()),
                marks: &world.marks,
                target: facts.target,
                current: world.current,
                boot: &boot,
                alive: world.all_well(facts.target),
                expired: false,
                doing: Stage::Preflight,
            };
            let recovery = recover(&trace);
            if world.repair.is_some() && world.boot > 1 {
                // whatever has become of it, the engine gives the verdict `superseded` and does nothing (A29)
                continue;
            }
            if let Some(place) = place {
                let leads = match recovery {
                    Recovery::Run => Leads::Again,
                    Recovery::Fail { .. } => Leads::GivesUp,
                    Recovery::Finish { .. } => Leads::Finishes,
                    Recovery::Undo { .. } => Leads::Undoes,
                };
                self.cells.entry((place, news)).or_default().insert(leads);
            }
            if !self.taken_up.insert(key(&world)) {
                continue;
            }
            let (activation, actions) = match recovery {
                Recovery::Run => begin(world.plan(plan, facts)),
                Recovery::Finish { from } => begin(world.plan(plan, Facts { finishes: true, from, ..facts })),
                Recovery::Undo { from, stage, why } => {
                    undo(world.plan(plan, Facts { from, ..facts }), stage, why)
                }
                Recovery::Fail { stage, why } => {
                    let conclude = vec![Action::Conclude(Verdict::Failed, stage, why)];
                    (Activation { plan: world.plan(plan, facts), phase: Phase::Finished }, conclude)
                }
            };
            world.begun();
            self.ways.push((way.0, format!("{:?}, then {news:?}", way.1)));
            self.perform((self.ways.len() - 1, &"taken up"), &activation, &actions, world)?;
        }
        Ok(())
    }

    fn hold(
        &self,
        promises: &[(&'static str, promises::Promise)],
        way: Way<'_>,
        activation: &Activation,
        world: &World,
    ) -> Result<(), Broken> {
        match promises.iter().find(|(_, holds)| !holds(activation, world)) {
            Some((promise, _)) => Err(self.broken(promise, way, activation, world)),
            None => Ok(()),
        }
    }

    fn broken(&self, promise: &'static str, way: Way<'_>, activation: &Activation, world: &World) -> Broken {
        let mut steps = vec![format!("{:?}", way.1)];
        let mut at = way.0;
        while at != 0 {
            let (before, seen) = &self.ways[at];
            steps.push(seen.clone());
            at = *before;
        }
        steps.reverse();
        Broken { promise, way: steps, state: format!("{:?} {world:#?}", activation.phase) }
    }
}
