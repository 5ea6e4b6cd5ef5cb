"""Stall and restore where a backend of Keras finds an accelerator, and what it takes to bring the state to the host.

    python -m benchmarks.accelerator [--quick]

TensorFlow, JAX and PyTorch are asked, those that are installed; each that finds one measures in a process of its own. Without any it
says so: then the figures of the other benchmarks, which are those of the processor, are all there are.
"""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from benchmarks.devices import DEVICES, staging_seconds
from benchmarks.spread import spread
from benchmarks.tables import Table, digits, megabytes

_STAGED = 400_000_000
NONE = "No accelerator was found ({asked} asked): stall and restore were measured on the processor."

SCALES = {"full": "full", "quick": "quick", "toy": "toy"}


def measure(scale: str, directory: Path) -> dict[str, Any]:
    """Figures of each backend that has an accelerator."""
    asked = [backend for backend in DEVICES if importlib.util.find_spec(backend)]
    found = [_in_child(backend, scale, directory) for backend in asked if _in_child(backend, "name", directory)]
    return {"backends": found, "skipped": [] if found else [NONE.format(asked=", ".join(asked))]}


def _in_child(backend: str, what: str, directory: Path) -> Any:
    """What `python -m benchmarks.accelerator BACKEND WHAT DIRECTORY` prints last, as JSON."""
    command = [sys.executable, "-m", "benchmarks.accelerator", backend, what, os.fspath(directory.absolute())]
    environment = {**os.environ, "KERAS_BACKEND": backend}
    root = Path(__file__).resolve().parent.parent
    done = subprocess.run(command, env=environment, cwd=root, check=True, stdout=subprocess.PIPE, text=True)
    return json.loads(done.stdout.splitlines()[-1])


def child(backend: str, what: str, directory: Path) -> Any:
    """In the child: the accelerator's name, None where there is none; or all the figures."""
    device = DEVICES[backend]()
    if what == "name":
        return device.name()
    from benchmarks import restore, stall

    accelerated = what == "full"
    return {
        "backend": backend,
        "device": device.name(),
        "staged": _STAGED,
        "staging": {name: spread(seconds) for name, seconds in staging_seconds(device, _STAGED, 5).items()},
        "memory": _headroom(device, _STAGED / 1e6 if accelerated else 1, directory / f"{backend}-memory"),
        "stall": stall.measure(stall.ACCELERATOR if accelerated else stall.SCALES[what], directory / f"{backend}-stall"),
        "restore": restore.measure(restore.ACCELERATOR if accelerated else restore.SCALES[what], directory / f"{backend}-restore"),
    }


def _headroom(device: Any, megabytes: float, directory: Path) -> dict[str, int | None]:
    """Bytes of the device's memory at its fullest: training, then training that saves at every step; and what there is."""
    from benchmarks.cadence import SaveEvery
    from benchmarks.ours import Resilient
    from benchmarks.workload import dense

    workload = dense(megabytes, 64)
    workload.train(3)
    training, _ = device.memory()
    ours = Resilient(workload.model, directory)
    workload.train(6, SaveEvery(ours, 1))
    ours.close()
    saving, limit = device.memory()
    return {"training": training, "saving": saving, "limit": limit}


def tables(figures: dict[str, Any]) -> list[Table]:
    """Those of stall and restore for each backend, and its staging."""
    from benchmarks import restore, stall

    found = []
    for one in figures["backends"]:
        where = f"{one['backend']} on {one['device']}"
        ways = [(way, digits(one["staged"] / seconds["median"] / 1e9)) for way, seconds in one["staging"].items()]
        memory = [(f"{what}, at its fullest", megabytes(one["memory"][what])) for what in ("training", "saving")]
        memory.append(("in all", megabytes(one["memory"]["limit"]) if one["memory"]["limit"] else "not told"))
        parts = [*stall.tables(one["stall"]), *restore.tables(one["restore"])]
        found.append(Table(f"{where}: device to host, {megabytes(one['staged'])}", ("", "GB/s"), ways))
        found.append(Table(f"{where}: its memory, {megabytes(one['staged'])} of state", ("", ""), memory))
        found += [Table(f"{where}: {table.title}", table.columns, table.rows) for table in parts]
    return found


def bars(figures: dict[str, Any]) -> list[Any]:
    """None is set."""
    return []


if __name__ == "__main__":
    if len(sys.argv) == 4 and sys.argv[1] in DEVICES:
        print(json.dumps(child(sys.argv[1], sys.argv[2], Path(sys.argv[3]))))
    else:
        from benchmarks.running import run

        run("accelerator")
