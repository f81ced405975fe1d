//! Sockets that somebody else owns (W36): workers are given them, and nothing is changed about them or ended.

use std::collections::BTreeSet;
use std::os::fd::OwnedFd;

use crate::model::{Address, GivenSocket, Socket};
use crate::supervise::holder::{Holder, HolderError};

use super::taken::Found;
use super::{SocketError, Sockets};

/// What the keys of such sockets begin with: `given:NAME:COOKIE:ADDRESS`. The cookie is the kernel's, one for each
/// socket: given once more, it is known, and another one at that address is another one.
const GIVEN: &str = "given:";

/// The key of `fd`, which is given as `name`; `None`: no client could come to it.
pub(in crate::supervise) fn key(name: &str, fd: &OwnedFd) -> Option<String> {
    let found = Found::waiting(fd.try_clone().ok()?)?;
    Some(format!("{GIVEN}{name}:{}:{}", found.cookie.unwrap_or_default(), found.address))
}

/// Whether the socket of `key` is somebody else's.
pub(in crate::supervise) fn is_given(key: &str) -> bool {
    key.starts_with(GIVEN)
}

/// Whether `key` is that of a given socket at `address`.
pub(in crate::supervise) fn is_at(key: &str, address: &Address) -> bool {
    parts(key).is_some_and(|(_, _, at)| at == address.to_string())
}

/// The path of a given unix socket.
pub(super) fn path_of(key: &str) -> Option<&str> {
    let (_, _, address) = parts(key)?;
    address.strip_prefix("unix://").or_else(|| address.strip_prefix("unix-dgram://"))
}

/// Name, cookie and address; a name has no colon in it.
fn parts(key: &str) -> Option<(&str, &str, &str)> {
    let (name, rest) = key.strip_prefix(GIVEN)?.split_once(':')?;
    let (cookie, address) = rest.split_once(':')?;
    Some((name, cookie, address))
}

impl Sockets {
    /// Keeps what this process itself was given, to its end.
    pub(in crate::supervise) fn keep_given(&mut self, given: Vec<(String, OwnedFd)>) {
        for (name, fd) in given {
            match key(&name, &fd) {
                Some(key) => {
                    tracing::info!(key, "is given");
                    self.own.insert(key.clone());
                    self.given.insert(key.clone());
                    self.held.insert(key, fd);
                }
                None => tracing::warn!(name, "what is given under this name is nothing that clients come to"),
            }
        }
    }

    /// Fetches what the holder itself was given: with what this process was given, that is what is given now.
    pub(in crate::supervise) fn fetch_given(&mut self, holder: &Holder) -> Result<(), HolderError> {
        // one of before did not know that it can be given any
        let given = holder.given().unwrap_or_default();
        for key in given.iter().filter(|key| !self.held.contains_key(*key)).cloned().collect::<Vec<_>>() {
            let fd = holder.get(&key)?;
            self.held.insert(key, fd);
        }
        self.given = self.own.iter().cloned().chain(given).collect();
        Ok(())
    }

    /// What is given now.
    pub(in crate::supervise) fn given(&self) -> Vec<GivenSocket> {
        self.describe(|key| self.given.contains(key)).into_iter().map(|(_, given)| given).collect()
    }

    /// The keys of what was given once, is not any more, and nobody of `needed` uses.
    pub(in crate::supervise) fn stale(&self, needed: impl FnOnce() -> BTreeSet<String>) -> Vec<String> {
        let stale = self.held.keys().filter(|key| is_given(key) && !self.given.contains(*key));
        let mut stale: Vec<String> = stale.cloned().collect();
        if !stale.is_empty() {
            let needed = needed();
            stale.retain(|key| !needed.contains(key));
        }
        stale
    }

    /// The key of the given socket that `socket`, called `name`, is; `None`: it is to be bound. What is not given any
    /// more counts, too, where it is still used.
    pub(in crate::supervise) fn given_key(
        &self,
        name: &str,
        socket: &Socket,
    ) -> Result<Option<String>, SocketError> {
        for now in [true, false] {
            let (keys, given): (Vec<String>, Vec<GivenSocket>) =
                self.describe(|key| self.given.contains(key) == now).into_iter().unzip();
            let found = GivenSocket::find(&given, name, socket);
            let error = |why| SocketError::Bind { address: socket.address.to_string(), why };
            if let Some(i) = found.map_err(error)? {
                return Ok(Some(keys[i].clone()));
            }
        }
        Ok(None)
    }

    fn describe(&self, which: impl Fn(&str) -> bool) -> Vec<(String, GivenSocket)> {
        let chosen = self.held.iter().filter(|(key, _)| is_given(key) && which(key));
        let describe = |(key, fd): (&String, &OwnedFd)| {
            let (name, _, _) = parts(key)?;
            let Found { address, nonblocking, v6only, .. } = Found::waiting(fd.try_clone().ok()?)?;
            Some((key.clone(), GivenSocket { name: name.to_owned(), address, nonblocking, v6only }))
        };
        chosen.filter_map(describe).collect()
    }
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;
    use crate::model::Listen;

    fn listener() -> (OwnedFd, Socket) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let socket = Socket::new(Address::Tcp(listener.local_addr().unwrap()));
        (listener.into(), socket)
    }

    #[test]
    fn w36_a_given_socket_is_used_and_is_never_surplus() {
        let (fd, socket) = listener();
        let mut sockets = Sockets::default();
        sockets.keep_given(vec![("http".to_owned(), fd)]);
        let listen = Listen::Sockets([("http".to_owned(), socket.clone())].into());
        let keys = sockets.ensure(&listen, None).unwrap();
        assert!(is_given(&keys[0]) && is_at(&keys[0], &socket.address), "{keys:?}");
        assert_eq!(sockets.held.len(), 1, "nothing was bound");
        assert!(sockets.surplus(&BTreeSet::new()).is_empty());
        // it is not given any more: who uses it goes on with it, and then it is let go
        (sockets.own, sockets.given) = Default::default();
        assert_eq!(sockets.ensure(&listen, None).unwrap(), keys);
        assert_eq!(sockets.stale(|| keys.iter().cloned().collect()), Vec::<String>::new());
        assert_eq!(sockets.stale(BTreeSet::new), keys);
        assert_eq!(sockets.surplus(&BTreeSet::new()), keys);
    }

    #[test]
    fn w36_what_is_given_anew_comes_before_what_was_given_once() {
        let bind = || {
            let fd = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
            fd.set_reuse_port(true).unwrap();
            fd.set_nonblocking(true).unwrap();
            fd
        };
        let (old, new) = (bind(), bind());
        old.bind(&"127.0.0.1:0".parse::<std::net::SocketAddr>().unwrap().into()).unwrap();
        new.bind(&old.local_addr().unwrap()).unwrap();
        let socket = Socket::new(Address::Tcp(old.local_addr().unwrap().as_socket().unwrap()));
        let mut sockets = Sockets::default();
        for fd in [&old, &new] {
            fd.listen(1).unwrap();
            (sockets.own, sockets.given) = Default::default();
            sockets.keep_given(vec![("http".to_owned(), fd.try_clone().unwrap().into())]);
            let key = sockets.given_key("http", &socket).unwrap().unwrap();
            let cookie = Found::waiting(fd.try_clone().unwrap().into()).unwrap().cookie;
            assert_eq!(parts(&key).unwrap().1, cookie.unwrap().to_string());
        }
        assert_eq!(sockets.held.len(), 2);
    }

    #[test]
    fn w36_the_path_of_a_given_socket_is_not_taken_away_with_one_of_ours() {
        let temp = tempfile::tempdir().unwrap();
        let path = temp.path().join("s");
        let socket = Socket::new(format!("unix://{}", path.display()).parse().unwrap());
        let listen = Listen::Sockets([("http".to_owned(), socket.clone())].into());
        let mut sockets = Sockets::default();
        let ours = sockets.ensure(&listen, None).unwrap();
        crate::fsx::Dir::open(temp.path()).unwrap().remove_file("s").unwrap();
        let theirs = std::os::unix::net::UnixListener::bind(&path).unwrap();
        theirs.set_nonblocking(true).unwrap();
        sockets.keep_given(vec![("http".to_owned(), theirs.into())]);
        assert!(is_given(&sockets.ensure(&listen, None).unwrap()[0]));
        assert_eq!(sockets.surplus(&BTreeSet::new()), ours);
        sockets.shut_out(&ours);
        sockets.close(&ours[0], None);
        assert!(std::os::unix::net::UnixStream::connect(&path).is_ok());
    }
}
