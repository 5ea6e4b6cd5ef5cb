"""A sign of life on stderr for what takes longer than a second, where a human is watching."""

from __future__ import annotations

import contextlib
import sys
import threading
from collections.abc import Callable, Iterator

_PATIENCE = 1.0  # seconds without a sign of life
_REFRESH = 0.1


@contextlib.contextmanager
def sign_of_life(what: str, total: int | None = None) -> Iterator[Callable[[int], None]]:
    """A bar with the time, as long as the block runs.

    Args:
        what: is being done.
        total: how much there is to do, None where nobody knows.

    Yields:
        To be told how much more is done; from any thread.
    """
    done = [0]

    def advance(amount: int) -> None:
        done[0] += amount

    if not sys.stderr.isatty():
        yield advance
        return
    ended = threading.Event()
    display = threading.Thread(target=_show_until, args=(ended, what, total, done), name="resilient-progress")
    display.start()
    try:
        yield advance
    finally:
        ended.set()
        display.join()


def _show_until(ended: threading.Event, what: str, total: int | None, done: list[int]) -> None:
    if ended.wait(_PATIENCE):
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn

    known = (TaskProgressColumn(), TimeRemainingColumn()) if total else ()
    columns = (TextColumn("{task.description}"), BarColumn(), *known, TimeElapsedColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task(what, total=total or None)
        while not ended.wait(_REFRESH):
            progress.update(task, completed=done[0])
