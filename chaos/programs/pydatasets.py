"""`keras.utils.PyDataset`s."""

from __future__ import annotations

import math
import time
from typing import Any

import keras
import numpy as np

from chaos.programs.models import BATCH, SAMPLES, STEPS, WIDTH, regression, samples
from chaos.programs.registry import ALL, TENSORFLOW, program


class Rows(keras.utils.PyDataset):
    """Batches of samples by index, in order."""

    def __init__(self, count: int = SAMPLES, first: int = 0, **options: Any) -> None:
        super().__init__(**options)
        self.x, self.y = samples(count, first)
        self.order = np.arange(count)

    def __len__(self) -> int:
        return math.ceil(len(self.order) / BATCH)

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        rows = self.order[index * BATCH : (index + 1) * BATCH]
        return {name: value[rows] for name, value in self.x.items()}, self.y[rows]


class Uneven(Rows):
    """Some batches take longer than those that follow them."""

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        time.sleep(0.004 * (index % 3 == 0))
        return super().__getitem__(index)


class Reshuffling(Rows):
    """Draws another order at the end of each epoch, from a generator that is an attribute."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.rng = np.random.default_rng(11)
        self.epochs = 0

    def on_epoch_end(self) -> None:
        """Called by Keras once before the first epoch, and after each."""
        self.epochs += 1
        self.rng.shuffle(self.order)


class Saved(Rows):
    """Keeps its state in slots of its own, and gives it out by `get_state`."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self._hidden = iter(range(1 << 30))
        self._passes = next(self._hidden)
        self._shuffle()

    def _shuffle(self) -> None:
        self.order = np.random.default_rng(self._passes).permutation(SAMPLES)

    def on_epoch_end(self) -> None:
        """Another order."""
        self._passes = next(self._hidden)
        self._shuffle()

    def get_state(self) -> dict[str, Any]:
        """What `set_state` needs."""
        return {"passes": self._passes}

    def set_state(self, state: dict[str, Any]) -> None:
        """Back to where `get_state` was called."""
        self._passes = int(state["passes"])
        self._hidden = iter(range(self._passes + 1, 1 << 30))
        self._shuffle()


class Drawing(Rows):
    """Augments with NumPy's global generator."""

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        x, y = super().__getitem__(index)
        return {**x, "x": x["x"] + np.random.normal(scale=0.1, size=(len(y), WIDTH)).astype("float32")}, y


class Endless(Rows):
    """Has no length."""

    @property
    def num_batches(self) -> None:
        """Unknown."""
        return

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        rows = (np.arange(BATCH) + index * BATCH) * 7 % SAMPLES
        return {name: value[rows] for name, value in self.x.items()}, self.y[rows]


@program(ALL)
def pydataset_no_worker(run: Any) -> None:
    """`workers=0`, in order."""
    model, tap = regression()
    run.fit(model, Rows(workers=0), tap=tap, shuffle=False)


@program(ALL)
def pydataset_one_worker(run: Any) -> None:
    """`workers=1`, in order."""
    model, tap = regression()
    run.fit(model, Rows(workers=1), tap=tap, shuffle=False)


@program(ALL)
def pydataset_threads(run: Any) -> None:
    """`workers=4`: threads."""
    model, tap = regression()
    run.fit(model, Uneven(workers=4, max_queue_size=6), tap=tap, shuffle=False)


@program(TENSORFLOW)
def pydataset_processes(run: Any) -> None:
    """`workers=2, use_multiprocessing=True`."""
    model, tap = regression()
    run.fit(model, Uneven(workers=2, use_multiprocessing=True, max_queue_size=4), tap=tap, shuffle=False)


@program(ALL, transparent=False)
def pydataset_shuffle(run: Any) -> None:
    """`fit(shuffle=True)`."""
    model, tap = regression()
    run.fit(model, Rows(workers=0), tap=tap, shuffle=True)


@program(TENSORFLOW, transparent=False)
def pydataset_shuffle_threads(run: Any) -> None:
    """`fit(shuffle=True)` with four threads."""
    model, tap = regression()
    run.fit(model, Uneven(workers=4), tap=tap, shuffle=True)


@program(ALL)
def pydataset_reshuffles(run: Any) -> None:
    """Reshuffles in `on_epoch_end` from its own `self.rng`."""
    model, tap = regression()
    data = Reshuffling(workers=0)
    run.fit(model, data, tap=tap, shuffle=False)
    run.also("dataset", {"epochs": data.epochs, "order": data.order.tolist(), "next": data.rng.random()})


@program(TENSORFLOW)
def pydataset_reshuffles_threads(run: Any) -> None:
    """Reshuffles in `on_epoch_end`, with two threads."""
    model, tap = regression()
    data = Reshuffling(workers=2)
    run.fit(model, data, tap=tap, shuffle=False)
    run.also("dataset", {"epochs": data.epochs, "order": data.order.tolist(), "next": data.rng.random()})


@program(TENSORFLOW)
def pydataset_own_state(run: Any) -> None:
    """Has `get_state` and `set_state`."""
    model, tap = regression()
    run.fit(model, Saved(workers=0), tap=tap, shuffle=False)


@program(TENSORFLOW)
def pydataset_numpy_random(run: Any) -> None:
    """Draws from `np.random` in `__getitem__`, `workers=1`."""
    model, tap = regression()
    run.fit(model, Drawing(workers=1), tap=tap, shuffle=False, draws=False)


@program(TENSORFLOW)
def pydataset_unknown_length(run: Any) -> None:
    """`num_batches` is None, with `steps_per_epoch`."""
    model, tap = regression()
    run.fit(model, Endless(workers=0), tap=tap, shuffle=False, steps_per_epoch=STEPS)


@program(TENSORFLOW)
def pydataset_steps(run: Any) -> None:
    """`steps_per_epoch` smaller than its length."""
    model, tap = regression()
    run.fit(model, Rows(workers=0), tap=tap, shuffle=False, steps_per_epoch=12)
