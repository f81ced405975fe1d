//! The only loop: events and observations in, [`crate::activation::step`], actions out, outcomes written.
//!
//! The manager introduces the rooms that do not know each other: it gathers facts from the store and
//! the supervisor, lets `activation` decide, and carries the decisions out. It owns no truth: killed at
//! any time, the next one reads the event's marks and goes on.

pub mod clock;

mod canary;
mod check;
mod cold;
mod confirmation;
mod daemon;
mod diff;
mod engine;
mod external;
mod facts;
mod fallen;
mod gc;
mod given;
mod headroom;
mod launch;
mod logs;
mod objection;
mod outside;
mod rejection;
mod request;
mod run;
mod service;
mod standstill;
mod status;
mod surroundings;
mod take_over;
mod wake;
mod watchdog;

pub use check::{CheckReport, CheckTarget, check};
pub use daemon::run as run_manager;
pub use diff::{ContentDiff, FileDiff, Side, diff};
pub use engine::Progress;
pub use facts::plan_for;
pub use gc::{collect, collect_after, purge};
pub use launch::stage_of;
pub use logs::{LogPiece, LogQuery, follow_logs, logs};
pub use request::{Draft, Submitted, leave, rollback_target, submit};
pub use service::{ManagerError, PIPELINE_FILE, PipelineSource, Place, Service};
pub use standstill::stop_target;
pub use status::{ActivationReport, ManagerReport, StatusReport, report as status, running_workers};
pub use take_over::take_over;
pub use watchdog::{Fault, WatchdogReport};
