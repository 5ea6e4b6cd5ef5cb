"""Python objects that hand out batches one after the other, and how each finds a position again.

A source knows nothing of epochs: it begins passes, is pulled from, tells its state before the next pull, and goes to a state.
"""

from __future__ import annotations

import abc
import itertools
import json
import re
from collections.abc import Iterator, Mapping
from typing import Any

import keras
import numpy as np

from resilient import keras_private
from resilient.data import order, randomness
from resilient.data.fingerprint import Chain
from resilient.data.objects import Fingerprint, ObjectState
from resilient.data.progress import Replay

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
PEEKED = 2  # batches from which Keras learns shapes


class Source(abc.ABC):
    """One kind of Python input.

    Attributes:
        kind: what it is called.
        positioning: see Input.
        is_used_up: see Input.
    """

    kind: str
    positioning = "iterator"
    is_used_up = False

    @property
    def length(self) -> int | None:
        """Batches in a pass where that is known in advance."""
        return None

    @abc.abstractmethod
    def settings(self) -> dict[str, Any]:
        """See Input."""

    def doubts(self, *, draws: bool) -> list[tuple[str, str, str]]:
        """See Input; `draws`: fetching a batch draws from the process' generators."""
        return []

    @abc.abstractmethod
    def peek(self) -> list[Any]:
        """The first batches, at most two, from which shapes are learned."""

    def before_training(self) -> None:  # noqa: B027
        """A fresh run begins."""

    def begin_epoch(self) -> None:  # noqa: B027
        """An epoch begins."""

    def end_epoch(self) -> None:  # noqa: B027
        """An epoch has ended."""

    @abc.abstractmethod
    def begin(self, pass_index: int, seed: int) -> None:
        """Start a pass from its first batch."""

    @abc.abstractmethod
    def pull(self) -> Any:
        """The next batch; StopIteration at the end of the pass."""

    @abc.abstractmethod
    def state(self) -> Any:
        """Plain data: where the next pull begins."""

    def between(self) -> Any:
        """Plain data that changes between epochs only."""
        return None

    @abc.abstractmethod
    def go_to(self, pass_index: int, seed: int, batch: int, state: Any, between: Any, *, over: bool) -> str | None:
        """Go back to a state, `batch` batches into a pass; `over`: that was its end. A sentence if the data is not what it was."""

    def close(self) -> None:  # noqa: B027
        """Let go of threads, processes and iterators."""


class PyDatasetSource(Source):
    """`keras.utils.PyDataset`: batches by index, fetched by Keras' own workers.

    Args:
        dataset: the caller's.
        class_weight, shuffle: as in Model.fit.
        fingerprint: see ObjectState.
    """

    kind = "PyDataset"
    positioning = "seek"

    def __init__(self, dataset: Any, *, class_weight: Any, shuffle: bool, fingerprint: Fingerprint) -> None:
        self._dataset = dataset
        self._class_weight = class_weight
        self._shuffle = shuffle
        self._object = ObjectState(dataset, fingerprint)
        self._in_order = dataset.workers <= 1 and not (dataset.workers > 0 and dataset.use_multiprocessing)
        self._batches: Iterator[Any] = iter(())
        self._workers: Any = None

    @property
    def length(self) -> int | None:
        """See Source."""
        return self._dataset.num_batches  # type: ignore[no-any-return]

    def doubts(self, *, draws: bool) -> list[tuple[str, str, str]]:
        """See Source."""
        name = type(self._dataset).__name__
        found = [
            (
                f"attribute {attribute!r} of the PyDataset {name}",
                "it is not plain data, so it is not saved",
                "define get_state() and set_state(state), or keep what changes in numbers, arrays and numpy.random.Generator",
            )
            for attribute in self._object.opaque
        ]
        if draws and not self._in_order:
            why = "its workers draw from the process' random generators, in an order that is left to chance"
            found.append((f"the PyDataset {name}", why, "draw from a generator seeded with the index of the batch, or use workers=1"))
        return found

    def settings(self) -> dict[str, Any]:
        """See Input."""
        return {"data": "keras.utils.PyDataset", "num_batches": self.length, "shuffle": self._shuffle and self.length is not None}

    def peek(self) -> list[Any]:
        """See Source."""
        adapter = keras_private.PyDatasetAdapter(_View(self._dataset, None, 0), class_weight=self._class_weight)
        known = PEEKED if self.length is None else min(PEEKED, self.length)
        return [adapter._standardize_batch(self._dataset[index]) for index in range(known)]

    def before_training(self) -> None:
        """See Source. Keras calls the hook once before the first epoch."""
        self._dataset.on_epoch_end()
        self._object.boundary()

    def begin_epoch(self) -> None:
        """See Source."""
        self._dataset.on_epoch_begin()
        self._object.boundary()

    def end_epoch(self) -> None:
        """See Source."""
        self._dataset.on_epoch_end()
        self._object.boundary()

    def begin(self, pass_index: int, seed: int) -> None:
        """See Source."""
        self._start(pass_index, seed, 0)

    def _start(self, pass_index: int, seed: int, first: int) -> None:
        self.close()
        indices = None
        if self.length is not None:
            whole = order.permutation(seed, pass_index, self.length) if self._shuffle else np.arange(self.length)
            indices = whole[first:]
        self._batches = self._fetch(_View(self._dataset, indices, first))

    def _fetch(self, view: Any) -> Iterator[Any]:
        if view.num_batches == 0:
            return
        adapter = keras_private.PyDatasetAdapter(view, class_weight=self._class_weight, shuffle=False)
        self._workers = adapter.enqueuer
        yield from adapter._get_iterator()

    def pull(self) -> Any:
        """See Source."""
        return next(self._batches)

    def state(self) -> Any:
        """See Source."""
        # Workers fetch ahead: what they leave on the object belongs to no position, so it is looked at between epochs only.
        return self._object.small() if self._in_order or self._object.has_own else {}

    def between(self) -> Any:
        """See Source."""
        return {"large": self._object.large(), "small": {} if self._in_order else self._object.small()}

    def go_to(self, pass_index: int, seed: int, batch: int, state: Any, between: Any, *, over: bool) -> str | None:
        """See Source."""
        self._object.restore(state or between["small"], between["large"])
        if not over:
            self._start(pass_index, seed, batch)
        return None

    def close(self) -> None:
        """See Source."""
        workers, self._workers = self._workers, None
        if workers is not None:
            workers.stop()


class _View(keras.utils.PyDataset):
    """The batches of another PyDataset that are still to come, in our order."""

    def __init__(self, dataset: Any, indices: Any, first: int) -> None:
        super().__init__(workers=dataset.workers, use_multiprocessing=dataset.use_multiprocessing, max_queue_size=dataset.max_queue_size)
        self._dataset = dataset
        self._indices = indices
        self._first = first

    @property
    def num_batches(self) -> int | None:
        """Those that are left."""
        return None if self._indices is None else len(self._indices)

    def __getitem__(self, index: int) -> Any:
        return self._dataset[self._first + index if self._indices is None else int(self._indices[index])]


class IteratorSource(Source):
    """A Python generator, or any other iterator; with `get_state`/`set_state` it is positioned by them.

    As in Keras, the batches that were peeked at come first in every pass.
    """

    kind = "generator"
    is_used_up = True

    def __init__(self, iterator: Any) -> None:
        self._iterator = iterator
        self._has_own = callable(getattr(iterator, "get_state", None)) and callable(getattr(iterator, "set_state", None))
        self.positioning = "iterator" if self._has_own else "replay"
        self._peeked: list[Any] = []
        self._waiting: list[Any] = []
        self._pulled = 0
        self._chain = Chain()

    def settings(self) -> dict[str, Any]:
        """See Input."""
        return {"data": "generator"}

    def peek(self) -> list[Any]:
        """See Source."""
        if not self._peeked:
            self._peeked = list(itertools.islice(self._each(), PEEKED))
        return self._peeked

    def _each(self) -> Iterator[Any]:
        while True:
            try:
                yield self._take()
            except StopIteration:
                return

    def _take(self) -> Any:
        batch = next(self._iterator)
        self._pulled += 1
        if not self._has_own:
            self._chain.add(batch)
        return batch

    def doubts(self, *, draws: bool) -> list[tuple[str, str, str]]:
        """See Source."""
        if self._has_own:
            return []
        why = (
            "its place can be neither read nor set, so a resumed run reads it again from its start, and is exact only if it gives the same"
        )
        return [("the generator passed as data", why, "give it get_state() and set_state(state), or pass a keras.utils.PyDataset")]

    def begin(self, pass_index: int, seed: int) -> None:
        """See Source."""
        self._waiting = list(self._peeked)

    def pull(self) -> Any:
        """See Source."""
        return self._waiting.pop(0) if self._waiting else self._take()

    def state(self) -> Any:
        """See Source."""
        if self._has_own:
            return {"waiting": len(self._waiting), "own": self._iterator.get_state()}
        return {"waiting": len(self._waiting), "pulled": self._pulled, "digest": self._chain.hexdigest()}

    def go_to(self, pass_index: int, seed: int, batch: int, state: Any, between: Any, *, over: bool) -> str | None:
        """See Source."""
        waiting = int(state["waiting"])
        self._waiting = self._peeked[len(self._peeked) - waiting :] if waiting else []
        if self._has_own:
            self._iterator.set_state(state["own"])
            return None
        try:
            with Replay(int(state["pulled"]) - self._pulled, self.kind) as replay:
                for _ in replay:
                    self._take()
        except StopIteration:
            return f"The generator ended after {self._pulled} batches, and the run has taken {state['pulled']} from it."
        if self._chain.hexdigest() != state["digest"]:
            return "The generator did not give the batches again that the run has trained. Make it depend on nothing but its own seed."
        return None


class GrainSource(Source):
    """Grain's DataLoader, IterDataset and MapDataset, by the state of their iterators."""

    kind = "Grain"

    def __init__(self, dataset: Any) -> None:
        self._dataset = dataset
        self._iterator: Any = None

    def settings(self) -> dict[str, Any]:
        """See Input."""
        return {"data": f"grain.{type(self._dataset).__name__}" if type(self._dataset).__module__.startswith("grain") else "grain"}

    def peek(self) -> list[Any]:
        """See Source."""
        return list(itertools.islice(iter(self._dataset), PEEKED))

    def begin(self, pass_index: int, seed: int) -> None:
        """See Source."""
        self._iterator = iter(self._dataset)

    def pull(self) -> Any:
        """See Source."""
        return next(self._iterator)

    def state(self) -> Any:
        """See Source."""
        return None if self._iterator is None else self._iterator.get_state()

    def go_to(self, pass_index: int, seed: int, batch: int, state: Any, between: Any, *, over: bool) -> str | None:
        """See Source."""
        self._iterator = iter(self._dataset)
        if not over:
            self._iterator.set_state(_renamed(state, self._iterator.get_state()))
        return None


def _renamed(state: Any, own: Any) -> Any:
    """A DataLoader's saved state with this process' names for its parts.

    Grain compares the `repr` of data source and sampler, which for a class without one of its own is an address.
    """
    if not isinstance(state, bytes):
        return state
    saved, mine = json.loads(state), json.loads(own)
    for part in ("data_source", "sampler"):
        if part in saved and _ADDRESS.sub("", str(saved[part])) == _ADDRESS.sub("", str(mine.get(part))):
            saved[part] = mine[part]
    return json.dumps(saved, indent=4).encode()


class DataLoaderSource(Source):
    """PyTorch's DataLoader: torchdata's stateful one by its state, any other by replaying the pass with the generators it began with."""

    kind = "DataLoader"

    def __init__(self, loader: Any) -> None:
        self._loader = loader
        self._has_own = callable(getattr(loader, "state_dict", None)) and callable(getattr(loader, "load_state_dict", None))
        self.positioning = "iterator" if self._has_own else "replay"
        self._iterator: Any = None
        self._origin: Any = None
        self._given = 0
        self._chain = Chain()

    @property
    def length(self) -> int | None:
        """See Source."""
        return len(self._loader) if hasattr(self._loader.dataset, "__len__") else None

    def settings(self) -> dict[str, Any]:
        """See Input."""
        return {"data": "torch.utils.data.DataLoader", "num_batches": self.length, "batch_size": self._loader.batch_size}

    def peek(self) -> list[Any]:
        """See Source."""
        return [_as_arrays(batch) for batch in itertools.islice(self._loader, PEEKED)]

    def begin(self, pass_index: int, seed: int) -> None:
        """See Source."""
        self._origin = {"process": randomness.capture(), "own": self._generators()}
        self._given, self._chain = 0, Chain()
        self._iterator = iter(self._loader)

    def pull(self) -> Any:
        """See Source."""
        batch = _as_arrays(next(self._iterator))
        self._given += 1
        if not self._has_own:
            self._chain.add(batch)
        return batch

    def state(self) -> Any:
        """See Source."""
        if self._has_own:
            return {"own": self._loader.state_dict(), "generators": self._generators()}
        return {"given": self._given, "digest": self._chain.hexdigest(), "generators": self._generators(), "origin": self._origin}

    def go_to(self, pass_index: int, seed: int, batch: int, state: Any, between: Any, *, over: bool) -> str | None:
        """See Source."""
        problem = None
        if self._has_own and not over:
            self._loader.load_state_dict(_to_torch(state["own"]))
            self._iterator = iter(self._loader)
        elif not over:
            self._origin = state["origin"]
            randomness.restore(self._origin["process"])
            self._set_generators(self._origin["own"])
            self._given, self._chain = 0, Chain()
            self._iterator = iter(self._loader)
            with Replay(int(state["given"]), self.kind) as replay:
                for _ in replay:
                    self.pull()
            if self._chain.hexdigest() != state["digest"]:
                problem = "The DataLoader did not give the batches again that the run has trained. Give it a seeded generator."
        self._set_generators(state["generators"])
        return problem

    def _owners(self) -> list[Any]:
        """The distinct generators that the loader and its samplers own."""
        found: list[Any] = []
        samplers = [self._loader.sampler, self._loader.batch_sampler, getattr(self._loader.batch_sampler, "sampler", None)]
        for holder in [self._loader, *samplers]:
            generator = getattr(holder, "generator", None)
            if generator is not None and not any(generator is other for other in found):
                found.append(generator)
        return found

    def _generators(self) -> list[Any]:
        return [generator.get_state().numpy().copy() for generator in self._owners()]

    def _set_generators(self, states: Any) -> None:
        import torch

        for generator, state in zip(self._owners(), states, strict=False):
            generator.set_state(torch.from_numpy(np.array(state)))


def _as_arrays(batch: Any) -> Any:
    """As Keras hands a DataLoader's batches to the other backends: a tuple of arrays."""
    if keras.backend.backend() == "torch":
        return batch
    arrays = keras.tree.map_structure(lambda value: np.asarray(value.cpu()), batch, none_is_leaf=False)
    return tuple(arrays) if isinstance(arrays, list) else arrays


def _to_torch(state: Any) -> Any:
    """Arrays of a decoded state as the tensors they were (generator states)."""
    import torch

    if isinstance(state, Mapping):
        return {key: _to_torch(value) for key, value in state.items()}
    if isinstance(state, (list, tuple)):
        return type(state)(_to_torch(value) for value in state)
    return torch.from_numpy(np.array(state)) if isinstance(state, np.ndarray) else state
