"""Sees the checkpoints of a training while they are there: most are removed before the end, and the end says nothing of when."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import xxhash

from resilient.errors import ResilientError
from resilient.manifest import Progress
from resilient.store import Checkpoint, Store

_SMALL = 1 << 26  # bytes: bigger checkpoints are looked at where an epoch ends only, so that our own work does not slow down the training
_PROMISED = ("model.safetensors", "optimizer.safetensors")


@dataclasses.dataclass(frozen=True)
class Sighting:
    """One checkpoint, as a checksum for each tensor (`file:tensor`) of model and optimizer."""

    progress: Progress
    digests: Mapping[str, str]


class Witness:
    """Remembers what was seen, by run directory and step; of a step that was trained twice, the last."""

    def __init__(self) -> None:
        self.seen: dict[Path, dict[int, Sighting]] = {}
        self._last: tuple[Path, int] | None = None

    def look(self, directory: Path, committed: int | None) -> None:
        """A checkpoint of step `committed` is the newest in `directory`."""
        if committed is None or self._last == (directory, committed):
            return
        self._last = (directory, committed)
        store = Store(directory)
        with contextlib.suppress(ResilientError):  # removed by now, or damaged by us
            manifest = next((found for found in store.manifests() if found.progress.step == committed), None)
            if manifest is None or (manifest.nbytes > _SMALL and manifest.progress.batch != 0):
                return
            checkpoint = store.load(committed)
            self.seen.setdefault(directory, {})[committed] = Sighting(checkpoint.manifest.progress, digests(checkpoint))
            checkpoint.release()


def digests(checkpoint: Checkpoint) -> dict[str, str]:
    """A checksum of each tensor of model and optimizer: dtype, shape and bits."""
    found = {}
    for file in _PROMISED:
        for name, tensor in checkpoint.tensors.get(file, {}).items():
            digest = xxhash.xxh3_128(f"{tensor.dtype}{tensor.shape}".encode())
            digest.update(np.ascontiguousarray(tensor).reshape(-1).view(np.uint8).data)
            found[f"{file.removesuffix('.safetensors')}:{name}"] = digest.hexdigest()
    return found
