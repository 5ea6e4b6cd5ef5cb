"""Slurm: the end of the job's time limit, which the job's environment tells. No signal has to be configured for it."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from resilient.preemption.source import Announcement, Source

_END = "SLURM_JOB_END_TIME"  # seconds since 1970
_MARGIN = 60.0  # seconds before the end that training stops,
_SHARE = 0.1  # but at most this much of the time that there is: a short job is not stopped before it has begun


class TimeLimit(Source):
    """Announces the end of the time limit when only `margin` seconds are left. All times in seconds."""

    platform = "slurm"

    def __init__(self, end: float, margin: float) -> None:
        self._end = end
        self._margin = margin

    def poll(self) -> Sequence[Announcement]:
        """The wall clock is asked each time: it may be set while training runs, and the limit is kept by it."""
        left = self._end - time.time()
        return (Announcement(self.platform, "time limit", ends=True, left=left),) if left <= self._margin else ()


def time_limit(environ: Mapping[str, str], grace: float | None) -> list[Source]:
    """The source of this job's limit; [] where there is no job, its end is not told, or is over: then it is not what ends this process.

    Args:
        environ: of the process.
        grace: the caller's own margin, None for the default.
    """
    told = environ.get(_END, "")
    end = float(told) if told.isdecimal() else 0.0
    left = end - time.time()
    if left <= 0:
        return []
    return [TimeLimit(end, min(_MARGIN, _SHARE * left) if grace is None else grace)]
