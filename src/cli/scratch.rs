//! A directory or a stream that is read as a push would read it, to be looked at or taken from.

use std::path::Path;

use crate::fsx;
use crate::manager::{PIPELINE_FILE, Service, clock};
use crate::model::{GenerationId, Metadata, PushRecord};
use crate::store::{PushOptions, Scratch, Source, Writer};

use super::exit::{Exit, Failure, of_push};
use super::place::Environment;

/// Whether a person means a path by `text`, where it could be a REF, too.
pub(super) fn is_path(text: &str) -> bool {
    text.contains('/') || text.starts_with('.') || fsx::Meta::of_path(Path::new(text)).is_ok()
}

/// The generation that a person means by `text`, where it could have been a path, too.
pub(super) fn resolve(service: &Service, text: &str) -> Result<GenerationId, Failure> {
    super::inspect::resolve(service, text).map_err(|failure| match failure.exit {
        Exit::NoSuch => Failure::new(
            Exit::NoSuch,
            format!("no file or directory `{text}` is here, and {}", failure.text()),
        ),
        _ => failure,
    })
}

/// The record that a push of `source` would leave.
pub(super) fn record(source: &str, environment: &Environment) -> PushRecord {
    let (at, by) = (clock::now(), environment.actor());
    PushRecord { at, by, source: source.to_owned(), message: None, meta: Metadata::new(), parent: None }
}

pub(super) fn read(
    source: Source<'_>,
    record: PushRecord,
    service: &Service,
    writer: &Writer,
) -> Result<Scratch, Failure> {
    let inspect = |text: Option<&[u8]>| {
        // a pipeline that cannot be read is no reason not to look at the rest
        let chosen = service.choose(PIPELINE_FILE, text).ok().and_then(|chosen| chosen.pipeline);
        Ok(chosen.and_then(|pipeline| pipeline.mount).map(Into::into))
    };
    let options = PushOptions {
        record,
        copy_links: true,
        inspected: PIPELINE_FILE,
        inspect: &inspect,
        limits: service.place.host_file().map(|host| host.limits).unwrap_or_default(),
        observe: &|_| {},
    };
    writer.scratch(source, &options).map_err(|error| of_push(error, &service.place.host))
}
