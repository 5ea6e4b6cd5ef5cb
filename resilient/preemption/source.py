"""What a platform announces, and what asks for it: one source, one question."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Announcement:
    """What a platform says is coming.

    Args:
        platform: its name in `fit`'s `notices`.
        kind: the platform's own word for it.
        ends: whether the process ends with it. Else the state is saved and training goes on.
        left: seconds until then; None where the platform does not say, or says that it is due.
        identity: tells it from the next one of its kind.
        early: seconds before the end at which training stops; with more than that left it is saved and goes on until then.
    """

    platform: str
    kind: str
    ends: bool
    left: float | None = None
    identity: str = ""
    early: float = 180.0  # more than the two minutes of AWS, whatever clock they are read from


class Source:
    """One question to one platform, asked again and again by one thread.

    Attributes:
        platform: its name in `fit`'s `notices`.
        interval: seconds between an answer and the next question.
        grace: seconds from an announcement to the end where the platform does not say.
    """

    platform: str
    interval = 1.0
    grace = 15.0

    def poll(self) -> Sequence[Announcement]:
        """What stands announced now. Whatever it raises means that nothing is known, neither a notice nor that there is none."""
        raise NotImplementedError

    def acknowledge(self) -> None:
        """The state is durable and training has stopped for what this source announced: say so, where the platform wants to hear it."""

    def close(self) -> None:
        """Called by another thread: end the poll under way."""

    def deadline(self, announcement: Announcement, now: float, grace: float | None) -> float | None:
        """When the process has to be gone, on the clock of `now`; None where it is to save and go on.

        Args:
            announcement: of this source.
            now: any clock's time.
            grace: the caller's own bound, in seconds. It shortens what the platform tells, and takes the place of what it does not tell.
        """
        left = announcement.left if announcement.left is not None and announcement.left > 0 else None
        if not announcement.ends or (left is not None and left > announcement.early):
            return None
        if left is None:
            return now + (self.grace if grace is None else grace)
        return now + min(left, math.inf if grace is None else grace)
