"""A process or its data stop moving: SIGSTOP from outside, an input that never delivers from inside; nothing is lost, and nothing ends."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TypeVar

from chaos.faults.schedule import Schedule

T = TypeVar("T")


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """The process stands still while this lasts; one that has ended is no error."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGCONT)


class BlockedData:
    """Passes items on, and blocks where the schedule strikes until it is released, or for ever.

    Attributes:
        blocked: set while somebody waits for an item.
    """

    def __init__(self, schedule: Schedule, longest: float | None = None) -> None:
        self._schedule = schedule
        self._longest = longest
        self._go_on = threading.Event()
        self.blocked = threading.Event()

    def through(self, items: Iterable[T]) -> Iterator[T]:
        """The items."""
        for item in items:
            if self._schedule.strikes():
                self.blocked.set()
                self._go_on.wait(self._longest)
                self.blocked.clear()
            yield item

    def release(self) -> None:
        """Whoever waits gets the item, now and later."""
        self._go_on.set()


def blocked_file(path: Path) -> Path:
    """A pipe without a writer: whoever opens it to read waits for ever."""
    os.mkfifo(path)
    return path
