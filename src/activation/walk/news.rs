//! Where an activation can be, and what can be heard there: the columns and rows of the failure table.

use super::super::*;
use super::world::{older, slot, to};

/// Where an activation is: the kind of its phase and step.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Place {
    Preflight,
    Load,
    Check,
    Canary,
    Swing,
    Stop,
    Replace,
    Probation,
    SwingBack,
    StopBack,
    PutBack,
    Finished,
}

impl Place {
    pub(super) const ALL: [Place; 12] = [
        Place::Preflight,
        Place::Load,
        Place::Check,
        Place::Canary,
        Place::Swing,
        Place::Stop,
        Place::Replace,
        Place::Probation,
        Place::SwingBack,
        Place::StopBack,
        Place::PutBack,
        Place::Finished,
    ];

    pub(super) fn of(activation: &Activation) -> Place {
        match &activation.phase {
            Phase::Step { at } => match activation.plan.steps[*at].act {
                Act::Preflight => Place::Preflight,
                Act::Load => Place::Load,
                Act::Check(_) => Place::Check,
                Act::Canary => Place::Canary,
                Act::Swing => Place::Swing,
                Act::Stop => Place::Stop,
                Act::Replace(_) => Place::Replace,
                Act::Probation => Place::Probation,
                Act::Remove(_) => panic!("nobody waits for what is done after the verdict"),
            },
            Phase::Undoing(undo) if undo.swung && undo.stops => Place::StopBack,
            Phase::Undoing(undo) if undo.swung => Place::PutBack,
            Phase::Undoing(_) => Place::SwingBack,
            Phase::Finished => Place::Finished,
        }
    }

    /// What it is called in the table and in the picture.
    pub(super) fn name(self) -> &'static str {
        match self {
            Place::Preflight => "preflight",
            Place::Load => "loader",
            Place::Check => "check",
            Place::Canary => "canary",
            Place::Swing => "swing",
            Place::Stop => "stop",
            Place::Replace => "worker",
            Place::Probation => "probation",
            Place::SwingBack => "pointer back",
            Place::StopBack => "stop back",
            Place::PutBack => "worker back",
            Place::Finished => "verdict",
        }
    }

    /// Whether it waits for a program, the pointer or the end of all workers, which pass or fail.
    fn is_program(self) -> bool {
        match self {
            Place::Preflight | Place::Load | Place::Check | Place::Canary | Place::Swing | Place::Stop => {
                true
            }
            Place::Replace
            | Place::Probation
            | Place::SwingBack
            | Place::StopBack
            | Place::PutBack
            | Place::Finished => false,
        }
    }
}

/// What can be heard, told apart as far as it makes a difference anywhere.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum News {
    Passed,
    Failed,
    OtherAnswer,
    Ready,
    OtherReady,
    NotReady,
    OtherNotReady,
    StrangerNotReady,
    Exited,
    StrangerExited,
    Unwell,
    StrangerUnwell,
    PointerBack,
    PointerNotBack,
    AllEnded,
    NotAllEnded,
    Overdue,
    OtherOverdue,
    Withdrawn,
    Preempted,
    Killed,
    KilledWithWorker,
    MachineDown,
}

impl News {
    pub(super) const ALL: [News; 23] = [
        News::Passed,
        News::Failed,
        News::OtherAnswer,
        News::Ready,
        News::OtherReady,
        News::NotReady,
        News::OtherNotReady,
        News::StrangerNotReady,
        News::Exited,
        News::StrangerExited,
        News::Unwell,
        News::StrangerUnwell,
        News::PointerBack,
        News::PointerNotBack,
        News::AllEnded,
        News::NotAllEnded,
        News::Overdue,
        News::OtherOverdue,
        News::Withdrawn,
        News::Preempted,
        News::Killed,
        News::KilledWithWorker,
        News::MachineDown,
    ];

    pub(super) fn name(self) -> &'static str {
        match self {
            News::Passed => "the step passed",
            News::Failed => "the step failed, or its disk is full",
            News::OtherAnswer => "another step passed or failed",
            News::Ready => "the awaited worker is ready",
            News::OtherReady => "another worker is ready",
            News::NotReady => "the awaited worker failed to get ready",
            News::OtherNotReady => "another one of the target failed",
            News::StrangerNotReady => "one of another generation failed",
            News::Exited => "a worker of the target ended",
            News::StrangerExited => "one of another generation ended",
            News::Unwell => "a worker of the target says no",
            News::StrangerUnwell => "one of another generation says no",
            News::PointerBack => "the pointer is back",
            News::PointerNotBack => "the pointer cannot be put back",
            News::AllEnded => "every worker has ended, for the way back",
            News::NotAllEnded => "a worker does not end, for the way back",
            News::Overdue => "the time is up",
            News::OtherOverdue => "the time of another wait is up",
            News::Withdrawn => "INT or TERM",
            News::Preempted => "a later rollback",
            News::Killed => "the engine is killed",
            News::KilledWithWorker => "the engine is killed, a worker dies",
            News::MachineDown => "the machine goes down",
        }
    }

    /// Whether it answers what is asked in this place only: nobody says it in another one.
    pub(super) fn is_never_heard_in(self, place: Place) -> bool {
        match self {
            News::Passed | News::Failed => !place.is_program(),
            News::Ready | News::NotReady => !matches!(place, Place::Replace | Place::PutBack),
            News::Overdue | News::Killed | News::KilledWithWorker | News::MachineDown => {
                place == Place::Finished
            }
            News::OtherAnswer
            | News::OtherReady
            | News::OtherNotReady
            | News::StrangerNotReady
            | News::Exited
            | News::StrangerExited
            | News::Unwell
            | News::StrangerUnwell
            | News::PointerBack
            | News::PointerNotBack
            | News::AllEnded
            | News::NotAllEnded
            | News::OtherOverdue
            | News::Withdrawn
            | News::Preempted => false,
        }
    }
}

/// News that nobody waits for: too late, or of something else. They must change nothing.
pub(super) fn unasked(activation: &Activation) -> Vec<(News, Observation)> {
    let why = || "because".to_owned();
    let (target, note) = (activation.plan.target, String::new);
    let place = Place::of(activation);
    // a slot that nobody awaits here, and one that somebody may
    let (other, this) = (slot(9), slot(1));
    let mut all = vec![
        (News::OtherAnswer, Observation::Passed { at: 99 }),
        (News::OtherAnswer, Observation::Failed { at: 99, why: why() }),
        (News::OtherReady, Observation::WorkerReady { slot: other, generation: target, note: note() }),
        (News::OtherOverdue, Observation::Overdue(Waiting::Step(99))),
        (News::OtherOverdue, Observation::Overdue(Waiting::PutBack(slot(9)))),
    ];
    for generation in [older(), super::world::from()].into_iter().filter(|id| *id != target) {
        // on the way back the slot that is awaited runs it again
        if place != Place::PutBack || generation == older() {
            let slot = this.clone();
            all.push((News::OtherReady, Observation::WorkerReady { slot, generation, note: note() }));
            let slot = this.clone();
            all.push((News::StrangerNotReady, Observation::WorkerFailed { slot, generation, why: why() }));
        }
        let slot = this.clone();
        all.push((News::StrangerExited, Observation::WorkerExited { slot, generation, why: why() }));
        let slot = this.clone();
        all.push((News::StrangerUnwell, Observation::WorkerUnwell { slot, generation, why: why() }));
    }
    if let Phase::Step { at } = activation.phase
        && !place.is_program()
    {
        all.push((News::OtherAnswer, Observation::Passed { at }));
        all.push((News::OtherAnswer, Observation::Failed { at, why: why() }));
    }
    if place != Place::SwingBack {
        all.push((News::PointerBack, Observation::SwungBack(Ok(()))));
        all.push((News::PointerNotBack, Observation::SwungBack(Err(why()))));
        all.push((News::OtherOverdue, Observation::Overdue(Waiting::SwingBack)));
    }
    if place != Place::StopBack {
        all.push((News::AllEnded, Observation::StoppedBack(Ok(()))));
        all.push((News::NotAllEnded, Observation::StoppedBack(Err(why()))));
        all.push((News::OtherOverdue, Observation::Overdue(Waiting::StopBack)));
    }
    if place.is_program() || place == Place::Finished {
        // it ran the target before, or does so since
        let (slot, generation) = (this, to());
        let dead = Observation::WorkerFailed { slot: slot.clone(), generation, why: why() };
        all.push((News::OtherNotReady, dead));
        let exited = Observation::WorkerExited { slot: slot.clone(), generation, why: why() };
        all.push((News::Exited, exited));
        all.push((News::Unwell, Observation::WorkerUnwell { slot, generation, why: why() }));
    }
    if place == Place::Finished {
        all.push((News::Withdrawn, Observation::Withdrawn(why())));
        all.push((News::Preempted, Observation::Preempted(why())));
    }
    all
}
