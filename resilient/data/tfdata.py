"""`tf.data.Dataset`: the position is the iterator's own checkpoint where TensorFlow can write one, a replay where it cannot.

An iterator checkpoint holds every buffer of the pipeline, so it is taken only as often as its own cost allows (`Anchors`); from the last
one to the position itself batches are pulled and dropped. A pass begins with a new iterator.
"""

from __future__ import annotations

import weakref
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from resilient import keras_private
from resilient.data import fingerprint
from resilient.data.anchors import anchors_for
from resilient.data.base import Lazily, SequentialInput
from resilient.data.past import Past
from resilient.data.pipeline import batch_size, reading_ahead, remembers, reshuffling, shuffles_again, stateful_ops, without_prefetching
from resilient.data.progress import Replay
from resilient.errors import ConfigurationError

_UNKNOWN = -2  # cardinality
_created_of: weakref.WeakKeyDictionary[Any, int] = weakref.WeakKeyDictionary()


class DatasetInput(SequentialInput):
    """What Model.fit gets as `x` for a `tf.data.Dataset`, which it keeps as `dataset`.

    Args:
        dataset: the caller's.
        class_weight: as in Model.fit.
        strategy: the model's `tf.distribute` strategy, None for none (also on the other backends).
        every_epoch: see SequentialInput.
        validates: whether it is evaluated, not trained on.
        steps: batches that Keras takes of each pass, None for all; how many iterators it makes of one pass depends on it.
        compiled_loop: whether several steps run in one call of TensorFlow, which then has to pull from its own iterator.
    """

    kind = "tf.data"

    def __init__(
        self, dataset: Any, *, class_weight: Any, strategy: Any, every_epoch: bool, validates: bool, steps: int | None, compiled_loop: bool
    ) -> None:
        import tensorflow as tf

        super().__init__(every_epoch=every_epoch)
        self.dataset = dataset
        self._inner = keras_private.TFDatasetAdapter(dataset, class_weight=class_weight)
        plain = self._inner.get_tf_dataset()
        cardinality = plain.cardinality() if callable(plain.cardinality) else plain.cardinality
        self._cardinality = int(cardinality)
        self._spec = plain.element_spec
        self.role = "validation" if validates else "training"
        if self._cardinality == 0:
            raise ConfigurationError(f"The {self.role} input, a tf.data.Dataset, has no batch. Pass one that has at least one.")
        self._distributed = strategy is not None or not isinstance(plain, tf.data.Dataset)
        leaves_early = every_epoch and steps is not None and not 0 <= self._cardinality <= steps
        self._chance = reading_ahead(plain) if leaves_early and not self._distributed else []
        if leaves_early and not self._distributed and shuffles_again(plain):
            plain = without_prefetching(plain)
        self._dataset = strategy.experimental_distribute_dataset(plain) if strategy is not None else plain
        self.stateful = [] if self._distributed else sorted(stateful_ops(plain))
        self._anchors = None if self._distributed or self.stateful else anchors_for(plain)
        self.positioning = "replay" if self._anchors is None else "iterator"
        self._compiled_loop = compiled_loop and not self.stateful and self._cardinality != _UNKNOWN
        self._moves_on = not self._distributed and reshuffling(plain) > 0
        self._reads_through = not self._distributed and shuffles_again(plain)
        self._before = 0 if strategy is None else 1  # under a strategy Keras makes one to build the model with
        self._stride = self._iterators_of_a_pass(steps) + (self._before if every_epoch and validates else 0)
        # A reshuffling dataset moves on with every iterator, also in an earlier fit of this process.
        self._created = _created_of.get(dataset, 0)
        self._offset = self._created
        self._late = False  # more iterators were made of it than the run had made at this place
        self._iterator: Any = None
        self._ahead: _Ahead | None = None
        self._past = Past() if remembers(self.stateful) else None

    def _iterators_of_a_pass(self, steps: int | None) -> int:
        """How many iterators Keras makes of one pass: each of them moves a reshuffling dataset on to its next order."""
        known = self._cardinality >= 0
        if self._every_epoch:
            return 2 if known and (steps is None or steps >= self._cardinality) else 1
        return 1

    @property
    def length(self) -> int | None:
        """See Input."""
        return self._cardinality if self._cardinality >= 0 else None

    @property
    def batch_size(self) -> int | None:
        """See Input."""
        return self._inner.batch_size  # type: ignore[no-any-return]

    def settings(self) -> dict[str, Any]:
        """See Input."""
        size = None if self._distributed else batch_size(self.dataset)
        return {
            "data": "tf.data.Dataset",
            "cardinality": self._cardinality,
            "elements": fingerprint.describe(self._spec),
            "batch_size": size,
        }

    def sample(self) -> tuple[Any, Any, Any]:
        """See Input. Nothing is read: the specification of the elements is all that counts."""
        self._loader_draws.sample()
        spec = self._spec
        return keras.utils.unpack_x_y_sample_weight(spec)  # type: ignore[no-any-return]

    def element_spec(self) -> Any:
        """See Input."""
        return self._spec if keras.backend.backend() == "tensorflow" else None

    def doubts(self) -> list[tuple[str, str, str]]:
        """See Input. A pass that is left early has used up as many seeds of a repeated shuffle as were read, and not as were given."""
        return [
            (
                f"{name.strip('_')} over a repeated shuffle in the {self.role} data",
                "each pass is left before its end, and how far it has read ahead by then decides the order of the next one",
                "leave it out, shuffle with reshuffle_each_iteration=False, or put the repetition last",
            )
            for name in self._chance
        ]

    # -- passes ---------------------------------------------------------------------------------------------------------------

    @property
    def _pass_length(self) -> int | None:
        if self._cardinality >= 0:
            return self._cardinality
        return None if self._ahead is None else self._ahead.end

    def _begin_pass(self) -> None:
        if self._past is not None and self._ahead is not None:
            self._past.end_pass(self._ahead.pulled)
        self._start(self._pass)

    def _start(self, pass_index: int) -> None:
        """A new iterator for that pass. Those that Keras would have made before it are made too: each moves a reshuffling one on."""
        needed = self._offset + self._before + self._stride * pass_index
        while self._created < needed:
            self._new_iterator()
        self._late = self._created > needed
        self._iterator = self._new_iterator()
        self._ahead = _Ahead(self, self._iterator, look_ahead=self._cardinality == _UNKNOWN)
        if self._anchors is not None:
            self._anchors.begin_pass()

    def _warn_if_late(self) -> None:
        if self._late and self._moves_on and not self.warnings:
            self.warnings.append(
                "The dataset was iterated over in this process before, and cannot go back to the order that the run needs. "
                "Make a new one for each fit."
            )

    def _new_iterator(self) -> Any:
        self._created += 1
        _created_of[self.dataset] = self._created
        return iter(self._dataset)

    def pulling(self, pulled: int) -> None:
        """The iterator stands after `pulled` batches of the pass and is about to be asked for the next."""
        if self._anchors is not None and self._anchors.wanted:
            self._anchors.take(pulled, self._iterator)

    def gave(self, batch: Any) -> None:
        """Training was given this batch."""
        if self._past is not None:
            self._past.add(batch)

    # -- position -------------------------------------------------------------------------------------------------------------

    def _source_position(self) -> dict[str, Any]:
        offset = {"offset": self._offset}
        if self._past is not None:
            return {**offset, **self._past.position(self._consumed)}
        if self._pass < 0 or self._anchors is None or self._ahead is None or self._iterator is None:
            return offset
        # At its end an iterator holds nothing any more, and the next pass begins with a new one.
        exactly_here = self._compiled_loop or self._ahead.pulled == self._consumed
        if exactly_here and not self._is_over:
            self._anchors.take_if_worth(self._consumed, self._iterator)
        else:
            self._anchors.want()
        at, state = self._anchors.newest(self._consumed)
        return offset if state is None else {**offset, "at": at, "state": state}

    def _go_on(self, position: Mapping[str, Any], *, over: bool) -> None:
        self._offset = int(position["offset"])
        if self._pass < 0:
            return
        if over and not self._reads_through and self._past is None:
            self._end_at(self._consumed)
            return
        if self._past is not None:
            self._read_again(self._past, position, over=over)
            return
        at, state = int(position.get("at", 0)), position.get("state")
        if self._reads_through and state is None:
            self._read_passes()
        self._start(self._pass)
        if self._anchors is not None and state is not None:
            whole = np.asarray(state).tobytes()
            keras_private.restore_iterator(self._iterator, whole)
            self._anchors.begin_pass(at, whole)
            if self._ahead is not None:
                self._ahead.given = self._ahead.pulled = at
        else:
            at = 0
            self._warn_if_late()
        with Replay(self._consumed - at, self.kind) as replay:
            self._skip(self._consumed - at, replay)
        if over:
            self._end_at(self._consumed)

    def _end_at(self, batches: int) -> None:
        """The pass is done with after so many batches; the next one makes its own iterator."""
        self._iterator = None
        self._ahead = _Ahead(self, iter(()), look_ahead=False)
        self._ahead.end = self._ahead.pulled = self._ahead.given = batches

    def _read_passes(self) -> None:
        """Read the passes before the present one as far as they were read then: their shuffles have used up seeds."""
        per_epoch = self._epochs.per_epoch if self._every_epoch else None
        count = self.length if per_epoch is None else per_epoch
        with Replay(None if count is None else self._pass * count, self.kind) as replay:
            for index in range(self._pass):
                self._start(index)
                if count is not None:
                    self._skip(count, replay)
                else:
                    self._skip_to_end(replay)

    def _skip_to_end(self, replay: Replay) -> None:
        while self._ahead is not None and (self._ahead.given == 0 or self._ahead.end != self._ahead.given):
            next(self._ahead)
            replay.step()

    def _skip(self, count: int, replay: Replay) -> None:
        """Pull and drop, in the iterator that training pulls from next."""
        source = self._iterator if self._compiled_loop or self._ahead is None else self._ahead
        for _ in range(count):
            next(source)
            replay.step()

    def _read_again(self, past: Past, position: Mapping[str, Any], *, over: bool) -> None:
        """Replay what has state of its own: the present pass only where all passes are known to be alike, else all of them."""
        passes = past.restore(position)
        consumed = self._consumed
        with Replay(sum(passes) + consumed, self.kind) as replay:
            for index, count in enumerate(passes):
                self._start(index)
                self._skip(count, replay)
                past.end_pass(count)
            self._start(self._pass)
            if not (over and past.alike):
                self._skip(consumed, replay)
            if over:
                self._end_at(consumed)
        if not past.agrees(position, consumed):
            self.warnings.append(
                f"The {self.kind} input did not give the batches again that the run has trained (it contains {', '.join(self.stateful)}), "
                "so the end of this run may differ. Give the run its data back, and let such functions depend on nothing but their "
                "arguments and seeds."
            )

    # -- Keras' side ----------------------------------------------------------------------------------------------------------

    def present(self) -> Any:
        """The iterator that training pulls from; before an epoch has begun, one that yields a batch to build a model with."""
        if not self._in_epoch:
            return iter([keras.tree.map_structure(_empty, self._spec)])
        return self._iterator if self._compiled_loop else self._ahead

    def get_tf_dataset(self) -> Any:
        """See Keras' DataAdapter."""
        return keras_private.handed_over(self.present, self._spec, self._cardinality)

    def get_numpy_iterator(self) -> Any:
        """See Keras' DataAdapter."""
        return keras_private.converted_tf_batches(Lazily(self.present), "numpy")

    def get_jax_iterator(self) -> Any:
        """See Keras' DataAdapter."""
        return keras_private.converted_tf_batches(Lazily(self.present), "jax")

    def get_torch_dataloader(self) -> Any:
        """See Keras' DataAdapter."""
        return keras_private.torch_dataloader(Lazily(self.present))

    def close(self) -> None:
        """See Input."""
        self._iterator = self._ahead = None


class _Ahead:
    """The iterator as training sees it: knows how many batches it gave and, looking one ahead, which one is the last."""

    def __init__(self, owner: DatasetInput, iterator: Any, *, look_ahead: bool) -> None:
        self._owner = owner
        self._iterator = iterator
        self._looks = look_ahead
        self._waiting: list[Any] = []
        self.pulled = 0
        self.given = 0
        self.end: int | None = None
        self._error: Exception | None = None

    def __iter__(self) -> _Ahead:
        return self

    def __next__(self) -> Any:
        if self._error is not None:
            raise self._error
        if not self._waiting:
            self._pull()
        if not self._waiting:
            if self.given == 0:
                raise ConfigurationError(
                    f"The {self._owner.role} input, a tf.data.Dataset, gave no batch. Pass one that has one in each epoch."
                )
            raise StopIteration
        batch = self._waiting.pop()
        self.given += 1
        self._owner.gave(batch)
        if self._looks:
            self._pull()
        return batch

    def _pull(self) -> None:
        if self.end is not None:
            return
        self._owner.pulling(self.pulled)
        try:
            self._waiting.append(next(self._iterator))
            self.pulled += 1
        except StopIteration:
            self.end = self.pulled
        except Exception as error:
            if not self._looks:
                raise
            self._error = error  # of the batch after the one that is asked for: raised with its own


def _empty(spec: Any) -> Any:
    import tensorflow as tf

    if not isinstance(spec, tf.TensorSpec) or spec.shape.rank is None:
        return spec
    return tf.zeros([1 if size is None else size for size in spec.shape], spec.dtype)
