"""The data arguments of Model.fit, checked, as inputs that have a position."""

from __future__ import annotations

import dataclasses
from typing import Any

import keras

from resilient import keras_private
from resilient.data import Input, accepts, choose, split
from resilient.data.choice import Use
from resilient.errors import ConfigurationError
from resilient.state import plain, rng


@dataclasses.dataclass(frozen=True)
class Data:
    """What of Model.fit's arguments is data, by its names there."""

    x: Any
    y: Any
    sample_weight: Any
    class_weight: Any
    shuffle: Any
    batch_size: Any
    steps_per_epoch: Any
    validation_split: float
    validation_data: Any
    validation_batch_size: Any
    validation_steps: Any


@dataclasses.dataclass(frozen=True)
class Inputs:
    """The training input; the validation input where it has a position of its own; what Model.fit gets as `validation_data`."""

    training: Input
    validation: Input | None
    validation_data: Any


def check_model(model: Any) -> None:
    """Raise ConfigurationError, or what Keras raises, unless this is a compiled model on a backend that we know."""
    if not isinstance(model, keras_private.Trainer):  # keras.Model is one; others mix it into a layer of theirs
        raise ConfigurationError(f"model is a {type(model).__name__}. Pass a compiled keras.Model.")
    if keras.backend.backend() not in {"tensorflow", "jax", "torch"}:
        raise ConfigurationError(f"KERAS_BACKEND is {keras.backend.backend()!r}. resilient.fit needs tensorflow, jax or torch.")
    model._assert_compile_called("fit")


def inputs_of(model: Any, data: Data) -> Inputs:
    """The inputs for these arguments.

    Raises:
        ConfigurationError: one of them is wrong, or Keras cannot train on it.
    """
    for name in ("batch_size", "steps_per_epoch", "validation_batch_size", "validation_steps"):
        _check_count(name, getattr(data, name))
    if data.shuffle not in (True, False, "batch"):
        raise ConfigurationError(f'shuffle={data.shuffle!r} is not accepted. Pass True, False or "batch".')
    x, y, sample_weight, validation_data = data.x, data.y, data.sample_weight, data.validation_data
    if data.validation_split and validation_data is None:
        if not accepts(x, y, sample_weight):
            raise ConfigurationError("validation_split is for arrays only. Pass validation_data for other inputs.")
        (x, y, sample_weight), validation_data = split(x, y, sample_weight, data.validation_split)
    use = Use(
        batch_size=data.batch_size,
        shuffle=data.shuffle,
        class_weight=data.class_weight,
        steps=data.steps_per_epoch,
        validates=False,
        steps_per_execution=int(model.steps_per_execution),
        strategy=keras_private.strategy_of(model),
        fingerprint=plain.fingerprint,
        generators=rng,
    )
    validation = _validation(data, validation_data, use)
    return Inputs(choose(x, y, sample_weight, use), validation, validation_data if validation is None else validation)


def _validation(data: Data, given: Any, use: Use) -> Input | None:
    """None for arrays: Keras begins those anew each time."""
    if given is None:
        return None
    x, y, sample_weight = keras.utils.unpack_x_y_sample_weight(given) if isinstance(given, (tuple, list)) else (given, None, None)
    if accepts(x, y, sample_weight):
        return None
    batch_size = data.validation_batch_size or data.batch_size
    wanted = dataclasses.replace(use, batch_size=batch_size, shuffle=False, class_weight=None, steps=data.validation_steps, validates=True)
    return choose(x, y, sample_weight, wanted)


def _check_count(name: str, value: Any) -> None:
    if value is not None and (isinstance(value, bool) or not hasattr(value, "__index__") or value < 1):
        raise ConfigurationError(f"{name}={value!r} is not accepted. Pass an integer of at least 1, or None.")
