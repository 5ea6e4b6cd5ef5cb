"""What a run has cost so far: the events of its journal as runs, attempts and saves, the work that was lost, and where the time went.

    runs = accounts(journal.read(directory), now=dt.datetime.now(dt.UTC) if it_lives else None)
    run = runs[-1]                       # several where a journal holds several lines of history (`resume=False`)
    run.goodput, run.lost_steps          # a share of the time from 0 to 1 (None: nothing has happened yet), and a number of steps
    run.time                             # a `Time`: seconds of training that counts, of saving, lost, starting, down, unknown
    for attempt in run.attempts:         # oldest first
        attempt.began, attempt.trained_from, attempt.ended, attempt.end, attempt.reason, attempt.saves, attempt.time, attempt.down

Pure: time is an argument. Whatever stands in the journal (lines that were torn, events of newer versions, fields that are missing or of
another type, clocks that were set) gives an account and no error; no duration is negative.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Iterable

from resilient.accounts import judging
from resilient.accounts.drafts import Drafts
from resilient.accounts.values import Attempt, End, Event, Run, Save, Time

__all__ = ["Attempt", "End", "Event", "Ledger", "Run", "Save", "Time", "accounts"]


class Ledger:
    """An account that grows with its journal: what `accounts` gives, event by event."""

    def __init__(self) -> None:
        self._told = Drafts()

    def see(self, event: Event) -> None:
        """One more event, in the order of the journal."""
        self._told.see(event)

    def runs(self, now: dt.datetime | None = None) -> list[Run]:
        """As `accounts`."""
        told, newest = self._told, len(self._told.runs) - 1
        return [
            judging.run(
                attempts,
                [event for run, event in told.damaged if run == number],
                told.gave_up if number == newest else None,
                now if number == newest else None,
            )
            for number, attempts in enumerate(told.runs)
        ]


def accounts(events: Iterable[Event], now: dt.datetime | None = None) -> list[Run]:
    """The runs that a journal tells of, oldest first; [] where it tells of none.

    Args:
        events: as `journal.read` gives them: each with an `event` and an aware ISO `time`.
        now: aware; an attempt that is still open counts until then. None: until its last event, as where its process is gone.
    """
    ledger = Ledger()
    for event in events:
        ledger.see(event)
    return ledger.runs(now)
