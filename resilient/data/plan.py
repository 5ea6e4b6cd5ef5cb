"""Which batches each epoch trains, as Keras counts them: pure arithmetic, no data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Span:
    """The batches of one epoch: `count` of them from batch `first` of pass `pass_index` over the data."""

    pass_index: int
    first: int
    count: int


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive epochs `first`..`last` that one call of Model.fit trains, `count` batches each; the first may begin at `skip`."""

    first: int
    last: int
    skip: int
    count: int


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """How a run's epochs lie over the passes through its data.

    Attributes:
        num_batches: batches in one pass.
        steps_per_epoch: fit's argument; None means one pass an epoch.
        steps_per_execution: of the compiled model: an execution is never cut.
        first_epoch: the run's `initial_epoch`, which begins the first pass.
    """

    num_batches: int
    steps_per_epoch: int | None
    steps_per_execution: int
    first_epoch: int

    @property
    def steps(self) -> int:
        """Batches an epoch is announced to have (the progress bar's target)."""
        return self.steps_per_epoch or self.num_batches

    def span(self, epoch: int) -> Span:
        """Where in the data `epoch` lies. Keras goes on where the epoch before stopped, and cuts an epoch short at the end of a pass."""
        executions = math.ceil(self.steps / self.steps_per_execution)
        per_epoch = min(executions * self.steps_per_execution, self.num_batches)
        epochs_per_pass = math.ceil(self.num_batches / per_epoch)
        pass_index, part = divmod(epoch - self.first_epoch, epochs_per_pass)
        first = part * per_epoch
        return Span(pass_index, first, min(per_epoch, self.num_batches - first))

    def phases(self, epoch: int, batch: int, epochs: int) -> Iterator[Phase]:
        """Calls of Model.fit that train from (`epoch`, `batch`) to the end of epoch `epochs - 1`.

        The rest of a broken epoch is a call of its own: within one call, Keras wants all epochs to be of one length.
        """
        if epoch < epochs and batch > 0:
            yield Phase(epoch, epoch, batch, self.span(epoch).count - batch)
            epoch += 1
        while epoch < epochs:
            count = self.span(epoch).count
            last = epoch if self._split else epochs - 1
            yield Phase(epoch, last, 0, count)
            epoch = last + 1

    @property
    def _split(self) -> bool:
        return self.span(self.first_epoch).count < self.num_batches
