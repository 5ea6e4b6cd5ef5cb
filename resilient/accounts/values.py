"""The account as values."""

from __future__ import annotations

import dataclasses
import datetime as dt
import enum
from collections.abc import Mapping, Sequence
from typing import Any

Event = Mapping[str, Any]


class End(enum.Enum):
    """How an attempt ended."""

    OPEN = "open"  # nothing tells that it has
    FINISHED = "finished"
    PREEMPTED = "preempted"
    FAILED = "failed"  # an error, or an exit code other than 0 and 75
    OUT_OF_MEMORY = "out of memory"
    HUNG = "hung"
    KILLED = "killed"  # by a signal
    VANISHED = "vanished"  # another attempt began, and nobody wrote how this one ended: it was killed, or its machine was


@dataclasses.dataclass(frozen=True)
class Save:
    """One committed checkpoint.

    Attributes:
        time: when it was durable.
        step, epoch, batch: its position.
        final: the state after the end of training.
        best: by the monitored metric, when it was written.
        nbytes: its size.
        seconds: from the beginning of the writing until it was durable. Training goes on meanwhile, but for a final one.
        waited: training waited for it, because memory had no room for copies.
        stall: seconds by which training takes longer because of it, as measured in the run; the capture alone where that is not known.
        metrics: what the run had logged at that moment, NaN and infinities too; {} in journals of older versions.
    """

    time: dt.datetime
    step: int
    epoch: int
    batch: int
    final: bool
    best: bool
    waited: bool
    nbytes: int
    seconds: float
    stall: float
    metrics: Mapping[str, float]


@dataclasses.dataclass(frozen=True)
class Time:
    """Seconds, none of them counted twice.

    Attributes:
        training: batches, validation and callbacks that lead to what is on disk, and, where the attempt is open, since.
        saving: what the saves took away from training.
        lost: training after the last checkpoint that anybody went on from.
        starting: from the start of a process until it had restored or first saved its state.
        down: nobody ran who should have: from the end of an attempt to the start of the next one, unless it had finished.
        unknown: an attempt ended and nobody wrote when.
    """

    training: float = 0.0
    saving: float = 0.0
    lost: float = 0.0
    starting: float = 0.0
    down: float = 0.0
    unknown: float = 0.0

    @property
    def total(self) -> float:
        """All of it."""
        return float(sum(dataclasses.astuple(self)))

    @property
    def goodput(self) -> float | None:
        """The share of the time that was training that counts; None before any time has passed."""
        return self.training / self.total if self.total > 0 else None

    def __add__(self, other: Time) -> Time:
        """Both."""
        return Time(*map(sum, zip(dataclasses.astuple(self), dataclasses.astuple(other), strict=True)))


@dataclasses.dataclass(frozen=True)
class Attempt:
    """One process that trained, or tried to.

    Attributes:
        number: what the supervisor calls it (it begins with 1 for each supervisor); None where there was none.
        pid, supervisor: process numbers, None where the journal does not tell.
        began: the start of the process where a supervisor tells it, else that of `fit`.
        trained_from: when it had restored or first saved its state, None if it never did.
        ended: None where it is open or nobody wrote it; then `last` is the last that was heard of it.
        end, reason: how it ended, as a word and as a phrase for people ("" where nothing is known).
        verdict: the supervisor's ("done", "preempted", "failed", "needs a human", "gave up"), None without one.
        start: the step it went on from, None if it never came so far.
        reached: the last step it is known to have trained; `reached_exactly`: it is not only the last that was saved.
        saves: oldest first.
        lost_steps: trained and not gone on from; `lost_exactly`: it is not only a lower bound, as where nobody told the last batch.
        time: where its time went.
        down: seconds from its end until the next attempt.
        peak_rss: bytes, None where no supervisor tells.
        failures: in a row without progress, as the supervisor counted them.
        restart_in: seconds after its end at which the supervisor starts the next, None: it does not, or there is none.
        failed_saves: how many.
        events: all that belong to it, in the order of the journal.
    """

    number: int | None
    pid: int | None
    supervisor: int | None
    began: dt.datetime
    trained_from: dt.datetime | None
    ended: dt.datetime | None
    last: dt.datetime
    end: End
    reason: str
    verdict: str | None
    start: int | None
    reached: int | None
    reached_exactly: bool
    saves: Sequence[Save]
    lost_steps: int
    lost_exactly: bool
    time: Time
    down: float
    peak_rss: int | None
    failures: int
    restart_in: float | None
    failed_saves: int
    events: Sequence[Event]


@dataclasses.dataclass(frozen=True)
class Run:
    """One line of history.

    Attributes:
        run_id: None where no attempt came so far as to have one.
        attempts: oldest first, at least one.
        finished: it has come to its end (with the epochs that it was asked for last).
        gave_up: the supervisor's list of failures, None if it has not given up since the last attempt.
        quarantined: events of checkpoints that were found damaged.
    """

    run_id: str | None
    attempts: Sequence[Attempt]
    finished: bool
    gave_up: Sequence[str] | None
    quarantined: Sequence[Event]

    @property
    def time(self) -> Time:
        """Where the time went, from the start of the first attempt to the end of the last one."""
        return sum((attempt.time for attempt in self.attempts), Time())

    @property
    def goodput(self) -> float | None:
        """Share of the time that was training that counts."""
        return self.time.goodput

    @property
    def saves(self) -> list[Save]:
        """All of them, oldest first."""
        return [save for attempt in self.attempts for save in attempt.saves]

    @property
    def lost_steps(self) -> int:
        """Steps that were trained and not gone on from."""
        return sum(attempt.lost_steps for attempt in self.attempts)

    @property
    def lost_exactly(self) -> bool:
        """Whether it is not only a lower bound."""
        return all(attempt.lost_exactly for attempt in self.attempts)

    @property
    def began(self) -> dt.datetime:
        """The start of its first attempt."""
        return self.attempts[0].began
