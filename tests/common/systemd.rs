//! A real systemd for tests, where the machine's own is another program or not to be touched: as a user's, or as
//! process 1 of a PID namespace. Needs root and the Debian packages `systemd` and `dbus`.

use std::fs;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// Whose systemd.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    System,
    User,
}

/// Names who is the service manager of what is tested, as a host file does: our own supervisor where it is not set.
pub const BACKEND: &str = "POINTSMAN_TEST_SERVICE_MANAGER";

/// Who that is; `None`: the supervisor.
pub fn backend() -> Option<String> {
    std::env::var(BACKEND).ok()
}

/// Lets `command`, whose environment is its own, find the systemd that is tested with.
#[allow(dead_code, reason = "not every test file has a sandbox")]
pub fn lead_to_it(command: &mut Command) {
    if backend().is_some() {
        let bus = ["XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"];
        command.envs(bus.into_iter().filter_map(|name| Some((name, std::env::var_os(name)?))));
    }
}

/// Runs the tests of this file again, in a systemd of their own: all but those whose names hold one of `others`,
/// and those that do the same. Insists on `least` of them.
pub fn passes_under(scope: Scope, others: &[&str], least: usize) {
    let systemd = match Systemd::start(scope) {
        Ok(systemd) => systemd,
        Err(why) => {
            eprintln!("skipped: {why}");
            return;
        }
    };
    let own = std::env::current_exe().unwrap();
    let mut command = systemd.command(own.to_str().unwrap());
    command.arg("--include-ignored");
    for other in others.iter().chain(&["systemd"]) {
        command.args(["--skip", other]);
    }
    let backend = if scope == Scope::User { "systemd-user" } else { "systemd" };
    // two of these are at work at once, and tests beside them: each with no more threads than there are processors
    let output = command.env_remove("RUST_TEST_THREADS").env(BACKEND, backend).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success(), "{said}\n{}", String::from_utf8_lossy(&output.stderr));
    // a filter that lets nothing through proves nothing
    let passed = said.split_once("ok. ").and_then(|(_, rest)| rest.split_once(" passed"));
    assert!(passed.is_some_and(|(count, _)| count.parse::<usize>().unwrap() >= least), "{said}");
}

/// Ends the units of the run directory `run` at once, where systemd is the service manager: else it would start
/// again what is killed.
#[allow(dead_code, reason = "not every test file has a sandbox")]
pub fn stop_units(run: &Path) {
    let Some(backend) = backend() else { return };
    let whose = if backend == "systemd" { "--system" } else { "--user" };
    let hash = blake3::hash(run.to_str().unwrap().as_bytes()).to_hex();
    let units = format!("pointsman-{}-*", &hash[..12]);
    for verb in [&["kill", "--signal=KILL"][..], &["stop"], &["reset-failed"]] {
        let _ = Command::new("systemctl").arg(whose).args(verb).arg(&units).output();
    }
}

/// A systemd and everything that it has started: gone when this is dropped.
pub struct Systemd {
    dir: tempfile::TempDir,
    cgroup: PathBuf,
    starter: Child,
    pid: u32,
    scope: Scope,
}

const UNITS: [&str; 21] = [
    "basic.target",
    "sysinit.target",
    "sockets.target",
    "timers.target",
    "paths.target",
    "slices.target",
    "multi-user.target",
    "default.target",
    "shutdown.target",
    "umount.target",
    "final.target",
    "exit.target",
    "systemd-exit.service",
    "dbus.socket",
    "dbus.service",
    "app.slice",
    "session.slice",
    "background.slice",
    "local-fs.target",
    "remote-fs.target",
    "network.target",
];

/// What the shell does in the new namespaces: a cgroup tree and a /run of its own, and then it is systemd.
const INNER: &str = r#"
umount -R /sys/fs/cgroup 2>/dev/null || true
mount -t cgroup2 none /sys/fs/cgroup
mount --bind "$ST/run" /run
mkdir -p /run/systemd/system /run/lock
export SYSTEMD_LOG_TARGET=console SYSTEMD_GENERATOR_PATH=$ST/none SYSTEMD_ENVIRONMENT_GENERATOR_PATH=$ST/none
if [ "$MODE" = user ]; then
  export XDG_RUNTIME_DIR=$ST/rt HOME=$ST/home XDG_CONFIG_HOME=$ST/home
  export SYSTEMD_UNIT_PATH=$ST/rt/systemd/transient:$ST/base
  exec "$SYSTEMD" --user --unit=basic.target
fi
mount -t proc proc /proc
mount -t tmpfs tmpfs /var/log
mount --bind "$ST/console" /dev/console
export SYSTEMD_UNIT_PATH=/run/systemd/transient:$ST/base container=test HOME=/root
unset XDG_RUNTIME_DIR
exec "$SYSTEMD" --system --unit=multi-user.target --show-status=0
"#;

impl Systemd {
    /// Starts one.
    ///
    /// # Errors
    /// Why that cannot be done here: the test is skipped.
    pub fn start(scope: Scope) -> Result<Systemd, String> {
        if !rustix::process::geteuid().is_root() {
            return Err("only root can start a systemd of its own".to_owned());
        }
        let program = ["/lib/systemd/systemd", "/usr/lib/systemd/systemd"];
        let program = program.into_iter().find(|path| Path::new(path).exists());
        let program = program.ok_or("there is no systemd; Debian's package is `systemd`")?;
        if !Path::new("/usr/bin/dbus-daemon").exists() {
            return Err("there is no dbus-daemon; Debian's package is `dbus`".to_owned());
        }
        let mounts = fs::read_to_string("/proc/mounts").map_err(|e| e.to_string())?;
        let cgroups = mounts.lines().find_map(|line| {
            let fields: Vec<&str> = line.split(' ').collect();
            (fields.get(2) == Some(&"cgroup2")).then(|| PathBuf::from(fields[1]))
        });
        let cgroups = cgroups.ok_or("no cgroup2 is mounted")?;

        let dir = tempfile::Builder::new().prefix("sd").tempdir_in("/tmp").map_err(|e| e.to_string())?;
        let st = dir.path();
        for name in ["run", "rt", "home", "base", "base/sockets.target.wants", "none"] {
            fs::create_dir_all(st.join(name)).unwrap();
        }
        rustix::fs::chmod(st.join("rt"), rustix::fs::Mode::from_raw_mode(0o700)).unwrap();
        fs::write(st.join("console"), "").unwrap();
        let source = if scope == Scope::User { "/usr/lib/systemd/user" } else { "/usr/lib/systemd/system" };
        for unit in UNITS {
            let _ = fs::copy(Path::new(source).join(unit), st.join("base").join(unit));
        }
        write_bus(st, scope);
        let cgroup = cgroups.join(format!("pointsman-test-{}", st.file_name().unwrap().to_str().unwrap()));
        fs::create_dir(&cgroup).map_err(|e| format!("no cgroup can be made: {e}"))?;

        let log = fs::File::create(st.join("log")).unwrap();
        let mut command = Command::new("sh");
        let spaces = if scope == Scope::User { "" } else { "--pid --fork --uts --ipc" };
        // it joins the cgroup first, so that the cgroup namespace has its root there
        let script = format!(
            "echo $$ > {}/cgroup.procs && exec setsid unshare --mount --cgroup --propagation slave {spaces} sh -c \"$INNER\"",
            cgroup.display()
        );
        command.args(["-c", &script]).stdin(Stdio::null()).stdout(log.try_clone().unwrap()).stderr(log);
        let mode = if scope == Scope::User { "user" } else { "system" };
        command.env("ST", st).env("MODE", mode).env("SYSTEMD", program).env("INNER", INNER);
        let starter = command.spawn().map_err(|e| e.to_string())?;
        let mut systemd = Systemd { pid: starter.id(), starter, cgroup, dir, scope };
        systemd.wait()?;
        Ok(systemd)
    }

    fn wait(&mut self) -> Result<(), String> {
        let st = self.dir.path();
        let bus = match self.scope {
            Scope::User => st.join("rt/bus"),
            Scope::System => st.join("run/dbus/system_bus_socket"),
        };
        let deadline = Instant::now() + Duration::from_secs(20);
        let up = |this: &Systemd| {
            if !bus.exists() {
                return false;
            }
            let whose = if this.scope == Scope::User { "--user" } else { "--system" };
            let manager =
                ["org.freedesktop.systemd1", "/org/freedesktop/systemd1", "org.freedesktop.systemd1.Manager"];
            let asked = this
                .command("busctl")
                .args([whose, "get-property"])
                .args(manager)
                .arg("SystemState")
                .output();
            let said = asked.map(|output| String::from_utf8_lossy(&output.stdout).trim().to_owned());
            said.is_ok_and(|said| said == "s \"running\"" || said == "s \"degraded\"")
        };
        loop {
            if self.scope == Scope::System {
                let pid = self.starter.id();
                let children =
                    fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
                if let Some(child) = children.split_whitespace().next() {
                    self.pid = child.parse().unwrap();
                }
            }
            if up(self) {
                return Ok(());
            }
            let ended = self.starter.try_wait().ok().flatten();
            if ended.is_some() || Instant::now() > deadline {
                let log = fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
                let last: Vec<&str> = log.lines().rev().take(3).collect();
                return Err(format!("systemd did not come up: {}", last.join(" | ")));
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// `program`, to be run where this systemd is the service manager.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("nsenter");
        command.args(["-t", &self.pid.to_string(), "-m", "-C"]);
        if self.scope == Scope::System {
            command.args(["-p", "-u", "-i"]);
        }
        let rt = self.dir.path().join("rt");
        let bus = format!("unix:path={}/bus", rt.display());
        if self.scope == Scope::User {
            command.env("XDG_RUNTIME_DIR", rt).env("DBUS_SESSION_BUS_ADDRESS", bus);
        }
        command.args(["--", "setsid", "--wait", program]);
        command
    }
}

/// Debian has the user's bus in a package of its own; these are its units.
fn write_bus(st: &Path, scope: Scope) {
    let base = st.join("base");
    if scope == Scope::User {
        let socket = "[Socket]\nListenStream=%t/bus\n";
        fs::write(base.join("dbus.socket"), socket).unwrap();
        let service = "[Unit]\nRequires=dbus.socket\n[Service]\nType=notify\nNotifyAccess=main\nExecStart=/usr/bin/dbus-daemon \
                       --session --address=systemd: --nofork --nopidfile --systemd-activation --syslog-only\n";
        fs::write(base.join("dbus.service"), service).unwrap();
    } else {
        // it may not have the right to raise its own score
        fs::create_dir_all(base.join("dbus.service.d")).unwrap();
        let mut file = fs::File::create(base.join("dbus.service.d/test.conf")).unwrap();
        file.write_all(b"[Service]\nOOMScoreAdjust=0\n").unwrap();
    }
    std::os::unix::fs::symlink("../dbus.socket", base.join("sockets.target.wants/dbus.socket")).unwrap();
}

impl Drop for Systemd {
    fn drop(&mut self) {
        let _ = fs::write(self.cgroup.join("cgroup.kill"), "1");
        let _ = self.starter.wait();
        let deadline = Instant::now() + Duration::from_secs(10);
        let populated =
            || fs::read_to_string(self.cgroup.join("cgroup.events")).is_ok_and(|e| e.contains("populated 1"));
        while populated() && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        remove(&self.cgroup);
    }
}

/// Removes a control group with those in it.
fn remove(cgroup: &Path) {
    for entry in fs::read_dir(cgroup).into_iter().flatten().flatten() {
        if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
            remove(&entry.path());
        }
    }
    let _ = fs::remove_dir(cgroup);
}
