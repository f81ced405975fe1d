//! `pointsman activate`, `rollback` and `deploy`

use crate::activation::Plan;
use crate::manager::{
    Draft, Service, Submitted, collect_after, leave, plan_for, rollback_target, stop_target, submit,
    take_over,
};
use crate::model::{
    GenerationId, How, Outcome, Request, StepReport, StepResult, TakeOver, Verdict, chain, duration,
};

use super::exit::{Exit, Failure, of_verdict};
use super::flags::{
    ActFlags, ActivateFlags, DeployFlags, HowFlags, RestartFlags, RollbackFlags, StartFlags, StopFlags,
};
use super::inspect::resolve;
use super::output::{Colour, Output, first_line};
use super::place::Environment;

pub(super) fn activate(
    flags: &ActivateFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let target = resolve(service, &flags.reference)?;
    let from = flags.take_over.as_deref().map(take_over).transpose()?;
    act(Request::Activate, target, &flags.act, from, service, environment, output)
}

pub(super) fn rollback(
    flags: &RollbackFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let target = match &flags.reference {
        Some(reference) => resolve(service, reference)?,
        None => rollback_target(service)?,
    };
    if flags.freeze {
        super::freeze::write(Some("frozen by a rollback".to_owned()), service, environment)?;
    }
    act(Request::Rollback, target, &flags.act, None, service, environment, output)
}

pub(super) fn deploy(
    flags: &DeployFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let take_over = flags.take_over.as_deref().map(take_over).transpose()?;
    let pushed = super::push::push(&flags.push, service, environment, output)?;
    if !output.is_json() {
        output.talk(format!("pushed {}", pushed.id));
    }
    let how = How { take_over, ..how(&flags.how, false, service)? };
    carry_out(Request::Activate, pushed.id, how, flags.how.no_wait, service, environment, output)
}

fn act(
    request: Request,
    target: GenerationId,
    flags: &ActFlags,
    take_over: Option<TakeOver>,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let how = How { take_over, ..how(&flags.how, flags.pointer_only, service)? };
    if flags.dry_run {
        let (plan, note) = plan_for(service, request, target, how)?;
        print_plan(&plan, note.as_deref(), output);
        return Ok(Exit::Done);
    }
    carry_out(request, target, how, flags.how.no_wait, service, environment, output)
}

/// Says of what is in force unconfirmed that it may stay.
pub(super) fn confirm(
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let target = resolve(service, "@")?;
    carry_out(Request::Confirm, target, How::default(), false, service, environment, output)
}

/// Replaces the workers of what is in force.
pub(super) fn restart(
    flags: &RestartFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let target = resolve(service, "@")?;
    let how = How { group: flags.group.clone(), ..How::default() };
    carry_out(Request::Restart, target, how, flags.no_wait, service, environment, output)
}

/// Ends every worker until somebody asks for a start.
pub(super) fn stop(
    flags: &StopFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let target = match stop_target(service)? {
        Some(target) => target,
        None => resolve(service, "@")?,
    };
    let how = How { why: flags.why.clone(), ..How::default() };
    carry_out(Request::Stop, target, how, false, service, environment, output)
}

/// Brings up what is in force.
pub(super) fn start(
    flags: &StartFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let target = resolve(service, "@")?;
    let take_over = flags.take_over.as_deref().map(take_over).transpose()?;
    let how = How { take_over, ..How::default() };
    carry_out(Request::Start, target, how, false, service, environment, output)
}

fn how(flags: &HowFlags, pointer_only: bool, service: &Service) -> Result<How, Failure> {
    let if_current = flags.if_current.as_deref().map(|reference| resolve(service, reference)).transpose()?;
    let confirm_within_ms = match flags.confirm_within.as_deref() {
        None => None,
        Some(text) => {
            let within =
                duration::parse(text).map_err(|e| Failure::usage(format!("--confirm-within {text}: {e}")))?;
            if pointer_only || within.is_zero() {
                return Err(Failure::usage(
                    "--confirm-within needs a time, and workers that prove something",
                ));
            }
            Some(u64::try_from(within.as_millis()).unwrap_or(u64::MAX))
        }
    };
    let (force, cold) = (flags.force, flags.cold);
    Ok(How { pointer_only, force, cold, if_current, confirm_within_ms, ..How::default() })
}

fn carry_out(
    request: Request,
    target: GenerationId,
    how: How,
    no_wait: bool,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let draft = Draft { request, target, how, by: environment.actor() };
    if no_wait {
        let event = leave(service, &draft)?;
        if output.is_json() {
            output.object(&serde_json::json!({ "event": event, "target": target }));
        } else {
            output.line(format!("event {event}: accepted; `pointsman history` shows its verdict"));
        }
        return Ok(Exit::Done);
    }
    let Submitted { outcome, collects } = submit(service, &draft, &mut |_, report| {
        if !output.is_json() {
            let line = step_line(report, output);
            output.talk(line);
        }
    })?;
    let exit = match outcome.verdict {
        Verdict::Refused if outcome.damaged => Exit::Damaged,
        verdict => of_verdict(verdict),
    };
    print_outcome(&outcome, exit, output);
    if let Some(retention) = collects
        && let Err(error) = collect_after(service, retention)
    {
        // the verdict stands
        output.talk(format!("note: old generations were not removed: {}", chain(&error)));
    }
    Ok(exit)
}

/// What `--dry-run --json` prints.
#[derive(serde::Serialize)]
struct Planned<'a> {
    note: Option<&'a str>,
    #[serde(flatten)]
    plan: &'a Plan,
}

fn print_plan(plan: &Plan, note: Option<&str>, output: &mut Output) {
    if output.is_json() {
        return output.object(&Planned { note, plan });
    }
    if let Some(note) = note {
        output.talk(format!("note: {note}"));
    }
    for step in &plan.steps {
        let verb = if step.run { "run " } else { "skip" };
        output.line(format!("{verb}  {:<12} {}", step.name(), step.why));
    }
}

fn step_line(report: &StepReport, output: &Output) -> String {
    let (mark, colour) = match report.result {
        StepResult::Ok => ("ok     ", Colour::Good),
        StepResult::Skipped => ("skipped", Colour::Dim),
        StepResult::Failed => ("FAILED ", Colour::Bad),
        StepResult::Undone => ("undone ", Colour::Dim),
    };
    let time = if report.result == StepResult::Skipped { String::new() } else { format!("{} ms", report.ms) };
    // why it failed is the verdict's to say, once
    let why = if report.result == StepResult::Failed { "" } else { first_line(&report.why) };
    let line = format!("  {} {:<12} {time:>8}  {why}", output.paint(colour, mark), report.step);
    line.trim_end().to_owned()
}

/// Prints the verdict: the result where all is done as asked, else what went wrong.
fn print_outcome(outcome: &Outcome, exit: Exit, output: &mut Output) {
    if output.is_json() {
        return output.object(outcome);
    }
    let colour = if exit == Exit::Done { Colour::Good } else { Colour::Bad };
    let verdict = output.paint(colour, &outcome.verdict.to_string());
    let text = format!("event {}: {verdict} ({}): {}", outcome.event, outcome.stage, outcome.reason);
    let serving = outcome.serving.map_or("nothing".to_owned(), |id| id.to_string());
    let in_force = format!("in force: {serving}");
    if exit == Exit::Done {
        output.line(text);
        output.line(in_force);
        return;
    }
    output.complain(text);
    let next = match exit {
        Exit::Stuck => "; `pointsman status` says what to do",
        Exit::Damaged => "; push the same content again, which makes it whole",
        Exit::Busy => "; ask again",
        _ if outcome.changed => "",
        _ => ", as before; correct the cause and ask again",
    };
    output.talk(format!("{in_force}{next}"));
}
