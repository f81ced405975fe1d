//! The command line: every command, in the order of daily use, with its examples.

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueHint};

use super::flags::{
    ActivateFlags, CheckFlags, CompletionFlags, DeployFlags, DiffFlags, ExecFlags, ExportFlags, FreezeFlags,
    GcFlags, InitFlags, LogFlags, PushFlags, RestartFlags, RollbackFlags, SignalFlags, StartFlags, StopFlags,
    TagFlags, VerifyFlags,
};

const AFTER: &str = "\
REF: a full id, the unique beginning of one (4 digits or more), a tag, `@` (in force),
     `@-1` (the good one before it).

Exit codes:
  0  done, or nothing was to be done
  1  failed or reverted; the last good generation is in force
  2  used wrongly, or no store there
  3  no such generation, or more than one
  4  the store is damaged
  5  busy, superseded or unreachable: try again
  6  stuck: a person has to look
  7  refused before anything ran
  8  the manager has given up; the workers serve on

Examples:
  pointsman -s web init --pipeline pushed
  pointsman -s web deploy ./nginx --message 'larger buffers'
  pointsman -s web rollback
  pointsman -s web status";

/// The heading of the flags that every command has.
const COMMON: &str = "Common options";

/// Keeps the configuration of services as immutable generations and moves one pointer onto a proven one.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, after_help = AFTER, arg_required_else_help = true)]
pub(super) struct Args {
    /// The service [default: $POINTSMAN_SERVICE]
    #[arg(short = 's', long, value_name = "NAME", global = true, value_hint = ValueHint::Other, help_heading = COMMON)]
    pub(super) service: Option<String>,
    /// A store at this path, in place of a named service's
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "service", value_hint = ValueHint::DirPath, help_heading = COMMON)]
    pub(super) store: Option<PathBuf>,
    /// Print one JSON object in place of text
    #[arg(long, global = true, help_heading = COMMON)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Push a directory and activate it
    #[command(after_help = "Examples:
  pointsman -s web deploy ./nginx -m 'larger buffers' --tag v42
  pointsman -s web deploy ./nginx --confirm-within 5m
  pointsman -s web deploy ./nginx --copy-links --take-over nginx.service")]
    Deploy(DeployFlags),
    /// Show what is in force and what runs; without a service, of all services
    #[command(after_help = "Examples:
  pointsman -s web status
  pointsman -s web status --json")]
    Status,
    /// Go back to a generation; without REF to the good one before
    #[command(after_help = "What it leaves must not be activated again without --force.

Examples:
  pointsman -s web rollback
  pointsman -s web rollback v41 --freeze")]
    Rollback(RollbackFlags),
    /// Find out whether a directory or generation would pass; moves nothing
    #[command(after_help = "Examples:
  pointsman -s web check ./nginx
  pointsman -s web check v42")]
    Check(CheckFlags),
    /// Show what differs between two generations, directories or a tar stream
    #[command(after_help = "Examples:
  pointsman -s web diff @ ./nginx
  pointsman -s web diff @-1 @")]
    Diff(DiffFlags),
    /// Put a directory into the store as a generation; prints its id
    #[command(after_help = "Examples:
  id=$(pointsman -s web push ./nginx) && pointsman -s web activate $id
  tar c -C nginx . | ssh host pointsman -s web push - --meta commit=$(git rev-parse HEAD)")]
    Push(PushFlags),
    /// Put a generation in force: loader, checks, pointer, workers, probation
    #[command(after_help = "Examples:
  pointsman -s web activate 3f9a --dry-run
  pointsman -s web activate v42 --if-current v41
  pointsman -s web activate @")]
    Activate(ActivateFlags),
    /// Let what was activated with --confirm-within stay
    #[command(after_help = "Examples:\n  pointsman -s web confirm")]
    Confirm,
    /// Show what workers, loader and checks have written, or follow it
    #[command(after_help = "Examples:
  pointsman -s web logs -f
  pointsman -s web logs --event 42")]
    Logs(LogFlags),
    /// Show what was asked for, and the verdicts, newest first
    #[command(after_help = "Examples:\n  pointsman -s web history -n 10")]
    History {
        /// At most so many events [default: all]
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show the generations, newest first; `@` marks the one in force
    #[command(after_help = "Examples:\n  pointsman -s web list -n 10")]
    List {
        /// At most so many generations [default: all]
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a generation, or print a file of it
    #[command(after_help = "Examples:
  pointsman -s web show
  pointsman -s web show @-1:nginx.conf")]
    Show {
        /// The generation, or a file of it
        #[arg(value_name = "REF[:PATH]", default_value = "@")]
        what: String,
    },
    /// Replace the workers, one after the other, on the generation in force
    #[command(after_help = "Examples:
  pointsman -s web restart
  pointsman -s web restart resolver")]
    Restart(RestartFlags),
    /// End every worker; nothing is started before `start`, also after a reboot
    #[command(after_help = "Examples:\n  pointsman -s web stop --why 'disk is replaced'")]
    Stop(StopFlags),
    /// Bring up what is in force, after a `stop` or where nothing runs
    #[command(after_help = "Examples:
  pointsman -s web start
  pointsman -s web start --take-over nginx.service")]
    Start(StartFlags),
    /// Refuse every activation until `thaw`; rollbacks pass
    #[command(after_help = "Examples:\n  pointsman -s web freeze --why 'release weekend'")]
    Freeze(FreezeFlags),
    /// Let activations in again
    #[command(after_help = "Examples:\n  pointsman -s web thaw")]
    Thaw,
    /// Run a command on one generation, whatever is activated meanwhile
    #[command(
        after_help = "In CMD, {config} is the generation's tree, as is $POINTSMAN_CONFIG; `mount:` is applied.
The exit code is CMD's; 126 where it cannot be run, 127 where it is not there.

Examples:
  pointsman -s web exec @-1 -- nginx -T -c {config}/nginx.conf
  pointsman -s web exec --as web -- sh"
    )]
    Exec(ExecFlags),
    /// Send a signal to the main process of the workers, draining ones included
    #[command(after_help = "Examples:
  pointsman -s web signal USR1
  pointsman -s web signal SIGTERM web --generation @-1")]
    Signal(SignalFlags),
    /// Name a generation, which keeps it
    #[command(after_help = "Examples:
  pointsman -s web tag v42
  pointsman -s web tag -d v42")]
    Tag(TagFlags),
    /// Print the absolute path of a generation's tree
    #[command(after_help = "Examples:
  pointsman -s web path
  ls $(pointsman -s web path v42)")]
    Path {
        /// The generation
        #[arg(value_name = "REF", default_value = "@")]
        reference: String,
    },
    /// Remove the generations that nothing needs any more; the host file says how many stay
    #[command(
        after_help = "Kept are: what is in force, tagged, named by an unfinished event or run by a process; \
what `rollback` goes to; the last `keep` good ones, those good within `keep_days`, and what was pushed within \
`keep_pushed`.

Examples:
  pointsman -s web gc --dry-run
  pointsman -s web gc 3f9a --now"
    )]
    Gc(GcFlags),
    /// Read everything again and name what is damaged, or repair it
    #[command(after_help = "Examples:
  pointsman -s web verify
  pointsman -s web verify --repair --from web.tar")]
    Verify(VerifyFlags),
    /// Write generations, their tags and verdicts as one tar stream
    #[command(after_help = "Examples:
  pointsman -s web export --all -o web.tar
  pointsman -s web export v42 | ssh other pointsman -s web import -")]
    Export(ExportFlags),
    /// Bring in what `export` has written; moves nothing
    #[command(after_help = "Examples:\n  pointsman -s web import web.tar")]
    Import {
        /// The export, or `-`: on stdin
        #[arg(value_name = "FILE|-", value_hint = ValueHint::FilePath)]
        source: PathBuf,
    },
    /// Make an empty store
    #[command(after_help = "Examples:\n  pointsman -s web init --pipeline pushed")]
    Init(InitFlags),
    /// Carry out activations until told to end; the workers outlive it
    #[command(after_help = "Examples:\n  pointsman -s web manager")]
    Manager,
    /// Start, watch and replace the workers (the manager starts one where none runs)
    #[command(after_help = "Examples:\n  pointsman -s web supervisor")]
    Supervisor {
        /// The run directory [default: the service's]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        run: Option<PathBuf>,
        /// The sockets that it was given are on stdin
        #[arg(long, hide = true)]
        given: bool,
    },
    /// Keep the listening sockets (the supervisor starts one where none runs)
    #[command(after_help = "Examples:\n  pointsman -s web holder")]
    Holder {
        /// The run directory [default: the service's]
        #[arg(long, value_name = "DIR", value_hint = ValueHint::DirPath)]
        run: Option<PathBuf>,
        /// What the service manager has kept is on stdin
        #[arg(long, hide = true)]
        stored: bool,
    },
    /// Print a script that completes commands and options in a shell
    #[command(after_help = "`scripts/install` puts the three where the shells look for them.

Examples:
  source <(pointsman completions bash)
  pointsman completions fish > ~/.config/fish/completions/pointsman.fish")]
    Completions(CompletionFlags),
    #[command(name = "__exec", hide = true)]
    ExecSpec { descriptor: i32 },
    #[command(name = "__ready", hide = true)]
    AwaitReady { task: PathBuf, pid: u32 },
    #[command(name = "__get", hide = true)]
    Get { url: String },
}
