"""Tensors that training does not change (a frozen backbone, EarlyStopping's best weights): which they are, and whether they are the same.

A snapshot under TensorFlow holds a reference to a variable's buffer, and whoever writes to the variable while it is held has to give it
another one. As long as the buffer is the one held since the last capture, its bits are the same: nothing has to be read to know it.
"""

from __future__ import annotations

import math
import weakref
from collections.abc import Mapping, Sequence
from typing import Any

from resilient import keras_private
from resilient.manifest import Frozen
from resilient.state.backend import Backend

RESTORED = 0  # the generation of what a checkpoint has put into the variables
_SMALL = 2**10  # elements; below this a variable costs next to nothing to write
_WORTHWHILE = 2**18  # elements in all; below this a file of their own costs more than it saves


class FrozenWeights:
    """Follows a model's frozen weights from one capture to the next."""

    def __init__(self, framework: Backend, model: Any) -> None:
        self._framework = framework
        self._statistics = keras_private.moving_statistics(model)
        self._names: list[str] = []
        self._held: dict[str, Any] = {}
        self._written: set[str] = set()  # no gradients reach them, but something else does
        self._generation = RESTORED

    def find(self, named: Mapping[str, Any], values: Mapping[str, Any]) -> Frozen | None:
        """Those of the model's variables `named`, whose snapshot is `values`; None where there are too few to matter."""
        names = [name for name in self._candidates(named) if not self._was_written(name, values[name])]
        if sum(_size(named[name]) for name in names) < _WORTHWHILE:
            names = []
        if names != self._names:
            self._generation += 1
        told = self._follow(names, values)
        return Frozen(tuple(names), self._generation if told else None) if names else None

    def restored(self, named: Mapping[str, Any], values: Mapping[str, Any]) -> None:
        """A checkpoint has been put into the variables; those with a snapshot in `values` were frozen in it."""
        candidates = self._candidates(named)
        self._written = {name for name in candidates if name not in values} if values else set()
        self._generation = RESTORED
        self._follow([name for name in candidates if name in values], values)

    def _follow(self, names: list[str], values: Mapping[str, Any]) -> bool:
        """Hold their buffers, if the framework can tell by them whether they are written to; whether it can."""
        told = bool(names) and all(self._framework.same(values[name], values[name]) is not None for name in names)
        self._names, self._held = names, {name: values[name] for name in names} if told else {}
        return told

    def _candidates(self, named: Mapping[str, Any]) -> list[str]:
        return [
            name
            for name, variable in named.items()
            if not getattr(variable, "trainable", True)
            and name not in self._written
            and id(variable) not in self._statistics
            and _size(variable) >= _SMALL
        ]

    def _was_written(self, name: str, value: Any) -> bool:
        """Whether somebody has written to it since the last capture, as far as the framework can tell."""
        if name in self._held and self._framework.same(self._held[name], value) is False:
            self._written.add(name)
            return True
        return False


class UntouchedArrays:
    """Follows arrays that are replaced and never written into, from one capture to the next: the same object has the same bits."""

    def __init__(self) -> None:
        self._followed: dict[str, weakref.ref[Any]] = {}  # weak, because what was replaced may be as large as the model
        self._generation = RESTORED

    def find(self, arrays: Mapping[str, Any]) -> Frozen | None:
        """The large ones of `arrays`; None where there are too few to matter."""
        large = _large(arrays)
        if not self._followed_are(large):
            self._generation += 1
            self._follow(large)
        # Twice, because they cannot be had again from elsewhere, as a backbone can.
        return Frozen(tuple(large), self._generation, twice=True) if large else None

    def restored(self, arrays: Mapping[str, Any], saved: Sequence[str]) -> None:
        """What a checkpoint holds is in `arrays` now; `saved` are those that it has in a part of their own."""
        large = _large(arrays)
        # By other names they would not be found in that part.
        self._generation = RESTORED if list(large) == list(saved) else self._generation + 1
        self._follow(large)

    def _follow(self, arrays: Mapping[str, Any]) -> None:
        self._followed = {name: weakref.ref(array) for name, array in arrays.items()}

    def _followed_are(self, arrays: Mapping[str, Any]) -> bool:
        return list(self._followed) == list(arrays) and all(self._followed[name]() is array for name, array in arrays.items())


def _large(arrays: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: array for name, array in arrays.items() if _size(array) >= _SMALL}
    return found if sum(map(_size, found.values())) >= _WORTHWHILE else {}


def _size(variable: Any) -> int:
    return math.prod(variable.shape)
