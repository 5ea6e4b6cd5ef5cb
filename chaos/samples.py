"""Small checkpoints whose content tells which one they are, and the question whether one came back bit for bit."""

from __future__ import annotations

import contextlib
import datetime as dt
import itertools
import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any
from unittest import mock

import ml_dtypes
import numpy as np

from resilient.manifest import Frozen, Manifest, Progress
from resilient.store import Checkpoint, CommitCancelled, Store, WriteOptions, kernel, output, placing, safetensors_format, spare

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
# For work on many checkpoints that no power cut is part of: a SIGKILL loses nothing that was written, be it synced or not.
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108  a place in memory, of which each gets its own directory
# One tensor of each sample never changes: it lies in a file that the checkpoints of one `Store` share.
FROZEN = {"model.safetensors": Frozen(("embedding",), 0)}
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.safetensors"
BLOCK = 4096  # bytes: what a disk writes at a time

Tensors = Mapping[str, Mapping[str, Any]]


def manifest(step: int, sequence: int | None = None, **changes: Any) -> Manifest:
    """A manifest of `step`; its sequence is the step unless given."""
    sequence = step if sequence is None else sequence
    fields: dict[str, Any] = {
        "progress": Progress(epoch=0, batch=step, step=step),
        "sequence": sequence,
        "run_id": "first",
        "created": START + dt.timedelta(minutes=sequence),
        "metrics": {"loss": 0.5},
        "score": None,
        "mode": None,
        "best": False,
        "state": {"history": [1.0, None, "x"]},
        "files": {},
    }
    return Manifest(**(fields | changes))


def tensors(value: int, blocks: int = 0) -> dict[str, dict[str, Any]]:
    """Three files whose content tells which checkpoint they belong to; small, or with so many blocks of the disk."""
    table = {"table": _table(value, blocks)} if blocks else {}
    return {
        MODEL: {
            "embedding": np.arange(6, dtype=np.float32),
            "dense/kernel": np.full((3, 4), value, np.float32),
            "seed": np.array(value, np.uint32),
            **table,
        },
        OPTIMIZER: {"m": np.full(5, value, ml_dtypes.bfloat16), "iterations": np.array(value, np.int64)},
        STATE: {"empty": np.zeros((0, 3)), "flag": np.array(True), "count": np.array(value, np.float64)},
    }


def _table(value: int, blocks: int) -> Any:
    """It begins within a page, as tensors do, so late that a header before it ends within the first of two blocks."""
    return placed(np.add.outer(np.arange(blocks), np.full(BLOCK // 4, value)).astype(np.float32), BLOCK // 2)


def placed(array: Any, place: int) -> Any:
    """A copy that begins at this place of a page of memory."""
    memory = np.empty(array.nbytes + 2 * BLOCK, np.uint8)
    start = -memory.__array_interface__["data"][0] % BLOCK + place
    copy = memory[start : start + array.nbytes].view(array.dtype).reshape(array.shape)
    copy[...] = array
    return copy


def writes_directly(place: Path) -> bool:
    """Whether the file system of this directory offers writing past the page cache."""
    with (place / "probe").open("wb") as file:
        return output._set_direct(file.fileno(), on=True)


@contextlib.contextmanager
def small_blocks() -> Iterator[None]:
    """Files of a few kilobytes are written as large ones are: directly, in pieces, in place, by a thread of their own."""
    with (
        mock.patch.multiple(output, DIRECT_FROM=2**13, _BOUNCE=2**13),
        mock.patch.object(placing, "LARGE", 2**13),
        mock.patch.object(safetensors_format, "_SMALL", 2**13),
    ):
        yield


def commit(store: Store, step: int, sequence: int | None = None, blocks: int = 0, *, awaited: bool = False, **changes: Any) -> Manifest:
    """Commits a sample checkpoint whose tensors hold its sequence."""
    made = manifest(step, sequence, **changes)
    return store.commit(made, tensors(made.sequence, blocks), FROZEN, options=WriteOptions(awaited=lambda: awaited))


def give_up(store: Store, step: int, blocks: int) -> None:
    """Begins to commit a sample checkpoint, and gives it up when its first file with so many blocks is written."""
    asked = itertools.count()
    with contextlib.suppress(CommitCancelled):
        store.commit(manifest(step), tensors(step, blocks), FROZEN, options=WriteOptions(cancelled=lambda: next(asked) > 4))
        raise AssertionError("it was not given up")


def prepared(directory: Path) -> Store:
    """A store that was made ready for a run."""
    store = Store(directory)
    store.prepare()
    return store


class _Any:
    def __contains__(self, kind: object) -> bool:
        return True


@contextlib.contextmanager
def written_over() -> Iterator[None]:
    """Files of a few kilobytes are written over too, and on every file system."""
    with mock.patch.object(spare, "WORTH", 2**13), mock.patch.object(kernel, "_ONE_MACHINE", _Any()):
        yield


def same(left: Tensors, right: Tensors) -> bool:
    """Whether two file -> tensor mappings are equal in names, order, dtypes, shapes and bits."""
    if left.keys() != right.keys():
        return False
    return all(list(left[file]) == list(right[file]) and all(map(same_array, left[file].values(), right[file].values())) for file in left)


def same_array(left: Any, right: Any) -> bool:
    """Whether two arrays are equal in dtype, shape and bits."""
    left, right = np.asarray(left), np.asarray(right)
    return bool(left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes())


def is_sample(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint holds exactly what `commit` saved under its sequence."""
    blocks = len(checkpoint.tensors.get(MODEL, {}).get("table", ()))
    return same(checkpoint.tensors, tensors(checkpoint.manifest.sequence, blocks))


def leftovers(directory: Path) -> list[str]:
    """Names that a finished commit or removal never leaves."""
    return [name for _, directories, files in os.walk(directory) for name in (*directories, *files) if name.startswith(".")]


def reports() -> tuple[list[tuple[str, str]], Callable[[str, str], None]]:
    """A list and the callback that fills it with (name, reason)."""
    seen: list[tuple[str, str]] = []
    return seen, lambda name, reason: seen.append((name, reason))
