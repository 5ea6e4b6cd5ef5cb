"""From the start of a process to the first new step of a run that goes on, in its parts; and what importing costs.

    python -m benchmarks.startup [--quick]

In turns: `resilient.fit`, BackupAndRestore, and a training that does not save and has nothing to resume.
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import itertools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from benchmarks.child import Child, Mark
from benchmarks.peers import BackupAndRestore
from benchmarks.spread import spread
from benchmarks.tables import Table, digits
from resilient import journal

_NOTHING = "Model.fit, not resuming"
_METHODS = {"resilient": "resilient.fit", BackupAndRestore.name: BackupAndRestore.name, "nothing": _NOTHING}
# From one mark to the next. The last two of ours before "batch" come from the run's journal.
_PARTS = {
    "interpreter": "interpreter",
    "keras": "import keras",
    "resilient": "import resilient",
    "built": "build the model",
    "started": "open and verify the checkpoint",
    "training": "check, audit, trace; Keras begins",
    "restored": "restore",
    "batch": "first step",
}
_IMPORTS = {
    "import keras": "import keras",
    "import keras, resilient; resilient.fit": "import keras, resilient; resilient.fit",
    "pass": "pass",
    "import resilient": "import resilient",
}

_TELL = "import time; print(time.time())"


@dataclasses.dataclass(frozen=True)
class Scale:
    """Size of the state, rounds of the whole start, rounds of the imports, and who is measured."""

    megabytes: float
    batch: int
    rounds: int
    imports: int
    methods: tuple[str, ...] = tuple(_METHODS)


SCALES = {"full": Scale(400, 64, 3, 5), "quick": Scale(40, 64, 2, 3), "toy": Scale(0.1, 8, 1, 0, ("resilient",))}


def measure(scale: Scale, directory: Path) -> dict[str, Any]:
    """Makes runs to go on from, then starts each again and again."""
    for method in scale.methods:
        if method != "nothing":
            _until_saved(scale, method, directory / method)
    found: dict[str, list[dict[str, float]]] = {method: [] for method in scale.methods}
    for _ in range(scale.rounds):
        for method in scale.methods:
            found[method].append(_parts(scale, method, directory / method))
    starts = [{"method": _METHODS[method], "parts": _spreads(parts), "total": _total(parts)} for method, parts in found.items()]
    return {"megabytes": scale.megabytes, "starts": starts, "imports": _imports(scale.imports)}


def _spreads(parts: list[dict[str, float]]) -> dict[str, Any]:
    return {part: spread(one[part] for one in parts) for part in parts[0]}


def _total(parts: list[dict[str, float]]) -> Any:
    return spread(sum(one.values()) for one in parts)


def _start(scale: Scale, method: str, directory: Path) -> Child:
    return Child(method=method, directory=directory, megabytes=scale.megabytes, batch=scale.batch, steps=4, epochs=10_000)


def _until_saved(scale: Scale, method: str, directory: Path) -> None:
    """A run that was killed in its third epoch, so that both have something to go on from."""
    child = _start(scale, method, directory)
    child.wait_until(lambda marks: any(mark.get("epoch") == 2 for mark in marks))
    child.kill()


def _parts(scale: Scale, method: str, directory: Path) -> dict[str, float]:
    """Seconds from one mark to the next."""
    child = _start(scale, method, directory)
    child.wait_for("batch")
    marks = child.kill()
    moments = {**_first_of_each(marks), **(_from_journal(directory, child.born) if method == "resilient" else {})}
    names = [name for name in _PARTS if name in moments]
    before = [child.born, *(moments[name] for name in names)]
    return {_PARTS[name]: end - begin for name, (begin, end) in zip(names, itertools.pairwise(before), strict=True)}


def _first_of_each(marks: list[Mark]) -> dict[str, float]:
    return {mark["mark"]: mark["time"] for mark in reversed(marks)}


def _from_journal(directory: Path, since: float) -> dict[str, float]:
    events = {event["event"]: dt.datetime.fromisoformat(event["time"]).timestamp() for event in journal.read(directory)}
    return {name: events[name] for name in ("started", "restored") if events.get(name, 0) >= since}


def _imports(rounds: int) -> dict[str, Any]:
    found: dict[str, list[float]] = {name: [] for name in _IMPORTS}
    for _ in range(rounds):
        for name, code in _IMPORTS.items():
            born = time.time()
            done = subprocess.run([sys.executable, "-c", f"{code}; {_TELL}"], check=True, capture_output=True, text=True)
            found[name].append(float(done.stdout.split()[-1]) - born)
    return {name: spread(values) for name, values in found.items() if values}


def tables(figures: dict[str, Any]) -> list[Table]:
    """Parts by method, and imports."""
    starts = figures["starts"]
    rows = [[part, *(_cell(start, part) for start in starts)] for part in _PARTS.values()]
    total = ["**all**", *(f"{digits(start['total']['median'])}" for start in starts)]
    title = f"Process start to first new step, {digits(figures['megabytes'])} MB of state, in s"
    found = [Table(title, ["", *(start["method"] for start in starts)], [*rows, total])]
    imports = figures["imports"]
    if imports:
        rows = [[f"`{name}`", digits(one["median"] * 1e3), digits(_above(imports, name) * 1e3)] for name, one in imports.items()]
        found.append(Table("From the start of a process until it has imported, in ms", ["", "takes", "more than the row above"], rows))
    return found


def _cell(start: dict[str, Any], part: str) -> str:
    return digits(start["parts"][part]["median"]) if part in start["parts"] else "-"


def _above(imports: dict[str, Any], name: str) -> float:
    names = list(imports)
    place = names.index(name)
    return float(imports[name]["median"] - imports[names[place - 1]]["median"]) if place % 2 else 0.0


def bars(figures: dict[str, Any]) -> list[Any]:
    """None is set."""
    return []


if __name__ == "__main__":
    from benchmarks.running import run

    run("startup")
