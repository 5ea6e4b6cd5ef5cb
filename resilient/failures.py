"""How often the run has died so far, read from its journal."""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable, Mapping
from typing import Any

from resilient.policy import Failures

# Seconds: a longer silence within an attempt is a suspended machine or a clock that was set. Time that goes back counts as none.
_LONGEST_SILENCE = 3600.0


class _Tally:
    def __init__(self) -> None:
        self.count, self.uptime, self.in_vain = 0, 0.0, 0
        self._training = self._over = self._has_saved = False
        self._step_on_disk = 0
        self._last = dt.datetime.min

    def see(self, event: Mapping[str, Any]) -> None:
        """One more event, in the order of the journal."""
        name, time = event["event"], dt.datetime.fromisoformat(event["time"])
        begins = name in ("started", "attempt")
        if self._training and not begins:  # what passed before the next attempt began was not training
            self.uptime += min(max((time - self._last).total_seconds(), 0.0), _LONGEST_SILENCE)
        self._last = time
        if begins or name == "exited":
            self._end(lost=True)  # nobody wrote how the attempt before ended: it was killed
            self._over = False
        elif name in ("preempted", "failed", "finished"):
            self._end(lost=_step(event) > self._step_on_disk)
            self._over = True
        elif name in ("restored", "saved") and not self._over:
            self._has_saved = self._training  # what an attempt begins with is not its own
            self._training = not event.get("finished", False)
            self._step_on_disk = _step(event)

    def _end(self, *, lost: bool) -> None:
        if self._training and lost:
            self.count += 1
        if self._training:
            self.in_vain = self.in_vain + 1 if lost and not self._has_saved else 0
        self._training = self._has_saved = False


def _step(event: Mapping[str, Any]) -> int:
    step = event.get("step")
    return step if isinstance(step, int) else 0


def peak_of_the_killed(events: Iterable[Mapping[str, Any]]) -> int:
    """Bytes of memory at the most that an attempt had which the kernel killed for lack of it, as supervisors have written down; or 0."""
    killed = (event.get("peak_rss") for event in events if event["event"] == "exited" and event.get("out_of_memory") is True)
    return max((peak for peak in killed if isinstance(peak, int)), default=0)


def observed_failures(events: Iterable[Mapping[str, Any]]) -> Failures:
    """Failures in the earlier attempts that `events` tell of, the newest part of a journal at least.

    A failure is the end of an attempt that has trained batches that are not on disk: a kill, of which the journal says nothing but that the
    next attempt begins, an error, or a preemption that left no time to save. A preemption with a save loses nothing, however often
    it comes, so it is no reason to save more often. Nor is an attempt that ended before it trained.

    An attempt that is still open at the end of the events is taken to be the present one, which has not failed yet.
    """
    tally = _Tally()
    for event in events:
        tally.see(event)
    return Failures(tally.count, tally.uptime, tally.in_vain)
