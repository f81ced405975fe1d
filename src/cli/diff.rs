//! `pointsman diff`

use std::path::Path;

use serde_json::json;

use crate::manager::{ContentDiff, FileDiff, Service, Side, diff};
use crate::store::Source;

use super::exit::{Exit, Failure};
use super::flags::DiffFlags;
use super::output::{Colour, Output};
use super::place::Environment;
use super::scratch;

pub(super) fn run(
    flags: &DiffFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    if flags.old == "-" && flags.new == "-" {
        return Err(Failure::usage("only one side can be a stream; give a REF or a directory for the other"));
    }
    let (old, new) = (side(&flags.old, service, environment)?, side(&flags.new, service, environment)?);
    let files = diff(&service.store, &old, &new, flags.private)?;
    if output.is_json() {
        output.object(&json!({ "same": files.is_empty(), "files": files }));
    } else {
        files.iter().for_each(|file| print(file, output));
    }
    Ok(Exit::Done)
}

/// What a person means by one side: a stream, a directory, or a generation.
fn side(text: &str, service: &Service, environment: &Environment) -> Result<Side, Failure> {
    let path = Path::new(text);
    if text != "-" && !scratch::is_path(text) {
        return Ok(Side::Generation(scratch::resolve(service, text)?));
    }
    let mut stdin = std::io::stdin().lock();
    let source = if text == "-" { Source::Archive(&mut stdin) } else { Source::Directory(path) };
    let writer = service.store.writer(&service.boot)?;
    let record = scratch::record(text, environment);
    Ok(Side::Scratch(Box::new(scratch::read(source, record, service, &writer)?)))
}

fn print(file: &FileDiff, output: &mut Output) {
    let path = &file.path;
    let head = match (&file.old, &file.new) {
        (None, Some(new)) => output.paint(Colour::Good, &format!("A {path} ({new})")),
        (Some(old), None) => output.paint(Colour::Bad, &format!("D {path} ({old})")),
        (Some(old), Some(new)) if old != new => format!("M {path} ({old} -> {new})"),
        (_, _) => format!("M {path}"),
    };
    output.line(head);
    match &file.content {
        ContentDiff::None => {}
        ContentDiff::Private => output.line("  private: its content is not shown; --private shows it"),
        ContentDiff::Hash { old, new } => {
            output.line(format!("  content {} -> {}", old.short(), new.short()));
        }
        ContentDiff::Values(changes) if changes.is_empty() => output.line("  only comments or layout differ"),
        ContentDiff::Values(changes) => changes.iter().for_each(|change| output.line(format!("  {change}"))),
        ContentDiff::Text(text) => {
            for line in text.lines() {
                let painted = match line.as_bytes().first() {
                    Some(b'+') => output.paint(Colour::Good, line),
                    Some(b'-') => output.paint(Colour::Bad, line),
                    _ => line.to_owned(),
                };
                output.line(painted);
            }
        }
    }
}
