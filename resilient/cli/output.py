"""How the commands print: tables in the width of the terminal (80 columns elsewhere), or one JSON document."""

from __future__ import annotations

import datetime as dt
import json
import math
import sys
from collections.abc import Mapping
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.filesize import decimal
from rich.table import Table
from rich.text import Text

from resilient.manifest import CheckpointInfo

_UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (1, "s"))


def say(text: str) -> None:
    """One sentence for people, on standard output, not wrapped: a path in it can be copied."""
    Console(highlight=False, markup=False, soft_wrap=True).print(text)


def complain(kind: str, text: str) -> None:
    """One line on standard error."""
    print(f"{kind}: {' '.join(text.split())}", file=sys.stderr)  # noqa: T201


def show_table(table: Table) -> None:
    """The table, on standard output."""
    Console(highlight=False, markup=False).print(table)


def show_json(document: Any) -> None:
    """The document as strict JSON: NaN and infinities become strings."""
    print(json.dumps(_strict(document), indent=2))  # noqa: T201


def _strict(value: Any) -> Any:
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    if isinstance(value, Mapping):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_strict(item) for item in value]
    return value


def new_table(**columns: str) -> Table:
    """An empty table; `columns` are titles with the justification "left" or "right". Long cells are folded, never cut."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, show_edge=False)
    for title, justify in columns.items():
        table.add_column(title.replace("_", " "), justify="right" if justify == "right" else "left", overflow="fold")
    return table


def checkpoint_table(infos: list[CheckpointInfo]) -> Table:
    """Checkpoints, one a row."""
    table = new_table(step="right", epoch="right", batch="right", size="right", age="right", best="left", metrics="left")
    now = dt.datetime.now(dt.UTC)
    for info in infos:
        numbers = [str(info.step), str(info.epoch), str(info.batch), decimal(info.nbytes), age(now - info.created)]
        table.add_row(*numbers, "best" if info.best else "", Text(_metrics(info.metrics)))
    return table


def _metrics(metrics: Mapping[str, float]) -> str:
    # A no-break space keeps a name and its value on one line where the cell is folded.
    return "  ".join(f"{name}\u00a0{value:.4g}" for name, value in metrics.items())


def checkpoint_json(info: CheckpointInfo) -> dict[str, Any]:
    """A checkpoint as JSON."""
    return {
        "step": info.step,
        "epoch": info.epoch,
        "batch": info.batch,
        "metrics": dict(info.metrics),
        "best": info.best,
        "path": str(info.path),
        "nbytes": info.nbytes,
        "created": info.created.isoformat(),
    }


def age(span: dt.timedelta) -> str:
    """The span in its largest unit: "42s", "3m", "5h", "12d". A clock that is behind gives "0s"."""
    seconds = max(0, int(span.total_seconds()))
    size, unit = next(((size, unit) for size, unit in _UNITS if seconds >= size), _UNITS[-1])
    return f"{seconds // size}{unit}"
