"""The samples and the small model that most programs train."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from chaos.programs.recorder import LastIds

BATCH = 8
SAMPLES = 124  # the last of 16 batches has four samples
WHOLE = 128  # 16 whole batches
STEPS = 16
WIDTH = 6


def samples(count: int = SAMPLES, first: int = 0) -> tuple[dict[str, Any], Any]:
    """(x, y): features with the id of each sample, and a target; the same samples in every process."""
    drawn = np.random.default_rng(first + 1).normal(size=(count, WIDTH)).astype("float32")
    ids = np.arange(first, first + count, dtype="int32")
    return {"x": drawn, "ids": ids}, drawn.sum(axis=1, keepdims=True).astype("float32")


def held_out(count: int = 28) -> tuple[dict[str, Any], Any]:
    """Validation samples."""
    return samples(count, first=10_000)


def inputs() -> tuple[Any, Any]:
    """Symbolic features and ids."""
    return keras.Input((WIDTH,), name="x"), keras.Input((), dtype="int32", name="ids")


def tapped(depth: int = 1, size: int = BATCH) -> Any:
    """The layer that sees the ids."""
    return LastIds(size, depth, name="last_ids")


def network(tap: Any, *, dropout: float = 0.3, width: int = 12) -> Any:
    """An uncompiled model of {"x", "ids"} with everything that a restart easily loses: dropout, batch statistics."""
    x, ids = inputs()
    hidden = layers.Dense(width, activation="relu", name="first")(tap(x, ids))
    hidden = layers.BatchNormalization(name="normalization")(hidden)
    hidden = layers.Dropout(dropout, name="dropout")(hidden)
    return keras.Model({"x": x, "ids": ids}, layers.Dense(1, name="last")(hidden))


def regression(optimizer: Any = None, depth: int = 1, size: int = BATCH, **options: Any) -> tuple[Any, Any]:
    """(model, tap), compiled with `options` on top of what is usual."""
    tap = tapped(depth, size)
    model = network(tap)
    model.compile(optimizer or keras.optimizers.Adam(2e-3), **{"loss": "mse", "metrics": ["mae"], **options})
    return model, tap
