"""When a fault strikes: declared beforehand, drawn by a seed where chance decides, and counted afterwards."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable


class Schedule:
    """Is asked at every occasion, counted from 1, whether the fault strikes there. Safe to ask from several threads.

    Attributes:
        asked: occasions so far.
        struck: numbers of those at which it struck.
    """

    def __init__(self, rule: Callable[[int], bool], says: str) -> None:
        self._rule = rule
        self._says = says
        self._lock = threading.Lock()
        self.asked = 0
        self.struck: list[int] = []

    def __repr__(self) -> str:
        return self._says

    def strikes(self) -> bool:
        """Whether the fault strikes now."""
        with self._lock:
            self.asked += 1
            strikes = self._rule(self.asked)
            if strikes:
                self.struck.append(self.asked)
            return strikes


def fail_at(*occasions: int) -> Schedule:
    """At these occasions and at no other."""
    chosen = frozenset(occasions)
    return Schedule(chosen.__contains__, f"at {', '.join(map(str, sorted(chosen)))}")


def fail_from(first: int) -> Schedule:
    """From this occasion on."""
    return Schedule(lambda number: number >= first, f"from {first} on")


def fail_between(first: int, last: int) -> Schedule:
    """From this occasion to that one, both included: a disk that is full for a while."""
    return Schedule(lambda number: first <= number <= last, f"from {first} to {last}")


def fail_by_chance(share: float, seed: int) -> Schedule:
    """At a share of the occasions, drawn by the seed; the same ones each time."""
    chance = random.Random(seed)
    return Schedule(lambda number: chance.random() < share, f"at {share:.1%} of the occasions, seed {seed}")


def never() -> Schedule:
    """At no occasion: it only counts."""
    return Schedule(lambda number: False, "never")
