"""Generators, Grain and PyTorch's loaders: what is read from front to back.

Keras takes no iterator but generators of Python's own type, so there is no program with an iterator that has `get_state`.
"""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from typing import Any

import numpy as np

from chaos.programs.models import BATCH, SAMPLES, STEPS, WHOLE, WIDTH, regression, samples
from chaos.programs.registry import ALL, TENSORFLOW, TORCH, program


def batch_of(rows: Any, count: int = SAMPLES) -> tuple[dict[str, Any], Any]:
    """The samples of these rows as a batch."""
    x, y = samples(count)
    return {name: value[rows] for name, value in x.items()}, y[rows]


@program(ALL)
def generator_infinite(run: Any) -> None:
    """An infinite generator with `steps_per_epoch`, and an order of its own."""

    def batches() -> Iterator[Any]:
        chance = np.random.default_rng(5)
        while True:
            yield batch_of(chance.choice(SAMPLES, BATCH, replace=False))

    model, tap = regression()
    run.fit(model, batches(), tap=tap, steps_per_epoch=STEPS)


@program(transparent=False)  # at the unknown end Keras itself begins a batch that is none, and counts it
def generator_one_epoch(run: Any) -> None:
    """A finite generator: one epoch of unknown length."""
    model, tap = regression()
    run.fit(model, (batch_of(np.arange(first, first + BATCH) % SAMPLES) for first in range(0, 400, BATCH)), tap=tap, epochs=1)


@program()
def generator_finite_steps(run: Any) -> None:
    """A finite generator that is just long enough for all epochs."""
    model, tap = regression()
    batches = (batch_of((np.arange(BATCH) + 5 * index) % SAMPLES) for index in range(4 * STEPS))
    run.fit(model, batches, tap=tap, steps_per_epoch=STEPS)


@program(races=("generators: numpy",))
def generator_numpy_random(run: Any) -> None:
    """A generator that draws from NumPy's global generator."""

    def batches() -> Iterator[Any]:
        while True:
            yield batch_of(np.random.choice(SAMPLES, BATCH, replace=False))

    model, tap = regression()
    run.fit(model, batches(), tap=tap, steps_per_epoch=STEPS, draws=False)


def _rows() -> list[dict[str, Any]]:
    x, y = samples()
    return [{"x": x["x"][index], "ids": x["ids"][index], "y": y[index]} for index in range(SAMPLES)]


def _pair(batch: Any) -> Any:
    return {"x": batch["x"], "ids": batch["ids"]}, batch["y"]


@program(ALL, needs=("grain",), transparent=False)  # its length is unknown to Keras, as above
def grain_map_dataset(run: Any) -> None:
    """Grain: a `MapDataset`, shuffled and batched."""
    grain: Any = import_module("grain")

    model, tap = regression()
    run.fit(model, grain.MapDataset.source(_rows()).seed(3).shuffle().batch(BATCH).map(_pair), tap=tap)


@program(ALL, needs=("grain",), transparent=False)  # its length is unknown to Keras, as above
def grain_iter_dataset(run: Any) -> None:
    """Grain: an `IterDataset` from a shuffled `MapDataset`, batched."""
    grain: Any = import_module("grain")

    model, tap = regression()
    run.fit(model, grain.MapDataset.source(_rows()).seed(3).shuffle().to_iter_dataset().batch(BATCH).map(_pair), tap=tap)


@program(TENSORFLOW, needs=("grain",))
def grain_iter_repeat(run: Any) -> None:
    """Grain: shuffled, `repeat()`, random augmentation, with `steps_per_epoch`."""
    grain: Any = import_module("grain")

    class Noise(grain.transforms.RandomMap):
        def random_map(self, element: Any, rng: Any) -> Any:
            return {**element, "x": element["x"] + rng.normal(scale=0.1, size=WIDTH).astype("float32")}

    data = grain.MapDataset.source(_rows()).seed(3).shuffle().repeat().random_map(Noise()).to_iter_dataset().batch(BATCH).map(_pair)
    model, tap = regression()
    run.fit(model, data, tap=tap, steps_per_epoch=STEPS)


@program(TENSORFLOW, needs=("grain",))
def grain_iter_filter(run: Any) -> None:
    """Grain: an `IterDataset` of unknown length (`filter`) with `steps_per_epoch`."""
    grain: Any = import_module("grain")

    rows = grain.MapDataset.source(_rows()).seed(3).shuffle().repeat().to_iter_dataset()
    data = rows.filter(lambda row: row["ids"] % 5 != 0).batch(BATCH).map(_pair)
    model, tap = regression()
    run.fit(model, data, tap=tap, steps_per_epoch=STEPS)


def _loader(epochs: int | None) -> Any:
    grain: Any = import_module("grain")

    class Pair(grain.transforms.Map):
        def map(self, element: Any) -> Any:
            return _pair(element)

    sampler = grain.samplers.IndexSampler(SAMPLES, shuffle=True, seed=3, num_epochs=epochs, shard_options=grain.sharding.NoSharding())
    steps = [grain.transforms.Batch(BATCH), Pair()]
    return grain.DataLoader(data_source=_rows(), sampler=sampler, operations=steps, worker_count=0)


@program(TENSORFLOW, needs=("grain",), transparent=False)  # as above
def grain_loader(run: Any) -> None:
    """Grain: a `DataLoader` of one pass, `worker_count=0`."""
    model, tap = regression()
    run.fit(model, _loader(1), tap=tap)


@program(TENSORFLOW, needs=("grain",))
def grain_loader_steps(run: Any) -> None:
    """Grain: an endless `DataLoader`, `worker_count=0`, with `steps_per_epoch`."""
    model, tap = regression()
    run.fit(model, _loader(None), tap=tap, steps_per_epoch=STEPS)


def _torch_rows(count: int = SAMPLES) -> Any:
    torch: Any = import_module("torch")

    x, y = samples(count)

    class Rows(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return count

        def __getitem__(self, index: int) -> Any:
            return {"x": x["x"][index], "ids": x["ids"][index]}, y[index]

    return Rows()


@program((*TENSORFLOW, *TORCH), needs=("torch",))
def torch_loader_shuffle(run: Any) -> None:
    """PyTorch: a `DataLoader` that shuffles with a generator of its own."""
    torch: Any = import_module("torch")

    generator = torch.Generator()
    generator.manual_seed(3)
    loader = torch.utils.data.DataLoader(_torch_rows(), batch_size=BATCH, shuffle=True, generator=generator)
    model, tap = regression()
    run.fit(model, loader, tap=tap)


@program((*TENSORFLOW, *TORCH), needs=("torch",))
def torch_loader_in_order(run: Any) -> None:
    """PyTorch: a `DataLoader` in order."""
    torch: Any = import_module("torch")

    model, tap = regression()
    run.fit(model, torch.utils.data.DataLoader(_torch_rows(WHOLE), batch_size=BATCH), tap=tap)


@program(TORCH, needs=("torch",))
def torch_loader_global(run: Any) -> None:
    """PyTorch: a `DataLoader` that shuffles with PyTorch's global generator."""
    torch: Any = import_module("torch")

    torch.manual_seed(4)
    model, tap = regression()
    run.fit(model, torch.utils.data.DataLoader(_torch_rows(), batch_size=BATCH, shuffle=True), tap=tap)


@program((*TENSORFLOW, *TORCH), needs=("torchdata",))
def torch_stateful_loader(run: Any) -> None:
    """torchdata: a `StatefulDataLoader` that shuffles."""
    torch: Any = import_module("torch")
    loaders: Any = import_module("torchdata.stateful_dataloader")

    generator = torch.Generator()
    generator.manual_seed(3)
    model, tap = regression()
    run.fit(model, loaders.StatefulDataLoader(_torch_rows(), batch_size=BATCH, shuffle=True, generator=generator), tap=tap)
