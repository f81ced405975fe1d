//! Keeps: generations, the pointer, tags, events and their outcomes, loader outputs. Plain files; the
//! rules are in `spec/store.md`.
//!
//! [`Store`] reads and never writes; [`Writer`], which only the owner of the store gets, does both. What
//! a method of `Writer` reports as done survives a power cut.

mod archive;
mod arrival;
mod aside;
mod assembly;
mod brief;
mod build;
mod bundle;
mod content;
mod due;
mod error;
mod events;
mod export;
mod feed;
mod finished;
mod flush;
mod gc;
mod generation;
mod history;
mod import;
mod incoming;
mod lines;
mod links;
mod loaded;
mod members;
mod open;
mod outcome;
mod pointer;
mod purge;
mod push;
mod refusal;
mod repair;
mod resolve;
mod rights;
mod roots;
mod scan;
mod shared;
mod source;
mod stack;
mod staging;
mod tags;
mod verify;
mod vetoes;

pub use aside::Freed;
pub use brief::{Latest, Unconfirmed};
pub use bundle::{ImportError, Meter, Origin};
pub use error::{Damage, Kind, StoreError};
pub use events::{EventDraft, EventError};
pub use export::{ExportError, Exported};
pub use gc::{Collected, GcProgress, Policy, Stays};
pub use generation::{GenerationInfo, Listed};
pub use history::{Elsewhere, End, HistoryEntry};
pub use import::{Imported, KeptTag};
pub use open::{Store, Writer};
pub use pointer::PointerError;
pub use purge::{Obstacle, PurgeError, Purged, SharedFiles};
pub use push::{Progress, PushOptions, Pushed, Scratch, Source};
pub use refusal::{PushError, Refusal};
pub use repair::{Pieces, Repair, Repaired};
pub use resolve::RefError;
pub use rights::Access;
pub use roots::{Reason, Running};
pub use staging::Staging;
pub use verify::Ahead;
