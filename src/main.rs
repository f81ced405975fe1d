//! Arguments in, exit code out.

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use pointsman::supervise::{exec, holder, supervisor};

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    if let ["__exec", fd] = arguments[..] {
        return ExitCode::from(exec::run(fd.parse().unwrap_or(-1)).report());
    }
    tracing_subscriber::fmt().with_writer(std::io::stderr).with_ansi(false).init();
    let done = match arguments[..] {
        ["holder", "--run", run] => holder::run(Path::new(run)).map(drop),
        ["supervisor", "--run", run] => {
            let program = std::env::current_exe().unwrap_or_default();
            supervisor::run(&supervisor::Config { run: PathBuf::from(run), program })
        }
        _ => return ExitCode::from(2),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error}");
            ExitCode::FAILURE
        }
    }
}
