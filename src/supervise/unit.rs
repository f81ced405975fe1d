//! Whether this process is one of our own units of systemd: then systemd starts our daemons, each as a unit of its
//! own, and nobody starts one in the control group of another (U2 of `spec/units.md`).

use std::path::Path;

/// Whose processes start others of ours, unless they are units.
const STARTERS: [&str; 2] = ["pointsman@", "pointsman-supervisor@"];

/// The unit that systemd starts `daemon` of the run directory `run` as; `None`: whoever needs it starts it.
pub(super) fn of_daemon(daemon: &str, run: &Path) -> Option<String> {
    let groups = crate::fsx::read_path(Path::new("/proc/self/cgroup"), 1 << 20).ok()?;
    let service = run.file_name()?.to_str()?;
    is_unit_of(service, &String::from_utf8_lossy(&groups))
        .then(|| format!("pointsman-{daemon}@{service}.service"))
}

/// Whether `groups`, as `/proc/self/cgroup` lists them, are those of a unit of `service`. What a worker of another
/// service runs is none.
fn is_unit_of(service: &str, groups: &str) -> bool {
    let names = groups.lines().flat_map(|line| line.split('/'));
    let instances = names.filter_map(|name| {
        STARTERS.iter().find_map(|starter| name.strip_prefix(starter))?.strip_suffix(".service")
    });
    instances.into_iter().any(|instance| instance == service)
}

#[cfg(test)]
mod tests {
    use super::is_unit_of;

    #[test]
    fn u2_only_a_unit_of_the_same_service_leaves_the_start_to_systemd() {
        for groups in [
            "0::/system.slice/system-pointsman.slice/pointsman@web.service\n",
            "0::/pointsman-supervisor@web.service/pointsman-own\n",
            "12:memory:/user.slice\n1:name=systemd:/app.slice/pointsman@web.service\n0::/\n",
        ] {
            assert!(is_unit_of("web", groups), "{groups}");
            assert!(!is_unit_of("we", groups), "{groups}");
        }
        for groups in
            ["0::/init.scope\n", "0::/system.slice/mine-pointsman@web.service\n", "0::/pointsman@web\n", ""]
        {
            assert!(!is_unit_of("web", groups), "{groups}");
        }
    }
}
