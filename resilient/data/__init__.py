"""The input as a function of (seed, epoch, batch): one file per kind of input."""

from __future__ import annotations

from resilient.data.arrays import ROWS, ArrayInput, accepts, split
from resilient.data.plan import EpochPlan, Phase, Span

__all__ = ["ROWS", "ArrayInput", "EpochPlan", "Phase", "Span", "accepts", "split"]
