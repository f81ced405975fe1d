//! Keeps: generations, the pointer, tags, events and their outcomes, loader outputs. Plain files; the
//! rules are in `spec/store.md`.
//!
//! [`Store`] reads and never writes; [`Writer`], which only the owner of the store gets, does both. What
//! a method of `Writer` reports as done survives a power cut.

mod archive;
mod aside;
mod content;
mod error;
mod events;
mod gc;
mod generation;
mod history;
mod lines;
mod links;
mod loaded;
mod open;
mod outcome;
mod pointer;
mod purge;
mod push;
mod refusal;
mod resolve;
mod roots;
mod scan;
mod source;
mod stack;
mod staging;
mod tags;
mod verify;
mod vetoes;

pub use aside::Freed;
pub use error::{Damage, Kind, StoreError};
pub use events::{EventDraft, EventError};
pub use gc::{Collected, GcProgress, Policy, Stays};
pub use generation::{GenerationInfo, Listed};
pub use history::{End, HistoryEntry};
pub use open::{Store, Writer};
pub use pointer::PointerError;
pub use purge::{Obstacle, PurgeError, Purged, SharedFiles};
pub use push::{PushOptions, Pushed, Scratch, Source};
pub use refusal::{PushError, Refusal};
pub use resolve::RefError;
pub use roots::{Reason, Running};
pub use staging::Staging;
