"""The kill storm through `resilient run`.

    python -m chaos.supervised --kills 300 --seed 1 --jobs 2

Rounds (`chaos/supervised/round.py`) are played until enough strikes were survived, each with a training from an empty directory to its
end, where it is compared with an undisturbed one. Judged are that no two trainings meet, that nothing is left behind, every exit code,
every line of the journal that tells of an attempt, and the end. The last line is the verdict; exit code 0 if nothing was wrong, else 1.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import itertools
import random
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from chaos import result
from chaos.rounds import Place, Reference
from chaos.supervised.round import Deck, Position, Result, Round, Style, deal, undisturbed
from chaos.supervised.scene import Pace
from chaos.supervised.strikes import STRIKES

LEAN = Pace(training=0.4, start=0.4, shorter_than_a_hang=0.5, longer_than_a_hang=4.0, hang="2s", memory=96 << 20)
REAL = Pace(training=2.0, start=7.0, shorter_than_a_hang=1.0, longer_than_a_hang=12.0, hang="8s", memory=2 << 30)
POISON: Position = (1, 3)
STYLES = (
    Style("patient", give_up=60),
    Style("gives up soon", give_up=3),
    Style("leaves a poison batch out", give_up=60, options=("--skip-poison-batch",), poison=POISON),
    Style("with a spare", give_up=60, options=("--warm-standby",)),
)


class Storm:
    """Plays rounds, `jobs` at a time, until `kills` strikes were survived or it is `until` (monotonic seconds)."""

    def __init__(self, root: Path, kills: int, until: float, seed: int, jobs: int, console: Console, *, lean: bool) -> None:
        module = "lean" if lean else "training"
        self._program = [sys.executable, "-m", f"chaos.supervised.{module}"]
        if not lean:
            self._program += ["--epochs", "12", "--save-every", "11"]
        self._pace, self._most = (LEAN, 40) if lean else (REAL, 10)  # strikes in one round, so that it comes to an end
        # A spare imports TensorFlow, which a lean program is there to do without.
        self._styles = [style for style in STYLES if not (lean and "--warm-standby" in style.options)]
        self._root, self._seed, self._jobs, self._console = root, seed, jobs, console
        self._decks = deal(kills, jobs, random.Random(seed), until)
        self._rounds = itertools.count(1)
        self._lock = threading.Lock()

    def play(self) -> list[Result]:
        """All rounds' results; the undisturbed trainings come first."""
        whole = undisturbed(self._program, Place(self._root / "undisturbed"), None)
        without = undisturbed(self._program, Place(self._root / "undisturbed-without"), POISON)
        self._console.print(f"undisturbed: {len(whole.log)} batches, and {len(without.log)} without one")
        with concurrent.futures.ThreadPoolExecutor(self._jobs) as pool:
            lanes = [pool.submit(lambda deck: list(self._lane(deck, whole, without)), deck) for deck in self._decks]
            return [played for lane in lanes for played in lane.result()]

    def _lane(self, deck: Deck, whole: Reference, without: Reference) -> Iterator[Result]:
        while deck:
            with self._lock:
                number = next(self._rounds)
            style = self._styles[(number - 1) % len(self._styles)]
            place = Place(self._root / f"round-{number}")
            reference = whole if style.poison is None else without
            played = Round(self._program, place, f"{self._seed}/{number}", style, self._pace, reference, deck, self._most).play()
            self._report(number, style, played)
            if not played.problems:
                shutil.rmtree(place.root)
            yield played

    def _report(self, number: int, style: Style, played: Result) -> None:
        verdict = "[green]equal, and true[/]" if not played.problems else "[red]WRONG[/]"
        codes = ", ".join(f"{code} ({count})" for code, count in sorted(Counter(played.codes).items()))
        self._console.print(
            f"round {number:>3} (seed {self._seed}/{number}, {style.name}): {len(played.strikes)} strikes, {played.attempts} attempts, "
            f"supervisors ended with {codes}; {played.seconds:.0f} s: {verdict}"
        )
        for problem in played.problems[:5]:
            self._console.print(f"    [red]{escape(problem)}[/]")


def table(results: list[Result]) -> Table:
    """How often each kind of strike was survived."""
    counts = Counter(name for one in results for name in one.strikes)
    view = Table(Column("strike", no_wrap=True), Column("survived", justify="right"), title="strikes")
    for name in STRIKES:
        if counts[name]:
            view.add_row(name, str(counts[name]))
    return view


def rows(results: list[Result]) -> list[result.Row]:
    """One for each kind of strike; what a round without problems has met was survived, and its end was as it should be."""
    met = Counter(name for one in results for name in one.strikes)
    sound = Counter(name for one in results if not one.problems for name in one.strikes)
    return [result.Row(name, met[name], sound[name], sound[name]) for name in STRIKES if met[name]]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=300, help="strikes to survive in all (300)")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything random about them (1)")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at the same time (2)")
    parser.add_argument("--lean", action="store_true", help="a training of the standard library alone: many times as many kills a minute")
    parser.add_argument("--minutes", type=float, default=float("inf"), help="no more strikes after so many (any number)")
    parser.add_argument("--root", type=Path, help="where to work; rounds that went wrong are left there (a new temporary directory)")
    result.add_option(parser)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Run the storm; 0 if nothing was wrong, else 1."""
    args = arguments(given)
    console = Console(soft_wrap=True, highlight=False)
    root = args.root or Path(tempfile.mkdtemp(prefix="supervised-"))
    console.print(f"storm of {args.kills} strikes, seed {args.seed}, {args.jobs} at a time, in {root}")
    until = time.monotonic() + 60 * args.minutes
    results = Storm(root, args.kills, until, args.seed, args.jobs, console, lean=args.lean).play()
    problems = [problem for one in results for problem in one.problems]
    console.print(table(results))
    result.write(args.result, rows(results), problems)
    strikes = sum(len(one.strikes) for one in results)
    if problems:
        console.print(f"WRONG: {len(problems)} problems in {len(results)} rounds under {strikes} strikes. What is left of them: {root}")
        return 1
    ended = f"{len(results)} rounds under {strikes} strikes ended as the undisturbed one"
    console.print(f"EQUAL: {ended}, and their journals are true (seed {args.seed}).")
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
