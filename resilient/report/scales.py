"""Axes: from values to places, and which ticks are worth a label."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterable, Sequence

from resilient.report import words

Tick = tuple[float, str]

# Seconds between two ticks of time that people count in.
_TIMES = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 10800, 21600, 43200, 86400, 172800, 432000, 864000, 1728000)
_LARGEST = 1e300  # of values that an axis is made for: beyond, not even their differences are numbers
_LOG_FROM = 30.0  # the ratio of largest to smallest from which a straight axis would hide most of a curve


@dataclasses.dataclass(frozen=True)
class Scale:
    """One axis: values between `low` and `high` lie between 0 and 1; `log`: by their logarithm."""

    low: float
    high: float
    log: bool = False

    def place(self, value: float) -> float:
        """Where the value lies; outside of 0 to 1 where it is outside of the axis."""
        if self.log:
            return (math.log(value) - math.log(self.low)) / (math.log(self.high) - math.log(self.low)) if value > 0 else -math.inf
        return (value - self.low) / (self.high - self.low)

    def ticks(self, about: int = 5) -> list[Tick]:
        """Round values within the axis, about so many, with their labels."""
        return _log_ticks(self, about) if self.log else _labelled(steps(self.low, self.high, _round_step((self.high - self.low) / about)))


def from_zero(values: Iterable[float]) -> Scale:
    """An axis for counts: from 0 to the largest; 0 to 1 where there is none."""
    largest = max((value for value in values if math.isfinite(value)), default=0.0)
    return Scale(0.0, largest if largest > 0 else 1.0)


def around(values: Iterable[float]) -> Scale:
    """An axis around the values up to 1e300, with a little room; by the logarithm where all are positive and far apart."""
    finite = [value for value in values if abs(value) < _LARGEST]
    if not finite:
        return Scale(0.0, 1.0)
    low, high = min(finite), max(finite)
    if low > 1e-300 and high / low > _LOG_FROM:
        room = 0.04 * (math.log(high) - math.log(low))
        return Scale(low * math.exp(-room), high * math.exp(room), log=True)
    # Values that differ in their last bits alone still get an axis of some length.
    margin = max((high - low) * 0.05, abs(high) * 1e-6, 1e-300) if high > low else abs(high) * 0.1 or 1.0
    return Scale(low - margin, high + margin)


def time_ticks(seconds: float, about: int = 5) -> list[Tick]:
    """Ticks of a time that runs from 0 to `seconds`: 0, 10 min, 20 min ..."""
    if seconds < _TIMES[0] * about:
        return _of_time(steps(0.0, seconds, _round_step(seconds / about)))
    step = next((step for step in _TIMES if seconds / step <= about), _round_step(seconds / 86400 / about) * 86400)
    return _of_time(steps(0.0, seconds, step))


def _of_time(values: Sequence[float]) -> list[Tick]:
    return [(value, words.duration(value).replace(".0 s", " s") if value else "0") for value in values]


def steps(low: float, high: float, step: float) -> list[float]:
    """Multiples of `step` from `low` to `high`."""
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [number * step for number in range(first, last + 1)][:50]


def _round_step(about: float) -> float:
    """The next 1, 2 or 5 times a power of ten."""
    if about <= 0 or not math.isfinite(about):
        return 1.0
    power = 10.0 ** math.floor(math.log10(about))
    return next(factor * power for factor in (1, 2, 5, 10, 20) if factor * power >= about * 0.75)


def _log_ticks(scale: Scale, about: int) -> list[Tick]:
    first, last = math.ceil(math.log10(scale.low) - 1e-9), math.floor(math.log10(scale.high) + 1e-9)
    powers = [10.0**power for power in range(first, last + 1)]
    if len(powers) > about:
        powers = powers[:: math.ceil(len(powers) / about)]
    elif len(powers) < 3:
        factors = (1, 2, 5)
        powers = [f * 10.0**p for p in range(first - 1, last + 2) for f in factors if scale.low <= f * 10.0**p <= scale.high]
    return _labelled(powers)


def _labelled(values: Sequence[float]) -> list[Tick]:
    return [(value, words.tick(value)) for value in values]


def thinned(points: Sequence[tuple[float, float]], place: Callable[[float], float], most: int) -> list[tuple[float, float]]:
    """The points that a line of at most about `most` needs to look the same: of each column the first, lowest, highest and last.

    Args:
        points: (x, y) in the order in which the line runs.
        place: of an x on its axis, 0 to 1.
        most: bound on the number of points returned.
    """
    if len(points) <= most:
        return list(points)
    columns: dict[int, list[int]] = {}
    width = max(1, most // 4)
    for index, (x, _) in enumerate(points):
        columns.setdefault(int(place(x) * width), []).append(index)
    kept: set[int] = set()
    for column in columns.values():
        by_height = sorted(column, key=lambda index: points[index][1])
        kept |= {column[0], column[-1], by_height[0], by_height[-1]}
    return [points[index] for index in sorted(kept)]
