"""`python -m benchmarks.<name>`: measures, prints, and writes the result as JSON.

A benchmark is a module with `SCALES` (what to measure: "full", "quick", "toy"), `measure(scale, directory)` -> figures as plain JSON,
`tables(figures)` and `bars(figures)`. What trains does so in the environment that `resilient run` gives to a program.
"""

from __future__ import annotations

import argparse
import importlib
import logging
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, Protocol, cast

from rich.console import Console

from benchmarks import results
from benchmarks.tables import Bar, Table, bar_table
from resilient.supervisor.child import huge_page_variables

SCRATCH = Path("runs/bench")


class Benchmark(Protocol):
    """What a module of a benchmark offers."""

    SCALES: dict[str, Any]

    def measure(self, scale: Any, directory: Path) -> dict[str, Any]:
        """Figures, as plain JSON."""

    def tables(self, figures: dict[str, Any]) -> list[Table]:
        """What to show of them."""

    def bars(self, figures: dict[str, Any]) -> list[Bar]:
        """What has to be reached, beside what was; [] where nothing has to be."""


def benchmark(name: str) -> Benchmark:
    """The module of that name."""
    return cast(Benchmark, importlib.import_module(f"benchmarks.{name}"))


def arguments(description: str) -> argparse.ArgumentParser:
    """What every benchmark takes on the command line."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds; the result goes to the scratch directory")
    parser.add_argument("--scratch", type=Path, default=SCRATCH, help=f"on the disk to measure (default: {SCRATCH})")
    parser.add_argument("--results", type=Path, help=f"where the JSON goes (default: {results.DIRECTORY.name}/ beside the benchmarks)")
    return parser


def run(name: str, *, trains: bool = True) -> None:
    """Measure one benchmark with the arguments of the command line."""
    options = arguments(f"Measures {name}; docs/performance.md says how.").parse_args()
    if trains:
        _as_supervised()
    scale = "quick" if options.quick else "full"
    module = benchmark(name)
    logging.getLogger("tensorflow").setLevel(logging.ERROR)  # it warns that many models are built in one process
    options.scratch.mkdir(parents=True, exist_ok=True)
    began = time.perf_counter()
    with tempfile.TemporaryDirectory(dir=options.scratch) as directory:
        figures = module.measure(module.SCALES[scale], Path(directory))
    target = options.results or (options.scratch / "results" if options.quick else results.DIRECTORY)
    result = results.save(target, name, scale, time.perf_counter() - began, figures, options.scratch)
    show(module, result)


def _as_supervised() -> None:
    """Begin again with that environment, which the C library reads once."""
    missing = huge_page_variables(os.environ)
    if missing:
        os.execve(sys.executable, sys.orig_argv, {**os.environ, **missing})


def show(module: Benchmark, result: dict[str, Any]) -> None:
    """Print tables, bars, and what could not be measured."""
    console = Console(width=None if sys.stdout.isatty() else 140)
    figures = result["figures"]
    bars = module.bars(figures)
    for table in [*module.tables(figures), *([bar_table(bars, "What has to be reached")] if bars else [])]:
        console.print(table.console())
    for reason in figures.get("skipped", []):
        console.print(reason)
    console.print(f"{result['benchmark']} took {result['seconds']:.0f} s")
