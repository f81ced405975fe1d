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
    /// what was let go while no holder could be told: one that comes back with it has it from a service manager
    untold: BTreeSet<String>,
}

impl Sockets {
    /// Lets clients in everywhere but in `closing`, also where somebody died who had shut them out.
    pub(super) fn let_in(&self, closing: &[String]) {
        let open = |key: &String| !key.starts_with(LEASE) && !given::is_given(key) && !closing.contains(key);
        self.held.iter().filter(|(key, _)| open(key)).for_each(|(_, fd)| quiet::let_in(fd));
    }

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

    /// Nobody new gets into the queues of `keys` from now on, and nobody finds them by their paths. Doing it twice is
    /// doing it once.
    pub(super) fn shut_out(&self, keys: &[String]) {
        for (key, fd) in keys.iter().filter_map(|key| Some((key, self.held.get(key)?))) {
            quiet::shut_out(fd);
            self.leave_path(key, keys);
        }
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
        self.let_go(key, holder);
    }

    /// Lets `key` go, which somebody else has, too.
    pub(super) fn let_go(&mut self, key: &str, holder: Option<&Holder>) {
        self.held.remove(key);
        self.tell_gone(key, holder);
    }

    /// The path of `key` is given up, or given back to the socket that had it before and is not one of `going`. Where
    /// another socket of ours has it by now, it stays that one's.
    fn leave_path(&self, key: &str, going: &[String]) {
        let Some(path) = path_of(key) else { return };
        let Some((parent, name)) = bind::parts(Path::new(path)) else { return };
        let Ok(parent) = Dir::open(parent) else { return };
        let own = beside(key);
        let stays = |other: &&str| !going.iter().any(|key| key == other);
        let others: Vec<String> = self.sharing(path).filter(stays).map(beside).collect();
        let is_given = self.held.keys().any(|key| given::path_of(key) == Some(path));
        let _ = match parent.exists(&own) {
            Ok(true) => parent.remove_file(&own),
            _ if is_given => Ok(()),
            _ => match others.iter().find(|beside| parent.exists(beside).unwrap_or(false)) {
                Some(before) => parent.rename(before, &parent, name),
                None if others.is_empty() => parent.remove_file(name),
                // it has been given back, or is theirs from the beginning
                None => Ok(()),
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

/// What of what a process of `group` that listens on `listen` needs is in `lost`, which has the reasons by key.
pub(super) fn lost_to(lost: &BTreeMap<String, String>, group: &str, listen: &Listen) -> Option<SocketError> {
    let prefix = inherit_prefix(group);
    let is_of = |key: &String| match listen {
        Listen::Sockets(sockets) => {
            sockets.values().any(|socket| socket.key() == *key || given::is_at(key, &socket.address))
        }
        Listen::Inherit(_) => key.starts_with(&prefix),
    };
    let (key, why) = lost.iter().find(|(key, _)| is_of(key))?;
    let address = key.strip_prefix(&prefix).unwrap_or(key).to_owned();
    Some(SocketError::Lost { address, why: why.clone() })
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
    fn w37_what_is_lost_is_missed_by_whoever_listens_there() {
        let socket: Socket = serde_json::from_str("\"tcp://127.0.0.1:80\"").unwrap();
        let listen = Listen::Sockets([("a".to_owned(), socket.clone())].into());
        let inherits = Listen::Inherit("X".to_owned());
        let said = |lost: &str, group: &str, listen: &Listen| {
            let lost = BTreeMap::from([(lost.to_owned(), "no right to".to_owned())]);
            lost_to(&lost, group, listen).map(|error| error.to_string())
        };
        let error = said(&socket.key(), "web", &listen).unwrap();
        assert!(error.contains("is lost") && error.contains("no right to"), "{error}");
        let theirs = "inherit:web:tcp://[::]:80";
        assert_eq!((said(theirs, "web", &listen), said(theirs, "dns", &inherits)), (None, None));
        assert!(said(theirs, "web", &inherits).unwrap().contains("of tcp://[::]:80 is lost"));
    }

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

    #[test]
    fn w34_to_shut_out_twice_is_to_do_it_once() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        let first = Socket::new(format!("unix://{}", path.display()).parse().unwrap());
        let second = Socket { nonblocking: false, ..first.clone() };
        let keys = [first.key(), second.key()];
        // which one goes, and whether the other one has the path then
        for (going, stays) in [(&keys[..1], true), (&keys[1..], true), (&keys[..], false)] {
            let mut sockets = Sockets::default();
            for socket in [&first, &second] {
                let listen = Listen::Sockets([("a".to_owned(), socket.clone())].into());
                sockets.ensure(&listen, None).unwrap();
            }
            for _ in 0..2 {
                sockets.shut_out(going);
                assert_eq!(std::os::unix::net::UnixStream::connect(&path).is_ok(), stays, "{going:?}");
            }
            let other = keys.iter().find(|key| !going.contains(key));
            if let Some(other) = other {
                assert!(!sockets.is_empty(other), "the connections are in its queue");
                sockets.shut_out(&keys);
            }
        }
        assert_eq!(Dir::open(temp.path()).unwrap().names().unwrap().len(), 0, "no name is left");
    }

    #[test]
    fn w34_a_socket_whose_listening_has_ended_is_known() {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let fd = OwnedFd::from(listener);
        assert!(!quiet::has_ended(&fd));
        quiet::end(&fd);
        assert!(quiet::has_ended(&fd));
        let udp = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
        assert!(!quiet::has_ended(&udp.into()));
    }
}
