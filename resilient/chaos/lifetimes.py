"""How long machines live, as distributions with a given mean: chance in, seconds out."""

from __future__ import annotations

import abc
import dataclasses
import math
from collections.abc import Mapping


@dataclasses.dataclass(frozen=True)
class Lifetime(abc.ABC):
    """A distribution of lifetimes; `mean` in seconds."""

    mean: float

    @abc.abstractmethod
    def quantile(self, chance: float) -> float:
        """Seconds that a machine lives, for a uniform number in [0, 1)."""


@dataclasses.dataclass(frozen=True)
class Exponential(Lifetime):
    """Failures that know nothing of age: the same risk at every moment."""

    def quantile(self, chance: float) -> float:
        """-mean * log(1 - chance)."""
        return -self.mean * math.log1p(-chance)


@dataclasses.dataclass(frozen=True)
class Early(Lifetime):
    """The longer it has lived, the longer it will: a Weibull distribution of shape 0.7, half of which has died after 0.47 of the mean.

    Schroeder and Gibson (A large-scale study of failures in high-performance computing systems, DSN 2006) found Weibull distributions with
    a decreasing hazard rate, of shape 0.7 to 0.8, to describe the times between failures of large machines.
    """

    shape: float = 0.7

    def quantile(self, chance: float) -> float:
        """The Weibull distribution's, scaled to the mean."""
        scale = self.mean / math.gamma(1 + 1 / self.shape)
        return float(scale * (-math.log1p(-chance)) ** (1 / self.shape))


@dataclasses.dataclass(frozen=True)
class Bathtub(Lifetime):
    """Spot machines with a longest life b: half die young, few in between, the rest near b.

    F(t) = A (1 - exp(-t / t1) + exp((t - b) / t2)), the form that Kadupitiya, Jadhao and Sharma fitted to more than 1,500 preemptions of
    Google's VMs with b = 24 h (Modeling the temporally constrained preemptions of transient cloud VMs, HPDC 2020, arXiv:1911.05160).
    Here t1 = b / 24, t2 = 0.8 b / 24, and A = 1 / 2, which makes F(b) one.
    """

    early: float = 1 / 24  # t1 and t2, as shares of b
    late: float = 0.8 / 24

    @property
    def longest(self) -> float:
        """The longest life b in seconds."""
        # The mean is the integral of 1 - F from 0 to b.
        share = 1 - (1 - self.early * -math.expm1(-1 / self.early) + self.late * -math.expm1(-1 / self.late)) / 2
        return self.mean / share

    def quantile(self, chance: float) -> float:
        """By bisection; F has no inverse in closed form."""
        low, high = 0.0, 1.0
        for _ in range(60):
            middle = (low + high) / 2
            low, high = (middle, high) if self._share_dead(middle) < chance else (low, middle)
        return high * self.longest

    def _share_dead(self, age: float) -> float:
        return (1 - math.exp(-age / self.early) + math.exp((age - 1) / self.late)) / 2


SHAPES: Mapping[str, type[Lifetime]] = {"exponential": Exponential, "early": Early, "bathtub": Bathtub}
