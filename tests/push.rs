//! What a push costs in memory, and what a terminal shows of it. Rules S27 of `spec/store.md`, C2 of
//! `spec/cli.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::io::{Read as _, Write as _};
use std::process::{Command, Stdio};

use common::Sandbox;

/// Pushes with at most so many MiB of memory that is the process's own; more would end it.
fn push_within(sandbox: &Sandbox, mebibytes: u64, source: &str) -> String {
    let program = sandbox.command(&["push", source]);
    let mut command = Command::new("prlimit");
    command.arg(format!("--data={}", mebibytes << 20)).arg(program.get_program()).args(program.get_args());
    let output = command.current_dir(sandbox.path("")).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout).unwrap().trim().to_owned()
}

/// A file of so many MiB, pushed twice within `limit` MiB.
fn large(mebibytes: u64, limit: u64) {
    let sandbox = Sandbox::new();
    sandbox.write("conf/small", "small");
    // holes are read as zeros, and are written as such
    std::fs::File::create(sandbox.path("conf/large")).unwrap().set_len(mebibytes << 20).unwrap();
    push_within(&sandbox, limit, "conf");
    // and again, when it is hashed first and linked
    sandbox.write("conf/small", "other");
    push_within(&sandbox, limit, "conf");
}

/// So many hundred files, pushed within `limit` MiB; and again, with a parent of as many.
fn many(hundreds: usize, limit: u64) {
    let sandbox = Sandbox::new();
    for a in 0..hundreds {
        let dir = sandbox.path(&format!("conf/section-{a:03}"));
        std::fs::create_dir_all(&dir).unwrap();
        for b in 0..100 {
            std::fs::write(dir.join(format!("snippet-{b:02}.conf")), format!("{b}\n")).unwrap();
        }
    }
    push_within(&sandbox, limit, "conf");
    sandbox.write("conf/section-050/snippet-50.conf", "changed\n");
    push_within(&sandbox, limit, "conf");
}

#[test]
fn s27_a_large_file_is_pushed_in_little_memory() {
    large(128, 20);
}

#[test]
fn s27_many_files_are_pushed_in_little_memory() {
    many(200, 14);
}

#[test]
#[ignore = "1 GiB and 100,000 files: scripts/soak"]
fn s27_the_sizes_of_the_benchmark_are_pushed_in_little_memory() {
    large(1024, 32);
    many(1000, 64);
}

#[test]
fn c2_a_terminal_sees_how_far_a_push_is() {
    let sandbox = Sandbox::new();
    for name in ["a", "b"] {
        sandbox.write(&format!("conf/{name}"), name);
    }
    let mut tar = Command::new("tar");
    tar.args(["cf", "conf.tar", "-C", "conf", "."]).current_dir(sandbox.path(""));
    assert!(tar.status().unwrap().success());
    let archive = std::fs::read(sandbox.path("conf.tar")).unwrap();
    let fifo = sandbox.path("fifo");
    assert!(Command::new("mkfifo").arg(&fifo).status().unwrap().success());

    // a push on a terminal, from a pipe that goes on only when the terminal has shown something
    let push = sandbox.command(&["push", "-"]);
    let words = [push.get_program()].into_iter().chain(push.get_args());
    let line = words.map(|word| word.to_str().unwrap()).collect::<Vec<_>>().join(" ");
    let mut terminal = Command::new("script")
        .args(["-q", "-e", "-c", &format!("{line} < {}", fifo.display()), "/dev/null"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut pipe = std::fs::OpenOptions::new().write(true).open(&fifo).unwrap();
    // the directory, the head of the first file and its content
    pipe.write_all(&archive[..3 * 512]).unwrap();
    let mut shown = Vec::new();
    let mut output = terminal.stdout.take().unwrap();
    while !String::from_utf8_lossy(&shown).contains("reading: 1 entry") {
        let mut piece = [0; 256];
        let length = output.read(&mut piece).unwrap();
        assert!(length > 0, "it ended: {}", String::from_utf8_lossy(&shown));
        shown.extend(&piece[..length]);
    }
    pipe.write_all(&archive[3 * 512..]).unwrap();
    drop(pipe);
    output.read_to_end(&mut shown).unwrap();
    assert!(terminal.wait().unwrap().success());
    let shown = String::from_utf8(shown).unwrap();
    let id = shown.trim_end().rsplit_once("\x1b[K").unwrap().1;
    assert_eq!(id.lines().last().unwrap().len(), 64, "the line is taken away: {shown:?}");
    // and nothing of it where stderr is no terminal
    assert!(sandbox.output(&["push", "conf"], 0).stderr.is_empty());
}
