#!/usr/bin/env python3
"""Calculates the tables of docs/scaling.md from measured costs.

    tests/bench/scaling.py            prints the tables
    tests/bench/scaling.py --write    puts them into docs/scaling.md
    tests/bench/scaling.py --check    fails if docs/scaling.md has other tables

COSTS has the measurements, ASSUMED the assumptions; the rest is arithmetic.
"""

import math
import re
import sys
from pathlib import Path

DOCUMENT = Path(__file__).resolve().parents[2] / "docs/scaling.md"

# From docs/performance.md and docs/performance/memory.md: microseconds of one core, or bytes. Redis takes 3.1 µs for a
# publication and one copy in pipelines (workload U1). Single publications from Django cost more; that figure is a guess.
COSTS = {
    "delivery, many messages in one write": 0.15,
    "delivery, one message to each of 1,000 sockets": 4.2,
    "delivery, one message to each of 10,000 sockets": 8.3,
    "message for a single listener": 8.4,
    "publication by a client": 6.5,
    "connection with its handshake": 57.0,
    "what a session adds to that": 17.0,
    "message, in Redis, for each subscribed gateway": 1.5,
    "message, in Redis, for its publication": 5.0,
    "SUBSCRIBE of one channel, in Redis": 1.5,
    "bytes of a connection with a session": 1_900,
    "bytes of a socket in the kernel": 4_608,
}
# The shares of a core and of Redis' core that normal load may use; the rest is for peaks and reconnects.
ASSUMED = {"busy": 0.5, "redis busy": 0.5, "memory of a node for connections": 0.5, "GiB for each core": 2, "seconds of a reconnect storm": 30}

# Each profile: messages per second and page on the page's own channel; pages of a shared channel, and messages per second
# on it; publications per second and page.
PROFILES = {
    "notifications": {"own": 1 / 300, "shared pages": 1, "shared rate": 0.0, "publishes": 0.0},
    "chat": {"own": 1 / 600, "shared pages": 50, "shared rate": 0.2, "publishes": 1 / 250},
    "live ticker": {"own": 0.0, "shared pages": 100_000, "shared rate": 2.0, "publishes": 0.0},
}
PAGES = [10_000, 1_000_000, 10_000_000]
CORES = [4, 16, 64]


def number(value):
    if value >= 1_000_000:
        return f"{value / 1_000_000:.3g} million"
    if value >= 1_000:
        return f"{round(value, 2 - int(math.log10(value))):,.0f}"
    return f"{value:.3g}"


def gateway_load(profile, pages):
    """Returns the CPU load of all gateways in µs per second."""
    shared = profile["shared rate"] * pages
    own = profile["own"] * pages
    return (
        shared * COSTS["delivery, one message to each of 10,000 sockets"]
        + own * COSTS["message for a single listener"]
        + profile["publishes"] * pages * COSTS["publication by a client"]
    )


def pages_of_node(profile, cores):
    """Returns the pages that a node carries, and the limiting resource."""
    by_cpu = ASSUMED["busy"] * cores * 1e6 / gateway_load(profile, 1)
    by_memory = cores * ASSUMED["GiB for each core"] * 2**30 * ASSUMED["memory of a node for connections"] / memory()
    storm = COSTS["connection with its handshake"] + COSTS["what a session adds to that"]
    by_storm = cores * 1e6 * ASSUMED["seconds of a reconnect storm"] / storm
    return min((by_cpu, "CPU"), (by_memory, "memory"), (by_storm, "reconnects"))


def memory():
    return COSTS["bytes of a connection with a session"] + COSTS["bytes of a socket in the kernel"]


def redis_load(profile, pages, gateways):
    """Returns the load of Redis in µs per second.

    A message on a page's own channel goes to one gateway, one on a shared channel to each gateway with pages of it.
    """
    channels = max(1, pages / profile["shared pages"])
    messages = channels * profile["shared rate"]
    subscribed = gateways * (1 - (1 - 1 / gateways) ** min(profile["shared pages"], pages))
    own = profile["own"] * pages
    published, copied = COSTS["message, in Redis, for its publication"], COSTS["message, in Redis, for each subscribed gateway"]
    return messages * (published + copied * subscribed) + own * (published + copied)


def table(head, rows):
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(lines + ["| " + " | ".join(map(str, row)) + " |" for row in rows])


def costs():
    return table(["what", "µs, or bytes"], [(what, f"{cost:,}") for what, cost in COSTS.items()])


def nodes():
    rows = []
    for name, profile in PROFILES.items():
        cells = [f"{number(pages)} ({bound})" for pages, bound in (pages_of_node(profile, cores) for cores in CORES)]
        rows.append((name, *cells))
    return table(["pages on one node, and what bounds it", *(f"{cores} cores" for cores in CORES)], rows)


def per_core():
    rows = [
        ("messages for many, one at a time", COSTS["delivery, one message to each of 10,000 sockets"]),
        ("messages for many, in bursts", COSTS["delivery, many messages in one write"]),
        ("messages for one page each", COSTS["message for a single listener"]),
        ("publications by clients", COSTS["publication by a client"]),
        ("handshakes, anonymous", COSTS["connection with its handshake"]),
        ("handshakes with a session", COSTS["connection with its handshake"] + COSTS["what a session adds to that"]),
    ]
    return table(["one full core does in a second", ""], [(what, number(1e6 / cost)) for what, cost in rows])


def sites():
    rows = []
    for name, profile in PROFILES.items():
        for pages in PAGES:
            each, bound = pages_of_node(profile, 16)
            # One more than needed, so that any of them may restart.
            gateways = math.ceil(pages / each) + 1
            load = redis_load(profile, pages, gateways) / 1e6
            needed = math.ceil(load / ASSUMED["redis busy"])
            rows.append((name, f"{pages:,}", gateways, bound, f"{pages * memory() / 2**30:,.1f}", f"{100 * load:,.1f} %", max(1, needed)))
    return table(["profile", "open pages", "gateways of 16 cores", "bound by", "GiB in all", "of one core of Redis", "Redis shards"], rows)


def fan_out():
    published, copied = COSTS["message, in Redis, for its publication"], COSTS["message, in Redis, for each subscribed gateway"]
    rows = []
    for gateways in (1, 2, 4, 16, 64):
        most = ASSUMED["redis busy"] * 1e6 / (published + copied * gateways)
        rows.append((gateways, number(most), number(most * gateways)))
    return table(["gateways subscribed to each message", "messages per second", "copies per second"], rows)


def storms():
    rows = []
    each = COSTS["connection with its handshake"] + COSTS["what a session adds to that"]
    for pages in (10_000, 100_000, 1_000_000):
        for cores in (4, 16):
            seconds = pages * each / cores / 1e6
            redis = pages * 3 * COSTS["SUBSCRIBE of one channel, in Redis"] / 1e6
            rows.append((f"{pages:,}", cores, f"{seconds:.2g}", f"{redis:.2g}"))
    return table(["pages that come back at once", "cores", "seconds with all cores busy", "seconds of Redis"], rows)


TABLES = {"costs": costs, "per core": per_core, "nodes": nodes, "sites": sites, "fan-out": fan_out, "storms": storms}


def filled(text):
    def fill(match):
        return f"<!-- table: {match[1]} -->\n\n{TABLES[match[1]]()}\n\n<!-- end -->"

    return re.sub(r"<!-- table: ([a-z -]+) -->.*?<!-- end -->", fill, text, flags=re.DOTALL)


def main():
    if "--write" in sys.argv or "--check" in sys.argv:
        text = DOCUMENT.read_text()
        missing = [name for name in TABLES if f"<!-- table: {name} -->" not in text]
        if missing:
            sys.exit(f"{DOCUMENT} has no place for {', '.join(missing)}")
        if "--write" in sys.argv:
            DOCUMENT.write_text(filled(text))
        elif filled(text) != text:
            sys.exit(f"{DOCUMENT} has other tables: run tests/bench/scaling.py --write")
        return
    for name, make in TABLES.items():
        print(f"{name}\n\n{make()}\n")


main()
