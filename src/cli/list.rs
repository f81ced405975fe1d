//! `pointsman list` and `history`

use serde_json::json;

use crate::manager::Service;

use super::exit::{Exit, Failure};
use super::output::{Colour, Output};

pub(super) fn generations(
    service: &Service,
    limit: Option<usize>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut generations = service.store.list()?;
    generations.reverse();
    generations.truncate(limit.unwrap_or(usize::MAX));
    if output.is_json() {
        output.object(&json!({ "generations": generations }));
        return Ok(Exit::Done);
    }
    if generations.is_empty() {
        output.talk("no generation yet: `pointsman push DIR`");
    }
    for generation in generations {
        let mark = if generation.current { "@" } else { " " };
        let good = if generation.good { "good" } else { "    " };
        let tags: Vec<_> = generation.tags.iter().map(ToString::to_string).collect();
        let message = generation.message.unwrap_or_default();
        let short = &generation.id.to_string()[..12];
        let at = generation.at.strftime("%F %T");
        let line = format!("{mark} {short}  {at}  {good}  {}  {message}", tags.join(","));
        output.line(line.trim_end());
    }
    Ok(Exit::Done)
}

pub(super) fn history(service: &Service, limit: Option<usize>, output: &mut Output) -> Result<Exit, Failure> {
    let mut entries = service.store.history()?;
    entries.reverse();
    entries.truncate(limit.unwrap_or(usize::MAX));
    if output.is_json() {
        output.object(&json!({ "events": entries }));
        return Ok(Exit::Done);
    }
    if entries.is_empty() {
        output.talk("no event yet: `pointsman activate REF`");
    }
    for entry in entries {
        let at = entry.asked.strftime("%F %T");
        let request = format!("{:?}", entry.request).to_lowercase();
        let (verdict, reason) = match &entry.end {
            None => (output.paint(Colour::Dim, "running"), String::new()),
            Some(end) => (end.verdict.to_string(), end.reason.lines().next().unwrap_or_default().to_owned()),
        };
        output.line(format!(
            "{:>4}  {at}  {request:<9} {}  {verdict:<12} {reason}",
            entry.number,
            entry.target.short()
        ));
    }
    Ok(Exit::Done)
}
