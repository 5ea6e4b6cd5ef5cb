"""Programs that are broken on purpose: a storm that calls one of them equal is broken itself."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import keras
import numpy as np

from chaos.programs.models import BATCH, WHOLE, network, regression, samples, tapped
from chaos.programs.pydatasets import Rows
from chaos.programs.registry import program

EPOCHS = 2


class Unsteady(keras.Model):
    """Trains its first batch in this process `times` times. Runs eagerly, so that this is Python's to decide."""

    times = 1

    def train_step(self, data: Any) -> Any:
        """Logs of as many steps."""
        times, self.times = self.times, 1
        logs = self.get_metrics_result()
        for _ in range(times):
            logs = super().train_step(data)
        return logs


def _unsteady(run: Any, times: int) -> None:
    tap = tapped(depth=2)
    base = network(tap)
    model = Unsteady(base.input, base.output)
    model.compile("adam", "mse", run_eagerly=True)
    model.times = times if run.attempt > 1 else 1
    run.fit(model, *samples(WHOLE), tap=tap, batch_size=BATCH, shuffle=False, epochs=1)


@program(control=True, transparent=False)
def skips_a_batch(run: Any) -> None:
    """Leaves out the first batch after a resume."""
    _unsteady(run, 0)


@program(control=True, transparent=False)
def repeats_a_batch(run: Any) -> None:
    """Trains the first batch after a resume twice."""
    _unsteady(run, 2)


class Forgetful(keras.callbacks.Callback):
    """Counts batches, and says that it has no state."""

    def __init__(self) -> None:
        super().__init__()
        self.batches = 0

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """One more."""
        self.batches += 1

    def get_state(self) -> dict[str, Any]:
        """Nothing."""
        return {}

    def set_state(self, state: dict[str, Any]) -> None:
        """Nothing."""


@program(control=True, transparent=False)
def forgets_an_attribute(run: Any) -> None:
    """A callback whose counter is lost at a resume."""
    model, tap = regression()
    run.fit(model, *samples(WHOLE), tap=tap, batch_size=BATCH, shuffle=False, epochs=1, callbacks=[Forgetful()])


class Changing(Rows):
    """Shows the samples of later batches in another order where `reverses`."""

    reverses = False

    def __getitem__(self, index: int) -> tuple[dict[str, Any], Any]:
        x, y = super().__getitem__(index)
        order = slice(None, None, -1) if self.reverses and index >= 8 else slice(None)
        return {name: value[order] for name, value in x.items()}, y[order]


@program(control=True, transparent=False)
def trains_another_order(run: Any) -> None:
    """A `PyDataset` whose later batches have their samples in another order after a resume."""
    model, tap = regression()
    data = Changing(workers=0)
    data.reverses = run.attempt > 1
    run.fit(model, data, tap=tap, shuffle=False, epochs=1)


class Spoiler(Forgetful):
    """Does one wrong thing, when an epoch begins or ends after a resume."""

    def __init__(self, attempt: int) -> None:
        super().__init__()
        # No plain data, so that it is nobody's state to restore or to compare.
        self._resumed: Callable[[], bool] = lambda: attempt > 1

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """Nothing is counted."""


class BitFlipper(Spoiler):
    """Flips the lowest bit of one weight when all is trained."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Only after a resume."""
        if self._resumed() and epoch == EPOCHS - 1:
            variable = self.model.trainable_variables[0]
            values = np.array(variable)
            values.view("uint32").flat[0] ^= 1
            variable.assign(values)


class Reseeder(Spoiler):
    """Sets NumPy's generator back to a seed, as a program does that seeds itself in the wrong place."""

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Only after a resume."""
        if self._resumed():
            np.random.seed(0)


class Falsifier(Spoiler):
    """Logs a loss that is off by one unit in the last place."""

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Only after a resume."""
        if self._resumed() and logs:
            logs["loss"] = float(np.nextafter(logs["loss"], np.inf))


def _spoiled(run: Any, spoiler: type[Spoiler]) -> None:
    model, tap = regression()
    run.fit(model, *samples(WHOLE), tap=tap, batch_size=BATCH, shuffle=False, epochs=EPOCHS, callbacks=[spoiler(run.attempt)])


@program(control=True, transparent=False)
def flips_a_bit(run: Any) -> None:
    """One bit of one weight is another one after a resume."""
    _spoiled(run, BitFlipper)


@program(control=True, transparent=False)
def loses_a_generator(run: Any) -> None:
    """NumPy's generator begins anew after a resume."""
    _spoiled(run, Reseeder)


@program(control=True, transparent=False)
def reports_another_loss(run: Any) -> None:
    """A value of `History` is off by one unit in the last place after a resume."""
    _spoiled(run, Falsifier)
