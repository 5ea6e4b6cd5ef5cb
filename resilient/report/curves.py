"""Metrics over steps and over real time, from what was logged at every save and from the History in the newest manifest."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from resilient.accounts import Save
from resilient.manifest import Manifest
from resilient.packed import unpack
from resilient.report.elapsed import Stretch

VALIDATION = "val_"


@dataclasses.dataclass(frozen=True)
class Point:
    """One value of a metric.

    Attributes:
        step: batches trained since the run began.
        elapsed: seconds since the run began, None where nobody wrote when.
        value: may be NaN or infinite.
        whole: of a whole epoch, and not of one so far.
        lost: the run went on from before it.
        attempt: index of the attempt that saved it; -1 where only the History tells of it.
    """

    step: float
    elapsed: float | None
    value: float
    whole: bool
    lost: bool
    attempt: int


@dataclasses.dataclass(frozen=True)
class Curve:
    """One metric of the run; its points in the order in which they were logged."""

    name: str
    points: Sequence[Point]

    def kept(self) -> list[Point]:
        """What the run is made of in the end, by steps: the ends of epochs, or all points where there are hardly any."""
        whole = [point for point in self.points if point.whole and not point.lost]
        kept = whole if len(whole) > 2 else [point for point in self.points if not point.lost]
        return sorted(kept, key=lambda point: point.step)

    def within(self) -> list[Point]:
        """Means of epochs that were not over, where the ends of epochs make the line."""
        line = set(map(id, self.kept()))
        return [point for point in self.points if not point.lost and id(point) not in line]

    def lost(self) -> list[Point]:
        """Values of work that was done again."""
        return [point for point in self.points if point.lost]

    @property
    def unusable(self) -> int:
        """How many values are no finite numbers."""
        return sum(not math.isfinite(point.value) for point in self.points)


def curves(runs_on: Sequence[Stretch], manifest: Manifest | None) -> list[Curve]:
    """Every metric of the run, in the order in which they first appear."""
    points: dict[str, list[Point]] = {}
    times: dict[int, tuple[float, float]] = {}  # epoch -> step and time of its end
    for index, stretch, save, lost in _saves(runs_on):
        whole, elapsed = save.batch == 0, stretch.at(save.time)
        if whole and not lost:
            times[save.epoch - 1] = (save.step, elapsed)
        for name, value in save.metrics.items():
            points.setdefault(name, []).append(Point(save.step, elapsed, value, whole, lost, index))
    _add_history(points, times, manifest)
    return [Curve(name, found) for name, found in points.items()]


def _saves(runs_on: Sequence[Stretch]) -> Iterable[tuple[int, Stretch, Save, bool]]:
    limits, limit = [math.inf] * len(runs_on), math.inf
    for index in reversed(range(len(runs_on))):
        limits[index] = limit
        start = runs_on[index].attempt.start
        limit = min(limit, math.inf if start is None else start)
    for index, stretch in enumerate(runs_on):
        for save in stretch.attempt.saves:
            if not save.final:  # the end of the last epoch once more
                yield index, stretch, save, save.step > limits[index]


def _add_history(points: dict[str, list[Point]], times: Mapping[int, tuple[float, float]], manifest: Manifest | None) -> None:
    """Ends of epochs of which the journal has no value: written by an older version, or for more metrics than it keeps."""
    if manifest is None:
        return
    progress = manifest.progress
    length = progress.step / progress.epoch if progress.epoch else 0.0
    told = {name: {point.step for point in found if point.whole and not point.lost} for name, found in points.items()}
    for epoch, values in history(manifest).items():
        step, elapsed = times.get(epoch, (length * (epoch + 1), None))
        for name, value in values.items():
            if step not in told.get(name, ()):
                points.setdefault(name, []).append(Point(step, elapsed, value, whole=True, lost=False, attempt=-1))


def history(manifest: Manifest) -> dict[int, dict[str, float]]:
    """Epoch (from 0) -> metric -> value, as Keras' History had it when the checkpoint was taken; {} where it cannot be told."""
    states = manifest.state.get("callbacks")
    for state in states if isinstance(states, list) else []:
        attributes = state.get("attributes") if isinstance(state, dict) else None
        if isinstance(attributes, dict) and str(state.get("class")).endswith(".History"):
            return _by_epoch(attributes.get("epoch"), attributes.get("history"), _validated(manifest))
    return {}


def _validated(manifest: Manifest) -> Any:
    settings = manifest.state.get("settings")
    return settings.get("validation_freq") if isinstance(settings, dict) else None


def _by_epoch(epochs: Any, columns: Any, frequency: Any) -> dict[int, dict[str, float]]:
    found: dict[int, dict[str, float]] = {}
    pairs = columns.get("v") if isinstance(columns, dict) else None
    trained = unpack(epochs) or []
    for pair in pairs if isinstance(pairs, list) else []:
        name, column = pair if isinstance(pair, list) and len(pair) == 2 else (None, None)
        values = unpack(column) or []
        if isinstance(name, str):
            for epoch, value in zip(_epochs_of(values, trained, frequency), values, strict=False):
                if isinstance(epoch, int) and isinstance(value, (int, float)):
                    found.setdefault(epoch, {})[name] = float(value)
    return found


def _epochs_of(values: Sequence[Any], epochs: Sequence[Any], frequency: Any) -> Sequence[Any]:
    """The epochs that a column of History has values of: all, or those with a validation; none where that does not fit."""
    if len(values) == len(epochs):
        return epochs
    if isinstance(frequency, list):
        some = [epoch for epoch in epochs if isinstance(epoch, int) and epoch + 1 in frequency]
    elif isinstance(frequency, int) and frequency > 0:
        some = [epoch for epoch in epochs if isinstance(epoch, int) and (epoch + 1) % frequency == 0]
    else:
        return []
    return some if len(some) == len(values) else []


def panels(found: Sequence[Curve], monitored: str | None, most: int = 4) -> list[list[Curve]]:
    """What is drawn into one picture: a metric and its twin on the validation data. The losses come first, then the monitored metric."""
    groups: dict[str, list[Curve]] = {}
    for curve in found:
        groups.setdefault(curve.name.removeprefix(VALIDATION), []).append(curve)
    watched = (monitored or "").removeprefix(VALIDATION)
    ordered = sorted(groups, key=lambda name: (name != "loss", name != watched, name == "learning_rate", -len(groups[name][0].points)))
    return [sorted(groups[name], key=lambda curve: curve.name.startswith(VALIDATION)) for name in ordered[:most]]
