"""What whoever killed a run on purpose adds to its report."""

from __future__ import annotations

import dataclasses
import datetime as dt
from collections.abc import Sequence


@dataclasses.dataclass(frozen=True)
class Kill:
    """One fault that was delivered.

    Attributes:
        kind: what was done, a few words ("SIGKILL inside a commit").
        time: when (aware).
        attempt: the attempt that it hit, counted from 1; None where that cannot be told.
    """

    kind: str
    time: dt.datetime
    attempt: int | None = None


@dataclasses.dataclass(frozen=True)
class Storm:
    """The outcome of a storm of faults, for the top of the report.

    Attributes:
        identical: whether the end was bit for bit that of the undisturbed run; None where it never got to be compared.
        verdict: the same as one sentence for people.
        kills: what was delivered, in the order of time.
        first_difference: tensor, step and attempt of the first difference, as one sentence; None if there is none.
        details: further (name, value) rows for the table: command, seed, schedule, digests.
    """

    identical: bool | None
    verdict: str
    kills: Sequence[Kill] = ()
    first_difference: str | None = None
    details: Sequence[tuple[str, str]] = ()
