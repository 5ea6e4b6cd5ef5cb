"""Snapshots in the host's memory, and whether they have to be there.

Copies of many arrays at once go into memory that is used again: touching fresh pages takes three times as long as the copying itself.
"""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
_ALIGNMENT = 64


class HostCopies:
    """Keeps the memory of one set of copies, for the next set to go into when nobody reads the last one any more."""

    def __init__(self) -> None:
        self._memory: npt.NDArray[np.uint8] | None = None
        self._lent: weakref.ref[Any] | None = None

    def take(self, arrays: Sequence[Array]) -> list[Array]:
        """A copy of each array; they are views of one block, which is free again when the last of them is gone."""
        sizes = [-(-array.nbytes // _ALIGNMENT) * _ALIGNMENT for array in arrays]
        block = self._block(max(1, sum(sizes)))
        copies, start = [], 0
        for array, size in zip(arrays, sizes, strict=True):
            copy = block[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
            copy[...] = array
            copies.append(copy)
            start += size
        return copies

    def _block(self, size: int) -> npt.NDArray[np.uint8]:
        if self._lent is not None and self._lent() is not None:
            return np.empty(size, np.uint8)  # the kept one is still being written to disk
        if self._memory is None or self._memory.nbytes != size:
            self._memory = np.empty(size, np.uint8)
        # Over a memoryview, because NumPy makes the array that owns the memory the base of every view of a view: an array over a foreign
        # buffer is what all that is cut from it refers to, and it dies with the last of them.
        block = np.frombuffer(self._memory.data, np.uint8)
        if block[:1].view(np.int8).base is not block:
            self._memory = None  # another NumPy: every set gets memory of its own
        self._lent = weakref.ref(block)
        return block


class Headroom:
    """Whether an accelerator's memory has room for snapshots beside training.

    At the first snapshot nothing is known of what a step needs, and the answer is no. What is found at the second one stays: from then on
    snapshots are themselves part of the most that was ever in use.
    """

    def __init__(self) -> None:
        self._asked = False
        self._answer: bool | None = None

    def allows(self, has_room: Callable[[], bool]) -> bool:
        """The answer; `has_room` compares what a snapshot needs with what is free at the fullest."""
        asked, self._asked = self._asked, True
        if asked and self._answer is None:
            self._answer = has_room()
            if not self._answer:
                warnings.warn(
                    "The accelerator has no memory left for a second copy of the state: each save copies it to the host first, and "
                    "training waits for that. Save less often, or leave it more memory (a smaller batch), if that is too slow.",
                    stacklevel=2,
                )
        return bool(self._answer)
