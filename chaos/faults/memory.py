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
from typing import NamedTuple, Self

_CGROUPS = Path("/sys/fs/cgroup")
_OWN = re.compile(r"^\d+:(?:\w+,)*memory(?:,\w+)*:(/.*)$", re.MULTILINE)  # of version 1, in /proc/self/cgroup
_DYING = 10.0  # seconds that the kernel may take on a busy machine to be done with processes that have ended


class _Files(NamedTuple):
    """Names in a group's directory, and the word for no limit. Where `swap` is 0, processes are killed and not swapped out."""

    limit: str
    unlimited: str
    events: str
    swap: str


_V1 = _Files("memory.limit_in_bytes", "-1", "memory.oom_control", "memory.swappiness")
_V2 = _Files("memory.max", "max", "memory.events", "memory.swap.max")


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
    at the root that this process sees. In a `with` statement it is gone in the end.

    Args:
        limit: bytes that its processes may have together, None for no limit.

    Raises:
        OSError: none can be made here.
    """

    def __init__(self, limit: int | None = None) -> None:
        own = _OWN.search(Path("/proc/self/cgroup").read_text())
        above = _CGROUPS / "memory" / own[1].lstrip("/") if own else _CGROUPS
        self._files = _V1 if own else _V2
        if not own and "memory" not in (_CGROUPS / "cgroup.subtree_control").read_text().split():
            raise OSError("memory is not limited by the groups of this machine")
        self._path = above / f"resilient-{os.getpid()}-{uuid.uuid4().hex[:8]}"
        self._path.mkdir()
        with contextlib.suppress(OSError):  # a kernel without swap accounting
            (self._path / self._files.swap).write_text("0")
        try:
            self.limit(limit)
        except OSError:
            self.close()
            raise

    def limit(self, nbytes: int | None) -> None:
        """From now on another one."""
        (self._path / self._files.limit).write_text(self._files.unlimited if nbytes is None else str(nbytes))

    def take(self, pid: int) -> None:
        """That process, if it still lives, and what it starts from now on."""
        with contextlib.suppress(ProcessLookupError):
            (self._path / "cgroup.procs").write_text(str(pid))

    def members(self) -> list[int]:
        """Pids of all that run in it."""
        return [int(line) for line in (self._path / "cgroup.procs").read_text().split()]

    def kills(self) -> int:
        """How many of its processes the kernel has killed so far."""
        counts = dict(line.split() for line in (self._path / self._files.events).read_text().splitlines())
        return int(counts.get("oom_kill", 0))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> bool:
        """Remove it; False if something runs in it still, or the kernel is not done with what has, after seconds of waiting."""
        end = time.monotonic() + _DYING
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
