"""How long finding a place in an epoch takes, at batch 1 and at batch 100,000: for indexable inputs and for tf.data with states of its own.

Each time is that of a fresh input, from the saved position to the first batch in hand; the best of five, as a ratio.
"""

from __future__ import annotations

import time

import keras
import numpy as np
import tensorflow as tf

from resilient.data import EpochPlan
from resilient.data.choice import Use, choose
from resilient.state import plain, rng

FAR = 100_000
SIZE = 8
X = np.zeros(((FAR + 10) * SIZE, 4), np.float32)


class Batches(keras.utils.PyDataset):
    def __len__(self):
        return FAR + 10

    def __getitem__(self, index):
        return (X[index * SIZE : index * SIZE + SIZE],)


def pipeline():
    return tf.data.Dataset.from_tensor_slices(X).map(lambda x: x + 1, num_parallel_calls=2).shuffle(1000, seed=1).batch(SIZE).prefetch(2)


KINDS = {"arrays, shuffled": lambda: X, "PyDataset, shuffled": Batches, "tf.data, shuffled": pipeline}


def fresh(make):
    use = Use(
        SIZE, shuffle=True, class_weight=None, steps=None, validates=False, steps_per_execution=1, strategy=None,
        fingerprint=plain.fingerprint, generators=rng,
    )  # fmt: skip
    data = choose(make(), None, None, use)
    data.learn()
    data.open(EpochPlan(FAR + 10, None, 1, 0), 7)
    return data


def first_batch(data):
    source = data.present() if hasattr(data, "present") else iter(data.get_tf_dataset())
    return next(iter(source))


def position_after(make, batches):
    """A saved position, got by going there."""
    data = fresh(make)
    data.seek(0, 0)
    pulls = data.present if hasattr(data, "present") else getattr(data, "_batches", None)
    if pulls is not None:
        for number, _ in zip(range(batches), pulls(), strict=False):
            data.trained(number + 1)
    time.sleep(0.5)  # a state is written down only when some time has passed since the last
    return data.position()


def seconds(make, batches, position):
    data = fresh(make)
    began = time.perf_counter()
    data.restore(position)
    data.seek(0, batches)
    first_batch(data)
    return time.perf_counter() - began


def main():
    print(f"{'input':<22}{'batch 1':>12}{f'batch {FAR:,}':>16}{'ratio':>8}")
    for name, make in KINDS.items():
        best = []
        for batches in (1, FAR):
            position = position_after(make, batches)
            best.append(min(seconds(make, batches, position) for _ in range(5)))
        print(f"{name:<22}{best[0] * 1e3:>9.1f} ms{best[1] * 1e3:>13.1f} ms{best[1] / best[0]:>8.2f}", flush=True)


if __name__ == "__main__":
    main()
