"""Models whose state has a given size, and what they are trained with."""

from __future__ import annotations

import dataclasses
import gc
import math
from typing import Any

import keras
import numpy as np

LAYERS = 10
_SLOTS = {"adam": 2, "sgd": 0}  # variables of the optimizer beside each weight


@dataclasses.dataclass(frozen=True)
class Workload:
    """A built and compiled model and one batch for it."""

    model: Any
    x: Any
    y: Any

    @property
    def variables(self) -> list[Any]:
        """Weights and the optimizer's variables: the state that everybody saves."""
        return [*self.model.variables, *self.model.optimizer.variables]

    @property
    def nbytes(self) -> int:
        """Bytes of the state."""
        return bytes_of(self.variables)

    def batches(self, count: int = -1) -> Any:
        """The batch again and again, as a `tf.data.Dataset`; without an end if no count is given."""
        import tensorflow as tf

        return tf.data.Dataset.from_tensors((self.x, self.y)).repeat(count)

    def train(self, steps: int, *callbacks: Any) -> None:
        """`Model.fit` at full speed; a callback may end it earlier."""
        self.model.fit(self.batches(), steps_per_epoch=steps, shuffle=False, verbose=0, callbacks=list(callbacks))


def bytes_of(variables: list[Any]) -> int:
    """Bytes of these variables."""
    return sum(math.prod(variable.shape) * np.dtype(variable.dtype).itemsize for variable in variables)


def dense(megabytes: float, batch: int, *, optimizer: str = "adam", frozen: int = 0) -> Workload:
    """Equal dense layers, the first `frozen` of which are not trained, with a state of about `megabytes` (of 10^6 bytes) if all were.

    Their width is a multiple of 16, as widths mostly are.
    """
    width = max(8, round(math.sqrt(megabytes * 1e6 / 4 / (1 + _SLOTS[optimizer]) / LAYERS) / 16) * 16)
    keras.utils.set_random_seed(0)
    x = given = keras.Input((width,))
    for number in range(LAYERS):
        x = keras.layers.Dense(width, activation="relu", trainable=number >= frozen)(x)
    return _compiled(keras.Model(given, x), optimizer, np.random.default_rng(0).random((batch, width), dtype=np.float32))


class Pieces(keras.layers.Layer):
    """Many weights of equal size that all take part in every step."""

    def __init__(self, count: int, size: int) -> None:
        super().__init__()
        self._pieces = [self.add_weight(shape=(size,), initializer="ones", name=f"piece_{number}") for number in range(count)]

    def call(self, x: Any) -> Any:
        """Each piece adds its mean."""
        return x + sum(keras.ops.mean(piece) for piece in self._pieces)


def pieces(megabytes: float, tensors: int) -> Workload:
    """The same state cut into that many tensors, with Adam: a third of them are weights."""
    count = max(1, tensors // 3)
    keras.utils.set_random_seed(0)
    given = keras.Input((1,))
    model = keras.Model(given, Pieces(count, max(1, round(megabytes * 1e6 / 12 / count)))(given))
    return _compiled(model, "adam", np.ones((8, 1), np.float32))


def _compiled(model: Any, optimizer: str, x: Any) -> Workload:
    model.compile({"adam": keras.optimizers.Adam(1e-4), "sgd": keras.optimizers.SGD(1e-4)}[optimizer], "mse")
    model.optimizer.build(model.trainable_variables)
    return Workload(model, x, np.zeros((len(x), model.output_shape[-1]), np.float32))


def host_view(variable: Any) -> Any:
    """The variable's present value in host memory; where it lives there, without a copy. Drop it before the next step."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        return np.asarray(variable.value.read_value())
    if backend == "torch":
        return variable.value.detach().cpu().numpy()
    return jax_host_view(variable.value)


def jax_host_view(array: Any) -> Any:
    """Of a JAX array. JAX keeps what it once brought from a device beside the array, so there it is a fresh copy that is brought."""
    on_host = all(device.platform == "cpu" for device in array.devices())
    return np.asarray(array if on_host else array.copy())


def forget() -> None:
    """Give back the memory of models that nobody holds any more, before the next one is built.

    TensorFlow keeps about one state of each model that was trained in a graph (2.21), whatever is done: the sizes go upwards.
    """
    keras.backend.clear_session()
    gc.collect()


def free_memory(factor: float, megabytes: float) -> str | None:
    """None if `factor` times that much memory is available, else a sentence saying so."""
    import psutil

    available, needed = psutil.virtual_memory().available, factor * megabytes * 1e6
    if available >= needed:
        return None
    return f"{megabytes:,.0f} MB of state need {needed / 1e9:.1f} GB of memory, and {available / 1e9:.1f} GB are available."
