"""Which kind of input the caller handed over, in the order in which Keras asks."""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator
from typing import Any

import keras

from resilient import keras_private
from resilient.data.arrays import ArrayInput, accepts
from resilient.data.base import Input
from resilient.data.data_loader import DataLoaderSource
from resilient.data.objects import Fingerprint
from resilient.data.py_dataset import PyDatasetSource
from resilient.data.randomness import Generators
from resilient.data.sources import GrainSource, IteratorSource, Source
from resilient.data.streams import StreamInput
from resilient.data.tfdata import DatasetInput
from resilient.errors import ConfigurationError


@dataclasses.dataclass(frozen=True)
class Use:
    """How the batches are going to be used.

    Attributes:
        batch_size, shuffle, class_weight: as in Model.fit.
        steps: `steps_per_epoch`, or `validation_steps`.
        validates: whether it is the validation data: every use begins a new pass, in fixed order.
        steps_per_execution: of the model.
        strategy: the model's `tf.distribute` strategy, None for none.
        fingerprint: see `data.objects`.
        generators: see `data.randomness`.
    """

    batch_size: int | None
    shuffle: Any
    class_weight: Any
    steps: int | None
    validates: bool
    steps_per_execution: int
    strategy: Any
    fingerprint: Fingerprint
    generators: Generators


def choose(x: Any, y: Any, sample_weight: Any, use: Use) -> Input:
    """The input for what the caller handed to fit.

    Raises:
        ConfigurationError: it is nothing that Keras trains on, or y, weights or class weights do not go with it.
    """
    if accepts(x, y, sample_weight):
        return ArrayInput(
            x, y, sample_weight,
            batch_size=use.batch_size, steps_per_epoch=use.steps, shuffle=use.shuffle, class_weight=use.class_weight,
        )  # fmt: skip
    _check_extras(x, y, sample_weight)
    if keras_private.is_tf_dataset(x):
        return DatasetInput(
            x,
            class_weight=use.class_weight,
            strategy=use.strategy,
            every_epoch=use.validates or use.steps is None,
            validates=use.validates,
            steps=use.steps,
            compiled_loop=use.steps_per_execution > 1 and keras.backend.backend() == "tensorflow",
        )
    return StreamInput(_source(x, use), use.generators, every_epoch=use.validates or use.steps is None, validates=use.validates)


def _check_extras(x: Any, y: Any, sample_weight: Any) -> None:
    if isinstance(x, (list, tuple)):
        raise ConfigurationError(f"x is a {_name(x)} of something that is no array. Pass NumPy arrays: numpy.array(x).")
    if inspect.isroutine(x):
        raise ConfigurationError("x is a function. Pass what it returns: call it.")
    for name, value in (("y", y), ("sample_weight", sample_weight)):
        if value is not None:
            raise ConfigurationError(
                f"{name} was passed beside x, a {_name(x)}. Let x yield (inputs, targets) or (inputs, targets, sample_weights) instead."
            )


def _source(x: Any, use: Use) -> Source:
    if isinstance(x, keras.utils.PyDataset):
        return PyDatasetSource(x, class_weight=use.class_weight, shuffle=bool(use.shuffle), fingerprint=use.fingerprint)
    if use.class_weight is not None:
        raise ConfigurationError(f"class_weight does not go with x, a {_name(x)}. Let x yield sample weights instead.")
    if keras_private.is_torch_dataloader(x):
        return DataLoaderSource(x, use.generators)
    if keras_private.is_grain_dataset(x):
        return GrainSource(x)
    if isinstance(x, Iterator):
        return IteratorSource(x)
    raise ConfigurationError(
        f"x is a {_name(x)}, which Keras cannot train on. Pass arrays, tensors or pandas objects (also in dicts and lists), "
        "a tf.data.Dataset, a keras.utils.PyDataset, a generator, a Grain dataset or a PyTorch DataLoader."
    )


def _name(x: Any) -> str:
    kind = type(x)
    if keras_private.is_tf_dataset(x):
        return "tf.data.Dataset"
    return kind.__qualname__ if kind.__module__ in {"builtins", "__main__"} else f"{kind.__module__}.{kind.__qualname__}"
