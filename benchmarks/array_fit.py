"""Seconds of `Model.fit` over arrays, fed by our pipeline and by Keras' own: what the order of the data costs a training.

    python -m benchmarks.array_fit

The model is as small as can be, so that the input is what is measured. The two take turns; the first turn of each is not counted.
"""

from __future__ import annotations

import statistics
import time

import keras
import numpy as np

from resilient.data import ArrayInput, EpochPlan

SAMPLES, FEATURES, ROUNDS = 60_000, 64, 16


def compare(batch_size):
    """One line: median seconds of an epoch of each, and the median of the ratios of neighbours."""
    x = np.random.default_rng(0).random((SAMPLES, FEATURES), dtype=np.float32)
    y = np.zeros((SAMPLES, 1), np.float32)
    model = keras.Sequential([keras.Input((FEATURES,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    data = ArrayInput(x, y, None, batch_size=batch_size, steps_per_epoch=None, shuffle=True, class_weight=None)
    data.open(EpochPlan(data.num_batches, None, 1, 0), seed=1)
    epochs = {"ours": lambda: model.fit(data, verbose=0), "keras": lambda: model.fit(x, y, batch_size=batch_size, verbose=0)}
    spent = {source: [] for source in epochs}
    for number in range(ROUNDS + 1):
        data.seek(number, 0)
        for source in sorted(epochs, reverse=number % 2 == 0):
            start = time.perf_counter()
            epochs[source]()
            if number:
                spent[source].append(time.perf_counter() - start)
    ratio = statistics.median(a / b for a, b in zip(spent["ours"], spent["keras"], strict=True))
    medians = "   ".join(f"{source} {statistics.median(times):.3f} s" for source, times in spent.items())
    print(f"one epoch of {SAMPLES} samples, batch {batch_size:4}   {medians}   ours/keras {ratio:.2f}", flush=True)


def main():
    """Print the table."""
    for batch_size in (32, 256):
        compare(batch_size)


if __name__ == "__main__":
    main()
