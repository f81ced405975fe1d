"""What was measured, as text, as JSON and as the page in spec/."""


def heads(row):
    more = [name for name in ("growth", "inodes") if row.number == 3]
    return ["", "median ms", "min ms", "of the floor", "of ours", *(["MiB on disk", "inodes"] if more else []),
            *(["most MiB of memory"] if row.number == 4 else []), "runs", "how"]


def cells(row, entry):
    if not entry.samples:
        return [entry.name, *["-"] * (len(heads(row)) - 2), entry.failed.split("\n")[0][:120] or "not measured"]
    floor, ours = row.get("floor"), row.get("pointsman")
    ratio = lambda base: f"{entry.median / base.median:.2f}" if base else "-"  # noqa: E731
    shown = [entry.name, f"{entry.median * 1000:.3g}" if entry.median < 0.01 else f"{entry.median * 1000:.1f}",
             f"{entry.times[0] * 1000:.3g}" if entry.times[0] < 0.01 else f"{entry.times[0] * 1000:.1f}",
             ratio(floor), ratio(ours)]
    if row.number == 3:
        shown += [f"{entry.more['growth']:.1f}", str(entry.more["inodes"])] if entry.more else ["-", "-"]
    if row.number == 4:
        shown.append(f"{max(sample.memory for sample in entry.samples) / 1024:.0f}")
    return [*shown, str(len(entry.samples)), entry.note]


def targets(row):
    for what, reached, says in row.targets:
        yield f"{'reached' if reached else 'NOT REACHED'}: {what} ({says})"
    for note in row.notes:
        yield f"note: {note}"


def as_text(facts, rows):
    lines = [f"{name}: {value}" for name, value in flat(facts)]
    for row in rows:
        table = [heads(row), *(cells(row, entry) for entry in row.entries)]
        widths = [max(len(line[column]) for line in table) for column in range(len(table[0]) - 1)]
        lines += ["", f"{row.number}. {row.title}"]
        for line in table:
            numbers = [cell.rjust(width) for cell, width in zip(line[1:], widths[1:])]
            lines.append("  " + "  ".join([line[0].ljust(widths[0]), *numbers, line[-1]]).rstrip())
        lines += [f"  {line}" for line in targets(row)]
    return "\n".join(lines)


def as_page(facts, rows):
    short = [f"row {row.number}, {what} ({says})" for row in rows for what, reached, says in row.targets if not reached]
    lines = [
        "# Benchmarks",
        "",
        "Written by `scripts/bench --write`; its head and `scripts/benchmark/peers.py` say how everything is measured and driven.",
        "All are equally durable; what a peer does not flush by itself it is given. A time is that of a whole process, a floor that of",
        "its system calls alone. Medians of one run on one machine: compare within a table.",
        "",
        *[f"- {name}: {value}" for name, value in flat(facts)],
        "",
        "**Short of their targets:** " + ("; ".join(short) if short else "none of the rows measured here") + ".",
    ]
    for row in rows:
        head = heads(row)
        lines += ["", f"## {row.number}. {row.title}", "", "| " + " | ".join(head) + " |",
                  "|---|" + "---:|" * (len(head) - 2) + "---|"]
        lines += ["| " + " | ".join(cell.replace("|", "\\|") for cell in cells(row, entry)) + " |" for entry in row.entries]
        lines += ["", *[f"- {line}" for line in targets(row)]]
    return "\n".join(lines) + "\n"


def as_json(facts, rows):
    def entry(row, entry):
        return {"name": entry.name, "how": entry.note, "seconds": [sample.seconds for sample in entry.samples],
                "cpu_seconds": [sample.cpu for sample in entry.samples],
                "memory_kib": [sample.memory for sample in entry.samples], **entry.more,
                **({"failed": entry.failed} if entry.failed else {})}
    return {"facts": facts, "rows": [{
        "row": row.number, "title": row.title, "entries": [entry(row, one) for one in row.entries], "notes": row.notes,
        "targets": [{"target": what, "reached": reached, "measured": says} for what, reached, says in row.targets],
    } for row in rows]}


def flat(facts):
    for name, value in facts.items():
        yield name, ", ".join(value.values()) if isinstance(value, dict) else value
    if float(facts["load before"].split()[0]) > 0.5:
        yield "**not final**", "the machine had other work to do; only what is within one table can be compared, and roughly"
