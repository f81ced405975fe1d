//! A worker for tests that says on `NOTIFY_SOCKET` what it is told to: at its start the words of `SAYS`, then each
//! datagram that comes to `{run}/say`. With `BEATS` it says `WATCHDOG=1` after each so many milliseconds at
//! least, and prints `beat`.
//!
//! It takes no notice of HUP, and ends on TERM.
#![allow(clippy::disallowed_methods, clippy::print_stdout, reason = "it is a program of its own")]

use std::env;
use std::error::Error;
use std::ffi::OsString;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::{SocketAddr, UnixDatagram};
use std::sync::Arc;
use std::time::Duration;

fn main() -> Result<(), Box<dyn Error>> {
    let hup = Arc::new(std::sync::atomic::AtomicBool::new(false));
    signal_hook::flag::register(signal_hook::consts::SIGHUP, hup)?;
    env::set_current_dir(env::var("POINTSMAN_RUN")?)?;
    let told = UnixDatagram::bind("say")?;
    let names = ["WATCHDOG_PID", "WATCHDOG_USEC", "NOTIFY_SOCKET"];
    for (name, value) in names.iter().filter_map(|name| Some((name, env::var(name).ok()?))) {
        println!("{name}={value}");
    }
    if let Ok(words) = env::var("SAYS") {
        say(words.as_bytes())?;
    }
    if let Ok(pause) = env::var("BEATS") {
        let pause = Duration::from_millis(pause.parse()?);
        std::thread::spawn(move || {
            while say(b"WATCHDOG=1").is_ok() {
                println!("beat");
                std::thread::sleep(pause);
            }
        });
    }
    let mut words = [0; 4096];
    loop {
        match told.recv(&mut words) {
            Ok(length) => say(&words[..length])?,
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
}

fn say(words: &[u8]) -> std::io::Result<()> {
    let socket: OsString = env::var_os("NOTIFY_SOCKET").unwrap_or_default();
    let address = match socket.as_bytes().strip_prefix(b"@") {
        Some(name) => SocketAddr::from_abstract_name(name)?,
        None => SocketAddr::from_pathname(&socket)?,
    };
    UnixDatagram::unbound()?.send_to_addr(words, &address).map(drop)
}
