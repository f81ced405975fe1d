//! The listening sockets of all slots: bound once, kept here and in the holder, so that either may
//! die; those that a worker, or another service, has bound itself; and those that somebody else owns.

use std::collections::{BTreeMap, BTreeSet};
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::fsx::{Dir, Lock};
use crate::model::{Listen, Socket};

use super::holder::Holder;

mod bind;
pub(super) mod given;
mod kept;
mod quiet;
mod taken;

pub(super) use bind::bind;
pub(super) use taken::{Found, of_process};

/// How the other name of a unix socket begins, while another one has its path.
const BESIDE: &str = ".pointsman-before-";

/// A socket that is not to be had, in words for the operator.
#[derive(Debug, thiserror::Error)]
pub(super) enum SocketError {
    #[error("cannot listen on {address}: {why}")]
    Bind { address: String, why: String },
    #[error(
        "cannot take over the sockets of process {pid}: {why}; it needs root, or the same user, no set-user-id program \
         and, with Yama, `sysctl kernel.yama.ptrace_scope=0`"
    )]
    Take { pid: u32, why: String },
    #[error(
        "the socket of {address} is lost: a worker listens on it, and it is neither here nor in the holder ({why})"
    )]
    Lost { address: String, why: String },
}

/// What the keys of leases begin with.
const LEASE: &str = "lease:";

/// Everything held, by key: [`Socket::key`], `inherit:GROUP:ADDRESS`, that of what is [`given`], or of a lease.
#[derive(Default)]
pub(super) struct Sockets {
    held: BTreeMap<String, OwnedFd>,
    /// what is given now: never let go here
    given: BTreeSet<String>,
    /// what of it this process itself was given
    own: BTreeSet<String>,
    /// what workers listen on and could not be taken back from them, and why
    lost: BTreeMap<String, String>,
    /// what was let go while no holder could be told: one that comes back with it has it from a service manager
    untold: BTreeSet<String>,
}

impl Sockets {
    /// Binds what of `listen` is not held yet. The keys it was given, in the order of names.
    pub(super) fn ensure(
        &mut self,
        listen: &Listen,
        holder: Option<&Holder>,
    ) -> Result<Vec<String>, SocketError> {
        let Listen::Sockets(sockets) = listen else { return Ok(Vec::new()) };
        let mut keys = Vec::new();
        for (name, socket) in sockets {
            if let Some(key) = self.given_key(name, socket)? {
                keys.push(key);
                continue;
            }
            let key = socket.key();
            if let Some(why) = self.lost_at(&key, socket) {
                // a second one beside it would take a part of the connections, and never all of them
                return Err(SocketError::Lost { address: socket.address.to_string(), why: why.to_owned() });
            }
            if !self.held.contains_key(&key) {
                let error = |why| SocketError::Bind { address: socket.address.to_string(), why };
                self.put_beside(socket).map_err(error)?;
                let fd = bind(socket).map_err(error)?;
                tracing::info!(address = key, "listens");
                self.keep(key.clone(), fd, holder);
            }
            keys.push(key);
        }
        Ok(keys)
    }

    /// Why the socket of `key`, or one that was given at its address, is lost.
    fn lost_at(&self, key: &str, socket: &Socket) -> Option<&str> {
        let mut lost = self.lost.iter();
        let is_it = |lost: &str| lost == key || given::is_at(lost, &socket.address);
        lost.find(|(lost, _)| is_it(lost)).map(|(_, why)| why.as_str())
    }

    /// Holds a lease on the directory `path`, as if it were a socket, where that is not held yet; its key.
    /// `None`: it is not to be had.
    pub(super) fn lease(&mut self, path: &Path, holder: Option<&Holder>) -> Option<String> {
        let key = lease_key(path);
        if !self.held.contains_key(&key) {
            let lock = Lock::lease(path).ok()??;
            self.keep(key.clone(), lock.into(), holder);
        }
        Some(key)
    }

    /// A path can be had back by its old socket only while that has another name.
    fn put_beside(&self, socket: &Socket) -> Result<(), String> {
        let Some(path) = socket.address.path() else { return Ok(()) };
        let Some((parent, name)) = bind::parts(Path::new(path)) else { return Ok(()) };
        let words = |e| crate::model::chain(&e);
        for key in self.sharing(path) {
            let parent = Dir::open(parent).map_err(words)?;
            let beside = beside(key);
            if parent.exists(name).map_err(words)? && !parent.exists(&beside).map_err(words)? {
                parent.hard_link(name, &parent, &beside).map_err(words)?;
            }
        }
        Ok(())
    }

    /// The keys of the sockets at `path`.
    fn sharing<'a>(&'a self, path: &'a str) -> impl Iterator<Item = &'a str> {
        self.held.keys().map(String::as_str).filter(move |key| path_of(key) == Some(path))
    }

    /// The keys of what processes of `group` have bound themselves.
    pub(super) fn inherited(&self, group: &str) -> Result<Vec<String>, SocketError> {
        let prefix = inherit_prefix(group);
        if let Some((key, why)) = self.lost.iter().find(|(key, _)| key.starts_with(&prefix)) {
            return Err(SocketError::Lost { address: key[prefix.len()..].to_owned(), why: why.clone() });
        }
        Ok(self.held.keys().filter(|key| key.starts_with(&prefix)).cloned().collect())
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

    /// What of `sockets` can be changed while they are bound, on those that are held.
    pub(super) fn adjust(&self, sockets: &[Socket]) {
        for socket in sockets {
            let Some(fd) = self.held.get(&socket.key()) else { continue };
            if self.held.keys().any(|key| given::is_at(key, &socket.address)) {
                continue; // it makes way for that one, whose path it may be
            }
            if let Err(why) = bind::adjust(socket, fd) {
                tracing::warn!(address = %socket.address, why, "an option is not set");
            }
        }
    }

    /// Whether the socket of `key` is here.
    pub(super) fn holds(&self, key: &str) -> bool {
        self.held.contains_key(key)
    }

    /// Takes duplicates of every socket that process `pid` has clients come to. The keys of all of them, those
    /// which were held already included.
    pub(super) fn take(
        &mut self,
        group: &str,
        pid: u32,
        pidfd: &OwnedFd,
        holder: Option<&Holder>,
    ) -> Result<Vec<String>, SocketError> {
        let found = of_process(pid, pidfd)?;
        Ok(found.into_iter().map(|found| self.inherit(group, found, holder)).collect())
    }

    /// Lets go of everything that is not in `needed`, here and in the holder: it stays open in the processes that have
    /// it until they end.
    pub(super) fn retain(&mut self, needed: &BTreeSet<String>, holder: Option<&Holder>) {
        for key in self.surplus(needed) {
            tracing::info!(address = key, "listens no more");
            self.leave_path(&key);
            self.let_go(&key, holder);
        }
        self.release(needed, holder);
    }

    /// Lets go of every lease that is not in `needed`.
    pub(super) fn release(&mut self, needed: &BTreeSet<String>, holder: Option<&Holder>) {
        let leases = self.held.keys().filter(|key| key.starts_with(LEASE) && !needed.contains(*key));
        for key in leases.cloned().collect::<Vec<_>>() {
            self.let_go(&key, holder);
        }
    }

    /// Whether another socket than `found` is held as `key`.
    pub(super) fn is_another(&self, key: &str, found: &Found) -> bool {
        self.held.get(key).is_some_and(|held| cookie(held) != found.cookie)
    }

    /// Keeps `found` as `key`.
    pub(super) fn keep_found(&mut self, key: &str, found: Found, holder: Option<&Holder>) {
        if !self.holds(key) {
            self.keep(key.to_owned(), found.fd, holder);
        }
    }

    /// Keeps `found` for the next process of `group`, which binds by itself. Its key.
    pub(super) fn inherit(&mut self, group: &str, found: Found, holder: Option<&Holder>) -> String {
        let prefix = inherit_prefix(group);
        let known = self.held.range(prefix.clone()..).take_while(|(key, _)| key.starts_with(&prefix));
        let is_it = |fd: &OwnedFd| cookie(fd) == found.cookie;
        let mut same =
            known.filter(|(_, fd)| found.cookie.is_some() && is_it(fd)).map(|(key, _)| key.clone());
        if let Some(same) = same.next() {
            return same;
        }
        let Found { address, fd, .. } = found;
        let mut key = format!("{prefix}{address}");
        // a second socket on the same address (SO_REUSEPORT) has its own queue: it is kept too
        let mut copy = 1;
        while self.held.contains_key(&key) {
            copy += 1;
            key = format!("{prefix}{address}#{copy}");
        }
        tracing::info!(address, group, "keeps a socket that somebody else has bound");
        self.keep(key.clone(), fd, holder);
        key
    }

    /// The keys that nobody of `needed` asks for.
    pub(super) fn surplus(&self, needed: &BTreeSet<String>) -> Vec<String> {
        let is_surplus =
            |key: &&String| !key.starts_with(LEASE) && !needed.contains(*key) && !self.given.contains(*key);
        self.held.keys().filter(is_surplus).cloned().collect()
    }

    /// Nobody new gets into the queue of `key` from now on, and nobody finds it by its path. The holder lets it go, so
    /// that no later supervisor takes it for one that listens.
    pub(super) fn shut_out(&mut self, key: &str, holder: Option<&Holder>) {
        let Some(fd) = self.held.get(key) else { return };
        quiet::shut_out(fd);
        self.tell_gone(key, holder);
        self.leave_path(key);
    }

    /// Whether nobody waits in the queue of `key`.
    pub(super) fn is_empty(&self, key: &str) -> bool {
        self.held.get(key).is_none_or(quiet::is_empty)
    }

    /// Closes `key`, for everybody who has it.
    pub(super) fn close(&mut self, key: &str, holder: Option<&Holder>) {
        let Some(fd) = self.held.remove(key) else { return };
        tracing::info!(address = key, "listens no more");
        quiet::end(&fd);
        self.tell_gone(key, holder);
    }

    /// Lets `key` go, which somebody else has, too.
    pub(super) fn let_go(&mut self, key: &str, holder: Option<&Holder>) {
        self.held.remove(key);
        self.tell_gone(key, holder);
    }

    /// The path of `key` is given up, or given back to the socket that had it before. Where another socket of ours
    /// has it by now, it stays that one's.
    fn leave_path(&self, key: &str) {
        let Some(path) = path_of(key) else { return };
        let Some((parent, name)) = bind::parts(Path::new(path)) else { return };
        let Ok(parent) = Dir::open(parent) else { return };
        let own = beside(key);
        let before = || self.sharing(path).map(beside).find(|beside| parent.exists(beside).unwrap_or(false));
        let is_given = self.held.keys().any(|key| given::path_of(key) == Some(path));
        let _ = match parent.exists(&own) {
            Ok(true) => parent.remove_file(&own),
            _ if is_given => Ok(()),
            _ => match before() {
                Some(before) => parent.rename(&before, &parent, name),
                None => parent.remove_file(name),
            },
        };
    }

    fn keep(&mut self, key: String, fd: OwnedFd, holder: Option<&Holder>) {
        // without a holder it is held here all the same; the next holder is given everything
        if let Some(Err(error)) = holder.map(|holder| holder.put(&key, &fd)) {
            tracing::warn!(%error, address = key, "is not in the holder");
        }
        self.untold.remove(&key);
        self.held.insert(key, fd);
    }
}

/// Which socket `fd` is.
fn cookie(fd: &OwnedFd) -> Option<u64> {
    rustix::net::sockopt::socket_cookie(fd).ok()
}

/// The key of a lease on the directory `path`.
pub(super) fn lease_key(path: &Path) -> String {
    format!("{LEASE}{}", path.display())
}

/// How the keys of what processes of `group` have bound themselves begin.
pub(super) fn inherit_prefix(group: &str) -> String {
    format!("inherit:{group}:")
}

/// Where the socket of `key` is found while another one has its path.
fn beside(key: &str) -> String {
    format!("{BESIDE}{}", &blake3::hash(key.as_bytes()).to_hex()[..16])
}

/// The path of a unix socket that we have bound ourselves.
fn path_of(key: &str) -> Option<&str> {
    let path = key.strip_prefix("unix://").or_else(|| key.strip_prefix("unix-dgram://"))?;
    Some(path.strip_suffix("?blocking").unwrap_or(path))
}

#[cfg(test)]
mod tests {
    use rustix::net::sockopt;

    use super::*;

    #[test]
    fn w5_an_address_is_bound_once_and_with_reuseport() {
        let probe = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let address = probe.local_addr().unwrap();
        drop(probe);
        let socket = Socket::new(crate::model::Address::Tcp(address));
        let listen = Listen::Sockets([("a".to_owned(), socket)].into());
        let mut sockets = Sockets::default();
        let keys = sockets.ensure(&listen, None).unwrap();
        assert_eq!(keys, sockets.ensure(&listen, None).unwrap());
        assert!(sockopt::socket_reuseport(&sockets.held[&keys[0]]).unwrap());
        let copies = sockets.duplicates(&keys).unwrap();
        let cookie = sockopt::socket_cookie(&sockets.held[&keys[0]]).unwrap();
        assert_eq!(sockopt::socket_cookie(&copies[0]).unwrap(), cookie);
        assert_eq!(sockets.surplus(&BTreeSet::new()), keys);
        sockets.close(&keys[0], None);
        assert!(sockets.held.is_empty());
        assert!(std::net::TcpStream::connect(address).is_err(), "for everybody who has it");
    }
}
