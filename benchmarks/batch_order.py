"""Batches a second of our array pipeline against Keras' own, over the same data, with nothing being trained.

    python -m benchmarks.batch_order

The two take turns in one process, so that a busy machine slows both down; the first turn of each (tracing, allocation) is not counted.
"""

from __future__ import annotations

import argparse
import statistics
import time

import numpy as np
from keras.src.trainers.data_adapters.array_data_adapter import ArrayDataAdapter

from resilient.data import ArrayInput, EpochPlan

SHAPES = {"vectors of 64": (60_000, (64,)), "images of 32x32x3": (20_000, (32, 32, 3))}


def ours(x, y, batch_size):
    """A function that makes the dataset of one epoch, in our order."""
    data = ArrayInput(x, y, None, batch_size=batch_size, steps_per_epoch=None, shuffle=True, class_weight=None)
    data.open(EpochPlan(data.num_batches, None, 1, 0), seed=1)
    dataset = data.get_tf_dataset()

    def epoch(number):
        data.seek(number, 0)
        return dataset

    return epoch


def keras_own(x, y, batch_size):
    """The same from Keras' adapter, as Model.fit makes it."""
    dataset = ArrayDataAdapter(x, y, batch_size=batch_size, shuffle=True).get_tf_dataset()
    return lambda _: dataset


def seconds(dataset):
    """Time to draw all of its batches, and their number."""
    start = time.perf_counter()
    count = sum(1 for _ in dataset)
    return time.perf_counter() - start, count


def compare(name, samples, shape, batch_size, rounds):
    """One line of the table: median and spread of both, and the median of the ratios of neighbours."""
    x = np.random.default_rng(0).random((samples, *shape), dtype=np.float32)
    y = np.zeros(samples, np.int64)
    sources = {"ours": ours(x, y, batch_size), "keras": keras_own(x, y, batch_size)}
    rates = {source: [] for source in sources}
    for number in range(rounds + 1):
        turn = list(sources) if number % 2 else list(reversed(sources))
        for source in turn:
            elapsed, count = seconds(sources[source](number))
            if number:
                rates[source].append(count / elapsed)
    ratio = statistics.median(a / b for a, b in zip(rates["ours"], rates["keras"], strict=True))
    spread = {source: f"{statistics.median(r):9.0f} ({min(r):.0f} to {max(r):.0f})" for source, r in rates.items()}
    print(f"{name:20} batch {batch_size:4}   ours {spread['ours']:28} keras {spread['keras']:28} ours/keras {ratio:.2f}", flush=True)


def main():
    """Print the table."""
    parser = argparse.ArgumentParser(description="Batches a second: our array pipeline against Keras' own.")
    parser.add_argument("--rounds", type=int, default=41)  # with 9 the ratio moved by 20 %
    args = parser.parse_args()
    print(f"batches a second, median of {args.rounds} rounds (least to most)")
    for name, (samples, shape) in SHAPES.items():
        for batch_size in (32, 256):
            compare(name, samples, shape, batch_size, args.rounds)


if __name__ == "__main__":
    main()
