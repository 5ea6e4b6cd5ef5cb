"""`resilient doctor`."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from resilient.cli import tables
from resilient.cli.outcome import printable
from resilient.cli.progress import sign_of_life
from resilient.doctoring import Item, Level, examine
from resilient.durations import parse_duration

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "bold red"}


def doctor_run(directory: Path, grace: str | None, *, json: bool) -> int:
    """List what was found; 1 if there is a problem."""
    seconds = None if grace is None else parse_duration(grace, "--grace")
    with sign_of_life("looking, and measuring the disk"):
        found = list(examine(directory, seconds))
    levels = [item.level for item in found]
    if json:
        tables.print_json({"directory": str(directory), "items": [{**dataclasses.asdict(i), "level": i.level.value} for i in found]})
    else:
        _print(found)
        problems, warnings = levels.count(Level.PROBLEM), levels.count(Level.WARNING)
        tables.print_line(f"{tables.count(problems, 'problem')}, {tables.count(warnings, 'warning')}.")
    return 1 if Level.PROBLEM in levels else 0


def _print(found: list[Item]) -> None:
    from rich.table import Table
    from rich.text import Text

    grid = Table.grid(padding=(0, 2, 0, 0))
    grid.add_column(no_wrap=True)
    grid.add_column(no_wrap=True, style="bold")
    grid.add_column(overflow="fold")
    for item in found:
        text = Text(printable(item.text))
        if item.remedy:
            text.append(f"\n{printable(item.remedy)}", "italic")
        grid.add_row(Text(item.level.value, _STYLES[item.level]), item.name, text)
    tables.show(grid)
