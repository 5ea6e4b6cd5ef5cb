"""Which attempt trained which step of what the end is made of, and where the first difference came in. Pure."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from resilient.chaos.endings import Comparison
from resilient.chaos.witness import Sighting

_SHOWN = 3


@dataclasses.dataclass(frozen=True)
class Stretch:
    """Steps `start` + 1 to `end` of the end's past were trained by attempt number `attempt`."""

    attempt: int
    start: int
    end: int


@dataclasses.dataclass(frozen=True)
class FirstDifference:
    """Where two trainings part.

    Attributes:
        what: the tensor or the value of History that shows it, for people.
        after: the last step at which both were seen to be equal, None if none was seen.
        by: the first step, or the end of the epoch, at which they differ.
        epoch: counted from 0; None where it is not known.
        attempts: numbers of those that trained the steps in between.
    """

    what: str
    after: int | None
    by: int
    epoch: int | None
    attempts: Sequence[int]

    def __str__(self) -> str:
        """For people."""
        since = "" if self.after is None else f"equal at step {self.after}, "
        epoch = "" if self.epoch is None else f" (epoch {self.epoch})"
        number = "attempts" if len(self.attempts) > 1 else "attempt"
        by = f", trained by {number} {', '.join(map(str, self.attempts))}" if self.attempts else ""
        return f"{self.what}; {since}different by step {self.by}{epoch}{by}"


def stretches(attempts: Sequence[tuple[int, int, int]]) -> list[Stretch]:
    """Of attempts as (number, step it went on from, step it came to), oldest first: what was not trained again by a later one."""
    line: list[Stretch] = []
    for number, start, end in attempts:
        line = [dataclasses.replace(part, end=min(part.end, start)) for part in line if part.start < start]
        if end > start:
            line.append(Stretch(number, start, end))
    return line


def first_difference(
    comparison: Comparison,
    undisturbed: Mapping[int, Sighting],
    disturbed: Mapping[int, Sighting],
    line: Sequence[Stretch],
    epoch_ends: Sequence[int],
) -> FirstDifference | None:
    """The first difference that can be told; None where the ends are equal or cannot be compared.

    Args:
        comparison: of the ends.
        undisturbed: what was seen of the checkpoints of the one training, by step.
        disturbed: of the other.
        line: who trained what of the disturbed training's past.
        epoch_ends: step of the end of each epoch.
    """
    if comparison.equal or comparison.missing is not None:
        return None
    common = sorted(undisturbed.keys() & disturbed.keys())
    parting = next((step for step in common if undisturbed[step].digests != disturbed[step].digests), None)
    history = comparison.history
    in_history = epoch_ends[history.epoch] if history is not None and history.epoch < len(epoch_ends) else None
    equal = [step for step in common if step < (parting if parting is not None else (in_history or 0) + 1)]
    after = equal[-1] if equal else None
    if parting is not None and (in_history is None or parting <= in_history):
        names = _differing(undisturbed[parting], disturbed[parting])
        return _told(_listed(names), after, parting, _epoch(parting, epoch_ends), line)
    if history is not None and in_history is not None:
        start = epoch_ends[history.epoch - 1] if history.epoch else 0
        return _told(str(history), start if after is None else min(after, start), in_history, history.epoch, line)
    end = line[-1].end if line else (epoch_ends[-1] if epoch_ends else 0)
    what = str(comparison.tensors[0]) if comparison.tensors else str(history)
    return _told(what, max((step for step in common), default=None), end, None, line)


def _differing(a: Sighting, b: Sighting) -> list[str]:
    return [name for name in {**a.digests, **b.digests} if a.digests.get(name) != b.digests.get(name)]


def _listed(names: Sequence[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more


def _epoch(step: int, epoch_ends: Sequence[int]) -> int | None:
    return next((epoch for epoch, end in enumerate(epoch_ends) if step <= end), None)


def _told(what: str, after: int | None, by: int, epoch: int | None, line: Sequence[Stretch]) -> FirstDifference:
    since = -1 if after is None else after
    attempts = [part.attempt for part in line if part.start < by and part.end > since]
    return FirstDifference(what, after, by, epoch, tuple(dict.fromkeys(attempts)))
