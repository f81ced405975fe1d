//! `export` and `import`: what comes out of one store comes whole into another, or not at all. Rule S23 of
//! `spec/store.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::io::Write as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;
use std::process::{Command, Output, Stdio};

use common::{PROGRAM, Sandbox};
use serde_json::Value;
use tar::{Builder, EntryType, Header};

/// A store with three generations, tags and verdicts, the second in force; the ids.
fn origin() -> (Sandbox, [String; 3]) {
    let sandbox = Sandbox::new();
    sandbox.write("conf/pointsman.yaml", "version: 1\ncheck: \"test ! -e {config}/bad\"\n");
    sandbox.write("conf/same", "the same in all\n");
    sandbox.write("conf/d/empty", "");
    sandbox.write(&format!("conf/{}/deep", "d".repeat(200)), "a name for an extension header\n");
    sandbox.write("conf/big", &"0123456789abcdef".repeat(70_000));
    for (name, mode) in [("conf/key", 0o600), ("conf/bin/run", 0o755), ("conf/bin/secret", 0o700)] {
        let path = sandbox.write(name, name);
        std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
    }
    symlink("same", sandbox.path("conf/link")).unwrap();
    symlink(format!("{}/deep", "d".repeat(200)), sandbox.path("conf/long")).unwrap();
    let mut ids = Vec::new();
    for n in ["1", "2", "3"] {
        sandbox.write("conf/changes", n);
        if n == "3" {
            sandbox.write("conf/bad", "");
        }
        ids.push(sandbox.run(&["push", "conf", "-m", &format!("change {n}"), "--tag", &format!("v{n}")], 0));
        sandbox.run(&["activate", ids.last().unwrap()], if n == "3" { 1 } else { 0 });
    }
    (sandbox, ids.try_into().unwrap())
}

fn export(sandbox: &Sandbox, args: &[&str]) -> Vec<u8> {
    sandbox.output(&[&["export"], args].concat(), 0).stdout
}

fn import(sandbox: &Sandbox, stream: &[u8]) -> Output {
    import_with(sandbox, stream, &["import", "-"])
}

fn import_with(sandbox: &Sandbox, stream: &[u8], args: &[&str]) -> Output {
    let mut command = sandbox.command(args);
    let mut child =
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut stdin = child.stdin.take().unwrap();
    // a refusal may come before the stream has been read
    let _ = stdin.write_all(stream);
    drop(stdin);
    child.wait_with_output().unwrap()
}

/// Imports, and gives the object.
fn imported(sandbox: &Sandbox, stream: &[u8]) -> Value {
    let output = import_with(sandbox, stream, &["--json", "import", "-"]);
    assert!(output.status.success(), "{output:?}");
    serde_json::from_slice(&output.stdout).unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

/// The inodes of all files in the generations, and the names that they have.
fn files(sandbox: &Sandbox) -> (usize, usize) {
    fn walk(dir: &Path, inodes: &mut BTreeSet<u64>, names: &mut usize) {
        for entry in std::fs::read_dir(dir).unwrap() {
            let (path, meta) = (entry.as_ref().unwrap().path(), entry.unwrap().metadata().unwrap());
            if meta.is_dir() {
                walk(&path, inodes, names);
            } else {
                inodes.insert(meta.ino());
                *names += 1;
            }
        }
    }
    let (mut inodes, mut names) = (BTreeSet::new(), 0);
    walk(&sandbox.path("store/generations"), &mut inodes, &mut names);
    (inodes.len(), names)
}

/// Everything about the generations but their inodes: paths, modes, contents.
fn generations(sandbox: &Sandbox) -> String {
    let root = sandbox.path("store").display().to_string();
    let lines = sandbox.snapshot().replace(&root, "");
    lines.lines().filter(|line| line.starts_with("/generations/")).collect::<Vec<_>>().join("\n")
}

#[test]
fn s23_everything_comes_into_an_empty_store_as_it_was() {
    let (from, [one, two, three]) = origin();
    let file = from.path("all.tar").display().to_string();
    let exported = from.json(&["export", "--all", "-o", &file], 0);
    assert_eq!((&exported["generations"], &exported["tags"]), (&3.into(), &3.into()));
    assert_eq!((&exported["outcomes"], &exported["file"]), (&3.into(), &file.as_str().into()));
    let bytes = std::fs::read(&file).unwrap();
    assert_eq!(exported["bytes"], bytes.len());
    assert_eq!(std::fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    assert_eq!(export(&from, &["--all"]), bytes, "the same store gives the same stream");

    let to = Sandbox::new();
    let report = to.json(&["import", &file], 0);
    assert_eq!(report["new"], serde_json::json!([one, two, three]));
    assert_eq!((&report["tags"], &report["outcomes"]), (&serde_json::json!(["v1", "v2", "v3"]), &3.into()));
    assert_eq!(report["origin"]["current"], two.as_str());
    assert_eq!(report["origin"]["store"], from.path("store").display().to_string());
    assert_eq!(report["next"], format!("pointsman activate {}", &two[..8]));
    assert_eq!(to.run(&["verify"], 0), "ok");
    assert_eq!(generations(&to), generations(&from), "content, modes and push records");
    assert_eq!(files(&to), files(&from), "what was shared is shared");
    for tag in ["v1", "v2", "v3"] {
        assert_eq!(to.json(&["path", tag], 0)["id"], from.json(&["path", tag], 0)["id"]);
    }
    // pushed then, not now
    let pushes = |sandbox: &Sandbox| {
        let mut list = sandbox.json(&["list"], 0)["generations"].take();
        for generation in list.as_array_mut().unwrap() {
            let generation = generation.as_object_mut().unwrap();
            generation.retain(|field, _| field != "current" && field != "good");
        }
        list
    };
    assert_eq!(pushes(&to), pushes(&from));
    assert_eq!(to.current(), None);
    // and it goes on from there
    to.write("conf/same", "the same in all\n");
    to.write("conf/more", "more");
    let next = to.run(&["push", "conf"], 0);
    let inode =
        |id: &str| std::fs::metadata(to.path(&format!("store/generations/{id}/tree/same"))).unwrap().ino();
    assert_eq!(inode(&next), inode(&three), "the next push shares with what was imported");
}

#[test]
fn s23_plain_tar_reads_it() {
    let (from, ids) = origin();
    from.run(&["export", "--all", "-o", "all.tar"], 0);
    let dir = from.path("by-tar");
    std::fs::create_dir(&dir).unwrap();
    let tar = Command::new("tar").arg("-xpf").arg(from.path("all.tar")).arg("-C").arg(&dir).output().unwrap();
    assert!(tar.status.success() && tar.stderr.is_empty(), "{tar:?}");
    assert_eq!(std::fs::read_to_string(dir.join("format")).unwrap(), "pointsman-export 1\n");
    let all: Value = serde_json::from_slice(&std::fs::read(dir.join("end")).unwrap()).unwrap();
    assert_eq!((&all["generations"], &all["tags"], &all["outcomes"]), (&3.into(), &3.into(), &3.into()));
    for id in &ids {
        let manifest = std::fs::read(dir.join(format!("generations/{id}/manifest"))).unwrap();
        assert_eq!(blake3::hash(&manifest).to_string(), *id);
    }
    let same = |part: &str| {
        let mut diff = Command::new("diff");
        diff.args(["-r", "--no-dereference"]).arg(dir.join(part)).arg(from.path(&format!("store/{part}")));
        let output = diff.output().unwrap();
        assert!(output.status.success(), "{output:?}");
    };
    same("generations");
    same("tags");
    let ino = |id: &str| std::fs::metadata(dir.join(format!("generations/{id}/tree/same"))).unwrap().ino();
    assert_eq!(ino(&ids[0]), ino(&ids[2]), "what was shared is a hard link");
}

#[test]
fn s23_some_generations_with_their_tags_and_verdicts() {
    let (from, [_, two, three]) = origin();
    let stream = export(&from, &["v2", &three]);
    let to = Sandbox::new();
    let report = imported(&to, &stream);
    assert_eq!(report["new"], serde_json::json!([two, three]));
    assert_eq!((&report["tags"], &report["outcomes"]), (&serde_json::json!(["v2", "v3"]), &2.into()));
    assert_eq!(to.run(&["verify"], 0), "ok");
    // what is not in force here, and is not in it, is no advice
    let report = imported(&Sandbox::new(), &export(&from, &["v1"]));
    assert_eq!((&report["origin"]["current"], &report["next"]), (&Value::Null, &Value::Null));
}

#[test]
fn s23_what_is_there_stays_and_what_differs_is_told() {
    let (from, [one, two, three]) = origin();
    let stream = export(&from, &["--all"]);
    let to = Sandbox::new();
    // the first generation is here already, pushed by somebody else
    let report = imported(&to, &export(&from, &["v1"]));
    assert_eq!(report["new"], serde_json::json!([one]));
    to.write("own/x", "x\n");
    let own = to.run(&["push", "own", "--tag", "v2x"], 0);
    to.run(&["tag", "v2", &own], 0);
    to.run(&["activate", &own], 0);
    let record = std::fs::read(to.path(&format!("store/generations/{one}/push.json"))).unwrap();
    let output = import(&to, &stream);
    assert!(output.status.success(), "{output:?}");
    assert_eq!(
        String::from_utf8_lossy(&output.stdout).trim(),
        "2 generations new, 1 there already, 1 tag, 2 verdicts"
    );
    let kept = format!(
        "tag v2 stays on {}; the export has it on {}; `pointsman tag v2 {}` moves it",
        &own[..8],
        &two[..8],
        &two[..8]
    );
    assert!(said(&output).contains(&kept), "{output:?}");
    assert!(said(&output).contains(&format!("`pointsman activate {}`", &two[..8])), "{output:?}");
    assert_eq!(to.json(&["path", "v2"], 0)["id"], own.as_str());
    assert_eq!(to.current().as_ref(), Some(&own));
    assert_eq!(std::fs::read(to.path(&format!("store/generations/{one}/push.json"))).unwrap(), record);
    let inode =
        |id: &str| std::fs::metadata(to.path(&format!("store/generations/{id}/tree/same"))).unwrap().ino();
    assert_eq!((inode(&two), inode(&three)), (inode(&one), inode(&one)), "shared with what was there");
    // a generation that comes alone shares with its parent, where that is here
    let other = Sandbox::new();
    imported(&other, &export(&from, &["v1"]));
    imported(&other, &export(&from, &["v2"]));
    assert_eq!(files(&other).1 - files(&other).0, 7, "all but the empty one and what changed");
    // again: nothing is done twice
    let before = to.snapshot();
    let again = imported(&to, &stream);
    assert_eq!(
        (&again["new"], &again["tags"], &again["outcomes"]),
        (&vec![""; 0].into(), &vec![""; 0].into(), &0.into())
    );
    assert_eq!(to.snapshot(), before);
    assert_eq!(to.run(&["verify"], 0), "ok");
}

#[test]
fn s23_a_damaged_generation_is_made_whole_by_an_import() {
    let (from, [one, two, three]) = origin();
    let stream = export(&from, &["--all"]);
    let damage = |rel: &str, text: &str| {
        let path = from.path(&format!("store/generations/{two}/{rel}"));
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
        std::fs::write(&path, text).unwrap();
    };
    // shared by all three, and one of its own
    damage("tree/same", "wrong");
    damage("manifest", "wrong");
    let report = imported(&from, &stream);
    assert_eq!(report["repaired"], serde_json::json!([one, two, three]));
    assert_eq!(from.run(&["verify"], 0), "ok");
    assert_eq!(from.current().as_ref(), Some(&two));
    let (inodes, names) = files(&from);
    let fresh = Sandbox::new();
    imported(&fresh, &stream);
    assert_eq!((inodes, names), files(&fresh));
}

#[test]
fn s23_imported_verdicts_prove_nothing_here() {
    let (from, [one, two, three]) = origin();
    let stream = export(&from, &["--all"]);
    let to = Sandbox::new();
    to.write("own/x", "x\n");
    let own = to.run(&["push", "own"], 0);
    to.run(&["activate", &own], 0);
    imported(&to, &stream);
    let list = to.json(&["list"], 0);
    for generation in list["generations"].as_array().unwrap() {
        assert_eq!(generation["good"], generation["id"] == own.as_str(), "{generation}");
    }
    to.error(&["show", "@-1"], 3);
    let status = to.status();
    assert_eq!((&status["last_good"], &status["last"]["event"]), (&own.as_str().into(), &1.into()));
    assert_eq!(status["activation"], Value::Null);
    // their numbers are ours, where they are from is said
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default().trim().to_owned();
    let history = to.json(&["history"], 0);
    let there = from.json(&["history"], 0);
    for (n, id) in [(1, &one), (2, &two), (3, &three)] {
        let (event, was) = (&history["events"][3 - n], &there["events"][3 - n]);
        assert_eq!((&event["number"], &event["target"]), (&(n + 1).into(), &id.as_str().into()));
        assert_eq!(event["imported"], serde_json::json!({ "machine": machine, "event": n }));
        for field in ["request", "asked", "by", "end"] {
            assert_eq!(event[field], was[field], "{field}");
        }
        assert!(!to.path(&format!("store/events/{}.json", n + 1)).exists());
    }
    assert!(to.run(&["history"], 0).contains("event 3 of"));
    // what is imported has to pass here, too: its checks run
    assert_eq!(to.json(&["activate", &three], 1)["verdict"], "failed");
    let good = to.json(&["activate", &two], 0);
    assert_eq!((&good["verdict"], &good["event"]), (&"good".into(), &6.into()));
    assert!(good["steps"].as_array().unwrap().iter().any(|step| step["step"] == "check 1"), "{good}");
    assert_eq!(to.json(&["path", "@-1"], 0)["id"], own.as_str());
    to.run(&["rollback"], 0);
    assert_eq!(to.current().as_ref(), Some(&own));
    // the history line is an index: the outcomes alone say the same
    let all = to.json(&["history"], 0);
    std::fs::write(to.path("store/history"), "").unwrap();
    assert_eq!(to.json(&["history"], 0), all);
    assert_eq!(to.run(&["verify"], 0), "ok");
}

#[test]
fn s23_verdicts_keep_their_origin_through_other_stores_and_come_once() {
    let (from, _) = origin();
    let middle = Sandbox::new();
    imported(&middle, &export(&from, &["--all"]));
    middle.write("own/x", "x\n");
    middle.run(&["deploy", "own"], 0);
    let onward = export(&middle, &["--all"]);
    // back where they were decided: only the one of the middle is news
    assert_eq!(imported(&from, &onward)["outcomes"], 1);
    assert_eq!(imported(&from, &onward)["outcomes"], 0);
    let last = Sandbox::new();
    assert_eq!(imported(&last, &onward)["outcomes"], 4);
    assert_eq!(imported(&last, &export(&from, &["--all"]))["outcomes"], 0);
    let history = last.json(&["history"], 0);
    let numbers: Vec<_> = history["events"]
        .as_array()
        .unwrap()
        .iter()
        .map(|event| event["imported"]["event"].clone())
        .collect();
    assert_eq!(numbers, [4, 3, 2, 1]);
}

#[test]
fn s23_what_is_pending_is_neither_exported_nor_made() {
    let (from, [one, ..]) = origin();
    // accepted by a manager that is gone
    let event = std::fs::read_to_string(from.path("store/events/1.json")).unwrap();
    let event = event.replace("\"number\":1,", "\"number\":4,");
    std::fs::write(from.path("store/events/4.json"), event).unwrap();
    assert_eq!(from.status()["activation"]["event"], 4);
    let stream = export(&from, &["--all"]);
    let to = Sandbox::new();
    assert_eq!(imported(&to, &stream)["outcomes"], 3);
    assert_eq!(to.status()["activation"], Value::Null);
    // numbers of a store with a pending event are not taken
    let other = Sandbox::new();
    other.write("own/x", "x\n");
    let own = other.run(&["push", "own"], 0);
    let pending = std::fs::read_to_string(from.path("store/events/4.json")).unwrap();
    let pending = pending.replace(&one, &own).replace("\"number\":4,", "\"number\":2,");
    std::fs::write(other.path("store/events/2.json"), pending).unwrap();
    imported(&other, &stream);
    assert_eq!(other.status()["activation"]["event"], 2);
    assert_eq!(other.json(&["history"], 0)["events"][0]["number"], 5);
}

#[test]
fn s23_a_cut_stream_leaves_the_store_as_it_was() {
    let sandbox = Sandbox::new();
    for n in ["1", "2"] {
        sandbox.write("conf/a", "a\n");
        sandbox.write("conf/d/changes", n);
        let id = sandbox.run(&["push", "conf", "--tag", &format!("v{n}")], 0);
        sandbox.run(&["activate", &id], 0);
    }
    let stream = export(&sandbox, &["--all"]);
    let to = Sandbox::new();
    let before = to.snapshot();
    // the end marker is two empty blocks, and the first of them is enough
    for end in (0..stream.len() - 512).step_by(256) {
        let output = import(&to, &stream[..end]);
        assert_eq!(output.status.code(), Some(7), "cut at {end}: {output:?}");
        assert_eq!(to.snapshot(), before, "cut at {end}");
    }
    // or changed: no byte that means anything goes unseen
    for at in (0..stream.len() - 1024).step_by(97) {
        let mut changed = stream.clone();
        changed[at] ^= 0x11;
        let output = import(&to, &changed);
        match output.status.code() {
            Some(7) => assert_eq!(to.snapshot(), before, "changed at {at}"),
            Some(0) => {
                assert_eq!(generations(&to), generations(&sandbox), "changed at {at}");
                std::fs::remove_dir_all(to.path("store")).unwrap();
                to.run(&["init", "--pipeline", "pushed"], 0);
            }
            code => panic!("changed at {at}: {code:?} {output:?}"),
        }
    }
    assert!(import(&to, &stream).status.success());
    assert_eq!(generations(&to), generations(&sandbox));
}

/// A member of a stream: kind, name, link target, content.
type Member = (EntryType, String, String, Vec<u8>);

/// The members of an export.
fn members(stream: &[u8]) -> Vec<Member> {
    let mut archive = tar::Archive::new(stream);
    let mut members = Vec::new();
    for entry in archive.entries().unwrap() {
        let mut entry = entry.unwrap();
        let name = String::from_utf8(entry.path_bytes().into_owned()).unwrap();
        let link =
            entry.link_name_bytes().map_or(String::new(), |link| String::from_utf8(link.to_vec()).unwrap());
        let mut content = Vec::new();
        std::io::Read::read_to_end(&mut entry, &mut content).unwrap();
        members.push((entry.header().entry_type(), name, link, content));
    }
    members
}

fn craft(members: &[Member]) -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    for (kind, name, link, content) in members {
        for (text, kind) in [(name, EntryType::GNULongName), (link, EntryType::GNULongLink)] {
            if text.len() > 99 {
                block(&mut builder, kind, "long", "", format!("{text}\0").as_bytes());
            }
        }
        block(&mut builder, *kind, &name[..name.len().min(99)], &link[..link.len().min(99)], content);
    }
    builder.into_inner().unwrap()
}

fn block(builder: &mut Builder<Vec<u8>>, kind: EntryType, name: &str, link: &str, content: &[u8]) {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(0o644);
    header.set_size(content.len() as u64);
    // by hand: the library refuses to write what a hostile archive holds
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.as_old_mut().linkname[..link.len()].copy_from_slice(link.as_bytes());
    header.set_cksum();
    builder.append(&header, content).unwrap();
}

/// An export of two generations with a shared file, for crafting.
fn small() -> (Vec<Member>, [String; 2]) {
    let sandbox = Sandbox::new();
    let mut ids = Vec::new();
    for n in ["1", "2"] {
        sandbox.write("conf/a", "a\n");
        sandbox.write("conf/d/changes", n);
        symlink("a", sandbox.path("conf/link")).ok();
        ids.push(sandbox.run(&["push", "conf", "--tag", &format!("v{n}")], 0));
        sandbox.run(&["activate", ids.last().unwrap()], 0);
    }
    (members(&export(&sandbox, &["--all"])), ids.try_into().unwrap())
}

#[test]
fn s23_a_hostile_stream_is_refused_by_name_and_leaves_nothing() {
    let (members, [one, two]) = small();
    let to = Sandbox::new();
    assert!(import(&to, &craft(&members)).status.success(), "as it is, it is right");
    let to = Sandbox::new();
    let before = to.snapshot();
    let at =
        |name: &str| members.iter().position(|member| member.1 == name).unwrap_or_else(|| panic!("{name}"));
    let tree = |id: &str, path: &str| format!("generations/{id}/tree/{path}");
    let file = |name: &str, text: &str| {
        (EntryType::Regular, name.to_owned(), String::new(), text.as_bytes().to_vec())
    };
    let mut cases: Vec<(&str, Vec<Member>, String)> = Vec::new();
    let mut case = |what, change: &dyn Fn(&mut Vec<Member>), says: &str| {
        let mut members = members.clone();
        change(&mut members);
        cases.push((what, members, says.to_owned()));
    };
    let a = tree(&one, "a");
    case("an empty archive", &|m| m.clear(), "cut");
    case("another archive", &|m| m[0] = file("README", "x"), "it is no export");
    case("another format", &|m| m[0].3 = b"pointsman-export 2\n".to_vec(), "`pointsman-export 2`");
    case("a way up", &|m| m.insert(at(&a), file("../../evil", "x")), "../../evil");
    case("a way up by a good name", &|m| m[at(&a)].1 = tree(&one, "../a"), "tree/../a");
    case("an absolute name", &|m| m.insert(2, file("/etc/evil", "x")), "/etc/evil");
    case("what no manifest names", &|m| m.insert(at(&a), file(&tree(&one, "0"), "x")), "tree/0");
    case("a file twice", &|m| m.insert(at(&a), m[at(&a)].clone()), "tree/a is where");
    case("a file left out", &|m| drop(m.remove(at(&a))), "is where");
    case("a file by another name", &|m| m[at(&a)].1 = tree(&one, "b"), "tree/b");
    case("other content", &|m| m[at(&a)].3 = b"b\n".to_vec(), "tree/a is not what its manifest says");
    case("longer content", &|m| m[at(&a)].3 = b"a\nb".to_vec(), "tree/a is not what");
    case("a device for a file", &|m| m[at(&a)].0 = EntryType::Char, "tree/a");
    case(
        "a link for a file",
        &|m| (m[at(&a)].0, m[at(&a)].2) = (EntryType::Symlink, "/etc".into()),
        "tree/a",
    );
    case("a sparse file", &|m| m[at(&a)].0 = EntryType::GNUSparse, "");
    case("another link", &|m| m[at(&tree(&one, "link"))].2 = "/etc/passwd".into(), "does not lead to a");
    case("a hard link out", &|m| m[at(&tree(&two, "a"))].2 = "/etc/passwd".into(), "hard link");
    case("a hard link up", &|m| m[at(&tree(&two, "a"))].2 = "../../etc/passwd".into(), "hard link");
    case(
        "a hard link to another file",
        &|m| m[at(&tree(&two, "a"))].2 = tree(&one, "d/changes"),
        "hard link",
    );
    case(
        "a hard link to what differs",
        &|m| {
            (m[at(&tree(&two, "d/changes"))].0, m[at(&tree(&two, "d/changes"))].2) =
                (EntryType::Link, tree(&one, "d/changes"));
        },
        "hard link",
    );
    case(
        "a hard link ahead",
        &|m| (m[at(&a)].0, m[at(&a)].2) = (EntryType::Link, tree(&two, "a")),
        "hard link",
    );
    case(
        "a manifest that is another",
        &|m| m[at(&format!("generations/{one}/manifest"))].3 = b"pointsman-manifest 1\n".to_vec(),
        "does not hash",
    );
    case(
        "a generation twice",
        &|m| {
            let first = at(&format!("generations/{one}/"));
            let copy: Vec<Member> = m[first..at(&format!("generations/{two}/"))].to_vec();
            m.splice(first..first, copy);
        },
        "twice",
    );
    case(
        "an id that is none",
        &|m| m[at(&format!("generations/{one}/"))].1 = "generations/../x/".into(),
        "generations/../x",
    );
    case(
        "a record that is none",
        &|m| m[at(&format!("generations/{one}/push.json"))].3 = b"{}".to_vec(),
        "push.json",
    );
    case(
        "a changed record",
        &|m| {
            let text = &mut m[at(&format!("generations/{one}/push.json"))].3;
            *text = String::from_utf8(text.clone()).unwrap().replace("conf", "evil").into_bytes();
        },
        "its end does not fit",
    );
    case(
        "a tag for what is not there",
        &|m| m[at("tags/v1")].3 = format!("{}\n", "0".repeat(64)).into_bytes(),
        "tags/v1",
    );
    case(
        "a tag that is moved",
        &|m| m[at("tags/v1")].3 = format!("{two}\n").into_bytes(),
        "its end does not fit",
    );
    case("a tag with a way", &|m| m[at("tags/v1")].1 = "tags/../v1".into(), "tags/../v1");
    case("a tag twice", &|m| m.insert(at("tags/v1"), m[at("tags/v1")].clone()), "tags/v1");
    case(
        "a generation after the tags",
        &|m| m.swap(at("tags/v1"), at(&format!("generations/{two}/"))),
        "is where",
    );
    case(
        "an event that is pending",
        &|m| drop(m.remove(at("events/1.outcome.json"))),
        "events/1.outcome.json",
    );
    case(
        "an event of another number",
        &|m| m[at("events/1.json")].1 = "events/7.json".into(),
        "another event",
    );
    case("marks", &|m| m.insert(at("events/1.json"), file("events/1.steps", "x")), "events/1.steps");
    case("a verdict left out", &|m| drop(m.drain(at("events/2.json")..at("end"))), "its end does not fit");
    case(
        "a machine that is none",
        &|m| {
            let text = &mut m[at("events/1.outcome.json")].3;
            let was = String::from_utf8(text.clone()).unwrap();
            *text = was.replace("\"machine\":\"", "\"machine\":\"\\u001b[31m").into_bytes();
        },
        "names a machine that is none",
    );
    case("no end", &|m| drop(m.pop()), "cut");
    case("more after the end", &|m| m.push(file("tags/v9", &two)), "tags/v9");
    for (what, members, says) in cases {
        let output = import(&to, &craft(&members));
        assert_eq!(output.status.code(), Some(7), "{what}: {output:?}");
        assert!(said(&output).contains(&says), "{what}: {says:?} is not in {}", said(&output));
        assert!(output.stdout.is_empty(), "{what}");
        assert_eq!(to.snapshot(), before, "{what}");
    }
}

#[test]
fn s23_a_stream_without_end_or_measure_is_refused() {
    let (members, [one, _]) = small();
    let to = Sandbox::new();
    let before = to.snapshot();
    let refuse = |what: &str, stream: &[u8], says: &str| {
        let output = import(&to, stream);
        assert_eq!(output.status.code(), Some(7), "{what}: {output:?}");
        assert!(said(&output).contains(says), "{what}: {says:?} is not in {}", said(&output));
        assert_eq!(to.snapshot(), before, "{what}");
    };
    let long = vec![b'a'; 1 << 20];
    for kind in [EntryType::XHeader, EntryType::XGlobalHeader, EntryType::GNULongName, EntryType::GNULongLink]
    {
        refuse("a bomb", &craft(&[(kind, "bomb".into(), String::new(), long.clone())]), "extension header");
    }
    let globals: Vec<Member> =
        (0..1000).map(|_| (EntryType::XGlobalHeader, "g".into(), String::new(), Vec::new())).collect();
    refuse("headers without end", &craft(&globals), "extension headers before one member");
    // a length that no disk has, in a manifest that is right for its id
    let manifest = format!("pointsman-manifest 1\nfile public {} {} a\n", u64::MAX, "0".repeat(64));
    let id = blake3::hash(manifest.as_bytes()).to_string();
    let mut giant = members[..2].to_vec();
    giant.push((EntryType::Directory, format!("generations/{id}/"), String::new(), Vec::new()));
    giant.push((
        EntryType::Regular,
        format!("generations/{id}/manifest"),
        String::new(),
        manifest.into_bytes(),
    ));
    refuse("a giant generation", &craft(&giant), "larger than a push may be");
    let deep: String = (1..70).map(|n| format!("dir {}\n", vec!["d"; n].join("/"))).collect();
    let manifest = format!("pointsman-manifest 1\n{deep}");
    giant[2].1 = format!("generations/{}/", blake3::hash(manifest.as_bytes()));
    giant[3].1 = format!("generations/{}/manifest", blake3::hash(manifest.as_bytes()));
    giant[3].3 = manifest.into_bytes();
    refuse("a deep generation", &craft(&giant), "64 directories deep");
    let manifest = "pointsman-manifest 1\nlink 11 /etc/passwd a\n";
    giant[2].1 = format!("generations/{}/", blake3::hash(manifest.as_bytes()));
    giant[3].1 = format!("generations/{}/manifest", blake3::hash(manifest.as_bytes()));
    giant[3].3 = manifest.as_bytes().to_vec();
    refuse("a link that leaves", &craft(&giant), "/etc/passwd");
    // a header that promises more than any stream has
    let mut stream = craft(&members[..2]);
    stream.truncate(stream.len() - 1024);
    let mut header = Header::new_gnu();
    header.set_entry_type(EntryType::Regular);
    let name = format!("generations/{one}/manifest");
    header.as_old_mut().name[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(u64::MAX - 511);
    header.set_mode(0o644);
    header.set_cksum();
    stream.extend(header.as_bytes());
    refuse("a giant member", &stream, "cannot import");
}

#[test]
fn s23_a_damaged_file_ends_the_export_and_is_named() {
    let (from, [_, two, _]) = origin();
    let path = from.path(&format!("store/generations/{two}/tree/changes"));
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o644)).unwrap();
    std::fs::write(&path, "9").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    let error = from.error(&["export", "--all", "-o", "all.tar"], 4);
    assert!(error.contains(&format!("generations/{two}/tree/changes")), "{error}");
    let left: Vec<_> = std::fs::read_dir(from.path("")).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().contains("all.tar")), "{left:?}");
    let output = from.output(&["export", "--all"], 4);
    let to = Sandbox::new();
    let before = to.snapshot();
    assert_eq!(import(&to, &output.stdout).status.code(), Some(7));
    assert_eq!(to.snapshot(), before);
    // what is whole can be had
    from.run(&["export", "v1", "-o", "one.tar"], 0);
    // a file that is in the stream already is looked at all the same
    let (from, [_, two, _]) = origin();
    let path = from.path(&format!("store/generations/{two}/tree/same"));
    std::fs::set_permissions(path.parent().unwrap(), PermissionsExt::from_mode(0o755)).unwrap();
    std::fs::remove_file(&path).unwrap();
    std::fs::write(&path, "the same in ALL\n").unwrap();
    std::fs::set_permissions(&path, PermissionsExt::from_mode(0o444)).unwrap();
    std::fs::set_permissions(path.parent().unwrap(), PermissionsExt::from_mode(0o555)).unwrap();
    let error = from.error(&["export", "--all", "-o", "all.tar"], 4);
    assert!(error.contains(&format!("generations/{two}/tree/same")), "{error}");
}

#[test]
fn s23_an_export_asks_what_and_where() {
    let (from, _) = origin();
    let error = from.error(&["export"], 2);
    assert!(error.contains("--all"), "{error}");
    from.error(&["export", "--all", "v1"], 2);
    from.error(&["export", "v9", "-o", "x.tar"], 3);
    assert!(from.json(&["export", "v1"], 2)["error"].as_str().unwrap().contains("-o FILE"));
    let error = from.error(&["export", "v1", "-o", "/dev/null"], 2);
    assert!(error.contains("no regular file"), "{error}");
    assert!(std::fs::metadata("/dev/null").unwrap().file_type().is_char_device());
    from.error(&["export", "v1", "-o", "none/x.tar"], 1);
    from.error(&["import", "none.tar"], 1);
    // a stream that nobody takes is no export
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    let output = from.command(&["export", "--all"]).stdout(full).output().unwrap();
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    // `script` gives the command a terminal
    let line = format!("{PROGRAM} --store {} export --all", from.path("store").display());
    let output =
        Command::new("script").args(["-qec", &line, "/dev/null"]).stdin(Stdio::null()).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(String::from_utf8_lossy(&output.stdout).contains("stdout is a terminal"), "{output:?}");
}
