//! The command line.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Parser, Subcommand};

const AFTER: &str = "\
REF is a full id, a unique prefix of one (4 digits or more), a tag, `@` (in force) or `@-1` (the good one under it).

Exit codes: 0 done or unchanged; 1 failed or reverted, the last good generation is in force; 2 usage;
3 no such or ambiguous generation; 4 store damaged; 5 busy, superseded or unreachable, try again;
6 stuck, a person has to look; 7 refused before anything ran.

Examples:
  pointsman -s web init --pipeline pushed
  pointsman -s web deploy ./nginx --message 'larger buffers'
  pointsman -s web rollback
  pointsman -s web status";

/// Keeps the configuration of services as immutable generations and moves one pointer onto a proven one.
#[derive(Debug, Parser)]
#[command(name = "pointsman", version, after_help = AFTER, arg_required_else_help = true)]
pub(super) struct Args {
    /// The service [default: $POINTSMAN_SERVICE]
    #[arg(short = 's', long, value_name = "NAME", global = true)]
    pub(super) service: Option<String>,
    /// A store at this path, in place of a named service's
    #[arg(long, value_name = "DIR", global = true, conflicts_with = "service")]
    pub(super) store: Option<PathBuf>,
    /// Print one JSON object
    #[arg(long, global = true)]
    pub(super) json: bool,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Subcommand)]
pub(super) enum Command {
    /// Make an empty store
    Init(InitFlags),
    /// Push a directory and activate it
    Deploy(DeployFlags),
    /// Put a directory into the store as a generation; prints its id
    Push(PushFlags),
    /// Put a generation in force: loader, checks, pointer, workers, probation
    Activate(ActivateFlags),
    /// Go back to a generation; without REF to the good one before
    Rollback(RollbackFlags),
    /// Validate a directory or generation and run its checks; moves nothing
    Check {
        /// A directory or a REF
        #[arg(value_name = "DIR|REF")]
        target: String,
    },
    /// Show what is in force, who looks after it and what runs
    Status,
    /// Show the activation events and their verdicts, newest first
    History {
        /// Show at most this many
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show the generations, newest first
    List {
        /// Show at most this many
        #[arg(short = 'n', long, value_name = "N")]
        limit: Option<usize>,
    },
    /// Show a generation, or a file of it (REF:PATH)
    Show {
        /// The generation, or a file of it
        #[arg(value_name = "REF[:PATH]", default_value = "@")]
        what: String,
    },
    /// Show what differs between two generations, directories or a tar stream
    Diff(DiffFlags),
    /// Re-hash everything and name what is damaged
    Verify {
        /// Only this generation
        #[arg(value_name = "REF")]
        reference: Option<String>,
    },
    /// Run a command on one generation: `{config}` is replaced, `$POINTSMAN_CONFIG` set, `mount:` applied
    Exec {
        /// The generation
        #[arg(value_name = "REF", default_value = "@")]
        reference: String,
        /// The command and its arguments
        #[arg(last = true, required = true, value_name = "CMD")]
        command: Vec<String>,
    },
    /// Name a generation, which keeps it
    Tag(TagFlags),
    /// Print the absolute path of a generation's tree
    Path {
        /// The generation
        #[arg(value_name = "REF", default_value = "@")]
        reference: String,
    },
    /// Carry out activation events until told to end; the workers outlive it
    Manager,
    /// Start, watch and replace the workers (the manager starts one where none runs)
    Supervisor {
        /// The run directory [default: the service's]
        #[arg(long, value_name = "DIR")]
        run: Option<PathBuf>,
    },
    /// Keep the listening sockets (the supervisor starts one where none runs)
    Holder {
        /// The run directory [default: the service's]
        #[arg(long, value_name = "DIR")]
        run: Option<PathBuf>,
    },
    #[command(name = "__exec", hide = true)]
    ExecSpec { descriptor: i32 },
}

#[derive(Debug, ClapArgs)]
pub(super) struct InitFlags {
    /// Which pipeline counts: `pushed` is the `pointsman.yaml` of each generation
    #[arg(long, value_name = "WHICH", value_parser = ["pushed"])]
    pub(super) pipeline: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct PushFlags {
    /// The directory
    #[arg(value_name = "DIR")]
    pub(super) source: PathBuf,
    /// Why, for `list` and `status`
    #[arg(short, long, value_name = "TEXT")]
    pub(super) message: Option<String>,
    /// Store what a link outside of the tree points at, in its place
    #[arg(long)]
    pub(super) copy_links: bool,
    /// Give the generation this tag too
    #[arg(long, value_name = "NAME")]
    pub(super) tag: Option<String>,
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
pub(super) struct ActFlags {
    /// Move nothing but the pointer: no stage, no worker; the verdict is `pointer-only`, never `good`
    #[arg(long)]
    pub(super) pointer_only: bool,
    /// Replace the workers even where nothing changed
    #[arg(long)]
    pub(super) force: bool,
    /// Print the plan and do nothing
    #[arg(long)]
    pub(super) dry_run: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct DeployFlags {
    #[command(flatten)]
    pub(super) push: PushFlags,
    /// Replace the workers even where nothing changed
    #[arg(long)]
    pub(super) force: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ActivateFlags {
    /// The generation; there is no default, because the newest is not always the one that is meant
    #[arg(value_name = "REF")]
    pub(super) reference: String,
    #[command(flatten)]
    pub(super) act: ActFlags,
}

#[derive(Debug, ClapArgs)]
pub(super) struct RollbackFlags {
    /// The generation [default: the good one before the one in force]
    #[arg(value_name = "REF")]
    pub(super) reference: Option<String>,
    #[command(flatten)]
    pub(super) act: ActFlags,
}

#[derive(Debug, ClapArgs)]
pub(super) struct TagFlags {
    /// The tag
    #[arg(value_name = "NAME")]
    pub(super) name: String,
    /// The generation
    #[arg(value_name = "REF", default_value = "@")]
    pub(super) reference: String,
    /// Take the tag away
    #[arg(short, long)]
    pub(super) delete: bool,
}
