"""What is done to the store, what each of it promises, and whether a store that was found keeps the promises."""

import json
import os
import random
import subprocess
from dataclasses import dataclass, field, replace

from machine import Broken

@dataclass(frozen=True)
class Promised:
    """What the store has said is done. A later one is the same with what came after."""

    made: bool = False
    current: str = None
    ids: dict = field(default_factory=dict)  # of the sources that were pushed
    tags: dict = field(default_factory=dict)
    verdicts: dict = field(default_factory=dict)  # event -> verdict and target


class Program:
    """Runs pointsman on a store, and says when it has reported."""

    def __init__(self, path, work):
        self.path = path
        self.sources = os.path.join(work, "sources")

    def knows(self, command):
        return subprocess.run([self.path, command, "--help"], capture_output=True).returncode == 0

    def answer(self, store, *args):
        """The object that a command prints which must succeed."""
        command = [self.path, "--store", store, "--json", *args]
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60)
        if done.returncode != 0:
            said = (done.stdout + done.stderr).replace(store, "STORE")
            raise Broken(f"`{args[0]}` ends with {done.returncode}: {' '.join(said.split())[:300]}")
        return json.loads(done.stdout)


class Session:
    """A store on which the story goes on. With each report of success `reported` is called, at once."""

    def __init__(self, program, store, reported=lambda: None, left_out=()):
        self.program = program
        self.store = store
        self.reported = reported
        self.left_out = left_out

    def answer(self, *args, source=None):
        command = [*self.left_out, self.program.path, "--store", self.store, "--json", *args]
        if source is not None:
            command.append(os.path.join(self.program.sources, source))
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        said = process.stdout.readline()
        if said:
            self.reported()
        said += process.stdout.read()
        errors = process.stderr.read()
        if process.wait() != 0:
            raise Broken(f"`{' '.join(args)}` ends with {process.returncode}: {said}{errors}")
        return json.loads(said)


# --- the actions ----------------------------------------------------------------------------------------------------


def init(session, so_far):
    session.answer("init")
    return replace(so_far, made=True)


def push(source):
    def act(session, so_far):
        answer = session.answer("push", source=source)
        return replace(so_far, ids={**so_far.ids, source: answer["id"]})

    return act


def activate(source):
    return lambda session, so_far: verdict(session, so_far, "activate", so_far.ids[source])


def rollback(session, so_far):
    return verdict(session, so_far, "rollback")


def verdict(session, so_far, *args):
    answer = session.answer(*args)
    verdicts = {**so_far.verdicts, answer["event"]: (answer["verdict"], answer["target"])}
    return replace(so_far, current=answer["target"], verdicts=verdicts)


def tag(name, source):
    def act(session, so_far):
        session.answer("tag", name, so_far.ids[source])
        return replace(so_far, tags={**so_far.tags, name: so_far.ids[source]})

    return act


def gc(session, so_far):
    session.answer("gc")
    # it was never good and has no tag: it may go
    return replace(so_far, ids={name: of for name, of in so_far.ids.items() if name != "spare"})


# The story, in order, from an empty file system on. Where the program does not know the command, it is told without.
ACTIONS = [
    # (name, command that must be there, what is done)
    ("init", "init", init),
    ("first push", "push", push("one")),
    ("first activate", "activate", activate("one")),
    ("push", "push", push("two")),
    ("activate", "activate", activate("two")),
    ("tag", "tag", tag("stable", "two")),
    ("retag", "tag", tag("stable", "one")),
    ("rollback", "rollback", rollback),
    ("push spare", "gc", push("spare")),
    ("gc", "gc", gc),
]
# Where the short form begins: what comes before is done by then.
SHORT = 3


# --- the sources ----------------------------------------------------------------------------------------------------


def write_sources(directory, seed):
    """Two of 200 files, of which every second one changes; one that is only pushed, and one to come after all."""
    made = random.Random(seed)
    old = {f"part{n % 7}/sub{n % 3}/file{n}": made.randbytes(made.randrange(1, 12_000)) for n in range(200)}
    changed = {path: made.randbytes(made.randrange(1, 12_000)) for path in list(old)[::2]}
    new = {**old, **changed}
    few = {path: new[path] for path in list(new)[:10]}
    # a large one takes its own way through a push, and an empty one has nothing to be flushed
    for files in (old, new, few):
        files["large"] = made.randbytes(700_000)
        files["empty"] = b""
    for name, files in {"one": old, "two": new, "spare": few, "next": {**few, "next": b"next\n"}}.items():
        for path, data in files.items():
            path = os.path.join(directory, name, path)
            os.makedirs(os.path.dirname(path), exist_ok=True)
            with open(path, "wb") as file:
                file.write(data)
        os.symlink("large", os.path.join(directory, name, "link"))
        os.chmod(os.path.join(directory, name, "part1/sub1/file1"), 0o600)
        os.chmod(os.path.join(directory, name, "part2/sub2/file2"), 0o755)


# --- what must hold -------------------------------------------------------------------------------------------------


class Judge:
    def __init__(self, program, names):
        """`names`: of every id that the story comes by, the source that it was pushed from."""
        self.program = program
        self.names = names

    def judge(self, store, promised, coming):
        """Raises `Broken` where `store` breaks what was promised, or shows a part of what was on its way."""
        if not promised.made:
            # the power was cut during the first `init`, and whoever asked for it asks again
            self.program.answer(store, "init")
        self.pointer(store, promised, coming)
        self.whole(store)
        self.found(store, promised, coming)
        self.goes_on(store, promised)

    def pointer(self, store, promised, coming):
        current = named(store)
        if current not in {promised.current, coming.current}:
            raise Broken(f"`current` names {self.name(current)}, not {self.name(promised.current)}")
        if current != promised.current and current not in swings(store):
            raise Broken("`current` has moved before this was announced in the steps of its event")

    def whole(self, store):
        """Each generation by name is what was pushed, whatever `verify` says."""
        for id in os.listdir(os.path.join(store, "generations")):
            if id not in self.names:
                raise Broken("a generation that nobody pushed")
            pushed = os.path.join(self.program.sources, self.names[id])
            found = os.path.join(store, "generations", id, "tree")
            diff = subprocess.run(["diff", "-rq", "--no-dereference", pushed, found], capture_output=True, text=True)
            if diff.returncode != 0:
                said = (diff.stdout + diff.stderr).replace(pushed, "pushed").replace(found, "found")
                first = said.partition("\n")[0]
                raise Broken(f"generation {self.name(id)} is torn: {first or f'diff ends with {diff.returncode}'}")
        self.verify(store)

    def verify(self, store):
        self.program.answer(store, "verify")

    def found(self, store, promised, coming):
        generations = self.program.answer(store, "list")["generations"]
        listed = {generation["id"] for generation in generations}
        for source, id in promised.ids.items():
            if id not in listed and source in coming.ids:
                raise Broken(f"generation {source} was pushed and is lost")
        tags = {tag: generation["id"] for generation in generations for tag in generation["tags"]}
        for tag in {**promised.tags, **coming.tags, **tags}:
            if tags.get(tag) not in {promised.tags.get(tag), coming.tags.get(tag)}:
                raise Broken(f"tag {tag} names {self.name(tags.get(tag))}, not {self.name(promised.tags.get(tag))}")
        verdicts = self.verdicts(store)
        for event, verdict in promised.verdicts.items():
            if verdicts.get(event) != verdict:
                raise Broken(f"the verdict on event {event} is lost: {verdicts.get(event)}")

    def goes_on(self, store, promised):
        """The next command works, and nothing is left of what was interrupted."""
        answer = self.program.answer(store, "deploy", os.path.join(self.program.sources, "next"))
        if named(store) != answer["target"]:
            raise Broken("the next deployment was good, but `current` names something else")
        staging = set(os.listdir(os.path.join(store, "tmp"))) - {"undo", "reserve"}
        if staging:
            raise Broken(f"left in tmp/ after the next command: {sorted(staging)}")
        self.verify(store)
        for event, verdict in self.verdicts(store).items():
            if verdict is None:
                raise Broken(f"event {event} has no verdict after the next command")
            if event in promised.verdicts and promised.verdicts[event] != verdict:
                raise Broken(f"event {event} has another verdict than was promised: {verdict}")

    def verdicts(self, store):
        events = self.program.answer(store, "history")["events"]
        return {event["number"]: event["end"] and (event["end"]["verdict"], event["target"]) for event in events}

    def name(self, id):
        return self.names.get(id, id)


def named(store):
    """The id that `current` leads to; none where it is not there."""
    try:
        text = os.readlink(os.path.join(store, "current"))
    except FileNotFoundError:
        return None
    except OSError as e:
        raise Broken(f"`current` cannot be read: {os.strerror(e.errno)}") from e
    parts = text.split("/")
    resolves = os.path.isdir(os.path.join(store, text))
    if not resolves or len(parts) != 3 or parts[0] != "generations" or parts[2] != "tree":
        raise Broken(f"`current` dangles: {text}")
    return parts[1]


def swings(store):
    """Where the events say that `current` is about to go."""
    events = os.path.join(store, "events")
    targets = set()
    for name in os.listdir(events):
        if name.endswith(".steps"):
            with open(os.path.join(events, name), "rb") as file:
                whole = [line for line in file if line.endswith(b"}\n")]
            marks = [json.loads(line[17:]) for line in whole]
            targets |= {mark["swinging"]["to"] for mark in marks if "swinging" in mark}
    return targets
