//! What people see: on a terminal and in a pipe. Rules C2, C3, C5 and C8 of `spec/cli.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::process::{Command, Stdio};

use common::{PROGRAM, Sandbox};

/// What a command shows on a terminal, both streams, with these variables set.
fn on_a_terminal(sandbox: &Sandbox, args: &[&str], variables: &[(&str, &str)]) -> String {
    let quoted: Vec<String> = args.iter().map(|word| format!("'{word}'")).collect();
    let line = format!("{PROGRAM} --store store {}", quoted.join(" "));
    let mut script = Command::new("script");
    script
        .args(["--quiet", "--return", "--command", &line, "/dev/null"])
        .current_dir(sandbox.path(""))
        .env_clear();
    script.env("TERM", "xterm").env("PATH", "/usr/bin:/bin").envs(variables.iter().copied());
    let output = script.stdin(Stdio::null()).output().unwrap();
    String::from_utf8(output.stdout).unwrap()
}

/// A store whose one generation has everything that a terminal would obey.
fn hostile() -> Sandbox {
    let sandbox = Sandbox::new();
    sandbox.write("a/x", "one\n");
    sandbox.run(&["deploy", "a"], 0);
    sandbox.write("a/x", "\u{1b}[2Jtwo\n");
    sandbox.write("a/n\u{202e}ame", "");
    sandbox.run(&["deploy", "a", "-m", "\u{1b}]0;owned\u{7}why"], 0);
    sandbox.run(&["freeze", "--why", "\u{1b}[5mno"], 0);
    sandbox.run(&["activate", "@-1"], 7);
    sandbox
}

#[test]
fn c8_no_text_commands_a_terminal() {
    let sandbox = hostile();
    let commands: &[(&[&str], &str)] = &[
        (&["list"], "\\u{1b}]0;owned\\u{7}why"),
        (&["show"], "n\\u{202e}ame"),
        (&["show"], "\\u{1b}]0;owned\\u{7}why"),
        (&["history"], "\\u{1b}[5mno"),
        (&["status"], "\\u{1b}]0;owned\\u{7}why"),
        (&["diff", "@-1", "@"], "+\\u{1b}[2Jtwo"),
        (&["thaw", "--help"], "thaw"),
    ];
    for (args, shown) in commands {
        let piped = sandbox.run(args, 0);
        assert!(
            piped.contains(shown) && !piped.contains(['\u{1b}', '\u{7}', '\u{202e}']),
            "{args:?}: {piped:?}"
        );
        let seen = on_a_terminal(&sandbox, args, &[("NO_COLOR", "1")]);
        assert!(
            seen.contains(shown) && !seen.contains(['\u{1b}', '\u{7}', '\u{202e}']),
            "{args:?}: {seen:?}"
        );
    }
    // what other programs read is as it is
    assert_eq!(sandbox.run(&["show", "@:x"], 0), "\u{1b}[2Jtwo");
    assert_eq!(sandbox.json(&["show"], 0)["push"]["message"], "\u{1b}]0;owned\u{7}why");
    assert!(sandbox.error(&["activate", "\u{1b}[2J"], 3).contains("`\\u{1b}[2J`"));
}

#[test]
fn a8_a_verdict_says_which_worker_has_failed() {
    let mut sandbox = Sandbox::new();
    let group = "{command: [sleep, '1000'], ready: {after: 1ms}}";
    let broken = "{command: [sh, -c, echo no cheese; exit 3], ready: notify, restart: {on: never}}";
    sandbox.write("a/pointsman.yaml", &format!("version: 1\nworkers: {{fine: {group}, lost: {broken}}}\n"));
    sandbox.start_manager();
    let said = sandbox.error(&["deploy", "a"], 1);
    assert!(said.contains("(workers): lost/1: exited with status 3\nno cheese"), "{said}");
    assert!(sandbox.run(&["history"], 0).ends_with("lost/1: exited with status 3"));
}

#[test]
fn c2_colours_are_for_terminals_that_want_them() {
    let sandbox = Sandbox::new();
    sandbox.write("a/x", "one\n");
    sandbox.run(&["deploy", "a"], 0);
    let green = "\u{1b}[32munchanged\u{1b}[0m";
    assert!(on_a_terminal(&sandbox, &["activate", "@"], &[]).contains(green));
    assert!(
        on_a_terminal(&sandbox, &["activate", "@"], &[("NO_COLOR", "")]).contains(green),
        "empty is not set"
    );
    for quiet in [("NO_COLOR", "1"), ("TERM", "dumb")] {
        let seen = on_a_terminal(&sandbox, &["activate", "@"], &[quiet]);
        assert!(seen.contains("unchanged (preflight)") && !seen.contains('\u{1b}'), "{quiet:?}: {seen:?}");
        assert!(!on_a_terminal(&sandbox, &["activate", "nosuch"], &[quiet]).contains('\u{1b}'));
    }
    assert!(!sandbox.run(&["activate", "@"], 0).contains('\u{1b}'));
}

#[test]
fn c3_a_path_is_named_once_and_every_error_has_a_next_step() {
    let sandbox = Sandbox::new();
    sandbox.write("a/x", "one\n");
    sandbox.write("empty", "");
    let says = |args: &[&str], code: i32, text: &str| {
        let said = sandbox.error(args, code);
        assert!(said.contains(text), "{text:?} is not in {said:?}");
        assert!(said.contains("; "), "no next step in {said:?}");
        said
    };
    says(&["push", "a", "--meta", "k=1", "--meta", "k=2"], 2, "give each key once");
    says(&["import", "a"], 1, "a is a directory; give an export");
    says(&["push", "-"], 7, "it was cut; make it again");
    // a name that is nothing may have been meant as a path
    sandbox.run(&["deploy", "a"], 0);
    for args in [
        &["check", "nosuch"][..],
        &["diff", "@", "nosuch"],
        &["diff", "nosuch", "@"],
        &["verify", "--repair", "--from", "nosuch"],
    ] {
        says(args, 3, "no file or directory `nosuch` is here, and `nosuch` is not in the store");
    }
    // a file that the system does not let grow
    let script = "ulimit -f 0; trap '' XFSZ; exec \"$0\" --store store tag v1";
    let mut limited = Command::new("sh");
    let output =
        limited.args(["-c", script, PROGRAM]).current_dir(sandbox.path("")).env_clear().output().unwrap();
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(output.status.code() == Some(1) && said.contains("File too large"), "{said}");
    assert_eq!(said.matches("store/tags/").count(), 1, "{said}");
    assert!(said.contains("; raise the limit"), "{said}");
}
