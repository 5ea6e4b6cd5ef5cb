"""One thread-safe request: to save and stop, or only to save."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable


@dataclasses.dataclass(frozen=True)
class Notice:
    """Why to stop (`reason`: a signal's name, or a platform's and its word) and until when the process may live (monotonic seconds)."""

    reason: str
    deadline: float
    received: float = dataclasses.field(default_factory=time.monotonic, compare=False)


class StopRequest:
    """Set from any thread or signal handler; of several notices the one with the earliest deadline counts.

    `requested` and `save_requested` are read every batch; whoever saves sets the latter back, before it captures the state.

    There is no lock in it: a signal handler may interrupt whoever would hold one. Of two notices at the same moment either may win.

    Args:
        listener: called when the request comes; must neither block nor fail.
    """

    def __init__(self, listener: Callable[[], None] = lambda: None) -> None:
        self.requested = False
        self.save_requested = False
        self.notice: Notice | None = None
        self.listener = listener

    def request(self, notice: Notice) -> None:
        """Ask for save-and-stop."""
        if self.notice is None or notice.deadline < self.notice.deadline:
            self.notice = notice
            self.requested = True
            self.listener()

    def request_save(self) -> None:
        """Ask for a save after which training goes on."""
        self.save_requested = True
