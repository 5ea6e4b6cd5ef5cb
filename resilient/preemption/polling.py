"""The thread that asks one source for as long as a training runs, and passes on each thing once."""

from __future__ import annotations

import sys
import threading
import time
from collections.abc import Callable, Iterable

from resilient.preemption.source import Announcement, Source

OnNotice = Callable[[Announcement, float | None], None]

_LONGEST_PAUSE = 10.0  # seconds, however often it failed: the shortest notice is 15 s
_FAILURES_TOLD = 3  # in a row, before it is said that notices are not seen


class Polling:
    """Asks `source`, from `start` to `close`.

    Args:
        source: closed with it.
        grace: the caller's own bound on the seconds from a notice to the end, None for the platform's.
        on_notice: called on the thread with what is announced and the deadline (monotonic seconds), None where training goes on after a
            save. Once for each announcement, and once more when one that left time to go on does not any more.
    """

    def __init__(self, source: Source, grace: float | None, on_notice: OnNotice) -> None:
        self._source = source
        self._grace = grace
        self._on_notice = on_notice
        self._standing: set[tuple[str, str, bool]] = set()
        self._failures = 0
        self._told = False
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"resilient-{source.platform}-notices", daemon=True)

    def start(self) -> None:
        """Begin to ask."""
        self._thread.start()

    def close(self) -> None:
        """Stop asking, whatever the source waits for; returns when the thread is gone, or after a second."""
        self._closing.set()
        self._source.close()
        self._thread.join(1.0)

    def _run(self) -> None:
        while not self._closing.is_set():
            try:
                self._pass_on(self._source.poll())
            except Exception as error:  # noqa: BLE001  the thread's boundary: whatever a server says, the next answer may be a notice
                self._failed(error)
            else:
                self._failures = 0
            self._closing.wait(min(_LONGEST_PAUSE, self._source.interval * 2 ** min(self._failures, 10)))

    def _pass_on(self, announced: Iterable[Announcement]) -> None:
        standing = set()
        for announcement in announced:
            deadline = self._source.deadline(announcement, time.monotonic(), self._grace)
            key = (announcement.kind, announcement.identity, deadline is not None)
            standing.add(key)
            if key not in self._standing:
                self._on_notice(announcement, deadline)
        self._standing = standing  # what was called off may be announced again

    def _failed(self, error: Exception) -> None:
        self._failures += 1
        if self._failures < _FAILURES_TOLD or self._told or self._closing.is_set():
            return
        self._told = True
        sys.stderr.write(
            f"resilient: preemption notices of {self._source.platform} are not seen: {error}. It is asked again until training ends.\n"
        )
