//! The flags and arguments of the commands.

use std::path::PathBuf;

use clap::{Args as ClapArgs, ValueHint};

use crate::model::KeyValue;

#[derive(Debug, ClapArgs)]
pub(super) struct InitFlags {
    /// `pushed`: the pointsman.yaml of each push counts, also in a store of root's
    #[arg(long, value_name = "WHICH", value_parser = ["pushed"])]
    pub(super) pipeline: Option<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct PushFlags {
    /// The directory whose content becomes the generation, or `-`: a tar stream on stdin
    #[arg(value_name = "DIR|-", value_hint = ValueHint::DirPath)]
    pub(super) source: PathBuf,
    /// Why, as `list` and `status` show it
    #[arg(short, long, value_name = "TEXT")]
    pub(super) message: Option<String>,
    /// What else is to be known of it, as `show` and `status` show it; may be repeated
    #[arg(long, value_name = "KEY=VALUE")]
    pub(super) meta: Vec<KeyValue>,
    /// Where a link leads out of DIR, store what it leads to; else it is refused
    #[arg(long)]
    pub(super) copy_links: bool,
    /// Give the generation this name, which keeps it
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
    #[arg(short, long, value_name = "FILE", value_hint = ValueHint::FilePath)]
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
    /// Where a link leads out of the directory, take what it leads to, as `push` would
    #[arg(long)]
    pub(super) copy_links: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ActFlags {
    #[command(flatten)]
    pub(super) how: HowFlags,
    /// Move the pointer, and leave the workers alone; that proves nothing
    #[arg(long)]
    pub(super) pointer_only: bool,
    /// Print the plan, and do nothing
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
    /// Replace every worker, also where nothing has changed; activate what was rolled back from
    #[arg(long)]
    pub(super) force: bool,
    /// End all workers before the new ones start, as a change to what `cold_only` names needs
    #[arg(long)]
    pub(super) cold: bool,
    /// Only while this generation is in force, else refuse (exit 7)
    #[arg(long, value_name = "REF")]
    pub(super) if_current: Option<String>,
    /// Go back by itself unless `pointsman confirm` comes within this time, like 5m; needs a manager
    #[arg(long, value_name = "TIME")]
    pub(super) confirm_within: Option<String>,
    /// Print the number of the event, and leave the rest to the manager
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct RestartFlags {
    /// Only the workers of this group [default: all]
    #[arg(value_name = "GROUP")]
    pub(super) group: Option<String>,
    /// Print the number of the event, and leave the rest to the manager
    #[arg(long)]
    pub(super) no_wait: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct LogFlags {
    /// Only the workers of this group [default: all]
    #[arg(value_name = "GROUP")]
    pub(super) group: Option<String>,
    /// Go on with what comes, also of workers that are started later
    #[arg(short, long)]
    pub(super) follow: bool,
    /// Only what was started for this event, with its loader, checks and canary
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
    /// The generation; without REF the one in force
    #[arg(value_name = "REF")]
    pub(super) reference: Option<String>,
    /// Take the tag away; its generation stays
    #[arg(short, long, conflicts_with = "reference")]
    pub(super) delete: bool,
}

#[derive(Debug, ClapArgs)]
pub(super) struct ExecFlags {
    /// The generation
    #[arg(value_name = "REF", default_value = "@")]
    pub(super) reference: String,
    /// In the place of a worker of this group, or of a check: its user, environment and directory
    #[arg(long = "as", value_name = "GROUP|check")]
    pub(super) stage: Option<String>,
    /// The command and its arguments
    #[arg(last = true, required = true, value_name = "CMD", value_hint = ValueHint::CommandWithArguments)]
    pub(super) command: Vec<String>,
}

#[derive(Debug, ClapArgs)]
pub(super) struct CompletionFlags {
    /// The shell
    #[arg(value_name = "SHELL", value_parser = ["bash", "zsh", "fish"])]
    pub(super) shell: String,
}
