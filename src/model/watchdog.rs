//! What the host file says about errors that nobody has asked for.

use std::time::Duration;

use super::DocumentError;
use super::field::Field;

/// How often the manager looks after what is in force, and how many errors it takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct WatchdogPolicy {
    /// the longest time between two looks
    pub interval: Duration,
    /// one error more than this ends the manager
    pub max_errors: u32,
    /// the time after which one error is forgiven
    pub decay: Duration,
}

impl Default for WatchdogPolicy {
    fn default() -> WatchdogPolicy {
        let (interval, decay) = (Duration::from_secs(60), Duration::from_secs(30 * 60));
        WatchdogPolicy { interval, max_errors: 2, decay }
    }
}

impl WatchdogPolicy {
    /// Reads the key `watchdog` of the host file.
    pub(super) fn read(root: &Field<'_>) -> Result<WatchdogPolicy, DocumentError> {
        let default = WatchdogPolicy::default();
        let Some(watchdog) = root.get("watchdog") else { return Ok(default) };
        let known = ["interval", "max_errors", "decay"];
        watchdog.only("a map of `interval`, `max_errors` and `decay`", &known)?;
        let time = |key: &str, default| watchdog.get(key).map_or(Ok(default), |field| field.duration(true));
        Ok(WatchdogPolicy {
            interval: time("interval", default.interval)?,
            max_errors: watchdog
                .get("max_errors")
                .map_or(Ok(default.max_errors), |field| field.number(0..=1_000_000))?,
            decay: time("decay", default.decay)?,
        })
    }
}
