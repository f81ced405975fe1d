//! The manager's clock: the only place it reads the time from.
#![expect(clippy::disallowed_methods, reason = "this module is the manager's door to the clock")]

use std::time::Instant;

/// Now, UTC, for records.
pub fn now() -> jiff::Timestamp {
    jiff::Timestamp::now()
}

/// Milliseconds since the boot, sleep included: for deadlines that outlive this process.
pub(super) fn since_boot() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    let (seconds, nanos) = (u64::try_from(time.tv_sec), u64::try_from(time.tv_nsec));
    seconds.unwrap_or_default() * 1000 + nanos.unwrap_or_default() / 1_000_000
}

/// Now, for deadlines: never goes back.
pub(super) fn instant() -> Instant {
    Instant::now()
}
