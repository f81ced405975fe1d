//! The stack of good generations: what `@-1` and "last good" mean.

use std::collections::HashSet;

use super::brief::{Brief, Decided};
use super::error::StoreError;
use super::open::Store;
use crate::model::{GenerationId, Request};

impl Store {
    /// The good generations that are there, the last good one last.
    pub fn good_stack(&self) -> Result<Vec<GenerationId>, StoreError> {
        Ok(self.brief()?.good_stack())
    }

    /// The generation that was last proven good, if any ever was.
    pub fn last_good(&self) -> Result<Option<GenerationId>, StoreError> {
        Ok(self.latest()?.last_good)
    }
}

impl Brief {
    pub(super) fn good_stack(&self) -> Vec<GenerationId> {
        standing(stack(self.decided.values().copied()), &self.there)
    }

    pub(super) fn last_good(&self) -> Option<GenerationId> {
        self.good_stack().pop()
    }
}

/// What is left of `stack` where only those `there` can be gone back to; two neighbours are never the same.
pub(super) fn standing(mut stack: Vec<GenerationId>, there: &HashSet<GenerationId>) -> Vec<GenerationId> {
    stack.retain(|id| there.contains(id));
    stack.dedup();
    stack
}

/// The good generations, the last good one on top (at the end), from every finished event in their order.
///
/// A good activate (or cold start) puts its target on top, unless it is there. A good rollback goes back
/// to its target: what is above it leaves; a target that is not on the stack takes the place of the top.
/// Every other verdict proves nothing, nor does one of another machine.
pub(super) fn stack(decided: impl IntoIterator<Item = Decided>) -> Vec<GenerationId> {
    let mut stack: Vec<GenerationId> = Vec::new();
    for Decided { request, target, .. } in decided.into_iter().filter(Decided::is_good) {
        match request {
            Request::Activate | Request::Start | Request::Confirm => {
                if stack.last() != Some(&target) {
                    stack.push(target);
                }
            }
            // says something of its workers, nothing of the generation
            Request::Restart | Request::Stop => {}
            Request::Rollback => match stack.iter().rposition(|id| *id == target) {
                Some(at) => stack.truncate(at + 1),
                None => {
                    stack.pop();
                    stack.push(target);
                }
            },
        }
    }
    stack
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Verdict;

    fn id(name: u8) -> GenerationId {
        GenerationId::of(&[name])
    }

    /// Events in words: `+a` good activate, `-a` good rollback, `!a` failed, `*a` start, `>a` pointer-only,
    /// `?a` unconfirmed, `=a` confirm, `~a` restart, `^a` good elsewhere.
    fn after(words: &str) -> Vec<GenerationId> {
        let decided = words.split_whitespace().map(|word| {
            let (request, good) = match word.as_bytes()[0] {
                b'+' => (Request::Activate, true),
                b'-' => (Request::Rollback, true),
                b'*' => (Request::Start, true),
                b'=' => (Request::Confirm, true),
                b'~' => (Request::Restart, true),
                // pointer-only, unconfirmed, elsewhere
                b'>' | b'?' | b'^' => (Request::Activate, false),
                _ => (Request::Rollback, false),
            };
            Decided { request, target: id(word.as_bytes()[1]), verdict: good.then_some(Verdict::Good) }
        });
        stack(decided)
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
