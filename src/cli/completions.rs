//! `pointsman completions`

use clap::{Command, CommandFactory as _};
use clap_complete::{Shell, generate};

use super::args::Args;
use super::exit::{Exit, Failure};
use super::flags::CompletionFlags;
use super::output::Output;

pub(super) fn run(flags: &CompletionFlags, output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        return Err(Failure::usage("`completions` prints a script, which is no object; leave --json out"));
    }
    let shell: Shell = flags.shell.parse().map_err(Failure::usage)?;
    let mut script = Vec::new();
    let whole = Args::command();
    let shown = whole.get_subcommands().filter(|command| !command.is_hide_set()).map(shown);
    let mut command = self::shown(&whole).version(env!("CARGO_PKG_VERSION")).subcommands(shown);
    generate(shell, &mut command, "pointsman", &mut script);
    output.bytes(&script);
    Ok(Exit::Done)
}

/// A command with what the help shows of it: the generators know no hidden ones.
fn shown(whole: &Command) -> Command {
    let about = whole.get_about().cloned().unwrap_or_default();
    let args = whole.get_arguments().filter(|arg| !arg.is_hide_set()).cloned();
    Command::new(whole.get_name().to_owned()).about(about).args(args)
}
