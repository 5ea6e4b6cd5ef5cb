"""The state of an object the caller owns (a PyDataset): its own `get_state`/`set_state`, else those of its attributes that changed."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

# How a value looks, None where it is not plain data. Given by the caller, because what counts as plain is the checkpoint's affair.
Fingerprint = Callable[[Any], str | None]
_SCALARS = (bool, int, float, str, type(None))
_GENERATORS = (np.random.Generator, np.random.RandomState, random.Random)
_LARGE = 2**16  # bytes: what is larger is looked at between epochs only, as it could not be after every batch


class ObjectState:
    """Watches one object.

    Args:
        owner: the object, as the program made it.
        fingerprint: see Fingerprint.
    """

    def __init__(self, owner: Any, fingerprint: Fingerprint) -> None:
        self._owner = owner
        self._fingerprint = fingerprint
        self.has_own = callable(getattr(owner, "get_state", None)) and callable(getattr(owner, "set_state", None))
        attributes = {} if self.has_own else vars(owner)
        self._before = {name: fingerprint(value) for name, value in attributes.items()}
        self._constants = {name: value for name, value in attributes.items() if isinstance(value, _SCALARS)}
        self._large = {name for name, value in attributes.items() if _nbytes(value) > _LARGE}
        self._changed_large: dict[str, Any] = {}
        self.opaque = sorted(name for name, value in self._before.items() if value is None and not _is_harmless(attributes[name]))

    def boundary(self) -> None:
        """Between two epochs, where large attributes change: the order of the samples, say."""
        if not self.has_own:
            self._changed_large = {name: _copy(value) for name, value in self._changed(self._is_large)}

    def small(self) -> Any:
        """State of this moment but for large attributes."""
        if self.has_own:
            return {"own": self._owner.get_state()}
        return {"attributes": {name: _copy(value) for name, value in self._changed(lambda name, value: not self._is_large(name, value))}}

    def large(self) -> dict[str, Any]:
        """Large attributes that are not what the program made, as of the last boundary."""
        return dict(self._changed_large)

    def restore(self, small: Mapping[str, Any], large: Mapping[str, Any]) -> None:
        """Put both parts back."""
        if "own" in small:
            self._owner.set_state(small["own"])
        for name, value in {**small.get("attributes", {}), **large}.items():
            _set(self._owner, name, value)
        self._changed_large = dict(large)

    def _is_large(self, name: str, value: Any) -> bool:
        return name in self._large or (name not in self._before and _nbytes(value) > _LARGE)

    def _changed(self, wanted: Callable[[str, Any], bool]) -> list[tuple[str, Any]]:
        changed = []
        for name, value in list(vars(self._owner).items()):
            if wanted(name, value) and self._has_changed(name, value):
                changed.append((name, value))
        return changed

    def _has_changed(self, name: str, value: Any) -> bool:
        # The two cheap answers are for the many: this is asked for every batch.
        if isinstance(value, _SCALARS) and name in self._constants and type(value) is type(self._constants[name]):
            return bool(value != self._constants[name])
        if isinstance(value, _GENERATORS):
            return True
        now = self._fingerprint(value)
        return now is not None and now != self._before.get(name)


def _nbytes(value: Any) -> int:
    """About the size of a value; counting ends where it is large."""
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, (list, tuple, set, frozenset, dict)):
        total = 16 * len(value)
        for item in value.items() if isinstance(value, dict) else value:
            if total > _LARGE:
                break
            total += _nbytes(item)
        return total
    nbytes = getattr(value, "nbytes", None)
    if isinstance(nbytes, int):
        return nbytes
    size = getattr(value, "shape", None)
    return _LARGE + 1 if size is not None and hasattr(value, "__array__") else 0


def _is_harmless(value: Any) -> bool:
    """Whether it can be no state: functions, modules, locks, loggers, files."""
    module = type(value).__module__
    return callable(value) or module.startswith(("_thread", "threading", "logging", "_io", "multiprocessing", "keras."))


def _copy(value: Any) -> Any:
    if isinstance(value, np.random.Generator):
        copied = np.random.Generator(type(value.bit_generator)())
        copied.bit_generator.state = value.bit_generator.state
        return copied
    if isinstance(value, np.random.RandomState):
        state = np.random.RandomState()
        state.set_state(value.get_state())
        return state
    if isinstance(value, random.Random):
        other = random.Random()
        other.setstate(value.getstate())
        return other
    if isinstance(value, list):
        return [_copy(item) for item in value]
    if isinstance(value, dict):
        return {key: _copy(item) for key, item in value.items()}
    return value.copy() if isinstance(value, (np.ndarray, set)) else value


def _set(owner: Any, name: str, value: Any) -> None:
    """In place where that is possible, so that whoever else holds the attribute sees it."""
    current = getattr(owner, name, None)
    if isinstance(current, np.random.Generator) and type(current.bit_generator) is type(value.bit_generator):
        current.bit_generator.state = value.bit_generator.state
    elif isinstance(current, np.random.RandomState):
        current.set_state(value.get_state())
    elif isinstance(current, random.Random):
        current.setstate(value.getstate())
    elif isinstance(current, np.ndarray) and current.flags.writeable and (current.shape, current.dtype) == (value.shape, value.dtype):
        current[...] = value
    elif isinstance(current, list) and isinstance(value, list):
        current[:] = value
    elif isinstance(current, (dict, set)) and isinstance(value, (dict, set)):
        current.clear()
        current.update(value)
    else:
        setattr(owner, name, value)
