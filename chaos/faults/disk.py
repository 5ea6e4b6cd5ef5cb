"""A disk that refuses calls with an error, writes less than it was given, loses data at a failing fsync, or is slow.

Each fault is for `chaos.calls.met`; what an error number stands for is the kernel's: ENOSPC full, EDQUOT over quota, EIO broken, EROFS
turned read-only by the kernel, EACCES, EMFILE.
"""

from __future__ import annotations

import errno
import os
import threading
from collections.abc import Callable, Collection
from typing import Any

from chaos.calls import Call, Met
from chaos.faults.schedule import Schedule

WRITES = ("write", "writev", "pwrite", "fallocate", "ftruncate", "open", "mkdir", "link", "rename", "replace", "renameat2")
DATA = ("write", "writev", "fsync")  # what a slow disk is slow at
FULL = ("write", "writev", "pwrite", "fallocate", "mkdir", "open", "link")  # what needs room


def refuse(number: int, schedule: Schedule, names: Collection[str] | None = None) -> Met:
    """Calls of these names (None: all) fail with the error where the schedule strikes. What is closed is closed all the same."""

    def around(call: Call, go: Callable[[], Any]) -> Any:
        if (names is not None and call.name not in names) or not schedule.strikes():
            return go()
        if call.name == "close":  # Linux lets go of the descriptor whatever it reports
            go()
        place = call.arguments[0] if call.arguments and isinstance(call.arguments[0], str | os.PathLike) else None
        raise OSError(number, os.strerror(number), None if place is None else os.fspath(place))

    return around


def read_only(schedule: Schedule) -> Met:
    """Whatever would change the file system fails with EROFS, as after an error of the disk below it."""
    refused = refuse(errno.EROFS, schedule)

    def around(call: Call, go: Callable[[], Any]) -> Any:
        return refused(call, go) if changes(call) else go()

    return around


def changes(call: Call) -> bool:
    """Whether a call may change the file system; a file opened for reading does not."""
    if call.name == "open":
        return bool(call.arguments[1] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))
    return call.name in {*WRITES, "unlink", "rmdir"}


def write_short(schedule: Schedule, share: float = 0.5) -> Met:
    """A write takes only a part of what it is given, at least a byte, and says so."""

    def around(call: Call, go: Callable[[], Any]) -> Any:
        if call.name not in ("write", "writev") or call.size < 2 or not schedule.strikes():
            return go()
        return os.writev(call.arguments[0], call.first_bytes(max(1, int(call.size * share))))

    return around


class FailingSync:
    """An fsync fails with EIO and what it should have saved is gone, while the next fsync of the same file says that all is well.

    So Linux does it: pages that could not be written are marked clean. The file's content becomes zeros here.

    Attributes:
        retried: paths of files that were synced again after it had failed on them: nobody may do that and believe the answer.
    """

    def __init__(self, schedule: Schedule) -> None:
        self._schedule = schedule
        self._failed: set[tuple[int, int]] = set()
        self._lock = threading.Lock()
        self.retried: list[str] = []

    def __call__(self, call: Call, go: Callable[[], Any]) -> Any:
        """For `chaos.calls.met`."""
        if call.name != "fsync":
            return go()
        fd = call.arguments[0]
        found = os.fstat(fd)
        with self._lock:
            if (found.st_dev, found.st_ino) in self._failed:
                self.retried.append(os.readlink(f"/proc/self/fd/{fd}"))
            if not self._schedule.strikes():
                return go()
            self._failed.add((found.st_dev, found.st_ino))
        _lose(fd)
        raise OSError(errno.EIO, os.strerror(errno.EIO))


def _lose(fd: int) -> None:
    path = f"/proc/self/fd/{fd}"
    if os.path.isfile(path):
        size = os.fstat(fd).st_size
        with open(path, "r+b") as file:
            file.truncate(0)
            file.truncate(size)


def slow(seconds: float, schedule: Schedule, names: Collection[str] = DATA, stop: threading.Event | None = None) -> Met:
    """Calls take so much longer, until `stop` is set."""
    stop = stop or threading.Event()

    def around(call: Call, go: Callable[[], Any]) -> Any:
        if call.name in names and schedule.strikes():
            stop.wait(seconds)
        return go()

    return around
