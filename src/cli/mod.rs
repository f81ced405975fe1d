//! Flags, one file per command, text and JSON output, exit codes.

mod activate;
mod args;
mod check;
mod completions;
mod daemons;
mod diff;
mod exec;
mod exit;
mod export;
mod flags;
mod freeze;
mod gc;
mod import;
mod init;
mod inspect;
mod list;
mod logs;
mod output;
mod place;
mod progress;
mod push;
mod scratch;
mod signal;
mod status;
mod tag;
mod verify;

use std::ffi::OsString;

use clap::Parser as _;

pub use place::Environment;

use args::{Args, Command};
use exit::{Exit, Failure};
use output::Output;

/// Runs the command that `arguments` name, and gives the exit code.
///
/// Results go to stdout, talk to stderr; the codes are in `exit`, the rules in `spec/cli.md`.
pub fn run(arguments: impl IntoIterator<Item = OsString>, environment: &Environment) -> u8 {
    let arguments: Vec<OsString> = arguments.into_iter().collect();
    let args = match Args::try_parse_from(&arguments) {
        Ok(args) => args,
        Err(error) => return misused(&error, &arguments, environment) as u8,
    };
    if let Command::ExecSpec { descriptor } = args.command {
        return daemons::exec(descriptor, environment);
    }
    // a reader that goes away (`| head`) ends the output, not the work
    let mut output = Output::new(args.json, environment.colours());
    let exit = dispatch(args, environment, &mut output).unwrap_or_else(|failure| {
        output.failure(&failure);
        failure.exit
    });
    output.finish(exit) as u8
}

/// What the parser says: an error, or help and version, which are errors to it, too.
fn misused(error: &clap::Error, arguments: &[OsString], environment: &Environment) -> Exit {
    let _ = error.print();
    if !error.use_stderr() {
        return Exit::Done;
    }
    let json = arguments.iter().take_while(|word| *word != "--").any(|word| word == "--json");
    let text = error.to_string();
    // up to the empty line: after it come usage and hints
    let what: Vec<&str> = text.lines().take_while(|line| !line.is_empty()).map(str::trim).collect();
    let what = what.join(" ");
    let what = what.strip_prefix("error: ").unwrap_or(&what);
    let text = format!("{what}; `pointsman --help` shows what there is");
    Output::new(json, environment.colours()).error_object(&text, Exit::Usage);
    Exit::Usage
}

fn dispatch(args: Args, environment: &Environment, output: &mut Output) -> Result<Exit, Failure> {
    let place = || place::resolve(args.service.as_deref(), args.store.as_deref(), environment);
    let open = || place::open(place()?);
    match args.command {
        Command::Init(flags) => init::run(&flags, &place()?, output),
        Command::Push(flags) => push::run(&flags, &open()?, environment, output),
        Command::Deploy(flags) => activate::deploy(&flags, &open()?, environment, output),
        Command::Activate(flags) => activate::activate(&flags, &open()?, environment, output),
        Command::Rollback(flags) => activate::rollback(&flags, &open()?, environment, output),
        Command::Confirm => activate::confirm(&open()?, environment, output),
        Command::Restart(flags) => activate::restart(&flags, &open()?, environment, output),
        Command::Stop(flags) => activate::stop(&flags, &open()?, environment, output),
        Command::Start(flags) => activate::start(&flags, &open()?, environment, output),
        Command::Freeze(flags) => freeze::freeze(&flags, &open()?, environment, output),
        Command::Thaw => freeze::thaw(&open()?, output),
        Command::Check(flags) => check::run(&flags, &open()?, output),
        Command::Status => match (&args.service, &args.store, &environment.service) {
            (None, None, None) => status::all(environment, output),
            _ => status::run(&open()?, output),
        },
        Command::History { limit } => list::history(&open()?, limit, output),
        Command::List { limit } => list::generations(&open()?, limit, output),
        Command::Show { what } => inspect::show(&what, &open()?, output),
        Command::Path { reference } => inspect::path(&reference, &open()?, output),
        Command::Diff(flags) => diff::run(&flags, &open()?, environment, output),
        Command::Gc(flags) => gc::run(&flags, &open()?, output),
        Command::Verify(flags) => verify::run(&flags, &open()?, environment, output),
        Command::Tag(flags) => tag::run(&flags, &open()?, output),
        Command::Export(flags) => export::run(&flags, &open()?, output),
        Command::Import { source } => import::run(&source, &open()?, output),
        Command::Exec(flags) => exec::run(&flags, &open()?, environment),
        Command::Logs(flags) => logs::run(&flags, &open()?, output),
        Command::Signal(flags) => signal::run(&flags, &open()?, output),
        Command::Manager => daemons::manager(&open()?, environment),
        Command::Supervisor { run, given } => daemons::supervisor(run.as_deref(), given, place, environment),
        Command::Completions(flags) => completions::run(&flags, output),
        Command::ExecSpec { .. } => unreachable!("it has become another program"),
        Command::AwaitReady { task, pid } => daemons::await_ready(&task, pid),
        Command::Get { url } => daemons::get(&url),
        Command::Holder { run, stored } => daemons::holder(run.as_deref(), stored, place, environment),
    }
}
