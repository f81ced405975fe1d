//! How a worker says that it is ready: a datagram from one of its own processes, or a file that was
//! not there before.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::net::{
    AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketAddrUnix, SocketFlags,
    SocketType,
};

use crate::fsx::{Dir, FsError, Meta};

use super::{clock, local, spawn};

/// The name of the one datagram socket that all workers of a run directory talk to.
const NAME: &str = "notify";

/// How often it is looked for what nobody tells us.
pub(super) const POLL: Duration = Duration::from_millis(5);

/// The socket behind `NOTIFY_SOCKET`.
pub(super) struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
}

/// The longest path of a socket address.
const LONGEST_PATH: usize = 107;

/// What a worker said, as `sd_notify(3)` has it.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// the process that said it, by the kernel's word
    pub(super) sender: u32,
    /// `READY=1`
    pub(super) ready: bool,
    /// `RELOADING=1`, and since when by `MONOTONIC_USEC=`
    pub(super) reloading: Option<Option<u64>>,
    /// `EXTEND_TIMEOUT_USEC=`
    pub(super) more_time: Option<Duration>,
    /// `WATCHDOG=1`
    pub(super) alive: bool,
    /// `WATCHDOG=trigger`
    pub(super) gives_up: bool,
    /// `STATUS=`, control characters written out
    pub(super) status: Option<String>,
    /// names of what means nothing here
    pub(super) ignored: Vec<String>,
}

impl NotifySocket {
    /// Binds it anew. Everybody may write to it (a worker may have changed its user by then); who is
    /// heard is decided by pid. Where its path is too long for a socket address it has an abstract one that
    /// is the same for the next supervisor; whoever has a network of its own does not reach that.
    pub(super) fn bind(run: &Dir) -> Result<NotifySocket, FsError> {
        let path = run.path().join(NAME);
        let failed = |what, path: &Path, e: Errno| FsError::new(what, path, e);
        let (socket, path) = if path.as_os_str().len() <= LONGEST_PATH {
            (local::bind(run, NAME, SocketType::DGRAM, 0o666)?, path)
        } else {
            let (device, inode) = run.own_meta()?.identity;
            let name = format!("pointsman/{device:x}.{inode:x}/{NAME}");
            let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
            let bound = SocketAddrUnix::new_abstract_name(name.as_bytes()).and_then(|address| {
                let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::DGRAM, flags, None)?;
                rustix::net::bind(&socket, &address).map(|()| socket)
            });
            let path = PathBuf::from(format!("@{name}"));
            (bound.map_err(|e| failed("bind socket", &path, e))?, path)
        };
        rustix::net::sockopt::set_socket_passcred(&socket, true)
            .map_err(|e| failed("ask for credentials on", &path, e))?;
        Ok(NotifySocket { socket, path })
    }

    /// The descriptor to poll.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.socket
    }

    /// Where it is, for `NOTIFY_SOCKET`.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }

    /// Whether it is reached by a path, from every network.
    pub(super) fn has_path(&self) -> bool {
        self.path.is_absolute()
    }

    /// The next message waiting, or `None`. Descriptors that come with it are closed.
    pub(super) fn receive(&self) -> Option<Message> {
        let mut bytes = [0u8; 4096];
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmCredentials(1))];
        let mut control = RecvAncillaryBuffer::new(&mut space);
        let mut slices = [IoSliceMut::new(&mut bytes)];
        let flags = RecvFlags::DONTWAIT | RecvFlags::CMSG_CLOEXEC;
        let received = rustix::net::recvmsg(&self.socket, &mut slices, &mut control, flags).ok()?;
        let sender = control.drain().find_map(|message| match message {
            RecvAncillaryMessage::ScmCredentials(sender) => {
                Some(sender.pid.as_raw_nonzero().get().unsigned_abs())
            }
            _ => None,
        });
        Some(parse(sender.unwrap_or(0), &bytes[..received.bytes.min(4096)]))
    }
}

fn parse(sender: u32, bytes: &[u8]) -> Message {
    let mut message = Message { sender, ..Message::default() };
    let (mut reloading, mut since) = (false, None);
    for line in String::from_utf8_lossy(bytes).split('\n') {
        match line.split_once('=') {
            Some(("READY", "1")) => message.ready = true,
            Some(("RELOADING", "1")) => reloading = true,
            Some(("MONOTONIC_USEC", time)) => since = time.parse().ok(),
            Some(("EXTEND_TIMEOUT_USEC", time)) => {
                message.more_time = time.parse().ok().map(Duration::from_micros);
            }
            Some(("WATCHDOG", "1")) => message.alive = true,
            Some(("WATCHDOG", "trigger")) => message.gives_up = true,
            Some(("STATUS", status)) => message.status = Some(written_out(status)),
            Some((name, _)) => message.ignored.push(written_out(name)),
            None => {}
        }
    }
    message.reloading = reloading.then_some(since);
    message
}

/// At most 200 characters of `text`, none of which moves a cursor.
pub(super) fn written_out(text: &str) -> String {
    let escaped = text.chars().flat_map(|c| {
        let (plain, escaped) =
            if c.is_control() { (None, Some(c.escape_default())) } else { (Some(c), None) };
        plain.into_iter().chain(escaped.into_iter().flatten())
    });
    escaped.take(200).collect()
}

/// Whether process `sender` is the worker `pid` or in the process group it leads. A sender that the kernel does not
/// name (0: it is outside of our pid namespace) speaks for nobody.
pub(super) fn speaks_for(sender: u32, pid: u32) -> bool {
    sender != 0 && (sender == pid || super::process::stat(sender).is_some_and(|sender| sender.group == pid))
}

/// Which file was at a path, and in which state: equal marks are the same untouched file.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub(super) struct FileMark(Option<((u64, u64), i128)>);

impl FileMark {
    /// What is at `path` now.
    pub(super) fn of(path: &Path) -> FileMark {
        FileMark(Meta::of_path(path).ok().map(|meta| (meta.identity, meta.changed)))
    }

    /// Whether `path` holds something that was not there when this mark was taken.
    pub(super) fn is_passed(self, path: &Path) -> bool {
        Meta::of_path(path).is_ok_and(|meta| meta.len > 0 && self.0 != Some((meta.identity, meta.changed)))
    }
}

/// A time that a program has to run.
#[derive(Debug)]
pub(super) struct Age {
    time: Duration,
    reached: Option<Instant>,
}

impl Age {
    /// `time`, of which nothing has passed.
    pub(super) fn of(time: Duration) -> Age {
        Age { time, reached: None }
    }

    /// How long there is nothing to look for.
    pub(super) fn left(&self) -> Duration {
        self.reached.map_or(POLL, clock::until)
    }

    /// Whether process `pid` has run its program that long, as far as was looked: what it takes to become the program
    /// does not count.
    pub(super) fn is_reached(&mut self, pid: u32) -> bool {
        if self.reached.is_none() && spawn::has_become(pid) {
            self.reached = Some(clock::after(self.time));
        }
        self.reached.is_some_and(|at| clock::until(at).is_zero())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w7_messages_are_read_line_by_line() {
        let message = parse(7, b"STATUS=warming up\nREADY=1\nX");
        let status = Some("warming up".into());
        assert_eq!(message, Message { sender: 7, ready: true, status, ..Message::default() });
        assert!(!parse(7, b"READY=0").ready);
    }

    #[test]
    fn w40_to_w43_words_of_the_protocol() {
        let message =
            parse(7, b"RELOADING=1\nMONOTONIC_USEC=5\nEXTEND_TIMEOUT_USEC=1500000\nWATCHDOG=1\nFDSTORE=1");
        assert_eq!((message.reloading, message.ready, message.alive), (Some(Some(5)), false, true));
        assert_eq!(message.more_time, Some(Duration::from_millis(1500)));
        assert_eq!(message.ignored, ["FDSTORE"]);
        assert!(parse(7, b"WATCHDOG=trigger").gives_up && parse(7, b"MONOTONIC_USEC=5").reloading.is_none());
        assert_eq!(parse(7, b"STATUS=a\x1b[2J\tb\r").status.unwrap(), "a\\u{1b}[2J\\tb\\r");
    }

    #[test]
    fn w7_nobody_and_kernel_threads_speak_for_no_worker() {
        let own = std::process::id();
        assert!(speaks_for(own, own));
        assert!(!speaks_for(0, own) && !speaks_for(0, 0));
        // kthreadd, where it is seen: its group is 0
        assert!(!speaks_for(2, own));
    }

    #[test]
    fn w7_an_old_or_empty_ready_file_does_not_count() {
        let temp = tempfile::tempdir().unwrap();
        let dir = Dir::open(temp.path()).unwrap();
        let path = temp.path().join("pid");
        dir.write_new("pid", b"1", 0o644).unwrap();
        let before = FileMark::of(&path);
        assert!(!before.is_passed(&path));
        dir.remove_file("pid").unwrap();
        dir.write_new("pid", b"", 0o644).unwrap();
        assert!(!before.is_passed(&path));
        dir.remove_file("pid").unwrap();
        dir.write_new("pid", b"2", 0o644).unwrap();
        assert!(before.is_passed(&path));
    }
}
