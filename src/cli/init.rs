//! `pointsman init`

use serde_json::json;

use crate::fsx::{self, Dir};
use crate::manager::Place;
use crate::store::Store;

use super::args::InitFlags;
use super::exit::{Exit, Failure};
use super::output::Output;

pub(super) fn run(flags: &InitFlags, place: &Place, output: &mut Output) -> Result<Exit, Failure> {
    Store::init(&place.root, &place.run, 0o755)?;
    if flags.pipeline.is_some() {
        write_host_file(place)?;
    }
    if output.is_json() {
        output.object(&json!({ "store": place.root, "run": place.run, "host_file": place.host }));
    } else {
        output.line(format!("{} is a store; next: `pointsman deploy DIR`", place.root.display()));
    }
    Ok(Exit::Done)
}

/// Writes `pipeline: pushed` where there is no host file yet; one that is there is the operator's.
fn write_host_file(place: &Place) -> Result<(), Failure> {
    let failed = |e| Failure::new(Exit::Failed, e);
    if fsx::optional(fsx::read_path(&place.host, 1 << 20)).map_err(failed)?.is_some() {
        let message = format!("{} is there already; say `pipeline: pushed` in it", place.host.display());
        return Err(Failure::new(Exit::Refused, message));
    }
    let parent = place.host.parent().expect("a host file is in a directory");
    let name = place.host.file_name().and_then(|name| name.to_str()).expect("a host file has a plain name");
    let dir = Dir::create_all(parent, 0o755).map_err(failed)?;
    dir.replace_file(name, b"# what no push can touch: see spec/pipeline.md\npipeline: pushed\n", 0o644)
        .map_err(failed)
}
