//! What only a cold restart may change.

use std::collections::BTreeSet;

use crate::activation::Running;
use crate::model::{ContentHash, GenerationId, Manifest, Parsed, RelPath, Request, chain};

use super::facts::Wish;
use super::launch::Launchable;
use super::{ManagerError, PIPELINE_FILE, Service};
use crate::store::StoreError;

/// Why `wish` must be refused: a section that `cold_only` names, there or here, differs between `target` and what
/// is in force, or what a worker runs. `None` where none does, or somebody has said `--cold`.
///
/// # Errors
/// A manifest of what is in force cannot be read.
pub(super) fn objection(
    service: &Service,
    wish: &Wish,
    target: &Launchable,
    manifest: &Manifest,
    running: &[Running],
) -> Result<Option<String>, ManagerError> {
    let command = match wish.request {
        Request::Activate => "activate",
        Request::Rollback => "rollback",
        Request::Start | Request::Restart | Request::Confirm | Request::Stop => return Ok(None),
    };
    // the pointer alone starts nothing: whoever applies it is asked then
    // and what nobody has confirmed goes back in any case
    if wish.how.cold || wish.how.pointer_only || wish.how.unasked {
        return Ok(None);
    }
    let old: BTreeSet<GenerationId> = running
        .iter()
        .map(|running| running.generation)
        .chain(wish.from)
        .filter(|id| *id != target.id)
        .collect();
    let document = RelPath::new(PIPELINE_FILE).expect("a plain name is a path");
    for id in old {
        let before = match service.store.manifest(id) {
            // a worker runs it, but the store, brought back from a backup, does not have it (any more)
            Err(StoreError::NoSuchGeneration { .. }) => {
                let Some(section) = target.pipeline.cold_only.first() else { continue };
                let what =
                    format!("{section} cannot be compared with {}, which is not in the store", id.short());
                return Ok(Some(objects(&what, command, target.id)));
            }
            before => before?,
        };
        // one whose pipeline cannot be read by now has no say
        // the same document says the same
        let same = before.get(&document).is_some() && before.get(&document) == manifest.get(&document);
        let own =
            if same { None } else { service.pipeline(id, &before).ok().and_then(|chosen| chosen.pipeline) };
        let own = own.map(|pipeline| pipeline.cold_only).unwrap_or_default();
        let here = &target.pipeline.cold_only;
        let (mut parsed_before, mut parsed_now) = (Parsed::default(), Parsed::default());
        let only_there = own.iter().filter(|section| !here.contains(section));
        for section in here.iter().chain(only_there) {
            let digest =
                |id: GenerationId, manifest: &Manifest, parsed: &mut Parsed| -> Result<ContentHash, String> {
                    section
                        .digest_among(manifest, &mut |path| service.store.read_file(id, path), parsed)
                        .map_err(|e| chain(&e))
                };
            let what =
                match (digest(id, &before, &mut parsed_before), digest(target.id, manifest, &mut parsed_now))
                {
                    (Ok(before), Ok(now)) if before == now => continue,
                    (Ok(_), Ok(_)) => format!("{section} differs from {}", id.short()),
                    (Err(why), _) | (_, Err(why)) => {
                        format!("{section} cannot be compared with {}: {why}", id.short())
                    }
                };
            return Ok(Some(objects(&what, command, target.id)));
        }
    }
    Ok(None)
}

fn objects(what: &str, command: &str, target: GenerationId) -> String {
    let short = target.short();
    format!("{what}, and only a cold restart may change that: `pointsman {command} {short} --cold`")
}
