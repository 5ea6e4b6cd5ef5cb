"""Build every state that a crash may leave, and run the real restore on each: `python -m chaos.crash_states`.

The table says for each life and model of persistence how many states were tried and how many were bad; with --mutants, which state
gave each broken protocol away. Exit code 0 if no state was bad (every mutant was caught), 1 otherwise.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import sys
import time
from pathlib import Path

from rich.console import Console
from rich.table import Column, Table

from chaos import result
from chaos.crash_states import explore, mutants, page
from chaos.crash_states.explore import Bad, Count
from chaos.crash_states.lives import LIVES, named
from chaos.crash_states.persistence import MODELS, Breadth

Surveys = dict[str, dict[str, Count]]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m chaos.crash_states", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutants", action="store_true", help="try the broken protocols instead")
    parser.add_argument("--only", nargs="+", metavar="LIFE", help=f"of {', '.join(life.name for life in LIVES)} (all)")
    parser.add_argument("--samples", type=int, default=24, help="subsets drawn where there are too many to try all (24)")
    parser.add_argument("--restarts", type=int, default=40, help="states of each model whose restart is cut as well (40)")
    parser.add_argument("--jobs", type=int, default=2, help="processes (2)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the Markdown tables in this file, between its markers, up to date")
    result.add_option(parser)
    return parser.parse_args(given)


def survey(args: argparse.Namespace, pool: concurrent.futures.Executor, console: Console) -> tuple[Surveys, int]:
    """All lives on all kinds of machine, and how many different states there were."""
    chosen = [life for life in LIVES if not args.only or life.name in args.only]
    lanes = [pool.submit(_survey, life.name, way, args.samples, args.restarts) for life in chosen for way in life.ways]
    found: Surveys = {}
    distinct = 0
    for lane in lanes:
        name, counts, different = lane.result()
        found[name] = counts
        distinct += different
        for one in (bad for count in counts.values() for bad in count.bad[:3]):
            console.print(f"BAD {one}", markup=False)
    return found, distinct


def _survey(name: str, way: str, samples: int, restarts: int) -> tuple[str, dict[str, Count], int]:
    return explore.survey(named(name), way, Breadth(samples=samples), restarts)


def states_table(found: Surveys) -> Table:
    """Lives by models: states, those within restarts, bad ones."""
    view = Table(Column("life", no_wrap=True), title="states that a crash may leave: tried + in restarts cut again, bad")
    for model in MODELS:
        view.add_column(model, justify="right")
    view.add_column("bad", justify="right")
    for name, counts in found.items():
        cells = [f"{counts[model].states} + {counts[model].restarts}" for model in MODELS]
        view.add_row(name, *cells, str(sum(len(count.bad) for count in counts.values())))
    return view


def mutants_table(found: dict[str, Bad | None]) -> Table:
    """Mutants, and the state that gave each away."""
    view = Table(Column("mutant", no_wrap=True), "caught by", title="broken protocols")
    for name, bad in found.items():
        view.add_row(name, "NOT CAUGHT" if bad is None else f"{bad.life}, {bad.model}: {bad.state}")
    return view


def main(given: list[str] | None = None) -> int:
    """Explore; 0 if nothing was wrong, else 1."""
    args = arguments(given)
    console = Console(soft_wrap=False, highlight=False)
    began = time.monotonic()
    with concurrent.futures.ProcessPoolExecutor(args.jobs) as pool:
        if args.mutants:
            names = [mutant.name for mutant in mutants.MUTANTS]
            return _end_of_mutants(args, console, dict(zip(names, pool.map(mutants.caught, names), strict=True)))
        found, distinct = survey(args, pool, console)
    console.print(states_table(found))
    problems = [str(bad) for counts in found.values() for count in counts.values() for bad in count.bad]
    seconds = time.monotonic() - began
    console.print(f"{'BAD' if problems else 'GOOD'}: {distinct} different states in {seconds:.0f} s, {len(problems)} bad.")
    result.write(args.result, _rows(found), problems)
    if args.write:
        page.write_states(args.write, found, distinct)
    return int(bool(problems))


def _rows(found: Surveys) -> list[result.Row]:
    rows = []
    for model in MODELS:
        counts = [counts[model] for counts in found.values()]
        runs = sum(count.states + count.restarts for count in counts)
        rows.append(result.Row(f"crash states, {model}", runs, runs - sum(len(count.bad) for count in counts)))
    return rows


def _end_of_mutants(args: argparse.Namespace, console: Console, found: dict[str, Bad | None]) -> int:
    console.print(mutants_table(found))
    missed = [name for name, bad in found.items() if bad is None]
    console.print(f"{len(found) - len(missed)} of {len(found)} broken protocols were caught.")
    problems = [f"the broken protocol {name!r} was not caught" for name in missed]
    result.write(args.result, [result.Row("broken protocols caught", len(found), len(found) - len(missed))], problems)
    if args.write:
        page.write_mutants(args.write, found)
    return int(bool(missed))


if __name__ == "__main__":
    sys.exit(main())
