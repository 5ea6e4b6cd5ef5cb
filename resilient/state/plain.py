"""Plain Python data <-> JSON and arrays, exactly: what comes back has the same types and the same bits.

Scalars and lists are JSON as they are (long lists of numbers are packed); everything else is an object with a tag. Nothing here can run
code when it is decoded.
"""

from __future__ import annotations

import base64
import collections
import datetime as dt
import json
import pathlib
import random
from collections.abc import Mapping, MutableMapping
from typing import Any

import numpy as np
import xxhash

from resilient import packed

_TAG = "!"
_MAX_DEPTH = 32
_BIT_GENERATORS = {"MT19937", "PCG64", "PCG64DXSM", "Philox", "SFC64"}


_FACTORIES: dict[str, Any] = {"int": int, "float": float, "list": list, "dict": dict, "set": set, "str": str}


class OpaqueError(TypeError):
    """The value is not plain data; the message names the type."""


def encode(value: Any, arrays: MutableMapping[str, Any], key: str, *, copy: bool = True) -> Any:
    """JSON for `value`; its arrays are put into `arrays` under names that begin with `key`.

    Args:
        value: None, bool, int, float, str, bytes, NumPy scalars and arrays, random generators, dates, paths, and lists, tuples, dicts,
            sets and deques of them.
        arrays: receives name -> array.
        key: prefix of those names, unique to the value.
        copy: whether arrays are copied; False where their owner never writes into them.

    Raises:
        OpaqueError: anything else in it.
    """
    return _Encoder(arrays, copy).encode(value, key, 0)


def fingerprint(value: Any) -> str | None:
    """A checksum that tells two plain values apart; None where the value is not plain data."""
    arrays: dict[str, Any] = {}
    try:
        text = json.dumps(encode(value, arrays, "v", copy=False))
    except OpaqueError:
        return None
    digest = xxhash.xxh3_128(text.encode())
    for array in arrays.values():
        digest.update(f"{array.dtype}{array.shape}".encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


class _Encoder:
    def __init__(self, arrays: MutableMapping[str, Any], copy: bool) -> None:
        self._arrays = arrays
        self._copy = copy

    def encode(self, value: Any, key: str, depth: int) -> Any:  # noqa: C901  one case a type
        if value is None or type(value) in (bool, int, float, str):
            return value
        if depth > _MAX_DEPTH:
            raise OpaqueError("it is nested too deeply, or contains itself")
        kind = type(value)
        if kind is list:
            return self._items(value, key, depth)
        if kind in (tuple, set, frozenset):
            items = sorted(value, key=repr) if kind is not tuple else value
            return {_TAG: kind.__name__, "v": self._items(items, key, depth)}
        if kind is collections.deque:
            return {_TAG: "deque", "v": self._items(value, key, depth), "n": value.maxlen}
        if kind in (dict, collections.OrderedDict):
            return {_TAG: kind.__name__, "v": [self._items(pair, f"{key}/{i}", depth) for i, pair in enumerate(value.items())]}
        if kind is collections.Counter:
            return {_TAG: "Counter", "v": self.encode(dict(value), key, depth)}
        if kind is collections.defaultdict and value.default_factory in _FACTORIES.values():
            return {_TAG: "defaultdict", "f": value.default_factory.__name__, "v": self.encode(dict(value), key, depth)}
        if kind is np.ndarray:
            return self._array(value, key)
        if _is_tensor(value):
            return self._array(_from_tensor(value), key)
        return _encode_leaf(value)

    def _items(self, items: Any, key: str, depth: int) -> list[Any] | dict[str, str]:
        return packed.pack(items) or [self.encode(item, f"{key}/{i}", depth + 1) for i, item in enumerate(items)]

    def _array(self, value: Any, key: str) -> Any:
        if value.dtype.hasobject or (value.dtype.kind in "cSUVMm" and value.dtype.name not in ("bfloat16", "float8_e4m3fn", "float8_e5m2")):
            raise OpaqueError(f"an array of dtype {value.dtype}")
        # Bytes cannot be written into: a view of them needs no copy.
        self._arrays[key] = value.copy() if self._copy and not isinstance(value.base, bytes) else value
        return {_TAG: "array", "k": key}


def _is_tensor(value: Any) -> bool:
    """Whether it is some framework's tensor or variable; it comes back as an array."""
    return not isinstance(value, np.generic) and all(hasattr(value, name) for name in ("__array__", "dtype", "shape"))


def _from_tensor(value: Any) -> Any:
    if hasattr(value, "detach"):  # PyTorch's, which NumPy takes neither with a gradient nor from a GPU nor as bfloat16
        from resilient.state.torch_backend import to_numpy

        return to_numpy(value.detach().cpu())
    try:
        return np.array(value)
    except TypeError as error:  # JAX' keys
        raise OpaqueError(f"a {type(value).__module__}.{type(value).__qualname__} that is no array") from error


def _encode_leaf(value: Any) -> Any:
    if isinstance(value, np.generic) and value.dtype.kind in "biuf":
        return {_TAG: "scalar", "d": value.dtype.name, "v": base64.b64encode(value.tobytes()).decode("ascii")}
    if isinstance(value, pathlib.PurePath):
        return {_TAG: "path", "v": str(value)}
    kind = type(value)
    if kind is bytes:
        return {_TAG: "bytes", "v": base64.b64encode(value).decode("ascii")}
    if kind is dt.datetime:
        return {_TAG: "datetime", "v": value.isoformat()}
    if kind is dt.timedelta:
        return {_TAG: "timedelta", "v": [value.days, value.seconds, value.microseconds]}
    if kind is random.Random:
        version, internal, gauss = value.getstate()
        return {_TAG: "random", "v": [version, list(internal), gauss]}
    if kind is np.random.Generator:
        return {_TAG: "generator", "v": _encode_numbers(value.bit_generator.state)}
    if kind is np.random.RandomState:
        return {_TAG: "randomstate", "v": _encode_numbers(value.get_state(legacy=False))}
    raise OpaqueError(f"a {kind.__module__}.{kind.__qualname__}")


def _encode_numbers(state: Any) -> Any:
    if isinstance(state, Mapping):
        return {name: _encode_numbers(value) for name, value in state.items()}
    if isinstance(state, np.ndarray):
        return {_TAG: "numbers", "d": state.dtype.name, "v": state.tolist()}
    return state.item() if isinstance(state, np.generic) else state


def _decode_numbers(state: Any) -> Any:
    if isinstance(state, Mapping) and _TAG in state:
        return np.array(state["v"], dtype=state["d"])
    if isinstance(state, Mapping):
        return {name: _decode_numbers(value) for name, value in state.items()}
    return state


def decode(value: Any, arrays: Mapping[str, Any]) -> Any:
    """The value that `encode` was given. Arrays are fresh, writable copies.

    Raises:
        ValueError, KeyError: the JSON is not of `encode`'s making.
    """
    if isinstance(value, list):
        return [decode(item, arrays) for item in value]
    if not isinstance(value, dict):
        return value
    decoder = _DECODERS.get(value.get(_TAG))
    if decoder is None:
        raise ValueError(f"unknown tag {value.get(_TAG)!r}")
    return decoder(value, arrays)


def _decode_packed(value: Any, _arrays: Any) -> list[Any]:
    values = packed.unpack(value)
    if values is None:
        raise ValueError("a packed list that is none")
    return values


def _decode_random(value: Any, _arrays: Any) -> random.Random:
    version, internal, gauss = value["v"]
    generator = random.Random()
    generator.setstate((version, tuple(internal), gauss))
    return generator


def _decode_generator(value: Any, _arrays: Any) -> np.random.Generator:
    state = _decode_numbers(value["v"])
    if state["bit_generator"] not in _BIT_GENERATORS:
        raise ValueError(f"unknown bit generator {state['bit_generator']!r}")
    bits = getattr(np.random, state["bit_generator"])()
    bits.state = state
    return np.random.Generator(bits)


def _decode_randomstate(value: Any, _arrays: Any) -> np.random.RandomState:
    generator = np.random.RandomState()
    generator.set_state(_decode_numbers(value["v"]))
    return generator


_DECODERS: dict[Any, Any] = {
    "list": _decode_packed,
    "tuple": lambda v, a: tuple(decode(v["v"], a)),
    "set": lambda v, a: set(decode(v["v"], a)),
    "frozenset": lambda v, a: frozenset(decode(v["v"], a)),
    "deque": lambda v, a: collections.deque(decode(v["v"], a), v["n"]),
    "dict": lambda v, a: dict(decode(v["v"], a)),
    "OrderedDict": lambda v, a: collections.OrderedDict(decode(v["v"], a)),
    "Counter": lambda v, a: collections.Counter(decode(v["v"], a)),
    "defaultdict": lambda v, a: collections.defaultdict(_FACTORIES[v["f"]], decode(v["v"], a)),
    "array": lambda v, a: np.array(a[v["k"]]),
    "scalar": lambda v, a: np.frombuffer(base64.b64decode(v["v"]), dtype=v["d"])[0],
    "bytes": lambda v, a: base64.b64decode(v["v"]),
    "path": lambda v, a: pathlib.Path(v["v"]),
    "datetime": lambda v, a: dt.datetime.fromisoformat(v["v"]),
    "timedelta": lambda v, a: dt.timedelta(*v["v"]),
    "random": _decode_random,
    "generator": _decode_generator,
    "randomstate": _decode_randomstate,
}
