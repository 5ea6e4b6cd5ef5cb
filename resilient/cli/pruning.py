"""`resilient prune`."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path

from resilient import reading
from resilient.cli import tables
from resilient.keep import Keep
from resilient.store import RunLock, Store


def prune_run(directory: Path, keep_last: int, keep_best: int, every: str | None, *, dry_run: bool, json: bool) -> int:
    """Remove what none of the rules keeps, under the run's lock, and list it. A dry run takes no lock and may look at a live run."""
    keep = Keep(last=keep_last, best=keep_best, every=int(every) if every is not None and every.strip().isdecimal() else every)
    path = reading.run_directory(directory)
    with contextlib.nullcontext() if dry_run else RunLock(path):
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
