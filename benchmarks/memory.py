"""The most memory a training needs while it saves in a loop, beyond the same training without saving.

    python -m benchmarks.memory [--quick]

Each in a process of its own, which reads its high-water mark (VmHWM) at the end. The bar: the state of the model, which training needs
anyway, one snapshot as large, and 64 MB. Then each once more where the kernel allows so much more than training without saving needs, and
where it allows nothing but the 64 MB: it ends, or is killed.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.child import Child
from benchmarks.tables import Bar, Table, digits, megabytes
from chaos.faults.memory import Group, has_groups

_MARGIN = 64_000_000
_LIMITS = {"64 MB": 0, "one state and 64 MB": 1}  # what is allowed beyond training without saving, and how many states that has in it


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of the state, and who is measured; each saves every `every` steps."""

    megabytes: float
    batch: int
    steps: int
    every: int
    methods: tuple[str, ...]
    limited: bool = True


_PEERS = ("BackupAndRestore", "ModelCheckpoint .keras", "OrbaxCheckpoint", "tf.train.CheckpointManager")
SCALES = {
    "full": Scale(400, 64, 16, 2, ("nothing", "resilient", *_PEERS)),
    "quick": Scale(100, 64, 12, 2, ("nothing", "resilient", "BackupAndRestore")),
    "toy": Scale(0.1, 8, 4, 1, ("nothing", "resilient"), limited=False),
}


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """One process after the other."""
    here = [name for name in scale.methods if name != peers.Orbax.name or not peers.absent()]
    ends = {name: _end(scale, name, directory / str(number)) for number, name in enumerate(here)}
    alone = ends["nothing"]
    rows = [{"method": name, "peak": end["peak"], "more": end["peak"] - alone["peak"]} for name, end in ends.items()]
    limited: list[dict[str, Any]] = []
    if scale.limited and has_groups():
        for number, name in enumerate(here):
            lives = {
                allowed: _lives(scale, name, directory / f"limited-{number}-{states}", alone["own"] + states * alone["state"] + _MARGIN)
                for allowed, states in _LIMITS.items()
            }
            limited.append({"method": name, **lives})
    return {"state": alone["state"], "methods": rows, "limited": limited, "skipped": peers.missing()}


def _start(scale: Scale, method: str, directory: Path) -> Child:
    return Child(
        method=method, directory=directory, megabytes=scale.megabytes, batch=scale.batch,
        steps=scale.steps, epochs=1, save_every=scale.every,
    )  # fmt: skip


def _end(scale: Scale, method: str, directory: Path) -> dict[str, int]:
    """Bytes at the end of a process, and of its state."""
    child = _start(scale, method, directory)
    end = {**child.wait_for("end"), "state": child.wait_for("built")["state"]}
    child.marks()
    return end


def _lives(scale: Scale, method: str, directory: Path, most: int) -> bool:
    """Whether a process that may have so many bytes trains to the end."""
    with Group(most) as group:
        child = _start(scale, method, directory)
        group.take(child.process.pid)
        return any(mark["mark"] == "end" for mark in child.marks())


def tables(figures: dict[str, Any]) -> list[Table]:
    """Peaks, and what is more than without saving; and who lives under a limit, where that could be tried."""
    state = figures["state"]
    rows = [(one["method"], megabytes(one["peak"]), megabytes(one["more"]), digits(one["more"] / state)) for one in figures["methods"]]
    found = [Table(f"Peak memory, {megabytes(state)} of state", ("", "peak", "more than without saving", "in states"), rows)]
    if limited := figures.get("limited"):
        lives = [(one["method"], *("ends" if one[allowed] else "**is killed**" for allowed in _LIMITS)) for one in limited]
        found.append(Table("Where the kernel allows that much more than training without saving needs, it", ("", *_LIMITS), lives))
    return found


def bars(figures: dict[str, Any]) -> list[Bar]:
    """One snapshot and 64 MB more than without saving; that where it cannot have more, it lives."""
    more = next(one["more"] for one in figures["methods"] if one["method"] == "resilient")
    most = figures["state"] + _MARGIN
    what = "peak memory above the same training without saving"
    found = [Bar(what, f"≤ one snapshot + 64 MB = {megabytes(most)}", megabytes(more), more <= most)]
    for one in figures.get("limited", []):
        if one["method"] == "resilient":
            lives = [allowed for allowed in _LIMITS if one[allowed]]
            what = "memory limits, beyond training without saving, under which it trains to the end"
            found.append(Bar(what, " and ".join(_LIMITS), " and ".join(lives) or "none", len(lives) == len(_LIMITS)))
    return found


if __name__ == "__main__":
    from benchmarks.running import run

    run("memory")
