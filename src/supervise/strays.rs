//! What processes that are gone have left behind.

use std::path::Path;

use rustix::process::{PidfdFlags, Signal};

use crate::fsx::{Dir, FsError, Meta};

use super::process;

/// Kills every process that was given one of `runs`: known by its environment, since the number of the process
/// group may be somebody else's by now. Looks at every process of the machine, for all of `runs` at once.
pub(super) fn kill(runs: &[impl AsRef<Path>]) -> Result<(), FsError> {
    let names = [b"POINTSMAN_RUN=".as_slice(), b"POINTSMAN_SCRATCH="];
    let marked = |run: &Path| names.map(|name| [name, run.as_os_str().as_encoded_bytes()].concat());
    let marks: Vec<Vec<u8>> = runs.iter().flat_map(|run| marked(run.as_ref())).collect();
    let processes = Dir::open(Path::new("/proc"))?;
    // one may start another while we look
    for _ in 0..10 {
        let mut found = false;
        for name in processes.names()? {
            let pid = name.to_str().and_then(|name| name.parse::<u32>().ok());
            let Some(number) = pid.and_then(process::number) else { continue };
            let Ok(pidfd) = rustix::process::pidfd_open(number, PidfdFlags::empty()) else { continue };
            let its = Path::new("/proc").join(&name);
            let environment = crate::fsx::read_path(&its.join("environ"), 8 << 20);
            let is_marked = environment.is_ok_and(|bytes| {
                bytes.split(|&byte| byte == 0).any(|word| marks.iter().any(|mark| *word == **mark))
            });
            if is_marked && !is_of_a_container(&its) {
                tracing::warn!(?pid, "a stray is killed");
                process::signal(&pidfd, Signal::KILL);
                found = true;
            }
        }
        if !found {
            break;
        }
    }
    Ok(())
}

/// Whether the process that `/proc` shows at `its` is another machine's as far as we are concerned: its process
/// numbers and its root are not ours. There the same path is another directory, and its own supervisor looks
/// after it.
fn is_of_a_container(its: &Path) -> bool {
    let ours = Path::new("/proc/self");
    let is_another = |what: &str| {
        let which = |of: &Path| Meta::of_path(&of.join(what)).map(|meta| meta.identity).ok();
        which(its) != which(ours)
    };
    is_another("ns/pid") && is_another("root")
}
