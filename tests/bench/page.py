"""Generates docs/performance.md above its mark; the part below the mark is written by hand."""

import statistics

from goals import GOALS, OUR_SERVERS, OURS, RATE, SOCKET_IO, SOCKET_IO_GOALS, number, quotient
from plots import PLOTS
from results import CPU, paired
from works import SOCKET_IO_WHAT, WHAT

MARK = "<!-- From here on by hand: tests/bench/run keeps it. -->"
BY_HAND = f"""{MARK}

## Profiles

To be written.

## What an idle connection costs

To be written.
"""
# Columns of the table of all servers: workload, heading, field, factor.
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
    ("P1h", "P1h /s", "msgs_per_s", 1),
    ("C1", "C1 µs", CPU, 1),
    ("C1s", "C1s µs", CPU, 1),
    ("I1", "I1 bytes", "rss_per_conn_bytes", 1),
    ("I1p", "I1p bytes", "rss_per_conn_bytes", 1),
    ("I1s", "I1s bytes", "rss_per_conn_bytes", 1),
]
SOCKET_IO_COLUMNS = [
    ("S1", "S1 /s", RATE, 1),
    ("S1", "S1 µs", CPU, 1),
    ("S1w1", "S1w1 µs", CPU, 1),
    ("S1w1", "S1w1 p50 ms", "latency_p50_us", 1e-3),
    ("S1r", "S1r µs", CPU, 1),
    ("SU", "SU µs", CPU, 1),
    ("SI", "SI bytes", "rss_per_conn_bytes", 1),
    ("SP", "SP bytes", "rss_per_conn_bytes", 1),
]


def table(head, rows):
    """Returns a table with aligned columns, readable in a terminal as well."""
    rows = [[str(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[at]) for row in rows) for at in range(len(head))]
    lines = ["| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def goals_table(results, goals=GOALS, all_of_them=True):
    rows = []
    for goal in goals:
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
                spread = f"{sum(record['server'] in OUR_SERVERS for record in results.records)} measurements"
        stretch = goal.bound(goal.stretch) if goal.stretch is not None else ""
        rows.append([goal.work.replace("conns:", "F1 at "), goal.text, goal.bound(goal.limit), stretch, shown, spread, goal.verdict(results)])
    return table(["work", "what", "goal", "stretch", "median", "from … to", "reached"], rows)


def servers_table(results, columns=COLUMNS):
    shown = [column for column in columns if any(record["work"] == column[0] for record in results.records)]
    rows = []
    for server in results.servers():
        row = [f"**{server}**" if server in OUR_SERVERS else server]
        for work, _, field, factor in shown:
            value = results.median(work, server, field)
            row.append("–" if value is None else number(value * factor))
        rows.append(row)
    return table(["server", *(column[1] for column in shown)], rows)


def remarks(results):
    """Returns failures and delivery errors, each once with its count."""
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
    """Returns the text about the cost of two shards."""

    def ratio(work):
        found = paired(results.values("shards", OURS, f"{work} two"), results.values("shards", OURS, f"{work} one"), quotient)
        return f"{statistics.median(found):.2f} ({min(found):.2f} … {max(found):.2f}, {len(found)} rounds)" if found else "not measured"

    return (
        "CPU time per delivery of two shards on two cores, one of them shared with the generator and Redis, relative to one shard on its own core:\n"
        f"in F1w1, where each message goes to both shards, {ratio('F1w1')}; in U1, where each goes to one of them, {ratio('U1')}.\n"
        "Measuring their total throughput needs a machine with more cores."
    )


def judged(results, goals=GOALS):
    verdicts = [(goal, goal.verdict(results)) for goal in goals]
    measured = [goal for goal, verdict in verdicts if verdict != "not measured"]
    missed = [goal for goal, verdict in verdicts if verdict.startswith("**no**")]
    text = f"{len(measured) - len(missed)} of {len(measured)} goals are reached."
    if missed:
        found = [(goal, goal.reached(results)) for goal in missed]
        items = [f"{goal.text} ({goal.work}): {number(reached[0], goal.unit) if reached else 'failed'}, goal {goal.bound(goal.limit)}" for goal, reached in found]
        text += "\nMissed:\n\n" + "\n".join(f"- {item}" for item in items)
    if len(measured) < len(goals):
        text += f"\n\nNot measured in this run: {len(goals) - len(measured)}."
    return text


def tables(results, goals=GOALS, columns=COLUMNS):
    """Returns the tables that --short prints."""
    parts = [goals_table(results, goals, all_of_them=False), servers_table(results, columns), remarks(results), judged(results, goals)]
    return "\n\n".join(part for part in parts if part)


def machine_text(meta):
    versions = "\n".join(f"- {name}: {version}" for name, version in meta["versions"].items())
    busy = "" if meta["load"] < 0.7 else f" **The machine was not idle: its load was {meta['load']:.1f} at the start.**"
    return f"""{meta['date']}, {meta['processor']}, {meta['cores']} cores{'' if meta['virtual'] in ('no', 'none') else ' of a virtual machine'}, {meta['memory_mib'] / 1024:.0f} GiB, {meta['kernel']}, over loopback.{busy}

{versions}

Generated by `{meta['command']}`."""


METHOD = """Each server runs alone on core 0, with one shard or its equivalent; the generator (`tests/bench/wsload`) and Redis on core 1. Each measurement uses a fresh server and a fresh Redis, and takes five seconds (or `--secs`) after all clients are subscribed; two for the curves.
A goal is a ratio to another server in the same round, and counts as the median over all rounds: nine of F1w1 and U1, three of memory and the curves, five of the others. The order changes from round to round. Servers without a goal are measured in one round only. Absolute figures vary between machines, and on a virtual one by a tenth and more within hours; ratios vary less.

- *The floor* is one thread with the minimum of work: it writes everything that Redis has delivered for one channel to each socket in one `send`. Its cost is the kernel's cost.
- *Bun* contains uWebSockets and its own Redis client, and is the fastest peer available from a registry.
- *CPU* is the time of the server's process, from /proc; on loopback the sender's core also does TCP's receiving half. *Memory* is the growth of resident memory, without the kernel's memory for a socket.
- Each message contains its number, its receiver and its time; each work counts lost, duplicated, reordered and misdelivered messages. A message that has not arrived four seconds after the last one was sent counts as lost. `failed` and `died` are connections.
- Above about 8 million deliveries a second the generator is the limit; use the CPU per delivery there.

The peers are in `tests/bench/peers`: Bun and node relay as ws4redis does, and with a lifetime send SETEX and PUBLISH in one pipeline; neither reads sessions nor checks permissions. nchan gets its messages over HTTP and stores them in Redis. Centrifugo gets its messages over HTTP and keeps its channels in memory (its memory engine, without Redis); its JSON protocol wraps a message into an object and several queued ones into one frame. It logs nothing, has no history, does not compress, and sends no ping during the measurement. A dash means that a server cannot do the work, or has failed (see the remarks).
The generator writes user and connection numbers with eight digits if session keys need them.
100,000 channels: 16,700 connections with a session each subscribe to six channels of their own (broadcast, user, session, three groups); the memory of a channel is the growth over 16,700 connections on one channel, divided by five. Large messages: three of 1 MiB, one after the other; the peak of the process counts. The client that reads nothing loses messages (`when_slow = "drop-oldest"`), because it would otherwise be closed soon; 1,000 others receive 50 messages of 16 KiB per second."""


def generated(results):
    works = "\n".join(f"| {name} | {text} |" for name, text in WHAT.items())
    left = remarks(results)
    pictures = "\n\n".join(f"![{text}](performance/{name}.svg)" for name, (text, _) in PLOTS.items())
    return f"""# Performance

`tests/bench/run` generates this page. {judged(results)}

## Goals

{goals_table(results)}

## All servers

Medians; per second, µs of CPU per delivery, message or cycle, milliseconds of latency, bytes per connection.

{servers_table(results)}

{f'Remarks:{chr(10)}{chr(10)}{left}{chr(10)}{chr(10)}' if left else ''}{pictures}

## Two shards

{two_shards(results)}

## Workloads

| work | what happens |
|---|---|
{works}

## Machine

{machine_text(results.meta)}

## Method

{METHOD}

## Run it yourself

    tests/bench/run            everything, in less than an hour; writes this page
    tests/bench/run --short    the goals in one or two rounds, in five minutes after the builds; prints its tables
    tests/bench/run --page     this page again, from the results of the last full run in tests/.cache/bench

It needs Linux with two idle cores, Rust and Python 3; as root on Debian or Ubuntu it installs Redis, node and nchan itself. It builds Centrifugo on the first run, which needs Go and takes minutes. An unavailable peer is skipped.
"""


SOCKET_IO_METHOD = """Each server runs alone on core 0, with one shard or its equivalent; the generator and Redis on core 1. Each measurement uses a fresh server and a fresh Redis. A goal is a ratio to plain WebSockets of the same server in the same round, and counts as the median over all rounds; the order changes from round to round. The peers are measured in one round. [The method of the other works](../performance.md#method) applies.

All are driven by what python-socketio's `RedisManager` publishes since 5.15.1. The peers are the crate socketioxide, the package socket.io on node with ioredis, and python-socketio with its own manager on uvicorn (`tests/bench/peers`). They read neither sessions nor tokens: each client is put into the rooms that its query names. Clients speak Engine.IO 4."""


def socket_io_page(results):
    works = "\n".join(f"| {name} | {text} |" for name, text in SOCKET_IO_WHAT.items())
    left = remarks(results)
    return f"""# Performance of Socket.IO

`tests/bench/run --socket-io` generates this page. {judged(results, SOCKET_IO_GOALS)}

## Goals

{goals_table(results, SOCKET_IO_GOALS)}

## All servers

Medians; per second, µs of CPU per delivery, milliseconds of latency, bytes per client.

{servers_table(results, SOCKET_IO_COLUMNS)}

{f'Remarks:{chr(10)}{chr(10)}{left}{chr(10)}{chr(10)}' if left else ''}![Socket.IO: CPU of a delivery, and memory of an idle client](socketio.svg)

## Workloads

| work | what happens |
|---|---|
{works}

## Machine

{machine_text(results.meta)}

## Method

{SOCKET_IO_METHOD}
"""


def write(results, path, text=generated):
    old = path.read_text() if path.exists() else ""
    by_hand = old[old.index(MARK) :] if MARK in old else BY_HAND
    path.write_text(text(results) + "\n" + by_hand)
