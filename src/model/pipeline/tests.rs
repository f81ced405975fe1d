use proptest::prelude::*;

use super::super::Bounds;
use super::read::READY;
use super::*;

fn parse(text: &str) -> Result<Pipeline, String> {
    Pipeline::parse(text.as_bytes(), "p.yaml", "web").map_err(|error| error.to_string())
}

fn words(words: &[&str]) -> Command {
    Command(words.iter().map(|word| (*word).to_owned()).collect())
}

const RESOLVER: &str = r#"
version: 1
loader:
  command: [bin/load-rules, --rules, "{config}/rules", --out, "{loaded}"]
  if_changed: ["rules/**", "resolver.yaml#/views"]
  timeout: 60s
checks:
  - [kresd-check, "{config}/resolver.yaml"]
  - test -s {loaded}/data.mdb
check_timeout: 5s
workers:
  resolver:
    command: [kresd, -n, -c, "{config}/kresd.conf", -S, "{fd:dns}"]
    instances: 4
    listen: {dns: "udp://127.0.0.1:5353", dns-tcp: "tcp://127.0.0.1:5353"}
    env: {LANG: C, RULES: "{loaded}", AT: "{addr:dns-tcp}"}
    ready: notify
    start_timeout: 1m
    grace_shutdown_time: 0s
    memory: 256MiB
  helper:
    command: helper
    ready: {after: 500ms}
    replace: stop-first
    restart: {on: never, backoff: 100ms..1m}
    watchdog: 10s
probation: 0s
"#;

#[test]
fn p5_the_example_for_nginx_is_read() {
    let text = include_str!("../../../spec/examples/nginx/pointsman.yaml");
    let pipeline = Pipeline::parse(text.as_bytes(), "pointsman.yaml", "web").unwrap();
    let group = Group {
        command: words(&["nginx", "-g", "daemon off; pid {run}/nginx.pid;"]),
        instances: 1,
        listen: Listen::Inherit("NGINX".to_owned()),
        copies_loaded: false,
        env: BTreeMap::new(),
        ready: Ready::File("{run}/nginx.pid".to_owned()),
        start_timeout: Duration::from_secs(30),
        grace_shutdown_time: Duration::from_secs(30),
        stop_signal: "QUIT".to_owned(),
        replace: Replace::OneByOne,
        reload: None,
        restart: Restart::default(),
        watchdog: None,
        surroundings: Surroundings::default(),
    };
    let want = Pipeline {
        mount: Some("/etc/nginx".to_owned()),
        checks: vec![words(&["nginx", "-t", "-q", "-g", "pid {run}/check.pid;"])],
        workers: [("web".to_owned(), group)].into(),
        ..Pipeline::pointer_only()
    };
    assert_eq!(pipeline, want);
    let page = include_str!("../../../spec/pipeline.md");
    let block = page.split("```yaml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    assert_eq!(parse(block).unwrap(), want, "the one in spec/pipeline.md");
}

#[test]
fn p35_external_lists_globs_of_absolute_paths() {
    let text = "version: 1\nexternal: [\"/etc/a/**\", /etc/b]\nloader:\n  command: l {loaded}\n  if_changed: [c, /etc/b]";
    let pipeline = parse(text).unwrap();
    let (loader, shown) = (pipeline.loader.unwrap(), |all: &[External]| {
        all.iter().map(ToString::to_string).collect::<Vec<_>>()
    });
    assert_eq!(shown(&pipeline.external), ["/etc/a/**", "/etc/b"]);
    assert_eq!((shown(&loader.external), loader.if_changed.len()), (vec!["/etc/b".to_owned()], 1));
    assert_eq!(
        parse(&text.replace("[c, /etc/b]", "[c, /etc/c]")).unwrap_err(),
        "p.yaml:5:19: loader.if_changed[1]: expected a glob of this generation, or one that `external` lists"
    );
    let error = parse("version: 1\nexternal: [\"/**\"]").unwrap_err();
    assert_eq!(
        error,
        "p.yaml:2:12: external[0]: expected a directory before the first wildcard, found `/**`"
    );
}

#[test]
fn p36_memory_is_a_size() {
    let group =
        |memory: &str| parse(&format!("version: 1\nworker: {{command: a, ready: notify, memory: {memory}}}"));
    assert_eq!(group("1GiB").unwrap().workers["web"].surroundings.memory, Some(1 << 30));
    let error = group("256").unwrap_err();
    assert!(error.contains("worker.memory: ") && error.contains("write a unit: 256MiB"), "{error}");
}

#[test]
fn p17_a_group_says_who_and_where_it_is() {
    let group = |words: &str| {
        let text = format!(
            "version: 1\nloader: {{command: \"l {{loaded}}\", memory: 1GiB}}\nworker: {{command: a, ready: notify, {words}}}"
        );
        parse(&text).map(|mut pipeline| pipeline.workers.remove("web").unwrap().surroundings)
    };
    assert_eq!(group("").unwrap(), Surroundings::default());
    let all =
        group("user: www-data, group: 50, umask: \"027\", directory: \"{loaded}/x\", memory: 64MiB").unwrap();
    assert_eq!((all.user.as_deref(), all.group.as_deref()), (Some("www-data"), Some("50")));
    assert_eq!(
        (all.umask, all.directory.as_deref(), all.memory),
        (Some(0o27), Some("{loaded}/x"), Some(64 << 20))
    );
    assert_eq!(group("umask: \"0077\"").unwrap().umask, Some(0o77));
    let limits = group("limits: {nofile: {soft: 1024, hard: unlimited}, core: 0B}").unwrap();
    assert_eq!(limits.nofile, Some(Bounds { soft: Some(1024), hard: None }));
    assert_eq!(limits.core, Some(Bounds { soft: Some(0), hard: Some(0) }));
    for (words, want) in [
        ("user: \"\"", "user: expected a user: its name or number, found \"\""),
        ("user: \"a:b\"", "user: expected a user: its name or number, found \"a:b\""),
        ("group: -1", "group: expected a group: its name or number, found -1"),
        ("umask: 27", "umask: expected three octal digits in quotes, like \"027\", found 27"),
        ("umask: \"888\"", "umask: expected three octal digits in quotes, like \"027\", found \"888\""),
        (
            "directory: data",
            "directory: expected a path that begins with /, {run} or {config}, found \"data\"",
        ),
        (
            "directory: \"/{fd:http}\"",
            "directory: `{fd:http}` has no meaning here: only workers have sockets",
        ),
        ("limits: {nproc: 1}", "limits.nproc: unknown key, expected one of nofile, core"),
        ("limits: {nofile: 0}", "limits.nofile: expected a number from 1 to 1073741824, found 0"),
        (
            "limits: {nofile: {soft: 2, hard: 1}}",
            "limits.nofile.soft: expected not more than `hard`, found 2",
        ),
        ("limits: {nofile: {soft: 2}}", "limits.nofile: expected the key `hard` (how far it may be raised)"),
        ("limits: {core: 1}", "limits.core: expected a size like 256MiB, found 1 (write a unit: 1MiB)"),
    ] {
        assert_eq!(group(words).unwrap_err().split_once("worker.").unwrap().1, want, "{words}");
    }
    let loader = "version: 1\nloader: {command: \"l {loaded}\", user: web}";
    assert!(parse(loader).unwrap_err().contains("loader.user: unknown key"), "what it makes is the store's");
}

#[test]
fn p34_cold_only_names_sections() {
    let pipeline = parse("version: 1\ncold_only: [a, \"b.yaml#/c\"]").unwrap();
    assert_eq!(pipeline.cold_only.iter().map(Section::as_str).collect::<Vec<_>>(), ["a", "b.yaml#/c"]);
    assert_eq!(
        parse("version: 1\ncold_only: a").unwrap_err(),
        "p.yaml:2:12: cold_only: expected a list of sections, found \"a\""
    );
    assert!(parse("version: 1\ncold_only: [/a]").unwrap_err().starts_with("p.yaml:2:13: cold_only[0]: "));
}

#[test]
fn p5_every_word_is_read() {
    let pipeline = parse(RESOLVER).unwrap();
    let loader = pipeline.loader.as_ref().unwrap();
    assert_eq!(loader.timeout, Duration::from_secs(60));
    assert_eq!(
        loader.if_changed.iter().map(Section::as_str).collect::<Vec<_>>(),
        ["rules/**", "resolver.yaml#/views"]
    );
    assert_eq!(pipeline.checks[1], words(&["test", "-s", "{loaded}/data.mdb"]));
    assert_eq!((pipeline.check_timeout, pipeline.probation), (Duration::from_secs(5), Duration::ZERO));
    let resolver = &pipeline.workers["resolver"];
    let Listen::Sockets(sockets) = &resolver.listen else { panic!("{resolver:?}") };
    assert_eq!(sockets["dns"].address.to_string(), "udp://127.0.0.1:5353");
    assert_eq!((resolver.instances, resolver.grace_shutdown_time), (4, Duration::ZERO));
    assert_eq!(
        (resolver.surroundings.memory, pipeline.workers["helper"].surroundings.memory),
        (Some(256 << 20), None)
    );
    assert_eq!((&resolver.ready, resolver.start_timeout), (&Ready::Notify, Duration::from_secs(60)));
    assert!(resolver.needs_loaded() && !pipeline.workers["helper"].needs_loaded());
    assert_eq!(pipeline.workers["helper"].ready, Ready::After(Duration::from_millis(500)));
    assert_eq!(
        (resolver.replace, pipeline.workers["helper"].replace),
        (Replace::OneByOne, Replace::StopFirst)
    );
    assert_eq!(resolver.restart.on, RestartOn::Failure);
    let (first, longest) = (Duration::from_millis(100), Duration::from_secs(60));
    assert_eq!(pipeline.workers["helper"].watchdog, Some(Duration::from_secs(10)));
    assert_eq!(pipeline.workers["helper"].restart, Restart { on: RestartOn::Never, first, longest });
    assert_eq!(parse("version: 1").unwrap(), Pipeline::pointer_only());
}

#[test]
fn p25_a_socket_may_have_options() {
    let text = r#"version: 1
worker:
  command: a
  ready: notify
  listen:
    plain: "udp://127.0.0.1:53"
    web: {address: "tcp://[::]:80", backlog: 16, nonblocking: false, free_bind: true, v6only: false, receive_buffer: 1MiB}
    log: {address: "unix-dgram:///run/log", mode: "0620", owner: syslog, group: "4"}
"#;
    let pipeline = parse(text).unwrap();
    let Listen::Sockets(sockets) = &pipeline.workers["web"].listen else { panic!("{pipeline:?}") };
    assert_eq!(sockets["plain"], Socket::new("udp://127.0.0.1:53".parse().unwrap()));
    assert!(sockets["plain"].nonblocking && sockets["plain"].v6only);
    let web = Socket {
        backlog: 16,
        nonblocking: false,
        free_bind: true,
        v6only: false,
        receive_buffer: Some(1 << 20),
        ..Socket::new("tcp://[::]:80".parse().unwrap())
    };
    assert_eq!(sockets["web"], web);
    let log = &sockets["log"];
    assert_eq!((log.mode, log.owner.as_deref(), log.group.as_deref()), (0o620, Some("syslog"), Some("4")));
}

#[test]
fn p25_an_option_that_means_nothing_is_refused_at_its_place() {
    let refused = |options: &str| {
        let text =
            format!("version: 1\nworker: {{command: a, ready: notify, listen: {{a: {{{options}}}}}}}\n");
        let error = parse(&text).unwrap_err();
        error.split_once("worker.listen.").unwrap().1.to_owned()
    };
    let tcp = "address: \"tcp://127.0.0.1:80\"";
    let udp = "address: \"udp://127.0.0.1:80\"";
    let unix = "address: \"unix:///run/a\"";
    let mode = "a.mode: expected a mode like \"0660\", at most 0777, in quotes, found";
    for (options, want) in [
        ("backlog: 1".to_owned(), "a: expected the key `address` (an address like tcp://127.0.0.1:80, udp://[::1]:53 or unix:///run/x.sock)".to_owned()),
        (format!("{tcp}, freebind: true"), "a.freebind: unknown key, expected one of address, backlog, nonblocking, free_bind, v6only, receive_buffer, mode, owner, group (did you mean `free_bind`?)".to_owned()),
        (format!("{tcp}, mode: \"0660\""), "a.mode: `mode` means something of a unix socket only".to_owned()),
        (format!("{tcp}, v6only: true"), "a.v6only: `v6only` means something of an IPv6 address only".to_owned()),
        (format!("{udp}, backlog: 1"), "a.backlog: `backlog` means something of a socket that accepts connections only".to_owned()),
        (format!("{unix}, free_bind: true"), "a.free_bind: `free_bind` means something of an internet address only".to_owned()),
        (format!("{tcp}, backlog: 0"), "a.backlog: expected a number from 1 to 1048576, found 0".to_owned()),
        (format!("{tcp}, nonblocking: \"yes\""), "a.nonblocking: expected `true` or `false`, found \"yes\"".to_owned()),
        (format!("{unix}, mode: \"1777\""), format!("{mode} \"1777\"")),
        (format!("{unix}, mode: \"rw\""), format!("{mode} \"rw\"")),
        (format!("{unix}, owner: \"a:b\""), "a.owner: expected a name or a number in quotes, found \"a:b\"".to_owned()),
    ] {
        assert_eq!(refused(&options), want, "{options}");
    }
}

#[test]
fn p26_one_address_is_one_socket() {
    let two = |a: &str, b: &str| {
        let group = |listen: &str| format!("{{command: a, ready: notify, listen: {{s: {listen}}}}}");
        parse(&format!("version: 1\nworkers:\n  a: {}\n  b: {}\n", group(a), group(b)))
    };
    let (plain, closed) = ("\"tcp://[::]:80\"", "{address: \"tcp://[::]:80\", v6only: false}");
    assert!(two(plain, plain).is_ok() && two(closed, closed).is_ok());
    assert_eq!(
        two(plain, closed).unwrap_err(),
        "p.yaml:4:46: workers.b.listen.s: expected what `a` says of tcp://[::]:80, or another address: one address is one socket"
    );
    assert!(two("\"unix:///a\"", "\"unix-dgram:///a\"").is_err(), "one path");
    let twice = "version: 1\nworker:\n  command: a\n  ready: notify\n  listen: {a: \"unix:///x\", b: {address: \"unix:///x\"}}\n";
    assert!(parse(twice).unwrap_err().ends_with("expected an address of its own, found that of `a`"));
}

#[test]
fn p15_a_probe_is_a_url_or_a_command() {
    let ready = |ready: &str| {
        let listen = r#"{w: "tcp://[::1]:80", u: "unix:///run/u"}"#;
        let text = format!("version: 1\nworker: {{command: a, listen: {listen}, ready: {ready}}}\n");
        parse(&text).unwrap().workers["web"].ready.clone()
    };
    for url in
        ["http://{addr:w}/up", "http://unix:{run}/s:/", "http://unix:{addr:u}:/", "http://127.0.0.1:8080"]
    {
        assert_eq!(ready(&format!("{{http: \"{url}\"}}")), Ready::Probe(Probe::Http(url.to_owned())));
    }
    let want = Probe::Command(words(&["dig", "@{addr:w}", "health.test"]));
    assert_eq!(ready("{command: \"dig @{addr:w} health.test\"}"), Ready::Probe(want));
}

#[test]
fn p40_a_canary_tries_one_group() {
    let worker = "worker: {command: a, ready: notify, listen: {http: \"tcp://[::]:80\", udp: \"udp://127.0.0.1:53\"}}\n";
    let read =
        |canary: &str| parse(&format!("version: 1\ncanary: {canary}\n{worker}")).unwrap().canary.unwrap();
    let canary = read("{probe: {http: \"http://{addr:http}/health\"}}");
    assert_eq!((canary.worker.as_str(), canary.network), ("web", Network::Host));
    assert_eq!(canary.probe, Probe::Http("http://{addr:http}/health".to_owned()));
    let canary = read(
        "{worker: web, network: private, addresses: [10.0.0.1, \"fe00::1\"], probe: {command: [dig, \"@{addr:udp}\"]}}",
    );
    assert_eq!(canary.network, Network::Private);
    assert_eq!(canary.addresses.iter().map(ToString::to_string).collect::<Vec<_>>(), ["10.0.0.1", "fe00::1"]);
    assert_eq!(canary.probe, Probe::Command(words(&["dig", "@{addr:udp}"])));
}

#[test]
fn p41_a_group_may_want_copies() {
    let read = |loaded: &str| {
        let text = format!(
            "version: 1\nloader: {{command: \"l {{loaded}}\"}}\nworker: {{command: a, ready: notify{loaded}}}\n"
        );
        parse(&text).unwrap().workers["web"].copies_loaded
    };
    assert!(read(", loaded: copy") && !read(", loaded: shared") && !read(""));
}

#[test]
fn p16_a_reload_says_when_and_how() {
    let reload = |reload: &str| {
        let text = format!("version: 1\nworker: {{command: a, ready: notify, reload: {reload}}}\n");
        parse(&text).map(|pipeline| pipeline.workers["web"].reload.clone().unwrap())
    };
    let told =
        reload("{if_only: [\"rules/**\", \"a.yaml#/x\"], command: [tell, \"{run}/control\"]}").unwrap();
    assert_eq!(told.if_only.iter().map(Section::as_str).collect::<Vec<_>>(), ["rules/**", "a.yaml#/x"]);
    assert_eq!(told.tell, Tell::Command(words(&["tell", "{run}/control"])));
    let told = reload("{if_only: [a], signal: HUP, verify: {file: \"{run}/reloaded\"}}").unwrap();
    assert_eq!(
        told.tell,
        Tell::Signal { signal: "HUP".into(), verify: Ready::File("{run}/reloaded".into()) }
    );
    let what = "{if_only: [..], command: [..]} or {if_only: [..], signal: HUP, verify: ..}";
    for (text, want) in [
        (
            "{if_only: [a], signal: HUP}",
            "expected `verify` beside `signal`: a signal alone says nothing of how it went",
        ),
        ("{if_only: [a], verify: notify}", &format!("expected {what}")),
        ("{if_only: [a]}", &format!("expected {what}")),
        ("{if_only: [], command: a}", "expected at least one section, found an empty list"),
        (
            "{if_only: [a], signal: TERM, verify: notify}",
            "expected another signal than stop_signal, found \"TERM\"",
        ),
        ("{command: a}", "expected the key `if_only` (the sections that it can be told of)"),
    ] {
        assert!(reload(text).unwrap_err().ends_with(want), "{text}: {}", reload(text).unwrap_err());
    }
    let both = "version: 1\nmount: /etc/a\nworker: {command: a, ready: notify, reload: {if_only: [a], command: b}}\n";
    assert_eq!(
        parse(both).unwrap_err(),
        "p.yaml:2:1: mount: a mount cannot be changed under a running process, and `web` has `reload`: leave one of them out"
    );
}

#[test]
fn p4_every_refusal_says_where_and_what() {
    let top = "version, mount, cold_only, external, check, checks, check_timeout, canary, loader, worker, workers, probation";
    let group = "command, instances, listen, loaded, env, ready, start_timeout, grace_shutdown_time, stop_signal, replace, reload, restart, watchdog, memory, user, group, umask, directory, limits";
    let url = "a URL like http://127.0.0.1:8080/health or http://unix:{run}/socket:/health";
    let signals = "TERM, QUIT, INT, HUP, USR1, USR2, WINCH";
    let address = "an address like tcp://127.0.0.1:80, udp://[::1]:53 or unix:///run/x.sock";
    let ready = READY;
    // above `worker:` in each of these stand two lines
    let worker = |rest: &str| format!("version: 1\nworker:\n  {}\n", rest.replace('\n', "\n  "));
    let loader = |rest: &str| format!("version: 1\nloader:\n  {}\n", rest.replace('\n', "\n  "));
    let canary = |canary: &str| {
        format!(
            "version: 1\ncanary: {canary}\nworker:\n  command: a\n  ready: notify\n  listen: {{http: \"tcp://[::1]:80\"}}\n"
        )
    };
    let top_level = |rest: &str| format!("version: 1\n{rest}\n");
    let cases: Vec<(String, String)> = vec![
        // the document
        (String::new(), "1:1: expected a map that begins with `version: 1`, found nothing".into()),
        ("[]".into(), "1:1: expected a map that begins with `version: 1`, found a list".into()),
        ("check: a".into(), "1:1: expected the key `version` (write `version: 1`)".into()),
        ("version: 2".into(), "1:10: version: expected 1, found 2".into()),
        ("version: '1'".into(), "1:10: version: expected 1, found \"1\"".into()),
        (top_level("wokers: {}"), format!("2:1: wokers: unknown key, expected one of {top} (did you mean `workers`?)")),
        // the canary
        (top_level("canary: {probe: {command: a}}"), "2:1: canary: expected a worker to try, found a pipeline without any".into()),
        (canary("{}"), "2:9: canary: expected the key `probe` ({command: [..]} or {http: url})".into()),
        (canary("{probe: a}"), "2:17: canary.probe: expected {command: [..]} or {http: url}, found \"a\"".into()),
        (canary("{probe: {}}"), "2:17: canary.probe: expected one of {command: [..]} or {http: url}".into()),
        (canary("{worker: b, probe: {command: a}}"), "2:18: canary.worker: expected one of the groups: web, found \"b\"".into()),
        (canary("{network: none, probe: {command: a}}"), "2:19: canary.network: expected `host` or `private`, found \"none\"".into()),
        (canary("{addresses: [127.0.0.2], probe: {command: a}}"), "2:10: canary.addresses: expected `network: private` with it: only there are addresses made".into()),
        (canary("{network: private, addresses: [\"127.0.0.2:80\"], probe: {command: a}}"), "2:40: canary.addresses[0]: expected an IP address without a port, found \"127.0.0.2:80\"".into()),
        (canary("{probe: {command: \"a {fd:http}\"}}"), "2:27: canary.probe.command: `{fd:http}` has no meaning here: only the worker itself has its sockets; `{addr:http}` has their address".into()),
        (canary("{probe: {command: \"a {addr:dns}\"}}"), "2:27: canary.probe.command: `{addr:dns}` needs `dns` in `listen`, which has http".into()),
        (canary("{probe: {http: \"http://localname/\"}}"), "2:24: canary.probe.http: expected a URL like http://127.0.0.1:8080/health or http://unix:{run}/socket:/health, found \"http://localname/\" (the address is numeric, like 127.0.0.1:80 or [::1]:80)".into()),
        (worker("command: a\nready: notify\nlisten: {inherit: A}\n").replace("worker:", "canary: {probe: {command: a}}\nworker:"), "2:9: canary: `web` binds its sockets by itself (`inherit`), where the clients are: write `network: private`".into()),
        (worker("command: a\nready: notify\nloaded: copy"), "5:11: worker.loaded: `copy` needs a `loader`, and the pipeline has none".into()),
        (worker("command: a\nready: notify\nloaded: link"), "5:11: worker.loaded: expected `copy` or `shared`, found \"link\"".into()),
        (top_level("mount: etc/nginx"), "2:8: mount: expected an absolute path below / with no empty, `.` or `..` part, found \"etc/nginx\"".into()),
        (top_level("mount: /etc/../x"), "2:8: mount: expected an absolute path below / with no empty, `.` or `..` part, found \"/etc/../x\"".into()),
        (top_level("mount: /"), "2:8: mount: expected an absolute path below / with no empty, `.` or `..` part, found \"/\"".into()),
        (top_level("mount:"), "2:7: mount: expected an absolute path, found nothing".into()),
        // durations
        (top_level("probation: 30"), "2:12: probation: expected a duration like 30s or 500ms, found 30 (write a unit: 30s)".into()),
        (top_level("probation: 1w"), "2:12: probation: expected a duration like 30s or 500ms, found \"1w\" (write a whole number and one of ms, s, m, h, d)".into()),
        (top_level("probation: 200h"), "2:12: probation: expected a duration like 30s or 500ms, found \"200h\" (at most 7d)".into()),
        (top_level("probation: [1s]"), "2:12: probation: expected a duration like 30s or 500ms, found a list".into()),
        (top_level("check_timeout: 0s"), "2:16: check_timeout: expected a duration of more than 0s, found \"0s\"".into()),
        // commands
        (top_level("check: [a]\nchecks: [[a]]"), "3:1: checks: expected `check` or `checks`, found both".into()),
        (top_level("checks: []"), "2:9: checks: expected at least one command, found an empty list".into()),
        (top_level("checks: a"), "2:9: checks: expected a list of commands, found \"a\"".into()),
        (top_level("checks:\n  - a\n  - b 'c"), "4:5: checks[1]: expected a closing '".into()),
        (top_level("check: []"), "2:8: check: expected a command, found no word".into()),
        (top_level("check: {a: b}"), "2:8: check: expected a command: a line or a list of words, found a map".into()),
        (top_level("check: [a, -n, 4]"), "2:16: check[2]: expected a word, found 4 (write it in quotes)".into()),
        (top_level("check: a && b"), "2:8: check: there is no shell to read `&&`: quote it, or put the line into a script of the generation".into()),
        // placeholders
        (top_level("check: [a, \"{conf}\"]"), "2:12: check[1]: `{conf}` is no placeholder: {config}, {loaded}, {run}, {fd:NAME} and {addr:NAME} are (put literal braces into a script of the generation)".into()),
        (top_level("check: a {loaded}"), "2:8: check: `{loaded}` needs a `loader`, and the pipeline has none".into()),
        (top_level("check: a {fd:dns}"), "2:8: check: `{fd:dns}` has no meaning here: only workers have sockets".into()),
        (worker("command: a {fd:dns}\nready: notify"), "3:12: worker.command: `{fd:dns}` needs `dns` in `listen`, which has nothing".into()),
        (worker("command: a\nlisten: {web: \"tcp://[::1]:80\"}\nenv:\n  A: \"{addr:dns}\"\nready: notify"), "6:8: worker.env.A: `{addr:dns}` needs `dns` in `listen`, which has web".into()),
        (worker("command: a {fd:a}\nlisten: {inherit: A}\nready: notify"), "3:12: worker.command: `{fd:a}` needs addresses in `listen`: inherited sockets have no names".into()),
        // the loader
        (loader("command: a"), "3:12: loader.command: expected `{loaded}` in it: the directory that the loader shall fill".into()),
        (loader("timeout: 1s"), "3:3: loader: expected the key `command` (what to run)".into()),
        (loader("command: a {loaded}\nif_changed: rules"), "4:15: loader.if_changed: expected a list of sections, found \"rules\"".into()),
        (loader("command: a {loaded}\nif_changed: [\"/x\"]"), "4:16: loader.if_changed[0]: expected a glob of this generation, or one that `external` lists".into()),
        (loader("comand: a"), "3:3: loader.comand: unknown key, expected one of command, if_changed, timeout, limits, memory (did you mean `command`?)".into()),
        // workers
        (top_level("worker: {}\nworkers: {}"), "3:1: workers: expected `worker` or `workers`, found both".into()),
        (top_level("worker:"), "2:8: worker: expected a map with `command` and `ready`, found nothing".into()),
        (top_level("workers: {}"), "2:10: workers: expected at least one group, found an empty map".into()),
        (top_level("workers: {Web: {}}"), "2:11: workers.Web: expected a group name of 1 to 32 of a-z 0-9 -".into()),
        (worker("ready: notify"), "3:3: worker: expected the key `command` (what to run)".into()),
        (worker("command: a"), format!("3:3: worker: expected the key `ready` ({ready})")),
        (worker("command: a\nready: notify\nnice: x"), format!("5:3: worker.nice: unknown key, expected one of {group}")),
        (worker("command: a\nready: notify\ninstances: many"), "5:14: worker.instances: expected a number from 1 to 1000, found \"many\"".into()),
        (worker("command: a\nready: notify\ninstances: 0"), "5:14: worker.instances: expected a number from 1 to 1000, found 0".into()),
        (worker("command: a\nready: notify\ninstances: 1.5"), "5:14: worker.instances: expected a number from 1 to 1000, found 1.5".into()),
        (worker("command: a\nready: notify\nstop_signal: SIGQUIT"), format!("5:16: worker.stop_signal: expected one of {signals}, found \"SIGQUIT\" (did you mean `QUIT`?)")),
        (worker("command: a\nready: notify\nstop_signal: KILL"), format!("5:16: worker.stop_signal: expected one of {signals}, found \"KILL\"")),
        (worker("command: a\nready: notify\nreplace: all"), "5:12: worker.replace: expected `one-by-one` or `stop-first`, found \"all\"".into()),
        (worker("command: a\nready: notify\nrestart: always"), "5:12: worker.restart: expected a map with `on` and `backoff`, found \"always\"".into()),
        (worker("command: a\nready: notify\nrestart: {on: crash}"), "5:17: worker.restart.on: expected `failure`, `always` or `never`, found \"crash\"".into()),
        (worker("command: a\nready: notify\nrestart: {backoff: 5s..1s}"), "5:22: worker.restart.backoff: expected two durations like 1s..30s, the first not 0s, found \"5s..1s\"".into()),
        (worker("command: a\nready: notify\nrestart: {backoff: 5s}"), "5:22: worker.restart.backoff: expected two durations like 1s..30s, the first not 0s, found \"5s\"".into()),
        // readiness
        (worker("command: a\nready: now"), format!("4:10: worker.ready: expected {ready}, found \"now\"")),
        (worker("command: a\nready: {tcp: x}"), "4:11: worker.ready.tcp: unknown key, expected one of file, http, command, after (did you mean `http`?)".into()),
        (worker("command: a\nready: {http: x}"), format!("4:17: worker.ready.http: expected {url}, found \"x\" (write http://; there is no TLS here)")),
        (worker("command: a\nready: {http: \"http://example.com/\"}"), format!("4:17: worker.ready.http: expected {url}, found \"http://example.com/\" (the address is numeric, like 127.0.0.1:80 or [::1]:80)")),
        (worker("command: a\nlisten: {u: \"unix:///run/u\"}\nready: {http: \"http://{addr:u}/\"}"), format!("5:17: worker.ready.http: expected {url}, found \"http://{{addr:u}}/\" (the address is numeric, like 127.0.0.1:80 or [::1]:80)")),
        (worker("command: a\nready: {http: \"http://{addr:w}/\"}"), "4:17: worker.ready.http: `{addr:w}` needs `w` in `listen`, which has nothing".into()),
        (worker("command: a\nlisten: {w: \"tcp://[::1]:80\"}\nready: {command: [a, \"{fd:w}\"]}"), "5:24: worker.ready.command[1]: `{fd:w}` has no meaning here: only the worker itself has its sockets; `{addr:w}` has their address".into()),
        (worker("command: a\nready: {command: a, http: x}"), format!("4:10: worker.ready: expected one of {ready}")),
        (worker("command: a\nready: {command: a, after: 1s}"), format!("4:10: worker.ready: expected one of {ready}")),
        (worker("command: a\nready: {}"), format!("4:10: worker.ready: expected one of {ready}")),
        (worker("command: a\nready: {file: x.pid}"), "4:17: worker.ready.file: expected a path that begins with / or {run}/, found \"x.pid\"".into()),
        (worker("command: a\nready: {after: 30s}"), "4:18: worker.ready.after: expected less than start_timeout, found \"30s\"".into()),
        // sockets
        (worker("command: a\nready: notify\nlisten: [x]"), "5:11: worker.listen: expected a map from names to addresses, or {inherit: VARIABLE}, found a list".into()),
        (worker("command: a\nready: notify\nlisten: {a: \"tcp://x:1\"}"), format!("5:15: worker.listen.a: expected {address}, found \"tcp://x:1\" (write a numeric address and a port, like 127.0.0.1:80 or [::1]:80)")),
        (worker("command: a\nready: notify\nlisten: {a: 80}"), format!("5:15: worker.listen.a: expected {address}, found 80 (write it in quotes)")),
        (worker("command: a\nready: notify\nlisten: {A: \"tcp://[::]:1\"}"), "5:12: worker.listen.A: expected a socket name of 1 to 32 of a-z 0-9 -".into()),
        (worker("command: a\nready: notify\nlisten: {a: \"tcp://[::]:1\", b: \"tcp://[::]:1\"}"), "5:34: worker.listen.b: expected an address of its own, found that of `a`".into()),
        (worker("command: a\nready: notify\nlisten: {a: \"tcp://[::]:1\", inherit: X}"), "5:31: worker.listen.inherit: expected `inherit` alone: the program binds all of its sockets".into()),
        (worker("command: a\nready: notify\nlisten: {inherit: LISTEN_FDS}"), "5:21: worker.listen.inherit: expected a variable that pointsman does not set itself, found \"LISTEN_FDS\"".into()),
        // the environment
        (worker("command: a\nready: notify\nenv: {1A: x}"), "5:9: worker.env.1A: expected a variable of letters, digits and _, found \"1A\"".into()),
        (worker("command: a\nready: notify\nwatchdog: 0s"), "5:13: worker.watchdog: expected a duration of more than 0s, found \"0s\"".into()),
        (worker("command: a\nready: notify\nenv: {NOTIFY_SOCKET: x}"), "5:9: worker.env.NOTIFY_SOCKET: expected a variable that pointsman does not set itself, found \"NOTIFY_SOCKET\"".into()),
        (worker("command: a\nready: notify\nenv: {PORT: 80}"), "5:15: worker.env.PORT: expected text, found 80 (write it in quotes)".into()),
        (worker("command: a\nready: notify\nenv: {A: \"x\\0y\"}"), "5:12: worker.env.A: expected text without NUL characters".into()),
        (worker("command: a\nready: notify\nlisten: {inherit: A}\nenv: {A: x}"), "6:9: worker.env.A: expected another variable: `listen` inherits the sockets in this one".into()),
    ];
    for (text, want) in cases {
        assert_eq!(parse(&text).expect_err(&text), format!("p.yaml:{want}"), "in\n{text}");
    }
    let error =
        Pipeline::parse(worker("command: a\nready: notify").as_bytes(), "p.yaml", "my_web").unwrap_err();
    assert_eq!(
        error.to_string(),
        "p.yaml:2:1: worker: the group would be named \"my_web\" after the service, and a name has 1 to 32 of a-z 0-9 -: write `workers:` with a name"
    );
}

#[test]
fn p13_the_loaded_key_is_of_everything_that_goes_in() {
    use super::super::{Class, Entry, Node};
    let file = |path: &str, text: &str| {
        let hash = ContentHash::of(text.as_bytes());
        let node = Node::File { class: Class::Public, executable: false, len: 1, hash };
        Entry { path: RelPath::new(path).unwrap(), node }
    };
    let outside = std::cell::Cell::new("1");
    let key = |text: &str, files: &[(&str, &'static str)], program: &[u8]| {
        let manifest = Manifest::new(files.iter().map(|(path, text)| file(path, text))).unwrap();
        let mut read = |path: &RelPath| {
            let found = files.iter().find(|(name, _)| *name == path.as_str()).unwrap();
            Ok::<_, std::convert::Infallible>(found.1.as_bytes().to_vec())
        };
        let external = |_: &External| Ok(ContentHash::of(outside.get().as_bytes()));
        parse(text).unwrap().loaded_key(&manifest, ContentHash::of(program), &external, &mut read).unwrap()
    };
    let some = "version: 1\nloader: {command: \"load {loaded}\", if_changed: [\"a\", \"b.yaml#/x\"]}\n";
    let all = "version: 1\nloader: {command: \"load {loaded}\"}\n";
    let files = [("a", "1"), ("b.yaml", "x: 1\ny: 1"), ("c", "1")];
    let one = key(some, &files, b"program").unwrap();
    let changed = |at: usize, text: &'static str| {
        let mut files = files;
        files[at].1 = text;
        files
    };
    assert_eq!(one, key(some, &changed(2, "2"), b"program").unwrap());
    assert_eq!(one, key(some, &changed(1, "y: 2 # new\nx: 1"), b"program").unwrap());
    assert_ne!(one, key(some, &changed(1, "x: 2"), b"program").unwrap());
    assert_ne!(one, key(some, &changed(0, "2"), b"program").unwrap());
    assert_ne!(one, key(some, &files, b"another").unwrap());
    assert_ne!(one, key(&some.replace("load ", "load -v "), &files, b"program").unwrap());
    assert_ne!(one, key(&format!("{some}mount: /etc/x\n"), &files, b"program").unwrap());
    assert_eq!(one, key(&format!("{some}check: a\n"), &files, b"program").unwrap());
    assert_ne!(key(all, &files, b"p"), key(all, &changed(2, "2"), b"p"));
    assert_eq!(key("version: 1", &files, b"p"), None);
    // what is external counts where it is named, and where nothing is
    let named = format!("{some}external: [/etc/x, /etc/y]\n").replace("[\"a\", ", "[\"a\", /etc/x, ");
    let texts =
        [some.to_owned(), format!("{some}external: [/etc/x]\n"), named, format!("{all}external: [/etc/x]\n")];
    let keys = || texts.iter().map(|text| key(text, &files, b"p").unwrap()).collect::<Vec<_>>();
    let before = keys();
    assert_eq!(before[0], before[1]);
    outside.set("2");
    let same: Vec<bool> = keys().iter().zip(&before).map(|(now, before)| now == before).collect();
    assert_eq!(same, [true, true, false, false]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn p4_no_mutation_makes_the_reader_panic(
        at in 0_usize..1000,
        cut in 0_usize..12,
        with in "[a-z0-9{}\\[\\]:,\"'&*!|>#~\n -]{0,6}",
    ) {
        let mut bytes = RESOLVER.as_bytes().to_vec();
        let at = at.min(bytes.len());
        let end = (at + cut).min(bytes.len());
        bytes.splice(at..end, with.into_bytes());
        bytes.splice(0..0, *b"#\n");
        if let Err(error) = Pipeline::parse(&bytes, "p.yaml", "web") {
            let text = String::from_utf8_lossy(&bytes);
            prop_assert!(error.line >= 1 && error.line <= text.matches('\n').count() + 2, "{}", error);
            prop_assert!(error.column >= 1 && !error.message.is_empty(), "{}", error);
            if !error.path.is_empty() {
                // a place that was looked for was found, not made up
                prop_assert!(error.line > 1, "{} in {}", error, text);
            }
        }
    }
}
