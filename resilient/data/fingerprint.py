"""What identifies a run's data without reading all of it: shapes, dtypes, and a checksum of a few rows."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
import xxhash

_ROWS = 64


def describe(inputs: Any) -> list[str]:
    """One line per array, tensor or specification of one: position, dtype and shape without the number of samples."""
    return [f"{i}: {_dtype(leaf)}{_shape(leaf)}" for i, leaf in enumerate(_leaves(inputs))]


def rows_checksum(inputs: Any, size: int) -> str:
    """XXH3-128 of at most 64 rows spread over the samples, of every array."""
    picked = np.unique(np.linspace(0, size - 1, min(size, _ROWS)).astype(np.int64))
    digest = xxhash.xxh3_128()
    for leaf in _leaves(inputs):
        for row in picked:
            digest.update(_row(leaf, int(row)))
    return digest.hexdigest()


def _leaves(inputs: Any) -> list[Any]:
    return [leaf for leaf in keras.tree.flatten(inputs) if leaf is not None]


def _dtype(leaf: Any) -> str:
    # A DataFrame has `dtypes`, one per column.
    dtype = getattr(leaf, "dtype", None)
    return str(getattr(dtype, "name", dtype)) if dtype is not None else "table"


def _shape(leaf: Any) -> list[int | None] | None:
    shape = getattr(leaf, "shape", None)
    if shape is None or getattr(shape, "rank", 0) is None:  # of a specification that does not say
        return None
    return list(shape[1:])


def _row(leaf: Any, row: int) -> bytes:
    try:
        if type(leaf).__name__ == "SparseTensor":
            return b""  # slicing one reads all of it; its shape has to do
        value = leaf.iloc[row] if hasattr(leaf, "iloc") else leaf[row]
        array = np.asarray(value.toarray() if hasattr(value, "toarray") else value)
        return repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes()
    except (TypeError, IndexError, ValueError):
        return b""  # an exotic array type: shape and dtype still identify it


class Chain:
    """Running checksum (XXH3-128) over batches: equal when the same batches came in the same order."""

    def __init__(self, digest: str = "") -> None:
        self._digest = digest

    def add(self, batch: Any) -> None:
        """One more batch: tensors or arrays, nested."""
        whole = xxhash.xxh3_128(self._digest.encode())
        for leaf in keras.tree.flatten(batch):
            for array in _arrays(leaf):
                whole.update(f"{array.dtype}{array.shape}".encode())
                whole.update(repr(array.tolist()).encode() if array.dtype.hasobject else np.ascontiguousarray(array).tobytes())
        self._digest = whole.hexdigest()

    def hexdigest(self) -> str:
        """The checksum so far."""
        return self._digest


def _arrays(leaf: Any) -> list[Any]:
    """The plain arrays in one leaf: a sparse, ragged or distributed tensor has several."""
    if leaf is None:
        return []
    if hasattr(leaf, "flat_values"):
        return [np.asarray(leaf.flat_values), *[np.asarray(part) for part in leaf.nested_row_splits]]
    if hasattr(leaf, "indices") and hasattr(leaf, "dense_shape"):
        return [np.asarray(leaf.indices), np.asarray(leaf.values), np.asarray(leaf.dense_shape)]
    if type(leaf).__name__ in {"PerReplica", "DistributedValues"}:
        return [np.asarray(value) for value in leaf.values]
    if hasattr(leaf, "tocoo"):
        parts = leaf.tocoo()
        return [parts.row, parts.col, parts.data]
    return [np.asarray(leaf.cpu() if hasattr(leaf, "cpu") and hasattr(leaf, "detach") else leaf)]
