"""A process gets no more memory: allocations fail beyond a limit (rlimit), or the kernel kills it (cgroup)."""

from __future__ import annotations

import contextlib
import os
import re
import resource
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = re.compile(r"^\d+:(?:\w+,)*memory(?:,\w+)*:(/.*)$", re.MULTILINE)  # of version 1, in /proc/self/cgroup
_FILES = {  # by version: the limit, what is counted, and where 0 keeps processes from being swapped out instead of killed
    1: ("memory.limit_in_bytes", "memory.oom_control", "memory.swappiness"),
    2: ("memory.max", "memory.events", "memory.swap.max"),
}
_UNLIMITED = {"memory.limit_in_bytes": "-1", "memory.max": "max"}


@contextlib.contextmanager
def limited(pid: int, more: int) -> Iterator[None]:
    """While this lasts, the process may map that many bytes more than it has now; then its allocations fail with ENOMEM."""
    before = resource.prlimit(pid, resource.RLIMIT_AS)
    resource.prlimit(pid, resource.RLIMIT_AS, (mapped(pid) + more, before[1]))
    try:
        yield
    finally:
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(pid, resource.RLIMIT_AS, before)


def mapped(pid: int) -> int:
    """Bytes of address space that the process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()


class Group:
    """A memory cgroup of our own, of the version that the machine has: the kernel kills whoever takes more than the limit.

    Version 1 is made below the group of this process; version 2, where a group with processes cannot have limited ones below it,
    at the root that this process sees.

    Args:
        limit: bytes that its processes may have together, None for no limit.

    Raises:
        OSError: none can be made here.
    """

    def __init__(self, limit: int | None = None) -> None:
        own = _OWN.search(Path("/proc/self/cgroup").read_text())
        above = _CGROUPS / "memory" / own[1].lstrip("/") if own else _CGROUPS
        self._limit, self._events, self._swap = _FILES[1 if own else 2]
        if not own and "memory" not in (_CGROUPS / "cgroup.subtree_control").read_text().split():
            raise OSError("memory is not limited by the groups of this machine")
        self._path = above / f"resilient-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path.mkdir()
        with contextlib.suppress(OSError):  # a kernel without swap accounting
            (self._path / self._swap).write_text("0")
        try:
            self.limit(limit)
        except OSError:
            self.close()
            raise

    def limit(self, nbytes: int | None) -> None:
        """From now on another one."""
        (self._path / self._limit).write_text(_UNLIMITED[self._limit] if nbytes is None else str(nbytes))

    def take(self, pid: int) -> None:
        """That process, if it still lives, and what it starts from now on."""
        with contextlib.suppress(ProcessLookupError):
            (self._path / "cgroup.procs").write_text(str(pid))

    def members(self) -> list[int]:
        """Pids of all that run in it."""
        return [int(line) for line in (self._path / "cgroup.procs").read_text().split()]

    def kills(self) -> int:
        """How many of its processes the kernel has killed so far."""
        counts = dict(line.split() for line in (self._path / self._events).read_text().splitlines())
        return int(counts.get("oom_kill", 0))

    def close(self, within: float = 0.0) -> bool:
        """Remove it; False if the kernel is not done, after that many seconds, with what has run in it."""
        end = time.monotonic() + within
        while True:
            try:
                self._path.rmdir()
            except OSError:
                if time.monotonic() >= end:
                    return False
                time.sleep(0.01)
            else:
                return True


def has_groups() -> bool:
    """Whether a `Group` can be made here."""
    try:
        return Group(2**30).close()
    except OSError:
        return False
