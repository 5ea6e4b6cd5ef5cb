"""What a `tf.data` pipeline with state of its own has given so far: how much of it has to be read again, and whether it comes out alike."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from resilient.data.fingerprint import Chain

_REMEMBERED = 16  # batches before the last one whose checksums are kept: training may lag behind by what is fetched ahead


class Past:
    """The passes that are over, and a running checksum of the present one.

    A Python function or a random operation in a pipeline may begin every pass alike, or go on where it was. Two whole passes with the same
    batches show that it begins alike; until then, and where they differ, a resumed run reads everything again.
    """

    def __init__(self) -> None:
        self._passes: list[int] = []
        self._first: str | None = None
        self._same: bool | None = None
        self._chain = Chain()
        self._given = 0
        self._digests: dict[int, str] = {}

    @property
    def alike(self) -> bool:
        """Whether the passes are known to be alike."""
        return self._same is True

    def add(self, batch: Any) -> None:
        """One more batch of the present pass."""
        self._chain.add(batch)
        self._given += 1
        self._digests[self._given] = self._chain.hexdigest()
        self._digests.pop(self._given - _REMEMBERED, None)

    def end_pass(self, count: int) -> None:
        """The present pass is over after `count` batches."""
        if count and self._given == count:  # else it was not read: the passes are known to be alike
            digest = self._chain.hexdigest()
            if self._first is not None:
                self._same = self._same is not False and digest == self._first
            self._first = self._first or digest
        self._passes.append(count)
        self._chain, self._given, self._digests = Chain(), 0, {}

    def position(self, consumed: int) -> dict[str, Any]:
        """Plain data for `restore`."""
        return {"digest": self._digests.get(consumed), "first_digest": self._first, "same": self._same, "passes": list(self._passes)}

    def restore(self, position: Mapping[str, Any]) -> list[int]:
        """Begin as of a position; the lengths of the passes before it that have to be read again."""
        passes = [int(count) for count in position["passes"]]
        if position["same"] is True:
            self._passes, self._first, self._same = passes, position["first_digest"], True
            return []
        return passes

    def agrees(self, position: Mapping[str, Any], consumed: int) -> bool:
        """Whether what was read again is what the position was saved after; True where nothing was."""
        return position["digest"] is None or self._given != consumed or self._digests.get(consumed) == position["digest"]
