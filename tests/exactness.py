"""What the tests of `fit` share: a callback that asks for a stop at a given moment, and a digest of everything that must match."""

from __future__ import annotations

import gc
import os
import random
import signal
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import xxhash

import resilient

Program = Callable[[Path, Sequence[Any]], tuple[Any, Any]]


class StopAt(keras.callbacks.Callback):  # type: ignore[misc]
    """Sends this process SIGTERM at the n-th call (in this process) of one of Keras' hooks."""

    def __init__(self, hook: str, count: int, number: int = signal.SIGTERM) -> None:
        super().__init__()
        self.fire = _Countdown(count, number)
        self.hook = hook

    # No state of the run: every attempt counts for itself.
    def get_state(self) -> None:
        return None

    def set_state(self, state: None) -> None:
        pass

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        self._at("on_epoch_begin")

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        self._at("on_train_batch_end")

    def on_test_batch_end(self, batch: int, logs: Any = None) -> None:
        self._at("on_test_batch_end")

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        self._at("on_epoch_end")

    def _at(self, hook: str) -> None:
        if hook == self.hook:
            self.fire()


class _Countdown:
    def __init__(self, count: int, number: int) -> None:
        self.left = count
        self.number = number

    def __call__(self) -> None:
        self.left -= 1
        if self.left == 0:
            os.kill(os.getpid(), self.number)


def disturb() -> None:
    """Leave the process' generators in a state that no run would have, as another process would."""
    random.seed()
    np.random.seed(random.randrange(2**32))
    keras.utils.set_random_seed(random.randrange(2**32))


def digests(model: Any, history: Any) -> dict[str, str]:
    """Checksums by name: each variable, History, and what each generator draws next."""
    found = {}
    for group, variables in (("model", model.variables), ("optimizer", model.optimizer.variables), ("metrics", model.metrics_variables)):
        for index, variable in enumerate(variables):
            found[f"{group} {index}"] = xxhash.xxh3_128_hexdigest(np.ascontiguousarray(keras.ops.convert_to_numpy(variable)).tobytes())
    found["history"] = repr((history.epoch, history.history))
    found["python"] = repr(random.random())
    found["numpy"] = repr(np.random.random())
    return found


def run_until_done(program: Program, directory: Path, stops: Sequence[tuple[str, int]]) -> tuple[dict[str, str], int]:
    """Run `program` in `directory`, stopped at each of `stops` (hook, count); digests of the end and how often it stopped."""
    for stopped, stop in enumerate([*stops, None]):
        if stopped:
            disturb()
        extra = [StopAt(*(stop or ("never", 0)))]
        model, history = program(directory, extra)
        if not history.preempted:
            found = digests(model, history)
            assert resilient.verify(directory) == []
            return found, stopped
        # At once, as a process that ends would: an iterator of tf.data waits when it is deleted, the longer the older it is.
        del model, history
        gc.collect()
    raise AssertionError("the run did not end")
