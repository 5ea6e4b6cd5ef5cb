"""Watch training and supervisor for a long time: what grows after the warm-up is a leak.

    python -m chaos.soak --minutes 5 --seed 1 --jobs 2
    python -m chaos.soak --hours 8

The table tells of each measure where it began and ended after its warm-up. Exit code 0 if nothing grew and nothing failed, 1 otherwise.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from chaos import result
from chaos.soak.scenes import SCENES, Seen
from chaos.soak.watching import UNITS


def table(scenes: Sequence[Seen]) -> Table:
    """One row a measure."""
    view = Table("scene", "measure", "after warm-up", "at the end", "highest", "", title="soak")
    for seen in scenes:
        for name, trend in seen.trends.items():
            unit = UNITS.get(name.rpartition(": ")[2], "")
            if trend is None:
                view.add_row(seen.name, name, "", "", "", "too short to tell")
                continue
            cells = (f"{value:.1f}{unit}" for value in (trend.first, trend.last, trend.highest))
            view.add_row(seen.name, name, *cells, "[red]GROWS[/]" if trend.leaks else "[green]holds[/]")
    return view


def rows(scenes: Sequence[Seen]) -> list[result.Row]:
    """For the table of all parts: kills that a run went on after, and saves of a training that nothing happened to."""
    found = []
    for seen in scenes:
        kills = sum(seen.kills.values())
        done = kills or seen.events["saved"]
        found.append(result.Row(f"soak: {seen.name}", done, 0 if seen.problems else done))
    return found


def arguments(given: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5, help="of watching, start and stop not counted (5)")
    parser.add_argument("--hours", type=float, help="the same in hours")
    parser.add_argument("--seed", type=int, default=1, help="of the kills (1)")
    parser.add_argument("--jobs", type=int, default=2, help="scenes at the same time (2)")
    parser.add_argument("--root", type=Path, help="where to work; what went wrong is left there (a new temporary directory)")
    result.add_option(parser)
    return parser.parse_args(given)


def main(given: Sequence[str] | None = None) -> int:
    """Soak; 0 if nothing grew and nothing failed, else 1."""
    args = arguments(given)
    console = Console(soft_wrap=True, highlight=False)
    root = args.root or Path(tempfile.mkdtemp(prefix="soak-"))
    seconds = 3600 * args.hours if args.hours is not None else 60 * args.minutes
    each = seconds if args.jobs >= len(SCENES) else seconds / len(SCENES)
    console.print(f"{len(SCENES)} scenes of {each:.0f} s, {args.jobs} at a time, seed {args.seed}, in {root}")
    with concurrent.futures.ThreadPoolExecutor(args.jobs) as pool:
        scenes = list(pool.map(lambda scene: scene(root, each, args.seed).play(), SCENES))
    console.print(table(scenes))
    problems = [problem for seen in scenes for problem in seen.problems]
    result.write(args.result, rows(scenes), problems)
    for seen in scenes:
        kills = ", ".join(f"{count} {name}" for name, count in sorted(seen.kills.items())) or "none"
        console.print(f"{seen.name}: kills: {kills}; saves: {seen.events['saved']}; resumes: {seen.events['restored']}")
    for problem in problems:
        console.print(f"PROBLEM: {problem}", markup=False)
    if not problems:
        console.print(f"HOLDS: nothing grew within {each:.0f} s (seed {args.seed}).")
        shutil.rmtree(root, ignore_errors=True)
    return int(bool(problems))


if __name__ == "__main__":
    sys.exit(main())
