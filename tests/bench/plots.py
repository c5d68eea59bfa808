"""The plots of docs/performance.md."""

import matplotlib
from goals import OURS, RATE, SOCKET_IO, number
from results import CPU

matplotlib.use("svg")
from matplotlib import pyplot  # noqa: E402

COLOURS = {OURS: "#c0392b", "floor": "#7f8c8d", "Bun": "#2471a3", "node ws": "#52a352", "nchan": "#b7950b", "Centrifugo": "#7d3c98"}
COLOURS |= {SOCKET_IO: "#e67e22", "socketioxide": "#6e2c00", "socket.io": "#1e8449", "python-socketio": "#1a5276"}
THROUGHPUT = [
    ("F1", RATE, "F1: short messages"),
    ("F1w1", RATE, "F1w1: one at a time"),
    ("F2m", RATE, "F2m: 10,000 connections"),
    ("F3", RATE, "F3: 16 KiB"),
    ("U1", RATE, "U1: 5,000 users"),
    ("P1", "msgs_per_s", "P1: published"),
    ("P1e", "msgs_per_s", "P1e: published and kept"),
    ("C1", "cycles_per_s", "C1: connect, hear, close"),
]
OVER_SOCKET_IO = [
    ("S1", CPU, "S1: short messages, µs each"),
    ("S1w1", CPU, "S1w1: one at a time, µs each"),
    ("S1r", CPU, "S1r: to the room of a group, µs each"),
    ("SU", CPU, "SU: to the rooms of 5,000 users, µs each"),
    ("SI", "rss_per_conn_bytes", "SI: idle over WebSockets, bytes"),
    ("SP", "rss_per_conn_bytes", "SP: between two polls, bytes"),
]
QUANTILES = {"50": "p50", "90": "p90", "99": "p99", "99.9": "p999"}


def present(results, *works):
    """Returns the servers with numbers in one of the workloads, ours first."""
    measured = {record["server"] for record in results.records if "result" in record and record["work"].split(":")[0] in works}
    return [name for name in COLOURS if name in measured]


def bars(axes, results, work, field, names):
    found = [(name, results.median(work, name, field)) for name in names]
    found = [(name, value) for name, value in found if value is not None]
    for at, (name, value) in enumerate(found):
        axes.barh(at, value, color=COLOURS[name])
        axes.text(value, at, f" {number(value)}", va="center", fontsize=8)
    axes.set_yticks(range(len(found)), [name for name, _ in found])
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.set_xlim(0, 1.3 * max((value for _, value in found), default=1))
    for side in ("top", "right", "bottom"):
        axes.spines[side].set_visible(False)


def works(results, columns, shown):
    figure, grid = pyplot.subplots(2, columns, figsize=(12, 5))
    for axes, (work, field, title) in zip(grid.flat, shown):
        bars(axes, results, work, field, present(results, work))
        axes.set_title(title, fontsize=10)
    return figure


def latency(results):
    figure, grid = pyplot.subplots(1, 2, figsize=(12, 4))
    titles = {"F4": "F4: 1,000 connections, 1,000 messages/s", "F2r": "F2r: 10,000 connections, 10 messages/s"}
    for axes, (work, title) in zip(grid, titles.items()):
        for name in present(results, work):
            values = [results.median(work, name, f"latency_{key}_us") for key in QUANTILES.values()]
            if None not in values:
                axes.plot(list(QUANTILES), [value / 1000 for value in values], "o-", color=COLOURS[name], label=name)
        logarithmic(axes, "y")
        axes.set(title=title, xlabel="of 100 deliveries", ylabel="are not later than, ms")
        if axes.lines:
            axes.legend(fontsize=8)
    return figure


def memory(results):
    figure, axes = pyplot.subplots(figsize=(7, 3.2))
    labels = []
    for name in present(results, "I1"):
        labels.append((name, name, results.median("I1", name, "rss_per_conn_bytes")))
    for work, text in (("I1p", "after a ping"), ("I1s", "with session, user, groups")):
        if value := results.median(work, OURS, "rss_per_conn_bytes"):
            labels.insert(1 if work == "I1p" else 2, (OURS, f"{OURS}, {text}", value))
    for at, (name, _, value) in enumerate(labels):
        axes.barh(at, value, color=COLOURS[name])
        axes.text(value, at, f" {number(value)}", va="center", fontsize=8)
    axes.set_yticks(range(len(labels)), [label for _, label, _ in labels])
    axes.invert_yaxis()
    axes.set_xlim(0, 1.15 * max((value for _, _, value in labels), default=1))
    axes.set_xlabel("bytes of resident memory per idle connection")
    return figure


def curve(results, kind, xlabel):
    figure, axes = pyplot.subplots(figsize=(7, 4))
    points = sorted({int(record["work"].split(":")[1]) for record in results.records if record["work"].startswith(f"{kind}:")})
    for name in present(results, kind):
        values = [(point, results.median(f"{kind}:{point}", name, CPU)) for point in points]
        values = [pair for pair in values if pair[1]]
        axes.plot([point for point, _ in values], [value for _, value in values], "o-", color=COLOURS[name], label=name)
    logarithmic(axes, "x")
    logarithmic(axes, "y")
    axes.set_xticks(points, [scaled(point) if kind == "size" else f"{point:,}" for point in points])
    axes.set(xlabel=xlabel, ylabel="µs of CPU per delivery")
    if axes.lines:
        axes.legend(fontsize=8)
    return figure


def scaled(size):
    return f"{size >> 20} MiB" if size >= 1 << 20 else f"{size >> 10} KiB" if size >= 1024 else f"{size} B"


def logarithmic(axes, which):
    getattr(axes, f"set_{which}scale")("log")
    axis = getattr(axes, f"{which}axis")
    axis.set_major_locator(matplotlib.ticker.LogLocator(subs=(1, 2, 5)))
    axis.set_major_formatter(matplotlib.ticker.FuncFormatter(lambda value, _: f"{value:g}"))
    axis.set_minor_formatter(matplotlib.ticker.NullFormatter())
    axes.grid(axis=which, alpha=0.3)


PLOTS = {
    "throughput": ("Throughput in each work, from one core", lambda results: works(results, 4, THROUGHPUT)),
    "latency": ("Latency of deliveries", latency),
    "memory": ("Memory of an idle connection", memory),
    "connections": ("Cost of a delivery by number of connections, 64 messages of 128 bytes under way", lambda results: curve(results, "conns", "connections")),
    "sizes": ("Cost of a delivery by size of messages, 100 connections", lambda results: curve(results, "size", "size of a message")),
}
SOCKET_IO_PLOTS = {"socketio": ("Socket.IO: CPU of a delivery, and memory of an idle client", lambda results: works(results, 3, OVER_SOCKET_IO))}


def draw(results, folder, plots=PLOTS):
    folder.mkdir(parents=True, exist_ok=True)
    # Deterministic files: the same numbers give the same bytes; text stays text.
    matplotlib.rcParams.update({"svg.hashsalt": "ws4redis", "svg.fonttype": "none", "font.size": 9})
    for name, (title, picture) in plots.items():
        figure = picture(results)
        figure.suptitle(title, fontsize=11)
        figure.tight_layout()
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None}, facecolor="white")
        pyplot.close(figure)
