"""Whether something grows: a decision about numbers and nothing else.

A process takes memory while it warms up, and what it holds goes up and down for ever after: neither is a leak. A leak is what is left when
the first part is put aside, a line is laid through the rest that no outlier can turn (Theil and Sen: the median of the slopes of all
pairs), and that line rises by more than is tolerated over the time that was watched, most pairs of moments agreeing that it does.
"""

from __future__ import annotations

import dataclasses
import itertools
import statistics
from collections.abc import Sequence

WARM_UP = 1 / 3  # of the time that was watched
MOST = 300  # samples that a line is laid through; every pair of them counts
FEWEST = 12
AGREEMENT = 0.6  # Kendall's tau above which most pairs rise: noise has 0, a straight line 1

Sample = tuple[float, float]  # seconds, and what was measured then


@dataclasses.dataclass(frozen=True)
class Tolerance:
    """How much something may rise after its warm-up before it is called a leak: the larger of both.

    Attributes:
        absolute: in its own unit.
        relative: to its median.
    """

    absolute: float
    relative: float = 0.0


@dataclasses.dataclass(frozen=True)
class Trend:
    """What became of one measure.

    Attributes:
        first, last: of the line, at the beginning and at the end of what was looked at.
        highest: of all that was measured, the warm-up too.
        seconds: between `first` and `last`.
        agreement: of the pairs, from -1 (all fall) to 1 (all rise).
        leaks: the verdict.
    """

    first: float
    last: float
    highest: float
    seconds: float
    agreement: float
    leaks: bool

    @property
    def growth(self) -> float:
        """From the first to the last."""
        return self.last - self.first


def trend(samples: Sequence[Sample], tolerance: Tolerance) -> Trend | None:
    """Judge one measure over time; None where there is too little to judge.

    Args:
        samples: in the order of time.
        tolerance: of what is no leak.
    """
    settled = _thinned(_after_warm_up(samples))
    if len(settled) < FEWEST:
        return None
    slopes = [(b - a) / (later - sooner) for (sooner, a), (later, b) in itertools.combinations(settled, 2) if later > sooner]
    if not slopes:
        return None
    slope = statistics.median(slopes)
    middle = statistics.median(value - slope * second for second, value in settled)
    agreement = sum((value > 0) - (value < 0) for value in slopes) / len(slopes)
    first, last = (middle + slope * settled[at][0] for at in (0, -1))
    tolerated = max(tolerance.absolute, tolerance.relative * abs(statistics.median(value for _, value in settled)))
    highest = max(value for _, value in samples)
    return Trend(first, last, highest, settled[-1][0] - settled[0][0], agreement, last - first > tolerated and agreement > AGREEMENT)


def _after_warm_up(samples: Sequence[Sample]) -> Sequence[Sample]:
    if not samples:
        return []
    begin = samples[0][0] + WARM_UP * (samples[-1][0] - samples[0][0])
    return [sample for sample in samples if sample[0] >= begin]


def _thinned(samples: Sequence[Sample]) -> Sequence[Sample]:
    """At most `MOST`, evenly: the median of each stretch, so that none of them is an outlier by chance."""
    if len(samples) <= MOST:
        return samples
    length = -(-len(samples) // MOST)
    stretches = (samples[start : start + length] for start in range(0, len(samples), length))
    return [(statistics.median(at for at, _ in part), statistics.median(value for _, value in part)) for part in stretches]
