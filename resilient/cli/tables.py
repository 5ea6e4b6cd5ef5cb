"""Printing: tables of at most the terminal's width (80 columns where there is none), JSON, sizes and ages for humans."""

from __future__ import annotations

import datetime as dt
import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from resilient.manifest import CheckpointInfo

_SIZES = ("B", "kB", "MB", "GB", "TB", "PB")
_AGES = ((86400, "d"), (3600, "h"), (60, "min"))


def print_json(document: Any) -> None:
    """Strict JSON on stdout; NaN and infinities become the strings "nan", "inf" and "-inf", as in the journal."""
    sys.stdout.write(json.dumps(_strict(document), indent=2) + "\n")


def _strict(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def print_line(text: str) -> None:
    """One line on stdout."""
    sys.stdout.write(f"{text}\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = (), folded: Sequence[str] = ()) -> None:
    """A plain table. Columns are right-aligned but those in `left`; those in `folded` may break into lines, the others are cut."""
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        overflow: Any = "fold" if column in folded else "ellipsis"
        table.add_column(column, justify="left" if column in left else "right", no_wrap=column not in folded, overflow=overflow)
    for row in rows:
        table.add_row(*map(escape, row))
    # soft_wrap off: rich fits the table into the width, which is 80 where stdout is no terminal.
    Console(highlight=False, emoji=False).print(table)


def as_json(info: CheckpointInfo) -> dict[str, Any]:
    """Every field of the description as plain JSON values; the path as text, the time in ISO 8601."""
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


def size(nbytes: float) -> str:
    """Bytes in decimal units with three digits: 999 B, 1.00 kB, 25.3 MB."""
    power = 0
    while nbytes >= 999.5 and power < len(_SIZES) - 1:
        nbytes, power = nbytes / 1000, power + 1
    if power == 0:
        return f"{nbytes:.0f} B"
    digits = 2 if nbytes < 9.995 else 1 if nbytes < 99.95 else 0
    return f"{nbytes:.{digits}f} {_SIZES[power]}"


def age(created: dt.datetime, now: dt.datetime) -> str:
    """How long ago, in one unit: 12 s, 5 min, 3 h, 2 d."""
    seconds = (now - created).total_seconds()
    if seconds < 0:
        return "0 s"  # the clock of the machine that saved it was ahead of ours
    for length, unit in _AGES:
        if seconds >= length:
            return f"{seconds // length:.0f} {unit}"
    return f"{seconds:.0f} s"


def count(number: int, noun: str) -> str:
    """A number with its noun: 1 checkpoint, 2 checkpoints."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
