"""The audit: what cannot be restored exactly is found before the first batch, and nothing else is."""

from __future__ import annotations

import argparse
import collections
import dataclasses
import enum
import itertools
import logging
import queue
import random
import tempfile
import threading
import types
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from resilient.auditing import Finding, callback_findings, dataset_findings, training_findings
from resilient.auditing.graphs import training_graph
from resilient.keras_private import symbolic_build
from resilient.state.variables import variables_of

PARALLEL = {"num_parallel_calls": 2}
SEED = {"seed": 3}


@pytest.fixture(autouse=True)
def _no_global_seed(monkeypatch):
    """As in a fresh process: a global seed gives every operation a seed, and there is no public way to take it back."""
    from tensorflow.python.eager import context

    monkeypatch.setattr(context.context(), "_seed", None)


def said(findings: list[Finding]) -> str:
    assert all(str(finding).endswith(".") and ": " in str(finding) and "; " in str(finding) for finding in findings)
    return " ".join(map(str, findings))


# -- datasets -------------------------------------------------------------------------------------------------------------------------


def numbers() -> Any:
    return tf.data.Dataset.range(8)


def images() -> Any:
    return tf.data.Dataset.from_tensors(tf.zeros((4, 4, 3)))


def unseeded(_x):
    return tf.random.uniform(())


def seeded(_x):
    return tf.random.uniform((), seed=3)


def stateless(x):
    return tf.random.stateless_uniform((), (x, 1))


def branching(x):
    return tf.cond(x > 3, lambda: tf.random.normal(()), lambda: 0.0)


def inner(x):
    return tf.data.Dataset.from_tensors(x).repeat(2)


def inner_shuffle(x):
    return tf.data.Dataset.from_tensors(x).repeat(3).shuffle(3)


def inner_seeded(x):
    return tf.data.Dataset.from_tensors(x).map(seeded)


def inner_parallel(x):
    return tf.data.Dataset.from_tensors(x).repeat(4).map(seeded, num_parallel_calls=2)


def inner_relaxed(x):
    return tf.data.Dataset.from_tensors(x).map(stateless, num_parallel_calls=2, deterministic=False)


def with_generator(**how):
    generator = tf.random.Generator.from_seed(3)
    return numbers().map(lambda _: generator.normal(()), **how)


def with_layer(layer, **how):
    return images().map(lambda x: layer(x, training=True), **how)


def with_counter(**how):
    count = tf.Variable(0, name="count")
    return numbers().map(lambda _: count.assign_add(1), **how)


def relaxed():
    options = tf.data.Options()
    options.deterministic = False
    return numbers().map(stateless, **PARALLEL).with_options(options)


def served():
    dispatcher = tf.data.experimental.service.DispatchServer()
    served.keep = dispatcher
    return numbers().apply(
        tf.data.experimental.service.distribute(processing_mode="parallel_epochs", service=dispatcher.target, job_name="job")
    )


def captured_shared_generator():
    tf.random.set_global_generator(tf.random.Generator.from_seed(1))
    generator = tf.random.get_global_generator()
    return numbers().map(lambda _: generator.normal(()))


NOT_REPEATABLE = {
    "shuffle": (lambda: numbers().shuffle(5), ["Dataset.shuffle(buffer_size=5)", "pass a seed"]),
    "shuffle-once": (lambda: numbers().shuffle(5, reshuffle_each_iteration=False), ["Dataset.shuffle", "pass a seed"]),
    "shuffle-below": (lambda: numbers().shuffle(5).map(stateless).batch(2).prefetch(1), ["Dataset.shuffle", "pass a seed"]),
    "shuffle-twice": (lambda: tf.data.Dataset.zip((numbers().shuffle(5), numbers().shuffle(5))), ["Dataset.shuffle(buffer_size=5)"]),
    "shuffle-and-repeat": (lambda: numbers().apply(tf.data.experimental.shuffle_and_repeat(3)), ["Dataset.shuffle_and_repeat"]),
    "shuffle-inside": (
        lambda: numbers().interleave(inner_shuffle),
        ["ShuffleDatasetV3 in Dataset.interleave(inner_shuffle) at test_audit.py"],
    ),
    "list-files": (lambda: tf.data.Dataset.list_files(str(Path(__file__).parent / "*.py")), ["Dataset.shuffle", "pass a seed"]),
    "random": (tf.data.Dataset.random, ["Dataset.random", "pass a seed"]),
    "sample": (lambda: tf.data.Dataset.sample_from_datasets([numbers(), numbers()]), ["Dataset.random", "pass a seed"]),
    "op": (lambda: numbers().map(unseeded), ["RandomUniform in Dataset.map(unseeded) at test_audit.py", "pass a seed"]),
    "op-in-branch": (lambda: numbers().map(branching), ["RandomStandardNormal in Dataset.map(branching) at test_audit.py", "pass a seed"]),
    "op-in-parallel": (lambda: numbers().map(seeded, **PARALLEL), ["RandomUniform in Dataset.map(seeded)", "num_parallel_calls"]),
    "op-below-parallel": (lambda: numbers().interleave(inner_seeded, **PARALLEL), ["RandomUniform in Dataset.interleave(inner_seeded)"]),
    "op-in-inner-parallel": (lambda: numbers().flat_map(inner_parallel), ["RandomUniform in Dataset.flat_map(inner_parallel)"]),
    "crop": (lambda: images().map(lambda x: tf.image.random_crop(x, (2, 2, 3))), ["RandomUniformInt in Dataset.map(<lambda>)"]),
    "order": (
        lambda: numbers().map(stateless, num_parallel_calls=2, deterministic=False),
        ["Dataset.map(stateless) with deterministic=False", "leave deterministic=False out"],
    ),
    "order-inside": (lambda: numbers().flat_map(inner_relaxed), ["ParallelMapDatasetV2 in Dataset.flat_map(inner_relaxed)"]),
    "order-of-interleave": (
        lambda: tf.data.Dataset.from_tensor_slices([1, 2]).interleave(inner, num_parallel_calls=2, deterministic=False).batch(2),
        ["Dataset.interleave(inner) with deterministic=False"],
    ),
    "order-by-options": (relaxed, ["Dataset.map(stateless) with Options.deterministic=False"]),
    "generator-in-parallel": (lambda: with_generator(**PARALLEL), ["the tf.random.Generator", "StateVar", "tf.random.stateless_*"]),
    "layer-in-parallel": (
        lambda: with_layer(keras.layers.RandomFlip(seed=1), **PARALLEL),
        ["seed_generator_state", "Dataset.map(<lambda>)", "a layer of the model"],
    ),
    "counter-in-parallel": (lambda: with_counter(**PARALLEL), ["'count'", "Dataset.enumerate"]),
    "saved-generator": (captured_shared_generator, ["the tf.random.Generator", "checkpoints hold it"]),
    "service": (served, ["Dataset.data_service", "tf.data's service"]),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NOT_REPEATABLE)
def test_what_a_dataset_cannot_repeat_is_named_with_its_remedy(name):
    """One finding, whose sentence says what it is and what to do."""
    make, words = NOT_REPEATABLE[name]
    findings = dataset_findings(make())
    assert len(findings) == 1, said(findings)
    assert [word for word in words if word not in said(findings)] == [], said(findings)


def after_set_seed():
    keras.utils.set_random_seed(1)
    return numbers().shuffle(5).map(unseeded).interleave(lambda x: tf.data.Dataset.from_tensors(x).shuffle(3))


def with_normalization():
    layer = keras.layers.Normalization(mean=0.0, variance=1.0)
    return numbers().map(lambda x: layer(tf.cast([[x]], tf.float32)), **PARALLEL)


def with_lookup():
    layer = keras.layers.StringLookup(vocabulary=["a", "b"])
    return tf.data.Dataset.from_tensors("a").map(layer.call, **PARALLEL)


def reading_a_variable_inside():
    scale = tf.Variable(2.0)
    return numbers().flat_map(lambda x: tf.data.Dataset.from_tensors(x).map(lambda y: tf.cast(y, tf.float32) * scale))


def from_python():
    return tf.data.Dataset.from_generator(lambda: iter(range(3)), output_signature=tf.TensorSpec((), tf.int32)).map(
        lambda x: tf.py_function(lambda y: y, [x], tf.int32)
    )


REPEATABLE = {
    "plain": lambda: numbers().map(lambda x: x + 1, num_parallel_calls=tf.data.AUTOTUNE).batch(2).prefetch(2).repeat(),
    "shuffle": lambda: numbers().shuffle(5, seed=0).repeat(2),
    "stateless": lambda: numbers().map(stateless, **PARALLEL),
    "seeded": lambda: numbers().map(seeded).filter(lambda x: x > 0.5),
    "seeded-inside": lambda: numbers().flat_map(inner_seeded),
    "sample": lambda: tf.data.Dataset.sample_from_datasets([numbers(), numbers()], seed=1),
    "choose": lambda: tf.data.Dataset.choose_from_datasets([numbers(), numbers()], tf.data.Dataset.range(2).repeat()),
    "resample": lambda: numbers().rejection_resample(lambda x: tf.cast(x % 2, tf.int32), [0.5, 0.5], seed=1),
    "files": lambda: tf.data.Dataset.list_files(str(Path(__file__)), shuffle=False),
    "interleave": lambda: numbers().interleave(inner, **PARALLEL),
    "told-order": lambda: numbers().map(stateless, num_parallel_calls=2, deterministic=True),
    "window": lambda: numbers().window(3).flat_map(lambda x: x.batch(3)).enumerate().cache(),
    "scan": lambda: numbers().scan(tf.constant(0, tf.int64), lambda state, x: (state + x, state)),
    "global-seed": after_set_seed,
    "generator": with_generator,
    "layer": lambda: with_layer(keras.layers.RandomFlip(seed=1)),
    "counter": with_counter,
    "normalization": with_normalization,
    "lookup": with_lookup,
    "reads": reading_a_variable_inside,
    "python": from_python,
    "arrays": lambda: np.zeros(3),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", REPEATABLE)
def test_a_dataset_that_can_be_repeated_raises_no_alarm(name):
    """The other half of the promise: no finding where there is nothing to do."""
    assert dataset_findings(REPEATABLE[name]()) == []


def test_with_op_determinism_the_order_is_kept_whatever_the_dataset_says(monkeypatch):
    """TensorFlow then runs such calls one after the other, which was measured. Without a seed it refuses to make them."""
    from tensorflow.python.framework import config

    monkeypatch.setattr(config, "is_op_determinism_enabled", lambda: True)
    for name in ("order", "order-by-options", "order-of-interleave", "op-in-parallel", "op-below-parallel"):
        assert dataset_findings(NOT_REPEATABLE[name][0]()) == []


def test_a_dataset_is_audited_without_reading_it_or_moving_its_order():
    """A reshuffling dataset goes on to its next order with every iterator, so the audit makes none."""
    read = []

    def note(x):
        read.append(int(x))
        return x

    dataset = tf.data.Dataset.range(50).map(lambda x: tf.py_function(note, [x], tf.int64)).shuffle(50, seed=1)
    twin = tf.data.Dataset.range(50).shuffle(50, seed=1)
    assert dataset_findings(dataset) == []
    assert read == []
    assert [int(x) for x in dataset] == [int(x) for x in twin]


# -- the training function ------------------------------------------------------------------------------------------------------------

X = np.random.default_rng(0).normal(size=(20, 3)).astype("float32")
Y = X.sum(axis=1, keepdims=True)


def batches() -> Any:
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(8, drop_remainder=True)


class Stepping(keras.Model):
    """A small model whose train_step does something besides."""

    def __init__(self, besides=lambda _model, x: x, **attributes):
        super().__init__()
        self.dense, self.drop, self.out = keras.layers.Dense(4), keras.layers.Dropout(0.3), keras.layers.Dense(1)
        self.besides, self.traces = besides, []
        for name, value in attributes.items():
            setattr(self, name, value)

    def call(self, x, training=False):
        return self.out(self.drop(self.dense(x), training=training))

    def train_step(self, data):
        self.traces.append(1)
        x, y = data
        return super().train_step((self.besides(self, x), y))


def built(model: Any, optimizer: Any = "adam", **compiled: Any) -> Any:
    model.compile(optimizer, "mse", metrics=["mae"], **compiled)
    symbolic_build(model, next(iter(batches())))
    return model


def noisy(_model, x):
    return x + tf.random.normal(tf.shape(x))


def seeded_noise(_model, x):
    return x + tf.random.uniform(tf.shape(x), seed=3)


def dropping(_model, x):
    return tf.nn.dropout(x, 0.3)


def counting(model, x):
    model.count.assign_add(1.0)
    return x


def counting_in_branch(model, x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: x + 0.0 * model.count.assign_add(1.0), lambda: x)


def counting_in_loop(model, x):
    return tf.while_loop(lambda i, _: i < 3, lambda i, value: (i + 1, value + 0.0 * model.count.assign_add(1.0)), (0, x))[1]


def from_generator(model, x):
    return x + model.noise.normal(tf.shape(x))


def from_listed_generator(model, x):
    return x + model.noises["a"][0].normal(tf.shape(x))


def branching_step(_model, x):
    return tf.cond(tf.reduce_sum(x) > 0, lambda: noisy(None, x), lambda: x)


def looping_step(_model, x):
    return tf.while_loop(lambda i, _: i < 3, lambda i, value: (i + 1, noisy(None, value)), (0, x))[1]


def remembering(model, x):
    model.table.insert(tf.constant(["a"]), tf.constant([1]))
    return x


def hidden_optimizer(model, x):
    optimizer = model.others[0]
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.dense(x) ** 2)
    optimizer.apply_gradients(zip(tape.gradient(loss, model.dense.trainable_variables), model.dense.trainable_variables, strict=True))
    return x


GLOBAL_METRIC = []


def global_metric(_model, x):
    if not GLOBAL_METRIC:
        GLOBAL_METRIC.append(keras.metrics.Mean(name="aside"))
    GLOBAL_METRIC[0].update_state(x)
    return x


def sampled_loss(y_true, y_pred):
    return tf.reduce_mean((y_true - y_pred) ** 2) * tf.random.uniform(())


def table():
    return tf.lookup.experimental.MutableHashTable(tf.string, tf.int32, 0)


def sampling_layer() -> Any:
    class Sampling(keras.layers.Layer):
        def call(self, x):
            return x + tf.random.truncated_normal(tf.shape(x))

    return keras.Sequential([keras.Input((3,)), keras.layers.Dense(2), Sampling(), keras.layers.Dense(1)])


NOISE = ["keras.random.SeedGenerator"]
UNSAVED = ["add_weight"]
NOT_SAVED = {
    "op": (lambda: Stepping(noisy), {}, ["RandomStandardNormal in the training function at test_audit.py", *NOISE]),
    "op-with-seed": (lambda: Stepping(seeded_noise), {}, ["RandomUniform in the training function at test_audit.py", *NOISE]),
    "op-in-branch": (lambda: Stepping(branching_step), {}, ["RandomStandardNormal in the training function at test_audit.py", *NOISE]),
    "op-in-loop": (lambda: Stepping(looping_step), {}, ["RandomStandardNormal in the training function at test_audit.py", *NOISE]),
    "op-in-layer": (sampling_layer, {}, ["TruncatedNormal in the training function at test_audit.py", *NOISE]),
    "op-several-steps": (lambda: Stepping(noisy), {"steps_per_execution": 3}, ["RandomStandardNormal", *NOISE]),
    "op-compiled": (lambda: Stepping(noisy), {"jit_compile": True}, ["RandomStandardNormal", *NOISE]),
    "dropout": (lambda: Stepping(dropping), {}, ["RandomUniform in the training function at test_audit.py", *NOISE]),
    "variable": (lambda: Stepping(counting, count=tf.Variable(0.0, name="steps")), {}, ["variable model.count (steps)", *UNSAVED]),
    "variable-several-steps": (
        lambda: Stepping(counting, count=tf.Variable(0.0, name="steps")), {"steps_per_execution": 2}, ["variable model.count", *UNSAVED],
    ),
    "variable-in-branch": (
        lambda: Stepping(counting_in_branch, count=tf.Variable(0.0, name="steps")), {}, ["variable model.count (steps)"],
    ),
    "variable-in-loop": (lambda: Stepping(counting_in_loop, count=tf.Variable(0.0, name="steps")), {}, ["variable model.count (steps)"]),
    "generator": (lambda: Stepping(from_generator, noise=tf.random.Generator.from_seed(1)), {}, ["Generator model.noise", *NOISE]),
    "generator-in-list": (
        lambda: Stepping(from_listed_generator, noises={"a": [tf.random.Generator.from_seed(1)]}), {}, ["model.noises['a'][0]", *NOISE],
    ),
    "optimizer-in-list": (
        lambda: Stepping(hidden_optimizer, others=[keras.optimizers.Adam()]), {}, ["the variables of model.others[0]", *UNSAVED],
    ),
    "metric-elsewhere": (lambda: Stepping(global_metric), {}, ["total", *UNSAVED]),
    "table": (lambda: Stepping(remembering, table=table()), {}, ["LookupTableInsertV2 in the training function", *UNSAVED]),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", NOT_SAVED)
def test_what_the_training_function_keeps_to_itself_is_named_with_its_remedy(name):
    """Random operations with a state in their kernel, and variables that no checkpoint holds."""
    make, compiled, words = NOT_SAVED[name]
    findings = training_findings(built(make(), **compiled), batches())
    assert findings
    assert [word for word in words if word not in said(findings)] == [], said(findings)
    assert len(findings) == (2 if name == "metric-elsewhere" else 1), said(findings)


def test_a_random_operation_in_a_loss_function_is_found():
    """The loss is part of the training function too."""
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", sampled_loss)
    symbolic_build(model, next(iter(batches())))
    assert "RandomUniform in the training function at test_audit.py" in said(training_findings(model, batches()))


def test_an_operation_that_no_line_of_the_program_made_has_no_place():
    """The line that called `fit` is not the one that made it."""
    model = built(keras.Sequential([keras.Input((3,)), keras.layers.Lambda(tf.random.shuffle), keras.layers.Dense(1)]))
    assert [finding.what for finding in training_findings(model, batches())] == ["RandomShuffle in the training function"]


def layers() -> Any:
    return keras.Sequential([
        keras.Input((3,)), keras.layers.Dense(8), keras.layers.BatchNormalization(), keras.layers.GaussianNoise(0.1),
        keras.layers.Dropout(0.2), keras.layers.AlphaDropout(0.1), keras.layers.SpectralNormalization(keras.layers.Dense(4)),
        keras.layers.Dense(1),
    ])  # fmt: skip


def recurrent(stateful: bool = False) -> Any:
    return keras.Sequential([
        keras.Input((3,), batch_size=8), keras.layers.Reshape((3, 1)), keras.layers.LSTM(3, dropout=0.1, stateful=stateful),
        keras.layers.Dense(1),
    ])  # fmt: skip


def augmenting() -> Any:
    return keras.Sequential([
        keras.Input((3,)), keras.layers.Dense(12), keras.layers.Reshape((2, 2, 3)), keras.layers.RandomFlip(),
        keras.layers.RandomRotation(0.1), keras.layers.RandomContrast(0.1), keras.layers.Flatten(), keras.layers.Dense(1),
    ])  # fmt: skip


def keras_noise(model, x):
    return keras.random.shuffle(x + keras.random.normal(keras.ops.shape(x)), seed=model.seeds)


def stateless_noise(_model, x):
    return x + tf.random.stateless_normal(tf.shape(x), (1, 2))


def shared_generator(_model, x):
    return x + tf.random.get_global_generator().normal(tf.shape(x))


def reading(model, x):
    return tf.cond(model.scale > 0.0, lambda: x * model.scale, lambda: x)


def tracked_metric(model, x):
    model.aside.update_state(x)
    return x


def second_optimizer(model, x):
    with tf.GradientTape() as tape:
        loss = tf.reduce_sum(model.dense(x) ** 2)
    gradients = tape.gradient(loss, model.dense.trainable_variables)
    model.other.apply_gradients(zip(gradients, model.dense.trainable_variables, strict=True))
    return x


def lora() -> Any:
    model = layers()
    model.layers[0].enable_lora(2)
    return model


NESTED = [lambda: keras.Sequential([keras.Input((3,)), layers(), keras.layers.Dense(1)])]

SAVED = {
    "layers": (layers, {}),
    "compiled": (layers, {"jit_compile": True}),
    "several-steps": (layers, {"steps_per_execution": 3}),
    "recurrent": (recurrent, {}),
    "augmenting": (augmenting, {}),
    "nested": (NESTED[0], {}),
    "lora": (lora, {}),
    "ema": (layers, {"optimizer": keras.optimizers.AdamW(use_ema=True, ema_overwrite_frequency=2)}),
    "accumulating": (layers, {"optimizer": keras.optimizers.SGD(momentum=0.9, gradient_accumulation_steps=2)}),
    "schedule": (layers, {"optimizer": keras.optimizers.Lion(keras.optimizers.schedules.CosineDecay(0.1, 10))}),
    "loss-scale": (layers, {"optimizer": keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())}),
    "weighted": (layers, {"weighted_metrics": ["mse", keras.metrics.R2Score()]}),
    "keras-noise": (lambda: Stepping(keras_noise, seeds=keras.random.SeedGenerator(1)), {}),
    "stateless-noise": (lambda: Stepping(stateless_noise), {}),
    "global-generator": (lambda: Stepping(shared_generator), {}),
    "add-weight": (lambda: Stepping(counting, count=keras.Variable(0.0, trainable=False)), {}),
    "only-read": (lambda: Stepping(reading, scale=tf.Variable(2.0)), {}),
    "metric": (lambda: Stepping(tracked_metric, aside=keras.metrics.Mean(name="aside")), {}),
    "two-optimizers": (lambda: Stepping(second_optimizer, other=keras.optimizers.Adam()), {}),
    "eager": (lambda: Stepping(noisy), {"run_eagerly": True}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("name", SAVED)
def test_a_training_function_that_is_saved_whole_raises_no_alarm(name):
    """Keras' own layers, optimizers and metrics in many forms, and custom steps that keep their state where Keras knows it."""
    make, compiled = SAVED[name]
    model = built(make(), **compiled)
    assert training_findings(model, batches()) == []
    assert (training_graph(model, batches().element_spec) is None) == model.run_eagerly  # there was a graph to look at


def test_the_states_of_a_recurrent_layer_are_saved_or_named():
    """Keras does not count the states of a stateful layer among a model's variables; the audit knows whether checkpoints do."""
    model = built(recurrent(stateful=True))
    saved = any("rnn_state" in name for named in variables_of(model).values() for name in named)
    assert ("rnn_state" in said(training_findings(model, batches()))) != saved


def mirrored() -> Any:
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        return built(Stepping(counting, count=tf.Variable(0.0, name="steps")))


@pytest.mark.filterwarnings("ignore")
def test_under_a_strategy_only_what_is_not_saved_is_named():
    """All variables there have other handles than their own, one for each replica."""
    model = mirrored()
    findings = training_findings(model, batches())
    assert len(findings) == 1 and "variable model.count (steps)" in said(findings)
    traced = len(model.traces)
    model.fit(batches(), shuffle=False, verbose=0)
    assert len(model.traces) == traced


def test_a_variable_that_a_callback_holds_is_saved_with_it():
    """A callback's plain attributes are saved, and a variable is one."""

    class Counter(keras.callbacks.Callback):
        def __init__(self):
            super().__init__()
            self.count = tf.Variable(0.0)

    counter = Counter()
    model = built(Stepping(lambda _model, x: x + 0.0 * counter.count.assign_add(1.0)))
    assert len(training_findings(model, batches())) == 1
    assert training_findings(model, batches(), [counter]) == []


def lazily_built() -> Any:
    def besides(model, x):
        return x + 0.1 * model.extra(x) + random.random()

    return Stepping(besides, extra=keras.layers.Dense(3, trainable=False))


WAYS = {
    "plain": (lambda: Stepping(noisy), {}),
    "several-steps": (lambda: Stepping(noisy), {"steps_per_execution": 2}),
    "xla": (Stepping, {"jit_compile": True}),
    "variables-made-in-train-step": (lazily_built, {}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_the_audit_costs_no_trace_and_changes_no_bit(way):
    """`fit` finds the function traced, and ends with the bits, and the random generators, of a fit without an audit."""
    make, compiled = WAYS[way]
    ends = []
    for audited in (False, True):
        keras.utils.set_random_seed(1)
        model = built(make(), **compiled)
        model.traces.clear()
        if audited:
            training_findings(model, batches())
        traced = len(model.traces)
        history = model.fit(batches(), epochs=2, verbose=0)
        assert len(model.traces) - traced == 0 or not audited
        values = [variable.numpy().tobytes() for variable in (*model.variables, *model.optimizer.variables)]
        ends.append((len(model.traces), values, history.history, random.random(), np.random.random(), float(tf.random.uniform(()))))
    assert ends[0] == ends[1]


def test_a_python_iterator_finds_the_step_traced():
    """`fit` hands some inputs to the training function batch by batch; the step inside is the one that the audit traced."""
    model = built(Stepping())
    training_findings(model, batches())
    traced = len(model.traces)
    for batch in batches():
        model.train_function(iter([batch]))
    assert len(model.traces) == traced


def test_a_train_step_that_fails_is_left_to_fit():
    """The audit is no place to report an error of the program: fit raises it in the batch where it happens."""

    def failing(_model, _x):
        raise ZeroDivisionError("mine")

    model = built(Stepping(failing))
    assert training_findings(model, batches()) == []
    assert model.train_function is None
    with pytest.raises(ZeroDivisionError, match="mine"):
        model.fit(batches(), shuffle=False, verbose=0)


# -- callbacks ------------------------------------------------------------------------------------------------------------------------


class Holding(keras.callbacks.Callback):
    """A callback with one attribute."""

    def __init__(self, value):
        super().__init__()
        self.value = value


class Reassigning(Holding):
    def on_epoch_end(self, epoch, logs=None):
        self.value = (self.value, epoch)[0]


class ItemByItem(Holding):
    def on_epoch_end(self, epoch, logs=None):
        self.value[0] = str(epoch)


class Tracker:
    def __init__(self):
        self.count = 0


class Schedule:
    def __init__(self):
        self.count = 0

    def __call__(self):
        self.count += 1
        return self.count


class Constant:
    def __init__(self, value=1):
        self.value = value

    def __call__(self):
        return self.value


@dataclasses.dataclass
class Record:
    best: float = 0.0


@dataclasses.dataclass(frozen=True)
class Fixed:
    best: float = 0.0


class Phase(enum.Enum):
    WARM_UP = 1
    REST = 2


class Own(Holding):
    def get_state(self):
        return {}

    def set_state(self, state):
        pass


Point = collections.namedtuple("Point", "x y")

OPAQUE = {
    "object": (lambda: Holding(Tracker()), "test_audit.Tracker"),
    "nothing-known": (lambda: Holding(object()), "a object"),
    "dataclass": (lambda: Holding(Record()), "test_audit.Record"),
    "in-a-list": (lambda: Holding([1, {"a": Record()}]), "with a test_audit.Record in it"),
    "namespace": (lambda: Holding(types.SimpleNamespace(best=0)), "types.SimpleNamespace"),
    "defaultdict": (lambda: Holding(collections.defaultdict(lambda: 0)), "collections.defaultdict"),
    "stateful-function": (lambda: Holding(Schedule()), "test_audit.Schedule"),
    "reassigned-enum": (lambda: Reassigning(Phase.WARM_UP), "test_audit.Phase"),
    "filled-text-array": (lambda: ItemByItem(np.array(["a", "b"])), "numpy.ndarray"),
    "inner-callback": (lambda: Holding(keras.callbacks.EarlyStopping()), "EarlyStopping"),
    "iterator": (lambda: Holding(itertools.count()), "itertools.count"),
    "generator": (lambda: Holding(i for i in range(3)), "a generator"),
    "tf-iterator": (lambda: Holding(iter(numbers())), "OwnedIterator"),
    "tf-generator": (lambda: Holding(tf.random.Generator.from_seed(1)), "Generator"),
    "seed-generator": (lambda: Holding(keras.random.SeedGenerator(1)), "SeedGenerator"),
}


@pytest.mark.parametrize("name", OPAQUE)
def test_an_opaque_attribute_is_named_with_its_remedy(name):
    """What a checkpoint leaves out and what may be state: the finding says attribute, callback and type."""
    make, word = OPAQUE[name]
    findings = callback_findings([make()])
    assert len(findings) == 1
    assert "attribute 'value' of the callback " in said(findings) and word in said(findings)
    assert "get_state() and set_state(state)" in said(findings) or "numpy.random.Generator" in said(findings)


class Board(keras.callbacks.TensorBoard):
    """A subclass inherits attributes that are Keras' own matter."""

    def __init__(self, directory):
        super().__init__(directory)
        self.seen = 0


class Table(keras.callbacks.CSVLogger):
    """Sets what Keras' own code sets in its turn."""

    def __init__(self, filename):
        super().__init__(filename)
        self.writer = Tracker()


class Stopping(keras.callbacks.EarlyStopping):
    def on_epoch_end(self, epoch, logs=None):
        super().on_epoch_end(epoch, logs)
        self.epochs = [*getattr(self, "epochs", []), epoch]


def of_keras(directory: Path) -> list[Any]:
    callbacks = keras.callbacks
    return [
        callbacks.EarlyStopping(monitor="loss"), callbacks.ReduceLROnPlateau(monitor="loss"), callbacks.CSVLogger(str(directory / "a.csv")),
        callbacks.ModelCheckpoint(str(directory / "m.keras")), callbacks.TerminateOnNaN(),
        callbacks.LambdaCallback(on_epoch_end=lambda epoch, logs: None), callbacks.LearningRateScheduler(lambda epoch, rate: rate),
        callbacks.BackupAndRestore(str(directory / "backup")),
    ]  # fmt: skip


PLAIN = {
    "numbers": lambda: [1, 2.0, "text", None, np.zeros(3), {"a": (1, [2])}, Path("a")],
    "random": lambda: [random.Random(1), np.random.default_rng(1)],
    "function": lambda: len,
    "lambda": lambda: {"schedule": lambda x: x, "rate": 0.1},
    "class": lambda: Tracker,
    "constant-function": Constant,
    "bound-method": lambda: Tracker().__init__,
    "module": lambda: np,
    "logger": lambda: logging.getLogger("a"),
    "lock": threading.Lock,
    "event": threading.Event,
    "thread": lambda: threading.Thread(target=print),
    "queue": queue.Queue,
    "file": tempfile.TemporaryFile,
    "directory": tempfile.TemporaryDirectory,
    "arguments": lambda: argparse.Namespace(rate=0.1),
    "frozen": Fixed,
    "named-tuple": lambda: Point(1, 2),
    "enum": lambda: Phase.REST,
    "text-array": lambda: np.array(["cat", "dog"]),
    "model": lambda: keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)]),
    "models": lambda: [keras.Sequential(), keras.Sequential()],
    "loss": keras.losses.MeanSquaredError,
    "metric": keras.metrics.Mean,
    "optimizer": keras.optimizers.Adam,
    "schedule": lambda: keras.optimizers.schedules.CosineDecay(0.1, 10),
    "tensor": lambda: tf.zeros(2),
    "variable": lambda: tf.Variable(1.0),
    "dataset": numbers,
    "tf-function": lambda: tf.function(lambda x: x),
}


@pytest.mark.parametrize("name", PLAIN)
def test_an_attribute_that_is_plain_or_no_state_raises_no_alarm(name, recwarn):
    """Everything that an ordinary callback holds besides its numbers."""
    assert callback_findings([Holding(PLAIN[name]())]) == []


def test_callbacks_of_keras_and_those_that_save_themselves_raise_no_alarm(tmp_path):
    """Before and after a fit in which they set themselves up."""
    callbacks = [*of_keras(tmp_path), Stopping(monitor="loss"), Own(Tracker())]
    assert callback_findings([*callbacks, Board(str(tmp_path)), Table(str(tmp_path / "b.csv"))]) == []
    model = built(layers())
    model.fit(batches(), callbacks=callbacks, shuffle=False, verbose=0)
    assert callback_findings(callbacks) == []
    assert callback_findings(None) == []


def test_a_callback_of_the_list_that_another_one_refers_to_is_saved_itself():
    """A reference to another callback of the same fit is no state of its own."""
    stopping = keras.callbacks.EarlyStopping()
    assert callback_findings([stopping, Holding(stopping)]) == []
    assert len(callback_findings(keras.callbacks.CallbackList([Holding(stopping)]))) == 1


def test_a_finding_is_one_sentence():
    """What, why and what to do, in this order."""
    assert str(Finding("shuffle without a seed", "it differs", "pass a seed")) == "shuffle without a seed: it differs; pass a seed."
