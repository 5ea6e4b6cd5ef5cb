"""Retention as a pure decision: which checkpoints of a run stay."""

from __future__ import annotations

import dataclasses
import datetime as dt
from typing import TYPE_CHECKING

from resilient.durations import parse_duration
from resilient.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from resilient.manifest import Manifest


@dataclasses.dataclass(frozen=True)
class Keep:
    """Which recovery checkpoints survive. A checkpoint stays if any of the three rules wants it.

    Attributes:
        last: the newest this many, at least 1: the newest one never goes.
        best: this many with the best value of the monitored metric; 0 keeps none for its value.
        every: an int keeps the end of every so many epochs; a duration ("30m", `timedelta`) keeps one per that time; None keeps none.

    Raises:
        ConfigurationError: a value is of the wrong type or out of range.
    """

    last: int = 3
    best: int = 1
    every: int | str | dt.timedelta | None = None

    def __post_init__(self) -> None:
        _check_count("keep.last", self.last, 1)
        _check_count("keep.best", self.best, 0)
        if isinstance(self.every, (str, dt.timedelta)):
            parse_duration(self.every, "keep.every")
        elif self.every is not None:
            _check_count("keep.every", self.every, 1, ', a duration such as "30m", or None')

    def survivors(self, manifests: Sequence[Manifest]) -> set[int]:
        """Sequence numbers of the checkpoints that stay, out of those in `manifests` (any order); the highest is always among them."""
        ordered = sorted(manifests, key=lambda manifest: manifest.sequence)
        kept = [*ordered[-self.last :], *ranked(ordered)[: self.best], *self._periodic(ordered)]
        return {manifest.sequence for manifest in kept}

    def _periodic(self, ordered: Sequence[Manifest]) -> Iterator[Manifest]:
        if isinstance(self.every, int):
            # The start of the run is no end of an epoch, though its epoch number is a multiple of everything.
            yield from (m for m in ordered if m.progress.batch == 0 and m.progress.epoch > 0 and m.progress.epoch % self.every == 0)
        elif self.every is not None:
            yield from _spaced(ordered, parse_duration(self.every, "keep.every"))


def _spaced(ordered: Sequence[Manifest], seconds: float) -> Iterator[Manifest]:
    """A chain of checkpoints, each at least `seconds` later than the one before it in the chain.

    It begins with the oldest and does not depend on those left out, so that pruning again keeps the same ones. A clock that was
    set back begins a new chain: otherwise one checkpoint dated in the future would end it for good.
    """
    previous: dt.datetime | None = None
    for manifest in ordered:
        if previous is None or manifest.created < previous or (manifest.created - previous).total_seconds() >= seconds:
            previous = manifest.created
            yield manifest


def ranked(manifests: Sequence[Manifest]) -> list[Manifest]:
    """The scored checkpoints, best first; of equal ones the earlier first. NaN never ranks, nor does what has no score.

    The direction is that of the newest scored one: scores of an older line of history that meant the opposite do not compare.
    """
    scored = [m for m in manifests if m.score is not None and m.score == m.score and m.mode is not None]
    scored.sort(key=lambda manifest: manifest.sequence)
    if not scored:
        return []
    mode = scored[-1].mode
    same = [manifest for manifest in scored if manifest.mode == mode]
    return sorted(same, key=lambda manifest: manifest.score or 0.0, reverse=mode == "max")


def best_sequence(manifests: Sequence[Manifest]) -> int | None:
    """Sequence number of the best, None where none has a score."""
    best = ranked(manifests)
    return best[0].sequence if best else None


def _check_count(name: str, value: object, least: int, otherwise: str = "") -> None:
    if not isinstance(value, int) or isinstance(value, bool) or value < least:
        raise ConfigurationError(f"{name}={value!r} is not accepted. It has to be an integer of at least {least}{otherwise}.")
