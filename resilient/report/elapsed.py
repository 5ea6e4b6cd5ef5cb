"""The run's own clock: seconds since its first attempt began, which never go back, whatever was done to the machine's clock."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence

from resilient.accounts import Attempt


@dataclasses.dataclass(frozen=True)
class Stretch:
    """An attempt on that clock.

    Attributes:
        attempt: which.
        began, ended: seconds since the run began.
        gap: seconds from there to the next one.
    """

    attempt: Attempt
    began: float
    ended: float
    gap: float

    def at(self, time: dt.datetime) -> float:
        """The moment on that clock, between the attempt's beginning and end."""
        return self.began + min(max((time - self.attempt.began).total_seconds(), 0.0), self.ended - self.began)


def stretches(attempts: Sequence[Attempt]) -> list[Stretch]:
    """The attempts one after the other. Where their times overlap or go back, each begins at the end of the one before."""
    found: list[Stretch] = []
    now = 0.0
    for attempt in attempts:
        gap = attempt.time.down + attempt.time.unknown
        own = max(0.0, attempt.time.total - gap)
        found.append(Stretch(attempt, now, now + own, gap))
        now += own + gap
    return found
