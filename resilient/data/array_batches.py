"""In-memory inputs as JAX and PyTorch want their batches: sliced on the host one by one, by indices that are decided late.

The same slicing as in Keras' own adapter for arrays, except that the arrays are converted once and not once an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from resilient import keras_private
from resilient.data import loader_draws

Indices = Any  # a slice, or an int64 array of shape (n,)


class ArrayBatches:
    """Batches of `inputs` (nested arrays) for the live backend.

    Args:
        inputs: what Model.fit got, as Keras packs it.
    """

    def __init__(self, inputs: Any) -> None:
        self._backend = keras.backend.backend()
        self._inputs = keras_private.array_slicing.convert_to_sliceable(inputs, target_backend=self._backend)

    def take(self, indices: Indices) -> Any:
        """The batch of these samples, in the structure of the inputs."""
        convert = _for_torch if self._backend == "torch" else _for_jax
        return keras.tree.map_structure(lambda array: convert(array, indices), self._inputs, none_is_leaf=False)

    def first(self, size: int) -> Any:
        """The first `size` samples, to build a model with. Under PyTorch Keras takes them from a loader, which draws."""
        if self._backend == "torch":
            loader_draws.draw()
        return self.take(slice(0, size))

    def loader(self, indices: Callable[[], Iterator[Indices]]) -> Any:
        """What PyTorch iterates over: each iterator asks for its indices when its first batch is wanted."""
        import torch

        batches = self

        class Samples(torch.utils.data.Dataset[Any]):
            def __getitems__(self, chosen: Indices) -> Any:
                return batches.take(chosen)

        class Batches(torch.utils.data.Sampler[Any]):
            def __iter__(self) -> Iterator[Indices]:
                return indices()

        # Its iterators draw from a generator of its own: see loader_draws.
        return torch.utils.data.DataLoader(Samples(), batch_sampler=Batches(), collate_fn=lambda batch: batch, generator=torch.Generator())


def _for_jax(array: Any, indices: Indices) -> Any:
    return array.convert_to_jax_compatible(array[indices])


def _for_torch(array: Any, indices: Indices) -> Any:
    return keras.ops.convert_to_tensor(array.convert_to_torch_compatible(array[indices]))
