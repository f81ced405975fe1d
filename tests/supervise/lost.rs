//! Supervisor and holder die together: W37. The workers that have the sockets are all that is left of them, and nobody
//! who comes to one of them is let down.

use std::io::Write as _;
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;

use pointsman::model::{Replace, Socket};
use pointsman::supervise::{WorkerSpec, WorkerState};

use crate::sockets::{actor, change, under_load};
use crate::stage::{Process, Stage, example, free_address, get, until, until_gone};

const GET: &[u8] = b"GET / HTTP/1.0\r\n\r\n";

/// Kills both, and starts another supervisor.
fn both_die(stage: &mut Stage) {
    stage.kill_supervisor();
    let holder = stage.daemon("holder").unwrap();
    holder.kill();
    until_gone(holder);
    stage.up();
}

/// Somebody in the queue of a socket.
fn in_the_queue(address: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(GET).unwrap();
    stream
}

/// What they are answered in the end.
fn answer(mut stream: impl std::io::Read) -> String {
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.trim_end().rsplit('\n').next().unwrap().to_owned()
}

/// The example server, which the shell begins.
fn begun_by(stage: &Stage, generation: u8, address: SocketAddr, script: &str) -> WorkerSpec {
    let mut spec = stage.greeter(generation, address);
    let script = format!("{script}; export LISTEN_PID=$$; exec {}", example("greeter").display());
    spec.launch.command.0 = ["sh", "-c", &script].map(str::to_owned).into();
    spec
}

#[test]
fn w37_a_lost_socket_is_taken_back_from_its_worker() {
    let mut stage = Stage::new();
    let address = free_address();
    let worker = stage.ready(1, &stage.greeter(1, address));
    let answered = under_load(address, || {
        both_die(&mut stage);
        assert_eq!(stage.accepted(), Some(worker));
        change(&stage, 2, &stage.greeter(2, address));
        assert_eq!(get(address).unwrap(), "generation 2");
    });
    assert!(answered > 0);
    until_gone(worker);
    let second = stage.accepted().unwrap();
    second.kill();
    until("another one on the same socket", || stage.accepted().filter(|&it| it != second));
    assert_eq!(get(address).unwrap(), "generation 2");
}

#[test]
fn w37_a_unix_socket_is_the_same_one_afterwards() {
    let mut stage = Stage::new();
    let path = stage.path().join("web.sock");
    let socket = Socket::new(format!("unix://{}", path.display()).parse().unwrap());
    let old = stage.ready(1, &actor(&stage, 1, socket.clone()));
    let inode = || std::fs::metadata(&path).unwrap().ino();
    let before = inode();
    both_die(&mut stage);
    assert_eq!(stage.accepted(), Some(old));
    change(&stage, 2, &actor(&stage, 2, socket));
    assert_eq!(inode(), before, "no second one was bound");
    let mut client = UnixStream::connect(&path).unwrap();
    client.write_all(GET).unwrap();
    assert_eq!(answer(client), "generation 2");
}

#[test]
fn w37_the_socket_of_one_that_drains_is_the_next_one_s() {
    let mut stage = Stage::new();
    let address = free_address();
    // it never accepts, and does not go when it is asked to
    let mut deaf = stage.greeter(1, address);
    let script = "trap '' TERM; echo 1 > $POINTSMAN_RUN/ready; while :; do sleep 0.01; done";
    deaf.launch.command.0 = ["sh", "-c", script].map(str::to_owned).into();
    deaf.ready = pointsman::model::Ready::File("{run}/ready".into());
    deaf.grace_shutdown_time = std::time::Duration::from_secs(600);
    deaf.replace = Replace::StopFirst;
    let old = stage.ready(1, &deaf);
    let waiting = in_the_queue(address);
    let mut next = stage.greeter(2, address);
    next.replace = Replace::StopFirst;
    let mut news = stage.news(0);
    stage.client().ensure(2, &next, false).unwrap();
    drains(&stage);
    both_die(&mut stage);
    assert!(old.lives());
    drop(news);
    news = stage.news(0);
    old.kill();
    let said = crate::stage::news_of(&mut news);
    assert!(matches!(said, pointsman::supervise::News::Ready { event: 2, .. }), "{said:?}");
    assert_eq!(answer(waiting), "generation 2");
}

fn drains(stage: &Stage) {
    let drains = |stage: &Stage| stage.slots().iter().any(|worker| worker.state == WorkerState::Draining);
    until("it drains", || drains(stage).then_some(()));
}

#[test]
fn w37_the_socket_of_one_that_starts_is_that_of_its_next_start() {
    let mut stage = Stage::new();
    let address = free_address();
    let spec = begun_by(&stage, 1, address, "until [ -e go ]; do sleep 0.01; done");
    let go = spec.launch.config.join("go");
    std::fs::write(&go, "").unwrap();
    let first = stage.ready(1, &spec);
    std::fs::remove_file(&go).unwrap();
    first.kill();
    let starting = until("another one starts", || {
        let slots = stage.slots();
        let worker = slots.iter().find(|worker| worker.state == WorkerState::Starting)?;
        Process::of(worker.pid?).filter(|&it| it != first)
    });
    let waiting = in_the_queue(address);
    both_die(&mut stage);
    until_gone(starting);
    std::fs::write(&go, "").unwrap();
    assert_eq!(answer(waiting), "generation 1");
    until("it is ready", || stage.accepted());
}
