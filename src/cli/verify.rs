//! `pointsman verify`

use std::path::Path;

use serde_json::json;

use crate::fsx;
use crate::manager::Service;
use crate::model::GenerationId;
use crate::store::{Damage, Pieces, Repair, Repaired, Source};

use super::exit::{Exit, Failure};
use super::flags::VerifyFlags;
use super::inspect::resolve;
use super::output::Output;
use super::place::Environment;
use super::{import, progress, scratch};

pub(super) fn run(
    flags: &VerifyFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    // who may read what is the host file's word: without it nothing can be said of rights
    service.place.access()?;
    let id = flags.reference.as_deref().map(|reference| resolve(service, reference)).transpose()?;
    if flags.repair {
        service.place.access()?;
        let repair = repair(id, flags.from.as_deref(), service, environment)?;
        return Ok(print_repair(&repair, output));
    }
    let damage = service.store.verify(id)?;
    if output.is_json() {
        output.object(&json!({ "ok": damage.is_empty(), "damage": objects(&damage) }));
    } else if damage.is_empty() {
        output.line("ok");
    } else {
        for damage in &damage {
            output.line(damage.to_string());
        }
        output.complain("the store is damaged; `pointsman verify --repair` makes whole what it can, and tells what to do about the rest");
    }
    Ok(exit(&damage))
}

fn exit(left: &[Damage]) -> Exit {
    if left.is_empty() { Exit::Done } else { Exit::Damaged }
}

fn objects(damage: &[Damage]) -> Vec<serde_json::Value> {
    let object = |damage: &Damage| {
        let mut object = serde_json::to_value(damage).expect("a plain report is JSON");
        object["next"] = next(damage).into();
        object
    };
    damage.iter().map(object).collect()
}

/// Repairs what can be, with what `--from` names: an export, a directory or a generation.
fn repair(
    id: Option<GenerationId>,
    from: Option<&str>,
    service: &Service,
    environment: &Environment,
) -> Result<Repair, Failure> {
    let writer = service.store.writer(&service.boot)?;
    let (mut file, mut stdin, directory);
    let pieces = match from {
        None => Pieces::Store,
        Some("-") => {
            stdin = std::io::stdin().lock();
            Pieces::Export(&mut stdin)
        }
        Some(text) if !scratch::is_path(text) => Pieces::Generation(scratch::resolve(service, text)?),
        Some(text) => {
            let path = Path::new(text);
            if fsx::Meta::of_path(path)?.kind == fsx::EntryKind::Dir {
                let record = scratch::record(&fsx::absolute(path)?.display().to_string(), environment);
                directory = scratch::read(Source::Directory(path), record.clone(), service, &writer)?;
                Pieces::Directory(&directory, record)
            } else {
                file = import::open(path)?;
                Pieces::Export(&mut file)
            }
        }
    };
    let repair = writer.repair(id, pieces, service.place.host_file()?.limits, progress::meter("read"));
    progress::clear();
    Ok(repair?)
}

fn print_repair(Repair { repaired, left }: &Repair, output: &mut Output) -> Exit {
    if output.is_json() {
        output.object(&json!({ "ok": left.is_empty(), "damage": objects(left), "repaired": repaired }));
        return exit(left);
    }
    for Repaired { path, how, .. } in repaired {
        output.line(format!("repaired {path}: {how}"));
    }
    for damage in left {
        output.line(format!("{damage}; {}", next(damage)));
    }
    if left.is_empty() {
        output.line("ok");
    } else {
        output.complain("the store is still damaged; what to do is said for each");
    }
    exit(left)
}

/// What a person can do about what is damaged.
fn next(damage: &Damage) -> String {
    let path = damage.path.as_str();
    if let Some(id) = damage.generation {
        let what = match path.strip_prefix(&format!("generations/{id}/")) {
            Some("manifest") => "an export that has this generation, or the directory that was pushed",
            Some("push.json") => "an export that has this generation",
            _ => "an export, a directory or a generation that has this content",
        };
        return format!("`pointsman verify --repair --from` {what}");
    }
    match path.split_once('/') {
        None if path == "current" => "remove it, then `pointsman activate REF` makes it anew".to_owned(),
        None if path == "history" => "`pointsman verify --repair` writes it anew".to_owned(),
        None => "`pointsman init` makes it again".to_owned(),
        Some(("tags", tag)) => {
            format!("`pointsman tag {tag} REF` writes it anew, `pointsman tag -d {tag}` removes it")
        }
        Some(("loaded", _)) => "`pointsman verify --repair` removes it, the loader makes it again".to_owned(),
        Some(_) => format!("put it back from an export made here: `tar -xf FILE -C STORE {path}`"),
    }
}
