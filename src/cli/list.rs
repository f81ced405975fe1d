//! `pointsman list` and `history`

use serde_json::json;

use crate::manager::Service;
use crate::model::Tag;
use crate::store::{HistoryEntry, Listed};

use super::exit::{Exit, Failure};
use super::output::{Output, first_line, when};

pub(super) fn generations(
    service: &Service,
    limit: Option<usize>,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let mut generations = service.store.list()?;
    generations.reverse();
    if generations.is_empty() && !output.is_json() {
        output.talk("no generation yet: `pointsman push DIR`");
    }
    generations.truncate(limit.unwrap_or(usize::MAX));
    if output.is_json() {
        output.object(&json!({ "generations": generations }));
        return Ok(Exit::Done);
    }
    let tags = |tags: &[Tag]| tags.iter().map(ToString::to_string).collect::<Vec<_>>().join(",");
    let width = generations.iter().map(|generation| tags(&generation.tags).len()).max().unwrap_or_default();
    let line = |generation: Listed| {
        let mark = if generation.current { "@" } else { " " };
        let good = match generation {
            Listed { rejected: true, .. } => "left",
            Listed { good: true, .. } => "good",
            _ => "",
        };
        let id = &generation.id.to_string()[..12];
        let (at, tags) = (when(generation.at), tags(&generation.tags));
        let message = generation.message.as_deref().map(first_line).unwrap_or_default();
        format!("{mark} {id}  {at}  {good:<4}  {tags:<width$}  {message}").trim_end().to_owned()
    };
    let lines: Vec<String> = generations.into_iter().map(line).collect();
    output.lines(&lines);
    Ok(Exit::Done)
}

pub(super) fn history(service: &Service, limit: Option<usize>, output: &mut Output) -> Result<Exit, Failure> {
    let mut entries = service.store.history()?;
    entries.reverse();
    if entries.is_empty() && !output.is_json() {
        output.talk("no event yet: `pointsman activate REF`");
    }
    entries.truncate(limit.unwrap_or(usize::MAX));
    if output.is_json() {
        output.object(&json!({ "events": entries }));
        return Ok(Exit::Done);
    }
    let line = |entry: HistoryEntry| {
        let at = when(entry.asked);
        let request = format!("{:?}", entry.request).to_lowercase();
        let (verdict, reason) = match &entry.end {
            None => ("pending".to_owned(), ""),
            Some(end) => (end.verdict.to_string(), first_line(&end.reason)),
        };
        let target = entry.target.short();
        let from = entry.imported.map(|from| format!("[event {} of {}] ", from.event, from.machine));
        let (number, from) = (entry.number, from.unwrap_or_default());
        let line = format!("{number:>4}  {at}  {request:<9} {target}  {verdict:<12}  {from}{reason}");
        line.trim_end().to_owned()
    };
    let lines: Vec<String> = entries.into_iter().map(line).collect();
    output.lines(&lines);
    Ok(Exit::Done)
}
