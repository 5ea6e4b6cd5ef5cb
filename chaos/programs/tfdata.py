"""`tf.data` pipelines."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np
from keras import layers

from chaos.programs.models import BATCH, SAMPLES, STEPS, WHOLE, WIDTH, regression, samples, tapped
from chaos.programs.registry import ALL, TENSORFLOW, program


def elements(count: int = SAMPLES) -> Any:
    """Dataset of single samples."""
    import tensorflow as tf

    return tf.data.Dataset.from_tensor_slices(samples(count))


@program(ALL)
def tfdata_in_order(run: Any) -> None:
    """Finite, in order, whole batches."""
    model, tap = regression()
    run.fit(model, elements(WHOLE).batch(BATCH), tap=tap)


@program()
def tfdata_partial_batch(run: Any) -> None:
    """Finite, in order, a partial last batch."""
    model, tap = regression()
    run.fit(model, elements().batch(BATCH), tap=tap)


@program(ALL)
def tfdata_shuffle(run: Any) -> None:
    """`shuffle(seed)` that reshuffles each epoch, batch, prefetch."""
    model, tap = regression()
    run.fit(model, elements().shuffle(SAMPLES, seed=3).batch(BATCH).prefetch(2), tap=tap)


@program()
def tfdata_shuffle_once(run: Any) -> None:
    """`shuffle(seed, reshuffle_each_iteration=False)` with a buffer smaller than the data."""
    model, tap = regression()
    run.fit(model, elements().shuffle(40, seed=3, reshuffle_each_iteration=False).batch(BATCH), tap=tap)


@program()
def tfdata_shuffle_global_seed(run: Any) -> None:
    """`shuffle` without a seed of its own, under the global seed."""
    model, tap = regression()
    run.fit(model, elements().shuffle(SAMPLES).batch(BATCH).prefetch(2), tap=tap)


@program()
def tfdata_infinite(run: Any) -> None:
    """`shuffle(seed)` before `repeat`: infinite, with `steps_per_epoch` that divides no pass."""
    model, tap = regression()
    run.fit(model, elements().shuffle(SAMPLES, seed=3).repeat().batch(BATCH), tap=tap, steps_per_epoch=14)


@program()
def tfdata_finite_steps(run: Any) -> None:
    """A finite pipeline with `steps_per_epoch`: epochs are parts of it."""
    model, tap = regression()
    run.fit(model, elements(WHOLE * 4).shuffle(200, seed=3).batch(BATCH), tap=tap, steps_per_epoch=STEPS)


@program()
def tfdata_repeat_twice(run: Any) -> None:
    """`shuffle(seed)`, `repeat(2)`: two passes in an epoch."""
    model, tap = regression()
    run.fit(model, elements(60).shuffle(60, seed=3).repeat(2).batch(BATCH), tap=tap)


@program(transparent=False)  # at the unknown end Keras itself begins a batch that is none, and counts it
def tfdata_filter(run: Any) -> None:
    """Unknown cardinality: `filter`."""
    model, tap = regression()
    kept = elements(160).filter(lambda x, _: x["ids"] % 5 != 0)
    run.fit(model, kept.shuffle(100, seed=3).batch(BATCH), tap=tap)


@program()
def tfdata_filter_steps(run: Any) -> None:
    """Unknown cardinality with `steps_per_epoch`."""
    model, tap = regression()
    kept = elements(160).filter(lambda x, _: x["ids"] % 5 != 0)
    run.fit(model, kept.repeat().batch(BATCH), tap=tap, steps_per_epoch=STEPS)


@program(transparent=False)  # at the unknown end Keras itself begins a batch that is none, and counts it
def tfdata_from_generator(run: Any) -> None:
    """Unknown cardinality: `from_generator`."""
    import tensorflow as tf

    x, y = samples()

    def rows() -> Iterator[Any]:
        for index in range(SAMPLES):
            yield {"x": x["x"][index], "ids": x["ids"][index]}, y[index]

    signature = ({"x": tf.TensorSpec((WIDTH,), tf.float32), "ids": tf.TensorSpec((), tf.int32)}, tf.TensorSpec((1,), tf.float32))
    model, tap = regression()
    run.fit(model, tf.data.Dataset.from_generator(rows, output_signature=signature).batch(BATCH).prefetch(2), tap=tap)


@program(transparent=False)  # at the unknown end Keras itself begins a batch that is none, and counts it
def tfdata_interleave(run: Any) -> None:
    """Deterministic `interleave` and `map` in parallel."""
    import tensorflow as tf

    x, y = samples()

    def shard(start: Any) -> Any:
        rows = tf.range(start, SAMPLES, 4)
        return tf.data.Dataset.from_tensor_slices(rows)

    def look_up(index: Any) -> Any:
        return {name: tf.gather(value, index) for name, value in x.items()}, tf.gather(y, index)

    files = tf.data.Dataset.range(4, output_type=tf.int32).shuffle(4, seed=5)
    mixed = files.interleave(shard, cycle_length=3, block_length=2, num_parallel_calls=2, deterministic=True)
    model, tap = regression()
    run.fit(model, mixed.map(look_up, num_parallel_calls=tf.data.AUTOTUNE).batch(BATCH).prefetch(tf.data.AUTOTUNE), tap=tap)


@program()
def tfdata_cache(run: Any) -> None:
    """`cache` in memory, then `shuffle(seed)`."""
    model, tap = regression()
    run.fit(model, elements().cache().shuffle(SAMPLES, seed=3).batch(BATCH), tap=tap)


@program()
def tfdata_big_buffer(run: Any) -> None:
    """A shuffle buffer of 20,000 elements."""
    import tensorflow as tf

    x, y = samples()

    def look_up(index: Any) -> Any:
        row = index % SAMPLES
        return {"x": tf.gather(x["x"], row), "ids": tf.cast(index, tf.int32)}, tf.gather(y, row)

    model, tap = regression()
    data = tf.data.Dataset.range(25_000).shuffle(20_000, seed=3).map(look_up).repeat().batch(BATCH)
    run.fit(model, data, tap=tap, steps_per_epoch=STEPS)


@program()
def tfdata_stateful_noise(run: Any) -> None:
    """A seeded stateful random op in a `map`."""
    import tensorflow as tf

    def noisy(x: Any, y: Any) -> Any:
        return {**x, "x": x["x"] + tf.random.normal((WIDTH,), stddev=0.1, seed=5)}, y

    model, tap = regression()
    run.fit(model, elements().shuffle(SAMPLES, seed=3).map(noisy).batch(BATCH), tap=tap)


@program()
def tfdata_stateless_noise(run: Any) -> None:
    """Stateless augmentation in a parallel `map`, with seeds from `Dataset.random`."""
    import tensorflow as tf

    def noisy(sample: Any, seed: Any) -> Any:
        x, y = sample
        return {**x, "x": x["x"] + tf.random.stateless_normal((WIDTH,), tf.stack([seed, 0]), stddev=0.1)}, y

    seeds = tf.data.Dataset.random(seed=5)
    noise = tf.data.Dataset.zip(elements().shuffle(SAMPLES, seed=3), seeds).map(noisy, num_parallel_calls=2)
    model, tap = regression()
    run.fit(model, noise.batch(BATCH).prefetch(2), tap=tap)


@program()
def tfdata_weights(run: Any) -> None:
    """(x, y, sample_weight) batches."""
    model, tap = regression()
    run.fit(model, elements().map(lambda x, y: (x, y, 1.0 + y[0] ** 2)).batch(BATCH), tap=tap)


@program()
def tfdata_sampled_mix(run: Any) -> None:
    """`sample_from_datasets` of two pipelines, seeded."""
    import tensorflow as tf

    first, second = elements(70).shuffle(70, seed=1).repeat(), elements(200).skip(70).shuffle(50, seed=2).repeat()
    mixed = tf.data.Dataset.sample_from_datasets([first, second], [0.3, 0.7], seed=9)
    model, tap = regression()
    run.fit(model, mixed.batch(BATCH), tap=tap, steps_per_epoch=STEPS)


@program(TENSORFLOW)
def tfdata_ragged(run: Any) -> None:
    """Ragged tensors: sequences of unequal length."""
    import tensorflow as tf

    lengths = np.arange(SAMPLES) % 5 + 1
    tokens = tf.RaggedTensor.from_row_lengths(np.arange(lengths.sum(), dtype="int32") % 50, lengths)
    _, y = samples()
    data = tf.data.Dataset.from_tensor_slices(({"tokens": tokens, "ids": np.arange(SAMPLES, dtype="int32")}, y))
    tap = tapped()
    words, ids = keras.Input((None,), dtype="int32", name="tokens", ragged=True), keras.Input((), dtype="int32", name="ids")
    hidden = layers.Lambda(lambda ragged: ragged.to_tensor(shape=(None, 5)), output_shape=(5,))(words)
    hidden = layers.Flatten()(layers.Embedding(50, 4)(hidden))
    model = keras.Model({"tokens": words, "ids": ids}, layers.Dense(1)(tap(hidden, ids)))
    model.compile("adam", "mse")
    run.fit(model, data.shuffle(SAMPLES, seed=3).ragged_batch(BATCH), tap=tap)
