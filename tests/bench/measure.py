"""Runs all measurements one after the other; tests/bench/run has built the binaries before.

--short takes five minutes. --page measures nothing and regenerates the page from the last full run.
"""

import argparse
import os
import signal
import sys
import time
from dataclasses import dataclass
from functools import partial

import extras
import machine
import page
import plots
import servers
from goals import OURS, RATE, SOCKET_IO, SOCKET_IO_GOALS, VERSION_2, number
from results import CPU, ERRORS, Results
from servers import ROOT, Failed
from works import WORKS, measure, seconds

KEPT = ROOT / "tests/.cache/bench"
MAIN = ("floor", "Bun")
# The peers of a goal are measured in each round, all others in the first round only.
FANOUTS = dict.fromkeys(servers.FANOUTS, MAIN) | dict.fromkeys(("F1", "F1w1"), (*MAIN, VERSION_2))
PEERS_OF = FANOUTS | dict.fromkeys(("U1", "P1", "P1e", "C1", "C1s"), ("Bun",)) | {"I1": MAIN, "I1p": (), "I1s": (), "P1h": ()}
# Over Socket.IO, in turn with plain WebSockets.
SOCKET_IO_PEERS = dict.fromkeys(servers.SOCKET_IO, (SOCKET_IO,))
ROUNDS = {"F1w1": 9, "U1": 9, "S1": 9, "S1w1": 9, "S1r": 5, "SU": 5} | dict.fromkeys(("I1", "I1p", "I1s", "SI", "SP"), 3)
CONNECTIONS = (100, 300, 1000, 3000, 10000, 18000)
# Size in bytes: messages in flight. They have to fit into a server's limit for a slow client.
SIZES = {16: 64, 128: 64, 1024: 64, 4096: 32, 16384: 8, 65536: 4, 262144: 2, 1048576: 1}
# The number of each workload that is printed during the run.
SHOWN = (
    dict.fromkeys(("F2r", "F4"), ("latency_p99_us", "µs p99"))
    | dict.fromkeys(("F1w1", "U1", "S1", "S1w1", "S1r", "SU", "conns", "size"), (CPU, "µs each"))
    | dict.fromkeys(("P1", "P1e", "P1h"), ("msgs_per_s", "messages/s"))
    | dict.fromkeys(("C1", "C1s"), (CPU, "µs a cycle"))
    | dict.fromkeys(("I1", "I1p", "I1s", "SI", "SP"), ("rss_per_conn_bytes", "bytes each"))
)


@dataclass
class Step:
    work: str
    server: servers.Server
    round: int
    seconds: float
    # Called with the port and the PID of a fresh Redis.
    act: object


def step(work, server, turn, secs, name=None, extra=()):
    if work == "SP":
        return Step(work, server, turn, 8, partial(extras.polling, server))
    act = partial(measure, work, server, secs=secs, extra=extra)
    return Step(name or work, server, turn, seconds(work, secs, extra), lambda redis, pid: act(redis, pid))


def size_step(server, turn, size, window):
    return step("F1", server, turn, 2, f"size:{size}", ["--conns", "100", "--size", str(size), "--window", str(window)])


def goal_steps(peers, rounds, secs, peers_of=PEERS_OF):
    for work, names in peers_of.items():
        alongside = [peers[OURS], *(peers[name] for name in names if name in peers)]
        alongside = [server for server in alongside if work in server.works]
        others = [peer for name, peer in peers.items() if peer not in alongside and work in peer.works]
        for turn in range(1, rounds(work) + 1):
            # Reverses the order in each round, so that no server always runs first.
            for server in alongside if turn % 2 else reversed(alongside):
                yield step(work, server, turn, secs)
            if turn == 1 and rounds("other peers"):
                for server in others:
                    yield step(work, server, turn, secs)


def sweep_steps(peers, limit):
    possible = [connections for connections in CONNECTIONS if connections + 500 <= limit]
    if possible != list(CONNECTIONS):
        print(f"more than {possible[-1]} connections left out: the limit of open files is {limit}")
    for turn in (1, 2, 3):
        for connections in possible:
            for name in (OURS, *MAIN):
                if name in peers:
                    yield step("F1", peers[name], turn, 2, f"conns:{connections}", ["--conns", str(connections)])
        for size, window in SIZES.items():
            for name in (OURS, *MAIN):
                if name in peers:
                    yield size_step(peers[name], turn, size, window)
    for size, window in SIZES.items() if "node ws" in peers else ():
        yield size_step(peers["node ws"], 1, size, window)
    for name in ("node ws", "nchan", "Centrifugo"):
        for connections in possible if name in peers else ():
            yield step("F1", peers[name], 1, 2, f"conns:{connections}", ["--conns", str(connections)])


def extra_steps(ours, short, limit):
    def one(name, took, act, turn=1):
        return Step(name, ours, turn, took, partial(act, ours))

    yield one("start", 3, extras.start)
    yield one("large", 10, extras.large)
    if short:
        return
    yield one("idle", 80, extras.idle)
    if limit > extras.CONNECTIONS + 500:
        yield one("channels", 40, extras.channels)
    else:
        print(f"100,000 channels left out: the limit of open files is {limit}")
    for turn in range(1, 6):
        yield one("slow", 15, partial(extras.slow, turn=turn, secs=4), turn)
    for turn in (1, 2, 3):
        yield one("shards", 18, partial(extras.shards, turn=turn, secs=2), turn)


def plan(peers, options, limit):
    if options.socket_io:
        steps = [*goal_steps(peers, lambda work: options.rounds or ROUNDS[work], options.secs or 5, SOCKET_IO_PEERS)]
    elif options.short:
        rounds = {"F1": 2, "F1w1": 2, "U1": 2, "P1": 2, "I1": 0, "other peers": 0}
        steps = [*goal_steps(peers, lambda work: rounds.get(work, 1), options.secs or 2)]
        steps += extra_steps(peers[OURS], True, limit)
    else:
        rounds = options.rounds
        steps = [*goal_steps(peers, lambda work: rounds or ROUNDS.get(work, 5), options.secs or 5)]
        steps += extra_steps(peers[OURS], False, limit)
        steps += sweep_steps(peers, limit)
    wanted = options.only and options.only.split(",")
    return [step for step in steps if not wanted or step.work.split(":")[0] in wanted]


def outcome(work, result):
    """Returns the number of the result that is printed."""
    field, unit = SHOWN.get(work.split(":")[0], (RATE, "deliveries/s"))
    if field in result:
        return f"{number(result[field])} {unit}"
    return ", ".join(f"{key} {number(value)}" for key, value in result.items() if key not in ERRORS)


def measure_all(steps, results, ends):
    since, passed, planned = time.monotonic(), 0.0, sum(step.seconds for step in steps)
    for at, step in enumerate(steps, 1):
        # The estimate of the remaining time uses the pace so far.
        pace = (time.monotonic() - since) / passed if passed > 20 else 1
        left = f"{(planned - passed) * pace / 60:.0f} min left"
        print(f"[{at:3}/{len(steps)}, {left}] {step.work} {step.server.name}, round {step.round}: ", end="", flush=True)
        passed += step.seconds
        name = step.server.name
        if time.time() + step.seconds > ends:
            results.add(step.work, name, step.round, why="left out: the time was over")
            print("left out: the time is over")
        elif len(results.failures(step.work, name)) >= 2 and not results.any(step.work, name):
            print("left out: it has failed twice")
        elif not attempt(step, results):
            print("    once more: ", end="", flush=True)
            attempt(step, results)


def attempt(step, results):
    """Measures once; returns whether it gave numbers."""
    try:
        with servers.redis_server() as (redis, pid):
            result = step.act(redis, pid)
    # A failure of one server does not stop the measurement of the others.
    except (Failed, OSError, ValueError, KeyError) as error:
        why = str(error) or type(error).__name__
        results.add(step.work, step.server.name, step.round, why=why)
        print(f"failed: {why}")
        return False
    results.add(step.work, step.server.name, step.round, result=result)
    errors = results.errors(results.records[-1])
    print(outcome(step.work, result), *(f"{count} {kind}" for kind, count in errors.items()), sep=", ", flush=True)
    return True


def the_peers(over_socket_io):
    """Returns the available peers, and a line for each unavailable one."""
    present, left_out = {}, []
    others = (servers.floor, servers.version_2, servers.bun, servers.node, servers.nchan, servers.centrifugo)
    if over_socket_io:
        others = (servers.our_socket_io, servers.socketioxide, servers.socket_io, servers.python_socketio)
    for peer in (servers.ours(), *(other() for other in others)):
        if peer.missing:
            left_out.append(f"peer {peer.name} left out: {peer.missing}")
            print(left_out[-1])
        else:
            present[peer.name] = peer
    return present, left_out


def main():
    parser = argparse.ArgumentParser(prog="tests/bench/run", description="Compares ws4redis with its floor and its peers.")
    parser.add_argument("--short", action="store_true", help="five minutes: the goals only, in one or two rounds; the page stays as it is")
    parser.add_argument("--page", action="store_true", help="make the page again from the last full run")
    parser.add_argument("--socket-io", action="store_true", help="measure Socket.IO instead, and write docs/performance/socketio.md")
    parser.add_argument("--only", metavar="WORK,…", help=f"these works: {', '.join(WORKS)}, SP, start, large, idle, channels, slow, shards, conns, size; the page stays as it is")
    parser.add_argument("--rounds", type=int, help="instead of three to nine")
    parser.add_argument("--secs", type=float, help="instead of five for each measurement of load")
    options = parser.parse_args()
    full = KEPT / ("socketio.json" if options.socket_io else "full.json")
    written = socket_io_written if options.socket_io else main_written
    if options.page:
        if not full.exists():
            sys.exit("nothing has been measured yet: tests/bench/run")
        return written(Results.load(full))
    for name in (signal.SIGTERM, signal.SIGHUP):
        # An exit by exception, so that `finally` stops all processes.
        signal.signal(name, lambda *_: sys.exit(143))
    if os.cpu_count() < 2:
        sys.exit("two cores are needed: one for the server, one for the generator")
    limit = servers.raise_file_limit()
    if limit < 10500:
        sys.exit(f"10,500 open files are needed, {limit} are allowed: see ulimit -n")
    # Keeps core 0 free for the server.
    os.sched_setaffinity(0, {1})
    peers, left_out = the_peers(options.socket_io)
    partial_run = options.short or options.only
    results = Results(KEPT / ("short.json" if partial_run else "running.json"), machine.facts(peers[OURS].command[0]) | {"left_out": left_out})
    steps = plan(peers, options, limit)
    since = float(os.environ.get("BENCH_SINCE", time.time()))
    print(f"{len(steps)} measurements, about {sum(step.seconds for step in steps) / 60:.0f} minutes")
    measure_all(steps, results, time.time() + 300 if options.short else since + 55 * 60)
    if partial_run:
        print()
        print(page.tables(results, SOCKET_IO_GOALS, page.SOCKET_IO_COLUMNS) if options.socket_io else page.tables(results))
        return None
    results.path = full
    results.save()
    return written(results)


def socket_io_written(results):
    plots.draw(results, ROOT / "docs/performance", plots.SOCKET_IO_PLOTS)
    page.write(results, ROOT / "docs/performance/socketio.md", page.socket_io_page)
    print("written: docs/performance/socketio.md")


def main_written(results):
    plots.draw(results, ROOT / "docs/performance")
    page.write(results, ROOT / "docs/performance.md")
    print("written: docs/performance.md")


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit("stopped")
