"""Saving by several methods in turn while `Model.fit` trains, and what each save costs the training.

After each save the training goes on for a window of steps, at least so many that the memory is warm again, and until nothing is
being written any more. What the window took beyond as many steps of the control (the nearest windows without a save) is its cost:
the time in the call, later and slower steps, and the processor time of threads that write in the background.
"""

from __future__ import annotations

import dataclasses
import os
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Any

import keras

from benchmarks.methods import Method
from benchmarks.spread import Spread, spread

_WARM_UP = 5  # steps before the first window: tracing, allocation
_REST = 1  # steps between two windows, after everything was synced, so that nobody pays for what another left in the page cache
_NEAREST = 6  # windows of the control that a window is compared with
_ENDLESS = 2_000  # steps until a save that does not end is an error


@dataclasses.dataclass(frozen=True)
class Turn:
    """One save to come. The first ones of a method after another's are not `counted`: a training that saves repeats its own."""

    method: Method
    counted: bool


@dataclasses.dataclass(frozen=True)
class Window:
    """One save that was: seconds from its beginning to the end of the last step, those in the call itself, and the steps."""

    method: str
    seconds: float
    call: float
    steps: int


def turns(control: Method, groups: Sequence[Sequence[Method]], counted: int) -> Iterator[Turn]:
    """Each round is a group of methods; of each one save that is not counted and some that are, with the control in between."""
    for number, group in enumerate(groups):
        start = number % len(group)
        for place, method in enumerate([*group[start:], *group[:start]]):
            chosen = [control, method] if place % 2 == 0 else [method]
            for one in chosen:
                yield Turn(one, counted=False)
                yield from [Turn(one, counted=True)] * counted


class Rotation(keras.callbacks.Callback):
    """The callback that takes the turns; ends the training after the last one.

    Attributes:
        windows: those that counted.
    """

    def __init__(self, plan: Iterator[Turn], steps: int) -> None:
        super().__init__()
        self.windows: list[Window] = []
        self._plan = plan
        self._least = steps
        self._turn: Turn | None = None
        self._steps = 0
        self._rest = _WARM_UP
        self._saves = 0
        self._began = self._call = 0.0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Count, and begin or end a window."""
        float(logs["loss"])  # on an accelerator the step has ended only now
        now = time.perf_counter()
        self._steps += 1
        if self._turn is None:
            if self._steps >= self._rest:
                self._begin()
        elif self._steps >= self._least and self._turn.method.finished():
            self._end(now, self._turn)
        elif self._steps > _ENDLESS:
            raise RuntimeError(f"{self._turn.method.name} was still writing after {_ENDLESS} steps.")

    def _begin(self) -> None:
        self._turn = next(self._plan, None)
        if self._turn is None:
            self.model.stop_training = True
            return
        self._steps = 0
        self._saves += 1
        self._began = time.perf_counter()
        self._turn.method.save(self._saves)
        self._call = time.perf_counter() - self._began

    def _end(self, now: float, turn: Turn) -> None:
        if turn.counted:
            self.windows.append(Window(turn.method.name, now - self._began, self._call, self._steps))
        turn.method.wait()
        os.sync()
        self._turn, self._steps, self._rest = None, 0, _REST


def step_seconds(windows: Sequence[Window], control: str) -> float:
    """Median seconds of a step in the control's windows."""
    return statistics.median(window.seconds / window.steps for window in windows if window.method == control)


def costs(windows: Sequence[Window], control: str) -> dict[str, Spread]:
    """What a save costs the training, by method, in the order of their first turn. The control's own is the noise of the measurement."""
    found: dict[str, list[float]] = {}
    for place, window in enumerate(windows):
        step = step_seconds(_nearest(windows, place, control), control)
        found.setdefault(window.method, []).append(window.seconds - window.steps * step)
    return {name: spread(values) for name, values in found.items()}


def _nearest(windows: Sequence[Window], place: int, control: str) -> list[Window]:
    """The control's windows that lie nearest to that place, itself left out where it is not the only one: a machine has slow minutes."""
    others = [other for other, window in enumerate(windows) if window.method == control and other != place] or [place]
    return [windows[other] for other in sorted(others, key=lambda other: abs(other - place))[:_NEAREST]]


def calls(windows: Sequence[Window]) -> dict[str, Spread]:
    """Seconds for which the call blocks the training, by method."""
    names = dict.fromkeys(window.method for window in windows)
    return {name: spread(w.call for w in windows if w.method == name) for name in names}
