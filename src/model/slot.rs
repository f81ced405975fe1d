//! Where a worker runs: a group's name and a number.

use std::fmt;

/// One place for one worker process: instance `instance` (from 1) of a group.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Slot {
    /// the group's name in the pipeline
    pub group: String,
    /// its number, from 1
    pub instance: u32,
}

impl Slot {
    /// The slot that is shown as `name`; nothing where none is.
    pub fn named(name: &str) -> Option<Slot> {
        let (group, instance) = name.rsplit_once('/')?;
        Some(Slot { group: group.to_owned(), instance: instance.parse().ok()? })
    }
}

impl fmt::Display for Slot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.group, self.instance)
    }
}
