//! What is sealed stays as it is, also where everything runs as root. Rule W27 of `spec/workers.md`.
#![allow(clippy::disallowed_methods, clippy::unwrap_used, clippy::print_stderr)]

mod common;

use common::Sandbox;

/// Whether this process may make mounts: best known by trying.
fn may_mount() -> bool {
    let may = rustix::process::geteuid().is_root()
        && std::process::Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|it| it.success());
    if !may {
        eprintln!("skipped: needs the right to make mounts");
    }
    may
}

/// Writes to every way that leads into what is sealed, and says what came of it.
const TRIES: &str =
    "for way in {config} $POINTSMAN_RUN/config STORE/current {loaded} $POINTSMAN_RUN/loaded .; do
  touch $way/stain; rm -f $way/body; chmod 777 $way; echo tried $way; done";

fn deploy(sandbox: &Sandbox, pipeline: &str, code: i32) -> serde_json::Value {
    let pipeline = pipeline.replace("STORE", sandbox.path("store").to_str().unwrap());
    sandbox.write("dir/pointsman.yaml", &pipeline);
    sandbox.json(&["deploy", sandbox.path("dir").to_str().unwrap()], code)
}

fn mounts() -> String {
    std::fs::read_to_string("/proc/self/mountinfo").unwrap()
}

#[test]
fn w27_a_check_that_writes_into_its_generation_is_told_so() {
    if !may_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write("dir/body", "one\n");
    let before = mounts();
    let outcome = deploy(&sandbox, "version: 1\ncheck: touch {config}/stain\n", 1);
    assert_eq!((&outcome["verdict"], &outcome["stage"]), (&"failed".into(), &"canary".into()), "{outcome:#}");
    let reason = outcome["reason"].as_str().unwrap();
    assert!(reason.contains("touch:") && reason.contains("Read-only file system"), "{reason}");
    sandbox.run(&["verify"], 0);
    assert_eq!(mounts(), before, "no mount of it is seen outside");
}

#[test]
fn w27_loader_canary_and_workers_cannot_change_what_is_sealed() {
    if !may_mount() {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    sandbox.write("dir/body", "one\n");
    let before = mounts();
    let script = TRIES.replace('\n', " ");
    let pipeline = format!(
        "version: 1\nprobation: 0s\nloader:\n  command: ['sh', '-c', 'cp {{config}}/body {{loaded}}/made; touch {{config}}/stain; exit 0']\n\
         canary: {{probe: {{command: [test, -e, '{{run}}/ready']}}}}\n\
         worker:\n  command: ['sh', '-c', '{script} >$POINTSMAN_RUN/said 2>&1; mv $POINTSMAN_RUN/said $POINTSMAN_RUN/ready; exec sleep 1000']\n  \
         ready: {{file: '{{run}}/ready'}}\n"
    );
    let outcome = deploy(&sandbox, &pipeline, 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    let (_, process) = sandbox.workers().pop_first().unwrap();
    let runs = std::fs::read_dir(sandbox.path("store/run/p")).unwrap().flatten();
    let said: String =
        runs.filter_map(|run| std::fs::read_to_string(run.path().join("ready")).ok()).collect();
    assert_eq!(said.matches("tried ").count(), 6, "{said}");
    // touch and chmod each time, and rm where there is a body
    let refused = said.matches("Read-only file system").count();
    assert_eq!(refused, 6 * 2 + 4, "{said}");
    sandbox.run(&["verify"], 0);
    let root = sandbox.path("store/generations");
    let inside = std::fs::read_to_string(format!("/proc/{}/mountinfo", process.pid)).unwrap();
    assert!(inside.contains(root.to_str().unwrap()), "{inside}");
    assert_eq!(mounts(), before, "no mount of it is seen outside");
    assert_eq!(sandbox.json(&["activate", "@"], 0)["verdict"], "unchanged");
}

#[test]
fn w27_a_worker_that_is_told_reads_a_generation_that_came_later() {
    if !may_mount() {
        return;
    }
    let mut sandbox = Sandbox::new();
    sandbox.start_manager();
    sandbox.write("dir/body", "one\n");
    let script = "answer() { touch {config}/stain; cat {config}/body >answer.new; mv answer.new answer; }; \
                  trap answer HUP; answer; while :; do sleep 0.01; done";
    let pipeline = format!(
        "version: 1\nprobation: 0s\nworker:\n  command: ['sh', '-c', '{script}']\n  ready: {{file: '{{run}}/answer'}}\n  \
         reload: {{if_only: [body], signal: HUP, verify: {{file: '{{run}}/answer'}}}}\n"
    );
    assert_eq!(deploy(&sandbox, &pipeline, 0)["verdict"], "good");
    let before = sandbox.workers();
    sandbox.write("dir/body", "two\n");
    let outcome = deploy(&sandbox, &pipeline, 0);
    assert_eq!(outcome["verdict"], "good", "{outcome:#}");
    assert_eq!(sandbox.workers(), before, "it was told, not replaced");
    let runs = std::fs::read_dir(sandbox.path("store/run/p")).unwrap().flatten();
    let answers: Vec<String> =
        runs.filter_map(|run| std::fs::read_to_string(run.path().join("answer")).ok()).collect();
    assert_eq!(answers, ["two\n"]);
    sandbox.run(&["verify"], 0);
}

#[test]
fn w27_exec_cannot_change_it_either_and_may_write_elsewhere() {
    if !may_mount() {
        return;
    }
    let sandbox = Sandbox::new();
    sandbox.write("dir/body", "one\n");
    let id = sandbox.run(&["push", sandbox.path("dir").to_str().unwrap()], 0);
    let script = "touch {config}/stain; touch beside";
    let output = sandbox.output(&["exec", &id, "--", "sh", "-c", script], 0);
    assert!(String::from_utf8_lossy(&output.stderr).contains("Read-only file system"), "{output:?}");
    assert!(sandbox.path("beside").exists());
    // also from a directory in it
    let tree = sandbox.path(&format!("store/generations/{id}/tree"));
    let output = sandbox.command(&["exec", &id, "--", "touch", "stain"]).current_dir(tree).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stderr).contains("Read-only file system"), "{output:?}");
    sandbox.run(&["verify"], 0);
}
