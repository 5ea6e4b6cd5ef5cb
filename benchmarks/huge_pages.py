"""What huge pages are worth: training and saving in the environment that `resilient run` gives to a program, and in a plain one.

    python -m benchmarks.huge_pages [--quick]

Processes of both kinds take turns; in each, `benchmarks.stall` measures a step, a memcpy of the state and a save of ours.
"""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.spread import spread
from benchmarks.tables import Bar, Table, digits, milliseconds

PLAIN, SUPERVISED = "plain Python", "under `resilient run`"
_SETTINGS = {PLAIN: "0", SUPERVISED: "1"}


@dataclasses.dataclass(frozen=True)
class Scale:
    """For each size in MB: batch, steps of a window, and rounds of it in one process; and the number of processes of each kind."""

    sizes: dict[float, tuple[int, int, int]]
    processes: int


SCALES = {
    "full": Scale({400: (64, 6, 6), 1600: (16, 4, 3)}, 2),
    "quick": Scale({40: (64, 12, 3)}, 1),
    "toy": Scale({0.1: (8, 2, 1)}, 1),
}


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Of each size and kind the figures of its processes."""
    found: list[dict[str, Any]] = []
    for megabytes, (batch, steps, rounds) in scale.sizes.items():
        for turn in range(scale.processes):
            for kind, setting in _SETTINGS.items():
                place = directory / f"{megabytes}-{turn}-{setting}"
                found.append({"kind": kind, **_process(setting, [megabytes, batch, steps, rounds, os.fspath(place.absolute())])})
    return {"processes": found}


def _process(setting: str, arguments: list[Any]) -> dict[str, Any]:
    environment = {**os.environ, "GLIBC_TUNABLES": f"glibc.malloc.hugetlb={setting}", "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, "-m", "benchmarks.huge_pages", "--child", json.dumps(arguments)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _child(megabytes: float, batch: int, steps: int, rounds: int, directory: str) -> None:
    from benchmarks.stall import Size, of_size

    print(json.dumps(of_size(Size(megabytes, batch, steps, rounds, peer_rounds=0), Path(directory))))


def tables(figures: dict[str, Any]) -> list[Table]:
    """One row for each size and kind: medians of its processes, and the memcpy and save of the median one."""
    processes = figures["processes"]
    rows = []
    for megabytes, kind in dict.fromkeys((one["megabytes"], one["kind"]) for one in processes):
        same = [one for one in processes if (one["megabytes"], one["kind"]) == (megabytes, kind)]
        step = spread(one["step"] for one in same)["median"]
        costs = [spread(one["cost"][name]["median"] for one in same) for name in ("memcpy of the state", "resilient")]
        rows.append((f"{digits(megabytes)} MB, {kind}", digits(step * 1e3), *map(milliseconds, costs)))
    head = ("", "one step, ms", "memcpy of the state, ms", "one save, ms")
    return [Table("With and without huge pages: median of the processes (quartiles)", head, rows)]


def bars(figures: dict[str, Any]) -> list[Bar]:
    """None: what a save has to reach is measured by `benchmarks.stall`."""
    return []


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(*json.loads(sys.argv[2]))
    else:
        from benchmarks.running import run

        run("huge_pages")
