//! `pointsman signal`

use serde_json::json;

use crate::manager::{Service, running_workers};
use crate::supervise::{self, WorkerReport};

use super::exit::{Exit, Failure};
use super::flags::SignalFlags;
use super::inspect::resolve;
use super::output::{Output, first_line};

/// Sends the signal to the main process of every worker that is meant, draining ones included.
pub(super) fn run(flags: &SignalFlags, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    let signal = flags.signal.to_ascii_uppercase();
    let signal = signal.strip_prefix("SIG").unwrap_or(&signal).to_owned();
    if !supervise::is_signal(&signal) {
        return Err(Failure::usage(format!(
            "`{}` is no signal; give a name like HUP or USR1",
            first_line(&flags.signal)
        )));
    }
    let generation = flags.generation.as_ref().map(|reference| resolve(service, reference)).transpose()?;
    let workers = running_workers(service)?;
    if let Some(group) = &flags.group
        && !workers.iter().any(|worker| worker.slot.group == *group)
    {
        let mut groups: Vec<&str> = workers.iter().map(|worker| worker.slot.group.as_str()).collect();
        groups.dedup();
        let known = if groups.is_empty() { "nothing".to_owned() } else { groups.join(", ") };
        return Err(no_such(format!("no worker of the group `{group}` runs; what runs: {known}")));
    }
    let meant = |worker: &&WorkerReport| {
        flags.group.as_ref().is_none_or(|group| worker.slot.group == *group)
            && generation.is_none_or(|generation| worker.generation == generation)
    };
    let mut reached = Vec::new();
    for worker in workers.iter().filter(meant) {
        if supervise::send(worker, &signal).map_err(|why| Failure::new(Exit::Failed, why))? {
            reached.push(worker);
        }
    }
    if reached.is_empty() {
        let which = generation.map(|id| format!(" on {}", id.short())).unwrap_or_default();
        return Err(no_such(format!("no worker{which} runs; `pointsman status` shows what does")));
    }
    if output.is_json() {
        let reached: Vec<_> = reached
            .iter()
            .map(|worker| {
                json!({ "group": worker.slot.group, "instance": worker.slot.instance, "pid": worker.pid,
                        "generation": worker.generation, "state": worker.state })
            })
            .collect();
        output.object(&json!({ "signal": signal, "reached": reached }));
        return Ok(Exit::Done);
    }
    for worker in reached {
        let state = format!("{:?}", worker.state).to_lowercase();
        let (slot, pid) = (worker.slot.to_string(), worker.pid.unwrap_or_default());
        output.line(format!("{signal} to {slot} (pid {pid}, {}, {state})", worker.generation.short()));
    }
    Ok(Exit::Done)
}

fn no_such(why: String) -> Failure {
    Failure::new(Exit::NoSuch, why)
}
