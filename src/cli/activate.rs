//! `pointsman activate`, `rollback` and `deploy`

use crate::activation::Plan;
use crate::manager::{Draft, Service, plan_for, rollback_target, submit};
use crate::model::{GenerationId, Outcome, Request, StepReport, StepResult, Verdict};

use super::args::{ActFlags, ActivateFlags, DeployFlags, RollbackFlags};
use super::exit::{Exit, Failure, of_verdict};
use super::inspect::resolve;
use super::output::{Colour, Output};
use super::place::Environment;

pub(super) fn activate(
    flags: &ActivateFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let target = resolve(service, &flags.reference)?;
    act(Request::Activate, target, &flags.act, service, environment, output)
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
    act(Request::Rollback, target, &flags.act, service, environment, output)
}

pub(super) fn deploy(
    flags: &DeployFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    let pushed = super::push::push(&flags.push, service, environment, output)?;
    if !output.is_json() {
        output.talk(format!("pushed {}", pushed.id));
    }
    let act_flags = ActFlags { pointer_only: false, force: flags.force, dry_run: false };
    act(Request::Activate, pushed.id, &act_flags, service, environment, output)
}

fn act(
    request: Request,
    target: GenerationId,
    flags: &ActFlags,
    service: &Service,
    environment: &Environment,
    output: &mut Output,
) -> Result<Exit, Failure> {
    if flags.dry_run {
        let (plan, note) = plan_for(service, request, target, flags.pointer_only, flags.force)?;
        return Ok(print_plan(&plan, note.as_deref(), output));
    }
    let draft = Draft {
        request,
        target,
        pointer_only: flags.pointer_only,
        force: flags.force,
        by: environment.actor(),
    };
    let outcome = submit(service, &draft, &mut |_, report| {
        if !output.is_json() {
            let line = step_line(report, output);
            output.talk(line);
        }
    })?;
    print_outcome(&outcome, output);
    Ok(of_verdict(outcome.verdict))
}

fn print_plan(plan: &Plan, note: Option<&str>, output: &mut Output) -> Exit {
    if output.is_json() {
        output.object(plan);
        return Exit::Done;
    }
    if let Some(note) = note {
        output.talk(format!("note: {note}"));
    }
    for step in &plan.steps {
        let verb = if step.run { "run " } else { "skip" };
        output.line(format!("{verb}  {:<12} {}", step.name(), step.why));
    }
    Exit::Done
}

fn step_line(report: &StepReport, output: &Output) -> String {
    let (mark, colour) = match report.result {
        StepResult::Ok => ("ok     ", Colour::Good),
        StepResult::Skipped => ("skipped", Colour::Dim),
        StepResult::Failed => ("FAILED ", Colour::Bad),
        StepResult::Undone => ("undone ", Colour::Dim),
    };
    let time = if report.result == StepResult::Skipped { String::new() } else { format!("{} ms", report.ms) };
    // a failure's output belongs to the verdict below
    let why = report.why.lines().next().unwrap_or_default();
    format!("  {} {:<12} {:>8}  {why}", output.paint(colour, mark), report.step, time)
}

fn print_outcome(outcome: &Outcome, output: &mut Output) {
    if output.is_json() {
        return output.object(outcome);
    }
    let colour = match outcome.verdict {
        Verdict::Good | Verdict::Unchanged | Verdict::PointerOnly => Colour::Good,
        Verdict::Reverted | Verdict::Failed | Verdict::Refused | Verdict::Superseded | Verdict::Stuck => {
            Colour::Bad
        }
    };
    let verdict = output.paint(colour, &outcome.verdict.to_string());
    output.line(format!("event {}: {verdict} ({}): {}", outcome.event, outcome.stage, outcome.reason));
    let serving = outcome.serving.map_or("nothing".to_owned(), |id| id.to_string());
    output.line(format!("in force: {serving}"));
}
