//! `pointsman freeze` and `thaw`

use serde_json::json;

use crate::manager::{Service, clock};
use crate::model::Veto;

use super::exit::{Exit, Failure};
use super::flags::FreezeFlags;
use super::output::Output;
use super::place::Environment;

pub(super) fn freeze(
    flags: &FreezeFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let veto = write(flags.why.clone(), service, environment)?;
    if output.is_json() {
        output.object(&json!({ "frozen": veto }));
    } else {
        output.line(format!("frozen {veto}"));
    }
    Ok(Exit::Done)
}

/// Freezes the service.
pub(super) fn write(
    why: Option<String>,
    service: &Service,
    environment: &Environment,
) -> Result<Veto, Failure> {
    let veto = Veto { at: clock::now(), by: environment.actor(), why, event: None };
    service.store.writer(&service.boot)?.freeze(&veto)?;
    Ok(veto)
}

pub(super) fn thaw(service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    let was = service.store.frozen().ok().flatten();
    let changed = service.store.writer(&service.boot)?.thaw()?;
    if output.is_json() {
        output.object(&json!({ "frozen": null, "was": was, "changed": changed }));
    } else {
        output.line(if changed { "thawed" } else { "it was not frozen" });
    }
    Ok(Exit::Done)
}
