//! The host file: what this machine says about a service, out of reach of any push.

use std::time::Duration;

use super::field::{Document, Field};
use super::pipeline::read;
use super::{
    DocumentError, GroupAccess, Limits, Pipeline, Retention, Section, ServiceManagerChoice, WatchdogPolicy,
};

/// Everything `/etc/pointsman/NAME.yaml` (or `<store>/host.yaml`) says. The default is that of an
/// absent or empty file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostFile {
    /// where the pipeline comes from
    pub pipeline: HostPipeline,
    /// which generations stay
    pub retention: Retention,
    /// how much one push may hold
    pub limits: Limits,
    /// who may read private files besides the owner
    pub group: Option<GroupAccess>,
    /// how old a request may be that is begun after a reboot, where that is said
    pub request_ttl: Option<Duration>,
    /// how often the manager looks after what is in force, and how many errors it takes
    pub watchdog: WatchdogPolicy,
    /// who starts and watches the workers
    pub service_manager: ServiceManagerChoice,
}

/// Where the pipeline comes from, as far as the host has a say.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum HostPipeline {
    /// the host file says nothing
    #[default]
    Absent,
    /// `pipeline: pushed`: the `pointsman.yaml` of each generation counts
    Pushed,
    /// the host's own, for every generation
    Own(Box<Pipeline>),
}

impl HostFile {
    /// Reads a host file. `file` is its name in errors; `service` names the group of `worker:`.
    ///
    /// # Errors
    /// The first thing that is not as it must be, with its place. Unknown keys are.
    pub fn parse(text: &[u8], file: &str, service: &str) -> Result<HostFile, DocumentError> {
        let document = Document::parse(text, file)?;
        let root = document.root();
        if root.is_null() {
            return Ok(HostFile::default());
        }
        root.only("a map", &KEYS)?;
        if let Some(version) = root.get("version")
            && version.number(1..=1).is_err()
        {
            return Err(version.expected("1"));
        }
        let pipeline = match root.get("pipeline") {
            None => HostPipeline::Absent,
            Some(field) if field.as_str() == Some("pushed") => HostPipeline::Pushed,
            Some(field) if field.is_map() => HostPipeline::Own(Box::new(read::pipeline(&field, service)?)),
            Some(field) => return Err(field.expected("`pushed` or a pipeline")),
        };
        Ok(HostFile {
            pipeline,
            retention: retention(&root)?,
            limits: limits(&root)?,
            group: group(&root)?,
            request_ttl: root.get("request_ttl").map(|field| field.duration(false)).transpose()?,
            watchdog: WatchdogPolicy::read(&root)?,
            service_manager: service_manager(&root)?,
        })
    }
}

const KEYS: [&str; 10] = [
    "version",
    "pipeline",
    "keep",
    "keep_days",
    "keep_pushed",
    "limits",
    "group",
    "request_ttl",
    "watchdog",
    "service_manager",
];

/// A century: more is a mistake.
const MOST_DAYS: u32 = 36_500;
const MOST_ENTRIES: u32 = 10_000_000;
/// A path of a generation has at most 3000 bytes; each level takes a piece of the walk's stack.
const DEEPEST: u32 = 256;

fn retention(root: &Field<'_>) -> Result<Retention, DocumentError> {
    let default = Retention::default();
    let (keep, days) = (root.get("keep"), root.get("keep_days"));
    Ok(Retention {
        automatic: keep.is_some() || days.is_some(),
        keep: keep.map_or(Ok(default.keep), |field| field.number(0..=u32::MAX))?,
        keep_days: days.map_or(Ok(default.keep_days), |field| field.number(0..=MOST_DAYS))?,
        keep_pushed: root
            .get("keep_pushed")
            .map_or(Ok(default.keep_pushed), |field| field.duration(false))?,
    })
}

fn service_manager(root: &Field<'_>) -> Result<ServiceManagerChoice, DocumentError> {
    let Some(field) = root.get("service_manager") else { return Ok(ServiceManagerChoice::Auto) };
    let named = |choice: &ServiceManagerChoice| field.as_str() == Some(choice.to_string().as_str());
    let choice = ServiceManagerChoice::ALL.into_iter().find(named);
    choice.ok_or_else(|| field.expected("one of auto, supervisor, systemd, systemd-user"))
}

fn group(root: &Field<'_>) -> Result<Option<GroupAccess>, DocumentError> {
    let Some(field) = root.get("group") else { return Ok(None) };
    if let Some(name) = field.as_str() {
        return Ok(Some(GroupAccess { group: name.to_owned(), files: Vec::new(), workers: false }));
    }
    field.only("a group, or a map of `name`, `files` and `workers`", &["name", "files", "workers"])?;
    let name = field.get("name").ok_or_else(|| field.error("expected the key `name`"))?;
    let group = name.as_str().ok_or_else(|| name.expected("the name of a group"))?.to_owned();
    let files = match field.get("files") {
        Some(files) => {
            let glob = |item: &Field<'_>| {
                let text = item.text("a file glob like \"keys/**\"")?;
                let glob = Section::parse(text).map_err(|why| item.error(why.to_string()))?;
                if text.contains('#') { Err(item.expected("a file glob")) } else { Ok(glob) }
            };
            files.items("a list of file globs")?.iter().map(glob).collect::<Result<_, _>>()?
        }
        None => Vec::new(),
    };
    let workers = match field.get("workers") {
        Some(field) => field.boolean()?,
        None => false,
    };
    Ok(Some(GroupAccess { group, files, workers }))
}

fn limits(root: &Field<'_>) -> Result<Limits, DocumentError> {
    let default = Limits::default();
    let Some(limits) = root.get("limits") else { return Ok(default) };
    limits.only("a map of `entries`, `bytes` and `depth`", &["entries", "bytes", "depth"])?;
    let number = |key: &str, most: u32, default: usize| {
        limits.get(key).map_or(Ok(default), |field| field.number(1..=most).map(|number| number as usize))
    };
    Ok(Limits {
        entries: number("entries", MOST_ENTRIES, default.entries)?,
        bytes: limits.get("bytes").map_or(Ok(default.bytes), |field| field.size())?,
        depth: number("depth", DEEPEST, default.depth)?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<HostFile, String> {
        HostFile::parse(text.as_bytes(), "host.yaml", "web").map_err(|error| error.to_string())
    }

    #[test]
    fn p14_the_host_says_where_the_pipeline_comes_from() {
        for text in ["", "# nothing yet\n", "version: 1\n"] {
            assert_eq!(parse(text).unwrap(), HostFile::default(), "{text:?}");
        }
        assert_eq!(parse("pipeline: pushed\n").unwrap().pipeline, HostPipeline::Pushed);
        let own = parse("pipeline:\n  version: 1\n  check: a b\n").unwrap().pipeline;
        let mut want = Pipeline::pointer_only();
        want.checks = vec![super::super::Command(vec!["a".into(), "b".into()])];
        assert_eq!(own, HostPipeline::Own(Box::new(want)));
    }

    #[test]
    fn s22_the_host_says_what_stays_and_what_may_enter() {
        let host = parse("").unwrap();
        assert_eq!((host.retention, host.limits), (Retention::default(), Limits::default()));
        let host = parse("keep_pushed: 2d\nlimits: {depth: 3}\n").unwrap();
        assert!(!host.retention.automatic, "nothing is collected unasked without `keep` or `keep_days`");
        assert_eq!(host.retention.keep_pushed, std::time::Duration::from_secs(2 * 86_400));
        assert_eq!(host.limits, Limits { depth: 3, ..Limits::default() });
        let host =
            parse("keep: 0\nkeep_days: 0\nkeep_pushed: 0s\nlimits: {entries: 5, bytes: 1GiB}\n").unwrap();
        let none =
            Retention { keep: 0, keep_days: 0, keep_pushed: std::time::Duration::ZERO, automatic: true };
        assert_eq!(host.retention, none);
        assert_eq!(host.limits, Limits { entries: 5, bytes: 1 << 30, ..Limits::default() });
        assert!(parse("keep_days: 30").unwrap().retention.automatic);
        for (text, want) in [
            ("keep: -1", "host.yaml:1:7: keep: expected a number from 0 to 4294967295, found -1"),
            ("keep_days: all", "host.yaml:1:12: keep_days: expected a number from 0 to 36500, found \"all\""),
            (
                "keep_pushed: 1",
                "host.yaml:1:14: keep_pushed: expected a duration like 30s or 500ms, found 1 (write a unit: 1s)",
            ),
            (
                "limits: {bytes: 16}",
                "host.yaml:1:17: limits.bytes: expected a size like 256MiB, found 16 (write a unit: 16MiB)",
            ),
            (
                "limits: {entries: 0}",
                "host.yaml:1:19: limits.entries: expected a number from 1 to 10000000, found 0",
            ),
            (
                "limits: {byte: 1KiB}",
                "host.yaml:1:10: limits.byte: unknown key, expected one of entries, bytes, depth (did you mean `bytes`?)",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), want, "{text:?}");
        }
    }

    #[test]
    fn a28_the_host_says_how_many_errors_are_too_many() {
        assert_eq!(parse("").unwrap().watchdog, WatchdogPolicy::default());
        let policy = parse("watchdog: {interval: 5s, max_errors: 0, decay: 1h}").unwrap().watchdog;
        assert_eq!(
            (policy.interval.as_secs(), policy.max_errors, policy.decay.as_secs()),
            (5, 0, 3600),
            "{policy:?}"
        );
        assert_eq!(parse("watchdog: {max_errors: 9}").unwrap().watchdog.interval.as_secs(), 60);
        for (text, want) in [
            (
                "watchdog: {interval: 0s}",
                "host.yaml:1:22: watchdog.interval: expected a duration of more than 0s, found \"0s\"",
            ),
            (
                "watchdog: {limit: 2}",
                "host.yaml:1:12: watchdog.limit: unknown key, expected one of interval, max_errors, decay",
            ),
            (
                "watchdog: 60s",
                "host.yaml:1:11: watchdog: expected a map of `interval`, `max_errors` and `decay`, found \"60s\"",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), want, "{text:?}");
        }
    }

    #[test]
    fn s22_the_host_names_a_group() {
        assert_eq!(parse("").unwrap().group, None);
        assert_eq!(parse("group: web").unwrap().group.unwrap().files, []);
        let some = parse("group: {name: web, files: [keys/**]}").unwrap().group.unwrap();
        assert_eq!((some.group.as_str(), some.files.len()), ("web", 1));
        let workers = parse("group: {name: web, workers: true}").unwrap().group.unwrap();
        assert!(workers.workers && !some.workers);
        for text in [
            "group: {name: a, workers: 1}",
            "group: [a]",
            "group: {files: [a]}",
            "group: {name: 3}",
            "group: {name: a, files: [x.yaml#/b]}",
        ] {
            assert!(parse(text).unwrap_err().starts_with("host.yaml:1:"), "{text}");
        }
    }

    #[test]
    fn a10_the_host_says_how_old_a_request_may_be() {
        let ttl = |text: &str| parse(text).unwrap().request_ttl;
        assert_eq!((ttl(""), ttl("request_ttl: 2d")), (None, Some(Duration::from_secs(2 * 86_400))));
        assert_eq!(ttl("request_ttl: 0s"), Some(Duration::ZERO));
        assert!(
            parse("request_ttl: 60")
                .unwrap_err()
                .contains("host.yaml:1:14: request_ttl: expected a duration")
        );
    }

    #[test]
    fn d10_the_host_says_who_looks_after_the_workers() {
        for choice in ServiceManagerChoice::ALL {
            assert_eq!(parse(&format!("service_manager: {choice}")).unwrap().service_manager, choice);
        }
        assert_eq!(parse("").unwrap().service_manager, ServiceManagerChoice::Auto);
        let said = parse("service_manager: upstart").unwrap_err();
        assert!(said.starts_with("host.yaml:1:18: service_manager: expected one of auto, "), "{said}");
    }

    #[test]
    fn p14_what_a_host_file_must_not_say() {
        for (text, want) in [
            ("version: 2", "host.yaml:1:10: version: expected 1, found 2"),
            (
                "pipeline: Pushed",
                "host.yaml:1:11: pipeline: expected `pushed` or a pipeline, found \"Pushed\"",
            ),
            (
                "pipelin: pushed",
                "host.yaml:1:1: pipelin: unknown key, expected one of version, pipeline, keep, keep_days, keep_pushed, limits, group, request_ttl, watchdog, service_manager (did you mean `pipeline`?)",
            ),
            ("[a]", "host.yaml:1:1: expected a map, found a list"),
            (
                "pipeline:\n  check: a",
                "host.yaml:2:3: pipeline: expected the key `version` (write `version: 1`)",
            ),
            (
                "pipeline:\n  version: 1\n  check: 'a b\"'",
                "host.yaml:3:10: pipeline.check: expected a closing \"",
            ),
        ] {
            assert_eq!(parse(text).unwrap_err(), want, "{text:?}");
        }
    }
}
