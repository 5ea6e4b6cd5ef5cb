"""How far two tensors are apart, in bounded memory: bits first, numbers second."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

_CHUNK = 2**20  # elements compared at a time
_UNSIGNED: dict[int, type[np.unsignedinteger[Any]]] = {1: np.uint8, 2: np.uint16, 4: np.uint32, 8: np.uint64}


@dataclasses.dataclass(frozen=True)
class Difference:
    """How one tensor of A differs from that of the same name in B.

    Attributes:
        name: `file:tensor`.
        note: why they cannot be compared by value ("only in A", another shape or dtype); "" where they can.
        differing: how many elements differ in at least one bit (so that equal NaNs are equal, and 0.0 is not -0.0).
        size: how many elements there are.
        max_abs, mean_abs: of |A - B| over all elements, NaN where a NaN is on one side only.
        max_ulp: largest number of representable values between the two, for floating types; None for others.
    """

    name: str
    note: str = ""
    differing: int = 0
    size: int = 0
    max_abs: float = 0.0
    mean_abs: float = 0.0
    max_ulp: int | None = None


def differences(a: Mapping[str, Mapping[str, Array]], b: Mapping[str, Mapping[str, Array]]) -> Iterator[Difference]:
    """What differs between two checkpoints' tensors (file -> name -> array); nothing where they are equal bit for bit."""
    ours, theirs = dict(_flat(a)), dict(_flat(b))
    for name in [*ours, *(name for name in theirs if name not in ours)]:
        found = _compare(name, ours.get(name), theirs.get(name))
        if found is not None:
            yield found


def _flat(files: Mapping[str, Mapping[str, Array]]) -> Iterator[tuple[str, Array]]:
    for file, tensors in files.items():
        for name, tensor in tensors.items():
            yield f"{file.removesuffix('.safetensors')}:{name}", tensor


def _compare(name: str, a: Array | None, b: Array | None) -> Difference | None:
    if a is None or b is None:
        return Difference(name, "only in B" if a is None else "only in A")
    if a.shape != b.shape:
        return Difference(name, f"shape {list(a.shape)} -> {list(b.shape)}")
    if a.dtype != b.dtype:
        return Difference(name, f"dtype {a.dtype} -> {b.dtype}")
    found = _by_value(name, a.reshape(-1), b.reshape(-1))
    return found if found.differing else None


def _by_value(name: str, a: Array, b: Array) -> Difference:
    differing, total, largest, ulp = 0, 0.0, 0.0, 0
    floating = _is_floating(a.dtype)
    for start in range(0, len(a), _CHUNK):
        ours, theirs = _changed(a[start : start + _CHUNK], b[start : start + _CHUNK])
        if len(ours):
            differing += len(ours)
            apart = _apart(ours, theirs)
            with np.errstate(over="ignore"):  # a sum beyond float64 is infinite, as it would be in Python
                total += float(apart.sum())
            largest = float(np.maximum(largest, apart.max()))  # np.maximum lets a NaN through, max() may not
            ulp = max(ulp, _ulps(ours, theirs)) if floating else 0
    return Difference(name, "", differing, len(a), largest, total / max(len(a), 1), ulp if floating else None)


def _changed(a: Array, b: Array) -> tuple[Array, Array]:
    """The elements that differ in at least one bit."""
    places = np.flatnonzero(_bits(a) != _bits(b))
    return a[places], b[places]


def _bits(array: Array) -> Array:
    return array.view(_UNSIGNED[array.dtype.itemsize])


def _apart(a: Array, b: Array) -> npt.NDArray[np.float64]:
    if a.dtype.kind in "iu":  # subtracted as integers, which float64 cannot hold exactly above 2**53
        above = a > b
        apart = np.where(above, _bits(a) - _bits(b), _bits(b) - _bits(a))  # modulo 2**n is right: the true distance fits
        return apart.astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(a.astype(np.float64) - b.astype(np.float64))


def _is_floating(dtype: np.dtype[Any]) -> bool:
    return dtype.kind == "f" or dtype.name in ("bfloat16", "float8_e4m3fn", "float8_e5m2")


def _ulps(a: Array, b: Array) -> int:
    ours, theirs = _ordered(_bits(a)), _ordered(_bits(b))
    return int(np.where(ours > theirs, ours - theirs, theirs - ours).max())


def _ordered(bits: Array) -> Array:
    """Bit patterns of floats as unsigned integers in the order of the numbers, neighbours one apart; both zeros are in one place."""
    sign = bits.dtype.type(1 << (bits.dtype.itemsize * 8 - 1))
    ordered: Array = np.where(bits & sign, sign - (bits & ~sign), bits | sign)
    return ordered
