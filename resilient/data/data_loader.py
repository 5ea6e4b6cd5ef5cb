"""PyTorch's DataLoader as a source."""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from typing import Any

import keras
import numpy as np

from resilient.data.fingerprint import Chain
from resilient.data.progress import Replay
from resilient.data.randomness import Generators
from resilient.data.sources import PEEKED, Source


class DataLoaderSource(Source):
    """PyTorch's DataLoader: torchdata's stateful one by its state, any other by replaying the pass with the generators it began with."""

    kind = "DataLoader"
    draws_itself = True

    def __init__(self, loader: Any, generators: Generators) -> None:
        self._loader = loader
        self._process = generators
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
        self._origin = {"process": self._process.snapshot(), "own": self._generators()}
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
            self._process.restore(self._origin["process"])
            self._set_generators(self._origin["own"])
            self._given, self._chain = 0, Chain()
            self._iterator = iter(self._loader)
            with Replay(int(state["given"]), self.kind) as replay:
                for _ in replay:
                    self.pull()
            if self._chain.hexdigest() != state["digest"]:
                problem = (
                    "The DataLoader did not give the batches again that the run has trained. "
                    "Give the run its data back, and seed what the loader's workers draw."
                )
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
