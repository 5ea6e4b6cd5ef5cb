"""A process gets no more memory: allocations fail beyond a limit (rlimit), or the kernel kills it (cgroup)."""

from __future__ import annotations

import contextlib
import resource
import uuid
from collections.abc import Iterator
from pathlib import Path

_CGROUPS = Path("/sys/fs/cgroup")


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


def cgroups_writable() -> bool:
    """Whether groups with a limit of memory can be made here: version 2, and the right to do it."""
    control = _CGROUPS / "cgroup.subtree_control"
    try:
        return "memory" in control.read_text().split() and _probe()
    except OSError:
        return False


def _probe() -> bool:
    with killing(2**30):
        return True


@contextlib.contextmanager
def killing(most: int) -> Iterator[Path]:
    """A group whose processes the kernel kills when they use more than `most` bytes together; gives its directory, for `join`.

    Raises:
        OSError: no groups can be made here.
    """
    group = _CGROUPS / f"chaos-{uuid.uuid4().hex}"
    group.mkdir()
    try:
        (group / "memory.max").write_text(str(most))
        with contextlib.suppress(OSError):  # a kernel without swap accounting
            (group / "memory.swap.max").write_text("0")
        yield group
    finally:
        with contextlib.suppress(OSError):
            group.rmdir()


def join(group: Path, pid: int) -> None:
    """Puts a process into the group."""
    (group / "cgroup.procs").write_text(str(pid))


def kills(group: Path) -> int:
    """How many processes of the group the kernel has killed so far."""
    events = dict(line.split() for line in (group / "memory.events").read_text().splitlines())
    return int(events.get("oom_kill", 0))
