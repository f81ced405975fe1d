//! Plain data every room may know: ids, paths, references, manifests, pipelines, sections. Pure:
//! nothing in here touches a file, a process or a clock.

mod access;
mod address;
mod chain;
mod claims;
mod command;
mod compare;
pub mod content;
mod delta;
mod document;
pub mod duration;
mod event;
mod external;
mod field;
mod given;
mod glob;
mod hash;
mod host;
mod manifest;
mod meta;
mod path;
mod pipeline;
pub mod placeholder;
mod probe;
mod reader;
mod reference;
mod retention;
mod scan;
mod section;
mod service_manager;
pub mod size;
mod slot;
mod socket;
mod surroundings;
mod value;
mod veto;
mod watchdog;
mod yaml;

pub use access::GroupAccess;
pub use address::{Address, AddressError};
pub use chain::chain;
pub use claims::Claims;
pub use command::{Command, CommandError};
pub use compare::{ValueChange, compare};
pub use delta::Delta;
pub use document::DocumentError;
pub use event::{
    Actor, BootTime, Event, How, ImportedEvent, Mark, Outcome, PushRecord, Repair, Request, Stage,
    StepReport, StepResult, TakeOver, Verdict,
};
pub use external::{External, ExternalNode};
pub use given::{Fit, GivenSocket};
pub use hash::{ContentHash, GenerationId, HashParseError, IdPrefix, LoadedKey};
pub use host::{HostFile, HostPipeline};
pub use manifest::{Class, Entry, Manifest, ManifestError, Node};
pub use meta::{KeyValue, KeyValueError, Metadata};
pub use path::{PathError, RelPath};
pub use pipeline::{
    Canary, Group, Listen, Loader, Network, Pipeline, Ready, Reload, Replace, Restart, RestartOn, Tell,
    longest, talks,
};
pub use probe::{HttpUrl, HttpUrlError, Probe};
pub use reference::{Reference, ReferenceError, Tag};
pub use retention::{Limits, Retention};
pub use section::{Parsed, Section, SectionError, SectionParseError};
pub use service_manager::ServiceManagerChoice;
pub use slot::Slot;
pub use socket::Socket;
pub use surroundings::{Bounds, Identity, IdentityError, Surroundings};
pub use value::{KeyKind, Member, Value, digest};
pub use veto::Veto;
pub use watchdog::WatchdogPolicy;
