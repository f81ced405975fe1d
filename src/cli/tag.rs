//! `pointsman tag`

use serde_json::json;

use crate::manager::Service;
use crate::model::Tag;

use super::args::TagFlags;
use super::exit::{Exit, Failure};
use super::inspect::resolve;
use super::output::Output;

pub(super) fn run(flags: &TagFlags, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    let tag: Tag = flags.name.parse().map_err(|e| Failure::new(Exit::Usage, e))?;
    let writer = service.store.writer(&service.boot)?;
    if flags.delete {
        writer.untag(&tag)?;
        if output.is_json() {
            output.object(&json!({ "tag": tag, "id": null }));
        }
        return Ok(Exit::Done);
    }
    let id = resolve(service, &flags.reference)?;
    writer.tag(&tag, id)?;
    if output.is_json() {
        output.object(&json!({ "tag": tag, "id": id }));
    } else {
        output.line(format!("{tag} -> {id}"));
    }
    Ok(Exit::Done)
}
