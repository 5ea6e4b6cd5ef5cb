"""Small checkpoints for the tests of the store."""

from __future__ import annotations

import datetime as dt
import os
from pathlib import Path

import ml_dtypes
import numpy as np

from resilient.manifest import Frozen, Manifest, Progress
from resilient.store import Checkpoint, Store

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
# For tests of many commits that no power cut is part of: a SIGKILL loses nothing that was written, be it synced or not.
FAST = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
# One tensor of each sample never changes: it lies in a file that the checkpoints of one `Store` share.
FROZEN = {"model.safetensors": Frozen(("embedding",), 0)}
MODEL, OPTIMIZER, STATE = "model.safetensors", "optimizer.safetensors", "state.safetensors"


def manifest(step, sequence=None, **changes):
    """A manifest of `step`; its sequence is the step unless given."""
    sequence = step if sequence is None else sequence
    fields = {
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


def tensors(value):
    """Three small files whose content tells which checkpoint they belong to."""
    return {
        MODEL: {
            "embedding": np.arange(6, dtype=np.float32),
            "dense/kernel": np.full((3, 4), value, np.float32),
            "seed": np.array(value, np.uint32),
        },
        OPTIMIZER: {"m": np.full(5, value, ml_dtypes.bfloat16), "iterations": np.array(value, np.int64)},
        STATE: {"empty": np.zeros((0, 3)), "flag": np.array(True), "count": np.array(value, np.float64)},
    }


def commit(store: Store, step, sequence=None, **changes):
    """Commits a sample checkpoint whose tensors hold its sequence."""
    made = manifest(step, sequence, **changes)
    return store.commit(made, tensors(made.sequence), FROZEN)


def prepared(directory: Path) -> Store:
    store = Store(directory)
    store.prepare()
    return store


def same(left, right) -> bool:
    """Whether two file -> tensor mappings are equal in names, order, dtypes, shapes and bits."""
    if left.keys() != right.keys():
        return False
    return all(list(left[file]) == list(right[file]) and all(map(same_array, left[file].values(), right[file].values())) for file in left)


def same_array(left, right) -> bool:
    left, right = np.asarray(left), np.asarray(right)
    return left.dtype == right.dtype and left.shape == right.shape and left.tobytes() == right.tobytes()


def is_sample(checkpoint: Checkpoint) -> bool:
    """Whether the checkpoint holds exactly what `commit` saved under its sequence."""
    return same(checkpoint.tensors, tensors(checkpoint.manifest.sequence))


def leftovers(directory: Path) -> list[str]:
    """Names that a finished commit or removal never leaves."""
    return [name for _, directories, files in os.walk(directory) for name in (*directories, *files) if name.startswith(".")]


def reports() -> tuple[list[tuple[str, str]], object]:
    """A list and the callback that fills it with (name, reason)."""
    seen: list[tuple[str, str]] = []
    return seen, lambda name, reason: seen.append((name, reason))
