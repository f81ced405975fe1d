//! What is planned and why, and what is refused before anything runs: the built program, small workers.
#![allow(
    clippy::disallowed_methods,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "tests stand outside of the rooms"
)]

mod common;

use common::{Sandbox, workers};

/// A sandbox with a manager.
fn managed() -> Sandbox {
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    sandbox
}

/// Writes `conf/pointsman.yaml`: `pipeline` and the groups, each with the number of its instances.
fn pipeline(sandbox: &Sandbox, pipeline: &str, groups: &[(&str, u32)]) {
    let mut text = format!("version: 1\nprobation: 0s\n{pipeline}\nworkers:\n");
    for (name, instances) in groups {
        text.push_str(&format!(
            "  {name}: {{command: sleep 600, instances: {instances}, ready: {{after: 20ms}}, grace_shutdown_time: 0s}}\n"
        ));
    }
    sandbox.write("conf/pointsman.yaml", &text);
}

/// What is planned for the step `step` of activating `id`, in words.
fn planned(sandbox: &Sandbox, id: &str, step: &str) -> String {
    let plan = sandbox.run(&["activate", id, "--dry-run"], 0);
    let lines = plan.lines().map(|line| line.split_whitespace().collect::<Vec<_>>().join(" "));
    let mut found = lines.filter_map(|line| {
        let rest = line.strip_prefix("run ").or(line.strip_prefix("skip "))?;
        Some(rest.strip_prefix(step)?.trim().to_owned())
    });
    found.next().unwrap_or_else(|| panic!("no {step} in\n{plan}"))
}

fn slots(sandbox: &Sandbox) -> Vec<String> {
    sandbox.workers().into_keys().collect()
}

#[test]
fn a4_each_slot_says_why_it_is_replaced_or_not() {
    let sandbox = managed();
    let loader = "loader:\n  command: [sh, -c, 'cp {config}/rules {loaded}/']\n  if_changed: [rules]\n";
    pipeline(&sandbox, loader, &[("web", 2)]);
    sandbox.write("conf/rules", "1\n");
    sandbox.write("conf/web.conf", "1\n");
    let one = sandbox.run(&["push", "conf"], 0);
    assert_eq!(planned(&sandbox, &one, "web/1"), "started, nothing runs yet");
    assert!(planned(&sandbox, &one, "loader").starts_with("run, there is no sealed output "));
    sandbox.run(&["activate", &one], 0);
    assert_eq!(planned(&sandbox, &one, "web/2"), format!("left alone, it runs {} already", &one[..8]));

    sandbox.write("conf/web.conf", "2\n");
    let two = sandbox.run(&["push", "conf"], 0);
    assert_eq!(planned(&sandbox, &two, "web/1"), "replaced, web.conf changed and nothing claims it");
    let loader = planned(&sandbox, &two, "loader");
    assert!(
        loader.starts_with("not run, output ") && loader.ends_with(" for its section is sealed"),
        "{loader}"
    );

    sandbox.write("conf/web.conf", "1\n");
    sandbox.write("conf/rules", "2\n");
    let three = sandbox.run(&["push", "conf"], 0);
    assert_eq!(planned(&sandbox, &three, "web/1"), "replaced, rules changed, which the loader reads");
}

#[test]
fn a4_instances_and_groups_come_and_go() {
    let sandbox = managed();
    let deploy = |groups: &[(&str, u32)]| {
        pipeline(&sandbox, "", groups);
        let id = sandbox.run(&["push", "conf"], 0);
        let plan = sandbox.json(&["activate", "--dry-run", &id], 0);
        let outcome = sandbox.json(&["activate", &id], 0);
        assert_eq!(outcome["verdict"], "good", "{outcome:#}");
        plan["steps"]
            .as_array()
            .unwrap()
            .iter()
            .map(|step| step["why"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let says = |whys: &[String], what: &str| assert!(whys.iter().any(|why| why == what), "{what}: {whys:#?}");
    deploy(&[("web", 1)]);
    assert_eq!(slots(&sandbox), ["web/1"]);
    let old = sandbox.workers();
    let whys = deploy(&[("web", 3), ("dns", 1)]);
    says(&whys, "started, 1 of 3 run");
    says(&whys, "started, group dns is new");
    assert_eq!(slots(&sandbox), ["dns/1", "web/1", "web/2", "web/3"]);
    let whys = deploy(&[("web", 1)]);
    says(&whys, "stopped after the verdict, web has 1 instance now");
    says(&whys, "stopped after the verdict, the target has no group dns");
    let status =
        sandbox.wait("surplus workers are gone", |status| status["workers"].as_array().unwrap().len() == 1);
    assert_eq!(workers(&status).into_keys().collect::<Vec<_>>(), ["web/1"]);
    assert!(old.values().all(|process| !process.is_alive()));
}

/// A service on which the section `resolver.yaml#/rundir` is cold-only, and its first generation in force.
fn cold_only() -> (Sandbox, String) {
    let sandbox = managed();
    pipeline(&sandbox, "cold_only: [\"resolver.yaml#/rundir\"]", &[("web", 2)]);
    sandbox.write("conf/resolver.yaml", "rundir: /run/a\nviews: 1\n");
    let one = sandbox.run(&["push", "conf"], 0);
    sandbox.run(&["activate", &one], 0);
    (sandbox, one)
}

#[test]
fn a22_a_cold_only_change_is_refused_before_any_stage_and_names_the_command() {
    let (sandbox, one) = cold_only();
    let before = sandbox.workers();
    // another value of the same file is no matter
    sandbox.write("conf/resolver.yaml", "# more\nrundir: '/run/a'\nviews: 2\n");
    let two = sandbox.json(&["deploy", "conf"], 0)["target"].as_str().unwrap().to_owned();
    let serving = sandbox.workers();
    assert!(serving.values().all(|process| !before.values().any(|old| old == process)));

    sandbox.write("conf/resolver.yaml", "rundir: /run/b\nviews: 2\n");
    let outcome = sandbox.json(&["deploy", "conf"], 7);
    let three = outcome["target"].as_str().unwrap().to_owned();
    assert_eq!(
        (&outcome["verdict"], &outcome["stage"]),
        (&"refused".into(), &"preflight".into()),
        "{outcome:#}"
    );
    assert_eq!(outcome["steps"].as_array().unwrap().len(), 0, "{outcome:#}");
    let want = format!(
        "resolver.yaml#/rundir differs from {}, and only a cold restart may change that: `pointsman activate {} --cold`",
        &two[..8],
        &three[..8]
    );
    assert_eq!(outcome["reason"], want.as_str());
    assert!(sandbox.error(&["activate", "--dry-run", &three], 7).contains(&want));
    assert_eq!((sandbox.workers(), sandbox.current()), (serving, Some(two.clone())));

    assert_eq!(sandbox.json(&["activate", &three[..8], "--cold"], 0)["verdict"], "good");
    let error = sandbox.error(&["rollback"], 7);
    assert!(error.contains(&format!("`pointsman rollback {} --cold`", &two[..8])), "{error}");
    assert_eq!(sandbox.json(&["rollback", &one, "--cold"], 0)["serving"], one.as_str());
}

#[test]
fn a22_leaving_the_word_out_does_not_lift_it_nor_does_moving_the_pointer_alone() {
    let (sandbox, one) = cold_only();
    pipeline(&sandbox, "", &[("web", 2)]);
    sandbox.write("conf/resolver.yaml", "rundir: /run/b\n");
    let two = sandbox.run(&["push", "conf"], 0);
    assert!(sandbox.error(&["activate", &two], 7).contains("resolver.yaml#/rundir differs"));
    sandbox.run(&["activate", &two, "--pointer-only"], 0);
    let error = sandbox.error(&["activate", "@"], 7);
    assert!(error.contains(&format!("differs from {}", &one[..8])), "{error}");
    // what cannot be compared is not taken for equal
    sandbox.run(&["activate", &one, "--pointer-only"], 0);
    sandbox.write("conf/resolver.yaml", "rundir: [\n");
    let error = sandbox.error(&["deploy", "conf"], 7);
    assert!(error.contains("cannot be compared") && error.contains("resolver.yaml:2:1"), "{error}");
}

#[test]
fn a22_what_nobody_confirms_goes_back_though_it_is_cold_only() {
    let (sandbox, one) = cold_only();
    sandbox.write("conf/resolver.yaml", "rundir: /run/b\n");
    let outcome = sandbox.json(&["deploy", "conf", "--cold", "--confirm-within", "100ms"], 0);
    assert_eq!(outcome["verdict"], "unconfirmed", "{outcome:#}");
    sandbox
        .wait("it goes back", |status| status["current"] == one.as_str() && status["activation"].is_null());
}

#[test]
fn a24_what_does_not_fit_into_memory_is_refused_with_figures_and_the_way_back_is_not() {
    let sandbox = managed();
    let worker = |memory: &str, body: &str| {
        let text = format!(
            "version: 1\nprobation: 0s\nworker: {{command: sleep 600, instances: 2, ready: {{after: 20ms}}, grace_shutdown_time: 0s{memory}}}\n"
        );
        sandbox.write("conf/pointsman.yaml", &text);
        sandbox.write("conf/body", body);
        sandbox.run(&["push", "conf"], 0)
    };
    let large = worker(", memory: 512TiB", "");
    let outcome = sandbox.json(&["activate", &large], 7);
    assert_eq!(
        (&outcome["verdict"], &outcome["stage"]),
        (&"refused".into(), &"preflight".into()),
        "{outcome:#}"
    );
    let reason = outcome["reason"].as_str().unwrap();
    let begins = "memory: needs about 1073741824 MiB for 2 instances more at once, ";
    assert!(reason.starts_with(begins) && reason.contains(" MiB are available; "), "{reason}");
    assert_eq!((sandbox.current(), slots(&sandbox).len()), (None, 0));

    let small = worker(", memory: 64MiB", "1");
    sandbox.run(&["activate", &small], 0);
    let error = sandbox.error(&["activate", &large], 7);
    assert!(error.contains("needs about 536870912 MiB for 1 instance more, "), "{error}");
    // who goes back must not be held up by a guess: told, and done
    let outcome = sandbox.json(&["rollback", &large], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    assert!(
        outcome["reason"].as_str().unwrap().contains("; memory: needs about 536870912 MiB"),
        "{outcome:#}"
    );
    assert_eq!(sandbox.json(&["restart"], 7)["stage"], "preflight");
    // what nobody has said is measured
    let silent = worker("", "2");
    let outcome = sandbox.json(&["activate", &silent], 0);
    assert!(!outcome["reason"].as_str().unwrap().contains("memory"), "{outcome:#}");
}

#[test]
fn a24_a_disk_that_is_nearly_full_refuses_a_change_but_not_the_way_back() {
    let sandbox = Sandbox::bare();
    sandbox.write("one/a", "1\n");
    sandbox.write("two/a", "2\n");
    // a small file system of its own, which goes with the shell
    let script = r#"
        mount -t tmpfs -o size=8m,nr_inodes=500 none small || exit 99
        p() { "$PROGRAM" --store small/store "$@"; }
        p init && one=$(p push one) && p activate $one && two=$(p push two) && p activate $two || exit 90
        head -c 20m /dev/zero > small/ballast; truncate -s -300k small/ballast
        p activate $one; echo "full: $?"
        p rollback; echo "back: $?"
        rm small/ballast
        i=0; while touch small/$i 2>/dev/null; do i=$((i+1)); done
        rm small/?
        p activate $two --force; echo "inodes: $?"
        rm small/??; p activate $two --force; echo "room: $?"
    "#;
    std::fs::create_dir(sandbox.path("small")).unwrap();
    let mut command = std::process::Command::new("unshare");
    command.args(["-m", "sh", "-c", script]).env("PROGRAM", common::PROGRAM).current_dir(sandbox.path(""));
    let output = command.output().unwrap();
    if output.status.code() != Some(0) && String::from_utf8_lossy(&output.stderr).contains("ermi") {
        return eprintln!("skipped: this machine does not let us mount a small file system");
    }
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    for line in ["full: 7", "back: 0", "inodes: 7", "room: 0"] {
        assert!(out.lines().any(|told| told == line), "{line}\nstdout: {out}\nstderr: {err}");
    }
    assert!(err.contains("needs about 1 MiB, ") && err.contains("needs about 16 inodes, "), "{err}");
    assert!(out.contains("small/store: needs about 1 MiB"), "told with the verdict: {out}");
}

/// A service with certificates outside of it, which its loader reads where `loader` says so.
fn with_external(loader: bool) -> (Sandbox, String) {
    let sandbox = managed();
    let glob = sandbox.path("etc/live/**").display().to_string();
    let mut text = format!("external: [\"{glob}\"]\n");
    if loader {
        let certificate = sandbox.path("etc/live/cert.pem").display().to_string();
        text.push_str(&format!(
            "loader:\n  command: [sh, -c, 'cp {certificate} {{loaded}}/']\n  if_changed: [\"{glob}\"]\n"
        ));
    }
    let check = sandbox.path("etc/archive").display().to_string();
    text.push_str(&format!("check: [sh, -c, '! grep -rq bad {check}']"));
    sandbox.write("etc/archive/1.pem", "one\n");
    sandbox.write("etc/archive/2.pem", "two\n");
    sandbox.write("etc/live/README", "\n");
    std::os::unix::fs::symlink("../archive/1.pem", sandbox.path("etc/live/cert.pem")).unwrap();
    pipeline(&sandbox, &text, &[("web", 2)]);
    let id = sandbox.run(&["push", "conf"], 0);
    sandbox.run(&["activate", &id], 0);
    (sandbox, id)
}

fn renew(sandbox: &Sandbox, to: &str) {
    std::fs::remove_file(sandbox.path("etc/live/cert.pem")).unwrap();
    std::os::unix::fs::symlink(format!("../archive/{to}"), sandbox.path("etc/live/cert.pem")).unwrap();
}

#[test]
fn a23_an_external_that_has_changed_is_shown_and_applied_by_activating_again() {
    let (sandbox, id) = with_external(false);
    let before = sandbox.workers();
    let glob = sandbox.path("etc/live/**").display().to_string();
    assert_eq!(sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
    assert_eq!(sandbox.status()["external"].as_array().unwrap().len(), 0);

    renew(&sandbox, "2.pem");
    let status = sandbox.status();
    assert_eq!(status["external"], serde_json::json!([glob]));
    let advice =
        format!("drift: {glob} is not as it was proven: `pointsman activate @` proves and applies it");
    assert!(status["advice"].as_array().unwrap().iter().any(|line| line == advice.as_str()), "{status:#}");
    assert_eq!(sandbox.workers(), before, "nothing happens by itself");
    assert_eq!(planned(&sandbox, "@", "web/1"), format!("replaced, {glob} is not as it was proven"));
    let outcome = sandbox.json(&["activate", "@"], 0);
    assert_eq!((&outcome["verdict"], &outcome["changed"]), (&"good".into(), &false.into()), "{outcome:#}");
    assert!(outcome["external"][&glob].as_str().unwrap().len() == 64, "{outcome:#}");
    let after = sandbox.workers();
    assert!(after.len() == 2 && after.values().all(|process| !before.values().any(|old| old == process)));
    assert_eq!(sandbox.status()["external"].as_array().unwrap().len(), 0);
    assert_eq!(sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
    assert_eq!(sandbox.current(), Some(id));
    // the same content by another name is no change
    std::fs::copy(sandbox.path("etc/archive/2.pem"), sandbox.path("etc/archive/3.pem")).unwrap();
    renew(&sandbox, "3.pem");
    assert_eq!(sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
}

#[test]
fn a23_a_bad_external_is_refused_every_time_and_the_workers_serve_on() {
    let (sandbox, _) = with_external(false);
    let before = sandbox.workers();
    sandbox.write("etc/archive/2.pem", "bad\n");
    renew(&sandbox, "2.pem");
    for _ in 0..2 {
        let outcome = sandbox.json(&["activate", "@"], 1);
        assert_eq!(
            (&outcome["verdict"], &outcome["stage"]),
            (&"failed".into(), &"canary".into()),
            "{outcome:#}"
        );
        assert!(outcome["external"].is_null(), "{outcome:#}");
    }
    assert_eq!(sandbox.workers(), before);
}

#[test]
fn a23_a_worker_that_fails_on_an_external_leaves_the_old_ones_be() {
    let sandbox = managed();
    sandbox.write("etc/key", "good\n");
    let key = sandbox.path("etc/key").display().to_string();
    let text = format!(
        "version: 1\nprobation: 0s\nexternal: [{key}]\nworker:\n  command: [sh, -c, 'grep -q good {key} && exec sleep 600']\n  \
         instances: 2\n  ready: {{after: 200ms}}\n  grace_shutdown_time: 0s\n"
    );
    sandbox.write("conf/pointsman.yaml", &text);
    sandbox.run(&["deploy", "conf"], 0);
    let before = sandbox.workers();
    sandbox.write("etc/key", "bad\n");
    let outcome = sandbox.json(&["activate", "@"], 1);
    assert_eq!(
        (&outcome["verdict"], &outcome["stage"]),
        (&"reverted".into(), &"workers".into()),
        "{outcome:#}"
    );
    assert_eq!(sandbox.workers(), before);
    // a restart is the same
    assert_eq!(sandbox.json(&["restart"], 1)["verdict"], "reverted");
    assert_eq!(sandbox.workers(), before);
}

#[test]
fn a23_an_external_is_a_section_of_the_loader() {
    let (sandbox, id) = with_external(true);
    let first = sandbox.json(&["history"], 0)["events"][0]["end"]["loaded"].clone();
    renew(&sandbox, "2.pem");
    let plan = sandbox.run(&["activate", "@", "--dry-run"], 0);
    assert!(plan.contains("run, there is no sealed output"), "{plan}");
    let outcome = sandbox.json(&["activate", &id], 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    assert_ne!(outcome["loaded"], first);
    let loaded = sandbox.path("store/loaded").join(outcome["loaded"].as_str().unwrap()).join("tree/cert.pem");
    assert_eq!(std::fs::read_to_string(loaded).unwrap(), "two\n");
}

#[test]
fn a23_what_cannot_be_read_is_refused_by_name_but_does_not_keep_from_going_back() {
    let (sandbox, one) = with_external(false);
    sandbox.write("conf/more", "1\n");
    let two = sandbox.json(&["deploy", "conf"], 0)["target"].as_str().unwrap().to_owned();
    // a link to itself leads nowhere and is not absent
    renew(&sandbox, "../live/cert.pem");
    for args in [&["activate", "@"][..], &["activate", &one]] {
        let outcome = sandbox.json(args, 7);
        assert_eq!(
            (&outcome["verdict"], &outcome["stage"]),
            (&"refused".into(), &"preflight".into()),
            "{outcome:#}"
        );
        let reason = outcome["reason"].as_str().unwrap();
        assert!(reason.starts_with("external ") && reason.contains("etc/live/cert.pem"), "{reason}");
    }
    assert!(sandbox.status()["advice"].to_string().contains("etc/live/cert.pem"));
    assert_eq!(sandbox.json(&["rollback", &one], 0)["verdict"], "good");
    assert_ne!(sandbox.current(), Some(two));
}

#[test]
fn a23_a_pointer_that_was_moved_by_hand_is_proven_where_no_worker_shows_it() {
    let sandbox = Sandbox::new();
    sandbox.write("conf/pointsman.yaml", "version: 1\ncheck: grep -q good {config}/a\n");
    sandbox.write("conf/a", "good\n");
    let one = sandbox.json(&["deploy", "conf"], 0)["target"].as_str().unwrap().to_owned();
    sandbox.write("conf/a", "bad\n");
    let two = sandbox.run(&["push", "conf"], 0);
    let by_hand = |id: &str| {
        std::fs::remove_file(sandbox.path("store/current")).unwrap();
        std::os::unix::fs::symlink(format!("generations/{id}/tree"), sandbox.path("store/current")).unwrap();
    };
    by_hand(&two);
    assert!(sandbox.status()["advice"].to_string().contains("nothing has proven what `current` names"));
    let outcome = sandbox.json(&["activate", "@"], 1);
    assert_eq!((&outcome["verdict"], &outcome["stage"]), (&"failed".into(), &"canary".into()), "{outcome:#}");
    sandbox.write("conf/a", "good, too\n");
    let three = sandbox.run(&["push", "conf"], 0);
    by_hand(&three);
    assert_eq!(sandbox.json(&["activate", "@"], 0)["verdict"], "good");
    assert_eq!(sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
    assert_eq!(sandbox.json(&["rollback"], 0)["serving"], one.as_str());
}
