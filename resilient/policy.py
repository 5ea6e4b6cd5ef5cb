"""When to save, as small frozen values with one pure method each; time is an argument."""

from __future__ import annotations

import abc
import dataclasses
import math
from typing import Any, NamedTuple

OVERHEAD_BUDGET = 0.01  # of training time, for `save_every="auto"`
_SHORTEST = 1.0  # seconds: below this a save's fixed costs (four fsyncs, a rename, a line in the journal) outweigh what is lost
# Seconds up to which rare failures stretch the interval. Beyond a minute little is left to gain: a save that costs more than 0.6 s
# is spaced further apart by the budget anyway. And where the estimate is wrong, because the machine has changed or its clock was set, a
# minute is lost and no more.
_LONGEST_FOR_RARE_FAILURES = 60.0
# What is assumed beside what was seen, so that the first failure of a young run says little. Gloomy on purpose: new programs and new spot
# machines die young (the latters' lifetimes are shaped like a bathtub, arXiv:1911.05160).
_ASSUMED_FAILURES, _ASSUMED_UPTIME = 1, _SHORTEST / (2 * OVERHEAD_BUDGET)
_WRITING_SHARE = 0.8  # of the time at most is a save under way: what it costs is seen by comparison with batches without one
_MARGIN, _BAND = 1.1, 1.25  # a new interval is this much longer than needed; it is kept until it is too short or this much too long


@dataclasses.dataclass(frozen=True)
class Costs:
    """What one save costs, in seconds: `training`, by which training takes longer; `writing`, until it is durable."""

    training: float
    writing: float


@dataclasses.dataclass(frozen=True)
class Failures:
    """Deaths that lost work, the seconds of training in which they were seen, and how many of the newest in a row came before any save."""

    count: int = 0
    uptime: float = 0.0
    in_vain: int = 0

    @property
    def mean_time_between(self) -> float:
        """Seconds of training for each failure, by the expected rate under a Gamma prior: time without failures counts as well."""
        return (self.uptime + _ASSUMED_UPTIME) / (self.count + _ASSUMED_FAILURES)


class Since(NamedTuple):
    """What happened since the last recovery checkpoint: `seconds`, less those by which it came early, and the steps `before` and `now`."""

    seconds: float
    before: int
    now: int


class Cadence(abc.ABC):
    """Decides whether a batch's end is a moment to save. Ends of epochs are saved in any case."""

    @abc.abstractmethod
    def due(self, since: Since) -> bool:
        """Whether to capture now."""

    def retuned(self, costs: Costs | None, failures: Failures) -> Cadence:
        """The cadence that these suggest; itself where nothing changes. Costs are None before the first save."""
        return self

    def early(self, since: Since) -> float:
        """Seconds by which a save now, at the end of an epoch, comes before its time, so that the next one can wait for longer."""
        return 0.0

    @property
    def choice(self) -> dict[str, Any]:
        """What it chose, and why, for the journal; {} where the caller chose."""
        return {}


@dataclasses.dataclass(frozen=True)
class EveryEpoch(Cadence):
    """Only at the ends of epochs."""

    def due(self, since: Since) -> bool:
        """Never within an epoch."""
        return False


@dataclasses.dataclass(frozen=True)
class EveryBatches(Cadence):
    """Whenever the step passes a multiple of `batches`."""

    batches: int

    def due(self, since: Since) -> bool:
        """Whether a multiple lies between the last checkpoint and now."""
        return since.now // self.batches > since.before // self.batches


@dataclasses.dataclass(frozen=True)
class EverySeconds(Cadence):
    """Once this many seconds have gone by."""

    seconds: float

    def due(self, since: Since) -> bool:
        """Whether they have."""
        return since.seconds >= self.seconds


@dataclasses.dataclass(frozen=True)
class Auto(Cadence):
    """The interval that wastes the least of those that keep the budget: `interval` seconds, for this `reason`.

    Saving every t seconds, at a cost of c, while failures come every M seconds on average, wastes the share c/t + t/2M of the time (beside
    what t does not change: writing and starting again). That falls until t = sqrt(2cM) (Young, CACM 17, 1974) and rises from
    there on, so the best t that is allowed is this one or, where it is too short, the shortest allowed: c over the budget, or what the disk
    needs to keep up. That a save is written in the background does not move the optimum: what counts is its cost to training, not
    the time until it is durable (Vaidya, IEEE Trans. Computers 46, 1997). Daly's higher terms (Future Generation
    Computer Systems 22, 2006) change less than 1 % wherever Young's term decides, which takes M > c / (2 budget^2).
    """

    interval: float = _SHORTEST
    reason: str = "never more often than this"

    def due(self, since: Since) -> bool:
        """Whether the interval is over."""
        return since.now > since.before and since.seconds >= self.interval

    def retuned(self, costs: Costs | None, failures: Failures) -> Auto:
        """With the interval these suggest; itself while that one is long enough, and not much too long: not every breath is news."""
        if costs is None:
            return self
        wanted = _wanted(costs, failures)
        if wanted.interval <= self.interval <= _BAND * wanted.interval:
            return self
        return dataclasses.replace(wanted, interval=_MARGIN * wanted.interval)

    def early(self, since: Since) -> float:
        """One interval at most: an epoch as short as can be does not put off for long what a longer one after it needs."""
        return min(max(self.interval - since.seconds, 0.0), self.interval)

    @property
    def choice(self) -> dict[str, Any]:
        """The interval in seconds, and its reason."""
        return {"interval": round(self.interval, 3), "interval_reason": self.reason}


def _wanted(costs: Costs, failures: Failures) -> Auto:
    between = failures.mean_time_between
    useful = min(math.sqrt(2 * costs.training * between), _LONGEST_FOR_RARE_FAILURES)
    candidates = [
        Auto(),
        Auto(costs.writing / _WRITING_SHARE, f"writing takes {costs.writing:.3g} s"),
        Auto(costs.training / OVERHEAD_BUDGET, f"a save costs training {costs.training:.3g} s, and {OVERHEAD_BUDGET:.0%} is allowed"),
    ]
    if failures.count:  # before the first nobody knows how rare they are, and the budget decides
        seen = f"seen: {failures.count} in {failures.uptime:.0f} s"
        candidates.append(Auto(useful, f"one failure in {between:.0f} s ({seen}): to save more often costs more"))
    wanted = max(candidates, key=lambda candidate: candidate.interval)
    if not failures.in_vain:
        return wanted
    # Attempts that die before they save would repeat the same batches for ever, within the budget. One early save gets them further.
    interval = max(_SHORTEST, wanted.interval * 0.5**failures.in_vain)
    return Auto(interval, f"{wanted.reason}; but halved for each of {failures.in_vain} attempts in a row that ended before a save")


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


@dataclasses.dataclass(frozen=True)
class Haste:
    """Whether a commit under way is given up for a newer snapshot, when the process has to end.

    Then only the newer one counts; but where it may not be done in time, the older one is worth more than none. `writing`: seconds that the
    last commit took, while training went on; None before the first.
    """

    writing: float | None
    safety: float = 1.5

    def gives_up(self, left: float) -> bool:
        """Whether `left` seconds are enough for the newer one alone; infinite where nothing presses."""
        return left == math.inf or (self.writing is not None and left >= self.safety * self.writing)
