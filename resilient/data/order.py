"""The order of the data: a pure function of (seed, pass), defined to the bit so that any version on any machine gives the same.

`docs/exactness.md` has the definition: sort keys drawn from Philox-4x64-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3",
SC'11) whose key is (seed, pass); a key's low bits are the sample's own index, so that no two are equal and any sorting algorithm agrees.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Indices = npt.NDArray[np.int64]
_MASK_64 = 2**64 - 1


def permutation(seed: int, pass_index: int, size: int) -> Indices:
    """A permutation of range(`size`), shape (size,), different for each pass."""
    keys, mask = _keys(seed, pass_index, size)
    keys.sort()
    return np.asarray(keys & mask, dtype=np.int64)


def within_batches(seed: int, pass_index: int, size: int, batch_size: int) -> Indices:
    """range(`size`) with each run of `batch_size` consecutive indices permuted in itself, shape (size,)."""
    keys, mask = _keys(seed, pass_index, size)
    full = size - size % batch_size
    keys[:full].reshape(-1, batch_size).sort(axis=1)
    keys[full:].sort()
    return np.asarray(keys & mask, dtype=np.int64)


def _keys(seed: int, pass_index: int, size: int) -> tuple[npt.NDArray[np.uint64], Any]:
    mask = np.uint64(2 ** max(size - 1, 1).bit_length() - 1)
    philox = np.random.Philox(key=np.array([seed & _MASK_64, pass_index], dtype=np.uint64))
    drawn = np.asarray(philox.random_raw(size), dtype=np.uint64)
    return (drawn & ~mask) | np.arange(size, dtype=np.uint64), mask
