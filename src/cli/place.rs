//! Which service is meant, and where it lives.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::fsx;
use crate::manager::{Place, Service};
use crate::model::Actor;

use super::exit::Failure;

/// What the program knows of its surroundings; `main` reads it once.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `POINTSMAN_SERVICE`
    pub service: Option<String>,
    /// `HOME`
    pub home: Option<PathBuf>,
    /// `XDG_STATE_HOME`
    pub state_home: Option<PathBuf>,
    /// `XDG_CONFIG_HOME`
    pub config_home: Option<PathBuf>,
    /// `XDG_RUNTIME_DIR`
    pub runtime_dir: Option<PathBuf>,
    /// `SUDO_USER`
    pub sudo_user: Option<String>,
    /// `SSH_CONNECTION`
    pub ssh_connection: Option<String>,
    /// what the terminal is called
    pub terminal: Option<String>,
    /// whether `NO_COLOR` is set
    pub no_colour: bool,
    /// `NOTIFY_SOCKET`
    pub notify_socket: Option<OsString>,
    /// this program
    pub program: Option<PathBuf>,
}

impl Environment {
    /// Whether colours may be used on a terminal.
    pub(super) fn colours(&self) -> bool {
        !self.no_colour && self.terminal.as_deref() != Some("dumb")
    }

    /// Who runs this program.
    pub(super) fn actor(&self) -> Actor {
        Actor {
            uid: rustix::process::getuid().as_raw(),
            sudo_user: self.sudo_user.clone(),
            ssh_connection: self.ssh_connection.clone(),
        }
    }

    /// The folder that holds the stores of named services.
    pub(super) fn stores(&self) -> Result<PathBuf, Failure> {
        if rustix::process::geteuid().is_root() {
            return Ok("/var/lib/pointsman".into());
        }
        let state = self.state_home.clone().or_else(|| Some(self.home.as_ref()?.join(".local/state")));
        let state = state
            .ok_or_else(|| Failure::usage("neither XDG_STATE_HOME nor HOME is set; give --store DIR"))?;
        Ok(state.join("pointsman"))
    }

    fn program(&self) -> PathBuf {
        self.program.clone().unwrap_or_else(|| "/proc/self/exe".into())
    }
}

/// What a store without a name calls its single `worker:` group.
const UNNAMED: &str = "worker";
/// The host file of a store without a name.
const HOST_FILE: &str = "host.yaml";

/// Finds the place of the service that the flags or the environment name.
pub(super) fn resolve(
    service: Option<&str>,
    store: Option<&Path>,
    environment: &Environment,
) -> Result<Place, Failure> {
    if let Some(store) = store {
        let root = fsx::absolute(store)?;
        return Ok(Place {
            name: UNNAMED.to_owned(),
            run: root.join("run"),
            host: root.join(HOST_FILE),
            root,
            program: environment.program(),
        });
    }
    let Some(name) = service.or(environment.service.as_deref()) else {
        return Err(Failure::usage("which service? Give -s NAME or --store DIR, or set POINTSMAN_SERVICE"));
    };
    named(name, environment)
}

/// The place of the service `name`.
pub(super) fn named(name: &str, environment: &Environment) -> Result<Place, Failure> {
    let letters = name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
    if !letters || name.is_empty() || name.len() > 32 || name.starts_with('-') {
        return Err(Failure::usage(format!("`{name}` is no service name: 1 to 32 of a-z, 0-9 and -")));
    }
    let root = environment.stores()?.join(name);
    let (run, host) = if rustix::process::geteuid().is_root() {
        (Path::new("/run/pointsman").join(name), format!("/etc/pointsman/{name}.yaml").into())
    } else {
        let config =
            environment.config_home.clone().or_else(|| Some(environment.home.as_ref()?.join(".config")));
        let run = match &environment.runtime_dir {
            Some(dir) => dir.join("pointsman").join(name),
            None => root.join("run"),
        };
        let host = match config {
            Some(config) => config.join("pointsman").join(format!("{name}.yaml")),
            None => root.join(HOST_FILE),
        };
        (run, host)
    };
    Ok(Place { name: name.to_owned(), root, run, host, program: environment.program() })
}

/// The name of the service at `place`; `None` where it is a store without one.
pub(super) fn name_of(place: &Place) -> Option<&str> {
    let unnamed = place.name == UNNAMED && place.host == place.root.join(HOST_FILE);
    (!unnamed).then_some(&place.name)
}

/// The flags that name `place`.
pub(super) fn flags_of(place: &Place) -> String {
    match name_of(place) {
        Some(name) => format!("-s {name}"),
        None => format!("--store {}", place.root.display()),
    }
}

/// Opens the service at `place`.
pub(super) fn open(place: Place) -> Result<Service, Failure> {
    Ok(Service::open(place)?)
}
