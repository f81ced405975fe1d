//! Arguments in, exit code out.

use std::process::ExitCode;

use pointsman::cli::{self, Environment};

#[expect(clippy::disallowed_methods, reason = "the environment is read here, once")]
fn main() -> ExitCode {
    let environment = Environment {
        service: std::env::var("POINTSMAN_SERVICE").ok().filter(|name| !name.is_empty()),
        home: std::env::var_os("HOME").map(Into::into),
        state_home: std::env::var_os("XDG_STATE_HOME").map(Into::into),
        config_home: std::env::var_os("XDG_CONFIG_HOME").map(Into::into),
        runtime_dir: std::env::var_os("XDG_RUNTIME_DIR").map(Into::into),
        sudo_user: std::env::var("SUDO_USER").ok(),
        ssh_connection: std::env::var("SSH_CONNECTION").ok(),
        terminal: std::env::var("TERM").ok(),
        no_colour: std::env::var_os("NO_COLOR").is_some_and(|set| !set.is_empty()),
        notify_socket: std::env::var_os("NOTIFY_SOCKET"),
        program: std::env::current_exe().ok(),
    };
    ExitCode::from(cli::run(std::env::args_os(), &environment))
}
