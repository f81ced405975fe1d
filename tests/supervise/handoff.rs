//! Sockets: kept, shared and handed over.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};

use pointsman::model::{Listen, Ready};
use pointsman::supervise::News;

use crate::stage::{self, Process, Stage, free_address, get, until, until_gone};

#[test]
fn w5_no_connection_is_refused_while_workers_are_replaced() {
    let stage = Stage::new();
    let address = free_address();
    let mut old = stage.ready(1, &stage.greeter(1, address));
    let end = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let asks = || {
            let mut count = 0;
            while !end.load(Ordering::SeqCst) {
                get(address).unwrap_or_else(|error| panic!("request {count}: {error}"));
                count += 1;
            }
            count
        };
        let load: Vec<_> = (0..4).map(|_| scope.spawn(asks)).collect();
        for generation in 2..=11 {
            let new = stage.ready(u64::from(generation), &stage.greeter(generation, address));
            until_gone(old);
            old = new;
            assert_eq!(get(address).unwrap(), format!("generation {generation}"));
        }
        end.store(true, Ordering::SeqCst);
        let count: u32 = load.into_iter().map(|thread| thread.join().unwrap()).sum();
        assert!(count > 50, "{count} requests");
    });
}

#[test]
fn w8_sockets_survive_the_holder_and_then_everybody_else() {
    let mut stage = Stage::new();
    let address = free_address();
    let spec = stage.greeter(1, address);
    let worker = stage.ready(1, &spec);
    let holder = stage.daemon("holder").unwrap();
    holder.kill();
    until_gone(holder);
    let second = until("another holder", || stage.daemon("holder").filter(|&it| it != holder));
    assert_eq!(get(address).unwrap(), "generation 1");
    // the new one has been given everything: it alone keeps the address open
    until("it keeps the socket", || {
        let fds = fs::read_dir(format!("/proc/{}/fd", second.pid)).ok()?;
        let links = fds.filter_map(|fd| fs::read_link(fd.ok()?.path()).ok());
        let sockets = links.filter(|link| link.to_string_lossy().starts_with("socket:")).count();
        (sockets >= 3).then_some(()) // its own, its client's, and the one kept
    });
    stage.kill_supervisor();
    worker.kill();
    until_gone(worker);
    let waiting = std::net::TcpStream::connect(address).expect("the queue is still there");
    drop(waiting);
    stage.up();
    until("a new worker", || stage.accepted());
    assert_eq!(get(address).unwrap(), "generation 1");
    assert!(second.lives());
}

#[test]
fn w8_there_is_one_holder() {
    let stage = Stage::new();
    let output = std::process::Command::new(stage::PROGRAM)
        .args(["holder", "--run"])
        .arg(stage.run())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    let pid = stage.daemon("holder").unwrap().pid;
    assert!(!output.status.success() && said.contains(&format!("already: process {pid}")), "{said}");
}

#[test]
fn w5_settling_closes_what_no_slot_needs() {
    let stage = Stage::new();
    let (one, two) = (free_address(), free_address());
    stage.ready(1, &stage.greeter(1, one));
    let spec = stage.greeter(2, two);
    let old = stage.accepted().unwrap();
    stage.ready(2, &spec);
    assert_eq!(get(one).unwrap(), "generation 1", "served until it is certain that nobody goes back");
    stage.client().settle(&[spec.slot]).unwrap();
    until_gone(old);
    // whoever else keeps a duplicate (a service manager) is told to let it go
    until("nobody listens there", || std::net::TcpStream::connect(one).is_err().then_some(()));
    assert_eq!(get(two).unwrap(), "generation 2");
}

#[test]
fn w5_an_address_that_is_taken_fails_the_candidate() {
    let stage = Stage::new();
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let spec = stage.greeter(1, taken.local_addr().unwrap());
    let News::Failed { why, .. } = stage.ensure(1, &spec) else { panic!() };
    assert!(why.contains("cannot listen on tcp://127.0.0.1:"), "{why}");
    assert!(stage.slots().is_empty());
}

#[test]
fn w6_nginx_hands_the_sockets_it_bound_to_its_successor() {
    if !std::path::Path::new("/usr/sbin/nginx").exists() {
        eprintln!("skipped: there is no nginx");
        return;
    }
    let stage = Stage::new();
    let address = free_address();
    let nginx = |generation: u8| {
        let mut spec = stage.spec(generation, "");
        let temp: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
            .map(|name| format!("{name}_temp_path {}/temp/{name}; ", stage.path().display()))
            .concat();
        fs::create_dir_all(stage.path().join("temp")).unwrap();
        let conf = format!(
            "worker_processes 2; error_log stderr; events {{}} http {{ access_log off; {temp} server {{ \
             listen {address}; location / {{ return 200 'generation {generation}'; }} }} }}"
        );
        fs::write(spec.launch.config.join("nginx.conf"), conf).unwrap();
        let words =
            ["nginx", "-e", "stderr", "-c", "{config}/nginx.conf", "-g", "daemon off; pid {run}/nginx.pid;"];
        spec.launch.command.0 = words.map(str::to_owned).into();
        spec.listen = Listen::Inherit("NGINX".into());
        spec.ready = Ready::File("{run}/nginx.pid".into());
        spec.stop_signal = "QUIT".into();
        spec
    };
    let mut old = stage.ready(1, &nginx(1));
    for generation in 2..=4 {
        let new = stage.ready(u64::from(generation), &nginx(generation));
        until_gone(old);
        until("the new one answers", || {
            (get(address).ok()? == format!("generation {generation}")).then_some(())
        });
        old = new;
    }
    // its master dies: the nginx workers it leaves go with it, and the next one has its sockets
    let children: Vec<Process> = fs::read_to_string(format!("/proc/{0}/task/{0}/children", old.pid))
        .unwrap()
        .split_whitespace()
        .filter_map(|pid| Process::of(pid.parse().unwrap()))
        .collect();
    assert_eq!(children.len(), 2);
    old.kill();
    children.into_iter().for_each(until_gone);
    until("another master", || stage.accepted().filter(|&it| it != old));
    assert_eq!(get(address).unwrap(), "generation 4");
}
