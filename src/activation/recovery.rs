//! What to do with an event whose engine died. The table "After a crash" of `spec/activation.md`.

use super::plan::STOP;
use crate::model::{GenerationId, Mark, Stage, StepResult};

/// What is durably known of an event without an outcome, and how the machine stands now.
#[derive(Clone, Debug)]
pub struct Trace<'a> {
    /// the event's marks, in order
    pub marks: &'a [Mark],
    /// the generation it is about
    pub target: GenerationId,
    /// what `current` names now
    pub current: Option<GenerationId>,
    /// the boot id now
    pub boot: &'a str,
    /// whether every slot that runs the target is ready (and at least one process of ours lives)
    pub alive: bool,
    /// whether nothing follows the swing: the target has no workers and none run, or only the pointer is to
    /// move
    pub bare: bool,
    /// whether the request is older than `request_ttl`
    pub expired: bool,
    /// the stage that it was in, where it was interrupted more than once
    pub doing: Stage,
}

/// What to do with the event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Recovery {
    /// run it: for the first time, or once more
    Run,
    /// give the verdict `failed`, nothing else
    Fail {
        /// the stage it did not get out of
        stage: Stage,
        /// why
        why: String,
    },
    /// the pointer is where it shall be and all is well: go on from there
    Finish {
        /// what was in force before
        from: Option<GenerationId>,
    },
    /// take it back
    Undo {
        /// what was in force before
        from: Option<GenerationId>,
        /// the stage that failed or was interrupted
        stage: Stage,
        /// why
        why: String,
    },
}

/// Decides about an event without an outcome.
pub fn recover(trace: &Trace<'_>) -> Recovery {
    let mut begun = Vec::new();
    let mut swinging = None;
    let mut undoing = None;
    let (mut last, mut furthest) = (Stage::Preflight, Stage::Preflight);
    for mark in trace.marks {
        match mark {
            Mark::Begun { boot } => begun.push(boot.as_str()),
            Mark::Swinging { from, .. } => swinging = Some(*from),
            Mark::Undoing { stage, why } => undoing = Some((*stage, why.clone())),
            Mark::Exits { .. } => {}
            Mark::Note(note) => (last, furthest) = (note.stage, furthest.max(note.stage)),
        }
    }
    let same_boot = begun.last().is_none_or(|boot| *boot == trace.boot);
    match (swinging, undoing) {
        (Some(from), Some((stage, why))) => Recovery::Undo { from, stage, why },
        (Some(from), None) if trace.current == Some(trace.target) && from != trace.current => {
            beyond_the_swing(trace, same_boot, from, last.max(Stage::Swing))
        }
        // it had moved and is back: this was being undone, but a full disk has swallowed the mark
        (Some(from), None) if furthest >= Stage::Swing => {
            let why = "interrupted on the way back".to_owned();
            Recovery::Undo { from, stage: furthest.max(Stage::Workers), why }
        }
        // an undo that began before the pointer had moved has nothing to take back but workers
        (None, Some((stage, why))) => Recovery::Undo { from: trace.current, stage, why },
        // the pointer did not have to move; its workers may be half-way
        (None, None) if same_boot && furthest >= Stage::Swing && trace.current == Some(trace.target) => {
            beyond_the_swing(trace, same_boot, trace.current, furthest.max(Stage::Workers))
        }
        (Some(_) | None, None) => match begun.len() {
            0 if trace.expired => Recovery::Fail {
                stage: Stage::Preflight,
                why: "never started: the request is older than request_ttl".to_owned(),
            },
            0 | 1 => Recovery::Run,
            _ => Recovery::Fail { stage: trace.doing, why: format!("interrupted twice in {}", trace.doing) },
        },
    }
}

/// Whether a cold restart with these marks had come to the point where every worker has ended.
pub fn has_stopped(marks: &[Mark]) -> bool {
    marks
        .iter()
        .any(|mark| matches!(mark, Mark::Note(note) if note.step == STOP && note.result == StepResult::Ok))
}

fn beyond_the_swing(
    trace: &Trace<'_>,
    same_boot: bool,
    from: Option<GenerationId>,
    stage: Stage,
) -> Recovery {
    if trace.bare || (same_boot && trace.alive) {
        return Recovery::Finish { from };
    }
    let why = if same_boot { "the engine and workers died" } else { "the machine went down" };
    Recovery::Undo { from, stage, why: format!("interrupted: {why}") }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::StepReport;

    fn id(text: &str) -> GenerationId {
        GenerationId::of(text.as_bytes())
    }

    fn passed(stage: Stage) -> Mark {
        let (step, why) = (stage.to_string(), String::new());
        Mark::Note(StepReport { stage, step, result: StepResult::Ok, why, ms: 0 })
    }

    fn decide(marks: &[Mark], current: &str, boot: &str, alive: bool) -> Recovery {
        let trace = Trace {
            marks,
            target: id("to"),
            current: Some(id(current)),
            boot,
            alive,
            bare: false,
            expired: false,
            doing: Stage::Loader,
        };
        recover(&trace)
    }

    #[test]
    fn a10_the_table_after_a_crash() {
        let begun = Mark::Begun { boot: "b1".to_owned() };
        let swinging = Mark::Swinging { from: Some(id("from")), to: id("to") };
        let undoing = Mark::Undoing { stage: Stage::Workers, why: "web/1 died".to_owned() };
        let from = Some(id("from"));

        assert_eq!(decide(&[], "from", "b1", true), Recovery::Run);
        let expired = Trace {
            marks: &[],
            target: id("to"),
            current: None,
            boot: "b",
            alive: true,
            bare: false,
            expired: true,
            doing: Stage::Preflight,
        };
        assert!(matches!(recover(&expired), Recovery::Fail { .. }));
        for boot in ["b1", "b2"] {
            assert_eq!(decide(std::slice::from_ref(&begun), "from", boot, true), Recovery::Run);
            let twice = decide(&[begun.clone(), begun.clone()], "from", boot, true);
            assert!(matches!(twice, Recovery::Fail { why, .. } if why == "interrupted twice in loader"));
        }
        let swung = [begun.clone(), swinging.clone()];
        assert_eq!(decide(&swung, "from", "b1", true), Recovery::Run);
        assert_eq!(decide(&swung, "to", "b1", true), Recovery::Finish { from });
        assert!(matches!(decide(&swung, "to", "b1", false), Recovery::Undo { .. }));
        assert!(matches!(decide(&swung, "to", "b2", true), Recovery::Undo { .. }));
        for boot in ["b1", "b2"] {
            let current = Some(id("to"));
            let bare = Trace {
                marks: &swung,
                target: id("to"),
                current,
                boot,
                alive: false,
                bare: true,
                expired: false,
                doing: Stage::Preflight,
            };
            assert_eq!(recover(&bare), Recovery::Finish { from }, "nothing is left that could fail");
        }
        for current in ["from", "to"] {
            let undo = decide(&[begun.clone(), swinging.clone(), undoing.clone()], current, "b2", true);
            assert_eq!(undo, Recovery::Undo { from, stage: Stage::Workers, why: "web/1 died".to_owned() });
        }
        let lost = [begun.clone(), swinging.clone(), passed(Stage::Swing), begun.clone()];
        assert!(matches!(decide(&lost, "from", "b1", true), Recovery::Undo { .. }), "its mark was lost");
        let touched = [begun.clone(), passed(Stage::Swing), begun.clone(), passed(Stage::Preflight)];
        let to = Some(id("to"));
        assert_eq!(decide(&touched, "to", "b1", true), Recovery::Finish { from: to });
        assert!(matches!(decide(&touched, "to", "b1", false), Recovery::Undo { from, .. } if from == to));
        let unrecorded = [begun.clone(), passed(Stage::Swing)];
        assert_eq!(decide(&unrecorded, "from", "b1", true), Recovery::Run, "a full disk: it has not moved");
        // nothing is half-way after a reboot: no process is left
        assert!(matches!(decide(&touched, "to", "b2", true), Recovery::Fail { .. }));
        let untouched = [begun.clone(), begun.clone(), passed(Stage::Canary)];
        assert!(matches!(decide(&untouched, "to", "b1", true), Recovery::Fail { .. }));
        assert!(matches!(decide(&[begun, undoing], "to", "b1", true), Recovery::Undo { .. }));
    }
}
