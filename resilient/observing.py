"""Looking at a run from outside, without touching it: its journal, its locks, and the last sign of life in the memory of its process."""

from __future__ import annotations

import contextlib
import dataclasses
import datetime as dt
import json
import os
import re
import socket
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import psutil

from resilient.accounts import End, Ledger, Run
from resilient.heartbeat import sight_of
from resilient.journal import Tail
from resilient.reading import Survey, refusal, run_directory, survey
from resilient.status import Facts, Holder, Live, Status, status
from resilient.store.lock import LOCK_NAME
from resilient.store.oserrors import storage_errors
from resilient.store.store import QUARANTINE
from resilient.supervisor import chronicle, processes

_NEWEST = 8 * 2**20  # bytes of the journal that are read at first: some twenty thousand saves, in a fifth of a second
_OWNER = re.compile(r"pid (\d+) on host (\S+)")
_LOCKS = Path("/proc/locks")


@dataclasses.dataclass(frozen=True)
class Observation:
    """One look at a run.

    Attributes:
        facts, status: what is known, and what follows from it.
        survey: the checkpoints.
        quarantine: names of what lies there.
        runs: lines of history in the journal.
        skipped: bytes of the journal that were not read, because it is too long.
    """

    facts: Facts
    status: Status
    survey: Survey
    quarantine: Sequence[str]
    runs: Sequence[Run]
    skipped: int

    @property
    def run(self) -> Run | None:
        """The present line of history."""
        return self.facts.run


class Observer:
    """Looks at the run of a directory as often as it is asked to; of the journal only what is new is read.

    Raises:
        ConfigurationError: there is no run in `directory`.
    """

    def __init__(self, directory: str | os.PathLike[str]) -> None:
        self.directory = run_directory(directory)
        self._tail = Tail(self.directory, _NEWEST)
        self._ledger = Ledger()

    def look(self) -> Observation:
        """What there is to see now.

        Raises:
            StorageError: the directory cannot be read.
        """
        trainer, supervisor = (holder(self.directory / name) for name in (LOCK_NAME, chronicle.LOCK_NAME))
        live = None if trainer is None else _live(trainer, self.directory)
        self._read()
        now = dt.datetime.now(dt.UTC)
        runs = self._ledger.runs()
        trainer, supervisor = (_believed(found, runs) for found in (trainer, supervisor))
        begun = supervisor is not None and bool(runs) and runs[-1].attempts[-1].end is End.OPEN
        runs = self._ledger.runs(now) if trainer is not None or begun else runs
        found = survey(self.directory)
        onward = found.checkpoints[-1].step if found.checkpoints else None
        facts = Facts(now, runs[-1] if runs else None, trainer, supervisor, live, refusal(found), onward)
        return Observation(facts, status(facts), found, quarantined(self.directory), runs, self._tail.skipped)

    def _read(self) -> None:
        with storage_errors("read the journal", self.directory):
            events, again = self._tail.read()
        if again:
            self._ledger = Ledger()
        for event in events:
            self._ledger.see(event)


def quarantined(directory: Path) -> list[str]:
    """Names of what was found damaged and moved away."""
    try:
        return sorted(name for name in os.listdir(directory / QUARANTINE) if not name.endswith(".reason.txt"))
    except OSError:
        return []


def holder(path: Path) -> Holder | None:
    """Who holds the lock file, None where nobody does.

    It is not tried: a training that starts in that moment would be refused. The kernel lists its locks, and the file says who took it last.
    Where that is another host (a container has a name of its own) nobody can be asked: it is told, whether it still holds the lock or not.
    """
    try:
        text, there = path.read_text("utf-8", "replace"), path.stat()
    except OSError:
        return None
    owner = _owner(text)
    if owner is not None and not owner.ours:
        return owner
    locked = _locked(there)
    if locked is None:
        return owner if owner is not None and owner.pid is not None and _lives(owner) else None
    return (owner or Holder(None)) if locked else None


def _believed(found: Holder | None, runs: Sequence[Run]) -> Holder | None:
    """Somebody on another host counts for as long as the journal tells of an attempt that goes on, or that another one will follow."""
    if found is None or found.ours:
        return found
    attempt = runs[-1].attempts[-1] if runs else None
    return found if attempt is not None and (attempt.end is End.OPEN or attempt.restart_in is not None) else None


def _owner(text: str) -> Holder | None:
    """What a lock file says: the training's is JSON, the supervisor's a line."""
    with contextlib.suppress(ValueError, TypeError, KeyError, RecursionError):
        told: Any = json.loads(text)
        since = dt.datetime.fromisoformat(told["started"])
        return Holder(int(told["pid"]), str(told["host"]), since, ours=told["host"] == socket.gethostname())
    found = _OWNER.match(text)
    return Holder(int(found[1]), found[2], ours=found[2] == socket.gethostname()) if found else None


def _locked(there: os.stat_result) -> bool | None:
    """Whether the kernel knows of a lock on the file; None where it does not tell.

    By the inode alone where the file system has no device of its own: on btrfs and overlays the number in the list is not that of the file.
    """
    device = f"{os.major(there.st_dev):02x}:{os.minor(there.st_dev):02x}:"
    try:
        lines = _LOCKS.read_text("ascii", "replace").splitlines()
    except OSError:
        return None
    ending = f"{device if os.major(there.st_dev) else ':'}{there.st_ino}"
    return any(fields[1:2] == ["FLOCK"] and fields[5:6] and fields[5].endswith(ending) for fields in map(str.split, lines))


def _lives(owner: Holder) -> bool:
    try:
        born = psutil.Process(owner.pid).create_time()
    except psutil.Error:
        return False
    return owner.since is None or born <= owner.since.timestamp() + 1  # else the number was given to another process since


def _live(trainer: Holder, directory: Path) -> Live | None:
    if trainer.pid is None or not trainer.ours:
        return None
    sight = sight_of(trainer.pid, directory)
    if sight is None:
        return None
    with contextlib.closing(sight):
        beat, saves = sight.beat(), sight.saves()
    silent = max(0.0, time.monotonic() - beat.at) if beat.count else 0.0
    return Live(beat.section, beat.progress, saves.saving, saves.committed, silent, processes.is_stopped(trainer.pid), _memory(trainer.pid))


def _memory(pid: int) -> int | None:
    try:
        return int(psutil.Process(pid).memory_info().rss)
    except psutil.Error:
        return None
