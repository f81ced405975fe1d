//! The listening sockets of all slots: bound once, kept here and in the holder, so that either may
//! die; and those that a worker has bound itself.

use std::collections::BTreeSet;
use std::collections::btree_map::{BTreeMap, Entry};
use std::os::fd::OwnedFd;
use std::path::Path;

use rustix::fs::{AtFlags, Mode};
use rustix::io::Errno;
use rustix::net::sockopt;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use rustix::process::PidfdGetfdFlags;

use crate::fsx::{Dir, EntryKind, FsError};
use crate::model::{Address, Listen};

use super::holder::{Holder, HolderError};
use super::local;

/// The kernel clamps it to `net.core.somaxconn`, which is 4096 by default.
const BACKLOG: i32 = 4096;

/// A socket that is not to be had, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("cannot listen on {address}: {why}")]
    Bind { address: String, why: String },
    #[error("cannot take over the sockets of process {pid} (`listen: inherit` needs the right to): {why}")]
    Take { pid: u32, why: String },
}

/// Everything held, by key: the address as text, or `inherit:GROUP:ADDRESS`.
#[derive(Default)]
pub(super) struct Sockets {
    held: BTreeMap<String, OwnedFd>,
}

impl Sockets {
    /// Fetches back what the holder keeps.
    pub(super) fn fetch(&mut self, holder: &Holder) -> Result<(), HolderError> {
        for key in holder.list()? {
            if let Entry::Vacant(place) = self.held.entry(key) {
                let fd = holder.get(place.key())?;
                place.insert(fd);
            }
        }
        Ok(())
    }

    /// Gives everything to a holder that has nothing yet.
    pub(super) fn give(&self, holder: &Holder) -> Result<(), HolderError> {
        self.held.iter().try_for_each(|(key, fd)| holder.put(key, fd))
    }

    /// Binds what of `listen` is not held yet. The keys it was given, in the order of names.
    pub(super) fn ensure(
        &mut self,
        listen: &Listen,
        holder: Option<&Holder>,
    ) -> Result<Vec<String>, SocketError> {
        let Listen::Sockets(sockets) = listen else { return Ok(Vec::new()) };
        let mut keys = Vec::new();
        for address in sockets.values() {
            let key = text(address);
            if !self.held.contains_key(&key) {
                let fd = bind(address).map_err(|why| SocketError::Bind { address: key.clone(), why })?;
                tracing::info!(address = key, "listens");
                self.keep(key.clone(), fd, holder);
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// The keys of what processes of `group` have bound themselves.
    pub(super) fn inherited(&self, group: &str) -> Vec<String> {
        let prefix = inherit_prefix(group);
        self.held.keys().filter(|key| key.starts_with(&prefix)).cloned().collect()
    }

    /// Duplicates of the sockets of `keys`, in that order.
    pub(super) fn duplicates(&self, keys: &[String]) -> Result<Vec<OwnedFd>, SocketError> {
        keys.iter()
            .map(|key| {
                let error = |why: String| SocketError::Bind { address: key.clone(), why };
                let fd = self.held.get(key).ok_or_else(|| error("it is not held".to_owned()))?;
                fd.try_clone().map_err(|e| error(e.to_string()))
            })
            .collect()
    }

    /// Takes duplicates of every socket that process `pid` listens on. The keys of all of them, those
    /// which were held already included.
    pub(super) fn take(
        &mut self,
        group: &str,
        pid: u32,
        pidfd: &OwnedFd,
        holder: Option<&Holder>,
    ) -> Result<Vec<String>, SocketError> {
        let mut keys = Vec::new();
        for (address, fd) in listening(pid, pidfd)? {
            let cookie = sockopt::socket_cookie(&fd).ok();
            let prefix = inherit_prefix(group);
            let mut key = format!("{prefix}{address}");
            let mut same = None;
            for (known, held) in self.held.range(prefix.clone()..).take_while(|(k, _)| k.starts_with(&prefix))
            {
                if cookie.is_some() && sockopt::socket_cookie(held).ok() == cookie {
                    same = Some(known.clone());
                }
            }
            if let Some(same) = same {
                keys.push(same);
                continue;
            }
            // a second socket on the same address (SO_REUSEPORT) has its own queue: it is kept too
            let mut copy = 1;
            while self.held.contains_key(&key) {
                copy += 1;
                key = format!("{prefix}{address}#{copy}");
            }
            tracing::info!(address, group, "keeps a socket that the worker has bound");
            self.keep(key.clone(), fd, holder);
            keys.push(key);
        }
        Ok(keys)
    }

    /// Closes everything that is not in `needed`, here and in the holder.
    pub(super) fn retain(&mut self, needed: &BTreeSet<String>, holder: Option<&Holder>) {
        let gone: Vec<String> = self.held.keys().filter(|key| !needed.contains(*key)).cloned().collect();
        for key in gone {
            tracing::info!(address = key, "listens no more");
            self.held.remove(&key);
            if let Some(path) = key.strip_prefix("unix://") {
                let _ = rustix::fs::unlink(path);
            }
            if let Some(Err(error)) = holder.map(|holder| holder.drop(&key)) {
                tracing::warn!(%error, "a socket stays in the holder");
            }
        }
    }

    fn keep(&mut self, key: String, fd: OwnedFd, holder: Option<&Holder>) {
        // without a holder it is held here all the same; the next holder is given everything
        if let Some(Err(error)) = holder.map(|holder| holder.put(&key, &fd)) {
            tracing::warn!(%error, address = key, "is not in the holder");
        }
        self.held.insert(key, fd);
    }
}

fn inherit_prefix(group: &str) -> String {
    format!("inherit:{group}:")
}

/// An address as it is written in a pipeline: the key of its socket.
pub(super) fn text(address: &Address) -> String {
    match address {
        Address::Tcp(address) => format!("tcp://{address}"),
        Address::Udp(address) => format!("udp://{address}"),
        Address::Unix(path) => format!("unix://{path}"),
    }
}

/// A fresh socket at `address`, listening if it is of that kind.
pub(super) fn bind(address: &Address) -> Result<OwnedFd, String> {
    match address {
        Address::Tcp(address) => bind_internet(*address, SocketType::STREAM).map_err(|e| words(e, *address)),
        Address::Udp(address) => bind_internet(*address, SocketType::DGRAM).map_err(|e| words(e, *address)),
        Address::Unix(path) => bind_unix(Path::new(path)),
    }
}

/// Why the socket of `address` cannot be bound, with what helps where that is known.
fn words(error: Errno, address: std::net::SocketAddr) -> String {
    match error {
        Errno::ACCESS if address.port() < 1024 => format!(
            "{error}; a port this low needs root, or `sysctl net.ipv4.ip_unprivileged_port_start={}`",
            address.port()
        ),
        error => error.to_string(),
    }
}

fn bind_internet(address: std::net::SocketAddr, kind: SocketType) -> Result<OwnedFd, Errno> {
    let family = if address.is_ipv6() { AddressFamily::INET6 } else { AddressFamily::INET };
    let socket = rustix::net::socket_with(family, kind, SocketFlags::CLOEXEC, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    // from birth: an overlapping address can be bound before the old one goes only if both carry it
    sockopt::set_socket_reuseport(&socket, true)?;
    if address.is_ipv6() {
        sockopt::set_ipv6_v6only(&socket, true)?;
    }
    rustix::net::bind(&socket, &address)?;
    if kind == SocketType::STREAM {
        rustix::net::listen(&socket, BACKLOG)?;
    }
    Ok(socket)
}

/// Bound under a name of its own and renamed, so that clients find the old socket or the new one. Its
/// mode is 0666, as with systemd: who may come near is decided by the directory.
fn bind_unix(path: &Path) -> Result<OwnedFd, String> {
    let (Some(parent), Some(name)) = (path.parent(), path.file_name().and_then(|name| name.to_str())) else {
        return Err("it is no path of a file".to_owned());
    };
    let words = |error: FsError| super::record::chain(&error);
    let parent = Dir::open(parent).map_err(words)?;
    match crate::fsx::optional(parent.meta(name)).map_err(words)? {
        Some(meta) if meta.kind != EntryKind::Special => return Err("something else is there".to_owned()),
        _ => {}
    }
    let temporary = format!(".{name}.{}", std::process::id());
    let bound = || -> Result<OwnedFd, Errno> {
        let socket =
            rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
        rustix::net::bind(&socket, &local::address(&parent, &temporary)?)?;
        rustix::fs::chmodat(&parent, &temporary, Mode::from_raw_mode(0o666), AtFlags::empty())?;
        rustix::net::listen(&socket, BACKLOG)?;
        Ok(socket)
    };
    let socket = bound().map_err(|e| e.to_string()).and_then(|socket| {
        parent.rename(&temporary, &parent, name).map_err(words)?;
        Ok(socket)
    });
    if socket.is_err() {
        let _ = parent.remove_file(&temporary);
    }
    socket
}

/// Every listening socket among the descriptors of process `pid`, with its address.
fn listening(pid: u32, pidfd: &OwnedFd) -> Result<Vec<(String, OwnedFd)>, SocketError> {
    let refused = |why: String| SocketError::Take { pid, why };
    let table =
        Dir::open(Path::new(&format!("/proc/{pid}/fd"))).map_err(|e| refused(e.kind().to_string()))?;
    let mut found = Vec::new();
    for name in table.names().map_err(|e| refused(e.kind().to_string()))? {
        let target = table.read_link(&name).unwrap_or_default();
        let number = name.to_str().and_then(|name| name.parse().ok());
        let Some(number) = number.filter(|_| target.to_string_lossy().starts_with("socket:")) else {
            continue;
        };
        let fd = match rustix::process::pidfd_getfd(pidfd, number, PidfdGetfdFlags::empty()) {
            Ok(fd) => fd,
            Err(Errno::BADF) => continue, // closed meanwhile
            Err(e) => return Err(refused(e.to_string())),
        };
        if sockopt::socket_acceptconn(&fd).unwrap_or(false) {
            let address = address_of(&fd).ok_or_else(|| refused("a socket has no address".to_owned()))?;
            found.push((address, fd));
        }
    }
    Ok(found)
}

fn address_of(fd: &OwnedFd) -> Option<String> {
    let any = rustix::net::getsockname(fd).ok()?;
    if let Ok(address) = std::net::SocketAddr::try_from(any.clone()) {
        return Some(format!("tcp://{address}"));
    }
    let unix = SocketAddrUnix::try_from(any).ok()?;
    Some(format!("unix://{}", String::from_utf8_lossy(unix.path_bytes().unwrap_or(b"@"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn w5_an_address_is_bound_once_and_with_reuseport() {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let listen = Listen::Sockets([("a".to_owned(), Address::Tcp(address))].into());
        let mut sockets = Sockets::default();
        let keys = sockets.ensure(&listen, None).unwrap();
        assert_eq!(keys, sockets.ensure(&listen, None).unwrap());
        assert!(sockopt::socket_reuseport(&sockets.held[&keys[0]]).unwrap());
        let copies = sockets.duplicates(&keys).unwrap();
        let cookie = sockopt::socket_cookie(&sockets.held[&keys[0]]).unwrap();
        assert_eq!(sockopt::socket_cookie(&copies[0]).unwrap(), cookie);
        sockets.retain(&BTreeSet::new(), None);
        assert!(sockets.held.is_empty());
    }

    #[test]
    fn w5_a_unix_socket_replaces_a_socket_and_nothing_else() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        let first = bind_unix(&path).unwrap();
        let _second = bind_unix(&path).unwrap();
        drop(first);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
        Dir::open(temp.path()).unwrap().write_new("file", b"x", 0o600).unwrap();
        assert!(bind_unix(&temp.path().join("file")).is_err());
    }
}
