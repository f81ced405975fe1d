//! Reads a [`Pipeline`] from its document, and refuses what cannot work, at its place.

use std::collections::BTreeMap;
use std::time::Duration;

use super::super::document::{DocumentError, quoted};
use super::super::duration;
use super::super::field::{Field, hint};
use super::super::placeholder::{self, is_socket_name};
use super::super::{Command, External, HttpUrl, Probe, RelPath, Section};
use super::{
    Group, Listen, Loader, Pipeline, Ready, Reload, Replace, Restart, RestartOn, Tell, canary, listen,
    surroundings,
};

const KEYS: [&str; 12] = [
    "version",
    "mount",
    "cold_only",
    "external",
    "check",
    "checks",
    "check_timeout",
    "canary",
    "loader",
    "worker",
    "workers",
    "probation",
];
const GROUP: [&str; 19] = [
    "command",
    "instances",
    "listen",
    "loaded",
    "env",
    "ready",
    "start_timeout",
    "grace_shutdown_time",
    "stop_signal",
    "replace",
    "reload",
    "restart",
    "watchdog",
    "memory",
    surroundings::KEYS[0],
    surroundings::KEYS[1],
    surroundings::KEYS[2],
    surroundings::KEYS[3],
    surroundings::KEYS[4],
];
pub(super) const READY: &str =
    "`notify`, {file: \"{run}/..\"}, {http: \"http://..\"}, {command: [..]} or {after: 2s}";
const SIGNALS: [&str; 7] = ["TERM", "QUIT", "INT", "HUP", "USR1", "USR2", "WINCH"];
const LIMIT: Duration = Duration::from_secs(30);
const PROBATION: Duration = Duration::from_secs(10);

/// What a placeholder can stand for at some place.
pub(super) struct Scope<'s> {
    pub(super) loader: bool,
    pub(super) sockets: Option<&'s Listen>,
    /// whether it is given the sockets, and not only told their addresses
    pub(super) passed: bool,
}

/// Reads a whole pipeline; `service` is the name of the group that `worker` is about.
pub(in crate::model) fn pipeline(root: &Field<'_>, service: &str) -> Result<Pipeline, DocumentError> {
    root.only("a map that begins with `version: 1`", &KEYS)?;
    let version = root.need("version", "write `version: 1`")?;
    if version.number(1..=1).is_err() {
        return Err(version.expected("1"));
    }
    let external = root.get("external").map_or(Ok(vec![]), |list| externals(&list))?;
    let loader = root.get("loader").map(|field| loader(&field, &external)).transpose()?;
    let scope = Scope { loader: loader.is_some(), sockets: None, passed: false };
    let workers = workers(root, service, loader.is_some())?;
    let canary = root.get("canary").map(|field| canary::read(&field, &workers, loader.is_some()));
    if let (Some(mount), Some((name, _))) =
        (root.get("mount"), workers.iter().find(|(_, group)| group.reload.is_some()))
    {
        return Err(mount.key_error(format!(
            "a mount cannot be changed under a running process, and `{name}` has `reload`: leave one of them out"
        )));
    }
    Ok(Pipeline {
        mount: root.get("mount").map(|field| mount(&field)).transpose()?,
        cold_only: root.get("cold_only").map_or(Ok(vec![]), |list| sections(&list))?,
        external,
        checks: checks(root, &scope)?,
        check_timeout: limit(root, "check_timeout", LIMIT)?,
        canary: canary.transpose()?,
        workers,
        probation: root.get("probation").map_or(Ok(PROBATION), |field| field.duration(false))?,
        loader,
    })
}

fn limit(field: &Field<'_>, key: &str, default: Duration) -> Result<Duration, DocumentError> {
    field.get(key).map_or(Ok(default), |field| field.duration(true))
}

fn mount(field: &Field<'_>) -> Result<String, DocumentError> {
    let text = field.text("an absolute path")?;
    match text.strip_prefix('/').map(RelPath::new) {
        Some(Ok(_)) => Ok(text.to_owned()),
        _ => Err(field.expected("an absolute path below / with no empty, `.` or `..` part")),
    }
}

fn checks(root: &Field<'_>, scope: &Scope<'_>) -> Result<Vec<Command>, DocumentError> {
    match (root.get("check"), root.get("checks")) {
        (Some(_), Some(both)) => Err(both.key_error("expected `check` or `checks`, found both")),
        (Some(one), None) => Ok(vec![command(&one, scope)?]),
        (None, Some(list)) => {
            let items = list.items("a list of commands")?;
            if items.is_empty() {
                return Err(list.error("expected at least one command, found an empty list"));
            }
            items.iter().map(|item| command(item, scope)).collect()
        }
        (None, None) => Ok(vec![]),
    }
}

fn loader(field: &Field<'_>, known: &[External]) -> Result<Loader, DocumentError> {
    field.only("a map with `command`", &["command", "if_changed", "timeout", "limits", "memory"])?;
    let line = field.need("command", "what to run")?;
    let scope = Scope { loader: true, sockets: None, passed: false };
    let command = command(&line, &scope)?;
    if !command.0.iter().any(|word| mentions(word, "loaded")) {
        return Err(line.error("expected `{loaded}` in it: the directory that the loader shall fill"));
    }
    let (mut if_changed, mut external) = (Vec::new(), Vec::new());
    for item in field.get("if_changed").map_or(Ok(vec![]), |list| list.items("a list of sections"))? {
        match known.iter().find(|known| item.as_str() == Some(known.as_str())) {
            Some(known) => external.push(known.clone()),
            None if item.as_str().is_some_and(|text| text.starts_with('/')) => {
                return Err(item.error("expected a glob of this generation, or one that `external` lists"));
            }
            None => if_changed.push(section(&item)?),
        }
    }
    let memory = field.get("memory").map(|field| field.size()).transpose()?;
    let surroundings = surroundings::read(field, memory, &scope)?;
    Ok(Loader { command, if_changed, external, timeout: limit(field, "timeout", LIMIT)?, surroundings })
}

fn sections(list: &Field<'_>) -> Result<Vec<Section>, DocumentError> {
    list.items("a list of sections")?.iter().map(section).collect()
}

fn section(item: &Field<'_>) -> Result<Section, DocumentError> {
    let text = item.text("a section like \"rules/**\" or \"resolver.yaml#/views\"")?;
    Section::parse(text).map_err(|why| item.error(why.to_string()))
}

fn externals(list: &Field<'_>) -> Result<Vec<External>, DocumentError> {
    let external = |item: &Field<'_>| {
        let text = item.text("a glob like \"/etc/letsencrypt/live/dns/**\"")?;
        External::parse(text).map_err(|why| item.error(why.to_string()))
    };
    list.items("a list of globs of absolute paths")?.iter().map(external).collect()
}

fn workers(root: &Field<'_>, service: &str, loader: bool) -> Result<BTreeMap<String, Group>, DocumentError> {
    match (root.get("worker"), root.get("workers")) {
        (Some(_), Some(both)) => Err(both.key_error("expected `worker` or `workers`, found both")),
        (Some(one), None) if !is_socket_name(service) => Err(one.key_error(format!(
            "the group would be named {} after the service, and a name has 1 to 32 of a-z 0-9 -: write `workers:` with a name",
            quoted(service)
        ))),
        (Some(one), None) => Ok([(service.to_owned(), group(&one, loader)?)].into()),
        (None, Some(all)) => {
            let mut groups = BTreeMap::new();
            for (name, field) in all.members("a map from group names to groups")? {
                if !is_socket_name(name) {
                    return Err(field.key_error("expected a group name of 1 to 32 of a-z 0-9 -"));
                }
                groups.insert(name.to_owned(), group(&field, loader)?);
            }
            if groups.is_empty() {
                return Err(all.error("expected at least one group, found an empty map"));
            }
            listen::agree(root, &groups)?;
            Ok(groups)
        }
        (None, None) => Ok(BTreeMap::new()),
    }
}

fn group(field: &Field<'_>, loader: bool) -> Result<Group, DocumentError> {
    field.only("a map with `command` and `ready`", &GROUP)?;
    let listen =
        field.get("listen").map_or(Ok(Listen::Sockets(BTreeMap::new())), |field| listen::read(&field))?;
    let scope = Scope { loader, sockets: Some(&listen), passed: true };
    let command = command(&field.need("command", "what to run")?, &scope)?;
    let env = field.get("env").map_or(Ok(BTreeMap::new()), |field| environment(&field, &scope))?;
    let start_timeout = limit(field, "start_timeout", LIMIT)?;
    let ready = field.need("ready", READY)?;
    let grace = field.get("grace_shutdown_time").map_or(Ok(LIMIT), |field| field.duration(false))?;
    let stop_signal = field.get("stop_signal").map_or(Ok("TERM".to_owned()), |field| signal(&field))?;
    let reload = field.get("reload").map(|field| reload(&field, &scope, start_timeout, &stop_signal));
    let reload = reload.transpose()?;
    let copies_loaded = field.get("loaded").map_or(Ok(false), |field| copies(&field, loader))?;
    if copies_loaded && reload.is_some() {
        return Err(field.error("`loaded: copy` is made when a process starts, and `reload` tells a running one: leave one of them out"));
    }
    let memory = field.get("memory").map(|field| field.size()).transpose()?;
    let surroundings = surroundings::read(field, memory, &scope)?;
    Ok(Group {
        command,
        surroundings,
        copies_loaded,
        instances: field.get("instances").map_or(Ok(1), |field| field.number(1..=1000))?,
        env,
        ready: readiness(&ready, &scope, start_timeout)?,
        start_timeout,
        grace_shutdown_time: grace,
        stop_signal,
        replace: field.get("replace").map_or(Ok(Replace::default()), |field| replace(&field))?,
        reload,
        restart: field.get("restart").map_or(Ok(Restart::default()), |field| restart(&field))?,
        watchdog: field.get("watchdog").map(|field| field.duration(true)).transpose()?,
        listen,
    })
}

fn environment(field: &Field<'_>, scope: &Scope<'_>) -> Result<BTreeMap<String, String>, DocumentError> {
    let mut env = BTreeMap::new();
    for (name, value) in field.members("a map from variables to texts")? {
        variable(&value, name, true)?;
        if matches!(scope.sockets, Some(Listen::Inherit(inherit)) if inherit == name) {
            return Err(
                value.key_error("expected another variable: `listen` inherits the sockets in this one")
            );
        }
        let text = value.text("text")?;
        placeholders(&value, text, scope)?;
        env.insert(name.to_owned(), text.to_owned());
    }
    Ok(env)
}

pub(super) fn variable(field: &Field<'_>, name: &str, is_key: bool) -> Result<(), DocumentError> {
    let error = |message: String| if is_key { field.key_error(message) } else { field.error(message) };
    let word = |b: u8| b.is_ascii_alphanumeric() || b == b'_';
    if name.is_empty() || name.as_bytes()[0].is_ascii_digit() || !name.bytes().all(word) {
        return Err(error(format!("expected a variable of letters, digits and _, found {}", quoted(name))));
    }
    if name.starts_with("LISTEN_")
        || name.starts_with("POINTSMAN_")
        || name.starts_with("WATCHDOG_")
        || name == "NOTIFY_SOCKET"
    {
        return Err(error(format!(
            "expected a variable that pointsman does not set itself, found {}",
            quoted(name)
        )));
    }
    Ok(())
}

fn readiness(field: &Field<'_>, scope: &Scope<'_>, start_timeout: Duration) -> Result<Ready, DocumentError> {
    let what = READY;
    if field.as_str() == Some("notify") {
        return Ok(Ready::Notify);
    }
    if !field.is_map() {
        return Err(field.expected(what));
    }
    field.only(what, &["file", "http", "command", "after"])?;
    if field.get("http").is_some() || field.get("command").is_some() {
        return Ok(Ready::Probe(probe(field, what, scope)?));
    }
    match (field.get("file"), field.get("after")) {
        (Some(file), None) => {
            let path = file.text("a path")?;
            placeholders(&file, path, &Scope { loader: scope.loader, sockets: None, passed: false })?;
            if !path.starts_with('/') && !path.starts_with("{run}/") {
                return Err(file.expected("a path that begins with / or {run}/"));
            }
            Ok(Ready::File(path.to_owned()))
        }
        (None, Some(after)) => {
            let time = after.duration(true)?;
            if time >= start_timeout {
                return Err(after.expected("less than start_timeout"));
            }
            Ok(Ready::After(time))
        }
        _ => Err(field.error(format!("expected one of {what}"))),
    }
}

/// `{http: URL}` or `{command: [..]}`: a question to a running worker.
pub(super) fn probe(field: &Field<'_>, what: &str, scope: &Scope<'_>) -> Result<Probe, DocumentError> {
    let scope = Scope { passed: false, ..*scope };
    match (field.get("http"), field.get("command"), field.members(what)?.len()) {
        (Some(http), None, 1) => {
            let text = http.text("a URL like http://127.0.0.1:8080/health")?;
            placeholders(&http, text, &scope)?;
            let address = |name: &str| match scope.sockets {
                Some(Listen::Sockets(sockets)) => sockets.get(name).map(|socket| socket.address.plain()),
                _ => None,
            };
            // as it may read when it is asked
            let lookup = |name: &str| match name.split_once(':') {
                Some((_, name)) => address(name),
                None => Some(format!("/{name}")),
            };
            let url = placeholder::expand(text, &lookup).map_err(|why| http.error(why.to_string()))?;
            HttpUrl::parse(&url).map_err(|why| {
                let what = "a URL like http://127.0.0.1:8080/health or http://unix:{run}/socket:/health";
                http.error(format!("expected {what}, found {} ({why})", quoted(text)))
            })?;
            Ok(Probe::Http(text.to_owned()))
        }
        (None, Some(line), 1) => Ok(Probe::Command(command(&line, &scope)?)),
        _ => Err(field.error(format!("expected one of {what}"))),
    }
}

fn copies(field: &Field<'_>, loader: bool) -> Result<bool, DocumentError> {
    match field.text("`copy` or `shared`")? {
        "copy" if !loader => Err(field.error("`copy` needs a `loader`, and the pipeline has none")),
        "copy" => Ok(true),
        "shared" => Ok(false),
        _ => Err(field.expected("`copy` or `shared`")),
    }
}

fn reload(
    field: &Field<'_>,
    scope: &Scope<'_>,
    start_timeout: Duration,
    stop_signal: &str,
) -> Result<Reload, DocumentError> {
    let what = "{if_only: [..], command: [..]} or {if_only: [..], signal: HUP, verify: ..}";
    field.only(what, &["if_only", "command", "signal", "verify"])?;
    let list = field.need("if_only", "the sections that it can be told of")?;
    let if_only = sections(&list)?;
    if if_only.is_empty() && !scope.loader {
        return Err(list.error("expected at least one section, found an empty list"));
    }
    let tell = match (field.get("command"), field.get("signal"), field.get("verify")) {
        (Some(line), None, None) => Tell::Command(command(&line, &Scope { passed: false, ..*scope })?),
        (None, Some(name), Some(verify)) => {
            let told = signal(&name)?;
            if told == stop_signal {
                return Err(name.expected("another signal than stop_signal"));
            }
            Tell::Signal { signal: told, verify: readiness(&verify, scope, start_timeout)? }
        }
        (None, Some(_), None) => {
            return Err(
                field.error("expected `verify` beside `signal`: a signal alone says nothing of how it went")
            );
        }
        _ => return Err(field.error(format!("expected {what}"))),
    };
    Ok(Reload { if_only, tell })
}

fn restart(field: &Field<'_>) -> Result<Restart, DocumentError> {
    field.only("a map with `on` and `backoff`", &["on", "backoff"])?;
    let mut restart = Restart::default();
    if let Some(on) = field.get("on") {
        restart.on = match on.as_str() {
            Some("failure") => RestartOn::Failure,
            Some("always") => RestartOn::Always,
            Some("never") => RestartOn::Never,
            _ => return Err(on.expected("`failure`, `always` or `never`")),
        };
    }
    if let Some(backoff) = field.get("backoff") {
        let range = backoff.as_str().and_then(|text| {
            let (first, longest) = text.split_once("..")?;
            Some((duration::parse(first).ok()?, duration::parse(longest).ok()?))
        });
        let range = range.filter(|(first, longest)| !first.is_zero() && first <= longest);
        (restart.first, restart.longest) =
            range.ok_or_else(|| backoff.expected("two durations like 1s..30s, the first not 0s"))?;
    }
    Ok(restart)
}

fn replace(field: &Field<'_>) -> Result<Replace, DocumentError> {
    match field.as_str() {
        Some("one-by-one") => Ok(Replace::OneByOne),
        Some("stop-first") => Ok(Replace::StopFirst),
        _ => Err(field.expected("`one-by-one` or `stop-first`")),
    }
}

fn signal(field: &Field<'_>) -> Result<String, DocumentError> {
    let what = format!("one of {}", SIGNALS.join(", "));
    let name = field.text(&what)?;
    if SIGNALS.contains(&name) {
        return Ok(name.to_owned());
    }
    let upper = name.to_ascii_uppercase();
    let near = hint(upper.strip_prefix("SIG").unwrap_or(&upper), &SIGNALS);
    Err(field.error(format!("expected {what}, found {}{near}", quoted(name))))
}

fn command(field: &Field<'_>, scope: &Scope<'_>) -> Result<Command, DocumentError> {
    let command = if field.is_list() {
        let items = field.items("a list of words")?;
        let mut words = Vec::new();
        for item in &items {
            let word = item.text("a word")?;
            placeholders(item, word, scope)?;
            words.push(word.to_owned());
        }
        Command::new(words)
    } else {
        let line = field.text("a command: a line or a list of words")?;
        placeholders(field, line, scope)?;
        Command::split(line)
    };
    command.map_err(|why| field.error(why.to_string()))
}

pub(super) fn placeholders(field: &Field<'_>, text: &str, scope: &Scope<'_>) -> Result<(), DocumentError> {
    for name in placeholder::names(text).map_err(|why| field.error(why.to_string()))? {
        if name == "loaded" && !scope.loader {
            return Err(field.error("`{loaded}` needs a `loader`, and the pipeline has none"));
        }
        let Some((_, socket)) = name.split_once(':') else { continue };
        match scope.sockets {
            Some(Listen::Sockets(_)) if name.starts_with("fd:") && !scope.passed => {
                return Err(field.error(format!(
                    "`{{{name}}}` has no meaning here: only the worker itself has its sockets; `{{addr:{socket}}}` has their address"
                )));
            }
            Some(Listen::Sockets(sockets)) if sockets.contains_key(socket) => {}
            Some(Listen::Sockets(sockets)) => {
                let known: Vec<&str> = sockets.keys().map(String::as_str).collect();
                let known = if known.is_empty() { "nothing".to_owned() } else { known.join(", ") };
                return Err(
                    field.error(format!("`{{{name}}}` needs `{socket}` in `listen`, which has {known}"))
                );
            }
            Some(Listen::Inherit(_)) => {
                return Err(field.error(format!(
                    "`{{{name}}}` needs addresses in `listen`: inherited sockets have no names"
                )));
            }
            None => {
                return Err(
                    field.error(format!("`{{{name}}}` has no meaning here: only workers have sockets"))
                );
            }
        }
    }
    Ok(())
}

/// Whether a word that was read has this placeholder in it.
pub(super) fn mentions(text: &str, name: &str) -> bool {
    placeholder::names(text).is_ok_and(|names| names.contains(&name))
}
