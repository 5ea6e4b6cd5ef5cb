"""Python objects that hand out batches one after the other, and how each finds a position again.

A source knows nothing of epochs: it begins passes, is pulled from, tells its state before the next pull, and goes to a state.
"""

from __future__ import annotations

import abc
import contextlib
import itertools
import json
import re
import weakref
from collections.abc import Iterator
from typing import Any

from resilient.data.fingerprint import Chain
from resilient.data.progress import Replay
from resilient.errors import ConfigurationError

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_used_iterators: weakref.WeakSet[Any] = weakref.WeakSet()
PEEKED = 2  # batches from which Keras learns shapes


class Source(abc.ABC):
    """One kind of Python input.

    Attributes:
        kind: what it is called.
        positioning: see Input.
        is_used_up: see Input.
        draws_itself: whether beginning a pass draws from PyTorch's generator, as Keras' loaders do.
    """

    kind: str
    positioning = "iterator"
    is_used_up = False
    draws_itself = False

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
        self._was_used = any(iterator is other for other in _used_iterators)

    def settings(self) -> dict[str, Any]:
        """See Input."""
        return {"data": "generator"}

    def peek(self) -> list[Any]:
        """See Source."""
        if not self._peeked:
            self._peeked = list(itertools.islice(self._each(), PEEKED))
        if self._peeked and not isinstance(self._peeked[0], (tuple, list)):
            raise ConfigurationError(
                f"The generator yields a {type(self._peeked[0]).__name__}. "
                "Yield tuples: (inputs,), (inputs, targets) or (inputs, targets, sample_weights)."
            )
        return self._peeked

    def _each(self) -> Iterator[Any]:
        while True:
            try:
                yield self._take()
            except StopIteration:
                return

    def _take(self) -> Any:
        batch = next(self._iterator)
        if not self._pulled:
            with contextlib.suppress(TypeError):  # no weak references: then it is not noticed
                _used_iterators.add(self._iterator)
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
        if self._was_used:
            raise ConfigurationError(
                "The generator was read by an earlier fit of this process, and cannot be read again from its start. "
                "Make a new one for each call."
            )
        try:
            with Replay(int(state["pulled"]) - self._pulled, self.kind) as replay:
                for _ in replay:
                    self._take()
        except StopIteration:
            return f"The generator ended after {self._pulled} batches, and the run has taken {state['pulled']} from it."
        if self._chain.hexdigest() != state["digest"]:
            return (
                "The generator did not give the batches again that the run has trained. "
                "Give the run its data back, and let the generator depend on nothing but its own seed."
            )
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
