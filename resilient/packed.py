"""Long lists of numbers in a manifest's JSON, as base64 of their bytes.

A training of a thousand epochs has thousands of numbers in its History, a callback that gathers the losses of batches has more, and every
save holds them all. As decimal text each takes a microsecond for which the other threads of the process stand still.
"""

from __future__ import annotations

import array
import base64
import sys
from collections.abc import Collection
from typing import Any

_FROM = 64  # numbers; fewer stay legible
_TAG, _KIND = "!", "list"
_CODES = {float: "float64", int: "int64"}
_OF_CODES = {"float64": "d", "int64": "q"}


def pack(values: Collection[Any]) -> dict[str, str] | None:
    """JSON for `values` if they are many, all of them float or all of them int, else None. `bool` is no number here."""
    if len(values) < _FROM:
        return None
    kinds = set(map(type, values))
    code = _CODES.get(kinds.pop()) if len(kinds) == 1 else None
    if code is None:
        return None
    try:
        numbers = array.array(_OF_CODES[code], values)
    except OverflowError:  # an integer of more than 64 bits
        return None
    return {_TAG: _KIND, "d": code, "v": base64.b64encode(_little_endian(numbers).tobytes()).decode("ascii")}


def unpack(value: Any) -> list[Any] | None:
    """The list, whether it was packed or is one; None where it is neither."""
    if isinstance(value, list):
        return value
    if not isinstance(value, dict) or value.get(_TAG) != _KIND:
        return None
    try:
        numbers = array.array(_OF_CODES[value["d"]], base64.b64decode(value["v"], validate=True))
    except (LookupError, TypeError, ValueError):
        return None
    return _little_endian(numbers).tolist()


def _little_endian(numbers: array.array[Any]) -> array.array[Any]:
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
