"""What a save takes of the processor when many epochs lie behind: History, and what callbacks have gathered, is saved with the weights.

    python -m benchmarks.history [--quick]

A small model with Histories of several lengths in turn: the call, which training waits for, and a whole save.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import keras
import numpy as np

from benchmarks.ours import Resilient, newest
from benchmarks.spread import Spread, spread
from benchmarks.tables import Bar, Table, digits, milliseconds
from benchmarks.workload import dense

METRICS = 8
_MANIFEST = "manifest.json"


@dataclasses.dataclass(frozen=True)
class Scale:
    """Epochs behind, each in turn; megabytes of the state; and how often."""

    epochs: tuple[int, ...]
    megabytes: float
    rounds: int


SCALES = {
    "full": Scale((1, 100, 1_000, 10_000), 0.5, 20),
    "quick": Scale((1, 100, 1_000), 0.5, 5),
    "toy": Scale((1, 100), 0.1, 1),
}


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Processor time by the number of epochs."""
    workload = dense(scale.megabytes, 8)
    workload.train(2)
    methods = {count: Resilient(workload.model, directory / f"{count}", [_history(count)]) for count in scale.epochs}
    found: dict[int, list[tuple[float, float]]] = {count: [] for count in scale.epochs}
    for turn in range(scale.rounds + 1):
        for count, method in methods.items():
            call = _processor(method.save, 2 * turn + 1)
            method.wait()
            whole = _processor(method.durable, 2 * turn + 2)
            if turn:
                found[count].append((call, whole))
    lengths = []
    for count, method in methods.items():
        lengths.append({"epochs": count, "manifest": (newest(method.directory).path / _MANIFEST).stat().st_size, **_spreads(found[count])})
        method.close()
    return {"state": workload.nbytes, "lengths": lengths}


def _history(epochs: int) -> Any:
    chance = np.random.default_rng(0)
    history = keras.callbacks.History()
    history.on_train_begin()
    history.epoch = list(range(epochs))
    history.history = {f"metric_{number}": chance.random(epochs).tolist() for number in range(METRICS)}
    return history


def _processor(save: Callable[[int], None], step: int) -> float:
    before = time.thread_time()
    save(step)
    return time.thread_time() - before


def _spreads(times: list[tuple[float, float]]) -> dict[str, Spread]:
    return {name: spread(values) for name, values in zip(("call", "whole"), zip(*times, strict=True), strict=True)}


def tables(figures: dict[str, Any]) -> list[Table]:
    """One row for each number of epochs."""
    rows = [
        (f"{one['epochs']:,}", milliseconds(one["call"]), milliseconds(one["whole"]), digits(one["manifest"] / 1e3))
        for one in figures["lengths"]
    ]
    head = ("epochs", "the call, ms", "a whole save, ms", "manifest, KB")
    return [Table(f"Processor time of a save with a History of {METRICS} metrics: median (quartiles)", head, rows)]


def bars(figures: dict[str, Any]) -> list[Bar]:
    """None: what a save has to reach is measured by `benchmarks.stall`."""
    return []


if __name__ == "__main__":
    from benchmarks.running import run

    run("history")
