//! Which program starts and watches the workers.

use std::fmt;

/// Who starts and watches the workers, as the host file says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ServiceManagerChoice {
    /// the system's, where that is systemd and the service is one of the host's; else our own supervisor
    #[default]
    Auto,
    /// our own supervisor
    Supervisor,
    /// systemd
    Systemd,
    /// the systemd of the user
    SystemdUser,
}

impl ServiceManagerChoice {
    /// All that can be said.
    pub const ALL: [ServiceManagerChoice; 4] = [
        ServiceManagerChoice::Auto,
        ServiceManagerChoice::Supervisor,
        ServiceManagerChoice::Systemd,
        ServiceManagerChoice::SystemdUser,
    ];
}

impl fmt::Display for ServiceManagerChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ServiceManagerChoice::Auto => "auto",
            ServiceManagerChoice::Supervisor => "supervisor",
            ServiceManagerChoice::Systemd => "systemd",
            ServiceManagerChoice::SystemdUser => "systemd-user",
        })
    }
}
