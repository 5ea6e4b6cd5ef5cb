"""Programs that are broken on purpose: a storm that calls one of them equal is broken itself."""

from __future__ import annotations

from typing import Any

import keras

from chaos.programs.models import BATCH, WHOLE, network, regression, samples, tapped
from chaos.programs.pydatasets import Rows
from chaos.programs.registry import program


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
