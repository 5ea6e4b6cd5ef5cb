"""The input as a function of (seed, epoch, batch): one file per kind of input."""

from __future__ import annotations

from resilient.data.arrays import ArrayInput, accepts, split
from resilient.data.plan import EpochPlan, Phase, Span

__all__ = ["ArrayInput", "EpochPlan", "Phase", "Span", "accepts", "split"]
