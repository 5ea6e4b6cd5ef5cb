"""The most memory a training needs while it saves in a loop, beyond the same training without saving.

    python -m benchmarks.memory [--quick]

Each in a process of its own, which reads its high-water mark (VmHWM) at the end. The bar: the state of the model, which training needs
anyway, one snapshot as large, and 64 MB.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.child import Child
from benchmarks.tables import Bar, Table, digits, megabytes

_MARGIN = 64e6


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of the state, and who is measured; each saves every `every` steps."""

    megabytes: float
    batch: int
    steps: int
    every: int
    methods: tuple[str, ...]


_PEERS = ("BackupAndRestore", "ModelCheckpoint .keras", "OrbaxCheckpoint", "tf.train.CheckpointManager")
SCALES = {
    "full": Scale(400, 64, 16, 2, ("nothing", "resilient", *_PEERS)),
    "quick": Scale(100, 64, 12, 2, ("nothing", "resilient", "BackupAndRestore")),
    "toy": Scale(0.1, 8, 4, 1, ("nothing", "resilient")),
}


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """One process after the other."""
    here = [name for name in scale.methods if name != peers.Orbax.name or not peers.absent()]
    found = {name: _peak(scale, name, directory / str(number)) for number, name in enumerate(here)}
    rows = [{"method": name, "peak": peak, "more": peak - found["nothing"][0]} for name, (peak, _) in found.items()]
    return {"state": found["nothing"][1], "methods": rows, "skipped": peers.missing()}


def _peak(scale: Scale, method: str, directory: Path) -> tuple[int, int]:
    child = Child(
        method=method, directory=directory, megabytes=scale.megabytes, batch=scale.batch,
        steps=scale.steps, epochs=1, save_every=scale.every,
    )  # fmt: skip
    peak, state = child.wait_for("end")["peak"], child.wait_for("built")["state"]
    child.marks()
    return peak, state


def tables(figures: dict[str, Any]) -> list[Table]:
    """Peaks, and what is more than without saving."""
    state = figures["state"]
    rows = [(one["method"], megabytes(one["peak"]), megabytes(one["more"]), digits(one["more"] / state)) for one in figures["methods"]]
    return [Table(f"Peak memory, {megabytes(state)} of state", ("", "peak", "more than without saving", "in states"), rows)]


def bars(figures: dict[str, Any]) -> list[Bar]:
    """One snapshot and 64 MB more than without saving."""
    more = next(one["more"] for one in figures["methods"] if one["method"] == "resilient")
    most = figures["state"] + _MARGIN
    what = "peak memory above the same training without saving"
    return [Bar(what, f"≤ one snapshot + 64 MB = {megabytes(most)}", megabytes(more), more <= most)]


if __name__ == "__main__":
    from benchmarks.running import run

    run("memory")
