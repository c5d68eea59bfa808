"""The goals and their verdicts."""

import statistics
from dataclasses import dataclass

from results import CPU, paired

OURS = "ws4redis"
SOCKET_IO = "ws4redis, Socket.IO"
VERSION_2 = "ws4redis, version 2"
OUR_SERVERS = (OURS, SOCKET_IO, VERSION_2)
RATE = "deliveries_per_s"


@dataclass
class Goal:
    work: str
    text: str
    unit: str
    # `least`: `limit` is a lower bound, otherwise an upper bound. `stretch` is a further, optional goal.
    least: bool
    limit: float
    stretch: float | None
    values: object
    server: str = OURS

    def reached(self, results):
        """Returns the median and its numbers, or None without a measurement."""
        found = self.values(results)
        return (statistics.median(found), found) if found else None

    def holds(self, number, limit):
        return number >= limit if self.least else number <= limit

    def verdict(self, results):
        reached = self.reached(results)
        if reached is None:
            failed = any(not record["why"].startswith("left out") for record in results.failures(self.work, self.server))
            return "**no**, it has failed" if failed else "not measured"
        if self.stretch is not None and self.holds(reached[0], self.stretch):
            return "yes, also the stretch"
        return "yes" if self.holds(reached[0], self.limit) else "**no**"

    def bound(self, limit):
        return f"{'≥' if self.least else '≤'} {number(limit, self.unit)}"


def number(value, unit=""):
    """Formats a number with its unit."""
    if value is None:
        return "–"
    size = abs(value)
    if size >= 1e6:
        text = f"{value / 1e6:.2f} M"
    elif size >= 1e5:
        text = f"{value / 1e3:.0f} k"
    elif size >= 100 or value == int(value) and not unit.startswith("×"):
        text = f"{value:,.0f}"
    else:
        # Costs below a microsecond need one digit more than ratios.
        digits = 3 if size < 1 and not unit.startswith(("×", "%")) else 2 if size < 10 else 1
        text = f"{value:.{digits}f}"
    return f"{text} {unit}".strip()


def ratio(work, text, field, peer, limit, stretch=None, least=False):
    """A goal for our number divided by the peer's number of the same round."""

    def values(results):
        return paired(results.values(work, OURS, field), results.values(work, peer, field), quotient)

    return Goal(work, text, f"× {peer}", least, limit, stretch, values)


def plain(work, text, field, unit, limit, stretch=None, least=False, server=OURS):
    return Goal(work, text, unit, least, limit, stretch, lambda results: list(results.values(work, server, field).values()), server)


def over_plain(work, text, server, limit):
    """A goal for the cost of a delivery in another protocol, divided by that over plain WebSockets in the same round."""

    def values(results):
        return paired(results.values(work, server, CPU), results.values(work, OURS, CPU), quotient)

    return Goal(work, text, "× plain WebSockets", False, limit, None, values, server)


def over_socket_io(work, limit):
    return over_plain(work, "CPU per delivery", SOCKET_IO, limit)


def between(work, other, text, field, unit, limit, join, stretch=None):
    """A goal for our numbers of two workloads, joined by `join`."""
    return Goal(work, text, unit, False, limit, stretch, lambda results: paired(results.values(work, OURS, field), results.values(other, OURS, field), join))


def difference(a, b):
    return a - b


def quotient(a, b):
    return a / b


def all_errors(results):
    """Returns the sum of our errors (lost, duplicated, …), which should be 0."""
    ours = [results.errors(record) for record in results.records if record["server"] in OUR_SERVERS]
    return [sum(sum(errors.values()) for errors in ours)] if ours else []


ALL_ARRIVE = Goal("all", "lost, doubled, out of order, misdelivered", "", False, 0, None, all_errors)
SOCKET_IO_GOALS = [
    over_socket_io("S1", 1.25),
    over_socket_io("S1w1", 1.10),
    over_socket_io("S1r", 1.25),
    over_socket_io("SU", 1.25),
    plain("SI", "memory of an idle client, WebSocket", "rss_per_conn_bytes", "bytes", 1500, server=SOCKET_IO),
    plain("SP", "memory of a client between two polls", "rss_per_conn_bytes", "bytes", 1000, server=SOCKET_IO),
    ALL_ARRIVE,
]
GOALS = [
    ratio("F1", "deliveries per second", RATE, "floor", 0.85, 1.0, least=True),
    ratio("F1", "deliveries per second", RATE, "Bun", 1.25, least=True),
    ratio("F1w1", "CPU per delivery", CPU, "floor", 1.10, 1.0),
    ratio("F1w1", "CPU per delivery", CPU, "Bun", 1.0, 0.9),
    ratio("F2r", "CPU per delivery", CPU, "floor", 1.12, 1.05),
    ratio("F2r", "latency, 99 of 100", "latency_p99_us", "floor", 1.2, 1.1),
    ratio("F2m", "deliveries per second", RATE, "floor", 0.95, 1.0, least=True),
    ratio("F3", "deliveries per second", RATE, "floor", 0.85, 1.0, least=True),
    ratio("F3", "deliveries per second", RATE, "Bun", 2.4, least=True),
    ratio("F4", "latency, median", "latency_p50_us", "floor", 1.2, 1.1),
    ratio("F4", "latency, 99 of 100", "latency_p99_us", "floor", 1.2, 1.1),
    ratio("U1", "CPU per delivery", CPU, "Bun", 0.85, 0.75),
    ratio("P1", "messages per second", "msgs_per_s", "Bun", 1.2, 1.4, least=True),
    ratio("P1e", "messages per second", "msgs_per_s", "Bun", 1.05, 1.25, least=True),
    over_plain("F1", "CPU per delivery in version 2", VERSION_2, 1.1),
    over_plain("F1w1", "CPU per delivery in version 2", VERSION_2, 1.1),
    between("P1", "P1h", "messages per second", "msgs_per_s", "× with a history", 3, quotient),
    ratio("C1", "CPU per cycle", CPU, "Bun", 1.15, 1.0),
    between("C1s", "C1", "what the session adds to a cycle", CPU, "µs", 12, difference),
    plain("I1p", "memory of an idle connection", "rss_per_conn_bytes", "bytes", 2048, 1500),
    between("I1s", "I1p", "what session, user and two groups add", "rss_per_conn_bytes", "bytes", 700, difference),
    ALL_ARRIVE,
    between("conns:18000", "conns:1000", "cost per delivery at 18,000 connections", CPU, "× at 1,000", 1.3, quotient),
    plain("channels", "memory of a channel with one listener, of 100,000", "bytes", "bytes", 1024),
    plain("channels", "channels subscribed per second, with their handshakes", "per_second", "", 20000, least=True),
    plain("large", "memory that 1 MiB to 1,000 clients takes", "mebibytes", "MiB", 64),
    Goal("slow", "latency of others, 99 of 100, with one that reads nothing", "× without", False, 1.1, None,
         lambda results: paired(results.values("slow", OURS, "with"), results.values("slow", OURS, "without"), quotient)),
    plain("idle", "CPU with 10,000 idle connections and default pings", "percent", "% of a core", 0.5),
    plain("start", "size of the stripped binary", "megabytes", "MB", 12),
    plain("start", "start until it listens", "milliseconds", "ms", 50),
]  # fmt: skip
