"""The rows: what is prepared, what is measured in turn, what it is held against."""

import os
import re
import shutil
import subprocess
import sys
from dataclasses import dataclass, field

from . import workload
from .machine import Failed, remove

# activations, swings and listings take milliseconds: so many in one run
SHORT = 20
SLOW_RUNS = 2


@dataclass
class Entry:
    """What one of the compared came to."""

    name: str
    note: str
    samples: list = field(default_factory=list)
    more: dict = field(default_factory=dict)
    failed: str = ""

    @property
    def times(self):
        return sorted(sample.seconds for sample in self.samples)

    @property
    def median(self):
        times = self.times
        middle = len(times) // 2
        return times[middle] if len(times) % 2 else (times[middle - 1] + times[middle]) / 2


@dataclass
class Row:
    """One kind of work: everything that was measured, and the targets."""

    number: int
    title: str
    entries: list = field(default_factory=list)
    # each: what is to be reached, whether it is, by how much
    targets: list = field(default_factory=list)
    notes: list = field(default_factory=list)

    def get(self, name):
        found = [entry for entry in self.entries if entry.name == name and entry.samples]
        return found[0] if found else None

    def at_most(self, what, value, limit, show):
        """A target that is a number not to be passed."""
        says = f"{show(value)}, {over(value / limit)}"
        self.targets.append((f"{what}: at most {show(limit)}", value <= limit, says))

    def ratio_at_most(self, other, limit):
        ours, base = self.get("pointsman"), self.get(other)
        if ours and base:
            ratio = ours.median / base.median
            self.targets.append((f"at most {limit:g} times the {other}", ratio <= limit,
                                 f"{ratio:.2f} times, {over(ratio / limit)}"))

    def times_faster(self, other, factor):
        ours, peer = self.get("pointsman"), self.get(other)
        if ours and peer:
            ratio = peer.median / ours.median
            self.targets.append((f"at least {factor:g} times faster than {other}", ratio >= factor,
                                 f"{ratio:.2f} times, {over(factor / ratio)}"))


def over(share):
    """In words, what is measured as a share of what is allowed."""
    return f"short by {(share - 1) * 100:.0f} %" if share > 1 else f"{(1 - share) * 100:.0f} % to spare"


def milliseconds(seconds):
    return f"{seconds * 1000:.1f} ms"


class Task:
    """One of the compared: `prepare` is not measured, `run` gives the samples of one run, `after` cleans up."""

    def __init__(self, name, note, run, prepare=None, after=None, slow=False):
        self.entry = Entry(name, note)
        self.run, self.slow = run, slow
        self.prepare, self.after = prepare or (lambda: None), after or (lambda: None)


class Plan:
    """What all rows need, and the inputs, made when first asked for."""

    def __init__(self, place, ours, installed, runs, generations, quick):
        self.place, self.ours, self.installed = place, ours, installed
        self.runs, self.generations, self.quick = runs, generations, quick
        self.made = {}

    def peers(self, row, step):
        return [peer for peer in self.installed if peer.has(step) and not (self.quick and row.number in peer.slow)]

    def input(self, name, make):
        """The tree `name`, which `make(path)` writes where it is not there yet."""
        if name not in self.made:
            self.made[name] = self.place.at(name)
            make(self.made[name])
        return self.made[name]

    def small(self):
        return self.input("small", lambda path: workload.write(path, workload.small()))

    def large(self):
        return self.input("large", lambda path: workload.write(path, workload.large()))

    def alternate(self, row, tasks):
        """Runs every task in turn, `runs` times after one to warm up; a failing one is out, with its reason."""
        for number in range(-1, self.runs):
            for task in tasks[number % len(tasks):] + tasks[:number % len(tasks)]:
                if task.entry.failed or (task.slow and not 0 <= number < SLOW_RUNS):
                    continue
                try:
                    task.prepare()
                    self.place.sync()
                    samples = task.run()
                except Failed as error:
                    task.entry.failed = str(error)
                    print(f"  {task.entry.name}: {error}", file=sys.stderr)
                    samples = []
                finally:
                    task.after()
                if number >= 0:
                    task.entry.samples += samples
        row.entries += [task.entry for task in tasks]

    def floor(self, *words):
        """Measures a floor: the time of the system calls alone."""
        sample = self.place.measure([self.place.floor_program, *words])
        sample.seconds = float(sample.out)
        return [sample]

    def fresh(self, driver, store):
        """A store with nothing in it."""
        remove(store)
        self.place.do(driver.command("init", store))


class Edit:
    """A change of some files of a tree, in place, as an editor makes it in a work tree; and the way back."""

    def __init__(self, root, before, after):
        names = [name for name in before if before[name] != after[name]]
        self.root, self.before, self.after = root, *({name: tree[name] for name in names} for tree in (before, after))

    def apply(self):
        self.put(self.after)

    def revert(self):
        self.put(self.before)

    def put(self, files):
        for name, content in files.items():
            with open(os.path.join(self.root, name), "wb") as file:
                file.write(content)


def push_tasks(plan, row, source, floor="write", base=None, edit=None):
    """Everybody pushes `source` into a fresh store; with `edit`, into one that has it as it was before that."""
    number = 2 if edit else 1

    def task(driver, step="push"):
        store = plan.place.at(f"store-{driver.name}")
        name, note = driver.name, driver.note.split(". ")[0]
        if step == "deploy":
            name, note = "pointsman deploy", "push, and activate in the same process"

        def run():
            before = plan.place.used(store)
            sample = plan.place.measure(driver.command(step, store, source, number))
            after = plan.place.used(store)
            made.entry.more["growth"] = (after[0] - before[0]) / 1024
            made.entry.more["inodes"] = after[1] - before[1]
            return [sample]

        def prepare():
            plan.fresh(driver, store)
            if edit:
                plan.place.do(driver.command("push", store, source, 1))
                edit.apply()

        def after():
            remove(store)
            if edit:
                edit.revert()

        made = Task(name, note, run, prepare, after, row.number in driver.slow)
        return made

    target = plan.place.at("floor-target")
    words = {"write": ("write", source, target), "copy": ("copy", source, target), "link": ("link", base, source, target)}
    notes = {"write": "write and syncfs, one thread, read before", "copy": "read, write and syncfs, one thread",
             "link": "link or write, and syncfs, one thread, read before"}
    def after():
        remove(target)
        if edit:
            edit.revert()

    least = Task("floor", notes[floor], lambda: plan.floor(*words[floor]), edit.apply if edit else None, after)
    tasks = [least, task(plan.ours), *([task(plan.ours, "deploy")] if row.number == 1 else [])]
    return tasks + [task(peer) for peer in plan.peers(row, "push")]


def push_small(plan, row):
    plan.alternate(row, push_tasks(plan, row, plan.small()))
    for peer in ("nix", "ostree", "rsync"):
        row.times_faster(peer, 4)
    row.times_faster("shell", 1.3)
    return row


def push_large(plan, row):
    plan.alternate(row, push_tasks(plan, row, plan.large()))
    row.ratio_at_most("floor", 1.1)
    return row


def push_changed(plan, row):
    before = workload.large()
    source = plan.input("large-edited", lambda path: workload.write(path, before))
    edit = Edit(source, before, workload.changed(before, 0.01, 3))
    plan.alternate(row, push_tasks(plan, row, source, "link", plan.large(), edit))
    row.ratio_at_most("floor", 1.5)
    ours = row.get("pointsman")
    if ours:
        row.at_most("growth on disk", ours.more["growth"], 2, lambda mib: f"{mib:.1f} MiB")
    return row


def push_big(plan, row):
    source = plan.input("big", workload.big)
    plan.alternate(row, push_tasks(plan, row, source, floor="copy"))
    remove(plan.made.pop("big"))
    row.ratio_at_most("shell", 1)
    ours = row.get("pointsman")
    if ours:
        memory = max(sample.memory for sample in ours.samples) / 1024
        row.at_most("most memory", memory, 32, lambda mib: f"{mib:.1f} MiB")
    return row


def activate(plan, row):
    """Everybody goes to and fro between two stored generations."""
    one = plan.small()
    two = plan.input("small-changed", lambda path: workload.write(path, workload.changed(workload.small(), 0.005, 5)))
    place = plan.place

    def task(driver):
        store = place.at(f"store-{driver.name}")
        names = ["1", "2"]

        def prepare():
            if os.path.exists(store):
                return
            plan.fresh(driver, store)
            for number, source in enumerate((one, two), 1):
                printed = place.do(driver.command("push", store, source, number))
                if driver is plan.ours:
                    names[number - 1] = printed
                else:
                    place.do(driver.command("keep", store, source, number))
            place.do(driver.command("activate", store, names[1]))

        def run():
            return [place.measure(driver.command("activate", store, names[turn % 2])) for turn in range(SHORT)]

        note = "activate: event, content hashed again, swing and outcome, all durable"
        if driver is not plan.ours:
            note = driver.note.split("Activation: ")[-1] if "Activation" in driver.note else "ln -s; mv -T; sync"
        return Task(driver.name, note, run, prepare)

    swing = place.at("floor-target")
    os.mkdir(swing)
    note = "its files read, event and outcome written and flushed, symlink, rename and fsync; no process started"
    floor = Task("floor", note, lambda: plan.floor("activate", swing, one, "100"))
    plan.alternate(row, [floor, task(plan.ours), *map(task, plan.peers(row, "activate"))])
    clean(plan)
    ours = row.get("pointsman")
    if ours:
        row.at_most("median", ours.median, 0.005, milliseconds)
        # the same on the machine that the figure is of: shell 2.9 ms, ostree 11.7, nix-env 15.5
        for peer, limit in (("shell", 1.72), ("ostree", 0.43), ("nix", 0.32)):
            row.ratio_at_most(peer, limit)
    return row


def listing(plan, row):
    """Everybody lists its generations."""
    place = plan.place

    def task(driver, count):
        store = place.at(f"store-{driver.name}")

        def prepare():
            if os.path.exists(store):
                return
            if driver is plan.ours:
                shutil.copytree(history(plan), store, symlinks=True, copy_function=os.link)
                return
            place.do(driver.command("init", store))
            place.do(driver.command("remember", store, count))

        def run():
            return [place.measure(driver.command("list", store)) for _ in range(SHORT)]

        note = "list" if driver is plan.ours else driver.list.replace('"', "").replace("$1/", "")
        note = note if count == plan.generations else f"{note}, of {count} only"
        return Task(driver.name, note, run, prepare, slow=row.number in driver.slow)

    tasks = [task(plan.ours, plan.generations)]
    for peer in plan.peers(row, "list"):
        tasks.append(task(peer, plan.generations // 10 if row.number in peer.slow else plan.generations))
    plan.alternate(row, tasks)
    clean(plan)
    ours = row.get("pointsman")
    if ours:
        row.at_most("median", ours.median, 0.005, milliseconds)
    if plan.generations != 1000:
        row.notes.append("the target is for 1,000 generations")
    return row


def planning(plan, row):
    """Ours plans an activation: which of the loader's 1,000 globs has changed among 10,000 files, and what follows."""
    place, ours = plan.place, plan.ours
    globs = [f"a{a}/b{b}/*{last}.conf" for a in range(10) for b in range(10) for last in range(10)]
    words = "".join(f"    - {glob}\n" for glob in globs)
    pipeline = f"version: 1\nloader:\n  command: [\"true\", \"{{loaded}}\"]\n  if_changed:\n{words}"
    tree = workload.large() | {"pointsman.yaml": pipeline.encode()}
    source = plan.input("sections", lambda path: workload.write(path, tree))
    store, names = place.at("store-sections"), []

    def prepare():
        if names:
            return
        plan.fresh(ours, store)
        with open(os.path.join(store, "host.yaml"), "w") as file:
            file.write("pipeline: pushed\n")
        place.do(ours.command("deploy", store, source, 1))
        with open(os.path.join(source, "a0/b0/f00000.conf"), "a") as file:
            file.write("more\n")
        names.append(place.do(ours.command("push", store, source, 2)))

    task = Task("pointsman", "activate --dry-run: one file of one glob has changed",
                lambda: [place.measure(ours.command("plan", store, names[0])) for _ in range(SHORT)], prepare)
    plan.alternate(row, [task])
    remove(store)
    remove(plan.made.pop("sections"))
    measured = row.get("pointsman")
    if measured:
        row.at_most("median", measured.median, 0.1, milliseconds)
    return row


def steps(plan):
    """The small tree in `work`, as it is before each push of a history: one file changes from one to the next."""
    tree = workload.small()
    work, text, names = plan.place.at("work"), workload.Text(6), sorted(tree)
    workload.write(work, tree)
    for number in range(1, plan.generations + 1):
        name = names[text.random.randrange(len(names))]
        with open(os.path.join(work, name), "wb") as file:
            file.write(text.of(len(tree[name])))
        yield number, work
    remove(work)


def history(plan):
    """A store of ours in which every generation was in force once."""
    def make(store):
        plan.place.do(plan.ours.command("init", store))
        for number, work in steps(plan):
            plan.place.do(plan.ours.command("deploy", store, work, number))
    return plan.input("history", make)


def collect(plan, row):
    """Everybody removes all generations but the last ten."""
    place, ours = plan.place, Entry("pointsman", "gc, whole process")
    store, kept = history(plan), place.at("collected")
    floor = Entry("floor", "rm -rf of as many trees of our store")
    row.entries += [ours, floor]
    held = []
    if not plan.ours.can("gc"):
        ours.failed = "this pointsman has no `gc`"

    def copy():
        remove(kept)
        subprocess.run(["cp", "-a", store, kept], check=True)
        with open(os.path.join(kept, "host.yaml"), "w") as file:
            file.write("keep: 10\nkeep_days: 0\nkeep_pushed: 0s\n")
        place.sync()

    for _ in range(1 if plan.quick else min(plan.runs, 3)):
        try:
            if not ours.failed:
                copy()
                ours.samples.append(place.measure(plan.ours.command("prune", kept)))
                left = len(plan.ours.generations(kept))
                if not 10 <= left <= 11:
                    raise Failed(f"gc left {left} generations")
                copy()
                held.append(lock_held(plan, kept))
        except Failed as error:
            ours.failed = str(error)
        copy()
        trees = sorted(os.listdir(os.path.join(kept, "generations")))[10:]
        trees = [os.path.join("generations", name) for name in trees]
        listed = place.at("home/trees")
        with open(listed, "w") as file:
            file.write("\0".join(trees))
        command = f"cd '{kept}' && xargs -0 rm -rf < '{listed}'"
        floor.samples.append(place.measure(["bash", "-c", command]))
    remove(kept)
    for peer in plan.peers(row, "prune"):
        row.entries.append(collect_peer(plan, row, peer))
    held = [time for time in held if time is not None]
    if held:
        row.at_most("store lock held", max(held), 0.05, milliseconds)
    elif not ours.failed:
        row.notes.append("how long the lock is held is not known: strace is missing")
    if plan.generations != 1000:
        row.notes.append("the target is for 1,000 generations")
    row.notes.append("each peer once: a removal needs a history of its own")
    return row


def collect_peer(plan, row, peer):
    """Fills a store of the peer's with a history, and measures the one removal."""
    place, store = plan.place, plan.place.at(f"store-{peer.name}")
    entry = Entry(peer.name, peer.prune_note)
    most = plan.generations // 10 if row.number in peer.slow else plan.generations
    if most < plan.generations:
        entry.note += f", of {most} generations only"
    work = steps(plan)
    try:
        plan.fresh(peer, store)
        for number, tree in work:
            place.do(peer.command("push", store, tree, number))
            place.do(peer.command("keep", store, tree, number))
            if number == most:
                break
        place.sync()
        entry.samples.append(place.measure(peer.command("prune", store)))
    except Failed as error:
        entry.failed = str(error)
    work.close()
    remove(place.at("work"))
    remove(store)
    return entry


def lock_held(plan, store):
    """Seconds for which `gc` has the store lock exclusively, by strace; `None` without strace."""
    if not shutil.which("strace"):
        return None
    trace = plan.place.at("home/trace")
    plan.place.do(["strace", "-f", "--seccomp-bpf", "-ttt", "-y", "-e", "trace=flock,close", "-o", trace,
                   *plan.ours.command("prune", store)])
    line = re.compile(r"^\d+ +([\d.]+) (flock|close)\((\d+)<[^>]*/store\.lock>(?:, (\w+))?.*= 0$")
    since, total = {}, 0.0
    with open(trace) as file:
        for time, call, descriptor, how in filter(None, (match and match.groups() for match in map(line.match, file))):
            if call == "flock" and how.startswith("LOCK_EX"):
                since[descriptor] = float(time)
            elif descriptor in since and (call == "close" or how == "LOCK_UN"):
                total = max(total, float(time) - since.pop(descriptor))
    if since or total == 0.0:
        raise Failed("gc was not seen to take the store lock and to let it go")
    return total


def clean(plan):
    """Removes what tasks kept between their runs."""
    for name in os.listdir(plan.place.path):
        if name.startswith(("store-", "floor-target")):
            remove(plan.place.at(name))
    plan.place.sync()


ROWS = {
    1: ("push 200 files, 1 MiB", push_small),
    2: ("push 10,000 files, 40 MiB", push_large),
    3: ("the same, 1 % changed", push_changed),
    4: ("push one file of 1 GiB and 100 small ones", push_big),
    5: ("durable activation of 200 files, no stages", activate),
    6: ("list {generations} generations", listing),
    7: ("remove all but 10 of {generations} generations", collect),
    8: ("plan with 1,000 sections over 10,000 files", planning),
}
