//! placeholder
mod wire;
pub use wire::{Answer, Ask, Launch, News, WorkerReport, WorkerSpec, WorkerState};
