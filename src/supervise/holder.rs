//! `pointsman holder`: keeps duplicates of listening sockets by name, and nothing else, so that no
//! socket closes because one of our processes ended.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::io::{IoSlice, IoSliceMut};
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::PathBuf;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags};
use rustix::io::Errno;
use rustix::net::sockopt::Timeout;
use rustix::net::{
    RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
    SendFlags, SocketType,
};
use serde::{Deserialize, Serialize};

use crate::fsx::{Dir, FsError};

use super::fdstore::{self, Store};
use super::local;
use super::sockets::given;

const SOCKET: &str = "holder.sock";
const LOCK: &str = "holder.lock";
/// Far above what a list of names needs; a packet beyond it is refused by its length.
const PACKET: usize = 64 << 10;

/// Why a daemon of a run directory ended.
#[derive(Debug, thiserror::Error)]
pub enum DaemonError {
    /// there is one already
    #[error("{} has a {what} already: {who}; end that one first", run.display())]
    Taken {
        /// `holder` or `supervisor`
        what: &'static str,
        /// the run directory
        run: std::path::PathBuf,
        /// who that is
        who: String,
    },
    /// a file or socket in the run directory could not be made
    #[error("cannot work in the run directory")]
    Files {
        /// which, and why
        #[from]
        source: FsError,
    },
    /// the system refused what a daemon cannot do without
    #[error("cannot {what}: {why}")]
    System {
        /// what was tried
        what: &'static str,
        /// the reason
        why: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum Request {
    Put(String),
    Get(String),
    Drop(String),
    List,
    /// what it was given itself at its start
    Given,
}

#[derive(Debug, Default, Serialize, Deserialize)]
struct Reply {
    names: Vec<String>,
    error: Option<String>,
}

/// What a holder is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// the run directory
    pub run: PathBuf,
    /// our own binary
    pub program: PathBuf,
    /// the `NOTIFY_SOCKET` of the service manager that keeps what is kept, where there is one
    pub notify: Option<OsString>,
    /// what that one had kept, and what it owns and gives, is on stdin
    pub stored: bool,
}

/// Keeps sockets for the clients of `<run>/holder.sock` until it is killed. Outlives its clients. Where a service
/// manager has started it, that one keeps everything, too, and gives it to the next one.
///
/// # Errors
/// [`DaemonError::Taken`] where the run directory has a holder; else the directory cannot be used.
pub fn run(config: &Config) -> Result<std::convert::Infallible, DaemonError> {
    let run = config.run.as_path();
    let what = "take over what the service manager has kept";
    let takes = |e: std::io::Error| DaemonError::System { what, why: e.to_string() };
    let mut kept = Kept::default();
    if config.stored {
        kept.take(fdstore::from_stdin().map_err(takes)?);
    } else {
        let words = ["holder", "--run"].map(OsStr::new);
        let words = [words[0], words[1], run.as_os_str(), OsStr::new("--stored")];
        fdstore::hand_on(&config.program, &words).map_err(takes)?;
    }
    let store = Store::at(config.notify.as_deref());
    let dir = Dir::create_all(run, 0o755)?;
    let _lock = local::claim(&dir, LOCK, SOCKET, SocketType::SEQPACKET)?
        .map_err(|who| DaemonError::Taken { what: "holder", run: config.run.clone(), who })?;
    let listener = local::bind(&dir, SOCKET, SocketType::SEQPACKET, 0o600)?;
    tracing::info!(run = %run.display(), "holder is up");
    store.ready();
    let mut clients: Vec<OwnedFd> = Vec::new();
    loop {
        let mut fds = vec![PollFd::new(&listener, PollFlags::IN)];
        fds.extend(clients.iter().map(|client| PollFd::new(client, PollFlags::IN)));
        match rustix::event::poll(&mut fds, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(e) => return Err(DaemonError::System { what: "wait for clients", why: e.to_string() }),
        }
        let woken: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
        drop(fds);
        let mut turn = woken[1..].iter();
        clients.retain(|client| !turn.next().copied().unwrap_or(false) || serve(client, &mut kept, &store));
        if woken[0] {
            clients.extend(local::accept(&listener));
        }
    }
}

/// What is kept here.
#[derive(Default)]
struct Kept {
    all: BTreeMap<String, OwnedFd>,
    /// what its owner has given us: no client has it replaced or closed
    given: BTreeSet<String>,
}

impl Kept {
    /// What a service manager has passed: what it had kept for us, under the key that it has here, and what it owns,
    /// under a name without a colon.
    fn take(&mut self, passed: Vec<(String, OwnedFd)>) {
        for (name, fd) in passed {
            if name.contains(':') {
                self.all.insert(name, fd);
                continue;
            }
            match given::key(&name, &fd) {
                Some(key) => {
                    tracing::info!(key, "is given");
                    self.given.insert(key.clone());
                    self.all.insert(key, fd);
                }
                None => tracing::warn!(name, "what is given under this name is nothing that clients come to"),
            }
        }
    }
}

/// Answers one request; false where the client is to be let go.
fn serve(client: &OwnedFd, kept: &mut Kept, store: &Store) -> bool {
    let (bytes, fd) = match receive(client, RecvFlags::DONTWAIT) {
        Ok((bytes, _)) if bytes.is_empty() => return false,
        Ok(packet) => packet,
        Err(Errno::AGAIN | Errno::INTR) => return true,
        Err(_) => return false,
    };
    let mut reply = Reply::default();
    let mut given = None;
    match (serde_json::from_slice(&bytes), fd) {
        (Ok(Request::Put(name) | Request::Drop(name)), _) if kept.given.contains(&name) => {}
        (Ok(Request::Put(name)), Some(fd)) => {
            tracing::info!(name, "keeps a socket");
            store.keep(&name, &fd);
            kept.all.insert(name, fd);
        }
        (Ok(Request::Put(_)), None) => reply.error = Some("no socket came with it".to_owned()),
        (Ok(Request::Get(name)), _) => match kept.all.get(&name) {
            Some(fd) => given = Some(fd.as_fd()),
            None => reply.error = Some(format!("no socket is kept as {name}")),
        },
        (Ok(Request::Drop(name)), _) => {
            tracing::info!(name, "lets a socket go");
            store.forget(&name);
            kept.all.remove(&name);
        }
        // one by one: who does not know of given sockets must not take them for its own
        (Ok(Request::List), _) => {
            reply.names = kept.all.keys().filter(|key| !kept.given.contains(*key)).cloned().collect();
        }
        (Ok(Request::Given), _) => reply.names = kept.given.iter().cloned().collect(),
        (Err(error), _) => reply.error = Some(error.to_string()),
    }
    let bytes = serde_json::to_vec(&reply).expect("a reply is plain text");
    send(client, &bytes, given, SendFlags::DONTWAIT).is_ok()
}

/// A connection to the holder of a run directory.
pub(super) struct Holder {
    socket: OwnedFd,
    /// a request went without its answer: what comes next would be the answer to something else
    broken: Cell<bool>,
}

/// What the holder could not do, or that it is gone.
#[derive(Debug, thiserror::Error)]
#[error("the socket holder: {0}")]
pub(super) struct HolderError(String);

impl Holder {
    /// Connects to the holder, which answers each request within two seconds or counts as gone.
    pub(super) fn connect(run: &Dir) -> Result<Holder, HolderError> {
        let error = |e: Errno| HolderError(e.to_string());
        let socket = local::connect(run, SOCKET, SocketType::SEQPACKET).map_err(error)?;
        for which in [Timeout::Recv, Timeout::Send] {
            let limit = Some(Duration::from_secs(2));
            rustix::net::sockopt::set_socket_timeout(&socket, which, limit).map_err(error)?;
        }
        Ok(Holder { socket, broken: Cell::new(false) })
    }

    /// The descriptor that becomes readable when the holder is gone.
    pub(super) fn fd(&self) -> &OwnedFd {
        &self.socket
    }

    /// Whether it can no longer be asked.
    pub(super) fn is_broken(&self) -> bool {
        self.broken.get()
    }

    /// Has `fd` kept as `name`, in place of what was kept so.
    pub(super) fn put(&self, name: &str, fd: &OwnedFd) -> Result<(), HolderError> {
        self.ask(&Request::Put(name.to_owned()), Some(fd.as_fd())).map(drop)
    }

    /// A duplicate of what is kept as `name`.
    pub(super) fn get(&self, name: &str) -> Result<OwnedFd, HolderError> {
        let (_, fd) = self.ask(&Request::Get(name.to_owned()), None)?;
        fd.ok_or_else(|| HolderError("no socket came".to_owned()))
    }

    /// What it was given itself, and keeps to its end.
    pub(super) fn given(&self) -> Result<Vec<String>, HolderError> {
        Ok(self.ask(&Request::Given, None)?.0.names)
    }

    /// Everything else that is kept.
    pub(super) fn list(&self) -> Result<Vec<String>, HolderError> {
        Ok(self.ask(&Request::List, None)?.0.names)
    }

    /// Has what is kept as `name` closed; nothing kept so is fine.
    pub(super) fn drop(&self, name: &str) -> Result<(), HolderError> {
        self.ask(&Request::Drop(name.to_owned()), None).map(drop)
    }

    fn ask(
        &self,
        request: &Request,
        fd: Option<BorrowedFd<'_>>,
    ) -> Result<(Reply, Option<OwnedFd>), HolderError> {
        let bytes = serde_json::to_vec(request).expect("a request is plain text");
        let answer = send(&self.socket, &bytes, fd, SendFlags::empty())
            .and_then(|()| receive(&self.socket, RecvFlags::empty()))
            .map_err(|e| e.to_string())
            .and_then(|(bytes, fd)| {
                serde_json::from_slice::<Reply>(&bytes).map(|reply| (reply, fd)).map_err(|e| e.to_string())
            });
        let (reply, fd) = answer.map_err(|why| {
            self.broken.set(true);
            HolderError(why)
        })?;
        match reply.error {
            None => Ok((reply, fd)),
            Some(error) => Err(HolderError(error)),
        }
    }
}

pub(super) fn send(
    to: &OwnedFd,
    bytes: &[u8],
    fd: Option<BorrowedFd<'_>>,
    flags: SendFlags,
) -> Result<(), Errno> {
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = SendAncillaryBuffer::new(&mut space);
    let fds = fd.map(|fd| [fd]);
    if let Some(fds) = &fds {
        control.push(SendAncillaryMessage::ScmRights(fds));
    }
    rustix::net::sendmsg(to, &[IoSlice::new(bytes)], &mut control, flags | SendFlags::NOSIGNAL).map(drop)
}

pub(super) fn receive(from: &OwnedFd, flags: RecvFlags) -> Result<(Vec<u8>, Option<OwnedFd>), Errno> {
    let mut bytes = vec![0u8; PACKET];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut control = RecvAncillaryBuffer::new(&mut space);
    let mut slices = [IoSliceMut::new(&mut bytes)];
    let got = rustix::net::recvmsg(from, &mut slices, &mut control, flags | RecvFlags::CMSG_CLOEXEC)?;
    let fd = control.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    bytes.truncate(got.bytes.min(PACKET));
    Ok((bytes, fd))
}
