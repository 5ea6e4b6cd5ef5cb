"""When to save, as small frozen values with one pure method each; time is an argument."""

from __future__ import annotations

import dataclasses
from typing import Protocol

OVERHEAD_BUDGET = 0.01  # of training time, for `save_every="auto"`
_SHORTEST_AUTO = 1.0  # seconds: below this a save's fixed costs (four fsyncs, a rename) outweigh what is lost


@dataclasses.dataclass(frozen=True)
class Costs:
    """What the last saves cost, in seconds: `training`, charged to training; `writing`, until durable. None before the first."""

    training: float | None = None
    writing: float | None = None


@dataclasses.dataclass(frozen=True)
class Since:
    """What happened since the last recovery checkpoint was captured: `seconds` and the steps `before` and `now`."""

    seconds: float
    before: int
    now: int


class Cadence(Protocol):
    """Decides whether a batch's end is a moment to save. Ends of epochs are saved in any case."""

    def due(self, since: Since, costs: Costs) -> bool:
        """Whether to capture now."""


@dataclasses.dataclass(frozen=True)
class EveryEpoch:
    """Only at the ends of epochs."""

    def due(self, since: Since, costs: Costs) -> bool:
        """Never within an epoch."""
        return False


@dataclasses.dataclass(frozen=True)
class EveryBatches:
    """Whenever the step passes a multiple of `batches`."""

    batches: int

    def due(self, since: Since, costs: Costs) -> bool:
        """Whether a multiple lies between the last checkpoint and now."""
        return since.now // self.batches > since.before // self.batches


@dataclasses.dataclass(frozen=True)
class EverySeconds:
    """Once this many seconds have gone by."""

    seconds: float

    def due(self, since: Since, costs: Costs) -> bool:
        """Whether they have."""
        return since.seconds >= self.seconds


@dataclasses.dataclass(frozen=True)
class Auto:
    """As often as the overhead budget allows, from measured costs: what a save costs training, over `budget`."""

    budget: float = OVERHEAD_BUDGET

    def interval(self, costs: Costs) -> float:
        """Seconds from one capture to the next."""
        if costs.training is None or costs.writing is None:
            return _SHORTEST_AUTO
        return max(_SHORTEST_AUTO, costs.training / self.budget, costs.writing)

    def due(self, since: Since, costs: Costs) -> bool:
        """Whether the interval is over."""
        return since.now > since.before and since.seconds >= self.interval(costs)


@dataclasses.dataclass(frozen=True)
class Backoff:
    """Waiting times between attempts to write: `first` seconds, doubled each time up to `longest`; `attempts` in all.

    Where somebody waits against a deadline, every `urgent` seconds until then.
    """

    first: float = 0.5
    longest: float = 30.0
    attempts: int = 5
    urgent: float = 0.2

    def wait(self, failures: int, *, hurry: bool = False) -> float | None:
        """Seconds to wait after this many failures in a row, None if it is time to give up; the deadline decides that in a `hurry`."""
        if hurry:
            return self.urgent
        if failures >= self.attempts:
            return None
        return float(min(self.longest, self.first * 2 ** (failures - 1)))
