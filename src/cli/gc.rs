//! `pointsman gc`

use std::collections::BTreeSet;

use serde::Serialize;

use crate::manager::{Service, collect, purge};
use crate::model::{GenerationId, LoadedKey};
use crate::store::{Collected, Freed, GcProgress, Purged, Reason, Stays};

use super::exit::{Exit, Failure};
use super::flags::GcFlags;
use super::inspect::resolve;
use super::output::{Output, count};
use super::progress;

/// What `--json` prints.
#[derive(Serialize)]
struct Report<'a, T> {
    dry_run: bool,
    #[serde(flatten)]
    of: &'a T,
}

pub(super) fn run(flags: &GcFlags, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    let dry_run = flags.dry_run;
    if flags.references.is_empty() {
        let collected = collect(service, dry_run, &mut |progress| show(&progress));
        progress::clear();
        let collected = collected?;
        match output.is_json() {
            true => output.object(&Report { dry_run, of: &collected }),
            false => print_collected(&collected, dry_run, output),
        }
        return Ok(Exit::Done);
    }
    let ids = flags.references.iter().map(|reference| resolve(service, reference));
    let ids: BTreeSet<GenerationId> = ids.collect::<Result<_, _>>()?;
    let purged = purge(service, &ids, dry_run, &mut |progress| show(&progress));
    progress::clear();
    let purged = purged?;
    match output.is_json() {
        true => output.object(&Report { dry_run, of: &purged }),
        false => print_purged(&purged, dry_run, output),
    }
    Ok(Exit::Done)
}

fn show(how_far: &GcProgress) {
    progress::show(&match how_far {
        GcProgress::Waiting => "waiting for a push or an activation to let the store go".to_owned(),
        GcProgress::Removing { done } => format!("removing: {done} gone"),
    });
}

fn print_collected(collected: &Collected, dry_run: bool, output: &mut Output) {
    print_gone(&collected.removed, &collected.removed_loaded, dry_run, output);
    if dry_run {
        print_stays("kept", &collected.kept, output);
        print_stays("kept loader output", &collected.kept_loaded, output);
    }
    let gone = (collected.removed.len(), collected.removed_loaded.len());
    print_freed(gone, collected.freed, dry_run, output);
}

fn print_purged(purged: &Purged, dry_run: bool, output: &mut Output) {
    print_gone(&purged.removed, &purged.removed_loaded, dry_run, output);
    print_freed((purged.removed.len(), purged.removed_loaded.len()), purged.freed, dry_run, output);
    if !purged.shared.is_empty() {
        output.talk("what they have in common with others stays there, and so does a secret in it:");
        for shared in &purged.shared {
            let files = count(shared.files as u64, "file", "files");
            output.talk(format!("  {} holds {files} of the same content", shared.id.short()));
        }
        output.talk("`pointsman show REF` lists what is in one; `pointsman gc REF... --now` purges it, too");
    }
    for output_of in &purged.shared_loaded {
        let why = reasons(&output_of.why);
        output.talk(format!("loader output {} was made from them and stays: {why}", output_of.id.short()));
    }
}

fn print_gone(removed: &[GenerationId], loaded: &[LoadedKey], dry_run: bool, output: &mut Output) {
    let verb = if dry_run { "would remove" } else { "removed" };
    removed.iter().for_each(|id| output.line(format!("{verb} {id}")));
    loaded.iter().for_each(|key| output.line(format!("{verb} loader output {key}")));
}

fn print_stays<T: std::fmt::Display>(verb: &str, stays: &[Stays<T>], output: &mut Output) {
    for one in stays {
        output.line(format!("{verb} {}: {}", one.id, reasons(&one.why)));
    }
}

fn reasons(why: &BTreeSet<Reason>) -> String {
    why.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn print_freed((generations, outputs): (usize, usize), freed: Freed, dry_run: bool, output: &mut Output) {
    if generations + outputs == 0 {
        return output.line("nothing to remove");
    }
    output.line(format!(
        "{} {} ({}): {}, {}",
        if dry_run { "would free" } else { "freed" },
        count(freed.bytes, "byte", "bytes"),
        count(freed.inodes, "file, directory or link", "files, directories and links"),
        count(generations as u64, "generation", "generations"),
        count(outputs as u64, "loader output", "loader outputs"),
    ));
}
