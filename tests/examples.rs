//! The servers of spec/examples, as Debian has them: each checked, served, replaced and rolled back under load,
//! with the pipeline that its page shows. Only the port is another one, and probation shorter.
//!
//! `POINTSMAN_ACTIVATIONS` says how often each is replaced (10). A server that is not installed is skipped.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::collections::BTreeSet;
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use common::load::{Load, get};
use common::nginx::{address, port};
use common::{Sandbox, workers};
use serde_json::Value;

/// One of the examples on a port of its own.
struct Example {
    sandbox: Sandbox,
    name: &'static str,
    /// the address in its files, and the one to use
    listens: &'static str,
    address: SocketAddr,
}

impl Example {
    /// A manager, and nothing in force yet. `None`: the server is not installed.
    fn new(name: &'static str, programs: &[&str], listens: &'static str) -> Option<Example> {
        let there = |program: &&&str| {
            let found = Command::new("sh").args(["-c", "command -v \"$0\"", program]).output().unwrap();
            !found.status.success()
        };
        if let Some(missing) = programs.iter().find(there) {
            eprintln!("{name} is not run: there is no {missing}");
            return None;
        }
        let mut sandbox = Sandbox::new();
        sandbox.start_manager();
        Some(Example { sandbox, name, listens, address: address(port()) })
    }

    /// Writes a generation's directory: the example, but for its port, its probation and what `edit` changes.
    fn source(&self, name: &str, edit: impl Fn(&str, String) -> String) -> String {
        let from = Path::new(env!("CARGO_MANIFEST_DIR")).join("spec/examples").join(self.name);
        let to = self.sandbox.path(name);
        let copied = Command::new("cp").arg("-a").arg(&from).arg(&to).status().unwrap();
        assert!(copied.success());
        let mut dirs = vec![to.clone()];
        while let Some(dir) = dirs.pop() {
            for entry in std::fs::read_dir(dir).unwrap() {
                let path = entry.unwrap().path();
                if path.is_dir() {
                    dirs.push(path);
                    continue;
                }
                let text = std::fs::read_to_string(&path).unwrap();
                let mut changed = text.replace(self.listens, &self.address.to_string());
                if path.ends_with("pointsman.yaml") {
                    changed.push_str("probation: 0s\n");
                }
                changed = edit(path.strip_prefix(&to).unwrap().to_str().unwrap(), changed);
                std::fs::write(&path, changed).unwrap();
            }
        }
        to.display().to_string()
    }

    /// The same with another text in place of one in `file`.
    fn with(&self, name: &str, file: &str, one: &str, other: &str) -> String {
        self.source(name, |path, text| {
            assert!(path != file || text.contains(one), "{file}: {text}");
            if path == file { text.replace(one, other) } else { text }
        })
    }

    /// Two generations that differ in one text of `file`.
    fn two(&self, file: &str, [one, two]: [&str; 2]) -> [String; 2] {
        [self.with("one", file, one, one), self.with("two", file, one, two)]
    }

    /// Deploys what must not get into force; gives the outcome. Everything is as before.
    fn refuses(&self, source: &str, stage: &str) -> Value {
        let before = (self.sandbox.current(), self.sandbox.workers());
        let outcome = self.sandbox.json(&["deploy", source], 1);
        assert_eq!(outcome["stage"], stage, "{outcome:#}");
        assert_eq!((self.sandbox.current(), self.sandbox.workers()), before, "{outcome:#}");
        outcome
    }
}

/// Two generations and their answers, and `ask`, which gets the answer: checked, served, replaced again and
/// again, and rolled back under load without a failed request or a wrong answer.
fn serves_under_load(
    example: &Example,
    sources: [String; 2],
    [one, two]: [&'static str; 2],
    keeps_its_workers: bool,
    ask: impl Fn(SocketAddr) -> Result<String, String> + Copy + Send + Sync + 'static,
) {
    let Example { sandbox, address, .. } = example;
    let address = *address;
    let [first, second] = sources.map(|source| sandbox.run(&["push", &source], 0));
    sandbox.run(&["check", &first], 0);
    sandbox.run(&["activate", &first], 0);
    assert_eq!(ask(address).as_deref(), Ok(one));
    let mut processes = BTreeSet::from_iter(sandbox.workers().into_values());
    let in_one_set = processes.len();

    let times: usize = std::env::var("POINTSMAN_ACTIVATIONS").map_or(10, |times| times.parse().unwrap());
    let load = Load::of(move || ask(address), &[one]);
    for turn in 0..times {
        let (id, answer) = if turn.is_multiple_of(2) { (&second, two) } else { (&first, one) };
        load.expect(&[one, two]);
        let outcome = sandbox.json(&["activate", id], 0);
        assert_eq!((&outcome["verdict"], &outcome["changed"]), (&"good".into(), &true.into()), "{outcome:#}");
        let left = settled(sandbox);
        load.expect(&[answer]);
        assert_eq!(ask(address).as_deref(), Ok(answer), "turn {turn}");
        processes.extend(workers(&left).into_values());
        load.more(20);
    }
    load.expect(&[one, two]);
    let outcome = sandbox.json(&["rollback"], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    settled(sandbox);
    let back = if times.is_multiple_of(2) { two } else { one };
    assert_eq!(ask(address).as_deref(), Ok(back));
    let seen = load.end();
    eprintln!("{}: {times} activations, {:?}, {} failures", example.name, seen.bodies, seen.failures.len());
    assert_eq!(seen.failures, Vec::<String>::new());
    assert!(seen.bodies.contains_key(one) && seen.bodies.contains_key(two), "{:?}", seen.bodies);
    let started = if keeps_its_workers { in_one_set } else { in_one_set * (times + 1) };
    assert_eq!(processes.len(), started, "processes that have served");
}

/// Waits until nothing drains any more.
fn settled(sandbox: &Sandbox) -> Value {
    sandbox.wait("only its workers are left", |status| {
        status["workers"].as_array().unwrap().iter().all(|worker| worker["state"] == "ready")
    })
}

#[test]
fn haproxy_serves_under_load() {
    let Some(example) = Example::new("haproxy", &["haproxy"], "127.0.0.1:8080") else { return };
    serves_under_load(&example, example.two("haproxy.cfg", ["one", "two"]), ["one", "two"], false, get);
    let bad = example.with("bad", "haproxy.cfg", "mode http", "mode nonsense");
    let outcome = example.refuses(&bad, "canary");
    assert!(outcome["reason"].as_str().unwrap().contains("'nonsense'"), "{outcome:#}");
    // what `haproxy -c` accepts
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let second = format!("bind \"${{WEB}}\"\n    bind {}", taken.local_addr().unwrap());
    let bad = example.with("taken", "haproxy.cfg", "bind \"${WEB}\"", &second);
    let outcome = example.refuses(&bad, "canary");
    assert!(outcome["reason"].as_str().unwrap().contains("cannot bind socket"), "{outcome:#}");
}

#[test]
fn gunicorn_serves_under_load() {
    let Some(example) = Example::new("gunicorn", &["gunicorn"], "127.0.0.1:8000") else { return };
    // a graceful end takes gunicorn a third of a second
    serves_under_load(&example, example.two("app.py", ["one", "two"]), ["one", "two"], false, get);
    let bad = example.with("bad", "app.py", "def application", "def application:");
    let outcome = example.refuses(&bad, "canary");
    assert!(outcome["reason"].as_str().unwrap().contains("SyntaxError"), "{outcome:#}");
}

#[test]
fn php_fpm_serves_under_load() {
    let programs = ["php-fpm8.2", "cgi-fcgi"];
    let Some(example) = Example::new("php-fpm", &programs, "127.0.0.1:9000") else { return };
    let script = example.sandbox.path("store/current/public/index.php").display().to_string();
    let script: &'static str = script.leak();
    let ask = move |address: SocketAddr| {
        // as nginx does with $realpath_root: one generation for one request
        let script = std::fs::canonicalize(script).map_err(|e| e.to_string())?;
        let output = Command::new("cgi-fcgi")
            .args(["-bind", "-connect", &address.to_string()])
            .envs([("REQUEST_METHOD", "GET"), ("SCRIPT_NAME", "/index.php")])
            .env("SCRIPT_FILENAME", script)
            .output()
            .map_err(|e| e.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (_, body) = text.split_once("\r\n\r\n").ok_or_else(|| format!("no answer: {output:?}"))?;
        Ok(body.to_owned())
    };
    serves_under_load(&example, example.two("public/index.php", ["one", "two"]), ["one", "two"], false, ask);
    let bad = example.with("bad", "fpm.conf", "pm = static", "pm = nonsense");
    let outcome = example.refuses(&bad, "canary");
    assert!(outcome["reason"].as_str().unwrap().contains("invalid process manager"), "{outcome:#}");
}

const KRESD: [&str; 3] = ["kresd", "socat", "dig"];

/// The address of `one.lab`, asked for by UDP and by TCP.
fn resolve(address: SocketAddr) -> Result<String, String> {
    look_up(address, "one.lab")
}

/// The address of a name, asked for once by UDP and once by TCP.
fn look_up(address: SocketAddr, name: &str) -> Result<String, String> {
    // what is lost does not come later
    let limit = Some(common::PATIENCE);
    let mut query = b"\0\x07\x01\0\0\x01\0\0\0\0\0\0".to_vec();
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.extend(b"\0\0\x01\0\x01");
    let mut answer = [0; 512];
    let udp = UdpSocket::bind("127.0.0.1:0").map_err(|e| e.to_string())?;
    udp.connect(address).map_err(|e| e.to_string())?;
    udp.set_read_timeout(limit).map_err(|e| e.to_string())?;
    udp.send(&query).map_err(|e| format!("udp: send: {e}"))?;
    let long = udp.recv(&mut answer).map_err(|e| format!("udp: receive: {e}"))?;
    let by_udp = answer[..long].to_vec();
    let mut tcp = TcpStream::connect(address).map_err(|e| format!("tcp: connect: {e}"))?;
    tcp.set_read_timeout(limit).map_err(|e| e.to_string())?;
    let mut framed = vec![0, u8::try_from(query.len()).unwrap()];
    framed.extend(&query);
    tcp.write_all(&framed).map_err(|e| format!("tcp: write: {e}"))?;
    tcp.read_exact(&mut answer[..2]).map_err(|e| format!("tcp: read: {e}"))?;
    let long = usize::from(u16::from_be_bytes([answer[0], answer[1]]));
    tcp.read_exact(&mut answer[..long]).map_err(|e| format!("tcp: read: {e}"))?;
    let text = |answer: &[u8]| match answer {
        // no error, one answer: an address at the end
        [_, _, _, code, _, _, 0, 1, .., a, b, c, d] if code & 15 == 0 => Ok(format!("{a}.{b}.{c}.{d}")),
        other => Err(format!("answer: {other:?}")),
    };
    let (by_udp, by_tcp) = (text(&by_udp)?, text(&answer[..long])?);
    // between the two the rules may change
    Ok(by_udp.max(by_tcp))
}

#[test]
fn kresd_is_told_of_rules_in_place_under_load() {
    let Some(example) = Example::new("kresd", &KRESD, "127.0.0.1:5353") else { return };
    let answers = ["192.0.2.1", "192.0.2.2"];
    serves_under_load(&example, example.two("rules/hosts", answers), answers, true, resolve);
    let before = example.sandbox.workers();
    let bad = example.with("bad", "rules/hosts", "192.0.2.53 health", "nonsense");
    let outcome = example.refuses(&bad, "loader");
    assert!(
        outcome["reason"].as_str().unwrap().contains("rules/hosts:3: expected ADDRESS NAME"),
        "{outcome:#}"
    );
    // rules that no worker takes: told, refused, replaced, refused again; the canary finds it first
    let bad = example.with("worse", "bin/load-rules", "return {", "return nonsense {");
    example.refuses(&bad, "canary");
    assert_eq!(example.sandbox.workers(), before);
    // a worker that dies comes back on the rules that it last accepted
    let answer = resolve(example.address).unwrap();
    let (slot, process) = before.iter().next().unwrap();
    common::signal_to(process.pid, rustix::process::Signal::KILL);
    example.sandbox.wait("it is back", |status| {
        workers(status).get(slot).is_some_and(|now| now != process) && workers(status).len() == before.len()
    });
    for _ in 0..20 {
        assert_eq!(resolve(example.address).as_deref(), Ok(answer.as_str()));
    }
}

#[test]
fn kresd_is_replaced_under_load() {
    let Some(example) = Example::new("kresd", &KRESD, "127.0.0.1:5353") else { return };
    // the answer is in what rules do not claim
    let fixed = |path: &str, text: String, address: &str| match path {
        "kresd.conf" => text.replace(
            "load_rules()\npolicy",
            &format!("load_rules()\nhints.set('one.lab {address}')\npolicy"),
        ),
        "rules/hosts" => text.replace("192.0.2.1 one.lab\n", ""),
        _ => text,
    };
    let source = |name: &str, address: &str| example.source(name, |path, text| fixed(path, text, address));
    serves_under_load(
        &example,
        [source("a", "192.0.2.1"), source("b", "192.0.2.2")],
        ["192.0.2.1", "192.0.2.2"],
        false,
        resolve,
    );
    let bad = example.with("bad", "kresd.conf", "cache.open", "cache.nonsense");
    let outcome = example.refuses(&bad, "canary");
    assert!(outcome["reason"].as_str().unwrap().contains("nonsense"), "{outcome:#}");
}

/// A name server that answers every question for an address with this one, after a while.
fn slow_name_server(host: u8) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    let address = socket.local_addr().unwrap();
    std::thread::spawn(move || {
        let mut query = [0; 512];
        while let Ok((_, from)) = socket.recv_from(&mut query) {
            let name: usize = query[12..].iter().position(|byte| *byte == 0).unwrap() + 12;
            let is_a = query[name + 1..name + 3] == [0, 1];
            let mut answer = query[..name + 5].to_vec();
            // an answer to a recursive query, with one record or none, and no options
            answer[2..12].copy_from_slice(&[0x81, 0x80, 0, 1, 0, u8::from(is_a), 0, 0, 0, 0]);
            if is_a {
                answer.extend([0xc0, 12, 0, 1, 0, 1, 0, 0, 0, 0, 0, 4, 192, 0, 2, host]);
            }
            let socket = socket.try_clone().unwrap();
            std::thread::spawn(move || {
                std::thread::sleep(Duration::from_millis(200));
                socket.send_to(&answer, from).unwrap();
            });
        }
    });
    address
}

#[test]
fn kresd_is_replaced_while_it_waits_for_other_servers() {
    static NAMES: AtomicUsize = AtomicUsize::new(0);
    let Some(example) = Example::new("kresd", &KRESD, "127.0.0.1:5353") else { return };
    let source = |name: &str, host: u8| {
        let server = slow_name_server(host);
        let claim = "policy.add(policy.suffix(policy.PASS";
        let stub = format!("policy.STUB('{}@{}')", server.ip(), server.port());
        let asks = format!("policy.add(policy.suffix({stub}, policy.todnames({{ 'slow.lab' }})))\n{claim}");
        example.with(name, "kresd.conf", claim, &asks)
    };
    let ask = |address: SocketAddr| {
        // one that is in no cache
        look_up(address, &format!("n{}.slow.lab", NAMES.fetch_add(1, Ordering::Relaxed)))
    };
    let answers = ["192.0.2.1", "192.0.2.2"];
    serves_under_load(&example, [source("a", 1), source("b", 2)], answers, false, ask);
}
