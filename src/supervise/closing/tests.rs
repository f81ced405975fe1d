use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{SocketAddr, TcpListener, TcpStream};

use super::*;
use crate::fsx::Dir;
use crate::model::Address;
use crate::supervise::crew::Telling;
use crate::supervise::logs::Logs;
use crate::supervise::news::Bulletin;
use crate::supervise::slots::tests::{running, spec};
use crate::supervise::sockets::{Found, Sockets};

/// Somebody whose processes do what they are asked, and who can be killed at any time.
struct Fake {
    table: Table,
    bulletin: Bulletin,
    restarts: BTreeMap<Slot, Instant>,
    sockets: Sockets,
    closing: Option<Closing>,
    logs: Logs,
    run: Dir,
    record: RefCell<Vec<u8>>,
    drained: Vec<u64>,
}

impl Doing for Fake {
    fn parts(&mut self) -> Parts<'_> {
        let Fake { table, bulletin, restarts, sockets, closing, .. } = self;
        Parts { table, bulletin, restarts, sockets, holder: None, closing }
    }

    fn run(&self) -> &Dir {
        &self.run
    }

    fn watched(&self) -> impl Iterator<Item = (u64, &Check, Option<&Telling>)> {
        std::iter::empty()
    }

    fn watched_mut(&mut self, _n: u64) -> Option<(&mut Check, &mut Option<Telling>)> {
        None
    }

    fn times(&self) -> (&Logs, Option<&Closing>, &BTreeMap<Slot, Instant>) {
        (&self.logs, self.closing.as_ref(), &self.restarts)
    }

    fn save(&mut self) {
        self.record.replace(serde_json::to_vec(&self.table).unwrap());
    }

    fn start(&mut self, _n: u64) -> Result<(), String> {
        Ok(())
    }

    fn remove(&self, _n: u64) {}

    fn drain(&mut self, n: u64) {
        self.table.worker_mut(n).unwrap().told = true;
        self.drained.push(n);
    }

    fn until_heard(&self, numbers: &[u64]) {
        assert!(numbers.iter().all(|n| self.drained.contains(n)));
    }

    fn kill(&mut self, _n: u64) {}

    fn inform(&mut self, _n: u64) -> Result<(), String> {
        Ok(())
    }

    fn release(&mut self) {}

    fn hold(&mut self) -> Result<(), String> {
        Ok(())
    }
}

impl Fake {
    fn with(temp: &std::path::Path, table: Table) -> Fake {
        Fake {
            table,
            bulletin: Bulletin::after(0),
            restarts: BTreeMap::new(),
            sockets: Sockets::default(),
            closing: None,
            logs: Logs::open(temp).unwrap(),
            run: Dir::open(temp).unwrap(),
            record: RefCell::default(),
            drained: Vec::new(),
        }
    }

    fn keep(&mut self, key: &str, listener: &TcpListener) {
        let fd = listener.try_clone().unwrap().into();
        let found = Found { address: String::new(), nonblocking: true, v6only: true, cookie: None, fd };
        self.sockets.keep_found(key, found, None);
    }

    /// Whoever comes after this one was killed: what is written down, and what a holder keeps.
    fn next(&self, temp: &std::path::Path, key: &str, listener: &TcpListener) -> (Fake, Vec<Act>) {
        let mut next = Fake::with(temp, serde_json::from_slice(&self.record.borrow()).unwrap());
        next.keep(key, listener);
        next.sockets.let_in(&next.table.closing);
        let acts = next.table.adopt(&BTreeSet::from([1, 2]));
        (next, acts)
    }
}

/// A table on its way from a socket, which is listened on, to none: its old process serves alone until it settles.
fn leaving(temp: &std::path::Path) -> (Fake, String, TcpListener, SocketAddr) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let at = listener.local_addr().unwrap();
    let key = Socket::new(Address::Tcp(at)).key();
    let (mut table, old) = running(1, 1);
    table.worker_mut(old).unwrap().sockets = vec![key.clone()];
    assert_eq!(table.ensure(2, spec(2), false), [Act::Start(2)]);
    table.ready(2, Vec::new());
    let mut fake = Fake::with(temp, table);
    fake.keep(&key, &listener);
    (fake, key, listener, at)
}

/// Nobody listens there; where somebody is only shut out, nobody answers.
fn is_refused(at: SocketAddr) -> bool {
    let answer = TcpStream::connect_timeout(&at, Duration::from_secs(5));
    answer.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionRefused)
}

fn close_all(fake: &mut Fake) {
    while fake.closing.is_some() {
        std::thread::sleep(clock::until(fake.closing.as_ref().unwrap().next()));
        on_time_to_close(fake);
    }
}

#[test]
fn w34_whoever_comes_next_empties_the_queue_before_anybody_is_told() {
    let temp = tempfile::tempdir().unwrap();
    let (mut first, key, listener, at) = leaving(temp.path());
    let _waits = TcpStream::connect(at).unwrap();
    settle(&mut first, &[spec(1).slot]);
    assert!(first.closing.is_some() && first.drained.is_empty());
    assert_eq!(first.table.closing, std::slice::from_ref(&key));

    let (mut second, acts) = first.next(temp.path(), &key, &listener);
    resume(&mut second, acts);
    assert!(second.closing.is_some() && second.drained.is_empty(), "{:?}", second.drained);
    // to be asked to settle again does not cut it short
    settle(&mut second, &[spec(1).slot]);
    assert!(second.closing.is_some() && second.drained.is_empty(), "{:?}", second.drained);
    listener.accept().unwrap();
    close_all(&mut second);
    assert_eq!((&second.drained[..], &second.table.closing[..]), (&[1][..], &[][..]));
    assert!(is_refused(at), "it has ended for everybody who has it");
}

#[test]
fn w34_whoever_comes_next_ends_what_everybody_has_been_told_of() {
    let temp = tempfile::tempdir().unwrap();
    let (mut first, key, listener, at) = leaving(temp.path());
    settle(&mut first, &[spec(1).slot]);
    // killed after that, and before it has ended
    let then = first.closing.take().unwrap().then;
    first.carry_out(then);
    assert_eq!(first.drained, [1]);

    let (mut second, acts) = first.next(temp.path(), &key, &listener);
    resume(&mut second, acts);
    assert!(second.closing.is_none() && second.table.closing.is_empty(), "nobody is left to wait for");
    assert!(is_refused(at));
}

#[test]
fn w34_what_is_asked_for_again_is_not_waited_for() {
    let temp = tempfile::tempdir().unwrap();
    let (mut fake, _, _listener, at) = leaving(temp.path());
    let _waits = TcpStream::connect(at).unwrap();
    settle(&mut fake, &[spec(1).slot]);
    let ask = crate::supervise::Ask::Ensure { event: 3, spec: spec(1).into(), force: false, in_place: false };
    fake.on_ask(ask);
    assert!(fake.closing.is_none() && fake.drained == [1]);
    assert!(is_refused(at), "it can be bound anew");
}
