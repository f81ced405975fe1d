//! Does: starts processes, waits until they are ready, hands sockets over, drains, signals.
//!
//! | process | entry | is |
//! |---|---|---|
//! | `pointsman __exec FD` | [`exec::run`] | what every process we start is before it becomes itself |
//! | `pointsman supervisor --run DIR` | [`supervisor::run`] | owns what runs; may die: workers serve on, the next adopts them |
//! | `pointsman __ready FILE PID` | [`await_ready`] | ends when a worker that systemd has started is ready, or is not |
//! | `pointsman holder --run DIR` | [`holder::run`] | keeps a duplicate of every listening socket |
//!
//! A manager speaks to whoever looks after the workers through [`ServiceManager`], which [`client`] is for our own
//! supervisor, and runs loaders and checks by itself with
//! [`oneshot`],
//! and the live canary with [`canary`]. The rules are in `spec/workers.md`; tests carry their numbers.

pub mod canary;
pub mod client;
pub mod exec;
pub mod facts;
pub mod holder;
pub mod logs;
pub mod memory;
pub mod oneshot;
pub mod probe;
pub mod stand_in;
pub mod supervisor;
pub mod surroundings;

mod clients;
mod clock;
mod closing;
mod crew;
mod doing;
mod fdstore;
mod http;
mod init;
mod keeper;
mod launch;
mod local;
mod namespace;
mod netlink;
mod news;
mod output;
mod process;
mod readiness;
mod record;
mod service_manager;
mod slots;
mod sockets;
mod spawn;
mod strays;
mod systemd;
mod taking;
mod tries;
mod unit;
mod wire;

pub use fdstore::given;
pub use holder::DaemonError;
pub use namespace::NamespaceError;
pub use process::{Ended, is_signal, send, start_of as process_start, uptime};
pub use service_manager::{NewsSource, ServiceManager, Started, Workers};
pub use systemd::await_ready;
pub use wire::{Answer, Ask, Launch, News, NewsLine, Taken, WorkerReport, WorkerSpec, WorkerState};
