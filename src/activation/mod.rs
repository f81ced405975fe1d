//! Decides what an activation does, and never does any of it. Pure: no file, process or clock.
//!
//! [`plan()`] gives the whole list of steps before the first one runs; [`step`] carries the list out, one
//! observation at a time; [`recover`] says what to do with an event whose engine died, [`watchdog::look`] what to do where nobody has asked. The manager
//! brings facts in and carries actions out.

pub mod headroom;
pub mod watchdog;

mod machine;
mod plan;
mod recovery;
#[cfg(test)]
mod walk;

pub use machine::{Action, Activation, Observation, Phase, Waiting, begin, step, undo};
pub use plan::{Act, Back, CanaryFacts, Facts, LoaderFacts, Plan, PlannedStep, Running, plan, way_back};
pub use recovery::{Recovery, Trace, has_stopped, recover};
