//! `pointsman status`

use serde_json::json;

use crate::fsx::{self, Dir};
use crate::manager::{Service, StatusReport, status};
use crate::model::Request;
use crate::supervise::uptime;

use super::exit::{Exit, Failure};
use super::output::{Colour, Output, count, first_line, when};
use super::place::{Environment, name_of, named, open};

pub(super) fn run(service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    let report = status(service)?;
    if output.is_json() {
        output.object(&report);
    } else {
        print(&report, name_of(&service.place), output);
    }
    Ok(Exit::Done)
}

/// Every named service of this host.
pub(super) fn all(environment: &Environment, output: &mut Output) -> Result<Exit, Failure> {
    let stores = environment.stores()?;
    let names = match fsx::optional(Dir::open(&stores))? {
        Some(dir) => dir.names()?,
        None => Vec::new(),
    };
    let mut services = Vec::new();
    let mut exit = Exit::Done;
    for name in names.iter().filter_map(|name| name.to_str()) {
        // what is no service's name is none of ours
        let Ok(place) = named(name, environment) else { continue };
        match open(place).and_then(|service| Ok(status(&service)?)) {
            Ok(report) => {
                if !output.is_json() {
                    print(&report, Some(name), output);
                    output.line("");
                }
                services.push(json!(report));
            }
            // one that is broken hides none of the others
            Err(failure) => {
                let error = failure.text();
                output.complain(format!("{name}: {error}"));
                exit = failure.exit;
                services.push(json!({ "service": name, "error": error, "exit": exit as u8 }));
            }
        }
    }
    if output.is_json() {
        output.object(&json!({ "services": services }));
    } else if services.is_empty() {
        output.talk(format!("no service in {}: `pointsman -s NAME init` makes one", stores.display()));
    }
    Ok(exit)
}

/// The most lines of a failed program's output that are shown; `history --json` has them all.
const OUTPUT_LINES: usize = 5;

fn print(report: &StatusReport, name: Option<&str>, output: &mut Output) {
    match name {
        Some(name) => output.line(format!("service    {name} ({})", report.store)),
        None => output.line(format!("store      {}", report.store)),
    }
    match report.current {
        Some(id) => output.line(format!("in force   {id}")),
        None => output.line("in force   nothing"),
    }
    if let Some(push) = &report.push {
        let message = push.message.as_deref().map(|m| format!(": {m}")).unwrap_or_default();
        output.line(format!("pushed     {} by {}{message}", when(push.at), push.by));
        for (key, value) in &push.meta {
            output.line(format!("           {key}={value}"));
        }
    }
    if report.last_good != report.current
        && let Some(good) = report.last_good
    {
        output.line(format!("last good  {good}"));
    }
    let pid = |pid: Option<u32>| pid.map_or("none".to_owned(), |pid| format!("pid {pid}"));
    let manager = pid(report.manager.as_ref().map(|manager| manager.pid));
    let keeper = match (report.service_manager.as_str(), report.supervisor) {
        ("supervisor", pid_of) => format!("supervisor {}", pid(pid_of)),
        (systemd, _) => format!("workers under {systemd}"),
    };
    output.line(format!("manager    {manager}, {keeper}"));
    if let Some(watchdog) = report.watchdog.as_ref().filter(|watchdog| watchdog.errors > 0) {
        let (errors, most) = (count(u64::from(watchdog.errors), "error", "errors"), watchdog.max_errors);
        let last = watchdog.last.as_ref().map(|last| format!(", {} the last", when(last.at)));
        let why = watchdog.last.as_ref().map(|last| format!(": {}", first_line(&last.why)));
        let (last, why) = (last.unwrap_or_default(), why.unwrap_or_default());
        output.line(format!("watchdog   {errors}, {most} are forgiven{last}{why}"));
    }
    if let Some(activation) = &report.activation {
        let stage = activation.stage.map(|stage| format!(", {stage} is done")).unwrap_or_default();
        let (event, target) = (activation.event, activation.target.short());
        output.line(match activation.request {
            Request::Stop => format!("stopping   event {event}"),
            Request::Start => format!("starting   event {event}, {target}{stage}"),
            Request::Activate | Request::Rollback | Request::Restart | Request::Confirm => {
                format!("activating event {event} to {target}{stage}")
            }
        });
    }
    if let Some(last) = &report.last {
        let reason = first_line(&last.reason);
        output.line(format!("last       event {}: {} ({reason})", last.event, last.verdict));
        // what a program said before it failed
        for said in last.reason.lines().skip(1).filter(|line| !line.trim().is_empty()).take(OUTPUT_LINES) {
            output.line(format!("           {said}"));
        }
    }
    for worker in &report.workers {
        let state = format!("{:?}", worker.state).to_lowercase();
        let bad = worker.unwell.is_some() || matches!(state.as_str(), "failed" | "ended");
        let colour = if bad { Colour::Bad } else { Colour::Good };
        let exits = if worker.exits == 0 {
            String::new()
        } else {
            format!(", {}", count(worker.exits, "unasked exit", "unasked exits"))
        };
        let drains = worker.left.zip(uptime()).map(|(left, now)| {
            let connections = worker.connections.map_or(String::new(), |open| {
                format!(", {}", count(open as u64, "connection", "connections"))
            });
            format!(" for {}s{connections}", now.saturating_sub(left))
        });
        let drains = drains.unwrap_or_default();
        let note = match &worker.unwell {
            Some(why) => format!(", unwell: {why}"),
            None if worker.note.is_empty() => String::new(),
            None => format!(": {}", worker.note),
        };
        let note = first_line(&note);
        output.line(format!(
            "worker     {:<12} {:<8} {} {}{drains}{exits}{note}",
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
