//! Generations of a small nginx service on a port of its own.

use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU32, Ordering};

use super::Sandbox;

/// What a generation is to do besides serving its body.
#[derive(Clone, Copy, Debug, Default)]
pub struct Site<'a> {
    /// the answer to every request
    pub body: &'a str,
    /// lines of shell run before nginx is started; `$POINTSMAN_INSTANCE` tells which worker it is
    pub before: &'a str,
    /// more lines of `nginx.conf`'s server block
    pub server: &'a str,
    /// more lines of the pipeline
    pub pipeline: &'a str,
    /// more lines of the worker
    pub worker: &'a str,
    /// what follows `listen:` of the worker; empty: `{inherit: NGINX}`
    pub listen: &'a str,
    /// number of instances; 0 is 2
    pub instances: u32,
}

/// A loopback port that nobody uses now and no other test of this run gets.
pub fn port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let offset = std::process::id() * 97 + NEXT.fetch_add(1, Ordering::Relaxed);
        // below the ephemeral range, so that no client's own port is in the way
        let port = u16::try_from(12_000 + offset % 18_000).unwrap();
        if TcpListener::bind((Ipv4Addr::LOCALHOST, port)).is_ok() {
            return port;
        }
    }
}

pub fn address(port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::LOCALHOST, port))
}

/// Writes a generation's directory and gives its path. Each start of anything appends a line to `spawns`.
pub fn site(sandbox: &Sandbox, name: &str, port: u16, site: Site<'_>) -> String {
    let Site { body, before, server, pipeline, worker, listen, instances } = site;
    let listen = if listen.is_empty() { "{inherit: NGINX}" } else { listen };
    let spawns = sandbox.path("spawns").display().to_string();
    let instances = if instances == 0 { 2 } else { instances };
    sandbox.write(
        &format!("{name}/nginx.conf"),
        &format!(
            "worker_processes 1;\nerror_log stderr;\nevents {{ worker_connections 256; }}\nhttp {{\n  access_log off;\n  \
             client_body_temp_path t1; proxy_temp_path t2; fastcgi_temp_path t3; uwsgi_temp_path t4; scgi_temp_path t5;\n  \
             server {{ listen 127.0.0.1:{port} backlog=1024; {server}\n    location / {{ return 200 \"{body}\"; }} }}\n}}\n"
        ),
    );
    sandbox.write(
        &format!("{name}/start"),
        &format!(
            "echo \"worker $POINTSMAN_INSTANCE {body}\" >> {spawns}\n{before}\n\
             exec nginx -e stderr -p \"$1\" -c \"$2/nginx.conf\" -g \"daemon off; pid $1/nginx.pid;\"\n"
        ),
    );
    sandbox.write(
        &format!("{name}/check"),
        &format!(
            "echo \"check {body}\" >> {spawns}\n\
             exec nginx -t -q -e stderr -p \"$1\" -c \"$2/nginx.conf\" -g \"pid $1/check.pid;\"\n"
        ),
    );
    sandbox.write(
        &format!("{name}/pointsman.yaml"),
        &format!(
            "version: 1\ncheck: sh {{config}}/check {{run}} {{config}}\nprobation: 300ms\n{pipeline}\nworker:\n  \
             command: sh {{config}}/start {{run}} {{config}}\n  instances: {instances}\n  listen: {listen}\n  \
             ready: {{file: \"{{run}}/nginx.pid\"}}\n  stop_signal: QUIT\n  start_timeout: 60s\n{worker}\n"
        ),
    );
    sandbox.path(name).display().to_string()
}

/// The lines of `spawns`: every start of a check, loader or worker so far.
pub fn spawns(sandbox: &Sandbox) -> Vec<String> {
    let text = std::fs::read_to_string(sandbox.path("spawns")).unwrap_or_default();
    text.lines().map(str::to_owned).collect()
}
