"""`resilient prune`."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path

from resilient import reading
from resilient.cli import tables
from resilient.cli.progress import sign_of_life
from resilient.keep import Keep
from resilient.store import RunLock, Store

_LONGEST_NUMBER = 18  # characters; Python refuses to read integers of thousands of digits


def prune_run(directory: Path, keep_last: int, keep_best: int, every: str | None, *, dry_run: bool, json: bool) -> int:
    """Remove what none of the rules keeps, under the run's lock, and list it. A dry run takes no lock and may look at a live run."""
    keep = Keep(last=keep_last, best=keep_best, every=_epochs_or_time(every))
    path = reading.run_directory(directory)
    with contextlib.nullcontext() if dry_run else RunLock(path), sign_of_life("looking through the checkpoints"):
        removed = Store(path).prune(keep, dry_run=dry_run)
    if json:
        tables.print_json({"dry_run": dry_run, "removed": [tables.as_json(info) for info in removed]})
        return 0
    if removed:
        now = dt.datetime.now(dt.UTC)
        rows = [[str(i.step), str(i.epoch), str(i.batch), tables.size(i.nbytes), tables.age(i.created, now)] for i in removed]
        tables.print_table(["step", "epoch", "batch", "size", "age"], rows)
    total = tables.size(sum(info.nbytes for info in removed))
    tables.print_line(f"{tables.count(len(removed), 'checkpoint')} ({total}) {'would be removed' if dry_run else 'removed'}.")
    return 0


def _epochs_or_time(every: str | None) -> int | str | None:
    """A number of epochs as one; anything else is for `Keep` to judge."""
    if every is None or not every.strip().isdecimal() or len(every) > _LONGEST_NUMBER:
        return every
    return int(every)
