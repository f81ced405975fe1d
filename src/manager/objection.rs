//! What speaks against a request before anything of it is done: a freeze, a stop, a rejection, another
//! generation in force than expected.

use crate::model::{GenerationId, How, Request};
use crate::store::{Ahead, Kind, StoreError};

use super::{ManagerError, Service};

/// Why this request must be refused now; `None`: nothing speaks against it.
///
/// # Errors
/// A veto that cannot be read.
pub(super) fn objection(
    service: &Service,
    request: Request,
    target: GenerationId,
    how: &How,
    in_force: Option<GenerationId>,
) -> Result<Option<String>, ManagerError> {
    if let Some(expected) = how.if_current
        && in_force != Some(expected)
    {
        let now = in_force.map_or("nothing".to_owned(), |id| id.short());
        return Ok(Some(format!(
            "{} is not in force any more, {now} is; look at `pointsman history` and ask again",
            expected.short()
        )));
    }
    if how.confirm_within_ms.is_some() && service.store.last_good()?.is_none() {
        let why = "nothing is known good that it could go back to; activate it without --confirm-within";
        return Ok(Some(why.to_owned()));
    }
    if let Some(veto) = service.store.stopped()? {
        let passes = match request {
            Request::Start => !how.unasked,
            Request::Stop | Request::Confirm => true,
            Request::Activate | Request::Rollback | Request::Restart => how.pointer_only,
        };
        if !passes {
            return Ok(Some(format!(
                "the service is stopped, {veto}; `pointsman start` brings it up, and `--pointer-only` moves the pointer alone"
            )));
        }
    }
    match request {
        // what goes back, brings the service up or lets it stay is never in anybody's way
        Request::Rollback | Request::Start | Request::Confirm | Request::Stop => return Ok(None),
        Request::Restart if in_force != Some(target) => {
            return Ok(Some(format!("{} is not in force any more; ask again", target.short())));
        }
        Request::Restart | Request::Activate => {}
    }
    if let Some(veto) = service.store.frozen()? {
        return Ok(Some(format!("the service is frozen, {veto}; `pointsman thaw` lets changes in again")));
    }
    if !how.force
        && request == Request::Activate
        && let Some(veto) = service.store.rejected(target)?
    {
        let short = target.short();
        return Ok(Some(format!("{short} was rolled back from, {veto}; --force activates it all the same")));
    }
    Ok(None)
}

/// Why generation `id` cannot be used as it is in the store, every byte of it read again; `None`: it is intact.
/// `ahead`: what was begun to be read of it.
pub(super) fn flaw(service: &Service, id: GenerationId, ahead: Option<Ahead>) -> Option<StoreError> {
    let access = match service.place.access() {
        Ok(access) => access,
        // what is wrong with the host file is told where it matters
        Err(_) => return None,
    };
    service.store.clone().with_access(access).check_begun(id, ahead).err()
}

/// Whether it is damage that speaks against `id`.
pub(super) fn is_damaged(service: &Service, id: GenerationId) -> bool {
    flaw(service, id, None).is_some_and(|error| error.kind() == Kind::Damaged)
}
