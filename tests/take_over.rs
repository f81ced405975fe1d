//! A service that runs today is moved to pointsman under load: nginx, started by the test itself, and at last Debian's own
//! unit of it under a real systemd.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::net::TcpListener;
use std::process::{Child, Command, Stdio};

use common::host::Host;
use common::load::{Load, get};
use common::nginx::{Site, address, port, site};
use common::systemd::{Scope, passes_under};
use common::{PROGRAM, Sandbox};
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

/// Debian's stock /etc/nginx of `host`, but for its pid line and with this answer, and the pipeline of spec/examples.
fn stock(host: &Host, body: &str) -> String {
    let dir = host.path(body).display().to_string();
    host.run("cp", &["-a", "/etc/nginx", &dir], 0);
    host.run("sed", &["-i", "/^pid /d", &format!("{dir}/nginx.conf")], 0);
    std::fs::write(format!("{dir}/sites-available/default"), server(host, body)).unwrap();
    let pipeline = include_str!("../spec/examples/nginx/pointsman.yaml");
    std::fs::write(format!("{dir}/pointsman.yaml"), format!("{pipeline}probation: 300ms\n")).unwrap();
    dir
}

fn server(host: &Host, body: &str) -> String {
    format!(
        "server {{\n  listen 127.0.0.1:{} default_server;\n  location / {{ return 200 {body}; }}\n}}\n",
        host.port
    )
}

#[test]
fn w35_debians_unit_of_nginx_is_taken_over_under_load_and_there_is_a_way_back() {
    const UNIT: &str = "/lib/systemd/system/nginx.service";
    let Ok(unit) = std::fs::read_to_string(UNIT) else {
        eprintln!("skipped: there is no {UNIT}; it is of Debian's package `nginx`");
        return;
    };
    let Some(host) = Host::new(Scope::System) else { return };
    // what the package brings, and this host's own page
    host.run("mkdir", &["-p", "/var/log/nginx", "/var/lib/nginx"], 0);
    std::fs::write(host.path("etc/nginx/sites-available/default"), server(&host, "today")).unwrap();
    host.write_unit("nginx.service", &unit);
    host.systemctl(&["enable", "--now", "nginx.service"], 0);
    host.install(PROGRAM.as_ref());
    host.init();
    host.systemctl(&["enable", "--now", host.units[2]], 0);
    host.settled();

    let load = Load::on(address(host.port), &["today"]);
    load.more(100);
    let master = host.main_pid("nginx.service");
    let beside = format!(
        "nginx.service (process {master}) still serves beside the workers, on tcp://127.0.0.1:{}",
        host.port
    );
    let dir = stock(&host, "one");
    load.expect(&["today", "one"]);
    let said = host.pointsman(&["deploy", "--copy-links", &dir, "--take-over", "nginx.service"], 0);
    assert!(
        said.contains(&beside) && said.contains("`systemctl disable --now nginx.service` ends it"),
        "{said}"
    );
    load.more(200);

    // as long as it runs, the way back is to stop ours; and it can be tried again
    host.pointsman(&["stop"], 0);
    load.expect(&["today"]);
    load.more(200);
    assert_eq!(host.main_pid("nginx.service"), master, "it has noticed nothing");
    load.expect(&["today", "one"]);
    let said = host.pointsman(&["start", "--take-over", "nginx.service"], 0);
    assert!(said.contains(&beside), "{said}");
    load.more(200);

    host.systemctl(&["disable", "--now", "nginx.service"], 0);
    load.expect(&["one"]);
    load.more(200);
    // from now on it is as if it had always been ours
    load.expect(&["one", "two"]);
    host.pointsman(&["deploy", "--copy-links", &stock(&host, "two")], 0);
    load.expect(&["two"]);
    load.more(200);
    let seen = load.end();
    assert_eq!(seen.failures, Vec::<String>::new());
    assert_eq!(seen.bodies.len(), 3, "{:?}", seen.bodies);

    // and back: from the end of ours until it has bound its port, nobody listens
    host.pointsman(&["stop"], 0);
    assert!(get(address(host.port)).unwrap_err().starts_with("connect: "));
    host.systemctl(&["enable", "--now", "nginx.service"], 0);
    common::until("nginx.service serves", || get(address(host.port)).is_ok_and(|body| body == "today"));
    let load = Load::on(address(host.port), &["today", "two"]);
    host.pointsman(&["start", "--take-over", "nginx.service"], 0);
    host.systemctl(&["disable", "--now", "nginx.service"], 0);
    load.expect(&["two"]);
    load.more(100);
    assert_eq!(load.end().failures, Vec::<String>::new());
}
