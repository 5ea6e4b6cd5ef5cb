"""An epoch without batches, of which Keras insists on one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from resilient import keras_private


class EmptyEpoch(keras_private.DataAdapter):
    """What Model.fit gets as `x` where all batches of the epoch are trained and the rest of it (validation, callbacks) is to come.

    The one batch it gives is None; whoever uses it replaces the model's train_function.
    """

    num_batches = 1
    batch_size = None
    has_partial_batch = None
    partial_batch_size = None

    def _batches(self) -> Iterator[Any]:
        return iter([None])

    def get_tf_dataset(self) -> Any:
        """See Keras' DataAdapter."""
        return keras_private.handed_over(self._batches, None, 1)

    def get_numpy_iterator(self) -> Iterator[Any]:
        """See Keras' DataAdapter."""
        return self._batches()

    def get_jax_iterator(self) -> Iterator[Any]:
        """See Keras' DataAdapter."""
        return self._batches()

    def get_torch_dataloader(self) -> Any:
        """See Keras' DataAdapter."""
        return [None]

    def on_epoch_begin(self) -> None:
        """Nothing."""

    def on_epoch_end(self) -> None:
        """Nothing."""
