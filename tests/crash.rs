//! Killed at every write, rename, link, unlink, sync and directory call in turn, and refused the disk there:
//! the next command finds the store whole. Rule S18 of `spec/store.md`.
//!
//! An untouched run under strace enumerates the points, then strace injects a fault at each of them.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{PROGRAM, Sandbox};

/// Every call that changes something.
const CALLS: &str = "write,pwrite64,writev,rename,renameat,renameat2,link,linkat,unlink,unlinkat,rmdir,mkdir,mkdirat,\
                     symlink,symlinkat,fsync,fdatasync,syncfs,ftruncate,fallocate,fchmod,fchmodat";

/// The `n`th time that a thread of the command makes this call.
#[derive(Clone, Debug)]
struct Point {
    call: String,
    n: usize,
    /// whether the threads that the command starts count, too; strace counts for each of them alone
    threads: bool,
}

/// A store to start each case from, and the command whose calls are swept.
struct Sweep<'a> {
    sandbox: Sandbox,
    /// arguments of the swept command
    args: Vec<String>,
    /// the file that it reads from its standard input
    stdin: Option<&'a str>,
    /// whether the store is damaged before, and may be so until the command has done its work
    damaged: bool,
    /// what must hold afterwards, besides what always must
    holds: &'a dyn Fn(&Sandbox),
}

impl Sweep<'_> {
    /// A copy of the template store as the sandbox's store.
    fn fresh(&self) {
        let _ = std::fs::remove_dir_all(self.sandbox.path("store"));
        copy(&self.sandbox.path("template"), &self.sandbox.path("store"));
    }

    fn strace(&self, how: &[String], threads: bool) -> (Output, String) {
        let log = self.sandbox.path("strace.log");
        let mut command = Command::new("strace");
        command.arg("-o").arg(&log).args(threads.then_some("-f")).args(how);
        command.arg(PROGRAM).arg("--store").arg(self.sandbox.path("store")).args(&self.args);
        let output = command.current_dir(self.sandbox.path("")).stdin(self.stdin()).output().unwrap();
        (output, std::fs::read_to_string(log).unwrap())
    }

    fn stdin(&self) -> Stdio {
        match self.stdin {
            Some(file) => std::fs::File::open(self.sandbox.path(file)).unwrap().into(),
            None => Stdio::null(),
        }
    }

    /// Every point that the untouched command comes by: its first thread's, and where others make a call more
    /// often, theirs.
    fn points(&self) -> Vec<Point> {
        let alone = self.counts(false);
        let together = self.counts(true);
        let mut points = Vec::new();
        for (call, most) in &together {
            let first = alone.get(call).copied().unwrap_or_default();
            points.extend((1..=first).map(|n| Point { call: call.clone(), n, threads: false }));
            points.extend((first + 1..=*most).map(|n| Point { call: call.clone(), n, threads: true }));
        }
        points
    }

    /// How often each call is made by the thread that makes it most often.
    fn counts(&self, threads: bool) -> BTreeMap<String, usize> {
        self.fresh();
        let (output, log) = self.strace(&[format!("--trace={CALLS}")], threads);
        assert!(output.status.success(), "{output:?}");
        let mut counts = BTreeMap::<(&str, &str), usize>::new();
        for line in log.lines() {
            let (thread, line) = if threads { line.split_once(' ').unwrap() } else { ("", line) };
            let call = line.trim_start().split_once('(').map_or("", |(call, _)| call);
            if call.bytes().all(|b| b.is_ascii_alphanumeric()) {
                *counts.entry((call, thread)).or_default() += 1;
            }
        }
        let mut most = BTreeMap::new();
        for ((call, _), count) in counts.into_iter().filter(|((call, _), _)| !call.is_empty()) {
            let entry = most.entry(call.to_owned()).or_insert(0);
            *entry = count.max(*entry);
        }
        most
    }

    /// Runs the command with `fault` at `point`, which it must reach.
    fn with_fault(&self, fault: &str, point: &Point) -> Output {
        self.fresh();
        let Point { call, n, threads } = point;
        let how = [format!("--trace={CALLS}"), format!("--inject={call}:{fault}:when={n}")];
        let (output, log) = self.strace(&how, *threads);
        // others' data on this machine may make the same command flush the other way the next time
        let other_way = matches!(call.as_str(), "syncfs" | "fsync");
        assert!(
            log.contains("(INJECTED)") || log.contains("killed by SIGKILL") || other_way,
            "{point:?} was not reached: {log}"
        );
        output
    }

    /// What must hold after a fault at `point`.
    fn whole(&self, point: &Point) {
        let sandbox = &self.sandbox;
        if !self.damaged {
            assert_eq!(sandbox.run(&["verify"], 0), "ok", "{point:?}");
        }
        let args: Vec<&str> = self.args.iter().map(String::as_str).collect();
        let again = sandbox.command(&args).stdin(self.stdin()).output().unwrap();
        assert!(again.status.success(), "{point:?}: the same command again: {again:?}");
        assert_eq!(sandbox.run(&["verify"], 0), "ok", "{point:?}");
        let tmp = std::fs::read_dir(sandbox.path("store/tmp")).unwrap();
        let left: Vec<_> = tmp.map(|entry| entry.unwrap().file_name()).collect();
        let kept = |name: &std::ffi::OsString| name == "undo" || name == "reserve";
        assert!(left.iter().all(kept), "{point:?}: staging is left: {left:?}");
        (self.holds)(sandbox);
    }

    /// Lets the command fail at `point` with `error`.
    fn refuse(&self, point: &Point, error: &str, says: &str) {
        let output = self.with_fault(&format!("error={error}"), point);
        let said = String::from_utf8_lossy(&output.stderr) + String::from_utf8_lossy(&output.stdout);
        match output.status.code() {
            Some(0) => {} // it could do without
            // the output itself may be what cannot be written
            Some(1) => assert!(said.contains(says) || point.call == "write", "{point:?}: {output:?}"),
            code => panic!("{point:?}: exit {code:?}: {output:?}"),
        }
    }

    fn all(&self, name: &str) {
        let points = self.points();
        for point in &points {
            self.with_fault("signal=SIGKILL", point);
            self.whole(point);
            self.refuse(point, "ENOSPC", "No space left on device");
            self.whole(point);
            self.refuse(point, "EIO", "Input/output error");
            self.whole(point);
        }
        eprintln!(
            "{name}: {} points, each killed, out of space and broken: {} cases",
            points.len(),
            points.len() * 3
        );
        assert!(points.len() > 5, "{name} does nothing: {points:?}");
    }
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// A sandbox whose template store holds two generations of a few files, the first in force.
fn template() -> (Sandbox, String, String) {
    let sandbox = Sandbox::new();
    for (name, text) in [("one", "1"), ("two", "2")] {
        for file in ["a", "b", "d/c", "d/e/f"] {
            sandbox.write(&format!("{name}/{file}"), &format!("{file}\n"));
        }
        sandbox.write(&format!("{name}/changes"), text);
        std::os::unix::fs::symlink("a", sandbox.path(&format!("{name}/link"))).unwrap();
    }
    let one = sandbox.run(&["push", "one"], 0);
    sandbox.run(&["activate", &one], 0);
    let two = sandbox.run(&["push", "two"], 0);
    (sandbox, one, two)
}

/// Makes the store as it is the one that each case begins with.
fn sweep<'a>(sandbox: Sandbox, args: &[&str], holds: &'a dyn Fn(&Sandbox)) -> Sweep<'a> {
    std::fs::rename(sandbox.path("store"), sandbox.path("template")).unwrap();
    Sweep {
        sandbox,
        args: args.iter().map(ToString::to_string).collect(),
        stdin: None,
        damaged: false,
        holds,
    }
}

/// The generations that the list shows.
fn listed(sandbox: &Sandbox) -> Vec<String> {
    let list = sandbox.json(&["list"], 0);
    let ids = list["generations"].as_array().unwrap().iter().map(|g| g["id"].as_str().unwrap().to_owned());
    ids.collect()
}

/// Every event has one verdict.
fn verdicts(sandbox: &Sandbox) -> Vec<String> {
    let history = sandbox.json(&["history"], 0);
    let events = history["events"].as_array().unwrap();
    events.iter().map(|event| event["end"]["verdict"].as_str().expect("a verdict").to_owned()).collect()
}

#[test]
fn s18_push_survives_a_fault_at_every_call() {
    let (sandbox, one, two) = template();
    sandbox.write("three/a", "a\n");
    sandbox.write("three/changes", "3");
    // more than the first thread writes and makes, so that the builder's calls have points of their own
    for n in 0..8 {
        sandbox.write(&format!("three/d{n}/new"), &format!("{n}"));
    }
    let holds = |sandbox: &Sandbox| {
        let listed = listed(sandbox);
        assert!(listed.len() == 3 && listed.contains(&one) && listed.contains(&two), "{listed:?}");
        assert_eq!(sandbox.current().as_ref(), Some(&one));
    };
    sweep(sandbox, &["push", "three"], &holds).all("push");
}

#[test]
fn s18_push_of_a_stream_survives_a_fault_at_every_call() {
    let (sandbox, one, two) = template();
    for file in ["a", "changes", "d/new", "d/e/f"] {
        sandbox.write(&format!("three/{file}"), &format!("{file}\n"));
    }
    std::os::unix::fs::symlink("a", sandbox.path("three/link")).unwrap();
    let mut tar = Command::new("tar");
    tar.arg("-cf").arg(sandbox.path("three.tar")).arg("-C").arg(sandbox.path("three")).arg(".");
    assert!(tar.status().unwrap().success());
    let holds = |sandbox: &Sandbox| {
        let listed = listed(sandbox);
        assert!(listed.len() == 3 && listed.contains(&one) && listed.contains(&two), "{listed:?}");
    };
    Sweep { stdin: Some("three.tar"), ..sweep(sandbox, &["push", "-"], &holds) }.all("push -");
}

#[test]
fn s18_push_again_survives_a_fault_at_every_call() {
    let (sandbox, one, two) = template();
    let holds = |sandbox: &Sandbox| assert_eq!(listed(sandbox), [two.clone(), one.clone()]);
    sweep(sandbox, &["push", "two"], &holds).all("push again");
}

#[test]
fn s18_activate_survives_a_fault_at_every_call() {
    let (sandbox, _, two) = template();
    let holds = |sandbox: &Sandbox| {
        assert_eq!(sandbox.current().as_ref(), Some(&two));
        verdicts(sandbox);
    };
    sweep(sandbox, &["activate", &two], &holds).all("activate");
}

#[test]
fn s18_rollback_survives_a_fault_at_every_call() {
    let (sandbox, one, two) = template();
    sandbox.run(&["activate", &two], 0);
    let holds = |sandbox: &Sandbox| {
        assert_eq!(sandbox.current().as_ref(), Some(&one));
        verdicts(sandbox);
    };
    sweep(sandbox, &["rollback", &one], &holds).all("rollback");
}

#[test]
fn s18_import_survives_a_fault_at_every_call() {
    // what comes: a generation that is there, one that shares with it, a tag, two verdicts
    let (origin, one, two) = template();
    origin.write("two/d/new", "new");
    let three = origin.run(&["push", "two", "--tag", "v3"], 0);
    origin.run(&["activate", &three], 0);
    let (sandbox, ..) = template();
    origin.run(&["export", &one, &three, "-o", &sandbox.path("some.tar").display().to_string()], 0);
    let holds = |sandbox: &Sandbox| {
        let listed = listed(sandbox);
        assert!(listed.len() == 3 && [&one, &two, &three].iter().all(|id| listed.contains(id)), "{listed:?}");
        assert_eq!(sandbox.current().as_ref(), Some(&one));
        assert_eq!(sandbox.json(&["path", "v3"], 0)["id"], three.as_str());
        assert_eq!(verdicts(sandbox), ["good"; 3], "each came once");
        assert_eq!(sandbox.status()["activation"], serde_json::Value::Null);
    };
    sweep(sandbox, &["import", "some.tar"], &holds).all("import");
}

#[test]
fn s18_repair_survives_a_fault_at_every_call() {
    let (sandbox, one, two) = template();
    // a third one has the content under other paths
    sandbox.write("three/f", "d/e/f\n");
    sandbox.write("three/two", "2");
    let three = sandbox.run(&["push", "three"], 0);
    // one file that both share, one of the second's own, the history in the middle
    let damage = |path: String, text: &str| {
        let path = sandbox.path(&path);
        let mode = std::fs::metadata(&path).unwrap().permissions();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, mode).unwrap();
    };
    damage(format!("store/generations/{one}/tree/d/e/f"), "rotten");
    damage(format!("store/generations/{two}/tree/changes"), "9");
    let history = std::fs::read_to_string(sandbox.path("store/history")).unwrap();
    damage("store/history".to_owned(), &history.replacen("push", "pusk", 1));
    let holds = |sandbox: &Sandbox| {
        let listed = listed(sandbox);
        assert!(listed.len() == 3 && [&one, &two, &three].iter().all(|id| listed.contains(id)), "{listed:?}");
        assert_eq!(sandbox.current().as_ref(), Some(&one));
        assert_eq!(verdicts(sandbox), ["good"]);
        assert_eq!(sandbox.run(&["show", &format!("{one}:d/e/f")], 0), "d/e/f");
        assert_eq!(sandbox.run(&["show", &format!("{two}:changes")], 0), "2");
    };
    let sweep = sweep(sandbox, &["verify", "--repair"], &holds);
    Sweep { damaged: true, ..sweep }.all("verify --repair");
}

#[test]
fn s18_tag_survives_a_fault_at_every_call() {
    let (sandbox, _, two) = template();
    sandbox.run(&["tag", "stable", "@"], 0);
    let holds = |sandbox: &Sandbox| {
        let tagged = sandbox.json(&["show", "stable"], 0);
        assert_eq!(tagged["id"], two.as_str());
    };
    sweep(sandbox, &["tag", "stable", &two], &holds).all("tag");
}

/// A template with two generations that nothing keeps.
fn two_victims() -> (Sandbox, String) {
    let (sandbox, one, two) = template();
    sandbox.write("three/a", "a\n");
    sandbox.write("three/changes", "3");
    sandbox.run(&["push", "three"], 0);
    sandbox.write("store/host.yaml", "keep_pushed: 0s\n");
    assert_ne!(one, two);
    (sandbox, one)
}

#[test]
fn s18_gc_survives_a_fault_at_every_call() {
    let (sandbox, one) = two_victims();
    let holds = |sandbox: &Sandbox| {
        assert_eq!(listed(sandbox), std::slice::from_ref(&one));
        assert_eq!(sandbox.current().as_ref(), Some(&one));
    };
    sweep(sandbox, &["gc"], &holds).all("gc");
}

#[test]
fn s18_activate_that_collects_survives_a_fault_at_every_call() {
    let (sandbox, _, two) = template();
    sandbox.run(&["activate", &two], 0);
    sandbox.write("three/changes", "3");
    let three = sandbox.run(&["push", "three"], 0);
    sandbox.write("store/host.yaml", "keep: 2\nkeep_days: 0\n");
    let holds = |sandbox: &Sandbox| {
        assert_eq!(sandbox.current().as_ref(), Some(&three));
        // what was not collected for a fault is collected after the next good activation, or by hand
        sandbox.run(&["gc"], 0);
        assert_eq!(listed(sandbox), [three.clone(), two.clone()]);
        verdicts(sandbox);
    };
    sweep(sandbox, &["activate", &three], &holds).all("activate and gc");
}
