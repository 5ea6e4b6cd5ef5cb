"""`resilient prune`."""

from __future__ import annotations

import contextlib
import datetime as dt
from pathlib import Path

from resilient import reading
from resilient.cli import tables
from resilient.cli.progress import sign_of_life
from resilient.durations import parse_duration
from resilient.errors import ConfigurationError
from resilient.keep import Keep
from resilient.store import RunLock, Store

_LONGEST_NUMBER = 18  # characters; Python refuses to read integers of thousands of digits


def prune_run(directory: Path, keep_last: int, keep_best: int, every: str | None, *, dry_run: bool, json: bool) -> int:
    """Remove what none of the rules keeps, under the run's lock, and list it. A dry run takes no lock and may look at a live run."""
    keep = _rules(keep_last, keep_best, every)
    path = reading.run_directory(directory)
    with (
        contextlib.nullcontext() if dry_run else RunLock(path),
        sign_of_life("looking through the checkpoints"),
        contextlib.closing(Store(path)) as store,
    ):
        if not dry_run:
            store.sweep()
        removed = store.prune(keep, dry_run=dry_run)
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


def _rules(keep_last: int, keep_best: int, every: str | None) -> Keep:
    """What is not accepted is named as it was written on the command line."""
    for option, number, least in (("--keep-last", keep_last, 1), ("--keep-best", keep_best, 0)):
        if number < least:
            raise ConfigurationError(f"{option} {number} is not accepted. It has to be at least {least}.")
    epochs = _epochs(every)
    if epochs == 0:
        raise ConfigurationError(f"--every {every} is not accepted. Use a number of epochs of at least 1, or a time such as 30m.")
    if every is not None and epochs is None:
        parse_duration(every, "--every")
    return Keep(last=keep_last, best=keep_best, every=every if epochs is None else epochs)


def _epochs(every: str | None) -> int | None:
    """A number of epochs, None where it is a time or nothing."""
    return int(every) if every is not None and every.strip().isdecimal() and len(every) <= _LONGEST_NUMBER else None
