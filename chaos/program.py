"""The program under test: everything that is easily lost on a restart, in one small training.

    python -m chaos.program --directory RUN --log RUN.log --out RUN.json

Dropout, batch normalisation and augmentation draw from seed generators; early stopping, the plateau schedule and the CSV log
remember epochs; class weights and a partial last batch ride on the data. One line a batch goes to the log, with the ids of the samples that
the graph itself has seen; at the end the digests of all there is go to the output file.
"""

from __future__ import annotations

import argparse
import json
import os
import random
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers, ops
from sklearn.datasets import load_digits

import resilient
from chaos import oracle

BATCH_SIZE = 16
ATTEMPT = int(os.environ.get("CHAOS_ATTEMPT", "0"))


class LastIds(layers.Layer):
    """Passes its first input on and keeps the sample ids of the last trained batch in a variable, padded with -1."""

    def __init__(self, size: int, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.ids = self.add_weight(shape=(size,), dtype="int32", initializer=keras.initializers.Constant(-1), trainable=False, name="ids")

    def call(self, x: Any, ids: Any, training: bool = False) -> Any:
        """Features of shape (batch, …) and int32 ids of shape (batch,) in; the features out."""
        if training:
            missing = self.ids.shape[0] - ops.shape(ids)[0]
            self.ids.assign(ops.concatenate([ids, ops.full((missing,), -1, dtype="int32")]))
        return x

    def compute_output_shape(self, x_shape: Any, ids_shape: Any) -> Any:
        """The features' own."""
        return x_shape


class BatchLog(keras.callbacks.Callback):
    """Writes a line for each trained batch, and draws from the global generators as careless callbacks do."""

    def __init__(self, path: str) -> None:
        super().__init__()
        self.path = path
        self.epoch = 0
        self.drawn: list[float] = []

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """The epoch of the lines that follow."""
        self.epoch = epoch

    def on_train_batch_end(self, batch: int, logs: Any = None) -> None:
        """One line: position and sample ids."""
        ids = self.model.get_layer("last_ids").ids.numpy()
        self.write(event=oracle.BATCH, epoch=self.epoch, batch=batch, ids=ids[ids >= 0].tolist())

    def on_test_begin(self, logs: Any = None) -> None:
        """Validation is under way from here."""
        self.write(event=oracle.VALIDATION_BEGIN, epoch=self.epoch)

    def on_test_end(self, logs: Any = None) -> None:
        """Validation ended here."""
        self.write(event=oracle.VALIDATION_END, epoch=self.epoch)

    def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
        """Numbers that are right only if Python's and NumPy's generators go on where they were."""
        self.drawn += [random.random(), float(np.random.random())]

    def write(self, **line: Any) -> None:
        """Append in one system call, so that a kill leaves a line whole or none."""
        descriptor = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            os.write(descriptor, json.dumps({"attempt": ATTEMPT, **line}).encode() + b"\n")
        finally:
            os.close(descriptor)


def build() -> Any:
    """A small convolutional classifier of (8, 8, 1) images that also takes the id of each sample."""
    image, ids = keras.Input((8, 8, 1), name="image"), keras.Input((), dtype="int32", name="ids")
    x = layers.RandomTranslation(0.1, 0.1)(image)
    x = layers.RandomRotation(0.05)(x)
    x = layers.Conv2D(8, 3, activation="relu")(x)
    x = layers.BatchNormalization()(x)
    x = layers.Flatten()(x)
    x = LastIds(BATCH_SIZE, name="last_ids")(x, ids)
    x = layers.Dense(32, activation="relu")(x)
    x = layers.Dropout(0.3)(x)
    model = keras.Model({"image": image, "ids": ids}, layers.Dense(10)(x))
    model.compile(
        keras.optimizers.Adam(1.5e-4),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        metrics=["accuracy"],
    )
    return model


def outcome(model: Any, history: Any, callbacks: list[Any]) -> dict[str, dict[str, Any]]:
    """Digests of everything a run ends with, by section and name."""
    numpy_state = np.random.get_state(legacy=False)["state"]
    return {
        "variables": _digests(model.variables),
        "optimizer": _digests(model.optimizer.variables),
        "metrics": _digests(model.metrics_variables),
        "history": {**history.history, "epochs": history.epoch},
        "callbacks": {
            f"{type(callback).__name__}.{name}": _plain(value)
            for callback in callbacks
            for name, value in sorted(vars(callback).items())
            if name in ("best", "wait", "best_epoch", "stopped_epoch", "cooldown_counter", "drawn", "epoch")
        },
        "generators": {
            "python": oracle.digest(random.getstate()[1]),
            "numpy": oracle.digest(np.append(numpy_state["key"], numpy_state["pos"])),
        },
    }


def _digests(variables: list[Any]) -> dict[str, str]:
    return {f"{index} {variable.path}": oracle.digest(variable.numpy()) for index, variable in enumerate(variables)}


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, (np.ndarray, np.generic)) else value


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--directory", required=True, type=Path)
    parser.add_argument("--log", required=True, type=Path)
    parser.add_argument("--out", required=True, type=Path)
    parser.add_argument("--epochs", type=int, default=60)
    parser.add_argument("--save-every", default="auto", type=lambda text: int(text) if text.isdigit() else text)
    return parser.parse_args()


def main() -> None:
    """Train and write down what came out."""
    args = arguments()
    keras.utils.set_random_seed(7)
    digits = load_digits()
    x = {"image": (digits.images / 16).astype("float32")[..., None], "ids": np.arange(len(digits.images), dtype="int32")}
    model = build()
    callbacks = [
        keras.callbacks.EarlyStopping(patience=6, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau(patience=2, factor=0.7),
        keras.callbacks.CSVLogger(str(args.out.with_suffix(".csv"))),
        BatchLog(str(args.log)),
    ]
    history = resilient.fit(
        model,
        x,
        digits.target,
        batch_size=BATCH_SIZE,
        epochs=args.epochs,
        validation_split=0.2,
        class_weight={digit: 1 + digit / 10 for digit in range(10)},
        callbacks=callbacks,
        verbose=0,
        directory=args.directory,
        save_every=args.save_every,
    )
    result = outcome(model, history, callbacks)
    result["files"] = {"epochs.csv": args.out.with_suffix(".csv").read_text().splitlines()}
    unfinished = args.out.with_suffix(".unfinished")
    unfinished.write_text(json.dumps(result), encoding="ascii")
    unfinished.replace(args.out)


if __name__ == "__main__":
    main()
