//! `pointsman import`

use std::path::Path;

use crate::fsx::{self, Dir};
use crate::manager::Service;
use crate::model::GenerationId;
use crate::store::Imported;

use super::exit::{Exit, Failure};
use super::output::{Output, count};
use super::progress;

pub(super) fn run(source: &Path, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    let mut file;
    let mut stdin;
    let stream: &mut dyn std::io::Read = if source.as_os_str() == "-" {
        stdin = std::io::stdin().lock();
        &mut stdin
    } else {
        file = open(source)?;
        &mut file
    };
    let writer = service.store.writer(&service.boot)?;
    service.place.access()?;
    let imported = writer.import(stream, service.place.host_file()?.limits, progress::meter("imported"));
    progress::clear();
    let imported = imported?;
    let current = service.store.current().ok().flatten();
    let next = imported.origin.current.filter(|id| current != Some(*id));
    if output.is_json() {
        let mut object = serde_json::to_value(&imported).expect("a plain report is JSON");
        object["next"] = next.map(|id| command(id).into()).unwrap_or_default();
        output.object(&object);
    } else {
        print(&imported, next, output);
    }
    Ok(Exit::Done)
}

fn print(imported: &Imported, next: Option<GenerationId>, output: &mut Output) {
    let number = |ids: &[GenerationId]| count(ids.len() as u64, "generation", "generations");
    let mut parts = vec![format!("{} new", number(&imported.new))];
    if !imported.there.is_empty() {
        parts.push(format!("{} there already", imported.there.len()));
    }
    if !imported.repaired.is_empty() {
        parts.push(format!("{} damaged and made whole", imported.repaired.len()));
    }
    parts.push(count(imported.tags.len() as u64, "tag", "tags"));
    parts.push(count(imported.outcomes, "verdict", "verdicts"));
    output.line(parts.join(", "));
    for kept in &imported.kept {
        let (tag, here, there) = (&kept.tag, kept.here.short(), kept.there.short());
        output.talk(format!(
            "note: tag {tag} stays on {here}; the export has it on {there}; `pointsman tag {tag} {there}` moves it"
        ));
    }
    if let Some(id) = next {
        let command = command(id);
        output.talk(format!("{} was in force in the origin; `{command}` puts it in force here", id.short()));
    }
}

/// What puts a generation in force here: an import never does.
fn command(id: GenerationId) -> String {
    format!("pointsman activate {}", id.short())
}

/// Opens an operator's file: symlinks on the way are followed, a fifo is not waited for.
pub(super) fn open(path: &Path) -> Result<impl std::io::Read, Failure> {
    let path = fsx::canonical(path)?;
    if fsx::Meta::of_path(&path)?.kind == fsx::EntryKind::Dir {
        let why = format!("{} is a directory; give an export, which is a file", path.display());
        return Err(Failure::new(Exit::Failed, why));
    }
    let (Some(parent), Some(name)) = (path.parent(), path.file_name()) else {
        return Err(Failure::usage(format!("{} is no file; give an export", path.display())));
    };
    Ok(Dir::open(parent)?.open_file(name)?)
}
