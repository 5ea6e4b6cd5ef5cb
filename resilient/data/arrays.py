"""In-memory inputs (NumPy, tensors, pandas, nested structures of them), in an order of our own that can start at any batch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from resilient import keras_private
from resilient.data import fingerprint, order
from resilient.data.array_batches import ArrayBatches
from resilient.data.base import Input
from resilient.data.loader_draws import LoaderDraws
from resilient.data.plan import Span
from resilient.errors import ConfigurationError

ROWS = "rows"  # the setting that is a checksum and means nothing to a reader


def accepts(x: Any, y: Any, sample_weight: Any) -> bool:
    """Whether these are in-memory arrays as far as Keras is concerned."""
    return x is not None and bool(keras_private.can_convert_arrays((x, y, sample_weight)))


def split(x: Any, y: Any, sample_weight: Any, fraction: float) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
    """(training, validation) parts as `fit(validation_split=)` makes them: the tail becomes the validation data, before any shuffling."""
    return keras_private.array_slicing.train_validation_split((x, y, sample_weight), validation_split=fraction)  # type: ignore[no-any-return]


class ArrayInput(Input, keras_private.ArrayDataAdapter):
    """What Model.fit gets as `x`: the same pipeline as Keras' own for arrays, with indices that come from `order`.

    Args:
        x, y, sample_weight, class_weight, batch_size, shuffle: as in Model.fit.
        steps_per_epoch: as in Model.fit; it only decides the batch size where none is given.
    """

    def __init__(
        self,
        x: Any,
        y: Any,
        sample_weight: Any,
        *,
        batch_size: int | None,
        steps_per_epoch: int | None,
        shuffle: bool | str,
        class_weight: Any,
    ) -> None:
        Input.__init__(self)
        keras_private.ArrayDataAdapter.__init__(
            self, x, y,
            sample_weight=sample_weight, batch_size=batch_size, steps=steps_per_epoch, shuffle=shuffle, class_weight=class_weight,
        )  # fmt: skip
        if self.num_samples == 0:
            raise ConfigurationError("x has no samples. Pass at least one.")
        self._position = (0, 0)
        self._announced: int | None = None
        self._dataset: Any = None
        self._ordered: Any = None
        self._batches: ArrayBatches | None = None
        self._draws = LoaderDraws()

    def announce(self, count: int | None) -> None:
        """Batches in each epoch of the call of Model.fit that comes next."""
        self._announced = count

    def seek(self, epoch: int, batch: int) -> None:
        """The next iterator begins at this batch of this epoch; nothing before it is read."""
        self._position = (epoch, batch)
        self._draws.seek(batch)

    @property
    def length(self) -> int:
        """Batches in one pass."""
        return int(self._size)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch of the present call of Model.fit; before that, in one pass over the data."""
        return self.length if self._announced is None else self._announced

    @property
    def num_samples(self) -> int:
        """Samples in one pass."""
        return self._num_samples  # type: ignore[no-any-return]

    def settings(self) -> dict[str, Any]:
        """What has to be the same for a run to be continued, as plain JSON."""
        return {
            "data": "arrays",
            "samples": self.num_samples,
            "batch_size": self._batch_size,
            "shuffle": self._shuffle if self._shuffle == "batch" else bool(self._shuffle),
            "arrays": fingerprint.describe(self._inputs),
            ROWS: fingerprint.rows_checksum(self._inputs, self.num_samples),
        }

    def sample(self) -> tuple[Any, Any, Any]:
        """The first batch as (x, y, sample_weight) of tensors, for building the model."""
        if keras.backend.backend() != "tensorflow":
            return keras.utils.unpack_x_y_sample_weight(self._sliced().first(min(self._batch_size, self.num_samples)))  # type: ignore[no-any-return]
        import tensorflow as tf

        batch = next(
            iter(self._with_order(tf.data.Dataset.from_tensors(tf.range(min(self._batch_size, self.num_samples), dtype=tf.int64))))
        )
        return keras.utils.unpack_x_y_sample_weight(batch)  # type: ignore[no-any-return]

    def element_spec(self) -> Any:
        """See Input."""
        return self.get_tf_dataset().element_spec if keras.backend.backend() == "tensorflow" else None

    def indices(self) -> Any:
        """Sample indices from the present position to the end of its epoch, int64, shape (n,)."""
        epoch, batch = self._position
        span = self._epochs.span(epoch)
        everything = self._pass(span.pass_index)
        stop = min(self._end(span) * self._batch_size, self.num_samples)
        return everything[(span.first + batch) * self._batch_size : stop]

    def _end(self, span: Span) -> int:
        """The batch of the pass at which the epoch ends."""
        return self.length if span.count is None else span.first + span.count

    def _pass(self, pass_index: int) -> Any:
        if self._shuffle == "batch":
            return order.within_batches(self._seed, pass_index, self.num_samples, self._batch_size)
        if self._shuffle:
            return order.permutation(self._seed, pass_index, self.num_samples)
        return np.arange(self.num_samples, dtype=np.int64)

    def get_tf_dataset(self) -> Any:
        """Dataset whose every iterator begins at the position that `seek` set last. Always the same one: making it takes a while."""
        if self._ordered is None:
            self._ordered = self._from_position()
        return self._ordered

    def _from_position(self) -> Any:
        import tensorflow as tf

        def indices(_: Any) -> Any:
            return tf.ensure_shape(tf.numpy_function(self.indices, [], tf.int64), [None])

        batches = tf.data.Dataset.range(1).map(_as_it_is(indices)).flat_map(_as_it_is(self._in_batches))
        return self._with_order(batches).prefetch(tf.data.AUTOTUNE)

    def _in_batches(self, indices: Any) -> Any:
        """Indices as batches: the whole ones by one reshape (as Keras does, much faster than batching one by one), then the rest."""
        import tensorflow as tf

        size = self._batch_size
        whole = tf.size(indices, out_type=tf.int64) // size
        full = tf.data.Dataset.from_tensor_slices(tf.reshape(indices[: whole * size], [-1, size]))
        if not self._partial_batch_size:
            return full
        rest = indices[whole * size :]
        # take(0 or 1), not filter: filtering costs a third more per batch, measured with 256 small images.
        return full.concatenate(tf.data.Dataset.from_tensors(rest).take(tf.cast(tf.size(rest) > 0, tf.int64)))

    def _with_order(self, batches: Any) -> Any:
        import tensorflow as tf

        if self._dataset is None:  # converted once: from_tensors copies the arrays
            inputs = keras_private.array_slicing.convert_to_sliceable(self._inputs, target_backend="tensorflow")
            self._dataset = tf.data.Dataset.from_tensors(keras.tree.lists_to_tuples(inputs)).repeat()
        dataset = tf.data.Dataset.zip((batches, self._dataset)).map(_as_it_is(_take_rows), num_parallel_calls=tf.data.AUTOTUNE)
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False  # Keras measured that they only cost time here
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return dataset.with_options(options)

    # -- JAX and PyTorch ------------------------------------------------------------------------------------------------------

    def get_jax_iterator(self) -> Iterator[Any]:
        """Batches from the position that `seek` has set when the first one is asked for: Keras makes two iterators an epoch."""
        return map(self._sliced().take, self._batch_indices(contiguous=not self._shuffle))

    def get_torch_dataloader(self) -> Any:
        """The same as something to iterate over, a new iterator each time."""
        return self._sliced().loader(lambda: self._batch_indices(contiguous=False))

    def _sliced(self) -> ArrayBatches:
        if self._batches is None:
            self._batches = ArrayBatches(self._inputs)
        return self._batches

    def _batch_indices(self, *, contiguous: bool) -> Iterator[Any]:
        indices = self.indices()
        for start in range(0, len(indices), self._batch_size):
            batch = indices[start : start + self._batch_size]
            yield slice(int(batch[0]), int(batch[-1]) + 1) if contiguous else batch

    def on_epoch_begin(self) -> None:
        """Keras is about to take the epoch's iterator; an epoch without batches does not come here."""
        epochs = self._epochs
        self._draws.begin(due=epochs.steps_per_epoch is None or self._position[0] == epochs.first_epoch)

    def end_epoch(self) -> None:
        """The present epoch's batches are all trained."""
        epochs = self._epochs
        self._draws.end(due=epochs.steps_per_epoch is None or self._end(epochs.span(self._position[0])) >= self.length)

    def position(self) -> dict[str, Any]:
        """Plain data from which `restore` finds the present position again, beside epoch and batch."""
        return {"ended": self._draws.ended}

    def restore(self, position: Mapping[str, Any]) -> None:
        """Go to a saved position; comes before `seek`."""
        self._draws.ended = bool(position.get("ended", False))


def _as_it_is(function: Any) -> Any:
    """A function for tf.data to trace as it is: rewriting it for conditions on tensors, of which it has none, takes up to 0.1 s."""
    import tensorflow as tf

    return tf.autograph.experimental.do_not_convert(function)


def _take_rows(indices: Any, inputs: Any) -> Any:
    import tensorflow as tf

    slicing = keras_private.array_slicing

    def take(value: Any) -> Any:
        if isinstance(value, slicing.TensorflowSparseWrapper):
            return slicing.slice_tensorflow_sparse_wrapper(value, indices)
        if isinstance(value, (list, tuple, dict)):
            return None  # go on into the structure
        return tf.gather(value, indices, axis=0) if tf.is_tensor(value) else value

    return keras.tree.traverse(take, inputs)
