//! The stack of good generations: what `@-1` and "last good" mean.

use std::collections::HashSet;

use super::error::StoreError;
use super::history::HistoryEntry;
use super::open::Store;
use crate::model::{GenerationId, Request};

impl Store {
    /// The good generations that are there, the last good one last.
    pub fn good_stack(&self) -> Result<Vec<GenerationId>, StoreError> {
        let ledger = self.ledger()?;
        Ok(standing(stack(ledger.finished.values()), &ledger.there))
    }

    /// The generation that was last proven good, if any ever was.
    pub fn last_good(&self) -> Result<Option<GenerationId>, StoreError> {
        Ok(self.good_stack()?.pop())
    }
}

/// What is left of `stack` where only those `there` can be gone back to; two neighbours are never the same.
pub(super) fn standing(mut stack: Vec<GenerationId>, there: &HashSet<GenerationId>) -> Vec<GenerationId> {
    stack.retain(|id| there.contains(id));
    stack.dedup();
    stack
}

/// The good generations, the last good one on top (at the end), from every finished event by number.
///
/// A good activate (or cold start) puts its target on top, unless it is there. A good rollback goes back
/// to its target: what is above it leaves; a target that is not on the stack takes the place of the top.
/// Every other verdict proves nothing, nor does one of another machine.
pub(super) fn stack<'a>(finished: impl IntoIterator<Item = &'a HistoryEntry>) -> Vec<GenerationId> {
    let mut stack: Vec<GenerationId> = Vec::new();
    for entry in finished {
        if !entry.proves_good() {
            continue;
        }
        match entry.request {
            Request::Activate | Request::Start | Request::Confirm => {
                if stack.last() != Some(&entry.target) {
                    stack.push(entry.target);
                }
            }
            // says something of its workers, nothing of the generation
            Request::Restart => {}
            Request::Rollback => match stack.iter().rposition(|id| *id == entry.target) {
                Some(at) => stack.truncate(at + 1),
                None => {
                    stack.pop();
                    stack.push(entry.target);
                }
            },
        }
    }
    stack
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Actor, Stage, Verdict};
    use crate::store::history::{Elsewhere, End};

    fn id(name: u8) -> GenerationId {
        GenerationId::of(&[name])
    }

    /// Events in words: `+a` good activate, `-a` good rollback, `!a` failed, `*a` start, `>a` pointer-only,
    /// `?a` unconfirmed, `=a` confirm, `~a` restart, `^a` good elsewhere.
    fn after(words: &str) -> Vec<GenerationId> {
        let entries: Vec<HistoryEntry> = words
            .split_whitespace()
            .enumerate()
            .map(|(number, word)| {
                let (request, verdict) = match word.as_bytes()[0] {
                    b'+' | b'^' => (Request::Activate, Verdict::Good),
                    b'-' => (Request::Rollback, Verdict::Good),
                    b'*' => (Request::Start, Verdict::Good),
                    b'>' => (Request::Activate, Verdict::PointerOnly),
                    b'?' => (Request::Activate, Verdict::Unconfirmed),
                    b'=' => (Request::Confirm, Verdict::Good),
                    b'~' => (Request::Restart, Verdict::Good),
                    _ => (Request::Rollback, Verdict::Reverted),
                };
                let end = End {
                    verdict,
                    stage: Stage::Swing,
                    changed: true,
                    reason: String::new(),
                    serving: None,
                    loaded: None,
                    at: jiff::Timestamp::UNIX_EPOCH,
                };
                HistoryEntry {
                    number: number as u64,
                    request,
                    target: id(word.as_bytes()[1]),
                    asked: end.at,
                    by: Actor::default(),
                    end: Some(end),
                    imported: word.starts_with('^').then(|| Elsewhere { machine: "m".to_owned(), event: 1 }),
                }
            })
            .collect();
        stack(&entries)
    }

    #[test]
    fn s14_what_is_gone_is_not_on_the_stack() {
        for (words, there, expected) in
            [("+a +b +c", "ac", "ac"), ("+a +b +a", "a", "a"), ("+a +b", "", ""), ("+a +b +c -b", "bc", "b")]
        {
            let there = there.bytes().map(id).collect();
            let expected: Vec<_> = expected.bytes().map(id).collect();
            assert_eq!(standing(after(words), &there), expected, "{words}");
        }
    }

    #[test]
    fn s14_only_good_events_build_the_stack() {
        for (words, expected) in [
            ("", ""),
            ("!a >b", ""),
            ("+a +b", "ab"),
            ("+a +b !c >d", "ab"),
            ("+a +a", "a"),
            ("+a +b -a", "a"),
            ("+a +b +c -a", "a"),
            ("+a +b -a +c -a", "a"),
            ("+a +b -c", "ac"),
            ("+a +b +a -b", "ab"),
            ("+a +b *b", "ab"),
            ("+a *b", "ab"),
            ("-a", "a"),
            ("+a ?b", "a"),
            ("+a ?b =b", "ab"),
            ("+a ?b -a", "a"),
            ("+a ~b", "a"),
            ("^a", ""),
            ("+a ^b +c ^a", "ac"),
        ] {
            let expected: Vec<_> = expected.bytes().map(id).collect();
            assert_eq!(after(words), expected, "{words}");
        }
    }
}
