"""What one save takes from the processors until it is durable, while all of them are busy.

    python -m benchmarks.processors [--quick]

In turns: a copy in memory, raw writers of as many bytes, ours, and the peers. Beside them a process for each processor does nothing but
count (`benchmarks/spinning.py`), and what it loses is charged, whoever took it: the method's threads, the kernel that writes what they
have left in the page cache, and on a virtual machine the host's threads that serve the disk.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import itertools
import os
import time
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.floors import WRITERS, Memcpy, RawWriter, aligned, writers
from benchmarks.methods import Method
from benchmarks.ours import settled
from benchmarks.spinning import Spinners
from benchmarks.spread import Spread, ratio, spread
from benchmarks.tables import Bar, Table, megabytes, milliseconds, times
from benchmarks.workload import dense


@dataclasses.dataclass(frozen=True)
class Scale:
    """Megabytes of the state, rounds, and seconds of the control before and after each save."""

    megabytes: float
    rounds: int
    control: float


SCALES = {"full": Scale(400, 5, 0.5), "quick": Scale(100, 3, 0.5), "toy": Scale(0.1, 1, 0.01)}


class _Idle(Method):
    """The control: it takes about as long as a save, and does nothing."""

    def __init__(self, seconds: float) -> None:
        super().__init__(None, Path())
        self._seconds = seconds

    def save(self, step: int) -> None:
        """Sleep."""
        time.sleep(self._seconds)


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Processor seconds and seconds of each method."""
    workload = dense(scale.megabytes, 8)
    workload.train(2)
    directory.mkdir(parents=True, exist_ok=True)
    data = aligned(workload.nbytes)
    methods: list[Method] = [
        _Idle(scale.control),
        Memcpy(workload.model, workload.variables),
        *(RawWriter(name, directory, data) for name in writers(directory)),
        settled(workload, directory / "ours"),
        *peers.peers(workload.model, directory),
    ]
    found: dict[str, list[tuple[float, float]]] = {method.name: [] for method in methods}
    with contextlib.ExitStack() as stack:
        for method in methods:
            stack.callback(method.close)
        spinners = stack.enter_context(Spinners())
        for turn, method in itertools.product(range(scale.rounds + 1), methods):
            workload.train(1)  # what has not changed need not be written again
            os.sync()
            taken = spinners.taken(functools.partial(_durable, method, turn + 1), scale.control)
            if isinstance(method, RawWriter):
                method.clear()
            if turn:
                found[method.name].append(taken)
    spreads = {
        name: dict(zip(("processors", "seconds"), map(spread, zip(*values, strict=True)), strict=True)) for name, values in found.items()
    }
    return {"state": workload.nbytes, "methods": spreads, "skipped": peers.missing()}


def _durable(method: Method, step: int) -> None:
    """As in training, where a method may write in the background; what the kernel would write later is written now."""
    method.save(step)
    method.let_end()
    os.sync()


def tables(figures: dict[str, Any]) -> list[Table]:
    """One row for each method."""
    found: dict[str, dict[str, Spread]] = figures["methods"]
    least = min((found[name]["processors"] for name in WRITERS if name in found), key=lambda one: one["median"])
    rows = [(name, milliseconds(one["processors"]), _share(name, one, least), milliseconds(one["seconds"])) for name, one in found.items()]
    head = ("", "processor time, ms", "of the best raw writer's", "until durable, ms")
    return [Table(f"{megabytes(figures['state'])} while all processors are busy: median (quartiles)", head, rows)]


def _share(name: str, one: dict[str, Spread], least: Spread) -> str:
    return "-" if name == Method.name else times(ratio(one["processors"], least))


def bars(figures: dict[str, Any]) -> list[Bar]:
    """None: what a save has to reach is measured by `benchmarks.stall`."""
    return []


if __name__ == "__main__":
    from benchmarks.running import run

    run("processors")
