//! The manager's clock: the only place it reads the time from.
#![expect(clippy::disallowed_methods, reason = "this module is the manager's door to the clock")]

use std::time::Instant;

/// Now, UTC, for records.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Now, for deadlines: never goes back.
pub(super) fn instant() -> Instant {
    Instant::now()
}
