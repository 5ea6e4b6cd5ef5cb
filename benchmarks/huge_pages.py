"""What the environment is worth that `resilient run` gives to a program: in it and in a plain one, a step of training and a save.

    python -m benchmarks.huge_pages [--quick]

Processes of both kinds take turns; in each, `benchmarks.stall` measures a step, a memcpy of the state and a save of ours.
"""

from __future__ import annotations

import dataclasses
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.floors import MEMCPY
from benchmarks.ours import Resilient
from benchmarks.tables import Bar, Table, digits
from resilient.supervisor.child import huge_page_variables

PLAIN, SUPERVISED = "plain Python", "under `resilient run`"
_VARIABLE = "GLIBC_TUNABLES"


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
            for kind in (PLAIN, SUPERVISED):
                place = directory / f"{megabytes}-{turn}-{kind.split()[0]}"
                found.append({"kind": kind, **_process(kind, [megabytes, batch, steps, rounds, os.fspath(place.absolute())])})
    return {"processes": found}


def _process(kind: str, arguments: list[Any]) -> dict[str, Any]:
    environment = {name: value for name, value in os.environ.items() if name != _VARIABLE}
    if kind == SUPERVISED:
        environment |= huge_page_variables(environment)
    command = [sys.executable, "-m", "benchmarks.huge_pages", "--child", json.dumps(arguments)]
    done = subprocess.run(command, env={**environment, "TF_CPP_MIN_LOG_LEVEL": "3"}, stdout=subprocess.PIPE, text=True, check=True)
    return dict(json.loads(done.stdout.splitlines()[-1]))


def _child(megabytes: float, batch: int, steps: int, rounds: int, directory: str) -> None:
    from benchmarks.stall import Size, of_size

    figures = of_size(Size(megabytes, batch, steps, rounds, peer_rounds=0), Path(directory))
    print(json.dumps({"environment": os.environ.get(_VARIABLE), **figures}))


def tables(figures: dict[str, Any]) -> list[Table]:
    """One row for each size and kind: over its processes the middle, the lowest and the highest of their medians."""
    processes = figures["processes"]
    rows = []
    for megabytes, kind in dict.fromkeys((one["megabytes"], one["kind"]) for one in processes):
        same = [one for one in processes if (one["megabytes"], one["kind"]) == (megabytes, kind)]
        costs = [[one["cost"][name]["median"] for one in same] for name in (MEMCPY, Resilient.name)]
        rows.append((f"{digits(megabytes)} MB, {kind}", *map(_all_of, [[one["step"] for one in same], *costs])))
    head = ("", "one step, ms", f"{MEMCPY}, ms", "one save, ms")
    return [Table("Plain, and in the environment of `resilient run`: median of the processes (lowest to highest)", head, rows)]


def _all_of(seconds: Sequence[float]) -> str:
    low, middle, high = (digits(value * 1e3) for value in (min(seconds), statistics.median(seconds), max(seconds)))
    return f"{middle} ({low} to {high})"


def bars(figures: dict[str, Any]) -> list[Bar]:
    """None: what a save has to reach is measured by `benchmarks.stall`."""
    return []


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        _child(*json.loads(sys.argv[2]))
    else:
        from benchmarks.running import run

        run("huge_pages")
