//! `pointsman logs`

use crate::manager::{LogPiece, LogQuery, Service, follow_logs, logs};

use super::exit::{Exit, Failure};
use super::flags::LogFlags;
use super::output::Output;

/// How many lines of each output `-f` begins with.
const FOLLOWED: usize = 10;

pub(super) fn run(flags: &LogFlags, service: &Service, output: &mut Output) -> Result<Exit, Failure> {
    if output.is_json() {
        return Err(Failure::usage(
            "`logs` prints what programs have written, which is no object; leave --json out",
        ));
    }
    let lines = flags.lines.or(flags.follow.then_some(FOLLOWED));
    let query = LogQuery { group: flags.group.clone(), event: flags.event, lines };
    let mut last = None;
    let mut show = |piece: LogPiece<'_>| {
        // who it is, wherever that changes
        if last.as_ref() != Some(&piece.file.path) {
            let blank = if last.is_some() { "\n" } else { "" };
            output.line(format!("{blank}{}", heading(&piece)));
            last = Some(piece.file.path.clone());
        }
        output.foreign(&piece.bytes);
        !output.is_unread()
    };
    if flags.follow {
        follow_logs(service, &query, &mut show)?;
        return Ok(Exit::Done);
    }
    let count = logs(service, &query, &mut |piece| {
        show(piece);
    })?;
    if count > 0 {
        return Ok(Exit::Done);
    }
    match (&flags.group, flags.event) {
        (None, None) => output.talk("no worker has been started since the last boot"),
        (group, event) => {
            let group = group.as_ref().map(|group| format!(" of the group `{group}`")).unwrap_or_default();
            let event = event.map(|event| format!(" of event {event}")).unwrap_or_default();
            let why = format!("no output{group}{event} is kept; `pointsman logs` shows what is");
            return Err(Failure::new(Exit::NoSuch, why));
        }
    }
    Ok(Exit::Done)
}

fn heading(piece: &LogPiece<'_>) -> String {
    match &piece.file.slot {
        Some(slot) => format!("==> {slot}, started for event {}", piece.file.event),
        None => format!("==> stages of event {}", piece.file.event),
    }
}
