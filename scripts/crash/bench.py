"""The three parts of the test: cuts, block log, controls."""

import collections
import itertools
import os
import queue
import random
import re
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import machine
from block_log import States
from machine import FILE_SYSTEMS, Boot, Broken
from recording_disk import RecordingDisk, read_log
from story import ACTIONS, SHORT, Judge, Program, Promised, Session, write_sources

CUTS = {"at once": lambda mount: None, "after an unrelated commit": machine.commit}


class Bench:
    """One file system, with the story told once: an image before each action, and what was promised by then."""

    def __init__(self, fs, program, work, boot):
        self.fs, self.program, self.work, self.boot = fs, program, work, boot
        self.actions = [(name, act) for name, needs, act in ACTIONS if program.knows(needs)]
        self.images, self.promised = [self.path("before0")], [Promised()]
        machine.make(fs, self.images[0])
        for number, (_, act) in enumerate(self.actions):
            image = self.path(f"before{number + 1}")
            machine.copy(self.images[number], image)
            with self.mounted(image) as mount:
                done = act(Session(program, os.path.join(mount, "store")), self.promised[number])
            self.images.append(image)
            self.promised.append(done)
        names = {id: source for promised in self.promised for source, id in promised.ids.items()}
        self.judge = Judge(program, names)

    def path(self, name):
        return os.path.join(self.work, f"{self.fs.name}.{name}")

    def mounted(self, image, options=None):
        return machine.mounted(self.fs, image, self.path("mount"), options)

    # --- cuts -------------------------------------------------------------------------------------------------------

    def cuts(self, numbers, how, times, left_out=()):
        """Cuts the power `times` times after each of these actions has reported, and judges what is found."""
        promises = [self.promised[number + 1] for number in numbers for _ in range(times)]
        images = [self.path(f"cut{n}") for n in range(len(promises))]
        for n, image in enumerate(images):
            self.boot.again()
            self.cut(image, numbers[n // times], how, left_out)
        self.boot.again()
        with Batch(self, f"cut {how}, {times} x after each of {len(numbers)} actions") as batch:
            for n, (image, promised) in enumerate(zip(images, promises)):
                batch.add(f"cut after {self.actions[numbers[n // times]][0]}", image, [], promised, promised, fsck=True)
                os.remove(image)
        return batch

    def cut(self, image, number, how, left_out):
        machine.copy(self.images[number], image)
        with self.mounted(image) as mount:

            def reported():
                CUTS[how](mount)
                machine.cut(mount)

            self.act(number, mount, reported, left_out)

    def act(self, number, mount, reported=lambda: None, left_out=()):
        session = Session(self.program, os.path.join(mount, "store"), reported, left_out)
        if self.actions[number][1](session, self.promised[number]) != self.promised[number + 1]:
            raise Broken(f"`{self.actions[number][0]}` does not do twice the same")

    # --- block log --------------------------------------------------------------------------------------------------

    def record(self, numbers, neighbour=False, left_out=(), options=None):
        """The log of these actions, with a mark at each report; the image it begins with is `flushed`."""
        flushed, image, log, served = (self.path(name) for name in ("flushed", "image", "log", "served"))
        machine.copy(self.images[numbers[0]], flushed)
        machine.copy(flushed, image)
        self.boot.again()
        disk = RecordingDisk(image, log, served)
        try:
            with self.mounted(served, options) as mount:
                machine.commit(mount)
                disk.mark("begin")
                with committing(mount, neighbour):
                    for number in numbers:
                        self.act(number, mount, lambda: disk.mark("reported"), left_out)
                machine.commit(mount)
        finally:
            disk.stop()
        return flushed, read_log(log)

    def replay(self, title, numbers, flushed, entries, rng, subsets, until_bad=False):
        self.boot.again()
        states = States(flushed, entries, rng, subsets)
        with Batch(self, title) as batch:
            for state in states:
                if until_bad and batch.bad:
                    break
                done = numbers[0] + len(state.marks)
                promised, coming = self.promised[done], self.promised[min(done + 1, numbers[-1] + 1)]
                batch.add(f"{state.kind} at log entry {state.position}", flushed, state.writes, promised, coming)
        batch.found = states.found
        return batch


@contextmanager
def committing(mount, wanted):
    """Meanwhile a neighbour commits the journal all the time."""
    enough = threading.Event()

    def commit():
        while not enough.wait(0.002):
            machine.commit(mount)

    neighbour = threading.Thread(target=commit)
    if wanted:
        neighbour.start()
    try:
        yield
    finally:
        enough.set()
        if wanted:
            neighbour.join()


@dataclass
class Bad:
    where: str
    why: str
    image: str


class Batch:
    """Judges images on all processors. An image that is bad is kept as it was found."""

    def __init__(self, bench, title):
        self.bench, self.title = bench, title
        self.done, self.bad, self.failure = 0, [], None
        self.found = None  # how many there were before equal ones were left out
        jobs = os.cpu_count() or 1
        self.pool = ThreadPoolExecutor(jobs)
        self.slots = queue.SimpleQueue()
        for slot in range(jobs + 1):
            self.slots.put(slot)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self.pool.shutdown(cancel_futures=kind is not None)
        if self.failure and kind is None:
            raise self.failure

    def add(self, where, image, writes, promised, coming, fsck=False):
        """Judges a copy of `image` with `writes` on it; both are the caller's again when this returns."""
        slot = self.slots.get()
        if self.failure:
            raise self.failure
        found = self.bench.path(f"found{slot}")
        machine.copy(image, found)
        with open(found, "r+b") as file:
            for offset, data in writes:
                os.pwrite(file.fileno(), data, offset)
        self.pool.submit(self.judge, slot, found, where, promised, coming, fsck)

    def judge(self, slot, found, where, promised, coming, fsck):
        try:
            why = self.why_bad(slot, found, promised, coming, fsck)
            if why:
                kept = None
                # the first few are all that anybody looks at
                if len(self.bad) < 3:
                    kept = self.bench.path(f"bad{next(BAD)}")
                    os.rename(found, kept)
                self.bad.append(Bad(where, why, kept))
            self.done += 1
        except Exception as e:
            self.failure = e
        finally:
            self.slots.put(slot)

    def why_bad(self, slot, found, promised, coming, fsck):
        image = self.bench.path(f"judged{slot}")
        machine.copy(found, image)
        try:
            with machine.mounted(self.bench.fs, image, self.bench.path(f"mount{slot}")) as mount:
                self.bench.judge.judge(os.path.join(mount, "store"), promised, coming)
            if fsck:
                machine.check(self.bench.fs, image)
        except Broken as broken:
            return str(broken)
        return None


BAD = itertools.count()


# --- controls -------------------------------------------------------------------------------------------------------

# What each of the parts must notice when nobody does it. Of the single syncs (`--prove` tries each) ext4 and xfs make
# some superfluous: they have one journal, so whatever is flushed later takes earlier names with it. Noticed are the
# syncfs of a push, those of an event, an outcome and a tag before they get their names, that of `swinging` before
# `current` moves, and that of tags/. On btrfs, that of generations/ is noticed as well.
# A push flushes by the one or the other (rule S8). Before it calls fsync, as an event and an outcome do when they are made,
# it tells the kernel to begin with the writing, and what the disk has got by then is no longer lost.
CONTROLS = [("push", "syncfs,fsync,fadvise64"), ("activate", "fsync,fadvise64"), ("tag", "fsync"),
            ("rollback", "fsync,fadvise64")]
SYNCS = ["syncfs", "fsync", "fdatasync"]
# A kernel that is short of memory writes by itself what nobody flushed: a cut may come too late once.
TRIES = 3


def without(call, number=None):
    """The program under strace, which answers this call in the kernel's place: always, or only the `number`th time."""
    when = "" if number is None else f":when={number}"
    return ["strace", "-f", "-qq", "-o", "/dev/null", "-e", f"trace={call}", "-e", f"inject={call}:retval=0{when}"]


def control(bench, number, left_out, rng):
    """What each part finds after an action of which a sync was left out."""
    said = {}
    for how in CUTS if bench.fs.can_shut_down else []:
        for _ in range(TRIES):
            batch = said[f"cut {how}"] = bench.cuts([number], how, 1, left_out)
            if batch.bad:
                break
    flushed, entries = bench.record([number], left_out=left_out)
    said["block log"] = bench.replay("block log", [number], flushed, entries, rng, 2, until_bad=True)
    return said


def syncs_of(bench, number):
    """Every single sync of an action: the call, its number among the same calls, and what it is called for."""
    image, log = bench.path("image"), bench.path("strace.log")
    machine.copy(bench.images[number], image)
    trace = ["strace", "-f", "-y", "-qq", "-o", log, "-e", f"trace={','.join(SYNCS)}"]
    with bench.mounted(image) as mount:
        store = os.path.join(mount, "store")
        bench.act(number, mount, left_out=trace)
    counts = collections.Counter()
    with open(log) as file:
        for thread, call, path in re.findall(r"^(\d+) +(\w+)\(\d+<(.*?)>", file.read(), re.M):
            # strace counts for each thread
            counts[thread, call] += 1
            yield call, counts[thread, call], re.sub(r"[-.]?\d+-\d+$", "*", os.path.relpath(path, store))


# --- all of it ------------------------------------------------------------------------------------------------------


def run_all(args, work, evidence):
    report = Report(args, evidence)
    program = Program(args.program, work)
    write_sources(program.sources, args.seed)
    boot = Boot(os.path.join(work, "boot_id"))
    for name in args.fs:
        report.fs = name
        bench = Bench(FILE_SYSTEMS[name], program, work, boot)
        if not args.prove:
            test(bench, args, report)
        prove(bench, args, report)
    return report.summary()


def test(bench, args, report):
    numbers = list(range(SHORT if args.short else 0, len(bench.actions)))
    for how in CUTS if bench.fs.can_shut_down else []:
        report.tested(bench.cuts(numbers, how, 1 if args.short else 10))
    for neighbour in [False] if args.short else [False, True]:
        flushed, entries = bench.record(numbers, neighbour)
        title = f"block log of {len(numbers)} actions" + (", beside a neighbour that syncs" if neighbour else "")
        rng = random.Random(args.seed)
        report.tested(bench.replay(title, numbers, flushed, entries, rng, 1 if args.short else 4))


def prove(bench, args, report):
    """That a missing sync is noticed."""
    rng = random.Random(args.seed)
    numbers = {name: number for number, (name, _) in enumerate(bench.actions)}
    for name, call in CONTROLS[:2] if args.short else CONTROLS:
        said = control(bench, numbers[name], without(call), rng)
        report.must_notice(f"{name} without {call}", said)
    if bench.fs.without_flush:
        flushed, entries = bench.record([numbers["push"]], options=bench.fs.without_flush)
        replayed = bench.replay("block log", [numbers["push"]], flushed, entries, rng, 2, until_bad=True)
        report.must_notice("a disk that is never told to flush", {"block log": replayed})
    if args.prove:
        for name, _ in CONTROLS:
            for call, nth, path in syncs_of(bench, numbers[name]):
                said = control(bench, numbers[name], without(call, nth), rng)
                report.may_notice(f"{name} without {call} of {path}", said)


class Report:
    """Says how it goes, and at the end how it went."""

    def __init__(self, args, evidence):
        self.args, self.evidence = args, evidence
        self.began = self.last = time.monotonic()
        self.fs = None
        self.states = self.bad = self.controls = self.unnoticed = 0
        print(f"crash-test: seed {args.seed}, {args.program}", flush=True)

    def say(self, text):
        now = time.monotonic()
        print(f"{self.fs}: {text} ({now - self.last:.1f} s)", flush=True)
        self.last = now

    def tested(self, batch):
        count = f"{batch.done} states"
        if batch.found is not None:
            count = f"{batch.found} states, {batch.done} of them different"
        self.say(f"{batch.title}: {count}, {len(batch.bad)} bad")
        self.states += batch.found or batch.done
        for why, times in collections.Counter(bad.why for bad in batch.bad).most_common():
            print(f"    {times} x {why}", flush=True)
        for bad in batch.bad:
            self.bad += 1
            if bad.image:
                self.keep(batch, bad)

    def keep(self, batch, bad):
        directory = os.path.join(self.evidence, str(self.bad))
        os.makedirs(directory)
        machine.copy(bad.image, os.path.join(directory, "image"))
        with open(os.path.join(directory, "why"), "w") as file:
            file.write(f"{self.fs}: {batch.title}: {bad.where}: {bad.why}\nseed {self.args.seed}\n")

    def must_notice(self, what, said):
        self.controls += 1
        missed = [part for part, batch in said.items() if not batch.bad]
        self.unnoticed += len(missed)
        if missed:
            self.say(f"control: {what} was NOT noticed by: {', '.join(missed)}")
        else:
            self.say(f"control: {what} was noticed by {', '.join(said)}: {first_bad(said)}")

    def may_notice(self, what, said):
        parts = [part for part, batch in said.items() if batch.bad]
        noticed = f"noticed by {', '.join(parts)}: {first_bad(said)}" if parts else "not noticed"
        self.say(f"{what}: {noticed}")

    def summary(self):
        print(
            f"crash-test: {self.states} states, {self.bad} bad; {self.controls} controls, "
            f"{'all noticed' if not self.unnoticed else 'NOT ALL NOTICED'}; "
            f"seed {self.args.seed}, {time.monotonic() - self.began:.0f} s",
            flush=True,
        )
        if self.bad:
            print(f"crash-test: the first bad images, and why they are: {self.evidence}", flush=True)
        return 1 if self.bad or self.unnoticed else 0


def first_bad(said):
    why = next(batch.bad[0].why for batch in said.values() if batch.bad)
    return why if len(why) < 120 else f"{why[:120]}.."
