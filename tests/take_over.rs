//! A service that runs today is moved to pointsman under load: nginx, started by the test itself.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use common::Sandbox;
use common::load::{Load, get};
use common::nginx::{Site, address, port, site};
use common::systemd::{Scope, passes_under};
use rustix::process::Signal;

#[test]
fn d7_as_the_systems_systemd() {
    passes_under(Scope::System, &[], 4);
}

#[test]
fn d7_as_the_users_systemd() {
    passes_under(Scope::User, &[], 4);
}

/// An nginx that nobody looks after, as a distribution would start it; ended with its test.
struct Today {
    master: Child,
    pid_file: String,
}

impl Today {
    /// Serves `today` on these ports of loopback.
    fn serve(sandbox: &Sandbox, ports: &[u16], options: &str) -> Today {
        let directory = sandbox.path("today").display().to_string();
        let listens: String =
            ports.iter().map(|port| format!("listen 127.0.0.1:{port} {options};")).collect();
        let conf = format!(
            "daemon off; pid {directory}/pid; worker_processes 2; error_log stderr; events {{}} http {{ access_log off; \
             client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5; \
             server {{ {listens} location / {{ return 200 today; }} }} }}"
        );
        let conf = sandbox.write("today/nginx.conf", &conf);
        let mut command = Command::new("/usr/sbin/nginx");
        command.args(["-e", "stderr", "-p", &directory, "-c"]).arg(conf);
        let log = sandbox.log("today.log");
        let master = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log).spawn().unwrap();
        common::until("the service of today serves", || {
            ports.iter().all(|port| get(address(*port)).is_ok_and(|body| body == "today"))
        });
        Today { master, pid_file: format!("{directory}/pid") }
    }

    fn pid(&self) -> String {
        self.master.id().to_string()
    }

    fn quit(mut self) {
        common::signal_to(self.master.id(), Signal::QUIT);
        self.master.wait().unwrap();
    }
}

impl Drop for Today {
    fn drop(&mut self) {
        // killed, it would leave its workers behind
        common::signal_to(self.master.id(), Signal::TERM);
        let _ = self.master.wait();
    }
}

fn listen(port: u16, options: &str) -> String {
    format!("{{http: {{address: \"tcp://127.0.0.1:{port}\"{options}}}}}\n  env: {{NGINX: \"{{fd:http}};\"}}")
}

/// Moves the service of today under load, ends it, and changes once more; nobody notices.
fn moves(listen: &str, port: u16, by: impl Fn(&Today) -> String) {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let today = Today::serve(&sandbox, &[port], "");
    let load = Load::on(address(port), &["today"]);
    load.more(100);
    let one = site(&sandbox, "one", port, Site { body: "one", listen, ..Site::default() });
    load.expect(&["today", "one"]);
    let outcome = sandbox.json(&["deploy", &one, "--take-over", &by(&today)], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    let reason = outcome["reason"].as_str().unwrap();
    let next = format!("process {} still serves beside the workers, on tcp://127.0.0.1:{port}", today.pid());
    assert!(reason.contains(&next) && reason.contains("kill -QUIT"), "{reason}");
    load.more(200);
    today.quit();
    load.expect(&["one"]);
    load.more(200);
    // from now on it is as if it had always been ours, also for who comes after
    let two = site(&sandbox, "two", port, Site { body: "two", listen, ..Site::default() });
    load.expect(&["one", "two"]);
    assert_eq!(sandbox.json(&["deploy", &two], 0)["verdict"], "good");
    load.more(200);
    let seen = load.end();
    assert_eq!(seen.failures, Vec::<String>::new());
    assert_eq!(seen.bodies.len(), 3, "{:?}", seen.bodies);
}

#[test]
fn w35_a_service_is_taken_over_by_address_under_load() {
    let port = port();
    moves(&listen(port, ""), port, Today::pid);
}

#[test]
fn w35_a_service_is_taken_over_for_a_program_that_binds_by_itself() {
    moves("{inherit: NGINX}", port(), |today| today.pid_file.clone());
}

#[test]
fn w35_a_take_over_that_fails_leaves_the_service_of_today_as_it_is() {
    for listens in ["passed", "inherited"] {
        let mut sandbox = Sandbox::new();
        sandbox.start_manager();
        let port = port();
        let listen = if listens == "passed" { listen(port, "") } else { "{inherit: NGINX}".to_owned() };
        let today = Today::serve(&sandbox, &[port], "");
        let load = Load::on(address(port), &["today"]);
        for (before, server) in [("exit 3", ""), ("", "return 500;")] {
            let pipeline = "canary: {network: private, probe: {http: \"http://127.0.0.1:1/\"}}";
            let pipeline = if server.is_empty() { "" } else { pipeline };
            let bad = Site { body: "bad", listen: &listen, before, server, pipeline, ..Site::default() };
            let bad = site(&sandbox, "bad", port, bad);
            let outcome = sandbox.json(&["deploy", &bad, "--take-over", &today.pid()], 1);
            assert!(!outcome["reason"].as_str().unwrap().contains("still serves"), "{outcome:#}");
            load.more(100);
        }
        let seen = load.end();
        assert_eq!(seen.failures, Vec::<String>::new(), "{listens}");
        // nothing of ours keeps its address open when it goes
        today.quit();
        common::until("nobody listens", || TcpListener::bind(address(port)).is_ok());
    }
}

#[test]
fn w35_what_cannot_be_taken_over_is_refused_before_anything_runs() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let (port, other) = (port(), port());
    let today = Today::serve(&sandbox, &[port], "");
    let refused = |listen: &str, from: &str, says: &str| {
        let one = site(&sandbox, "one", port, Site { body: "one", listen, ..Site::default() });
        let outcome = sandbox.json(&["deploy", &one, "--take-over", from], 7);
        let said = outcome["reason"].as_str().or(outcome["error"].as_str()).unwrap().to_owned();
        assert!(said.contains(says), "{says:?} is not in {said}");
    };
    let pid = today.pid();
    refused(
        &listen(other, ""),
        &pid,
        &format!("listens on tcp://127.0.0.1:{port}, and none of that is in `listen`"),
    );
    refused(&listen(port, ", nonblocking: false"), &pid, "write `nonblocking: true` for it");
    refused(&listen(port, ""), "no-such-unit", "no process of the unit no-such-unit.service runs");
    refused(&listen(port, ""), &std::process::id().to_string(), "listens nowhere");
    assert_eq!(common::nginx::spawns(&sandbox), Vec::<String>::new());
    assert_eq!(get(address(port)).as_deref(), Ok("today"));
    today.quit();
    // several sockets at one address have several queues
    let today = Today::serve(&sandbox, &[port], "reuseport");
    refused(&listen(port, ""), &today.pid(), "(SO_REUSEPORT)");
}
