"""Attributes of callbacks that a checkpoint leaves out, and that may be state.

Only plain data is saved of a callback without `get_state` and `set_state`. Of the rest most is no state: functions, models, files, locks.
What remains is an object that may change from batch to batch without anybody knowing how to save it.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import fractions
import functools
import os
import re
import sys
import sysconfig
import types
import uuid
from collections.abc import Iterator
from typing import Any

import numpy as np

from resilient.auditing.assignments import assigned, assigned_later
from resilient.auditing.finding import Finding
from resilient.state import plain

_SET_BY_KERAS = {"_model", "params", "_history", "validation_data"}
_CONTAINERS = (list, tuple, set, frozenset, dict, collections.OrderedDict, collections.deque, collections.Counter)
_FUNCTIONS = (types.FunctionType, types.BuiltinFunctionType, types.MethodType, types.ModuleType, functools.partial, type)
# Their state is the process', the disk's or the screen's, or is saved with the model. By the top-level module of a class or of its bases.
_NO_STATE = {
    "_csv", "_io", "_queue", "_thread", "_weakref", "argparse", "asyncio", "concurrent", "configparser", "csv", "http", "importlib", "io",
    "logging", "mmap", "multiprocessing", "queue", "socket", "sqlite3", "ssl", "subprocess", "tempfile", "threading", "urllib", "weakref",
    "keras", "tensorflow", "jax", "jaxlib", "torch",
    "aim", "clearml", "comet_ml", "matplotlib", "mlflow", "neptune", "plotly", "rich", "seaborn", "tensorboard", "tensorboardX", "tqdm",
    "wandb",
}  # fmt: skip
_VALUES = (
    str, bytes, int, float, complex, range, slice, enum.Enum, decimal.Decimal, fractions.Fraction, uuid.UUID, re.Pattern,
    dt.date, dt.time, dt.tzinfo, dt.timedelta, types.MappingProxyType, np.dtype, np.generic, np.ndarray,
)  # fmt: skip

_INSTALLED = tuple(sysconfig.get_paths()[name] + os.sep for name in ("stdlib", "purelib", "platlib"))

_MINE = "define get_state() and set_state(state) on the callback, or keep what changes as plain data (numbers, text, arrays, lists, dicts)"


def callback_findings(callbacks: Any) -> list[Finding]:
    """The attributes of a caller's own callbacks that may be state and are not saved; [] if there are none.

    Args:
        callbacks: a callback, a list of them, a `CallbackList`, or None. An attribute is seen once it exists: those that
            `on_train_begin` makes are seen after it.
    """
    listed = _listed(callbacks)
    return [finding for callback in listed if not _is_provided_for(callback) for finding in _findings_of(callback, listed)]


def _listed(callbacks: Any) -> list[Any]:
    if callbacks is None:
        return []
    callbacks = getattr(callbacks, "callbacks", callbacks)
    return list(callbacks) if isinstance(callbacks, (list, tuple)) else [callbacks]


def _is_provided_for(callback: Any) -> bool:
    """Keras' own and ours, whose state is known, and those that save themselves."""
    own = all(callable(getattr(callback, name, None)) for name in ("get_state", "set_state"))
    return own or _root(type(callback)) in ("keras", "resilient")


def _findings_of(callback: Any, listed: list[Any]) -> Iterator[Finding]:
    kind: Any = type(callback)
    skipped = _SET_BY_KERAS | assigned(base for base in kind.__mro__ if _root(base) == "keras")
    for name, value in vars(callback).items():
        if name in skipped:
            continue
        for part in _opaque_parts(value, 0):
            if any(part is other for other in listed):
                continue
            reason = _reason(part, later=name in assigned_later(kind))
            if reason is not None:
                what = f"attribute {name!r} of the callback {kind.__qualname__}, {_described(part, value)}"
                yield Finding(what, *reason)
                break


def _opaque_parts(value: Any, depth: int) -> Iterator[Any]:
    """What keeps a value from being saved: the value itself, or objects in it if it is a container; nothing if it is plain data."""
    if _is_plain(value):
        return
    if type(value) not in _CONTAINERS or depth > 8:
        yield value
        return
    items = [*value.keys(), *value.values()] if isinstance(value, dict) else value
    for item in items:
        yield from _opaque_parts(item, depth + 1)


def _is_plain(value: Any) -> bool:
    try:
        plain.encode(value, {}, "", copy=False)
    except plain.OpaqueError:
        return False
    return True


def _reason(value: Any, *, later: bool) -> tuple[str, str] | None:
    """Why and remedy, or None where it is no state. `later`: methods of the callback assign the attribute while training runs."""
    if _is_generator(value):
        return (
            "its place in what it yields or draws can be neither read nor set",
            "keep the place as a number, or draw from numpy.random.Generator or random.Random, which are saved",
        )
    if (_is_value(value) and not later) or isinstance(value, _FUNCTIONS):
        return None
    kind: Any = type(value)
    if not _is_value(value) and not _is_callback(value) and any(_root(base) in _NO_STATE for base in kind.__mro__):
        return None
    if callable(value) and (_is_installed(kind) or not assigned_later(kind)):
        return None
    return "checkpoints hold only plain data of a callback, and this is left out", _MINE


def _is_generator(value: Any) -> bool:
    """An iterator, or a random generator whose state is not plain data."""
    if _root(type(value)) in ("keras", "tensorflow", "torch") and type(value).__name__ in ("SeedGenerator", "Generator"):
        return True
    is_file = hasattr(value, "readline") or _root(type(value)) == "_csv"
    return hasattr(value, "__next__") and not is_file


def _is_callback(value: Any) -> bool:
    """A callback within the callback; unlike all other objects of Keras it is saved with nothing."""
    return all(callable(getattr(value, name, None)) for name in ("set_params", "on_train_batch_end", "on_epoch_end"))


def _is_value(value: Any) -> bool:
    """Whether only an assignment could change it (or, for arrays and tables, nearly so)."""
    kind: Any = type(value)
    frozen = getattr(getattr(kind, "__dataclass_params__", None), "frozen", None)
    if frozen is not None:
        return bool(frozen)
    is_key = _root(kind) in ("jax", "jaxlib") and str(getattr(value, "dtype", "")).startswith("key<")
    return isinstance(value, _VALUES) or (isinstance(value, tuple) and hasattr(kind, "_fields")) or _root(kind) == "pandas" or is_key


def _described(part: Any, whole: Any) -> str:
    kind = type(part)
    name = kind.__qualname__ if kind.__module__ in ("builtins", "__main__") else f"{kind.__module__}.{kind.__qualname__}"
    return f"a {name}" if part is whole else f"with a {name} in it"


def _root(kind: type) -> str:
    return kind.__module__.partition(".")[0]


def _is_installed(kind: type) -> bool:
    """Whether a class comes with Python or an installed package; those that can be called (tokenizers, transformations) are functions."""
    file = getattr(sys.modules.get(kind.__module__), "__file__", None)
    return kind.__module__ in sys.builtin_module_names or (file is not None and file.startswith(_INSTALLED))
