//! How much waits in memory to be written.

use std::path::{Path, PathBuf};

use super::{Dir, read_path};

impl Dir {
    /// How many bytes wait in memory to be written to the device of this directory, as the kernel tells whoever
    /// may read `/sys/kernel/debug`; else to whatever device. `None` where it tells neither.
    pub fn dirty_bytes(&self) -> Option<u64> {
        let of_device = || {
            let (device, _) = self.own_meta().ok()?.identity;
            let stats = format!(
                "/sys/kernel/debug/bdi/{}:{}/stats",
                rustix::fs::major(device),
                rustix::fs::minor(device)
            );
            kibibytes(&PathBuf::from(stats), "BdiReclaimable:")
        };
        of_device().or_else(|| kibibytes(Path::new("/proc/meminfo"), "Dirty:"))
    }
}

/// The number after `name` in one of the kernel's lists, in bytes.
fn kibibytes(list: &Path, name: &str) -> Option<u64> {
    let text = read_path(list, 1 << 16).ok()?;
    let line = std::str::from_utf8(&text).ok()?.lines().find_map(|line| line.strip_prefix(name))?;
    Some(line.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn s8_what_waits_is_found_in_the_lists_of_the_kernel() {
        let temporary = tempfile::tempdir().unwrap();
        let list = temporary.path().join("stats");
        std::fs::write(
            &list,
            "BdiWriteback:               12 kB\nBdiReclaimable:             36 kB\nstate: 1\n",
        )
        .unwrap();
        assert_eq!(kibibytes(&list, "BdiReclaimable:"), Some(36 << 10));
        assert_eq!(kibibytes(&list, "state:"), None);
        assert_eq!(kibibytes(&temporary.path().join("none"), "Dirty:"), None);
        assert!(Dir::open(temporary.path()).unwrap().dirty_bytes().is_some());
    }
}
