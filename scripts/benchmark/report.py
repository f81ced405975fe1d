"""What was measured, as text, as JSON and as the page in spec/."""

HOW = "how"


TRIED = """\
What was tried, and what is left:

- Pushes (rows 1 to 3): reading and hashing beside building, files made from open directories, one write for each, the history not
  flushed. Directories handed to two workers were not tried: a flat directory would gain nothing. Where more than 64 MiB of others' data
  wait to be written, a small push flushes its own files in place of the file system: about 3 ms slower where those data are elsewhere,
  seconds faster where they are here. Which of the two it is the kernel tells root where `/sys/kernel/debug` is mounted.
- Activation (row 5): two commits of the journal, one before the swing and one after it, where there were six flushes. The target is read
  and hashed by two threads while the rest is planned; what has happened before does not count any more. What is left, of some 7 ms: the
  start and end of the process (1.5, of which `true` takes 0.9), the commits (1.5), reading 200 files in 125 directories and hashing them
  (2 of processor time), the parsing of the command line (0.3), and some 400 other calls. A single file for an event would save nothing;
  a static program that is not relocated 0.4; optimizing for size, and `syncfs`, are slower.
- List (row 6): one read of `history`, with a listing of `generations/` and `events/` to be right also after a crash; of an event only what
  a list shows is read.
- Lock of the collector (row 7): the figure is under strace. It is held for 100 generations at a time, with everything that
  keeps one read anew each time: fewer at a time hold it shorter and take longer in all.
- Planning (row 8): a glob is compiled when it is first needed, once for the target and for the way back where both have the same pipeline.
"""


def milliseconds(seconds):
    return f"{seconds * 1000:.2f}" if seconds < 0.01 else f"{seconds * 1000:.1f}"


def cells(row, entry):
    """One line of a row's table, by the heads of its columns."""
    line = dict.fromkeys(["", "median ms", "min ms", "of the floor", "of ours"], "-")
    if row.number == 3:
        line |= dict.fromkeys(["MiB on disk", "inodes"], "-")
    if row.number == 4:
        line |= {"most MiB of memory": "-"}
    line |= {"": entry.name, "runs": str(len(entry.samples)), HOW: entry.note}
    if not entry.samples:
        return line | {HOW: entry.failed.split("\n")[0][:120] or "not measured"}
    line |= {"median ms": milliseconds(entry.median), "min ms": milliseconds(entry.times[0])}
    for head, name in (("of the floor", "floor"), ("of ours", "pointsman")):
        other = row.get(name)
        if other:
            line[head] = f"{entry.median / other.median:.2f}"
    if row.number == 3 and entry.more:
        line |= {"MiB on disk": f"{entry.more['growth']:.1f}", "inodes": str(entry.more["inodes"])}
    if row.number == 4:
        line["most MiB of memory"] = f"{max(sample.memory for sample in entry.samples) / 1024:.0f}"
    return line


def table(row):
    lines = [cells(row, entry) for entry in row.entries]
    return [list(lines[0]), *(list(line.values()) for line in lines)]


def targets(row):
    for what, reached, says in row.targets:
        yield f"{'reached' if reached else 'NOT REACHED'}: {what} ({says})"
    for note in row.notes:
        yield f"note: {note}"


def flat(facts):
    for name, value in facts.items():
        yield name, ", ".join(value.values()) if isinstance(value, dict) else value
    if float(facts["load before"].split()[0]) > 0.5:
        yield "not final", "the machine had other work to do; compare within a table only, and roughly"


def as_text(facts, rows):
    lines = [f"{name}: {value}" for name, value in flat(facts)]
    for row in rows:
        whole = table(row)
        widths = [max(map(len, column)) for column in zip(*whole)]
        lines += ["", f"{row.number}. {row.title}"]
        for name, *numbers, how in whole:
            numbers = [number.rjust(width) for number, width in zip(numbers, widths[1:])]
            lines.append("  ".join(["", name.ljust(widths[0]), *numbers, how]).rstrip())
        lines += [f"  {line}" for line in targets(row)]
    return "\n".join(lines)


def as_page(facts, rows):
    short = [f"row {row.number}, {what} ({says})" for row in rows for what, reached, says in row.targets if not reached]
    lines = [
        "# Benchmarks",
        "",
        "Written by `scripts/bench --write`; its head and `scripts/benchmark/peers.py` say how everything is measured and driven.",
        "All are equally durable: what a peer does not flush by itself is flushed for it. A time is that of a whole process, a",
        "floor that of its system calls alone. Medians of one run on one machine: compare within a table.",
        "",
        *[f"- {name}: {value}" for name, value in flat(facts)],
        "",
        "Short of their targets:" + ("" if short else " none of the rows measured here."),
        "",
        *[f"- {line}" for line in short],
        "",
        *TRIED.splitlines(),
    ]
    for row in rows:
        head, *body = table(row)
        lines += ["", f"## {row.number}. {row.title}", ""]
        lines += ["| " + " | ".join(head) + " |", "|---|" + "---:|" * (len(head) - 2) + "---|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in body]
        lines += ["", *[f"- {line}" for line in targets(row)]]
    return "\n".join(lines) + "\n"


def as_json(facts, rows):
    def entry(one):
        said = {"name": one.name, HOW: one.note, "seconds": [sample.seconds for sample in one.samples],
                "cpu_seconds": [sample.cpu for sample in one.samples],
                "memory_kib": [sample.memory for sample in one.samples], **one.more}
        return said | ({"failed": one.failed} if one.failed else {})

    return {"facts": facts, "rows": [{
        "row": row.number, "title": row.title, "entries": [entry(one) for one in row.entries], "notes": row.notes,
        "targets": [{"target": what, "reached": reached, "measured": says} for what, reached, says in row.targets],
    } for row in rows]}
