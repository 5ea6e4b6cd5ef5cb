"""Two checkpoints tensor by tensor, to the bit."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from resilient.store import Checkpoint

_CHUNK = 2**20  # elements compared at a time, so that a large tensor needs no second copy of itself


@dataclasses.dataclass(frozen=True)
class Difference:
    """One tensor that two checkpoints do not share.

    Attributes:
        tensor: "file/name".
        note: what differs where values cannot be compared: "only in A", a shape or a dtype; else "".
        count: elements whose bits differ.
        size: elements in all.
        max_abs: largest absolute difference; NaN where a NaN or an infinity is on one side only.
        mean_abs: mean absolute difference over all elements.
    """

    tensor: str
    note: str = ""
    count: int = 0
    size: int = 0
    max_abs: float = 0.0
    mean_abs: float = 0.0


def differences(a: Checkpoint, b: Checkpoint) -> list[Difference]:
    """The tensors in which two checkpoints differ, in the order they were saved; [] if none does."""
    first, second = _tensors(a), _tensors(b)
    names = [*first, *(name for name in second if name not in first)]
    found = (_difference(name, first.get(name), second.get(name)) for name in names)
    return [difference for difference in found if difference is not None]


def _tensors(checkpoint: Checkpoint) -> Mapping[str, Any]:
    return {f"{file.removesuffix('.safetensors')}/{name}": t for file, tensors in checkpoint.tensors.items() for name, t in tensors.items()}


def _difference(name: str, a: Any, b: Any) -> Difference | None:
    if a is None or b is None:
        return Difference(name, "only in B" if a is None else "only in A")
    if a.dtype != b.dtype:
        return Difference(name, f"{a.dtype} and {b.dtype}")
    if a.shape != b.shape:
        return Difference(name, f"{list(a.shape)} and {list(b.shape)}")
    return _values(name, np.ascontiguousarray(a).reshape(-1), np.ascontiguousarray(b).reshape(-1))


def _values(name: str, a: Any, b: Any) -> Difference | None:
    count, total, largest = 0, 0.0, 0.0
    for start in range(0, a.size, _CHUNK):
        distances = _distances(a[start : start + _CHUNK], b[start : start + _CHUNK])
        if distances.size:
            count += distances.size
            total += float(distances.sum())
            largest = float(np.maximum(largest, distances.max()))
    return Difference(name, "", count, a.size, largest, total / a.size) if count else None


def _distances(a: Any, b: Any) -> Any:
    """Absolute differences of the elements whose bits differ (so that an equal NaN is equal, and -0.0 is not 0.0)."""
    unequal = (a.view(np.uint8).reshape(a.size, -1) != b.view(np.uint8).reshape(b.size, -1)).any(axis=1)
    a, b = a[unequal], b[unequal]
    if np.issubdtype(a.dtype, np.integer) and a.dtype.itemsize == 8:
        # Seeds use all 64 bits, which float64 does not have; Python's integers do.
        return np.abs(a.astype(object) - b.astype(object)).astype(np.float64)
    wide = np.complex128 if np.issubdtype(a.dtype, np.complexfloating) else np.float64
    with np.errstate(invalid="ignore", over="ignore"):
        return np.abs(a.astype(wide) - b.astype(wide))
