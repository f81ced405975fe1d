//! The room's clock: the only place in it that reads the time. For limits and delays only; nothing
//! here outlives the process.
#![expect(clippy::disallowed_methods, reason = "this is the room's door to the time")]

use std::time::{Duration, Instant};

/// Now, on a clock that only moves forward.
pub(super) fn now() -> Instant {
    Instant::now()
}

/// How long until `deadline`; zero where it is past.
pub(super) fn until(deadline: Instant) -> Duration {
    deadline.saturating_duration_since(now())
}

/// Microseconds on the clock that `MONOTONIC_USEC=` is about.
pub(super) fn monotonic_usec() -> u64 {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::Monotonic);
    u64::try_from(time.tv_sec).unwrap_or_default() * 1_000_000
        + u64::try_from(time.tv_nsec).unwrap_or_default() / 1000
}

/// `limit` from now. A limit too far off to be written as a time is a century.
pub(super) fn after(limit: Duration) -> Instant {
    now().checked_add(limit).unwrap_or_else(|| now() + Duration::from_secs(100 * 365 * 86400))
}
