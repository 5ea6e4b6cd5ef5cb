"""Which event belongs to which attempt, and which attempt to which run.

The program and its supervisor write independently: a supervisor's `attempt` may come before or after the program's `started`, and what
happens before it knows the directory is held back until then. Who is killed writes nothing.
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Sequence

from resilient.accounts import fields
from resilient.accounts.values import Event, Save

_LAST_WORDS = frozenset({"finished", "preempted", "failed"})  # of the program


class Draft:
    """An attempt while its events are read.

    Attributes:
        events: of it, in the order of the journal.
        newest: by name.
        began, last: the first and the last that is known of it.
        last_word: the newest of what the program says when it ends.
        trained_from, start, reached, saves: as of `Attempt`.
    """

    def __init__(self, event: Event) -> None:
        self.events: list[Event] = []
        self.newest: dict[str, Event] = {}
        self.began = self.last = fields.began(event) if event["event"] == "attempt" else fields.time(event)
        self.last_word: Event | None = None
        self.trained_from: dt.datetime | None = None
        self.start: int | None = None
        self.reached: int | None = None
        self.saves: list[Save] = []
        self.see(event)

    def see(self, event: Event) -> None:
        """One more of its events."""
        name = event["event"]
        self.events.append(event)
        self.newest[name] = event
        if name == "attempt":
            self.began = min(self.began, fields.began(event))
        else:
            self.last = max(self.last, fields.time(event))
        if name in _LAST_WORDS:
            self.last_word = event
        if name == "saved":
            self.saves.append(fields.save(event))
        step = fields.whole(event, "step")
        if name in ("restored", "saved") and self.start is None:
            self.start = step or 0
            self.trained_from = None if event.get("finished") is True else fields.time(event)  # a finished run trains nothing
        if step is not None and self.start is not None:
            self.reached = max(self.reached or 0, step)

    @property
    def run_id(self) -> str | None:
        """Of its line of history, None as long as it has none."""
        return fields.text(self.newest.get("started", {}), "run_id")

    @property
    def pid(self) -> int | None:
        """Of the process that trains, else of the program, which may be a shell."""
        mine = fields.whole(self.newest.get("started", {}), "pid")
        return fields.whole(self.newest.get("attempt", {}), "pid") if mine is None else mine

    @property
    def supervised(self) -> bool:
        """Whether a supervisor has told of it."""
        return "attempt" in self.newest

    @property
    def gone(self) -> bool:
        """Whether its process is known to have ended."""
        return "exited" in self.newest

    @property
    def awaited(self) -> bool:
        """Whether a supervisor has started it, and the program has not said anything yet."""
        return self.supervised and not self.gone and "started" not in self.newest and self.last_word is None

    def is_that_of(self, attempt: Event) -> bool:
        """Whether a supervisor's event, which may come late, tells of this one."""
        same = self.pid is not None and self.pid == fields.whole(attempt, "pid")
        return not self.supervised and not self.gone and (same or fields.began(attempt) <= self.began)


class Drafts:
    """What the events so far have told.

    Attributes:
        runs: the attempts of each.
        gave_up: the supervisor's list of failures, None if it has not given up since the last attempt.
        damaged: what was found damaged, by the number of the run in `runs`.
    """

    def __init__(self) -> None:
        self.runs: list[list[Draft]] = []
        self.gave_up: Sequence[str] | None = None
        self.damaged: list[tuple[int, Event]] = []

    def see(self, event: Event) -> None:
        """One more event, in the order of the journal."""
        name, last = event["event"], self.runs[-1][-1] if self.runs else None
        if name == "quarantined":  # by an attempt that is about to begin, of what the run has left behind
            self.damaged.append((max(0, len(self.runs) - 1), event))
            return
        if name in ("attempt", "started"):
            self.gave_up = None
        if name == "gave_up":
            self.gave_up = fields.texts(event, "failures")
        if last is None or self._begins(event, last):
            self._begin(event, last)
        else:
            last.see(event)
        if name == "started":
            self._sort()

    @staticmethod
    def _begins(event: Event, last: Draft) -> bool:
        """Whether it is the first of an attempt."""
        match event["event"]:
            case "attempt":
                return not last.is_that_of(event)
            case "started":
                return not last.awaited
            case "failed" | "preempted":  # without a position where it could not even start
                spoken = last.start is not None or last.last_word is not None or last.gone
                return "step" not in event and spoken and not last.awaited
        return False

    def _begin(self, event: Event, last: Draft | None) -> None:
        draft = Draft(event)
        if (
            event["event"] == "started"
            and last is not None
            and not last.gone
            and last.supervised
            and draft.pid is not None
            and draft.pid == last.pid
        ):
            draft.newest["attempt"] = last.newest["attempt"]  # a process that calls fit once more
        if self.runs:
            self.runs[-1].append(draft)
        else:
            self.runs.append([draft])

    def _sort(self) -> None:
        """The attempt that has started belongs to a run of its own, if its line of history is another one."""
        attempts = self.runs[-1]
        known = next((draft.run_id for draft in reversed(attempts[:-1]) if draft.run_id is not None), None)
        if known is not None and attempts[-1].run_id not in (None, known):
            self.runs.append([attempts.pop()])
