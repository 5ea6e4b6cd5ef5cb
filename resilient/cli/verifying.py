"""`resilient verify`."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

from resilient import reading
from resilient.cli import tables

_PATIENCE = 1.0  # seconds without a sign of life


def verify_run(directory: Path, *, json: bool) -> int:
    """Verify everything and list what is damaged; 1 if anything is."""
    found = reading.survey(directory)
    sound = [*found.checkpoints, *([found.final] if found.final else [])]
    nbytes = sum(info.nbytes for info in sound)
    with _sign_of_life(f"re-reading {tables.size(nbytes)}"):
        problems = reading.verify(directory)
    number = len(sound) + len(found.damaged) + len(found.newer)
    if json:
        documents = [{"path": str(problem.path), "reason": problem.reason} for problem in problems]
        tables.print_json({"checkpoints": number, "nbytes": nbytes, "problems": documents})
    else:
        for problem in problems:
            tables.print_line(str(problem))
        tables.print_line(f"{tables.count(number, 'checkpoint')} verified, {tables.count(len(problems), 'problem')}.")
    return 1 if problems else 0


@contextlib.contextmanager
def _sign_of_life(what: str) -> Iterator[None]:
    """A moving bar with the time on stderr if the block lasts longer than a second and a human is watching."""
    if not sys.stderr.isatty():
        yield
        return
    ended = threading.Event()
    display = threading.Thread(target=_show_until, args=(ended, what), name="resilient-progress")
    display.start()
    try:
        yield
    finally:
        ended.set()
        display.join()


def _show_until(ended: threading.Event, what: str) -> None:
    if ended.wait(_PATIENCE):
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        progress.add_task(what, total=None)
        ended.wait()
