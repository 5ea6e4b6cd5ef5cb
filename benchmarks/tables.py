"""Tables of figures, shown alike on the console and in the docs, and how numbers are written in them."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import rich.table

from benchmarks.spread import Spread


@dataclasses.dataclass(frozen=True)
class Table:
    """A title, the columns' heads, and rows of text; the first column is on the left, numbers are on the right."""

    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence[str]]

    def console(self) -> rich.table.Table:
        """For a terminal."""
        table = rich.table.Table(title=self.title, title_justify="left")
        for number, column in enumerate(self.columns):
            table.add_column(column, justify="right" if number else "left")
        for row in self.rows:
            table.add_row(*row)
        return table

    def markdown(self) -> str:
        """For a page."""
        sides = [":---", *["---:"] * (len(self.columns) - 1)]
        lines = ["| " + " | ".join(row) + " |" for row in (self.columns, sides, *self.rows)]
        return f"**{self.title}**\n\n" + "\n".join(lines) + "\n"


@dataclasses.dataclass(frozen=True)
class Bar:
    """Something that has to be reached: `what`, the `bar` and the `reached` as text, and whether it was."""

    what: str
    bar: str
    reached: str
    met: bool


def bar_table(bars: Sequence[Bar], title: str) -> Table:
    """The bars beside what was reached."""
    rows = [(bar.what, bar.bar, bar.reached, "yes" if bar.met else "**no**") for bar in bars]
    return Table(title, ("what", "has to be", "is", "reached"), rows)


def milliseconds(seconds: Spread) -> str:
    """Median and quartiles: `73 (70 to 78)`."""
    return _with_quartiles(seconds, 1e3)


def percent(share: Spread) -> str:
    """Median and quartiles: `3.9 (3.1 to 4.4)`."""
    return _with_quartiles(share, 1e2)


def microseconds(seconds: Spread) -> str:
    """Median and quartiles."""
    return _with_quartiles(seconds, 1e6)


def _with_quartiles(of: Spread, scale: float) -> str:
    low, median, high = (digits(of[part] * scale) for part in ("low", "median", "high"))
    return f"{median} ({low} to {high})"


def digits(value: float) -> str:
    """Three significant digits, without an exponent: `1,230`, `73.1`, `0.0412`."""
    if value == 0:
        return "0"
    if abs(value) >= 100:
        return f"{float(f'{value:.3g}'):,.0f}"
    text = f"{value:.3g}"
    return f"{value:.4f}" if "e" in text else text


def times(value: float) -> str:
    """A ratio: `0.31 x`."""
    return f"{digits(value)} x"


def megabytes(count: float) -> str:
    """Bytes as MB or GB, of 1,000s."""
    return f"{digits(count / 1e9)} GB" if count >= 1e9 else f"{digits(count / 1e6)} MB"
