//! `pointsman show` and `path`

use std::os::unix::ffi::OsStrExt as _;

use serde_json::json;

use crate::manager::Service;
use crate::model::{Class, GenerationId, Node, PushRecord, Reference, RelPath};

use super::exit::{Exit, Failure};
use super::output::{Output, count, when};

/// The generation that a person means.
pub(super) fn resolve(service: &Service, text: &str) -> Result<GenerationId, Failure> {
    let reference: Reference = text.parse().map_err(|e| Failure::new(Exit::NoSuch, e))?;
    Ok(service.store.resolve(&reference)?)
}

pub(super) fn show(what: &str, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    if let Some((reference, path)) = what.split_once(':') {
        let id = resolve(service, reference)?;
        let path = RelPath::new(path).map_err(|e| {
            Failure::usage(format!("`{path}` is no path in a generation, {e}; write REF:PATH"))
        })?;
        let content = service.store.read_file(id, &path)?;
        if output.is_json() {
            let (bytes, text) = (content.len(), String::from_utf8(content).ok());
            output.object(&json!({ "id": id, "path": path, "bytes": bytes, "text": text }));
        } else {
            output.bytes(&content);
        }
        return Ok(Exit::Done);
    }
    let id = resolve(service, what)?;
    let info = service.store.show(id)?;
    let entries: Vec<(String, &RelPath)> =
        info.manifest.iter().map(|(path, node)| (describe(node), path)).collect();
    if output.is_json() {
        let files: Vec<_> = entries.iter().map(|(node, path)| json!({ "path": path, "is": node })).collect();
        output.object(&json!({ "id": id, "push": info.record, "tags": info.listed.tags, "entries": files }));
        return Ok(Exit::Done);
    }
    output.line(format!("generation {id}"));
    let PushRecord { at, by, source, .. } = &info.record;
    output.line(format!("pushed     {} by {by} from {source}", when(*at)));
    if let Some(message) = &info.record.message {
        output.line(format!("message    {message}"));
    }
    for (key, value) in &info.record.meta {
        output.line(format!("meta       {key}={value}"));
    }
    if let Some(parent) = info.record.parent {
        output.line(format!("parent     {parent}"));
    }
    for tag in &info.listed.tags {
        output.line(format!("tag        {tag}"));
    }
    let entries_in = count(info.manifest.len() as u64, "entry", "entries");
    output.line(format!("content    {entries_in}, {}", count(info.manifest.bytes(), "byte", "bytes")));
    for (node, path) in entries {
        output.line(format!("  {node:<24} {path}"));
    }
    Ok(Exit::Done)
}

fn describe(node: &Node) -> String {
    match node {
        Node::Dir => "dir".to_owned(),
        Node::Link { target } => format!("link to {target}"),
        Node::File { class, executable, len, .. } => {
            let class = match class {
                Class::Public => "public",
                Class::Private => "private",
            };
            format!("{class}{} {len}", if *executable { "+x" } else { "" })
        }
    }
}

pub(super) fn path(reference: &str, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    let id = resolve(service, reference)?;
    let path = service.store.tree_path(id);
    if output.is_json() {
        output.object(&json!({ "id": id, "path": path }));
    } else {
        // for other programs, as it is
        output.bytes(&[path.as_os_str().as_bytes(), b"\n"].concat());
    }
    Ok(Exit::Done)
}
