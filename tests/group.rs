//! The group that the host file names reads private files, and nobody else does. Rules S5 and S22.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};

use common::Sandbox;

/// A group that the test's user may give files to: another one than its own where it is root.
fn group() -> u32 {
    if rustix::process::geteuid().is_root() { 33 } else { rustix::process::getegid().as_raw() }
}

/// Mode and group of a file of a generation.
fn rights(sandbox: &Sandbox, id: &str, path: &str) -> (u32, u32) {
    let meta = std::fs::metadata(sandbox.path("store/generations").join(id).join("tree").join(path)).unwrap();
    (meta.mode() & 0o7777, meta.gid())
}

fn private(sandbox: &Sandbox, path: &str, mode: u32) {
    let path = sandbox.write(path, path);
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

#[test]
fn s5_a_group_reads_private_files_and_less_is_no_damage() {
    let sandbox = Sandbox::new();
    private(&sandbox, "one/keys/key", 0o600);
    private(&sandbox, "one/keys/run", 0o700);
    private(&sandbox, "one/other", 0o600);
    private(&sandbox, "one/public", 0o644);
    let one = sandbox.run(&["push", "one"], 0);
    assert_eq!(rights(&sandbox, &one, "keys/key").0, 0o400);
    let host = |text: &str| sandbox.write("store/host.yaml", &format!("pipeline: pushed\n{text}"));
    let gid = group();

    host(&format!("group: {{name: '{gid}', files: ['keys/**']}}\n"));
    assert_eq!(sandbox.run(&["verify"], 0), "ok", "a generation from before the group was named");
    private(&sandbox, "one/new", 0o600);
    let two = sandbox.run(&["push", "one"], 0);
    assert_eq!(rights(&sandbox, &two, "keys/key"), (0o440, gid));
    assert_eq!(rights(&sandbox, &two, "keys/run"), (0o550, gid));
    for (path, mode) in [("other", 0o400), ("new", 0o400), ("public", 0o444)] {
        assert_eq!(rights(&sandbox, &two, path).0, mode, "{path}");
    }
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    // what has the right group already is shared, by a stream and an import too
    private(&sandbox, "one/newer", 0o600);
    let three = sandbox.run(&["push", "one"], 0);
    let inode = |id: &str| {
        std::fs::metadata(sandbox.path("store/generations").join(id).join("tree/keys/key")).unwrap().ino()
    };
    assert_eq!(inode(&two), inode(&three));
    sandbox.run(&["export", &three, "-o", "three.tar"], 0);
    std::fs::rename(sandbox.path("store"), sandbox.path("before")).unwrap();
    sandbox.run(&["init"], 0);
    host(&format!("group: {{name: '{gid}', files: ['keys/**']}}\n"));
    sandbox.run(&["import", "three.tar"], 0);
    assert_eq!(rights(&sandbox, &three, "keys/key"), (0o440, gid));

    // more than the host file allows is damage, and is mended
    host("");
    let named = sandbox.run(&["verify"], 4);
    assert!(named.contains("keys/key") && named.contains("0440, not 0400"), "{named}");
    sandbox.run(&["verify", "--repair"], 0);
    assert_eq!(rights(&sandbox, &three, "keys/key").0, 0o400);

    host("group: no-such-group\n");
    sandbox.write("other/x", "x");
    let error = sandbox.error(&["push", "other"], 7);
    assert!(error.contains("no group `no-such-group`"), "{error}");
}

#[test]
fn s22_a_manager_that_runs_knows_the_group_that_was_named_since() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    sandbox.write("store/host.yaml", &format!("pipeline: pushed\ngroup: '{}'\n", group()));
    private(&sandbox, "one/key", 0o600);
    let one = sandbox.run(&["push", "one"], 0);
    assert_eq!(rights(&sandbox, &one, "key").0, 0o440);
    assert_eq!(sandbox.json(&["activate", &one], 0)["verdict"], "good");
    // what cannot be looked up is said, not taken for damage
    sandbox.write("store/host.yaml", "pipeline: pushed\ngroup: no-such-group\n");
    for command in [vec!["verify"], vec!["activate", &one]] {
        let error = sandbox.error(&command, 7);
        assert!(error.contains("no group `no-such-group`"), "{error}");
    }
}
