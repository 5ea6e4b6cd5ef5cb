"""Whether the journal tells what happened: every attempt, held against what the storm did and what the programs logged."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from chaos import oracle
from chaos.supervised.life import Attempt

Event = Mapping[str, Any]
FINAL = {0: "done", 78: "needs a human", 93: "gave up"}


@dataclasses.dataclass(frozen=True)
class Past:
    """One supervisor that has ended: its pid, how it ended, what was done to it, and the attempts that it told of on its terminal."""

    pid: int
    code: int
    struck: Sequence[str]
    attempts: Sequence[Attempt]

    @property
    def killed(self) -> bool:
        """Whether it had no time for last words."""
        return "SIGKILL" in self.struck


def _preempted(event: Event) -> bool:
    return bool(event["verdict"] == "preempted" and (event["code"] == 75 or event["signal"] == "SIGTERM"))


def _killed(event: Event) -> bool:
    return bool(event["verdict"] == "failed" and event["signal"] == "SIGKILL" and not event["out_of_memory"])


def _bereaved(event: Event) -> bool:
    return bool(event["reason"] == "its supervisor died")


def _crashed(event: Event) -> bool:
    return bool(event["code"] == 1 and event["verdict"] == "failed")


def _is_final(event: Event) -> bool:
    """By what the program ended with, and not by what the supervisor made of it: nothing may follow."""
    return event["code"] in FINAL and "it hung" not in event["reason"] and not _bereaved(event)


# What an `exited` has to look like after a deed.
_FITS: dict[str, Callable[[Event], bool]] = {
    "SIGKILL": _killed,
    "SIGTERM": _preempted,
    "supervisor SIGTERM": _preempted,
    "supervisor SIGKILL": _bereaved,
    "guardian": lambda event: event["code"] is None and event["signal"] is None and event["verdict"] == "failed",
    "exit": lambda event: event["code"] in (1, 78, 93),
    "raise": _crashed,
    "abort": lambda event: event["signal"] == "SIGABRT" and event["verdict"] == "failed",
    "hang": lambda event: event["verdict"] == "failed" and "it hung" in event["reason"],
    "hoard": lambda event: event["out_of_memory"] and event["signal"] == "SIGKILL" and event["verdict"] == "failed",
    "hoard, unlimited": _crashed,
}


class Story:
    """What is to be judged.

    Args:
        journal: its events, in order.
        lives: the supervisors, in order.
        done: by pid of a program, what was done to it and what it did to itself.
        places: by pid, the batch before which it crashed.
        trained: what all programs logged.
        give_up: the option of that name.
    """

    def __init__(
        self,
        journal: Sequence[Event],
        lives: Sequence[Past],
        done: Mapping[int, Sequence[str]],
        places: Mapping[int, tuple[int, int]],
        trained: Sequence[oracle.Trained],
        give_up: int,
    ) -> None:
        self._journal, self._lives, self._done, self._places = journal, lives, done, places
        self._trained, self._give_up = trained, give_up
        self._began = {event["pid"] for event in journal if event["event"] == "started"}

    def problems(self) -> list[str]:
        """One sentence for each thing that it tells wrongly; empty if it is true."""
        return list(self._all())

    def _all(self) -> Iterator[str]:
        before: Past | None = None
        for life in self._lives:
            yield from (f"supervisor {life.pid}: {what}" for what in self._of(life, before))
            before = life
        yield from self._order()
        yield from self._resumes()

    # -- one supervisor --------------------------------------------------------------------------------------------------------

    def _of(self, life: Past, before: Past | None) -> Iterator[str]:
        told = [event for event in self._journal if event["event"] == "attempt" and event["supervisor"] == life.pid]
        yield from self._attempts(life, [Attempt(event["attempt"], event["pid"]) for event in told])
        exits = [event for attempt in told for event in self._exits(attempt["pid"])]
        for attempt in told:
            yield from self._one(life, attempt["pid"], may_find_it_locked=attempt is told[0] and before is not None and before.killed)
        yield from self._poison(told)
        yield from self._failures(exits)
        yield from self._end(life, exits)

    def _attempts(self, life: Past, told: Sequence[Attempt]) -> Iterator[str]:
        seen = list(life.attempts)
        if not told and not any(attempt.pid in self._began for attempt in seen):
            return  # none of its programs came as far as to name the directory
        if told[: len(seen)] != seen or len(told) > len(seen) + life.killed:
            yield f"its terminal told of {seen}, the journal of {list(told)}"

    def _exits(self, pid: int) -> list[Event]:
        return [event for event in self._journal if event["event"] == "exited" and event["pid"] == pid]

    def _one(self, life: Past, pid: int, *, may_find_it_locked: bool) -> Iterator[str]:
        exits, done = self._exits(pid), self._done.get(pid, ())
        # A supervisor that dies after it has told the end, and before it has taken leave, leaves the guard to tell it once more.
        if len(exits) != 1 and not (life.killed and len(exits) == (2 if pid in self._began else 0)):
            yield f"program {pid} ended once and is told to have ended {len(exits)} times"
        for event in exits:
            locked = may_find_it_locked and _crashed(event) and pid not in self._began
            fits = any(_FITS[deed](event) for deed in done) or event["code"] == 0 or locked or (life.killed and _bereaved(event))
            if not fits:
                yield f"program {pid} met {list(done) or 'nothing'}, and the journal says {dict(event)}"
            yield from self._place(event)
        hangs = [event for event in self._journal if event["event"] == "hung" and event["pid"] == pid]
        if len(hangs) != ("hang" in done):
            yield f"program {pid} hung {int('hang' in done)} times, and the journal says {len(hangs)}"

    def _place(self, event: Event) -> Iterator[str]:
        """A batch that is logged may not have been told to the supervisor yet, but none beyond."""
        mine = [batch.position for batch in self._trained if batch.attempt == event["pid"]]
        if not mine or "epoch" not in event:
            return
        last, told = mine[-1], (event["epoch"], event["batch"])
        allowed = {(last[0], last[1] + 1), (last[0] + 1, 0), last}
        if told not in allowed and event["skipping"] is False:
            yield f"program {event['pid']} trained {last} last, and the journal says that it ended at {told}"
        if event["code"] == 75 and event["verdict"] == "preempted" and event["lost_steps"]:
            yield f"program {event['pid']} was preempted and lost {event['lost_steps']} steps"

    def _poison(self, told: Sequence[Event]) -> Iterator[str]:
        """After two failures at one batch in a row, the next attempt goes on from a checkpoint before."""
        for first, second, third in zip(told, told[1:], told[2:], strict=False):
            place = self._places.get(second["pid"])
            if place is None or place != self._places.get(first["pid"]) or not self._resumed(second["pid"]):
                continue
            if third["resume_at_most"] is None:
                yield f"programs {first['pid']} and {second['pid']} failed at {place}, and {third['pid']} went on from the same checkpoint"

    def _resumed(self, pid: int) -> int:
        """The step that the program went on from."""
        mine = False
        for event in self._journal:
            mine = event["pid"] == pid if event["event"] == "attempt" else mine
            if mine and event["event"] == "restored":
                return int(event["step"])
        return 0

    def _failures(self, exits: Sequence[Event]) -> Iterator[str]:
        failures = 0
        for event in (event for event in exits if not _bereaved(event)):
            failures = 0 if event["progressed"] else failures + (event["verdict"] == "failed")
            if event["failures"] != failures:
                yield f"program {event['pid']}: {failures} failures in a row, and the journal says {event['failures']}"

    def _end(self, life: Past, exits: Sequence[Event]) -> Iterator[str]:
        final = [event for event in exits if _is_final(event)]
        if final and final[0] is not [event for event in exits if not _bereaved(event)][-1]:
            yield f"it went on after {dict(final[0])}"
        yield from (f"{dict(event)} is no {FINAL[event['code']]!r}" for event in final if event["verdict"] != FINAL[event["code"]])
        if life.killed:
            return
        gave_up = [event for event in exits if event["failures"] >= self._give_up and not event["progressed"]]
        expected = {event["code"] for event in final} or ({93} if gave_up else {75} if "SIGTERM" in life.struck else set())
        if exits and life.code not in expected:
            yield f"it ended with {life.code} and should have ended with {sorted(expected)}"

    # -- all of them -----------------------------------------------------------------------------------------------------------

    def _order(self) -> Iterator[str]:
        """No attempt begins before the one before it has ended, and what a program tells lies between the two."""
        inside: int | None = None
        for event in self._journal:
            if event["event"] == "attempt":
                if inside is not None and self._exits(inside):
                    yield f"program {event['pid']} began before {inside} had ended"
                inside = event["pid"]
            elif event["event"] == "exited" and event["pid"] == inside:
                inside = None
            elif event["event"] == "started" and event["pid"] != inside:
                yield f"program {event['pid']} started outside of its attempt"

    def _resumes(self) -> Iterator[str]:
        """An attempt goes on from what the last one was told to have committed, or from later: its last word may have been cut off."""
        committed, at_most = 0, None
        for event in self._journal:
            if event["event"] == "attempt":
                at_most = event["resume_at_most"]
            elif event["event"] == "restored":
                if event["step"] < committed and at_most is None:
                    yield f"step {committed} was committed, and the next attempt went on from {event['step']}"
                committed = event["step"]
            elif event["event"] == "exited" and event.get("committed") is not None:
                committed = event["committed"]
