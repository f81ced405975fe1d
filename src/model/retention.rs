//! What a host keeps of its generations, and how much one push may hold.

use std::time::Duration;

/// Which generations stay when nothing else needs them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Retention {
    /// so many of those that were good here, the latest first
    pub keep: u32,
    /// and all that were good within so many days
    pub keep_days: u32,
    /// and what was pushed within this time, and had no verdict since
    pub keep_pushed: Duration,
    /// collect after each good activation: the host file says how much to keep
    pub automatic: bool,
}

impl Default for Retention {
    fn default() -> Retention {
        Retention { keep: 10, keep_days: 30, keep_pushed: Duration::from_secs(24 * 3600), automatic: false }
    }
}

/// How much one push may hold; against mistakes, such as pushing `/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// files, directories and links
    pub entries: usize,
    /// bytes in all files
    pub bytes: u64,
    /// directories within directories
    pub depth: usize,
}

impl Default for Limits {
    fn default() -> Limits {
        Limits { entries: 200_000, bytes: 16 << 30, depth: 64 }
    }
}
