//! `pointsman export`

use std::io::{BufWriter, IsTerminal as _, Write};
use std::path::Path;

use serde_json::json;

use crate::fsx::{self, Dir};
use crate::manager::Service;
use crate::model::GenerationId;
use crate::store::Exported;

use super::exit::{Exit, Failure};
use super::flags::ExportFlags;
use super::inspect::resolve;
use super::output::{Output, count};
use super::progress;

/// What is written at once: the pieces of the stream are blocks of 512 bytes.
const BUFFER: usize = 256 << 10;

pub(super) fn run(flags: &ExportFlags, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    if flags.references.is_empty() && !flags.all {
        return Err(Failure::usage("no generation is given; name some, or give --all"));
    }
    let ids: Vec<GenerationId> =
        flags.references.iter().map(|text| resolve(service, text)).collect::<Result<_, _>>()?;
    let ids = (!flags.all).then_some(ids.as_slice());
    let Some(file) = &flags.output else {
        if output.is_json() {
            return Err(Failure::usage("the stream itself goes to stdout; give -o FILE with --json"));
        }
        let stdout = std::io::stdout().lock();
        if stdout.is_terminal() {
            return Err(Failure::usage("stdout is a terminal; give -o FILE, or a pipe"));
        }
        export(service, ids, &mut BufWriter::with_capacity(BUFFER, stdout))?;
        return Ok(Exit::Done);
    };
    let exported = to_file(service, ids, file)?;
    let Exported { generations, tags, outcomes, bytes } = exported;
    if output.is_json() {
        output.object(&json!({
            "file": file, "generations": generations, "tags": tags, "outcomes": outcomes, "bytes": bytes,
        }));
    } else {
        output.line(format!(
            "{}: {}, {}, {}",
            file.display(),
            count(generations, "generation", "generations"),
            count(tags, "tag", "tags"),
            count(outcomes, "verdict", "verdicts"),
        ));
    }
    Ok(Exit::Done)
}

fn export(service: &Service, ids: Option<&[GenerationId]>, to: &mut dyn Write) -> Result<Exported, Failure> {
    let exported = service.store.export(ids, &service.machine(), to, progress::meter("exported"));
    progress::clear();
    Ok(exported?)
}

/// Writes beside `path`, and renames when all of it is there and durable. Only the owner reads it: private
/// files are in it.
fn to_file(service: &Service, ids: Option<&[GenerationId]>, path: &Path) -> Result<Exported, Failure> {
    let absolute = fsx::absolute(path)?;
    let (Some(parent), Some(name)) = (absolute.parent(), absolute.file_name()) else {
        return Err(Failure::usage(format!("{} is no file; give a name for one", path.display())));
    };
    let dir = Dir::open(parent)?;
    if let Some(meta) = fsx::optional(dir.meta(name))?
        && meta.kind != fsx::EntryKind::File
    {
        let message = format!("{} is there and is no regular file; give another name", path.display());
        return Err(Failure::usage(message));
    }
    let temporary = format!(".{}.{}", name.to_string_lossy(), fsx::unique());
    let file = dir.create_file(&temporary, 0o600)?;
    let written = (|| {
        let mut to = BufWriter::with_capacity(BUFFER, file);
        let exported = export(service, ids, &mut to)?;
        fsx::sync(to.get_ref())?;
        dir.rename(&temporary, &dir, name)?;
        dir.sync()?;
        Ok(exported)
    })();
    if written.is_err() {
        let _ = dir.remove_file(&temporary);
    }
    written
}
