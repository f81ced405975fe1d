//! A run directory with a real supervisor in it, and what a manager would do with it.

use std::fs;
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use pointsman::model::{Address, Command as Words, GenerationId, Listen, Ready, ServiceManagerChoice};
use pointsman::supervise::client::Client;
use pointsman::supervise::{
    News, NewsSource, ServiceManager, WorkerReport, WorkerSpec, WorkerState, Workers,
};
use rustix::process::{Pid, Signal};

pub const PROGRAM: &str = env!("CARGO_BIN_EXE_pointsman");

pub struct Stage {
    dir: tempfile::TempDir,
    supervisor: Option<Child>,
    workers: Option<Workers>,
    /// whoever looks after the workers is needed as long as the stage is there
    held: Option<Box<dyn ServiceManager>>,
}

/// A process by pid and start time: no zombie and no later namesake is taken for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Process {
    pub pid: u32,
    started: u64,
}

impl Process {
    pub fn of(pid: u32) -> Option<Process> {
        let text = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
        (!matches!(fields[0], "Z" | "X")).then(|| Process { pid, started: fields[19].parse().unwrap() })
    }

    pub fn lives(self) -> bool {
        Process::of(self.pid) == Some(self)
    }

    pub fn kill(self) {
        assert!(self.lives());
        rustix::process::kill_process(Pid::from_raw(self.pid as i32).unwrap(), Signal::KILL).unwrap();
    }
}

/// Waits for a state, ten seconds at most.
pub fn until<T>(what: &str, mut state: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + Duration::from_secs(10);
    loop {
        if let Some(found) = state() {
            return found;
        }
        assert!(Instant::now() < end, "never: {what}");
        std::thread::sleep(Duration::from_millis(3));
    }
}

pub fn until_gone(process: Process) {
    until(&format!("{process:?} gone"), || (!process.lives()).then_some(()));
}

impl Stage {
    pub fn new() -> Stage {
        Stage::within("stage")
    }

    /// A stage in a directory whose name begins so.
    pub fn within(name: &str) -> Stage {
        let dir = tempfile::Builder::new().prefix(name).tempdir().unwrap();
        fs::set_permissions(dir.path(), fs::Permissions::from_mode(0o755)).unwrap();
        let mut stage = Stage { dir, supervisor: None, workers: None, held: None };
        stage.up();
        stage
    }

    fn choice() -> ServiceManagerChoice {
        let said = crate::systemd_of_tests::backend().unwrap_or_else(|| "supervisor".to_owned());
        ServiceManagerChoice::ALL.into_iter().find(|choice| choice.to_string() == said).unwrap()
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn run(&self) -> PathBuf {
        self.dir.path().join("run")
    }

    pub fn up(&mut self) {
        let choice = Stage::choice();
        if choice != ServiceManagerChoice::Supervisor {
            fs::create_dir_all(self.run()).unwrap();
            let workers = Workers::of(&self.run(), PROGRAM.as_ref(), choice, true);
            let mut client = workers.reach().unwrap();
            client.listen(0).unwrap();
            (self.workers, self.held) = (Some(workers), Some(client));
            return;
        }
        let log = || {
            fs::File::options()
                .create(true)
                .append(true)
                .open(self.dir.path().join("supervisor.log"))
                .unwrap()
        };
        // as `nohup` and a script with `&` do it
        let mut command = Command::new("sh");
        command
            .args(["-c", "trap '' HUP QUIT; exec \"$@\"", "sh", PROGRAM, "supervisor", "--run"])
            .arg(self.run())
            .stdin(Stdio::null())
            .stdout(log())
            .stderr(log());
        self.supervisor = Some(command.spawn().unwrap());
        until("the supervisor answers", || Client::connect(&self.run()).ok()?.slots().ok());
    }

    pub fn kill_supervisor(&mut self) {
        if self.held.take().is_some() {
            return;
        }
        let mut child = self.supervisor.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    pub fn client(&self) -> Box<dyn ServiceManager> {
        match &self.workers {
            Some(workers) => workers.reach().unwrap(),
            None => Box::new(self.supervisor()),
        }
    }

    pub fn supervisor(&self) -> Client {
        Client::connect(&self.run()).unwrap()
    }

    pub fn news(&self, after: u64) -> Box<dyn NewsSource> {
        self.client().listen(after).unwrap()
    }

    pub fn slots(&self) -> Vec<WorkerReport> {
        self.client().slots().unwrap().workers
    }

    /// The accepted, ready process of the only slot.
    pub fn accepted(&self) -> Option<Process> {
        let workers = self.slots();
        let worker = workers.iter().find(|w| w.accepted && w.state == WorkerState::Ready)?;
        Process::of(worker.pid?).inspect(|process| assert_eq!(Some(process.started), worker.started))
    }

    /// Ensures `spec` and waits for what comes of it.
    pub fn ensure(&self, event: u64, spec: &WorkerSpec) -> News {
        let mut news = self.news(0);
        self.client().ensure(event, spec, false).unwrap();
        news_of(&mut news)
    }

    /// Ensures `spec`, insists that it gets ready, and gives its process.
    pub fn ready(&self, event: u64, spec: &WorkerSpec) -> Process {
        let news = self.ensure(event, spec);
        assert!(matches!(news, News::Ready { .. }), "{news:?}");
        self.accepted().unwrap()
    }

    /// A worker that runs `script` on generation `generation`, and is ready with `{run}/ready`.
    pub fn spec(&self, generation: u8, script: &str) -> WorkerSpec {
        let config = self.dir.path().join(format!("generation-{generation}"));
        fs::create_dir_all(&config).unwrap();
        fs::write(config.join("body"), format!("generation {generation}\n")).unwrap();
        crate::spec_of_tests::worker(1, id(generation), config, script)
    }

    /// The example server on `address`.
    pub fn greeter(&self, generation: u8, address: SocketAddr) -> WorkerSpec {
        let mut spec = self.spec(generation, "");
        spec.launch.command = Words(vec![example("greeter").to_str().unwrap().to_owned()]);
        spec.listen = Listen::Sockets([("http".to_owned(), Address::Tcp(address).into())].into());
        spec.ready = Ready::Notify;
        spec
    }

    /// A worker that says `words` when it starts, and then what [`Stage::say`] tells it to.
    pub fn speaker(&self, generation: u8, words: &str) -> WorkerSpec {
        let mut spec = self.spec(generation, "");
        spec.launch.command = Words(vec![example("speaker").to_str().unwrap().to_owned()]);
        spec.launch.env = [("SAYS".to_owned(), words.to_owned())].into();
        spec.ready = Ready::Notify;
        spec
    }

    /// Has the speaker that runs say `words`, and waits until the supervisor has heard them.
    pub fn say(&self, words: &str) {
        static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
        let mark = format!("heard {}", COUNT.fetch_add(1, std::sync::atomic::Ordering::SeqCst));
        let words = format!("{words}\nSTATUS={mark}");
        let socket = std::os::unix::net::UnixDatagram::unbound().unwrap();
        until("the speaker listens", || {
            let mut runs = fs::read_dir(self.run().join("p")).unwrap().flatten();
            runs.find_map(|run| socket.send_to(words.as_bytes(), run.path().join("say")).ok())
        });
        until("it was heard", || self.slots().iter().any(|worker| worker.note == mark).then_some(()));
    }

    /// The processes `pointsman COMMAND --run` of this stage.
    pub fn daemon(&self, command: &str) -> Option<Process> {
        let wanted = format!("{command}\0--run\0{}\0", self.run().display());
        let pids =
            fs::read_dir("/proc").unwrap().filter_map(|e| e.unwrap().file_name().to_str()?.parse().ok());
        let mut pids: Vec<u32> = pids.collect();
        pids.retain(|pid| {
            fs::read(format!("/proc/{pid}/cmdline"))
                .is_ok_and(|line| String::from_utf8_lossy(&line).ends_with(&wanted))
        });
        pids.into_iter().find_map(Process::of)
    }

    pub fn log(&self) -> String {
        let files = pointsman::supervise::logs::list(&self.run()).unwrap();
        files.iter().map(|file| fs::read_to_string(&file.path).unwrap_or_default()).collect()
    }
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", fs::read_to_string(self.dir.path().join("supervisor.log")).unwrap_or_default());
            eprintln!("{}", self.log());
        }
        if self.workers.is_some() {
            if self.held.is_none() {
                self.up();
            }
            self.client().settle(&[]).unwrap();
            return;
        }
        let workers = Client::connect(&self.run()).and_then(|mut client| client.slots());
        let workers = match workers {
            Ok(slots) => slots.workers,
            Err(_) => {
                self.up(); // it knows what is left
                self.slots()
            }
        };
        if let Some(mut child) = self.supervisor.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
        for process in workers.iter().filter_map(|worker| Process::of(worker.pid?)) {
            let _ =
                rustix::process::kill_process_group(Pid::from_raw(process.pid as i32).unwrap(), Signal::KILL);
        }
        for name in ["supervisor", "holder"] {
            if let Some(process) = self.daemon(name) {
                process.kill();
            }
        }
    }
}

pub fn id(generation: u8) -> GenerationId {
    format!("{generation:02x}").repeat(32).parse().unwrap()
}

pub fn news_of(news: &mut Box<dyn NewsSource>) -> News {
    news.next_within(Duration::from_secs(15)).unwrap().expect("news within 15 s").1
}

/// An address nobody listens on.
pub fn free_address() -> SocketAddr {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap()
}

/// One request on a fresh connection: the body.
pub fn get(address: SocketAddr) -> std::io::Result<String> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect(address)?;
    stream.set_read_timeout(Some(Duration::from_secs(10)))?;
    stream.write_all(b"GET / HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")?;
    let mut text = String::new();
    stream.read_to_string(&mut text)?;
    let (head, body) = text.split_once("\r\n\r\n").ok_or(std::io::ErrorKind::UnexpectedEof)?;
    assert!(head.starts_with("HTTP/1.1 200"), "{head}");
    Ok(body.trim_end().to_owned())
}

/// An example; built where only this test was asked for.
pub fn example(name: &str) -> PathBuf {
    static LOCK: std::sync::Mutex<()> = std::sync::Mutex::new(());
    let path = Path::new(PROGRAM).with_file_name("examples").join(name);
    let _one = LOCK.lock().unwrap();
    if !path.exists() {
        let mut command = Command::new(env!("CARGO"));
        assert!(command.args(["build", "--quiet", "--example", name]).status().unwrap().success());
    }
    path
}
