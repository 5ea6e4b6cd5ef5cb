"""The preemption notices of the platforms that a training runs on, watched for as long as it runs."""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Callable, Sequence
from types import TracebackType

from resilient.preemption import aws, azure, gce, platform, slurm
from resilient.preemption.polling import Polling
from resilient.preemption.source import Announcement, Source
from resilient.preemption.stop import Notice, StopRequest

# What watches each platform, given the caller's own grace in seconds or None. The keys are what `fit` accepts as `notices`.
PLATFORMS: dict[str, Callable[[float | None], list[Source]]] = {
    "aws": lambda _: [aws.Interruption(), aws.Rebalance()],
    "gce": lambda _: [gce.preempted(), gce.maintenance()],
    "azure": lambda _: [azure.ScheduledEvents()],
    "azure:acknowledge": lambda _: [azure.ScheduledEvents(acknowledges=True)],
    "slurm": lambda grace: slurm.time_limit(os.environ, grace),
}


class Notices:
    """Context manager: for as long as it is open, the platforms are asked, each question on a daemon thread of its own.

    Args:
        names: keys of `PLATFORMS`; None for those this machine is on.
        grace: the caller's own bound on the seconds from a notice to the end of the process, None for each platform's.
        stop: receives the requests to save and stop, or to save and go on.
        record: called on a thread of ours with what was announced, as JSON: platform, kind, action ("save" or "stop") and deadline (None
            with "save").
        evicted: called there before that with platform, kind and deadline (monotonic seconds) of what is to stop for.
    """

    def __init__(
        self,
        names: Sequence[str] | None,
        grace: float | None,
        stop: StopRequest,
        record: Callable[..., object],
        evicted: Callable[[str, str, float], object] = lambda *_: None,
    ) -> None:
        self._stop = stop
        self._record = record
        self._evicted = evicted
        chosen = platform.detect(os.environ) if names is None else names
        self._sources = [source for name in chosen for source in PLATFORMS[name](grace)]
        self._polling = [Polling(source, grace, self._announced) for source in self._sources]

    def __enter__(self) -> Notices:
        for polling in self._polling:
            polling.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        for polling in self._polling:
            polling.close()

    def acknowledge(self, reason: str) -> None:
        """Training stopped for `reason` and its state is durable: tell the platform that announced it, where that was asked for."""
        for source in self._sources:
            if reason.startswith(f"{source.platform} "):
                source.acknowledge()

    def _announced(self, announcement: Announcement, deadline: float | None) -> None:
        fields = {"platform": announcement.platform, "kind": announcement.kind}
        if deadline is None:
            self._stop.request_save()
            self._record(**fields, action="save", deadline=None)
        else:
            self._stop.request(Notice(" ".join(fields.values()), deadline))  # before the journal: its disk may be slow
            self._evicted(announcement.platform, announcement.kind, deadline)
            self._record(**fields, action="stop", deadline=_wall_clock(deadline))


def _wall_clock(deadline: float) -> str:
    return (dt.datetime.now(dt.UTC) + dt.timedelta(seconds=deadline - time.monotonic())).isoformat()
