"""From SIGTERM to the end of the process.

    python -m benchmarks.preempt [--quick]

A real process trains with `resilient.fit` and gets the signal at random moments. What it may take: the rest of the batch under way,
the bytes of a checkpoint at the speed of the fastest raw writer of a new file (measured just before, with nothing else running), and
200 ms. The first exits write new files too; later ones find old ones to write over.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import random
import signal
import time
from pathlib import Path
from typing import Any

from benchmarks.child import Child
from benchmarks.floors import disk_speed
from benchmarks.ours import newest
from benchmarks.spread import spread
from benchmarks.tables import Bar, Table, digits, milliseconds
from resilient import journal
from resilient.errors import EXIT_PREEMPTED

_MARGIN = 0.2
_RUNNING = (0.5, 3.0)  # seconds of training before the signal


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of the state, and how many processes get the signal."""

    megabytes: float
    batch: int
    signals: int


SCALES = {"full": Scale(400, 64, 8), "quick": Scale(40, 64, 4), "toy": Scale(0.1, 8, 1)}


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """One process after the other, each of which goes on where the last one stopped."""
    moments = random.Random(0)
    run = directory / "run"
    speed = disk_speed(round(scale.megabytes * 1e6), directory, 3)
    exits = [_one(scale, run, moments.uniform(*_RUNNING)) for _ in range(scale.signals)]
    nbytes = newest(run).nbytes
    for one in exits:
        one["allowed"] = one["rest"] + nbytes / speed["median"] + _MARGIN
    return {"megabytes": scale.megabytes, "bytes": nbytes, "speed": speed, "exits": exits}


def _one(scale: Scale, run: Path, after: float) -> dict[str, Any]:
    child = Child(method="resilient", directory=run, megabytes=scale.megabytes, batch=scale.batch, steps=200, epochs=1000)
    child.wait_for("batch")
    time.sleep(after)
    sent = time.time()
    child.process.send_signal(signal.SIGTERM)
    code = child.process.wait()
    took = time.time() - sent
    if code != EXIT_PREEMPTED:
        raise RuntimeError(f"The process ended with {code} and not with {EXIT_PREEMPTED}.")
    ended = [mark["time"] for mark in child.marks() if mark["mark"] == "batch" and mark["time"] >= sent]
    return {"took": took, "rest": ended[0] - sent if ended else 0.0, "durable": _durable(run) - sent}


def _durable(run: Path) -> float:
    """When the journal says that the state is on disk; after that comes only the end of the interpreter."""
    told = [event["time"] for event in journal.read(run) if event["event"] == "preempted"]
    return dt.datetime.fromisoformat(told[-1]).timestamp()


def tables(figures: dict[str, Any]) -> list[Table]:
    """What it took and what it might have taken."""
    exits = figures["exits"]
    rows = [
        ("SIGTERM to exit", milliseconds(spread(one["took"] for one in exits))),
        ("of which the rest of the batch", milliseconds(spread(one["rest"] for one in exits))),
        ("of which after the state is durable", milliseconds(spread(one["took"] - one["durable"] for one in exits))),
        (f"{digits(figures['bytes'] / 1e6)} MB at {digits(figures['speed']['median'] / 1e9)} GB/s", digits(_writing(figures) * 1e3)),
        ("allowed", milliseconds(spread(one["allowed"] for one in exits))),
    ]
    return [Table(f"{len(exits)} signals at random moments", ("", "ms"), rows)]


def _writing(figures: dict[str, Any]) -> float:
    return float(figures["bytes"] / figures["speed"]["median"])


def bars(figures: dict[str, Any]) -> list[Bar]:
    """Every exit in the time allowed; the median is told beside the worst."""
    over = [one["took"] - one["allowed"] for one in figures["exits"]]
    reached = f"{digits(spread(over)['median'] * 1e3)} ms against that, at worst {digits(max(over) * 1e3)} ms"
    return [Bar("SIGTERM to exit", "≤ rest of the batch + bytes / disk speed + 200 ms", reached, max(over) <= 0)]


if __name__ == "__main__":
    from benchmarks.running import run

    run("preempt")
