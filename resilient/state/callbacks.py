"""The state of callbacks: through `get_state`/`set_state` where they define it, else through their plain-data attributes.

What is saved of a callback's attributes is what changed since `fit` was called: the rest is configuration and stays as the program set it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Mapping, MutableMapping, Sequence
from typing import Any

import keras
import numpy as np

from resilient.state import plain

# Set by Keras itself for the fit under way.
_KERAS_OWN = {"_model", "params", "_history"}
# MonitorCallback negates min_delta when it first sets monitor_op: restoring the number without the function would negate it twice.
_MONITOR_OWN = {"min_delta", "monitor_op"}
PREFIX = "callbacks"
_ABSENT = object()


class CallbackStates:
    """The callbacks of one fit and what they looked like before it began."""

    def __init__(self, callbacks: Sequence[Any]) -> None:
        self._callbacks = [callback for callback in callbacks if not isinstance(callback, keras.callbacks.ProgbarLogger)]
        self._before = [_attributes(callback, {}, "before") for callback in self._callbacks]
        self._csv_base = {id(c): _size(c.filename) if c.append else 0 for c in self._callbacks if isinstance(c, keras.callbacks.CSVLogger)}

    def capture(self, arrays: MutableMapping[str, Any]) -> list[dict[str, Any]]:
        """JSON of every callback's state; arrays go into `arrays`."""
        return [
            {"class": _class_name(callback), **self._capture_one(callback, before, f"{PREFIX}/{index}", arrays)}
            for index, (callback, before) in enumerate(zip(self._callbacks, self._before, strict=True))
        ]

    def _capture_one(self, callback: Any, before: Mapping[str, Any], key: str, arrays: MutableMapping[str, Any]) -> dict[str, Any]:
        if _has_own_state(callback):
            return {"state": plain.encode(callback.get_state(), arrays, f"{key}/state")}
        found: dict[str, Any] = {}
        now = _attributes(callback, found, key)
        # Arrays are not compared: an attribute that holds one counts as changed.
        with_arrays = {name.split("/")[2] for name in found}
        changed = {name: value for name, value in now.items() if name in with_arrays or before.get(name, _ABSENT) != value}
        arrays.update(found)
        state: dict[str, Any] = {"attributes": changed}
        if isinstance(callback, keras.callbacks.CSVLogger):
            state["csv"] = {"base": self._csv_base[id(callback)], "rows": _read_from(callback.filename, self._csv_base[id(callback)])}
        return state

    def before_train_begin(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Give files back the content they had at the checkpoint, before on_train_begin opens them."""
        for callback, state in self._matched(saved):
            if "csv" in state:
                self._csv_base[id(callback)] = state["csv"]["base"]
                _rewind(callback.filename, state["csv"]["base"], state["csv"]["rows"])
                callback.append = True

    def after_train_begin(self, saved: Sequence[Mapping[str, Any]]) -> None:
        """Undo what `before_train_begin` had to change on the callbacks."""
        for callback, state in self._matched(saved):
            if "csv" in state:
                before = self._before[self._callbacks.index(callback)]
                callback.append = bool(before.get("append", False))

    def apply(self, saved: Sequence[Mapping[str, Any]], arrays: Mapping[str, Any]) -> None:
        """Put every callback's state back; lists, dicts and sets in place, so that whoever else holds them sees it."""
        for callback, state in self._matched(saved):
            if "state" in state:
                callback.set_state(plain.decode(state["state"], arrays))
            for name, value in state.get("attributes", {}).items():
                _set(callback, name, plain.decode(value, arrays))

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


def _has_own_state(callback: Any) -> bool:
    return callable(getattr(callback, "get_state", None)) and callable(getattr(callback, "set_state", None))


def _attributes(callback: Any, arrays: MutableMapping[str, Any], key: str) -> dict[str, Any]:
    skipped = _KERAS_OWN | (_MONITOR_OWN if _is_monitor(callback) else set())
    # Keras' own callbacks replace arrays (EarlyStopping's best weights) and never write into them.
    copy = not type(callback).__module__.startswith("keras.")
    found = {}
    for name, value in vars(callback).items():
        if name in skipped or callable(value):
            continue
        try:
            found[name] = plain.encode(value, arrays, f"{key}/{name}", copy=copy)
        except plain.OpaqueError:
            continue
    return found


def _is_monitor(callback: Any) -> bool:
    return hasattr(callback, "monitor_op") and hasattr(callback, "min_delta")


def _set(callback: Any, name: str, value: Any) -> None:
    current: Any = getattr(callback, name, None)
    if type(current) is type(value) is list:
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
