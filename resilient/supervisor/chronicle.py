"""The supervisor's own events, in the journal of the run directory that the program trains in, which it owns alone."""

from __future__ import annotations

import dataclasses
import datetime as dt
import fcntl
import os
import socket
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from resilient.errors import RunLockedError, StorageError
from resilient.journal import Journal
from resilient.restarts import Ending
from resilient.supervisor.child import Child
from resilient.supervisor.guardian import Exit

LOCK_NAME = "supervisor.lock"


class Chronicle:
    """Appends events. What happens before the program has said where it trains is held back until then.

    Args:
        say: told, once, that the disk refuses them.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._refused = False
        self._held: list[tuple[str, dict[str, Any]]] = []
        self._journals: dict[Path, Journal] = {}
        self._locks: list[int] = []
        self._current: Journal | None = None

    def move_to(self, directory: Path, **attempt: Any) -> None:
        """The program trains in `directory` now. Where that is the second of this attempt, `attempt` is told there too.

        Raises:
            RunLockedError: another supervisor has the directory.
            StorageError: the lock file cannot be made.
        """
        if directory not in self._journals:
            self._locks.append(_lock(directory))
            self._journals[directory] = Journal(directory)
        moved = self._current is not None and self._current is not self._journals[directory]
        self._current = self._journals[directory]
        held, self._held = self._held, []
        for event, fields in held:
            self.append(event, **fields)
        if moved:
            self.append("attempt", **attempt)

    def append(self, event: str, **fields: Any) -> None:
        """Append an event, or hold it back."""
        if self._current is None:
            self._held.append((event, fields))
        elif not self._current.append(event, durable=True, **fields) and not self._refused:
            self._refused = True
            self._say(f"{self._current.path} cannot be written (is the disk full?): what happens from now on may be told here alone.")

    def close(self) -> None:
        """Give the directories back."""
        for journal in self._journals.values():
            journal.close()
        for descriptor in self._locks:
            os.close(descriptor)


def beginning_of(child: Child, command: Sequence[str], began: dt.datetime, *, warm: bool = False) -> dict[str, Any]:
    """What `attempt` tells; `warm`: it was a spare interpreter."""
    orders = child.page.orders
    return {
        "attempt": orders.attempt,
        "pid": child.guardian.pid,
        "supervisor": os.getpid(),
        "command": list(command),
        "began": began.isoformat(),
        "warm": warm,
        "resume_at_most": orders.resume_at_most,
        "skip": orders.skip,
    }


def end_of(child: Child, ended: Exit, ending: Ending, reason: str, seconds: float) -> dict[str, Any]:
    """What `exited` tells of an attempt that lived so many seconds; what follows from it (`failures`, `restart_in`) is yet to be added."""
    return {
        **child.position(),
        **dataclasses.asdict(ended),
        "reason": reason,
        "seconds": round(seconds, 3),
        "verdict": ending.verdict.value,
        "out_of_memory": ending.out_of_memory,
        "progressed": ending.progressed,
    }


def _lock(directory: Path) -> int:
    """A descriptor that keeps other supervisors out until it is closed. The file stays: see the run's own lock, which is the training's."""
    path = directory / LOCK_NAME
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            owner = os.pread(descriptor, 1024, 0).decode("utf-8", "replace").strip()
            os.close(descriptor)
            raise RunLockedError(f"{directory} is supervised by another `resilient run` ({owner}). Stop that one first.") from error
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"pid {os.getpid()} on host {socket.gethostname()}\n".encode(), 0)
    except OSError as error:
        raise StorageError(f"Could not lock {path}: {error.strerror}. Name a run directory on a local disk that can be written.") from error
    return descriptor
