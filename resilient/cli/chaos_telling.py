"""What `resilient chaos` shows: a line that moves while it runs, and the table at the end."""

from __future__ import annotations

import contextlib
import shlex
import shutil
import sys
import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from resilient.chaos import Outcome, Verdict
from resilient.chaos.document import Row, rows
from resilient.chaos.strikes import KINDS
from resilient.chaos.striking import Blow
from resilient.chaos.trained import Observer
from resilient.cli import tables
from resilient.cli.outcome import printable
from resilient.manifest import Progress

_REFRESH = 0.1  # seconds: more often nobody reads
_RARELY = 10.0  # where it is no terminal, a line of progress each time so many seconds have passed
_VERDICTS = {Verdict.EQUAL: "EQUAL", Verdict.DIFFERENT: "NOT EQUAL", Verdict.NOT_REPRODUCIBLE: "NOT REPRODUCIBLE"}


class _Lines(Observer):
    """To a pipe or a file: what happens, and every few seconds where it stands."""

    def __init__(self) -> None:
        self._due = time.monotonic() + _RARELY

    def event(self, text: str) -> None:
        """A line."""
        with contextlib.suppress(OSError):  # nobody listens
            sys.stderr.write(f"{printable(text)}\n")
            sys.stderr.flush()

    def position(self, attempt: int, progress: Progress | None, blows: int, elapsed: float) -> None:
        """A line now and then."""
        if time.monotonic() >= self._due:
            self._due = time.monotonic() + _RARELY
            self.event(_where(attempt, progress, blows, elapsed))


class _Screen(_Lines):
    """To a terminal: one line that changes, below the lines of what happens."""

    def position(self, attempt: int, progress: Progress | None, blows: int, elapsed: float) -> None:
        """Write the line anew."""
        if time.monotonic() < self._due:
            return
        self._due = time.monotonic() + _REFRESH
        with contextlib.suppress(OSError):
            sys.stderr.write(f"\r\x1b[K{_where(attempt, progress, blows, elapsed)}")
            sys.stderr.flush()

    def event(self, text: str) -> None:
        """A line above it."""
        self.clear()
        super().event(text)

    def clear(self) -> None:
        """Take the line away."""
        self._due = 0.0
        with contextlib.suppress(OSError):
            sys.stderr.write("\r\x1b[K")


def _where(attempt: int, progress: Progress | None, blows: int, elapsed: float) -> str:
    at = "starting" if progress is None else f"epoch {progress.epoch}, batch {progress.batch}, step {progress.step}"
    return f"{elapsed:5.0f} s   attempt {attempt}   {at}   {tables.count(blows, 'fault')} so far"


@contextlib.contextmanager
def telling(command: Sequence[str], root: Path) -> Iterator[Observer]:
    """Whom the test tells what goes on: stderr, whatever that is."""
    observer = _Screen() if sys.stderr.isatty() else _Lines()
    observer.event(f"first undisturbed: {shlex.join(command)}")
    observer.event(f"its runs are kept in {root}; whatever else it writes, it writes where it always does")
    try:
        yield observer
    finally:
        if isinstance(observer, _Screen):
            observer.clear()


def print_outcome(outcome: Outcome, *, kept: Path | None, output: Path | None) -> None:
    """The table, the numbers, the verdict."""
    columns = ["at", "attempt", "fault", "epoch", "step", "resumed", "lost"]
    told = rows(outcome)
    if told:
        tables.print_table(columns, [_cells(row) for row in told], left=["fault"], folded=["fault"])
        tables.print_line("")
    for name, value in [*details(outcome), *_beside(outcome)]:
        _print_folded(value, name)
    if kept is not None:
        _print_folded(str(kept), "kept in")
    if output is not None:
        _print_folded(str(output), "report")
    tables.print_line("")
    _print_folded(f"{_VERDICTS.get(outcome.verdict, 'NOT FINISHED')}: {outcome.sentence}")


def _print_folded(text: str, name: str = "") -> None:
    """Text in the terminal's width, with a name before it; words that are longer than a line, such as paths, stay whole."""
    width, indent = shutil.get_terminal_size((80, 24)).columns, " " * 13 if name else ""
    first = f"{name:<13}"[: len(indent)]
    lines = textwrap.wrap(text, width, initial_indent=first, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False)
    for line in lines:
        tables.print_line(line)


def _cells(row: Row) -> list[str]:
    blow, progress = row.blow, row.blow.progress
    ends = KINDS[blow.kind].ends
    resumed = str(row.resumed) if row.resumed is not None else "afresh" if ends and row.afresh else ""
    return [
        f"{blow.elapsed:.1f} s",
        str(blow.attempt),
        does(blow),
        "" if progress is None else str(progress.epoch),
        "" if progress is None else str(progress.step),
        resumed,
        "" if row.lost is None else str(row.lost),
    ]


def does(blow: Blow) -> str:
    """What was done, for people."""
    return KINDS[blow.kind].does + (f" ({blow.note})" if blow.note else "")


def details(outcome: Outcome) -> list[tuple[str, str]]:
    """The numbers, as (name, value)."""
    disturbed, facts, spent = outcome.disturbed, outcome.facts, outcome.time
    delivered = len(disturbed.blows)
    of = f" of {outcome.planned}" if outcome.planned is not None else ""
    late = "; the training was over before the others" if outcome.planned is not None and delivered < outcome.planned else ""
    share = f", {outcome.lost_steps / facts.steps:.1%} of those needed" if facts.steps else ""
    goodput = "unknown" if spent.goodput is None else f"{spent.goodput:.1%} of the time was training that counts"
    return [
        ("command", shlex.join(outcome.command)),
        ("schedule", f"{outcome.schedule}, seed {outcome.seed}"),
        ("undisturbed", f"{tables.count(facts.steps, 'step')} in {facts.seconds:.1f} s, {facts.startup:.1f} s until the first batch"),
        ("disturbed", f"{disturbed.seconds:.1f} s, {tables.count(len(disturbed.attempts), 'attempt')}, {delivered}{of} faults{late}"),
        ("lost work", f"{tables.count(outcome.lost_steps, 'step')} trained again{share}"),
        ("goodput", goodput),
        ("time", f"training {spent.training:.1f} s, saving {spent.saving:.1f} s, lost {spent.lost:.1f} s, "
                 f"all else (starting) {spent.starting:.1f} s"),
    ]  # fmt: skip


def _beside(outcome: Outcome) -> list[tuple[str, str]]:
    """What differs although nothing is promised about it."""
    names = list(dict.fromkeys(name for run in outcome.runs for name in run.comparison.beside))
    if not names:
        return []
    return [("also differs", f"{', '.join(names[:5])}{' ...' if len(names) > 5 else ''}: no part of the promise")]
