//! Why something must not be activated now.

use serde::{Deserialize, Serialize};

use super::Actor;

/// A word against activations: of the whole service (it is frozen, or stopped), or of one generation (it was
/// rolled back from).
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Veto {
    /// when, UTC
    pub at: jiff::Timestamp,
    /// who
    pub by: Actor,
    /// why, in their words
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub why: Option<String>,
    /// the rollback or stop that it came with
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub event: Option<u64>,
}

impl std::fmt::Display for Veto {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "by {} at {}", self.by, self.at.strftime("%F %TZ"))?;
        match &self.why {
            Some(why) => write!(f, ": {why}"),
            None => Ok(()),
        }
    }
}
