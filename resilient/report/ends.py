"""How an attempt ended: its word, its sign in the pictures, and whether anything was taken from the run by it."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from resilient.accounts import Attempt, End


@dataclasses.dataclass(frozen=True)
class Way:
    """One way to end. `sign`: the class of its mark; `unwanted`: it was an interruption."""

    word: str
    sign: str
    unwanted: bool = True


WAYS = {
    End.FINISHED: Way("finished", "finished", unwanted=False),
    End.OPEN: Way("running", "open", unwanted=False),
    End.PREEMPTED: Way("preempted", "preempted"),
    End.KILLED: Way("killed", "killed"),
    End.VANISHED: Way("vanished", "killed"),
    End.OUT_OF_MEMORY: Way("out of memory", "killed"),
    End.FAILED: Way("failed", "failed"),
    End.HUNG: Way("hung", "failed"),
}
SILENT = Way("went silent", "killed")  # nothing tells that it has ended, and nothing of it lives


def way(attempt: Attempt, *, alive: bool) -> Way:
    """How it ended; `alive`: whether a process trains now, which then is that of an open attempt."""
    return SILENT if attempt.end is End.OPEN and not alive else WAYS[attempt.end]


def interruptions(attempts: Sequence[Attempt], *, alive: bool) -> int:
    """How many attempts ended before the training did."""
    return sum(way(attempt, alive=alive).unwanted for attempt in attempts)
