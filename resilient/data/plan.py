"""Which batches each epoch trains, as Keras counts them: pure arithmetic, no data."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator


@dataclasses.dataclass(frozen=True)
class Span:
    """The batches of one epoch: `count` of them (None: not known before they end) from batch `first` of pass `pass_index` over the data."""

    pass_index: int
    first: int
    count: int | None


@dataclasses.dataclass(frozen=True)
class Phase:
    """Consecutive epochs `first`..`last` that one call of Model.fit trains; the first may begin at `skip`.

    `count`: batches of each, None where only the data's end tells.
    """

    first: int
    last: int
    skip: int
    count: int | None


@dataclasses.dataclass(frozen=True)
class EpochPlan:
    """How a run's epochs lie over the passes through its data.

    Attributes:
        num_batches: batches in one pass; None: endless, or not known before a pass ends.
        steps_per_epoch: fit's argument; None means one pass an epoch.
        steps_per_execution: of the compiled model: an execution is never cut.
        first_epoch: the run's `initial_epoch`, which begins the first pass.
    """

    num_batches: int | None
    steps_per_epoch: int | None
    steps_per_execution: int
    first_epoch: int

    @property
    def steps(self) -> int | None:
        """Batches an epoch is announced to have (the progress bar's target)."""
        return self.steps_per_epoch or self.num_batches

    @property
    def per_epoch(self) -> int | None:
        """Batches of an epoch that the data's end does not cut short: whole executions."""
        if self.steps is None:
            return None
        wanted = math.ceil(self.steps / self.steps_per_execution) * self.steps_per_execution
        return wanted if self.num_batches is None else min(wanted, self.num_batches)

    def span(self, epoch: int) -> Span:
        """Where in the data `epoch` lies. Keras goes on where the epoch before stopped, and cuts an epoch short at the end of a pass."""
        per_epoch = self.per_epoch
        if self.num_batches is None or per_epoch is None:
            return Span(0, 0, per_epoch)
        epochs_per_pass = math.ceil(self.num_batches / per_epoch)
        pass_index, part = divmod(epoch - self.first_epoch, epochs_per_pass)
        first = part * per_epoch
        return Span(pass_index, first, min(per_epoch, self.num_batches - first))

    def phases(self, epoch: int, batch: int, epochs: int, length: int | None = None) -> Iterator[Phase]:
        """Calls of Model.fit that train from (`epoch`, `batch`) to the end of epoch `epochs - 1`.

        The rest of a broken epoch is a call of its own: within one call, Keras wants all epochs to be of one length.

        Args:
            epoch: where to begin.
            batch: of that epoch.
            epochs: as in Model.fit.
            length: batches of the broken epoch, where more is known than the plan tells.
        """
        if epoch < epochs and batch > 0:
            count = self.span(epoch).count if length is None else length
            yield Phase(epoch, epoch, batch, None if count is None else count - batch)
            epoch += 1
        while epoch < epochs:
            last = epoch if self._split else epochs - 1
            yield Phase(epoch, last, 0, self.span(epoch).count)
            epoch = last + 1

    @property
    def _split(self) -> bool:
        count = self.span(self.first_epoch).count
        return self.num_batches is not None and count is not None and count < self.num_batches
