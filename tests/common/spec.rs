//! What a supervisor is told of a worker.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use pointsman::model::{Command, GenerationId, Listen, Ready, Replace, Restart, Slot};
use pointsman::supervise::{Launch, WorkerSpec};

/// A worker in `config` that runs `script`, and is ready with `{run}/ready`. It has ten seconds for its start and for
/// its end.
pub fn worker(instance: u32, generation: GenerationId, config: PathBuf, script: &str) -> WorkerSpec {
    WorkerSpec {
        slot: Slot { group: "web".into(), instance },
        generation,
        loaded: None,
        launch: Launch {
            command: Command(["sh", "-c", script].map(str::to_owned).into()),
            env: BTreeMap::new(),
            config,
            loaded: None,
            mount: None,
            read_only: Vec::new(),
            surroundings: Default::default(),
        },
        copies_loaded: false,
        leases: Vec::new(),
        listen: Listen::Sockets(BTreeMap::new()),
        ready: Ready::File("{run}/ready".into()),
        start_timeout: Duration::from_secs(10),
        grace_shutdown_time: Duration::from_secs(10),
        stop_signal: "TERM".into(),
        replace: Replace::OneByOne,
        tell: None,
        restart: Restart::default(),
        watchdog: None,
    }
}
