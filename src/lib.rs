//! Keeps the configuration of services as immutable, content-addressed generations and moves one
//! pointer, `current`, onto a generation that has been proven.
//!
//! Two streams meet in a plan. What is *configured* and what is *asked for* stay apart until then.
//!
//! ```text
//! source dir --push--> Generation --+
//!                                   +--> Delta --> Plan --> Activation --> Report
//! operator / CI -----> Event -------+                          |
//!                                                     the Pointer swings in here
//! ```
//!
//! The rooms, and the only arrows between them (`tests/rooms.rs` holds them):
//!
//! ```text
//! main -> cli -> manager -> activation ---+--> model
//!          |        +-----> supervise --+-+
//!          +--------+-----> store ------+----> fsx
//! ```
//!
//! | room | does |
//! |---|---|
//! | [`cli`] | flags, one file per command, text and JSON output, exit codes |
//! | [`manager`] | the only loop: events and observations in, [`activation::step`], actions out, outcomes written |
//! | [`activation`] | decides: plan and state machine. Pure |
//! | [`supervise`] | does: spawn, readiness, socket handoff, drain, signals |
//! | [`store`] | keeps: push, generations, pointer, events, verify, export and import |
//! | [`model`] | plain data every room may know: ids, paths, pipelines, sections. Pure |
//! | [`fsx`] | the file system, and nothing above it |
//!
//! `activation`, `supervise` and `store` never know each other; the manager introduces them. That is
//! what lets the deciding be tested without processes and the store be used without a manager.

pub mod activation;
pub mod cli;
pub mod fsx;
pub mod manager;
pub mod model;
pub mod store;
pub mod supervise;
