"""The states in which a disk can be found after a power cut, from the log of what it was sent.

Until a disk has answered a flush, it may hold what it was sent in its own memory, and write it in any order. So
besides every prefix of the log there are the states in which some or all of the writes since the last flush are
missing. A write is torn into blocks of 4096 bytes then: what a disk writes as a whole.
"""

import os
from dataclasses import dataclass
from hashlib import blake2b

from recording_disk import FLUSH, MARK, WRITE

SECTOR = 512
BLOCK = 4096


@dataclass
class State:
    """The image `flushed` with `writes` made on top of it."""

    kind: str  # prefix, lost: nothing unflushed is there, or subset: some of it is
    position: int  # in the log
    writes: list
    marks: list  # that were set before


class States:
    """Every state after the mark `begin`, but those whose bytes and marks are the same as of one before."""

    def __init__(self, flushed, entries, random, subsets):
        self.flushed = flushed  # path of an image: the disk where the log begins; kept up to date while iterating
        self.entries = entries
        self.random = random
        self.subsets = subsets  # how many of them between two flushes or marks
        self.found = 0
        self.seen = set()

    def __iter__(self):
        contents, pending, marks = Contents(self.flushed), [], None
        for position, (what, offset, data) in enumerate(self.entries):

            def states(kind, *choices):
                for writes in choices:
                    yield from self.new(State(kind, position, writes, list(marks or [])), contents)

            running = marks is not None
            if what == WRITE:
                pending.append((offset, data))
                if running:
                    yield from states("prefix", list(pending))
                continue
            if running and len(pending) > 0:
                yield from states("subset", *(self.some_of(pending) for _ in range(self.subsets)))
            if what == FLUSH:
                contents.write(pending)
                with open(self.flushed, "r+b") as image:
                    for at, some in pending:
                        os.pwrite(image.fileno(), some, at)
                pending = []
            elif what == MARK:
                label = data.decode()
                if label == "begin":
                    marks = []
                else:
                    marks.append(label)
                # with what was promised now, the same disks once more
                yield from states("prefix", list(pending))
            if marks is not None:
                yield from states("lost", [])

    def new(self, state, contents):
        self.found += 1
        key = (contents.sum_with(state.writes), len(state.marks))
        if key not in self.seen:
            self.seen.add(key)
            yield state

    def some_of(self, writes):
        blocks = []
        for offset, data in writes:
            # on the disk's own boundaries
            cuts = [0, *range(BLOCK - offset % BLOCK, len(data), BLOCK), len(data)]
            blocks += [(offset + a, data[a:b]) for a, b in zip(cuts, cuts[1:])]
        part = self.random.random()
        return [block for block in blocks if self.random.random() < part]


class Contents:
    """What is in an image, as a sum over its sectors: it changes with a write as fast as the write is long."""

    def __init__(self, image):
        self.image = os.open(image, os.O_RDONLY)
        self.written = {}  # of each sector that was written: its digest
        self.sum = 0

    def write(self, writes):
        self.sum, changed = self.after(writes)
        self.written.update(changed)

    def sum_with(self, writes):
        return self.after(writes)[0]

    def after(self, writes):
        total, changed = self.sum, {}
        for offset, data in writes:
            assert offset % SECTOR == 0 and len(data) % SECTOR == 0, "a disk writes whole sectors"
            for at in range(0, len(data), SECTOR):
                number = (offset + at) // SECTOR
                old = changed.get(number) or self.written.get(number) or self.digest(number)
                changed[number] = self.digest(number, data[at : at + SECTOR])
                total += changed[number] - old
        return total % 2**128, changed

    def digest(self, number, data=None):
        if data is None:
            data = os.pread(self.image, SECTOR, number * SECTOR)
        return int.from_bytes(blake2b(number.to_bytes(8, "big") + data, digest_size=16).digest(), "big")

    def __del__(self):
        os.close(self.image)
