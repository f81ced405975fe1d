//! `pointsman tag`

use serde_json::json;

use crate::manager::Service;
use crate::model::Tag;

use super::exit::{Exit, Failure};
use super::flags::TagFlags;
use super::inspect::resolve;
use super::output::Output;

pub(super) fn run(flags: &TagFlags, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    let tag: Tag = flags.name.parse().map_err(|e| Failure::new(Exit::Usage, e))?;
    let writer = service.store.writer(&service.boot)?;
    // for the record only: a damaged tag does not stand in the way
    let was = service.store.tags().ok().and_then(|tags| tags.get(&tag).copied());
    if flags.delete {
        writer.untag(&tag)?;
        if output.is_json() {
            output.object(&json!({ "tag": tag, "id": null, "was": was }));
        } else {
            let was = was.map(|id| format!(" (it was {id})")).unwrap_or_default();
            output.line(format!("{tag} is no tag any more{was}"));
        }
        return Ok(Exit::Done);
    }
    let id = resolve(service, flags.reference.as_deref().unwrap_or("@"))?;
    writer.tag(&tag, id)?;
    if output.is_json() {
        output.object(&json!({ "tag": tag, "id": id, "was": was }));
    } else {
        output.line(format!("{tag} -> {id}"));
    }
    Ok(Exit::Done)
}
