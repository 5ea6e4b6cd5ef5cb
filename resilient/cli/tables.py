"""Printing: tables of at most the terminal's width (80 columns where there is none), and JSON."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from resilient.amounts import age, count, duration, size
from resilient.cli.outcome import printable
from resilient.manifest import CheckpointInfo

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

__all__ = [
    "age",
    "as_json",
    "console",
    "count",
    "duration",
    "fits",
    "pairs",
    "print_json",
    "print_line",
    "print_table",
    "show",
    "size",
    "strict",
    "table",
]


def print_json(document: Any) -> None:
    """Strict JSON on stdout; NaN and infinities become the strings "nan", "inf" and "-inf", as in the journal."""
    sys.stdout.write(json.dumps(strict(document), indent=2) + "\n")


def strict(value: Any) -> Any:
    """The document as strict JSON can say it."""
    if isinstance(value, Mapping):
        return {str(key): strict(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [strict(item) for item in value]
    return str(value) if isinstance(value, float) and not math.isfinite(value) else value


def print_line(text: str) -> None:
    """One line on stdout."""
    sys.stdout.write(f"{printable(text)}\n")


def print_table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = (), folded: Sequence[str] = ()) -> None:
    """Print a table; see `table`."""
    show(table(columns, rows, left=left, folded=folded))


def table(columns: Sequence[str], rows: Sequence[Sequence[str]], *, left: Sequence[str] = (), folded: Sequence[str] = ()) -> Table:
    """A plain table. Columns are right-aligned but those in `left`; those in `folded` may break into lines, the others are cut."""
    from rich.markup import escape
    from rich.table import Table

    plain = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        overflow: Any = "fold" if column in folded else "ellipsis"
        plain.add_column(
            escape(printable(column)), justify="left" if column in left else "right", no_wrap=column not in folded, overflow=overflow
        )
    for row in rows:
        plain.add_row(*(escape(printable(cell)) for cell in row))
    return plain


def fits(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> bool:
    """Whether such a table needs no cutting."""
    widest = [max(map(len, cells)) for cells in zip(columns, *rows, strict=True)]
    return sum(widest) + 2 * (len(widest) - 1) <= console().width


def pairs(rows: Sequence[tuple[str, Text]]) -> Table:
    """Names and what belongs to them, broken into lines where it is long."""
    from rich.table import Table

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for name, text in rows:
        grid.add_row(name, text)
    return grid


def console() -> Console:
    """Where tables are printed: of the terminal's width and with its colours, unless NO_COLOR is set; 80 columns without any elsewhere."""
    from rich.console import Console

    return Console(highlight=False, emoji=False)


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


def show(what: RenderableType) -> None:
    """Print it; what only fills lines with spaces is left out where nobody sees colours."""
    screen = console()
    if screen.is_terminal:
        screen.print(what)
        return
    with screen.capture() as captured:
        screen.print(what)
    sys.stdout.write("".join(f"{line.rstrip()}\n" for line in captured.get().splitlines()))
