//! `pointsman check`

use std::path::Path;

use crate::fsx;
use crate::manager::{CheckTarget, Service, check};

use super::exit::{Exit, Failure};
use super::inspect::resolve;
use super::output::{Colour, Output};

pub(super) fn run(target: &str, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    // what looks like a path, or is a directory, is one; everything else is a REF
    let path = Path::new(target);
    let is_path = target.contains('/') || target.starts_with('.') || fsx::Meta::of_path(path).is_ok();
    let target = match is_path {
        true => CheckTarget::Directory(path.to_owned()),
        false => CheckTarget::Generation(resolve(service, target)?),
    };
    let report = check(service, &target)?;
    let exit = if report.ok { Exit::Done } else { Exit::Failed };
    if output.is_json() {
        output.object(&report);
        return Ok(exit);
    }
    if let Some(note) = &report.note {
        output.talk(format!("note: {note}"));
    }
    for (index, name) in report.ran.iter().enumerate() {
        let failed = !report.ok && index + 1 == report.ran.len();
        let mark =
            if failed { output.paint(Colour::Bad, "FAILED") } else { output.paint(Colour::Good, "ok    ") };
        output.talk(format!("  {mark} {name}"));
    }
    match &report.reason {
        Some(reason) => output.line(reason),
        None => output.line("ok"),
    }
    Ok(exit)
}
