"""A measured quantity: the median of its values, the quartiles around it, and how many there were."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypedDict

import numpy as np


class Spread(TypedDict):
    """Plain JSON, so that it is stored as it is."""

    median: float
    low: float
    high: float
    count: int


def spread(values: Iterable[float]) -> Spread:
    """Median and quartiles of at least one value."""
    found = np.asarray(list(values), float)
    low, median, high = (float(value) for value in np.percentile(found, (25, 50, 75)))
    return Spread(median=median, low=low, high=high, count=len(found))


def ratio(of: Spread, to: Spread) -> float:
    """Ratio of the medians."""
    return of["median"] / to["median"]
