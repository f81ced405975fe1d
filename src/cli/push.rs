//! `pointsman push`

use std::cell::RefCell;

use crate::fsx;
use crate::manager::{PIPELINE_FILE, PipelineSource, Service, clock};
use crate::model::{KeyValue, Metadata, PushRecord, Tag};
use crate::store::{PushOptions, Pushed, Source};

use super::exit::{Exit, Failure, of_push};
use super::flags::PushFlags;
use super::output::Output;
use super::place::Environment;
use super::progress::ProgressLine;

pub(super) fn run(
    flags: &PushFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let pushed = push(flags, service, environment, output)?;
    if output.is_json() {
        output.object(&pushed);
    } else {
        output.line(pushed.id.to_string());
    }
    Ok(Exit::Done)
}

/// Puts the directory into the store; a pipeline that counts and cannot be read is refused first.
pub(super) fn push(
    flags: &PushFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Pushed, Failure> {
    let tag = flags.tag.as_deref().map(str::parse::<Tag>).transpose();
    let tag = tag.map_err(|e| Failure::new(Exit::Usage, e))?;
    let mut meta = Metadata::new();
    for KeyValue { key, value } in flags.meta.iter().cloned() {
        if let Some(before) = meta.insert(key.clone(), value) {
            return Err(Failure::usage(format!(
                "--meta {key} is given twice, first as `{before}`; give each key once"
            )));
        }
    }
    let from_stdin = flags.source.as_os_str() == "-";
    let path = fsx::absolute(&flags.source)?;
    let writer = service.store.writer(&service.boot)?;
    // that it cannot be read is no fault of what is pushed
    service.place.access()?;
    let limits = service.place.host_file()?.limits;
    let mut stdin = std::io::stdin().lock();
    let (source, name) = match from_stdin {
        true => (Source::Archive(&mut stdin), "a tar stream".to_owned()),
        false => (Source::Directory(&path), path.display().to_string()),
    };
    let pipeline = if from_stdin { PIPELINE_FILE.into() } else { path.join(PIPELINE_FILE) };
    let pipeline = pipeline.display().to_string();
    let chosen = RefCell::new(None);
    let inspect = |text: Option<&[u8]>| service.inspect(&pipeline, text, &chosen);
    let record = PushRecord {
        at: clock::now(),
        by: environment.actor(),
        source: name,
        message: flags.message.clone(),
        meta,
        parent: None,
    };
    let line = ProgressLine::new();
    let options = PushOptions {
        record,
        copy_links: flags.copy_links,
        inspected: PIPELINE_FILE,
        inspect: &inspect,
        limits,
        observe: &|progress| line.tell(progress),
    };
    let pushed = writer.push(source, options);
    drop(line);
    let pushed = pushed.map_err(|error| of_push(error, &service.place.host))?;
    if chosen.take().is_some_and(|chosen| chosen.source == PipelineSource::Ignored) {
        output.talk(format!("note: {}", service.ignored_pipeline()));
    }
    if !pushed.changed && (flags.message.is_some() || !flags.meta.is_empty()) {
        output.talk("note: this content is in the store already, and so is its first message and metadata");
    }
    if let Some(tag) = tag {
        writer.tag(&tag, pushed.id)?;
    }
    Ok(pushed)
}
