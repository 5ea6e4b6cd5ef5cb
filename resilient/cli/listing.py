"""`resilient ls`."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence
from pathlib import Path

from resilient import reading
from resilient.cli import tables
from resilient.cli.outcome import say
from resilient.manifest import CheckpointInfo, parse_step_name
from resilient.reading import Survey
from resilient.store import Problem

_METRICS_SHOWN = 3
_METRIC_WIDTH = 12
_HOW = {"seek": "by index", "iterator": "by the iterator's own state", "replay": "by reading again what went before"}


def list_run(directory: Path, *, json: bool) -> int:
    """Print what lies in the run directory; damaged checkpoints are shown, and are no error of this command."""
    found = reading.survey(directory)
    if json:
        tables.print_json(_document(found))
    elif found.checkpoints or found.final or found.damaged or found.newer:
        _print(found)
    else:
        tables.print_line(f"No checkpoints in {directory} yet.")
    return 0


def _document(found: Survey) -> dict[str, object]:
    return {
        "checkpoints": [tables.as_json(info) for info in found.checkpoints],
        "final": tables.as_json(found.final) if found.final else None,
        "damaged": [{"path": str(problem.path), "reason": problem.reason} for problem in found.damaged],
        "input": _input(found),
        "newer": [{"path": str(problem.path), "reason": problem.reason} for problem in found.newer],
    }


def _print(found: Survey) -> None:
    now, metrics = dt.datetime.now(dt.UTC), metrics_shown(found)
    columns, rows = _table(found, metrics, now)
    while len(metrics) > 1 and not tables.fits(columns, rows):  # the monitored one stays, and no number is cut
        metrics = metrics[:-1]
        columns, rows = _table(found, metrics, now)
    tables.print_table(columns, rows, left=["best"])
    data = _input(found)
    if data is not None:
        tables.print_line(f"data: {data['kind']}, position {_HOW.get(str(data['positioning']), data['positioning'])}")
    for problem in [*found.damaged, *found.newer]:
        say("Damaged" if problem in found.damaged else "Newer", f"{problem.path}: {problem.reason}")


def _table(found: Survey, shown: Sequence[str], now: dt.datetime) -> tuple[list[str], list[list[str]]]:
    """Columns and rows with these metrics."""
    rows: list[tuple[float, list[str]]] = [(info.step, _row(str(info.step), info, shown, now)) for info in found.checkpoints]
    for problems, word in ((found.damaged, "damaged"), (found.newer, "newer format")):
        rows += [_problem_row(problem, word, len(shown)) for problem in problems]
    if found.damaged or found.newer:  # these have no place in the order of saving, only a step
        rows.sort(key=lambda row: row[0])
    listed = [row for _, row in rows]
    if found.final:
        listed.append(_row("final", found.final, shown, now))
    return ["step", "epoch", "batch", *map(_short, shown), "size", "age", "best"], listed


def _input(found: Survey) -> Mapping[str, object] | None:
    """What the newest checkpoint tells of the training data: its kind, and how its position is found again."""
    for manifest in reversed(found.manifests):
        data = manifest.state.get("input")
        if isinstance(data, Mapping) and {"kind", "positioning"} <= data.keys():
            return data
    return None


def _row(label: str, info: CheckpointInfo, shown: Sequence[str], now: dt.datetime) -> list[str]:
    metrics = [f"{info.metrics[name]:.4g}" if name in info.metrics else "" for name in shown]
    best = "*" if info.best else ""
    return [label, str(info.epoch), str(info.batch), *metrics, tables.size(info.nbytes), tables.age(info.created, now), best]


def _problem_row(problem: Problem, word: str, metrics: int) -> tuple[float, list[str]]:
    step = parse_step_name(problem.path.name)
    label = "final" if step is None else str(step)
    return (float("inf") if step is None else step), [label, "", "", *[""] * metrics, "", "", word]


def metrics_shown(found: Survey) -> list[str]:
    """Names of the metrics that get a column: the monitored one, the loss, then those of the most checkpoints; the learning rate last."""
    counts: dict[str, int] = {}
    for info in found.checkpoints:
        for name in info.metrics:
            counts[name] = counts.get(name, 0) + 1
    monitored = reading.monitored(reversed(found.manifests))
    ordered = sorted(counts, key=lambda name: (name != monitored, name != "loss", name == "learning_rate", -counts[name]))
    return ordered[:_METRICS_SHOWN]


def _short(name: str) -> str:
    return name if len(name) <= _METRIC_WIDTH else f"{name[: _METRIC_WIDTH - 1]}…"
