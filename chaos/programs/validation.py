"""Validation data of every kind; the training data are arrays in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from chaos.programs.models import BATCH, held_out, regression, samples
from chaos.programs.pydatasets import Rows, Uneven
from chaos.programs.registry import ALL, program

# Where `model.fit` reads ahead of an evaluation and then leaves it, what the next one gets is chance.
_VALIDATION = ("metrics: ", "history: val_")


def _fit(run: Any, validation: Any, **options: Any) -> None:
    model, tap = regression()
    run.fit(model, *samples(), tap=tap, batch_size=BATCH, shuffle=False, validation_data=validation, **options)


def _elements() -> Any:
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(held_out())


@program(ALL, validates=True)
def validation_arrays(run: Any) -> None:
    """Arrays."""
    _fit(run, held_out())


@program(validates=True)
def validation_tfdata(run: Any) -> None:
    """`tf.data`, finite, shuffled."""
    _fit(run, _elements().shuffle(28, seed=4).batch(BATCH))


@program(validates=True)
def validation_tfdata_unknown(run: Any) -> None:
    """`tf.data` of unknown cardinality."""
    _fit(run, _elements().filter(lambda x, _: x["ids"] % 3 != 0).batch(BATCH))


@program(validates=True, races=_VALIDATION)
def validation_tfdata_infinite(run: Any) -> None:
    """`tf.data`, infinite, with `validation_steps`."""
    _fit(run, _elements().shuffle(28, seed=4).repeat().batch(BATCH), validation_steps=3)


@program(validates=True)
def validation_pydataset(run: Any) -> None:
    """A `PyDataset`."""
    _fit(run, Rows(28, 10_000, workers=0))


@program(validates=True)
def validation_pydataset_threads(run: Any) -> None:
    """A `PyDataset` with threads."""
    _fit(run, Uneven(28, 10_000, workers=2))


@program(validates=True, races=_VALIDATION)
def validation_generator(run: Any) -> None:
    """A generator with `validation_steps`."""

    def batches() -> Iterator[Any]:
        x, y = held_out()
        for first in range(0, 1 << 30, BATCH):
            rows = np.arange(first, first + BATCH) % len(y)
            yield {name: value[rows] for name, value in x.items()}, y[rows]

    _fit(run, batches(), validation_steps=3)


@program(validates=True)
def validation_steps_fewer(run: Any) -> None:
    """Arrays, `validation_steps` smaller than the data."""
    _fit(run, held_out(), validation_steps=2)


@program(validates=True)
def validation_freq_two(run: Any) -> None:
    """Arrays, `validation_freq=2`."""
    _fit(run, held_out(), validation_freq=2)


@program(validates=True)
def validation_freq_list(run: Any) -> None:
    """Arrays, `validation_freq=[1, 4]`."""
    _fit(run, held_out(), validation_freq=[1, 4])


@program(validates=True)
def validation_batch_size(run: Any) -> None:
    """Arrays with sample weights, `validation_batch_size`."""
    x, y = held_out()
    _fit(run, (x, y, 1 + np.arange(len(y)) % 2), validation_batch_size=5)
