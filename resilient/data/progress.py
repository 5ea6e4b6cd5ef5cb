"""The line that says how far a replay has come."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from types import TracebackType

_EVERY = 5.0  # seconds
_listener: ContextVar[Callable[[], None]] = ContextVar("_listener", default=lambda: None)


@contextmanager
def replays_heard_by(listener: Callable[[], None]) -> Iterator[None]:
    """While it lasts, `listener` is called for each batch that this thread reads again, in whatever kind of input."""
    token = _listener.set(listener)
    try:
        yield
    finally:
        _listener.reset(token)


class Replay:
    """Counts batches that are read again and skipped; says so on stderr where that takes long.

    Args:
        total: how many there are; None: as many as come.
        kind: of input.
    """

    def __init__(self, total: int | None, kind: str) -> None:
        self._total = total
        self._kind = kind
        self._done = 0
        self._listener = _listener.get()
        self._said = time.monotonic()
        self._spoke = False

    def __enter__(self) -> Replay:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if self._spoke:
            self._say()

    def __iter__(self) -> Iterator[int]:
        for index in range(self._total or 0):
            yield index
            self.step()

    def step(self) -> None:
        """One more is read."""
        self._done += 1
        self._listener()
        if time.monotonic() - self._said >= _EVERY:
            self._say()

    def _say(self) -> None:
        self._said, self._spoke = time.monotonic(), True
        count = self._done if self._total is None else f"{self._done} of {self._total}"
        sys.stderr.write(f"resilient: going back to the saved position: {count} batches of the {self._kind} read again\n")
        sys.stderr.flush()
