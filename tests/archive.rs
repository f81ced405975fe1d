//! `push -`: a tar stream becomes the same generation as the directory that it was made of, and a hostile one
//! becomes none. Rule S19 of `spec/store.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::io::Write as _;
use std::process::{Command, Output, Stdio};

use common::Sandbox;
use tar::{Builder, EntryType, Header};

/// Pushes this stream.
fn push(sandbox: &Sandbox, stream: &[u8]) -> Output {
    let mut command = sandbox.command(&["push", "-"]);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // a refusal may come before the stream has been read
    let _ = stdin.write_all(stream);
    drop(stdin);
    child.wait_with_output().unwrap()
}

fn id(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).unwrap().trim().to_owned()
}

/// The stream that tar makes of a directory of the sandbox.
fn tar(sandbox: &Sandbox, dir: &str, format: &str) -> Vec<u8> {
    let output =
        Command::new("tar").args(["-c", format, "-C"]).arg(sandbox.path(dir)).arg(".").output().unwrap();
    assert!(output.status.success(), "{output:?}");
    output.stdout
}

/// One entry of a crafted archive: kind, name, link target, mode, content.
type Crafted<'a> = (EntryType, &'a str, &'a str, u32, &'a [u8]);

fn craft(entries: &[Crafted<'_>]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, target, mode, content) in entries {
        let mut header = Header::new_gnu();
        header.set_entry_type(*kind);
        header.set_mode(*mode);
        header.set_size(content.len() as u64);
        // by hand: the library refuses to write what a hostile archive holds
        header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
        header.as_old_mut().linkname[..target.len()].copy_from_slice(target.as_bytes());
        header.set_cksum();
        builder.append(&header, *content).unwrap();
    }
    builder.into_inner().unwrap()
}

const FILE: EntryType = EntryType::Regular;
const LINK: EntryType = EntryType::Symlink;
const HARD: EntryType = EntryType::Link;
const DIR: EntryType = EntryType::Directory;

#[test]
fn s19_a_stream_gives_the_id_of_its_directory() {
    let sandbox = Sandbox::new();
    sandbox.write("conf/pointsman.yaml", "version: 1\nmount: /etc/thing\ncheck: \"true\"\n");
    sandbox.write(&format!("conf/{}/deep", "d".repeat(200)), "a name for an extension header\n");
    sandbox.write("conf/big", &"0123456789abcdef".repeat(200_000));
    sandbox.write("conf/empty", "");
    let secret = sandbox.write("conf/private/key", "secret");
    std::fs::set_permissions(secret.parent().unwrap(), std::os::unix::fs::PermissionsExt::from_mode(0o700))
        .unwrap();
    std::os::unix::fs::symlink("/etc/thing/big", sandbox.path("conf/absolute")).unwrap();
    std::os::unix::fs::symlink("big", sandbox.path("conf/relative")).unwrap();
    std::fs::hard_link(sandbox.path("conf/big"), sandbox.path("conf/second")).unwrap();
    let by_stream: Vec<String> = ["--format=gnu", "--format=posix"]
        .map(|format| id(&push(&sandbox, &tar(&sandbox, "conf", format))))
        .into();
    let by_directory = sandbox.run(&["push", "conf"], 0);
    assert_eq!(by_stream, [by_directory.clone(), by_directory.clone()]);
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    assert_eq!(sandbox.run(&["show", &format!("{by_directory}:private/key")], 0), "secret");
    // what did not change is linked to the parent, from a stream too
    sandbox.write("conf/more", "more");
    let next = id(&push(&sandbox, &tar(&sandbox, "conf", "--format=gnu")));
    let inode = |id: &str| {
        let meta = std::fs::metadata(sandbox.path(&format!("store/generations/{id}/tree/big"))).unwrap();
        std::os::unix::fs::MetadataExt::ino(&meta)
    };
    assert_eq!(inode(&next), inode(&by_directory));
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
}

#[test]
fn s19_a_hostile_stream_is_refused_by_name_and_leaves_nothing() {
    let sandbox = Sandbox::new();
    let cases: &[(&str, &[Crafted<'_>], &str)] = &[
        ("a way up", &[(FILE, "../evil", "", 0o644, b"x")], "../evil"),
        ("a way up inside", &[(FILE, "a/../../evil", "", 0o644, b"x")], "a/../../evil"),
        ("an absolute name", &[(FILE, "/etc/evil", "", 0o644, b"x")], "/etc/evil"),
        ("a control character", &[(FILE, "a\nb", "", 0o644, b"x")], "a\\nb"),
        ("a link out", &[(LINK, "l", "/tmp", 0o777, b"")], "/tmp"),
        (
            "a link up",
            &[(LINK, "l", "..", 0o777, b"")],
            "leads out of the archive, to ..; make it relative, or have tar",
        ),
        ("through a link", &[(LINK, "l", "d", 0o777, b""), (FILE, "l/evil", "", 0o644, b"x")], "l"),
        (
            "out by links",
            &[
                (DIR, "a/", "", 0o755, b""),
                (LINK, "a/up", "..", 0o777, b""),
                (LINK, "x", "a/up/../y", 0o777, b""),
            ],
            "x",
        ),
        (
            "a link replaced",
            &[(FILE, "a", "", 0o644, b"x"), (LINK, "a", "b", 0o777, b"")],
            "a: it is there twice",
        ),
        ("a file as a directory", &[(FILE, "a", "", 0o644, b"x"), (FILE, "a/b", "", 0o644, b"x")], "twice"),
        ("a hard link out", &[(HARD, "h", "/etc/passwd", 0o644, b"")], "/etc/passwd"),
        ("a hard link to a link", &[(LINK, "l", "f", 0o777, b""), (HARD, "h", "l", 0o644, b"")], "h"),
        ("a hard link ahead", &[(HARD, "h", "later", 0o644, b""), (FILE, "later", "", 0o644, b"x")], "later"),
        ("a device", &[(EntryType::Char, "d", "", 0o644, b"")], "d: it is a device"),
        ("a fifo", &[(EntryType::Fifo, "p", "", 0o644, b"")], "p: it is a device, socket or fifo"),
        ("setuid", &[(FILE, "s", "", 0o4755, b"x")], "s: it has a setuid"),
        ("sparse", &[(EntryType::GNUSparse, "s", "", 0o644, b"")], "sparse"),
        (
            "late rights",
            &[(FILE, "a/k", "", 0o644, b"x"), (DIR, "a/", "", 0o700, b"")],
            "a: its directory entry",
        ),
        (
            "a wrapped directory",
            &[(FILE, "conf/pointsman.yaml", "", 0o644, b"version: 1\n")],
            "make it with `tar c -C conf .`",
        ),
        (
            "a broken pipeline",
            &[(FILE, "pointsman.yaml", "", 0o644, b"version: 1\nchek: x\n")],
            "pointsman.yaml:2:1",
        ),
    ];
    let before = sandbox.snapshot();
    for (what, entries, says) in cases {
        let output = push(&sandbox, &craft(entries));
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(7), "{what}: {output:?}");
        assert!(said.contains(says), "{what}: {says:?} is not in {said}");
        assert!(output.stdout.is_empty(), "{what}");
    }
    assert_eq!(sandbox.snapshot(), before);
}

#[test]
fn s19_a_cut_or_broken_stream_is_no_generation() {
    let sandbox = Sandbox::new();
    sandbox.write("conf/a", "a\n");
    sandbox.write("conf/b", &"b".repeat(3_000));
    let whole = tar(&sandbox, "conf", "--format=gnu");
    let before = sandbox.snapshot();
    // the content of the archive ends well before its padding does
    let content = whole.iter().rposition(|byte| *byte != 0).unwrap().next_multiple_of(512);
    for end in (0..=content).step_by(256) {
        let output = push(&sandbox, &whole[..end]);
        assert_eq!(output.status.code(), Some(7), "cut at {end}: {output:?}");
    }
    let mut broken = whole.clone();
    broken[148] ^= 1;
    assert_eq!(push(&sandbox, &broken).status.code(), Some(7));
    assert_eq!(push(&sandbox, &[0xff; 4096]).status.code(), Some(7));
    // what the stream says never reaches a terminal as it is
    let mut colourful = whole.clone();
    colourful[148..154].copy_from_slice(b"\x1b[31m9");
    let output = push(&sandbox, &colourful);
    assert_eq!(output.status.code(), Some(7));
    let said = String::from_utf8(output.stderr).unwrap();
    assert!(said.contains("not a number") && !said.trim_end().contains(char::is_control), "{said:?}");
    assert_eq!(sandbox.snapshot(), before);
    id(&push(&sandbox, &whole));
}

#[test]
fn s19_an_extension_header_is_not_read_without_a_limit() {
    let sandbox = Sandbox::new();
    let before = sandbox.snapshot();
    let long = vec![b'a'; 1 << 20];
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongName, EntryType::GNULongLink]
    {
        let output =
            push(&sandbox, &craft(&[(kind, "bomb", "", 0o644, &long), (FILE, "f", "", 0o644, b"x")]));
        assert_eq!(output.status.code(), Some(7), "{kind:?}: {output:?}");
        assert!(String::from_utf8_lossy(&output.stderr).contains("extension header"), "{output:?}");
    }
    assert_eq!(sandbox.snapshot(), before);
    let deep = format!("{}f\0", "d/".repeat(70));
    let output = push(
        &sandbox,
        &craft(&[(EntryType::GNULongName, "x", "", 0o644, deep.as_bytes()), (FILE, "f", "", 0o644, b"x")]),
    );
    assert!(String::from_utf8_lossy(&output.stderr).contains("64 directories deep"), "{output:?}");
}
