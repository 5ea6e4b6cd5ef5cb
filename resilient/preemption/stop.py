"""One thread-safe request to save and stop."""

from __future__ import annotations

import dataclasses
import threading
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Notice:
    """Why to stop (`reason`: a signal's name or a platform's) and until when the process may live (`deadline`, monotonic seconds)."""

    reason: str
    deadline: float


class StopRequest:
    """Set once, from any thread; the first notice counts. `requested` is read after every batch and costs one attribute."""

    def __init__(self) -> None:
        self.requested = False
        self._lock = threading.Lock()
        self._notice: Notice | None = None
        self._listeners: list[Callable[[], None]] = []

    @property
    def notice(self) -> Notice | None:
        """The first notice, None before there is one."""
        return self._notice

    def listen(self, listener: Callable[[], None]) -> None:
        """Call `listener` (which must not block) when the request comes, or now if it is there."""
        with self._lock:
            self._listeners.append(listener)
            late = self.requested
        if late:
            listener()

    def request(self, notice: Notice) -> None:
        """Ask for save-and-stop. Not for signal handlers, which may interrupt the holder of the lock: see `watch.py`."""
        with self._lock:
            if self.requested:
                return
            self._notice = notice
            self.requested = True
            listeners = list(self._listeners)
        for listener in listeners:
            listener()
