//! What the command line does with bad input, and what it prints: rules C1 to C8 of `spec/cli.md`.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    unreachable_pub,
    reason = "tests stand outside of the rooms"
)]

mod common;

use std::collections::HashMap;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{PermissionsExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use common::{PROGRAM, Sandbox};
use serde_json::Value;

/// Every command, with arguments that are right where the store is.
const EVERY: &[&[&str]] = &[
    &["push", "good"],
    &["deploy", "good"],
    &["activate", "@"],
    &["activate", "--dry-run", "@"],
    &["activate", "--pointer-only", "@"],
    &["rollback"],
    &["rollback", "@"],
    &["check", "good"],
    &["check", "@"],
    &["status"],
    &["history"],
    &["list"],
    &["show"],
    &["show", "@:x"],
    &["path"],
    &["diff", "@", "@"],
    &["tag", "v1"],
    &["tag", "-d", "v1"],
    &["verify"],
    &["verify", "@"],
    &["verify", "--repair"],
    &["export", "--all"],
    &["import", "-"],
    &["exec", "--", "true"],
    &["manager"],
    &["supervisor"],
    &["holder"],
];

/// Every command that takes a REF, given this one.
fn every_with(reference: &str) -> Vec<Vec<String>> {
    let file = format!("{reference}:x");
    let mut commands = vec![
        vec!["activate", reference],
        vec!["activate", "--dry-run", reference],
        vec!["activate", "--pointer-only", reference],
        vec!["rollback", reference],
        vec!["show", reference],
        vec!["show", &file],
        vec!["path", reference],
        vec!["diff", reference, "./good"],
        vec!["diff", "./good", reference],
        vec!["tag", "v9", reference],
        vec!["verify", reference],
        vec!["export", reference, "-o", "x.tar"],
        vec!["exec", reference, "--", "true"],
    ];
    if reference.contains('/') {
        commands.retain(|words| words[0] != "diff"); // it is a path there
    } else {
        commands.push(vec!["check", reference]);
    }
    commands.into_iter().map(|words| words.into_iter().map(str::to_owned).collect()).collect()
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// A store with `good` in force, which is the directory `good` with the file `x`.
fn store() -> (Sandbox, String) {
    let sandbox = Sandbox::new();
    sandbox.write("good/x", "x\n");
    sandbox.run(&["deploy", "good"], 0);
    let id = sandbox.current().unwrap();
    (sandbox, id)
}

fn snapshot(sandbox: &Sandbox) -> String {
    if sandbox.path("store").is_dir() { sandbox.snapshot() } else { String::new() }
}

/// Insists that stderr holds one error that says all this, and what to do.
fn one_error(text: &str, says: &[&str]) {
    let errors = text.lines().filter(|l| l.starts_with("pointsman: ") || l.starts_with("error: ")).count();
    assert_eq!(errors, 1, "not one error:\n{text}");
    for say in says {
        assert!(text.contains(say), "{say:?} is not in:\n{text}");
    }
    assert!(text.contains("; ") || text.contains("--help"), "no next step in:\n{text}");
    assert!(!text.contains("panicked"), "{text}");
}

/// Runs a command that has to fail so, as text and as JSON; the store is as before.
fn fails(sandbox: &Sandbox, args: &[&str], code: i32, says: &[&str]) {
    let before = snapshot(sandbox);
    let text = sandbox.error(args, code);
    eprintln!("{args:?} [{code}]: {}", text.trim_end());
    one_error(&text, says);
    let object = sandbox.json(args, code);
    assert_eq!(object["exit"], code, "{args:?}: {object}");
    let error = object["error"].as_str().unwrap();
    says.iter().for_each(|say| assert!(error.contains(say), "{say:?} is not in {error:?}"));
    assert_eq!(object.as_object().unwrap().len(), 2, "{object}");
    assert_eq!(snapshot(sandbox), before, "{args:?} has changed the store");
}

fn chmod(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(mode)).unwrap();
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn c1_used_wrongly_is_2() {
    let (sandbox, _) = store();
    let table: &[(&[&str], &str)] = &[
        (&["frobnicate"], "frobnicate"),
        (&["init", "--pipeline", "host"], "pushed"),
        (&["init", "extra"], "extra"),
        (&["push"], "<DIR|->"),
        (&["push", "good", "more"], "more"),
        (&["deploy"], "<DIR|->"),
        (&["deploy", "good", "--pointer-only"], "--pointer-only"),
        (&["activate"], "<REF>"),
        (&["activate", "@", "--nope"], "--nope"),
        (&["rollback", "@", "@"], "'@'"),
        (&["check"], "<DIR|REF>"),
        (&["status", "web"], "web"),
        (&["history", "-n", "many"], "many"),
        (&["list", "-n", "-1"], "-1"),
        (&["show", "@", "x"], "'x'"),
        (&["path", "@", "x"], "'x'"),
        (&["diff", "@"], "<B>"),
        (&["diff", "-", "-"], "one side"),
        (&["tag"], "<NAME>"),
        (&["tag", "-d", "v1", "@"], "--delete"),
        (&["tag", "-d"], "<NAME>"),
        (&["verify", "@", "x"], "'x'"),
        (&["verify", "--from", "x.tar"], "--repair"),
        (&["export"], "--all"),
        (&["export", "--all", "@"], "--all"),
        (&["import"], "<FILE|->"),
        (&["exec"], "<CMD>"),
        (&["exec", "@", "--"], "<CMD>"),
        (&["manager", "web"], "web"),
        (&["supervisor", "web"], "web"),
        (&["holder", "web"], "web"),
        (&["-s", "web", "list"], "--service"),
        // what only we can see to be wrong
        (&["push", "good", "--tag", "beef"], "`beef`"),
        (&["push", "good", "--tag", "a b"], "`a b`"),
        (&["deploy", "good", "--tag", "-"], "`-`"),
        (&["tag", "deadbeef"], "`deadbeef`"),
        (&["tag", "v/1"], "`v/1`"),
        (&["tag", "-d", "v/1"], "`v/1`"),
        (&["show", "@:../x"], "`../x`"),
        (&["show", "@:/x"], "`/x`"),
        (&["show", "@:"], "``"),
        (&["push", ""], "<DIR|->"),
        (&["deploy", ""], "<DIR|->"),
    ];
    for (args, says) in table {
        fails(&sandbox, args, 2, &[says]);
    }
}

#[test]
fn c1_without_a_command_it_helps_and_is_2() {
    let output = Command::new(PROGRAM).env_clear().output().unwrap();
    assert_eq!((output.status.code(), output.stdout.is_empty()), (Some(2), true));
    assert!(String::from_utf8(output.stderr).unwrap().contains("Usage: pointsman"));
}

#[test]
fn c1_what_is_no_store_is_2() {
    let (missing, empty, file, other) = (Sandbox::bare(), Sandbox::bare(), Sandbox::bare(), Sandbox::bare());
    std::fs::create_dir(empty.path("store")).unwrap();
    file.write("store", "not a directory\n");
    other.write("store/holiday.jpg", "not a store\n");
    for sandbox in [&missing, &empty, &file, &other] {
        sandbox.write("good/x", "x\n");
        let store = sandbox.path("store").display().to_string();
        for args in EVERY {
            fails(sandbox, args, 2, &[&store, "is no store", "`pointsman init`"]);
        }
    }
    fails(&other, &["init"], 7, &["holiday.jpg"]);
    fails(&file, &["init"], 1, &["/store: ", "give a directory"]);
    assert!(!missing.path("store").exists());
}

#[test]
fn c1_no_service_or_no_name_for_one_is_2() {
    let sandbox = Sandbox::bare();
    let run = |args: &[&str], name: Option<&str>| {
        let mut command = Command::new(PROGRAM);
        command.args(args).env_clear().current_dir(sandbox.path("")).stdin(Stdio::null());
        command.env("XDG_STATE_HOME", sandbox.path("")).envs(name.map(|name| ("POINTSMAN_SERVICE", name)));
        command.output().unwrap()
    };
    for args in EVERY.iter().filter(|args| ***args != ["status"]).chain([&&["init"][..]]) {
        let output = run(args, None);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.contains("POINTSMAN_SERVICE") && text.contains("--store"), "{text}");
        for name in ["Web", "../web", "a/b", "-web", "w w", "w\u{fc}b", &"w".repeat(33)] {
            let output = run(args, Some(name));
            assert_eq!((output.status.code(), output.stdout.len()), (Some(2), 0), "{args:?}: {output:?}");
            one_error(&String::from_utf8(output.stderr).unwrap().replace(": 1 to", "; 1 to"), &[name]);
        }
    }
}

#[test]
fn c1_a_path_that_is_not_there_is_1() {
    let (sandbox, _) = store();
    for command in ["push", "deploy", "check"] {
        for (path, says) in [
            ("./nowhere", "give a path that is there"),
            ("good/x", "give a directory"),
            ("/dev/null", "give a"),
        ] {
            let shown = path.trim_start_matches("./");
            fails(&sandbox, &[command, path], 1, &[shown, says]);
        }
    }
    fails(&sandbox, &["diff", "@", "./nowhere"], 1, &["nowhere", "give a path that is there"]);
    // what does not look like a path may be meant as one or as a REF
    fails(&sandbox, &["check", "nowhere"], 3, &["no file or directory `nowhere`", "not in the store"]);
    let started = ["exec", "--", "no-such-program"];
    fails(&sandbox, &started, 127, &["no-such-program"]);
    fails(&sandbox, &["exec", "--", "/etc/passwd"], 126, &["/etc/passwd"]);
}

#[test]
fn c1_what_may_not_be_read_is_1() {
    let sandbox = Sandbox::bare();
    let theirs = sandbox.path("theirs");
    std::fs::create_dir(&theirs).unwrap();
    let other = Other::new(&sandbox, &theirs);
    other.ok(&["init", "--pipeline", "pushed"]);
    for (name, what) in [("file", "x"), ("directory", "d")] {
        let source = theirs.join(name);
        std::fs::create_dir_all(source.join("d")).unwrap();
        std::fs::write(source.join("x"), "x\n").unwrap();
        chmod(source.join(what), 0);
    }
    let closed = theirs.join("closed");
    std::fs::create_dir(&closed).unwrap();
    chmod(&closed, 0);
    for command in ["push", "deploy", "check"] {
        other.fails(&[command, "file"], 1, &["cannot push x", "give this user the right", "denied"]);
        other.fails(&[command, "directory"], 1, &["cannot push d", "give this user the right", "denied"]);
        other.fails(&[command, "./closed"], 1, &["closed", "denied", "as a user who may"]);
    }
    // the host file that cannot be read is not taken for one that is not there
    chmod(theirs.join("store/host.yaml"), 0);
    std::fs::create_dir(theirs.join("good")).unwrap();
    for args in [&["push", "good"][..], &["deploy", "good"], &["check", "good"], &["manager"]] {
        other.fails(args, 1, &["host.yaml", "denied", "as a user who may"]);
    }
    for path in [closed, theirs.join("directory/d")] {
        chmod(path, 0o755);
    }
}

#[test]
fn c1_a_store_of_another_user_is_read_only() {
    if !is_root() {
        return eprintln!("skipped: only root can make a store that another user may not write in");
    }
    let (sandbox, id) = store();
    let other = Other::new(&sandbox, &sandbox.path(""));
    let writes: &[&[&str]] = &[
        &["init"],
        &["push", "good"],
        &["deploy", "good"],
        &["activate", "@"],
        &["rollback", "@"],
        &["check", "good"],
        &["tag", "v1"],
        &["tag", "-d", "v1"],
        &["import", "-"],
        &["verify", "--repair"],
        &["manager"],
        &["supervisor"],
        &["holder"],
    ];
    for args in writes {
        other.fails(args, 7, &["belongs to uid 0", "use sudo"]);
    }
    let reads: &[&[&str]] = &[
        &["status"],
        &["list"],
        &["history"],
        &["show"],
        &["show", "@:x"],
        &["path"],
        &["exec", "--", "true"],
    ];
    for args in reads {
        other.ok(args);
    }
    assert_eq!(sandbox.current(), Some(id));
}

#[test]
fn c1_no_such_generation_is_3() {
    let (sandbox, id) = store();
    let zeros = "0".repeat(64);
    let almost = format!("{}{}", &id[..63], if id.ends_with('0') { '1' } else { '0' });
    for reference in
        ["nope", "v1.2", "00000000", &zeros, &almost, "@-9", "@-0", "@x", "abc", "a/b", "", "A B"]
    {
        for args in every_with(reference).iter().filter(|args| !args.iter().any(|word| word.starts_with(':')))
        {
            fails(&sandbox, &words(args), 3, &[reference]);
        }
    }
    fails(&sandbox, &["tag", "-d", "nope"], 3, &["`nope`", "pointsman list"]);
    fails(&sandbox, &["show", "@:nope"], 3, &["nope", "pointsman show"]);
    fails(&sandbox, &["rollback"], 3, &["no good generation", "pointsman history"]);
    let fresh = Sandbox::new();
    fresh.write("good/x", "x\n");
    for args in every_with("@") {
        fails(&fresh, &words(&args), 3, &["nothing is in force", "pointsman activate"]);
    }
}

#[test]
fn c5_an_ambiguous_prefix_is_3_and_names_what_it_could_be() {
    let (sandbox, _) = store();
    // two contents whose ids begin alike, found by writing manifests as rule S2 says
    let id = |text: &str| {
        let hash = blake3::hash(text.as_bytes());
        let manifest = format!("pointsman-manifest 1\nfile public {} {hash} x\n", text.len());
        blake3::hash(manifest.as_bytes()).to_string()
    };
    let mut seen = HashMap::new();
    let (one, two) = (0..)
        .map(|n: u32| format!("{n}\n"))
        .find_map(|text| seen.insert(id(&text)[..4].to_owned(), text.clone()).map(|other| (other, text)))
        .unwrap();
    for text in [&one, &two] {
        sandbox.write("twin/x", text);
        assert_eq!(sandbox.run(&["push", "twin"], 0), id(text));
    }
    let (one, two) = (id(&one), id(&two));
    let prefix = &one[..4];
    for args in every_with(prefix) {
        fails(&sandbox, &words(&args), 3, &[prefix, &one[..8], &two[..8], "more digits"]);
    }
    assert_eq!(
        sandbox.run(&["path", &one[..12]], 0),
        sandbox.path("store").join(format!("generations/{one}/tree")).display().to_string()
    );
}

/// Runs a system tool that prepares bad input.
fn tool(program: &str, args: &[&str], path: &Path) -> bool {
    Command::new(program).args(args).arg(path).status().is_ok_and(|status| status.success())
}

#[test]
fn c1_content_that_may_not_enter_is_7() {
    let (sandbox, _) = store();
    let make = |name: &str| {
        sandbox.write(&format!("{name}/x"), "x\n");
        sandbox.path(name)
    };
    let mut cases: Vec<(&str, &str)> = Vec::new();
    symlink("/etc/passwd", make("absolute").join("out")).unwrap();
    cases.push(("absolute", "cannot push out: the link leads out of the directory, to /etc/passwd"));
    sandbox.run(&["check", "--copy-links", "absolute"], 0);
    symlink("../../etc/passwd", make("climbing").join("out")).unwrap();
    cases.push(("climbing", "cannot push out: the link leads out of the directory, to ../../etc/passwd"));
    std::fs::create_dir(make("hidden").join("d")).unwrap();
    symlink("d/..", sandbox.path("hidden/up")).unwrap();
    symlink("up/../y", sandbox.path("hidden/way")).unwrap();
    cases.push(("hidden", "cannot push way: the link leads out by way of other links"));
    assert!(tool("mkfifo", &[], &make("fifo").join("f")));
    cases.push(("fifo", "cannot push f: it is a device, socket or fifo"));
    let socket = std::os::unix::net::UnixListener::bind(make("socket").join("s")).unwrap();
    cases.push(("socket", "cannot push s: it is a device, socket or fifo"));
    chmod(make("setuid").join("x"), 0o4755);
    cases.push(("setuid", "cannot push x: it has a setuid"));
    std::fs::write(make("control").join("a\nb"), "").unwrap();
    cases.push(("control", "a\\nb: it has a control character; rename it"));
    std::fs::write(make("latin").join(std::ffi::OsStr::from_bytes(b"w\xfcb")), "").unwrap();
    cases.push(("latin", "it is not UTF-8; rename it"));
    cases.push(("store", "it is the store itself"));
    match Command::new("mknod").arg(make("device").join("null")).args(["c", "1", "3"]).status() {
        Ok(status) if status.success() => {
            cases.push(("device", "cannot push null: it is a device, socket or fifo"));
        }
        _ => eprintln!("skipped: a device node, which needs the right to make one"),
    }
    for (source, says) in cases {
        for command in ["push", "deploy", "check"] {
            fails(&sandbox, &[command, &format!("./{source}")], 7, &[says]);
        }
    }
    drop(socket);
}

/// Documents that no pipeline is, where the error is, and what it says.
const DOCUMENTS: &[(&[u8], &str, &str)] = &[
    (b"version: 1\nworker: [\n", ":3:1", "not YAML"),
    (b"version: 1\nversion: 1\n", ":2:1: version", "once"),
    (b"version: 1\nwrker: {command: true}\n", ":2:1: wrker", "unknown key"),
    (
        b"version: 1\nworker: {command: \"true\", redy: notify}\n",
        ":2:27: worker.redy",
        "did you mean `ready`?",
    ),
    (b"version: 2\n", ":1:10: version", "found 2"),
    (b"version: &one 1\n", ":1:10", "anchor"),
    (b"version: 1\ncheck: [cat, \"{conf}\"]\n", ":2:14: check[1]", "{conf}"),
    (
        b"version: 1\nworker: {command: \"true\", start_timeout: soon}\n",
        ":2:42: worker.start_timeout",
        "soon",
    ),
    (b"\xff\xfe\n", ":1:1", "UTF-8"),
];

#[test]
fn c1_a_pushed_pipeline_that_cannot_be_read_is_7() {
    let (sandbox, _) = store();
    for (text, place, says) in DOCUMENTS {
        std::fs::write(sandbox.path("good/pointsman.yaml"), text).unwrap();
        let place = format!("/good/pointsman.yaml{place}");
        for command in ["push", "deploy", "check"] {
            fails(&sandbox, &[command, "good"], 7, &[&place, says, "correct it there"]);
        }
    }
    let pipeline = sandbox.path("good/pointsman.yaml");
    let no_file = |what: &str| {
        for command in ["push", "deploy", "check"] {
            fails(&sandbox, &[command, "good"], 7, &["cannot push pointsman.yaml: ", what]);
        }
    };
    std::fs::write(&pipeline, vec![b'#'; 2 << 20]).unwrap();
    no_file("larger than 1048576 bytes");
    std::fs::remove_file(&pipeline).unwrap();
    symlink("x", &pipeline).unwrap();
    no_file("no regular file");
    std::fs::remove_file(&pipeline).unwrap();
    std::fs::create_dir(&pipeline).unwrap();
    no_file("no regular file");
}

#[test]
fn c1_a_host_file_that_cannot_be_read_is_7_and_starts_nothing() {
    let (sandbox, id) = store();
    let commands: &[&[&str]] = &[
        &["push", "good"],
        &["deploy", "good"],
        &["activate", &id],
        &["activate", "--dry-run", &id],
        &["activate", "--pointer-only", &id],
        &["rollback", &id],
        &["check", "good"],
        &["check", &id],
        &["exec", "--", "true"],
        &["manager"],
        &["init", "--pipeline", "pushed"],
    ];
    for (text, place, says) in [
        ("pipeline: pushd\n", ":1:11: pipeline", "pushd"),
        ("pipeline: pushed\npipeline: pushed\n", ":2:1: pipeline", "once"),
        ("pipline: pushed\n", ":1:1: pipline", "did you mean `pipeline`?"),
        ("pipeline: {version: 1, worker: {}}\n", ":1:32", "command"),
        ("pipeline: [\n", ":2:1", "not YAML"),
    ] {
        sandbox.write("store/host.yaml", text);
        for args in commands {
            fails(&sandbox, args, 7, &[&format!("/store/host.yaml{place}"), says, "correct it there"]);
        }
    }
    std::fs::remove_file(sandbox.path("store/host.yaml")).unwrap();
    assert!(tool("mkfifo", &[], &sandbox.path("store/host.yaml")));
    let text = sandbox.error(&["push", "good"], 7);
    one_error(&text, &["host.yaml is no regular file"]);
    std::fs::remove_file(sandbox.path("store/host.yaml")).unwrap();
    sandbox.write("store/host.yaml", "pipeline: {version: 1}\n");
    fails(
        &sandbox,
        &["init", "--pipeline", "pushed"],
        7,
        &["host.yaml is there already", "pipeline: pushed"],
    );
    assert!(sandbox.processes().is_empty(), "no supervisor is left behind");
}

#[test]
fn c1_a_pipeline_in_the_store_that_cannot_be_read_is_7() {
    // pushed while the host's own counted, so nobody has looked at it
    let sandbox = Sandbox::new();
    sandbox.write("store/host.yaml", "pipeline: {version: 1}\n");
    sandbox.write("good/pointsman.yaml", "version: 3\n");
    let id = sandbox.run(&["push", "good"], 0);
    sandbox.write("store/host.yaml", "pipeline: pushed\n");
    let place = format!("{}:pointsman.yaml:1:10: version", &id[..8]);
    for args in [&["check", &id][..], &["exec", &id, "--", "true"], &["activate", "--dry-run", &id]] {
        fails(&sandbox, args, 7, &[&place, "correct it there"]);
    }
    // for an activation it is the verdict, and kept
    one_error(&sandbox.error(&["activate", &id], 7), &["refused (preflight)", &place]);
    assert_eq!(sandbox.json(&["activate", &id], 7)["verdict"], "refused");
    assert_eq!(sandbox.current(), None);
}

#[test]
fn c1_a_damaged_manifest_is_4() {
    let (sandbox, id) = store();
    let path = sandbox.path(&format!("store/generations/{id}/manifest"));
    let mut bytes = std::fs::read(&path).unwrap();
    bytes[30] ^= 1;
    chmod(&path, 0o644);
    std::fs::write(&path, bytes).unwrap();
    let named = format!("generations/{id}/manifest");
    for args in every_with(&id) {
        match &*args[0] {
            "path" | "tag" | "verify" => {} // the first two read nothing; verify is below
            _ => fails(&sandbox, &words(&args), 4, &[&named, "pointsman verify"]),
        }
    }
    verify_finds(&sandbox, &[], &named);
    verify_finds(&sandbox, &[&id], &named);
    assert_eq!(sandbox.run(&["list"], 0).lines().count(), 1, "it is listed all the same");
    // and the next step that verify tells does help
    assert_eq!(sandbox.run(&["push", "good"], 0), id);
    sandbox.run(&["verify"], 0);
}

/// `verify` prints what is damaged, as its result.
fn verify_finds(sandbox: &Sandbox, reference: &[&str], path: &str) {
    let args = [&["verify"], reference].concat();
    let output = sandbox.output(&args, 4);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(out.lines().any(|line| line.starts_with(&format!("{path}: "))), "{out}");
    one_error(&err, &["damaged"]);
    let object = sandbox.json(&args, 4);
    assert_eq!(object["ok"], false);
    assert!(object["damage"].as_array().unwrap().iter().any(|damage| damage["path"] == path), "{object}");
}

#[test]
fn c1_damaged_content_is_4() {
    let (sandbox, id) = store();
    let named = format!("generations/{id}/tree/x");
    let path = sandbox.path("store").join(&named);
    chmod(&path, 0o644);
    std::fs::write(&path, "y\n").unwrap();
    verify_finds(&sandbox, &[], &named);
    fails(&sandbox, &["check", &id], 4, &[&named]);
    fails(&sandbox, &["show", "@:x"], 4, &[&named]);
    sandbox.write("good/x", "z\n");
    sandbox.run(&["deploy", "good"], 0);
    // an activation finds it when it reads everything again: that is its verdict, and kept
    let current = sandbox.current();
    for args in [&["activate", &id][..], &["activate", "--pointer-only", &id], &["rollback", &id]] {
        one_error(&sandbox.error(args, 4), &["refused (preflight)", &named, "push the same content again"]);
        assert_eq!(sandbox.json(args, 4)["verdict"], "refused");
    }
    assert_eq!(sandbox.current(), current);
}

#[test]
fn c1_a_damaged_pointer_is_4() {
    let (sandbox, id) = store();
    let current = sandbox.path("store/current");
    let commands: Vec<Vec<String>> = every_with("@").into_iter().chain(every_with(&id)).collect();
    let damages: &[&dyn Fn()] = &[
        &|| std::fs::write(&current, "not a link\n").unwrap(),
        &|| symlink("/etc", &current).unwrap(),
        &|| symlink(format!("generations/{}/tree", "0".repeat(64)), &current).unwrap(),
    ];
    for damage in damages {
        std::fs::remove_file(&current).unwrap();
        damage();
        for args in &commands {
            // what does not ask for the pointer can do without
            let reads_it =
                args.iter().any(|word| word.starts_with('@')) || matches!(&*args[0], "activate" | "rollback");
            if reads_it {
                fails(&sandbox, &words(args), 4, &["current"]);
            }
        }
        for args in [&["deploy", "good"][..], &["rollback"], &["status"], &["manager"]] {
            fails(&sandbox, args, 4, &["current"]);
        }
        verify_finds(&sandbox, &[], "current");
        sandbox.run(&["list"], 0);
        sandbox.run(&["push", "good"], 0);
    }
    assert!(sandbox.processes().is_empty(), "no supervisor is left behind");
    // the next step that the errors tell
    std::fs::remove_file(&current).unwrap();
    sandbox.run(&["activate", &id], 0);
    assert_eq!(sandbox.current(), Some(id));
}

#[test]
fn c1_an_unknown_format_is_4_for_every_command() {
    let (sandbox, _) = store();
    for text in ["pointsman-store 9\n", "", "\u{7}\n"] {
        sandbox.write("store/format", text);
        for args in EVERY.iter().chain([&&["init"][..]]) {
            fails(&sandbox, args, 4, &["/store has layout", "use the one that wrote it"]);
        }
    }
}

#[test]
fn c1_damaged_records_are_4_where_they_are_read() {
    let (sandbox, id) = store();
    sandbox.run(&["tag", "v1"], 0);
    let tag = sandbox.path("store/tags/v1");
    let whole = std::fs::read(&tag).unwrap();
    std::fs::write(&tag, "v1\n").unwrap();
    for args in every_with("v1").iter().filter(|args| args[0] != "verify") {
        fails(&sandbox, &words(args), 4, &["tags/v1", "pointsman verify"]);
    }
    fails(&sandbox, &["list"], 4, &["tags/v1"]);
    verify_finds(&sandbox, &[], "tags/v1");
    std::fs::write(&tag, whole).unwrap();

    let outcome = sandbox.path("store/events/1.outcome.json");
    let whole = std::fs::read(&outcome).unwrap();
    std::fs::remove_file(&outcome).unwrap();
    std::fs::write(&outcome, "{\n").unwrap();
    fails(&sandbox, &["status"], 4, &["events/1.outcome.json"]);
    verify_finds(&sandbox, &[], "events/1.outcome.json");
    std::fs::write(&outcome, whole).unwrap();

    for part in ["events", "tags", "tmp"] {
        std::fs::rename(sandbox.path(&format!("store/{part}")), sandbox.path("aside")).unwrap();
        let args: &[&str] = if part == "tmp" { &["push", "good"] } else { &["list"] };
        fails(&sandbox, args, 4, &[part, "pointsman init"]);
        verify_finds(&sandbox, &[], part);
        sandbox.run(&["init"], 0);
        std::fs::remove_dir(sandbox.path(&format!("store/{part}"))).unwrap();
        std::fs::rename(sandbox.path("aside"), sandbox.path(&format!("store/{part}"))).unwrap();
    }
    sandbox.run(&["verify"], 0);
    assert_eq!(sandbox.current(), Some(id));
}

#[test]
fn c1_a_torn_history_is_no_damage() {
    let (sandbox, _) = store();
    let (list, history) = (sandbox.run(&["list"], 0), sandbox.run(&["history"], 0));
    let path = sandbox.path("store/history");
    let whole = std::fs::read(&path).unwrap();
    std::fs::write(&path, &whole[..whole.len() - 20]).unwrap();
    assert_eq!((sandbox.run(&["list"], 0), sandbox.run(&["history"], 0)), (list.clone(), history.clone()));
    sandbox.run(&["verify"], 0);
    // the next line goes where the last sound one ends
    sandbox.write("good/y", "y\n");
    let id = sandbox.run(&["push", "good"], 0);
    let now = sandbox.run(&["list"], 0);
    assert!(now.lines().next().unwrap().contains(&id[..12]) && now.ends_with(&list), "{now}");
    assert_eq!(sandbox.run(&["history"], 0), history);
}

#[test]
fn c1_a_second_daemon_is_5() {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    let run = sandbox.path("store/run").display().to_string();
    for daemon in ["supervisor", "holder"] {
        fails(&sandbox, &[daemon], 5, &[&run, "already: process"]);
        fails(&sandbox, &[daemon, "--run", &run], 5, &[&run, "already"]);
    }
}

#[test]
fn c1_without_a_supervisor_is_5() {
    let (sandbox, _) = store();
    sandbox.write("served/pointsman.yaml", "version: 1\nworker: {command: sleep 60, ready: {after: 1ms}}\n");
    let id = sandbox.run(&["push", "served"], 0);
    for args in [&["activate", &id][..], &["rollback", &id], &["deploy", "served"]] {
        let before = sandbox.snapshot();
        one_error(&sandbox.error(args, 5), &["supervisor", "pointsman manager", "--pointer-only"]);
        assert_eq!(sandbox.snapshot(), before);
    }
}

#[test]
fn c1_no_right_to_mount_is_7() {
    let (sandbox, _) = store();
    let target = sandbox.path("etc");
    std::fs::create_dir(&target).unwrap();
    sandbox.write(
        "mounted/pointsman.yaml",
        &format!("version: 1\nmount: {}\ncheck: \"true\"\n", target.display()),
    );
    let id = sandbox.run(&["push", "mounted"], 0);
    // in a user namespace that may have no mount namespaces
    let denied = "echo 0 > /proc/sys/user/max_mnt_namespaces || exit 99; exec \"$@\"";
    let run = |args: &[&str]| {
        let mut command = Command::new("unshare");
        command.args(["-U", "-r", "sh", "-c", denied, "sh", PROGRAM, "--store"]).arg(sandbox.path("store"));
        command.args(args).current_dir(sandbox.path("")).stdin(Stdio::null()).output()
    };
    let may_try = run(&["list"]).is_ok_and(|output| output.status.success());
    let denies = Command::new("unshare")
        .args(["-U", "-r", "sh", "-c", denied, "sh", "unshare", "-m", "true"])
        .output()
        .is_ok_and(|output| !output.status.success());
    if !may_try || !denies {
        return eprintln!("skipped: this machine does not let us take the right to mount away");
    }
    let mount = target.display().to_string();
    for args in [&["check", "mounted"][..], &["check", &id], &["exec", &id, "--", "true"]] {
        let before = sandbox.snapshot();
        let output = run(args).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(7), 0), "{args:?}: {output:?}");
        one_error(
            &String::from_utf8(output.stderr).unwrap(),
            &["cannot make a mount namespace", "needs root"],
        );
        assert_eq!(sandbox.snapshot(), before);
    }
    let current = sandbox.current();
    for args in [&["activate", &id][..], &["rollback", &id], &["deploy", "mounted"]] {
        let output = run(args).unwrap();
        assert_eq!((output.status.code(), output.stdout.len()), (Some(7), 0), "{args:?}: {output:?}");
        let text = String::from_utf8(output.stderr).unwrap();
        one_error(&text, &["refused (preflight)", &mount, "cannot make a mount namespace", "needs root"]);
        let output = run(&[&["--json"], args].concat()).unwrap();
        let outcome: Value = serde_json::from_slice(&output.stdout).unwrap();
        assert_eq!((&outcome["verdict"], &outcome["stage"]), (&"refused".into(), &"preflight".into()));
        assert_eq!(outcome["changed"], false);
        assert_eq!(sandbox.current(), current);
    }
    // where it may, it does
    if is_root() {
        sandbox.run(&["activate", &id], 0);
    }
}

#[test]
fn c2_results_go_to_stdout_and_talk_to_stderr() {
    let sandbox = Sandbox::new();
    sandbox.write("good/x", "x\n");
    sandbox.write("good/pointsman.yaml", "version: 1\ncheck: \"true\"\n");
    let silent = |args: &[&str]| {
        let output = sandbox.output(args, 0);
        assert!(output.stderr.is_empty(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let id = silent(&["push", "good"]);
    assert!(id.len() == 65 && id.ends_with('\n'), "push prints the id alone: {id}");
    let id = id.trim_end();
    let output = sandbox.output(&["deploy", "good"], 0);
    let (out, err) = (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap());
    assert!(out.starts_with("event 1: good") && out.contains(&format!("in force: {id}\n")), "{out}");
    assert!(err.starts_with(&format!("pushed {id}\n")) && err.contains("preflight"), "{err}");
    let again = sandbox.output(&["push", "good", "-m", "why"], 0);
    assert_eq!(again.stdout, format!("{id}\n").as_bytes());
    assert!(
        String::from_utf8(again.stderr).unwrap().contains("its first message"),
        "a message is not lost unsaid"
    );
    assert_eq!(silent(&["show", "@:x"]), "x\n");
    assert_eq!(silent(&["exec", "--", "cat", "{config}/x"]), "x\n");
    assert_eq!(silent(&["exec", "--", "awk", "{print $1}{}", "{config}/x"]), "x\n", "other braces are CMD's");
    assert_eq!(
        silent(&["path", &id[..8]]),
        format!(
            "{}/store/generations/{id}/tree\n",
            sandbox.path("").display().to_string().trim_end_matches('/')
        )
    );
    assert_eq!(silent(&["tag", "v1"]), format!("v1 -> {id}\n"));
    assert_eq!(silent(&["list"]).lines().count(), 1);
    assert_eq!(silent(&["history", "-n", "0"]), "");
    assert_eq!(silent(&["verify"]), "ok\n");
    assert!(silent(&["show"]).contains("2 entries, 27 bytes"), "{}", silent(&["show"]));
    assert!(silent(&["status"]).contains(id));
    assert_eq!(silent(&["tag", "-d", "v1"]), format!("v1 is no tag any more (it was {id})\n"));
    // a check that fails is no result
    sandbox.write("bad/pointsman.yaml", "version: 1\ncheck: [sh, -c, echo no cheese >&2; exit 3]\n");
    let text = sandbox.error(&["check", "bad"], 1);
    assert!(text.contains("status 3") && text.contains("no cheese"), "{text}");
    assert_eq!(sandbox.json(&["check", "bad"], 1)["ok"], false);
    let text = sandbox.error(&["deploy", "bad"], 1);
    one_error(&text, &["failed (canary)", "no cheese", &format!("in force: {id}, as before")]);
    // the status of what exec becomes is the exit code
    sandbox.run(&["exec", "--", "sh", "-c", "exit 42"], 42);
}

#[test]
fn c2_a_reader_that_goes_away_is_fine_and_a_full_disk_is_not() {
    let (sandbox, id) = store();
    let commands: &[&[&str]] =
        &[&["list"], &["history"], &["status"], &["show"], &["show", "@:x"], &["push", "good"], &["--help"]];
    for args in commands {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = sandbox.command(args).stdout(writer).stderr(Stdio::piped()).output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{args:?}: {output:?}");
        if args[0] != "--help" {
            let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
            let output = sandbox.command(args).stdout(full).stderr(Stdio::piped()).output().unwrap();
            assert_eq!(output.status.code(), Some(1), "{args:?}");
            one_error(&String::from_utf8(output.stderr).unwrap(), &["cannot write the result"]);
        }
    }
    // nobody listens at all: the work is done
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    sandbox.write("good/y", "y\n");
    let output = sandbox
        .command(&["deploy", "good"])
        .stderr(writer.try_clone().unwrap())
        .stdout(writer)
        .output()
        .unwrap();
    assert_eq!(output.status.code(), Some(0));
    assert_ne!(sandbox.current(), Some(id));
}

#[test]
fn c3_every_command_explains_itself() {
    let help = |args: &[&str]| {
        let output = Command::new(PROGRAM).args(args).arg("--help").env_clear().output().unwrap();
        assert_eq!((output.status.code(), output.stderr.len()), (Some(0), 0), "{args:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let all = help(&[]);
    let mut commands: Vec<&str> = EVERY.iter().map(|args| args[0]).chain(["init"]).collect();
    commands.sort_unstable();
    commands.dedup();
    for command in commands {
        let text = help(&[command]);
        let summary = text.lines().next().unwrap();
        assert!((10..=80).contains(&summary.len()), "{command}: {summary}");
        assert!(all.contains(&format!("  {command} ")), "{command} is not in the list");
        assert!(
            text.contains("Usage: pointsman") && text.lines().all(|line| line.chars().count() <= 100),
            "{text}"
        );
    }
    assert!((1..=7).all(|code| all.contains(&format!("  {code}  "))), "the exit codes: {all}");
}

#[test]
fn c4_every_json_is_one_object_with_its_fields() {
    let sandbox = Sandbox::bare();
    let has = |args: &[&str], fields: &[&str]| {
        let object = sandbox.json(args, 0);
        let mut there: Vec<&str> = object.as_object().unwrap().keys().map(String::as_str).collect();
        let mut wanted = fields.to_vec();
        there.sort_unstable();
        wanted.sort_unstable();
        assert_eq!(there, wanted, "{args:?}");
        object
    };
    let outcome = [
        "event", "request", "verdict", "changed", "stage", "reason", "target", "serving", "steps", "at",
        "machine",
    ];
    let plan = [
        "note",
        "request",
        "target",
        "from",
        "back",
        "pointer_only",
        "steps",
        "slots",
        "finishes",
        "in_place",
        "confirm",
    ];
    has(&["init", "--pipeline", "pushed"], &["store", "run", "host_file"]);
    sandbox.write("good/x", "x\n");
    sandbox.write("good/bin", "\u{0}");
    std::fs::write(sandbox.path("good/bin"), b"\xff").unwrap();
    sandbox.write("good/pointsman.yaml", "version: 1\ncheck: \"true\"\n");
    let pushed = has(&["push", "good", "-m", "why"], &["id", "changed", "repaired", "entries", "bytes"]);
    let id = pushed["id"].as_str().unwrap();
    assert_eq!((&pushed["changed"], &pushed["entries"]), (&true.into(), &3.into()));
    has(&["activate", "--dry-run", id], &plan);
    let deployed = has(&["deploy", "good"], &outcome);
    assert_eq!((&deployed["verdict"], &deployed["serving"]), (&"good".into(), &id.into()));
    assert_eq!(deployed["steps"][0]["step"], "preflight");
    assert_eq!(has(&["activate", "@"], &outcome)["verdict"], "unchanged");
    assert_eq!(has(&["rollback", "--pointer-only", "@"], &outcome)["event"], 3);
    assert_eq!(
        has(&["check", "good"], &["ok", "ran", "reason", "note"])["ran"],
        serde_json::json!(["`true`"])
    );
    has(&["check", "@"], &["ok", "ran", "reason", "note"]);
    let status = [
        "service",
        "store",
        "current",
        "push",
        "last_good",
        "external",
        "frozen",
        "stopped",
        "unconfirmed",
        "manager",
        "watchdog",
        "service_manager",
        "supervisor",
        "activation",
        "last",
        "workers",
        "advice",
    ];
    assert_eq!(has(&["status"], &status)["push"]["message"], "why");
    let history = has(&["history"], &["events"]);
    assert_eq!(history["events"][0]["number"], 3);
    assert_eq!(has(&["history", "-n", "1"], &["events"])["events"].as_array().unwrap().len(), 1);
    let tagged = has(&["tag", "v1"], &["tag", "id", "was"]);
    assert_eq!((&tagged["id"], &tagged["was"]), (&id.into(), &Value::Null));
    let list = has(&["list"], &["generations"]);
    let listed: Vec<&String> = list["generations"][0].as_object().unwrap().keys().collect();
    assert_eq!(listed, ["at", "by", "current", "good", "id", "message", "parent", "rejected", "tags"]);
    has(&["freeze"], &["frozen"]);
    has(&["thaw"], &["frozen", "was", "changed"]);
    assert_eq!(has(&["show"], &["id", "push", "tags", "entries"])["tags"][0], "v1");
    let file = has(&["show", "@:x"], &["id", "path", "bytes", "text"]);
    assert_eq!((&file["bytes"], &file["text"]), (&2.into(), &"x\n".into()));
    assert_eq!(has(&["show", "v1:bin"], &["id", "path", "bytes", "text"])["text"], Value::Null);
    assert_eq!(has(&["diff", "@", "./good"], &["same", "files"])["same"], true);
    has(&["path"], &["id", "path"]);
    has(&["export", "@", "-o", "x.tar"], &["file", "generations", "tags", "outcomes", "bytes"]);
    let import = ["origin", "new", "there", "repaired", "tags", "kept", "outcomes", "next"];
    assert_eq!(has(&["import", "x.tar"], &import)["there"][0], id);
    assert_eq!(has(&["verify"], &["ok", "damage"])["ok"], true);
    assert_eq!(has(&["verify", "--repair"], &["ok", "damage", "repaired"])["ok"], true);
    assert_eq!(has(&["tag", "-d", "v1"], &["tag", "id", "was"])["was"], id);
    assert!(has(&["init"], &["store", "run", "host_file"])["run"].is_string());
}

#[test]
fn c6_a_usage_error_is_json_only_where_json_is_asked_of_us() {
    let (sandbox, _) = store();
    let output = sandbox.output(&["exec", "--", "sh", "-c", "echo $0", "--json"], 0);
    assert_eq!(output.stdout, b"--json\n");
    let text = sandbox.error(&["exec", "@", "true", "--", "--json"], 2);
    assert!(text.starts_with("error: "), "{text}");
}

/// Runs the program as another user than root, in a directory that is theirs.
struct Other<'a> {
    sandbox: &'a Sandbox,
    dir: PathBuf,
    program: PathBuf,
}

const NOBODY: u32 = 65534;

impl<'a> Other<'a> {
    fn new(sandbox: &'a Sandbox, dir: &Path) -> Other<'a> {
        let (dir, mut program) = (dir.to_owned(), PathBuf::from(PROGRAM));
        if is_root() {
            chmod(sandbox.path(""), 0o755);
            if dir != sandbox.path("") {
                std::os::unix::fs::chown(&dir, Some(NOBODY), Some(NOBODY)).unwrap();
            }
            // the build directory need not be theirs to read
            program = sandbox.path("program");
            if std::fs::hard_link(PROGRAM, &program).is_err() {
                std::fs::copy(PROGRAM, &program).unwrap();
            }
        }
        Other { sandbox, dir, program }
    }

    fn raw(&self, args: &[&str], env: &[(&str, &Path)]) -> Output {
        // everything that a test has made there meanwhile becomes theirs
        if is_root() && self.dir != self.sandbox.path("") {
            assert!(tool("chown", &["-R", "--no-dereference", "65534:65534"], &self.dir));
        }
        let mut command = match is_root() {
            true => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid=65534", "--regid=65534", "--clear-groups"]).arg(&self.program);
                command
            }
            false => Command::new(&self.program),
        };
        command
            .args(args)
            .current_dir(&self.dir)
            .env_clear()
            .env("PATH", "/usr/bin:/bin")
            .stdin(Stdio::null());
        command.envs(env.iter().copied()).output().unwrap()
    }

    fn output(&self, args: &[&str]) -> Output {
        let store = self.dir.join("store").display().to_string();
        self.raw(&[&["--store", &store], args].concat(), &[])
    }

    fn ok(&self, args: &[&str]) -> String {
        let output = self.output(args);
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        String::from_utf8(output.stdout).unwrap()
    }

    fn fails(&self, args: &[&str], code: i32, says: &[&str]) {
        let before = tree(&self.dir.join("store"));
        let output = self.output(args);
        assert_eq!((output.status.code(), output.stdout.len()), (Some(code), 0), "{args:?}: {output:?}");
        one_error(&String::from_utf8(output.stderr).unwrap(), says);
        assert_eq!(tree(&self.dir.join("store")), before, "{args:?} has changed the store");
    }
}

/// Every path in the store but its run directory.
fn tree(dir: &Path) -> String {
    let output =
        Command::new("find").arg(dir).args(["-path", "*/run/*", "-o", "-printf", "%p %m %s %l\n"]).output();
    String::from_utf8(output.unwrap().stdout).unwrap()
}

#[test]
fn c7_named_services_of_an_ordinary_user() {
    let sandbox = Sandbox::bare();
    let home = sandbox.path("home");
    std::fs::create_dir(&home).unwrap();
    let other = Other::new(&sandbox, &home);
    let (state, config) = (home.join("state"), home.join("config"));
    let env: &[(&str, &Path)] = &[("XDG_STATE_HOME", &state), ("XDG_CONFIG_HOME", &config), ("HOME", &home)];
    let run = |args: &[&str], env: &[(&str, &Path)], code: i32| {
        let output = other.raw(args, env);
        assert_eq!(output.status.code(), Some(code), "{args:?}: {output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let (out, err) = run(&["status"], env, 0);
    assert!(out.is_empty() && err.contains("pointsman -s NAME init"), "{out}{err}");
    let (out, err) = run(&["-s", "web", "init", "--pipeline", "pushed"], env, 0);
    assert!(
        out.contains("/home/state/pointsman/web is a store") && out.contains("pointsman -s web deploy"),
        "{out}"
    );
    assert!(err.is_empty(), "{err}");
    assert_eq!(
        std::fs::read_to_string(config.join("pointsman/web.yaml")).unwrap().lines().last(),
        Some("pipeline: pushed")
    );
    run(&["-s", "web", "init", "--pipeline", "pushed"], env, 0);
    std::fs::create_dir(home.join("good")).unwrap();
    std::fs::write(home.join("good/x"), "x\n").unwrap();
    let named = [env, &[("POINTSMAN_SERVICE", Path::new("web"))]].concat();
    run(&["deploy", "good"], &named, 0);
    run(&["-s", "dns", "init"], &named, 0);
    let (out, _) = run(&["status"], env, 0);
    assert!(out.contains("service    web (") && out.contains("service    dns ("), "{out}");
    let (out, _) = run(&["-s", "dns", "list"], &named, 0);
    assert!(out.is_empty(), "the flag counts, not the environment: {out}");
    // without XDG_STATE_HOME it is in HOME
    run(&["-s", "web", "init"], &[("HOME", &home)], 0);
    assert!(home.join(".local/state/pointsman/web/format").exists());
    let (_, err) = run(&["-s", "web", "list"], &[], 2);
    assert!(err.contains("HOME") && err.contains("--store"), "{err}");
    // a broken one hides none of the others
    std::fs::write(state.join("pointsman/dns/format"), "pointsman-store 9\n").unwrap();
    let (out, err) = run(&["status"], env, 4);
    assert!(out.contains("service    web (") && err.starts_with("pointsman: dns: "), "{out}{err}");
    let (out, _) = run(&["status", "--json"], env, 4);
    let services = serde_json::from_str::<Value>(&out).unwrap()["services"].clone();
    assert_eq!((&services[0]["service"], &services[0]["exit"]), (&"dns".into(), &4.into()));
    assert_eq!(services[1]["service"], "web");
}

/// A service of this machine, for root; gone with the test.
struct Named(String);

impl Named {
    fn paths(&self) -> [PathBuf; 3] {
        let name = &self.0;
        [
            format!("/var/lib/pointsman/{name}").into(),
            format!("/run/pointsman/{name}").into(),
            format!("/etc/pointsman/{name}.yaml").into(),
        ]
    }
}

impl Drop for Named {
    fn drop(&mut self) {
        for path in self.paths() {
            let _ = if path.is_dir() { std::fs::remove_dir_all(&path) } else { std::fs::remove_file(&path) };
            // ours, unless another service is there
            let _ = std::fs::remove_dir(path.parent().unwrap());
        }
    }
}

#[test]
fn c7_a_named_service_of_root_lets_no_push_choose_what_runs() {
    if !is_root() {
        return eprintln!("skipped: only root has services in /var/lib/pointsman");
    }
    let named = Named(format!("pmtest-{}", std::process::id()));
    let [store, run_dir, host] = named.paths();
    let sandbox = Sandbox::bare();
    let touched = sandbox.path("touched");
    sandbox.write(
        "good/pointsman.yaml",
        &format!(
            "version: 1\ncheck: [touch, {0}]\nworker: {{command: [touch, {0}], ready: {{after: 1ms}}}}\n",
            touched.display()
        ),
    );
    let run = |args: &[&str], env: &[(&str, &str)]| {
        let mut command = Command::new(PROGRAM);
        command.args(args).env_clear().envs(env.iter().copied()).current_dir(sandbox.path(""));
        let output = command.env("PATH", "/usr/bin:/bin").stdin(Stdio::null()).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{args:?}: {output:?}");
        (String::from_utf8(output.stdout).unwrap(), String::from_utf8(output.stderr).unwrap())
    };
    let host = host.display().to_string();
    let (out, err) = run(&["-s", &named.0, "init"], &[]);
    assert!(out.contains(&format!("{} is a store", store.display())) && run_dir.is_dir(), "{out}");
    assert!(err.contains("does not count") && err.contains(&host), "{err}");
    let env: &[(&str, &str)] = &[("POINTSMAN_SERVICE", &named.0)];
    let (id, err) = run(&["push", "good"], env);
    assert!(err.contains("pointsman.yaml does not count") && err.contains(&host), "{err}");
    let (_, err) = run(&["check", "good"], env);
    assert!(err.contains("does not count"), "{err}");
    let (_, err) = run(&["activate", "--dry-run", id.trim()], env);
    assert!(err.contains("does not count"), "{err}");
    let (out, _) = run(&["activate", id.trim()], env);
    assert!(out.contains("is in force; pointsman.yaml does not count"), "{out}");
    assert!(!touched.exists(), "nothing that was pushed has run");
    let (out, _) = run(&["--json", "history"], env);
    let history: Value = serde_json::from_str(&out).unwrap();
    assert!(history["events"][0]["end"]["reason"].as_str().unwrap().contains("does not count"), "{history}");
    // what the host says counts
    run(&["-s", &named.0, "init", "--pipeline", "pushed"], &[]);
    let (_, err) = run(&["check", "good"], env);
    assert!(!err.contains("does not count") && touched.exists(), "{err}");
    let (out, _) = run(&["status"], env);
    assert!(out.starts_with(&format!("service    {} (", named.0)), "{out}");
}

#[test]
fn c4_metadata_of_a_push_is_kept_and_shown() {
    let sandbox = Sandbox::new();
    sandbox.write("one/x", "x\n");
    let id = sandbox.run(&["push", "one", "--meta", "commit=3f9a", "--meta", "ci.url=http://x/?a=b"], 0);
    sandbox.run(&["activate", &id], 0);
    for command in ["show", "status"] {
        let text = sandbox.run(&[command], 0);
        assert!(text.contains("commit=3f9a") && text.contains("ci.url=http://x/?a=b"), "{text}");
        assert_eq!(sandbox.json(&[command], 0)["push"]["meta"]["commit"], "3f9a");
    }
    let error = sandbox.error(&["push", "one", "--meta", "commit"], 2);
    assert!(error.contains("KEY=VALUE"), "{error}");
    let error = sandbox.error(&["push", "one", "--meta", "a=1", "--meta", "a=2"], 2);
    assert!(error.contains("--meta a is given twice"), "{error}");
}
