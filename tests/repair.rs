//! `verify` and `verify --repair`: what is damaged is named with all that share it, and made whole from intact
//! pieces. Rules S15 and S24 of `spec/store.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used)]

mod common;

use std::io::{BufRead as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use common::Sandbox;
use serde_json::Value;

fn chmod(path: impl AsRef<Path>, mode: u32) {
    std::fs::set_permissions(path, PermissionsExt::from_mode(mode)).unwrap();
}

/// Changes what lies at `path`, whatever rights stand in the way, and puts the rights of its directory back.
fn tamper(path: &Path, change: impl FnOnce(&Path)) {
    let dir = path.parent().unwrap();
    let mode = std::fs::metadata(dir).unwrap().mode();
    chmod(dir, 0o755);
    change(path);
    chmod(dir, mode & 0o7777);
}

/// Other bytes in the same inode, as a bad disk has them.
fn rot(path: &Path) {
    let mode = std::fs::metadata(path).unwrap().mode();
    chmod(path, 0o644);
    std::fs::write(path, "rotten").unwrap();
    chmod(path, mode & 0o7777);
}

/// A store with three generations, all of them tagged, the second in force, and an export of it; the ids.
fn store() -> (Sandbox, [String; 3]) {
    let sandbox = Sandbox::new();
    sandbox.write("conf/same", "the same in all\n");
    sandbox.write("conf/d/twin", "there twice\n");
    sandbox.write("conf/d/e/twin", "there twice\n");
    sandbox.write("conf/key", "secret");
    chmod(sandbox.path("conf/key"), 0o600);
    sandbox.write("conf/run", "#!/bin/sh\n");
    chmod(sandbox.path("conf/run"), 0o755);
    symlink("same", sandbox.path("conf/link")).unwrap();
    let ids = ["1", "2", "3"].map(|n| {
        sandbox.write("conf/changes", n);
        sandbox.run(&["push", "conf", "-m", "why", "--tag", &format!("v{n}")], 0)
    });
    sandbox.run(&["activate", "v1"], 0);
    sandbox.run(&["activate", "v2"], 0);
    sandbox.run(&["export", "--all", "-o", "all.tar"], 0);
    // what the second generation is made of, as it was
    sandbox.write("conf/changes", "2");
    std::fs::rename(sandbox.path("store"), sandbox.path("template")).unwrap();
    fresh(&sandbox);
    (sandbox, ids)
}

/// The store as it was made.
fn fresh(sandbox: &Sandbox) {
    let _ = std::fs::remove_dir_all(sandbox.path("store"));
    let copy = Command::new("cp").arg("-a").arg(sandbox.path("template")).arg(sandbox.path("store")).status();
    assert!(copy.unwrap().success());
}

fn in_store(sandbox: &Sandbox, id: &str, path: &str) -> PathBuf {
    sandbox.path(&format!("store/generations/{id}/{path}"))
}

/// The generations by path, mode and content.
fn generations(sandbox: &Sandbox) -> String {
    let lines = sandbox.snapshot();
    lines.lines().filter(|line| line.contains("/generations/")).collect::<Vec<_>>().join("\n")
}

fn inode(path: PathBuf) -> u64 {
    std::fs::symlink_metadata(path).unwrap().ino()
}

/// Repairs, and gives the object.
fn repaired(sandbox: &Sandbox, args: &[&str], code: i32) -> Value {
    sandbox.json(&[&["verify", "--repair"], args].concat(), code)
}

#[test]
fn s15_a_shared_file_that_is_damaged_is_named_once_with_all_its_generations() {
    let (sandbox, ids) = store();
    rot(&in_store(&sandbox, &ids[1], "tree/same"));
    rot(&in_store(&sandbox, &ids[2], "tree/changes"));
    let mut sorted = ids.clone();
    sorted.sort();
    let found = sandbox.json(&["verify"], 4);
    let damage = found["damage"].as_array().unwrap();
    assert_eq!(damage.len(), 2, "{found}");
    let same = damage.iter().find(|damage| damage["path"].as_str().unwrap().ends_with("tree/same")).unwrap();
    assert_eq!(same["generation"], sorted[0].as_str());
    assert_eq!(same["shared"], serde_json::json!([sorted[1], sorted[2]]));
    let changes = damage.iter().find(|damage| damage["path"].as_str().unwrap().ends_with("changes")).unwrap();
    assert_eq!(
        (&changes["generation"], &changes["shared"]),
        (&ids[2].as_str().into(), &serde_json::json!([]))
    );
    let text = sandbox.run(&["verify"], 4);
    let line = text.lines().find(|line| line.contains("tree/same")).unwrap();
    let (one, two) = (&sorted[1][..8], &sorted[2][..8]);
    assert!(line.ends_with(&format!("(the same file is in {one}, {two})")), "{text}");
    assert_eq!(text.lines().count(), 2, "{text}");
    // of one generation, the others are named, too
    let found = sandbox.json(&["verify", &ids[0]], 4);
    let others: Vec<&String> = sorted.iter().filter(|id| **id != ids[0]).collect();
    assert_eq!(found["damage"][0]["shared"], serde_json::json!(others));
    // and its repair is that of all
    let done = repaired(&sandbox, &["--from", "all.tar", &ids[0]], 0);
    assert_eq!(done["repaired"].as_array().unwrap().len(), 3, "{done}");
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
}

#[test]
fn s24_a_shared_file_is_repaired_in_all_its_generations_and_shared_again() {
    let (sandbox, ids) = store();
    let whole = generations(&sandbox);
    // the same content is under another path
    rot(&in_store(&sandbox, &ids[0], "tree/d/twin"));
    let done = repaired(&sandbox, &[], 0);
    assert_eq!(done["repaired"].as_array().unwrap().len(), 3, "{done}");
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    assert_eq!(generations(&sandbox), whole);
    let twins = ids.each_ref().map(|id| inode(in_store(&sandbox, id, "tree/d/twin")));
    assert!(twins[0] == twins[1] && twins[1] == twins[2], "{twins:?}");
    assert_ne!(twins[0], inode(in_store(&sandbox, &ids[0], "tree/d/e/twin")), "never within one generation");
    let others = ids.each_ref().map(|id| inode(in_store(&sandbox, id, "tree/same")));
    assert!(others[0] == others[1] && others[1] == others[2], "{others:?}");
    assert_eq!(sandbox.current().as_ref(), Some(&ids[1]));
    assert!(std::fs::read_dir(sandbox.path("store/tmp")).unwrap().all(|left| {
        let name = left.unwrap().file_name();
        name == "undo" || name == "reserve"
    }));
    // and a push shares with what was repaired
    sandbox.write("conf/more", "more");
    let next = sandbox.run(&["push", "conf"], 0);
    assert_eq!(inode(in_store(&sandbox, &next, "tree/d/twin")), twins[0]);
}

/// One way to damage the second generation.
type Damage<'a> = (&'a str, &'a dyn Fn(&Sandbox, &str), bool);

/// Where pieces come from, and what makes them.
const SOURCES: [&[&str]; 4] = [&[], &["--from", "./conf"], &["--from", "all.tar"], &["--from", "-"]];

#[test]
fn s24_every_damage_is_repaired_from_every_source_that_has_the_piece() {
    let (sandbox, ids) = store();
    let id = &ids[1];
    let whole = generations(&sandbox);
    // what, how, whether the store has what it takes
    let damages: &[Damage<'_>] = &[
        ("content that is elsewhere, too", &|s, id| rot(&in_store(s, id, "tree/d/twin")), true),
        ("content of its own", &|s, id| rot(&in_store(s, id, "tree/changes")), false),
        ("shared content", &|s, id| rot(&in_store(s, id, "tree/same")), false),
        ("private content", &|s, id| rot(&in_store(s, id, "tree/key")), false),
        ("a mode", &|s, id| chmod(in_store(s, id, "tree/changes"), 0o640), true),
        ("the mode of a directory", &|s, id| chmod(in_store(s, id, "tree/d/e"), 0o755), true),
        (
            "a file that is gone",
            &|s, id| tamper(&in_store(s, id, "tree/run"), |p| std::fs::remove_file(p).unwrap()),
            true,
        ),
        (
            "a directory that is gone",
            &|s, id| {
                tamper(&in_store(s, id, "tree/d"), |p| {
                    chmod(p, 0o755);
                    chmod(p.join("e"), 0o755);
                    std::fs::remove_dir_all(p).unwrap();
                });
            },
            true,
        ),
        (
            "a file where a directory was",
            &|s, id| {
                tamper(&in_store(s, id, "tree/d"), |p| {
                    chmod(p, 0o755);
                    chmod(p.join("e"), 0o755);
                    std::fs::remove_dir_all(p).unwrap();
                    std::fs::write(p, "no directory").unwrap();
                });
            },
            true,
        ),
        (
            "a link that leads away",
            &|s, id| {
                tamper(&in_store(s, id, "tree/link"), |p| {
                    std::fs::remove_file(p).unwrap();
                    symlink("/etc/passwd", p).unwrap();
                });
            },
            true,
        ),
        (
            "a link where a directory was",
            &|s, id| {
                tamper(&in_store(s, id, "tree/d"), |p| {
                    std::fs::rename(p, s.path("aside")).unwrap();
                    symlink("/etc", p).unwrap();
                    chmod(s.path("aside"), 0o755);
                    chmod(s.path("aside/e"), 0o755);
                    std::fs::remove_dir_all(s.path("aside")).unwrap();
                });
            },
            true,
        ),
        (
            "what nobody put there",
            &|s, id| tamper(&in_store(s, id, "tree/extra"), |p| std::fs::write(p, "x").unwrap()),
            true,
        ),
        ("what nobody put beside", &|s, id| std::fs::write(in_store(s, id, "extra"), "x").unwrap(), true),
        (
            "no tree",
            &|s, id| {
                let tree = in_store(s, id, "tree");
                for dir in ["", "d", "d/e"] {
                    chmod(tree.join(dir), 0o755);
                }
                std::fs::remove_dir_all(tree).unwrap();
            },
            false,
        ),
        ("a manifest", &|s, id| rot(&in_store(s, id, "manifest")), false),
        ("no manifest", &|s, id| std::fs::remove_file(in_store(s, id, "manifest")).unwrap(), false),
    ];
    for (what, damage, by_itself) in damages {
        for source in SOURCES {
            fresh(&sandbox);
            damage(&sandbox, id);
            let found = sandbox.json(&["verify", id], 4);
            assert_eq!(found["ok"], false, "{what}");
            let mut command = sandbox.command(&[&["--json", "verify", "--repair"], source].concat());
            let output =
                command.stdin(std::fs::File::open(sandbox.path("all.tar")).unwrap()).output().unwrap();
            let object: Value = serde_json::from_slice(&output.stdout).unwrap();
            if source.is_empty() && !by_itself {
                assert_eq!(output.status.code(), Some(4), "{what}: {output:?}");
                let of_it = |damage: &&Value| damage["generation"].is_string();
                let damage = object["damage"].as_array().unwrap().iter().find(of_it).unwrap();
                let next = damage["next"].as_str().unwrap();
                assert!(next.starts_with("`pointsman verify --repair --from` "), "{what}: {next}");
                continue;
            }
            assert_eq!(output.status.code(), Some(0), "{what} from {source:?}: {output:?}");
            assert_eq!((&object["ok"], &object["damage"]), (&true.into(), &serde_json::json!([])));
            assert_eq!(generations(&sandbox), whole, "{what} from {source:?}");
            assert_eq!(sandbox.current().as_ref(), Some(id));
            assert_eq!(sandbox.run(&["verify"], 0), "ok");
            assert_eq!(
                repaired(&sandbox, source, 0)["repaired"],
                serde_json::json!([]),
                "nothing is left to do"
            );
        }
    }
}

#[test]
fn s24_a_generation_of_the_store_can_be_named() {
    let (sandbox, ids) = store();
    sandbox.write("other/hidden/x", "1");
    let other = sandbox.run(&["push", "other"], 0);
    rot(&in_store(&sandbox, &ids[0], "tree/changes"));
    sandbox.error(&["verify", "--repair", "--from", "none"], 3);
    sandbox.error(&["verify", "--repair", "--from", "./none"], 1);
    sandbox.error(&["verify", "--from", &other], 2);
    assert_eq!(
        repaired(&sandbox, &["v1", "--from", &other], 0)["repaired"][0]["generation"],
        ids[0].as_str()
    );
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    // no export, and nothing has changed
    rot(&in_store(&sandbox, &ids[0], "tree/changes"));
    let before = sandbox.snapshot();
    let error = sandbox.error(&["verify", "--repair", "--from", "./conf/run"], 7);
    assert!(error.contains("cannot import"), "{error}");
    assert_eq!(sandbox.snapshot(), before);
}

#[test]
fn s24_a_lost_record_comes_from_an_export_or_else_the_history() {
    let (sandbox, ids) = store();
    let id = &ids[1];
    let whole = generations(&sandbox);
    let record = in_store(&sandbox, id, "push.json");
    let was: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
    rot(&record);
    repaired(&sandbox, &["--from", "all.tar"], 0);
    assert_eq!(generations(&sandbox), whole);
    for gone in [true, false] {
        if gone {
            std::fs::remove_file(&record).unwrap();
        } else {
            rot(&record);
        }
        let done = repaired(&sandbox, &[], 0);
        let how = done["repaired"][0]["how"].as_str().unwrap();
        assert!(how.contains("from where is lost"), "{how}");
        let now: Value = serde_json::from_slice(&std::fs::read(&record).unwrap()).unwrap();
        for field in ["at", "by", "message", "parent"] {
            assert_eq!(now[field], was[field], "{field}");
        }
        assert_eq!(now["source"], "(lost)");
    }
    // nothing knows it any more
    rot(&record);
    std::fs::write(sandbox.path("store/history"), "").unwrap();
    let left = repaired(&sandbox, &[], 4);
    assert_eq!(left["damage"][0]["path"], format!("generations/{id}/push.json"));
    assert!(left["damage"][0]["next"].as_str().unwrap().contains("--from` an export"), "{left}");
    repaired(&sandbox, &["--from", "all.tar"], 0);
    assert_eq!(generations(&sandbox), whole);
}

#[test]
fn s24_what_cannot_be_repaired_is_named_and_the_rest_is_repaired() {
    let (sandbox, ids) = store();
    rot(&in_store(&sandbox, &ids[0], "tree/changes"));
    rot(&in_store(&sandbox, &ids[1], "tree/d/twin"));
    tamper(&in_store(&sandbox, &ids[2], "tree/extra"), |path| std::fs::write(path, "x").unwrap());
    let text = sandbox.run(&["verify", "--repair"], 4);
    let lines: Vec<&str> = text.lines().collect();
    for id in &ids[1..] {
        assert!(lines.iter().any(|line| line.starts_with(&format!("repaired generations/{id}: "))), "{text}");
    }
    let left = format!("generations/{}/tree/changes: ", ids[0]);
    let left = lines.iter().find(|line| line.starts_with(&left)).unwrap();
    assert!(left.contains("; `pointsman verify --repair --from` an export"), "{text}");
    // the first is as damaged as it was, besides what all shared
    let found = sandbox.json(&["verify"], 4);
    let paths: Vec<&str> =
        found["damage"].as_array().unwrap().iter().map(|damage| damage["path"].as_str().unwrap()).collect();
    let of_first = |path: &str| format!("generations/{}/tree/{path}", ids[0]);
    assert_eq!(paths, [of_first("changes"), of_first("d/twin")]);
    assert_eq!(repaired(&sandbox, &["--from", "all.tar"], 0)["ok"], true);
}

#[test]
fn s24_damaged_loader_outputs_are_named_and_removed() {
    let sandbox = Sandbox::new();
    let pipeline =
        "version: 1\nloader:\n  command: [sh, -c, 'cp {config}/x {loaded}/out']\n  if_changed: [x]\n";
    sandbox.write("conf/pointsman.yaml", pipeline);
    sandbox.write("conf/x", "x\n");
    let id = sandbox.run(&["push", "conf"], 0);
    sandbox.run(&["activate", &id], 0);
    let loaded = sandbox.path("store/loaded");
    let key = std::fs::read_dir(&loaded).unwrap().next().unwrap().unwrap().file_name().into_string().unwrap();
    let before = sandbox.snapshot();
    for damage in ["tree/out", "manifest"] {
        rot(&loaded.join(&key).join(damage));
        let found = sandbox.json(&["verify"], 4);
        assert_eq!(found["damage"][0]["path"], format!("loaded/{key}/{damage}"));
        let done = repaired(&sandbox, &[], 0);
        assert_eq!(done["repaired"][0]["path"], format!("loaded/{key}"));
        assert!(!loaded.join(&key).exists());
        // and the loader makes it again
        sandbox.write("conf/other", damage);
        sandbox.run(&["deploy", "conf"], 0);
        assert_eq!(std::fs::read_to_string(loaded.join(&key).join("tree/out")).unwrap(), "x\n");
    }
    let of_loaded = |snapshot: String| {
        snapshot.lines().filter(|line| line.contains("/loaded/")).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(of_loaded(sandbox.snapshot()), of_loaded(before));
}

#[test]
fn s24_a_history_with_a_damaged_middle_is_written_anew() {
    let (sandbox, _) = store();
    let (list, history) = (sandbox.run(&["list"], 0), sandbox.run(&["history"], 0));
    let path = sandbox.path("store/history");
    for line in 0..4 {
        let text = std::fs::read_to_string(&path).unwrap();
        let mut lines: Vec<String> = text.lines().map(|line| format!("{line}\n")).collect();
        assert_eq!(lines.len(), 5, "three pushes, two events: {text}");
        lines[line].replace_range(20..21, "#");
        std::fs::write(&path, lines.concat()).unwrap();
        let found = sandbox.json(&["verify"], 4);
        assert_eq!(found["damage"][0]["path"], "history");
        assert_eq!(repaired(&sandbox, &[], 0)["repaired"][0]["path"], "history");
        assert_eq!(sandbox.run(&["verify"], 0), "ok");
        assert_eq!(sandbox.run(&["history"], 0), history);
        assert_eq!(sandbox.run(&["list"], 0), list);
    }
}

#[test]
fn s24_for_what_is_no_generation_the_next_step_is_said_and_helps() {
    let (sandbox, [one, two, _]) = store();
    let next = |path: &str| -> String {
        let left = repaired(&sandbox, &[], 4);
        let damage = left["damage"].as_array().unwrap().iter().find(|damage| damage["path"] == path);
        damage.unwrap_or_else(|| panic!("{path} is not in {left}"))["next"].as_str().unwrap().to_owned()
    };
    let current = sandbox.path("store/current");
    std::fs::remove_file(&current).unwrap();
    symlink("/etc", &current).unwrap();
    assert!(next("current").contains("`pointsman activate REF`"));
    std::fs::remove_file(&current).unwrap();
    sandbox.run(&["activate", &two], 0);
    std::fs::write(sandbox.path("store/tags/v1"), "?").unwrap();
    assert_eq!(next("tags/v1"), "`pointsman tag v1 REF` writes it anew, `pointsman tag -d v1` removes it");
    sandbox.run(&["tag", "v1", &one], 0);
    std::fs::rename(sandbox.path("store/tags"), sandbox.path("aside")).unwrap();
    assert!(next("tags").contains("`pointsman init`"));
    sandbox.run(&["init"], 0);
    std::fs::remove_dir(sandbox.path("store/tags")).unwrap();
    std::fs::rename(sandbox.path("aside"), sandbox.path("store/tags")).unwrap();
    // every record that is damaged is named, and comes back from an export
    for record in ["events/1.json", "events/2.outcome.json"] {
        rot(&sandbox.path(&format!("store/{record}")));
    }
    let command = next("events/2.outcome.json");
    assert!(next("events/1.json").contains(" events/1.json"));
    let (_, command) = command.split_once('`').unwrap();
    for record in ["events/1.json", "events/2.outcome.json"] {
        let command = command.trim_end_matches('`').replace("events/2.outcome.json", record);
        let command = command.replace("FILE", "all.tar").replace("STORE", "store");
        let done = Command::new("sh").args(["-c", &command]).current_dir(sandbox.path("")).status().unwrap();
        assert!(done.success(), "{command}");
    }
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
}

#[test]
fn s24_who_leases_a_damaged_generation_keeps_what_was_there() {
    let (sandbox, ids) = store();
    let mut command =
        sandbox.command(&["exec", "v2", "--", "sh", "-c", "cd {config} && echo in && read x && cat d/twin"]);
    let mut reader = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    let mut stdout = std::io::BufReader::new(reader.stdout.take().unwrap());
    stdout.read_line(&mut line).unwrap();
    assert_eq!(line, "in\n");
    rot(&in_store(&sandbox, &ids[1], "tree/same"));
    repaired(&sandbox, &["--from", "all.tar"], 0);
    assert_eq!(sandbox.run(&["verify"], 0), "ok");
    let held = |sandbox: &Sandbox| {
        let names = std::fs::read_dir(sandbox.path("store/tmp")).unwrap();
        names.filter(|name| name.as_ref().unwrap().file_type().unwrap().is_dir()).count()
    };
    assert_eq!(held(&sandbox), 1, "the others, which nobody leases, are gone");
    // any writer cleans tmp/: not what is leased
    sandbox.run(&["tag", "v9", "v2"], 0);
    reader.stdin.take().unwrap().write_all(b"go\n").unwrap();
    let mut rest = String::new();
    std::io::Read::read_to_string(&mut stdout, &mut rest).unwrap();
    assert!(reader.wait().unwrap().success());
    assert_eq!(rest, "there twice\n");
    sandbox.run(&["tag", "-d", "v9"], 0);
    assert_eq!(held(&sandbox), 0);
}
