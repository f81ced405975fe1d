//! `pointsman status`

use serde_json::json;

use crate::fsx::{self, Dir};
use crate::manager::{Service, StatusReport, status};

use super::exit::{Exit, Failure};
use super::output::{Colour, Output};
use super::place::{Environment, named, open};

pub(super) fn run(service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    let report = status(service)?;
    if output.is_json() {
        output.object(&report);
    } else {
        print(&report, output);
    }
    Ok(Exit::Done)
}

/// Every named service of this host.
pub(super) fn all(environment: &Environment, output: &mut Output) -> Result<Exit, Failure> {
    let failed = |e| Failure::new(Exit::Failed, e);
    let stores = environment.stores()?;
    let names = match fsx::optional(Dir::open(&stores)).map_err(failed)? {
        Some(dir) => dir.names().map_err(failed)?,
        None => Vec::new(),
    };
    let mut reports = Vec::new();
    for name in names {
        let Some(name) = name.to_str() else { continue };
        if let Ok(place) = named(name, environment) {
            reports.push(status(&open(place)?)?);
        }
    }
    if output.is_json() {
        output.object(&json!({ "services": reports }));
        return Ok(Exit::Done);
    }
    if reports.is_empty() {
        output.talk(format!("no service in {}: `pointsman -s NAME init` makes one", stores.display()));
    }
    for report in &reports {
        print(report, output);
        output.line("");
    }
    Ok(Exit::Done)
}

fn print(report: &StatusReport, output: &mut Output) {
    output.line(format!("service    {} ({})", report.service, report.store));
    match report.current {
        Some(id) => output.line(format!("in force   {id}")),
        None => output.line("in force   nothing"),
    }
    if let Some(push) = &report.push {
        let message = push.message.as_deref().map(|m| format!(": {m}")).unwrap_or_default();
        output.line(format!("pushed     {} by {}{message}", push.at.strftime("%F %T"), push.by));
    }
    if report.last_good != report.current
        && let Some(good) = report.last_good
    {
        output.line(format!("last good  {good}"));
    }
    let pid = |pid: Option<u32>| pid.map_or("none".to_owned(), |pid| format!("pid {pid}"));
    let manager = pid(report.manager.as_ref().map(|manager| manager.pid));
    output.line(format!("manager    {manager}, supervisor {}", pid(report.supervisor)));
    if let Some(activation) = &report.activation {
        let stage = activation.stage.map(|stage| format!(", {stage} is done")).unwrap_or_default();
        output.line(format!("activating event {} to {}{stage}", activation.event, activation.target.short()));
    }
    if let Some(last) = &report.last {
        let reason = last.reason.lines().next().unwrap_or_default();
        output.line(format!("last event {}: {} ({reason})", last.event, last.verdict));
    }
    for worker in &report.workers {
        let state = format!("{:?}", worker.state).to_lowercase();
        let colour = if state == "failed" { Colour::Bad } else { Colour::Good };
        let exits =
            if worker.exits == 0 { String::new() } else { format!(", {} unasked exits", worker.exits) };
        let note = if worker.note.is_empty() { String::new() } else { format!(": {}", worker.note) };
        let note = note.lines().next().unwrap_or_default();
        output.line(format!(
            "worker     {:<12} {:<8} {} {}{exits}{note}",
            worker.slot.to_string(),
            worker.pid.map_or("-".to_owned(), |pid| pid.to_string()),
            worker.generation.short(),
            output.paint(colour, &state),
        ));
    }
    for advice in &report.advice {
        output.line(format!("next       {advice}"));
    }
}
