//! `pointsman init`

use serde_json::json;

use crate::fsx::{self, Dir};
use crate::manager::{Place, Service};
use crate::model::HostPipeline;
use crate::store::Store;

use super::exit::{Exit, Failure};
use super::flags::InitFlags;
use super::output::Output;
use super::place::flags_of;

pub(super) fn run(flags: &InitFlags, place: &Place, output: &mut Output) -> Result<Exit, Failure> {
    let there = fsx::Meta::of_path(&place.host).is_ok();
    if flags.pipeline.is_some() && there {
        refuse_other_pipeline(place)?;
    }
    Store::init(&place.root, &place.run, 0o755)?;
    if flags.pipeline.is_some() && !there {
        write_host_file(place)?;
    }
    if output.is_json() {
        output.object(&json!({ "store": place.root, "run": place.run, "host_file": place.host }));
        return Ok(Exit::Done);
    }
    let service = Service::open(place.clone())?;
    if service.store.owner()? == 0 && place.host_file()?.pipeline == HostPipeline::Absent {
        output.talk(format!(
            "note: this store belongs to root, so a pushed pointsman.yaml does not count; \
             `pipeline: pushed` in {} lets it",
            place.host.display()
        ));
    }
    output.line(format!(
        "{} is a store; next: `pointsman {} deploy DIR`",
        place.root.display(),
        flags_of(place)
    ));
    Ok(Exit::Done)
}

/// A host file that is there already is the operator's: fine where it says what is asked.
fn refuse_other_pipeline(place: &Place) -> Result<(), Failure> {
    if place.host_file()?.pipeline == HostPipeline::Pushed {
        return Ok(());
    }
    let message = format!("{} is there already; say `pipeline: pushed` in it", place.host.display());
    Err(Failure::new(Exit::Refused, message))
}

fn write_host_file(place: &Place) -> Result<(), Failure> {
    let parent = place.host.parent().expect("a host file is in a directory");
    let name = place.host.file_name().and_then(|name| name.to_str()).expect("a host file has a plain name");
    let text = b"# what no push can touch: see spec/pipeline.md\npipeline: pushed\n";
    Ok(Dir::create_all(parent, 0o755)?.replace_file(name, text, 0o644)?)
}
