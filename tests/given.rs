//! Sockets that somebody else owns: W36 of `spec/workers.md` and U9 of `spec/units.md`. The owner is the test, in the
//! place of systemd, and at last a real one.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, unreachable_pub)]

mod common;

use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, Stdio};

use command_fds::{CommandFdExt as _, FdMapping};
use common::host::Host;
use common::load::{Load, get};
use common::nginx::{address, port};
use common::systemd::Scope;
use common::{PROGRAM, Sandbox, greeter};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType};
use rustix::process::Signal;

/// A daemon of ours that is given `listeners`, each with its name, as systemd would do it, when it answers.
fn start(sandbox: &Sandbox, daemon: &str, given: &[(&str, &TcpListener)]) -> Child {
    let child = spawn(sandbox, daemon, given);
    // else somebody who needs one starts another
    let address = SocketAddrUnix::new(sandbox.path(&format!("store/run/{daemon}.sock"))).unwrap();
    let kind = if daemon == "holder" { SocketType::SEQPACKET } else { SocketType::STREAM };
    common::until("it answers", || {
        let socket = rustix::net::socket(AddressFamily::UNIX, kind, None).unwrap();
        rustix::net::connect(&socket, &address).is_ok()
    });
    child
}

/// The same, when it has been started.
fn spawn(sandbox: &Sandbox, daemon: &str, given: &[(&str, &TcpListener)]) -> Child {
    let mut command = Command::new("sh");
    let script = format!("LISTEN_PID=$$ exec {PROGRAM} --store {} {daemon}", sandbox.path("store").display());
    command.args(["-c", &script]).stdin(Stdio::null());
    command.env("LISTEN_FDS", given.len().to_string());
    command.env("LISTEN_FDNAMES", given.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(":"));
    let number = |(i, (_, socket)): (usize, &(&str, &TcpListener))| FdMapping {
        parent_fd: OwnedFd::from(socket.try_clone().unwrap()),
        child_fd: 3 + i as i32,
    };
    command.fd_mappings(given.iter().enumerate().map(number).collect()).unwrap();
    let log = sandbox.log("manager.log");
    command.stdout(log.try_clone().unwrap()).stderr(log);
    command.spawn().unwrap()
}

/// Ends what [`start`] has started.
fn kill(mut child: Child) {
    child.kill().unwrap();
    child.wait().unwrap();
}

/// A socket as systemd makes it: no second one can be bound there.
fn listener() -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address(port())).unwrap();
    listener.set_nonblocking(true).unwrap();
    let at = listener.local_addr().unwrap();
    (listener, at)
}

/// A generation that answers its name, with this `listen`.
fn site(sandbox: &Sandbox, name: &str, listen: &str) -> String {
    let program = greeter().display().to_string();
    sandbox.write(
        &format!("{name}/pointsman.yaml"),
        &format!(
            "version: 1\nprobation: 100ms\nworker:\n  command: [{program}]\n  ready: notify\n  instances: 2\n  listen: {listen}\n"
        ),
    );
    sandbox.write(&format!("{name}/body"), name);
    sandbox.path(name).display().to_string()
}

fn http(at: SocketAddr) -> String {
    format!("{{http: \"tcp://{at}\"}}")
}

/// Who has connected to `at`, and waits.
fn waits(at: SocketAddr) -> TcpStream {
    let mut stream = TcpStream::connect(at).unwrap();
    stream.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    stream
}

fn answer(mut stream: TcpStream) -> String {
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    text.rsplit("\r\n\r\n").next().unwrap().to_owned()
}

#[test]
fn w36_a_socket_that_the_holder_is_given_serves_and_outlives_all_of_us() {
    let mut sandbox = Sandbox::new();
    let (socket, at) = listener();
    let holder = start(&sandbox, "holder", &[("http", &socket)]);
    let first = waits(at);
    sandbox.start_manager();
    let one = site(&sandbox, "one", &http(at));
    let outcome = sandbox.json(&["deploy", &one], 0);
    assert!(!outcome["reason"].as_str().unwrap().contains("given"), "{outcome:#}");
    assert_eq!(answer(first), "one", "who came before anything of ours ran");

    let load = Load::on(at, &["one"]);
    load.more(50);
    // whoever of us is started again goes on with it
    let supervisor = || u32::try_from(sandbox.status()["supervisor"].as_u64().unwrap()).unwrap();
    let before = supervisor();
    common::signal_to(before, Signal::KILL);
    sandbox.wait("another supervisor", |status| {
        status["supervisor"].as_u64().is_some_and(|now| now != u64::from(before))
    });
    load.more(50);
    let now = supervisor();
    common::signal_to(now, Signal::STOP);
    kill(holder);
    let holder = start(&sandbox, "holder", &[("http", &socket)]);
    common::signal_to(now, Signal::CONT);
    let two = site(&sandbox, "two", &http(at));
    load.expect(&["one", "two"]);
    sandbox.json(&["deploy", &two], 0);
    load.more(50);
    let seen = load.end();
    assert_eq!(seen.failures, Vec::<String>::new());
    assert_eq!(seen.bodies.len(), 2, "{:?}", seen.bodies);

    // not needed, it is left alone: its clients wait until it is needed again
    let other = address(port());
    let three = site(&sandbox, "three", &format!("{{other: \"tcp://{other}\"}}"));
    let outcome = sandbox.json(&["deploy", &three], 0);
    let unused = format!("the socket `http` is given at tcp://{at}, and nobody listens on it");
    assert!(outcome["reason"].as_str().unwrap().contains(&unused), "{outcome:#}");
    let advice = sandbox.status()["advice"].to_string();
    assert!(advice.contains(&unused), "{advice}");
    sandbox.wait("the old workers are gone", |status| status["workers"].as_array().unwrap().len() == 2);
    let patient = waits(at);
    let four = site(&sandbox, "four", &http(at));
    sandbox.json(&["deploy", &four], 0);
    assert_eq!(answer(patient), "four");
    assert_eq!(get(at).as_deref(), Ok("four"));
    sandbox.json(&["stop"], 0);
    let last = waits(at);
    sandbox.json(&["start"], 0);
    assert_eq!(answer(last), "four");
    sandbox.json(&["stop"], 0);
    kill(holder);
    sandbox.kill_everything();
    // it is still its owner's: whoever comes is his
    let stranger = waits(at);
    drop(socket.accept().unwrap());
    drop(stranger);
}

#[test]
fn w36_what_does_not_go_together_is_refused_with_both_addresses() {
    let mut sandbox = Sandbox::new();
    let (socket, at) = listener();
    let (blocking, there) = listener();
    blocking.set_nonblocking(false).unwrap();
    let holder = start(&sandbox, "holder", &[("http", &socket), ("old", &blocking)]);
    sandbox.start_manager();
    let elsewhere = address(port());
    let refused = |listen: &str, says: &str| {
        let outcome = sandbox.json(&["deploy", &site(&sandbox, "one", listen)], 7);
        let said = outcome["reason"].as_str().unwrap();
        assert!(said.contains(says), "{says:?} is not in {said}");
    };
    let both = format!("`http` is given at tcp://{at}, and the pipeline has it at tcp://{elsewhere}");
    refused(&http(elsewhere), &both);
    refused(&format!("{{http: \"udp://{at}\"}}"), &format!("has it at udp://{at}"));
    refused(&http(there), &format!("`old` that is given at tcp://{there} blocks; write `NonBlocking=yes`"));
    // and nothing of another process is taken in its place
    let own = std::process::id().to_string();
    let one = site(&sandbox, "one", &http(at));
    let outcome = sandbox.json(&["deploy", &one, "--take-over", &own], 7);
    let says = format!("tcp://{at} is given by whoever owns its socket");
    assert!(outcome["reason"].as_str().unwrap().contains(&says), "{outcome:#}");
    assert!(sandbox.workers().is_empty());
    // by any name, where the address is the same; and in the end as its owner has made it
    let fine = format!("{{web: \"tcp://{at}\", old: {{address: \"tcp://{there}\", nonblocking: false}}}}");
    assert_eq!(sandbox.json(&["deploy", &site(&sandbox, "two", &fine)], 0)["verdict"], "good");
    kill(holder);
    sandbox.kill_everything();
}

#[test]
fn w36_what_is_not_given_any_more_is_let_go_when_it_is_not_needed() {
    let mut sandbox = Sandbox::new();
    let (socket, at) = listener();
    let holder = start(&sandbox, "holder", &[("http", &socket)]);
    sandbox.start_manager();
    sandbox.json(&["deploy", &site(&sandbox, "one", &http(at))], 0);
    // its owner has closed it, and the next holder is not given it
    drop(socket);
    kill(holder);
    sandbox.json(&["deploy", &site(&sandbox, "two", &http(at))], 0);
    assert_eq!(get(at).as_deref(), Ok("two"), "whoever uses it goes on with it");
    let other = address(port());
    sandbox.json(&["deploy", &site(&sandbox, "three", &format!("{{other: \"tcp://{other}\"}}"))], 0);
    common::until("it is closed", || TcpListener::bind(at).is_ok());
}

#[test]
fn w36_a_supervisor_that_is_given_a_socket_shares_it() {
    let mut sandbox = Sandbox::new();
    let (socket, at) = listener();
    let mut supervisor = start(&sandbox, "supervisor", &[("http", &socket)]);
    sandbox.start_manager();
    sandbox.json(&["deploy", &site(&sandbox, "one", &http(at))], 0);
    assert_eq!(get(at).as_deref(), Ok("one"));
    // no worker finds anything of it in its environment, and no other descriptor
    for process in sandbox.workers().into_values() {
        let environment = std::fs::read_to_string(format!("/proc/{}/environ", process.pid)).unwrap();
        let listens = environment.split('\0').filter(|line| line.starts_with("LISTEN_"));
        assert_eq!(listens.count(), 3, "{environment}");
        assert!(!std::path::Path::new(&format!("/proc/{}/fd/4", process.pid)).exists());
    }
    // the next one has not been given it, and finds it in the holder
    supervisor.kill().unwrap();
    supervisor.wait().unwrap();
    sandbox.wait("another supervisor", |status| {
        status["supervisor"].as_u64().is_some_and(|now| now != u64::from(supervisor.id()))
    });
    sandbox.json(&["deploy", &site(&sandbox, "two", &http(at))], 0);
    assert_eq!(get(at).as_deref(), Ok("two"));
    sandbox.json(&["stop"], 0);
    let stranger = waits(at);
    common::until("it is its owner's", || socket.accept().is_ok());
    drop(stranger);
}

#[test]
fn w36_a_manager_that_is_given_a_socket_says_where_it_belongs() {
    let sandbox = Sandbox::new();
    let (socket, _) = listener();
    let manager = spawn(&sandbox, "manager", &[("http", &socket)]);
    let log = || std::fs::read_to_string(sandbox.path("manager.log")).unwrap();
    common::until("it says so", || log().contains("write `Service=pointsman-holder@"));
    kill(manager);
}

/// The unit of `spec/units.md`, for a port of this host.
fn socket_unit(host: &Host) -> String {
    format!(
        "[Socket]\nListenStream=127.0.0.1:{}\nFileDescriptorName=http\nReusePort=yes\nService=pointsman-holder@web.service\n\
         [Install]\nWantedBy=sockets.target\n",
        host.port
    )
}

#[test]
fn u9_a_socket_unit_holds_the_port_whatever_comes_and_goes() {
    const SOCKET: &str = "pointsman-web.socket";
    let Some(host) = Host::new(Scope::System) else { return };
    let [holder, supervisor, manager] = host.units;
    let at = address(host.port);
    let active = |unit: &str| host.property(unit, "ActiveState");
    host.install(std::path::Path::new(PROGRAM));
    host.init();
    host.systemctl(&["enable", "--now", manager], 0);
    host.settled();
    host.deploy("one", None);
    // who comes to the new socket waits until the workers have it
    let ask = move || {
        let mut stream = TcpStream::connect(at).map_err(|e| format!("connect: {e}"))?;
        stream.set_read_timeout(Some(common::PATIENCE)).unwrap();
        stream.write_all(b"GET / HTTP/1.0\r\n\r\n").map_err(|e| format!("write: {e}"))?;
        let mut text = String::new();
        stream.read_to_string(&mut text).map_err(|e| format!("read: {e}"))?;
        Ok(text.rsplit("\r\n\r\n").next().unwrap().to_owned())
    };
    let load = Load::of(ask, &["one"]);
    load.more(50);

    // a service that runs moves onto it
    host.write_unit(SOCKET, &socket_unit(&host));
    host.systemctl(&["enable", SOCKET], 0);
    // systemd gives a socket unit nothing whose service runs
    host.systemctl(&["stop", holder], 0);
    host.systemctl(&["start", SOCKET, holder], 0);
    let inode = |pid: u64| {
        let links = host.run("sh", &["-c", &format!("ls -l /proc/{pid}/fd")], 0);
        let mut sockets: Vec<String> =
            links.lines().filter_map(|line| line.split("socket:").nth(1).map(str::to_owned)).collect();
        sockets.sort();
        sockets
    };
    host.settled();
    host.pointsman(&["restart"], 0);
    let systemds = inode(1);
    let shares = |pid: u64| inode(pid).iter().any(|socket| systemds.contains(socket));
    assert!(host.workers().values().all(|(pid, _)| shares(*pid)), "{:#}", host.status());
    load.more(50);
    let bound = host.run("ss", &["-ltnH", &format!("sport = :{}", host.port)], 0);
    assert_eq!(bound.lines().count(), 1, "the one before is gone: {bound}");

    // whatever of us comes and goes
    for (unit, body) in [holder, supervisor, manager].into_iter().zip(["two", "three", "four"]) {
        host.undisturbed(&load, &format!("restart of {unit}"), || {
            host.systemctl(&["restart", unit], 0);
        });
        host.undisturbed(&load, &format!("kill of {unit}"), || {
            let pid = host.main_pid(unit);
            host.systemctl(&["kill", "--kill-who=main", "-s", "KILL", unit], 0);
            host.until("another process of the unit", || {
                !matches!(host.main_pid(unit), 0) && host.main_pid(unit) != pid
            });
        });
        host.deploy(body, Some(&load));
    }
    host.undisturbed(&load, "a stop of all", || {
        host.systemctl(&["stop", manager, supervisor, holder], 0);
        load.more(50);
        host.systemctl(&["start", manager], 0);
    });
    host.deploy("five", Some(&load));
    assert!(host.workers().values().all(|(pid, _)| shares(*pid)), "{:#}", host.status());
    assert_eq!(load.end().failures, Vec::<String>::new());

    // not needed for a while
    let other = format!("other: 'tcp://127.0.0.1:{}'", port());
    host.deploy_on(&other, "six", None);
    host.until("the old workers are gone", || host.status()["workers"].as_array().unwrap().len() == 2);
    let patient = waits(at);
    host.systemctl(&["restart", holder], 0);
    host.systemctl(&["restart", supervisor], 0);
    host.settled();
    host.deploy("seven", None);
    assert_eq!(answer(patient), "seven");

    // as after a boot: nothing of ours runs, and the first client waits
    host.pointsman(&["stop"], 0);
    host.systemctl(&["stop", manager, supervisor, holder], 0);
    assert_eq!((active(SOCKET), active(holder)), ("active".to_owned(), "inactive".to_owned()));
    let first = waits(at);
    host.until("the holder, started by systemd", || active(holder) == "active");
    assert_eq!(active(supervisor), "inactive");
    host.systemctl(&["start", manager], 0);
    host.pointsman(&["start"], 0);
    assert_eq!(answer(first), "seven");

    // its owner gives it up, and then so do we
    host.systemctl(&["disable", "--now", SOCKET], 0);
    host.systemctl(&["restart", holder], 0);
    host.settled();
    host.deploy_on(&other, "eight", None);
    host.until("nobody listens", || TcpListener::bind(at).is_ok());
}
