"""The process' random generators as a fetch of data sees them. Reading them and putting them back is the affair of `state`."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np

Snapshot = Mapping[str, Any]  # "state": plain data, "arrays": name -> array


class Generators(Protocol):
    """All generators of the process together."""

    def snapshot(self) -> Snapshot:
        """Their present states."""

    def restore(self, snapshot: Snapshot) -> None:
        """Put them back."""


def drawn_from(before: Snapshot, after: Snapshot) -> set[str]:
    """Which generators have been drawn from between two snapshots: "python", "numpy", "keras", "op" (TensorFlow's eager operations) ..."""
    one, other = before["arrays"], after["arrays"]
    names = {name for name in one.keys() | other.keys() if not np.array_equal(one.get(name, ()), other.get(name, ()))}
    names |= {name for name, state in after["state"].items() if state != before["state"].get(name)}
    return {name.rpartition("/")[2] for name in names}
