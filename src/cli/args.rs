//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

use crate::model::KeyValue;

const AFTER: &str = "\
REF: a full id, the unique beginning of one (4 digits or more), a tag, `@` (in force),
     `@-1` (the good one before it).

More commands: `stop` ends the workers until `start`; each explains itself with --help.

Exit codes:
  0  done, or nothing was to be done
  1  failed or reverted; the last good generation is in force
  2  used wrongly, or no store there
  3  no such generation, or more than one
  4  the store is damaged
  5  busy, superseded or unreachable: try again
  6  stuck: a person has to look
  7  refused before anything ran

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
    #[arg(short = 's', long, value_name = "NAME", global = true, help_heading = COMMON)]
    pub(super) service: Option<String>,
    /// A store at this path, in place of a named service's
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "service", help_heading = COMMON)]
    pub(super) store: Option<PathBuf>,
    /// Print one JSON object, as spec/cli.md describes it
    #[arg(long, global = true, help_heading = COMMON)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an empty store
    #[command(after_help = "Example: pointsman -s web init --pipeline pushed")]
    Init(InitFlags),
    /// Push a directory and activate it
    #[command(after_help = "Example: pointsman -s web deploy ./nginx -m 'larger buffers' --tag v42")]
    Deploy(DeployFlags),
    /// Put a directory into the store as a generation; prints its id
    #[command(after_help = "Examples: id=$(pointsman -s web push ./nginx) && pointsman -s web activate $id
          tar c -C nginx . | ssh host pointsman -s web push - --meta commit=$(git rev-parse HEAD)")]
    Push(PushFlags),
    /// Put a generation in force: loader, checks, pointer, workers, probation
    #[command(after_help = "Examples: pointsman -s web activate 3f9a --dry-run
          pointsman -s web activate v42 --if-current v41")]
    Activate(ActivateFlags),
    /// Go back to a generation; without REF to the good one before
    #[command(after_help = "What it leaves must not be activated again without --force.

Examples: pointsman -s web rollback
          pointsman -s web rollback v41 --freeze")]
    Rollback(RollbackFlags),
    /// Let what was activated with --confirm-within stay
    Confirm,
    /// Replace the workers, one after the other, on the generation in force
    #[command(after_help = "Example: pointsman -s web restart resolver")]
    Restart(RestartFlags),
    /// End every worker; nothing is started before `start`, also after a reboot
    #[command(hide = true, after_help = "Example: pointsman -s web stop --why 'disk is replaced'")]
    Stop(StopFlags),
    /// Bring up what is in force, after a `stop` or where nothing runs
    #[command(
        hide = true,
        after_help = "Examples: pointsman -s web start
          pointsman -s web start --take-over nginx.service"
    )]
    Start(StartFlags),
    /// Refuse every activation until `thaw`; rollbacks pass
    #[command(after_help = "Example: pointsman -s web freeze --why 'release weekend'")]
    Freeze(FreezeFlags),
    /// Let activations in again
    Thaw,
    /// Find out whether a directory or generation would pass; moves nothing
    #[command(after_help = "Example: pointsman -s web check ./nginx")]
    Check(CheckFlags),
    /// Show what is in force and what runs; without a service, of all services
    Status,
    /// Show what was activated, and the verdicts, newest first
    History {
        /// Show at most so many events [default: all]
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show the generations, newest first; `@` marks the one in force
    List {
        /// Show at most so many generations [default: all]
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a generation, or print a file of it
    #[command(after_help = "Examples: pointsman -s web show\n          pointsman -s web show @-1:nginx.conf")]
    Show {
        /// The generation, or a file of it
        #[arg(value_name = "REF[:PATH]", default_value = "@")]
        what: String,
    },
    /// Show what differs between two generations, directories or a tar stream
    #[command(
        after_help = "Examples: pointsman -s web diff @-1 @\n          pointsman -s web diff @ ./nginx"
    )]
    Diff(DiffFlags),
    /// Read everything again and name what is damaged, or repair it
    #[command(after_help = "Examples: pointsman -s web verify
          pointsman -s web verify --repair --from web.tar")]
    Verify(VerifyFlags),
    /// Write generations, their tags and verdicts as one tar stream
    #[command(after_help = "Examples: pointsman -s web export --all -o web.tar
          pointsman -s web export v42 | ssh other pointsman -s web import -")]
    Export(ExportFlags),
    /// Bring in what `export` has written; moves nothing
    #[command(after_help = "Example: pointsman -s web import web.tar")]
    Import {
        /// The export, or `-`: on stdin
        #[arg(value_name = "FILE|-")]
        source: PathBuf,
    },
    /// Run a command on one generation, whatever is activated meanwhile
    #[command(
        after_help = "In CMD, {config} is the generation's tree, as is $POINTSMAN_CONFIG; `mount:` is applied.
The exit code is CMD's; 126 where it cannot be run, 127 where it is not there.

Examples: pointsman -s web exec @-1 -- nginx -T -c {config}/nginx.conf
          pointsman -s web exec --as web -- sh"
    )]
    Exec {
        /// The generation
        #[arg(value_name = "REF", default_value = "@")]
        reference: String,
        /// As the workers of this group, or `check`: their user, environment and directory
        #[arg(long = "as", value_name = "GROUP|check")]
        stage: Option<String>,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Show what workers have written, or follow it
    #[command(after_help = "Examples: pointsman -s web logs -f
          pointsman -s web logs --event 42")]
    Logs(LogFlags),
    /// Name a generation, which keeps it
    #[command(after_help = "Examples: pointsman -s web tag v42\n          pointsman -s web tag -d v42")]
    Tag(TagFlags),
    /// Remove the generations that nothing needs any more; the host file says how many stay
    #[command(after_help = "\
Kept are: what is in force, tagged, named by an unfinished event or run by a process; what `rollback` goes to;
the last `keep` good ones, those good within `keep_days`, and what was pushed within `keep_pushed`.

Examples: pointsman -s web gc --dry-run
          pointsman -s web gc 3f9a --now")]
    Gc(GcFlags),
    /// Print the absolute path of a generation's tree
    Path {
        /// The generation
        #[arg(value_name = "REF", default_value = "@")]
        reference: String,
    },
    /// Send a signal to the main process of the workers, draining ones included
    #[command(after_help = "Examples: pointsman -s web signal USR1
          pointsman -s web signal SIGTERM web --generation @-1")]
    Signal(SignalFlags),
    /// Carry out activations until told to end; the workers outlive it
    Manager,
    /// Start, watch and replace the workers (the manager starts one where none runs)
    Supervisor {
        /// The run directory [default: the service's]
        #[arg(long, value_name = "DIR")]
        run: Option<PathBuf>,
        /// The sockets that it was given are on stdin
        #[arg(long, hide = true)]
        given: bool,
    },
    /// Keep the listening sockets (the supervisor starts one where none runs)
    Holder {
        /// The run directory [default: the service's]
        #[arg(long, value_name = "DIR")]
        run: Option<PathBuf>,
        /// What the service manager has kept is on stdin
        #[arg(long, hide = true)]
        stored: bool,
    },
    #[command(name = "__exec", hide = true)]
    ExecSpec { descriptor: i32 },
    #[command(name = "__ready", hide = true)]
    AwaitReady { task: PathBuf, pid: u32 },
    #[command(name = "__get", hide = true)]
    Get { url: String },
}

#[derive(Debug, ClapArgs)]
pub(super) struct InitFlags {
    /// `pushed`: let the pointsman.yaml of each generation count, also where root owns the store
    #[arg(long, value_name = "WHICH", value_parser = ["pushed"])]
    pub(super) pipeline: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct PushFlags {
    /// The directory whose content becomes the generation, or `-`: a tar stream on stdin
    #[arg(value_name = "DIR|-")]
    pub(super) source: PathBuf,
    /// Why, as `list` and `status` show it
    #[arg(short, long, value_name = "TEXT")]
    pub(super) message: Option<String>,
    /// What else is to be kept of this push, as `show` and `status` show it; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) meta: Vec<KeyValue>,
    /// In place of a link that leads out of DIR, store what it leads to
    #[arg(long)]
    pub(super) copy_links: bool,
    /// Give the generation this tag too
    #[arg(long, value_name = "NAME")]
    pub(super) tag: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct VerifyFlags {
    /// Only this generation [default: all of them, the pointer and the records]
    #[arg(value_name = "REF")]
    pub(super) reference: Option<String>,
    /// Make damaged generations anew from what is intact in the store
    #[arg(long)]
    pub(super) repair: bool,
    /// Take what is missing from a directory, an export (`-`: on stdin) or a generation
    #[arg(long, value_name = "DIR|FILE|REF", requires = "repair")]
    pub(super) from: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ExportFlags {
    /// The generations
    #[arg(value_name = "REF")]
    pub(super) references: Vec<String>,
    /// Every generation, tag and verdict
    #[arg(long, conflicts_with = "references")]
    pub(super) all: bool,
    /// Write to this file, which is there when it is whole [default: stdout]
    #[arg(short, long, value_name = "FILE")]
    pub(super) output: Option<PathBuf>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct DiffFlags {
    /// The old side: a REF, a directory, or `-` (a tar stream on stdin)
    #[arg(value_name = "A")]
    pub(super) old: String,
    /// The new side
    #[arg(value_name = "B")]
    pub(super) new: String,
    /// Show the content of private files too
    #[arg(long)]
    pub(super) private: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct CheckFlags {
    /// A directory (with a `/` in it, or there) or a REF
    #[arg(value_name = "DIR|REF")]
    pub(super) target: String,
    /// As `push --copy-links` would
    #[arg(long)]
    pub(super) copy_links: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ActFlags {
    #[command(flatten)]
    pub(super) how: HowFlags,
    /// Move only the pointer, run nothing: the verdict is `pointer-only`, never `good`
    #[arg(long)]
    pub(super) pointer_only: bool,
    /// Print what would be done, and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct DeployFlags {
    #[command(flatten)]
    pub(super) push: PushFlags,
    /// Start the workers on the sockets of a service that runs now: a systemd unit, a process, or an absolute pid file
    #[arg(long, value_name = "UNIT|PID|FILE")]
    pub(super) take_over: Option<String>,
    #[command(flatten)]
    pub(super) how: HowFlags,
}

#[derive(Debug, Default, ClapArgs)]
pub(super) struct HowFlags {
    /// Replace the workers even where nothing changed; activate what was rolled back from
    #[arg(long)]
    pub(super) force: bool,
    /// End all workers before the new ones start; let what `cold_only` names change
    #[arg(long)]
    pub(super) cold: bool,
    /// Only while this generation is in force, else refuse (exit 7)
    #[arg(long, value_name = "REF")]
    pub(super) if_current: Option<String>,
    /// Go back by itself unless `pointsman confirm` is said within this time; needs a manager
    #[arg(long, value_name = "TIME")]
    pub(super) confirm_within: Option<String>,
    /// Leave it to the manager and print the event's number, not the verdict
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct RestartFlags {
    /// Only the workers of this group [default: all]
    #[arg(value_name = "GROUP")]
    pub(super) group: Option<String>,
    /// Leave it to the manager and print the event's number, not the verdict
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct LogFlags {
    /// Only the workers of this group [default: all]
    #[arg(value_name = "GROUP")]
    pub(super) group: Option<String>,
    /// Go on with what comes, whoever is started
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only what was started for this event, with its stages
    #[arg(long, value_name = "N")]
    pub(super) event: Option<u64>,
    /// The last N lines of each process [default: all; with -f 10]
    #[arg(short = 'n', long, value_name = "N")]
    pub(super) lines: Option<usize>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct SignalFlags {
    /// The signal, with or without SIG
    #[arg(value_name = "SIG")]
    pub(super) signal: String,
    /// Only the workers of this group [default: all]
    #[arg(value_name = "GROUP")]
    pub(super) group: Option<String>,
    /// Only those that run this generation
    #[arg(long, value_name = "REF")]
    pub(super) generation: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct FreezeFlags {
    /// Why, as whoever is refused reads it
    #[arg(long, value_name = "TEXT")]
    pub(super) why: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct StopFlags {
    /// Why, as `status` shows it
    #[arg(long, value_name = "TEXT")]
    pub(super) why: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct StartFlags {
    /// Start the workers on the sockets of a service that runs now: a systemd unit, a process, or an absolute pid file
    #[arg(long, value_name = "UNIT|PID|FILE")]
    pub(super) take_over: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ActivateFlags {
    /// The generation; no default: the newest is not always the one that is meant
    #[arg(value_name = "REF")]
    pub(super) reference: String,
    /// Start the workers on the sockets of a service that runs now: a systemd unit, a process, or an absolute pid file
    #[arg(long, value_name = "UNIT|PID|FILE", conflicts_with = "pointer_only")]
    pub(super) take_over: Option<String>,
    #[command(flatten)]
    pub(super) act: ActFlags,
}

#[derive(Debug, ClapArgs)]
pub(super) struct RollbackFlags {
    /// The generation [default: the good one before the one in force]
    #[arg(value_name = "REF")]
    pub(super) reference: Option<String>,
    /// Freeze the service first, so that nothing is activated after it
    #[arg(long, conflicts_with = "dry_run")]
    pub(super) freeze: bool,
    #[command(flatten)]
    pub(super) act: ActFlags,
}

#[derive(Debug, ClapArgs)]
pub(super) struct GcFlags {
    /// Purge these, whatever is to be kept: a secret was pushed. Needs --now
    #[arg(value_name = "REF", requires = "now")]
    pub(super) references: Vec<String>,
    /// With REF: purge, and leave nothing of it on the disk
    #[arg(long, requires = "references")]
    pub(super) now: bool,
    /// Say what would be removed and why the others stay, and change nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct TagFlags {
    /// The tag
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// The generation; the one in force where none is given
    #[arg(value_name = "REF")]
    pub(super) reference: Option<String>,
    /// Take the tag away; its generation stays
    #[arg(short, long, conflicts_with = "reference")]
    pub(super) delete: bool,
}
