//! Between reading a source and building the tree of it: items in the order they were met, with the bytes
//! of their files, handed over in batches that go round and round.
//!
//! Reading and building are about the same work for a kernel, and meet nowhere: two threads halve a push. A
//! batch is worth some 200 microseconds of it, so that waking the other side costs little; there are few of
//! them, so that a slow disk holds the reader up instead of filling memory.

use std::ops::Range;
use std::sync::mpsc::{Receiver, Sender, SyncSender, channel, sync_channel};

use super::refusal::PushError;
use crate::model::{Node, RelPath};

/// Up to this length a file is one item; a longer one is told in pieces of this length.
pub(super) const SMALL: usize = 256 << 10;
/// A batch is handed over when it holds so many items or bytes.
const ITEMS: usize = 64;
const BYTES: usize = 256 << 10;
/// How many batches there are: at most this often [`BYTES`] and [`SMALL`] of memory.
const BATCHES: usize = 8;

/// What is to be made. A directory comes before what is in it.
pub(super) enum Item {
    /// a directory
    Dir(RelPath),
    /// nothing more comes in the directory that was made last and is not closed yet
    Close,
    /// a file, and where in the batch its content is
    File(RelPath, Node, Range<usize>),
    /// a file whose content the parent generation has; the answer says whether it could be linked
    Same(RelPath, Node, SyncSender<bool>),
    /// a file whose content follows, its mode
    Begin(RelPath, u32),
    /// some of that content
    Piece(Range<usize>),
    /// the end of it, and what it has come to
    End(Node),
    /// a link
    Link(RelPath, String),
    /// everything before is made when this is answered
    Settled(SyncSender<()>),
    /// nothing more comes in any directory
    CloseAll,
}

/// Why reading ends early.
pub(super) enum Stop {
    /// the source is refused, or cannot be read
    Because(PushError),
    /// nobody takes the items any more: the builder knows why
    NotBuilt,
}

impl From<PushError> for Stop {
    fn from(error: PushError) -> Stop {
        Stop::Because(error)
    }
}

/// Some items, and the bytes they speak of.
#[derive(Default)]
pub(super) struct Batch {
    pub(super) items: Vec<Item>,
    pub(super) bytes: Vec<u8>,
    /// how many of the bytes are spoken of; the rest is room that needs no clearing
    used: usize,
}

/// The reader's end.
pub(super) struct Feed {
    batch: Batch,
    full: SyncSender<Batch>,
    empty: Receiver<Batch>,
}

/// The builder's end.
pub(super) struct Work {
    full: Receiver<Batch>,
    empty: Sender<Batch>,
}

/// Both ends.
pub(super) fn feed() -> (Feed, Work) {
    let (full_in, full_out) = sync_channel(BATCHES);
    let (empty_in, empty_out) = channel();
    for _ in 1..BATCHES {
        empty_in.send(Batch::default()).expect("the other end is in this function");
    }
    let feed = Feed { batch: Batch::default(), full: full_in, empty: empty_out };
    (feed, Work { full: full_out, empty: empty_in })
}

impl Feed {
    /// Room for `len` bytes, to be filled and then claimed.
    pub(super) fn room(&mut self, len: usize) -> &mut [u8] {
        let end = self.batch.used + len;
        if self.batch.bytes.len() < end {
            self.batch.bytes.resize(end, 0);
        }
        &mut self.batch.bytes[self.batch.used..end]
    }

    /// The first `len` bytes of the room are content that an item of this batch will speak of.
    pub(super) fn claim(&mut self, len: usize) -> Range<usize> {
        let start = self.batch.used;
        self.batch.used += len;
        start..self.batch.used
    }

    /// Hands an item over, now or with those after it.
    pub(super) fn put(&mut self, item: Item) -> Result<(), Stop> {
        self.batch.items.push(item);
        if self.batch.items.len() < ITEMS && self.batch.used < BYTES {
            return Ok(());
        }
        self.send()
    }

    /// Hands over what there is.
    fn send(&mut self) -> Result<(), Stop> {
        let next = self.empty.recv().map_err(|_| Stop::NotBuilt)?;
        let batch = std::mem::replace(&mut self.batch, next);
        self.full.send(batch).map_err(|_| Stop::NotBuilt)
    }

    /// Hands over an item that is answered, and waits for the answer.
    pub(super) fn ask<T>(&mut self, item: impl FnOnce(SyncSender<T>) -> Item) -> Result<T, Stop> {
        let (answer, answered) = sync_channel(1);
        self.put(item(answer))?;
        self.send()?;
        answered.recv().map_err(|_| Stop::NotBuilt)
    }

    /// Hands over the last of it.
    pub(super) fn finish(mut self) -> Result<(), Stop> {
        self.send()
    }
}

impl Work {
    /// The next batch; `None`: it was the last.
    pub(super) fn next(&self) -> Option<Batch> {
        self.full.recv().ok()
    }

    /// Gives a batch back to be filled again.
    pub(super) fn back(&self, mut batch: Batch) {
        batch.items.clear();
        batch.used = 0;
        let _ = self.empty.send(batch); // at the end nobody is left to fill it
    }
}
