//! The host file: what this machine says about a service, out of reach of any push.

use super::field::Document;
use super::pipeline::read;
use super::{DocumentError, Pipeline};

/// Everything `/etc/pointsman/NAME.yaml` (or `<store>/host.yaml`) says. The default is that of an
/// absent or empty file.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct HostFile {
    /// where the pipeline comes from
    pub pipeline: HostPipeline,
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
    Own(Pipeline),
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
        root.only("a map", &["version", "pipeline"])?;
        if let Some(version) = root.get("version")
            && version.number(1..=1).is_err()
        {
            return Err(version.expected("1"));
        }
        let pipeline = match root.get("pipeline") {
            None => HostPipeline::Absent,
            Some(field) if field.as_str() == Some("pushed") => HostPipeline::Pushed,
            Some(field) if field.is_map() => HostPipeline::Own(read::pipeline(&field, service)?),
            Some(field) => return Err(field.expected("`pushed` or a pipeline")),
        };
        Ok(HostFile { pipeline })
    }
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
        assert_eq!(own, HostPipeline::Own(want));
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
                "host.yaml:1:1: pipelin: unknown key, expected one of version, pipeline (did you mean `pipeline`?)",
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
