"""`Model.fit` over a `tf.data` pipeline and a PyDataset, fed by us and by Keras' own adapters, and what an iterator's state costs.

    python -m benchmarks.dataset_fit

The model is as small as can be, so that the input is what is measured. The two take turns; the first turn of each is not counted.
"""

from __future__ import annotations

import statistics
import time

import keras
import numpy as np
import tensorflow as tf

from resilient import keras_private
from resilient.data import EpochPlan
from resilient.data.choice import Use, choose
from resilient.state import plain, rng

SAMPLES, FEATURES, BATCH, ROUNDS = 16_000, 64, 32, 12
X = np.random.default_rng(0).random((SAMPLES, FEATURES), dtype=np.float32)
Y = np.zeros((SAMPLES, 1), np.float32)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return SAMPLES // BATCH

    def __getitem__(self, index):
        return X[index * BATCH : index * BATCH + BATCH], Y[index * BATCH : index * BATCH + BATCH]


def pipeline():
    return tf.data.Dataset.from_tensor_slices((X, Y)).batch(BATCH).prefetch(2)


def compare(name, make):
    """One line: median milliseconds a step of each, and the median of the ratios of neighbours."""
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    use = Use(
        None, shuffle=False, class_weight=None, steps=None, validates=False, steps_per_execution=1, strategy=None,
        fingerprint=plain.fingerprint, generators=rng,
    )  # fmt: skip
    data, theirs = choose(make(), None, None, use), make()
    data.learn()
    data.open(EpochPlan(data.length, None, 1, 0), seed=1)
    data.announce(data.length)

    def ours(number):
        data.seek(number, 0)
        model.fit(data, verbose=0)
        data.trained(data.length)
        data.end_epoch()

    epochs = {"ours": ours, "keras": lambda _number: model.fit(theirs, shuffle=False, verbose=0)}
    spent = {source: [] for source in epochs}
    for number in range(ROUNDS + 1):
        for source in sorted(epochs, reverse=number % 2 == 0):
            start = time.perf_counter()
            epochs[source](number)
            if number:
                spent[source].append((time.perf_counter() - start) / data.length * 1e3)
    ratio = statistics.median(a / b for a, b in zip(spent["ours"], spent["keras"], strict=True))
    medians = "   ".join(f"{source} {statistics.median(times):.3f} ms a step" for source, times in spent.items())
    print(f"{name:<12} {medians}   ours/keras {ratio:.2f}", flush=True)


def states():
    """Seconds for the state of an iterator whose shuffle buffer is full, by its size."""
    for elements in (0, 5_000, 50_000):
        dataset = tf.data.Dataset.range(10**6).map(lambda x: tf.fill((28, 28), tf.cast(x, tf.float32)))
        dataset = (dataset.shuffle(elements, seed=1) if elements else dataset).batch(32).prefetch(2)
        iterator = iter(dataset)
        next(iterator)
        start = time.perf_counter()
        state = keras_private.iterator_state(iterator)
        print(f"state of an iterator, {elements:>6} elements buffered   {time.perf_counter() - start:.4f} s   {len(state) / 1e6:.1f} MB")


def main():
    """Print the table."""
    compare("tf.data", pipeline)
    compare("PyDataset", Batches)
    states()


if __name__ == "__main__":
    main()
