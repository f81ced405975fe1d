//! Debian's stock nginx, as it comes: each test has a network and mounts of its own, so port 80 is free and the host's
//! files stay as they are. Root only.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::process::Command;

use common::load::{Load, get};
use common::{Sandbox, workers};

const INSIDE: &str = "POINTSMAN_TEST_INSIDE";
const HTTP: SocketAddr = SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), 80);

/// Runs the test `name` again in namespaces of its own, then `test` there.
fn on_a_host_of_its_own(name: &str, test: impl FnOnce()) {
    if std::env::var_os(INSIDE).is_some() {
        run("ip", &["link", "set", "lo", "up"]);
        // nginx writes there, and a test must not write on the host
        for dir in ["/var/log/nginx", "/var/lib/nginx"] {
            run("mount", &["-t", "tmpfs", "tmpfs", dir]);
        }
        return test();
    }
    if !rustix::process::geteuid().is_root() {
        eprintln!("{name} is not run: only root may have a network of its own");
        return;
    }
    let before = run("find", &["/etc/nginx", "-printf", "%p %s %l %T@ %C@\\n"]);
    let output = Command::new("unshare")
        .args(["--net", "--mount", "--"])
        .arg(std::env::current_exe().unwrap())
        .args(["--exact", name, "--nocapture"])
        .env(INSIDE, "1")
        .output()
        .unwrap();
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success() && out.contains("1 passed"), "{out}\n{err}");
    assert_eq!(run("find", &["/etc/nginx", "-printf", "%p %s %l %T@ %C@\\n"]), before);
}

fn run(program: &str, args: &[&str]) -> String {
    let output = Command::new(program).args(args).output().unwrap_or_else(|e| panic!("{program}: {e}"));
    assert!(output.status.success(), "{program} {args:?}: {output:?}");
    String::from_utf8(output.stdout).unwrap()
}

/// A generation's directory: the stock /etc/nginx but for its pid line, with the pipeline of spec/examples.
fn stock(sandbox: &Sandbox, name: &str) -> String {
    let dir = sandbox.path(name).display().to_string();
    run("cp", &["-a", "/etc/nginx", &dir]);
    run("sed", &["-i", "/^pid /d", &format!("{dir}/nginx.conf")]);
    let pipeline = include_str!("../spec/examples/nginx/pointsman.yaml");
    sandbox.write(&format!("{name}/pointsman.yaml"), &format!("{pipeline}probation: 300ms\n"));
    dir
}

/// The same with another default site.
fn with_site(sandbox: &Sandbox, name: &str, server: &str) -> String {
    let dir = stock(sandbox, name);
    sandbox.write(&format!("{name}/sites-available/default"), &format!("server {{\n{server}\n}}\n"));
    dir
}

const SITE: &str = "listen 80 default_server; listen [::]:80 default_server;";

/// A sandbox with a manager on whose port 80 the stock generation serves; its id and its page.
fn serving() -> (Sandbox, String, String) {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let id = sandbox.run(&["push", "--copy-links", &stock(&sandbox, "one")], 0);
    sandbox.run(&["activate", &id], 0);
    let page = get(HTTP).unwrap();
    assert!(page.contains("<title>Welcome to nginx!</title>"), "{page}");
    (sandbox, id, page)
}

#[test]
fn a8_stock_nginx_is_replaced_under_load_and_comes_back() {
    on_a_host_of_its_own("a8_stock_nginx_is_replaced_under_load_and_comes_back", || {
        let (sandbox, one, welcome) = serving();
        let before = sandbox.workers();
        let load = Load::on(HTTP, &[&welcome]);
        load.more(500);
        let site = with_site(&sandbox, "two", &format!("{SITE} location / {{ return 200 two; }}"));
        let two = sandbox.run(&["push", "--copy-links", &site], 0);
        load.expect(&[&welcome, "two"]);
        let outcome = sandbox.json(&["activate", &two], 0);
        assert_eq!(outcome["verdict"], "good", "{outcome:#}");
        sandbox.wait("the old one is gone", |_| before.values().all(|process| !process.is_alive()));
        load.expect(&["two"]);
        load.more(500);
        load.expect(&["two", &welcome]);
        assert_eq!(sandbox.json(&["rollback", &one[..8]], 0)["serving"], one.as_str());
        sandbox.wait("one worker is left", |status| status["workers"].as_array().unwrap().len() == 1);
        load.expect(&[&welcome]);
        load.more(500);
        let seen = load.end();
        assert_eq!(seen.failures, Vec::<String>::new());
        assert!(seen.requests() >= 1500 && seen.bodies.len() == 2, "{:?}", seen.bodies.values());
        assert_eq!(sandbox.current(), Some(one));
    });
}

#[test]
fn a8_stock_nginx_outlives_what_its_check_or_its_start_refuses() {
    on_a_host_of_its_own("a8_stock_nginx_outlives_what_its_check_or_its_start_refuses", || {
        let (sandbox, one, welcome) = serving();
        let before = sandbox.workers();
        let load = Load::on(HTTP, &[&welcome]);

        let site = with_site(&sandbox, "typo", &format!("{SITE}\nlocation / {{ retrun 200 typo; }}"));
        let outcome = sandbox.json(&["deploy", "--copy-links", &site], 1);
        assert_eq!((&outcome["verdict"], &outcome["stage"]), (&"failed".into(), &"canary".into()));
        let reason = outcome["reason"].as_str().unwrap();
        assert!(
            reason.contains("unknown directive \"retrun\" in /etc/nginx/sites-enabled/default:3"),
            "{reason}"
        );
        assert_eq!((sandbox.current().as_ref(), &sandbox.workers()), (Some(&one), &before));

        // `nginx -t` does not see that a port is taken
        let _taken = TcpListener::bind((Ipv4Addr::LOCALHOST, 81)).unwrap();
        let site = with_site(&sandbox, "taken", &format!("{SITE} listen 127.0.0.1:81;"));
        let outcome = sandbox.json(&["deploy", "--copy-links", &site], 1);
        assert_eq!((&outcome["verdict"], &outcome["stage"]), (&"reverted".into(), &"workers".into()));
        let reason = outcome["reason"].as_str().unwrap();
        assert!(reason.contains("bind() to 127.0.0.1:81 failed"), "{reason}");
        assert_eq!((sandbox.current().as_ref(), &sandbox.workers()), (Some(&one), &before));

        load.more(500);
        assert_eq!(load.end().failures, Vec::<String>::new());
    });
}

#[test]
fn w4_stock_nginx_reads_its_generation_and_not_the_hosts_files() {
    on_a_host_of_its_own("w4_stock_nginx_reads_its_generation_and_not_the_hosts_files", || {
        // a host whose files may be spoiled, seen in this mount namespace only
        let host = tempfile::tempdir().unwrap();
        let copy = host.path().join("nginx").display().to_string();
        run("cp", &["-a", "/etc/nginx", &copy]);
        run("mount", &["--bind", &copy, "/etc/nginx"]);
        let (sandbox, id, welcome) = serving();

        let seen_by = |pid: u32| format!("/proc/{pid}/root/etc/nginx/nginx.conf");
        let ours = |pid: u32| {
            let (seen, stored) =
                (seen_by(pid), sandbox.path(&format!("store/generations/{id}/tree/nginx.conf")));
            let (seen, stored) = (std::fs::metadata(seen).unwrap(), std::fs::metadata(stored).unwrap());
            (seen.dev(), seen.ino()) == (stored.dev(), stored.ino())
        };
        let pid = sandbox.workers()["worker/1"].pid;
        assert!(ours(pid), "nginx sees the generation's own file");
        let refused = std::fs::OpenOptions::new().write(true).open(seen_by(pid)).unwrap_err();
        assert_eq!(refused.kind(), std::io::ErrorKind::ReadOnlyFilesystem);
        let hosts = std::fs::read_to_string("/etc/nginx/nginx.conf").unwrap();
        assert!(hosts.contains("\npid "), "everybody else sees the host's files");

        for file in ["nginx.conf", "mime.types", "sites-available/default"] {
            std::fs::write(Path::new("/etc/nginx").join(file), "nonsense;\n").unwrap();
        }
        assert!(!Command::new("nginx").args(["-t", "-q"]).output().unwrap().status.success());
        // checked, started and ready once more: with the host's files spoiled, and then with none
        for spoil in [false, true] {
            if spoil {
                run("find", &["/etc/nginx", "-mindepth", "1", "-delete"]);
            }
            let before = sandbox.workers()["worker/1"];
            sandbox.run(&["activate", "--force", "@"], 0);
            let status = sandbox.wait("it is replaced", |_| !before.is_alive());
            let pid = workers(&status)["worker/1"].pid;
            assert!(ours(pid));
            let served = std::fs::read_to_string(format!("/proc/{pid}/root/etc/nginx/mime.types")).unwrap();
            assert!(served.contains("text/html"));
            assert_eq!(get(HTTP), Ok(welcome.clone()));
        }
    });
}
