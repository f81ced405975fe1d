//! Sockets that somebody else owns and gives to us, and the pipeline that listens there (W36).

use crate::model::{Fit, GivenSocket, Listen, Pipeline, Socket};
use crate::supervise::ServiceManager;
use crate::supervise::client::Unreachable;

/// How what is given now and what `pipeline` listens on go together. Where nobody is there to ask, nothing is given.
///
/// # Errors
/// Why a worker of that pipeline could not be started, in words for the operator.
pub(super) fn fit(
    asked: Result<Box<dyn ServiceManager>, Unreachable>,
    pipeline: &Pipeline,
) -> Result<Fit, String> {
    let given = asked.and_then(|mut workers| workers.given()).unwrap_or_default();
    let listens = pipeline.workers.values().map(|group| &group.listen);
    let sockets: Vec<(&str, &Socket)> = listens
        .filter_map(|listen| match listen {
            Listen::Sockets(sockets) => Some(sockets),
            // it binds by itself, who knows where
            Listen::Inherit(_) => None,
        })
        .flat_map(|sockets| sockets.iter().map(|(name, socket)| (name.as_str(), socket)))
        .collect();
    GivenSocket::fit(&given, &sockets)
}
