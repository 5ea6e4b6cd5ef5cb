"""What a part of `make chaos` leaves behind for the one table at its end: a small JSON file.

{"rows": [{"fault": str, "runs": int, "survived": int, "identical": int | null, "lost_steps": float | null}], "problems": [str]}
"""

from __future__ import annotations

import argparse
import dataclasses
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


@dataclasses.dataclass(frozen=True)
class Row:
    """One kind of fault.

    Attributes:
        fault: what was done, in a few words.
        runs: how often.
        survived: after how many of them it went on as promised.
        identical: after how many the end was that of an undisturbed run, bit for bit; None where no training came to its end.
        lost_steps: batches trained again, on average; None where that means nothing.
    """

    fault: str
    runs: int
    survived: int
    identical: int | None = None
    lost_steps: float | None = None


@dataclasses.dataclass(frozen=True)
class Report:
    """Of one part: its rows, and a sentence for each thing that was wrong."""

    rows: tuple[Row, ...]
    problems: tuple[str, ...] = ()

    def encode(self) -> str:
        """As JSON."""
        return json.dumps({"rows": [dataclasses.asdict(row) for row in self.rows], "problems": list(self.problems)}, indent=1) + "\n"


def decode(text: str) -> Report:
    """The report in a file's text.

    Raises:
        ValueError: it is none.
    """
    try:
        document = json.loads(text)
        return Report(tuple(_row(given) for given in document["rows"]), tuple(str(problem) for problem in document["problems"]))
    except (KeyError, TypeError, RecursionError) as error:
        raise ValueError(f"it is not the result of a part ({type(error).__name__}: {error})") from error


def _row(given: dict[str, Any]) -> Row:
    row = Row(**given)
    if not isinstance(row.runs, int) or not isinstance(row.survived, int):
        raise TypeError(f"counts of {row.fault!r} are no numbers")
    return row


def add_option(parser: argparse.ArgumentParser) -> None:
    """`--result FILE`."""
    parser.add_argument("--result", type=Path, metavar="FILE", help="write what came out as JSON, for the table of `python -m chaos.all`")


def write(path: Path | None, rows: Iterable[Row], problems: Iterable[str] = ()) -> None:
    """Leave the result at `path`; nothing where there is none."""
    if path is not None:
        path.write_text(Report(tuple(rows), tuple(problems)).encode())
