"""Arrays in memory."""

from __future__ import annotations

from typing import Any

from chaos.programs.models import BATCH, WHOLE, held_out, regression, samples
from chaos.programs.registry import ALL, TENSORFLOW, program


@program(ALL, transparent=False, validates=True)
def arrays_shuffle(run: Any) -> None:
    """Arrays, `shuffle=True`, a partial last batch, validation."""
    model, tap = regression()
    run.fit(model, *samples(), tap=tap, batch_size=BATCH, validation_data=held_out())


@program(ALL)
def arrays_in_order(run: Any) -> None:
    """Arrays, `shuffle=False`."""
    model, tap = regression()
    run.fit(model, *samples(), tap=tap, batch_size=BATCH, shuffle=False)


@program(ALL, transparent=False)
def arrays_shuffle_batch(run: Any) -> None:
    """Arrays, `shuffle="batch"`."""
    model, tap = regression()
    run.fit(model, *samples(WHOLE), tap=tap, batch_size=BATCH, shuffle="batch")


@program(TENSORFLOW, transparent=False, validates=True)
def arrays_weighted_split(run: Any) -> None:
    """Arrays with `sample_weight` and `validation_split`."""
    model, tap = regression()
    x, y = samples(152)
    run.fit(model, x, y, tap=tap, batch_size=BATCH, sample_weight=1 + (x["ids"] % 3) / 3, validation_split=0.2)


@program(TENSORFLOW, transparent=False)
def arrays_steps_per_epoch(run: Any) -> None:
    """Arrays with `steps_per_epoch`: an epoch is a part of a pass."""
    model, tap = regression()
    run.fit(model, *samples(WHOLE * 2), tap=tap, batch_size=BATCH, steps_per_epoch=16, epochs=4)
