"""The kill storm: one program undisturbed, then again and again under kills, and nothing may tell the two apart.

    python -m chaos.storm --kills 200 --seed 1

Rounds (`chaos/rounds.py`) are played until enough kills were delivered. Judged are every exit code, every resume and, at the end of
each round, everything the training ended with. The last line is the verdict; exit code 0 if nothing was wrong, 1 otherwise.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import random
import shlex
import shutil
import sys
import tempfile
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from chaos import oracle, result
from chaos.rounds import FAULTS, Deck, Kill, Place, Reference, Result, Round, undisturbed

DEFAULT_PROGRAM = shlex.join([sys.executable, "-m", "chaos.program"])
# When something is saved must not matter for what comes out.
CADENCES = ("auto", "7", "epoch", "1s")


class Storm:
    """Plays rounds, `jobs` at a time, until `kills` kills were delivered."""

    def __init__(self, program: list[str], root: Path, kills: int, seed: int, jobs: int, console: Console) -> None:
        self._program = program
        self._root = root
        self._seed = seed
        self._jobs = jobs
        self._console = console
        self._deck = Deck(kills, random.Random(seed))
        self._rounds = itertools.count(1)
        self._lock = threading.Lock()

    def play(self) -> list[Result]:
        """All rounds' results; the undisturbed training comes first."""
        reference = undisturbed(self._program, Place(self._root / "undisturbed"))
        self._console.print(f"undisturbed: {len(reference.log)} batches, digest {oracle.combined(reference.outcome)}")
        with concurrent.futures.ThreadPoolExecutor(self._jobs) as pool:
            lanes = [pool.submit(lambda: list(self._lane(reference))) for _ in range(self._jobs)]
            return [played for lane in lanes for played in lane.result()]

    def _lane(self, reference: Reference) -> Iterator[Result]:
        while self._deck:
            with self._lock:
                number = next(self._rounds)
            cadence = CADENCES[(number - 1) % len(CADENCES)]
            place = Place(self._root / f"round-{number}")
            program = [*self._program, "--save-every", cadence]
            played = Round(program, place, f"{self._seed}/{number}", reference, self._deck).play()
            self._report(number, cadence, played)
            if not played.problems:
                shutil.rmtree(place.root)
            yield played

    def _report(self, number: int, cadence: str, played: Result) -> None:
        verdict = "[green]equal[/]" if not played.problems else "[red]NOT EQUAL[/]"
        self._console.print(
            f"round {number:>3} (seed {self._seed}/{number}, save_every={cadence}): {len(played.kills)} kills, "
            f"{played.repeated} of {played.batches} batches trained again, {played.seconds:.0f} s: {verdict}"
        )
        for problem in played.problems[:5]:
            self._console.print(f"    [red]{escape(problem)}[/]")


def table(results: list[Result]) -> Table:
    """Kills by kind: how many, what the process ended with, what they cost."""
    kills = [kill for one in results for kill in one.kills]
    title = "kills, and the batches that had to be trained again"
    view = Table(Column("kill", no_wrap=True), "delivered", "exit codes", "mean", "most", title=title)
    for name in FAULTS:
        mine = [kill for kill in kills if kill.fault == name]
        if mine:
            view.add_row(name, str(len(mine)), _codes(mine), *_costs(mine))
    return view


def _codes(kills: list[Kill]) -> str:
    return ", ".join(f"{code} ({count})" for code, count in sorted(Counter(kill.code for kill in kills).items()))


def _costs(kills: list[Kill]) -> tuple[str, str]:
    lost = [kill.lost for kill in kills if kill.lost is not None]
    return (f"{sum(lost) / len(lost):.1f}", str(max(lost))) if lost else ("", "")


def rows(results: list[Result]) -> list[result.Row]:
    """The same for the table of all parts."""
    found = []
    for name in FAULTS:
        mine = [(kill, one) for one in results for kill in one.kills if kill.fault == name]
        lost = [kill.lost for kill, _ in mine if kill.lost is not None]
        if mine:
            equal = sum(not one.problems for _, one in mine)
            found.append(result.Row(name, len(mine), len(mine), equal, sum(lost) / len(lost) if lost else None))
    return found


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200, help="kills to deliver in all (200)")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything random about them (1)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time (2)")
    parser.add_argument("--program", default=DEFAULT_PROGRAM, help="command that takes --directory, --log, --out and --save-every")
    parser.add_argument("--root", type=Path, help="where to work; rounds that went wrong are left there (a new temporary directory)")
    result.add_option(parser)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Run the storm; 0 if nothing was wrong, else 1."""
    args = arguments(given)
    console = Console(soft_wrap=True, highlight=False)
    root = args.root or Path(tempfile.mkdtemp(prefix="storm-"))
    console.print(f"storm of {args.kills} kills, seed {args.seed}, {args.jobs} at a time, in {root}")
    results = Storm(shlex.split(args.program), root, args.kills, args.seed, args.jobs, console).play()
    problems = [problem for one in results for problem in one.problems]
    console.print(table(results))
    result.write(args.result, rows(results), problems)
    kills = sum(len(one.kills) for one in results)
    if problems:
        console.print(f"NOT EQUAL: {len(problems)} problems in {len(results)} rounds under {kills} kills. What is left of them: {root}")
        return 1
    console.print(f"EQUAL: {len(results)} rounds under {kills} kills ended bit for bit like the undisturbed one (seed {args.seed}).")
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
