//! Whether there is room for what an activation needs beside what runs. Pure: the manager measures.

use std::collections::{BTreeMap, BTreeSet};

use crate::activation::{Act, Plan};
use crate::model::{Slot, size};

/// Disk space: what is needed of a file system, or what is left on it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Space {
    /// bytes
    pub bytes: u64,
    /// files and directories; `None`: the file system does not count them
    pub inodes: Option<u64>,
}

/// The memory that one process of each group takes, and what is left.
#[derive(Clone, Debug, Default)]
pub struct Memory {
    /// what the pipeline says, by group, in bytes
    pub said: BTreeMap<String, u64>,
    /// what the largest running process of the other groups takes
    pub measured: BTreeMap<String, u64>,
    /// what is left, in bytes; `None`: nobody can tell
    pub available: Option<u64>,
}

/// What is to be thought of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Headroom {
    /// there is room
    Enough,
    /// by what was measured there may not be
    Doubtful(String),
    /// by what was said there is not
    Short(String),
}

/// Whether there is memory for the processes that run at once with those that `running` lists: each that is
/// started where nothing ran, and one more, the largest, while a slot is replaced.
pub fn memory(plan: &Plan, running: &BTreeSet<Slot>, memory: &Memory) -> Headroom {
    let Some(available) = memory.available else { return Headroom::Enough };
    let said = surge(plan, running, &|group| memory.said.get(group).copied());
    if said.bytes > available {
        return Headroom::Short(format!(
            "memory: {}; correct `memory:`, or free some",
            said.beside(available)
        ));
    }
    let with_measured =
        surge(plan, running, &|group| memory.said.get(group).or_else(|| memory.measured.get(group)).copied());
    if with_measured.bytes > available {
        return Headroom::Doubtful(format!(
            "memory may be short, by the workers that run: {}",
            with_measured.beside(available)
        ));
    }
    Headroom::Enough
}

struct Surge {
    bytes: u64,
    instances: usize,
}

impl Surge {
    fn beside(&self, available: u64) -> String {
        let instances = if self.instances == 1 { "instance more" } else { "instances more at once" };
        format!(
            "needs about {} for {} {instances}, {} are available",
            size::about(self.bytes),
            self.instances,
            size::about(available)
        )
    }
}

fn surge(plan: &Plan, running: &BTreeSet<Slot>, of_one: &dyn Fn(&str) -> Option<u64>) -> Surge {
    let (mut surge, mut largest) = (Surge { bytes: 0, instances: 0 }, None);
    for step in plan.steps.iter().filter(|step| step.run) {
        let Act::Replace(slot) = &step.act else { continue };
        let Some(bytes) = of_one(&slot.group) else { continue };
        if running.contains(slot) {
            largest = largest.max(Some(bytes));
        } else {
            surge.bytes = surge.bytes.saturating_add(bytes);
            surge.instances += 1;
        }
    }
    if let Some(bytes) = largest {
        surge.bytes = surge.bytes.saturating_add(bytes);
        surge.instances += 1;
    }
    surge
}

/// Whether the file system of `what` has room for `need`.
pub fn disk(what: &str, need: Space, left: Space) -> Headroom {
    let short = |need: String, left: String| {
        Headroom::Short(format!(
            "{what}: needs about {need}, {left} are left; make room, `pointsman gc` helps"
        ))
    };
    if need.bytes > left.bytes {
        return short(size::about(need.bytes), size::about(left.bytes));
    }
    match (need.inodes, left.inodes) {
        (Some(need), Some(left)) if need > left => short(format!("{need} inodes"), left.to_string()),
        _ => Headroom::Enough,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::activation::{Back, PlannedStep};
    use crate::model::{GenerationId, Request, Stage};

    const MIB: u64 = 1 << 20;

    fn slot(name: &str) -> Slot {
        let (group, instance) = name.split_once('/').unwrap();
        Slot { group: group.to_owned(), instance: instance.parse().unwrap() }
    }

    /// A plan that replaces these slots, but for those with a `-` before.
    fn plan(slots: &[&str]) -> Plan {
        let step = |name: &&str| PlannedStep {
            stage: Stage::Workers,
            act: Act::Replace(slot(name.trim_start_matches('-'))),
            run: !name.starts_with('-'),
            why: String::new(),
            limit: std::time::Duration::ZERO,
        };
        Plan {
            request: Request::Activate,
            target: GenerationId::of(b""),
            from: None,
            back: Back::Nothing,
            pointer_only: false,
            steps: slots.iter().map(step).collect(),
            slots: Vec::new(),
            finishes: false,
            in_place: Default::default(),
            cold: None,
            confirm: false,
        }
    }

    fn decide(
        plan: &Plan,
        running: &[&str],
        said: &[(&str, u64)],
        measured: &[(&str, u64)],
        left: u64,
    ) -> Headroom {
        let table =
            |rows: &[(&str, u64)]| rows.iter().map(|(name, n)| ((*name).to_owned(), n * MIB)).collect();
        let of = Memory { said: table(said), measured: table(measured), available: Some(left * MIB) };
        memory(plan, &running.iter().map(|name| slot(name)).collect(), &of)
    }

    #[test]
    fn a24_the_surge_is_what_is_new_and_one_of_what_is_replaced() {
        let said = [("web", 256), ("dns", 100)];
        // replaced one after the other: one more of the largest
        let replaced = plan(&["dns/1", "web/1", "web/2"]);
        let running = ["dns/1", "web/1", "web/2"];
        assert_eq!(decide(&replaced, &running, &said, &[], 256), Headroom::Enough);
        let short = |text: &str| Headroom::Short(format!("memory: {text}; correct `memory:`, or free some"));
        assert_eq!(
            decide(&replaced, &running, &said, &[], 255),
            short("needs about 256 MiB for 1 instance more, 255 MiB are available")
        );
        // nothing runs: all of them
        assert_eq!(
            decide(&replaced, &[], &said, &[], 300),
            short("needs about 612 MiB for 3 instances more at once, 300 MiB are available")
        );
        // scaled up: the new one stays, and another is replaced
        assert_eq!(
            decide(&plan(&["web/1", "web/2"]), &["web/1"], &said, &[], 300),
            short("needs about 512 MiB for 2 instances more at once, 300 MiB are available")
        );
        assert_eq!(decide(&plan(&["-web/1"]), &["web/1"], &said, &[], 0), Headroom::Enough);
        let unknown = Memory { said: [("web".to_owned(), u64::MAX)].into(), ..Memory::default() };
        assert_eq!(
            memory(&replaced, &BTreeSet::new(), &unknown),
            Headroom::Enough,
            "nobody can tell what is left"
        );
    }

    #[test]
    fn a24_what_was_measured_is_a_doubt_only() {
        let both = plan(&["dns/1", "web/1"]);
        let running = ["dns/1", "web/1"];
        let doubt = "memory may be short, by the workers that run: \
                     needs about 90 MiB for 1 instance more, 80 MiB are available";
        assert_eq!(decide(&both, &running, &[], &[("web", 90)], 80), Headroom::Doubtful(doubt.to_owned()));
        assert_eq!(
            decide(&both, &running, &[("web", 70)], &[("web", 90)], 80),
            Headroom::Enough,
            "said is said"
        );
        assert_eq!(decide(&both, &running, &[], &[], 0), Headroom::Enough);
    }

    #[test]
    fn a24_a_file_system_needs_bytes_and_inodes() {
        let space = |bytes, inodes| Space { bytes, inodes };
        let need = space(2 * MIB, Some(20));
        assert_eq!(disk("s", need, space(2 * MIB, Some(20))), Headroom::Enough);
        assert_eq!(disk("s", need, space(9 * MIB, None)), Headroom::Enough);
        let short =
            |text: &str| Headroom::Short(format!("s: {text} are left; make room, `pointsman gc` helps"));
        assert_eq!(disk("s", need, space(MIB, Some(20))), short("needs about 2 MiB, 1 MiB"));
        assert_eq!(disk("s", need, space(2 * MIB, Some(19))), short("needs about 20 inodes, 19"));
    }
}
