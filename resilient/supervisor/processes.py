"""Linux processes: who descends from whom, who is stopped, and the two settings by which nobody escapes."""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
from collections.abc import Iterator
from pathlib import Path

_PR_SET_PDEATHSIG = 1
_PR_SET_NAME = 15
_PR_SET_CHILD_SUBREAPER = 36
_libc = ctypes.CDLL(None, use_errno=True)


def adopt_orphans() -> None:
    """From now on a descendant whose parent has died becomes a child of this process, whatever session it is in."""
    _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def die_with_parent(parent: int) -> None:
    """Be killed when `parent` dies, or at once if it is dead. It counts as dead when the *thread* that forked us ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    if os.getppid() != parent:
        os.kill(os.getpid(), signal.SIGKILL)


def set_name(name: str) -> None:
    """What ps and top show for this process."""
    _libc.prctl(_PR_SET_NAME, name.encode(), 0, 0, 0)


def close_all_but(keep: set[int]) -> None:
    """Close every descriptor but these: a copy of a pipe's end keeps the other end from learning that it is alone."""
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep:
            with contextlib.suppress(OSError):  # that of the listing itself
                os.close(int(name))


def reap() -> None:
    """Take leave of children that have ended."""
    with contextlib.suppress(ChildProcessError):
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass


def descendants(root: int) -> set[int]:
    """Pids of all processes below `root`."""
    children: dict[int, list[int]] = {}
    for pid, parent in _parents():
        children.setdefault(parent, []).append(pid)
    found: set[int] = set()
    level = [root]
    while level:
        level = [child for pid in level for child in children.get(pid, ())]
        found.update(level)
    return found


def kill_all(pids: set[int]) -> None:
    """SIGKILL to each; who is gone is gone, and what may not be signalled (it has become another user's) stays."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, signal.SIGKILL)


def is_stopped(pid: int) -> bool:
    """Whether a signal or a debugger has stopped the process."""
    return _stat(pid)[:1] in (["T"], ["t"])


def _parents() -> Iterator[tuple[int, int]]:
    for name in os.listdir("/proc"):
        if name.isdecimal():
            stat = _stat(int(name))
            if stat:
                yield int(name), int(stat[1])


def _stat(pid: int) -> list[str]:
    """State, parent and what follows in /proc; [] if there is no such process. The name before them may hold anything."""
    try:
        return Path(f"/proc/{pid}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    except OSError:
        return []
