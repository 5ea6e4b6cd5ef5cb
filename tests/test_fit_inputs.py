"""Every kind of input, stopped anywhere and resumed each time, ends with the bits of a run that was never stopped."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

import resilient
from tests.exactness import disturb, run_until_done
from tests.test_fit_exact import VALIDATION, X, Y, built, small

STOPS = [
    ("on_train_batch_end", 3),
    ("on_train_batch_end", 2),  # a second time in the same epoch
    ("on_test_batch_end", 1),
    ("on_train_batch_end", 10),  # the last batch of an epoch of ten
    ("on_epoch_end", 1),
]


def slices() -> Any:
    return tf.data.Dataset.from_tensor_slices((X, Y))


def in_order() -> Any:
    return slices().batch(8)


def shuffled() -> Any:
    return slices().shuffle(32, seed=3).batch(8).prefetch(2)


def shuffled_by_the_global_seed() -> Any:
    return slices().shuffle(75).batch(8).prefetch(tf.data.AUTOTUNE)


def endless() -> Any:
    return slices().shuffle(75, seed=3).repeat().batch(8).prefetch(2)


def filtered() -> Any:
    return slices().shuffle(75, seed=5).filter(lambda x, y: y > 0).batch(5)


def from_a_function() -> Any:
    def rows() -> Iterator[Any]:
        yield from zip(X, Y, strict=True)

    signature = (tf.TensorSpec((6,), tf.float32), tf.TensorSpec((), tf.int64))
    return tf.data.Dataset.from_generator(rows, output_signature=signature).batch(8)


def from_a_function_that_shuffles() -> Any:
    rng = np.random.default_rng(4)

    def rows() -> Iterator[Any]:
        for index in rng.permutation(len(X)):
            yield X[index], Y[index]

    signature = (tf.TensorSpec((6,), tf.float32), tf.TensorSpec((), tf.int64))
    return tf.data.Dataset.from_generator(rows, output_signature=signature).batch(8)


def interleaved() -> Any:
    parts = tf.data.Dataset.range(5).interleave(
        lambda part: slices().shard(5, part).map(lambda x, y: (x * 2.0, y), num_parallel_calls=2), cycle_length=3, num_parallel_calls=2
    )
    return parts.cache().shuffle(20, seed=1).batch(8).prefetch(1)


class Pairs(keras.utils.PyDataset):  # type: ignore[misc]
    """Batches of 8 by index."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.rng = np.random.default_rng(6)
        self.indices = np.arange(len(X))

    def __len__(self) -> int:
        return 10

    def __getitem__(self, index: int) -> Any:
        rows = self.indices[index * 8 : index * 8 + 8]
        return X[rows], Y[rows]


class Reshuffled(Pairs):
    """In another order each epoch, from a generator of its own."""

    def on_epoch_end(self) -> None:
        self.rng.shuffle(self.indices)


class WithState(Reshuffled):
    """Tells its state itself."""

    def get_state(self) -> Any:
        return {"indices": self.indices.copy(), "rng": self.rng}

    def set_state(self, state: Any) -> None:
        self.indices, self.rng = state["indices"], state["rng"]


class Noisy(Pairs):
    """Draws from its own and from NumPy's generator for each batch."""

    def __getitem__(self, index: int) -> Any:
        x, y = super().__getitem__(index)
        noise = np.random.normal(size=x.shape) + self.rng.normal(size=x.shape)
        return x + noise.astype("float32"), y


def batches(count: int | None = None) -> Iterator[Any]:
    done = 0
    while count is None or done < count:
        rows = [(done * 8 + offset) % len(X) for offset in range(8)]
        yield X[rows], Y[rows]
        done += 1


def noisy_batches() -> Iterator[Any]:
    for x, y in batches():
        yield x + np.random.normal(size=x.shape).astype("float32"), y


class Counting:
    """An iterator that tells its state."""

    def __init__(self) -> None:
        self.at = 0

    def __iter__(self) -> Counting:
        return self

    def __next__(self) -> Any:
        rows = [(self.at * 8 + offset) % len(X) for offset in range(8)]
        self.at += 1
        return X[rows], Y[rows]

    def get_state(self) -> Any:
        return {"at": self.at}

    def set_state(self, state: Any) -> None:
        self.at = state["at"]


class Rows:
    """A random-access source for Grain and PyTorch."""

    def __len__(self) -> int:
        return len(X)

    def __getitem__(self, index: int) -> Any:
        return X[index], Y[index]


def grain_in_batches() -> Any:
    import grain

    return grain.MapDataset.source(Rows()).seed(3).shuffle().batch(8).to_iter_dataset()


def grain_endless() -> Any:
    import grain

    return grain.MapDataset.source(Rows()).seed(3).shuffle().repeat().batch(8).to_iter_dataset()


def grain_loader() -> Any:
    import grain

    sampler = grain.samplers.IndexSampler(num_records=len(X), shuffle=True, seed=2, num_epochs=1)
    return grain.DataLoader(data_source=Rows(), sampler=sampler, operations=[grain.transforms.Batch(8)], worker_count=0)


def torch_loader() -> Any:
    import torch

    generator = torch.Generator()
    generator.manual_seed(5)
    return torch.utils.data.DataLoader(Rows(), batch_size=8, shuffle=True, generator=generator)


def torch_loader_from_the_global_generator() -> Any:
    import torch

    torch.manual_seed(5)
    return torch.utils.data.DataLoader(Rows(), batch_size=8, shuffle=True)


def torch_stateful() -> Any:
    from torchdata.stateful_dataloader import StatefulDataLoader

    return StatefulDataLoader(Rows(), batch_size=8, shuffle=False)


def program(
    make: Callable[[], Any], build: Callable[[], Any] = small, *, validation: Callable[[], Any] = lambda: VALIDATION, **arguments: Any
) -> Any:
    def run(directory: Path, extra: Sequence[Any]) -> tuple[Any, Any]:
        keras.utils.set_random_seed(7)
        x, validation_data = make(), validation()
        model = build()
        chosen = {"epochs": 3, "verbose": 0, "monitor": "loss", "shuffle": False, **arguments}
        history = resilient.fit(
            model, x, **chosen, validation_data=validation_data, callbacks=extra, directory=directory, on_preempt="return", grace="60s"
        )
        return model, history

    return run


def loop() -> Any:
    return small(steps_per_execution=4)


STEPS = {"steps_per_epoch": 7}
# With the wide model once for each kind of input, with the small one else.
PROGRAMS = {
    "dataset in order": program(in_order),
    "dataset shuffled": program(shuffled, built),
    "dataset shuffled by the global seed": program(shuffled_by_the_global_seed),
    "dataset without end": program(endless, **STEPS),
    "dataset of unknown length": program(filtered),
    "dataset of unknown length, steps": program(filtered, **STEPS),
    "dataset from a function": program(from_a_function),
    "dataset from a function that shuffles": program(from_a_function_that_shuffles),
    "dataset interleaved and cached": program(interleaved),
    "dataset with fewer steps": program(shuffled, steps_per_epoch=4, epochs=7),
    "dataset, several steps per execution": program(shuffled, loop),
    "dataset without end, several steps per execution": program(endless, loop, **STEPS),
    "dataset of unknown length, several steps per execution": program(filtered, loop),
    "dataset with class weights": program(in_order, class_weight={0: 1.0, 1: 2.0, 2: 0.5}),
    "dataset, eager": program(shuffled, lambda: small(run_eagerly=True), epochs=3),
    "PyDataset": program(Pairs, built),
    "PyDataset shuffled by fit": program(Pairs, shuffle=True),
    "PyDataset, threads": program(lambda: Pairs(workers=3)),
    "PyDataset, processes": program(lambda: Pairs(workers=2, use_multiprocessing=True), epochs=3),
    "PyDataset that reshuffles": program(Reshuffled),
    "PyDataset that reshuffles, threads": program(lambda: Reshuffled(workers=2)),
    "PyDataset with get_state": program(WithState),
    "PyDataset that draws for each batch": program(Noisy),
    "PyDataset, fewer steps": program(Pairs, steps_per_epoch=4, epochs=6),
    "PyDataset, several steps per execution": program(Pairs, loop),
    "generator": program(batches, built, **STEPS),
    "generator of one epoch": program(lambda: batches(20), epochs=1),
    "generator that draws from NumPy's generator": program(noisy_batches, **STEPS),
    "iterator with get_state": program(Counting, **STEPS),
    "generator, several steps per execution": program(batches, loop, **STEPS),
    "validation by a dataset": program(shuffled, validation=lambda: slices().shuffle(75, seed=9).batch(16)),
    "validation by a dataset of unknown length": program(in_order, validation=filtered),
    "validation by a PyDataset": program(in_order, validation=Pairs),
    "validation by a generator": program(in_order, validation=batches, validation_steps=3),
    "validation by a part of a dataset": program(in_order, validation=shuffled, validation_steps=2),
    "validation in some epochs": program(in_order, validation=shuffled, validation_freq=[1, 3]),
}
NEEDS = {
    "grain": {
        "Grain": program(grain_in_batches),
        "Grain without end": program(grain_endless, **STEPS),
        "Grain DataLoader": program(grain_loader),
        "validation by Grain": program(in_order, validation=grain_in_batches),
    },
    "torch": {
        "DataLoader": program(torch_loader),
        "DataLoader from the global generator": program(torch_loader_from_the_global_generator),
    },
    "torchdata": {"stateful DataLoader": program(torch_stateful)},
}
PROGRAMS |= {name: one for programs in NEEDS.values() for name, one in programs.items()}


def programs() -> Iterator[Any]:
    """All of them; those whose package is missing are skipped, and say so."""
    package_of = {name: package for package, needing in NEEDS.items() for name in needing}
    for name in PROGRAMS:
        package = package_of.get(name)
        missing = package is not None and importlib.util.find_spec(package) is None
        yield pytest.param(name, marks=pytest.mark.skipif(missing, reason=f"{package} is not installed"))


@pytest.mark.filterwarnings("ignore:If this training is interrupted")  # a generator: nobody knows what it gives the second time
@pytest.mark.parametrize("name", list(programs()))
def test_a_run_stopped_many_times_ends_with_the_bits_of_an_undisturbed_one(name: str, tmp_path: Path) -> None:
    """Stops in training, twice in one epoch, in validation, after an epoch's last batch and at its end."""
    undisturbed, none = run_until_done(PROGRAMS[name], tmp_path / "undisturbed", [])
    stopped, stops = run_until_done(PROGRAMS[name], tmp_path / "stopped", STOPS)
    assert none == 0 and stops >= 2
    assert stopped == undisturbed


IN_FIXED_ORDER: dict[str, tuple[Callable[[], Any], dict[str, Any]]] = {
    "dataset in order": (in_order, {}),
    "dataset shuffled": (shuffled, {}),
    "dataset without end": (endless, STEPS),
    "dataset with fewer steps": (shuffled, {"steps_per_epoch": 4, "epochs": 7}),
    "PyDataset": (Pairs, {}),
    "PyDataset that reshuffles": (Reshuffled, {}),
    "PyDataset, threads": (lambda: Pairs(workers=3), {}),
    "generator": (batches, STEPS),
}


@pytest.mark.filterwarnings("ignore:Your input ran out of data", "ignore:If this training is interrupted")
@pytest.mark.parametrize("name", IN_FIXED_ORDER)
def test_an_uninterrupted_run_gives_what_model_fit_gives(name: str, tmp_path: Path) -> None:
    """Transparency: variables and History have the same bits as with plain `fit`."""
    make, arguments = IN_FIXED_ORDER[name]
    ends = []
    for fit in (keras.Model.fit, resilient.fit):
        keras.utils.set_random_seed(5)
        x, validation_data = make(), slices().shuffle(75, seed=2).batch(16)
        model = (built if name == "dataset in order" else small)()
        own = {} if fit is keras.Model.fit else {"directory": tmp_path / "run"}
        history = fit(model, x, **{"epochs": 3, "verbose": 0, "shuffle": False, "validation_data": validation_data, **arguments, **own})
        ends.append(([v.numpy().tobytes() for v in [*model.variables, *model.optimizer.variables]], history.history, history.epoch))
        disturb()
    assert ends[0] == ends[1]
