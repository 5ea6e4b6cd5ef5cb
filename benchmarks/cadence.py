"""How much slower a training gets by saving every so many steps, and what a batch costs when nothing is saved.

    python -m benchmarks.cadence [--quick]

The real things: `resilient.fit(save_every=10)` and `Model.fit` with a callback that has a peer save every 10 batches, one after the
other in one process, again and again. Of each call the steps between two moments are timed, so that the start and the end do not count.
Where saves come often the first ones do not count either: they make new files, and those after retention has removed a checkpoint write old
ones over. Before each call everything is synced and not charged, which favours those that leave dirty pages behind: all peers.
"""

from __future__ import annotations

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np

import resilient
from benchmarks.methods import Method
from benchmarks.ours import SETTLING, Resilient
from benchmarks.peers import BackupAndRestore, TensorFlowManager
from benchmarks.spread import spread
from benchmarks.tables import Bar, Table, digits, microseconds, percent
from benchmarks.workload import Workload, dense, forget
from resilient import journal


@dataclasses.dataclass(frozen=True)
class Scale:
    """`often` and `seldom`: two intervals in steps; `tiny`: batches of a small model that are timed, and after how many others."""

    megabytes: float
    batch: int
    often: int
    seldom: int
    rounds: int
    tiny: tuple[int, int]
    tiny_rounds: int


SCALES = {
    "full": Scale(400, 176, 10, 100, 5, (3_000, 300), 11),
    "quick": Scale(40, 64, 10, 100, 2, (2_000, 200), 3),
    "toy": Scale(0.1, 8, 2, 4, 1, (20, 5), 2),
}


class Clock(keras.callbacks.Callback):
    """Takes the time when batch `first` and when batch `last` begins. That hook leaves Keras as fast as without any callback."""

    def __init__(self, first: int, last: int) -> None:
        super().__init__()
        self._first, self._last = first, last
        self._times: dict[int, float] = {}

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """Numbered from 0."""
        if batch in (self._first, self._last):
            self._times[batch] = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Of one step."""
        return (self._times[self._last] - self._times[self._first]) / (self._last - self._first)


class SaveEvery(keras.callbacks.Callback):
    """Has a method save every so many batches."""

    def __init__(self, method: Method, batches: int) -> None:
        super().__init__()
        self._method = method
        self._batches = batches

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Where the callbacks of Keras save too."""
        if (batch + 1) % self._batches == 0:
            self._method.save(batch + 1)


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Saving often and seldom; then nothing saved at all."""
    slowdown = _slowdown(scale, directory)
    forget()
    return {**slowdown, "idle": [_idle(kind, scale, directory / kind) for kind in ("arrays", "tf.data")]}


@dataclasses.dataclass(frozen=True)
class Interval:
    """Saving `every` so many steps: `saves` are timed, after as many that are `not_counted`."""

    every: int
    not_counted: int
    saves: int

    @property
    def first(self) -> int:
        """The batch with whose beginning the time begins: what a save has left by then is as much as what the last one leaves."""
        return self.not_counted * self.every + min(self.every // 2, 20)

    @property
    def last(self) -> int:
        """The batch with whose beginning it ends."""
        return self.first + self.saves * self.every


def _slowdown(scale: Scale, directory: Path) -> dict[str, Any]:
    workload = dense(scale.megabytes, scale.batch)
    workload.train(5)
    kinds = [BackupAndRestore, *([TensorFlowManager] if keras.backend.backend() == "tensorflow" else [])]
    peers = [kind(workload.model, directory / kind.__name__) for kind in kinds]
    often, seldom = Interval(scale.often, SETTLING, 3), Interval(scale.seldom, 0, 1)  # seldom: the second of its run, which makes new files
    found: dict[tuple[str, int], list[float]] = {}
    made: dict[Interval, list[int]] = {}
    for turn in range(scale.rounds):
        control = [_step(workload, often, [], None)]
        for interval, methods in ((often, [None, *peers]), (seldom, [None])):
            for peer in methods:
                callbacks = [SaveEvery(peer, interval.every)] if peer else []
                run = None if peer else directory / f"{turn}-{interval.every}"
                name = peer.name if peer else Resilient.name
                found.setdefault((name, interval.every), []).append(_step(workload, interval, callbacks, run))
                if run:
                    made.setdefault(interval, []).append(_made(run, interval))
        control.append(_step(workload, often, [], None))
        found.setdefault(("nothing", 0), []).append(sum(control) / 2)
    steps = found.pop(("nothing", 0))
    rows = [
        {"method": name, "every": every, "slowdown": spread(value / step - 1 for value, step in zip(values, steps, strict=True))}
        for (name, every), values in found.items()
    ]
    return {"megabytes": scale.megabytes, "step": spread(steps), "slowdown": rows, "skipped": _missed(made)}


def _step(workload: Workload, interval: Interval, callbacks: list[Any], directory: Path | None) -> float:
    """Seconds of a step between two moments; with a directory `resilient.fit` saves there."""
    os.sync()
    clock = Clock(interval.first, interval.last)
    given: dict[str, Any] = {"steps_per_epoch": interval.last + 1, "epochs": 1, "verbose": 0, "callbacks": [clock, *callbacks]}
    if directory is None:
        workload.model.fit(workload.batches(), shuffle=False, **given)
    else:
        every = interval.every
        resilient.fit(workload.model, workload.batches(), shuffle=False, **given, directory=directory, save_every=every, monitor="loss")
    return clock.seconds


def _made(run: Path, interval: Interval) -> int:
    """Saves between the two moments: one that is due while the writer is busy is left out."""
    return sum(event["event"] == "saved" and interval.first < event["step"] <= interval.last for event in journal.read(run))


def _missed(made: dict[Interval, list[int]]) -> list[str]:
    """A sentence where ours has saved less often than the peers, who let the training wait."""
    return [
        f"Of the saves of resilient that were due every {interval.every} steps, {sum(counts)} of {interval.saves * len(counts)} were made: "
        "while one is being written no other is begun."
        for interval, counts in made.items()
        if sum(counts) < interval.saves * len(counts)
    ]


def _idle(kind: str, scale: Scale, directory: Path) -> dict[str, Any]:
    """Microseconds of a batch, `resilient.fit` that saves only at the ends of epochs against `Model.fit`, in turns."""
    count, before = scale.tiny
    model = keras.Sequential([keras.Input((16,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.random.default_rng(0).random(((before + count + 2) * 32, 16), dtype=np.float32)
    data = _input(kind, x, x[:, :1])
    found: dict[str, list[float]] = {"resilient.fit": [], "Model.fit": []}
    for turn in range(scale.tiny_rounds + 1):
        for name in sorted(found, reverse=turn % 2 == 0):
            clock = Clock(before, before + count)
            if name == "Model.fit":
                model.fit(**data, verbose=0, callbacks=[clock])
            else:
                run = directory / str(turn)
                resilient.fit(model, **data, verbose=0, callbacks=[clock], directory=run, save_every="epoch", monitor="loss")
            if turn:  # the first traces
                found[name].append(clock.seconds)
    pairs = zip(found["resilient.fit"], found["Model.fit"], strict=True)
    return {"input": kind, "more": spread(ours - plain for ours, plain in pairs), **{name: spread(found[name]) for name in found}}


def _input(kind: str, x: Any, y: Any) -> dict[str, Any]:
    if kind == "arrays":
        return {"x": x, "y": y, "batch_size": 32}
    import tensorflow as tf

    return {"x": tf.data.Dataset.from_tensor_slices((x, y)).batch(32).prefetch(2), "shuffle": False}


def tables(figures: dict[str, Any]) -> list[Table]:
    """Slow-down by interval, and microseconds of a batch."""
    rows = [(one["method"], str(one["every"]), percent(one["slowdown"])) for one in figures["slowdown"]]
    step = digits(figures["step"]["median"] * 1e3)
    idle = [
        (one["input"], microseconds(one["Model.fit"]), microseconds(one["resilient.fit"]), microseconds(one["more"]))
        for one in figures["idle"]
    ]
    title = f"Training slowed by saving, {digits(figures['megabytes'])} MB, {step} ms a step"
    return [
        Table(title, ("", "every … steps", "slower by, %"), rows),
        Table("One batch of a tiny model while nothing is saved, in µs", ("input", "Model.fit", "resilient.fit", "more"), idle),
    ]


def bars(figures: dict[str, Any]) -> list[Bar]:
    """For the two intervals, and for a batch without a save."""
    ours = [one for one in figures["slowdown"] if one["method"] == "resilient"]
    found = []
    for one, most in zip(ours, (0.08, 0.01), strict=True):
        reached = one["slowdown"]["median"]
        what = f"training slowed by saving every {one['every']} steps, {digits(figures['megabytes'])} MB"
        found.append(Bar(what, f"≤ {most * 100:.0f} %", f"{digits(reached * 100)} %", reached <= most))
    worst = max(one["more"]["median"] for one in figures["idle"]) * 1e6
    return [*found, Bar("a batch while nothing is saved, above plain fit", "≤ 15 µs", f"{digits(worst)} µs", worst <= 15)]


if __name__ == "__main__":
    from benchmarks.running import run

    run("cadence")
