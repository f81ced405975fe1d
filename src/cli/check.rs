//! `pointsman check`

use std::path::Path;

use crate::fsx;
use crate::manager::{CheckTarget, ManagerError, Service, check};

use super::exit::{Exit, Failure, of_push};
use super::flags::CheckFlags;
use super::output::{Colour, Output};
use super::scratch;

pub(super) fn run(flags: &CheckFlags, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    let target = flags.target.as_str();
    let target = match scratch::is_path(target) {
        true => {
            let path = fsx::absolute(Path::new(target))?;
            CheckTarget::Directory { path, copy_links: flags.copy_links }
        }
        false => CheckTarget::Generation(scratch::resolve(service, target)?),
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
