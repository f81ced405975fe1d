//! Sockets that change, overlap, get lost: nobody who has connected is let down.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use pointsman::model::{Listen, Socket};
use pointsman::supervise::{News, WorkerSpec, WorkerState};

use crate::stage::{Process, Stage, example, free_address, get, until, until_gone};

/// The example server on a socket with options.
fn on(stage: &Stage, generation: u8, socket: Socket) -> WorkerSpec {
    let mut spec = stage.greeter(generation, free_address());
    spec.listen = Listen::Sockets([("http".to_owned(), socket)].into());
    spec
}

fn tcp(address: SocketAddr) -> Socket {
    Socket::new(pointsman::model::Address::Tcp(address))
}

/// The actor, which serves whatever socket it is given, on a socket with options.
pub fn actor(stage: &Stage, generation: u8, socket: Socket) -> WorkerSpec {
    let mut spec = on(stage, generation, socket);
    let program = example("greeter").with_file_name("actor");
    std::fs::write(spec.launch.config.join("marker"), format!("generation {generation}")).unwrap();
    std::fs::create_dir_all(spec.launch.config.join("rules")).unwrap();
    let log = stage.path().join("starts");
    let words = [program.display().to_string(), "worker".to_owned(), log.display().to_string()];
    spec.launch.command.0 = words.into();
    spec
}

/// Asks `address` all the time while `change` is made; how many have been answered.
pub fn under_load(address: SocketAddr, change: impl FnOnce()) -> u32 {
    let (end, count) = (AtomicBool::new(false), AtomicU32::new(0));
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                while !end.load(Ordering::SeqCst) {
                    let answer = get(address);
                    assert!(answer.is_ok(), "request {count:?}: {answer:?}");
                    count.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let ends = Ends(&end);
        change();
        drop(ends);
    });
    count.into_inner()
}

/// Also where an assertion fails.
struct Ends<'a>(&'a AtomicBool);

impl Drop for Ends<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Replaces what runs by `spec`, for good.
pub fn change(stage: &Stage, event: u64, spec: &WorkerSpec) {
    let old = stage.accepted();
    stage.ready(event, spec);
    stage.client().settle(std::slice::from_ref(&spec.slot)).unwrap();
    if let Some(old) = old {
        until_gone(old);
    }
}

#[test]
fn w33_addresses_that_overlap_change_under_load_and_back() {
    let stage = Stage::new();
    let specific = free_address();
    let port = specific.port();
    let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
    let six = SocketAddr::from((Ipv6Addr::UNSPECIFIED, port));
    let mut sockets = vec![tcp(specific), tcp(wildcard), tcp(specific)];
    if std::net::TcpListener::bind("[::1]:0").is_ok() {
        sockets.push(Socket { v6only: false, ..tcp(six) });
        sockets.push(tcp(wildcard));
    }
    sockets.push(Socket { nonblocking: false, ..tcp(wildcard) });
    sockets.push(tcp(wildcard));
    change(&stage, 1, &on(&stage, 1, tcp(wildcard)));
    let answered = under_load(specific, || {
        for (event, socket) in (2..).zip(sockets) {
            let generation = u8::try_from(event).unwrap();
            change(&stage, event, &on(&stage, generation, socket));
            assert_eq!(get(specific).unwrap(), format!("generation {generation}"));
        }
    });
    assert!(answered > 20, "{answered} requests");
}

#[test]
fn w34_whoever_has_connected_to_an_address_that_goes_is_served() {
    let stage = Stage::new();
    for round in 0..10u8 {
        let (old, new) = (free_address(), free_address());
        let event = u64::from(round) * 2;
        change(&stage, event + 1, &stage.greeter(1, old));
        let gone = AtomicBool::new(false);
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    while let Ok(stream) = TcpStream::connect(old) {
                        drop(stream);
                        if let Err(error) = get(old) {
                            // refused: it listens no more. Anything else has let somebody down
                            assert_eq!(error.kind(), std::io::ErrorKind::ConnectionRefused, "{error}");
                            break;
                        }
                    }
                    gone.store(true, Ordering::SeqCst);
                });
            }
            let spec = stage.greeter(2, new);
            stage.ready(event + 2, &spec);
            assert!(get(old).is_ok(), "until the verdict it is served");
            stage.client().settle(&[spec.slot]).unwrap();
            until("nobody listens at the old address", || gone.load(Ordering::SeqCst).then_some(()));
        });
    }
}

#[test]
fn w33_what_was_bound_for_a_candidate_that_fails_is_closed_at_once_and_the_old_one_serves() {
    let stage = Stage::new();
    let specific = free_address();
    let wildcard = SocketAddr::from((Ipv4Addr::UNSPECIFIED, specific.port()));
    let old = stage.ready(1, &stage.greeter(1, wildcard));
    let mut bad = stage.spec(2, "exit 3");
    bad.listen = Listen::Sockets([("http".to_owned(), tcp(specific))].into());
    assert!(matches!(stage.ensure(2, &bad), News::Failed { .. }));
    assert_eq!(get(specific).unwrap(), "generation 1", "a socket that nobody accepts from would take it");
    assert_eq!(stage.accepted(), Some(old));
}

#[test]
fn w30_a_unix_socket_that_changes_keeps_its_path_and_gets_it_back() {
    let stage = Stage::new();
    let path = stage.path().join("web.sock");
    let plain = Socket::new(format!("unix://{}", path.display()).parse().unwrap());
    let ask = || {
        use std::io::{Read as _, Write as _};
        let mut stream = std::os::unix::net::UnixStream::connect(&path).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        answer.trim_end().rsplit('\n').next().unwrap().to_owned()
    };
    let mode = || {
        use std::os::unix::fs::PermissionsExt as _;
        std::fs::metadata(&path).unwrap().permissions().mode() & 0o777
    };
    let first = actor(&stage, 1, plain.clone());
    change(&stage, 1, &first);
    assert_eq!((ask(), mode()), ("generation 1".to_owned(), 0o666));
    // what can be changed in place is changed when it is certain
    let closed = actor(&stage, 2, Socket { mode: 0o600, ..plain.clone() });
    let old = stage.accepted().unwrap();
    stage.ready(2, &closed);
    assert_eq!(mode(), 0o666);
    stage.client().settle(std::slice::from_ref(&closed.slot)).unwrap();
    until_gone(old);
    assert_eq!((ask(), mode()), ("generation 2".to_owned(), 0o600));
    // another socket takes the path, and gives it back where it fails
    let blocking = Socket { nonblocking: false, ..plain };
    let mut bad = actor(&stage, 3, blocking.clone());
    bad.launch.command.0 = ["sh", "-c", "exit 3"].map(str::to_owned).into();
    assert!(matches!(stage.ensure(3, &bad), News::Failed { .. }));
    assert_eq!(ask(), "generation 2");
    change(&stage, 4, &actor(&stage, 4, blocking));
    assert_eq!(ask(), "generation 4");
    let names: Vec<_> = std::fs::read_dir(stage.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!names.iter().any(|name| name.to_string_lossy().starts_with(".pointsman")), "{names:?}");
    stage.client().settle(&[]).unwrap();
    until("the path is given up", || (!path.exists()).then_some(()));
}

#[test]
fn w33_who_serves_alone_stays_until_the_verdict_and_is_adopted() {
    let mut stage = Stage::new();
    let (one, two) = (free_address(), free_address());
    let old = stage.ready(1, &stage.greeter(1, one));
    let spec = stage.greeter(2, two);
    stage.ready(2, &spec);
    stage.kill_supervisor();
    stage.up();
    assert_eq!((get(one).unwrap(), get(two).unwrap()), ("generation 1".into(), "generation 2".into()));
    let states: Vec<_> = stage.slots().iter().map(|worker| (worker.state, worker.accepted)).collect();
    assert_eq!(states, [(WorkerState::Draining, false), (WorkerState::Ready, true)]);
    // the way back: the first generation again
    let back = stage.greeter(1, one);
    stage.ready(3, &back);
    stage.client().settle(&[back.slot]).unwrap();
    until_gone(old);
    until("one process is left", || (stage.slots().len() == 1).then_some(()));
    assert_eq!(get(one).unwrap(), "generation 1");
    assert!(TcpStream::connect(two).is_err());
    let _: Process = stage.accepted().unwrap();
}
