//! The numbered news of a supervisor: a ring that a listener who was away can read on from.

use std::collections::VecDeque;

use super::wire::{News, NewsLine};

/// Enough for every slot of a large host to change a few times while the manager is away.
const RING: usize = 4096;

/// The newest news and their numbers.
#[derive(Debug, Default)]
pub(super) struct Bulletin {
    last: u64,
    ring: VecDeque<NewsLine>,
}

impl Bulletin {
    /// Goes on numbering after `last`.
    pub(super) fn after(last: u64) -> Bulletin {
        Bulletin { last, ring: VecDeque::new() }
    }

    /// The number of the newest.
    pub(super) fn last(&self) -> u64 {
        self.last
    }

    /// Adds `news` under the next number.
    pub(super) fn add(&mut self, news: News) {
        self.last += 1;
        if self.ring.len() == RING {
            self.ring.pop_front();
        }
        self.ring.push_back(NewsLine { number: self.last, news });
    }

    /// The oldest one kept with a number above `after`.
    pub(super) fn next(&self, after: u64) -> Option<&NewsLine> {
        let oldest = self.last - self.ring.len() as u64;
        let index = after.max(oldest) - oldest;
        usize::try_from(index).ok().and_then(|index| self.ring.get(index))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{GenerationId, Slot};

    #[test]
    fn w14_news_are_numbered_and_read_on_from_a_number() {
        let generation: GenerationId = "0".repeat(64).parse().unwrap();
        let slot = Slot { group: "a".into(), instance: 1 };
        let mut bulletin = Bulletin::after(7);
        assert!(bulletin.next(0).is_none());
        for event in 0..RING as u64 + 2 {
            bulletin.add(News::Ready { slot: slot.clone(), event, generation, note: String::new() });
        }
        assert_eq!(bulletin.next(0).unwrap().number, 10, "8 and 9 fell out of the ring");
        assert_eq!(bulletin.next(11).unwrap().number, 12);
        assert!(bulletin.next(bulletin.last()).is_none());
    }
}
