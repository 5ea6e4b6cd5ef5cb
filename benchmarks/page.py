"""Writes the tables of `docs/performance.md`, and of the page for another machine, from the results, between their markers.

    python -m benchmarks.page

`<!-- begin NAME -->` and `<!-- end NAME -->` stand around what is written: the tables of the benchmark NAME, or `bars`, everything that
has to be reached beside what was. A benchmark's plots come before its tables; those of a page lie beside it, in the directory of its name.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from benchmarks import results
from benchmarks.running import benchmark
from benchmarks.tables import bar_table

_DOCS = Path(__file__).resolve().parent.parent / "docs"
PAGE = _DOCS / "performance.md"
# Every page with the results that it shows: the second one is of a machine whose processors do the work of its disk.
PAGES = {PAGE: results.DIRECTORY, _DOCS / "performance-slow-disk.md": results.DIRECTORY / "slow-disk"}
MEASURED = (
    "stall",
    "huge_pages",
    "history",
    "cadence",
    "durable",
    "processors",
    "restore",
    "preempt",
    "goodput",
    "startup",
    "memory",
    "supervise",
    "notice",
    "accelerator",
)
# The benchmark under which a plot stands, and what it shows to those who do not see it.
PICTURES = {
    "stall": ("stall", "Cost of one save over the size of the state"),
    "cadence": ("interval", "Overhead over the interval between saves"),
    "durable": ("bytes", "Bytes written by each method"),
    "restore": ("restore", "Time to restore by each method"),
    "preempt": ("preempt", "From SIGTERM to exit, beside the time allowed"),
    "goodput": ("goodput", "Useful steps under kills"),
}
_BLOCK = re.compile(r"(<!-- begin (\w+) -->\n).*?(<!-- end \2 -->)", re.DOTALL)


def filled(page: Path, source: Path) -> str:
    """The page's text with what the results say between its markers; a block whose results are not there says so."""
    text = page.read_text(encoding="utf-8")
    return _BLOCK.sub(lambda block: f"{block[1]}{_content(block[2], source, page.stem)}{block[3]}", text)


def _content(name: str, source: Path, folder: str) -> str:
    if name == "bars":
        return _bars(source)
    result = results.load(source, name)
    if result is None:
        return "Not measured yet.\n"
    figures = result["figures"]
    tables = [table.markdown() for table in benchmark(name).tables(figures)]
    picture = [f"![{text}]({folder}/{plot}.png)\n" for plot, text in (PICTURES[name],)] if name in PICTURES else []
    return "\n".join([*picture, *tables, *(f"{reason}\n" for reason in figures.get("skipped", [])), f"{_origin(result)}\n"])


def _origin(result: dict[str, Any]) -> str:
    quick = "" if result["scale"] == "full" else f" The scale was `{result['scale']}`, not the full one."
    return f"Measured on {result['taken'][:10]} at commit {result['commit']}, in {result['seconds']:.0f} s.{quick}"


def _bars(source: Path) -> str:
    found = [result for name in MEASURED if (result := results.load(source, name)) is not None]
    if not found:
        return "Not measured yet.\n"
    bars = [bar for result in found for bar in benchmark(result["benchmark"]).bars(result["figures"])]
    machine = ", ".join(f"{name} {value}" for name, value in found[0]["machine"].items())
    versions = ", ".join(f"{name} {version}" for name, version in found[0]["versions"].items())
    met = sum(bar.met for bar in bars)
    return f"{bar_table(bars, f'{met} of {len(bars)} bars are reached').markdown()}\nMachine: {machine}. Versions: {versions}.\n"


def main() -> None:
    """Rewrite all pages."""
    for shown, source in PAGES.items():
        shown.write_text(filled(shown, source), encoding="utf-8")
        print(shown)


if __name__ == "__main__":
    main()
