"""The clock jumps, forwards and backwards, for everything in this process that asks for the time of day; durations stay what they are."""

from __future__ import annotations

import contextlib
import datetime as dt
import time
from collections.abc import Callable, Iterator
from typing import Any
from unittest import mock

from chaos.faults.schedule import Schedule

DAY = 86400.0


class JumpingClock:
    """Jumps by the next of `jumps` seconds, round and round, whenever the schedule strikes at a question.

    Attributes:
        ahead: seconds that it is ahead of the machine's, less than 0 where it is behind.
    """

    def __init__(self, schedule: Schedule, jumps: tuple[float, ...] = (DAY, -2 * DAY, 3600.0, -3599.5)) -> None:
        self._schedule = schedule
        self._jumps = jumps
        self.ahead = 0.0

    def _asked(self) -> float:
        if self._schedule.strikes():
            self.ahead += self._jumps[(len(self._schedule.struck) - 1) % len(self._jumps)]
        return self.ahead

    @contextlib.contextmanager
    def in_place(self) -> Iterator[None]:
        """While this lasts, `time.time`, `time.time_ns` and `datetime.now` ask this clock. `time.monotonic` does not, as in a kernel."""
        genuine, genuine_ns = time.time, time.time_ns

        def now() -> float:
            return genuine() + self._asked()

        def now_ns() -> int:
            return genuine_ns() + int(self._asked() * 1e9)

        with contextlib.ExitStack() as stack:
            stack.enter_context(mock.patch.object(time, "time", now))
            stack.enter_context(mock.patch.object(time, "time_ns", now_ns))
            stack.enter_context(mock.patch.object(dt, "datetime", _datetime(self._asked)))
            yield


def _datetime(asked: Callable[[], float]) -> type[dt.datetime]:
    genuine = dt.datetime

    class _Kind(type):
        def __instancecheck__(cls, value: Any) -> bool:
            return isinstance(value, genuine)

    class JumpingDatetime(genuine, metaclass=_Kind):  # type: ignore[misc, valid-type]
        """`datetime` whose `now` jumps."""

        @classmethod
        def now(cls, tz: dt.tzinfo | None = None) -> Any:
            """The time of day as the clock has it."""
            return genuine.now(tz) + dt.timedelta(seconds=asked())

    return JumpingDatetime
