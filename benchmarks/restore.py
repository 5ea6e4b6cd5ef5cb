"""Getting a saved state back into a model, with the files in the page cache.

    python -m benchmarks.restore [--quick]

In turns: ours (`resilient.restore`, and what a resumed `resilient.fit` does), the peers' ways, and reading the same bytes raw into
memory and copying them once. Each is checked: what it put back is what was saved.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks import peers
from benchmarks.floors import RawRead
from benchmarks.methods import Method
from benchmarks.ours import Resilient, newest
from benchmarks.peers import WeightsOnly
from benchmarks.spread import ratio, spread
from benchmarks.tables import Bar, Table, digits, milliseconds, times
from benchmarks.workload import Workload, dense, forget, free_memory, host_view

RAW = "raw read + memcpy"
RESUME = "resilient.fit, resuming"
_MEMORY = 6


@dataclasses.dataclass(frozen=True)
class Scale:
    """Sizes of the state, each with a number of rounds."""

    sizes: tuple[tuple[float, int], ...]


SCALES = {"full": Scale(((400, 7), (1600, 3))), "quick": Scale(((40, 5), (100, 3))), "toy": Scale(((0.1, 1),))}
ACCELERATOR = Scale(((400, 7), (4000, 3)))


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """All sizes, each with all methods in turn."""
    figures: dict[str, Any] = {"sizes": [], "skipped": peers.missing()}
    for size, rounds in scale.sizes:
        reason = free_memory(_MEMORY, size)
        if reason:
            figures["skipped"].append(reason)
        else:
            figures["sizes"].append(_of_size(size, rounds, directory / f"{size}"))
            forget()
    return figures


def _of_size(size: float, rounds: int, directory: Path) -> dict[str, Any]:
    workload = dense(size, 8)
    workload.train(2)
    ours = Resilient(workload.model, directory / "ours")
    methods: list[Method] = [ours, *peers.peers(workload.model, directory)]
    for method in methods:
        method.durable(1)
    ways: dict[str, Callable[[], Any]] = {method.name: method.restore for method in methods}
    ways[RESUME] = ours.resume
    ways[RAW] = RawRead(sorted(path for path in newest(ours.directory).path.iterdir()))
    expected = _sample(workload.model)
    found: dict[str, list[float]] = {name: [] for name in ways}
    wrong = set()
    for turn in range(rounds + 1):
        for name, way in ways.items():
            seconds, right = _timed(way, workload, expected)
            if turn:
                found[name].append(seconds)
            if not right and name != RAW:
                wrong.add(name)
    for method in methods:
        method.close()
    seconds_of = {name: spread(values) for name, values in found.items()}
    return {"megabytes": size, "state": workload.nbytes, "seconds": seconds_of, "wrong": sorted(wrong)}


def _timed(way: Callable[[], Any], workload: Workload, expected: list[Any]) -> tuple[float, bool]:
    """Seconds, and whether a sample of the state is what was saved, having been spoiled before."""
    for variable in _sampled(workload.model):
        variable.assign(keras.ops.zeros(variable.shape, variable.dtype))
    began = time.perf_counter()
    model = way() or workload.model
    seconds = time.perf_counter() - began
    return seconds, all(map(np.array_equal, expected, _sample(model)))


def _sampled(model: Any) -> list[Any]:
    return [model.variables[0], model.variables[-1], model.optimizer.variables[-1]]


def _sample(model: Any) -> list[Any]:
    return [host_view(variable).copy() for variable in _sampled(model)]


def tables(figures: dict[str, Any]) -> list[Table]:
    """Times by method and size."""
    sizes = figures["sizes"]
    rows = [[name, *(_cell(size, name) for size in sizes)] for name in sizes[0]["seconds"]]
    return [Table("Restoring, in ms: median (quartiles)", ["state", *(f"{digits(size['megabytes'])} MB" for size in sizes)], rows)]


def _cell(size: dict[str, Any], name: str) -> str:
    text = milliseconds(size["seconds"][name])
    return f"{text}, and not what was saved" if name in size["wrong"] else text


def bars(figures: dict[str, Any]) -> list[Bar]:
    """Against `load_weights` and against raw reading, at every size of 400 MB and more."""
    found = []
    for size in figures["sizes"]:
        if size["megabytes"] < 400:
            continue
        seconds, what = size["seconds"], f"restore of {digits(size['megabytes'])} MB"
        faster = ratio(seconds[WeightsOnly.name], seconds[Resilient.name])
        raw = ratio(seconds[RAW], seconds[Resilient.name])
        found.append(Bar(f"{what}, against load_weights", "≥ 3 x faster", times(faster), faster >= 3))
        found.append(Bar(f"{what}, against raw read + memcpy", "≥ 60 % of its speed", f"{digits(raw * 100)} %", raw >= 0.6))
    return found


if __name__ == "__main__":
    from benchmarks.running import run

    run("restore")
