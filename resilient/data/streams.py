"""Inputs that are Python objects (PyDataset, generators, Grain, PyTorch's DataLoader) as Model.fit wants them, one batch ahead of training.

Looking one batch ahead tells which batch is the last before Keras finds out by running into the end; and since batches may be fetched
in another thread, the state from which each can be fetched again is remembered until it is trained.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import keras

from resilient import keras_private
from resilient.data import fingerprint
from resilient.data.base import Lazily, SequentialInput
from resilient.data.loader_draws import LoaderDraws
from resilient.data.randomness import Generators, drawn_from
from resilient.data.sources import Source
from resilient.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class _Mark:
    """Where a batch began: the source's state, and the process' generators where the source draws from them."""

    state: Any
    generators: Any


class StreamInput(SequentialInput):
    """What Model.fit gets as `x` for a Python source of batches."""

    def __init__(self, source: Source, generators: Generators, *, every_epoch: bool, validates: bool) -> None:
        super().__init__(every_epoch=every_epoch)
        self._source = source
        self._generators = generators
        self._validates = validates
        self.role = "validation" if validates else "training"
        self._loader_draws = LoaderDraws(real=source.draws_itself)
        self.kind, self.positioning, self.is_used_up = source.kind, source.positioning, source.is_used_up
        self._peeked: list[Any] = []
        self._draws = self._draws_from_keras = False
        self._origin: Any = None
        self._marks: dict[int, _Mark] = {}
        self._waiting: list[Any] = []
        self._given = 0
        self._end: int | None = None
        self._error: Exception | None = None
        self._spec: Any = None
        self._closed = False

    @property
    def length(self) -> int | None:
        """See Input."""
        return self._source.length

    def settings(self) -> dict[str, Any]:
        """See Input."""
        return {**self._source.settings(), "elements": fingerprint.describe(self._peeked[0]), "batch_size": self._first_size()}

    def _first_size(self) -> int | None:
        leaves = [leaf for leaf in keras.tree.flatten(self._peeked[0]) if hasattr(leaf, "shape") and len(leaf.shape)]
        return int(leaves[0].shape[0]) if leaves else None

    def learn(self, origin: Any = None) -> None:
        """Look at the first batches; `origin`: the process' generators as they were when the run did so."""
        if origin is not None:
            self._generators.restore(origin)
        before = self._generators.snapshot()
        self._peeked = self._source.peek()
        if not self._peeked:
            raise ConfigurationError(f"The {self.role} input, a {self.kind}, has no batch. Pass one that has at least one.")
        drawn = drawn_from(before, self._generators.snapshot())
        self._draws, self._draws_from_keras = bool(drawn), "keras" in drawn
        self._origin = before if self._draws else None

    def begin_run(self) -> None:
        """A fresh run, not a resumed one."""
        if not self._validates:
            self._source.end_epoch()  # as Keras does, once before the first epoch

    def sample(self) -> tuple[Any, Any, Any]:
        """See Input."""
        self._loader_draws.sample()
        return keras.utils.unpack_x_y_sample_weight(keras.tree.lists_to_tuples(self._peeked[0]))  # type: ignore[no-any-return]

    def element_spec(self) -> Any:
        """See Input."""
        return self._specification() if self._peeked and keras.backend.backend() == "tensorflow" else None

    def doubts(self) -> list[tuple[str, str, str]]:
        """See Input."""
        found = self._source.doubts(draws=self._draws)
        if self._draws_from_keras and keras.backend.backend() == "tensorflow":
            why = "every thread has one of its own, and which of TensorFlow's threads fetches a batch is left to chance"
            found.append(
                (f"keras.random without a seed, drawn from to fetch a batch of the {self.kind}", why, "pass it a seed of your own")
            )
        return found

    # -- passes ---------------------------------------------------------------------------------------------------------------

    @property
    def _pass_length(self) -> int | None:
        return self._source.length if self._end is None else self._end

    def _begin_epoch(self) -> None:
        if self._validates:  # Keras ends an epoch before each evaluation, too
            self._source.end_epoch()
        self._source.begin_epoch()

    def _continue_pass(self) -> None:
        if not self._waiting:
            self._pull()

    def _begin_pass(self) -> None:
        before = self._generators.snapshot()
        self._source.begin(self._pass, self._seed)
        self._stand_at(0, end=None)
        self._pull()
        self._draws = self._draws or bool(drawn_from(before, self._generators.snapshot()))

    def _stand_at(self, given: int, *, end: int | None) -> None:
        """Nothing is ahead, and so many batches of the pass were given."""
        self._given, self._end, self._waiting, self._marks, self._error = given, end, [], {}, None

    def _pull(self) -> None:
        at = self._given + len(self._waiting)
        self._marks = {index: mark for index, mark in self._marks.items() if index >= self._consumed}
        self._marks[at] = _Mark(self._source.state(), self._generators.snapshot() if self._draws else None)
        try:
            self._waiting.append(self._source.pull())
        except StopIteration:
            self._end = at
        except Exception as error:  # noqa: BLE001  of the caller's data: raised when training asks for this batch, and not one before
            self._error = error

    def end_epoch(self) -> None:
        """See Input."""
        if self._in_epoch:
            self._source.end_epoch()
        super().end_epoch()

    # -- position -------------------------------------------------------------------------------------------------------------

    def _source_position(self) -> dict[str, Any]:
        mark = self._marks.get(self._consumed)
        if mark is None or self._is_over or (self._every_epoch and not self._in_epoch):  # nothing is ahead
            mark = _Mark(self._source.state(), None)
        return {"origin": self._origin, "state": mark.state, "generators": mark.generators, "between": self._source.between()}

    def _go_on(self, position: Mapping[str, Any], *, over: bool) -> None:
        problem = self._source.go_to(self._pass, self._seed, self._consumed, position["state"], position["between"], over=over)
        # What was skipped need not have come out alike where it draws from the process' generators: those are put back for what follows.
        if problem is not None and position["generators"] is None:
            self.warnings.append(problem)
        if position["generators"] is not None:
            self._draws = True
            self._generators.restore(position["generators"])
        length = position["length"]
        self._stand_at(self._consumed, end=self._consumed if over else None)
        if not over and self._in_epoch and (length is None or self._batch < length):
            self._pull()

    # -- Keras' side ----------------------------------------------------------------------------------------------------------

    def _batches(self) -> Iterator[Any]:
        """The rest of the present epoch; before an epoch has begun, the first batch, to build a model with."""
        if not self._in_epoch:
            yield self._peeked[0]
            return
        left = self._epochs.per_epoch if self._epochs.steps_per_epoch is not None else None
        last = None if left is None else self._first + left
        while not self._closed and (last is None or self._given < last):
            if self._error is not None:
                raise self._error
            if not self._waiting:
                return
            batch = self._waiting.pop()
            self._given += 1
            if last is None or self._given < last:  # the next epoch's first batch comes after the hook between them
                self._pull()
            yield batch

    def get_tf_dataset(self) -> Any:
        """See Keras' DataAdapter. As Keras does it, but nothing is fetched ahead where fetching draws from the process' generators."""
        return keras_private.dataset_of(self._batches, self._specification(), prefetch=not self._draws)

    def _specification(self) -> Any:
        if self._spec is None:
            self._spec = keras_private.tensor_spec([keras.tree.lists_to_tuples(batch) for batch in self._peeked])
        return self._spec

    def get_numpy_iterator(self) -> Any:
        """See Keras' DataAdapter."""
        return keras_private.python_batches(self._batches(), "numpy")

    def get_jax_iterator(self) -> Any:
        """See Keras' DataAdapter."""
        return keras_private.python_batches(self._batches(), "jax")

    def get_torch_dataloader(self) -> Any:
        """See Keras' DataAdapter."""
        return keras_private.torch_dataloader(Lazily(self._batches))

    def close(self) -> None:
        """See Input."""
        self._closed = True
        self._source.close()
