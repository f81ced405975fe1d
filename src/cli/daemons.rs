//! `pointsman manager`, `supervisor`, `holder`, `__exec`, `__ready` and `__get`

use std::path::{Path, PathBuf};

use crate::manager::{Place, Service, run_manager};
use crate::supervise;

use super::exit::{Exit, Failure};
use super::place::Environment;

pub(super) fn manager(service: &Service, environment: &Environment) -> Result<Exit, Failure> {
    log(environment);
    let (given, name) = (supervise::given(), &service.place.name);
    if given > 0 {
        tracing::error!(
            "{given} sockets are given to the manager, which has no use for them, and their clients wait: write \
             `Service=pointsman-holder@{name}.service` into their units"
        );
    }
    run_manager(service)?;
    Ok(Exit::Done)
}

pub(super) fn supervisor(
    run: Option<&Path>,
    given: bool,
    place: impl FnOnce() -> Result<Place, Failure>,
    environment: &Environment,
) -> Result<Exit, Failure> {
    log(environment);
    let run = run_directory(run, place)?;
    let program = environment.program.clone().unwrap_or_else(|| "/proc/self/exe".into());
    let config = supervise::supervisor::Config { run, program, given };
    supervise::supervisor::run(&config)?;
    Ok(Exit::Done)
}

pub(super) fn holder(
    run: Option<&Path>,
    stored: bool,
    place: impl FnOnce() -> Result<Place, Failure>,
    environment: &Environment,
) -> Result<Exit, Failure> {
    log(environment);
    let run = run_directory(run, place)?;
    let program = environment.program.clone().unwrap_or_else(|| "/proc/self/exe".into());
    let config =
        supervise::holder::Config { run, program, notify: environment.notify_socket.clone(), stored };
    match supervise::holder::run(&config)? {}
}

/// The run directory that is meant. That of a service is made ready as a manager would do it, so that any of the
/// three may be the first after a boot.
fn run_directory(
    run: Option<&Path>,
    place: impl FnOnce() -> Result<Place, Failure>,
) -> Result<PathBuf, Failure> {
    match run {
        Some(run) => Ok(run.to_owned()),
        None => {
            let service = super::place::open(place()?)?;
            service.store.writer(&service.boot)?;
            Ok(service.place.run)
        }
    }
}

/// Becomes what the descriptor describes; the status is what shells use for a program that did not start.
pub(super) fn exec(descriptor: i32, environment: &Environment) -> u8 {
    supervise::exec::run(descriptor, environment.notify_socket.as_deref()).report()
}

/// Waits until a worker that systemd has started is ready; why it is not is written where systemd's caller looks.
pub(super) fn await_ready(task: &Path, pid: u32) -> Result<Exit, Failure> {
    match supervise::await_ready(task, pid) {
        Ok(true) => Ok(Exit::Done),
        Ok(false) => Ok(Exit::Failed),
        Err(why) => Err(Failure::new(Exit::Failed, why)),
    }
}

/// Asks a canary, in whose network this process is: says on stderr why it is not well.
pub(super) fn get(url: &str) -> Result<Exit, Failure> {
    supervise::canary::get(url).map(|()| Exit::Done).map_err(|why| Failure::new(Exit::Failed, why))
}

/// The daemons talk on stderr, a line each.
fn log(environment: &Environment) {
    let colour = environment.colours() && std::io::IsTerminal::is_terminal(&std::io::stderr());
    let log = tracing_subscriber::fmt().with_writer(std::io::stderr).with_target(false).with_ansi(colour);
    let _ = log.try_init();
}
