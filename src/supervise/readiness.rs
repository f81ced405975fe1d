//! How a worker says that it is ready: a datagram from one of its own processes, or a file that was
//! not there before.

use std::io::IoSliceMut;
use std::mem::MaybeUninit;
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use rustix::net::{RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SocketType};

use crate::fsx::{Dir, FsError, Meta};

use super::local;

/// The name of the one datagram socket that all workers of a run directory talk to.
const NAME: &str = "notify";

/// The socket behind `NOTIFY_SOCKET`.
pub(super) struct NotifySocket {
    socket: OwnedFd,
    path: PathBuf,
}

/// What a worker said.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Message {
    /// the process that said it, by the kernel's word
    pub(super) sender: u32,
    /// `READY=1`
    pub(super) ready: bool,
    /// `STATUS=`
    pub(super) status: Option<String>,
}

impl NotifySocket {
    /// Binds it anew. Everybody may write to it (a worker may have changed its user by then); who is
    /// heard is decided by pid.
    pub(super) fn bind(run: &Dir) -> Result<NotifySocket, FsError> {
        let socket = local::bind(run, NAME, SocketType::DGRAM, 0o666)?;
        let path = run.path().join(NAME);
        rustix::net::sockopt::set_socket_passcred(&socket, true)
            .map_err(|e| FsError::new("ask for credentials on", &path, e))?;
        Ok(NotifySocket { socket, path })
    }

    /// The descriptor to poll.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.socket
    }

    /// Where it is, for `NOTIFY_SOCKET`; `None` where that is too long for a socket address.
    pub(super) fn path(&self) -> Option<&Path> {
        Some(self.path.as_path()).filter(|path| path.as_os_str().len() < 108)
    }

    /// The next message waiting, or `None`.
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
    for line in String::from_utf8_lossy(bytes).lines() {
        match line.split_once('=') {
            Some(("READY", "1")) => message.ready = true,
            Some(("STATUS", status)) => message.status = Some(status.chars().take(200).collect()),
            _ => {}
        }
    }
    message
}

/// Whether process `sender` is the worker `pid` or in the process group it leads.
pub(super) fn speaks_for(sender: u32, pid: u32) -> bool {
    let group = || rustix::process::getpgid(super::process::number(sender)).ok();
    sender == pid || group().is_some_and(|group| group.as_raw_nonzero().get().unsigned_abs() == pid)
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w7_messages_are_read_line_by_line() {
        let message = parse(7, b"STATUS=warming up\nREADY=1\nX");
        assert_eq!(message, Message { sender: 7, ready: true, status: Some("warming up".into()) });
        assert!(!parse(7, b"READY=0").ready);
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
