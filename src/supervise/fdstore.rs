//! What a service manager keeps for the holder: a duplicate of everything that it keeps, so that its own end closes
//! nothing. Where there is no service manager, nothing is kept.
#![expect(
    clippy::disallowed_methods,
    reason = "it becomes itself again, without the descriptors it was given"
)]

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::net::{
    AddressFamily, RecvFlags, SendFlags, SocketAddrUnix, SocketFlags, SocketType, socket_with, socketpair,
};
use rustix::process::{PidfdFlags, PidfdGetfdFlags};

use super::holder::{receive, send};

/// The longest name that systemd takes.
const LONGEST: usize = 255;

/// The way to whoever keeps descriptors for us.
pub(super) struct Store {
    socket: Option<OwnedFd>,
}

impl Store {
    /// The service manager behind `notify`, the `NOTIFY_SOCKET` of this process.
    pub(super) fn at(notify: Option<&OsStr>) -> Store {
        let connect = |path: &OsStr| {
            let address = match path.as_bytes() {
                [b'@', name @ ..] => SocketAddrUnix::new_abstract_name(name),
                path => SocketAddrUnix::new(path),
            };
            let socket = socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)?;
            rustix::net::connect(&socket, &address?)?;
            Ok::<OwnedFd, rustix::io::Errno>(socket)
        };
        let socket = notify.and_then(|path| {
            connect(path).inspect_err(|error| tracing::warn!(%error, "nobody keeps what is kept here")).ok()
        });
        Store { socket }
    }

    /// We are up.
    pub(super) fn ready(&self) {
        self.tell("READY=1", None);
    }

    /// Has `fd` kept as `name`, in place of what was kept so.
    pub(super) fn keep(&self, name: &str, fd: &OwnedFd) {
        let Some(word) = word(name) else { return tracing::warn!(name, "its name is too long to be kept") };
        self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={word}"), None);
        // not watched: an error that waits on a socket is no reason to let it go
        self.tell(&format!("FDSTORE=1\nFDNAME={word}\nFDPOLL=0"), Some(fd));
    }

    /// Has what is kept as `name` closed.
    pub(super) fn forget(&self, name: &str) {
        if let Some(word) = word(name) {
            self.tell(&format!("FDSTOREREMOVE=1\nFDNAME={word}"), None);
        }
    }

    fn tell(&self, words: &str, fd: Option<&OwnedFd>) {
        let Some(socket) = &self.socket else { return };
        if let Err(error) = send(socket, words.as_bytes(), fd.map(|fd| fd.as_fd()), SendFlags::empty()) {
            tracing::warn!(%error, "the service manager does not hear: {}", words.replace('\n', " "));
        }
    }
}

/// A name as systemd takes it: printable, without colons.
fn word(name: &str) -> Option<String> {
    let letter = |byte: u8| match byte {
        b':' | b'%' | 0..=b' ' | 127.. => format!("%{byte:02x}"),
        other => char::from(other).to_string(),
    };
    let word: String = name.bytes().map(letter).collect();
    (word.len() <= LONGEST).then_some(word)
}

/// The opposite of [`word`].
fn name(word: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = word.as_bytes();
    while let [first, after @ ..] = rest {
        let code = word_code(after).filter(|_| *first == b'%');
        bytes.push(code.unwrap_or(*first));
        rest = if code.is_some() { &after[2..] } else { after };
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn word_code(digits: &[u8]) -> Option<u8> {
    u8::from_str_radix(std::str::from_utf8(digits.get(..2)?).ok()?, 16).ok()
}

/// How many sockets this process was given. They are not passed on to what it starts.
pub fn given() -> usize {
    sd_notify::listen_fds().map_or(0, |given| given.len())
}

/// Where the service manager has given us what it kept, becomes `program` with `arguments` and that on its stdin:
/// there [`from_stdin`] finds it. Returns where it has kept nothing.
///
/// The descriptors that it gives are numbers, which only `unsafe` code could close one day; sent over a socket they
/// are descriptors of our own.
///
/// # Errors
/// What was kept cannot be taken over.
pub(super) fn hand_on(program: &Path, arguments: &[&OsStr]) -> io::Result<()> {
    let stored = match sd_notify::listen_fds_with_names() {
        Ok(stored) => stored,
        Err(error) => {
            tracing::warn!(%error, "what is given cannot be used");
            return Ok(());
        }
    };
    if stored.len() == 0 {
        return Ok(());
    }
    let own = rustix::process::pidfd_open(rustix::process::getpid(), PidfdFlags::empty())?;
    let (ours, theirs) = socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, SocketFlags::CLOEXEC, None)?;
    rustix::net::sockopt::set_socket_send_buffer_size(&ours, 4 << 20)?;
    for (number, name) in stored {
        let fd = rustix::process::pidfd_getfd(&own, number, PidfdGetfdFlags::empty())?;
        send(&ours, name.as_bytes(), Some(fd.as_fd()), SendFlags::DONTWAIT)?;
    }
    drop(ours);
    let mut command = Command::new(program);
    for variable in ["LISTEN_FDS", "LISTEN_FDNAMES", "LISTEN_PID"] {
        command.env_remove(variable);
    }
    Err(command.args(arguments).stdin(Stdio::from(theirs)).exec())
}

/// What [`hand_on`] has put on stdin.
///
/// # Errors
/// It cannot be read.
pub(super) fn from_stdin() -> io::Result<Vec<(String, OwnedFd)>> {
    let stdin = rustix::io::fcntl_dupfd_cloexec(io::stdin().as_fd(), 0)?;
    let mut kept = Vec::new();
    loop {
        match receive(&stdin, RecvFlags::empty())? {
            (bytes, _) if bytes.is_empty() => return Ok(kept),
            (bytes, fd) => kept.extend(fd.map(|fd| (name(&String::from_utf8_lossy(&bytes)), fd))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d7_names_of_sockets_are_escaped_and_come_back() {
        for text in ["tcp://127.0.0.1:80", "unix:///run/a b%3a", "inherit:w\u{e9}b:tcp://[::1]:80#2"] {
            let word = word(text).unwrap();
            assert!(word.bytes().all(|byte| byte > b' ' && byte < 127 && byte != b':'), "{word}");
            assert_eq!(name(&word), text);
        }
        assert_eq!(word(&"x".repeat(256)), None);
    }
}
