//! `pointsman check`

use std::path::Path;

use crate::fsx;
use crate::manager::{CheckTarget, ManagerError, Service, check};

use super::exit::{Exit, Failure, of_push};
use super::flags::CheckFlags;
use super::inspect::resolve;
use super::output::{Colour, Output};

pub(super) fn run(flags: &CheckFlags, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    // what looks like a path, or is there, is one; everything else is a REF
    let target = flags.target.as_str();
    let path = Path::new(target);
    let is_path = target.contains('/') || target.starts_with('.') || fsx::Meta::of_path(path).is_ok();
    let target = match is_path {
        true => CheckTarget::Directory { path: fsx::absolute(path)?, copy_links: flags.copy_links },
        false => {
            CheckTarget::Generation(resolve(service, target).map_err(|failure| neither(target, failure))?)
        }
    };
    let report = check(service, &target).map_err(|error| match error {
        ManagerError::Push(error) => of_push(error, &service.place.host),
        other => other.into(),
    })?;
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
        Some(reason) => output.complain(reason),
        None => output.line("ok"),
    }
    Ok(exit)
}

/// What names no generation may have been meant as a directory.
fn neither(target: &str, failure: Failure) -> Failure {
    match failure.exit {
        Exit::NoSuch => {
            Failure::new(Exit::NoSuch, format!("there is no directory `{target}`, and {}", failure.text()))
        }
        _ => failure,
    }
}
