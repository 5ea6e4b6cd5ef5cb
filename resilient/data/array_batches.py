"""In-memory inputs as JAX and PyTorch want their batches: sliced on the host one by one, by indices that are decided late.

The same slicing as in Keras' own adapter for arrays, except that the arrays are converted once and not once an epoch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras

from resilient import keras_private

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
        """The first `size` samples. On PyTorch they come from a loader, as when Keras builds a model: it draws, and so must this."""
        indices = slice(0, size)
        return next(iter(self.loader(lambda: iter([indices]), lambda: True))) if self._backend == "torch" else self.take(indices)

    def loader(self, indices: Callable[[], Iterator[Indices]], draws: Callable[[], bool]) -> Any:
        """What PyTorch iterates over: each iterator asks for its indices when its first batch is wanted, and whether it may draw."""
        import torch

        batches = self

        class Samples(torch.utils.data.Dataset[Any]):
            def __getitems__(self, chosen: Indices) -> Any:
                return batches.take(chosen)

        class Batches(torch.utils.data.Sampler[Any]):
            def __iter__(self) -> Iterator[Indices]:
                return indices()

        loader = torch.utils.data.DataLoader(Samples(), batch_sampler=Batches(), collate_fn=lambda batch: batch)
        return _Loader(loader, draws)


class _Loader:
    """A DataLoader draws a number from PyTorch's generator for each iterator, which one that goes on in mid-epoch must not."""

    def __init__(self, loader: Any, draws: Callable[[], bool]) -> None:
        self._loader = loader
        self._draws = draws

    def __iter__(self) -> Iterator[Any]:
        import torch

        before = None if self._draws() else torch.get_rng_state()
        iterator = iter(self._loader)
        if before is not None:
            torch.set_rng_state(before)
        return iterator


def _for_jax(array: Any, indices: Indices) -> Any:
    return array.convert_to_jax_compatible(array[indices])


def _for_torch(array: Any, indices: Indices) -> Any:
    return keras.ops.convert_to_tensor(array.convert_to_torch_compatible(array[indices]))
