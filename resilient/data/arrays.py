"""In-memory inputs (NumPy, tensors, pandas, nested structures of them), in an order of our own that can start at any batch."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np

from resilient import keras_private
from resilient.data import fingerprint, order
from resilient.data.plan import EpochPlan
from resilient.errors import ConfigurationError

ROWS = "rows"  # the setting that is a checksum and means nothing to a reader


def accepts(x: Any, y: Any, sample_weight: Any) -> bool:
    """Whether these are in-memory arrays as far as Keras is concerned."""
    return x is not None and bool(keras_private.can_convert_arrays((x, y, sample_weight)))


def split(x: Any, y: Any, sample_weight: Any, fraction: float) -> tuple[tuple[Any, Any, Any], tuple[Any, Any, Any]]:
    """(training, validation) parts as `fit(validation_split=)` makes them: the tail becomes the validation data, before any shuffling."""
    return keras_private.array_slicing.train_validation_split((x, y, sample_weight), validation_split=fraction)  # type: ignore[no-any-return]


class ArrayInput(keras_private.ArrayDataAdapter):
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
        super().__init__(
            x, y, sample_weight=sample_weight, batch_size=batch_size, steps=steps_per_epoch, shuffle=shuffle, class_weight=class_weight
        )
        if self.num_samples == 0:
            raise ConfigurationError("x has no samples. Pass at least one.")
        self._seed = 0
        self._plan: EpochPlan | None = None
        self._position = (0, 0)
        self._announced: int | None = None
        self._dataset: Any = None

    def open(self, plan: EpochPlan, seed: int) -> None:
        """Fix the run's plan and the seed of its order."""
        self._plan, self._seed = plan, seed

    def announce(self, count: int) -> None:
        """Batches in each epoch of the call of Model.fit that comes next."""
        self._announced = count

    def seek(self, epoch: int, batch: int) -> None:
        """The next iterator begins at this batch of this epoch; nothing before it is read."""
        self._position = (epoch, batch)

    @property
    def num_batches(self) -> int:
        """Batches in an epoch of the present call of Model.fit; before that, in one pass over the data."""
        return self._size if self._announced is None else self._announced

    @property
    def num_samples(self) -> int:
        """Samples in one pass."""
        return self._num_samples  # type: ignore[no-any-return]

    def settings(self) -> dict[str, Any]:
        """What has to be the same for a run to be continued, as plain JSON."""
        return {
            "samples": self.num_samples,
            "batch_size": self._batch_size,
            "shuffle": self._shuffle if self._shuffle == "batch" else bool(self._shuffle),
            "arrays": fingerprint.describe(self._inputs),
            ROWS: fingerprint.rows_checksum(self._inputs, self.num_samples),
        }

    def sample(self) -> tuple[Any, Any, Any]:
        """The first batch as (x, y, sample_weight) of tensors, for building the model."""
        import tensorflow as tf

        batch = next(
            iter(self._with_order(tf.data.Dataset.from_tensors(tf.range(min(self._batch_size, self.num_samples), dtype=tf.int64))))
        )
        return keras.utils.unpack_x_y_sample_weight(batch)  # type: ignore[no-any-return]

    def indices(self) -> Any:
        """Sample indices from the present position to the end of its epoch, int64, shape (n,)."""
        if self._plan is None:
            raise ConfigurationError("The input was not opened. Call open() before training from it.")
        epoch, batch = self._position
        span = self._plan.span(epoch)
        everything = self._pass(span.pass_index)
        stop = min((span.first + span.count) * self._batch_size, self.num_samples)
        return everything[(span.first + batch) * self._batch_size : stop]

    def _pass(self, pass_index: int) -> Any:
        if self._shuffle == "batch":
            return order.within_batches(self._seed, pass_index, self.num_samples, self._batch_size)
        if self._shuffle:
            return order.permutation(self._seed, pass_index, self.num_samples)
        return np.arange(self.num_samples, dtype=np.int64)

    def get_tf_dataset(self) -> Any:
        """Dataset whose every iterator begins at the position that `seek` set last."""
        import tensorflow as tf

        def from_position(_: Any) -> Any:
            indices = tf.numpy_function(self.indices, [], tf.int64)
            return tf.ensure_shape(indices, [None])

        return self._with_order(tf.data.Dataset.range(1).map(from_position).flat_map(self._in_batches)).prefetch(tf.data.AUTOTUNE)

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
        dataset = tf.data.Dataset.zip((batches, self._dataset)).map(_take_rows, num_parallel_calls=tf.data.AUTOTUNE)
        options = tf.data.Options()
        options.experimental_optimization.apply_default_optimizations = False  # Keras measured that they only cost time here
        options.experimental_distribute.auto_shard_policy = tf.data.experimental.AutoShardPolicy.DATA
        return dataset.with_options(options)


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
