//! What an operator sees of listening sockets: the built program, real nginx, loopback only.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::net::TcpStream;

use common::Sandbox;
use common::load::{Load, get};
use common::nginx::{Site, address, port, site};
use common::systemd::{Scope, passes_under};

#[test]
fn d7_as_the_systems_systemd() {
    passes_under(Scope::System, &[], 2);
}

#[test]
fn d7_as_the_users_systemd() {
    passes_under(Scope::User, &[], 2);
}

/// `listen` and the variable in which nginx finds the socket.
fn passed(port: u16, options: &str) -> String {
    let address = format!("tcp://127.0.0.1:{port}");
    format!("{{http: {{address: \"{address}\"{options}}}}}\n  env: {{NGINX: \"{{fd:http}};\"}}")
}

/// The nginx workers of the service: the children of its masters.
fn children(sandbox: &Sandbox) -> Vec<u32> {
    let child = |master: u32| {
        let text = std::fs::read_to_string(format!("/proc/{master}/task/{master}/children")).unwrap();
        text.split_whitespace().map(|pid| pid.parse().unwrap()).collect::<Vec<u32>>()
    };
    sandbox.workers().values().flat_map(|process| child(process.pid)).collect()
}

#[test]
fn w31_nginx_workers_that_share_a_passed_socket_never_wait_in_accept() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let port = port();
    let listen = passed(port, "");
    let one =
        site(&sandbox, "one", port, Site { body: "one", listen: &listen, instances: 4, ..Site::default() });
    assert_eq!(sandbox.json(&["deploy", &one], 0)["verdict"], "good");
    for master in sandbox.workers().values() {
        let info = std::fs::read_to_string(format!("/proc/{}/fdinfo/3", master.pid)).unwrap();
        let flags = info.lines().find_map(|line| line.strip_prefix("flags:")).unwrap();
        let flags = u32::from_str_radix(flags.trim(), 8).unwrap();
        assert_ne!(flags & rustix::fs::OFlags::NONBLOCK.bits(), 0, "{info}");
    }
    // a storm: each connection wakes more than one of them, and one takes it
    std::thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| (0..2500).for_each(|_| drop(TcpStream::connect(address(port)).unwrap())));
        }
    });
    let workers = children(&sandbox);
    assert_eq!(workers.len(), 4, "one of each instance");
    // whoever is stuck there now stays there: nobody connects any more
    let waits_in = |pid: &u32| std::fs::read_to_string(format!("/proc/{pid}/wchan")).unwrap_or_default();
    common::until("everybody is done", || workers.iter().all(|pid| waits_in(pid) != "0"));
    let stuck: Vec<String> = workers.iter().map(waits_in).filter(|at| at.contains("accept")).collect();
    assert_eq!(stuck, Vec::<String>::new());
    for _ in 0..200 {
        assert_eq!(get(address(port)).as_deref(), Ok("one"));
    }
}

#[test]
fn w33_addresses_come_and_go_under_load_and_back() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let (first, second) = (port(), port());
    let both = format!(
        "{{a: \"tcp://127.0.0.1:{first}\", b: \"tcp://127.0.0.1:{second}\"}}\n  env: {{NGINX: \"{{fd:a}};{{fd:b}};\"}}"
    );
    let server = format!("listen 127.0.0.1:{second};");
    let alone = passed(first, "");
    let load = {
        let one = site(&sandbox, "one", first, Site { body: "one", listen: &alone, ..Site::default() });
        assert_eq!(sandbox.json(&["deploy", &one], 0)["verdict"], "good");
        Load::on(address(first), &["one"])
    };
    let two = Site { body: "two", listen: &both, server: &server, ..Site::default() };
    load.expect(&["one", "two"]);
    let two = site(&sandbox, "two", first, two);
    assert_eq!(sandbox.json(&["deploy", &two], 0)["verdict"], "good");
    let added = Load::on(address(second), &["two"]);
    added.more(200);
    // a change that fails takes nothing away
    let before = "[ $POINTSMAN_INSTANCE = 1 ] || exit 3";
    let bad = Site { body: "bad", listen: &alone, before, ..Site::default() };
    load.expect(&["one", "two", "bad"]);
    let bad = site(&sandbox, "bad", first, bad);
    assert_eq!(sandbox.json(&["deploy", &bad], 1)["verdict"], "reverted");
    added.more(200);
    let seen = added.end();
    assert_eq!(seen.failures, Vec::<String>::new());
    // and back: the address goes
    assert_eq!(sandbox.json(&["rollback"], 0)["verdict"], "good");
    load.more(200);
    let seen = load.end();
    assert_eq!(seen.failures, Vec::<String>::new());
    common::until("nobody listens at the second address", || TcpStream::connect(address(second)).is_err());
}
