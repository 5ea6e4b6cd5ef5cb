"""What one save costs the training, over the size of the state.

    python -m benchmarks.stall [--quick]

A real `Model.fit` at full speed; `benchmarks/rotation.py` says how a save is charged. Also: the state in many small tensors against
the same in few, and the time in which the state is captured.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.floors import DISK, FLOORS, MEMCPY, OVER, DiskAlone, Memcpy, writers
from benchmarks.methods import Method
from benchmarks.ours import Resilient, settled
from benchmarks.rotation import Rotation, calls, costs, step_seconds, turns
from benchmarks.spread import Spread, ratio
from benchmarks.tables import Bar, Table, digits, milliseconds, times
from benchmarks.workload import Workload, dense, forget, free_memory, pieces

CONTROL = Method.name
OURS = Resilient.name
_MEMORY = 3.7  # state, gradients, snapshot, the copy of the memcpy, what the disk alone writes; with peers as much again


@dataclasses.dataclass(frozen=True)
class Size:
    """One size of the state. `steps` of a window are enough that most saves end in it; peers that take long get fewer rounds.

    400 MB are those of `cadence` too, with batches that make a step of about 0.13 s.
    """

    megabytes: float
    batch: int
    steps: int
    rounds: int
    peer_rounds: int
    counted: int = 2


@dataclasses.dataclass(frozen=True)
class Scale:
    """What is measured: sizes, and for the state in many tensors its size, their number, steps and rounds."""

    sizes: tuple[Size, ...]
    pieces: tuple[float, int, int, int]


SCALES = {
    "full": Scale(
        (Size(4, 64, 40, 24, 8), Size(40, 64, 12, 8, 4), Size(400, 176, 5, 10, 2), Size(1600, 16, 4, 6, 1), Size(4000, 8, 3, 4, 0)),
        (40, 2_000, 6, 16),
    ),
    "quick": Scale((Size(4, 64, 40, 6, 2), Size(40, 64, 12, 3, 1)), (10, 600, 4, 2)),
    "toy": Scale((Size(0.1, 8, 2, 2, 1, counted=1),), (0.1, 30, 2, 1)),
}
# Where an accelerator trains, the host has nothing else to do and the sizes are those that are common there.
ACCELERATOR = Scale((Size(40, 256, 12, 8, 4), Size(400, 256, 12, 8, 3), Size(4000, 64, 6, 4, 1)), (40, 2_000, 6, 6))


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """All sizes, each with all methods in turn."""
    figures: dict[str, Any] = {"sizes": [], "skipped": peers.missing()}
    directory.mkdir(parents=True, exist_ok=True)
    if OVER not in writers(directory):
        figures["skipped"].append(f"{DISK!r} was not measured: the file system has no direct writes.")
    for size in scale.sizes:
        reason = free_memory(_MEMORY * (2 if size.peer_rounds else 1), size.megabytes)
        if reason:
            figures["skipped"].append(reason)
            continue
        if not size.peer_rounds:
            figures["skipped"].append(f"The peers were not measured with {size.megabytes:,.0f} MB: one save of theirs takes too long.")
        figures["sizes"].append(of_size(size, directory / f"{size.megabytes}"))
        forget()
    megabytes, tensors, steps, rounds = scale.pieces
    figures["pieces"] = []
    for turn, count in enumerate((tensors, 3) * 2):
        figures["pieces"].append(_of_pieces(megabytes, count, steps, rounds, directory / f"pieces-{turn}"))
        forget()
    return figures


def of_size(size: Size, directory: Path) -> dict[str, Any]:
    """Figures of one size, with all methods in turn."""
    workload = dense(size.megabytes, size.batch)
    always: list[Method] = [Memcpy(workload.model, workload.variables), settled(workload, directory / "ours")]
    directory.mkdir(parents=True, exist_ok=True)
    if OVER in writers(directory):
        always.append(DiskAlone(workload.model, workload.nbytes, directory / "disk"))
    others = peers.peers(workload.model, directory) if size.peer_rounds else []
    with_peers = {round(number * size.rounds / size.peer_rounds) for number in range(size.peer_rounds)}
    groups = [[*always, *others] if number in with_peers else always for number in range(size.rounds)]
    return {"megabytes": size.megabytes, **_rotate(workload, groups, size.steps, size.counted, directory)}


def _of_pieces(megabytes: float, tensors: int, steps: int, rounds: int, directory: Path) -> dict[str, Any]:
    workload = pieces(megabytes, tensors)
    groups: list[list[Method]] = [[settled(workload, directory)]] * rounds
    return {"megabytes": megabytes, **_rotate(workload, groups, steps, 2, directory)}


def _rotate(workload: Workload, groups: list[list[Method]], steps: int, counted: int, directory: Path) -> dict[str, Any]:
    control = Method(workload.model, directory)
    rotation = Rotation(turns(control, groups, counted), steps)
    workload.train(10**9, rotation)
    found = {
        "bytes": workload.nbytes,
        "tensors": len(workload.variables),
        "step": step_seconds(rotation.windows, CONTROL),
        "cost": costs(rotation.windows, CONTROL),
        "call": calls(rotation.windows),
    }
    for method in {id(method): method for group in groups for method in group}.values():
        method.close()
    return found


def best_peer(size: dict[str, Any]) -> str | None:
    """The peer whose save costs least, None where none was measured."""
    found = [name for name in size["cost"] if name not in (CONTROL, OURS, *FLOORS)]
    return min(found, key=lambda name: size["cost"][name]["median"], default=None)


def tables(figures: dict[str, Any]) -> list[Table]:
    """Costs by method and size, their ratios, and the two shapes of a state."""
    sizes = figures["sizes"]
    heads = [f"{digits(size['megabytes'])} MB" for size in sizes]
    names = dict.fromkeys(name for size in sizes for name in size["cost"])
    costs = [[name, *(milliseconds(size["cost"][name]) if name in size["cost"] else "-" for size in sizes)] for name in names]
    steps = ["one step of the training", *(digits(size["step"] * 1e3) for size in sizes)]
    shares = [[f"resilient / {name}", *(_ratio(size, name) for size in sizes)] for name in names if name not in (CONTROL, OURS)]
    call = ["the call alone, resilient", *(milliseconds(size["call"][OURS]) for size in sizes)]
    return [
        Table("Cost of one save charged to training, in ms: median (quartiles)", ["state", *heads], [*costs, call, steps]),
        Table("The same as ratios of the medians", ["", *heads], shares),
        _pieces_table(figures["pieces"]),
    ]


def _ratio(size: dict[str, Any], name: str) -> str:
    share = _share(size["cost"][OURS], size["cost"][name]) if name in size["cost"] else None
    return "-" if share is None else times(share)


def _share(of: Spread, to: Spread) -> float | None:
    """Ratio of two costs; None where one of them was lost in the noise, which proves nothing."""
    return None if min(of["low"], to["low"]) <= 0 else ratio(of, to)


def _pieces_table(found: list[dict[str, Any]]) -> Table:
    rows = [
        (f"{one['tensors']:,} tensors", milliseconds(one["cost"][OURS]), milliseconds(one["call"][OURS]), digits(one["step"] * 1e3))
        for one in found
    ]
    return Table(f"{digits(found[0]['megabytes'])} MB of state in", ("", "cost, ms", "the call alone, ms", "one step, ms"), rows)


def bars(figures: dict[str, Any]) -> list[Bar]:
    """The rows of the table of bars that this benchmark decides."""
    found = [bar for size in figures["sizes"] for bar in _size_bars(size)]
    return [*found, _capture_bar(figures["pieces"]), _scale_bar(figures["sizes"]), _pieces_bar(figures["pieces"])]


def _size_bars(size: dict[str, Any]) -> list[Bar]:
    cost, peer, what = size["cost"], best_peer(size), f"one save, {digits(size['megabytes'])} MB"
    found = []
    if peer and size["megabytes"] in (4, 400, 1600):
        most = 1 / 4 if size["megabytes"] == 4 else 1 / 5
        found.append(_bar(f"{what}, against the best peer ({peer})", most, _share(cost[OURS], cost[peer])))
    if size["megabytes"] in (400, 1600):
        found.append(_bar(f"{what}, against one memcpy of the state", 1.5, _share(cost[OURS], cost[MEMCPY])))
    return found


def _bar(what: str, most: float, share: float | None) -> Bar:
    return Bar(what, f"≤ {times(most)}", "lost in the noise" if share is None else times(share), share is not None and share <= most)


def _capture_bar(found: list[dict[str, Any]]) -> Bar:
    many = found[0]
    each = many["call"][OURS]["median"] / many["tensors"] * 1e6
    return Bar("capture, for 1,000 tensors", "< 20 ms", f"{digits(each)} ms", each < 20)


def _scale_bar(sizes: list[dict[str, Any]]) -> Bar:
    """Cost a byte at the largest size against the smallest."""
    small, large = sizes[0], sizes[-1]
    share = _share(large["cost"][OURS], small["cost"][OURS])
    what = f"growth of the cost from {digits(small['megabytes'])} MB to {digits(large['megabytes'])} MB, against that of the bytes"
    return _bar(what, 1, share and share / (large["bytes"] / small["bytes"]))


def _pieces_bar(found: list[dict[str, Any]]) -> Bar:
    many, few = (_sum([one["cost"][OURS] for one in found[start::2]]) for start in (0, 1))
    return _bar(f"{found[0]['tensors']:,} tensors against {found[1]['tensors']} of the same bytes", 1.5, _share(many, few))


def _sum(costs: list[Spread]) -> Spread:
    low, median, high = (sum(one[key] for one in costs) for key in ("low", "median", "high"))
    return Spread(median=median, low=low, high=high, count=min(one["count"] for one in costs))


if __name__ == "__main__":
    from benchmarks.running import run

    run("stall")
