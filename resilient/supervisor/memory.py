"""How often the kernel has killed a process for lack of memory."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path


def oom_kills(root: Path = Path("/")) -> int:
    """Out-of-memory kills so far, in our own memory cgroup where it counts them (version 2 or 1), else on the whole machine.

    Args:
        root: where /proc and /sys are.
    """
    for path, field in _counters(root):
        count = _field(path, field)
        if count is not None:
            return count
    return 0


def _counters(root: Path) -> Iterator[tuple[Path, str]]:
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, group = line.split(":", 2)
        if not controllers:
            yield root / "sys/fs/cgroup" / group.lstrip("/") / "memory.events", "oom_kill"
        elif "memory" in controllers.split(","):
            mounted = root / "sys/fs/cgroup/memory"
            yield mounted / group.lstrip("/") / "memory.oom_control", "oom_kill"
            yield mounted / "memory.oom_control", "oom_kill"  # in a container that sees its own group as the root
    yield root / "proc/vmstat", "oom_kill"


def _field(path: Path, name: str) -> int | None:
    for line in _lines(path):
        key, _, value = line.partition(" ")
        if key == name:
            return int(value)
    return None


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text("ascii", "replace").splitlines()
    except OSError:
        return []
