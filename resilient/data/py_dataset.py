"""`keras.utils.PyDataset` as a source: batches by index, in our order, fetched by Keras' own workers."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import keras
import numpy as np

from resilient import keras_private
from resilient.data import order
from resilient.data.objects import Fingerprint, ObjectState
from resilient.data.sources import PEEKED, Source


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
