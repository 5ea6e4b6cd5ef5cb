"""The storm over the inputs: every kind of data that `Model.fit` takes, and every feature that a resume has to carry over, under kills.

    python -m chaos.inputs --kills 25 --seed 1 --jobs 2 --backend tensorflow --only tfdata-shuffle

Each program (`chaos/programs/`) is trained twice undisturbed, which has to end equal, and once by plain `model.fit`. Then it is trained
again and again under SIGKILL and SIGTERM at random moments until enough of them were delivered, with a resume after each, some of them
twice within one epoch. Judged are exit codes, resumes, and in the end every bit of what is left and the very samples that were trained.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import contextlib
import dataclasses
import random
import re
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from chaos import inputs_round, result
from chaos.inputs_round import CADENCES, Fresh, Reference, Result, Round, Starter
from chaos.programs import registry
from chaos.programs.registry import Program
from chaos.rounds import Place
from chaos.zygote import Zygote

_ROW = re.compile(r"\| `([a-z0-9-]+)` \| ([a-z]+) \|")
MARKERS = ("<!-- inputs-table -->", "<!-- /inputs-table -->")
KILLS_PER_ROUND = 9
MOST_ROUNDS = 12

EQUAL = "EQUAL"
NOT_EQUAL = "NOT EQUAL"
NOT_REPRODUCIBLE = "NOT REPRODUCIBLE"  # undisturbed: nothing can be said about a resume
FAILS = "FAILS UNDISTURBED"
TOO_FEW = "TOO FEW KILLS"
SKIPPED = "SKIPPED"  # something it needs is not installed


@dataclasses.dataclass
class Verdict:
    """What is known about one program on one backend in the end."""

    program: Program
    backend: str
    verdict: str
    result: Result = dataclasses.field(default_factory=Result)
    seconds: float = 0.0

    @property
    def kills(self) -> int:
        """Delivered."""
        return sum(self.result.kills.values())

    def __str__(self) -> str:
        kinds = ", ".join(f"{count} {name}" for name, count in sorted(self.result.kills.items()))
        name = self.program.name if self.backend == "tensorflow" else f"{self.program.name} ({self.backend})"
        return (
            f"{name}: {self.kills} kills ({kinds}), {self.result.resumes} resumes within one epoch, "
            f"{self.result.repeated} batches trained again, {self.seconds:.0f} s, {self.verdict}"
        )


class Siege:
    """One program on one backend: undisturbed, then killed until `kills` were delivered."""

    def __init__(
        self, program: Program, starter: Starter, root: Path, backend: str, kills: int, seed: int, *, compare: bool = True
    ) -> None:
        self._program = program
        self._starter = starter
        self._root = root
        self._backend = backend
        self._kills = kills
        self._name = f"{seed}/{backend}/{program.name}"
        self._chance = random.Random(self._name)
        self._compare = compare

    def lay(self) -> Verdict:
        """Everything about this program; never raises for what the program does."""
        began = time.monotonic()
        verdict = Verdict(self._program, self._backend, EQUAL)
        if self._program.missing:
            verdict.verdict = f"{SKIPPED}: needs {', '.join(self._program.missing)}"
            return verdict
        reference = self._undisturbed(verdict)
        if reference is not None:
            self._storm(reference, verdict.result)
            if verdict.result.problems:
                verdict.verdict = NOT_EQUAL
            elif verdict.kills < self._kills or (self._kills >= 2 and verdict.result.resumes < 2):
                verdict.verdict = TOO_FEW
        verdict.seconds = time.monotonic() - began
        return verdict

    def _undisturbed(self, verdict: Verdict) -> Reference | None:
        """The reference, None if there can be none; the verdict then says why."""
        for name, how in (("undisturbed", "resilient"), ("undisturbed again", "resilient"), ("plain", "plain")):
            if (name == "plain" and not self._program.equals_plain(self._backend)) or (name != "undisturbed" and not self._compare):
                continue
            place = Place(self._root / name)
            problem = inputs_round.run_undisturbed(self._program, self._starter, place, how)
            if problem:
                self._hopeless(verdict, FAILS, f"{name}: {problem}")
                return None
            if name == "undisturbed":
                reference = Reference(self._program, place)
                continue
            found = reference.differences(self._program, place)
            if found and name == "plain":
                real = [difference for difference in found if not difference.startswith(self._program.races or "\0")]
                verdict.result.problems += [f"undisturbed it is not what model.fit gives: {difference}" for difference in real]
            elif found:
                self._hopeless(verdict, NOT_REPRODUCIBLE, *found)
                return None
        return reference

    def _hopeless(self, verdict: Verdict, what: str, *problems: str) -> None:
        verdict.verdict = what
        verdict.result.problems += problems

    def _storm(self, reference: Reference, result: Result) -> None:
        cadences: list[str] = []
        for number in range(1, MOST_ROUNDS + 1):
            left = self._kills - sum(result.kills.values())
            if left <= 0 and (result.resumes >= 2 or self._kills < 2):
                return
            if not cadences:
                cadences = self._chance.sample(CADENCES, len(CADENCES))
            hand = inputs_round.deal(max(2, min(left, KILLS_PER_ROUND)), self._program.validates, self._chance)
            place = Place(self._root / f"round-{number}")
            played = Round(self._program, self._starter, place, f"{self._name}/{number}", cadences.pop(), reference, hand).play()
            result.add(played)
            if played.problems:
                return
            shutil.rmtree(place.root, ignore_errors=True)


class Storm:
    """All programs of the table, `jobs` at a time."""

    def __init__(
        self, root: Path, kills: int, seed: int, jobs: int, fresh: bool, console: Console, page: Page | None, *, compare: bool = True
    ) -> None:
        self._root = root
        self._kills = kills
        self._seed = seed
        self._jobs = jobs
        self._fresh = fresh
        self._console = console
        self._page = page
        self._compare = compare
        self._lock = threading.Lock()

    def play(self, chosen: Iterable[tuple[Program, str]]) -> list[Verdict]:
        """Verdicts in the order of `chosen`."""
        self._root.mkdir(parents=True, exist_ok=True)
        by_backend: dict[str, list[Program]] = {}
        for program, backend in chosen:
            by_backend.setdefault(backend, []).append(program)
        verdicts: list[Verdict] = []
        for backend, programs in by_backend.items():
            with self._starter(backend) as starter, concurrent.futures.ThreadPoolExecutor(self._jobs) as pool:
                verdicts += pool.map(lambda program: self._one(program, backend, starter), programs)  # noqa: B023  consumed here
        return verdicts

    @contextlib.contextmanager
    def _starter(self, backend: str) -> Iterator[Starter]:
        if self._fresh:
            yield Fresh(backend)
            return
        zygote = Zygote(backend, self._root / f"server-{backend}.txt")
        try:
            yield zygote
        finally:
            zygote.close()

    def _one(self, program: Program, backend: str, starter: Starter) -> Verdict:
        root = self._root / backend / program.name
        verdict = Siege(program, starter, root, backend, self._kills, self._seed, compare=self._compare).lay()
        skipped = verdict.verdict.startswith(SKIPPED)
        color = "green" if verdict.verdict == EQUAL else "yellow" if skipped else "red"
        with self._lock:
            self._console.print(f"[{color}]{escape(str(verdict))}[/]")
            for problem in verdict.result.problems[:5]:
                self._console.print(f"    [red]{escape(problem)}[/]")
            if self._page is not None and not skipped:
                self._page.add(verdict)
        if verdict.verdict == EQUAL:
            shutil.rmtree(root, ignore_errors=True)
        return verdict


def choose(only: list[str] | None, backends: list[str] | None) -> list[tuple[Program, str]]:
    """Programs with the backends to run them on, by backend.

    Raises:
        SystemExit: there is no such program.
    """
    programs = registry.table()
    unknown = [name for name in only or () if name not in programs and not any(one.theme == name for one in programs.values())]
    if unknown:
        raise SystemExit(f"There is no program {', '.join(unknown)}. See --list.")
    wanted = [one for one in programs.values() if (one.name in only or one.theme in only if only else not one.control)]
    return [(one, backend) for backend in backends or registry.installed() for one in wanted if backend in one.backends]


class Page:
    """The table in a file, between its markers where it has them: rows of earlier runs stay, and each verdict is written as it comes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        content = path.read_text(encoding="utf-8") if path.exists() else ""
        marked = all(marker in content for marker in MARKERS)
        self._before, inside, self._after = _split(content) if marked else ("", content, "\n")
        self._rows = {match.groups(): line for line in inside.splitlines() if (match := _ROW.match(line))}

    def add(self, one: Verdict) -> None:
        """One more verdict."""
        kills = ", ".join(f"{count} {kind}" for kind, count in sorted(one.result.kills.items()))
        cells = (f"`{one.program.name}`", one.backend, one.program.says, kills, str(one.result.resumes), one.verdict.lower())
        self._rows[one.program.name, one.backend] = f"| {' | '.join(cells)} |"
        head = ["| program | backend | what is special | kills | resumes within one epoch | verdict |", "|---|---|---|---|---|---|"]
        order = [(name, backend) for backend in registry.ALL for name in registry.table()]
        text = "\n".join([*head, *(self._rows[key] for key in order if key in self._rows)])
        self._path.write_text(f"{self._before}{MARKERS[0]}\n{text}\n{MARKERS[1]}{self._after}", encoding="utf-8")


def _split(content: str) -> tuple[str, str, str]:
    before, _, rest = content.partition(MARKERS[0])
    inside, _, after = rest.partition(MARKERS[1])
    return before, inside, after


def table(verdicts: list[Verdict]) -> Table:
    """One row a verdict: how many programs."""
    view = Table("verdict", "programs", "kills", "resumes within one epoch", "batches trained again")
    for verdict, count in Counter(one.verdict for one in verdicts).items():
        mine = [one for one in verdicts if one.verdict == verdict]
        sums = (sum(one.kills for one in mine), sum(one.result.resumes for one in mine), sum(one.result.repeated for one in mine))
        view.add_row(verdict, str(count), *map(str, sums))
    return view


def rows(verdicts: list[Verdict]) -> list[result.Row]:
    """The same for the table of all parts: a row for the programs of one theme."""
    found = []
    for theme in dict.fromkeys(one.program.theme for one in verdicts):
        mine = [one for one in verdicts if one.program.theme == theme and not one.verdict.startswith(SKIPPED)]
        kills = sum(one.kills for one in mine)
        if kills:
            equal = sum(one.kills for one in mine if one.verdict == EQUAL)
            fault = f"SIGKILL, SIGTERM: {theme} ({len(mine)} programs)"
            found.append(result.Row(fault, kills, kills, equal, sum(one.result.repeated for one in mine) / kills))
    return found


def problems(verdicts: list[Verdict]) -> list[str]:
    """A sentence for each program that did not end equal."""
    bad = [one for one in verdicts if one.verdict != EQUAL and not one.verdict.startswith(SKIPPED)]
    return [f"{one.program.name} ({one.backend}): {one.verdict} {' '.join(one.result.problems[:1])}" for one in bad]


def arguments(given: list[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=25, help="kills for each program (25)")
    parser.add_argument("--seed", type=int, default=1, help="seed of everything random about them (1)")
    parser.add_argument("--jobs", type=int, default=2, help="programs at the same time (2)")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="programs, or themes of them (all)")
    parser.add_argument("--backend", nargs="+", choices=registry.ALL, help="of Keras (all)")
    parser.add_argument("--list", action="store_true", help="list the programs and do nothing")
    parser.add_argument("--fresh", action="store_true", help="a new interpreter for each attempt, and no fork server")
    parser.add_argument("--quick", action="store_true", help="take one undisturbed training for granted, which a long storm checks")
    parser.add_argument("--write", type=Path, metavar="FILE", help="keep the Markdown table in this file, between its markers, up to date")
    parser.add_argument("--root", type=Path, help="where to work; what went wrong is left there (a new temporary directory)")
    result.add_option(parser)
    return parser.parse_args(given)


def main(given: list[str] | None = None) -> int:
    """Run the storm; 0 if every program ended equal, else 1."""
    args = arguments(given)
    console = Console(soft_wrap=True, highlight=False)
    chosen = choose(args.only, args.backend)
    if args.list:
        for program in dict.fromkeys(program for program, _ in chosen):
            console.print(f"{program.name:<34} {', '.join(program.backends):<24} {program.says}", markup=False)
        return 0
    root = args.root or Path(tempfile.mkdtemp(prefix="inputs-"))
    console.print(f"{len(chosen)} programs, {args.kills} kills each, seed {args.seed}, {args.jobs} at a time, in {root}")
    page = Page(args.write) if args.write else None
    verdicts = Storm(root, args.kills, args.seed, args.jobs, args.fresh, console, page, compare=not args.quick).play(chosen)
    console.print(table(verdicts))
    result.write(args.result, rows(verdicts), problems(verdicts))
    bad = [one for one in verdicts if one.verdict != EQUAL and not one.verdict.startswith(SKIPPED)]
    kills = sum(one.kills for one in verdicts)
    console.print(
        f"{sum(one.verdict == EQUAL for one in verdicts)} of {len(verdicts)} programs EQUAL under {kills} kills (seed {args.seed})."
    )
    if bad:
        console.print(f"Not: {', '.join(f'{one.program.name} ({one.backend})' for one in bad)}. What is left of them: {root}")
        return 1
    shutil.rmtree(root, ignore_errors=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
