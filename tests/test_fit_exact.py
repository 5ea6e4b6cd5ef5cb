"""Stopped anywhere and resumed each time, a run ends with the bits of a run that was never stopped."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pandas as pd
import pytest
import tensorflow as tf

import resilient
from tests.exactness import run_until_done

SAMPLES = 75  # with batches of 8: nine whole ones and one of 3
X = np.random.default_rng(0).normal(size=(SAMPLES, 6)).astype("float32")
Y = np.random.default_rng(1).integers(0, 3, SAMPLES)
WEIGHTS = np.random.default_rng(2).uniform(0.5, 1.5, SAMPLES).astype("float32")
VALIDATION = (X[:20], Y[:20])

STOPS = [
    ("on_train_batch_end", 3),
    ("on_train_batch_end", 2),  # a second time in the same epoch
    ("on_test_batch_end", 1),
    ("on_train_batch_end", 10),  # the last batch of an epoch
    ("on_epoch_end", 1),
    ("on_epoch_begin", 1),
]


def layers() -> list[Any]:
    return [
        keras.layers.Dense(12, activation="relu"),
        keras.layers.BatchNormalization(),
        keras.layers.Dropout(0.3),
        keras.layers.GaussianNoise(0.1),
        keras.layers.Dense(3),
    ]


def compiled(model: Any, **arguments: Any) -> Any:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    arguments = {"optimizer": keras.optimizers.Adam(1e-2), "metrics": ["accuracy"], **arguments}
    model.compile(loss=loss, **arguments)
    return model


def built(**arguments: Any) -> Any:
    return compiled(keras.Sequential([keras.Input((6,)), *layers()]), **arguments)


def small(**arguments: Any) -> Any:
    """Little to trace, and enough to tell any change of order: masks are drawn, and momentum remembers every batch.

    It has no BatchNormalization, only one seed generator and no compiled metric; those are for `built`.
    """
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dropout(0.3), keras.layers.Dense(3)])
    return compiled(model, **{"optimizer": keras.optimizers.SGD(0.05, momentum=0.9), "metrics": [], **arguments})


def unbuilt() -> Any:
    return compiled(keras.Sequential(layers()))


def with_ema() -> Any:
    return built(optimizer=keras.optimizers.SGD(0.05, momentum=0.9, use_ema=True, ema_momentum=0.9, ema_overwrite_frequency=None))


class Nested(keras.Model):  # type: ignore[misc]
    """Takes a dict of inputs, gives a list of outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.parts = layers()
        self.other = keras.layers.Dense(1)

    def call(self, inputs: Any, training: bool = False) -> Any:
        out = keras.ops.concatenate([inputs["a"], inputs["b"]], axis=-1)
        for part in self.parts:
            out = part(out, training=training) if "training" in part._call_signature.parameters else part(out)
        return [out, self.other(inputs["a"])]


def nested() -> Any:
    model = Nested()
    model.compile("adam", [keras.losses.SparseCategoricalCrossentropy(from_logits=True), "mse"], metrics=[["accuracy"], ["mae"]])
    return model


def usual_callbacks(_directory: Path) -> list[Any]:
    return [
        keras.callbacks.EarlyStopping("loss", patience=2, restore_best_weights=True),
        keras.callbacks.ReduceLROnPlateau("loss", patience=1, factor=0.5, min_delta=0.05),
    ]


def program(build: Callable[[], Any], callbacks: Callable[[Path], list[Any]] = usual_callbacks, **arguments: Any) -> Any:
    def run(directory: Path, extra: Sequence[Any]) -> tuple[Any, Any]:
        if not resilient_has_run(directory):
            keras.utils.set_random_seed(7)
        model = build()
        chosen = {"x": X, "y": Y, "epochs": 4, "batch_size": 8, "verbose": 0, "monitor": "loss", **arguments}
        history = resilient.fit(
            model, **chosen, callbacks=[*callbacks(directory), *extra], directory=directory, on_preempt="return", grace="60s"
        )
        return model, history

    return run


def resilient_has_run(directory: Path) -> bool:
    return (directory / "journal.jsonl").exists()


PROGRAMS = {
    "shuffled": program(built, validation_data=VALIDATION),
    "in order": program(small, shuffle=False, validation_data=VALIDATION),
    "shuffled within batches": program(small, shuffle="batch", validation_data=VALIDATION),
    "unbuilt model": program(unbuilt, validation_data=VALIDATION),
    "unbuilt model, no validation": program(unbuilt),
    "validation split": program(small, validation_split=0.2),
    "no validation": program(small),
    "rare validation": program(small, validation_data=VALIDATION, validation_freq=2),
    "sample weights": program(built, sample_weight=WEIGHTS, validation_data=(*VALIDATION, WEIGHTS[:20])),
    "class weights": program(small, class_weight={0: 1.0, 1: 2.0, 2: 0.5}, validation_data=VALIDATION),
    "several steps per execution": program(lambda: built(steps_per_execution=4), validation_data=VALIDATION, shuffle=False),
    "fewer steps per epoch": program(small, steps_per_epoch=4, validation_data=VALIDATION, epochs=7),
    "tensors": program(small, x=tf.constant(X), y=tf.constant(Y), validation_data=VALIDATION),
    "pandas": program(small, x=pd.DataFrame(X), y=pd.Series(Y), validation_data=VALIDATION),
    "nested inputs and outputs": program(nested, x={"a": X[:, :3], "b": X[:, 3:]}, y=[Y, X[:, 0]], validation_split=0.2),
    "moving average of weights": program(with_ema, validation_data=VALIDATION),
    "eager": program(lambda: built(run_eagerly=True), validation_data=VALIDATION, epochs=3),
    "gradient accumulation": program(
        lambda: built(optimizer=keras.optimizers.Adam(1e-2, gradient_accumulation_steps=3)), validation_data=VALIDATION
    ),
    "saved every other batch": program(small, validation_data=VALIDATION, save_every=2),
    "seeded by fit": program(small, validation_data=VALIDATION, seed=11),
}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_run_stopped_many_times_ends_with_the_bits_of_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    """Stops in training, twice in one epoch, in validation, after an epoch's last batch, at its end and at its beginning."""
    undisturbed, none = run_until_done(PROGRAMS[name], tmp_path / "undisturbed", [])
    stopped, stops = run_until_done(PROGRAMS[name], tmp_path / "stopped", STOPS)
    assert none == 0 and stops >= 2
    assert stopped == undisturbed


@pytest.mark.filterwarnings("ignore:Your input ran out of data")
@pytest.mark.parametrize("shape", ["in order", "fewer steps", "more steps", "several steps per execution", "unbuilt", "dropout and noise"])
def test_an_uninterrupted_run_on_data_in_fixed_order_gives_what_model_fit_gives(shape: str, tmp_path: Path) -> None:
    """Transparency: variables and History have the same bits as with plain `fit`."""
    arguments: dict[str, Any] = {
        "x": X,
        "y": Y,
        "batch_size": 8,
        "epochs": 3,
        "shuffle": False,
        "verbose": 0,
        "validation_data": VALIDATION,
    }
    arguments.update({"fewer steps": {"steps_per_epoch": 4}, "more steps": {"steps_per_epoch": 14}}.get(shape, {}))
    build = {"several steps per execution": lambda: built(steps_per_execution=4), "unbuilt": unbuilt}.get(shape, built)
    ends = []
    for fit in (keras.Model.fit, resilient.fit):
        keras.utils.set_random_seed(5)
        model = build()
        own = {} if fit is keras.Model.fit else {"directory": tmp_path / "run"}
        history = fit(model, **arguments, **own)
        ends.append(([v.numpy().tobytes() for v in [*model.variables, *model.optimizer.variables]], history.history, history.epoch))
    assert ends[0] == ends[1]


def test_each_epoch_trains_every_sample_once_in_an_order_of_its_own(tmp_path: Path) -> None:
    """The order is a permutation, another one each epoch, and depends on nothing but (seed, epoch)."""
    from resilient.data import order

    first, second = order.permutation(9, 0, SAMPLES), order.permutation(9, 1, SAMPLES)
    assert sorted(first) == sorted(second) == list(range(SAMPLES))
    assert list(first) != list(second) and list(first) == list(order.permutation(9, 0, SAMPLES))
    grouped = order.within_batches(9, 0, SAMPLES, 8)
    assert [sorted(grouped[i : i + 8]) for i in range(0, SAMPLES, 8)] == [list(range(i, min(i + 8, SAMPLES))) for i in range(0, SAMPLES, 8)]
