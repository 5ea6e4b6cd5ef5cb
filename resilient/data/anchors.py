"""When to write down an iterator's whole state: it holds the pipeline's buffers, and a large one stops training for seconds."""

from __future__ import annotations

import time
from typing import Any

import numpy as np

from resilient import keras_private
from resilient.data.pipeline import buffered_elements, element_nbytes, reshuffling, shuffles_in

_SHARE = 0.005  # of the time, for writing iterator states down
_SECONDS_PER_ELEMENT = 20e-6  # of a shuffle buffer, measured; only a first guess
_SECONDS = 0.0003  # of a pipeline without buffers, measured
_LARGEST = 256 * 2**20  # bytes; above that the pass is replayed


def anchors_for(dataset: Any) -> Anchors:
    """Those of a pipeline, with a first guess of what one costs."""
    elements = buffered_elements(dataset)
    return Anchors(elements, elements * element_nbytes(dataset), reshuffling(dataset))


class Anchors:
    """The states of an iterator that were written down in the present pass, the newest few.

    Args:
        elements: how many the pipeline buffers.
        nbytes: about what they take.
        shuffles: how many shuffles a whole state tells of.
    """

    def __init__(self, elements: int, nbytes: int, shuffles: int) -> None:
        self._cost = _SECONDS + _SECONDS_PER_ELEMENT * elements
        self._too_large = nbytes > _LARGEST
        self._shuffles = shuffles
        self._last = time.monotonic()
        self._states: list[tuple[int, bytes | None]] = [(0, None)]
        self._wanted = False

    @property
    def wanted(self) -> bool:
        """Whether one is to be taken before the next batch is pulled."""
        return self._wanted

    def begin_pass(self, at: int = 0, state: bytes | None = None) -> None:
        """Another pass: its beginning is batch 0, or a state that was saved with a checkpoint."""
        self._states = [(at, state)]
        self._wanted = False

    def want(self) -> None:
        """A save found the iterator ahead of training: take one before the next batch, for the saves to come."""
        self._wanted = self._worth

    def take_if_worth(self, pulled: int, iterator: Any) -> None:
        """Write the state down unless that costs more than its share of the time."""
        if self._worth:
            self.take(pulled, iterator)

    def take(self, pulled: int, iterator: Any) -> None:
        """Write the state down; `pulled`: batches of this pass that the iterator has given."""
        self._wanted = False
        began = time.monotonic()
        state = keras_private.iterator_state(iterator)
        self._last = time.monotonic()
        self._cost = self._last - began
        if state is None:  # an operation that refuses after all: the pass is replayed from where it can be
            self._too_large = True
            return
        if shuffles_in(state) < self._shuffles:  # one of them is at its end
            return
        self._states = [*self._states[-1:], (pulled, state)]

    def newest(self, consumed: int) -> tuple[int, Any]:
        """(batches, state) of the last one that is not beyond the position; state None: the pass' own beginning.

        A state is a uint8 array over bytes that nobody writes into, so that nobody has to copy it.
        """
        at, state = next((at, state) for at, state in reversed(self._states) if at <= consumed)
        return at, None if state is None else np.frombuffer(state, np.uint8)

    @property
    def _worth(self) -> bool:
        return not self._too_large and (time.monotonic() - self._last) * _SHARE >= self._cost
