//! `pointsman push`

use crate::fsx::{self, Dir};
use crate::manager::{PipelineSource, Service, clock};
use crate::model::{PushRecord, Tag};
use crate::store::{Limits, PushOptions, Pushed};

use super::args::PushFlags;
use super::exit::{Exit, Failure};
use super::output::Output;
use super::place::Environment;

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
    let writer = service.store.writer(&service.boot).map_err(Failure::from)?;
    let tag = flags.tag.as_deref().map(str::parse::<Tag>).transpose();
    let tag = tag.map_err(|e| Failure::new(Exit::Usage, e))?;
    let failed = |e| Failure::new(Exit::Failed, e);
    let source = fsx::absolute(&flags.source).map_err(failed)?;
    let dir = Dir::open(&source).map_err(failed)?;
    let text = match dir.meta(crate::manager::PIPELINE_FILE) {
        Ok(meta) if meta.kind == fsx::EntryKind::File => {
            Some(dir.read(crate::manager::PIPELINE_FILE, 1 << 20).map_err(failed)?)
        }
        _ => None,
    };
    let chosen = service.choose(text.as_deref())?;
    if chosen.source == PipelineSource::Ignored {
        output.talk(format!("note: {}", service.ignored_pipeline()));
    }
    let record = PushRecord {
        at: clock::now(),
        by: environment.actor(),
        source: source.display().to_string(),
        message: flags.message.clone(),
        parent: None,
    };
    let options = PushOptions {
        record,
        copy_links: flags.copy_links,
        mount: chosen.pipeline.and_then(|pipeline| pipeline.mount).map(Into::into),
        limits: Limits::default(),
    };
    let pushed = writer.push(&source, options)?;
    if let Some(tag) = tag {
        writer.tag(&tag, pushed.id)?;
    }
    Ok(pushed)
}
