//! What others have of the sockets: the holder keeps a duplicate of each, and where that is gone with us, the workers
//! have them.

use std::collections::BTreeSet;
use std::collections::btree_map::Entry;
use std::os::fd::OwnedFd;
use std::path::Path;

use crate::fsx::Dir;
use crate::supervise::holder::{Holder, HolderError};
use crate::supervise::slots::Table;

use super::{Found, LEASE, Sockets, cookie, given, quiet};

impl Sockets {
    /// Fetches back what the holder keeps. What was let go meanwhile it is told.
    pub(in crate::supervise) fn fetch(&mut self, holder: &Holder) -> Result<(), HolderError> {
        for key in holder.list()? {
            if self.untold.contains(&key) {
                holder.drop(&key)?;
                continue;
            }
            if let Entry::Vacant(place) = self.held.entry(key) {
                let fd = holder.get(place.key())?;
                place.insert(fd);
            }
        }
        self.untold.clear();
        Ok(())
    }

    /// Lets go what was closed while the holder was not there, and had it kept by a service manager: nobody can come to
    /// it. Not what is in `stays`.
    pub(in crate::supervise) fn let_go_of_closed(
        &mut self,
        stays: &BTreeSet<String>,
        holder: Option<&Holder>,
    ) {
        let is_ours = |key: &String| !given::is_given(key) && !key.starts_with(LEASE) && !stays.contains(key);
        let is_closed =
            |(key, fd): &(&String, &OwnedFd)| is_ours(key) && (quiet::has_ended(fd) || has_no_path(key));
        let closed: Vec<String> = self.held.iter().filter(is_closed).map(|(key, _)| key.clone()).collect();
        closed.iter().for_each(|key| self.let_go(key, holder));
    }

    /// Gives everything to a holder that has nothing yet.
    pub(in crate::supervise) fn give(&self, holder: &Holder) -> Result<(), HolderError> {
        self.held.iter().try_for_each(|(key, fd)| holder.put(key, fd))
    }

    /// Keeps `found` again, which was lost, as `key`.
    pub(in crate::supervise) fn take_back(&mut self, key: &str, found: Found, holder: Option<&Holder>) {
        tracing::warn!(address = key, "took a lost socket back from its worker");
        if !given::is_given(key) {
            quiet::let_in(&found.fd);
        }
        self.keep(key.to_owned(), found.fd, holder);
    }

    /// Which socket each key is, in `table`: of what is neither held nor needed nobody has to know any more.
    pub(in crate::supervise) fn note(&self, table: &mut Table) {
        let needed = table.needed_sockets();
        let known = &mut table.cookies;
        known.retain(|key, _| self.holds(key) || needed.contains(key));
        for (key, fd) in self.held.iter().filter(|(key, _)| !key.starts_with(LEASE)) {
            known.extend(cookie(fd).map(|cookie| (key.clone(), cookie)));
        }
    }

    /// `key` is held no more: the holder is to let it go, too.
    pub(super) fn tell_gone(&mut self, key: &str, holder: Option<&Holder>) {
        if let Err(error) = holder.map_or(Ok(()), |holder| holder.drop(key)) {
            tracing::warn!(%error, "a socket stays in the holder");
        }
        if holder.is_none_or(Holder::is_broken) {
            self.untold.insert(key.to_owned());
        }
    }
}

/// Whether it is a unix socket that nobody can find any more.
fn has_no_path(key: &str) -> bool {
    let parts = super::path_of(key).and_then(|path| super::bind::parts(Path::new(path)));
    parts.is_some_and(|(parent, name)| {
        let there = |parent: &Dir| {
            let one = |name: &str| parent.exists(name).unwrap_or(true);
            one(name) || one(&super::beside(key))
        };
        Dir::open(parent).is_ok_and(|parent| !there(&parent))
    })
}

#[cfg(test)]
mod tests {
    use crate::model::{Address, Listen, Socket};

    use super::*;

    /// A holder that ends with the test.
    fn holder(run: &Path) -> Holder {
        let config = crate::supervise::holder::Config {
            run: run.to_owned(),
            program: "/proc/self/exe".into(),
            notify: None,
            stored: false,
        };
        std::thread::spawn(move || crate::supervise::holder::run(&config));
        let run = Dir::open(run).unwrap();
        loop {
            match Holder::connect(&run) {
                Ok(holder) => return holder,
                Err(_) => std::thread::sleep(std::time::Duration::from_millis(5)),
            }
        }
    }

    #[test]
    fn w8_what_was_let_go_without_a_holder_does_not_come_back_with_it() {
        let temp = tempfile::tempdir().unwrap();
        let holder = holder(temp.path());
        let socket = Socket::new(Address::Udp("127.0.0.1:0".parse().unwrap()));
        let listen = Listen::Sockets([("a".to_owned(), socket)].into());
        let mut sockets = Sockets::default();
        let keys = sockets.ensure(&listen, Some(&holder)).unwrap();
        assert_eq!(holder.list().unwrap(), keys);
        sockets.close(&keys[0], None);
        sockets.fetch(&holder).unwrap();
        assert!(!sockets.holds(&keys[0]) && holder.list().unwrap().is_empty());
        // bound again, it is not that one any more
        sockets.ensure(&listen, None).unwrap();
        sockets.give(&holder).unwrap();
        sockets.fetch(&holder).unwrap();
        assert_eq!(holder.list().unwrap(), keys);
    }

    #[test]
    fn w8_what_was_closed_meanwhile_is_not_fetched_back() {
        let temp = tempfile::tempdir().unwrap();
        let holder = holder(temp.path());
        let tcp = Socket::new(Address::Tcp("127.0.0.1:0".parse().unwrap()));
        let path = temp.path().join("s").display().to_string();
        let unix = Socket::new(Address::Unix(path));
        let listen = Listen::Sockets([("a".to_owned(), tcp), ("b".to_owned(), unix)].into());
        let mut sockets = Sockets::default();
        let mut keys = sockets.ensure(&listen, Some(&holder)).unwrap();
        keys.sort();
        assert_eq!(holder.list().unwrap(), keys);
        let mut next = Sockets::default();
        next.fetch(&holder).unwrap();
        assert!(keys.iter().all(|key| next.holds(key)));
        sockets.shut_out(&keys);
        keys.iter().for_each(|key| sockets.close(key, None));
        let mut last = Sockets::default();
        last.fetch(&holder).unwrap();
        last.let_go_of_closed(&keys.iter().cloned().collect(), Some(&holder));
        assert!(keys.iter().all(|key| last.holds(key)), "somebody may wait in it still");
        last.let_go_of_closed(&BTreeSet::new(), Some(&holder));
        assert!(!keys.iter().any(|key| last.holds(key)), "nobody comes to them");
        assert!(holder.list().unwrap().is_empty());
    }
}
