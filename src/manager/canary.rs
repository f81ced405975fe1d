//! The live canary of a generation: what it is, whether it can be, how long it takes.

use std::path::Path;
use std::time::Duration;

use crate::activation::CanaryFacts;
use crate::model::{Network, Probe, Slot};
use crate::supervise::canary::{self, Canary};

use super::Service;
use super::launch::Launchable;

/// The canary of `target`, if it has one; `loaded`: on this instead of the sealed output.
pub(super) fn of(service: &Service, target: &Launchable, loaded: Option<&Path>) -> Option<Canary> {
    let words = target.pipeline.canary.as_ref()?;
    let first = Slot { group: words.worker.clone(), instance: 1 };
    let mut spec = target.worker(&service.store, &first)?;
    // no worker has this number: whoever keeps something by it keeps it apart
    spec.slot.instance = 0;
    if let Some(loaded) = loaded {
        spec.launch.loaded = Some(loaded.to_owned());
    }
    let run = service.place.run.clone();
    Some(Canary {
        spec,
        network: words.network,
        addresses: words.addresses.clone(),
        probe: words.probe.clone(),
        probe_timeout: target.pipeline.check_timeout,
        output: run.join("log/stages.log"),
        run,
    })
}

/// What a plan has to know of it.
pub(super) fn facts(service: &Service, target: &Launchable, seen_good: bool) -> Option<CanaryFacts> {
    let canary = of(service, target, None)?;
    let stop = canary.spec.grace_shutdown_time.min(canary::GRACE);
    // the looking for what it has left behind takes a moment, too
    let limit =
        canary.spec.longest(canary.spec.start_timeout) + canary.probe_timeout + stop + Duration::from_secs(5);
    Some(CanaryFacts { what: what(&canary), seen_good, limit })
}

/// What it does, in words for the operator.
pub(super) fn what(canary: &Canary) -> String {
    let place = match canary.network {
        Network::Host => "on sockets of its own",
        Network::Private => "in a network of its own",
    };
    let probe = match &canary.probe {
        Probe::Command(command) => format!("`{command}`"),
        Probe::Http(url) => format!("GET {url}"),
    };
    format!("one process of {} {place}, probed by {probe}", canary.spec.slot.group)
}

/// Whether it can be started at all, as far as that can be known without starting it.
///
/// # Errors
/// The reason, on one line.
pub(super) fn may_run(service: &Service, canary: &Canary) -> Result<(), String> {
    match canary.network {
        Network::Host => Ok(()),
        Network::Private => {
            let place = &service.place;
            canary::may_isolate(&place.run, &place.program, &canary.addresses)
                .map_err(|why| format!("canary: network: private: {why}"))
        }
    }
}
