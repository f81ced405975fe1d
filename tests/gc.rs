//! What the store gives back, and what it never does: rules S21 and S22 of `spec/store.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, reason = "tests stand outside of the rooms")]

mod common;

use common::Sandbox;

#[test]
fn s22_limits_are_the_hosts_and_a_refusal_says_where() {
    let sandbox = Sandbox::new();
    for file in ["a", "b", "d/e/c"] {
        sandbox.write(&format!("conf/{file}"), "12345");
    }
    let host = sandbox.path("store/host.yaml").display().to_string();
    for (limits, key) in [("entries: 3", "entries"), ("bytes: 14B", "bytes"), ("depth: 1", "depth")] {
        sandbox.write("store/host.yaml", &format!("pipeline: pushed\nlimits: {{{limits}}}\n"));
        for args in [["push", "./conf"], ["check", "./conf"], ["deploy", "./conf"]] {
            let error = sandbox.error(&args, 7);
            let want = format!("or raise `limits: {key}` in the host file {host}");
            assert!(error.contains(&want), "{args:?}: {error}");
        }
        let error = sandbox.error(&["diff", "./conf", "./conf"], 7);
        assert!(error.contains(&host), "{error}");
    }
    sandbox.write("store/host.yaml", "pipeline: pushed\nlimits: {entries: 5, bytes: 1KiB, depth: 2}\n");
    sandbox.run(&["push", "conf"], 0);
}
