"""docs/performance.md: everything above its mark is made from the results, everything below it is written by hand."""

import statistics

from goals import GOALS, OURS, RATE, number, quotient
from plots import PLOTS
from results import CPU, paired
from works import WHAT

MARK = "<!-- From here on by hand: tests/bench/run keeps it. -->"
BY_HAND = f"""{MARK}

## Profiles

To be written.

## What an idle connection costs

To be written.
"""
# Columns of the table of all servers: work, what is shown, its field, and its factor.
COLUMNS = [
    ("F1", "F1 /s", RATE, 1),
    ("F1", "F1 µs", CPU, 1),
    ("F1w1", "F1w1 µs", CPU, 1),
    ("F2r", "F2r µs", CPU, 1),
    ("F2r", "F2r p50 ms", "latency_p50_us", 1e-3),
    ("F2r", "p99 ms", "latency_p99_us", 1e-3),
    ("F2m", "F2m /s", RATE, 1),
    ("F3", "F3 /s", RATE, 1),
    ("F4", "F4 p50 ms", "latency_p50_us", 1e-3),
    ("F4", "p99 ms", "latency_p99_us", 1e-3),
    ("U1", "U1 µs", CPU, 1),
    ("P1", "P1 /s", "msgs_per_s", 1),
    ("P1e", "P1e /s", "msgs_per_s", 1),
    ("C1", "C1 µs", CPU, 1),
    ("C1s", "C1s µs", CPU, 1),
    ("I1", "I1 bytes", "rss_per_conn_bytes", 1),
    ("I1p", "I1p bytes", "rss_per_conn_bytes", 1),
    ("I1s", "I1s bytes", "rss_per_conn_bytes", 1),
]


def table(head, rows):
    """A table whose columns also stand below one another in a terminal."""
    rows = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def goals_table(results, all_of_them=True):
    rows = []
    for goal in GOALS:
        reached = goal.reached(results)
        if reached is None:
            if not all_of_them and goal.verdict(results) == "not measured":
                continue
            shown, spread = "–", "–"
        else:
            shown = number(reached[0], goal.unit)
            low, high = min(reached[1]), max(reached[1])
            spread = f"{number(low)} … {number(high)}, {len(reached[1])} rounds" if len(reached[1]) > 1 else "one round"
            if goal.work == "all":
                spread = f"{sum(record['server'] == OURS for record in results.records)} measurements"
        stretch = goal.said(goal.stretch) if goal.stretch is not None else ""
        rows.append([goal.work.replace("conns:", "F1 at "), goal.text, goal.said(goal.limit), stretch, shown, spread, goal.verdict(results)])
    return table(["work", "what", "goal", "stretch", "median", "from … to", "reached"], rows)


def servers_table(results):
    shown = [column for column in COLUMNS if any(record["work"] == column[0] for record in results.records)]
    rows = []
    for server in results.servers():
        row = [f"**{server}**" if server == OURS else server]
        for work, _, field, factor in shown:
            value = results.median(work, server, field)
            row.append("–" if value is None else number(value * factor))
        rows.append(row)
    return table(["server", *(column[1] for column in shown)], rows)


def remarks(results):
    """What failed, and what arrived wrongly, each once."""
    counted = dict.fromkeys((f"- {text}." for text in results.meta["left_out"]), 1)
    for record in results.records:
        if "why" in record:
            text = f"- {record['work']}, {record['server']}: {record['why']}."
        elif errors := results.errors(record):
            text = f"- {record['work']}, {record['server']}: {', '.join(f'{count} {kind}' for kind, count in errors.items())}."
        else:
            continue
        counted[text] = counted.get(text, 0) + 1
    return "\n".join(text if count == 1 else f"{text[:-1]} ({count} rounds)." for text, count in counted.items())


def two_shards(results):
    """What parting the connections costs."""

    def ratio(work):
        found = paired(results.values("shards", OURS, f"{work} two"), results.values("shards", OURS, f"{work} one"), quotient)
        return f"{statistics.median(found):.2f} ({min(found):.2f} … {max(found):.2f}, {len(found)} rounds)" if found else "not measured"

    return (
        "Two shards on two cores, one of which the generator and Redis have as well, take of the CPU time that one shard on a core of its own takes for each delivery:\n"
        f"in F1w1, where each message goes to both shards, {ratio('F1w1')}; in U1, where each goes to one of them, {ratio('U1')}.\n"
        "What they carry together needs a machine with more cores to be measured."
    )


def judged(results):
    verdicts = [(goal, goal.verdict(results)) for goal in GOALS]
    measured = [goal for goal, verdict in verdicts if verdict != "not measured"]
    missed = [goal for goal, verdict in verdicts if verdict.startswith("**no**")]
    text = f"{len(measured) - len(missed)} of {len(measured)} goals are reached."
    if missed:
        found = [(goal, goal.reached(results)) for goal in missed]
        items = [f"{goal.text} ({goal.work}): {number(reached[0], goal.unit) if reached else 'failed'}, goal {goal.said(goal.limit)}" for goal, reached in found]
        text += "\nMissed:\n\n" + "\n".join(f"- {item}" for item in items)
    if len(measured) < len(GOALS):
        text += f"\n\nNot measured in this run: {len(GOALS) - len(measured)}."
    return text


def tables(results):
    """What the short form prints."""
    parts = [goals_table(results, all_of_them=False), servers_table(results), remarks(results), judged(results)]
    return "\n\n".join(part for part in parts if part)


def machine_text(meta):
    versions = "\n".join(f"- {name}: {version}" for name, version in meta["versions"].items())
    busy = "" if meta["load"] < 0.7 else f" **The machine had other work: its load was {meta['load']:.1f} at the start.**"
    return f"""{meta['date']}, {meta['processor']}, {meta['cores']} cores{'' if meta['virtual'] in ('no', 'none') else ' of a virtual machine'}, {meta['memory_mib'] / 1024:.0f} GiB, {meta['kernel']}, over loopback.{busy}

{versions}

Made by `{meta['command']}`."""


METHOD = """Each server runs alone on core 0, with one shard or its equal; the generator (`tests/bench/wsload`) and Redis on core 1. Each measurement has a fresh server and a fresh Redis, and takes five seconds (or what `--secs` says) after everybody is subscribed; two for the curves.
A goal is a ratio to another server in the same round, and counts as the median over all rounds: nine of F1w1 and U1, three of memory and the curves, five of the others. Who comes first changes from round to round. Servers that no goal names are measured in one round only. Absolute figures move from machine to machine, and on a virtual one from hour to hour by a tenth and more; the ratios less so.

- *The floor* is one thread without anything that could be left out: it writes all that Redis has delivered of one channel to each socket in one `send`. What it costs is what the kernel costs.
- *Bun* has uWebSockets and its own Redis client inside, and is the fastest peer that a registry carries.
- *CPU* is the time of the server's process, from /proc; on loopback the sender's core also does TCP's receiving half. *Memory* is the growth of resident memory, without the kernel's share for a socket.
- Each message carries its number, whom it is for and when it was sent; what is lost, doubled, out of order or with the wrong receiver is counted in each work. Lost is also what has not arrived four seconds after the last message was sent. `failed` and `died` are connections.
- Above about 8 million deliveries a second the generator is the limit; believe the CPU per delivery there.

The peers are in `tests/bench/peers`: Bun and node relay as ws4redis does, and with a lifetime do SETEX and PUBLISH in one pipeline; neither looks at sessions or checks who may hear what. nchan gets its messages by HTTP and stores them through Redis. Centrifugo gets its messages by HTTP and keeps its channels in its own memory (its memory engine, without Redis); it speaks its JSON protocol, which puts a message into an object and several that wait into one frame. It logs nothing, has no history, does not compress, and sends no ping while it is measured. A dash means that a server cannot do the work, or has failed (see the remarks).
The generator writes numbers of users and connections with eight digits where session keys need them.
100,000 channels: 16,700 connections with a session each hear six channels of their own (broadcast, user, session, three groups); the memory of a channel is what they take beyond 16,700 connections on one channel, through five. Large messages: three of 1 MiB, one after the other; the peak of the process counts. The client who reads nothing loses messages (`when_slow = "drop-oldest"`), as otherwise it would soon be closed; 1,000 others hear 50 messages of 16 KiB a second."""


def generated(results):
    works = "\n".join(f"| {name} | {text} |" for name, text in WHAT.items())
    left = remarks(results)
    pictures = "\n\n".join(f"![{text}](performance/{name}.svg)" for name, (text, _) in PLOTS.items())
    return f"""# Performance

This page is made by `tests/bench/run`. {judged(results)}

## Goals

{goals_table(results)}

## All servers

Medians; per second, µs of CPU per delivery, message or cycle, milliseconds of latency, bytes per connection.

{servers_table(results)}

{f'Remarks:{chr(10)}{chr(10)}{left}{chr(10)}{chr(10)}' if left else ''}{pictures}

## Two shards

{two_shards(results)}

## The works

| work | what happens |
|---|---|
{works}

## Where

{machine_text(results.meta)}

## How

{METHOD}

## Again

    tests/bench/run            everything, in less than an hour; writes this page
    tests/bench/run --short    the goals in one or two rounds, in five minutes after the builds; prints its tables
    tests/bench/run --page     this page again, from what the last full run has kept in tests/.cache/bench

It needs Linux with two cores that have nothing else to do, Rust and Python 3; as root on Debian or Ubuntu it installs Redis, node and nchan itself. Centrifugo is built, for which it needs Go, in minutes at the first time. A peer that is not to be had is left out.
"""


def write(results, path):
    old = path.read_text() if path.exists() else ""
    by_hand = old[old.index(MARK) :] if MARK in old else BY_HAND
    path.write_text(generated(results) + "\n" + by_hand)
