"""The state of callbacks: through `get_state`/`set_state` where they define it, else through their plain-data attributes.

An attribute that never changed since `fit` was first called is configuration: if the program sets it differently at a later attempt, the
program's value counts.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np

from resilient.errors import ConfigurationError
from resilient.state import plain

# Set by Keras itself for the fit under way.
_KERAS_OWN = {"_model", "params", "_history"}
# MonitorCallback negates min_delta when it first sets monitor_op: restoring the number without the function would negate it twice.
_MONITOR_OWN = {"min_delta", "monitor_op"}
# CSVLogger finds out from the file itself, which we give back its content, whether there is a header.
_CSV_OWN = {"append", "append_header"}
_REPLACED = "best_weights"
PREFIX = "callbacks"
_ABSENT = object()


class CallbackStates:
    """The callbacks of one fit and what they looked like before it began."""

    def __init__(self, callbacks: Sequence[Any]) -> None:
        self._callbacks = [callback for callback in callbacks if not isinstance(callback, keras.callbacks.ProgbarLogger)]
        self._before = [_attributes(callback, {}, "before") for callback in self._callbacks]
        self._changed: list[set[str]] = [set() for _ in self._callbacks]  # attributes known to be state, also from earlier attempts
        self._appends: dict[int, bool] = {}
        self._csv_base = {id(c): _size(c.filename) if c.append else 0 for c in self._callbacks if isinstance(c, keras.callbacks.CSVLogger)}

    def capture(self, arrays: MutableMapping[str, Any]) -> list[dict[str, Any]]:
        """JSON of every callback's state; arrays go into `arrays`."""
        return [
            {"class": _class_name(callback), **self._capture_one(index, callback, f"{PREFIX}/{index}", arrays)}
            for index, callback in enumerate(self._callbacks)
        ]

    def untouched(self) -> dict[str, Any]:
        """Arrays that nobody writes into, because they are replaced by others, under the names that `capture` gives them."""
        return {
            f"{PREFIX}/{index}/{_REPLACED}/{place}": array
            for index, callback in enumerate(self._callbacks)
            if _replaces(callback, _REPLACED)
            for place, array in enumerate(callback.best_weights or ())
        }

    def _capture_one(self, index: int, callback: Any, key: str, arrays: MutableMapping[str, Any]) -> dict[str, Any]:
        if _has_own_state(callback):
            return {"state": _own_state(callback, arrays, f"{key}/state")}
        before, known = self._before[index], self._changed[index]
        found: dict[str, Any] = {}
        now = _attributes(callback, found, key)
        # Arrays are not compared: an attribute that holds one counts as changed.
        with_arrays = {name.split("/")[2] for name in found}
        known |= {name for name, value in now.items() if name in with_arrays or before.get(name, _ABSENT) != value}
        arrays.update(found)
        state: dict[str, Any] = {"attributes": now, "configuration": sorted(now.keys() - known)}
        if isinstance(callback, keras.callbacks.CSVLogger):
            state["csv"] = {"base": self._csv_base[id(callback)], "rows": _read_from(callback.filename, self._csv_base[id(callback)])}
        return state

    def before_train_begin(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Give files back the content they had at the checkpoint, before on_train_begin opens them."""
        for callback, state in self._matched(saved):
            if "csv" in state:
                self._csv_base[id(callback)] = state["csv"]["base"]
                _rewind(callback.filename, state["csv"]["base"], state["csv"]["rows"])
                self._appends[id(callback)] = callback.append
                callback.append = True

    def after_train_begin(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Undo what `before_train_begin` had to change on the callbacks."""
        for callback, state in self._matched(saved):
            if "csv" in state:
                callback.append = self._appends[id(callback)]

    def apply(self, saved: Sequence[Mapping[str, Any]], arrays: Mapping[str, Any]) -> None:
        """Put every callback's state back; lists, dicts and sets in place, so that whoever else holds them sees it."""
        for callback, state in self._matched(saved):
            if "state" in state:
                callback.set_state(plain.decode(state["state"], arrays))
            index = self._callbacks.index(callback)
            before, configuration = self._before[index], set(state.get("configuration", ()))
            self._changed[index] |= state.get("attributes", {}).keys() - configuration
            for name, value in state.get("attributes", {}).items():
                # Also what equals its first value: on_train_begin may have changed it.
                chosen = before.get(name, value) if name in configuration else value
                _set(callback, name, plain.decode(chosen, arrays))

    def warn_of_changes(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """One warning if the program's callbacks are not those of the checkpoint."""
        before = sorted(state["class"] for state in saved)
        now = sorted(_class_name(callback) for callback in self._callbacks)
        if before != now:
            gone, new = _minus(before, now), _minus(now, before)
            warnings.warn(
                f"The callbacks changed since the checkpoint (gone: {gone or 'none'}, new: {new or 'none'}): new ones begin afresh, "
                "and the end need not be that of an uninterrupted run. Give the run its callbacks back to make it exact.",
                stacklevel=2,
            )

    def _matched(self, saved: Sequence[Mapping[str, Any]]) -> list[tuple[Any, Mapping[str, Any]]]:
        left = list(saved)
        pairs = []
        for callback in self._callbacks:
            state = next((s for s in left if s["class"] == _class_name(callback)), None)
            if state is not None:
                left.remove(state)
                pairs.append((callback, state))
        return pairs


def _minus(names: list[str], others: list[str]) -> list[str]:
    left = list(others)
    return [name for name in names if name not in left or left.remove(name)]  # type: ignore[func-returns-value]


def _class_name(callback: Any) -> str:
    return f"{type(callback).__module__}.{type(callback).__qualname__}"


def _own_state(callback: Any, arrays: MutableMapping[str, Any], key: str) -> Any:
    try:
        return plain.encode(callback.get_state(), arrays, key)
    except plain.OpaqueError as error:
        raise ConfigurationError(
            f"get_state() of {_class_name(callback)} returned {error}. "
            "Return plain data: numbers, strings, arrays, and lists and dicts of them."
        ) from error


def _has_own_state(callback: Any) -> bool:
    return callable(getattr(callback, "get_state", None)) and callable(getattr(callback, "set_state", None))


def _attributes(callback: Any, arrays: MutableMapping[str, Any], key: str) -> dict[str, Any]:
    skipped = _KERAS_OWN | (_MONITOR_OWN if _is_monitor(callback) else set())
    if isinstance(callback, keras.callbacks.CSVLogger):
        skipped |= _CSV_OWN
    found = {}
    for name, value in vars(callback).items():
        if name in skipped or callable(value):
            continue
        try:
            found[name] = plain.encode(value, arrays, f"{key}/{name}", copy=not _replaces(callback, name))
        except plain.OpaqueError:
            continue
    return found


def _replaces(callback: Any, name: str) -> bool:
    """Whether it puts other arrays into that attribute and never writes into those: known of Keras' own EarlyStopping, of no subclass."""
    return type(callback) is keras.callbacks.EarlyStopping and name == _REPLACED


def _is_monitor(callback: Any) -> bool:
    return hasattr(callback, "monitor_op") and hasattr(callback, "min_delta")


def _set(callback: Any, name: str, value: Any) -> None:
    current: Any = getattr(callback, name, None)
    if callable(getattr(current, "assign", None)):  # a variable of the callback's own
        current.assign(value)
    elif type(current) is type(value) is list:
        current[:] = value
    elif type(current) is type(value) and isinstance(value, (dict, set)):
        current.clear()
        current.update(value)
    elif isinstance(value, np.ndarray) and isinstance(current, np.ndarray) and _fits(current, value):
        current[...] = value
    else:
        setattr(callback, name, value)


def _fits(current: Any, value: Any) -> bool:
    return bool(current.shape == value.shape and current.dtype == value.dtype and current.flags.writeable)


def _size(path: str) -> int:
    return os.path.getsize(path) if os.path.exists(path) else 0


def _read_from(path: str, offset: int) -> str:
    if not os.path.exists(path):
        return ""
    with open(path, "rb") as file:
        file.seek(offset)
        return file.read().decode("utf-8", "surrogateescape")


def _rewind(path: str, base: int, rows: str) -> None:
    """Make the file what it was: what stood in it before the run, then the run's rows up to the checkpoint."""
    kept = b""
    if base and os.path.exists(path):
        with open(path, "rb") as file:
            kept = file.read(base)
    temporary = f"{path}.tmp-{os.getpid()}"
    with open(temporary, "wb") as file:
        file.write(kept + rows.encode("utf-8", "surrogateescape"))
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
