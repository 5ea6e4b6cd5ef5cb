"""How much of the training survives when the process is killed again and again.

    python -m benchmarks.goodput [--quick]

The process is killed with SIGKILL after gaps of training time that are spread like those of a Poisson process: each is the middle of an
equal share of the exponential distribution, in random order, and all methods get the same ones. Useful are the steps before the
position that a last attempt goes on from. They are divided by the steps that a training without saving and without
kills makes in the net time, from the first step of each attempt to its kill; starting up is told apart.
"""

from __future__ import annotations

import dataclasses
import math
import random
import shutil
import time
from pathlib import Path
from typing import Any

from benchmarks.child import Child, Mark
from benchmarks.ours import Resilient
from benchmarks.peers import BackupAndRestore
from benchmarks.spread import spread
from benchmarks.tables import Table, digits


@dataclasses.dataclass(frozen=True)
class Scale:
    """State, steps of an epoch, mean seconds between kills, their number, and who is measured how often it saves (None: its default)."""

    megabytes: float
    batch: int
    steps: int
    mean: float
    kills: int
    methods: tuple[tuple[str, str | int | None], ...]


_OURS = (Resilient.name, None)
SCALES = {
    "full": Scale(40, 64, 500, 20.0, 3, (_OURS, (BackupAndRestore.name, "epoch"), (BackupAndRestore.name, 100))),
    "quick": Scale(40, 64, 100, 4.0, 2, (_OURS, (BackupAndRestore.name, "epoch"))),
    "toy": Scale(0.1, 8, 10, 0.5, 1, (_OURS,)),
}


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """The undisturbed speed, then each method under the same kills."""
    speed = _undisturbed(scale, directory / "undisturbed")
    gaps = [-scale.mean * math.log(1 - (number + 0.5) / scale.kills) for number in range(scale.kills)]
    random.Random(0).shuffle(gaps)
    rows = [_under_kills(scale, method, every, gaps, directory / f"{number}") for number, (method, every) in enumerate(scale.methods)]
    for row in rows:
        row["goodput"] = row["useful"] / (row["net"] * speed)
    return {"megabytes": scale.megabytes, "steps": scale.steps, "mean": scale.mean, "gaps": gaps, "speed": speed, "methods": rows}


def _start(scale: Scale, method: str, every: str | int | None, directory: Path) -> Child:
    return Child(
        method=method, directory=directory, megabytes=scale.megabytes, batch=scale.batch, steps=scale.steps, epochs=10_000, save_every=every
    )


def _undisturbed(scale: Scale, directory: Path) -> float:
    """Steps a second without saving."""
    child = _start(scale, "nothing", None, directory)
    child.wait_for("batch")
    time.sleep(scale.mean / 2)
    times = [mark["time"] for mark in _batches(child.kill())]
    return float((len(times) - 1) / (times[-1] - times[0]))


def _batches(marks: list[Mark]) -> list[Mark]:
    return [mark for mark in marks if mark["mark"] == "batch"]


def _under_kills(scale: Scale, method: str, every: str | int | None, gaps: list[float], directory: Path) -> dict[str, Any]:
    startups, net, trained, unreadable = [], 0.0, 0, 0
    for gap in gaps:
        child, onward, failed = _begin(scale, method, every, directory)
        first = onward["time"]
        unreadable += failed
        time.sleep(max(0.0, first + gap - time.time()))
        killed = time.time()
        startups.append(first - child.born)
        net += killed - first
        trained += len(_batches(child.kill()))
    last, onward, failed = _begin(scale, method, every, directory)
    last.kill()
    useful = onward["epoch"] * scale.steps + onward["batch"]
    name = method if every is None else f"{method}, every {every if every == 'epoch' else f'{every} steps'}"
    return {
        "method": name,
        "useful": useful,
        "trained": trained,
        "net": net,
        "startup": spread(startups),
        "unreadable": unreadable + failed,
    }


def _begin(scale: Scale, method: str, every: str | int | None, directory: Path) -> tuple[Child, Mark, bool]:
    """An attempt, its first batch, and whether what the last one has left could not be read.

    Where a kill meets a write of a peer, the next start raises what HDF5 says. Somebody has to remove the file, and training begins anew.
    """
    child = _start(scale, method, every, directory)
    try:
        return child, child.wait_for("batch"), False
    except RuntimeError:
        if method == Resilient.name or not directory.exists():
            raise
    shutil.rmtree(directory)
    child = _start(scale, method, every, directory)
    return child, child.wait_for("batch"), True


def tables(figures: dict[str, Any]) -> list[Table]:
    """Steps, and their share."""
    rows = [
        (
            one["method"], f"{one['trained']:,}", f"{one['useful']:,}", digits(one["useful"] / one["net"]),
            digits(one["goodput"] * 100), digits(one["startup"]["median"]), str(one["unreadable"]),
        )
        for one in figures["methods"]
    ]  # fmt: skip
    title = (
        f"{len(figures['gaps'])} kills, one in {digits(figures['mean'])} s of training on average; {digits(figures['megabytes'])} MB, "
        f"epochs of {figures['steps']} steps, {digits(figures['speed'])} steps a second undisturbed"
    )
    heads = ("", "steps trained", "of use", "of use a second", "% of the undisturbed", "start-up, s", "unreadable checkpoints")
    return [Table(title, heads, rows)]


def bars(figures: dict[str, Any]) -> list[Any]:
    """None is set."""
    return []


if __name__ == "__main__":
    from benchmarks.running import run

    run("goodput")
