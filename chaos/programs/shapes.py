"""Shapes of models; the data are arrays or a simple `tf.data` pipeline."""

from __future__ import annotations

from typing import Any

import keras
import numpy as np
from keras import layers

from chaos import oracle
from chaos.programs.models import BATCH, WHOLE, WIDTH, held_out, inputs, network, regression, samples, tapped
from chaos.programs.recorder import array
from chaos.programs.registry import ALL, TENSORFLOW, program


def _fit(run: Any, model: Any, tap: Any, **options: Any) -> Any:
    return run.fit(model, *samples(WHOLE), tap=tap, batch_size=BATCH, shuffle=False, **options)


class Subclassed(keras.Model):
    """Has no `build`: its variables come with the first batch."""

    def __init__(self) -> None:
        super().__init__()
        self.tap = tapped()
        self.hidden = layers.Dense(12, activation="relu")
        self.dropout = layers.Dropout(0.3)
        self.last = layers.Dense(1)

    def call(self, sample: Any, training: bool = False) -> Any:
        """Predictions of shape (batch, 1)."""
        hidden = self.hidden(self.tap(sample["x"], sample["ids"], training=training))
        return self.last(self.dropout(hidden, training=training))


@program(ALL)
def subclassed(run: Any) -> None:
    """A subclassed model without `build`."""
    model = Subclassed()
    model.compile("adam", "mse", metrics=["mae"])
    _fit(run, model, model.tap)


@program(validates=True)
def many_inputs_and_outputs(run: Any) -> None:
    """Two inputs and two outputs, losses and metrics by name, dicts everywhere."""
    tap = tapped()
    x, ids = inputs()
    other = keras.Input((2,), name="other")
    hidden = layers.Dense(8, activation="tanh")(layers.Concatenate()([tap(x, ids), other]))
    outputs = {"sum": layers.Dense(1, name="sum")(hidden), "sign": layers.Dense(2, activation="softmax", name="sign")(hidden)}
    model = keras.Model({"x": x, "ids": ids, "other": other}, outputs)
    losses = {"sum": "mse", "sign": "sparse_categorical_crossentropy"}
    model.compile("adam", losses, loss_weights={"sum": 1.0, "sign": 0.5}, metrics={"sign": ["accuracy"]})

    def both(data: Any) -> Any:
        x, y = data
        return {**x, "other": x["x"][:, :2] ** 2}, {"sum": y, "sign": (y[:, 0] > 0).astype("int32")}

    run.fit(model, *both(samples(WHOLE)), tap=tap, batch_size=BATCH, shuffle=False, validation_data=both(held_out()))


@program(ALL)
def embedding(run: Any) -> None:
    """`Embedding`: sparse gradients, Adagrad."""
    tap = tapped()
    tokens, ids = keras.Input((5,), dtype="int32", name="tokens"), keras.Input((), dtype="int32", name="ids")
    hidden = layers.Flatten()(layers.Embedding(60, 4)(tokens))
    model = keras.Model({"tokens": tokens, "ids": ids}, layers.Dense(1)(tap(hidden, ids)))
    model.compile(keras.optimizers.Adagrad(0.05), "mse")
    x, y = samples(WHOLE)
    data = {"tokens": np.random.default_rng(2).integers(0, 60, (WHOLE, 5), dtype="int32"), "ids": x["ids"]}
    run.fit(model, data, y, tap=tap, batch_size=BATCH, shuffle=False)


@program()
def stateful_lstm(run: Any) -> None:
    """`LSTM(stateful=True)`: the state goes on from batch to batch."""
    tap = tapped()
    series = keras.Input((WIDTH, 1), batch_size=BATCH, name="series")
    ids = keras.Input((), batch_size=BATCH, dtype="int32", name="ids")
    recurrent = layers.LSTM(6, stateful=True, dropout=0.2)
    model = keras.Model({"series": series, "ids": ids}, layers.Dense(1)(tap(recurrent(series), ids)))
    model.compile("adam", "mse")
    x, y = samples(WHOLE)
    run.fit(model, {"series": x["x"][..., None], "ids": x["ids"]}, y, tap=tap, batch_size=BATCH, shuffle=False)
    # Keras does not count them among the model's variables.
    run.also("recurrent states", {str(index): oracle.digest(array(state)) for index, state in enumerate(recurrent.states)})


@program()
def frozen_layers(run: Any) -> None:
    """Frozen layers, a batch normalisation among them."""
    tap = tapped()
    model = network(tap)
    model.get_layer("first").trainable = False
    model.get_layer("normalization").trainable = False
    model.compile("adam", "mse")
    _fit(run, model, tap)


@program(parts=("head", "all"))
def unfrozen_between_fits(run: Any) -> None:
    """Two fits in two directories: the first with a frozen layer, the second fine-tunes it with an optimizer of its own."""
    tap = tapped()
    model = network(tap)
    model.get_layer("first").trainable = False
    model.compile(keras.optimizers.Adam(2e-3), "mse")
    _fit(run, model, tap, part="head", epochs=2)
    model.get_layer("first").trainable = True
    model.compile(keras.optimizers.RMSprop(1e-4), "mse")
    _fit(run, model, tap, part="all", epochs=2)


@program(TENSORFLOW)
def low_rank(run: Any) -> None:
    """LoRA on the dense layers."""
    model, tap = regression()
    model.get_layer("first").enable_lora(2)
    model.get_layer("last").enable_lora(1)
    model.compile("adam", "mse")
    _fit(run, model, tap)


@program(TENSORFLOW)
def quantized(run: Any) -> None:
    """`model.quantize("int8")`, then LoRA on the quantized layers."""
    model, tap = regression()
    model.quantize("int8")
    model.get_layer("first").enable_lora(2)
    model.get_layer("last").enable_lora(1)
    model.compile("adam", "mse")
    _fit(run, model, tap)


@program(ALL)
def convolutional(run: Any) -> None:
    """Convolution, batch normalisation, random augmentation layers."""
    tap = tapped()
    image, ids = keras.Input((8, 8, 1), name="image"), keras.Input((), dtype="int32", name="ids")
    hidden = layers.RandomFlip()(image)
    hidden = layers.GaussianNoise(0.1)(layers.BatchNormalization()(layers.Conv2D(4, 3)(hidden)))
    model = keras.Model({"image": image, "ids": ids}, layers.Dense(1)(tap(layers.Flatten()(hidden), ids)))
    model.compile(keras.optimizers.AdamW(2e-3), "mse")
    x, y = samples(WHOLE)
    images = np.random.default_rng(3).normal(size=(WHOLE, 8, 8, 1)).astype("float32")
    run.fit(model, {"image": images, "ids": x["ids"]}, y, tap=tap, batch_size=BATCH, shuffle=False)
