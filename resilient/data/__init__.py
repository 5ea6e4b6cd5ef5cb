"""The input as a function of (seed, epoch, batch): one file per kind of input."""

from __future__ import annotations

from resilient.data.arrays import ROWS, ArrayInput, accepts, split
from resilient.data.base import Input
from resilient.data.choice import choose
from resilient.data.phantom import EmptyEpoch
from resilient.data.plan import EpochPlan, Phase, Span
from resilient.data.progress import replays_heard_by
from resilient.data.streams import StreamInput
from resilient.data.tfdata import DatasetInput

__all__ = [
    "ROWS",
    "ArrayInput",
    "DatasetInput",
    "EmptyEpoch",
    "EpochPlan",
    "Input",
    "Phase",
    "Span",
    "StreamInput",
    "accepts",
    "choose",
    "replays_heard_by",
    "split",
]
