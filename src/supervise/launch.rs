//! Makes the final words of one start out of a [`Launch`] and what this process is given: pure, so that the start itself has nothing left to decide.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::model::Address;

use super::exec::{FIRST_FD, Mount, Start};
use super::surroundings::{self, Settings};
use super::wire::{Launch, WorkerSpec};

/// What one process is given besides its [`Launch`].
#[derive(Default)]
pub(super) struct Given<'a> {
    /// its own fresh directory
    pub(super) run: &'a str,
    /// the worker it is, for its environment
    pub(super) worker: Option<&'a WorkerSpec>,
    /// the sockets at 3, 4, .. by name
    pub(super) sockets: Vec<(&'a str, &'a Address)>,
    /// the variable that offers its predecessor's sockets, and how many
    pub(super) inherited: Option<(&'a str, usize)>,
    /// it is no worker, but about the running worker of this pid: addresses are told, sockets not passed
    pub(super) about: Option<u32>,
    /// where it says `READY=1`
    pub(super) notify: Option<&'a Path>,
    /// a directory that is removed after it, where `run` is another process's
    pub(super) scratch: Option<&'a Path>,
    /// dies with the thread of this process that starts it
    pub(super) parent: Option<u32>,
    /// its `{loaded}` is a writable copy in `run`; made for it, unless it is about another
    pub(super) copies_loaded: bool,
}

impl Given<'_> {
    /// Whether it is for a worker that is told of other generations while it runs.
    fn is_told(&self) -> bool {
        self.worker.is_some_and(|worker| worker.tell.is_some())
    }
}

/// Words that cannot be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum LaunchError {
    #[error("`{text}`: nothing is known as {{{name}}} here")]
    Unknown { text: String, name: String },
    #[error("{} is not UTF-8", path.display())]
    NotText { path: PathBuf },
}

/// The start of `launch` as the process that is given `given`.
pub(super) fn start(launch: &Launch, given: &Given<'_>) -> Result<Start, LaunchError> {
    let words = Words::of(launch, given)?;
    let copies = given.copies_loaded && given.about.is_none();
    let copy = launch
        .loaded
        .as_ref()
        .zip(words.loaded.as_ref())
        .filter(|_| copies)
        .map(|(source, target)| Mount { source: source.clone(), target: PathBuf::from(target) });
    let (config, loaded) = (words.config.clone(), words.loaded.clone());
    let lookup = |name: &str| words.lookup(name, given);
    let mut argv =
        launch.command.0.iter().map(|word| expand(word, &lookup)).collect::<Result<Vec<String>, _>>()?;
    // in a generation it would stay when it is told of another one
    let otherwise = if given.is_told() { Path::new(given.run) } else { &launch.config };
    let directory = surroundings::directory(launch, otherwise, |text| expand(text, &lookup))?;
    // a relative name is one of the configuration, wherever it starts
    let relative = |program: &&mut String| program.contains('/') && !program.starts_with('/');
    if let Some(program) = argv.first_mut().filter(relative).filter(|_| directory != launch.config) {
        *program = format!("{config}/{program}");
    }

    let mut env = plain_environment();
    env.insert("POINTSMAN_CONFIG".into(), config.clone());
    env.insert("POINTSMAN_RUN".into(), given.run.to_owned());
    env.extend(loaded.clone().map(|loaded| ("POINTSMAN_LOADED".into(), loaded)));
    if let Some(worker) = given.worker {
        env.insert("POINTSMAN_GROUP".into(), worker.slot.group.clone());
        env.insert("POINTSMAN_INSTANCE".into(), worker.slot.instance.to_string());
        env.insert("POINTSMAN_GENERATION".into(), worker.generation.to_string());
    }
    // who only asks has no sockets: what names their numbers is not for it
    let about_sockets = |value: &str| given.about.is_some() && value.contains("{fd:");
    for (name, value) in launch.env.iter().filter(|(_, value)| !about_sockets(value)) {
        env.insert(name.clone(), expand(value, &lookup)?);
    }
    let passes = !given.sockets.is_empty() && given.about.is_none();
    if passes {
        let names: Vec<&str> = given.sockets.iter().map(|(name, _)| *name).collect();
        env.insert("LISTEN_FDS".into(), given.sockets.len().to_string());
        env.insert("LISTEN_FDNAMES".into(), names.join(":"));
    }
    if let Some((variable, count)) = given.inherited.filter(|(_, count)| *count > 0) {
        let fds = (FIRST_FD..FIRST_FD + count).map(|fd| format!("{fd};")).collect();
        env.insert(variable.to_owned(), fds);
    }
    if let Some(pid) = given.about {
        env.insert("POINTSMAN_PID".into(), pid.to_string());
    }
    if let Some(scratch) = given.scratch {
        env.insert("POINTSMAN_SCRATCH".into(), text(scratch)?);
    }
    if let Some(notify) = given.notify {
        env.insert("NOTIFY_SOCKET".into(), text(notify)?);
    }
    let watchdog = given.worker.and_then(|worker| worker.watchdog).filter(|_| given.notify.is_some());
    if let Some(watchdog) = watchdog {
        env.insert("WATCHDOG_USEC".into(), watchdog.as_micros().to_string());
    }
    Ok(Start {
        argv,
        env,
        sockets: given.inherited.map_or(if passes { given.sockets.len() } else { 0 }, |(_, count)| count),
        listen_pid: passes,
        watchdog_pid: watchdog.is_some(),
        bind: Vec::new(),
        network: None,
        copy,
        mount: launch.mount.clone().map(|target| Mount { source: launch.config.clone(), target }),
        read_only: launch.read_only.clone(),
        directory,
        settings: Settings::default(),
        die_with_parent: given.parent,
        own: None,
    })
}

/// What the placeholders of one start stand for.
struct Words {
    config: String,
    loaded: Option<String>,
}

impl Words {
    fn of(launch: &Launch, given: &Given<'_>) -> Result<Words, LaunchError> {
        // who is told in place is told by these links
        if given.is_told() {
            let link = |name: &str| format!("{}/{name}", given.run);
            return Ok(Words {
                config: link("config"),
                loaded: launch.loaded.as_ref().map(|_| link("loaded")),
            });
        }
        let copy = Path::new(given.run).join("loaded");
        let loaded = launch.loaded.as_deref().map(|loaded| if given.copies_loaded { &copy } else { loaded });
        let loaded = loaded.map(text).transpose()?;
        Ok(Words { config: text(&launch.config)?, loaded })
    }

    fn lookup(&self, name: &str, given: &Given<'_>) -> Option<String> {
        match name {
            "config" => Some(self.config.clone()),
            "loaded" => self.loaded.clone(),
            "run" => Some(given.run.to_owned()),
            _ => {
                let (kind, name) = name.split_once(':')?;
                let index = given.sockets.iter().position(|(known, _)| *known == name)?;
                match kind {
                    "fd" if given.about.is_none() => Some((FIRST_FD + index).to_string()),
                    "addr" => Some(given.sockets[index].1.plain()),
                    _ => None,
                }
            }
        }
    }
}

/// `text` with the placeholders of `launch` and `given` replaced.
pub(super) fn expand_words(text: &str, launch: &Launch, given: &Given<'_>) -> Result<String, LaunchError> {
    let words = Words::of(launch, given)?;
    expand(text, &|name| words.lookup(name, given))
}

/// The start of one of our own daemons: `program command --run DIR`.
pub(super) fn daemon(program: &Path, command: &str, run: &Path) -> Result<Start, LaunchError> {
    let argv = vec![text(program)?, command.to_owned(), "--run".to_owned(), text(run)?];
    let directory = PathBuf::from("/");
    let env = plain_environment();
    Ok(Start {
        argv,
        env,
        sockets: 0,
        listen_pid: false,
        watchdog_pid: false,
        bind: Vec::new(),
        network: None,
        copy: None,
        mount: None,
        read_only: Vec::new(),
        directory,
        settings: Settings::default(),
        die_with_parent: None,
        own: None,
    })
}

/// A path with `{run}` in it, as the process that is given `run` sees it.
pub(super) fn expand_path(path: &str, run: &str, launch: &Launch) -> Result<PathBuf, LaunchError> {
    let config = text(&launch.config)?;
    let lookup = |name: &str| match name {
        "run" => Some(run.to_owned()),
        "config" => Some(config.clone()),
        _ => None,
    };
    // a relative path is relative to where the process starts: its configuration
    Ok(launch.config.join(expand(path, &lookup)?))
}

/// The environment everything gets: nothing of ours leaks into it.
fn plain_environment() -> BTreeMap<String, String> {
    const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    [("PATH", PATH), ("LANG", "C.UTF-8"), ("HOME", "/")]
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .into()
}

fn text(path: &Path) -> Result<String, LaunchError> {
    path.to_str().map(str::to_owned).ok_or_else(|| LaunchError::NotText { path: path.to_owned() })
}

/// Replaces each `{name}` in `text`. The seam to the model's rules for placeholders.
fn expand(text: &str, lookup: &dyn Fn(&str) -> Option<String>) -> Result<String, LaunchError> {
    let word = |c: char| c.is_ascii_alphanumeric() || matches!(c, ':' | '-' | '_' | '.');
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        match after.split_once('}').filter(|(name, _)| !name.is_empty() && name.chars().all(word)) {
            Some((name, after)) => {
                let value = lookup(name);
                out.push_str(
                    &value.ok_or_else(|| LaunchError::Unknown {
                        text: text.to_owned(),
                        name: name.to_owned(),
                    })?,
                );
                rest = after;
            }
            None => {
                out.push('{');
                rest = after;
            }
        }
    }
    out.push_str(rest);
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Command;

    fn launch(words: &[&str]) -> Launch {
        Launch {
            command: Command(words.iter().map(|&word| word.to_owned()).collect()),
            env: [("LISTEN".to_owned(), "{fd:http};".to_owned())].into(),
            config: PathBuf::from("/g/tree"),
            loaded: None,
            mount: None,
            read_only: Vec::new(),
            surroundings: Default::default(),
        }
    }

    #[test]
    fn w2_words_and_environment_are_expanded() {
        let address = Address::Tcp("127.0.0.1:80".parse().unwrap());
        let given = Given { run: "/r/p/1", sockets: vec![("http", &address)], ..Given::default() };
        let start =
            start(&launch(&["a", "{config}/x", "-S{fd:http}", "@{addr:http}", "{run}"]), &given).unwrap();
        assert_eq!(start.argv, ["a", "/g/tree/x", "-S3", "@127.0.0.1:80", "/r/p/1"]);
        assert_eq!(start.env["LISTEN"], "3;");
        assert_eq!(start.env["LISTEN_FDNAMES"], "http");
    }

    #[test]
    fn w2_an_unknown_placeholder_is_an_error() {
        let address = Address::Tcp("127.0.0.1:80".parse().unwrap());
        let given = Given { sockets: vec![("http", &address)], ..Given::default() };
        assert!(start(&launch(&["{loaded}"]), &given).is_err());
    }

    #[test]
    fn w6_inherited_sockets_are_offered_in_the_variable_of_the_group() {
        let mut launch = launch(&["nginx"]);
        launch.env.clear();
        let given = Given { inherited: Some(("NGINX", 2)), ..Given::default() };
        let start = start(&launch, &given).unwrap();
        assert_eq!(start.env["NGINX"], "3;4;");
        assert!(!start.env.contains_key("LISTEN_FDS"));
    }
}
