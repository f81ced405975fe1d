//! `diff A B`: rule S17 of `spec/store.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::os::unix::fs::PermissionsExt as _;
use std::process::{Command, Stdio};

use common::Sandbox;

/// Two directories that differ in every way that counts.
fn two(sandbox: &Sandbox) {
    for name in ["old", "new"] {
        sandbox.write(&format!("{name}/same"), "same\n");
        sandbox.write(&format!("{name}/text"), "one\ntwo\nthree\n");
        sandbox.write(&format!("{name}/conf.yaml"), "a: 1\nb: [x]\n");
        sandbox.write(&format!("{name}/layout.toml"), "k = 1\n");
        let key = sandbox.write(&format!("{name}/key"), &format!("secret of {name}\n"));
        std::fs::set_permissions(key, std::fs::Permissions::from_mode(0o600)).unwrap();
        sandbox.write(&format!("{name}/binary"), &format!("{name}\0"));
        let tool = sandbox.write(&format!("{name}/tool"), "#!/bin/sh\n");
        std::fs::set_permissions(
            tool,
            std::fs::Permissions::from_mode(if name == "new" { 0o755 } else { 0o644 }),
        )
        .unwrap();
    }
    sandbox.write("old/gone", "");
    sandbox.write("new/added", "");
    sandbox.write("new/text", "one\n2\nthree\n");
    sandbox.write("new/conf.yaml", "# a comment\nb: [x, z]\na: 2\n");
    sandbox.write("new/layout.toml", "# a comment\nk  =  1\n");
}

const EXPECTED: &str = "\
A added (file)
M binary
  content OLD -> NEW
M conf.yaml
  ~ /a: 1 -> 2
  + /b/1: \"z\"
D gone (file)
M key (private file)
  private: its content is not shown; --private shows it
M layout.toml
  only comments or layout differ
M text
--- a/text
+++ b/text
@@ -1,3 +1,3 @@
 one
-two
+2
 three
M tool (file -> executable)";

#[test]
fn s20_a_diff_is_by_line_by_key_path_or_by_hash_and_shows_no_secret() {
    let sandbox = Sandbox::new();
    two(&sandbox);
    let old = sandbox.run(&["push", "old"], 0);
    let before = sandbox.snapshot();
    let short = |text: &str| blake3::hash(text.as_bytes()).to_hex()[..8].to_owned();
    let expected = EXPECTED.replace("OLD", &short("old\0")).replace("NEW", &short("new\0"));
    let expected = expected.replace("M key (private file)", "M key");
    assert_eq!(sandbox.run(&["diff", &old, "./new"], 0), expected);
    assert_eq!(sandbox.run(&["diff", "./old", "./new"], 0), expected);
    assert_eq!(sandbox.snapshot(), before, "a diff pushes nothing");
    let new = sandbox.run(&["push", "new"], 0);
    assert_eq!(sandbox.run(&["diff", &old, &new], 0), expected);
    assert_eq!(sandbox.run(&["diff", &new, "./new"], 0), "");
    assert!(sandbox.run(&["diff", "--private", &old, &new], 0).contains("-secret of old\n+secret of new"));
    let json = sandbox.json(&["diff", &old, &new], 0);
    assert_eq!(json["same"], false);
    assert!(!json.to_string().contains("secret of"), "{json:#}");
    assert_eq!(json["files"].as_array().unwrap().len(), 8);
}

#[test]
fn s20_a_side_can_be_a_stream() {
    let sandbox = Sandbox::new();
    two(&sandbox);
    let old = sandbox.run(&["push", "old"], 0);
    let tar = Command::new("tar").arg("-cC").arg(sandbox.path("new")).arg(".").output().unwrap();
    sandbox.write("new.tar", "");
    std::fs::write(sandbox.path("new.tar"), tar.stdout).unwrap();
    let stdin = std::fs::File::open(sandbox.path("new.tar")).unwrap();
    let output = sandbox.command(&["diff", &old, "-"]).stdin(Stdio::from(stdin)).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    assert!(String::from_utf8(output.stdout).unwrap().contains("M text\n--- a/text"));
    sandbox.error(&["diff", "-", "-"], 2);
    sandbox.error(&["diff", &old, "nosuch"], 3);
    sandbox.error(&["diff", &old, "./nosuch"], 1);
}
