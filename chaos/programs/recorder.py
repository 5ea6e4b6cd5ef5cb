"""What a program writes about itself: a line for each trained batch, with the sample ids the graph has seen, and digests at the end."""

from __future__ import annotations

import collections
import json
import os
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops

from chaos import oracle

EPOCH_END = "epoch-end"
PAUSE = 0.004  # seconds after each batch, so that a kill meets the batch it is meant for
NO_ID = -1


class LastIds(layers.Layer):
    """Passes its first input on, counts the trained batches and keeps the sample ids of the last ones in a variable.

    Args:
        size: ids in the longest batch; a shorter one is padded with -1.
        depth: how many batches are kept, the newest last: with several steps per execution a callback sees only every so many.
    """

    def __init__(self, size: int, depth: int = 1, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        none = keras.initializers.Constant(NO_ID)
        self.ids = self.add_weight(shape=(depth, size), dtype="int32", initializer=none, trainable=False, name="ids", **self.merged())
        self.count = self.add_weight(shape=(), dtype="int32", initializer="zeros", trainable=False, name="count", **self.merged())

    def merged(self) -> dict[str, Any]:
        """How the replicas' values become one."""
        return {"aggregation": "only_first_replica"}

    def call(self, x: Any, ids: Any, training: bool = False) -> Any:
        """Features of shape (batch, ...) and int32 ids of shape (batch,) in; the features out."""
        if training:
            self.remember(ids)
        return x

    def remember(self, ids: Any) -> None:
        """Take down one trained batch."""
        ids = ops.cast(ids, "int32")
        missing = self.ids.shape[1] - ops.shape(ids)[0]
        row = ops.concatenate([ids, ops.full((missing,), NO_ID, dtype="int32")])
        self.ids.assign(ops.concatenate([self.ids[1:], ops.reshape(row, (1, self.ids.shape[1]))]))
        self.count.assign(self.count + 1)

    def compute_output_shape(self, x_shape: Any, ids_shape: Any) -> Any:
        """The features' own."""
        return x_shape


class Log:
    """The file of one program, and where in it this process is. No plain data: nothing of it is anybody's state to restore."""

    def __init__(self, path: Path, attempt: int) -> None:
        self.path = path
        self.attempt = attempt
        self.seen: int | None = None  # batches that the graph had counted when the last line was written

    def write(self, **line: Any) -> None:
        """Append in one system call, so that a kill leaves a line whole or none."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, json.dumps({"attempt": self.attempt, **line}).encode() + b"\n")
        finally:
            os.close(descriptor)


class Recorder(keras.callbacks.Callback):
    """Writes the log, and draws from the global generators as careless callbacks do.

    Args:
        log: where to.
        tap: the layer that has seen the ids.
        first_epoch: number of the first epoch in the log; not 0 in the second fit of a program.
        draws: whether to draw at the end of each epoch. Not where a thread of the input draws at the same time.
    """

    def __init__(self, log: Log, tap: Any, first_epoch: int = 0, draws: bool = True) -> None:
        super().__init__()
        self.log = log
        self.tap = tap
        self.first_epoch = first_epoch
        self.draws = draws
        self.epoch = 0
        self.begun = 0
        self.drawn: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """The epoch of the lines that follow."""
        self.epoch = epoch + self.first_epoch

    def on_train_batch_begin(self, batch: int, logs: Any = None) -> None:
        """The position of the first batch that follows."""
        self.begun = batch
        if self.log.seen is None:  # asked here and not before: the restore was in on_epoch_begin
            self.log.seen = int(array(self.tap.count))

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """A line for each batch since the last call."""
        if keras.backend.backend() == "jax":
            self.model.jax_state_sync()
        count = int(array(self.tap.count))
        rows = array(self.tap.ids)
        for offset, row in enumerate(rows[len(rows) - (count - (self.log.seen or 0)) :]):
            self.log.write(event=oracle.BATCH, epoch=self.epoch, batch=self.begun + offset, ids=row[row != NO_ID].tolist())
        self.log.seen = count
        time.sleep(PAUSE)

    def on_test_begin(self, logs: Any = None) -> None:
        """Validation is under way from here."""
        self.log.write(event=oracle.VALIDATION_BEGIN, epoch=self.epoch)

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        """Validation takes its time."""
        time.sleep(PAUSE)

    def on_test_end(self, logs: Any = None) -> None:
        """Validation ended here."""
        self.log.write(event=oracle.VALIDATION_END, epoch=self.epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Numbers that are right only if Python's and NumPy's generators go on where they were."""
        if self.draws:
            self.drawn += [random.random(), float(np.random.random())]
        self.log.write(event=EPOCH_END, epoch=self.epoch)


def array(variable: Any) -> Any:
    """Value of a Keras variable or tensor as NumPy."""
    return np.asarray(ops.convert_to_numpy(variable))


# What Keras sets, and the thread of `resilient.ModelCheckpoint`, which an attempt with nothing to write does not begin.
_NO_STATE = frozenset({"params", "_model", "model", "_writer"})


def outcome(model: Any, history: Any, callbacks: list[Any], root: Path) -> dict[str, dict[str, Any]]:
    """Digests of everything a fit ends with, by section and name. Paths under `root` do not count."""
    return {
        "variables": _digests(model.variables),
        "optimizers": {f"{number} {name}": value for number, one in enumerate(optimizers(model)) for name, value in _digests(one).items()},
        "metrics": _digests(model.metrics_variables),
        "history": {**plain(history.history, root), "epochs": history.epoch},
        "callbacks": dict(_attributes(callbacks, root)),
    }


def next_draws() -> dict[str, float]:
    """What the global generators give next."""
    return {
        "python": random.random(),
        "numpy": float(np.random.random()),
        "keras": float(array(keras.random.uniform(()))),
    }


def optimizers(model: Any) -> list[Any]:
    """Variables of each optimizer of a model, those that are attributes of a custom one among them."""
    others = [value for value in vars(model).values() if isinstance(value, keras.optimizers.Optimizer)]
    unique = {id(one): one for one in [model.optimizer, *others] if one is not None}
    return [one.variables for one in unique.values()]


def _digests(variables: Any) -> dict[str, str]:
    # By name and not by path: where an optimizer is built, in a graph or before, shows in the paths of its variables only.
    return {f"{index} {variable.name}": oracle.digest(array(variable)) for index, variable in enumerate(variables)}


def _attributes(callbacks: list[Any], root: Path) -> Iterator[tuple[str, Any]]:
    for index, callback in enumerate(callbacks):
        for name, value in sorted(vars(callback).items()):
            if name in _NO_STATE:
                continue
            try:
                yield f"{index} {type(callback).__name__}.{name}", plain(value, root)
            except TypeError:
                continue  # a function, a file, a model: not what is promised


def plain(value: Any, root: Path) -> Any:
    """JSON of plain data, arrays as digests.

    Raises:
        TypeError: it is none.
    """
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if isinstance(value, (str, Path)):
        return str(value).replace(str(root), "ROOT")
    if isinstance(value, np.generic):
        return value.item()
    if isinstance(value, np.ndarray):
        return oracle.digest(value)
    if isinstance(value, dict):
        return {str(key): plain(one, root) for key, one in value.items()}
    if isinstance(value, (list, tuple, collections.deque)):
        return [plain(one, root) for one in value]
    if isinstance(value, (set, frozenset)):
        return sorted(str(one) for one in value)
    if keras.ops.is_tensor(value):
        return oracle.digest(array(value))
    raise TypeError(f"{type(value)} is no plain data")
