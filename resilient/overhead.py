"""What a save costs training: measured on the batches themselves, those during a save against those without one."""

from __future__ import annotations

import math
import statistics
from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from resilient.policy import Costs

_USUAL_BATCHES = 128  # without a save, the newest: enough for a median, few enough to follow a training whose batches change
_FEWEST_BATCHES = 8
_SAVES = 8  # the newest: two that fall together with something else (an evaluation, a full garbage collection) move nothing
_FEWEST_SAVES = 3
# Of the writer's processor time, while nothing is measured: a core may have been free. The three saves it takes to find out cost less than
# waiting for long because of a guess.
_GUESSED_SHARE = 0.5


class Overhead:
    """Compares the time of batches while a save is under way with that of as many batches without one.

    The difference is all that a save costs training in one number: the capture, the copies that the next step makes of what it writes
    into, and what the writing takes away of cores, memory and disk. The writer's own processor time, the obvious measure, says
    nothing of the copies and too much where a core is free. It stands in until three saves were measured, unless an earlier attempt
    has left its costs in the journal. Only saves between the batches of an epoch are measured: at its end something else goes on as well.

    All but `written` and `costs` belongs to the training thread, and those to the writer's. They share immutable values, each
    replaced in one assignment, and need no lock.

    Args:
        known: the costs that an earlier attempt found.

    Attributes:
        saving: whether a save was begun and no batch has seen its end yet.
    """

    def __init__(self, known: Costs | None = None) -> None:
        self.saving = False
        self._known = known
        self._usual: deque[float] = deque(maxlen=_USUAL_BATCHES)
        self._last: float | None = None
        self._whole = True  # of the save under way nothing has been missed so far
        self._batches, self._seconds = 0, 0.0
        self._measured: tuple[float, ...] = ()
        self._written: tuple[Costs, ...] = ()
        self._capture = 0.0

    def new_stretch(self) -> None:
        """What went on since the last batch was something else: an epoch's end, a validation."""
        self._last = None

    def batch(self, now: float, *, saving: bool) -> None:
        """A batch has ended `now`; `saving`: the save that was begun before it is still under way."""
        last, self._last = self._last, now
        if not self.saving:
            if last is not None:
                self._usual.append(now - last)
            return
        if last is not None:
            self._batches += 1
            self._seconds += now - last
        elif self._batches == 0:
            self._whole = False  # the batch after the capture is the one that pays for the copies
        if not saving:
            self._finish()

    def begin(self) -> None:
        """A snapshot was captured after the last batch and handed to the writer."""
        self._whole = not self.saving  # one that took another's place cannot be told from it
        self._batches, self._seconds = 0, 0.0
        self.saving = True

    def failed(self) -> None:
        """The save under way came to nothing: what it cost is not what a save costs."""
        self._whole = False

    def written(self, *, capture: float, processor: float, writing: float) -> None:
        """A save is durable: seconds that its capture took, processor seconds of the writing, and seconds that the writing took."""
        self._capture = capture
        self._written = (*self._written, Costs(capture + processor, writing))[-_SAVES:]

    @property
    def costs(self) -> Costs | None:
        """The costs of one save, by the best that is known; None before the first."""
        if not self._written:
            return self._known
        writing = _middle([costs.writing for costs in self._written])
        return Costs(max(self._capture, self._training()), writing)

    def _training(self) -> float:
        if len(self._measured) >= _FEWEST_SAVES:
            return _middle(self._measured)
        if self._known is not None:
            return self._known.training
        return _GUESSED_SHARE * _middle([costs.training for costs in self._written])

    def _finish(self) -> None:
        self.saving = False
        if self._whole and self._batches and len(self._usual) >= _FEWEST_BATCHES:
            self._measured = (*self._measured, self._seconds - _usual_time(list(self._usual), self._batches))[-_SAVES:]


def known_costs(events: Sequence[Mapping[str, Any]]) -> Costs | None:
    """The costs that the newest save in a journal's events tells, None if none does."""
    for event in reversed(events):
        training, writing = _seconds(event, "training_seconds"), _seconds(event, "seconds")
        if event["event"] == "saved" and training is not None and writing is not None:
            return Costs(training, writing)
    return None


def _seconds(event: Mapping[str, Any], name: str) -> float | None:
    value = event.get(name)
    return value if isinstance(value, float) and 0 <= value < math.inf else None


def _usual_time(usual: list[float], batches: int) -> float:
    """Seconds for this many batches: the median over stretches of as many, so that what belongs to every so many of them is in it."""
    stretches = [sum(usual[first : first + batches]) for first in range(0, len(usual) - batches + 1, batches)]
    return statistics.median(stretches) if stretches else batches * statistics.fmean(usual)


def _middle(values: Sequence[float]) -> float:
    """Mean of the middle half of at least three values, and its standard error on top: what is unsure shall not overdraw the budget."""
    middle = sorted(values)
    if len(middle) >= _FEWEST_SAVES:
        outer = max(1, len(middle) // 4)
        middle = middle[outer:-outer]
    mean = statistics.fmean(middle)
    # Not by `statistics.pstdev`: it reckons in fractions, which takes a hundredth of the time of saving a small model.
    return mean + math.dist(middle, [mean] * len(middle)) / len(middle)
