"""The plots of the pages, drawn from the results: of each in the directory of its name.

python -m benchmarks.plots
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import numpy as np
from matplotlib import pyplot as plt

from benchmarks import page, results
from benchmarks.floors import DISK, FLOORS, MEMCPY
from benchmarks.methods import Method

# Okabe and Ito's colours, which are told apart with every kind of colour vision, and a marker each for print.
_STYLES = {
    "resilient": ("#0072B2", "o"),
    MEMCPY: ("#000000", "s"),
    DISK: ("#56B4E9", "x"),
    "BackupAndRestore": ("#D55E00", "^"),
    "ModelCheckpoint .keras": ("#CC79A7", "v"),
    "ModelCheckpoint .weights.h5": ("#E69F00", "D"),
    "OrbaxCheckpoint": ("#009E73", "P"),
    "tf.train.CheckpointManager": ("#999999", "X"),
}
_SIZE = (7.2, 4.4)

plt.rcParams.update({
    "figure.dpi": 150, "figure.facecolor": "white", "font.size": 9, "axes.spines.top": False, "axes.spines.right": False,
    "axes.grid": True, "axes.axisbelow": True, "grid.color": "#DDDDDD", "legend.frameon": False, "axes.titlelocation": "left",
})  # fmt: skip

Results = dict[str, Any]  # name of the benchmark -> its figures


def stall(found: Results, axes: Any) -> None:
    """Cost of a save over the size of the state."""
    sizes = found["stall"]["sizes"]
    for name in dict.fromkeys(name for size in sizes for name in size["cost"] if name != Method.name):
        points = [(size["bytes"] / 1e6, size["cost"][name]) for size in sizes if name in size["cost"] and size["cost"][name]["low"] > 0]
        at, middle = [mb for mb, _ in points], np.array([one["median"] for _, one in points])
        errors = [[one["median"] - one["low"] for _, one in points], [one["high"] - one["median"] for _, one in points]]
        colour, marker = _STYLES[name]
        width = 2.4 if name == "resilient" else 1.4
        axes.errorbar(at, middle * 1e3, np.array(errors) * 1e3, color=colour, marker=marker, label=name, linewidth=width, capsize=2)
    axes.set(xscale="log", yscale="log", xlabel="state: weights and optimizer, MB", ylabel="cost of one save, ms")
    axes.set_title("What one save costs the training (median, quartiles)")
    axes.legend(loc="upper left")


def interval(found: Results, axes: Any) -> None:
    """Overhead over the interval: lines from the cost of a save, points where it was measured as a whole."""
    cadence, sizes = found["cadence"], found["stall"]["sizes"]
    size = min(sizes, key=lambda one: abs(one["megabytes"] - cadence["megabytes"]))
    steps = np.geomspace(1, 1000, 60)
    for name, cost in size["cost"].items():
        if name in (Method.name, *FLOORS) or cost["median"] <= 0:
            continue
        width = 2.4 if name == "resilient" else 1.4
        axes.plot(steps, 100 * cost["median"] / (steps * size["step"]), color=_STYLES[name][0], label=name, linewidth=width)
    for one in cadence["slowdown"]:
        if one["slowdown"]["median"] > 0:
            colour, marker = _STYLES[one["method"]]
            axes.plot(one["every"], 100 * one["slowdown"]["median"], marker, color=colour, markersize=8, markeredgecolor="white")
    axes.axhline(1, color="#000000", linewidth=0.8, linestyle=":")
    axes.annotate("1 %", (1, 1.08))
    axes.set(xscale="log", yscale="log", xlabel="steps between two saves", ylabel="training slowed by, %")
    where = f"{size['megabytes']:,.0f} MB, {size['step'] * 1e3:.0f} ms a step"
    axes.set_title(f"Overhead over the interval, {where} (points: measured as a whole)")
    axes.legend(loc="upper right")


def bytes_written(found: Results, axes: Any) -> None:
    """Bytes of a save as a share of the state."""
    cases = found["durable"]["bytes"]
    names = list(cases[0]["written"])
    heads = [f"{one['frozen'] * 100:.0f} % frozen, {one['optimizer']}" if one["frozen"] else "all trained, adam" for one in cases]
    _bars(axes, names, [[100 * one["written"][name] / one["state"] for name in names] for one in cases], heads, "{:.0f}")
    axes.set(xlabel="bytes of the second save, % of the state")
    axes.set_title("Bytes written")


def restoring(found: Results, axes: Any) -> None:
    """Time to restore."""
    sizes = found["restore"]["sizes"]
    names = sorted(sizes[-1]["seconds"], key=lambda name: sizes[-1]["seconds"][name]["median"])
    heads = [f"{size['megabytes']:,.0f} MB" for size in sizes]
    values = [[size["seconds"][name]["median"] * 1e3 for name in names] for size in sizes]
    _bars(axes, names, values, heads, "{:,.0f}")
    axes.set(xlabel="ms, files in the page cache", xscale="log")
    axes.set_title("Restoring the state into a model")


def preempt(found: Results, axes: Any) -> None:
    """Time to the exit, over what it may take."""
    exits = found["preempt"]["exits"]
    allowed, took, saved = ([one[key] * 1e3 for one in exits] for key in ("allowed", "took", "durable"))
    top = 1.15 * max(*allowed, *took)
    axes.fill_between([0, top], [0, top], color="#009E73", alpha=0.12, label="in the time allowed")
    axes.plot(allowed, took, "o", color=_STYLES["resilient"][0], label="process ended", markersize=7)
    axes.plot(allowed, saved, "o", color="#56B4E9", label="state durable", markersize=5)
    axes.set(xlim=(0, top), ylim=(0, top), xlabel="rest of the batch + bytes / disk speed + 200 ms, in ms", ylabel="after SIGTERM, ms")
    axes.set_title(f"SIGTERM to exit, {found['preempt']['bytes'] / 1e6:,.0f} MB of state")
    axes.legend(loc="upper left")


def goodput(found: Results, axes: Any) -> None:
    """Useful steps."""
    rows = found["goodput"]["methods"]
    _bars(axes, [one["method"] for one in rows], [[100 * one["goodput"] for one in rows]], [""], "{:.0f}")
    axes.set(xlabel="useful steps, % of an undisturbed training without saving", xlim=(0, 110))
    axes.set_title(f"A kill every {found['goodput']['mean']:.0f} s of training on average")


def _bars(axes: Any, names: Sequence[str], groups: Sequence[Sequence[float]], heads: Sequence[str], label: str) -> None:
    """Horizontal bars, a group of `heads` for each name, the first name on top."""
    height = 0.8 / len(groups)
    shades = ("#0072B2", "#E69F00", "#56B4E9")
    places = np.arange(len(names))[::-1]
    for number, (values, head) in enumerate(zip(groups, heads, strict=True)):
        drawn = axes.barh(places + 0.4 - height * (number + 0.5), values, height * 0.92, color=shades[number], label=head)
        axes.bar_label(drawn, [label.format(value) for value in values], padding=3, fontsize=8)
    axes.set_yticks(places, names)
    axes.grid(visible=False, axis="y")
    axes.margins(x=0.12)
    if len(groups) > 1:
        axes.figure.legend(loc="outside lower center", ncols=len(groups))
    axes.figure.set_figheight(1.0 + 0.2 * len(names) * (len(groups) + 1))


Draw = Callable[[Results, Any], None]
PLOTS: dict[str, tuple[Draw, tuple[str, ...]]] = {
    "stall": (stall, ("stall",)),
    "interval": (interval, ("stall", "cadence")),
    "bytes": (bytes_written, ("durable",)),
    "restore": (restoring, ("restore",)),
    "preempt": (preempt, ("preempt",)),
    "goodput": (goodput, ("goodput",)),
}


def draw(source: Path, target: Path) -> list[Path]:
    """Draw every plot whose results are there; returns the files."""
    target.mkdir(parents=True, exist_ok=True)
    drawn = []
    for name, (plot, needed) in PLOTS.items():
        loaded = {one: results.load(source, one) for one in needed}
        figures = {one: result["figures"] for one, result in loaded.items() if result is not None}
        if len(figures) < len(needed):
            continue
        figure, axes = plt.subplots(figsize=_SIZE, layout="constrained")
        plot(figures, axes)
        for axis in (axes.xaxis, axes.yaxis):
            if axis.get_scale() == "log":
                axis.set_major_formatter("{x:,g}")
                axis.set_minor_formatter("")
        drawn.append(target / f"{name}.png")
        figure.savefig(drawn[-1])
        plt.close(figure)
    return drawn


def main() -> None:
    """Draw those of all pages."""
    for shown, source in page.PAGES.items():
        for path in draw(source, shown.with_suffix("")):
            print(path)


if __name__ == "__main__":
    main()
