"""One thread-safe request to save and stop."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Notice:
    """Why to stop (`reason`: a signal's name or a platform's) and until when the process may live (`deadline`, monotonic seconds)."""

    reason: str
    deadline: float


class StopRequest:
    """Set from any thread or signal handler; of several notices the one with the earliest deadline counts. `requested` is read every batch.

    There is no lock in it: a signal handler may interrupt whoever would hold one. Of two notices at the same moment either may win.

    Args:
        listener: called when the request comes; must neither block nor fail.
    """

    def __init__(self, listener: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self.notice: Notice | None = None
        self.listener = listener

    def request(self, notice: Notice) -> None:
        """Ask for save-and-stop."""
        if self.notice is None or notice.deadline < self.notice.deadline:
            self.notice = notice
            self.requested = True
            self.listener()
