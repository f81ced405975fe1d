//! Which generations must not come back by mistake.

use crate::model::{Event, GenerationId, Request, Veto, chain};
use crate::store::Writer;

/// `event`, which led away from `from`, is good: what a rollback leaves must not come back by mistake; what was
/// activated by force may. The verdict does not wait for a mark that cannot be written.
pub(super) fn settle_rejections(writer: &Writer, event: &Event, from: Option<GenerationId>) {
    match (event.request, from) {
        (Request::Rollback, Some(from)) if from != event.target => reject(writer, from, event),
        (Request::Rollback | Request::Activate, _) => {}
        (Request::Start | Request::Restart | Request::Confirm | Request::Stop, _) => return,
    }
    if let Err(error) = writer.pardon(event.target) {
        tracing::warn!("event {}: {}", event.number, chain(&error));
    }
}

/// Marks what `rollback` leaves.
pub(super) fn reject(writer: &Writer, id: GenerationId, rollback: &Event) {
    let Event { at, by, number, .. } = rollback.clone();
    let veto = Veto { at, by, why: None, event: Some(number) };
    if let Err(error) = writer.reject(id, &veto) {
        tracing::warn!("event {number}: {}", chain(&error));
    }
}
