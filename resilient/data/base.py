"""What every kind of input has in common: a place in the run's epochs that can be saved and found again."""

from __future__ import annotations

import abc
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from resilient import keras_private
from resilient.data.loader_draws import LoaderDraws
from resilient.data.plan import EpochPlan
from resilient.errors import ConfigurationError


class Input(abc.ABC):
    """The run's side of what Model.fit gets as `x`: batches from the position that was sought last.

    Attributes:
        kind: what the caller handed over, for settings, messages and the journal.
        positioning: how a position is found again: "seek" (nothing before it is read), "iterator" (the iterator's own saved state) or
            "replay" (batches are read again and skipped).
        is_used_up: whether looking at a batch takes it away.
        warnings: what went wrong in finding the position, for the caller to tell.
    """

    kind = "arrays"
    positioning = "seek"
    is_used_up = False

    def __init__(self) -> None:
        self._plan: EpochPlan | None = None
        self._seed = 0
        self._planned: tuple[int | None, int | None] = (None, None)  # an epoch and its batches: asked for after every batch
        self.warnings: list[str] = []

    def learn(self, origin: Any = None) -> None:  # noqa: B027
        """Look at the first batches where shapes are learned from them; `origin`: from the position of a run that goes on."""

    def begin_run(self) -> None:  # noqa: B027
        """A fresh run, not a resumed one."""

    def open(self, plan: EpochPlan, seed: int) -> None:
        """Fix the run's plan and the seed of its order."""
        self._plan, self._seed = plan, seed
        self._planned = (None, None)

    @abc.abstractmethod
    def announce(self, count: int | None) -> None:
        """Batches in each epoch of the call of Model.fit that comes next; None: the data's end will tell."""

    @property
    @abc.abstractmethod
    def length(self) -> int | None:
        """Batches in one pass over the data; None: endless, or not known before a pass ends."""

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """What has to be the same for a run to be continued, as plain JSON."""

    @abc.abstractmethod
    def sample(self) -> tuple[Any, Any, Any]:
        """Something like the first batch as (x, y, sample_weight), for building the model: shapes and dtypes are all that counts."""

    def element_spec(self) -> Any:
        """TensorFlow's specification of what its dataset yields, None on other backends and where it would cost data to know."""
        return None

    def doubts(self) -> list[tuple[str, str, str]]:
        """What of the data may not come again as it was: what, why, remedy."""
        return []

    @abc.abstractmethod
    def seek(self, epoch: int, batch: int) -> None:
        """The next iterator begins at this batch of this epoch."""

    def epoch_length(self, epoch: int) -> int | None:
        """Batches of `epoch`, the present one, as far as is known by now."""
        if self._planned[0] != epoch:
            self._planned = (epoch, self._epochs.span(epoch).count)
        return self._planned[1]

    def trained(self, batches: int) -> None:  # noqa: B027
        """So many batches of the present epoch are trained."""

    def end_epoch(self) -> None:  # noqa: B027
        """The present epoch's batches are all trained."""

    def position(self) -> dict[str, Any]:
        """Plain data from which `restore` finds the present position again."""
        return {}

    def restore(self, position: Mapping[str, Any]) -> None:  # noqa: B027
        """Go to a saved position. May draw from the process' generators, so they are restored after it."""

    def saved_length(self, epoch: int, position: Mapping[str, Any]) -> int | None:
        """Batches of the epoch in which `position` lies, None where that was not known yet."""
        return self._epochs.span(epoch).count

    def close(self) -> None:  # noqa: B027
        """Let go of threads and iterators."""

    @property
    def _epochs(self) -> EpochPlan:
        if self._plan is None:
            raise ConfigurationError("The input was not opened. Call open() before training from it.")
        return self._plan


class Lazily:
    """An iterable whose iterator is asked for when its first batch is wanted, and not when Keras makes it, which is too early."""

    def __init__(self, iterate: Callable[[], Iterable[Any]]) -> None:
        self._iterate = iterate

    def __iter__(self) -> Iterator[Any]:
        yield from self._iterate()


class SequentialInput(Input, keras_private.DataAdapter):
    """An input that is read pass after pass from front to back. Knows in which pass the present epoch lies, and since which batch.

    Args:
        every_epoch: whether each epoch begins a new pass (validation, and training without steps_per_epoch).
    """

    def __init__(self, *, every_epoch: bool) -> None:
        super().__init__()
        self._every_epoch = every_epoch
        self._pass = -1
        self._first = 0  # batches of the pass that earlier epochs took
        self._batch = 0  # batches of the present epoch that are trained
        self._in_epoch = False
        self._restored = False
        self._announced: int | None = None
        self._was_announced = False
        self._loader_draws = LoaderDraws()

    def announce(self, count: int | None) -> None:
        """See Input."""
        self._announced, self._was_announced = count, True

    # -- Keras' side ----------------------------------------------------------------------------------------------------------

    @property
    def num_batches(self) -> int | None:
        """Batches in an epoch of the present call of Model.fit; before that, in one pass over the data."""
        return self._announced if self._was_announced else self.length

    @property
    def batch_size(self) -> int | None:
        """Samples in a batch where that is known."""
        return None

    @property
    def has_partial_batch(self) -> bool | None:
        """Whether the last batch is smaller, where that is known."""
        return None

    @property
    def partial_batch_size(self) -> int | None:
        """Samples of that batch."""
        return None

    def on_epoch_begin(self) -> None:
        """Keras is about to take the epoch's iterator. What else is to be done, `seek` does: Keras' own time of calling is not ours."""
        begins_pass = self._first == 0 and (self._pass == 0 or self.length is None)
        self._loader_draws.begin(due=self._every_epoch or begins_pass)

    def on_epoch_end(self) -> None:
        """Nothing: see `end_epoch`."""

    # -- the run's side -------------------------------------------------------------------------------------------------------

    @property
    def _consumed(self) -> int:
        """Batches of the present pass that are trained."""
        return self._first + self._batch

    @property
    @abc.abstractmethod
    def _pass_length(self) -> int | None:
        """Batches of the present pass as far as is known by now."""

    @abc.abstractmethod
    def _begin_pass(self) -> None:
        """Start pass `_pass` from its first batch."""

    @abc.abstractmethod
    def _go_on(self, position: Mapping[str, Any], *, over: bool) -> None:
        """Find batch `_consumed` of pass `_pass` again; `over`: the pass is done with, and the next one comes."""

    @abc.abstractmethod
    def _source_position(self) -> dict[str, Any]:
        """What `_go_on` needs."""

    def epoch_length(self, epoch: int) -> int | None:
        """See Input."""
        ends = [] if self._pass_length is None else [self._pass_length - self._first]
        if not self._every_epoch or self._pass_length is None:
            per_epoch = self._epochs.per_epoch
            ends += [] if per_epoch is None else [per_epoch]
        return min(ends, default=None)

    def seek(self, epoch: int, batch: int) -> None:
        """See Input. A new epoch goes on in the pass under way, or begins the next."""
        restored, self._restored = self._restored, False
        self._loader_draws.seek(batch)
        if restored and batch > 0:  # in the midst of it, or at its end: `_in_epoch` was saved
            return
        self._begin_epoch()  # before anything of a new pass is fetched: the hook may shuffle
        if not self._wants_new_pass():
            self._first, self._batch = self._consumed, 0
            self._continue_pass()
        if self._wants_new_pass():
            self._pass, self._first, self._batch = self._pass + 1, 0, 0
            self._begin_pass()
        self._in_epoch = True

    def _continue_pass(self) -> None:
        """A new epoch goes on in the pass under way."""

    def _begin_epoch(self) -> None:
        """The epoch's first batch is next."""

    def _wants_new_pass(self) -> bool:
        return self._pass < 0 or self._every_epoch or self._is_over

    @property
    def _is_over(self) -> bool:
        return self._pass_length is not None and self._consumed >= self._pass_length

    def trained(self, batches: int) -> None:
        """See Input."""
        self._batch = batches

    def end_epoch(self) -> None:
        """See Input."""
        known = self.length is not None or self._pass > 0
        self._loader_draws.end(due=known and (self._every_epoch or self._is_over))
        self._in_epoch = False

    def position(self) -> dict[str, Any]:
        """See Input."""
        return {
            "pass": self._pass,
            "first": self._first,
            "batch": self._batch,
            "length": self.epoch_length(0) if self._pass >= 0 else None,
            "pass_length": self._pass_length if self._pass >= 0 else None,
            "in_epoch": self._in_epoch,
            "ended": self._loader_draws.ended,
            **self._source_position(),
        }

    def restore(self, position: Mapping[str, Any]) -> None:
        """See Input."""
        self._pass, self._first, self._batch = position["pass"], position["first"], position["batch"]
        self._in_epoch = position["in_epoch"]
        self._loader_draws.ended = position["ended"]
        length = position["pass_length"]
        over = self._pass < 0 or (length is not None and self._consumed >= length) or (self._every_epoch and not self._in_epoch)
        self._go_on(position, over=over)
        self._restored = True

    def saved_length(self, epoch: int, position: Mapping[str, Any]) -> int | None:
        """See Input."""
        length = position.get("length")
        return None if length is None else int(length)
