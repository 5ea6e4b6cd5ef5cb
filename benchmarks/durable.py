"""From the request to save until it is durable, with nothing else running; and how many bytes that writes.

    python -m benchmarks.durable [--quick]

In turns: raw writers of as many bytes, ours, and the peers, for which every file and directory is synced after they have written. Ours and
the peers save three times in a turn, of which the last one counts: who saves alone finds files that it has written a moment ago, as the raw
writer over an old file does, and not those that gigabytes of others have driven out of a cache of the disk or the host since.
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from pathlib import Path
from typing import Any

from benchmarks import peers
from benchmarks.floors import WRITERS, aligned, write_seconds, writers
from benchmarks.methods import Method
from benchmarks.ours import Resilient, settled
from benchmarks.spread import spread
from benchmarks.tables import Bar, Table, digits, megabytes, milliseconds
from benchmarks.workload import Workload, bytes_of, dense, forget

FROZEN = 9  # of ten layers
_NOT_COUNTED = 2  # saves of a turn: where the newest checkpoint alone is kept, ours writes the files of the last but one over


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of the state for the times, and for the bytes."""

    megabytes: float
    rounds: int
    frozen_megabytes: float


SCALES = {"full": Scale(400, 5, 100), "quick": Scale(100, 3, 40), "toy": Scale(0.1, 1, 0.1)}


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Times, then bytes with everything trained and with nine of ten layers frozen."""
    figures = {**_times(scale, directory / "times"), "bytes": [], "skipped": peers.missing()}
    for optimizer, frozen in (("adam", 0), ("sgd", FROZEN), ("adam", FROZEN)):
        forget()
        figures["bytes"].append(_bytes(optimizer, frozen, scale.frozen_megabytes, directory / f"{optimizer}-{frozen}"))
    return figures


def _times(scale: Scale, directory: Path) -> dict[str, Any]:
    workload = dense(scale.megabytes, 8)
    directory.mkdir(parents=True)
    workload.train(2)
    data = aligned(workload.nbytes)
    methods = [settled(workload, directory / "ours"), *peers.peers(workload.model, directory)]
    found: dict[str, list[float]] = {}
    step = itertools.count(1)
    for turn in range(scale.rounds + 1):
        one = {name: write_seconds(name, data, directory) for name in writers(directory)}
        for method in methods:
            for _ in range(_NOT_COUNTED + 1):
                one[method.name] = _durable(method, workload, next(step))  # the last one stays
        if turn:
            for name, seconds in one.items():
                found.setdefault(name, []).append(seconds)
    _close(methods)
    spreads = {name: spread(values) for name, values in found.items()}
    return {"megabytes": scale.megabytes, "state": workload.nbytes, "seconds": spreads}


def _durable(method: Method, workload: Workload, step: int) -> float:
    workload.train(1)  # what has not changed need not be written again
    os.sync()
    began = time.perf_counter()
    method.durable(step)
    seconds = time.perf_counter() - began
    method.clear()
    return seconds


def _bytes(optimizer: str, frozen: int, size: float, directory: Path) -> dict[str, Any]:
    """Bytes that the second save hands to the disk, after a step that changed what is trained."""
    workload = dense(size, 8, optimizer=optimizer, frozen=frozen)
    methods = [Resilient(workload.model, directory / "ours"), *peers.peers(workload.model, directory)]
    written: dict[str, int] = {}
    for step in (1, 2):
        workload.train(1)
        for method in methods:
            before = _handed_to_disk()
            method.save(step)
            method.wait()
            written[method.name] = _handed_to_disk() - before
    _close(methods)
    return {
        "optimizer": optimizer, "frozen": frozen / 10, "state": workload.nbytes, "changing": _changing(workload), "written": written,
    }  # fmt: skip


def _changing(workload: Workload) -> int:
    """Bytes of the state that a step changes."""
    return workload.nbytes - bytes_of(workload.model.non_trainable_variables)


def _handed_to_disk() -> int:
    """What the kernel has counted for this process so far; 0 where it does not count (a file system in memory)."""
    lines = Path("/proc/self/io").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes"))


def _close(methods: list[Method]) -> None:
    for method in methods:
        method.close()


def best_writer(figures: dict[str, Any]) -> str:
    """The fastest raw writer."""
    found = [name for name in WRITERS if name in figures["seconds"]]
    return min(found, key=lambda name: float(figures["seconds"][name]["median"]))


def tables(figures: dict[str, Any]) -> list[Table]:
    """Times and speeds, and bytes."""
    best = figures["seconds"][best_writer(figures)]["median"]
    rows = [
        (name, milliseconds(seconds), digits(figures["state"] / seconds["median"] / 1e9), digits(best / seconds["median"] * 100))
        for name, seconds in figures["seconds"].items()
    ]
    heads = [f"{one['frozen'] * 100:.0f} % frozen, {one['optimizer']}" for one in figures["bytes"]]
    names = list(figures["bytes"][0]["written"])
    shares = [[name, *(_share(one, one["written"][name]) for one in figures["bytes"])] for name in names]
    least = ["what a step changes", *(_share(one, one["changing"]) for one in figures["bytes"])]
    return [
        Table(f"{megabytes(figures['state'])} durable", ("", "ms", "GB/s", "% of the best raw writer"), rows),
        Table("Bytes of the second save, % of the state", ("", *heads), [*shares, least]),
    ]


def _share(one: dict[str, Any], count: int) -> str:
    return digits(100 * count / one["state"])


def bars(figures: dict[str, Any]) -> list[Bar]:
    """Speed, and bytes where most is frozen."""
    share = figures["seconds"][best_writer(figures)]["median"] / figures["seconds"][Resilient.name]["median"]
    frozen = next(one for one in figures["bytes"] if one["frozen"] and one["optimizer"] == "sgd")
    written = frozen["written"][Resilient.name] / frozen["state"]
    speed = f"request to durable, against the best raw writer ({best_writer(figures)})"
    return [
        Bar(speed, "≥ 80 %", f"{digits(share * 100)} %", share >= 0.8),
        Bar("90 % of the weights frozen: bytes of the second save", "≤ 11 %", f"{digits(written * 100)} %", written <= 0.11),
    ]


if __name__ == "__main__":
    from benchmarks.running import run

    run("durable")
