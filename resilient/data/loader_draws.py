"""What PyTorch's loaders draw from the process' generator: one number for each iterator, used or not.

Keras' Dropout without a seed draws from that same generator, so the numbers have to come when Keras would have made its iterators, and not
when a resumed epoch needs one more: ours draw nothing by themselves, and `LoaderDraws` draws at Keras' moments.
"""

from __future__ import annotations

import keras


class LoaderDraws:
    """The draws of one input; under other backends than PyTorch there are none.

    Keras makes an iterator at the beginning of every epoch and, if it knows the length, another one at its end; with steps_per_epoch one at
    the run's beginning and one at the end of each pass. An epoch that goes on has its first one behind it and, stopped in validation, also
    its last: `ended` is what has to be saved for that.

    Args:
        real: the input makes such iterators by itself, and nothing is to be done here.
    """

    def __init__(self, *, real: bool = False) -> None:
        self.ended = False
        self._on = keras.backend.backend() == "torch" and not real
        self._goes_on = False

    def sample(self) -> None:
        """A batch is looked at to build the model, for which Keras makes an iterator too."""
        self._draw()

    def seek(self, batch: int) -> None:
        """The epoch begins, or goes on, at this batch."""
        self._goes_on = batch > 0
        self.ended = self.ended and self._goes_on

    def begin(self, *, due: bool) -> None:
        """Keras is about to take the epoch's iterator. `due`: whether it would be a new one."""
        if due and not self._goes_on:
            self._draw()

    def end(self, *, due: bool) -> None:
        """The epoch's batches are all trained; may be called again. `due`: whether Keras would have made an iterator there."""
        ended, self.ended = self.ended, True
        if due and not ended:
            self._draw()

    def _draw(self) -> None:
        if self._on:
            draw()


def draw() -> None:
    """What making an iterator of a DataLoader does to PyTorch's generator."""
    import torch

    torch.empty((), dtype=torch.int64).random_()
